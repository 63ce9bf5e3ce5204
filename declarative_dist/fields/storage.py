"""Where an instance holds the tensor of a field, whatever torch has made of it since.

Usually that is a parameter or a buffer. `torch.nn.utils.parametrize` puts a property in its place,
which writes through `right_inverse`; pruning puts an attribute there that the next call computes
anew. What you assign arrives, or is refused: it never vanishes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from declarative_dist.constraints.band import FLOATING
from declarative_dist.errors import ConstraintError, FieldError, first_line, shorten
from declarative_dist.fields.sharding import PLAIN, spread_like
from declarative_dist.plain.restoring import restoring
from declarative_dist.plain.tensors import as_tensor
from declarative_dist.plain.tracing import is_traced

if TYPE_CHECKING:
    from declarative_dist.fields.field import Field


def find_tensor(module: nn.Module, name: str) -> Tensor | None:
    """The tensor that a module holds under a name, computed if torch has parametrized it."""
    held: Tensor | None = module._parameters.get(name)
    held = module._buffers.get(name) if held is None else held
    if held is not None:
        return held
    parametrized = _property_of(module, name)
    found: Any = parametrized.__get__(module) if parametrized else vars(module).get(name)
    return found if isinstance(found, Tensor) else None


def write_tensor(module: nn.Module, name: str, value: Tensor, field: Field) -> None:
    """Write into the tensor that a module holds under a name for a field.

    Refused where the value would not be read again; nothing has changed then.
    """
    held: Tensor | None = module._parameters.get(name)
    held = module._buffers.get(name) if held is None else held
    if held is not None:
        with torch.no_grad():
            held.copy_(value if type(held) in PLAIN else spread_like(held, value))
        return
    parametrized, subject = _property_of(module, name), field.subject(module)
    if parametrized is None:
        got = f"{name}, which each call computes from others"
        fix = "Assign before you prune or normalise it, or undo that first."
        raise FieldError(subject, "a tensor to write to", got, fix, code="no-assignment")
    expected = f"a parametrization of {name} whose right_inverse takes the value"
    fix = "Assign before you register it, or remove it first."
    with restoring(module):
        try:
            parametrized.__set__(module, value)
            now, slack = parametrized.__get__(module), torch.finfo(value.dtype).eps ** 0.5
            if not is_traced(now, value) and not torch.allclose(now.detach(), value, slack, slack):
                raise ValueError("another value comes back")
        except Exception as error:  # whatever the parametrization raises
            got = first_line(error)
            raise FieldError(subject, expected, got, fix, code="no-assignment") from error


def copy_tensors(source: nn.Module, target: nn.Module) -> bool:
    """Write the tensors of a module into another's; False if names or shapes differ."""
    mine, theirs = (
        dict([*module.named_parameters(), *module.named_buffers()]) for module in (target, source)
    )
    if {n: t.shape for n, t in mine.items()} != {n: t.shape for n, t in theirs.items()}:
        return False
    with torch.no_grad():
        for name, tensor in mine.items():
            tensor.copy_(theirs[name])
    return True


def to_tensor(
    value: Any,
    subject: str,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    expected: str = "a number or a tensor",
) -> Tensor:
    """The numbers of a value without their graph, in the dtype in which a field uses them.

    Refused is what is no number, or one that the dtype or the device can't take.
    """
    try:
        return as_tensor(value, dtype, device).detach()
    except (TypeError, ValueError) as error:
        got = f"{shorten(value)} ({error})"
        raise ConstraintError(subject, expected, got, code="wrong-argument") from error


def check_shape(
    tensor: Tensor, shape: torch.Size, subject: str, fix: str = "", meaning: str = ""
) -> None:
    """Refuse a tensor of another shape; `meaning` says what the dimensions are."""
    if tensor.shape != shape:
        expected = f"shape {meaning}{tuple(shape)}"
        raise ConstraintError(subject, expected, shorten(tensor), fix, code="wrong-shape")


def expand_to_copies(new: Tensor, now: Tensor, own: int, subject: str, fix: str = "") -> Tensor:
    """A value for one copy or for all of them, in the shape of the value now.

    One copy has the last `own` dimensions.
    """
    if new.ndim and new.shape != now.shape[now.ndim - own :]:
        check_shape(new, now.shape, subject, fix)
    return new.expand(now.shape)


def check_floating(dtype: object, subject: str) -> None:
    """Refuse a dtype that is not floating-point."""
    if dtype not in FLOATING:
        expected, fix = "a floating-point type", "Use float64, float32 or a half type."
        raise ConstraintError(subject, expected, repr(dtype), fix, code="dtype-or-device")


def check_finite(now: Tensor, moved: Tensor, value: Tensor, subject: str) -> None:
    """Refuse a dtype that is too narrow for the numbers of a tensor, or of a value behind it."""
    if (moved.isfinite() | ~now.isfinite().to(moved.device)).all():
        return
    expected = f"a value within reach of {moved.dtype}"
    fix = "Nothing changed. Keep a wider dtype."
    raise ConstraintError(subject, expected, shorten(value), fix, code="dtype-or-device")


def _property_of(module: nn.Module, name: str) -> property | None:
    member = getattr(type(module), name, None)
    return member if isinstance(member, property) else None

"""Where an instance holds the tensor of a field, whatever torch has made of it since.

Usually that is a parameter or a buffer. `torch.nn.utils.parametrize` puts a property in its place,
which writes through `right_inverse`; pruning puts an attribute there that the next call computes
anew. What you assign arrives, or is refused: it never vanishes.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from declarative_dist.constraints.band import FLOATING
from declarative_dist.errors import ConstraintError, FieldError, first_line, shorten
from declarative_dist.fields.sharding import spread_like
from declarative_dist.plain.restoring import restoring
from declarative_dist.plain.tensors import as_tensor
from declarative_dist.plain.tracing import is_traced


def find_tensor(module: nn.Module, name: str) -> Tensor | None:
    """The tensor that a module holds under a name, computed if torch has parametrized it."""
    held = _own_tensor(module, name)
    if held is not None:
        return held
    parametrized = _property_of(module, name)
    found: Any = parametrized.__get__(module) if parametrized else vars(module).get(name)
    return found if isinstance(found, Tensor) else None


def write_tensor(module: nn.Module, name: str, value: Tensor, subject: str) -> None:
    """Write into the tensor that a module holds under a name.

    Raises:
        FieldError: if the value would not be read again; nothing has changed then.
    """
    held = _own_tensor(module, name)
    if held is not None:
        with torch.no_grad():
            held.copy_(spread_like(held, value))
        return
    parametrized = _property_of(module, name)
    if parametrized is None:
        got = f"{name}, which each call computes from others"
        fix = "Assign before you prune or normalise it, or undo that first."
        raise FieldError(subject, "a tensor to write to", got, fix, code="no-assignment")
    with restoring(module):
        try:
            parametrized.__set__(module, value)
        except Exception as error:  # whatever the parametrization raises
            raise _refusal(subject, name, first_line(error)) from error
        if not _is_same(parametrized.__get__(module), value):
            raise _refusal(subject, name, "another value comes back")


def copy_tensors(source: nn.Module, target: nn.Module) -> bool:
    """Write the tensors of a module into those of another; False if names or shapes differ."""
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

    Raises:
        ConstraintError: if it is no number, or one that the dtype or the device can't take.
    """
    try:
        return as_tensor(value, dtype, device).detach()
    except (TypeError, ValueError) as error:
        got = f"{shorten(value)} ({error})"
        raise ConstraintError(subject, expected, got, code="wrong-argument") from error


def check_shape(tensor: Tensor, shape: torch.Size, subject: str, fix: str = "") -> None:
    """Refuse a tensor of another shape.

    Raises:
        ConstraintError: if it has one.
    """
    if tensor.shape != shape:
        expected = f"shape {tuple(shape)}"
        raise ConstraintError(subject, expected, shorten(tensor), fix, code="wrong-shape")


def check_floating(dtype: object, subject: str) -> None:
    """Refuse a dtype that is not floating-point.

    Raises:
        ConstraintError: if it is not.
    """
    if dtype not in FLOATING:
        expected = "a floating-point type"
        fix = "Use float64, float32 or a half type."
        raise ConstraintError(subject, expected, repr(dtype), fix, code="dtype-or-device")


def _own_tensor(module: nn.Module, name: str) -> Tensor | None:
    parameter = module._parameters.get(name)
    return module._buffers.get(name) if parameter is None else parameter


def _property_of(module: nn.Module, name: str) -> property | None:
    member = inspect.getattr_static(type(module), name, None)
    return member if isinstance(member, property) else None


def _refusal(subject: str, name: str, reason: str) -> FieldError:
    expected = f"a parametrization of {name} whose right_inverse takes the value"
    fix = "Assign before you register it, or remove it first."
    return FieldError(subject, expected, reason, fix, code="no-assignment")


def _is_same(one: Tensor, other: Tensor) -> bool:
    if is_traced(one, other):
        return True
    tolerance = torch.finfo(other.dtype).eps ** 0.5
    return torch.allclose(one.detach(), other, rtol=tolerance, atol=tolerance)

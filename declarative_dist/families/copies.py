"""Independent copies of all fields, of which each must be what one copy alone would be."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.declaration.record import Declaration
from declarative_dist.errors import ConstraintError
from declarative_dist.fields.constant import Constant
from declarative_dist.fields.derived import Derived
from declarative_dist.fields.field import Field
from declarative_dist.fields.param import Param
from declarative_dist.fields.sizes import Blueprint
from declarative_dist.plain.tracing import is_traced

NOT_TOGETHER = (
    RuntimeError,
    ValueError,
    NotImplementedError,
    AssertionError,
    AttributeError,
    IndexError,
)
"""What torch raises at values that do not go together."""


def bound(module: Any, blueprint: Blueprint) -> dict[str, Any]:
    """Install all fields on a new instance, and return their values.

    A method may expect that its values line up with those of other fields, or that they are what
    one copy has behind the copies; the first that gives what single copies give is right.

    Raises:
        ConstraintError: if neither does.
    """
    declaration = module.__declaration__
    through_methods = declaration.through_methods if blueprint.batch_shape else frozenset()
    if not through_methods:
        return _bind_all(module, blueprint)
    with suppress(*NOT_TOGETHER):
        values = _bind_all(module, blueprint)
        if _copies_agree(module, blueprint.batch_shape):
            return values
    blueprint.begin_again(through_methods)
    values = _bind_all(module, blueprint)
    if not _copies_agree(module, blueprint.batch_shape):
        raise ConstraintError(
            declaration.owner,
            f"derived values that are, copy by copy, those of one for {blueprint.batch_shape}",
            "others",
            "Index from the right, as in width[..., None], and sum over the last dimensions.",
            code="mixed-draws",
        )
    return values


def _bind_all(module: Any, blueprint: Blueprint) -> dict[str, Any]:
    def bind(field: Field, values: dict[str, Any]) -> Any:
        field.bind(module, blueprint, values)
        return field.value(module, values)

    declaration: Declaration = module.__declaration__
    return declaration.run(module, declaration.order, compute=bind)


def replicate_fields(module: Any, shape: torch.Size, at: int, done: dict[int, Any]) -> None:
    """Repeat all parameters of an instance along new dimensions behind the first `at`.

    Where values broadcast among each other, own dimensions line up behind the new ones; but for
    values that only methods take, as for `bound`.
    """
    declaration, starts = module.__declaration__, vars(module)["_starts"]
    params = [field for field in declaration.order if isinstance(field, Param)]
    own = [len(starts[p.name].shape) - at - p.event_dim for p in params]
    # Constants have no dimensions of copies: all of theirs are their own.
    constants = [field for field in declaration.order if isinstance(field, Constant)]
    own += [len(getattr(starts[c.name], "shape", ())) - c.event_dim for c in constants]
    lead = max(own, default=0) if declaration.make is not None else 0
    copies = vars(module)["_copies"]
    vars(module)["_copies"] = copies = torch.Size((*copies[:at], *shape, *copies[at:]))
    before, begun = dict(module._parameters), dict(starts)
    for field in declaration.order:
        field.replicate(module, shape, at, lead, done)
    if declaration.through_methods and not _copies_agree(module, copies):
        for name in declaration.through_methods:
            param = declaration.fields[name]
            module._parameters[param.raw_name] = before[param.raw_name]
            starts[name] = begun[name]
            param.replicate(module, shape, at, 0, {})


def _copies_agree(module: Any, copies: torch.Size) -> bool:
    """Whether derived arguments of the base are, copy by copy, what one copy alone would give.

    Args:
        module: an instance with independent copies.
        copies: their dimensions.
    """
    declaration = module.__declaration__
    try:
        with torch.no_grad():
            values = declaration.run(module, declaration.build)
            if is_traced(*values.values()) or 0 in copies:
                return True
            last = tuple(size - 1 for size in copies)
            for index in ((0,) * len(copies), last):
                one = _one_copy(module, values, index)
                depth = max(getattr(one[name], "ndim", 0) for name in declaration.inputs)
                for name in declaration.inputs:
                    if isinstance(declaration.fields[name], Derived) and not _is_copy(
                        values[name], one[name], index, copies, depth
                    ):
                        return False
    except NOT_TOGETHER:
        return False
    return True


def _one_copy(module: Any, values: dict[str, Any], index: tuple[int, ...]) -> dict[str, Any]:
    """The values of one copy alone, derived ones computed from the others."""

    def compute(field: Field, one: dict[str, Any]) -> Any:
        if isinstance(field, Derived):
            return field.value(module, one)
        value = values[field.name]
        if not isinstance(field, Param):
            return value
        own = vars(module)["_starts"][field.name].own
        value = value[index]
        return value.reshape(value.shape[value.ndim - own :])

    declaration: Declaration = module.__declaration__
    return declaration.run(module, declaration.build, compute=compute)


def _is_copy(value: Any, one: Any, index: tuple[int, ...], copies: torch.Size, depth: int) -> bool:
    """Whether a value is at this copy what the copy alone has, in no more dimensions than fit."""
    if isinstance(value, Distribution) and isinstance(one, Distribution):
        whole = torch.Size((*copies, *one.batch_shape))
        return value.batch_shape == whole and value.event_shape == one.event_shape
    if not isinstance(value, Tensor) or not isinstance(one, Tensor):
        return True
    own = value.ndim - len(copies)
    if value.shape[: len(copies)] != copies or own > max(depth, one.ndim):
        return False
    if value[index].numel() != one.numel():
        return False
    return torch.allclose(value[index].reshape(one.shape), one, equal_nan=True)

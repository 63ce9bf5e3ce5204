"""Independent copies of all fields, each of which is what one copy alone would be.

`batch_shape=` puts the dimensions of copies in front of every value. Where values of different
length meet, in the arguments of a base or among parts, the shorter ones get dimensions of size one
behind the copies. A batch of contexts in front of predicted values is treated alike. What must be
lined up depends on shapes only, so it is found once per instance, and most instances need nothing.
Methods get the values as they are, and index from the right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import (
    MixtureSameFamily,
    StackTransform,
    Transform,
    TransformedDistribution,
)

from declarative_dist.errors import ConstraintError
from declarative_dist.fields.alignment import has_copies, ndims_of, own_ndim
from declarative_dist.fields.blueprint import Blueprint
from declarative_dist.fields.field import Field
from declarative_dist.fields.given import try_kinds
from declarative_dist.fields.kinds import built_kind, is_declarative, predicted_kind


def install_fields(module: Any, blueprint: Blueprint) -> dict[str, Any]:
    """Install all fields on a new instance, and return their values."""
    vars(module).update(_copies=blueprint.batch_shape, _ndims={}, _padding=0, _alignment=())

    def install(field: Field, values: dict[str, Any]) -> Any:
        field.bind(module, blueprint, values)
        return _measure(module, field, values)

    run, order = module.__declaration__.run, module.__declaration__.order
    values: dict[str, Any] = try_kinds(module, lambda: run(module, order, compute=install))
    arrange(module)
    return values


def measure(module: Any) -> None:
    """Find out anew how many dimensions the fields of an instance have, and line them up."""
    for _, part in _parts_of(module, is_owned=False):
        if is_declarative(part):
            arrange(part, is_owned=True)  # as it is by itself
    compute = partial(_measure, module)
    module.__declaration__.run(module, module.__declaration__.order, compute=compute)
    arrange(module, vars(module)["_padding"])


def _measure(module: nn.Module, field: Field, values: dict[str, Any]) -> Any:
    """The value of a field, whose dimensions are counted unless it holds it and knows them."""
    value = field.value(module, values)
    if field.holds_value:
        return value
    copies: torch.Size = vars(module)["_copies"]
    part = module._modules.get(field.name)
    if field.is_computed and field.needs:
        # What is computed from constants alone has no copies.
        tensors = [name for name in field.needs if isinstance(values[name], Tensor)]
        has_lead = any(_has_lead(module, name, values[name]) for name in tensors)
        copies = copies if has_lead or len(tensors) < len(field.needs) else torch.Size()
    elif part is not None and not has_copies(part, copies):
        copies = torch.Size()
    ndims_of(module)[field.name] = own_ndim(value, copies)
    return value


def arrange(module: Any, padding: int = 0, *, is_owned: bool = False) -> None:
    """Find out what must be lined up in an instance, and in the parts that it owns.

    Args:
        module: the instance.
        padding: how many dimensions of size one its arguments get in addition, because they meet
            longer ones in what holds it.
        is_owned: whether its parts were made for it, and all that is in them.
    """
    copies: torch.Size = vars(module)["_copies"]
    if not copies and predicted_kind(module) is None:
        return  # nothing stands in front
    _pad_live_shape(module, padding)
    parts = list(_parts_of(module, is_owned=is_owned))
    own = _batch_ndims(module)
    mapped = _map_ndims([part for _, part in parts if _is_map(part)], copies)
    depth = max([*own.values(), *mapped.values()], default=0) + padding
    ndims, fields = ndims_of(module), module.__declaration__.fields
    vars(module)["_padding"] = padding
    vars(module)["_alignment"] = [
        (name, ndims[name], ndims[name] + depth - ndim)
        for name, ndim in own.items()
        if ndim < depth and name in ndims and not fields[name].is_part
    ]
    for name, part in parts:
        if is_declarative(part):
            arrange(part, depth - mapped.get(id(part), own.get(name, depth)), is_owned=True)


def _batch_ndims(module: Any) -> dict[str, int]:
    """By argument of a class base how many dimensions of one copy it has, but for transforms."""
    declaration, ndims = module.__declaration__, ndims_of(module)
    if declaration.make is None:
        return dict.fromkeys(module._modules, 0)  # a method lines up its values itself
    own = {name: ndims.get(name, 0) - declaration.event_dims[name] for name in declaration.inputs}
    short = next((name for name, count in own.items() if count < 0), None)
    if short is not None:  # the base would take copies or contexts for the dimensions of an event
        expected = f"the dimensions of one event, {declaration.event_dims[short]} or more"
        subject, got = f"{type(module).__name__}.{short}", str(ndims.get(short, 0))
        fix = "Give it a shape, or a value with all of its entries."
        raise ConstraintError(subject, expected, got, fix, code="wrong-shape")
    if issubclass(declaration.base, MixtureSameFamily):
        own["component_distribution"] -= 1
    if issubclass(declaration.base, TransformedDistribution) and "transforms" in own:
        with torch.no_grad():
            source = declaration.base_values(module)["base_distribution"]
        own["base_distribution"] += len(source.event_shape)
    return own


def _map_ndims(transforms: list[Any], copies: torch.Size) -> dict[int, int]:
    """The dimensions of transforms in a chain, counted where the value of the base has them."""
    ndims, gained = {}, 0
    for part in transforms:
        ndims[id(part)] = _transform_ndim(part, copies) - gained
        plain = part()
        gained += plain.codomain.event_dim - plain.domain.event_dim
    return ndims


def _is_map(part: nn.Module) -> bool:
    return issubclass(built_kind(part) or object, Transform)


def _transform_ndim(part: Any, copies: torch.Size) -> int:
    """How many dimensions behind the copies a transform gives to what it maps."""
    if not is_declarative(part):
        return max((tensor.ndim for tensor in part.buffers()), default=0)
    inner = (_transform_ndim(p, copies) for _, p in _parts_of(part, is_owned=True) if _is_map(p))
    own = max([*_batch_ndims(part).values(), *inner], default=0)
    base = part.__declaration__.base
    is_stack = isinstance(base, type) and issubclass(base, StackTransform)  # of slices
    return own + is_stack + len(vars(part)["_copies"]) - len(copies) * has_copies(part, copies)


def _pad_live_shape(module: Any, padding: int) -> None:
    """Put dimensions of size one behind the copies of a distribution whose arguments lack them."""
    shape: torch.Size | None = vars(module).get("_live_shape")
    copies: torch.Size = vars(module)["_copies"]
    count = len(copies)
    if shape is not None and copies and shape[:count] == copies:
        own = shape[count + vars(module)["_padding"] :]
        vars(module)["_live_shape"] = torch.Size((*copies, *(1,) * padding, *own))


def set_copies(
    new: nn.Module,
    module: nn.Module,
    lead: torch.Size,
    choose_raw: Callable[[Tensor], Tensor],
    choose_constant: Callable[[Tensor], Tensor],
) -> None:
    """Give a light copy of an instance other independent copies than the instance has.

    Args:
        new: the light copy.
        module: the instance.
        lead: the shape in place of its copies.
        choose_raw: makes raw numbers from those of the instance.
        choose_constant: makes a constant from one that has copies in front.
    """
    copies: torch.Size = vars(module)["_copies"]
    count = len(copies)
    for part, original in zip(new.modules(), module.modules(), strict=True):
        if not (is_declarative(original) and has_copies(original, copies)):
            continue
        for name in ("_copies", "_live_shape"):
            shape = vars(original).get(name)
            if shape is not None and shape[:count] == copies:
                vars(part)[name] = torch.Size((*lead, *shape[count:]))
        for name, raw in original._parameters.items():
            if raw is not None:
                part._parameters[name] = choose_raw(raw)  # type: ignore[assignment]
        ndims = ndims_of(original)
        for name, buffer in original._buffers.items():
            if name in ndims and buffer is not None and buffer.ndim > ndims[name]:
                part._buffers[name] = choose_constant(buffer)


def all_lack(module: Any, copies: torch.Size, values: dict[str, Any]) -> bool:
    """Whether nothing that the base takes has the copies in front."""
    has_lead = any(_has_lead(module, name, value) for name, value in values.items())
    return not has_lead and not any(has_copies(part, copies) for part in module.children())


def _has_lead(module: nn.Module, name: str, value: Any) -> bool:
    """Whether a tensor has copies in front of its own dimensions; a constant need not."""
    return isinstance(value, Tensor) and value.ndim > ndims_of(module).get(name, 0)


def _parts_of(module: Any, *, is_owned: bool) -> Iterator[tuple[str, nn.Module]]:
    """The nested parts of an instance, by field; the parts of a list one by one.

    Parts that were given belong to others too, and stay as they are.
    """
    starts = vars(module)["_starts"]
    for name, field in module.__declaration__.fields.items():
        if field.is_part and (is_owned or starts[name] is True):
            yield from ((name, part) for part in field.parts_of(module))

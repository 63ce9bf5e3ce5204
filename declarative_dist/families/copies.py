"""Independent copies of all fields, each of which is what one copy alone would be.

`batch_shape=` puts the dimensions of copies in front of every value. Where values of different
length meet, in the arguments of a base or among parts, the shorter ones get dimensions of size one
behind the copies. A batch of contexts in front of predicted values is treated alike. What must be
lined up depends on shapes only, so it is found once per instance, and most instances need nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import (
    ComposeTransform,
    MixtureSameFamily,
    StackTransform,
    Transform,
    TransformedDistribution,
)

from declarative_dist.declaration.record import Declaration
from declarative_dist.families.probe import find_mixed, mixing_error
from declarative_dist.fields.alignment import Padding, has_copies, ndims_of, own_ndim
from declarative_dist.fields.field import Field
from declarative_dist.fields.kinds import is_declarative
from declarative_dist.fields.sizes import Blueprint

NOT_TOGETHER = (
    RuntimeError,
    ValueError,
    NotImplementedError,
    AssertionError,
    AttributeError,
    IndexError,
)
"""What torch raises at values that do not go together."""


def install_fields(module: Any, blueprint: Blueprint) -> dict[str, Any]:
    """Install all fields on a new instance, and return their values.

    Raises:
        ConstraintError: if values do not go together, such as copies in a derived one.
    """
    vars(module).update(_copies=blueprint.batch_shape, _padding=0, _lines_methods=False)
    if not blueprint.batch_shape:
        return _install(module, blueprint)
    try:
        return _install(module, blueprint)
    except NOT_TOGETHER:
        blueprint.copies.clear()
        blueprint.replicated.clear()
        vars(module)["_lines_methods"] = True
        with suppress(*NOT_TOGETHER):
            return _install(module, blueprint)
        raise


def settle_methods(module: Any) -> None:
    """Find out whether the methods of an instance keep copies or contexts apart.

    A method may index from the right, or leave it to us to line up what it gets; the first that
    gives what single copies get is right.

    Raises:
        ConstraintError: if neither does.
    """
    found = find_mixed(module)
    if found is None:
        return
    if not vars(module)["_lines_methods"]:
        _line_methods(module, True)
        if find_mixed(module) is None:
            return
        _line_methods(module, False)
    raise mixing_error(type(module).__name__, _what(module), found)


def _line_methods(module: Any, lines: bool) -> None:
    vars(module)["_lines_methods"] = lines
    arrange(module, vars(module)["_padding"])
    with torch.no_grad(), suppress(*NOT_TOGETHER):
        measure(module)


def _what(module: Any) -> str:
    return "copies" if vars(module)["_copies"] else "contexts"


def _install(module: Any, blueprint: Blueprint) -> dict[str, Any]:
    vars(module).update(_ndims={}, _paddings={})
    declaration: Declaration = module.__declaration__

    def install(field: Field, values: dict[str, Any]) -> Any:
        field.bind(module, blueprint, values)
        if vars(module)["_lines_methods"] and field.is_computed:
            _pad_method(module, field.name, field.needs)
        value = field.value(module, values)
        _measure(module, field, value, values)
        return value

    values = declaration.run(module, declaration.order, compute=install)
    arrange(module)
    return values


def measure(module: Any) -> None:
    """Find out anew how many dimensions the fields of an instance have, and line them up."""
    for _, part in _parts_of(module, is_owned=False):
        if is_declarative(part):
            arrange(part, is_owned=True)  # as it is by itself
    values = module.__declaration__.run(module, module.__declaration__.order)
    for name, value in values.items():
        _measure(module, module.__declaration__.fields[name], value, values)
    arrange(module, vars(module)["_padding"])


def _measure(module: nn.Module, field: Field, value: Any, values: dict[str, Any]) -> None:
    if field.holds_value:
        return  # it knows itself, and keeps its shape
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


def replicate_fields(module: Any, copies: torch.Size, done: dict[int, Any]) -> None:
    """Give independent copies to all parameters of an instance, in front of what it has."""
    vars(module)["_copies"] = torch.Size((*copies, *vars(module)["_copies"]))
    for field in module.__declaration__.order:
        field.replicate(module, copies, done)
    arrange(module, vars(module)["_padding"], is_owned=True)
    settle_methods(module)


def arrange(module: Any, padding: int = 0, *, is_owned: bool = False) -> None:
    """Find out what must be lined up in an instance, and in the parts that it owns.

    Args:
        module: the instance.
        padding: how many dimensions of size one its arguments get in addition, because they meet
            longer ones in what holds it.
        is_owned: whether its parts were made for it, and all that is in them.
    """
    declaration: Declaration = module.__declaration__
    _pad_constant(module, padding)
    vars(module).update(_padding=padding, _paddings={})
    if vars(module)["_lines_methods"]:
        for field in declaration.build:
            if field.is_computed:
                _pad_method(module, field.name, field.needs)
    parts = list(_parts_of(module, is_owned=is_owned))
    if declaration.make is None:
        missing = dict.fromkeys(module._modules, padding)
        if vars(module)["_lines_methods"]:
            _pad_method(module, "", declaration.inputs)
    elif (
        issubclass(declaration.base, TransformedDistribution)
        and "transforms" in declaration.fields
    ):
        _arrange_transforms(module, padding, parts)
        return
    else:
        ndims, names = vars(module)["_ndims"], declaration.inputs
        batch = {name: ndims.get(name, 0) - declaration.event_dims[name] for name in names}
        if issubclass(declaration.base, MixtureSameFamily):
            batch["component_distribution"] -= 1
        depth = max(batch.values(), default=0) + padding
        missing = {name: depth - ndim for name, ndim in batch.items()}
        _pad(module, "", missing)
    for name, part in parts:
        if is_declarative(part):
            arrange(part, missing.get(name, 0), is_owned=True)


def _pad_constant(module: Any, padding: int) -> None:
    """Put dimensions of size one behind the copies of a distribution whose arguments lack them."""
    shape: torch.Size | None = vars(module).get("_live_shape")
    copies: torch.Size = vars(module)["_copies"]
    count = len(copies)
    if shape is not None and copies and shape[:count] == copies:
        own = shape[count + vars(module)["_padding"] :]
        vars(module)["_live_shape"] = torch.Size((*copies, *(1,) * padding, *own))


def all_lack(module: Any, copies: torch.Size, values: dict[str, Any]) -> bool:
    """Whether nothing that the base takes has the copies in front."""
    has_lead = any(_has_lead(module, name, value) for name, value in values.items())
    return not has_lead and not any(has_copies(part, copies) for part in module.children())


def _has_lead(module: nn.Module, name: str, value: Any) -> bool:
    """Whether a tensor has copies in front of its own dimensions; a constant need not."""
    return isinstance(value, Tensor) and value.ndim > ndims_of(module).get(name, 0)


def _parts_of(module: Any, *, is_owned: bool) -> Iterator[tuple[str, nn.Module]]:
    """The nested parts that were made for an instance, by field; those of a list one by one.

    Parts that were given belong to others too, and stay as they are.
    """
    starts = vars(module)["_starts"]
    for name, field in module.__declaration__.fields.items():
        if field.is_part and (is_owned or starts[name] is True):
            part = module._modules[name]
            yield from ((name, p) for p in (part if isinstance(part, nn.ModuleList) else [part]))


def _pad(module: Any, consumer: str, missing: dict[str, int]) -> None:
    """Note which values get dimensions of size one where a base or a method takes them."""
    if vars(module)["_copies"] or hasattr(type(module), "__predicts__"):
        ndims = vars(module)["_ndims"]
        paddings = [
            Padding(n, ndims[n], ndims[n] + more)
            for n, more in missing.items()
            if more > 0 and n in ndims
        ]
        vars(module)["_paddings"].update({consumer: paddings} if paddings else {})


def _pad_method(module: Any, consumer: str, names: tuple[str, ...]) -> None:
    fields, ndims = module.__declaration__.fields, vars(module)["_ndims"]
    batch = {name: ndims.get(name, 0) - getattr(fields[name], "event_dim", 0) for name in names}
    depth = max(batch.values(), default=0)
    _pad(module, consumer, {name: depth - ndim for name, ndim in batch.items()})


def _arrange_transforms(module: Any, padding: int, parts: list[tuple[str, nn.Module]]) -> None:
    """Line up a base and its transforms, whose dimensions are counted where the base stands."""
    declaration: Declaration = module.__declaration__
    with torch.no_grad():
        values = declaration.base_values(module)
    source, copies = values["base_distribution"], vars(module)["_copies"]
    own = vars(module)["_ndims"]["base_distribution"] + len(source.event_shape)
    transforms = [part for name, part in parts if name == "transforms"]
    leaves = [(leaf, _leaf_ndim(leaf, copies) - shift) for leaf, shift in _leaves(transforms, 0)]
    depth = max([own, *(ndim for _, ndim in leaves)]) + padding
    for name, part in parts:
        if name == "base_distribution" and is_declarative(part):
            arrange(part, depth - own, is_owned=True)
    for leaf, ndim in leaves:
        if is_declarative(leaf):
            arrange(leaf, depth - ndim, is_owned=True)


def _leaves(parts: list[Any], shift: int) -> Iterator[tuple[Any, int]]:
    """The transforms that others are made of, and how many dimensions a value has gained there."""
    for part in parts:
        inner = [p for _, p in _parts_of(part, is_owned=True)] if is_declarative(part) else []
        kind = part.__declaration__.base if inner else None
        if kind is None:
            yield part, shift
        elif issubclass(kind, ComposeTransform):
            yield from _leaves(inner, shift)
        else:
            is_sliced = issubclass(kind, StackTransform)
            for child in inner:
                yield from _leaves([child], shift - is_sliced)
        plain = part if isinstance(part, Transform) else part()
        shift += plain.codomain.event_dim - plain.domain.event_dim


def _leaf_ndim(leaf: Any, copies: torch.Size) -> int:
    """How many dimensions behind the copies a transform gives to what it maps."""
    if not is_declarative(leaf):
        return max((tensor.ndim for tensor in leaf.buffers()), default=0)
    declaration: Declaration = leaf.__declaration__
    if declaration.make is None:
        return 0  # a method knows itself what to do with its shapes
    ndims = vars(leaf)["_ndims"]
    own = max((ndims.get(n, 0) - declaration.event_dims[n] for n in declaration.inputs), default=0)
    return own + len(vars(leaf)["_copies"]) - len(copies) * has_copies(leaf, copies)

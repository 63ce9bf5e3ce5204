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
    Distribution,
    MixtureSameFamily,
    StackTransform,
    Transform,
    TransformedDistribution,
)

from declarative_dist.declaration.record import Declaration
from declarative_dist.errors import ConstraintError
from declarative_dist.fields.alignment import Padding, has_copies, ndims_of, own_ndim
from declarative_dist.fields.constant import Constant
from declarative_dist.fields.field import Field
from declarative_dist.fields.kinds import is_declarative
from declarative_dist.fields.param import Param
from declarative_dist.fields.sizes import Blueprint
from declarative_dist.plain.restoring import restoring
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


def install_fields(module: Any, blueprint: Blueprint) -> dict[str, Any]:
    """Install all fields on a new instance, and return their values.

    A method may expect that its values line up, or that they are what one copy has behind the
    copies; the first that gives what single copies give is right.

    Raises:
        ConstraintError: if neither does.
    """
    declaration: Declaration = module.__declaration__
    vars(module).update(_copies=blueprint.batch_shape, _padding=0, _lines_methods=False)
    if not (blueprint.batch_shape and declaration.make and declaration.has_derived_input):
        return _install(module, blueprint)
    with suppress(*NOT_TOGETHER):
        values = _install(module, blueprint)
        if _copies_agree(module, blueprint.batch_shape):
            return values
    blueprint.copies.clear()
    blueprint.replicated.clear()
    vars(module)["_lines_methods"] = True
    values = _install(module, blueprint)
    if not _copies_agree(module, blueprint.batch_shape):
        raise ConstraintError(
            declaration.owner,
            f"derived values that are, copy by copy, those of one for {blueprint.batch_shape}",
            "others",
            "Index from the right, as in width[..., None], and sum over the last dimensions.",
            code="mixed-draws",
        )
    return values


def _install(module: Any, blueprint: Blueprint) -> dict[str, Any]:
    vars(module).update(_ndims={}, _paddings={})
    declaration: Declaration = module.__declaration__

    def install(field: Field, values: dict[str, Any]) -> Any:
        field.bind(module, blueprint, values)
        if vars(module)["_lines_methods"] and field.is_computed:
            _pad_method(module, field.name, field.needs)
        value = field.value(module, values)
        _measure(module, field, value)
        return value

    values = declaration.run(module, declaration.order, compute=install)
    arrange(module)
    return values


def measure(module: Any, values: dict[str, Any]) -> None:
    """Find out anew how many dimensions the fields of an instance have, and line them up."""
    for name, value in values.items():
        _measure(module, module.__declaration__.fields[name], value)
    arrange(module, vars(module)["_padding"])


def _measure(module: nn.Module, field: Field, value: Any) -> None:
    if field.holds_value:
        return  # it knows itself, and keeps its shape
    copies: torch.Size = vars(module)["_copies"]
    part = module._modules.get(field.name)
    if part is not None and not has_copies(part, copies):
        copies = torch.Size()
    ndims_of(module)[field.name] = own_ndim(value, copies)


def replicate_fields(module: Any, copies: torch.Size, done: dict[int, Any]) -> None:
    """Give independent copies to all parameters of an instance, in front of what it has."""
    vars(module)["_copies"] = torch.Size((*copies, *vars(module)["_copies"]))
    for field in module.__declaration__.order:
        field.replicate(module, copies, done)
    arrange(module, vars(module)["_padding"], is_owned=True)
    declaration: Declaration = module.__declaration__
    if declaration.make is not None and declaration.has_derived_input:
        vars(module)["_lines_methods"] = not _copies_agree(module, vars(module)["_copies"])
        arrange(module, vars(module)["_padding"], is_owned=True)


def arrange(module: Any, padding: int = 0, *, is_owned: bool = False) -> None:
    """Find out what must be lined up in an instance, and in the parts that it owns.

    Args:
        module: the instance.
        padding: how many dimensions of size one its arguments get in addition, because they meet
            longer ones in what holds it.
        is_owned: whether its parts were made for it, and all that is in them.
    """
    declaration: Declaration = module.__declaration__
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


def all_lack(module: Any, copies: torch.Size, values: dict[str, Any]) -> bool:
    """Whether nothing that the base takes has the copies in front."""
    has_tensors = any(isinstance(value, Tensor) for value in values.values())
    return not has_tensors and not any(has_copies(part, copies) for part in module.children())


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


def _copies_agree(module: Any, copies: torch.Size) -> bool:
    """Whether derived arguments of the base are, copy by copy, what one copy alone would give.

    Args:
        module: an instance with independent copies.
        copies: their dimensions.
    """
    declaration = module.__declaration__
    generator = torch.Generator().manual_seed(0)  # equal starts would hide what is mixed
    try:
        with torch.no_grad(), restoring(module, always=True):
            for raw in module.parameters():
                raw += torch.rand(raw.shape, generator=generator).to(raw)
            values = declaration.run(module, declaration.build)
            if is_traced(*values.values()) or 0 in copies:
                return True
            last = tuple(size - 1 for size in copies)
            for index in ((0,) * len(copies), last):
                one = _one_copy(module, values, index)
                for name in declaration.inputs:
                    if declaration.fields[name].is_computed and not _is_copy(
                        values[name], one[name], index, copies
                    ):
                        return False
    except NOT_TOGETHER:
        return False
    return True


def _one_copy(module: Any, values: dict[str, Any], index: tuple[int, ...]) -> dict[str, Any]:
    """The values of one copy alone, derived ones computed from the others."""

    def compute(field: Field, one: dict[str, Any]) -> Any:
        value = values[field.name]
        if isinstance(field, (Param, Constant)) and isinstance(value, Tensor):
            value = value[index]
        elif field.is_computed:
            value = field.value(module, one)
        return value

    declaration: Declaration = module.__declaration__
    return declaration.run(module, declaration.build, compute=compute)


def _is_copy(value: Any, one: Any, index: tuple[int, ...], copies: torch.Size) -> bool:
    """Whether a value is at this copy what the copy alone has."""
    if isinstance(value, Distribution) and isinstance(one, Distribution):
        whole = torch.Size((*copies, *one.batch_shape))
        return value.batch_shape == whole and value.event_shape == one.event_shape
    if not isinstance(value, Tensor) or not isinstance(one, Tensor):
        return True
    if value.shape != torch.Size((*copies, *one.shape)):
        return False
    return torch.allclose(value[index], one, equal_nan=True)

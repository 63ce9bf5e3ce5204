"""Batch dimensions of nested parts, lined up behind the dimensions of independent copies.

`batch_shape=` puts the dimensions of copies in front of every parameter. Parts whose own shapes
differ in length would then broadcast from the right over each other's copies; so the shorter ones
get dimensions of size one between the copies and their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.distributions import MixtureSameFamily, StackTransform, TransformedDistribution

from declarative_dist.fields.kinds import is_declarative
from declarative_dist.fields.param import Param
from declarative_dist.fields.parts import Nested
from declarative_dist.fields.templates import replicate
from declarative_dist.fields.walk import walk


def align_parts(module: Any, copies: torch.Size) -> None:
    """Line up the parts of a declared family behind the dimensions of its copies.

    Parts that were given belong to others too, and stay as they are.

    Args:
        module: an instance of a declared family.
        copies: the dimensions in front.
    """
    base = module.__declaration__.base
    parts = module._modules
    if not copies or not isinstance(base, type):
        return
    if issubclass(base, MixtureSameFamily):
        names = ("mixture_distribution", "component_distribution")
        ndims = [(parts[n], len(parts[n]().batch_shape)) for n in names if n in parts]
        own = [(part, ndim - (part is parts.get(names[1]))) for part, ndim in ndims]
    elif issubclass(base, TransformedDistribution) and "transforms" in parts:
        own = list(_along_transforms(module, copies))
    else:
        return
    own = [(part, ndim - len(copies) * has_copies(part, copies)) for part, ndim in own]
    depth = max((ndim for _, ndim in own), default=0)
    done: dict[int, Any] = {}
    owned = _owned(module)
    for part, ndim in own:
        if ndim < depth and has_copies(part, copies) and id(part) in owned:
            replicate(part, torch.Size((1,) * (depth - ndim)), len(copies), done)


def _owned(module: Any) -> set[int]:
    """The ids of the parts that were made for this instance, and of all in them."""
    starts = vars(module)["_starts"]
    made = [part for name, part in module._modules.items() if starts.get(name) is True]
    return {id(inner) for part in made for inner in part.modules()}


def _along_transforms(module: Any, copies: torch.Size) -> Iterator[tuple[nn.Module, int]]:
    """The base and each transform, with their dimensions counted where the base stands."""
    source: Any = module._modules.get("base_distribution")
    if source is not None:
        plain = source()
        yield source, len(plain.batch_shape) + len(plain.event_shape)
    added = 0
    for part in module.transforms:
        yield from ((leaf, ndim - added) for leaf, ndim in _leaves(part, copies))
        plain = part()
        added += plain.codomain.event_dim - plain.domain.event_dim


def _leaves(part: Any, copies: torch.Size) -> Iterator[tuple[nn.Module, int]]:
    """The transforms that a transform is made of, and how many dimensions their numbers have."""
    fields = part.__declaration__.fields.values() if is_declarative(part) else ()
    inner = [field for field in fields if isinstance(field, Nested)]
    if not inner:
        yield part, _ndim(part, copies)
        return
    sliced = 1 if issubclass(part.__declaration__.base, StackTransform) else 0
    added = 0
    for field in inner:
        held: Any = field.module_of(part)
        for child in held if isinstance(held, nn.ModuleList) else [held]:
            yield from ((leaf, ndim + sliced - added) for leaf, ndim in _leaves(child, copies))
            plain: Any = child()
            if len(inner) == 1 and not sliced and hasattr(plain, "domain"):
                added += plain.codomain.event_dim - plain.domain.event_dim


def _ndim(part: Any, copies: torch.Size) -> int:
    """How many dimensions an elementwise transform gives to what it maps; copies count."""
    if not is_declarative(part):
        return max((tensor.ndim for tensor in part.buffers()), default=0)
    if not isinstance(part.__declaration__.base, type):
        return 0  # a method knows itself what to do with its shapes
    counts = [0]
    missing = len(copies) * has_copies(part, copies)
    for name, field in part.__declaration__.fields.items():
        value = getattr(part, name)
        if isinstance(field, Param):
            counts.append(value.ndim - field.event_dim)
        elif isinstance(value, torch.Tensor):
            counts.append(value.ndim + missing)
    return max(counts)


def has_copies(part: Any, copies: torch.Size) -> bool:
    """Whether a part has the dimensions of the copies in front."""
    own: torch.Size = vars(part).get("_copies", torch.Size())
    if own[: len(copies)] != copies:
        return False
    return any(
        vars(inner).get("_live_shape") is not None
        or any(isinstance(field, Param) for field in inner.__declaration__.order)
        for _, inner in walk(part)
    )

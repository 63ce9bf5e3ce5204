"""Batch dimensions of nested parts, lined up behind the dimensions of independent copies.

`batch_shape=` puts dimensions in front of every parameter. Parts whose own shapes differ in length
would then broadcast from the right over each other's copies; so the shorter ones get dimensions of
size one between the copies and their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributions import MixtureSameFamily, TransformedDistribution

from declarative_dist.fields.param import Param
from declarative_dist.fields.part import replicate


def align_parts(module: Any) -> bool:
    """Line up the parts that a new instance was built with.

    Args:
        module: an instance of a declared family with a class base.

    Returns:
        Whether anything changed.
    """
    copies: torch.Size = vars(module)["_copies"]
    base = module.__declaration__.base
    if not copies:
        return False
    if issubclass(base, MixtureSameFamily):
        weights, components = module.mixture_distribution, module.component_distribution
        missing = len(components.batch_shape) - 1 - len(weights.batch_shape)
        pairs = [(weights, missing), (components, -missing)]
    elif issubclass(base, TransformedDistribution) and "transforms" in module._modules:
        source = module.base_distribution
        depth = len(source.batch_shape) + len(source.event_shape) - len(copies)
        pairs = [(part, depth - _depth(part, len(copies))) for part in module.transforms]
    else:
        return False
    changes = [_lead(part, missing, copies) for part, missing in pairs if missing > 0]
    return any(changes)


def _depth(part: nn.Module, copies: int) -> int:
    """How many dimensions the parameters of a transform have behind those of the copies."""
    starts = vars(part).get("_starts", {})
    shapes = [start.shape for start in starts.values() if hasattr(start, "shape")]
    return max((len(shape) - copies for shape in shapes), default=0)


def _lead(part: Any, missing: int, copies: torch.Size) -> bool:
    """Put dimensions of size one behind the copies, where the part has copies of its own."""
    own = vars(part).get("_copies", torch.Size())
    is_copied = own[: len(copies)] == copies
    if is_copied and any(isinstance(f, Param) for f in part.__declaration__.order):
        replicate(part, torch.Size((1,) * missing), len(copies), set())
        return True
    return False

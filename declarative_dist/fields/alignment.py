"""Values lined up behind copies, contexts and draws, which so never meet.

The values of fields have shape `(*lead, *own)`: copies, contexts or draws in front, and behind
them the dimensions of one copy. Torch broadcasts from the right, where the own dimensions of a
longer value would meet the lead of a shorter one; dimensions of size one between the two keep them
apart. How many dimensions are a field's own is known since its instance was built. So their place
is counted from the right, and holds for whatever stands in front.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution


def line_up_all(values: dict[str, Any], alignment: Iterable[tuple[str, int, int]]) -> None:
    """Line up values in their place, by name, dimensions behind the lead, and as many to be."""
    for name, own, ndim in alignment:
        values[name] = line_up(values[name], own, ndim)


def line_up(value: Any, own: int, ndim: int) -> Any:
    """A view of a tensor `(*lead, *own)` with `ndim` dimensions behind the lead in place of `own`.

    Whatever is no tensor, and a tensor without a lead, stays as it is.
    """
    if own >= ndim or not isinstance(value, Tensor) or value.ndim <= own:
        return value
    lead = value.ndim - own
    return value.reshape(*value.shape[:lead], *(1,) * (ndim - own), *value.shape[lead:])


def own_ndim(value: Any, copies: torch.Size) -> int:
    """How many dimensions of one copy a value has, or the batch of a distribution."""
    if isinstance(value, Distribution):
        shape = value.batch_shape
    elif isinstance(value, Tensor):
        shape = value.shape
    else:
        return 0
    count = len(copies)
    return len(shape) - count if shape[:count] == copies else len(shape)


def ndims_of(module: nn.Module) -> dict[str, int]:
    """By field of an instance how many dimensions of one copy its value has."""
    return vars(module)["_ndims"]


def has_copies(part: nn.Module, copies: torch.Size) -> bool:
    """Whether a part, or what a foreign module holds, has these independent copies in front."""
    return any(
        vars(inner).get("_copies", torch.Size())[: len(copies)] == copies
        for inner in part.modules()
        if "_copies" in vars(inner)
    )

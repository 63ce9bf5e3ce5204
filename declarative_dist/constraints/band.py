"""Bands: which numbers of a dtype values may be, and how a map keeps its values among them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from declarative_dist.errors import DeclarationError, shorten
from declarative_dist.plain.tensors import HALF
from declarative_dist.plain.tracing import is_transforming

FLOATING = (torch.float64, torch.float32, *HALF)

Limits = Mapping[torch.dtype, tuple[float, float]]
"""For each dtype the smallest and the largest value allowed."""

Guard = bool | Limits
"""True for the general band, False for all that a dtype holds, or a band of one's own."""

GUARD: Limits = {
    torch.float64: (1e-150, 1e150),
    torch.float32: (1e-18, 1e18),
    torch.bfloat16: (1e-18, 1e18),
    torch.float16: (1e-3, 1e4),
}
"""Where squares and reciprocals stay finite, and so do densities and their gradients."""

WIDEST: Limits = {dtype: (torch.finfo(dtype).tiny, torch.finfo(dtype).max) for dtype in FLOATING}
"""All positive normal numbers of each dtype."""


def band_of(guard: Any, subject: str) -> Limits:
    """The band that a `guard=` stands for.

    Raises:
        DeclarationError: if it is neither a switch nor a mapping from dtypes to positive ranges.
    """
    if isinstance(guard, bool):
        return GUARD if guard else WIDEST
    try:
        band = {dtype: (float(low), float(high)) for dtype, (low, high) in guard.items()}
    except (AttributeError, TypeError, ValueError):
        band = {}
    if band and all(d in FLOATING and 0 < low < high for d, (low, high) in band.items()):
        return {
            d: (max(low, WIDEST[d][0]), min(top, WIDEST[d][1])) for d, (low, top) in band.items()
        }
    expected = "True, False, or for each dtype a pair of positive numbers in order"
    fix = "Write guard={torch.float32: (1e-6, 1e6)}, for instance."
    raise DeclarationError(subject, expected, shorten(guard), fix, code="bad-bounds")


def next_above(bound: float, dtype: torch.dtype) -> float:
    """A number of the dtype strictly above a bound, and above the bound as the dtype rounds it.

    Computed in Python because `torch.nextafter` is wrong under inductor in half precision.
    """
    info = torch.finfo(dtype)
    if abs(bound) < info.tiny:  # a distance of a quarter, or of 0, is too small to divide by
        return info.tiny if bound >= -info.tiny / 4 else 0.0
    spacing = math.ldexp(info.eps, math.frexp(bound)[1] - 1)
    nearest = round(bound / spacing) * spacing
    return nearest + math.ldexp(info.eps, math.frexp(nearest)[1] - 1)


@lru_cache(maxsize=128)
def limits_between(low: float, high: float) -> Limits:
    """Per dtype the range strictly between two bounds; an infinite bound is no bound."""
    return {
        dtype: (
            next_above(low, dtype) if low > -math.inf else -torch.finfo(dtype).max,
            -next_above(-high, dtype) if high < math.inf else torch.finfo(dtype).max,
        )
        for dtype in FLOATING
    }


def promote(value: Tensor) -> Tensor:
    """The value in single precision if it is in half, for maps that are solved backwards."""
    return value.float() if value.dtype in HALF else value


def clamp_result(value: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Move a result to the nearest end of a range; its gradient stays as it is.

    The gradient passes straight through: a clamp that stopped it would leave a parameter at the
    end of its range for good.

    Args:
        value: the output of an operation whose backward does not read it, such as `softplus` or
            a sum. In eager mode its numbers are changed in place, which needs no node.
        low: the lower end.
        high: the upper end.
    """
    if is_transforming():
        zero = (value - value.detach()).nan_to_num(0.0)
        return value.detach().clamp(min=low).clamp(max=high) + zero
    # Through .data, which leaves the version of the tensor that backward will read as it is.
    numbers = value.data if value.requires_grad else value
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        numbers.clamp_(min=low).clamp_(max=high)
    else:
        numbers.clamp_(low, high)
    return value


_PLAIN = (nn.Parameter, Tensor)


def clamp_input(raw: Tensor, low: float, high: float) -> Tensor:
    """Move the input of an operation to the nearest end of a range; its gradient passes through.

    For operations whose backward reads their result, such as `exp`: what they save is then inside
    from the start, also where autograd saves a copy or computes it anew (checkpointing, hooks on
    saved tensors).

    Returns:
        A copy; or the tensor itself where it is known to be inside, which costs no node.
    """
    if is_transforming():
        return clamp_result(raw, low, high)
    if not (raw.requires_grad and torch.is_grad_enabled()):
        return raw.clamp(low, high)
    if raw.is_cpu and type(raw) in _PLAIN and (count := raw.numel()):  # numbers are at hand
        smallest, largest = raw.data.aminmax() if count > 1 else (raw, raw)
        if low <= smallest.item() and largest.item() <= high:
            return raw
    copied = raw.clone()  # saves nothing, so that nothing is changed behind autograd's back
    copied.data.clamp_(low, high)
    return copied

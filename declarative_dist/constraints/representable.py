"""Which numbers a floating-point dtype can hold strictly inside a bound, or inside a band."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
FLOATING = (torch.float64, torch.float32, *HALF)

Limits = Mapping[torch.dtype, tuple[float, float]]
"""For each dtype the smallest and the largest value allowed."""

GUARD: Limits = {
    torch.float64: (1e-150, 1e150),
    torch.float32: (1e-18, 1e18),
    torch.bfloat16: (1e-18, 1e18),
    torch.float16: (1e-3, 1e4),
}
"""Where squares and reciprocals stay finite, and so do densities and their gradients."""

WIDEST: Limits = {dtype: (torch.finfo(dtype).tiny, torch.finfo(dtype).max) for dtype in FLOATING}
"""All positive normal numbers of each dtype."""


def above(bound: float, dtype: torch.dtype) -> float:
    """A number of the dtype strictly above a bound, and above the bound as the dtype rounds it.

    Computed in Python because `torch.nextafter` is wrong under inductor in half precision.

    Example:
        >>> import torch
        >>> from declarative_dist.constraints.representable import above
        >>> above(1000.0, torch.bfloat16)
        1004.0
    """
    info = torch.finfo(dtype)
    if abs(bound) < info.tiny:
        return info.tiny if bound >= 0 else 0.0
    spacing = math.ldexp(info.eps, math.frexp(bound)[1] - 1)
    nearest = round(bound / spacing) * spacing
    return min(nearest + spacing, math.inf)


def below(bound: float, dtype: torch.dtype) -> float:
    """A number of the dtype strictly below a bound, as `above` is strictly above one."""
    return -above(-bound, dtype)


def above_tensor(bound: Tensor) -> Tensor:
    """`above` for a tensor of bounds; the gradient with respect to the bound is one."""
    info = torch.finfo(bound.dtype)
    return bound + (bound.abs() * info.eps).clamp_min(info.tiny).detach()


def below_tensor(bound: Tensor) -> Tensor:
    """`below` for a tensor of bounds; the gradient with respect to the bound is one."""
    info = torch.finfo(bound.dtype)
    return bound - (bound.abs() * info.eps).clamp_min(info.tiny).detach()


def limits_between(low: float, high: float) -> Limits:
    """Per dtype the range strictly between two bounds; an infinite bound is no bound.

    Example:
        >>> import torch
        >>> from declarative_dist.constraints.representable import limits_between
        >>> limits_between(0.0, 1.0)[torch.float32][1] < 1.0
        True
    """
    return {
        dtype: (
            above(low, dtype) if low > -math.inf else -largest(dtype),
            below(high, dtype) if high < math.inf else largest(dtype),
        )
        for dtype in FLOATING
    }


def largest(dtype: torch.dtype) -> float:
    """The largest finite number of a dtype."""
    return torch.finfo(dtype).max


def floating(value: Tensor) -> Tensor:
    """The value as it is if it is floating-point, else in torch's default dtype."""
    return value if value.is_floating_point() else value.to(torch.get_default_dtype())


def promote(value: Tensor) -> Tensor:
    """The value in single precision if it is in half, for maps that are solved backwards."""
    return value.float() if value.dtype in HALF else value

"""Unconstrained numbers to try a map on: those where careless ones break, and ordinary ones."""

from __future__ import annotations

import torch
from torch import Tensor


def edges(dtype: torch.dtype, limit: float) -> Tensor:
    """Numbers of both signs at which overflow, underflow and rounding set in, in float64.

    Args:
        dtype: the dtype that they are exact in.
        limit: the largest magnitude.
    """
    info = torch.finfo(dtype)
    sizes = [0.0, info.smallest_normal * info.eps, info.tiny, info.eps, 0.5, 1.0, 4.0, 10.0]
    sizes += [12.0, 17.0, 20.0, 37.0, 50.0, 89.0, 104.0, 710.0, 746.0, 1e4]
    sizes += [info.max / 4, info.max / 3, info.max / 2, info.max]
    if limit < info.max:
        sizes.append(limit)
    kept = [size for size in sizes if size <= min(limit, info.max)]
    return torch.tensor([sign * size for size in kept for sign in (1.0, -1.0)]).double()


def extreme(shape: torch.Size, dtype: torch.dtype, limit: float) -> Tensor:
    """Edges in all entries, edges mixed at random, and random numbers of every size.

    Args:
        shape: the shape of the raw numbers of one value.
        dtype: their dtype.
        limit: the largest magnitude.

    Returns:
        Finite raw numbers, of shape `(count, *shape)`.
    """
    generator = torch.Generator().manual_seed(0)
    known = edges(dtype, limit)
    same = known.reshape(-1, *(1 for _ in shape)).expand(-1, *shape)
    mixed = known[torch.randint(len(known), (200, *shape), generator=generator)]
    drawn = torch.randn(28, 8, *shape, generator=generator, dtype=torch.float64)
    powers = 10.0 ** torch.arange(-12, 16, dtype=torch.float64)
    scaled = (drawn * powers.reshape(-1, 1, *(1 for _ in shape))).flatten(0, 1)
    top = min(limit, torch.finfo(dtype).max)
    return torch.cat([same, mixed, scaled]).clamp(-top, top).to(dtype)


def moderate(
    shape: tuple[int, ...], dtype: torch.dtype, limit: float, spread: float = 1.0
) -> Tensor:
    """Normal numbers, as training has them.

    Args:
        shape: the shape of them all.
        dtype: their dtype.
        limit: the largest magnitude.
        spread: their standard deviation.
    """
    generator = torch.Generator().manual_seed(1)
    drawn = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    return drawn.clamp(-limit, limit).to(dtype)

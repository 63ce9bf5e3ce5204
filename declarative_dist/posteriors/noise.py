"""Fixed standard normal draws that fill the space evenly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

_EDGE = 1e-12


def sobol_normal(count: int, size: int, seed: int) -> Tensor:
    """Scrambled Sobol points as standard normal numbers, of shape `(count, size)`, in float64.

    The scramble has random numbers of its own; everybody else's stay as they were. Beyond
    the 21,201 dimensions of the engine the numbers are independent.
    """
    if size > SobolEngine.MAXDIM:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, size, dtype=torch.float64, generator=generator)
    points = SobolEngine(size, scramble=True, seed=seed).draw(count, dtype=torch.float64)
    return torch.special.ndtri(points.clamp(_EDGE, 1 - _EDGE))


def balanced_normal(size: int, seed: int, least: int = 64) -> Tensor:
    """Fixed draws with mean zero and covariance one, exactly: `(count, size)`.

    Antithetic pairs, whitened: a mean over them of any quadratic function is exact, so that the
    best Gaussian for a Gaussian target is exact, too. Where there are fewer than twice as many
    draws as dimensions, only the variances are one.

    Args:
        size: the number of dimensions.
        seed: of the scramble.
        least: the fewest draws; of up to 1,000 dimensions there are at least `2 * size + 2`.
    """
    wanted = max(least, 2 * size + 2) if size <= 1000 else least
    half = 1 << (wanted // 2 - 1).bit_length()
    points = sobol_normal(half, size, seed)
    if half <= size:
        points = points / points.square().mean(0).sqrt()
    else:
        factor = torch.linalg.cholesky(points.T @ points / half)
        points = torch.linalg.solve_triangular(factor, points.T, upper=False).T
    return torch.cat([points, -points])

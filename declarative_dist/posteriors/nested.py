"""Gaussians along the few numbers that the shape of the rest depends on: nested Laplace.

A posterior with a scale among its numbers is no Gaussian: near a scale of zero what it scales is
narrow, elsewhere wide. At each value of the scale the rest is nearly one, though, around its
conditional mode and with the curvature there. Together these Gaussians follow the neck of a funnel
and the bend of a banana (Rue, Martino and Chopin, "Approximate Bayesian inference for latent
Gaussian models by using integrated nested Laplace approximations", Journal of the Royal
Statistical Society B 71, 2009, https://doi.org/10.1111/j.1467-9868.2008.00700.x).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from declarative_dist.optimization.lbfgs import Descent
from declarative_dist.posteriors.gaussian import Gaussian, pick_where
from declarative_dist.posteriors.noise import sobol_normal
from declarative_dist.posteriors.search import Density, score

GRIDS = {1: (12, 0.6), 2: (5, 0.8)}
"""By how many numbers lead: grid points on each side of the mean, and their distance in sds there.

Further out points are further apart, for tails.
"""

_STRETCH = 0.2

_DEEPEST = 8.0
"""How many nats below the best a grid point may be."""

_OVERLAP = 0.8
"""The width of a Gaussian along the grid, in distances of the points around it."""

_EVEN = 0.2
"""The share of draws that all grid points get alike."""

_PROBES = 8
_NUDGE = 0.01
_EVALUATIONS = 60


def rank_numbers(density: Density, guide: Gaussian) -> Tensor:
    """Numbers in the order of how much the curvature changes along them, the most first.

    A third derivative in units of the guide, in the direction in which a number takes the
    others along, in norm over random directions of the second and third slot.

    Args:
        density: the log density.
        guide: the guide's Gaussian, of shape `(*copies, size)`, with a matrix for a factor.

    Returns:
        The indices of numbers, of shape `(size,)`.
    """
    size, copies = guide.loc.shape[-1], guide.loc.shape[:-1]
    # A row of the factor, in the units of its own length, is where its number goes by one sd.
    along = guide.scale / guide.scale.norm(dim=-1, keepdim=True)
    steps = along.movedim(-2, 0)[:, None]
    probes = sobol_normal(_PROBES, size, 4).to(guide.loc)
    probes = 0.5 * probes.reshape(_PROBES, *[1] * len(copies), size)
    bends = torch.zeros(size, _PROBES, *guide.loc.shape).to(guide.loc)
    for one in (1.0, -1.0):
        for other in (1.0, -1.0):
            noise = (one * steps + other * probes).flatten(0, 1)
            slopes = score(density, guide.move(noise), with_slopes=True)[1]
            bends += one * other * guide.pull_back(slopes).reshape(bends.shape)
    sizes = bends.nan_to_num(0.0).square().sum(-1).mean(1).reshape(size, -1).sum(1)
    return sizes.argsort(descending=True)


def nested_laplace(
    density: Density, leading: Sequence[int], guide: Gaussian, mean: Tensor, deviation: Tensor
) -> tuple[Gaussian, Tensor, float]:
    """Gaussians at the conditional modes of all other numbers, on a grid of the leading ones.

    Args:
        density: the log density.
        leading: the indices of the leading numbers, one or two.
        guide: the guide's Gaussian, of shape `(*copies, size)`, with a matrix for a factor.
        mean: the middle of the grid, of shape `(*copies, size)`.
        deviation: the unit of the grid, of the same shape.

    Returns:
        The Gaussians, of shape `(count, *copies, size)`, none where no point has a density; how
        much of the draws each should get, of shape `(count)`; and how much of the target lies at
        the outermost points, for which the grid may be too small.
    """
    led, size = list(leading), mean.shape[-1]
    count, step = GRIDS[len(led)]
    axis = _STRETCH * torch.arange(-count, count + 1).to(mean)
    axes = torch.cartesian_prod(*[axis] * len(led)).reshape(-1, *[1] * (mean.ndim - 1), len(led))
    grid = mean[..., led] + deviation[..., led] * axes.sinh() * (step / _STRETCH)
    distance = deviation[..., led] * axes.cosh() * step
    is_led = torch.zeros(size, dtype=torch.bool, device=mean.device)
    is_led[led] = True
    modes, heights = _conditional_modes(density, guide, grid, is_led)
    curvature = _curvature(density, modes, _unit(guide))
    inverse, log_det = _invert(curvature.masked_fill(is_led | is_led[:, None], 0.0), is_led)
    masses = heights - log_det / 2 + distance.log().sum(-1)
    masses = masses.nan_to_num(-torch.inf, -torch.inf, -torch.inf)
    follow = -inverse @ curvature[..., led]
    follow[..., led, :] = torch.eye(len(led)).to(mean)
    follow = _OVERLAP * follow * distance[..., None, :]
    factor, info = torch.linalg.cholesky_ex(follow @ follow.mT + inverse)
    masses = masses.masked_fill(info != 0, -torch.inf)
    held = masses.softmax(0).nan_to_num(0.0)
    is_deep = masses > masses.amax(0) - _DEEPEST
    uses = is_deep.reshape(len(is_deep), -1).any(1)
    rows = Gaussian(modes, factor)
    best = rows.pick(masses.argmax(0, keepdim=True))[0]
    has_any = masses.amax(0).isfinite()
    rows = pick_where(is_deep, rows, pick_where(has_any, best, guide)[None])
    held = held.reshape(len(held), -1)
    is_rim = (axes.abs().amax(-1) > axis.max() - _STRETCH / 2).reshape(-1)
    shares = held.mean(1)[uses]
    shares = (1 - _EVEN) * shares / shares.sum() + _EVEN / max(len(shares), 1)
    return rows[uses], shares, float(held[is_rim].sum(0).max())


def _unit(guide: Gaussian) -> Tensor:
    """The deviation of every number where all others are known, of shape `(*copies, size)`."""
    return torch.cholesky_inverse(guide.scale).diagonal(dim1=-2, dim2=-1).rsqrt()


def _conditional_modes(
    density: Density, guide: Gaussian, grid: Tensor, is_led: Tensor
) -> tuple[Tensor, Tensor]:
    """The highest points `(count, *copies, size)` at the values of a grid, and how high."""
    covariance = guide.scale @ guide.scale.mT
    taken = covariance[..., is_led, :]
    slope = torch.linalg.solve(taken[..., is_led], taken)
    moved = ((grid - guide.loc[..., is_led])[..., None, :] @ slope).squeeze(-2)
    start, unit = guide.loc + moved, _unit(guide)

    def evaluate(point: Tensor) -> tuple[Tensor, Tensor]:
        heights, slopes = score(density, start + unit * point, with_slopes=True)
        return -heights, (-slopes * unit).masked_fill(is_led, 0.0)

    found = Descent(evaluate, torch.zeros_like(start), tolerance=1e-5)
    found.run(_EVALUATIONS)
    return start + unit * found.point, -found.value


def _curvature(density: Density, point: Tensor, unit: Tensor) -> Tensor:
    """Minus the second derivatives `(count, *copies, size, size)`, by differences of gradients."""
    size = point.shape[-1]
    nudges = _NUDGE * torch.diag_embed(unit).movedim(-2, 0)[:, None]
    ends = [
        score(density, (point + sign * nudges).flatten(0, 1), with_slopes=True)[1]
        for sign in (1.0, -1.0)
    ]
    rows = (ends[1] - ends[0]).reshape(size, *point.shape).movedim(0, -2)
    found = rows / (2 * _NUDGE * unit[..., None])
    return (found + found.mT) / 2


def _invert(curvature: Tensor, is_led: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of a curvature by the magnitude of eigenvalues, and its log determinant.

    Led numbers have no part in either.
    """
    size = curvature.diagonal(dim1=-2, dim2=-1).abs().clamp_min(1e-12)
    unit = size.rsqrt().masked_fill(is_led, 1.0)
    both = unit[..., None] * unit[..., None, :]
    # A number that is led counts as one of curvature one, and is taken out again.
    filled = (curvature * both).nan_to_num(0.0, 0.0, 0.0) + torch.diag_embed(is_led.to(curvature))
    values, vectors = torch.linalg.eigh(filled)
    values = values.abs().clamp_min(1e-4)
    inverse = (vectors / values[..., None, :]) @ vectors.mT * both
    log_det = values.log().sum(-1) - 2 * unit.log().sum(-1)
    return inverse.masked_fill(is_led | is_led[:, None], 0.0), log_det

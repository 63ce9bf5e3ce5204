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
import torch.nn.functional as F
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
_EVALUATIONS = 50

_FLAT = 1e-8
"""The least curvature that a direction counts with, in units of the guide."""


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
    led, most = list(leading), len(leading)
    count, step = GRIDS[most]
    axis = _STRETCH * torch.arange(-count, count + 1).to(mean)
    axes = torch.cartesian_prod(*[axis] * most).reshape(-1, *[1] * (mean.ndim - 1), most)
    grid = mean[..., led] + deviation[..., led] * axes.sinh() * (step / _STRETCH)
    distance = deviation[..., led] * axes.cosh() * step
    # The guide's noise, turned so that its first numbers alone decide on the leading ones.
    turn, lower = torch.linalg.qr(guide.scale[..., led, :].mT, mode="complete")
    turned = Gaussian(guide.loc, guide.scale @ turn)
    unit = lower[..., :most, :].mT.inverse()
    start = (unit @ (grid - guide.loc[..., led])[..., None]).squeeze(-1)
    start = F.pad(start, (0, guide.loc.shape[-1] - most))
    modes, heights, curvature = _conditional_modes(density, turned, start, most)
    values, vectors = torch.linalg.eigh(curvature[..., most:, most:])
    values = values.abs().clamp_min(_FLAT)
    inverse = (vectors / values[..., None, :]) @ vectors.mT
    masses = heights - values.log().sum(-1) / 2 + distance.log().sum(-1)
    masses = masses.nan_to_num(-torch.inf, -torch.inf, -torch.inf)
    along = unit * _OVERLAP * distance[..., None, :]
    along = torch.cat([along, -inverse @ curvature[..., most:, :most] @ along], -2)
    covariance = along @ along.mT
    covariance[..., most:, most:] += inverse
    factor, info = torch.linalg.cholesky_ex(turned.scale @ covariance @ turned.scale.mT)
    masses = masses.masked_fill(info != 0, -torch.inf)
    held = masses.softmax(0).nan_to_num(0.0)
    is_deep = masses > masses.amax(0) - _DEEPEST
    uses = is_deep.reshape(len(is_deep), -1).any(1)
    rows = Gaussian(turned.move(modes), factor)
    best = rows.pick(masses.argmax(0, keepdim=True))[0]
    has_any = masses.amax(0).isfinite()
    rows = pick_where(is_deep, rows, pick_where(has_any, best, guide)[None])
    held = held.reshape(len(held), -1)
    is_rim = (axes.abs().amax(-1) > axis.max() - _STRETCH / 2).reshape(-1)
    shares = held.mean(1)[uses]
    shares = (1 - _EVEN) * shares / shares.sum() + _EVEN / len(shares)
    return rows[uses], shares, float(held[is_rim].sum(0).max())


def _conditional_modes(
    density: Density, turned: Gaussian, start: Tensor, held: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The highest points in all but the first numbers of a Gaussian's noise.

    Returns:
        The points `(count, *copies, size)`, how high they are, and minus the second derivatives
        there by all numbers, from differences of gradients.
    """

    def evaluate(noise: Tensor) -> tuple[Tensor, Tensor]:
        heights, slopes = score(density, turned.move(noise), with_slopes=True)
        return -heights, F.pad(-turned.pull_back(slopes)[..., held:], (held, 0))

    found = Descent(evaluate, start, tolerance=1e-5)
    found.run(_EVALUATIONS)
    place = turned.move(found.point)
    nudges = _NUDGE * turned.scale.movedim(-1, 0)[:, None]
    ends = [
        score(density, (place + nudge).flatten(0, 1), with_slopes=True)[1]
        for nudge in (-nudges, nudges)
    ]
    bends = turned.pull_back(ends[0] - ends[1]).reshape(-1, *start.shape).movedim(0, -2)
    bends = (bends + bends.mT).nan_to_num(0.0) / (4 * _NUDGE)
    return found.point, -found.value, bends

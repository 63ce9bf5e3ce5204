"""How much probability a density gives to the range of its own draws, by adding it up there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.plain.supports import find_outside

COUNT, TRIMMED, MOST = 10_000, 100, 200_000
"""How many draws there are, which share of them at each end is left out (one in a hundred), and
the widest range of whole numbers that is added up one by one."""

ATOM = 0.01
"""The share of draws that a single number needs to count as one with a probability of its own."""


class Mass(NamedTuple):
    """Between two ends: the density's probability, the share of draws, and what may differ."""

    low: float
    high: float
    found: float
    share: float
    tolerance: float


@torch.no_grad()
def mass_of(built: Distribution) -> Mass | None:
    """Compare a density of single numbers with its draws; of copies the one that differs most.

    Between the draws the density is integrated by the trapezoidal rule, on the draws themselves
    and the points halfway between them, where it changes least; the sum of its steps bounds the
    error. None where events are no single numbers.
    """
    if built.event_shape or not built.batch_shape.numel():
        return None
    draws = built.sample((COUNT,)).reshape(COUNT, -1)
    is_whole = bool((draws == draws.round()).all())
    is_counted = is_whole and float(draws.max() - draws.min()) <= MOST
    points = _every_count(draws) if is_counted else _between(draws.sort(0).values)
    heights = _density(built, points)
    checked = [
        _add_up(*columns) if is_counted else _integrate(*columns)
        for columns in zip(draws.double().T, points.double().T, heights.double().T, strict=True)
    ]
    return max(checked, key=lambda mass: abs(mass.found - mass.share) - mass.tolerance)


def _every_count(draws: Tensor) -> Tensor:
    low, high = draws.aminmax()
    numbers = torch.arange(float(low), float(high) + 1, device=draws.device).to(draws.dtype)
    return numbers[:, None].expand(-1, draws.shape[1])


def _between(ordered: Tensor) -> Tensor:
    halfway = ordered[:-1] + ordered.diff(dim=0) / 2
    return torch.cat([ordered, halfway]).sort(0).values


def _density(built: Distribution, points: Tensor) -> Tensor:
    """Densities of points `(m, copies)`, which are zero outside of the support."""
    values = points.reshape(-1, *built.batch_shape)
    is_bad = find_outside(built, values)
    if is_bad is None:
        return built.log_prob(values).exp().reshape(points.shape)
    scores = built.log_prob(values.where(~is_bad, built.sample()))
    return scores.exp().where(~is_bad, 0.0).reshape(points.shape)


def _add_up(draws: Tensor, points: Tensor, heights: Tensor) -> Mass:
    low, high = (float(end) for end in points.aminmax())
    return Mass(low, high, float(heights.sum()), 1.0, 0.02)


def _integrate(draws: Tensor, points: Tensor, heights: Tensor) -> Mass:
    ordered = draws.sort().values
    cut = len(draws) // TRIMMED
    low, high = ordered[cut], ordered[-1 - cut]
    numbers, counts = draws[(draws > low) & (draws < high)].unique(return_counts=True)
    atoms = numbers[counts > ATOM * len(draws)]
    share = counts.sum() / len(draws)
    is_atom = torch.isin(points, atoms)
    alone = heights[torch.searchsorted(points, atoms)].sum()
    is_inside = (points > low) & (points < high) & ~is_atom
    x, y = points[is_inside], heights[is_inside]
    steps = x.diff()
    area, error = (steps * (y[1:] + y[:-1]) / 2).sum(), (steps * y.diff().abs() / 2).sum()
    found = (float(each) for each in (low, high, area + alone, share, 0.02 + error))
    return Mass(*found)

"""How much probability a density gives to the range of its own draws, by adding it up there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.divergence import log_prob_anywhere

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
    ordered = built.sample((COUNT,)).reshape(COUNT, -1).sort(0).values
    low, high = map(float, ordered.aminmax())
    is_counted = high - low <= MOST and bool((ordered == ordered.round()).all())
    if is_counted:
        counts = torch.arange(low, high + 1, dtype=ordered.dtype, device=ordered.device)
        points = counts[:, None].expand(-1, ordered.shape[1])
    else:
        halfway = ordered[:-1] + ordered.diff(dim=0) / 2
        points = torch.cat([ordered, halfway]).sort(0).values
    values = points.reshape(-1, *built.batch_shape)
    heights = log_prob_anywhere(built, values).double().exp().reshape(points.shape)
    if is_counted:
        checked = [Mass(low, high, found, 1.0, 0.02) for found in heights.sum(0).tolist()]
    else:
        columns = zip(ordered.double().T, points.double().T, heights.T, strict=True)
        checked = [_integrate(*each) for each in columns]
    return max(checked, key=lambda mass: abs(mass.found - mass.share) - mass.tolerance)


def _integrate(draws: Tensor, points: Tensor, heights: Tensor) -> Mass:
    cut = len(draws) // TRIMMED
    low, high = draws[cut], draws[-1 - cut]
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

"""Restarts: the modes of a log density, each with the Gaussian nearest to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from declarative_dist.posteriors.gaussian import Gaussian, stack
from declarative_dist.posteriors.noise import sobol_normal
from declarative_dist.posteriors.search import Density, Search, score

RESTARTS = 8
"""How many other starts there are by default."""

_SPREADS = (1.0, 5.0, 25.0, 25.0)
"""How far starts are from the declared one, in its units, pair by pair."""

_FAR = 10.0
"""How far starts are from the best place found, in its own units."""

_STEP, _FACTOR, _FURTHER = 0.5, 1.3, 12
_RAYS = 32
"""How far apart the points of a ray are, in these units; by how much, and how often, they go on
further out; and along how many numbers rays go."""

_FEWER = 16
"""How many draws a search begins with."""

_LONGEST = 30
_FINALISTS = 8
"""How many cycles a search has at most, and how many places are searched to the end."""

_BETTER, _MORE = 2, 4
"""How often others begin, at most: where they led to a better place, and to more modes."""

_APART = 3.0
"""How many standard deviations another mode is away."""

_WITHIN = 7.0
_TOLD = 100.0
SAME = 1.0
"""How many nats below the best a mode holds mass, is spoken of, and is the same."""

_ROUNDING = 1e-4
"""How far log densities of one target may differ, relative to their size or to a nat."""

UNTRIED = "No other start was tried."

_WIDEST = 1e10
"""Deviations beyond this have run away, in units of the declared start's."""


@dataclass(frozen=True)
class Modes:
    """What a search and its restarts have found.

    Args:
        rows: Gaussians at the modes, the best one first, of shape `(count, *copies, size)`.
        bounds: their judged evidence lower bounds, of shape `(count, *copies)`.
        is_mode: whether a row is another mode than those before it, of shape `(count, *copies)`;
            the first always is.
        is_settled: whether the best row is, for every copy.
        losses: minus the best bound after each cycle that had one, summed over copies.
        points: where the search began, looked and ended, of shape `(points, *copies, size)`.
        heights: the log density there, by which a target is known again.
        starts: how many other starts there were.
    """

    rows: Gaussian
    bounds: Tensor
    is_mode: Tensor
    is_settled: Tensor
    losses: list[float]
    points: Tensor
    heights: Tensor
    starts: int = 0

    @property
    def is_near(self) -> Tensor:
        """Which modes may hold much, the best one too."""
        return self.is_mode & (self.bounds > self.bounds[0] - _WITHIN)

    @property
    def is_sampled(self) -> Tensor:
        """Which modes have to be sampled: the further away, the more they add to deviations."""
        units = self.rows[0].whiten(self.rows.loc).norm(dim=-1).clamp_min(1.0)
        return self.is_mode & (self.bounds + 2 * units.log() > self.bounds[0] - _WITHIN)

    def lead_of(self, bound: Tensor) -> float:
        """How many nats the best row is above a guide's bound, at most; of copies the largest."""
        return float((self.bounds[0] - bound).max())

    def is_like(self, guide: Gaussian, bound: Tensor) -> Tensor:
        """Which rows are where a guide is, and no better: a mask `(count, *copies)`."""
        near = torch.minimum(*self.rows.distances(guide)) <= _APART
        return near & ((self.bounds - bound).abs() < SAME)

    def is_about(self, density: Density) -> bool:
        """Whether a log density is the one that was searched: it is so wherever the search was.

        Functions and data may be new objects with the same values, or the same object with other
        values, so values decide.
        """
        heights = score(density, self.points)[0]
        return torch.allclose(heights, self.heights, rtol=_ROUNDING, atol=_ROUNDING)

    def describe(self) -> str:
        """What the other starts have led to, in a sentence; for copies, the worst of them."""
        if not self.starts:
            return UNTRIED
        depths = (self.bounds[0] - self.bounds).masked_fill(~self.is_mode, torch.inf)
        nearest = depths.reshape(len(depths), -1).amin(1).tolist()
        is_sampled = self.is_sampled.reshape(len(depths), -1).any(1).tolist()
        shown = [
            f"{depth:.3g} nats lower{' (sampled)' * sampled}"
            for depth, sampled in zip(nearest[1:], is_sampled[1:], strict=True)
            if depth < torch.inf
        ]
        starts = f"{self.starts} other starts"
        if not shown:
            return f"{starts} found no other mode."
        count = "another mode" if len(shown) == 1 else f"{len(shown)} other modes"
        return f"{starts} found {count}: {', '.join(shown)}."


def find_modes(
    density: Density, start: Gaussian, around: Gaussian, *, restarts: int, tolerance: float
) -> Modes:
    """The Gaussian nearest to a log density, and other modes.

    A first search begins at the start. Others do so around the declared start, wider and wider,
    at the reflected centre of the place found, and far around it; fewer and fewer go on. What is
    more than three standard deviations from all that is better is another mode.

    Args:
        density: the log density.
        start: where to begin, of shape `(*copies, size)`.
        around: the declared start, of the same shape.
        restarts: how many others begin around the declared start; about half as many, and the
            reflected centre twice, begin beyond. With 0 there are none.
        tolerance: a search is settled where a cycle gains fewer nats than this.
    """
    score(density, start.loc[None])  # a mistake is best told of one draw
    search, widest = Search(density, start[None], tolerance, _FEWER), _WIDEST * around.deviations
    losses, count = _run(search, widest), 0
    points = [start.loc[None]]
    for turn in range(1, 1 + _MORE if restarts else 1):
        best, level, known = search.rows[:1], search.bounds[0], _count_near(search)
        beyond, rays = _beyond(density, best, around, restarts)
        centres = torch.cat([_around(around, restarts, 2 * turn), beyond])
        points += [centres, rays]
        count += len(centres)
        starts = Gaussian(centres, best.scale.expand(len(centres), *around.scale.shape))
        search = Search(density, stack([search.rows, starts]), tolerance, _FEWER)
        losses += _run(search, widest)
        is_better = bool((search.bounds[0] > level + SAME).any())
        if not (is_better and turn < _BETTER) and _count_near(search) == known:
            break  # else they have to begin around a better place, or there may be more modes
    search = Search(density, search.rows, tolerance, 4 * _FEWER)  # the last word, on more draws
    losses += _run(search, widest)
    seen = torch.cat([*points, search.rows.loc])
    is_mode = _is_apart(search)
    is_mode[1:] &= search.is_settled[1:] & (search.bounds[1:] > search.bounds[0] - _TOLD)
    return Modes(
        rows=search.rows,
        bounds=search.bounds,
        is_mode=is_mode,
        is_settled=search.is_settled[0],
        losses=[loss for loss in losses if math.isfinite(loss)],
        points=seen,
        heights=score(density, seen)[0],
        starts=count,
    )


def _run(search: Search, widest: Tensor) -> list[float]:
    """Go on with the best rows that are apart, fewer and fewer, until no cycle gains anything.

    Args:
        search: the rows.
        widest: deviations `(*copies, size)` beyond which a row has run away.

    Returns:
        Minus the best bound after each cycle, summed over copies.
    """
    losses, most = [-float(search.bounds[0].sum())], len(search.rows)
    for _ in range(_LONGEST):
        is_wide = (search.rows.deviations > widest).any(-1)
        if is_wide[0].any() or search.is_over.all():
            break
        search.cycle()
        losses.append(-float(search.bounds[0].sum()))
        below = search.bounds[0] - search.bounds
        creeps = (below > _TOLD) & (search.gains < below / 3)  # it would not be spoken of
        which = _is_apart(search) & ~creeps & ~is_wide
        most = max(most // 2, _FINALISTS)
        which &= which.cumsum(0) <= most
        which[0] = True
        search.keep(which.reshape(len(which), -1).any(1))
    return losses


def _is_apart(search: Search) -> Tensor:
    """Which rows have a density, and are far from all better ones that are apart."""
    is_apart = search.bounds > -torch.inf
    for i in range(1, len(is_apart)):
        for j in range(i):
            far = torch.minimum(*search.rows[i].distances(search.rows[j])) > _APART
            is_apart[i] &= far | ~is_apart[j]
    return is_apart


def _count_near(search: Search) -> int:
    """How many rows may hold much."""
    is_near = search.bounds > search.bounds[0] - _WITHIN
    return int(is_near.reshape(len(is_near), -1).any(1).sum())


def _around(start: Gaussian, count: int, seed: int) -> Tensor:
    """Pairs of starts around the declared one, wider and wider: `(count, *copies, size)`."""
    noise = sobol_normal((count + 1) // 2, start.loc.numel(), seed).to(start.loc)
    noise = noise.reshape(-1, *start.loc.shape)
    spreads = torch.tensor(_SPREADS).to(noise)[torch.arange(len(noise)) % len(_SPREADS)]
    # The scale of the start is a tenth of its unit.
    steps = 10 * start.deviations * noise * spreads.reshape(-1, *[1] * start.loc.ndim)
    return torch.stack([start.loc + steps, start.loc - steps], 1).flatten(0, 1)[:count]


def _beyond(
    density: Density, best: Gaussian, start: Gaussian, count: int
) -> tuple[Tensor, Tensor]:
    """The reflected centre of the best row, and starts far around it, in its own units.

    These are where the density rises again along the axes, if it does so anywhere.

    Returns:
        The starts `(count, *copies, size)`, and all points that were looked at.
    """
    noise = sobol_normal(max(count // 2 - 1, 1), best.loc.numel(), 3).to(best.loc)
    far = best[0].move(_FAR * noise.reshape(-1, *best.loc.shape[1:]))
    rays = _rays(best[0])
    peaks, is_peak = _find_peaks(density, rays, len(far))
    far = torch.where(is_peak[..., None], peaks, far)
    return torch.cat([-best.loc, 2 * start.loc - best.loc, far]), rays.flatten(0, 1)


def _rays(best: Gaussian) -> Tensor:
    """Points on the axes of a Gaussian, step by step: `(steps, rays, *copies, size)`."""
    size = best.loc.shape[-1]
    axes = torch.eye(size)[:_RAYS].to(best.loc)
    near = torch.arange(_STEP, 2 * _FAR, _STEP)
    steps = torch.cat([near, 2 * _FAR * _FACTOR ** torch.arange(_FURTHER)]).to(best.loc)
    noise = steps[:, None, None] * torch.cat([axes, -axes])
    noise = noise.reshape(*noise.shape[:2], *[1] * (best.loc.ndim - 1), size)
    return best.move(noise.expand(-1, -1, *best.loc.shape))


def _find_peaks(density: Density, rays: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest points where the density rises again along rays.

    Returns:
        Vectors `(count, *copies, size)`, and which of them are such points.
    """
    points = rays.flatten(0, 1)
    heights = score(density, points)[0].unflatten(0, rays.shape[:2])
    rises = torch.zeros_like(heights, dtype=torch.bool)
    rises[1:-1] = (heights[1:-1] > heights[:-2]) & (heights[1:-1] >= heights[2:])
    ranked = torch.where(rises, heights, -torch.inf).flatten(0, 1).topk(count, 0)
    index = ranked.indices[..., None].expand(count, *points.shape[1:])
    return points.gather(0, index), ranked.values.isfinite()

"""Restarts: the modes of a log density, each with the Gaussian nearest to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

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

_STEP = 0.5
_RAYS = 32
"""How far apart the points of a ray are, in these units, and along how many numbers rays go."""

_HEAT = 3
_FEWER = 16
"""How many cycles a heat has, and how many draws."""

_LONGEST = 30
_FINALISTS = 4
"""How many cycles a search has at most, and how many places are searched to the end."""

_APART = 3.0
_CLOSE = 1.0
"""How many standard deviations another mode is away, and how few a heat that has nothing new."""

_WITHIN = 7.0
_TOLD = 100.0
_SAME = 1.0
_LOST = 1e4
"""How many nats below the best a mode is sampled, is spoken of, is the same, and is given up."""

_WIDEST = 1e9
"""Deviations beyond this have run away."""


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
        starts: how many other starts there were.
    """

    rows: Gaussian
    bounds: Tensor
    is_mode: Tensor
    is_settled: Tensor
    losses: list[float]
    starts: int = 0

    @property
    def is_near(self) -> Tensor:
        """Which modes may hold so much that they have to be sampled, the best one too."""
        return self.is_mode & (self.bounds > self.bounds[0] - _WITHIN)

    def is_of(self, bound: Tensor) -> bool:
        """Whether a guide with this bound is the best row, for the target that was searched."""
        return bool(((bound - self.bounds[:1]).abs() < _SAME).all())

    def describe(self) -> str:
        """What the other starts have led to, in a sentence; for copies, the worst of them."""
        if not self.starts:
            return "No other start was tried."
        depths = (self.bounds[0] - self.bounds).masked_fill(~self.is_mode, torch.inf)
        nearest = depths.reshape(len(depths), -1).amin(1)[1:].tolist()
        shown = [
            f"{depth:.3g} nats lower{' (sampled)' if depth < _WITHIN else ''}"
            for depth in nearest
            if depth < torch.inf
        ]
        starts = f"{self.starts} other starts"
        if not shown:
            return f"{starts} led to no other mode."
        count = "another mode" if len(shown) == 1 else f"{len(shown)} other modes"
        return f"{starts} led to {count}: {', '.join(shown)}."


def find_modes(
    density: Density, start: Gaussian, around: Gaussian, *, restarts: int, tolerance: float
) -> Modes:
    """The Gaussian nearest to a log density, and other modes.

    Short heats begin around the declared start, wider and wider; others at the reflected centre
    of the best place found, and far around it. The best of them are finished, and what is more
    than three standard deviations from all that is better is another mode.

    Args:
        density: the log density.
        start: where to begin, of shape `(*copies, size)`.
        around: the declared start, of the same shape.
        restarts: how many heats begin around the declared start; about half as many, and the
            reflected centre twice, begin beyond. With 0 there are none.
        tolerance: a search is settled where a cycle gains fewer nats than this.
    """
    score(density, start.loc[None])  # a mistake is best told of one draw
    search = Search(density, start[None], tolerance, 4 * _FEWER)
    losses = _run(search, _LONGEST, _is_worth_it)
    rows, bounds, count = search.rows, search.bounds, 0
    # The second round of heats begins around the best place that the first one has found.
    for is_near in (True, False) if restarts else ():
        best = rows.pick(bounds.argmax(0, keepdim=True))
        starts = _around(around, restarts) if is_near else _beyond(density, best, around, restarts)
        heats = Search(density, starts, tolerance, _FEWER)
        count += len(starts)
        _run(heats, _HEAT, partial(_has_left, rows=rows))
        rows, bounds = stack([rows, heats.rows]), torch.cat([bounds, heats.bounds])
    # What leads to a better place does so on few draws, too.
    for draws in (_FEWER, 4 * _FEWER) if restarts else ():
        order, is_mode = _rank(rows, bounds)
        found = bounds.gather(0, order)
        is_mode[1:] &= found[1:] > found[:1] - _LOST
        ranked = torch.where(is_mode, found, -torch.inf)
        most = min(max(int(is_mode.sum(0).max()), 1), _FINALISTS)
        places = ranked.sort(dim=0, descending=True, stable=True).indices[:most]
        search = Search(density, rows.pick(order.gather(0, places)), tolerance, draws)
        losses += _run(search, _LONGEST, _is_worth_it)
        rows, bounds = search.rows, search.bounds
    return _modes_of(search, losses, count)


def _run(search: Search, cycles: int, is_worth_it: Callable[[Search], Tensor]) -> list[float]:
    """Go through so many cycles with the rows that are worth it, fewer where all is settled."""
    losses = [-float(search.bounds.amax(0).sum())]
    for _ in range(cycles):
        which = is_worth_it(search).reshape(len(search.bounds), -1).any(1)
        if not which.any():
            break
        search.keep(which)
        if search.is_over.all() or (search.rows.deviations > _WIDEST).any():
            break
        search.cycle()
        losses.append(-float(search.bounds.amax(0).sum()))
    return losses


def _is_worth_it(search: Search) -> Tensor:
    """Which rows are neither hopeless nor on the way to where a better one is."""
    order, is_mode = _rank(search.rows, search.bounds)
    return torch.zeros_like(is_mode).scatter(0, order, is_mode) & ~search.is_hopeless


def _has_left(search: Search, rows: Gaussian) -> Tensor:
    """Which heats are not where one of the rows is already, in the units of both."""
    heats, known = search.rows, [rows[k] for k in range(len(rows))]
    apart = [[torch.maximum(*heats[i].distances(row)) for row in known] for i in range(len(heats))]
    return torch.stack([torch.stack(each).amin(0) > _CLOSE for each in apart])


def _around(start: Gaussian, count: int) -> Gaussian:
    """Pairs of starts around the declared one, wider and wider: `(count, *copies, size)`."""
    noise = sobol_normal((count + 1) // 2, start.loc.numel(), 2).to(start.loc)
    noise = noise.reshape(-1, *start.loc.shape)
    spreads = torch.tensor(_SPREADS).to(noise)[torch.arange(len(noise)) % len(_SPREADS)]
    # The scale of the start is a tenth of its unit.
    steps = 10 * start.deviations * noise * spreads.reshape(-1, *[1] * start.loc.ndim)
    centres = torch.stack([start.loc + steps, start.loc - steps], 1).flatten(0, 1)[:count]
    return Gaussian(centres, start.scale.expand(count, *start.scale.shape))


def _beyond(density: Density, best: Gaussian, start: Gaussian, count: int) -> Gaussian:
    """The reflected centre of the best row, and starts far around it, in its own units.

    These are where the density rises again along the axes, if it does so anywhere.
    """
    noise = sobol_normal(max(count // 2 - 1, 1), best.loc.numel(), 3).to(best.loc)
    far = best[0].move(_FAR * noise.reshape(-1, *best.loc.shape[1:]))
    peaks, is_peak = _find_peaks(density, best[0], len(far))
    far = torch.where(is_peak[..., None], peaks, far)
    centres = torch.cat([-best.loc, 2 * start.loc - best.loc, far])
    return Gaussian(centres, start.scale.expand(len(centres), *start.scale.shape))


def _find_peaks(density: Density, best: Gaussian, count: int) -> tuple[Tensor, Tensor]:
    """The highest points where the density rises again on the axes of a Gaussian.

    Returns:
        Vectors `(count, *copies, size)`, and which of them are such points.
    """
    size = best.loc.shape[-1]
    axes = torch.eye(size)[:_RAYS].to(best.loc)
    steps = torch.arange(_STEP, 2 * _FAR, _STEP).to(best.loc)
    noise = steps[:, None, None] * torch.cat([axes, -axes])
    noise = noise.reshape(-1, *[1] * (best.loc.ndim - 1), size)
    points = best.move(noise.expand(-1, *best.loc.shape))
    heights = score(density, points)[0].unflatten(0, (len(steps), -1))
    rises = torch.zeros_like(heights, dtype=torch.bool)
    rises[1:-1] = (heights[1:-1] > heights[:-2]) & (heights[1:-1] >= heights[2:])
    ranked = torch.where(rises, heights, -torch.inf).flatten(0, 1).topk(count, 0)
    index = ranked.indices[..., None].expand(count, *best.loc.shape)
    return points.gather(0, index), ranked.values.isfinite()


def _rank(rows: Gaussian, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """The order of rows by bound, and which, in this order, are far from all better ones."""
    order = bounds.sort(dim=0, descending=True, stable=True).indices
    ranked = rows.pick(order)
    is_mode = bounds.gather(0, order) > -torch.inf
    for i in range(1, len(bounds)):
        here = ranked[i]
        for j in range(i):
            other = ranked[j]
            is_mode[i] &= (torch.minimum(*here.distances(other)) > _APART) | ~is_mode[j]
    return order, is_mode


def _modes_of(search: Search, losses: list[float], starts: int) -> Modes:
    order, is_mode = _rank(search.rows, search.bounds)
    settled = search.is_settled.gather(0, order)
    bounds = search.bounds.gather(0, order)
    is_mode[1:] &= settled[1:] & (bounds[1:] > bounds[0] - _TOLD)
    return Modes(
        rows=search.rows.pick(order),
        bounds=bounds,
        is_mode=is_mode,
        is_settled=settled[0] & bounds[0].isfinite(),
        losses=[loss for loss in losses if math.isfinite(loss)],
        starts=starts,
    )

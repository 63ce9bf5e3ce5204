"""Restarts: the modes of a log density, each with the Gaussian nearest to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from declarative_dist.posteriors.gaussian import Gaussian, stack
from declarative_dist.posteriors.noise import sobol_normal
from declarative_dist.posteriors.search import Density, Search, score

RESTARTS = 9
"""How many other starts there are by default."""

_SPREADS = (1.0, 5.0, 25.0, 0.1)
_HEAT = 3
_FEWER = 16
_LONGEST = 30
_FINALISTS = 4
_APART = 3.0
_WITHIN = 7.0
_TOLD = 100.0
_WIDEST = 1e9


@dataclass(frozen=True)
class Modes:
    """What a search and its restarts have found.

    Args:
        rows: Gaussians at the modes, the best one first, of shape `(count, *copies, size)`.
        bounds: their judged evidence lower bounds, of shape `(count, *copies)`.
        is_mode: whether a row is another mode than those before it, of shape `(count, *copies)`;
            the first always is.
        is_settled: whether the best row is, for every copy.
        growth: how much wider its last cycle made every number, as a logarithm.
        losses: minus the best bound after each cycle, summed over copies.
        starts: how many other starts there were.
    """

    rows: Gaussian
    bounds: Tensor
    is_mode: Tensor
    is_settled: Tensor
    growth: Tensor
    losses: list[float]
    starts: int = 0

    @property
    def is_near(self) -> Tensor:
        """Which modes may hold so much that they have to be sampled, the best one too."""
        return self.is_mode & (self.bounds > self.bounds[0] - _WITHIN)

    def describe(self) -> str:
        """What the other starts have led to, in a sentence; of copies the worst is told."""
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

    @property
    def is_running_away(self) -> Tensor:
        """Which numbers grow wider without end: a mask `(*copies, size)`."""
        widens = self.growth > 0.5 * self.growth.amax(-1, keepdim=True).clamp_min(0.2)
        return widens & ~self.is_settled[..., None]


def settle(
    density: Density, start: Gaussian, *, tolerance: float, cycles: int = _LONGEST
) -> Modes:
    """The Gaussian nearest to a log density, from one start.

    Args:
        density: the log density.
        start: of shape `(*copies, size)`.
        tolerance: a search is settled where a cycle gains fewer nats than this.
        cycles: the most cycles there are.
    """
    score(density, start.loc[None])  # a mistake is best told of one draw
    search = Search(density, Gaussian(start.loc[None], start.scale[None]), tolerance)
    losses = _run(search, cycles)
    return _modes_of(search, losses, 0)


def find_modes(
    density: Density, found: Modes, around: Gaussian, *, restarts: int, tolerance: float
) -> Modes:
    """Look for other modes, and for a better one.

    Short heats begin at the reflected centre of what was found, around the declared start, wider
    and wider, and far around what was found. The best of them are finished, and what is more than
    three standard deviations from all that is better is another mode.

    Args:
        density: the log density.
        found: what `settle` found.
        around: the declared start, of shape `(*copies, size)`.
        restarts: how many heats there are.
        tolerance: a search is settled where a cycle gains fewer nats than this.
    """
    heats = Search(density, _starts(found.rows, around, restarts), tolerance, _FEWER)
    heats.run(_HEAT)
    rows, bounds = stack([found.rows, heats.rows]), torch.cat([found.bounds, heats.bounds])
    order, is_mode = _rank(rows, bounds)
    ranked = torch.where(is_mode, bounds.gather(0, order), -torch.inf)
    most = min(int(is_mode.sum(0).max()), _FINALISTS)
    places = ranked.sort(dim=0, descending=True, stable=True).indices[:most]
    finals = Search(density, rows.pick(order.gather(0, places)), tolerance)
    losses = found.losses + _run(finals, _LONGEST)
    return _modes_of(finals, losses, restarts)


def first_of(rows: Gaussian) -> Gaussian:
    """The first row in the place of all of them."""
    return Gaussian(rows.loc[:1].expand_as(rows.loc), rows.scale[:1].expand_as(rows.scale))


def _run(search: Search, cycles: int) -> list[float]:
    losses = [_loss(search)]
    for _ in range(cycles):
        search.keep(~search.is_hopeless.reshape(len(search.bounds), -1).all(1))
        if search.is_settled.all() or (search.rows.deviations > _WIDEST).any():
            break
        search.run(1)
        losses.append(_loss(search))
    return losses


def _loss(search: Search) -> float:
    return -float(search.bounds.amax(0).sum())


def _starts(found: Gaussian, around: Gaussian, restarts: int) -> Gaussian:
    """Where heats begin: of shape `(restarts, *copies, size)`."""
    best = Gaussian(found.loc[0], found.scale[0])
    count, copies = restarts - 1, best.loc.shape[:-1]
    noise = sobol_normal(max(count, 1), best.loc.numel(), 2)
    noise = noise[:count].reshape(count, *best.loc.shape).to(best.loc)
    spreads = torch.tensor(_SPREADS).to(noise)[torch.arange(count) % len(_SPREADS)]
    spreads = spreads.reshape(count, *[1] * (len(copies) + 1))
    units = 10 * around.deviations  # the spread of the start is a tenth of that of its units
    centres = torch.cat([-best.loc[None], around.loc + spreads * units * noise])
    scales = around.scale.expand(restarts, *around.scale.shape)
    return Gaussian(centres[:restarts], scales)


def _rank(rows: Gaussian, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """The order of rows by bound, and which, in this order, are far from all better ones."""
    order = bounds.sort(dim=0, descending=True, stable=True).indices
    ranked = rows.pick(order)
    is_mode = bounds.gather(0, order) > -torch.inf
    for i in range(1, len(bounds)):
        here = Gaussian(ranked.loc[i], ranked.scale[i])
        for j in range(i):
            other = Gaussian(ranked.loc[j], ranked.scale[j])
            is_mode[i] &= (here.distance(other) > _APART) | ~is_mode[j]
    return order, is_mode


def _modes_of(search: Search, losses: list[float], starts: int) -> Modes:
    order, is_mode = _rank(search.rows, search.bounds)
    settled = search.is_settled.gather(0, order)
    bounds = search.bounds.gather(0, order)
    is_mode[1:] &= settled[1:] & (bounds[1:] > bounds[0] - _TOLD)
    index = order[:1, ..., None].expand(1, *search.growth.shape[1:])
    return Modes(
        rows=search.rows.pick(order),
        bounds=bounds,
        is_mode=is_mode,
        is_settled=settled[0] & bounds[0].isfinite(),
        growth=search.growth.gather(0, index)[0],
        losses=losses,
        starts=starts,
    )

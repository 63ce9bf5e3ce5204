"""The Gaussian nearest to a log density: fixed draws, Newton's steps, L-BFGS, and new units.

Draws are fixed, so the evidence lower bound is a smooth function (Burroni, Domke and Sheldon,
"Sample average approximation for black-box variational inference", UAI 2024,
https://arxiv.org/abs/2304.06803). Gradients at the draws hold the mean curvature as well, which
gives steps of Newton's method (Opper and Archambeau, "The variational Gaussian approximation
revisited", Neural Computation 21, 2009); where these lead nowhere, L-BFGS climbs. The Gaussian
found is the unit of the next step: near the end the problem looks alike in all directions,
whatever the units and correlations of the model. Other draws judge each cycle.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from declarative_dist.constraints.matrix import pack_strictly_lower, unpack_lower
from declarative_dist.errors import ConstraintError
from declarative_dist.optimization.lbfgs import Descent
from declarative_dist.plain.refusals import LinAlgError
from declarative_dist.posteriors.gaussian import Gaussian, pick_where
from declarative_dist.posteriors.noise import balanced_normal

Density = Callable[[Tensor], Tensor]
"""From vectors `(*sample, *copies, size)` to log densities `(*sample, *copies)`."""

_MISTAKES = ("wrong-shape", "failed-method", "wrong-argument", "unknown-name", "missing-value")

_AT_ONCE = 1024
"""So many draws are scored in one call of the density."""

_BLOCK = 16
_HOPELESS = 20.0
_LEVEL = 0.3

_JUMPS = 8
_STEPS = 20
"""How many steps of Newton's method, and evaluations of L-BFGS, a cycle has at most."""

_FIRM, _LONG, _LONGER = 100.0, 30.0, 10.0
"""How much a step of Newton's method may change a precision, how far the first one may go, and how
much further each one may that follows a better one."""

_SMALL = 3e-3
"""A gradient, in nats per unit of the row, where L-BFGS has nothing left to do."""

_SHRINKS = 6
_FAR_BELOW = 10.0


class Search:
    """Gaussians on their way to a log density, for every copy the best one first.

    Args:
        density: the log density.
        rows: where they are, of shape `(count, *copies, size)`.
        tolerance: a row is settled where a cycle gains fewer nats than this.
        fewest: the fewest draws to climb on.

    Attributes:
        bounds: the judged evidence lower bounds, of shape `(count, *copies)`.
        gains: what the last cycle gained.
        slopes: the largest entry of the gradient after it, in nats per unit of the row.
    """

    def __init__(self, density: Density, rows: Gaussian, tolerance: float, fewest: int) -> None:
        self.density, self.rows, self.tolerance, self.fewest = density, rows, tolerance, fewest
        self._noise = balanced_normal(rows.loc.shape[-1], 0, fewest).to(rows.loc.device)
        self._shrink()
        self.bounds = bound_of(density, self.rows, 4 * fewest)
        self.gains = torch.full_like(self.bounds, torch.inf)
        self.slopes = torch.full_like(self.bounds, torch.inf)
        self._sort()

    @property
    def is_settled(self) -> Tensor:
        """Which rows have come to the end, and are level there."""
        return self.is_over & (self.slopes < _LEVEL) & self.bounds.isfinite()

    @property
    def is_over(self) -> Tensor:
        """Which rows gain nothing any more, or have no density where they start."""
        return (self.gains < self.tolerance) | self.bounds.isinf()

    @property
    def is_hopeless(self) -> Tensor:
        """Which rows are far below the best one, and climb on slowly."""
        below = self.bounds[0] - self.bounds
        return (below > _HOPELESS) & (self.gains < below / 3) & (self.slopes > _LEVEL)

    def keep(self, which: Tensor) -> None:
        """Go on with some rows: a mask `(count)`."""
        self.rows = self.rows[which]
        self.bounds, self.gains = self.bounds[which], self.gains[which]
        self.slopes = self.slopes[which]

    def cycle(self) -> None:
        """Climb on the fixed draws, in units of the rows, and judge the end on others."""
        before = self.rows
        self._level = self._jump()
        size = before.loc.shape[-1]
        count = 2 * size + (0 if before.is_diagonal else size * (size - 1) // 2)
        start = before.loc.new_zeros((*before.loc.shape[:-1], count))
        descent = Descent(self._objective, start, tolerance=_SMALL)
        descent.run(_STEPS)
        found = self._rows_at(descent.point)
        bounds = bound_of(self.density, found, 4 * self.fewest)
        better = bounds > self.bounds
        self.gains = torch.where(better, bounds - self.bounds, 0.0)
        self.slopes = descent.gradient.abs().amax(-1)
        self.rows = pick_where(better, found, before)
        self.bounds = torch.where(better, bounds, self.bounds)
        self._sort()

    def _sort(self) -> None:
        order = self.bounds.argsort(dim=0, descending=True, stable=True)
        self.rows = self.rows.pick(order)
        self.bounds, self.gains = self.bounds.gather(0, order), self.gains.gather(0, order)
        self.slopes = self.slopes.gather(0, order)

    def _look(self, rows: Gaussian) -> tuple[Tensor, Tensor]:
        """Minus the bound on the fixed draws, and the gradients at the draws."""
        moved = rows.move(_for_all_rows(self._noise, rows.loc))
        heights, slopes = _score_rows(self.density, moved, len(moved), with_slopes=True)
        # The volume of a Gaussian that is too narrow for its numbers is zero: no step goes there.
        return -heights.mean(0) - rows.log_volume, slopes

    def _jump(self) -> Tensor:
        """Go where slope and curvature point to while that is better; minus the bounds there."""
        values, slopes = self._look(self.rows)
        for jump in range(_JUMPS):
            found = self._newton(slopes, _LONG * _LONGER**jump)
            new_values, new_slopes = self._look(found)
            better = new_values < values
            gained = torch.where(better, values - new_values, 0.0)
            self.rows = pick_where(better, found, self.rows)
            values = torch.where(better, new_values, values)
            slopes = torch.where(better[..., None], new_slopes, slopes)
            if not (gained > self.tolerance).any():
                break
        return values

    def _newton(self, slopes: Tensor, reach: float) -> Gaussian:
        """The Gaussian whose mean gradient is zero, if the curvature is everywhere as it is here.

        The mean curvature is that of gradients against the noise, by Stein's lemma. No number goes
        further than the reach, in units of the rows.
        """
        noise = _for_all_rows(self._noise, self.rows.loc)
        turned = self.rows.pull_back(slopes)
        slope = turned.mean(0).nan_to_num(0.0)[..., None]
        if self.rows.is_diagonal:
            values = (turned * noise).mean(0).nan_to_num(0.0).abs().clamp(1 / _FIRM, _FIRM)
            step, scale = slope[..., 0] / values, self.rows.scale * values.rsqrt()
        else:
            both = torch.einsum("s...i,s...j->...ij", turned, noise).nan_to_num(0.0)
            values, axes = torch.linalg.eigh(-(both + both.mT) / (2 * len(noise)))
            values = values.abs().clamp(1 / _FIRM, _FIRM)[..., None, :]
            axes = axes * values.rsqrt()
            step, axes = (axes @ (axes.mT @ slope)).squeeze(-1), self.rows.scale @ axes
            scale = torch.linalg.cholesky_ex(axes @ axes.mT).L
        return Gaussian(self.rows.move(step.clamp(-reach, reach)), scale)

    def _objective(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """What the bound on the fixed draws has lost, and its gradient, in today's units."""
        rows, size = self._rows_at(point), self.rows.loc.shape[-1]
        values, slopes = self._look(rows)
        noise = _for_all_rows(self._noise, rows.loc)
        turned, stretch = self.rows.pull_back(slopes), point[..., size : 2 * size].exp()
        parts = [-turned.mean(0), -(turned * noise).mean(0) * stretch - 1]
        if not rows.is_diagonal:
            by_entry = -torch.einsum("s...i,s...j->...ij", turned, noise) / len(noise)
            parts.append(pack_strictly_lower(by_entry))
        return values - self._level, torch.cat(parts, -1)

    def _rows_at(self, point: Tensor) -> Gaussian:
        """Numbers in today's units as Gaussians over vectors."""
        size, scale = self.rows.loc.shape[-1], self.rows.scale
        stretch = point[..., size : 2 * size].exp()
        if self.rows.is_diagonal:
            scale = scale * stretch
        else:
            scale = scale @ unpack_lower(stretch, point[..., 2 * size :])
        return Gaussian(self.rows.move(point[..., :size]), scale)

    def _shrink(self) -> None:
        """Make rows narrower whose draws are not all where the density is finite."""
        for _ in range(_SHRINKS):
            with torch.no_grad():
                moved = self.rows.move(_for_all_rows(self._noise, self.rows.loc))
                is_sound = _score_rows(self.density, moved, len(moved))[0].isfinite().all(0)
            if is_sound.all():
                return
            narrow = Gaussian(self.rows.loc, self.rows.scale / 4)
            self.rows = pick_where(is_sound, self.rows, narrow)


def bound_of(density: Density, rows: Gaussian, num_samples: int = 256) -> Tensor:
    """Evidence lower bounds of Gaussians, on fixed draws: of shape `(count, *copies)`.

    A draw without a density, such as one where a matrix can't be factorised, counts as far below
    all others.
    """
    noise = balanced_normal(rows.loc.shape[-1], 1, num_samples).to(rows.loc.device)
    with torch.no_grad():
        heights = _score_rows(density, rows.move(_for_all_rows(noise, rows.loc)), _BLOCK)[0]
    is_sound = heights.isfinite()
    lowest = heights.masked_fill(~is_sound, torch.inf).amin(0) - _FAR_BELOW
    mean = torch.where(is_sound, heights, lowest).mean(0)
    bound = torch.where(is_sound.double().mean(0) > 0.9, mean, -torch.inf) + rows.entropy
    return bound.nan_to_num(-torch.inf, -torch.inf, -torch.inf)


def _for_all_rows(noise: Tensor, loc: Tensor) -> Tensor:
    """Draws of shape `(sample, size)`, the same ones for all rows and copies."""
    shape = (len(noise), *[1] * (loc.ndim - 1), loc.shape[-1])
    return noise.reshape(shape).expand(len(noise), *loc.shape)


def _score_rows(
    density: Density, vectors: Tensor, block: int, *, with_slopes: bool = False
) -> tuple[Tensor, Tensor]:
    """Log densities of vectors `(sample, count, *copies, size)`, and their gradients."""
    by_row = vectors.transpose(0, 1)
    heights, slopes = score(density, by_row.flatten(0, 1), block=block, with_slopes=with_slopes)
    heights = heights.reshape(by_row.shape[:-1]).transpose(0, 1)
    return heights, slopes.reshape(by_row.shape).transpose(0, 1) if with_slopes else slopes


def score(
    density: Density, vectors: Tensor, *, block: int = 1, with_slopes: bool = False
) -> tuple[Tensor, Tensor]:
    """Log densities of vectors, minus infinity where there are none, and their gradients.

    Args:
        density: the log density. Where it raises an error about values or linear algebra, a part
            of the vectors is to blame, which is looked for.
        vectors: of shape `(sample, *copies, size)`.
        block: so many vectors, one after the other, are blamed together.
        with_slopes: whether gradients are wanted; else the second tensor is empty.

    Raises:
        ConstraintError: if the log density has the wrong shape.
    """
    most = max(_AT_ONCE // block, 1) * block
    if len(vectors) <= most:
        try:
            return _score_at_once(density, vectors, with_slopes)
        except (ValueError, LinAlgError) as error:
            if isinstance(error, ConstraintError) and error.code in _MISTAKES:
                raise  # a log density of the wrong shape is no point without a density
        if len(vectors) <= block:
            heights = vectors.new_full(vectors.shape[:-1], -torch.inf, dtype=torch.float64)
            return heights, torch.zeros_like(vectors if with_slopes else vectors[:0])
        most = max(len(vectors) // block // 2, 1) * block
    parts = [
        score(density, part, block=block, with_slopes=with_slopes) for part in vectors.split(most)
    ]
    return torch.cat([heights for heights, _ in parts]), torch.cat([slopes for _, slopes in parts])


def _score_at_once(density: Density, vectors: Tensor, with_slopes: bool) -> tuple[Tensor, Tensor]:
    with torch.set_grad_enabled(with_slopes):
        here = vectors.detach().requires_grad_(with_slopes)
        heights = density(here)
        slopes = torch.zeros_like(here if with_slopes else here[:0])
        if heights.requires_grad and with_slopes:
            (slopes,) = torch.autograd.grad(heights.sum(), here)
    heights = heights.detach().double().nan_to_num(-torch.inf, -torch.inf, -torch.inf)
    return heights, slopes.double()

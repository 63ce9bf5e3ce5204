"""The Gaussian nearest to a log density: fixed draws, and Newton's steps in units of the last one.

Draws are fixed, so the evidence lower bound is a smooth function (Burroni, Domke and Sheldon,
"Sample average approximation for black-box variational inference", UAI 2024,
https://arxiv.org/abs/2304.06803). Gradients at the draws hold the mean curvature as well, which
gives steps of Newton's method (Opper and Archambeau, "The variational Gaussian approximation
revisited", Neural Computation 21, 2009). Where a whole step gains nothing, a share of it is taken:
of the way, and of the change of the precision. The Gaussian found is the unit of the next step:
near the end the problem looks alike in all directions, whatever the units and correlations of the
model. Other draws judge each cycle.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from declarative_dist.errors import ConstraintError
from declarative_dist.plain.refusals import LinAlgError
from declarative_dist.posteriors.gaussian import Gaussian, pick_where
from declarative_dist.posteriors.noise import balanced_normal

Density = Callable[[Tensor], Tensor]
"""From vectors `(*sample, *copies, size)` to log densities `(*sample, *copies)`."""

_MISTAKES = ("wrong-shape", "failed-method", "wrong-argument", "unknown-name", "missing-value")

_AT_ONCE = 1024
"""So many draws are scored in one call of the density."""

_BLOCK = 16
_LEVEL = 0.3

_STEPS = 16
"""How many steps a cycle has at most."""

_FIRM, _LONG, _LONGER = 100.0, 30.0, 10.0
"""How much a step may change a variance, how far the first one of a cycle may go, in units of the
row, and how much further each one may that follows."""

_SMALL = 3e-3
"""A gradient, in nats per unit of the row, where there is nothing left to do."""

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
        slopes: the largest entry of the gradient at its last step, in nats per unit of the row.
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

    def keep(self, which: Tensor) -> None:
        """Go on with some rows: a mask `(count)`."""
        self.rows = self.rows[which]
        self.bounds, self.gains = self.bounds[which], self.gains[which]
        self.slopes = self.slopes[which]

    def cycle(self) -> None:
        """Go uphill on the fixed draws, step by step, and judge the end on others."""
        before = self.rows
        values, slopes = self._look(before)
        share = torch.ones_like(values)
        for count in range(_STEPS):
            slope, bend = self._turn(slopes)
            self.slopes = _largest(slope, bend)
            if not (self.slopes > _SMALL).any():
                break
            found = self._step(slope, bend, share, _LONG * _LONGER**count)
            new_values, new_slopes = self._look(found)
            better = new_values < values
            self.rows = pick_where(better, found, self.rows)
            values = torch.where(better, new_values, values)
            slopes = torch.where(better[..., None], new_slopes, slopes)
            share = torch.where(better, (2 * share).clamp_max(1.0), share / 4)
        bounds = bound_of(self.density, self.rows, 4 * self.fewest)
        better = bounds > self.bounds
        self.gains = torch.where(better, bounds - self.bounds, 0.0)
        self.rows = pick_where(better, self.rows, before)
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

    def _turn(self, slopes: Tensor) -> tuple[Tensor, Tensor]:
        """The mean slope `(*rows, size)`, and the mean curvature, shaped as the factor.

        Both are by the noise, in units of the rows. The curvature is that of gradients against
        the noise, by Stein's lemma: one in all directions where the Gaussian is the nearest.
        """
        noise = _for_all_rows(self._noise, self.rows.loc)
        turned = self.rows.pull_back(slopes)
        if self.rows.is_diagonal:
            bend = (turned * noise).mean(0)
        else:
            both = torch.einsum("s...i,s...j->...ij", turned, noise)
            bend = (both + both.mT) / (2 * len(noise))
        return turned.mean(0).nan_to_num(0.0, 0.0, 0.0), -bend.nan_to_num(0.0, 0.0, 0.0)

    def _step(self, slope: Tensor, bend: Tensor, share: Tensor, reach: float) -> Gaussian:
        """A share of the way to where the mean slope is zero, if the curvature stays as it is."""
        values, axes = (bend, None) if self.rows.is_diagonal else torch.linalg.eigh(bend)
        share = share[..., None]
        firmness = 1 + share * (values.abs().clamp_min(1 / _FIRM) - 1)
        narrower = firmness.clamp_max(_FIRM).rsqrt()
        if axes is None:
            step, scale = slope / firmness, self.rows.scale * narrower
        else:
            along = (axes.mT @ slope[..., None]).squeeze(-1) / firmness
            step = (axes @ along[..., None]).squeeze(-1)
            wide = self.rows.scale @ (axes * narrower[..., None, :])
            scale = torch.linalg.cholesky_ex(wide @ wide.mT).L
        return Gaussian(self.rows.move((share * step).clamp(-reach, reach)), scale)

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


def _largest(slope: Tensor, bend: Tensor) -> Tensor:
    """The largest entry of a gradient by a Gaussian's centre and factor, of shape `(*rows)`."""
    is_diagonal = bend.shape == slope.shape
    rest = bend - 1 if is_diagonal else (bend - torch.eye(bend.shape[-1]).to(bend)).flatten(-2)
    return torch.maximum(slope.abs().amax(-1), rest.abs().amax(-1))


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

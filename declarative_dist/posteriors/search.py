"""The Gaussian nearest to a log density: fixed draws, L-BFGS, and new units in every cycle.

Draws are fixed, so the evidence lower bound is a smooth function, which L-BFGS climbs (Burroni,
Domke and Sheldon, "Sample average approximation for black-box variational inference", UAI 2024,
https://arxiv.org/abs/2304.06803). After some steps the Gaussian found becomes the unit of the
next cycle: near the end the problem looks alike in all directions, whatever the units and
correlations of the model. Other draws judge each cycle, and restarts look for other modes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from declarative_dist.errors import ConstraintError
from declarative_dist.optimization.lbfgs import Descent
from declarative_dist.posteriors.gaussian import Gaussian, choose, lower_triangle
from declarative_dist.posteriors.noise import balanced_normal

Density = Callable[[Tensor], Tensor]
"""From vectors `(*sample, *copies, size)` to log densities `(*sample, *copies)`."""

_LinAlgError: type[Exception] = vars(torch.linalg)["LinAlgError"]

_MISTAKES = ("wrong-shape", "failed-method", "wrong-argument", "unknown-name", "missing-value")

_AT_ONCE = 1024
"""So many draws are scored in one call of the density."""

_BLOCK = 16
_HOPELESS = 100.0
_LEVEL = 0.3

_STEPS = 20
_SHRINKS = 6
_FAR_BELOW = 10.0


@dataclass
class Search:
    """Gaussians on their way to a log density.

    Args:
        density: the log density.
        rows: where they are, of shape `(count, *copies, size)`.
        tolerance: a row is settled where a cycle gains fewer nats than this.
        fewest: the fewest draws to climb on.
        bounds: the judged evidence lower bounds, of shape `(count, *copies)`.
        gains: what the last cycle gained.
        slopes: the largest entry of the gradient after it, in nats per unit of the row.
    """

    density: Density
    rows: Gaussian
    tolerance: float
    fewest: int
    bounds: Tensor = field(init=False)
    gains: Tensor = field(init=False)
    slopes: Tensor = field(init=False)

    def __post_init__(self) -> None:
        size = self.rows.loc.shape[-1]
        self._noise = balanced_normal(size, 0, self.fewest).to(self.rows.loc.device)
        self._shrink()
        self.bounds = self.judge(self.rows)
        self.gains = torch.full_like(self.bounds, torch.inf)
        self.slopes = torch.full_like(self.bounds, torch.inf)

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
        """Which rows are far below the best one, and do not come nearer fast."""
        below = self.bounds.amax(0) - self.bounds
        return (below > _HOPELESS) & (self.gains < below / 3)

    def keep(self, which: Tensor) -> None:
        """Go on with some rows: a mask `(count)`."""
        self.rows = self.rows[which]
        self.bounds, self.gains = self.bounds[which], self.gains[which]
        self.slopes = self.slopes[which]

    def judge(self, rows: Gaussian) -> Tensor:
        """The evidence lower bounds on other draws, of shape `(count, *copies)`."""
        return bound_of(self.density, rows, 4 * self.fewest)

    def cycle(self) -> None:
        """Climb some steps on the fixed draws, in units of the rows, and judge them on others."""
        size = self.rows.loc.shape[-1]
        count = 2 * size + (0 if self.rows.is_diagonal else size * (size - 1) // 2)
        start = self.rows.loc.new_zeros((*self.rows.loc.shape[:-1], count))
        descent = Descent(self._objective, start, tolerance=1e-6)
        descent.run(_STEPS)
        found = self._rows_at(descent.point)
        bounds = self.judge(found)
        better = bounds > self.bounds
        self.gains = torch.where(better, bounds - self.bounds, 0.0)
        self.slopes = descent.gradient.abs().amax(-1)
        self.rows = choose(better, found, self.rows)
        self.bounds = torch.where(better, bounds, self.bounds)

    def _objective(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Minus the bound on the fixed draws, and its gradient, at numbers in today's units."""
        rows, size = self._rows_at(point), self.rows.loc.shape[-1]
        noise = _for_all_rows(self._noise, rows.loc)
        heights, slopes = _score_rows(self.density, rows.move(noise), len(noise), with_slopes=True)
        turned, stretch = self.rows.pull_back(slopes), point[..., size : 2 * size].exp()
        parts = [-turned.mean(0), -(turned * noise).mean(0) * stretch - 1]
        if not rows.is_diagonal:
            below, left = torch.tril_indices(size, size, -1, device=point.device)
            by_entry = -torch.einsum("s...i,s...j->...ij", turned, noise) / len(noise)
            parts.append(by_entry[..., below, left])
        # The volume of a Gaussian that is too narrow for its numbers is zero: no step goes there.
        volume = rows.log_volume - self.rows.log_volume
        return -heights.mean(0) - volume, torch.cat(parts, -1)

    def _rows_at(self, point: Tensor) -> Gaussian:
        """Numbers in today's units as Gaussians over vectors."""
        size, scale = self.rows.loc.shape[-1], self.rows.scale
        stretch = point[..., size : 2 * size].exp()
        if self.rows.is_diagonal:
            scale = scale * stretch
        else:
            scale = scale @ lower_triangle(point[..., 2 * size :], stretch)
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
            self.rows = choose(is_sound, self.rows, narrow)


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
    parts = [
        _score_part(density, part, block, with_slopes)
        for part in vectors.split(max(_AT_ONCE // block, 1) * block)
    ]
    return torch.cat([heights for heights, _ in parts]), torch.cat([slopes for _, slopes in parts])


def _score_part(
    density: Density, vectors: Tensor, block: int, with_slopes: bool
) -> tuple[Tensor, Tensor]:
    none = vectors.new_zeros(0)
    try:
        if not with_slopes:
            return _clean(density(vectors)), none
        with torch.enable_grad():
            here = vectors.detach().requires_grad_()
            heights = density(here)
            if heights.requires_grad:
                (slopes,) = torch.autograd.grad(heights.sum(), here)
            else:
                slopes = torch.zeros_like(here)
        return _clean(heights.detach()), slopes.double()
    except (ValueError, _LinAlgError) as error:
        if isinstance(error, ConstraintError) and error.code in _MISTAKES:
            raise  # a log density of the wrong shape is no point without a density
    if len(vectors) <= block:
        heights = vectors.new_full(vectors.shape[:-1], -torch.inf)
        return heights.double(), torch.zeros_like(vectors) if with_slopes else none
    half = max(len(vectors) // block // 2, 1) * block
    pair = [
        _score_part(density, part, block, with_slopes) for part in (vectors[:half], vectors[half:])
    ]
    return torch.cat([heights for heights, _ in pair]), torch.cat([slopes for _, slopes in pair])


def _clean(heights: Tensor) -> Tensor:
    return heights.double().nan_to_num(-torch.inf, -torch.inf, -torch.inf)

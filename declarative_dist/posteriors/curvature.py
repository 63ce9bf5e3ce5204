"""Where a Gaussian guide begins: near a mode, in the units of the curvature there.

Damped Newton steps climb a log density. Around every point on the way the curvature proposes a
Gaussian, and the one with the best evidence lower bound is chosen, so that a narrow mode far from
the mass (a funnel's) is not taken for the posterior. This is the idea of Zhang, Carpenter, Gelman
and Vehtari, "Pathfinder: Parallel quasi-Newton variational inference", JMLR 23, 2022,
https://arxiv.org/abs/2108.03782, with exact Hessians.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from declarative_dist.errors import ConstraintError

Density = Callable[[Tensor], Tensor]
"""From vectors `(*sample, *batch, size)` to log densities `(*sample, *batch)`."""

_LinAlgError: type[Exception] = vars(torch.linalg)["LinAlgError"]

LARGEST_HESSIAN = 200
"""Above so many numbers only the diagonal of the Hessian is estimated."""

_PROBES = 32
_DRAWS = 64
_STEPS = 60
_HALVINGS = 30


@dataclass
class Gaussian:
    """A Gaussian over vectors, for each independent copy.

    Args:
        loc: the mean, of shape `(*batch, size)`.
        scale: standard deviations `(*batch, size)`, or a lower-triangular factor of the
            covariance, `(*batch, size, size)`.
    """

    loc: Tensor
    scale: Tensor

    def bound(self, density: Density, noise: Tensor) -> Tensor:
        """An estimate of the evidence lower bound but for a constant, of shape `(*batch)`."""
        if self.scale.ndim == self.loc.ndim:
            moved, diagonal = self.scale * noise, self.scale
        else:
            moved = (self.scale @ noise[..., None]).squeeze(-1)
            diagonal = self.scale.diagonal(dim1=-2, dim2=-1)
        mean = _finite(density, self.loc + moved).mean(0)
        return (mean + diagonal.log().sum(-1)).nan_to_num(-torch.inf, -torch.inf, -torch.inf)

    def where(self, chosen: Tensor, other: Gaussian) -> Gaussian:
        """This Gaussian for the copies chosen, another for the rest."""
        extra = self.scale.ndim - self.loc.ndim
        by_row = chosen[..., None]
        by_entry = by_row[(..., *(None,) * extra)]
        return Gaussian(
            torch.where(by_row, self.loc, other.loc),
            torch.where(by_entry, self.scale, other.scale),
        )


def laplace(density: Density, start: Gaussian) -> Gaussian:
    """The best Gaussian among a given one and those met on the way to a mode.

    Args:
        density: the log density; where it can't be differentiated twice, the start is kept.
        start: where to begin; its kind of scale is that of the result.
    """
    is_diagonal = start.scale.ndim == start.loc.ndim
    noise = torch.randn((_DRAWS, *start.loc.shape), dtype=start.loc.dtype, device=start.loc.device)
    best, bound = start, start.bound(density, noise)
    here = start.loc
    for _ in range(_STEPS):
        local = _local(density, here)
        if local is None:
            break
        height, gradient, curvature = local
        candidate = Gaussian(here, curvature.scale(is_diagonal))
        if candidate.scale.isfinite().all():
            reached = candidate.bound(density, noise)
            best = candidate.where(reached > bound, best)
            bound = torch.maximum(reached, bound)
        step = curvature.solve(gradient)
        here, gain = _climb(density, here, height, step, (gradient * step).sum(-1))
        if not (gain > 1e-4).any():
            break
    return best


class _Curvature:
    """Minus a Hessian made positive definite, of the matrix or its diagonal alone.

    The matrix is brought to a unit diagonal first, so that the units of the numbers do not matter;
    then eigenvalues are replaced by their magnitudes, and small ones raised.
    """

    def __init__(self, hessian: Tensor, *, is_matrix: bool) -> None:
        self.dtype = hessian.dtype
        wide = -hessian.double()
        diagonal = wide.diagonal(dim1=-2, dim2=-1) if is_matrix else wide
        largest = diagonal.abs().amax(-1, keepdim=True).clamp_min(1e-30)
        self.units = diagonal.abs().clamp_min(largest * 1e-24).sqrt()
        self.values: Tensor | None = None
        if is_matrix:
            scaled = wide / (self.units[..., None] * self.units[..., None, :])
            values, self.vectors = torch.linalg.eigh((scaled + scaled.mT) / 2)
            smallest = values.abs().amax(-1, keepdim=True) * 1e-6
            self.values = values.abs().maximum(smallest)

    def solve(self, gradient: Tensor) -> Tensor:
        """The Newton step."""
        scaled = gradient.double() / self.units
        if self.values is not None:
            turned = (self.vectors.mT @ scaled[..., None]).squeeze(-1) / self.values
            scaled = (self.vectors @ turned[..., None]).squeeze(-1)
        return (scaled / self.units).to(self.dtype)

    def scale(self, is_diagonal: bool) -> Tensor:
        """Deviations of the nearest mean-field Gaussian, or a factor of the covariance."""
        if self.values is None:
            deviations: Tensor = (1 / self.units).to(self.dtype)
            return deviations if is_diagonal else deviations.diag_embed()
        if is_diagonal:
            precision = (self.vectors.square() * self.values[..., None, :]).sum(-1)
            nearest: Tensor = (1 / (self.units * precision.sqrt())).to(self.dtype)
            return nearest
        covariance = (self.vectors / self.values[..., None, :]) @ self.vectors.mT
        factor, _ = torch.linalg.cholesky_ex(covariance)
        scaled: Tensor = (factor / self.units[..., None]).to(self.dtype)
        return scaled


def _local(density: Density, here: Tensor) -> tuple[Tensor, Tensor, _Curvature] | None:
    """Height, gradient and curvature; None where they are not finite, or not to be had."""
    with torch.enable_grad():
        point = here.detach().requires_grad_()
        try:
            height = density(point)
            (gradient,) = torch.autograd.grad(height.sum(), point, create_graph=True)
            hessian = _hessian(gradient, point)
        except (RuntimeError, ValueError) as error:
            _raise_mistakes(error)
            return None
    is_finite = height.isfinite().all() and gradient.isfinite().all() and hessian.isfinite().all()
    if not is_finite:
        return None
    is_matrix = hessian.ndim > point.ndim
    return height.detach(), gradient.detach(), _Curvature(hessian, is_matrix=is_matrix)


def _hessian(gradient: Tensor, point: Tensor) -> Tensor:
    """The Hessian, row by row; for many numbers its diagonal, from random signs.

    The diagonal is estimated as by Bekas, Kokiopoulou and Saad, "An estimator for the diagonal of
    a matrix", Applied Numerical Mathematics 57, 2007.
    """
    size = point.shape[-1]

    def product(weights: Tensor) -> Tensor:
        (row,) = torch.autograd.grad(
            gradient, point, weights.expand_as(gradient), retain_graph=True, materialize_grads=True
        )
        return row

    if size <= LARGEST_HESSIAN:
        units = torch.eye(size, dtype=point.dtype, device=point.device)
        return torch.stack([product(unit) for unit in units], -2)
    total = torch.zeros_like(point)
    for _ in range(_PROBES):
        signs = torch.randint(0, 2, point.shape, device=point.device).to(point) * 2 - 1
        total += signs * product(signs)
    return total / _PROBES


def _climb(
    density: Density, here: Tensor, height: Tensor, step: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor]:
    """Go along a step as far as the density rises enough; the new points and what was gained."""
    share = torch.ones_like(height)
    for _ in range(_HALVINGS):
        rise = _finite(density, here + share[..., None] * step) - height
        rises = rise >= 1e-4 * share * slope
        if rises.all():
            return here + share[..., None] * step, rise
        share = torch.where(rises, share, share / 2)
    rise = _finite(density, here + share[..., None] * step) - height
    share = torch.where(rise > 0, share, torch.zeros_like(share))
    return here + share[..., None] * step, rise.clamp_min(0.0)


def _finite(density: Density, point: Tensor) -> Tensor:
    """The density, or minus infinity where it is none."""
    with torch.no_grad():
        try:
            return density(point).nan_to_num(-torch.inf, -torch.inf, -torch.inf)
        except (ValueError, _LinAlgError) as error:
            _raise_mistakes(error)
            return point.new_full(point.shape[:-1], -torch.inf)


def _raise_mistakes(error: Exception) -> None:
    """Tell a log joint density of the wrong shape from one that has no value at a point."""
    if isinstance(error, ConstraintError) and error.subject == "log_joint":
        raise error

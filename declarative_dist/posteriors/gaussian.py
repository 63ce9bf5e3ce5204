"""Gaussians over unconstrained vectors, many at once, with one kind of factor for each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
DEGREES = 5
"""The degrees of freedom of the heavier twin."""


@dataclass(frozen=True)
class Gaussian:
    """Gaussians over vectors, one for every row.

    Args:
        loc: the means, of shape `(*rows, size)`.
        scale: standard deviations of shape `(*rows, size)`, or lower-triangular factors of the
            covariances, of shape `(*rows, size, size)`.
    """

    loc: Tensor
    scale: Tensor

    @property
    def is_diagonal(self) -> bool:
        """Whether the numbers are independent."""
        return self.scale.ndim == self.loc.ndim

    @property
    def deviations(self) -> Tensor:
        """The standard deviation of every number, of shape `(*rows, size)`."""
        return self.scale if self.is_diagonal else self.scale.norm(dim=-1)

    @property
    def log_volume(self) -> Tensor:
        """The log determinant of the factor, of shape `(*rows)`."""
        diagonal = self.scale if self.is_diagonal else self.scale.diagonal(dim1=-2, dim2=-1)
        return diagonal.log().sum(-1)

    @property
    def entropy(self) -> Tensor:
        """In nats, of shape `(*rows)`."""
        return self.loc.shape[-1] * (0.5 + _HALF_LOG_TAU) + self.log_volume

    def move(self, noise: Tensor) -> Tensor:
        """The vectors of standard normal noise, both of shape `(*sample, *rows, size)`."""
        if self.is_diagonal:
            return self.loc + self.scale * noise
        if self.scale.ndim == 2:
            return self.loc + noise @ self.scale.mT
        flat = noise.reshape(-1, *self.loc.shape)
        moved = torch.einsum("...ij,s...j->s...i", self.scale, flat)
        return self.loc + moved.reshape(noise.shape)

    def pull_back(self, slopes: Tensor) -> Tensor:
        """Gradients by the vectors as gradients by the noise, both `(sample, *rows, size)`."""
        if self.is_diagonal:
            return self.scale * slopes
        return torch.einsum("...ij,s...i->s...j", self.scale, slopes)

    def whiten(self, vector: Tensor) -> Tensor:
        """The noise that gives vectors, both of shape `(*sample, *rows, size)`."""
        centred = vector - self.loc
        if self.is_diagonal:
            return centred / self.scale
        # Samples become the columns of one system for every row.
        columns = centred.reshape(-1, *self.loc.shape).movedim(0, -1)
        factor = self.scale.to(centred.dtype)
        solved: Tensor = torch.linalg.solve_triangular(factor, columns, upper=False)
        return solved.movedim(-1, 0).reshape(centred.shape)

    def log_prob_of_noise(self, noise: Tensor) -> Tensor:
        """The log density of the vectors that noise is moved to, of shape `(*sample, *rows)`."""
        constant = noise.shape[-1] * _HALF_LOG_TAU
        return -0.5 * noise.square().sum(-1) - constant - self.log_volume

    def log_prob_of_twin(self, noise: Tensor) -> Tensor:
        """The same under the multivariate t distribution with this centre and factor."""
        size = noise.shape[-1]
        constant = math.lgamma((DEGREES + size) / 2) - math.lgamma(DEGREES / 2)
        constant -= size / 2 * math.log(DEGREES * math.pi)
        far = torch.log1p(noise.square().sum(-1) / DEGREES)
        return constant - (DEGREES + size) / 2 * far - self.log_volume

    def distances(self, other: Gaussian) -> tuple[Tensor, Tensor]:
        """How far centres are apart over the root of the size, in own units and in the other's."""
        root = math.sqrt(self.loc.shape[-1])
        own, others = self.whiten(other.loc), other.whiten(self.loc)
        return own.norm(dim=-1) / root, others.norm(dim=-1) / root

    def __getitem__(self, index: Any) -> Gaussian:
        """Rows by a number, a slice or a mask of the first dimensions."""
        return Gaussian(self.loc[index], self.scale[index])

    def __len__(self) -> int:
        return len(self.loc)

    def pick(self, index: Tensor) -> Gaussian:
        """Rows by index along the first dimension, for every copy its own: `(count, *copies)`."""
        taken = [
            t.gather(0, index[(..., *(None,) * (t.ndim - index.ndim))].expand(
                len(index), *t.shape[1:]))
            for t in (self.loc, self.scale)
        ]  # fmt: skip
        return Gaussian(*taken)

    def double(self) -> Gaussian:
        """The same in float64."""
        return Gaussian(self.loc.double(), self.scale.double())

    def full(self) -> Gaussian:
        """The same with a matrix for a factor."""
        return Gaussian(self.loc, self.scale.diag_embed()) if self.is_diagonal else self


def stack(gaussians: list[Gaussian]) -> Gaussian:
    """Join rows along the first dimension."""
    return Gaussian(torch.cat([g.loc for g in gaussians]), torch.cat([g.scale for g in gaussians]))


def pick_where(which: Tensor, first: Gaussian, second: Gaussian) -> Gaussian:
    """The first Gaussian where a mask `(*rows)` says so, else the second."""
    extra = (None,) * (first.scale.ndim - which.ndim)
    return Gaussian(
        torch.where(which[..., None], first.loc, second.loc),
        torch.where(which[(..., *extra)], first.scale, second.scale),
    )

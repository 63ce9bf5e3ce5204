"""A Gaussian over unconstrained vectors, seen as a distribution over dicts of values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from declarative_dist.latents.flat import FlatMap
from declarative_dist.latents.named import NamedDistribution, Values

_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class PushedNormal(NamedDistribution):
    """A Gaussian over unconstrained vectors, seen as a distribution over dicts of values.

    What calling a guide gives: its numbers as they were at that moment. Draws are dicts of tensors
    of shape `(*sample, *batch, *event)` by site, inside every support; log densities have shape
    `(*sample, *batch)` and hold the log of the volume change.

    Args:
        flat: the map from vectors to values.
        loc: the mean, of shape `(*batch, size)`.
        scale: standard deviations, of shape `(*batch, size)`, or a lower-triangular factor of the
            covariance, of shape `(*batch, size, size)`.
        validate: whether `log_prob` refuses values outside their support.
    """

    def __init__(
        self, flat: FlatMap, loc: Tensor, scale: Tensor, *, validate: bool = True
    ) -> None:
        self.flat = flat
        self.loc = loc
        self.scale = scale
        self.validate = validate
        self.batch_shape = flat.batch_shape
        self._is_diagonal = scale.ndim == loc.ndim

    def __repr__(self) -> str:
        return f"PushedNormal({self.flat.extra_repr()})"

    @property
    def has_rsample(self) -> bool:
        return True

    def sample(self, sample_shape: Any = torch.Size()) -> Values:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> Values:
        return self.flat(self.move(self._noise(sample_shape)))

    def rsample_and_log_prob(self, sample_shape: Any = torch.Size()) -> tuple[Values, Tensor]:
        noise = self._noise(sample_shape)  # known here, so there is no way back to be computed
        values, log_det = self.flat.constrain(self.move(noise))
        return values, self._density(noise) - log_det

    def log_prob(self, values: Mapping[str, Any]) -> Tensor:
        vector, log_det = self.flat.unconstrain(values, validate=self.validate)
        return self._density(self.whiten(vector)) - log_det

    def entropy(self) -> Tensor:
        if not self.flat.keeps_volume:
            raise NotImplementedError("the mean volume change of constraints has no closed form.")
        return self.flat.size * (0.5 + _HALF_LOG_TAU) + self._log_volume()

    @property
    def median(self) -> Values:
        """The values at the mean vector: medians of sites whose numbers are mapped one by one."""
        return self.flat(self.loc)

    def move(self, noise: Tensor) -> Tensor:
        """The vector of standard normal noise, both of shape `(*sample, *batch, size)`."""
        if self._is_diagonal:
            return self.loc + self.scale * noise
        return self.loc + (self.scale @ noise[..., None]).squeeze(-1)

    def whiten(self, vector: Tensor) -> Tensor:
        """The noise that gives a vector."""
        centred = vector - self.loc
        if self._is_diagonal:
            return centred / self.scale
        solved: Tensor = torch.linalg.solve_triangular(
            self.scale.to(centred.dtype), centred[..., None], upper=False
        )
        return solved.squeeze(-1)

    def _noise(self, sample_shape: Any) -> Tensor:
        shape = (*torch.Size(sample_shape), *self.loc.shape)
        return torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)

    def _log_volume(self) -> Tensor:
        diagonal = self.scale if self._is_diagonal else self.scale.diagonal(dim1=-2, dim2=-1)
        return diagonal.log().sum(-1)

    def _density(self, noise: Tensor) -> Tensor:
        squares = noise.square().sum(-1)
        constant = noise.shape[-1] * _HALF_LOG_TAU
        return -0.5 * squares - constant - self._log_volume()

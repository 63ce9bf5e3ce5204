"""A Gaussian over unconstrained vectors, seen as a distribution over dicts of values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from declarative_dist.latents.flat import FlatMap
from declarative_dist.latents.named import NamedDistribution, Values
from declarative_dist.posteriors.gaussian import Gaussian


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
    """

    def __init__(self, flat: FlatMap, loc: Tensor, scale: Tensor) -> None:
        self.flat = flat
        self.gaussian = Gaussian(loc, scale)
        self.batch_shape = flat.batch_shape

    def __repr__(self) -> str:
        return f"PushedNormal({self.flat.extra_repr()})"

    @property
    def has_rsample(self) -> bool:
        return True

    @property
    def loc(self) -> Tensor:
        """The mean vector, of shape `(*batch, size)`."""
        return self.gaussian.loc

    @property
    def scale(self) -> Tensor:
        """Deviations `(*batch, size)`, or a factor of the covariance `(*batch, size, size)`."""
        return self.gaussian.scale

    def sample(self, sample_shape: Any = torch.Size()) -> Values:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> Values:
        return self.flat(self.gaussian.move(self._noise(sample_shape)))

    def rsample_and_log_prob(self, sample_shape: Any = torch.Size()) -> tuple[Values, Tensor]:
        noise = self._noise(sample_shape)  # known here, so there is no way back to be computed
        values, log_det = self.flat.constrain(self.gaussian.move(noise))
        return values, self.gaussian.log_prob_of_noise(noise) - log_det

    def rsample_and_score_detached(self, sample_shape: Any) -> tuple[Values, Tensor]:
        """Draws with gradients, and their log densities with the Gaussian's numbers detached."""
        vector = self.gaussian.move(self._noise(sample_shape))
        values, log_det = self.flat.constrain(vector)
        fixed = Gaussian(self.loc.detach(), self.scale.detach())
        return values, fixed.log_prob_of_noise(fixed.whiten(vector)) - log_det

    def log_prob(self, values: Mapping[str, Any]) -> Tensor:
        vector, log_det = self.flat.unconstrain(values)
        return self.gaussian.log_prob_of_noise(self.gaussian.whiten(vector)) - log_det

    @property
    def median(self) -> Values:
        """The values at the mean vector: medians of sites whose numbers are mapped one by one.

        They are there to be read, and carry no gradient.
        """
        with torch.no_grad():
            return self.flat(self.loc)

    @property
    def supports(self) -> dict[str, Any]:
        """The set that the values of each site lie in."""
        constraint_of, values = self.flat.resolver(self.batch_shape), self.median
        return {slot.name: constraint_of(slot, values).support for slot in self.flat.slots}

    def _noise(self, sample_shape: Any) -> Tensor:
        shape = (*torch.Size(sample_shape), *self.loc.shape)
        return torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)

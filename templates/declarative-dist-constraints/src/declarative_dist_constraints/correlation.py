"""Correlations: numbers strictly between -1 and 1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints

from declarative_dist import Constraint


class CorrelationSet(constraints.Constraint):
    """The open interval from -1 to 1, for the `arg_constraints` of a family."""

    lower_bound = -1.0
    upper_bound = 1.0

    def check(self, value: Tensor) -> Tensor:
        """Whether each number is inside."""
        return (value > self.lower_bound) & (value < self.upper_bound)


correlation = CorrelationSet()


class Correlation(Constraint):
    """Numbers strictly between -1 and 1, through `raw / sqrt(1 + raw^2)`.

    The ends are approached as a power of the raw number: gradients far out are larger than those
    of a hyperbolic tangent.

    Example:
        >>> import torch
        >>> from declarative_dist_constraints import Correlation
        >>> Correlation()(torch.tensor(0.75))
        tensor(0.6000)
    """

    support = correlation

    def forward(self, raw: Tensor) -> Tensor:
        value = raw / _length(raw)
        # Rounding reaches the ends. What holds it inside is detached: the gradient stays.
        most = 1 - torch.finfo(raw.dtype).eps
        return value + (value.clamp(-most, most) - value).detach()

    def inverse(self, value: Tensor) -> Tensor:
        return value / ((1 - value) * (1 + value)).sqrt()

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return -3 * _length(raw).log()

    def default(self, shape: torch.Size) -> Tensor:
        return torch.zeros(shape)

    def describe(self) -> str:
        return "a correlation, strictly between -1 and 1"


def _length(raw: Tensor) -> Tensor:
    """`sqrt(1 + raw^2)`, which does not overflow before it must."""
    return torch.hypot(raw, torch.ones_like(raw))

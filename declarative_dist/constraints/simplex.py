"""Probability vectors: positive numbers that sum to one."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from declarative_dist.constraints.band import HALF, WIDEST, promote
from declarative_dist.constraints.constraint import Constraint, event_size


class Simplex(Constraint):
    """Vectors of K positive numbers that sum to one, from K - 1 raw numbers.

    The raw numbers are coordinates in an orthonormal basis of the vectors that sum to zero; their
    softmax is the value. So the map is bijective, treats all entries alike, and zero is the
    uniform vector (the isometric log-ratio transform of Egozcue et al., "Isometric logratio
    transformations for compositional data analysis", Mathematical Geology 35, 2003).

    Values have shape `(*batch, K)`, raw numbers `(*batch, K - 1)`.

    Example:
        >>> import torch
        >>> from declarative_dist import Simplex
        >>> Simplex()(torch.zeros(3))
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    support = constraints.simplex

    def forward(self, raw: Tensor) -> Tensor:
        wide = promote(raw)
        size = raw.shape[-1] + 1
        ceiling = torch.finfo(wide.dtype).max / (8 * (1 + math.log(size)))
        zero_sum = _zero_sum(wide.clamp(-ceiling, ceiling))
        shifted = zero_sum - zero_sum.amax(-1, keepdim=True).detach()
        return shifted.clamp_min(math.log(WIDEST[raw.dtype][0])).softmax(-1).to(raw.dtype)

    def inverse(self, value: Tensor) -> Tensor:
        logs = promote(value).log()
        rank = torch.arange(1, value.shape[-1], dtype=logs.dtype, device=logs.device)
        contrasts = logs[..., :-1].cumsum(-1) - rank * logs[..., 1:]
        return (contrasts / (rank * (rank + 1)).sqrt()).to(value.dtype)

    def contains(self, value: Tensor) -> Tensor:
        eps = torch.finfo(value.dtype).eps
        slack = 4 * eps if value.dtype in HALF else (4 + value.shape[-1]) * eps
        sums_to_one = (promote(value).sum(-1) - 1).abs() <= slack
        return (value > 0).all(-1) & sums_to_one

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return value.log().sum(-1) + 0.5 * math.log(value.shape[-1])

    def raw_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], event_size(self, shape) - 1))

    def value_shape(self, raw_shape: torch.Size) -> torch.Size:
        return torch.Size((*raw_shape[:-1], raw_shape[-1] + 1))

    def default(self, shape: torch.Size) -> Tensor:
        return torch.full(shape, 1 / event_size(self, shape))

    def describe(self) -> str:
        return "positive numbers that sum to 1 along the last dimension"


def _zero_sum(raw: Tensor) -> Tensor:
    """The vector that sums to zero with these coordinates in the Helmert basis."""
    rank = torch.arange(1, raw.shape[-1] + 1, dtype=raw.dtype, device=raw.device)
    weights = raw / (rank * (rank + 1)).sqrt()
    zero = raw.new_zeros(*raw.shape[:-1], 1)
    above = torch.cat([weights.flip(-1).cumsum(-1).flip(-1), zero], -1)
    return above - torch.cat([zero, rank * weights], -1)

"""Negative numbers: the mirror image of positive ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.positive import Positive

_POSITIVE = Positive()


class Negative(Constraint):
    """Numbers below zero, as far from it and from infinity as `Positive` keeps.

    Example:
        >>> import torch
        >>> from declarative_dist.constraints.negative import Negative
        >>> Negative()(torch.tensor(-1e4)) < 0
        tensor(True)
    """

    support = constraints.less_than(0.0)

    def forward(self, raw: Tensor) -> Tensor:
        return -_POSITIVE.forward(raw)

    def inverse(self, value: Tensor) -> Tensor:
        return _POSITIVE.inverse(-value)

    def contains(self, value: Tensor) -> Tensor:
        return _POSITIVE.contains(-value)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return _POSITIVE.log_abs_det_jacobian(raw, -value)

    def default(self, shape: torch.Size) -> Tensor:
        return -_POSITIVE.default(shape)

    def describe(self) -> str:
        return _POSITIVE.describe().replace("positive", "negative")

    def advice(self, value: Tensor) -> str:
        return "Give a number below 0."

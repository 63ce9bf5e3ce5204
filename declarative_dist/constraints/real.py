"""All real numbers: the parameter is its own value."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.hold import clamp_input
from declarative_dist.constraints.representable import Limits


class Real(Constraint):
    """All finite real numbers, learned as they are.

    Args:
        limits: for each dtype the range `(low, high)` outside of which values are held at its
            ends; without it a field's value *is* its parameter.

    Example:
        >>> import torch
        >>> from declarative_dist import Real
        >>> raw = torch.tensor(3.0)
        >>> Real()(raw) is raw
        True
    """

    support = constraints.real

    def __init__(self, *, limits: Limits | None = None) -> None:
        super().__init__()
        self.limits = limits

    def forward(self, raw: Tensor) -> Tensor:
        if self.limits is None:
            return raw
        return clamp_input(raw, *self.limits[raw.dtype])

    def inverse(self, value: Tensor) -> Tensor:
        return value

    def contains(self, value: Tensor) -> Tensor:
        if self.limits is None:
            return value.isfinite()
        low, high = self.limits[value.dtype]
        return (value >= low) & (value <= high)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return torch.zeros_like(raw)

    def default(self, shape: torch.Size) -> Tensor:
        return torch.zeros(shape)

    def describe(self) -> str:
        return "a finite number"

    def extra_repr(self) -> str:
        return ""

    def advice(self, value: Tensor) -> str:
        if self.limits is None:
            return ""
        low, high = self.limits[value.dtype]
        return f"In {value.dtype} it must lie in [{low:g}, {high:g}]."

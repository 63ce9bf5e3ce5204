"""Numbers above or below one bound."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from declarative_dist.constraints.bounded import (
    Bound,
    Bounded,
    as_tensor_like,
    filled_with,
    written,
)
from declarative_dist.constraints.hold import clamp_result
from declarative_dist.constraints.positive import inverse_softplus, softplus
from declarative_dist.constraints.representable import (
    above_tensor,
    below_tensor,
    largest,
    widened,
)


class GreaterThan(Bounded):
    """Numbers above a bound: `low + softplus(raw)`, strictly above in every dtype.

    Args:
        low: a number, a tensor that broadcasts with the value, or the name of another field.

    Example:
        >>> import torch
        >>> from declarative_dist import GreaterThan
        >>> GreaterThan(1000.0)(torch.tensor(-1e30, dtype=torch.bfloat16)).item()
        1004.0
    """

    low: Any  # a Bound; a number or tensor wherever there is arithmetic

    def __init__(self, low: Bound) -> None:
        super().__init__(low=low)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.greater_than(self.low)

    def forward(self, raw: Tensor) -> Tensor:
        value = softplus(raw) + self.low
        if self.limits is not None:
            return clamp_result(value, *self.limits[raw.dtype])
        return torch.maximum(value, above_tensor(as_tensor_like(self.low, raw))).clamp_max(
            largest(raw.dtype)
        )

    def inverse(self, value: Tensor) -> Tensor:
        return inverse_softplus(widened(value) - self.low).to(value.dtype)

    def contains(self, value: Tensor) -> Tensor:
        return value.isfinite() & self._is_above(value, self.low)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return F.logsigmoid(raw)

    def default(self, shape: torch.Size) -> Tensor:
        return filled_with(self.low, shape) + 1

    def describe(self) -> str:
        return f"a finite number above {written(self.low)}"


class LessThan(Bounded):
    """Numbers below a bound: `high - softplus(raw)`, strictly below in every dtype.

    Args:
        high: a number, a tensor that broadcasts with the value, or the name of another field.

    Example:
        >>> import torch
        >>> from declarative_dist import LessThan
        >>> LessThan(0.0)(torch.tensor(0.0))
        tensor(-0.6931)
    """

    high: Any  # a Bound; a number or tensor wherever there is arithmetic

    def __init__(self, high: Bound) -> None:
        super().__init__(high=high)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.less_than(self.high)

    def forward(self, raw: Tensor) -> Tensor:
        value = self.high - softplus(raw)
        if self.limits is not None:
            return clamp_result(value, *self.limits[raw.dtype])
        return torch.minimum(value, below_tensor(as_tensor_like(self.high, raw))).clamp_min(
            -largest(raw.dtype)
        )

    def inverse(self, value: Tensor) -> Tensor:
        return inverse_softplus(self.high - widened(value)).to(value.dtype)

    def contains(self, value: Tensor) -> Tensor:
        return value.isfinite() & self._is_below(value, self.high)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return F.logsigmoid(raw)

    def default(self, shape: torch.Size) -> Tensor:
        return filled_with(self.high, shape) - 1

    def describe(self) -> str:
        return f"a finite number below {written(self.high)}"

"""Numbers between two bounds."""

from __future__ import annotations

import math
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
    is_ordered,
    written,
)
from declarative_dist.constraints.hold import clamp_result
from declarative_dist.constraints.representable import (
    Limits,
    above_tensor,
    below_tensor,
    largest,
    widened,
)
from declarative_dist.errors import ConstraintError


class Interval(Bounded):
    """Numbers between two bounds: `low + (high - low) * sigmoid(raw)`, never a bound itself.

    Args:
        low: a number, a tensor that broadcasts with the value, or the name of another field.
        high: likewise, above `low`.

    Raises:
        ConstraintError: if `low` is not below `high`.

    Example:
        >>> import torch
        >>> from declarative_dist import Interval
        >>> Interval(-1.0, 1.0)(torch.tensor(17.0)) < 1
        tensor(True)
    """

    low: Any  # a Bound; a number or tensor wherever there is arithmetic
    high: Any

    def __init__(self, low: Bound, high: Bound) -> None:
        super().__init__(low=low, high=high)
        if not self.names and not is_ordered(self.low, self.high):
            raise ConstraintError(
                type(self).__name__, "low below high", self.extra_repr(), code="bad-bounds"
            )

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.interval(self.low, self.high)

    def forward(self, raw: Tensor) -> Tensor:
        value = widened(raw).sigmoid() * (self.high - self.low) + self.low
        return self._inside(value.to(raw.dtype))

    def _inside(self, value: Tensor) -> Tensor:
        if self.limits is not None:
            return clamp_result(value, *self.limits[value.dtype])
        low, high = (as_tensor_like(bound, value) for bound in (self.low, self.high))
        return torch.minimum(torch.maximum(value, above_tensor(low)), below_tensor(high))

    def inverse(self, value: Tensor) -> Tensor:
        wide = widened(value)
        result: Tensor = ((wide - self.low).log() - (self.high - wide).log()).to(value.dtype)
        return result

    def contains(self, value: Tensor) -> Tensor:
        return self._is_above(value, self.low) & self._is_below(value, self.high)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        width = as_tensor_like(self.high - self.low, raw)
        return width.log() + F.logsigmoid(raw) + F.logsigmoid(-raw)

    def default(self, shape: torch.Size) -> Tensor:
        return filled_with(self.low, shape) / 2 + filled_with(self.high, shape) / 2

    def _has_room(self, dtype: torch.dtype) -> bool:
        if not super()._has_room(dtype) or self.names:
            return bool(self.names)
        if self.limits is not None:
            return float(self.high) - float(self.low) <= largest(dtype)
        low, high = (torch.as_tensor(bound).to(dtype) for bound in (self.low, self.high))
        if low.is_meta or high.is_meta:
            return True
        room = (above_tensor(low) <= below_tensor(high)) & (high - low).isfinite()
        return bool(room.all())

    def describe(self) -> str:
        return f"a number strictly between {written(self.low)} and {written(self.high)}"


class UnitInterval(Interval):
    """Probabilities: numbers strictly between 0 and 1.

    Example:
        >>> import torch
        >>> from declarative_dist import UnitInterval
        >>> UnitInterval()(torch.tensor([-1e4, 0.0, 1e4])) < 1
        tensor([True, True, True])
    """

    def __init__(self) -> None:
        super().__init__(0.0, 1.0)

    def extra_repr(self) -> str:
        return ""


class Probability(UnitInterval):
    """Probabilities within a narrower range per dtype.

    Args:
        limits: for each dtype the range `(low, high)`.
    """

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits = limits


class LogInterval(Interval):
    """Positive numbers between two bounds, learned through a bounded logarithm.

    The usual bounds of reinforcement learning on a log standard deviation, as bounds on the
    standard deviation: `log(value)` moves smoothly between `log(low)` and `log(high)`.

    Args:
        low: a positive number, tensor or the name of another field.
        high: likewise, above `low`.

    Raises:
        ConstraintError: if the bounds are not positive, or `low` is not below `high`.

    Example:
        >>> import torch
        >>> from declarative_dist import LogInterval
        >>> LogInterval(1e-3, 10.0)(torch.tensor(0.0))
        tensor(0.1000)
    """

    def __init__(self, low: Bound, high: Bound) -> None:
        super().__init__(low, high)
        if not isinstance(self.low, str) and not is_ordered(0.0, self.low):
            raise ConstraintError(
                "LogInterval", "a positive low", self.extra_repr(), code="bad-bounds"
            )

    def forward(self, raw: Tensor) -> Tensor:
        middle = _sqrt(self.low) * _sqrt(self.high)
        exponent = (widened(raw) / 2).tanh() * (self._log_width() / 2)
        return self._inside((exponent.exp() * middle).to(raw.dtype))

    def _log_width(self) -> float | Tensor:
        return _log(self.high) - _log(self.low)

    def inverse(self, value: Tensor) -> Tensor:
        wide = widened(value)
        above = _log_of_quotient(wide, self.low)
        below = _log_of_quotient(self.high, wide)
        raw: Tensor = above.log() - below.log()
        return raw.to(value.dtype)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        width = as_tensor_like(self._log_width(), raw)
        log_det: Tensor = value.log() + width.log() + F.logsigmoid(raw) + F.logsigmoid(-raw)
        return log_det

    def default(self, shape: torch.Size) -> Tensor:
        return filled_with(self.low, shape).sqrt() * filled_with(self.high, shape).sqrt()


def _log_of_quotient(over: Any, under: Any) -> Tensor:
    """`log(over / under)`, where the quotient is near one and where it leaves the dtype."""
    excess: Tensor = (over - under) / under
    far = torch.as_tensor(_log(over) - _log(under)).to(excess)
    return torch.where(excess < 1, excess.log1p(), far)


def _log(bound: float | Tensor) -> float | Tensor:
    return bound.log() if isinstance(bound, Tensor) else math.log(bound)


def _sqrt(bound: float | Tensor) -> float | Tensor:
    return bound.sqrt() if isinstance(bound, Tensor) else math.sqrt(bound)

"""Numbers between two bounds."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from declarative_dist.constraints.band import promote
from declarative_dist.constraints.scalar import (
    Bound,
    Scalar,
    as_tensor_like,
    expand_bound,
    is_true,
)
from declarative_dist.errors import ConstraintError, shorten
from declarative_dist.plain.tensors import HALF


class Interval(Scalar):
    """Numbers between two bounds: `low + (high - low) * sigmoid(raw)`, never a bound itself.

    Args:
        low: a number, an array or a tensor that broadcasts with the value, or a field's name.
        high: likewise, above `low`.

    Raises:
        ConstraintError: if `low` is not below `high`.

    Example:
        >>> import torch
        >>> from declarative_dist import Interval
        >>> Interval(-1.0, 1.0)(torch.tensor(17.0)) < 1
        tensor(True)
    """

    def __init__(self, low: Bound, high: Bound) -> None:
        super().__init__(low=low, high=high)
        self._check(self.low, self.high, "low below high")

    def _check(self, low: Bound, high: Bound, expected: str) -> None:
        try:
            is_fine, got = _are_ordered(low, high), self.extra_repr()
        except RuntimeError:  # of shapes that do not broadcast
            is_fine, expected = False, "bounds whose shapes broadcast together"
            got = f"{shorten(low)} and {shorten(high)}"
        if not is_fine:
            raise ConstraintError(type(self).__name__, expected, got, code="bad-bounds")

    def link(self, raw: Tensor) -> Tensor:
        return (promote(raw).sigmoid() * (self.high - self.low) + self.low).to(raw.dtype)

    def inverse(self, value: Tensor) -> Tensor:
        wide = promote(value)
        above, below = (wide - self.low).sqrt(), (self.high - wide).sqrt()
        return (2 * (above / below).log()).to(value.dtype)  # at the middle of any scale 0

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        width = as_tensor_like(self.high - self.low, raw)
        return width.log() + F.logsigmoid(raw) + F.logsigmoid(-raw)


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
        self._check(0.0, self.low, "a positive low")

    def link(self, raw: Tensor) -> Tensor:
        middle = _apply("sqrt", self.low) * _apply("sqrt", self.high)
        exponent = (promote(raw) / 2).tanh() * (self._log_width() / 2)
        return (exponent.exp() * middle).to(raw.dtype)

    def _has_room(self, dtype: torch.dtype, low: Any, high: Any) -> bool:
        info = torch.finfo(torch.float32 if dtype in HALF else dtype)
        if not is_true(self.low >= info.tiny):
            return False
        steepest = self._log_width() * self.high  # in backward, on the way to the gradient
        return is_true(steepest <= info.max) and super()._has_room(dtype, low, high)

    def _log_width(self) -> float | Tensor:
        return _log_of_quotient(self.high, self.low)

    def inverse(self, value: Tensor) -> Tensor:
        wide = promote(value)
        above = _log_of_quotient(wide, self.low)
        below = _log_of_quotient(self.high, wide)
        return (above.log() - below.log()).to(value.dtype)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        width = as_tensor_like(self._log_width(), raw)
        return value.log() + width.log() + F.logsigmoid(raw) + F.logsigmoid(-raw)

    def default(self, shape: torch.Size) -> Tensor:
        return expand_bound(self.low, shape).sqrt() * expand_bound(self.high, shape).sqrt()


def _are_ordered(low: Bound, high: Bound) -> bool:
    """Whether low is below high, as far as numbers and real tensors tell."""
    if isinstance(low, str) or isinstance(high, str):
        return True
    ordered = torch.as_tensor(low, dtype=torch.float64) < torch.as_tensor(
        high, dtype=torch.float64
    )
    return ordered.is_meta or bool(ordered.all())


def _log_of_quotient(over: Any, under: Any) -> Any:
    """`log(over / under)`, where the quotient is near one and where it leaves the dtype."""
    excess = (over - under) / under
    far = 2 * _apply("log", _apply("sqrt", over) / _apply("sqrt", under))
    if not isinstance(excess, Tensor):
        return math.log1p(excess) if excess < 1 else far
    return torch.where(excess < 1, excess.log1p(), far)


def _apply(function: str, bound: Any) -> Any:
    """A function of a bound, of the same name for tensors and for numbers."""
    if isinstance(bound, Tensor):
        return getattr(torch, function)(promote(bound))
    return getattr(math, function)(bound)

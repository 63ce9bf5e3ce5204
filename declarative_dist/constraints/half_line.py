"""All real numbers, and those above or below one bound."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from declarative_dist.constraints.band import (
    Guard,
    Limits,
    clamp_input,
    clamp_result,
    next_above,
    promote,
)
from declarative_dist.constraints.scalar import Bound, Scalar, as_number
from declarative_dist.errors import ConstraintError


def softplus(raw: Tensor) -> Tensor:
    """`log(1 + exp(raw))`, exact to the last digits.

    Above its threshold torch returns the raw number. In float64 its default of 20 is too low to be
    exact; in the narrower dtypes it is not, and `exp` of more could overflow with the gradient.
    """
    return F.softplus(raw, threshold=50) if raw.dtype is torch.float64 else F.softplus(raw)


def inverse_softplus(value: Tensor) -> Tensor:
    """The raw number whose softplus is this positive value, at any magnitude."""
    return value + (-torch.expm1(-value)).log()


class Real(Scalar):
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

    def __init__(self, *, limits: Limits | None = None) -> None:
        super().__init__()
        self.limits = limits

    def forward(self, raw: Tensor) -> Tensor:
        return raw if self.limits is None else clamp_input(raw, *self.limits_in(raw.dtype))

    def inverse(self, value: Tensor) -> Tensor:
        return value

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return torch.zeros_like(raw)

    def without_guard(self) -> Real:
        return Real()

    def advice(self, value: Tensor) -> str:
        return "" if self.limits is None else f"{self._describe_band(value.dtype)}."


class GreaterThan(Scalar):
    """Numbers above a bound: `low + softplus(raw)`, strictly above in every dtype.

    Args:
        low: a number, an array or a tensor that broadcasts with the value, or a field's name.

    Example:
        >>> import torch
        >>> from declarative_dist import GreaterThan
        >>> GreaterThan(1000.0)(torch.tensor(-1e30, dtype=torch.bfloat16)).item()
        1004.0
    """

    def __init__(self, low: Bound) -> None:
        super().__init__(low=low)

    def link(self, raw: Tensor) -> Tensor:
        return (softplus(raw) + self.low).to(raw.dtype)

    def inverse(self, value: Tensor) -> Tensor:
        return inverse_softplus(promote(value) - self.low).to(value.dtype)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return F.logsigmoid(raw)


class LessThan(Scalar):
    """Numbers below a bound: `high - softplus(raw)`, strictly below in every dtype.

    Args:
        high: a number, a tensor that broadcasts with the value, or the name of another field.

    Example:
        >>> import torch
        >>> from declarative_dist import LessThan
        >>> LessThan(0.0)(torch.tensor(0.0))
        tensor(-0.6931)
    """

    def __init__(self, high: Bound) -> None:
        super().__init__(high=high)

    def link(self, raw: Tensor) -> Tensor:
        return (self.high - softplus(raw)).to(raw.dtype)

    def inverse(self, value: Tensor) -> Tensor:
        return inverse_softplus(self.high - promote(value)).to(value.dtype)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return F.logsigmoid(raw)


class Positive(GreaterThan):
    """Positive numbers through softplus: `floor + log(1 + exp(raw))`.

    Close to linear for large values, so that steps of an optimizer do not explode. Every finite
    raw number gives a finite value above the floor, with a finite gradient.

    Args:
        floor: a strict lower bound, approached smoothly.
        guard: `True` keeps values where squares and reciprocals are finite, about
            `[1e-18, 1e18]` in float32, or narrower where the argument of a base needs it; `False`
            widens this to the dtype's range; a mapping from dtypes to `(low, high)` sets it.

    Example:
        >>> import torch
        >>> from declarative_dist import Positive
        >>> positive = Positive()
        >>> raw = positive.right_inverse(torch.tensor(2.0))
        >>> positive(raw)
        tensor(2.)
    """

    def __init__(self, *, floor: float = 0.0, guard: Guard = True) -> None:
        subject, expected = f"{type(self).__name__}(floor=)", "a finite number, 0 or above"
        number = as_number(floor, subject, expected)
        if number < 0:
            raise ConstraintError(subject, expected, repr(floor), code="bad-bounds")
        super().__init__(number)
        self.floor = number
        self.set_guard(guard)

    def link(self, raw: Tensor) -> Tensor:
        value = softplus(raw)
        return value + self.floor if self.floor else value

    def _set_band(self, band: Limits) -> None:
        self._set_limits(
            {d: (max(low, next_above(self.floor, d)), top) for d, (low, top) in band.items()}
        )

    def advice(self, value: Tensor) -> str:
        is_above = ((value > self.floor) & value.isfinite()).all()
        return super().advice(value) if is_above else f"Give a number above {self.floor:g}."

    def extra_repr(self) -> str:
        floor = f"floor={self.floor:g}" if self.floor else ""
        return ", ".join(filter(None, (floor, super().extra_repr())))


class Exp(Positive):
    """Positive numbers learned through their logarithm: `floor + exp(raw)`.

    A step of an optimizer multiplies the value. Every finite raw number gives a finite value
    above the floor, with a finite gradient: -104 and 89 in float32 as well, where a bare `exp`
    gives 0 and infinity.

    Args:
        floor: a strict lower bound, approached smoothly.
        guard: as for `Positive`.

    Example:
        >>> import torch
        >>> from declarative_dist import Exp
        >>> Exp()(torch.tensor([-200.0, 0.0, 200.0])).isfinite()
        tensor([True, True, True])
    """

    def _set_band(self, band: Limits) -> None:
        logs = {}
        for dtype, (low, high) in band.items():
            nearest = min(low, next_above(self.floor, dtype) - self.floor)
            least, most = max(low - self.floor, nearest), high - self.floor
            if least < most:
                logs[dtype] = -_round_down(-math.log(least)), _round_down(math.log(most))
        limits = {}
        for dtype, (low, high) in logs.items():
            rounding = 8 * torch.finfo(dtype).eps  # a few units more than what exp gives
            lowest = (math.exp(low) + self.floor) * (1 - rounding)
            lowest = max(lowest, next_above(self.floor, dtype))
            limits[dtype] = lowest, (math.exp(high) + self.floor) * (1 + rounding)
        self._set_limits(limits)
        self.raw_limits: Limits = {dtype: logs[dtype] for dtype in self.limits or ()}

    def forward(self, raw: Tensor) -> Tensor:
        low, high = self.raw_limits.get(raw.dtype) or self.limits_in(raw.dtype)
        value = clamp_input(raw, low, high).exp()  # autograd saves this: it is not changed later
        if not self.floor:
            return value
        return clamp_result(value + self.floor, *self.limits_in(raw.dtype))

    def inverse(self, value: Tensor) -> Tensor:
        return (promote(value) - self.floor).log().to(value.dtype)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return raw.clamp(*self.raw_limits[raw.dtype])


def _round_down(number: float) -> float:
    """A number at or below this one that is exact in every dtype, 1 below at most."""
    spacing = min(math.ldexp(1.0, math.frexp(number)[1] - 8), 1.0)
    return math.floor(number / spacing) * spacing


class Negative(LessThan):
    """Numbers below zero, as far from it and from infinity as `Positive` keeps.

    Example:
        >>> import torch
        >>> from declarative_dist.constraints.half_line import Negative
        >>> Negative()(torch.tensor(-1e4)) < 0
        tensor(True)
    """

    def __init__(self, *, guard: Guard = True) -> None:
        super().__init__(0.0)
        self.set_guard(guard)

    def _set_band(self, band: Limits) -> None:
        self._set_limits({dtype: (-high, -low) for dtype, (low, high) in band.items()})

    def describe(self) -> str:
        return "a finite negative number"

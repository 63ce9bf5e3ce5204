"""All real numbers, and those above or below one bound."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints
from typing_extensions import Self

from declarative_dist.constraints.clamping import clamp_input
from declarative_dist.constraints.representable import (
    GUARD,
    WIDEST,
    Limits,
    above,
    largest,
    promote,
)
from declarative_dist.constraints.scalar import Bound, Scalar, as_number, expand_bound
from declarative_dist.errors import ConstraintError, DeclarationError, shorten

Guard = bool | Limits


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

    support = constraints.real

    def __init__(self, *, limits: Limits | None = None) -> None:
        super().__init__()
        self.limits = limits

    def link(self, raw: Tensor) -> Tensor:
        return raw

    def forward(self, raw: Tensor) -> Tensor:
        return raw if self.limits is None else clamp_input(raw, *self._range(raw))

    def inverse(self, value: Tensor) -> Tensor:
        return value

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return torch.zeros_like(raw)

    def default(self, shape: torch.Size) -> Tensor:
        return torch.zeros(shape)

    def without_guard(self) -> Real:
        return Real()

    def describe(self) -> str:
        return "a finite number"

    def signature(self) -> str:
        return repr(self)

    def advice(self, value: Tensor) -> str:
        if self.limits is None:
            return ""
        low, high = self._range(value)
        return f"In {value.dtype} it must lie in [{low:g}, {high:g}]."


class GreaterThan(Scalar):
    """Numbers above a bound: `low + softplus(raw)`, strictly above in every dtype.

    Args:
        low: a number, a tensor that broadcasts with the value, or the name of another field.

    Example:
        >>> import torch
        >>> from declarative_dist import GreaterThan
        >>> GreaterThan(1000.0)(torch.tensor(-1e30, dtype=torch.bfloat16)).item()
        1004.0
    """

    def __init__(self, low: Bound) -> None:
        super().__init__(low=low)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.greater_than(self.low)

    def link(self, raw: Tensor) -> Tensor:
        value: Tensor = softplus(raw) + self.low
        return value

    def inverse(self, value: Tensor) -> Tensor:
        return inverse_softplus(promote(value) - self.low).to(value.dtype)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return F.logsigmoid(raw)

    def default(self, shape: torch.Size) -> Tensor:
        return expand_bound(self.low, shape) + 1


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

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.less_than(self.high)

    def link(self, raw: Tensor) -> Tensor:
        value: Tensor = self.high - softplus(raw)
        return value

    def inverse(self, value: Tensor) -> Tensor:
        return inverse_softplus(self.high - promote(value)).to(value.dtype)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return F.logsigmoid(raw)

    def default(self, shape: torch.Size) -> Tensor:
        return expand_bound(self.high, shape) - 1


class Guarded(GreaterThan):
    """Numbers above a floor, in a guard band where arithmetic stays finite.

    Args:
        floor: a strict lower bound, approached smoothly.
        guard: `True` keeps values where squares and reciprocals are finite, `False` widens this to
            the dtype's range, a mapping from dtypes to `(low, high)` sets it.
    """

    support: Any = constraints.positive

    def __init__(self, *, floor: float = 0.0, guard: Guard = True) -> None:
        subject, expected = f"{type(self).__name__}(floor=)", "a finite number, 0 or above"
        number = as_number(floor, subject, expected)
        if number < 0:
            raise ConstraintError(subject, expected, repr(floor), code="bad-bounds")
        super().__init__(number)
        self.floor = number
        if number:
            self.support = constraints.greater_than(number)
        self.guard = guard
        self._set_band(band_of(guard, f"{type(self).__name__}(guard=)"))

    def link(self, raw: Tensor) -> Tensor:
        value = softplus(raw)
        return value + self.floor if self.floor else value

    def with_band(self, band: Limits) -> Self:
        """The same map in the band of a certain argument, unless it was given one of its own."""
        if self.guard is not True:
            return self
        constraint = copy.copy(self)
        constraint._set_band(band)
        return constraint

    def without_guard(self) -> Self:
        constraint = copy.copy(self)
        constraint.guard = False
        constraint._set_band(WIDEST)
        return constraint

    def _set_band(self, band: Limits) -> None:
        """Note which values each dtype may take."""
        self.limits = {
            dtype: (self._above_floor(low, dtype), high) for dtype, (low, high) in band.items()
        }

    def _above_floor(self, low: float, dtype: torch.dtype) -> float:
        return max(low, above(self.floor, dtype)) if self.floor else low

    def default(self, shape: torch.Size) -> Tensor:
        return torch.full(shape, self.floor + 1.0)

    def describe(self) -> str:
        return super().describe() if self.floor else "a finite positive number"

    def advice(self, value: Tensor) -> str:
        low, high = self._range(value)
        if not ((value > self.floor) & value.isfinite()).all():
            return f"Give a number above {self.floor:g}."
        wider = "" if self.guard is False else "; guard=False widens this to the dtype's own range"
        return f"In {value.dtype} values are held in [{low:.3g}, {high:.3g}]{wider}."

    def extra_repr(self) -> str:
        floor = f"floor={self.floor:g}" if self.floor else ""
        guard = "guard=False" if self.guard is False else ""
        return ", ".join(filter(None, (floor, guard)))

    def signature(self) -> str:
        return repr(self)


class Positive(Guarded):
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


class Exp(Guarded):
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
        # Whole numbers, exact in every dtype.
        self.raw_limits: Limits = {
            dtype: (math.ceil(math.log(low)), math.floor(math.log(high)))
            for dtype, (low, high) in band.items()
        }
        self.limits = {
            dtype: self._values_between(dtype, math.exp(low), math.exp(high))
            for dtype, (low, high) in self.raw_limits.items()
        }

    def _values_between(self, dtype: torch.dtype, low: float, high: float) -> tuple[float, float]:
        """What values may be: a few units in the last place more than what exp gives."""
        rounding = 8 * torch.finfo(dtype).eps
        return self._above_floor(low * (1 - rounding), dtype), (high + self.floor) * (1 + rounding)

    def link(self, raw: Tensor) -> Tensor:
        return raw.exp() + self.floor

    def forward(self, raw: Tensor) -> Tensor:
        low, high = self.raw_limits.get(raw.dtype) or self._refuse_dtype(raw.dtype)
        value = clamp_input(raw, low, high).exp()  # autograd saves this: it is not changed later
        return self.clamp(value + self.floor) if self.floor else value

    def inverse(self, value: Tensor) -> Tensor:
        return (promote(value) - self.floor).log().to(value.dtype)

    def is_at_end(self, raw: Tensor) -> Tensor:
        low, high = self.raw_limits.get(raw.dtype) or self._refuse_dtype(raw.dtype)
        return (raw <= low) | (raw >= high)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return raw.clamp(*self.raw_limits[raw.dtype])


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
        band = band_of(guard, "Negative(guard=)")
        self.guard = guard
        self.limits = {dtype: (-high, -low) for dtype, (low, high) in band.items()}

    def without_guard(self) -> Negative:
        return Negative(guard=False)

    def default(self, shape: torch.Size) -> Tensor:
        return torch.full(shape, -1.0)

    def describe(self) -> str:
        return "a finite negative number"

    def advice(self, value: Tensor) -> str:
        return "Give a number below 0."

    def extra_repr(self) -> str:
        return "guard=False" if self.guard is False else ""

    def signature(self) -> str:
        return repr(self)


def band_of(guard: Any, subject: str) -> Limits:
    """The band that a `guard=` stands for.

    Raises:
        DeclarationError: if it is neither a switch nor a mapping from dtypes to positive ranges.
    """
    if isinstance(guard, bool):
        return GUARD if guard else WIDEST
    if isinstance(guard, Mapping) and guard and all(map(_is_range, guard.items())):
        return {dtype: (low, min(high, largest(dtype))) for dtype, (low, high) in guard.items()}
    raise DeclarationError(
        subject,
        "True, False, or for each dtype a pair of positive numbers in order",
        shorten(guard),
        "Write guard={torch.float32: (1e-6, 1e6)}, for instance.",
        code="bad-bounds",
    )


def _is_range(item: tuple[Any, Any]) -> bool:
    dtype, ends = item
    try:
        low, high = (float(end) for end in ends)
    except (TypeError, ValueError):
        return False
    return isinstance(dtype, torch.dtype) and dtype.is_floating_point and 0 < low < high < math.inf

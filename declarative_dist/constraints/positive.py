"""Positive numbers, learned through softplus or through their logarithm."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints
from typing_extensions import Self

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.hold import clamp_input, clamp_result
from declarative_dist.constraints.representable import (
    FLOATING,
    Limits,
    above,
    largest,
    widened,
)
from declarative_dist.errors import ConstraintError
from declarative_dist.plain.tracing import is_transforming

GUARD: Limits = {
    torch.float64: (1e-150, 1e150),
    torch.float32: (1e-18, 1e18),
    torch.bfloat16: (1e-18, 1e18),
    torch.float16: (1e-3, 1e4),
}
"""Where squares and reciprocals stay finite, and so do densities and their gradients."""

WIDEST: Limits = {dtype: (torch.finfo(dtype).tiny, largest(dtype)) for dtype in FLOATING}
"""All positive normal numbers of each dtype."""


def softplus(raw: Tensor) -> Tensor:
    """`log(1 + exp(raw))`, exact to the last digits.

    Above its threshold torch returns the raw number. In float64 its default of 20 is too low to be
    exact; in the narrower dtypes it is not, and `exp` of more could overflow with the gradient.
    """
    return F.softplus(raw, threshold=50) if raw.dtype is torch.float64 else F.softplus(raw)


def inverse_softplus(value: Tensor) -> Tensor:
    """The raw number whose softplus is this positive value, at any magnitude."""
    return value + (-torch.expm1(-value)).log()


class Guarded(Constraint):
    """Positive numbers above a floor, kept inside a band where arithmetic stays finite."""

    support: constraints.Constraint = constraints.positive

    def __init__(self, *, floor: float = 0.0, guard: bool | Limits = True) -> None:
        super().__init__()
        if not (math.isfinite(floor) and floor >= 0):
            raise ConstraintError(
                f"{type(self).__name__}(floor=)",
                "a finite number, 0 or above",
                repr(floor),
                code="bad-bounds",
            )
        self.floor = float(floor)
        if self.floor:
            self.support = constraints.greater_than(self.floor)
        self.guard = guard
        self._set_band(guard if not isinstance(guard, bool) else GUARD if guard else WIDEST)

    def guarded_by(self, band: Limits) -> Self:
        """The same map in the band of a certain argument, unless it was given one of its own."""
        if self.guard is not True:
            return self
        constraint = copy.copy(self)
        constraint._set_band(band)
        return constraint

    def _set_band(self, band: Limits) -> None:
        """Note which values each dtype may take."""
        self.limits: Limits = {
            dtype: (self._above_floor(low, dtype), high) for dtype, (low, high) in band.items()
        }

    def _above_floor(self, low: float, dtype: torch.dtype) -> float:
        return max(low, above(self.floor, dtype)) if self.floor else low

    def contains(self, value: Tensor) -> Tensor:
        low, high = self.limits[value.dtype]
        return (value >= low) & (value <= high)

    def default(self, shape: torch.Size) -> Tensor:
        return torch.full(shape, self.floor + 1.0)

    def check_dtype(self, dtype: torch.dtype, subject: str) -> None:
        low, high = self.limits[dtype]
        if low > high:
            raise ConstraintError(
                subject,
                f"a floor below {high:.6g}, the highest value in {dtype}",
                f"{self.floor:g}",
                "Use a wider dtype or a lower floor.",
                code="bad-bounds",
            )

    def describe(self) -> str:
        return (
            f"a finite number above {self.floor:g}" if self.floor else "a finite positive number"
        )

    def advice(self, value: Tensor) -> str:
        low, high = self.limits[value.dtype]
        if not ((value > self.floor) & value.isfinite()).all():
            return f"Give a number above {self.floor:g}."
        widen = "" if self.guard is False else "; guard=False widens this to the dtype's own range"
        return f"In {value.dtype} values are held in [{low:.3g}, {high:.3g}]{widen}."

    def extra_repr(self) -> str:
        floor = f"floor={self.floor:g}" if self.floor else ""
        guard = "guard=False" if self.guard is False else ""
        return ", ".join(filter(None, (floor, guard)))


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

    def forward(self, raw: Tensor) -> Tensor:
        value = softplus(raw)
        if self.floor:
            value = value + self.floor
        low, high = self.limits[value.dtype]
        if is_transforming():
            return clamp_result(value, low, high)
        value.data.clamp_(low, high)  # as in `clamp_result`, one call less
        return value

    def inverse(self, value: Tensor) -> Tensor:
        return inverse_softplus(widened(value) - self.floor).to(value.dtype)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return F.logsigmoid(raw)


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
            dtype: self._range(dtype, math.exp(low), math.exp(high))
            for dtype, (low, high) in self.raw_limits.items()
        }

    def _range(self, dtype: torch.dtype, low: float, high: float) -> tuple[float, float]:
        """What values may be: a few units in the last place more than what exp gives."""
        rounding = 8 * torch.finfo(dtype).eps
        return self._above_floor(low * (1 - rounding), dtype), (high + self.floor) * (1 + rounding)

    def forward(self, raw: Tensor) -> Tensor:
        value = clamp_input(raw, *self.raw_limits[raw.dtype]).exp()
        return clamp_result(value + self.floor, *self.limits[raw.dtype]) if self.floor else value

    def inverse(self, value: Tensor) -> Tensor:
        return (widened(value) - self.floor).log().to(value.dtype)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return raw.clamp(*self.raw_limits[raw.dtype])

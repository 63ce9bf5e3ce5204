"""Positive numbers, learned through softplus or through their logarithm."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.hold import held
from declarative_dist.constraints.representable import (
    FLOATING,
    Limits,
    above,
    largest,
    widened,
)
from declarative_dist.constraints.tracing import is_transforming
from declarative_dist.errors import ConstraintError

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
    """`log(1 + exp(raw))`, exact to the last digits: torch's default threshold of 20 is not."""
    return F.softplus(raw, threshold=50)


def inverse_softplus(value: Tensor) -> Tensor:
    """The raw number whose softplus is this positive value, at any magnitude."""
    return value + (-torch.expm1(-value)).log()


class _Guarded(Constraint):
    """Positive numbers above a floor, kept inside a band where arithmetic stays finite."""

    support = constraints.positive

    def __init__(self, *, floor: float = 0.0, guard: bool | Limits = True) -> None:
        super().__init__()
        if not (math.isfinite(floor) and floor >= 0):
            raise ConstraintError(
                f"{type(self).__name__}(floor=)", "a finite number, 0 or above", repr(floor)
            )
        self.floor = float(floor)
        self.guard = guard
        band = guard if not isinstance(guard, bool) else GUARD if guard else WIDEST
        self.limits: Limits = {
            dtype: (max(low, above(self.floor, dtype)) if floor else low, high)
            for dtype, (low, high) in band.items()
        }

    def contains(self, value: Tensor) -> Tensor:
        low, high = self.limits[value.dtype]
        return (value >= low) & (value <= high)

    def default(self, shape: torch.Size) -> Tensor:
        return torch.full(shape, self.floor + 1.0)

    def check_dtype(self, dtype: torch.dtype, subject: str) -> None:
        low, high = self.limits[dtype]
        if low > high:
            raise ConstraintError(
                subject, f"a floor below {high:.6g}, where {dtype} ends", repr(self.floor)
            )

    def describe(self) -> str:
        return f"a finite number above {self.floor:g}" if self.floor else "a finite positive number"

    def advice(self, value: Tensor) -> str:
        low, high = self.limits[value.dtype]
        band = f"In {value.dtype} this constraint holds [{low:.3g}, {high:.3g}]"
        if self.guard is False:
            return f"{band}."
        return f"{band}; guard=False widens it to the dtype's own range."

    def extra_repr(self) -> str:
        floor = f"floor={self.floor:g}" if self.floor else ""
        guard = "guard=False" if self.guard is False else ""
        return ", ".join(filter(None, (floor, guard)))


class Positive(_Guarded):
    """Positive numbers through softplus: `floor + log(1 + exp(raw))`.

    Close to linear for large values, so that steps of an optimizer do not explode. Every finite
    raw number gives a finite value above the floor, with a finite gradient.

    Args:
        floor: a strict lower bound, approached smoothly.
        guard: `True` keeps values where squares and reciprocals are finite, about
            `[1e-18, 1e18]` in float32; `False` widens this to the dtype's range; a mapping from
            dtypes to `(low, high)` sets it.

    Example:
        >>> import torch
        >>> from declarative_dist import Positive
        >>> positive = Positive()
        >>> raw = positive.right_inverse(torch.tensor(2.0))
        >>> positive(raw)
        tensor(2.)
    """

    def forward(self, raw: Tensor) -> Tensor:
        value = F.softplus(raw, threshold=50)
        if self.floor:
            value = value + self.floor
        low, high = self.limits[raw.dtype]
        return held(value, low, high)

    def inverse(self, value: Tensor) -> Tensor:
        return inverse_softplus(widened(value) - self.floor).to(value.dtype)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return F.logsigmoid(raw)


class Exp(_Guarded):
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

    def __init__(self, *, floor: float = 0.0, guard: bool | Limits = True) -> None:
        super().__init__(floor=floor, guard=guard)
        band = guard if not isinstance(guard, bool) else GUARD if guard else WIDEST
        # Whole numbers, exact in every dtype.
        self.raw_limits: Limits = {
            dtype: (math.ceil(math.log(low)), math.floor(math.log(high)))
            for dtype, (low, high) in band.items()
        }
        self.exp_limits: Limits = {
            dtype: (math.exp(low), math.exp(high)) for dtype, (low, high) in self.raw_limits.items()
        }
        self.limits = {
            dtype: self._with_rounding(torch.finfo(dtype).eps, floor, *self.exp_limits[dtype])
            for dtype, floor in ((d, low if self.floor else 0.0) for d, (low, _) in self.limits.items())
        }

    def _with_rounding(self, eps: float, floor: float, low: float, high: float) -> tuple[float, float]:
        """The range of values, a few units in the last place wider than exp's own."""
        return max(floor, low * (1 - 8 * eps)), (high + self.floor) * (1 + 8 * eps)

    def forward(self, raw: Tensor) -> Tensor:
        if is_transforming():
            value = held(raw, *self.raw_limits[raw.dtype]).exp()
        else:
            # As in `held`; where infinity is held in place it never meets a gradient.
            low, high = self.exp_limits[raw.dtype]
            value = raw.exp()
            value.data.clamp_(low, high)
        if not self.floor:
            return value
        return held(value + self.floor, *self.limits[raw.dtype])

    def inverse(self, value: Tensor) -> Tensor:
        return (widened(value) - self.floor).log().to(value.dtype)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        low, high = self.raw_limits[raw.dtype]
        return raw.clamp(low, high)

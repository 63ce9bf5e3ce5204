"""Numbers above, below or between bounds: numbers, tensors, or names of other fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints
from typing_extensions import Self

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.hold import held
from declarative_dist.constraints.positive import inverse_softplus, softplus
from declarative_dist.constraints.representable import (
    Limits,
    above_tensor,
    below_tensor,
    largest,
    limits_between,
    widened,
)
from declarative_dist.errors import ConstraintError, DeclarationError, shortened

Bound = float | Tensor | str


class Bounded(Constraint):
    """The shared part: where bounds are kept, and how names are replaced by values.

    A number stays a number and a name a name; a tensor becomes a persistent buffer, so that it
    moves, saves and loads with the module.
    """

    limits: Limits | None

    def __init__(self, **bounds: Bound) -> None:
        super().__init__()
        self._bounds = tuple(bounds)
        self.names = tuple(bound for bound in bounds.values() if isinstance(bound, str))
        for name, bound in bounds.items():
            self._keep(name, bound)
        self.limits = self._number_limits()

    def _keep(self, name: str, bound: Bound) -> None:
        subject = f"{type(self).__name__}({name}=)"
        if isinstance(bound, Tensor):
            if not bound.is_floating_point():
                bound = bound.to(torch.get_default_dtype())
            if not (bound.is_meta or bound.isfinite().all()):
                raise ConstraintError(subject, "finite bounds", shortened(bound))
            self.register_buffer(name, bound.detach().clone())
        elif isinstance(bound, str):
            setattr(self, name, bound)
        elif isinstance(bound, (int, float)) and not isinstance(bound, bool):
            if not math.isfinite(bound):
                raise ConstraintError(subject, "a finite bound", repr(bound))
            setattr(self, name, float(bound))
        else:
            raise DeclarationError(
                subject, "a number, a tensor or the name of a field", shortened(bound)
            )

    def _number_limits(self) -> Limits | None:
        """The values allowed per dtype, or None where a bound is no number."""
        bounds = [getattr(self, name) for name in self._bounds]
        if not all(isinstance(bound, float) for bound in bounds):
            return None
        return limits_between(*self._ends())

    def _ends(self) -> tuple[float, float]:
        return getattr(self, "low", -math.inf), getattr(self, "high", math.inf)

    def resolved(self, values: Mapping[str, Any]) -> Self:
        if not self.names:
            return self
        bounds = {}
        for name in self._bounds:
            bound = getattr(self, name)
            if isinstance(bound, str):
                bounds[name] = values[bound]
        return self.with_bounds(bounds)

    def with_bounds(self, bounds: Mapping[str, Any]) -> Self:
        """The same constraint with other bounds, as a light copy that compiles."""
        copy: Any = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.__dict__.update(bounds)
        copy.__dict__.update(names=(), limits=None)
        resolved: Self = copy
        return resolved

    def _is_above(self, value: Tensor, low: float | Tensor) -> Tensor:
        if self.limits is not None:
            return value >= self.limits[value.dtype][0]
        return value > low

    def _is_below(self, value: Tensor, high: float | Tensor) -> Tensor:
        if self.limits is not None:
            return value <= self.limits[value.dtype][1]
        return value < high

    def check_dtype(self, dtype: torch.dtype, subject: str) -> None:
        if not self._has_room(dtype):
            raise ConstraintError(
                subject,
                f"bounds with numbers of {dtype} strictly between",
                repr(self),
                "Use a wider dtype or a wider interval.",
            )

    def _has_room(self, dtype: torch.dtype) -> bool:
        if self.limits is not None:
            low, high = self.limits[dtype]
            return low <= high
        tensors = (
            bound for name in self._bounds if isinstance(bound := getattr(self, name), Tensor)
        )
        return all(bound.is_meta or bool(bound.to(dtype).isfinite().all()) for bound in tensors)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={_written(getattr(self, name))}" for name in self._bounds)


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
            return held(value, *self.limits[raw.dtype])
        return torch.maximum(value, above_tensor(_as_tensor(self.low, raw))).clamp_max(
            largest(raw.dtype)
        )

    def inverse(self, value: Tensor) -> Tensor:
        return inverse_softplus(widened(value) - self.low).to(value.dtype)

    def contains(self, value: Tensor) -> Tensor:
        return value.isfinite() & self._is_above(value, self.low)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return F.logsigmoid(raw)

    def default(self, shape: torch.Size) -> Tensor:
        return _filled(self.low, shape) + 1

    def describe(self) -> str:
        return f"a finite number above {_written(self.low)}"


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
            return held(value, *self.limits[raw.dtype])
        return torch.minimum(value, below_tensor(_as_tensor(self.high, raw))).clamp_min(
            -largest(raw.dtype)
        )

    def inverse(self, value: Tensor) -> Tensor:
        return inverse_softplus(self.high - widened(value)).to(value.dtype)

    def contains(self, value: Tensor) -> Tensor:
        return value.isfinite() & self._is_below(value, self.high)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return F.logsigmoid(raw)

    def default(self, shape: torch.Size) -> Tensor:
        return _filled(self.high, shape) - 1

    def describe(self) -> str:
        return f"a finite number below {_written(self.high)}"


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
        if not self.names and not _ordered(self.low, self.high):
            raise ConstraintError(type(self).__name__, "low below high", self.extra_repr())

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.interval(self.low, self.high)

    def forward(self, raw: Tensor) -> Tensor:
        value = widened(raw).sigmoid() * (self.high - self.low) + self.low
        return self._inside(value.to(raw.dtype))

    def _inside(self, value: Tensor) -> Tensor:
        if self.limits is not None:
            return held(value, *self.limits[value.dtype])
        low, high = (_as_tensor(bound, value) for bound in (self.low, self.high))
        return torch.minimum(torch.maximum(value, above_tensor(low)), below_tensor(high))

    def inverse(self, value: Tensor) -> Tensor:
        wide = widened(value)
        result: Tensor = ((wide - self.low).log() - (self.high - wide).log()).to(value.dtype)
        return result

    def contains(self, value: Tensor) -> Tensor:
        return self._is_above(value, self.low) & self._is_below(value, self.high)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        width = _as_tensor(self.high - self.low, raw)
        return width.log() + F.logsigmoid(raw) + F.logsigmoid(-raw)

    def default(self, shape: torch.Size) -> Tensor:
        return _filled(self.low, shape) / 2 + _filled(self.high, shape) / 2

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
        return f"a number strictly between {_written(self.low)} and {_written(self.high)}"


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
        if not isinstance(self.low, str) and not _ordered(0.0, self.low):
            raise ConstraintError("LogInterval", "a positive low", self.extra_repr())

    def forward(self, raw: Tensor) -> Tensor:
        middle = _sqrt(self.low) * _sqrt(self.high)
        exponent = (widened(raw) / 2).tanh() * (self._log_width() / 2)
        return self._inside((exponent.exp() * middle).to(raw.dtype))

    def _log_width(self) -> float | Tensor:
        return _log(self.high) - _log(self.low)

    def inverse(self, value: Tensor) -> Tensor:
        wide = widened(value)
        raw: Tensor = (wide / self.low).log().log() - (self.high / wide).log().log()
        return raw.to(value.dtype)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        width = _as_tensor(self._log_width(), raw)
        log_det: Tensor = value.log() + width.log() + F.logsigmoid(raw) + F.logsigmoid(-raw)
        return log_det

    def default(self, shape: torch.Size) -> Tensor:
        return (_filled(self.low, shape) * _filled(self.high, shape)).sqrt()


def _as_tensor(bound: object, like: Tensor) -> Tensor:
    if isinstance(bound, Tensor):
        return bound.to(like.dtype)
    return torch.as_tensor(bound, dtype=like.dtype, device=like.device)


def _ordered(low: Bound, high: Bound) -> bool:
    """Whether low is below high, as far as numbers and real tensors tell."""
    ordered = torch.as_tensor(low) < torch.as_tensor(high)
    return True if ordered.is_meta else bool(ordered.all())


def _filled(bound: Bound, shape: torch.Size) -> Tensor:
    """The bound as a tensor of a shape, where names count as 0."""
    if isinstance(bound, Tensor):
        return bound.expand(shape)
    return torch.full(shape, 0.0 if isinstance(bound, str) else bound)


def _log(bound: float | Tensor) -> float | Tensor:
    return bound.log() if isinstance(bound, Tensor) else math.log(bound)


def _sqrt(bound: float | Tensor) -> float | Tensor:
    return bound.sqrt() if isinstance(bound, Tensor) else math.sqrt(bound)


def _written(bound: object) -> str:
    if isinstance(bound, Tensor):
        return repr(bound.item()) if bound.ndim == 0 and not bound.is_meta else "a tensor"
    return repr(bound)

"""Sets of single numbers: two ends, a smooth map between them, and a band in every dtype.

What the constraints of single numbers share is here: which ends they take, where values are
clamped, what counts as inside, and what messages say. A constraint adds its `link`, the smooth map
from all real numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real as RealNumber
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from typing_extensions import Self

from declarative_dist.constraints.band import (
    WIDEST,
    Limits,
    clamp_result,
    limits_between,
    promote,
)
from declarative_dist.constraints.constraint import Constraint
from declarative_dist.errors import ConstraintError, DeclarationError, shorten
from declarative_dist.plain.tensors import as_tensor, is_array
from declarative_dist.plain.tracing import is_transforming

Bound = float | Tensor | str


class Scalar(Constraint):
    """Numbers strictly between two ends, held in a band of the dtype's numbers inside.

    An end that is a number stays one, and a name stays a name; a tensor becomes a persistent
    buffer, so that it moves, saves and loads with the module.

    Args:
        bounds: the ends that are finite, under the names `low` and `high`.
    """

    low: float | Tensor  # or a name, where there is no arithmetic yet
    high: float | Tensor

    def __init__(self, **bounds: Bound) -> None:
        super().__init__()
        self._bounds = tuple(bounds)
        self.names = tuple(bound for bound in bounds.values() if isinstance(bound, str))
        for name, bound in {"low": -math.inf, "high": math.inf, **bounds}.items():
            if name in bounds and not isinstance(bound, str):
                bound = _check_bound(bound, f"{type(self).__name__}({name}=)")
            if isinstance(bound, Tensor):
                self.register_buffer(name, bound)
            else:
                setattr(self, name, bound)
        if isinstance(self.low, float) and isinstance(self.high, float):
            self._set_limits(limits_between(self.low, self.high))

    @property
    def event_dim(self) -> int:
        return 0

    def link(self, raw: Tensor) -> Tensor:
        """The smooth map between the ends, as the output of an operation of its own.

        Rounding may reach an end here; `forward` moves the result into the band.
        """
        raise NotImplementedError

    def forward(self, raw: Tensor) -> Tensor:
        band = self.limits.get(raw.dtype) if self.limits else None
        ends = band or self._range(raw)
        if not band or is_transforming():  # wide, for a gradient is lost where half overflows
            return clamp_result(self.link(promote(raw)), *ends).to(raw.dtype)
        value = self.link(raw)
        value.data.clamp_(*band)  # as in `clamp_result`, one call less where it is read most
        return value

    def _range(self, like: Tensor) -> tuple[float | Tensor, float | Tensor]:
        """The smallest and the largest value allowed, in the dtype of a tensor."""
        if self.limits is not None:
            return self.limits_in(like.dtype)
        if self.names:
            subject, expected = type(self).__name__, "numbers or tensors as bounds"
            got = f"the names of fields {', '.join(map(repr, self.names))}"
            fix = f"Give their values: constraint.resolved({{{self.names[0]!r}: ...}})."
            raise ConstraintError(subject, expected, got, fix, code="missing-value")
        low, high = self.low, self.high
        top = torch.finfo(like.dtype).max
        return (
            -top if is_open(low) else _step(as_tensor_like(low, like).detach(), 1),
            top if is_open(high) else _step(as_tensor_like(high, like).detach(), -1),
        )

    def contains(self, value: Tensor) -> Tensor:
        if self.limits is not None:
            lowest, highest = self.limits_in(value.dtype)
            return (value >= lowest) & (value <= highest)
        inside = value.isfinite()
        if not is_open(self.low):
            inside = inside & (value > self.low)
        return inside if is_open(self.high) else inside & (value < self.high)

    def resolved(self, values: Mapping[str, Any]) -> Self:
        if not self.names:
            return self
        bounds = {name: getattr(self, name) for name in self._bounds}
        return self.with_bounds({n: values[b] for n, b in bounds.items() if isinstance(b, str)})

    def with_bounds(self, bounds: Mapping[str, Any]) -> Self:
        """The same constraint with other bounds, as a light copy that compiles."""
        light: Self = object.__new__(type(self))
        vars(light).update({**vars(self), **bounds, "names": (), "limits": None})
        return light

    def check_dtype(self, dtype: torch.dtype, subject: str) -> None:
        super().check_dtype(dtype, subject)
        if self.limits is not None or self.names or any(b.is_meta for b in self.buffers()):
            return
        ends = self._range(torch.zeros((), dtype=dtype, device="cpu"))
        low, high = (end.double().cpu() if isinstance(end, Tensor) else end for end in ends)
        if not self._has_room(dtype, low, high):
            self._refuse(dtype, subject)

    def limits_in(self, dtype: torch.dtype, subject: str = "") -> tuple[float, float]:
        names = self.guard if isinstance(self.guard, Mapping) else WIDEST
        if self.limits is not None and dtype in names and dtype not in self.limits:
            self._refuse(dtype, subject or type(self).__name__)
        return super().limits_in(dtype, subject)

    def _refuse(self, dtype: torch.dtype, subject: str) -> None:
        expected = f"bounds with numbers of {dtype} strictly between"
        fix = "Use a wider dtype or a wider interval."
        bounds = ((name, getattr(self, name)) for name in self._bounds)
        many = [f"{n}={shorten(b)}" for n, b in bounds if isinstance(b, Tensor) and b.ndim]
        got = " with ".join([repr(self), ", ".join(many)] if many else [repr(self)])
        raise ConstraintError(subject, expected, got, fix, code="bad-bounds")

    def _set_limits(self, limits: Limits) -> None:
        """Hold numbers between these ends, in every dtype that has numbers there."""
        self.limits = {
            dtype: ends for dtype, ends in limits.items() if self._has_room(dtype, *ends)
        }

    def _has_room(self, dtype: torch.dtype, low: Any, high: Any) -> bool:
        """Whether a dtype has numbers from the lowest to the highest, and all that maps need."""
        top = torch.finfo(dtype).max
        fits = (low <= high) & (abs(low) <= top) & (abs(high) <= top)
        if len(self._bounds) == 2:
            fits = fits & (high - low <= top)
        return is_true(fits)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        if is_open(self.high):
            return constraints.real if is_open(self.low) else constraints.greater_than(self.low)
        if is_open(self.low):
            return constraints.less_than(self.high)
        return constraints.interval(self.low, self.high)

    def default(self, shape: torch.Size) -> Tensor:
        if is_open(self.high):
            return torch.zeros(shape) if is_open(self.low) else expand_bound(self.low, shape) + 1
        if is_open(self.low):
            return expand_bound(self.high, shape) - 1
        return expand_bound(self.low, shape) / 2 + expand_bound(self.high, shape) / 2

    def describe(self) -> str:
        low, high = (_format_bound(bound) for bound in (self.low, self.high))
        if is_open(self.high):
            above = {"-inf": "a finite number", "0.0": "a finite positive number"}
            return above.get(low, f"a finite number above {low}")
        if is_open(self.low):
            return f"a finite number below {high}"
        return f"a number strictly between {low} and {high}"

    def extra_repr(self) -> str:
        if self.guard is not None:
            return super().extra_repr()
        return ", ".join(f"{name}={_format_bound(getattr(self, name))}" for name in self._bounds)

    def signature(self) -> str:
        if not self._buffers:
            return f"{type(self).__name__}({self.extra_repr()})"
        # A tensor bound is part of the state itself.
        bounds = [(name, getattr(self, name)) for name in self._bounds]
        texts = [f"{n}={'tensor' if isinstance(b, Tensor) else repr(b)}" for n, b in bounds]
        return f"{type(self).__name__}({', '.join(texts)})"


def _check_bound(bound: object, subject: str) -> float | Tensor:
    """A bound as a float, or as a floating-point tensor of its own.

    Raises:
        DeclarationError: if it is none, learns, or holds no real numbers.
        ConstraintError: if a number is infinite or NaN.
    """
    if is_array(bound) and not isinstance(bound, Tensor):
        try:
            bound = as_tensor(bound)
        except (TypeError, ValueError) as error:
            got = f"{shorten(bound)} ({error})"
            raise DeclarationError(subject, "real numbers", got, code="bad-bounds") from error
    if not isinstance(bound, Tensor):
        return as_number(bound, subject)
    if bound.requires_grad:
        expected, got = "a bound that does not learn", f"{shorten(bound)}, which needs a gradient"
        fix = "Declare it as a field and write its name here, or give bound.detach()."
        raise DeclarationError(subject, expected, got, fix, code="bad-bounds")
    own = bound.detach().clone()
    if own.is_complex() or own.dtype is torch.bool or own.layout is not torch.strided:
        raise DeclarationError(subject, "real numbers", shorten(bound), code="bad-bounds")
    if not own.is_meta and not own.isfinite().all():
        raise ConstraintError(subject, "finite bounds", shorten(bound), code="bad-bounds")
    return own if own.is_floating_point() else own.double()


def as_number(bound: object, subject: str, expected: str = "") -> float:
    """A bound that is a number, of Python or NumPy, as a float.

    Raises:
        DeclarationError: if it is none.
        ConstraintError: if it is infinite or NaN.
    """
    if not isinstance(bound, RealNumber) or isinstance(bound, bool):
        expected = expected or "a number, a tensor or the name of a field"
        raise DeclarationError(subject, expected, shorten(bound), code="bad-bounds")
    try:
        number = float(bound)
    except OverflowError:  # an int beyond all floats
        number = math.inf
    if math.isfinite(number):
        return number
    expected = expected or "a finite bound"
    raise ConstraintError(subject, expected, shorten(bound), code="bad-bounds")


def _step(bound: Tensor, sign: int) -> Tensor:
    """Numbers of the dtype strictly above a tensor of bounds, or below for a sign of -1."""
    info = torch.finfo(bound.dtype)
    return bound + sign * (bound.abs() * info.eps).clamp_min(info.tiny)


def is_true(comparison: Any) -> bool:
    """Whether a comparison of bounds holds, of numbers or of all entries of tensors."""
    return bool(comparison.all() if isinstance(comparison, Tensor) else comparison)


def is_open(bound: Any) -> bool:
    """Whether there is no end on this side."""
    return isinstance(bound, float) and math.isinf(bound)


def as_tensor_like(bound: Any, like: Tensor) -> Tensor:
    """The bound as a tensor of another's dtype; a number goes to its device too."""
    if isinstance(bound, Tensor):
        return bound.to(like.dtype)
    return torch.as_tensor(bound, dtype=like.dtype, device=like.device)


def expand_bound(bound: Bound, shape: torch.Size) -> Tensor:
    """The bound as a tensor of a shape; names count as 0.

    A number is in float64 where the default dtype would round it.
    """
    if isinstance(bound, Tensor):
        return bound.expand(shape)
    number = 0.0 if isinstance(bound, str) else float(bound)
    is_rounded = torch.tensor(number, device="cpu").item() != number
    return torch.full(shape, number, dtype=torch.float64 if is_rounded else None)


def _format_bound(bound: object) -> str:
    if isinstance(bound, Tensor):
        return repr(bound.item()) if bound.ndim == 0 and not bound.is_meta else "a tensor"
    return repr(bound)

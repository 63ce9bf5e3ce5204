"""Sets of single numbers: two ends, a smooth map between them, and a band in every dtype.

What the constraints of single numbers share is here: which ends they take, where values are
clamped, what counts as inside, and what messages say. A constraint adds its `link`, the smooth map
from all real numbers.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Never, Self

from declarative_dist.constraints.clamping import clamp_result
from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.representable import (
    FLOATING,
    Limits,
    above_tensor,
    below_tensor,
    floating,
    largest,
    limits_between,
)
from declarative_dist.errors import ConstraintError, DeclarationError, shorten
from declarative_dist.plain.tracing import is_transforming

Bound = float | Tensor | str


class Scalar(Constraint):
    """Numbers strictly between two ends, held in a band of the dtype's numbers inside.

    An end that is a number stays one, and a name stays a name; a tensor becomes a persistent
    buffer, so that it moves, saves and loads with the module.

    Args:
        bounds: the ends that are finite, under the names `low` and `high`.
    """

    low: Any  # a Bound; a number or tensor wherever there is arithmetic
    high: Any
    limits: Limits | None
    """For each dtype the range that values are held in; None where an end is a tensor."""

    def __init__(self, **bounds: Bound) -> None:
        super().__init__()
        self._bounds = tuple(bounds)
        self.names = tuple(bound for bound in bounds.values() if isinstance(bound, str))
        for name, infinite in (("low", -math.inf), ("high", math.inf)):
            if name in bounds:
                self._set_bound(name, bounds[name])
            else:
                setattr(self, name, infinite)
        has_numbers = isinstance(self.low, float) and isinstance(self.high, float)
        self.limits = limits_between(self.low, self.high) if has_numbers else None

    def _set_bound(self, name: str, bound: object) -> None:
        subject = f"{type(self).__name__}({name}=)"
        if isinstance(bound, str):
            setattr(self, name, bound)
        elif isinstance(bound, Tensor):
            self.register_buffer(name, _check_tensor(bound, subject).detach().clone())
        else:
            setattr(self, name, as_number(bound, subject))

    @abstractmethod
    def link(self, raw: Tensor) -> Tensor:
        """The smooth map between the ends, as the output of an operation of its own.

        Rounding may reach an end here; `forward` moves the result into the band.
        """

    def forward(self, raw: Tensor) -> Tensor:
        if self.limits is None and self.names:
            self._refuse_names()
        value = self.link(raw)
        if self.limits is None or is_transforming():
            return self.clamp(value)
        low, high = self.limits.get(value.dtype) or self._refuse_dtype(value.dtype)
        value.data.clamp_(low, high)  # as in `clamp_result`, one call less
        return value

    def clamp(self, value: Tensor) -> Tensor:
        """Values moved into the band, with their gradient."""
        return clamp_result(value, *self._range(value))

    def _range(self, like: Tensor) -> tuple[Any, Any]:
        """The smallest and the largest value allowed, in the dtype of a tensor."""
        if self.limits is not None:
            return self.limits.get(like.dtype) or self._refuse_dtype(like.dtype)
        top = largest(like.dtype)
        low, high = (as_tensor_like(bound, like).detach() for bound in (self.low, self.high))
        return (
            -top if is_open(self.low) else above_tensor(low),
            top if is_open(self.high) else below_tensor(high),
        )

    def _refuse_names(self) -> Never:
        raise ConstraintError(
            type(self).__name__,
            "numbers or tensors as bounds",
            f"the names of fields {', '.join(map(repr, self.names))}",
            f"Give their values: constraint.resolved({{{self.names[0]!r}: ...}}).",
            code="missing-value",
        )

    def _refuse_dtype(self, dtype: torch.dtype) -> tuple[float, float]:
        known = ", ".join(map(str, self.limits or ()))
        raise ConstraintError(
            type(self).__name__,
            f"one of {known}" if known else "a floating-point tensor",
            str(dtype),
            "Add that dtype to guard=, or use another." if dtype in FLOATING else "",
            code="dtype-or-device",
        )

    def contains(self, value: Tensor) -> Tensor:
        if self.limits is not None:
            lowest, highest = self.limits.get(value.dtype) or self._refuse_dtype(value.dtype)
            return (value >= lowest) & (value <= highest)
        inside: Tensor = value.isfinite() & (value > self.low) & (value < self.high)
        return inside

    def is_at_end(self, raw: Tensor) -> Tensor:
        value = self.forward(raw)
        low, high = self._range(value)
        at_end: Tensor = (value <= low) | (value >= high)
        return at_end

    def resolved(self, values: Mapping[str, Any]) -> Self:
        if not self.names:
            return self
        bounds = {name: getattr(self, name) for name in self._bounds}
        return self.with_bounds(
            {name: values[bound] for name, bound in bounds.items() if isinstance(bound, str)}
        )

    def with_bounds(self, bounds: Mapping[str, Any]) -> Self:
        """The same constraint with other bounds, as a light copy that compiles."""
        light: Any = object.__new__(type(self))
        light.__dict__.update(self.__dict__)
        light.__dict__.update(bounds)
        light.__dict__.update(names=(), limits=None)
        resolved: Self = light
        return resolved

    def check_dtype(self, dtype: torch.dtype, subject: str) -> None:
        if self.limits is not None and dtype not in self.limits:
            raise ConstraintError(
                subject, f"a guard for {dtype}", repr(self), "Add it to guard=.", code="bad-bounds"
            )
        if not self._has_room(dtype):
            raise ConstraintError(
                subject,
                f"bounds with numbers of {dtype} strictly between",
                repr(self),
                "Use a wider dtype or a wider interval.",
                code="bad-bounds",
            )

    def _has_room(self, dtype: torch.dtype) -> bool:
        if self.names:
            return True
        if self.limits is not None:
            lowest, highest = self.limits[dtype]
            return lowest <= highest
        if any(bound.is_meta for bound in self.buffers()):
            return True
        ends = self._range(torch.zeros((), dtype=dtype, device="cpu"))
        low, high = (torch.as_tensor(end, dtype=torch.float64, device="cpu") for end in ends)
        return bool((low <= high).all() and low.isfinite().all() and high.isfinite().all())

    def describe(self) -> str:
        low, high = (format_bound(bound) for bound in (self.low, self.high))
        if is_open(self.low):
            return f"a finite number below {high}"
        if is_open(self.high):
            return f"a finite number above {low}"
        return f"a number strictly between {low} and {high}"

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={format_bound(getattr(self, name))}" for name in self._bounds)

    def signature(self) -> str:
        # A tensor bound is part of the state itself.
        bounds = [(name, getattr(self, name)) for name in self._bounds]
        texts = [f"{n}={'tensor' if isinstance(b, Tensor) else repr(b)}" for n, b in bounds]
        return f"{type(self).__name__}({', '.join(texts)})"


def as_number(bound: object, subject: str, expected: str = "") -> float:
    """A bound that is a number, of Python or NumPy, as a float.

    Raises:
        DeclarationError: if it is none.
        ConstraintError: if it is infinite or NaN.
    """
    if not isinstance(bound, Real) or isinstance(bound, bool):
        expected = expected or "a number, a tensor or the name of a field"
        raise DeclarationError(subject, expected, shorten(bound), code="bad-bounds")
    if not math.isfinite(bound):
        expected = expected or "a finite bound"
        raise ConstraintError(subject, expected, repr(bound), code="bad-bounds")
    return float(bound)


def _check_tensor(bound: Tensor, subject: str) -> Tensor:
    """A bound that is a tensor, in a floating-point dtype.

    Raises:
        DeclarationError: if it learns, or holds no real numbers.
        ConstraintError: if one of them is infinite or NaN.
    """
    if bound.requires_grad:
        raise DeclarationError(
            subject,
            "a bound that does not learn",
            f"{shorten(bound)}, which requires a gradient",
            "Declare it as a field and write its name here, or give bound.detach() as a constant.",
            code="bad-bounds",
        )
    if bound.is_complex() or bound.dtype is torch.bool or bound.layout is not torch.strided:
        raise DeclarationError(subject, "real numbers", shorten(bound), code="bad-bounds")
    if not (bound.is_meta or bound.isfinite().all()):
        raise ConstraintError(subject, "finite bounds", shorten(bound), code="bad-bounds")
    return floating(bound)


def is_open(bound: Any) -> bool:
    """Whether there is no end on this side."""
    return isinstance(bound, float) and math.isinf(bound)


def as_tensor_like(bound: Any, like: Tensor) -> Tensor:
    """The bound as a tensor of another's dtype; a number goes to its device too."""
    if isinstance(bound, Tensor):
        return bound.to(like.dtype)
    return torch.as_tensor(bound, dtype=like.dtype, device=like.device)


def expand_bound(bound: Bound, shape: torch.Size) -> Tensor:
    """The bound as a tensor of a shape, where names count as 0."""
    if isinstance(bound, Tensor):
        return bound.expand(shape)
    number = 0.0 if isinstance(bound, str) else float(bound)
    is_large = abs(number) > torch.finfo(torch.get_default_dtype()).max
    return torch.full(shape, number, dtype=torch.float64 if is_large else None)


def format_bound(bound: object) -> str:
    """The bound as messages show it."""
    if isinstance(bound, Tensor):
        return repr(bound.item()) if bound.ndim == 0 and not bound.is_meta else "a tensor"
    return repr(bound)

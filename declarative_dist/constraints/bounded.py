"""Constraints with bounds: numbers, tensors, or names of other fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.representable import (
    Limits,
    above_tensor,
    floating,
    limits_between,
)
from declarative_dist.errors import ConstraintError, DeclarationError, shorten

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
            bound = floating(bound)
            if not (bound.is_meta or bound.isfinite().all()):
                raise ConstraintError(subject, "finite bounds", shorten(bound), code="bad-bounds")
            self.register_buffer(name, bound.detach().clone())
        elif isinstance(bound, str):
            setattr(self, name, bound)
        elif isinstance(bound, (int, float)) and not isinstance(bound, bool):
            if not math.isfinite(bound):
                raise ConstraintError(subject, "a finite bound", repr(bound), code="bad-bounds")
            setattr(self, name, float(bound))
        else:
            raise DeclarationError(
                subject,
                "a number, a tensor or the name of a field",
                shorten(bound),
                code="bad-bounds",
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
                code="bad-bounds",
            )

    def _has_room(self, dtype: torch.dtype) -> bool:
        if self.limits is not None:
            low, high = self.limits[dtype]
            return low <= high
        bounds = [getattr(self, name) for name in self._bounds]
        return all(
            bound.is_meta or bool(above_tensor(bound.to(dtype).abs()).isfinite().all())
            for bound in bounds
            if isinstance(bound, Tensor)
        )

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={written(getattr(self, name))}" for name in self._bounds)

    def signature(self) -> str:
        # A tensor bound is part of the state itself.
        bounds = {name: getattr(self, name) for name in self._bounds}
        kept = [f"{n}={'tensor' if isinstance(b, Tensor) else repr(b)}" for n, b in bounds.items()]
        return f"{type(self).__name__}({', '.join(kept)})"


def as_tensor_like(bound: Any, like: Tensor) -> Tensor:
    """The bound as a tensor of another's dtype; a number goes to its device too."""
    if isinstance(bound, Tensor):
        return bound.to(like.dtype)
    return torch.as_tensor(bound, dtype=like.dtype, device=like.device)


def is_ordered(low: Bound, high: Bound) -> bool:
    """Whether low is below high, as far as numbers and real tensors tell."""
    ordered = torch.as_tensor(low) < torch.as_tensor(high)
    return True if ordered.is_meta else bool(ordered.all())


def filled_with(bound: Bound, shape: torch.Size) -> Tensor:
    """The bound as a tensor of a shape, where names count as 0."""
    if isinstance(bound, Tensor):
        return bound.expand(shape)
    number = 0.0 if isinstance(bound, str) else float(bound)
    is_large = abs(number) > torch.finfo(torch.get_default_dtype()).max
    return torch.full(shape, number, dtype=torch.float64 if is_large else None)


def written(bound: object) -> str:
    """The bound as it is shown in messages."""
    if isinstance(bound, Tensor):
        return repr(bound.item()) if bound.ndim == 0 and not bound.is_meta else "a tensor"
    return repr(bound)

"""What the checks of a constraint share: the constraint, and what to try it on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.testing.promise import Trial, show
from declarative_dist.testing.raw_numbers import extreme, moderate


@dataclass(frozen=True)
class ConstraintTrial(Trial):
    """A constraint on trial; its arguments are those of `check_constraint`."""

    constraint: Constraint
    shape: torch.Size
    dtypes: tuple[torch.dtype, ...]
    raw_limit: float
    round_trip: float
    coordinates: Callable[[Tensor], Tensor] | None

    @property
    def name(self) -> str:
        return type(self.constraint).__name__

    @property
    def is_elementwise(self) -> bool:
        return not (self.constraint.event_dim or self.constraint.raw_event_dim)

    @property
    def raw_shape(self) -> torch.Size:
        """The shape of the raw numbers of one value."""
        return torch.Size(self.constraint.raw_shape(self.shape))

    @property
    def wide(self) -> tuple[torch.dtype, ...]:
        """The dtypes in which matrices and sums can be judged."""
        return tuple(dtype for dtype in self.dtypes if torch.finfo(dtype).bits >= 32)

    def built(self, dtype: torch.dtype = torch.float64) -> Constraint:
        """A copy in a dtype, on the CPU."""
        return copy.deepcopy(self.constraint).to("cpu", dtype)

    def extreme(self, dtype: torch.dtype) -> Tensor:
        """Raw numbers at which careless maps break, of shape `(count, *raw_shape)`."""
        return extreme(self.raw_shape, dtype, self.raw_limit)

    def moderate(
        self, dtype: torch.dtype = torch.float64, count: int = 20, spread: float = 1.0
    ) -> Tensor:
        """Ordinary raw numbers, of shape `(count, *raw_shape)`."""
        return moderate((count, *self.raw_shape), dtype, self.raw_limit, spread)

    def demand(
        self, kept: Tensor, member: str, expected: str, raw: Tensor, got: Tensor, fix: str
    ) -> None:
        """Refuse the first raw number for which a promise is not kept.

        Args:
            kept: whether it is, of shape `(*batch)`.
            member: which member is to blame.
            expected: what is promised.
            raw: raw numbers, `(*batch, *raw_event)`.
            got: what came of them, `(*batch, ...)`.
            fix: what to do.
        """
        if kept.all():
            return
        first = tuple((~kept).nonzero()[0].tolist())
        came = f"{show(got[first])} for {_numbers_of(raw[first])} in {raw.dtype}"
        raise self.broken(member, expected, came, fix)


def _numbers_of(raw: Tensor) -> str:
    return f"the raw number{'s' if raw.ndim else ''} {show(raw)}"

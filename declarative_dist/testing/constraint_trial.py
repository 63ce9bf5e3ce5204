"""What the checks of a constraint share: the constraint, and what to try it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.testing.promise import Trial, show

RANK_TOLERANCE = 1e-9
"""The share of a row that must be new, for the row to count as independent of those above."""


@dataclass(frozen=True)
class ConstraintTrial(Trial):
    """A constraint on trial; its arguments are as in `check_constraint`."""

    subject: Constraint
    shape: torch.Size
    dtypes: tuple[torch.dtype, ...]
    raw_limit: float
    round_trip: float
    coordinates: Callable[[Tensor], Tensor] | None

    fitting = (
        "Batch dimensions come first; raw_shape, value_shape and the support's event_dim must say "
        "what forward does."
    )

    @property
    def is_elementwise(self) -> bool:
        return not (self.subject.event_dim or self.subject.raw_event_dim)

    @property
    def raw_shape(self) -> torch.Size:
        """The shape of the raw numbers of one value."""
        return torch.Size(self.subject.raw_shape(self.shape))

    @property
    def wide(self) -> tuple[torch.dtype, ...]:
        """The dtypes in which matrices and sums can be judged."""
        return tuple(dtype for dtype in self.dtypes if torch.finfo(dtype).bits >= 32)

    @property
    def less(self) -> str:
        """How to ask for less, where a map is not meant for every finite number."""
        if self.raw_limit == float("inf"):
            return "check with raw_limit= if it is meant for moderate ones."
        return "check with a smaller raw_limit= or fewer dtypes=."

    def build(self, dtype: torch.dtype = torch.float64) -> Constraint:
        """A copy in a dtype, on the CPU."""
        constraint: Constraint = self.copy().to("cpu", dtype)
        return constraint

    def extreme(self, dtype: torch.dtype) -> Tensor:
        """Raw numbers at which careless maps break, of shape `(count, *raw_shape)`.

        Edges in all entries, edges mixed at random, and random numbers of every size.
        """
        shape, generator = self.raw_shape, torch.Generator().manual_seed(0)
        known = edges(dtype, self.raw_limit)
        same = known.reshape(-1, *(1 for _ in shape)).expand(-1, *shape)
        mixed = known[torch.randint(len(known), (200, *shape), generator=generator)]
        drawn = torch.randn(28, 8, *shape, generator=generator, dtype=torch.float64)
        powers = 10.0 ** torch.arange(-12, 16, dtype=torch.float64)
        scaled = (drawn * powers.reshape(-1, 1, *(1 for _ in shape))).flatten(0, 1)
        top = min(self.raw_limit, torch.finfo(dtype).max)
        return torch.cat([same, mixed, scaled]).clamp(-top, top).to(dtype)

    def moderate(
        self, dtype: torch.dtype = torch.float64, count: int = 20, spread: float = 1.0
    ) -> Tensor:
        """Normal raw numbers, as training has them, of shape `(count, *raw_shape)`."""
        generator = torch.Generator().manual_seed(1)
        shape = (count, *self.raw_shape)
        drawn = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
        return drawn.clamp(-self.raw_limit, self.raw_limit).to(dtype)

    def jacobian(self, raw: Tensor, value: Tensor) -> Tensor | None:
        """What `log_abs_det_jacobian` gives, or None where it is not defined."""
        try:
            return self.build().log_abs_det_jacobian(raw, value)
        except NotImplementedError:  # several raw numbers may give one value
            return None

    def find_broken(self, kept: Tensor, raw: Tensor) -> tuple[int, ...] | None:
        """The index of the first value for which not all of `kept`, `(*batch, ...)`, is true."""
        batch = raw.shape[: raw.ndim - self.subject.raw_event_dim]
        broken = ~kept.reshape(*batch, -1).all(-1)
        return tuple(broken.nonzero()[0].tolist()) if broken.any() else None

    def expect_all(
        self, kept: Tensor, member: str, expected: str, raw: Tensor, got: Tensor, fix: str = ""
    ) -> None:
        """Refuse a member for the first raw number, of `(*batch, *raw_event)`, that is not kept.

        Args:
            kept: whether it keeps the promise, of shape `(*batch, ...)`, as `got` has.
            member: which member is to blame.
            expected: what is promised.
            raw: raw numbers.
            got: what you get.
            fix: what to do.
        """
        first = self.find_broken(kept, raw)
        if first is not None:
            came = f"{show(got[first])} for {numbers_of(raw[first])} in {raw.dtype}"
            raise self.broken(member, expected, came, fix)

    def expect_rows(
        self, expected: str, got: Tensor, wanted: Tensor, tolerance: float = 0.0
    ) -> None:
        """Refuse a forward that gives other numbers, and show one value's."""
        for one, other in zip(got, wanted, strict=True):
            self.expect_close("forward", expected, one, other, tolerance)


def ends_of(constraint: Constraint) -> dict[str, Any]:
    """The bounds of single numbers that the support of a constraint names."""
    ends = () if constraint.event_dim else ("lower_bound", "upper_bound")
    bounds = {end: getattr(constraint.support, end, None) for end in ends}
    return {end: bound for end, bound in bounds.items() if bound is not None}


def numbers_of(raw: Tensor) -> str:
    """The raw numbers of one value, in words."""
    return f"the raw number{'s' if raw.ndim else ''} {show(raw)}"


def edges(dtype: torch.dtype, limit: float) -> Tensor:
    """Numbers of both signs at which overflow, underflow and rounding set in, in float64."""
    info = torch.finfo(dtype)
    sizes = [0.0, info.smallest_normal * info.eps, info.tiny, info.eps, 0.5, 1.0, 4.0, 10.0]
    sizes += [12.0, 17.0, 20.0, 37.0, 50.0, 89.0, 104.0, 710.0, 746.0, 1e4]
    sizes += [info.max / 4, info.max / 3, info.max / 2, info.max, min(limit, info.max)]
    sizes = [size for size in sizes if size <= min(limit, info.max)]
    return torch.tensor([sign * size for size in sizes for sign in (1.0, -1.0)]).double()


def first_coordinates(matrix: Tensor) -> Tensor:
    """The rows that are independent of those above them: the coordinates that tell a value.

    For a simplex these are all entries but the last, for a triangular or symmetric matrix its
    lower triangle, for a correlation factor what is below the diagonal. There are at most as
    many as the matrix, with a row of derivatives for each number of a value, has columns.
    """
    chosen: list[Tensor] = []
    basis: list[Tensor] = []
    for row in matrix:
        rest = row
        for direction in [*basis, *basis]:  # twice, against rounding
            rest = rest - (rest @ direction) * direction
        if rest.norm() > RANK_TOLERANCE * row.norm():
            chosen.append(row)
            basis.append(rest / rest.norm())
    return torch.stack(chosen) if chosen else matrix[:0]

"""What the checks of a constraint share: the constraint, and what to try it on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.testing.promise import Trial, show

RANK_TOLERANCE = 1e-9
"""The share of a row that must be new, for the row to count as independent of those above."""


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

    def build(self, dtype: torch.dtype = torch.float64) -> Constraint:
        """A copy in a dtype, on the CPU."""
        return copy.deepcopy(self.constraint).to("cpu", dtype)

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


def edges(dtype: torch.dtype, limit: float) -> Tensor:
    """Numbers of both signs at which overflow, underflow and rounding set in, in float64.

    Args:
        dtype: the dtype that they are exact in.
        limit: the largest magnitude.
    """
    info = torch.finfo(dtype)
    sizes = [0.0, info.smallest_normal * info.eps, info.tiny, info.eps, 0.5, 1.0, 4.0, 10.0]
    sizes += [12.0, 17.0, 20.0, 37.0, 50.0, 89.0, 104.0, 710.0, 746.0, 1e4]
    sizes += [info.max / 4, info.max / 3, info.max / 2, info.max]
    if limit < info.max:
        sizes.append(limit)
    sizes = [size for size in sizes if size <= min(limit, info.max)]
    return torch.tensor([sign * size for size in sizes for sign in (1.0, -1.0)]).double()


def derivatives(function: Callable[[Tensor], Tensor], raw: Tensor) -> Tensor:
    """The matrix of derivatives of all numbers of a value by all raw numbers."""
    jacobian = torch.autograd.functional.jacobian(function, raw)
    matrix: Tensor = jacobian.reshape(-1, raw.numel())
    return matrix


def first_coordinates(matrix: Tensor) -> Tensor:
    """The rows that are independent of those above them: the coordinates that tell a value.

    Those of a simplex are all entries but the last, those of a triangular or symmetric matrix its
    lower triangle, those of a correlation factor what is below the diagonal.

    Args:
        matrix: derivatives, a row per number of the value.

    Returns:
        The rows chosen, at most as many as there are columns.

    Example:
        >>> import torch
        >>> from declarative_dist.testing.constraint_trial import first_coordinates
        >>> first_coordinates(torch.tensor([[1.0, 1.0], [2.0, 2.0], [0.0, 3.0]]))
        tensor([[1., 1.],
                [0., 3.]])
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

"""The constraints that every promise is tested on, by name and built when asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributions import ExpTransform, constraints

from declarative_dist import (
    Constraint,
    CorrCholesky,
    Exp,
    GreaterThan,
    Interval,
    LessThan,
    LogInterval,
    LowerCholesky,
    Ordered,
    Positive,
    PositiveDefinite,
    PositiveOrdered,
    Real,
    Simplex,
    UnitInterval,
    as_constraint,
)

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
NAN, INF = math.nan, math.inf
LOW = [-2.0, 0.5, 1000.0]
BETWEEN = ([-1.0, 0.0, 1000.0], [1.0, 0.25, 2000.0])

# From a value in float64 and the eps of the dtype it came in to a boolean.
Check = Callable[[Tensor, float], Tensor]


class Doubled(Constraint):
    """A user's own."""

    support = constraints.positive

    def forward(self, raw: Tensor) -> Tensor:
        return 2 * raw.exp()

    def inverse(self, value: Tensor) -> Tensor:
        return (value / 2).log()


@dataclass(frozen=True)
class Case:
    """A constraint and what is known about it without asking it.

    `is_inside` decides in float64; `outside` lists values that must be refused; `free` picks the
    coordinates of a value that its raw numbers determine one to one.
    """

    make: Callable[[], Constraint]
    is_inside: Check
    default: Tensor
    outside: list[object] = field(default_factory=list)
    free: Callable[[Tensor], Tensor] | None = None
    raw_shape: tuple[int, ...] = (3,)
    guaranteed: bool = True
    has_jacobian: bool = True

    @property
    def shape(self) -> torch.Size:
        return self.default.shape

    @property
    def is_elementwise(self) -> bool:
        return self.free is None

    def built(self, dtype: torch.dtype = torch.float64) -> Constraint:
        return self.make().to(dtype)


def _between(low: float | list[float], high: float | list[float]) -> Check:
    lowest = torch.tensor(low, dtype=torch.float64)
    highest = torch.tensor(high, dtype=torch.float64)

    def check(value: Tensor, eps: float) -> Tensor:
        return value.isfinite().all() & (value > lowest).all() & (value < highest).all()

    return check


def _is_simplex(value: Tensor, eps: float) -> Tensor:
    sums = value.sum(-1)
    return (value > 0).all() & ((sums - 1).abs() <= 4 * eps).all()


def _is_ordered(value: Tensor, eps: float) -> Tensor:
    return value.isfinite().all() & (value.diff(dim=-1) > 0).all()


def _is_positive_ordered(value: Tensor, eps: float) -> Tensor:
    return _is_ordered(value, eps) & (value > 0).all()


def _is_lower(value: Tensor, eps: float) -> Tensor:
    diagonal = value.diagonal(dim1=-2, dim2=-1)
    return value.isfinite().all() & (value.triu(1) == 0).all() & (diagonal > 0).all()


def _is_conditioned(value: Tensor, eps: float) -> Tensor:
    diagonal = value.diagonal(dim1=-2, dim2=-1)
    return _is_lower(value, eps) & (diagonal >= 4 * eps * value.norm(dim=-1)).all()


def _is_positive_definite(value: Tensor, eps: float) -> Tensor:
    symmetric = (value == value.mT).all()
    return value.isfinite().all() & symmetric & (torch.linalg.cholesky_ex(value).info == 0).all()


def _is_corr(value: Tensor, eps: float) -> Tensor:
    unit = ((value.norm(dim=-1) - 1).abs() <= 4 * eps).all()
    return _is_lower(value, eps) & unit


def _all_but_last(value: Tensor) -> Tensor:
    return value[..., :-1]


def _whole(value: Tensor) -> Tensor:
    return value


def _triangle(value: Tensor) -> Tensor:
    rows, columns = torch.tril_indices(value.shape[-1], value.shape[-1])
    return value[..., rows, columns]


def _strict_triangle(value: Tensor) -> Tensor:
    rows, columns = torch.tril_indices(value.shape[-1], value.shape[-1], -1)
    return value[..., rows, columns]


def _above(make: Callable[[], Constraint], low: float, **known: object) -> Case:
    outside = [low, low - 1.0, NAN, INF, -INF]
    return Case(make, _between(low, INF), torch.full((3,), low + 1), outside, **known)  # type: ignore[arg-type]


def _inside(make: Callable[[], Constraint], low: float, high: float) -> Case:
    outside = [low, high, low - 1.0, high + 1.0, NAN, INF, -INF]
    middle = torch.full((3,), (low + high) / 2)
    return Case(make, _between(low, high), middle, outside)


def _real() -> Case:
    return Case(Real, _between(-INF, INF), torch.zeros(3), [NAN, INF, -INF])


def _simplex() -> Case:
    bad = [
        [0.5, 0.5, 0.0, 0.0],
        [1.5, -0.5, 0.5, -0.5],
        [0.3] * 4,
        [0.2] * 4,
        [NAN] * 4,
        [INF] * 4,
    ]
    return Case(Simplex, _is_simplex, torch.full((4,), 0.25), list(bad), _all_but_last)


def _lower(make: Callable[[], Constraint], check: Check = _is_lower) -> Case:
    bad = [
        [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
        [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]],
        [[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [[1.0, 0.0, 0.0], [NAN, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, INF]],
    ]
    return Case(make, check, torch.eye(3), list(bad), _triangle, (6,))


def _positive_definite() -> Case:
    bad = [
        [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, NAN]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, INF]],
    ]
    return Case(PositiveDefinite, _is_positive_definite, torch.eye(3), list(bad), _triangle, (6,))


def _corr() -> Case:
    bad = [
        [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
        [[1.0, 0.0, 0.0], [0.6, -0.8, 0.0], [0.0, 0.0, 1.0]],
        [[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [[1.0, 0.0, 0.0], [NAN, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, INF]],
    ]
    return Case(CorrCholesky, _is_corr, torch.eye(3), list(bad), _strict_triangle)


def _ordered() -> Case:
    bad = [[0.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 1.0, INF], [-INF, 0.0, 1.0], [0.0, NAN, 1.0]]
    return Case(Ordered, _is_ordered, torch.tensor([-1.0, 0.0, 1.0]), list(bad), _whole)


def _positive_ordered() -> Case:
    bad = [[0.0, 1.0, 2.0], [-1.0, 1.0, 2.0], [1.0, 1.0, 2.0], [1.0, 3.0, 2.0], [1.0, NAN, 2.0]]
    bad += [[1.0, 2.0, INF]]
    start = torch.tensor([1.0, 2.0, 3.0])
    return Case(PositiveOrdered, _is_positive_ordered, start, list(bad), _whole)


CASES: dict[str, Case] = {
    "positive": _above(Positive, 0.0),
    "positive-floor": _above(lambda: Positive(floor=0.1), 0.1),
    "positive-unguarded": _above(lambda: Positive(guard=False), 0.0),
    "exp": _above(Exp, 0.0),
    "exp-floor": _above(lambda: Exp(floor=0.1), 0.1),
    "exp-unguarded": _above(lambda: Exp(guard=False), 0.0),
    "real": _real(),
    "above-1000": _above(lambda: GreaterThan(1000.0), 1000.0),
    "above-minus-3": _above(lambda: GreaterThan(-3.0), -3.0),
    "above-0.1": _above(lambda: GreaterThan(0.1), 0.1),
    "above-tensor": Case(
        lambda: GreaterThan(torch.tensor(LOW)),
        _between(LOW, INF),
        torch.tensor(LOW) + 1,
        [LOW, [-3.0, 1.0, 1001.0], [NAN] * 3, [INF] * 3],
    ),
    "below-2": Case(
        lambda: LessThan(2.0), _between(-INF, 2.0), torch.ones(3), [2.0, 3.0, NAN, INF, -INF]
    ),
    "below-tensor": Case(
        lambda: LessThan(torch.tensor(LOW)),
        _between(-INF, LOW),
        torch.tensor(LOW) - 1,
        [LOW, [-3.0, 1.0, 999.0], [NAN] * 3, [-INF] * 3],
    ),
    "interval": _inside(lambda: Interval(-1.0, 1.0), -1.0, 1.0),
    "interval-1000-2000": _inside(lambda: Interval(1000.0, 2000.0), 1000.0, 2000.0),
    "interval-tensors": Case(
        lambda: Interval(*map(torch.tensor, BETWEEN)),
        _between(*BETWEEN),
        torch.tensor([0.0, 0.125, 1500.0]),
        [BETWEEN[0], BETWEEN[1], [0.0, 0.3, 1500.0], [NAN] * 3, [INF] * 3],
    ),
    "unit-interval": _inside(UnitInterval, 0.0, 1.0),
    "log-interval": Case(
        lambda: LogInterval(1e-3, 10.0),
        _between(1e-3, 10.0),
        torch.full((3,), 0.1),
        [1e-3, 10.0, 0.0, -1.0, 11.0, NAN, INF, -INF],
    ),
    "simplex": _simplex(),
    "ordered": _ordered(),
    "positive-ordered": _positive_ordered(),
    "lower-cholesky": _lower(LowerCholesky),
    "lower-cholesky-conditioned": _lower(lambda: LowerCholesky(conditioned=True), _is_conditioned),
    "positive-definite": _positive_definite(),
    "corr-cholesky": _corr(),
    "from-exp-transform": _above(lambda: as_constraint(ExpTransform()), 0.0, guaranteed=False),
    "users-own": Case(
        Doubled,
        _between(0.0, INF),
        torch.full((3,), 2.0),
        [-1.0, 0.0, NAN, INF],
        guaranteed=False,
        has_jacobian=False,
    ),
}

GUARANTEED = [name for name, case in CASES.items() if case.guaranteed]
STRUCTURED = [name for name, case in CASES.items() if not case.is_elementwise]


def edges(dtype: torch.dtype) -> list[float]:
    """Raw numbers at which careless maps break, all finite in the dtype."""
    info = torch.finfo(dtype)
    sizes = [0.0, info.smallest_normal * info.eps, info.tiny, info.eps, 1.0, 17.0, 20.0, 50.0]
    sizes += [89.0, 104.0, 710.0, 746.0, info.max / 4, info.max / 3, info.max / 2, info.max]
    return [sign * size for size in sizes for sign in (-1.0, 1.0)]

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from declarative_dist import (
    Constraint,
    ConstraintError,
    CorrCholesky,
    Exp,
    GreaterThan,
    Interval,
    LessThan,
    LogInterval,
    LowerCholesky,
    Positive,
    PositiveDefinite,
    Simplex,
    UnitInterval,
)
from tests.constraints.cases import CASES, DTYPES, GUARANTEED, edges

WIDE = (torch.float64, torch.float32)
EVERY_KIND = [
    ("positive", 0.0), ("exp", 0.0), ("positive-unguarded", 0.0), ("exp-unguarded", 0.0),
    ("positive-floor", 0.125), ("exp-floor", 0.125),
]  # fmt: skip


def relative_error(constraint: Constraint, value: Tensor) -> tuple[Tensor, Tensor]:
    """The error of the round trip over the value, and how much a rounded raw number allows."""
    raw = constraint.right_inverse(value)
    assert raw.dtype == value.dtype
    assert raw.isfinite().all()
    again = constraint(raw).double()
    error = (again - value.double()).abs() / value.double().abs()
    return error, (2 + raw.double().abs()) * torch.finfo(value.dtype).eps


def positive_values(dtype: torch.dtype) -> Tensor:
    lowest, highest = (-2.6, 3.9) if dtype is torch.float16 else (-15, 15)
    return torch.logspace(lowest, highest, 601, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "start"), EVERY_KIND)
def test_positive_numbers_come_back_to_the_last_digits(
    name: str, start: float, dtype: torch.dtype
) -> None:
    value = start + positive_values(dtype)
    error, allowed = relative_error(CASES[name].built(dtype), value)
    assert (error <= allowed).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("low", [1000.0, -3.0, 0.1])
def test_numbers_beside_a_bound_come_back(low: float, dtype: torch.dtype) -> None:
    distance = positive_values(dtype).double()
    for constraint, sign in ((GreaterThan(low), 1.0), (LessThan(low), -1.0)):
        value = (low + sign * distance).to(dtype)
        value = value[constraint.contains(value)]
        assert len(value) > 100
        raw = constraint.right_inverse(value)
        error = (constraint(raw).double() - value.double()).abs()
        allowed = (2 + raw.double().abs()) * torch.finfo(dtype).eps
        scale = value.double().abs().clamp_min(abs(low))
        assert (error <= allowed * scale).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("constraint", "low", "high"),
    [
        (Interval(-1.0, 1.0), -1.0, 1.0),
        (Interval(1000.0, 2000.0), 1000.0, 2000.0),
        (Interval(-5.0, 0.3), -5.0, 0.3),
        (UnitInterval(), 0.0, 1.0),
    ],
    ids=str,
)
def test_numbers_of_an_interval_come_back(
    constraint: Interval, low: float, high: float, dtype: torch.dtype
) -> None:
    share = torch.cat([torch.linspace(0, 1, 301), torch.logspace(-6, -1, 60)]).double()
    value = (low + share * (high - low)).to(dtype)
    value = value[constraint.contains(value)]
    assert len(value) > 100
    raw = constraint.right_inverse(value)
    assert raw.isfinite().all()
    error = (constraint(raw).double() - value.double()).abs()
    allowed = (2 + raw.double().abs()) * torch.finfo(dtype).eps
    assert (error <= allowed * max(abs(low), abs(high))).all()


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_small_probabilities_come_back_relative_to_themselves(dtype: torch.dtype) -> None:
    value = torch.logspace(-15, -1, 200, dtype=torch.float64).to(dtype)
    error, allowed = relative_error(UnitInterval(), value)
    assert (error <= allowed).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_of_a_log_interval_come_back(dtype: torch.dtype) -> None:
    constraint = LogInterval(1e-3, 10.0)
    value = torch.logspace(-3, 1, 501, dtype=torch.float64).to(dtype)
    error, allowed = relative_error(constraint, value[constraint.contains(value)])
    log_width = math.log(10.0 / 1e-3)
    assert (error <= allowed * (1 + log_width)).all()


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_small_entries_of_a_simplex_come_back_relative_to_themselves(dtype: torch.dtype) -> None:
    value = torch.tensor([1 - 1e-12 - 1e-9 - 1e-6, 1e-12, 1e-9, 1e-6], dtype=dtype)
    raw = Simplex().right_inverse(value)
    error = ((Simplex()(raw) - value) / value).abs()
    assert error.max() <= 2 * (2 + raw.abs().sum()) * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize(
    "constraint", [LowerCholesky(conditioned=True), PositiveDefinite()], ids=repr
)
def test_well_conditioned_matrices_come_back(constraint: Constraint, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(100, 10, generator=generator, dtype=torch.float64)
    factor = torch.eye(4) + 0.3 * LowerCholesky()(raw)
    value = factor if isinstance(constraint, LowerCholesky) else factor @ factor.mT
    value = value.to(dtype)
    again = constraint(constraint.right_inverse(value))
    condition = torch.linalg.cond(value).double()[:, None, None]
    error = (again.double() - value.double()).abs()
    scale = value.double().abs().amax((-2, -1), keepdim=True)
    assert (error <= 8 * condition * torch.finfo(dtype).eps * scale).all()


@pytest.mark.parametrize("name", CASES)
def test_default_is_the_documented_value_and_inside(name: str) -> None:
    case = CASES[name]
    constraint = case.make()
    if not case.is_elementwise or "tensor" in name:
        shape = torch.Size((2, *case.shape))
    else:
        shape = torch.Size((2, 3))
    default = constraint.default(shape)
    assert default.shape == shape
    documented = case.default.expand(shape)
    torch.testing.assert_close(default.to(documented.dtype), documented)
    assert constraint.contains(default).all()
    torch.testing.assert_close(constraint(constraint.right_inverse(default)), default)


@pytest.mark.parametrize(
    ("low", "high", "middle"), [(1e-30, 1e-20, 1e-25), (1e20, 1e30, 1e25), (1e-30, 1e30, 1.0)]
)
def test_default_of_a_log_interval_of_extreme_bounds_is_inside(
    low: float, high: float, middle: float
) -> None:
    constraint = LogInterval(low, high)
    default = constraint.default(torch.Size())
    assert constraint.contains(default)
    assert default.item() == pytest.approx(middle, rel=1e-5)


OUTSIDE = [(name, bad) for name, case in CASES.items() for bad in case.outside]


@pytest.mark.parametrize(("name", "bad"), OUTSIDE, ids=str)
def test_right_inverse_refuses_what_is_outside(name: str, bad: object) -> None:
    constraint = CASES[name].make()
    value = torch.tensor(bad)
    assert not constraint.contains(value).all()
    with pytest.raises(ConstraintError) as caught:
        constraint.right_inverse(value)
    assert caught.value.subject == type(constraint).__name__
    assert caught.value.expected == constraint.describe()
    assert caught.value.got
    assert f"expected {caught.value.expected}, got {caught.value.got}." in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("name", GUARANTEED)
def test_one_bad_entry_in_a_batch_is_refused(name: str) -> None:
    case = CASES[name]
    constraint = case.make()
    value = constraint(torch.zeros(2, *case.raw_shape)).clone()
    constraint.right_inverse(value)
    value.view(-1)[-1] = math.nan
    assert constraint.contains(value).flatten()[:1].all()
    with pytest.raises(ConstraintError):
        constraint.right_inverse(value)


@pytest.mark.parametrize(("constraint", "bad", "expected", "got"), [
    (Positive(), -1.0, "a finite positive number", "-1.0"),
    (Exp(floor=0.5), 0.5, "a finite number above 0.5", "0.5"),
    (GreaterThan(1000.0), math.inf, "a finite number above 1000.0", "inf"),
    (LessThan(2.0), 2.0, "a finite number below 2.0", "2.0"),
    (Interval(-1.0, 1.0), [0.0, math.nan], "a number strictly between -1.0 and 1.0",
        "nan at [1] of a tensor of shape (2,) with values [0.0, nan]"),
    (Simplex(), [0.5, 0.25], "positive numbers that sum to 1 along the last dimension",
        "a tensor of shape (2,) with values [0.5, 0.25]"),
], ids=lambda part: type(part).__name__)  # fmt: skip
def test_messages(constraint: Constraint, bad: object, expected: str, got: str) -> None:
    with pytest.raises(ConstraintError) as caught:
        constraint.right_inverse(torch.tensor(bad))
    fix = "Give a finite value strictly inside."
    if isinstance(constraint, (Positive, Exp)):
        fix = f"Give a number above {constraint.floor:g}."
    name = type(constraint).__name__
    assert caught.value.sentence == f"{name}: expected {expected}, got {got}. {fix}"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "raw",
    [torch.tensor([1, 2, 3]), torch.ones(3) + 1j, torch.ones(3).to_sparse(), [1.0, 2.0, 3.0]],
    ids=["int", "complex", "sparse", "list"],
)
def test_raw_numbers_are_a_dense_floating_point_tensor(name: str, raw: Any) -> None:
    constraint = CASES[name].built(torch.float32)
    match = f"{type(constraint).__name__}: expected unconstrained numbers in a dense floating"
    with pytest.raises(ConstraintError, match=match):
        constraint(raw)


def test_a_number_between_an_end_and_the_first_normal_one_is_told_the_band() -> None:
    with pytest.raises(ConstraintError, match=r"got 9\.99.*e-41\. In torch.float32 numbers are"):
        UnitInterval().right_inverse(torch.tensor(1e-40))


def test_a_positive_number_outside_the_guard_band_is_refused_with_the_way_out() -> None:
    tiny = torch.tensor(1e-30)
    with pytest.raises(ConstraintError, match=r"held in \[1e-18, 1e\+18\]; guard=False widens"):
        Positive().right_inverse(tiny)
    Positive(guard=False).right_inverse(tiny)


@pytest.mark.parametrize("name", CASES)
def test_right_inverse_is_not_checked_without_values(name: str) -> None:
    case = CASES[name]
    constraint = case.make().to("meta")
    raw = constraint.right_inverse(torch.empty(2, *case.shape, device="meta"))
    assert raw.shape == (2, *case.raw_shape)
    assert constraint(raw).shape == (2, *case.shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", GUARANTEED)
def test_every_value_of_the_map_has_a_finite_raw_number(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    constraint = case.built(dtype)
    generator = torch.Generator().manual_seed(0)
    known = torch.tensor(edges(dtype), dtype=torch.float64)
    drawn = known[torch.randint(len(known), (300, *case.raw_shape), generator=generator)]
    raw = constraint.right_inverse(constraint(drawn.to(dtype)))
    assert raw.isfinite().all(), drawn[~raw.isfinite()]


def test_right_inverse_is_not_checked_for_fake_tensors() -> None:
    with FakeTensorMode():
        assert Positive().right_inverse(torch.empty(3)).shape == (3,)


def test_right_inverse_is_not_checked_under_vmap() -> None:
    raw = torch.func.vmap(Interval(-1.0, 1.0).right_inverse)(torch.tensor([0.0, 2.0]))
    assert raw[0] == 0
    assert raw[1].isnan()


@pytest.mark.parametrize("kind", [LowerCholesky, PositiveDefinite, CorrCholesky])
def test_triangles_are_unpacked_at_once_under_vmap(kind: type[Constraint]) -> None:
    constraint, raw = kind(), torch.linspace(-2.0, 2.0, 12).reshape(4, 3)
    mapped = torch.func.vmap(constraint)  # which warns where it goes through the rows in a loop
    torch.testing.assert_close(mapped(raw), constraint(raw))
    torch.testing.assert_close(
        torch.func.vmap(torch.func.jacrev(constraint))(raw)[3],
        torch.func.jacrev(constraint)(raw[3]),
    )

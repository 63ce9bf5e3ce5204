from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

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
    Ordered,
    Positive,
    PositiveDefinite,
    Simplex,
)
from tests.constraints.cases import CASES, DTYPES, GUARANTEED, STRUCTURED, Case, edges

BANDS = {
    torch.float64: (1e-150, 1e150),
    torch.float32: (1e-18, 1e18),
    torch.bfloat16: (1e-18, 1e18),
    torch.float16: (1e-3, 1e4),
}


def raw_numbers(case: Case, dtype: torch.dtype) -> Tensor:
    """Edges in all entries, then rows that mix edges, numbers of any size, and moderate ones."""
    generator = torch.Generator().manual_seed(0)
    info, shape = torch.finfo(dtype), (2000, *case.raw_shape)
    known = torch.tensor(edges(dtype), dtype=torch.float64)
    same = known.reshape(-1, *(1 for _ in case.raw_shape)).expand(-1, *case.raw_shape)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    low, high = math.log2(info.smallest_normal * info.eps), math.log2(info.max)
    exponents = torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low
    drawn = torch.stack(
        [
            known[torch.randint(len(known), shape, generator=generator)],
            normal.sign() * 2.0**exponents,
            normal * 10.0 ** torch.randint(-12, 16, shape, generator=generator),
        ]
    )
    kinds = torch.randint(len(drawn), (1, *shape), generator=generator)
    mixed = drawn.gather(0, kinds)[0]
    return torch.cat([same, mixed]).clamp(-info.max, info.max).to(dtype)


def cotangent(value: Tensor) -> Tensor:
    return torch.linspace(0.25, 1.0, value.numel()).reshape(value.shape).to(value.dtype)


def assert_guaranteed(constraint: Constraint, case: Case, raw: Tensor) -> None:
    raw = raw.detach().requires_grad_()
    value = constraint(raw)
    assert value.dtype == raw.dtype
    assert constraint.contains(value).all(), value
    assert case.is_inside(value.detach().double(), torch.finfo(raw.dtype).eps), value
    (gradient,) = torch.autograd.grad(value, raw, cotangent(value))
    assert gradient.isfinite().all(), gradient


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", GUARANTEED)
def test_every_finite_raw_number_gives_a_value_inside(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    raw = raw_numbers(case, dtype)
    assert raw.isfinite().all()
    assert_guaranteed(case.built(dtype), case, raw)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", STRUCTURED)
def test_structured_values_at_any_scale(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    powers = torch.arange(-15.0, 16.0, 6.0).repeat_interleave(200)
    raw = torch.randn(len(powers), math.prod(case.raw_shape), dtype=torch.float64)
    raw = (raw * 10.0 ** powers.double()[:, None]).reshape(-1, *case.raw_shape)
    assert_guaranteed(case.built(dtype), case, raw.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize(
    "constraint",
    [
        Simplex(),
        Ordered(),
        LowerCholesky(),
        LowerCholesky(conditioned=True),
        PositiveDefinite(),
        CorrCholesky(),
    ],
    ids=repr,
)
def test_structured_values_of_any_size(
    constraint: Constraint, size: int, dtype: torch.dtype
) -> None:
    shape = (size,) * constraint.event_dim
    generator = torch.Generator().manual_seed(size)
    batch = (200, *constraint.raw_shape(torch.Size(shape)))
    for scale in (1.0, 1e5, 1e15, torch.finfo(dtype).max / 8):
        raw = torch.randn(batch, generator=generator, dtype=torch.float64).clamp(-8, 8) * scale
        value = constraint(raw.to(dtype))
        assert value.shape == constraint.value_shape(raw.shape) == (200, *shape)
        assert constraint.contains(value).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["positive", "exp"])
def test_guarded_values_stay_in_their_band(name: str, dtype: torch.dtype) -> None:
    low, high = BANDS[dtype]
    eps = torch.finfo(dtype).eps
    value = CASES[name].built(dtype)(torch.tensor(edges(dtype), dtype=dtype))
    assert value.double().min() >= low * (1 - eps)
    assert value.double().max() <= high * (1 + eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("band", [(2.0, 2.1), (0.5, 1.5), (0.1, 10.0), (1e-3, 1.0), (5.0, 900.0)])
@pytest.mark.parametrize("floor", [0.0, 0.4, 1.8])
@pytest.mark.parametrize("kind", [Positive, Exp])
def test_a_guard_of_your_own_leaves_all_of_its_band(
    kind: type[Positive], floor: float, band: tuple[float, float], dtype: torch.dtype
) -> None:
    constraint = kind(floor=floor, guard={dtype: band})
    low, high = max(band[0], floor), band[1]
    if low >= high:
        with pytest.raises(ConstraintError, match="strictly between"):
            constraint.limits_in(dtype)
        return
    found = constraint(torch.tensor([-1e4, 1e4], dtype=dtype)).double().tolist()
    for end, value in zip((low, high), found, strict=True):
        assert value == pytest.approx(end, rel=0.04)
        assert low * (1 - 0.01) <= value <= high * (1 + 0.01)
    value = torch.linspace(*found, 50, dtype=torch.float64).to(dtype)
    raw = constraint.right_inverse(value)
    error = (constraint(raw).double() - value.double()).abs() / value.double()
    assert (error <= (2 + raw.double().abs()) * torch.finfo(dtype).eps).all()


def test_a_guard_ends_where_its_dtype_does() -> None:
    constraint = Exp(guard={torch.float16: (1e-30, 1e30)})
    value = constraint(torch.tensor([-1e4, 1e4], dtype=torch.float16))
    assert constraint.contains(value).all()
    assert value.log().isfinite().all()


@pytest.mark.parametrize(
    "narrow",
    [
        Positive(floor=5.0, guard={torch.float32: (2.0, 2.1)}),
        Exp(guard={torch.float32: (5.0, 5.0001)}),
    ],
    ids=repr,
)
def test_a_guard_without_numbers_is_refused(narrow: Positive) -> None:
    for use in (lambda: narrow(torch.zeros(())), lambda: narrow.check_dtype(torch.float32, "a")):
        with pytest.raises(ConstraintError, match=r"numbers of torch\.float32 strictly between"):
            use()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("raw", [17.0, 40.0, 49.0, 50.0, 51.0])
def test_a_large_gradient_from_outside_stays_finite(raw: float, dtype: torch.dtype) -> None:
    number = torch.tensor(raw, dtype=dtype, requires_grad=True)
    steep = torch.tensor(1e18, dtype=dtype)
    (gradient,) = torch.autograd.grad(Positive()(number), number, steep)
    torch.testing.assert_close(gradient, steep * torch.sigmoid(number.detach()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("diagonal", [40.0, 50.0, 746.0])
def test_large_entries_beside_a_diagonal_have_finite_gradients(
    diagonal: float, dtype: torch.dtype
) -> None:
    top = torch.finfo(dtype).max
    row = [diagonal, -1e-45, 746.0, 0.0, -top / 3, top / 4]
    case = CASES["positive-definite"]
    assert_guaranteed(case.built(dtype), case, torch.tensor(row, dtype=dtype))


@pytest.mark.parametrize("name", ["positive-unguarded", "exp-unguarded"])
def test_without_guard_values_leave_the_band(name: str) -> None:
    value = CASES[name].built(torch.float32)(torch.tensor([-80.0, 86.0]))
    assert value[0] < 1e-30
    assert value[1] >= 86.0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_passes_through_a_bound(dtype: torch.dtype) -> None:
    raw = torch.tensor(-0.5, dtype=dtype, requires_grad=True)
    value = GreaterThan(1e4)(raw)
    (gradient,) = torch.autograd.grad(value, raw)
    assert gradient.item() == pytest.approx(1 / (1 + math.exp(0.5)), rel=0.01)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_lifts_a_positive_number_off_the_end_of_its_band(dtype: torch.dtype) -> None:
    raw = torch.tensor(1.0, dtype=dtype, requires_grad=True)
    value = Positive(guard={dtype: (5.0, 6.0)})(raw)
    assert value.item() == 5.0
    (gradient,) = torch.autograd.grad(value, raw)
    assert gradient.item() == pytest.approx(1 / (1 + math.exp(-1.0)), rel=0.01)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_log_interval_reaches_both_ends_without_touching_them(dtype: torch.dtype) -> None:
    raw = torch.tensor([-1e4, 1e4], dtype=dtype)
    low, high = LogInterval(1e-3, 10.0)(raw).double().tolist()
    assert 1e-3 < low < 1e-3 * (1 + 4 * torch.finfo(dtype).eps)
    assert 10.0 * (1 - 4 * torch.finfo(dtype).eps) < high < 10.0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_close_cut_points_stay_apart(dtype: torch.dtype) -> None:
    raw = torch.full((50,), -1e4, dtype=dtype)
    for start in (-100.0, 0.0, 100.0):
        raw[0] = start
        assert (Ordered()(raw).double().diff() > 0).all()


ENDS = (0.0, 1.0, 1 - 2**-53, 1 / 3, 1000.3, 1e10, 1e38, 1e300, 1e-8, 2.0**-24, 1e-39, 5e-324)


def constraints_with_ends(dtype: torch.dtype) -> Iterator[tuple[Constraint, float]]:
    """Those that the dtype has room for, with the size of their ends; others are refused."""
    ends = sorted({sign * end for sign in (-1, 1) for end in ENDS})
    makes: list[tuple[Callable[..., Constraint], tuple[Any, ...]]] = []
    for low in ends:
        makes += [(GreaterThan, (low,)), (LessThan, (low,))]
        makes += [(lambda f, k=k: k(floor=f), (low,)) for k in (Positive, Exp) if low >= 0]
        for high in (end for end in ends if end > low):
            kinds = (Interval, LogInterval) if low > 0 else (Interval,)
            double = torch.tensor([low, high], dtype=torch.float64).unbind()
            makes += [(kind, pair) for kind in kinds for pair in ((low, high), double)]
    for make, bounds in makes:
        try:
            constraint = make(*bounds).to(dtype)
            constraint(torch.zeros((), dtype=dtype))  # by itself, beside the check of fields
            constraint.check_dtype(dtype, "a field")
        except ConstraintError:
            continue
        yield constraint, max(abs(float(bound)) for bound in bounds)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ends_of_every_size_hold_and_values_between_them_come_back(dtype: torch.dtype) -> None:
    info, count = torch.finfo(dtype), 0
    raw = torch.tensor([*edges(dtype), 1e-3, 12.0, -17.0], dtype=dtype).requires_grad_()
    for constraint, size in constraints_with_ends(dtype):
        value = constraint(raw)
        assert constraint.contains(value).all(), constraint
        (gradient,) = torch.autograd.grad(value.sum(), raw)
        assert gradient.isfinite().all(), constraint
        inverse = constraint.right_inverse(value.detach())
        assert inverse.isfinite().all(), constraint
        error = (constraint(inverse).double() - value.double()).abs()
        scale = value.double().abs()
        if isinstance(constraint, LogInterval):
            scale = scale * (1 + math.log(constraint.high) - math.log(constraint.low))
        else:
            scale = scale + size
        assert (error <= (2 + inverse.double().abs()) * info.eps * scale).all(), constraint
        count += 1
    assert count > 250

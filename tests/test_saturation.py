"""Which raw numbers are saturated: counted for every constraint, beside steps of an optimizer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import SigmoidTransform, TanhTransform, constraints

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
    Real,
    Simplex,
    UnitInterval,
    as_constraint,
)
from declarative_dist.constraints.half_line import Negative
from declarative_dist.display.saturation import count_saturated
from tests.constraints.cases import CASES, DTYPES

Raw = list[float]


def count(constraint: Constraint, raw: Raw, dtype: torch.dtype = torch.float32) -> int:
    counts = count_saturated(constraint, torch.tensor(raw, dtype=dtype))
    assert counts is not None
    return counts[0]


# Raw numbers that must be marked, and raw numbers that must not be, in float32.
ELEMENTWISE: dict[str, tuple[Constraint, Raw, Raw]] = {
    "positive": (Positive(), [-50.0, -1e4, 3e18], [-40.0, -5.0, 0.0, 100.0, 1e10]),
    "positive with a floor": (Positive(floor=0.1), [-12.0, -50.0], [-4.0, 0.0, 1e6]),
    "exp": (Exp(), [-50.0, 50.0, 1e4], [-40.0, -5.0, 0.0, 40.0]),
    "exp with a floor": (Exp(floor=0.1), [-12.0, -50.0, 60.0], [-4.0, 0.0, 30.0]),
    "real": (Real(), [], [-1e30, 0.0, 1e30]),
    "real in limits": (
        Real(limits={torch.float32: (-40.0, 40.0)}),
        [-45.0, 45.0, 1e6],
        [-40.0, 0.0, 39.0],
    ),
    "degrees of freedom": (
        Positive(guard={torch.float32: (0.25, 1e6)}),
        [-3.0, -50.0, 2e6],
        [-1.5, 0.0, 9e5],
    ),
    "negative": (Negative(), [-50.0, -1e4], [-5.0, 0.0, 100.0]),
    "above": (GreaterThan(1000.0), [-9.0, -50.0], [0.0, 5.0, 1e6]),
    "above zero": (GreaterThan(0.0), [-100.0], [-20.0, 0.0, 1e6]),
    "below": (LessThan(2.0), [-12.0, -50.0], [-4.0, 0.0, 100.0]),
    "above tensors": (GreaterThan(torch.tensor(5.0)), [-12.0, -50.0], [-4.0, 0.0, 100.0]),
    "interval": (Interval(-5.0, 5.0), [-10.0, 10.0, -1e4, 1e4], [-6.0, 0.0, 6.0]),
    "interval of large numbers": (Interval(1000.0, 1010.0), [-10.0, 10.0], [-4.0, 0.0, 4.0]),
    "interval from zero": (Interval(0.0, 5.0), [-16.0, 10.0, -1e4], [-12.0, 0.0, 6.0]),
    "interval from a tensor": (
        Interval(torch.tensor(0.0), torch.tensor(5.0)),
        [-16.0, 10.0],
        [-12.0, 0.0, 6.0],
    ),
    "probability": (UnitInterval(), [-20.0, 20.0, 1e4], [-13.0, 0.0, 13.0]),
    "log interval": (LogInterval(1e-3, 10.0), [-12.0, 12.0, 50.0], [-8.0, 0.0, 8.0]),
    "wide log interval": (LogInterval(1e-8, 1e8), [-14.0, 14.0], [-8.0, 0.0, 8.0]),
    "sigmoid of torch": (as_constraint(SigmoidTransform()), [-20.0, 20.0], [-10.0, 0.0, 10.0]),
    "tanh of torch": (as_constraint(TanhTransform()), [-8.0, 8.0], [-3.0, 0.0, 3.0]),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_numbers_by_themselves(name: str) -> None:
    constraint, still, moving = ELEMENTWISE[name]
    assert [raw for raw in still if not count(constraint, [raw])] == []
    assert [raw for raw in moving if count(constraint, [raw])] == []
    assert count_saturated(constraint, torch.tensor([*still, *moving])) == (
        len(still),
        len(still) + len(moving),
    )


# Raw numbers of one event, and how many are marked, of how many; in float32.
STRUCTURED: dict[str, tuple[Constraint, list[tuple[Raw, tuple[int, int]]]]] = {
    "simplex": (
        Simplex(),
        [([0.0, 0.0], (0, 3)), ([10.0, 0.0], (0, 3)), ([1000.0, 0.0], (3, 3))],
    ),
    "ordered": (
        Ordered(),
        [([0.0, 0.0], (0, 2)), ([-200.0, 5.0], (0, 2)), ([1.0, -200.0], (1, 2))],
    ),
    "lower cholesky": (
        LowerCholesky(),
        [([0.0, 0.0, 0.0], (0, 3)), ([-200.0, 0.0, 1e6], (1, 3)), ([-5.0, -5.0, 0.0], (0, 3))],
    ),
    "conditioned": (
        LowerCholesky(conditioned=True),
        [([0.0, 0.0, 1.0], (0, 3)), ([0.0, -20.0, 100.0], (1, 3))],
    ),
    "positive definite": (
        PositiveDefinite(),
        [([0.0, 0.0, 0.0], (0, 3)), ([-200.0, 0.0, 1.0], (1, 3)), ([-5.0, -5.0, 0.0], (0, 3))],
    ),
    "corr cholesky": (
        CorrCholesky(),
        [([0.0, 0.0, 0.0], (0, 3)), ([20.0, 0.0, 0.0], (0, 3)), ([1e5, 0.0, 0.0], (1, 3))],
    ),
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_numbers_that_make_one_value(name: str) -> None:
    constraint, cases = STRUCTURED[name]
    for raw, counts in cases:
        assert count_saturated(constraint, torch.tensor(raw)) == counts, raw
    whole = torch.tensor([raw for raw, _ in cases])
    assert count_saturated(constraint, whole) == tuple(
        map(sum, zip(*(counts for _, counts in cases), strict=True))
    )


def test_a_dead_class_is_counted_and_the_others_are_not() -> None:
    simplex = Simplex()
    one_has_all = simplex(torch.tensor([0.0, -100.0]))
    assert one_has_all.argmax() == 2
    assert count(simplex, [0.0, -100.0]) == 3
    two_share = torch.tensor([math.log(0.5), math.log(0.5), -100.0])
    two_share = two_share - two_share.mean()
    raw = torch.stack([(two_share[0] - two_share[1]) / 2**0.5, -two_share[2] * 1.5**0.5])
    value = simplex(raw)
    assert value[:2].tolist() == pytest.approx([0.5, 0.5])
    assert count_saturated(simplex, raw) == (1, 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_starts_are_not_saturated(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    try:
        constraint = case.built(dtype)
        constraint.check_dtype(dtype, "x")
        value = constraint.default(case.shape).to(dtype)
        raw = constraint.inverse(value)
        if not constraint.contains(constraint.forward(raw)).all():
            pytest.skip("no room in this dtype")
    except (RuntimeError, NotImplementedError):
        pytest.skip("torch has no such operator in this dtype")
    counts = count_saturated(constraint, raw)
    if dtype in (torch.float64, torch.float32):
        assert counts is not None
        assert counts[0] == 0
    elif counts is not None and "1000" not in name and "tensor" not in name:
        assert counts[0] == 0  # half precision has few numbers at a thousand


@pytest.mark.parametrize("name", [n for n, (_, still, _) in ELEMENTWISE.items() if still])
def test_steps_of_an_optimizer_do_not_move_what_is_marked(name: str) -> None:
    constraint, still, _ = ELEMENTWISE[name]
    for start in still:
        raw = nn.Parameter(torch.tensor(start))
        before = constraint(raw).item()
        inside = constraint(torch.zeros(())).item()
        optimizer = torch.optim.SGD([raw], lr=0.1)
        for _ in range(10):
            optimizer.zero_grad()
            (constraint(raw) - inside).square().clamp_max(1.0).backward()
            optimizer.step()
        assert constraint(raw).item() == pytest.approx(before, rel=1e-3, abs=5e-6)


def test_steps_of_adam_move_what_is_not_marked() -> None:
    for constraint, _, moving in ELEMENTWISE.values():
        for start in [each for each in moving if abs(each) <= 100]:
            raw = torch.tensor(start)
            before = constraint(raw)
            after = [constraint(raw + step) for step in (1.0, -1.0)]
            assert any((before - each).abs() > 1e-7 for each in after) or before.abs() < 1e-6


def test_nothing_is_counted_where_nothing_is_to_be_read() -> None:
    assert count_saturated(Positive(), torch.zeros(3, device="meta")) is None
    assert count_saturated(Positive(), torch.zeros(0)) == (0, 0)
    assert count_saturated(Real(), torch.zeros(3, device="meta")) == (0, 3)


class Cubed(nn.Module):
    """A module in torch's convention, flat at zero."""

    def forward(self, raw: Tensor) -> Tensor:
        return raw.tanh()

    def right_inverse(self, value: Tensor) -> Tensor:
        return value.atanh()


def test_a_module_of_others() -> None:
    constraint = as_constraint(Cubed())
    assert count(constraint, [0.0, 0.5]) == 0
    assert count(constraint, [20.0, 0.5]) == 1


def test_gradients_and_random_numbers_stay_as_they_were() -> None:
    raw = nn.Parameter(torch.zeros(2, 3))
    raw.grad = torch.ones(2, 3)
    state = torch.get_rng_state()
    for constraint in (Simplex(), LowerCholesky(), Positive()):
        count_saturated(constraint, raw)
    assert torch.equal(raw.grad, torch.ones(2, 3))
    assert torch.equal(raw.detach(), torch.zeros(2, 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert raw.requires_grad


def test_a_raw_zero_of_any_size_is_never_marked() -> None:
    # Sums of many random signs come near zero now and then.
    for constraint in (Ordered(), Simplex(), LowerCholesky(), CorrCholesky()):
        assert count_saturated(constraint, torch.zeros(4950)) == (
            0,
            4951 if isinstance(constraint, Simplex) else 4950,
        )
    assert math.isclose(Simplex()(torch.zeros(4950))[0].item(), 1 / 4951, rel_tol=1e-4)


class Skew(nn.Module):
    """Skew matrices, of which the lower half of the raw numbers is not used."""

    def forward(self, raw: Tensor) -> Tensor:
        return raw.triu(1) - raw.triu(1).mT

    def right_inverse(self, value: Tensor) -> Tensor:
        return value.triu(1)


def test_what_no_raw_number_moves_is_not_saturated() -> None:
    assert count_saturated(as_constraint(Skew()), torch.ones(3, 3)) == (0, 9)


class InPlace(Constraint):
    """A user's own, which changes what it is given."""

    support = constraints.positive

    def forward(self, raw: Tensor) -> Tensor:
        return raw.exp_()

    def inverse(self, value: Tensor) -> Tensor:
        return value.log()


def test_raw_numbers_stay_as_they_were_whatever_a_map_does() -> None:
    raw = nn.Parameter(torch.zeros(3))
    assert count_saturated(InPlace(), raw) == (0, 3)
    assert torch.equal(raw.detach(), torch.zeros(3))


def test_too_many_numbers_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("declarative_dist.display.saturation.LARGEST", 5)
    assert count_saturated(Positive(), torch.zeros(6)) is None
    assert count_saturated(Positive(), torch.zeros(5)) == (0, 5)

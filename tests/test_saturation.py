"""Which raw numbers are saturated: counted for every constraint, beside steps of an optimizer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import SigmoidTransform, TanhTransform

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
from tests.constraints.cases import CASES, DTYPES

Raw = list[float]


# Raw numbers that must be marked, and raw numbers that must not be, in float32.
ELEMENTWISE: dict[str, tuple[Constraint, Raw, Raw]] = {
    "positive": (Positive(), [-50.0, -1e4, 3e18], [-40.0, -5.0, 0.0, 100.0, 1e10]),
    "positive with a floor": (Positive(floor=0.1), [-20.0, -50.0], [-4.0, 0.0, 1e6]),
    "exp": (Exp(), [-50.0, 50.0, 1e4], [-40.0, -5.0, 0.0, 40.0]),
    "exp with a floor": (Exp(floor=0.1), [-20.0, -50.0, 60.0], [-4.0, 0.0, 30.0]),
    "real": (Real(), [], [-1e30, 0.0, 1e30]),
    "real in limits":
        (Real(limits={torch.float32: (-40.0, 40.0)}), [-45.0, 45.0, 1e6], [-38.0, 0.0, 38.0]),
    "degrees of freedom":
        (Positive(guard={torch.float32: (0.25, 1e6)}), [-3.0, -50.0, 2e6], [-0.5, 0.0, 9e5]),
    "above": (GreaterThan(1000.0), [-9.0, -50.0], [0.0, 5.0, 1e6]),
    "above zero": (GreaterThan(0.0), [-100.0], [-20.0, 0.0, 1e6]),
    "below": (LessThan(2.0), [-20.0, -50.0], [-4.0, 0.0, 100.0]),
    "above tensors": (GreaterThan(torch.tensor(5.0)), [-20.0, -50.0], [-4.0, 0.0, 100.0]),
    "interval": (Interval(-5.0, 5.0), [-20.0, 20.0, -1e4, 1e4], [-9.0, 0.0, 9.0]),
    "interval of large numbers": (Interval(1000.0, 1010.0), [-10.0, 10.0], [-4.0, 0.0, 4.0]),
    "interval from zero": (Interval(0.0, 5.0), [-150.0, 20.0, -1e4], [-12.0, 0.0, 6.0]),
    "interval from a tensor":
        (Interval(torch.tensor(0.0), torch.tensor(5.0)), [-150.0, 20.0], [-12.0, 0.0, 6.0]),
    "probability": (UnitInterval(), [-150.0, 20.0, 1e4], [-20.0, 0.0, 10.0]),
    "log interval": (LogInterval(1e-3, 10.0), [-20.0, 20.0, 50.0], [-8.0, 0.0, 8.0]),
    "wide log interval": (LogInterval(1e-8, 1e8), [-22.0, 22.0], [-8.0, 0.0, 8.0]),
    "sigmoid of torch": (as_constraint(SigmoidTransform()), [-150.0, 20.0], [-10.0, 0.0, 10.0]),
    "tanh of torch": (as_constraint(TanhTransform()), [-8.0, 8.0], [-3.0, 0.0, 3.0]),
}  # fmt: skip


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_numbers_by_themselves(name: str) -> None:
    constraint, still, moving = ELEMENTWISE[name]
    found = constraint.is_at_end(torch.tensor([*still, *moving]))
    assert found.tolist() == [True] * len(still) + [False] * len(moving)


# Raw numbers of one event, and which are marked, in float32.
STRUCTURED: dict[str, tuple[Constraint, list[tuple[Raw, list[bool]]]]] = {
    "simplex": (Simplex(), [
        ([0.0, 0.0], [False] * 2), ([10.0, 0.0], [False] * 2), ([1000.0, 0.0], [True] * 2)]),
    "ordered": (Ordered(), [
        ([0.0, 0.0], [False] * 2), ([-200.0, 5.0], [False] * 2), ([1.0, -200.0], [False, True])]),
    "lower cholesky": (LowerCholesky(), [
        ([0.0] * 3, [False] * 3), ([-200.0, 0.0, 1e6], [True, False, False])]),
    "conditioned": (LowerCholesky(conditioned=True), [
        ([0.0, 0.0, 1.0], [False] * 3), ([0.0, -20.0, 100.0], [False, True, False])]),
    "positive definite": (PositiveDefinite(), [
        ([-5.0, -5.0, 0.0], [False] * 3), ([-200.0, 0.0, 1.0], [True, False, False])]),
    "corr cholesky": (CorrCholesky(), [([0.0] * 3, [False] * 3), ([20.0, 0.0, 0.0], [False] * 3)]),
}  # fmt: skip


@pytest.mark.parametrize("name", STRUCTURED)
def test_numbers_that_make_one_value(name: str) -> None:
    constraint, cases = STRUCTURED[name]
    whole = torch.tensor([raw for raw, _ in cases])
    assert constraint.is_at_end(whole).tolist() == [marks for _, marks in cases]


def test_a_dead_class_is_marked_and_the_others_are_not() -> None:
    # The second raw number is the contrast of the third class with the first two.
    raw = torch.tensor([0.0, 150.0])
    value = Simplex()(raw)
    assert value[:2].tolist() == pytest.approx([0.5, 0.5])
    assert Simplex().is_at_end(raw).tolist() == [False, True]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_starts_are_not_saturated(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    try:
        constraint = case.built(dtype)
        constraint.check_dtype(dtype, "x")
        raw = constraint.inverse(constraint.default(case.shape).to(dtype))
        if not constraint.contains(constraint.forward(raw)).all():
            pytest.skip("no room in this dtype")
    except (RuntimeError, NotImplementedError):
        pytest.skip("torch has no such operator in this dtype")
    if dtype in (torch.float64, torch.float32) or ("1000" not in name and "tensor" not in name):
        assert not constraint.is_at_end(raw).any()  # half has few numbers at a thousand


@pytest.mark.parametrize("name", [n for n, (_, still, _) in ELEMENTWISE.items() if still])
def test_steps_of_an_optimizer_do_not_move_what_is_marked(name: str) -> None:
    constraint, still, _ = ELEMENTWISE[name]
    raw = nn.Parameter(torch.tensor(still))
    before, inside = constraint(raw).detach(), constraint(torch.zeros_like(raw)).detach()
    optimizer = torch.optim.SGD([raw], lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        (constraint(raw) - inside).square().clamp_max(1.0).sum().backward()
        optimizer.step()
    torch.testing.assert_close(constraint(raw).detach(), before, rtol=1e-5, atol=0.0)


def test_steps_move_what_is_not_marked() -> None:
    for constraint, _, moving in ELEMENTWISE.values():
        raw = torch.tensor([each for each in moving if abs(each) <= 100])
        before = constraint(raw)
        for step in (1.0, -1.0):
            assert ((constraint(raw + step) - before).abs() > 5e-7 * before.abs()).all()


def test_nothing_changes_and_nothing_is_said_without_numbers() -> None:
    raw = nn.Parameter(torch.zeros(2, 3))
    raw.grad = torch.ones(2, 3)
    for constraint in (Simplex(), LowerCholesky(), Positive()):
        assert not constraint.is_at_end(raw).any()
    assert torch.equal(raw.grad, torch.ones(2, 3))
    assert Positive().is_at_end(torch.zeros(0)).shape == (0,)

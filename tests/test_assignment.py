"""Writing values: into the same parameter, checked first, all or nothing, never stale."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributions as dd
from torch import nn

from declarative_dist import (
    ConstraintError,
    DeclarationError,
    Declarative,
    Exp,
    FieldError,
    GreaterThan,
    Param,
    Real,
    Variational,
)
from tests.cases import Box, FixedTail, GammaByMean, GammaFamily
from tests.states import assert_unchanged, state_of


class Above(Declarative):
    x = Param(torch.tensor([2.0, 3.0]), GreaterThan(torch.tensor([1.0, 2.0])))


def stepped(q, optimizer):
    optimizer.zero_grad()
    x = q.rsample((8,))
    (dd.Gamma(5.0, 5.0).log_prob(x) - q.log_prob(x)).mean().neg().backward()
    optimizer.step()


# --- one value ------------------------------------------------------------------------------


def test_the_value_itself_can_be_updated():
    q = GammaFamily(rate=2.0)
    q.rate = q.rate * 2
    q.rate += 1
    assert q.rate.item() == pytest.approx(5.0)


def test_what_was_read_is_no_place_to_write():
    q = GammaFamily(rate=[1.0, 2.0])
    with torch.no_grad():
        q.rate[0] = 9.0
    torch.testing.assert_close(q.rate.detach(), torch.tensor([1.0, 2.0]))


def test_state_of_adam_survives():
    torch.manual_seed(0)
    q = GammaFamily()
    optimizer = torch.optim.Adam(q.parameters(), lr=0.1)
    stepped(q, optimizer)
    state = optimizer.state[q.raw_rate]
    before = {name: value.clone() for name, value in state.items()}
    q.rate = 2.0
    assert optimizer.state[q.raw_rate] is state
    assert all(torch.equal(state[name], value) for name, value in before.items())
    stepped(q, optimizer)
    assert state["step"].item() == 2
    assert q.rate.item() != pytest.approx(2.0)  # the optimizer still moves what q reads
    assert q.rate.item() == pytest.approx(2.0, rel=0.2)


def test_assignment_is_seen_by_snapshots_made_later_only():
    q = GammaFamily()
    earlier = q()
    q.rate = 3.0
    assert earlier.rate.item() == 1.0
    assert q().rate.item() == pytest.approx(3.0)


def test_assignment_in_the_middle_of_a_graph():
    """The backward pass of what was computed before is refused or right, never silently wrong."""
    q = FixedTail(loc=1.0)
    loss = (q.loc * 3.0).sum()
    q.loc = 2.0
    loss.backward()
    assert q.raw_loc.grad.item() == 3.0


def test_frozen_values_can_be_assigned_and_stay_frozen():
    q = GammaFamily()
    q.freeze("rate")
    q.rate = 2.0
    assert q.rate.item() == pytest.approx(2.0)
    assert not q.raw_rate.requires_grad


# --- refusals -------------------------------------------------------------------------------

WRONG_SHAPE = [torch.ones(3), torch.ones(1, 2), torch.ones(1), [1.0, 2.0, 3.0], [], [[1.0, 2.0]]]


@pytest.mark.parametrize("value", WRONG_SHAPE)
def test_refused_shape(value):
    q = GammaFamily(rate=[0.3, 0.7])
    before = state_of(q)
    with pytest.raises(ConstraintError, match=r"^GammaFamily\.rate: expected shape \(2,\), got"):
        q.rate = value
    assert_unchanged(q, before)


def test_refused_by_a_tensor_bound():
    model = Above()
    before = state_of(model)
    with pytest.raises(ConstraintError, match=r"^Above\.x: expected a finite number above"):
        model.x = [1.5, 2.0]
    assert_unchanged(model, before)
    model.x = [1.5, 2.5]
    torch.testing.assert_close(model.x.detach(), torch.tensor([1.5, 2.5]))


def test_refused_by_a_named_bound():
    q = Box(low=2.0, high=3.0)
    before = state_of(q)
    for value in (2.0, 1.0, math.nan, math.inf):
        with pytest.raises(ConstraintError, match=r"^Box\.high: expected a finite number above"):
            q.high = value
        assert_unchanged(q, before)


def test_derived_field_refuses():
    q = GammaByMean()
    before = state_of(q)
    for give in (
        lambda: setattr(q, "rate", 2.0),
        lambda: q.assign(concentration=3.0, rate=2.0),
        lambda: GammaByMean(rate=2.0),
    ):
        with pytest.raises(FieldError) as caught:
            give()
        assert caught.value.sentence == (
            "GammaByMean.rate: expected no assignment to a derived field, got a value. "
            "It is computed from concentration, location: set these instead."
        )
        assert_unchanged(q, before)


# --- other attributes -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rte", "rat", "ratee", "raet", "rake", "Rate"])
@pytest.mark.parametrize("value", [2, 2.0, torch.tensor(2.0)])
def test_misspelt_field(name, value):
    q = GammaFamily()
    with pytest.raises(FieldError) as caught:
        setattr(q, name, value)
    assert caught.value.sentence == (
        f"GammaFamily.{name}: expected the name of a field, got {name!r}. Did you mean 'rate'?"
    )
    assert not hasattr(q, name)


def test_other_attributes_are_free():
    q = GammaFamily()
    q.temperature = 2.0
    q._rte = 3.0
    q.rte = "a note"
    q.ratio = torch.ones(2)
    q.flag = True
    assert (q.temperature, q._rte, q.rte, q.flag) == (2.0, 3.0, "a note", True)
    assert q.ratio.tolist() == [1.0, 1.0]


# --- raw values -----------------------------------------------------------------------------


def test_raw_parameter_can_be_replaced():
    q = GammaFamily()
    raw = nn.Parameter(torch.tensor(math.log(3.0)))
    q.raw_rate = raw
    assert q.raw_rate is raw
    assert q.rate.item() == pytest.approx(3.0)
    assert [name for name, _ in q.named_parameters()] == ["raw_concentration", "raw_rate"]
    q.rate = 5.0
    assert raw.item() == pytest.approx(math.log(5.0))


def test_raw_parameters_can_be_shared():
    a, b = GammaFamily(), GammaFamily()
    b.raw_rate = a.raw_rate
    a.rate = 4.0
    assert b.rate.item() == pytest.approx(4.0)


# --- several values -------------------------------------------------------------------------


def test_assign():
    q = GammaFamily()
    raw = q.raw_rate
    assert q.assign(rate=2.0, concentration=torch.tensor(3.0)) is None
    assert (q.rate.item(), q.concentration.item()) == pytest.approx((2.0, 3.0))
    assert q.raw_rate is raw


def test_assign_nothing():
    q = GammaFamily(rate=0.3)
    before = state_of(q)
    q.assign()
    assert_unchanged(q, before)


@pytest.mark.parametrize("order", [("low", "high"), ("high", "low")])
@pytest.mark.parametrize("ends", [(10.0, 20.0), (-20.0, -10.0)])
def test_bounds_move_together(order, ends):
    q = Box()
    both = dict(zip(("low", "high"), ends, strict=True))
    q.assign(**{name: both[name] for name in order})
    assert (q.low.item(), q.high.item()) == pytest.approx(ends)


def test_bounds_that_would_cross_are_refused_together():
    q = Box(low=0.25, high=0.75)
    before = state_of(q)
    with pytest.raises(ConstraintError, match=r"^Box\.high"):
        q.assign(low=30.0, high=20.0)
    assert_unchanged(q, before)


@pytest.mark.parametrize(
    "values",
    [
        {"loc": 5.0, "scale": -1.0},
        {"scale": -1.0, "loc": 5.0},
        {"loc": 5.0, "df": -1.0},
        {"df": 7.0, "scale": 0.0},
        {"df": 7.0, "loc": math.nan, "scale": 3.0},
        {"df": 7.0, "loc": torch.zeros(9), "scale": 3.0},
    ],
)
def test_all_or_nothing(values):
    q = FixedTail(loc=0.5, scale=0.25, df=3)
    before = state_of(q)
    with pytest.raises(ConstraintError):
        q.assign(**values)
    assert_unchanged(q, before)


def test_assign_to_a_name_that_is_no_field():
    q = GammaFamily()
    before = state_of(q)
    with pytest.raises(DeclarationError) as caught:
        q.assign(concentration=3.0, rte=2.0)
    assert caught.value.sentence == (
        "GammaFamily.rte: expected the name of a field, got 'rte'. "
        "Did you mean 'rate'? Known here: concentration, rate."
    )
    assert_unchanged(q, before)


@pytest.mark.parametrize("constraint", [Real(), Exp()])
def test_assign_swaps_values_without_aliasing(constraint):
    class Pair(Declarative):
        a = Param(1.0, constraint)
        b = Param(2.0, constraint)

    pair = Pair()
    pair.assign(a=pair.b, b=pair.a)
    assert (pair.a.item(), pair.b.item()) == pytest.approx((2.0, 1.0))


def test_setting_the_low_end_moves_the_high_end():
    q = Box(low=0.0, high=3.0)
    raw = q.raw_high.clone()
    q.low = 10.0
    assert torch.equal(q.raw_high, raw)
    assert q.high.item() == pytest.approx(13.0)


# --- carrying values over -------------------------------------------------------------------


def test_constrained_values():
    q = FixedTail(loc=[1.0, 2.0], scale=3.0)
    values = q.constrained_values()
    assert list(values) == ["df", "loc", "scale"]
    assert not any(value.requires_grad for value in values.values())
    torch.testing.assert_close(values["scale"], torch.tensor(3.0))
    assert values["df"].item() == 4.0
    assert list(GammaByMean().constrained_values()) == ["concentration", "location"]


# --- training or not ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, 1, 2.0])
def test_freeze_takes_names(name):
    with pytest.raises(DeclarationError, match="expected the name of a parameter, in quotes, got"):
        GammaFamily().freeze(name)


def test_freeze_one_and_all():
    q = GammaFamily()
    q.freeze("rate")
    assert (q.raw_rate.requires_grad, q.raw_concentration.requires_grad) == (False, True)
    q.unfreeze("rate")
    assert q.raw_rate.requires_grad
    q.freeze()
    assert not any(parameter.requires_grad for parameter in q.parameters())
    q.unfreeze()
    assert all(parameter.requires_grad for parameter in q.parameters())


@pytest.mark.parametrize("method", ["freeze", "unfreeze"])
def test_freeze_of_no_parameter(method):
    q = FixedTail()
    with pytest.raises(DeclarationError) as caught:
        getattr(q, method)("scal")
    assert caught.value.sentence == (
        "FixedTail.scal: expected the name of a parameter, got 'scal'. "
        "Did you mean 'scale'? Known here: loc, scale."
    )
    with pytest.raises(DeclarationError, match=r"^FixedTail\.df: expected the name of a para"):
        getattr(q, method)("df")


def test_freeze_with_a_wrong_name_among_right_ones_changes_nothing():
    q = FixedTail()
    with pytest.raises(DeclarationError):
        q.freeze("loc", "scal")
    assert q.raw_loc.requires_grad


def test_reading_never_changes_requires_grad():
    class Mixed(Variational):
        base = dd.Gamma
        concentration = Param(2.0, trainable=False)
        rate = Param(3.0)

    q = Mixed()
    for _ in range(2):
        assert not q.concentration.requires_grad
        assert q.rate.requires_grad
        assert (q().rate.requires_grad, q().concentration.requires_grad) == (True, False)
        q.log_prob(torch.tensor(1.0)).backward()
        q.constrained_values()
        q.reset_parameters()
        assert (q.raw_concentration.requires_grad, q.raw_rate.requires_grad) == (False, True)
    assert q.raw_concentration.grad is None


def test_parameter_groups():
    class Deep(FixedTail):
        def __init__(self, **keywords):
            super().__init__(**keywords)
            self.layer = nn.Linear(2, 1)

    q = Deep()
    groups = q.parameter_groups(scale={"lr": 0.5, "weight_decay": 0.1})
    assert groups[0] == {"params": [q.raw_scale], "lr": 0.5, "weight_decay": 0.1}
    assert [id(p) for p in groups[1]["params"]] == [
        id(p) for p in (q.raw_loc, q.layer.weight, q.layer.bias)
    ]
    optimizer = torch.optim.SGD(groups, lr=0.01)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.01]


@pytest.mark.parametrize("name", ["rte", "df"])
def test_parameter_groups_of_no_parameter(name):
    with pytest.raises(DeclarationError, match=rf"^FixedTail\.{name}: expected the name"):
        FixedTail().parameter_groups(**{name: {"lr": 1.0}})


# --- back to the start ----------------------------------------------------------------------


def test_reset_of_constants_that_were_changed_in_place():
    q = FixedTail()
    q.df.fill_(9.0)
    assert q().df.item() == 9.0
    q.reset_parameters()
    assert q().df.item() == 4.0


def test_reset_of_tensor_bounds_after_the_tensor_that_was_given_has_changed():
    low = torch.tensor(1.0)

    class Model(Declarative):
        x = Param(2.0, GreaterThan(low))

    model = Model()
    low.fill_(50.0)
    assert model.x.item() == pytest.approx(2.0)
    model.reset_parameters()
    assert model.x.item() == pytest.approx(2.0)


def test_reset_draws_callables_again():
    class Model(Declarative):
        x = Param(torch.randn, shape=(4,))

    torch.manual_seed(0)
    model = Model()
    first = model.x.detach().clone()
    model.reset_parameters()
    second = model.x.detach().clone()
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(first, torch.randn(4))
    assert torch.equal(second, torch.randn(4))


def test_reset_keeps_the_dtype_and_the_frozen():
    q = FixedTail(loc=1.0).double()
    q.freeze("loc")
    q.loc = 5.0
    q.reset_parameters()
    assert q.loc.item() == 1.0
    assert q.raw_loc.dtype == torch.float64
    assert not q.raw_loc.requires_grad


# --- never stale ----------------------------------------------------------------------------


def test_after_data_was_edited():
    q = GammaFamily()
    assert q.rate.item() == 1.0
    q.raw_rate.data.fill_(math.log(7.0))
    assert q.rate.item() == pytest.approx(7.0)
    q.raw_rate.data = torch.tensor(math.log(8.0))
    assert q.rate.item() == pytest.approx(8.0)
    assert q.variance.item() == pytest.approx(1 / 64)

"""`check_constraint`: every constraint here passes, each broken one gets what it broke named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from declarative_dist import (
    Constraint,
    DeclarationError,
    GreaterThan,
    LogInterval,
    LowerCholesky,
    Positive,
)
from declarative_dist.testing import BrokenPromiseError, check_constraint
from declarative_dist.testing.constraint_promises import PROMISES
from tests import broken_constraints as broken
from tests.constraints.cases import CASES, GUARANTEED

pytestmark = pytest.mark.filterwarnings(
    # Raised by a module of torch that inductor imports.
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
)


@pytest.mark.parametrize("name", GUARANTEED)
def test_every_constraint_passes(name: str) -> None:
    check_constraint(CASES[name].make(), shape=CASES[name].shape)


@pytest.mark.parametrize("name", ["from-exp-transform", "users-own"])
def test_maps_for_moderate_numbers_pass_where_they_are_meant_to_work(name: str) -> None:
    with pytest.raises(BrokenPromiseError, match="'inside' is broken"):
        check_constraint(CASES[name].make())
    check_constraint(CASES[name].make(), raw_limit=9.0)


def test_a_limit_that_is_too_wide_for_a_dtype_is_named() -> None:
    exp = CASES["from-exp-transform"].make()
    with pytest.raises(BrokenPromiseError, match=r"in torch\.float16\. "):
        check_constraint(exp, raw_limit=12.0)
    check_constraint(exp, raw_limit=12.0, dtypes=(torch.float32, torch.float64))


def test_what_as_constraint_takes_is_taken() -> None:
    check_constraint(constraints.positive)
    check_constraint(Positive)
    check_constraint(GreaterThan(torch.zeros(2, 1)))


class Direction(Constraint):
    """A unit vector: many raw numbers give one, so that it has no density in them."""

    support = constraints.real_vector

    def forward(self, raw: Tensor) -> Tensor:
        return raw / raw.norm(dim=-1, keepdim=True)

    def inverse(self, value: Tensor) -> Tensor:
        return value

    def contains(self, value: Tensor) -> Tensor:
        return (value.norm(dim=-1) - 1).abs() < 1e-2

    def default(self, shape: torch.Size) -> Tensor:
        return torch.full(shape, shape[-1] ** -0.5)


def test_a_map_that_is_not_one_to_one_passes_where_it_is_defined() -> None:
    with pytest.raises(BrokenPromiseError, match=r"'inside'.* got \[nan, nan, nan\] for the raw"):
        check_constraint(Direction())
    check_constraint(Direction(), skip=["inside", "gradient"])  # there is none at zero


class Upper(LowerCholesky):
    """Transposed: values are not contiguous."""

    support = constraints.independent(constraints.real, 2)

    def forward(self, raw: Tensor) -> Tensor:
        return super().forward(raw).mT

    def inverse(self, value: Tensor) -> Tensor:
        return super().inverse(value.mT)

    def contains(self, value: Tensor) -> Tensor:
        return super().contains(value.mT)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return super().log_abs_det_jacobian(raw, value.mT)


def test_a_transposed_one_passes() -> None:
    check_constraint(Upper())


def test_a_wide_range_on_a_log_scale_costs_digits() -> None:
    wide = LogInterval(1e-12, 1e12)
    with pytest.raises(BrokenPromiseError, match="'round trip' is broken"):
        check_constraint(wide, dtypes=[torch.float32])
    check_constraint(wide, dtypes=[torch.float64, torch.float32], skip=["round trip"])


FITTING = "Batch dimensions come first; the shapes it declares must say what it does."
MODERATE = "or check with raw_limit= if it is meant for moderate ones."
CLAMP = "Clamp before exp, log and division, not behind them, "
HOLD = (
    "Clamp the raw number before it overflows, hold a value that rounding brings to an end at "
    f"the next number inside, {MODERATE}"
)
EVERY = "for every finite raw number, got"

OPTIONS: dict[type, dict[str, Any]] = {
    broken.Redundant: {"dtypes": [torch.float64], "skip": ["round trip"]},
    broken.BreaksGraphs: {"compile": True},
    broken.OtherwiseCompiled: {"compile": True},
    broken.OutsideCompiled: {"compile": True},
}
"""What a check is asked for beside the class."""

MESSAGES: dict[type[Constraint], str] = {
    broken.WrongValueShape: (
        "'shapes' is broken. WrongValueShape.value_shape: expected the shape (3,) for (3,), "
        f"got (3, 1). {FITTING}"
    ),
    broken.Overflowing: (
        "'inside' is broken. Overflowing.forward: expected a value in "
        f"GreaterThan(lower_bound=0.0) {EVERY} inf for the raw number 710.0 in torch.float64. "
        f"{HOLD}"
    ),
    broken.Sigmoid: (
        "'inside' is broken. Sigmoid.forward: expected a value in Interval(lower_bound=0.0, "
        f"upper_bound=1.0) {EVERY} 1.0 for the raw number 37.0 in torch.float64. {HOLD}"
    ),
    broken.Infinite: (
        f"'gradient' is broken. Infinite.forward: expected a finite gradient {EVERY} nan for "
        f"the raw number 710.0 in torch.float64. {CLAMP}{MODERATE}"
    ),
    broken.DeadEntry: (
        "'gradient' is broken. DeadEntry.forward: expected an effect of every raw number, got "
        "none of the raw number at [2]. Leave it out in raw_shape, or use it in forward."
    ),
    broken.WrongInverse: (
        "'round trip' is broken. WrongInverse.inverse: expected values back to a relative error "
        "of (2 + |raw|) * eps, got 0.6781962 for the raw number -0.03012896 in torch.float64. "
        "Invert with log1p, expm1 and a wider dtype where digits cancel."
    ),
    broken.WrongJacobian: (
        "'jacobian' is broken. WrongJacobian.log_abs_det_jacobian: expected [-0.860856, "
        "-1.111912, -0.4468141], the log of the volume change that autograd finds, got 0.860856 "
        "for the raw number -0.3112896 in torch.float64. Differentiate forward: log |d value / "
        "d raw|, summed over an event."
    ),
    broken.Redundant: (
        "'jacobian' is broken. Redundant.log_abs_det_jacobian: expected a map that is one to "
        "one, to have a density, got 3 raw numbers for 2 coordinates of a value. Define no "
        "log_abs_det_jacobian, or drop the raw numbers that are too many."
    ),
    broken.Plain: (
        "'state' is broken. Plain.scale: expected a buffer, which moves, saves and loads with "
        "the constraint, got a tensor as a plain attribute. Write "
        "self.register_buffer(...) in __init__."
    ),
    broken.Refusing: (
        "'shapes' is broken. Refusing: expected raw shapes and value shapes that fit each "
        "other, got TypeError: one dimension is not enough."
    ),
}
"""What is said of some of them, in full."""

BROKEN: dict[type[Constraint], tuple[str, str]] = {
    broken.WithEvents: ("shapes", "event_dim"),
    broken.ShortRaw: ("shapes", "value_shape"),
    broken.WrongRawEvents: ("shapes", "raw_event_dim"),
    broken.Normalised: ("shapes", "forward"),
    broken.Noisy: ("shapes", "forward"),
    broken.AtTheEnd: ("inside", "forward"),
    broken.Lenient: ("refusal", "contains"),
    broken.InFloat32: ("inside", "forward"),
    broken.OfAnotherSet: ("inside", "forward"),
    broken.BehindAutograd: ("gradient", "forward"),
    broken.Detached: ("gradient", "forward"),
    broken.FarDefault: ("default", "default"),
    broken.ShapelessDefault: ("default", "default"),
    broken.RoundedInverse: ("round trip", "inverse"),
    broken.Folded: ("round trip", "inverse"),
    broken.ShapelessJacobian: ("jacobian", "log_abs_det_jacobian"),
    broken.Mixed: ("jacobian", "event_dim"),
    broken.OnTheCpu: ("state", "forward"),
    broken.Unpicklable: ("copies", ""),
    broken.Branching: ("vmap", ""),
    broken.BreaksGraphs: ("compile", ""),
    broken.WideInverse: ("round trip", "inverse"),
    broken.Aging: ("copies", "forward"),
    broken.OtherwiseMapped: ("vmap", "forward"),
    broken.GradientOtherwiseMapped: ("vmap", "forward"),
    broken.OtherwiseCompiled: ("compile", "forward"),
    broken.OutsideCompiled: ("compile", "forward"),
}
"""The promise that each of the others breaks, and the member that is to blame."""


def test_a_good_one_passes() -> None:
    check_constraint(broken.Good())


@pytest.mark.parametrize("kind", [*MESSAGES, *BROKEN])
def test_the_broken_promise_is_named(kind: type[Constraint]) -> None:
    with pytest.raises(BrokenPromiseError) as caught:
        check_constraint(kind(), **OPTIONS.get(kind, {}))
    if kind in MESSAGES:
        assert caught.value.sentence == MESSAGES[kind]
        return
    promise, member = BROKEN[kind]
    assert caught.value.promise == promise
    assert caught.value.subject == f"{kind.__name__}.{member}".rstrip(".")
    assert caught.value.got
    assert isinstance(caught.value, AssertionError)


def test_no_broken_constraint_is_left_out() -> None:
    kinds = {kind for kind in vars(broken).values() if isinstance(kind, type)}
    named = {kind for kind in kinds if kind.__module__ == broken.__name__}
    assert named == {*MESSAGES, *BROKEN, broken.Good, broken.WithoutSupport}


def test_what_was_not_promised_may_be_left_out() -> None:
    check_constraint(broken.WrongJacobian(), skip=["jacobian"])


def test_every_promise_is_broken_by_some_example() -> None:
    found = {message.split("'")[1] for message in MESSAGES.values()}
    found |= {promise for promise, _ in BROKEN.values()}
    assert found == set(PROMISES)


@pytest.mark.parametrize(("constraint", "options", "message"), [
    ("positive", {},
        ("check_constraint: expected a Constraint, a torch constraint, a Transform, or a "
         "module with right_inverse, got 'positive'.")),
    (broken.WithoutSupport(), {},
        ("check_constraint: expected WithoutSupport.support, a torch.distributions.constraints "
         "object, got 'positive'. Write support = torch.distributions.constraints.positive in "
         "WithoutSupport, for instance.")),
    (Positive(), {"skip": ["jacobean"]},
        ("check_constraint(skip=): expected names of promises, got 'jacobean'. Did you "
         "mean 'jacobian'? Known here: shapes, inside, gradient, refusal, default, round "
         "trip, jacobian, state, copies, vmap, compile.")),
], ids=["no constraint", "no support", "skip"])  # fmt: skip
def test_mistakes_are_named(constraint: object, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        check_constraint(constraint, **options)
    assert caught.value.sentence == message


def test_it_passes_compiled_and_nothing_of_torch_is_changed() -> None:
    state, grad = torch.get_rng_state(), torch.is_grad_enabled()
    constraint = GreaterThan(torch.zeros(3))
    torch._dynamo.reset()
    check_constraint(constraint, compile=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert Distribution._validate_args
    assert torch.is_grad_enabled() == grad
    assert constraint.low.dtype == torch.float32

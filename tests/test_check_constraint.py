"""`check_constraint`: every constraint here passes, each broken one gets what it broke named."""

from __future__ import annotations

import re
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
    Simplex,
)
from declarative_dist.errors import ExplainedError
from declarative_dist.testing import BrokenPromiseError, check_constraint
from declarative_dist.testing.constraint_promises import PROMISES, SLOW
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
    with pytest.raises(
        BrokenPromiseError, match=r"float16\. .* or check with a smaller raw_limit="
    ):
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


def test_the_coordinates_of_a_density_may_be_named() -> None:
    check_constraint(Simplex(), coordinates=lambda value: value[..., 1:])
    with pytest.raises(BrokenPromiseError, match="^'jacobian' is broken"):
        check_constraint(Simplex(), coordinates=lambda value: 2 * value[..., 1:])


def test_a_wide_range_on_a_log_scale_costs_digits() -> None:
    wide = LogInterval(1e-12, 1e12)
    with pytest.raises(BrokenPromiseError, match="'round trip' is broken"):
        check_constraint(wide, dtypes=[torch.float32])
    check_constraint(wide, dtypes=[torch.float64, torch.float32], round_trip=60.0)


def sentence(error: ExplainedError) -> str:
    """A message without the size of an error."""
    return re.sub(r"off by [\d.e-]+", "off by ...", error.sentence)


FITTING = (
    "Batch dimensions come first; raw_shape, value_shape and the support's event_dim must say "
    "what forward does."
)
MODERATE = "or check with raw_limit= if it is meant for moderate ones."
CLAMP = "Clamp before exp, log and division, not behind them, "
HOLD = "Rounding has reached the end: hold the value at the next number of its dtype, "
DIGITS = "That is off by ...: invert with log1p, expm1 and a wider dtype where digits cancel."
EVERY = "for every finite raw number, got"

OPTIONS: dict[type, dict[str, Any]] = {
    broken.Redundant: {"dtypes": [torch.float64], "skip": ["round trip"]},
    broken.BreaksGraphs: {"compile": True},
    broken.InfiniteJacobian: {"skip": ["jacobian"]},
    broken.OtherwiseCompiled: {"compile": True},
    broken.OutsideCompiled: {"compile": True},
}
"""What a check is asked for beside the class."""

BROKEN: dict[type[Constraint], str] = {
    broken.WithEvents: (
        "'support' is broken. WithEvents.event_dim: expected 0, as of its support, got 1. Let "
        "the support say it: constraints.independent(..., event_dim)."
    ),
    broken.Silent: (
        "'words' is broken. Silent.describe: expected a text for messages, got ''. Return "
        "some words."
    ),
    broken.ShortRaw: (
        "'shapes' is broken. ShortRaw.value_shape: expected the shape (3,) for (2,), got "
        f"(2,). {FITTING}"
    ),
    broken.WrongRawEvents: (
        "'shapes' is broken. WrongRawEvents.raw_event_dim: expected 1, the dimensions of "
        "raw_shape((3,)), got 2. Write raw_event_dim = 1 where the numbers of a matrix are "
        "packed, for instance."
    ),
    broken.WrongValueShape: (
        "'shapes' is broken. WrongValueShape.value_shape: expected the shape (3,) for (3,), "
        f"got (3, 1). {FITTING}"
    ),
    broken.Normalised: (
        "'shapes' is broken. Normalised.forward: expected each row of a batch as it is alone, "
        "[0.1068777, 0.7177616, 0.1753607], got [0.01877804, 0.1261082, 0.03081027]. Reduce "
        "over the last dimensions only, with dim=-1."
    ),
    broken.InPlace: (
        "'pure' is broken. InPlace.forward: expected raw numbers left as they are, got "
        "changed ones."
    ),
    broken.Noisy: (
        "'pure' is broken. Noisy.forward: expected the same values twice, got different ones."
    ),
    broken.Overflowing: (
        "'inside' is broken. Overflowing.forward: expected a value in "
        f"GreaterThan(lower_bound=0.0) {EVERY} inf for the raw number 710.0 in torch.float64. "
        f"Clamp the raw number before it overflows, {MODERATE}"
    ),
    broken.AtTheEnd: (
        "'inside' is broken. AtTheEnd.forward: expected a value in "
        f"GreaterThan(lower_bound=0.0) {EVERY} 0.0 for the raw number -710.0 in torch.float64. "
        f"{HOLD}{MODERATE}"
    ),
    broken.Sigmoid: (
        "'inside' is broken. Sigmoid.forward: expected a value in Interval(lower_bound=0.0, "
        f"upper_bound=1.0) {EVERY} 1.0 for the raw number 37.0 in torch.float64. "
        f"{HOLD}{MODERATE}"
    ),
    broken.Lenient: (
        "'refusal' is broken. Lenient.contains: expected 0.0, the lower bound of its support, "
        "refused in torch.float64, got True. Return value.isfinite() & (value > low) & (value "
        "< high), for instance."
    ),
    broken.InFloat32: (
        "'inside' is broken. InFloat32.forward: expected values of torch.float64, got "
        "torch.float32. Compute in the dtype of the raw number: no torch.tensor(...) without "
        "dtype=."
    ),
    broken.OfAnotherSet: (
        "'inside' is broken. OfAnotherSet.forward: expected a value in "
        f"GreaterThan(lower_bound=1.0) {EVERY} 0.6931472 for the raw number 0.0 in "
        "torch.float64. Make forward, support and contains speak of one set."
    ),
    broken.Infinite: (
        f"'gradient' is broken. Infinite.forward: expected a finite gradient {EVERY} nan for "
        f"the raw number 710.0 in torch.float64. {CLAMP}{MODERATE}"
    ),
    broken.BehindAutograd: (
        f"'gradient' is broken. BehindAutograd.forward: expected a finite gradient {EVERY} inf "
        f"for the raw number 710.0 in torch.float64. {CLAMP}{MODERATE}"
    ),
    broken.Detached: (
        "'gradient' is broken. Detached.forward: expected a value with a gradient, got a "
        "detached one. Keep to torch's operations, without detach, item, data or numpy."
    ),
    broken.DeadEntry: (
        "'alive' is broken. DeadEntry.forward: expected an effect of every raw number on the "
        "value, got no effect of the raw number at [2]. Leave it out in raw_shape, or use it "
        "in forward."
    ),
    broken.FarDefault: (
        "'default' is broken. FarDefault.default: expected a value in "
        "GreaterThan(lower_bound=0.0), got [0.0, 0.0, 0.0]. Start inside the set."
    ),
    broken.ShapelessDefault: (
        "'default' is broken. ShapelessDefault.default: expected the shape (3,) for (3,), got "
        f"(). {FITTING}"
    ),
    broken.WrongInverse: (
        "'round trip' is broken. WrongInverse.inverse: expected forward(inverse(value)) to be "
        "0.6777038, to a relative error of (2 + |raw|) * eps, got 0.6781962 for the raw "
        f"number -0.03012896 in torch.float64. {DIGITS}"
    ),
    broken.RoundedInverse: (
        "'round trip' is broken. RoundedInverse.inverse: expected forward(inverse(value)) to "
        "be 0.0001196202, to a relative error of (2 + |raw|) * eps, got 0.0001196202 for the "
        f"raw number -0.03112896 in torch.float64. {DIGITS}"
    ),
    broken.Folded: (
        "'round trip' is broken. Folded.inverse: expected inverse(forward(raw)) to be the raw "
        "number, got 0.3112896 for the raw number -0.3112896 in torch.float64. Make the map "
        "one to one."
    ),
    broken.WrongJacobian: (
        "'jacobian' is broken. WrongJacobian.log_abs_det_jacobian: expected -0.860856, the "
        "log of the volume change that autograd finds, got 0.860856 at the raw number "
        "-0.3112896. Differentiate forward: log |d value / d raw|, summed over an event."
    ),
    broken.ShapelessJacobian: (
        "'jacobian' is broken. ShapelessJacobian.log_abs_det_jacobian: expected the shape "
        f"(3,) for (3,), got (). {FITTING}"
    ),
    broken.Mixed: (
        "'jacobian' is broken. Mixed.event_dim: expected every entry of a value to depend on "
        "its own raw number alone, got entries that depend on others. Give the support as "
        "many event dimensions as one value spans."
    ),
    broken.Redundant: (
        "'jacobian' is broken. Redundant.log_abs_det_jacobian: expected a map that is one to "
        "one, to have a density, got 3 raw numbers for 2 coordinates of a value. Define no "
        "log_abs_det_jacobian, or drop the raw numbers that are too many."
    ),
    broken.Plain: (
        "'state' is broken. Plain.scale: expected a buffer, which moves, saves and loads with "
        "the constraint, got a tensor as a plain attribute. Write "
        "self.register_buffer('scale', ...) in __init__."
    ),
    broken.OnTheCpu: (
        "'state' is broken. OnTheCpu.forward: expected a meta tensor of shape (2, 3) for a "
        "meta tensor, got (2, 3) on cpu."
    ),
    broken.Unpicklable: (
        "'copies' is broken. Unpicklable.__reduce__: expected a constraint that pickles, got "
        "AttributeError: Can't pickle local object 'Unpicklable.__init__.<locals>.<lambda>'. "
        "Define its class at the top of a module, and hold no lambda in it."
    ),
    broken.Branching: (
        "'vmap' is broken. Branching: expected the same values under torch.func.vmap and "
        "torch.func.grad, got RuntimeError: vmap: It looks like you're attempting to use a "
        "Tensor in some data-dependent control flow. We don't support that yet, please file "
        "an issue at https://github.com/pytorch/pytorch/issues ."
    ),
    broken.BreaksGraphs: (
        "'compile' is broken. BreaksGraphs: expected the same values from "
        "torch.compile(fullgraph=True), got Unsupported: Call to "
        "`torch._dynamo.graph_break()`."
    ),
    broken.Refusing: (
        "'shapes' is broken. Refusing: expected raw shapes and value shapes that fit each "
        "other, got TypeError: one dimension is not enough."
    ),
    broken.InfiniteJacobian: (
        "'transform' is broken. InfiniteJacobian.log_abs_det_jacobian: expected finite log "
        "densities of shape (20, 3), got a tensor of shape (20, 3) with NaN or infinite "
        "values."
    ),
    broken.WideInverse: (
        "'round trip' is broken. WideInverse.inverse: expected raw numbers of torch.float32, "
        "got torch.float64."
    ),
    broken.Aging: (
        "'copies' is broken. Aging.forward: expected the same values through copy.deepcopy, "
        "[1.095657, 0.8468909, 0.8377607], got [1.858249, 1.530783, 1.518237]."
    ),
    broken.OtherwiseMapped: (
        "'vmap' is broken. OtherwiseMapped.forward: expected [0.5495665, 0.3988812, "
        "0.3936342] under vmap too, got [1.095657, 0.8468909, 0.8377607]."
    ),
    broken.GradientOtherwiseMapped: (
        "'vmap' is broken. GradientOtherwiseMapped.forward: expected the gradient [0.4647134, "
        "0.2624077, 0.2561766] under torch.func.grad too, got [0.0, 0.0, 0.0]."
    ),
    broken.OtherwiseCompiled: (
        "'compile' is broken. OtherwiseCompiled.forward: expected [0.5495664, 0.3988812, "
        "0.3936342] under torch.compile too, got [1.095657, 0.8468909, 0.8377607]."
    ),
    broken.OutsideCompiled: (
        "'compile' is broken. OutsideCompiled.forward: expected a value in "
        "GreaterThan(lower_bound=0.0) under torch.compile too, got -0.5495664 for the raw "
        "number -0.3112895 in torch.float32."
    ),
}


def test_a_good_one_passes() -> None:
    check_constraint(broken.Good())


@pytest.mark.parametrize("kind", BROKEN)
def test_the_broken_promise_is_named(kind: type[Constraint]) -> None:
    with pytest.raises(BrokenPromiseError) as caught:
        check_constraint(kind(), **OPTIONS.get(kind, {}))
    assert sentence(caught.value) == BROKEN[kind]
    assert isinstance(caught.value, AssertionError)


def test_no_broken_constraint_is_left_out() -> None:
    kinds = {kind for kind in vars(broken).values() if isinstance(kind, type)}
    named = {kind for kind in kinds if kind.__module__ == broken.__name__}
    assert named == {*BROKEN, broken.Good, broken.WithoutSupport}


def test_what_was_not_promised_may_be_left_out() -> None:
    check_constraint(broken.WrongJacobian(), skip=["jacobian"])


BEHIND = {
    "transform": (broken.ShapelessJacobian, ["jacobian"]),
    "parametrization": (broken.WrongInverse, ["round trip", "transform"]),
}
"""What a broken constraint breaks beside the promise that is tried first."""


@pytest.mark.parametrize("promise", BEHIND)
def test_later_promises_are_tried_where_the_first_was_not_made(promise: str) -> None:
    kind, skip = BEHIND[promise]
    with pytest.raises(BrokenPromiseError, match=f"^'{promise}' is broken"):
        check_constraint(kind(), skip=skip)


def test_every_promise_is_broken_by_some_example() -> None:
    found = {message.split("'")[1] for message in BROKEN.values()}
    assert found | set(BEHIND) == {*PROMISES, *SLOW}


@pytest.mark.parametrize(
    ("constraint", "options", "message"),
    [
        (
            "positive",
            {},
            (
                "check_constraint: expected a Constraint, a torch constraint, a Transform, or a "
                "module with right_inverse, got 'positive'."
            ),
        ),
        (
            broken.WithoutSupport(),
            {},
            (
                "check_constraint: expected WithoutSupport.support, a "
                "torch.distributions.constraints object, got 'positive'. Write support = "
                "torch.distributions.constraints.positive in WithoutSupport, for instance."
            ),
        ),
        (
            GreaterThan("low"),
            {},
            (
                "check_constraint: expected a constraint whose bounds are known, got "
                "GreaterThan(low='low'). Give them: constraint.resolved({'low': ...})."
            ),
        ),
        (
            Positive(),
            {"skip": ["jacobean"]},
            (
                "check_constraint(skip=): expected names of promises, got 'jacobean'. Did you "
                "mean 'jacobian'? Known here: support, words, pure, shapes, inside, gradient, "
                "alive, refusal, default, round trip, jacobian, transform, parametrization, "
                "state, copies, vmap."
            ),
        ),
    ],
    ids=["no constraint", "no support", "named bounds", "skip"],
)
def test_mistakes_are_named(constraint: object, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        check_constraint(constraint, **options)
    assert sentence(caught.value) == message


def test_it_passes_compiled_and_nothing_of_torch_is_changed() -> None:
    state, grad = torch.get_rng_state(), torch.is_grad_enabled()
    constraint = GreaterThan(torch.zeros(3))
    torch._dynamo.reset()
    check_constraint(constraint, compile=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert Distribution._validate_args
    assert torch.is_grad_enabled() == grad
    assert constraint.low.dtype == torch.float32

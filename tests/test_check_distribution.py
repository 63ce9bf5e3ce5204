"""`check_distribution`: every family here passes, each broken one gets what it broke named."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import nn
from torch.distributions import Distribution

from declarative_dist import (
    DeclarationError,
    Declarative,
    FullRankNormal,
    GreaterThan,
    Interval,
    MeanFieldNormal,
    Param,
    learnable,
)
from declarative_dist.errors import ExplainedError
from declarative_dist.testing import BrokenPromiseError, check_distribution
from declarative_dist.testing.distribution_promises import PROMISES
from declarative_dist.testing.mass import mass_of
from declarative_dist.wrappers import Censored, ZeroInflated
from tests import broken_families as broken
from tests.cases import CASES, PLAIN, MixtureDensity, Policy
from tests.limits import LIMITS

pytestmark = [
    # torch warns at the first draw of every Wishart, singular or not.
    pytest.mark.filterwarnings("ignore:Singular sample:UserWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
    # Raised by a module of torch that inductor imports.
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),
]


def sentence(error: ExplainedError) -> str:
    """A message without estimates."""
    means = r"over its own draws, to \[[\d., -]+\], got \[[\d., -]+\]"
    return re.sub(means, "over its own draws ...", error.sentence)


@pytest.mark.parametrize("name", CASES)
def test_every_family_passes(name: str) -> None:
    limits = [kind for kind in LIMITS if name in LIMITS[kind]]
    # Draws and densities of plain families are compared with torch's in `test_promises.py`.
    as_plain = ["score"] if name in PLAIN and "score" not in limits else []
    check_distribution(CASES[name](), skip=limits + as_plain)


@pytest.mark.parametrize(
    ("name", "promise"), [(name, kind) for kind in LIMITS for name in LIMITS[kind]]
)
def test_what_upstream_cannot_do_is_found(name: str, promise: str) -> None:
    others = [kind for kind in LIMITS if name in LIMITS[kind] and kind != promise]
    with pytest.raises(BrokenPromiseError, match=f"^'{promise}' is broken"):
        check_distribution(CASES[name](), skip=others)


def test_what_torch_draws_of_correlations() -> None:
    """The other side of what the score says: the variance of draws, which is 1/4 in theory."""
    factor = dd.LKJCholesky(3, torch.tensor(1.0, dtype=torch.float64)).sample((100_000,))
    correlation = factor @ factor.mT
    assert correlation[:, 1, 0].var().item() == pytest.approx(0.25, abs=0.005)
    assert correlation[:, 2, 0].var().item() == pytest.approx(0.30, abs=0.005)


CONDITIONALS = {
    "layer": Policy(in_features=4, actions=2),
    "network": Policy(actions=2, network=nn.Linear(4, 2)),
    "nested": MixtureDensity(in_features=4, k=3),
}


@pytest.mark.parametrize("name", CONDITIONALS)
def test_conditional_families_pass_with_a_context(name: str) -> None:
    check_distribution(CONDITIONALS[name], torch.randn(5, 4))


class Ends(Declarative):
    """Latents with bounds that are a constant and another site, and a start that is drawn."""

    top = torch.tensor(3.0)
    low = Param(0.5, Interval(torch.tensor(0.0), torch.tensor(5.0)))
    high = Param(1.0, GreaterThan("low"))
    free = Param(torch.randn, shape=(2,))


@pytest.mark.parametrize("kind", [MeanFieldNormal, FullRankNormal])
@pytest.mark.parametrize("copies", [(), (3,)])
def test_guides_pass(kind: Any, copies: tuple[int, ...]) -> None:
    latents = Ends(batch_shape=copies)
    latents.assign(low=2.0, high=2.5)
    check_distribution(kind(latents, init_scale=0.5))


def test_plain_distributions_are_made_learnable() -> None:
    check_distribution(dd.Gamma(torch.tensor([2.0, 3.0]), 1.0))


def test_a_frozen_family_passes() -> None:
    family = broken.Good()
    family.freeze()
    check_distribution(family)
    family.unfreeze("rate")
    check_distribution(family)


def test_hand_written_modules_pass() -> None:
    check_distribution(broken.OfPlain)


@pytest.mark.parametrize(
    "family",
    [
        dd.Bernoulli(0.5),
        learnable(dd.Bernoulli(0.5)),
        learnable(dd.Bernoulli(logits=0.0)),
        dd.MixtureSameFamily(dd.Categorical(torch.ones(2)), dd.Normal(torch.zeros(2), 1.0)),
    ],
    ids=["bernoulli", "probs", "logits", "equal parts"],
)
def test_gradients_that_cancel_by_symmetry_pass(family: Any) -> None:
    check_distribution(family)


def in_float64(*numbers: float) -> list[torch.Tensor]:
    return [torch.tensor(number, dtype=torch.float64) for number in numbers]


ZERO, ONE, HALF, TENTH = in_float64(0.0, 1.0, 0.5, 0.1)

SINGLE_NUMBERS: dict[str, Distribution] = {
    "light at an end": dd.Beta(HALF, TENTH),
    "near zero": dd.Gamma(TENTH / 10, ONE),
    "heavy tails": dd.StudentT(TENTH),
    "heavy tail": dd.Pareto(ONE, TENTH),
    "wide counts": dd.Geometric(1e-3 * ONE),
    "very wide counts": dd.Poisson(1e7 * ONE),
    "few counts": dd.Binomial(torch.tensor([3.0, 10.0]).double(), HALF),
    "far and narrow": dd.Normal(1e6 * ONE, TENTH),
    "copies": dd.Uniform(torch.stack([ZERO, 5 * ONE]), torch.stack([ONE, 5.1 * ONE])),
    "an atom": ZeroInflated(dd.Gamma(ONE, ONE), HALF),
    "atoms at both ends": Censored(dd.Normal(ZERO, ONE), low=-HALF, high=HALF),
}


@pytest.mark.parametrize("factor", [1.0, 1.1, 0.9])
@pytest.mark.parametrize("name", SINGLE_NUMBERS)
def test_masses_are_those_of_draws(name: str, factor: float) -> None:
    """A factor of a tenth shows, and that of one passes."""
    built = copy.copy(SINGLE_NUMBERS[name])
    plain = built.log_prob
    built.log_prob = lambda value: plain(value) + math.log(factor)  # type: ignore[method-assign]
    torch.manual_seed(0)
    mass = mass_of(built)
    assert mass is not None
    assert mass.tolerance < 0.06
    assert (abs(mass.found - mass.share) <= mass.tolerance) == (factor == 1.0)


def test_masses_are_those_of_a_closed_form() -> None:
    torch.manual_seed(0)
    mass = mass_of(dd.Exponential(2 * ONE))
    assert mass is not None
    assert mass.found == pytest.approx(
        math.exp(-2 * mass.low) - math.exp(-2 * mass.high), abs=1e-3
    )
    assert mass_of(dd.MultivariateNormal(torch.zeros(2), torch.eye(2))) is None


DRAWN = "Batch dimensions come first; the shapes it declares must say what it does."
UNNORMALISED = (
    "expected a mean gradient by log_scale of 0.0 over its own draws .... Let sample and "
    "log_prob belong to one distribution, normalised. Where the support depends on parameters, "
    "as a uniform's does, check with skip=['score']."
)
UNUSED = "Use it in the distribution without detach, item, data or numpy, or freeze it."
GRADIENT = "expected a gradient from the log density, got"
NOTHING = "parameters(): expected parameters to learn, got none. Declare a Param."
RETURNED = "Return a torch.distributions object."

OPTIONS: dict[type, dict[str, Any]] = {
    broken.BreaksGraphs: {"compile": True},
    broken.OtherwiseCompiled: {"compile": True},
}
"""What a check is asked for beside the class."""

MESSAGES: dict[type[nn.Module], str] = {
    broken.Unlearned: f"'parameters' is broken. Unlearned.{NOTHING}",
    broken.SummedDensity: (
        "'shapes' is broken. SummedDensity.log_prob: expected the shape (2,) for the sample "
        f"shape (), got (). {DRAWN}"
    ),
    broken.InfiniteDensity: (
        "'support' is broken. InfiniteDensity.log_prob: expected finite log densities of its own "
        "draws, got [-inf]."
    ),
    broken.NoNormaliser: f"'score' is broken. NoNormaliser.log_prob: {UNNORMALISED}",
    broken.AModule: (
        "'shapes' is broken. AModule.forward: expected a plain distribution, got a module, "
        f"Good. {RETURNED}"
    ),
    broken.Detached: f"'gradient' is broken. Detached.raw_location: {GRADIENT} none. {UNUSED}",
    broken.HalfReset: (
        "'meta' is broken. HalfReset.log_scale: expected its starting value again from "
        "reset_parameters, got what was in memory. Its module must restore it in a "
        "reset_parameters of its own."
    ),
}
"""What is said of some of them, in full."""

BROKEN: dict[type[nn.Module], tuple[str, str]] = {
    broken.Stale: ("step", ""),
    broken.Unpicklable: ("pickle", ""),
    broken.Uncopied: ("copies", "__deepcopy__"),
    broken.Lazy: ("parameters", "scale"),
    broken.Frozen: ("parameters", "parameters()"),
    broken.SwappedShapes: ("shapes", "sample"),
    broken.WrongSupport: ("support", "sample"),
    broken.NarrowDraws: ("score", "log_prob"),
    broken.NoGradient: ("score", "log_prob"),
    broken.DrawsWithGradients: ("shapes", "sample"),
    broken.DetachedDraws: ("rsample", "rsample"),
    broken.StaleValues: ("step", "log_prob"),
    broken.Unused: ("gradient", "spare"),
    broken.NaNGradient: ("gradient", "raw_size"),
    broken.PlainTensor: ("state", "shift"),
    broken.InFloat32: ("dtype", "sample"),
    broken.Closure: ("state", "load_state_dict"),
    broken.Branching: ("vmap", ""),
    broken.BreaksGraphs: ("compile", ""),
    broken.Lonely: ("gradient", "raw_spread"),
    broken.BlindPolicy: ("gradient", "projection.weight"),
    broken.Aging: ("copies", "log_scale"),
    broken.ZeroGradient: ("gradient", "spare"),
    broken.Unmoved: ("dtype", "loc"),
    broken.WithoutReset: ("meta", ""),
    broken.BadReset: ("meta", "reset_parameters"),
    broken.OtherwiseCompiled: ("compile", "log_prob"),
    broken.Silent: ("parameters", ""),
    broken.Tensors: ("parameters", ""),
    broken.TooHigh: ("mass", "log_prob"),
}
"""The promise that each of the others breaks, and the member that is to blame."""


def test_a_good_one_passes_compiled_too() -> None:
    torch._dynamo.reset()
    check_distribution(broken.Good, compile=True)


@pytest.mark.parametrize("kind", [*MESSAGES, *BROKEN])
def test_the_broken_promise_is_named(kind: Any) -> None:
    is_conditional = issubclass(kind, broken.Policy)
    family = kind(in_features=3) if is_conditional else kind
    context = (torch.ones(4, 3),) if is_conditional else ()
    with pytest.raises(BrokenPromiseError) as caught:
        check_distribution(family, *context, **OPTIONS.get(kind, {}))
    if kind in MESSAGES:
        assert sentence(caught.value) == MESSAGES[kind]
        return
    promise, member = BROKEN[kind]
    assert caught.value.promise == promise
    assert caught.value.subject == f"{kind.__name__}.{member}".rstrip(".")
    assert caught.value.got


def test_no_broken_family_is_left_out() -> None:
    kinds = {kind for kind in vars(broken).values() if isinstance(kind, type)}
    named = {kind for kind in kinds if kind.__module__ == broken.__name__}
    families = {kind for kind in named if issubclass(kind, nn.Module)}
    assert families == {*MESSAGES, *BROKEN, broken.Good, broken.OfPlain, broken.Policy}


def test_a_conditional_without_a_context_is_named() -> None:
    with pytest.raises(
        BrokenPromiseError, match=r"^'parameters' .*got FieldError: .*Give it a context"
    ):
        check_distribution(broken.Policy(in_features=3))


def test_a_closure_is_not_reached_by_a_functional_call() -> None:
    with pytest.raises(BrokenPromiseError, match="^'functional_call' is broken"):
        check_distribution(broken.Closure, skip=["state", "pickle", "dtype", "meta"])


def test_every_promise_is_broken_by_some_example() -> None:
    found = {message.split("'")[1] for message in MESSAGES.values() if "is broken" in message}
    found |= {promise for promise, _ in BROKEN.values()}
    assert found | {"functional_call"} == set(PROMISES)


def test_mistakes_are_named() -> None:
    with pytest.raises(DeclarationError) as caught:
        check_distribution(3.0)
    assert sentence(caught.value) == (
        "check_distribution: expected a module whose call gives a distribution, got 3.0."
    )
    with pytest.raises(DeclarationError) as caught:
        check_distribution(broken.Good, skip=["pickles"])
    assert sentence(caught.value) == (
        "check_distribution(skip=): expected names of promises, got 'pickles'. Did you mean "
        "'pickle'? Known here: copies, parameters, shapes, support, rsample, gradient, "
        "step, score, state, pickle, dtype, mass, meta, functional_call, vmap, compile."
    )


def test_nothing_of_torch_and_of_the_family_is_changed() -> None:
    family = learnable(dd.Gamma(torch.tensor([2.0, 3.0]), 1.0), fixed=("rate",))
    before = {name: (id(p), p.requires_grad, p._version) for name, p in family.named_parameters()}
    state = torch.get_rng_state()
    check_distribution(family)
    after = {name: (id(p), p.requires_grad, p._version) for name, p in family.named_parameters()}
    assert after == before
    assert all(p.grad is None for p in family.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert Distribution._validate_args

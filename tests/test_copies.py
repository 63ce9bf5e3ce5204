"""Copies never meet: an instance with independent copies is a loop over single ones.

Sizes of copies equal those of fields, so that nothing can hide behind torch's broadcasting.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor, nn

from declarative_dist import (
    Conditional,
    ConstraintError,
    DeclarationError,
    Declarative,
    Exp,
    GreaterThan,
    Head,
    Interval,
    Joint,
    LearnableTransform,
    LessThan,
    LogInterval,
    LowerCholesky,
    Param,
    Positive,
    Real,
    Variational,
    derived,
    learnable,
    site,
)
from declarative_dist.latents.flat_params import FlatParams
from tests.cases import (
    Bounded,
    FullRank,
    GammaByMean,
    Gaussian,
    NestedMixture,
    Squashed,
    TiedScale,
)
from tests.nests import Grid, Logits

SHAPES = [(3,), (2, 3)]


class Ragged(Variational):
    """A scalar, a vector and a matrix."""

    base = dd.StudentT
    df = Param(3.0)
    loc = Param(torch.zeros(2))
    scale = Param(torch.ones(3, 2))


class RaggedEvents(Variational):
    base = dd.MultivariateNormal
    loc = Param(torch.zeros(2))
    scale_tril = Param(constraint=LowerCholesky(), shape=(3, 2, 2))


class AboveScalar(Variational):
    base = dd.Uniform
    low = Param(0.0, Real())
    high = Param(20.0, GreaterThan("low"), shape=("d",))


class AboveVector(Declarative):
    low = Param(torch.zeros(2), prior=dd.Normal(0.0, 1.0))
    high = Param(3.0, GreaterThan("low"))


class Chain(Declarative):
    """Bounds of bounds, of one rank more each."""

    first = Param(0.0)
    second = Param(torch.ones(3), GreaterThan("first"))
    third = Param(torch.full((2, 3), 2.0), Interval("first", "second_and_more"))
    fourth = Param(-1.0, LessThan("second"))

    @derived
    def second_and_more(self, second: Tensor) -> Tensor:
        return second + 5.0


class TensorBound(Declarative):
    low = torch.tensor([0.1, 0.2, 0.3])
    value = Param(1.0, LogInterval(torch.tensor([0.5, 0.6, 0.7]), 2.0))
    other = Param(1.0, GreaterThan("low"), shape=(2, 1))


class Constants(Variational):
    base = dd.Normal
    loc = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    scale = Param(1.0)


class OnlyConstants(Variational):
    base = dd.Normal
    loc = torch.tensor([1.0, 2.0, 3.0])
    scale = 2.0


class FromConstants(Variational):
    base = dd.Normal
    offset = torch.tensor([1.0, 2.0, 3.0])
    scale = Param(1.0)

    @derived
    def loc(self, offset: Tensor) -> Tensor:
        return offset * 2


class Priors(Variational):
    base = dd.Gamma
    concentration = Param(1.0, Exp(), prior=dd.LogNormal(torch.tensor([0.0, 1.0]), 1.0), shape=2)
    rate = Param(
        torch.ones(3, 2),
        Positive(),
        prior=learnable(dd.Gamma(torch.tensor([2.0, 3.0]), torch.tensor(1.0))),
    )


class RaggedMixture(Variational):
    base = dd.MixtureSameFamily
    mixture_distribution = Logits
    component_distribution = Grid


class Shift(LearnableTransform):
    base = dd.AffineTransform
    loc = Param(0.5)
    scale = Param(torch.tensor([1.0, 2.0, 3.0]))


class PlainWeights(Variational):
    """A constant part without copies of its own beside one with."""

    base = dd.MixtureSameFamily
    mixture_distribution = dd.Categorical(torch.tensor([0.2, 0.3, 0.5]))
    component_distribution = Grid


class LowRank(Variational):
    """A bound computed from a field with one dimension more."""

    base = dd.LowRankMultivariateNormal
    loc = Param(torch.zeros(2))
    cov_factor = Param(torch.ones(2, 1))
    cov_diag = Param(torch.ones(3, 2))


class OfMatrices(Variational):
    base = dd.Wishart
    df = Param(torch.tensor([4.0, 5.0, 6.0]))
    scale_tril = Param(torch.eye(2), LowerCholesky())


class BelowItsBound(Declarative):
    """Values with fewer dimensions than their bounds."""

    low = Param(torch.zeros(3, 2))
    middle = Param(torch.ones(2), GreaterThan("low"))
    high = Param(9.0, GreaterThan("middle"))


class Shifted(Variational):
    base = dd.TransformedDistribution
    base_distribution = Gaussian
    transforms = (Shift, dd.AffineTransform(torch.zeros(2, 3), 2.0), dd.TanhTransform())


class Deeper(Variational):
    base = dd.Independent
    base_distribution = RaggedMixture()
    reinterpreted_batch_ndims = 1


class ByMethod(Variational):
    loc = Param(torch.zeros(3))
    width = Param(1.0, Positive())

    def base(self, loc: Tensor, width: Tensor) -> dd.Distribution:
        return dd.Independent(dd.Normal(loc, width[..., None]), 1)


class IndexedRate(Variational):
    """A method that lines its values up, from the right."""

    base = dd.Gamma
    concentration = Param(torch.tensor([1.0, 2.0, 3.0]))
    location = Param(4.0, Positive())

    @derived
    def rate(self, concentration: Tensor, location: Tensor) -> Tensor:
        return concentration / location[..., None]


class BoundedJoint(Joint):
    low = Param(0.0)
    high = Param(torch.full((2,), 3.0), GreaterThan("low"))
    mu = Gaussian

    @site(event_dim=1)
    def y(self, mu: Tensor, low: Tensor, high: Tensor) -> dd.Distribution:
        return dd.Normal(mu[..., None] + low[..., None], high - low[..., None])


Make = Callable[..., Any]
MADE: dict[str, Make] = {
    "ragged": Ragged,
    "ragged events": RaggedEvents,
    "above a scalar, two": lambda **k: AboveScalar(d=2, **k),
    "above a scalar, three": lambda **k: AboveScalar(d=3, **k),
    "above a vector": AboveVector,
    "chain": Chain,
    "tensor bound": TensorBound,
    "constants": Constants,
    "only constants": OnlyConstants,
    "from constants": FromConstants,
    "priors": Priors,
    "ragged mixture": RaggedMixture,
    "plain weights": PlainWeights,
    "low rank": LowRank,
    "of matrices": OfMatrices,
    "below its bound": BelowItsBound,
    "shifted": Shifted,
    "deeper": Deeper,
    "method": ByMethod,
    "indexed": IndexedRate,
    "joint": BoundedJoint,
    "nested mixture": lambda **k: NestedMixture(k=3, **k),
    "squashed": Squashed,
    "tied": TiedScale,
    "full rank": lambda **k: FullRank(d=3, **k),
    "bounded": Bounded,
    "by mean": GammaByMean,
}


def pairs(make: Make, copies: tuple[int, ...]) -> Iterator[tuple[Any, tuple[int, ...], Any]]:
    """An instance with copies at random raw numbers, and each of its copies as one of its own."""
    torch.manual_seed(sum(copies))
    many = make(batch_shape=copies)
    with torch.no_grad():
        for raw in many.parameters():
            raw.copy_(torch.randn_like(raw) * 0.7)
    for index in itertools.product(*map(range, copies)):
        one = make()
        whole = dict(many.named_parameters())
        with torch.no_grad():
            for name, raw in one.named_parameters():
                raw.copy_(whole[name][index])
        yield many, index, one


def same(value: Any, other: Any, index: tuple[int, ...], shape: torch.Size) -> None:
    """Whether values are the same at one copy; constants are, whatever the copy."""
    if isinstance(other, dict):
        for name in other:
            same(value[name], other[name], index, shape)
    elif isinstance(other, list):
        for mine, theirs in zip(value, other, strict=True):
            same(mine, theirs, index, shape)
    elif isinstance(other, Tensor):
        lead = value.shape[: value.ndim - other.ndim]
        assert lead in (torch.Size(), shape)
        torch.testing.assert_close(value[index] if lead else value, other)
    else:
        assert value == other


@pytest.mark.filterwarnings("ignore:Singular sample")
@pytest.mark.parametrize("copies", SHAPES, ids=str)
@pytest.mark.parametrize("name", MADE)
def test_copies_equal_instances_apart(name: str, copies: tuple[int, ...]) -> None:
    for many, index, one in pairs(MADE[name], copies):
        shape = torch.Size(copies)
        same(many.constrained_values(), one.constrained_values(), index, shape)
        for unconstrained in (False, True):
            prior = many.log_prior(unconstrained=unconstrained)
            assert prior.shape == shape
            torch.testing.assert_close(
                prior[index], one.log_prior(unconstrained=unconstrained), check_dtype=False
            )
        if isinstance(many, Joint):
            draw = many.sample((4,))
            picked = {name: value[(slice(None), *index)] for name, value in draw.items()}
            torch.testing.assert_close(
                many.log_prob(draw)[(slice(None), *index)], one.log_prob(picked)
            )
        elif isinstance(many, Variational):
            assert many.batch_shape == torch.Size((*copies, *one.batch_shape))
            x = many.sample((4,))
            together = many.log_prob(x)[(slice(None), *index)]
            apart = one.log_prob(x[(slice(None), *index)])
            # A draw that is rounded onto the edge of the support has no density.
            inside = together.isfinite() & apart.isfinite()
            assert inside.any()
            torch.testing.assert_close(together[inside], apart[inside], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in MADE if name != "only constants"])
def test_flat_maps_and_states_of_copies(name: str) -> None:
    copies = (2, 3)
    for many, index, one in pairs(MADE[name], copies):
        flat, single = FlatParams(many), FlatParams(one)
        vector = torch.randn(5, *copies, flat.size)
        values, volume = flat.constrain(vector)
        mine, mine_volume = single.constrain(vector[(slice(None), *index)])
        for site_name, value in mine.items():
            torch.testing.assert_close(values[site_name][(slice(None), *index)], value)
        torch.testing.assert_close(volume[(slice(None), *index)], mine_volume)
        back, _ = flat.unconstrain(values)
        torch.testing.assert_close(back, vector, rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(
            many.log_prior(values)[(slice(None), *index)], one.log_prior(mine), check_dtype=False
        )
    again = MADE[name](batch_shape=copies)
    again.load_state_dict(many.state_dict())
    assert torch.equal(again.to_vector(), many.to_vector())
    again.reset_parameters()
    again.assign(**many.constrained_values())
    everywhere = (slice(None),) * len(copies)
    values, expected = again.constrained_values(), many.constrained_values()
    same(values, expected, everywhere, torch.Size(copies))


@pytest.mark.parametrize("copies", SHAPES, ids=str)
def test_assignment_refuses_what_a_single_copy_refuses(copies: tuple[int, ...]) -> None:
    q = AboveScalar(batch_shape=copies, d=2)
    low = torch.arange(10.0, 10.0 + q.low.numel()).reshape(copies)
    q.assign(high=torch.full((*copies, 2), 99.0))
    q.low = low
    q.high = (low + 0.5)[..., None].expand(*copies, 2)
    below = q.high.detach().clone()
    below[..., 0] = low - 0.5
    with pytest.raises(ConstraintError):
        q.high = below
    assert (q.high > q.low[..., None]).all()


class Predicted(Conditional):
    base = dd.Categorical
    logits = Head(shape=(3,))


class Points(Conditional):
    base = dd.Normal
    loc = Head(shape=(2, 3))
    scale = Head()


class PredictedMixture(Conditional):
    base = dd.MixtureSameFamily
    mixture_distribution = Predicted
    component_distribution = Points


class FreeWeights(Conditional):
    base = dd.MixtureSameFamily
    mixture_distribution = Logits
    component_distribution = Points


class PredictedBounds(Conditional):
    base = dd.Uniform
    low = Head()
    middle = Param(torch.ones(2), GreaterThan("low"))
    high = Head(GreaterThan("middle"), shape=(3, 2))


class PredictedRate(Conditional):
    base = dd.Gamma
    concentration = Head(shape=(3,))
    expected = Head(Positive())

    @derived
    def rate(self, concentration: Tensor, expected: Tensor) -> Tensor:
        return concentration / expected[..., None]


class Pointwise(Conditional):
    base = dd.Normal
    loc = Head()
    scale = Head()


class PredictedShift(Conditional):
    base = dd.TransformedDistribution
    base_distribution = Pointwise
    transforms = (Shift,)


class AboveMatrix(Conditional):
    base = dd.Uniform
    low = Param(torch.zeros(3, 2))
    high = Head(GreaterThan("low"))


CONTEXTUAL = [
    PredictedMixture, FreeWeights, AboveMatrix, PredictedBounds, PredictedRate, PredictedShift,
]  # fmt: skip


@pytest.mark.parametrize("batch", SHAPES, ids=str)
@pytest.mark.parametrize("kind", CONTEXTUAL)
def test_contexts_equal_one_after_the_other(
    kind: type[Conditional], batch: tuple[int, ...]
) -> None:
    torch.manual_seed(sum(batch))
    p = kind(in_features=2)
    for parameter in p.parameters():
        nn.init.normal_(parameter)
    contexts = torch.randn(*batch, 2)
    together = p(contexts)
    value = together.sample()
    for index in itertools.product(*map(range, batch)):
        alone = p(contexts[index])
        assert together.batch_shape == torch.Size((*batch, *alone.batch_shape))
        score = together.log_prob(value)[index]
        torch.testing.assert_close(score, alone.log_prob(value[index]), rtol=1e-3, atol=1e-3)


def test_a_state_with_another_constant_loads_into_a_view() -> None:
    class Shifted(Variational):
        base = dd.TransformedDistribution
        base_distribution = learnable(dd.Normal(0.0, 1.0))
        shift = 1.0

        @derived
        def transforms(self, shift: Tensor) -> dd.AffineTransform:
            return dd.AffineTransform(shift, 2.0)

    q = Shifted(batch_shape=(2,))
    view, saved = q.expand((7, 2)), Shifted(batch_shape=(2,), shift=3.0).state_dict()
    q.shift = 2.0
    view.load_state_dict(saved)
    assert view.batch_shape == (7, 2)
    assert q.shift.item() == 3.0


SHORT: dict[str, tuple[type, dict[str, Any]]] = {
    "vector": (dd.Dirichlet, {"concentration": Param(1.0)}),
    "logits": (dd.Categorical, {"logits": Param(0.0)}),
    "diagonal": (
        dd.LowRankMultivariateNormal,
        {
            "cov_diag": Param(1.0, Exp()),
            "loc": Param(torch.zeros(2)),
            "cov_factor": Param(torch.ones(2, 2)),
        },
    ),
    "location": (
        dd.MultivariateNormal, {"loc": Param(0.0), "scale_tril": Param(torch.eye(2))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("batch", SHAPES, ids=str)
@pytest.mark.parametrize("name", SHORT)
def test_an_event_takes_no_copies_for_its_own_dimensions(name: str, batch: Any) -> None:
    base, fields = SHORT[name]
    kind = type(Variational)("Short", (Variational,), {"base": base, **fields})
    field = next(iter(fields))
    for keywords in ({}, {"batch_shape": batch}):
        with pytest.raises(ConstraintError, match=rf"{field}"):
            kind(**keywords)


def test_a_constant_without_the_dimensions_of_an_event() -> None:
    made = {"base": dd.MultivariateNormal, "loc": 0.0, "scale_tril": Param(torch.eye(2))}
    with pytest.raises(DeclarationError, match=r"Fixed\.loc: expected a value in Independent"):
        type(Variational)("Fixed", (Variational,), made)


def test_copies_that_a_random_method_loses_are_refused() -> None:
    # The probe compares nothing that is random.
    class Jitter(Variational):
        mu = Param(0.0)

        def base(self, mu: Tensor) -> dd.Distribution:
            return dd.Normal(mu.sum() + torch.rand(()), 1.0)

    with pytest.raises(ConstraintError, match=r"batch_shape=\(3,\), got \(\)"):
        Jitter(batch_shape=(3,))

"""Where the ends of a support are learned, estimators that take them for fixed are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
import torch.distributions as dd
from torch import Tensor
from torch.distributions import constraints

from declarative_dist import (
    Conditional,
    ConstraintError,
    Head,
    Joint,
    Param,
    Positive,
    Variational,
    entropy,
    kl_divergence,
    learnable,
    site,
)
from declarative_dist.objectives import ImportanceWeightedELBO, NegativeELBO
from declarative_dist.plain.supports import has_learned_ends

BOUNDS = [NegativeELBO, ImportanceWeightedELBO]


def learned(value: float) -> Tensor:
    return torch.tensor(value, requires_grad=True)


def moved(base: dd.Distribution, *args: Any) -> dd.Distribution:
    return dd.TransformedDistribution(base, dd.AffineTransform(*args))


SQUASH = dd.SigmoidTransform()
CASES: dict[str, tuple[Callable[[], Any], bool]] = {
    "uniform": (lambda: dd.Uniform(0.0, learned(1.0)), True),
    "fixed uniform": (lambda: dd.Uniform(0.0, torch.tensor(1.0)), False),
    "pareto": (lambda: dd.Pareto(learned(1.0), 2.0), True),
    "the shape of a pareto": (lambda: dd.Pareto(torch.tensor(1.0), learned(2.0)), False),
    "events": (lambda: dd.Independent(dd.Uniform(torch.zeros(2), learned(1.0)), 1), True),
    "gamma": (lambda: dd.Gamma(learned(1.0), learned(1.0)), False),
    "moved half line": (lambda: moved(dd.HalfNormal(1.0), learned(1.0), 2.0), True),
    "scaled half line": (lambda: moved(dd.HalfNormal(1.0), 0.0, learned(2.0)), False),
    "scaled about a point": (lambda: moved(dd.HalfNormal(1.0), 3.0, learned(2.0)), False),
    "scaled interval": (lambda: moved(dd.Beta(1.0, 1.0), 0.0, learned(2.0)), True),
    "moved line": (lambda: moved(dd.Cauchy(0.0, 1.0), learned(1.0), learned(2.0)), False),
    "squashed normal": (lambda: moved(
        dd.TransformedDistribution(dd.Normal(0.0, 1.0), SQUASH), learned(1.0), learned(2.0)
    ), False),
    "squashed logistic": (lambda: dd.TransformedDistribution(
        dd.Uniform(0.0, 1.0), [SQUASH.inv, SQUASH, dd.AffineTransform(0.0, learned(2.0))]
    ), True),
    "a mixture": (lambda: dd.MixtureSameFamily(
        dd.Categorical(torch.ones(2)), dd.Uniform(torch.zeros(2), learned(1.0))
    ), True),
    "counts": (lambda: dd.Poisson(learned(1.0)), False),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_which_ends_are_learned(name: str) -> None:
    make, is_learned = CASES[name]
    assert has_learned_ends(make()) is is_learned


@pytest.mark.parametrize("estimator", ["stl", "score"])
@pytest.mark.parametrize("bound", BOUNDS)
def test_a_uniform_is_refused_but_for_its_own_gradient(bound: Any, estimator: str) -> None:
    target, guide = dd.Normal(0.0, 1.0), learnable(dd.Uniform(-1.0, 2.0))
    with pytest.raises(ConstraintError, match=f"'pathwise', since.* Uniform moves.*{estimator}"):
        bound(target, guide, num_samples=4, estimator=estimator)
    bound(target, guide, num_samples=4)().backward()
    guide.freeze()
    assert bound(target, guide, num_samples=4, estimator=estimator)().isfinite()


def test_ends_that_are_unfrozen_later_are_seen() -> None:
    guide = learnable(dd.Uniform(-1.0, 2.0))
    guide.freeze()
    objective = NegativeELBO(dd.Normal(0.0, 1.0), guide, num_samples=4, estimator="score")
    guide.unfreeze()
    with torch.no_grad():
        assert objective().isfinite()
    with pytest.raises(ConstraintError, match="Uniform moves"):
        objective()


def test_the_pathwise_gradient_is_that_of_the_closed_form() -> None:
    """KL(U(a, b) || N(0, 1)) = -log(b - a) + log(2 pi) / 2 + (a^2 + ab + b^2) / 6."""
    guide = learnable(dd.Uniform(-1.0, 2.0))
    torch.manual_seed(0)
    NegativeELBO(dd.Normal(0.0, 1.0), guide, num_samples=100_000)().backward()
    ends = [guide.low.detach().requires_grad_(), guide.high.detach().requires_grad_()]
    a, b = ends
    exact = torch.autograd.grad(-(b - a).log() + (a * a + a * b + b * b) / 6, ends)
    found = torch.autograd.grad(
        sum(torch.stack([guide.low, guide.high]) * torch.stack(exact)), list(guide.parameters())
    )
    for parameter, gradient in zip(guide.parameters(), found, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=0.02, rtol=0.02)


def test_a_site_is_named() -> None:
    class Guide(Joint):
        mu = learnable(dd.Normal(0.0, 1.0))
        tau = learnable(dd.Uniform(0.5, 2.0))

    class Chain(Joint):
        mu = learnable(dd.LogNormal(0.0, 1.0))

        @site
        def tau(self, mu: Tensor) -> dd.Distribution:
            return dd.Uniform(0.0, mu)

    def target(z: dict[str, Tensor]) -> Tensor:
        return -z["mu"].square() - z["tau"].square()

    with pytest.raises(ConstraintError, match="the support of Uniform of site tau moves"):
        NegativeELBO(target, Guide(), estimator="stl")
    # Given mu the ends stand still: what moves them is a draw and no parameter.
    assert NegativeELBO(target, Chain(), num_samples=2, estimator="score")().isfinite()


def test_a_conditional_is_refused_with_its_first_batch() -> None:
    class Encoder(Conditional):
        base = dd.Uniform
        low = Head(init=-1.0)
        high = Head(init=1.0)

    objective = NegativeELBO(
        lambda z, x: -z.square(), Encoder(in_features=2), num_samples=2, estimator="stl"
    )
    with pytest.raises(ConstraintError, match="Uniform moves"):
        objective(torch.ones(3, 2))


def test_an_encoder_of_scales_is_none() -> None:
    class Encoder(Conditional):
        base = dd.Gamma
        concentration = Head(Positive())
        rate = Head(Positive())

    encoder = Encoder(in_features=2)
    objective = NegativeELBO(lambda z, x: -z, encoder, num_samples=2, estimator="stl")
    objective(torch.ones(3, 2)).backward()
    assert encoder.projection.weight.grad.abs().min() > 0


def test_estimates_without_a_reparametrised_sampler() -> None:
    components = dd.Uniform(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0]))
    mixture = learnable(dd.MixtureSameFamily(dd.Categorical(torch.ones(2)), components))
    for estimate in (lambda: entropy(mixture, 5), lambda: kl_divergence(mixture, TARGET, 5)):
        with pytest.raises(ConstraintError, match="num_samples: .*MixtureSameFamily"):
            estimate()
        with torch.no_grad():
            assert estimate().isfinite()


class UpTo(dd.Distribution):
    """A uniform distribution from zero that states no support, and has no reparametrised draws."""

    arg_constraints: ClassVar[Any] = {"high": constraints.positive}

    def __init__(self, high: Any, validate_args: bool | None = None) -> None:
        self.high = torch.as_tensor(high)
        super().__init__(self.high.shape, validate_args=validate_args)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return torch.rand(*sample_shape, *self.batch_shape) * self.high.detach()

    def log_prob(self, value: Tensor) -> Tensor:
        return -self.high.log().expand(value.shape)


class Counted(UpTo):
    """One whose support is said, and stands still."""

    support = constraints.real


def test_a_support_that_nobody_states_may_move() -> None:
    class Guide(Variational):
        base = UpTo
        high = Param(1.0, Positive())

    guide = Guide()
    said = "class UpTo states no `support`, so that it may move"
    for bound in BOUNDS:
        with pytest.raises(ConstraintError, match=said):
            bound(TARGET, guide, num_samples=4)
    with pytest.raises(ConstraintError, match=said):
        kl_divergence(guide, TARGET, 5)
    guide.freeze()
    assert NegativeELBO(TARGET, guide, num_samples=4)().isfinite()
    assert kl_divergence(guide, TARGET, 5).isfinite()
    assert has_learned_ends(Counted(learned(1.0))) is False


TARGET = dd.Normal(0.0, 1.0)

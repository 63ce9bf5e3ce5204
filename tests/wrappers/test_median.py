"""Medians: half of the mass lies below, by the distribution's own function or by draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import torch.distributions as dd

from declarative_dist import (
    Conditional,
    Constraint,
    DeclarationError,
    Exp,
    GreaterThan,
    Head,
    Interval,
    Joint,
    LearnableTransform,
    LessThan,
    LogInterval,
    Param,
    Positive,
    Real,
    UnitInterval,
    Variational,
    learnable,
    median,
    select,
    site,
)
from declarative_dist.wrappers import Censored, Truncated, ZeroInflated, cdf
from tests.cases import PLAIN

UNKNOWN = {
    "Categorical", "Dirichlet", "LKJCholesky", "LogisticNormal", "Mixture", "Multinomial",
    "OneHot", "RelaxedBernoulli", "RelaxedOneHot", "VonMises", "Wishart",
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_half_of_the_draws_lie_below(name: str) -> None:
    plain = PLAIN[name]()
    if name.startswith(tuple(UNKNOWN)):
        with pytest.raises(NotImplementedError, match=r"median: none is known .* Take it from"):
            median(plain)
        return
    torch.manual_seed(0)
    exact = median(learnable(plain))
    assert exact.shape == plain.batch_shape + plain.event_shape
    draws = plain.sample((40_000,))
    below, above = ((d <= 0).double().mean(0) for d in (draws - exact, exact - draws))
    assert min(below.min(), above.min()) > 0.4875  # five standard deviations


def test_the_deterministic_action_of_a_squashed_policy() -> None:
    loc = torch.tensor([[0.3, -2.0], [0.0, 4.0]])
    base = dd.Independent(dd.Normal(loc, torch.full((2, 2), 3.0)), 1)
    bounds = dd.AffineTransform(torch.tensor([0.0, 1.0]), torch.tensor([2.0, -5.0]), event_dim=1)
    squashed = dd.TransformedDistribution(base, [dd.TanhTransform(), bounds])
    by_hand = torch.tensor([0.0, 1.0]) + torch.tensor([2.0, -5.0]) * loc.tanh()
    torch.testing.assert_close(median(squashed), by_hand)


def test_a_learned_transform() -> None:
    class Scale(LearnableTransform):
        base = dd.AffineTransform
        loc = Param(1.0)
        scale = Param(2.0, Positive())

    class Moved(Variational):
        base = dd.TransformedDistribution
        base_distribution = learnable(dd.Normal(3.0, 1.0))
        transforms = [Scale]  # noqa: RUF012

    q = Moved()
    exact = median(q)
    torch.testing.assert_close(exact, torch.tensor(7.0))
    exact.backward()
    assert all(p.grad is not None for p in q.transforms.parameters())


def test_a_map_of_whole_events_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="StickBreaking"):
        median(dd.LogisticNormal(torch.zeros(2), torch.ones(2)))


CONSTRAINTS = [
    Real(), Exp(), Positive(), GreaterThan(2.0), LessThan(2.0), LessThan(torch.ones(3)),
    Interval(-1.0, 1.0), UnitInterval(), LogInterval(0.1, 10.0),
]  # fmt: skip


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=repr)
def test_single_numbers_through_a_constraint(constraint: Constraint) -> None:
    base = dd.Normal(torch.tensor(0.3), torch.tensor(1.0))
    squashed = dd.TransformedDistribution(base, [constraint.as_transform()])
    exact = median(squashed)
    torch.testing.assert_close(exact, constraint(torch.tensor(0.3)))
    raw = torch.tensor(0.8)
    below = base.cdf(-raw + 0.6) if isinstance(constraint, LessThan) else base.cdf(raw)
    for share in (cdf(squashed, constraint(raw)), squashed.cdf(constraint(raw))):
        torch.testing.assert_close(share, below.expand(exact.shape))


def test_a_policy_of_single_numbers() -> None:
    class Policy(Conditional):
        base = dd.Normal
        loc = Head(init=0.3)
        scale = Param(0.5)

    class Squashed(Conditional):
        base = dd.TransformedDistribution
        base_distribution = Policy
        transforms = [Interval(-1.0, 1.0).as_transform(cache_size=1)]  # noqa: RUF012

    current = Squashed(base_distribution=Policy(in_features=3))(torch.zeros(4, 3))
    torch.testing.assert_close(median(current), torch.full((4,), 0.148885))


_OTHERS = {
    "squashed": lambda a, b: dd.TransformedDistribution(dd.Normal(a, b), [dd.TanhTransform()]),
    "truncated": lambda a, b: Truncated(dd.Normal(a, b), 0.0, 1.0),
    "censored": lambda a, b: Censored(dd.Normal(a, b), 0.0, 1.0),
    "inflated": lambda a, b: ZeroInflated(dd.Normal(a + b, b), a),
    "of events": lambda a, b: dd.Independent(Truncated(dd.Normal(a.expand(2), b), 0.0, 1.0), 1),
    "pushed": lambda a, b: dd.TransformedDistribution(
        Truncated(dd.Normal(a, b), 0.0, 1.0), dd.AffineTransform(a, b)
    ),
    "mixture": lambda a, b: dd.MixtureSameFamily(
        dd.Categorical(torch.ones(2)), dd.Normal(torch.stack([a, b]), b)
    ),
}


@pytest.mark.parametrize("build", [
    dd.LogNormal, dd.Gumbel, dd.Weibull, dd.Uniform, dd.Pareto, dd.Gamma, *_OTHERS.values(),
    lambda _, b: dd.Exponential(b), lambda a, b: dd.GeneralizedPareto(a, b, a),
])  # fmt: skip
def test_in_the_dtype_of_the_distribution(build: Callable[..., dd.Distribution]) -> None:
    numbers = torch.tensor([0.25, 2.0])
    expected = median(build(*numbers))
    assert expected.dtype is torch.float32
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        found = median(build(*numbers.to(dtype)))
        tolerance = max(torch.finfo(dtype).eps, 1e-6)
        torch.testing.assert_close(found, expected.to(dtype), rtol=tolerance, atol=tolerance)


def test_quantiles_of_wrappers_with_mass_at_a_point() -> None:
    share = torch.linspace(0.05, 0.95, 19)
    held = Censored(dd.Normal(0.3, 1.0), low=-0.5, high=1.0)
    torch.testing.assert_close(held.icdf(share), dd.Normal(0.3, 1.0).icdf(share).clamp(-0.5, 1.0))
    counts = ZeroInflated(dd.Poisson(torch.tensor(3.0)), torch.tensor(0.25))
    reached = 0.25 + 0.75 * scipy.stats.poisson(3.0).cdf(np.arange(20))
    by_hand = [float((reached < p.item()).sum()) for p in share]
    torch.testing.assert_close(counts.icdf(share), torch.tensor(by_hand))
    torch.testing.assert_close(median(counts), torch.tensor(2.0))


@pytest.mark.parametrize("shape", [-0.5, 0.0, 0.3])
def test_a_generalized_pareto_in_float64(shape: float) -> None:
    plain = dd.GeneralizedPareto(*torch.tensor([1.0, 2.0, shape]).double())
    half = torch.tensor(0.5).double()
    torch.testing.assert_close(median(plain), plain.icdf(half))
    torch.testing.assert_close(cdf(plain, plain.icdf(half / 5)), half / 5)


@pytest.mark.parametrize("question", [median, lambda d: select(d, 0)], ids=["median", "select"])
def test_what_is_no_distribution(question: Callable[[Any], Any]) -> None:
    for given, code in ((dd.Normal, "class-not-instance"), (3, "wrong-argument")):
        with pytest.raises(DeclarationError, match=r"expected a distribution") as caught:
            question(given)
        assert caught.value.code == code


def test_a_joint_has_a_batch_but_no_median() -> None:
    class Both(Joint):
        @site
        def first(self) -> dd.Distribution:
            return dd.Normal(0.0, 1.0)

    assert select(Both(), ...).batch_shape == ()
    with pytest.raises(DeclarationError, match="expected a distribution"):
        median(Both())

"""The gradients of estimators: unbiased, with the variance that they promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist import Joint, Param, Positive, Variational, learnable
from declarative_dist.objectives import ImportanceWeightedELBO, NegativeELBO
from declarative_dist.objectives.estimators import bounds_of_the_others
from declarative_dist.plain.draws import (
    center_leave_one_out,
    rsample_and_score_detached,
    sample_and_score,
)
from tests.cases import GammaFamily
from tests.test_elbo import NormalFamily

COPIES = 20_000
"""Independent problems of one loss: their gradients are draws of the estimate."""


class Die(Variational):
    base = dd.Categorical
    logits = Param(lambda shape: torch.tensor([0.2, -0.5, 0.7]).expand(shape), shape=(3,))


def gradients(objective: torch.nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(1)
    objective().backward()
    return {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}


def assert_mean(estimates: Tensor, exact: Tensor | float, where: str = "") -> None:
    """The mean of independent estimates is what they estimate, to four standard errors."""
    deviation, mean = torch.std_mean(estimates.double(), 0)
    error = deviation / len(estimates) ** 0.5
    assert deviation.gt(0).all(), where
    assert ((mean - torch.as_tensor(exact).double()).abs() / error < 4.0).all(), (where, mean)


def quadrature(count: int = 60) -> tuple[Tensor, Tensor]:
    """Points and weights of an expectation under a standard normal."""
    points, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.tensor(points), torch.tensor(weights / weights.sum())


@pytest.mark.parametrize("estimator", ["pathwise", "stl", "score"])
def test_gaussian_pair_against_the_closed_form(estimator: str) -> None:
    guide = NormalFamily(batch_shape=(COPIES,))
    objective = NegativeELBO(dd.Normal(1.0, 2.0), guide, num_samples=3, estimator=estimator)
    found = gradients(objective)
    m, s = 0.3, 0.8
    assert_mean(found["guide.raw_loc"], (m - 1.0) / 4.0)
    assert_mean(found["guide.raw_scale"], s * (s / 4.0 - 1 / s))


@pytest.mark.parametrize("estimator", ["pathwise", "stl", "score"])
def test_importance_weighted_against_quadrature(estimator: str) -> None:
    """For the guide and for what is learned in the model."""
    count = 3
    guide = NormalFamily(batch_shape=(COPIES,))
    model = learnable(dd.Normal(torch.full((COPIES,), 0.5), torch.full((COPIES,), 1.5)))
    objective = ImportanceWeightedELBO(model, guide, num_samples=count, estimator=estimator)
    found = gradients(objective)

    m, log_s, a = (torch.tensor(v, dtype=torch.float64) for v in (0.3, np.log(0.8), 0.5))
    leaves = [v.requires_grad_() for v in (m, log_s, a)]
    points, weights = quadrature(40)
    z = m + log_s.exp() * points
    ratio = dd.Normal(a, 1.5).log_prob(z) - dd.Normal(m, log_s.exp()).log_prob(z)
    shapes = [[-1 if i == j else 1 for j in range(count)] for i in range(count)]
    together = torch.stack(torch.broadcast_tensors(*(ratio.reshape(shape) for shape in shapes)))
    mass: Any = 1.0
    for shape in shapes:
        mass = mass * weights.reshape(shape)
    loss = -(mass * (together.logsumexp(0) - np.log(count))).sum()
    exact = torch.autograd.grad(loss, leaves)

    assert_mean(found["guide.raw_loc"], exact[0], "loc")
    assert_mean(found["guide.raw_scale"], exact[1], "scale")
    assert_mean(found["log_joint.raw_loc"], exact[2], "model")


@pytest.mark.parametrize("estimator", ["pathwise", "stl"])
@pytest.mark.parametrize("bound", [NegativeELBO, ImportanceWeightedELBO])
def test_gammas_agree_with_the_score_function(bound: Any, estimator: str) -> None:
    def found(name: str) -> dict[str, Tensor]:
        guide = GammaFamily(batch_shape=(COPIES,), concentration=2.0, rate=1.5)
        target = dd.Gamma(3.0, 1.0)
        return gradients(bound(target, guide, num_samples=4, estimator=name))

    ours, reference = found(estimator), found("score")
    for name, gradient in ours.items():
        difference = gradient.mean() - reference[name].mean()
        error = ((gradient.var() + reference[name].var()) / COPIES).sqrt()
        assert difference.abs() < 4 * error, name
        assert gradient.var() < reference[name].var(), name


def test_stl_has_no_variance_where_the_guide_is_exact() -> None:
    q = GammaFamily(concentration=2.0, rate=1.5)
    values = {name: value.detach() for name, value in q.constrained_values().items()}
    normal = NormalFamily()
    scale = normal.scale.detach()
    pairs: list[tuple[Any, Any]] = [
        (dd.Gamma(**values), q),
        (dd.Normal(normal.loc.detach(), scale), normal),
    ]
    for target, guide in pairs:
        for bound in (NegativeELBO, ImportanceWeightedELBO):
            stl = gradients(bound(target, guide, num_samples=5, estimator="stl"))
            at_most = 0.0 if bound is NegativeELBO else 1e-7
            assert all((gradient.abs() <= at_most).all() for gradient in stl.values())
            guide.zero_grad()
            pathwise = gradients(bound(target, guide, num_samples=5, estimator="pathwise"))
            assert all((gradient.abs() > 1e-3).all() for gradient in pathwise.values())
            guide.zero_grad()


def test_stl_of_a_joint_has_no_variance_where_the_guide_is_exact() -> None:
    class Truth(Joint):
        a = dd.Normal(0.3, 0.8)
        b = dd.Gamma(2.0, 1.5)

    class Guide(Joint):
        a = learnable(dd.Normal(0.3, 0.8))
        b = learnable(dd.Gamma(2.0, 1.5))

    found = gradients(NegativeELBO(Truth(), Guide(), num_samples=3, estimator="stl"))
    assert len(found) == 4
    assert all(gradient.abs() < 1e-5 for gradient in found.values())


@pytest.mark.parametrize("bound", [NegativeELBO, ImportanceWeightedELBO])
def test_a_die_against_enumeration(bound: Any) -> None:
    table = torch.tensor([-0.2, 1.3, 0.4])
    objective = bound(lambda z: table[z], Die(batch_shape=(COPIES,)), num_samples=2)
    logits = torch.tensor([0.2, -0.5, 0.7], requires_grad=True)
    log_q = logits.log_softmax(0)
    ratio = table - log_q
    pairs = torch.stack(torch.broadcast_tensors(ratio[:, None], ratio))
    means = pairs.mean(0) if bound is NegativeELBO else pairs.logsumexp(0) - np.log(2)
    loss = -((log_q[:, None] + log_q).exp() * means).sum()
    (expected,) = torch.autograd.grad(loss, logits)
    assert_mean(gradients(objective)["guide.raw_logits"], expected)


def test_the_baseline_lowers_the_variance() -> None:
    """Below that of the plain score function, of as many draws, written by hand."""
    count = 4
    guide = NormalFamily(batch_shape=(COPIES,))

    def log_joint(z: Tensor) -> Tensor:  # as with data: far from normalised
        return dd.Normal(1.0, 2.0).log_prob(z) - 10.0

    objective = NegativeELBO(log_joint, guide, num_samples=count, estimator="score")
    ours = gradients(objective)["guide.raw_loc"]
    x = guide.sample((count,))
    signal = (guide.log_prob(x) - log_joint(x)).detach()
    plain = (signal * (x - 0.3) / 0.64).mean(0)
    assert_mean(plain, (0.3 - 1.0) / 4.0)
    assert_mean(ours, (0.3 - 1.0) / 4.0)
    assert ours.var() < 0.05 * plain.var()


def test_one_draw_has_no_baseline() -> None:
    guide = NormalFamily(batch_shape=(7,))
    target = dd.Normal(1.0, 2.0)
    ours = gradients(NegativeELBO(target, guide, estimator="score"))["guide.raw_loc"]
    torch.manual_seed(1)
    x = guide.sample((1,))
    signal = (guide.log_prob(x) - target.log_prob(x)).detach()
    torch.testing.assert_close(ours, (signal * (x - 0.3) / 0.64)[0])


def test_leave_one_out_by_hand() -> None:
    values = torch.randn(5, 3, dtype=torch.float64)
    others = [[j for j in range(5) if j != i] for i in range(5)]
    expected = torch.stack([values[i] - values[rest].mean(0) for i, rest in enumerate(others)])
    torch.testing.assert_close(center_leave_one_out(values), expected)
    bounds = []
    for i, rest in enumerate(others):
        replaced = values.clone()
        replaced[i] = values[rest].mean(0)
        bounds.append(replaced.logsumexp(0) - np.log(5))
    torch.testing.assert_close(bounds_of_the_others(values), torch.stack(bounds))


def test_bounds_of_the_others_where_one_weight_dominates() -> None:
    ratios = torch.tensor([80.0, 0.0, 1.0])
    expected = torch.tensor([0.5, 0.0, 1.0]).logsumexp(0) - np.log(3)
    assert bounds_of_the_others(ratios)[0].item() == pytest.approx(expected.item(), abs=1e-6)


LEAVES: dict[str, Any] = {
    "Normal": lambda a, b: dd.Normal(a, b),
    "Gamma": lambda a, b: dd.Gamma(b, b + 1),
    "MultivariateNormal": lambda a, b: dd.MultivariateNormal(a, scale_tril=b.diag()),
    "Dirichlet": lambda a, b: dd.Dirichlet(b),
    "StudentT": lambda a, b: dd.StudentT(b + 2, a, b),
    "Kumaraswamy": lambda a, b: dd.Kumaraswamy(b, b),
    "RelaxedBernoulli": lambda a, b: dd.RelaxedBernoulli(torch.tensor(0.7), a.sigmoid()),
    "Independent": lambda a, b: dd.Independent(dd.LogNormal(a, b), 1),
    "learned maps": lambda a, b: dd.TransformedDistribution(
        dd.Normal(a, b), [dd.AffineTransform(a, b), dd.TanhTransform(), dd.AffineTransform(b, a)]
    ),
    "a learned map in a fixed one": lambda a, b: dd.TransformedDistribution(
        dd.Normal(a, b), [dd.AffineTransform(a, b), dd.SigmoidTransform()]
    ),
    "cached": lambda a, b: dd.TransformedDistribution(
        dd.Normal(a, b), [dd.AffineTransform(a, b, cache_size=1), dd.ExpTransform(cache_size=1)]
    ),
}


class Foreign(dd.Normal):
    """A user's own, of whose insides nothing is known."""


LEAVES["foreign"] = Foreign


@pytest.mark.parametrize("name", LEAVES)
@pytest.mark.usefixtures("float64")
def test_a_stopped_score_has_the_gradient_of_draws_alone(name: str) -> None:
    parameters = [
        torch.tensor([0.5, -0.8], requires_grad=True), torch.tensor([0.6, 0.9], requires_grad=True)
    ]  # fmt: skip

    def grads(score: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(score.sum(), parameters, allow_unused=True, retain_graph=True)
        pairs = zip(found, parameters, strict=True)
        return [torch.zeros_like(p) if g is None else g for g, p in pairs]

    torch.manual_seed(0)
    value, stopped = rsample_and_score_detached(LEAVES[name](*parameters), torch.Size((4,)))
    fresh = LEAVES[name](*parameters)
    clone = value.detach()
    plain = fresh.log_prob(value.view_as(value))
    torch.testing.assert_close(stopped, plain)
    sums = zip(grads(stopped), grads(fresh.log_prob(clone)), strict=True)
    torch.testing.assert_close([a + b for a, b in sums], grads(plain))

    drawn, score = sample_and_score(LEAVES[name](*parameters), torch.Size((4,)))
    assert not drawn.requires_grad
    again = LEAVES[name](*parameters).log_prob(drawn.clone())
    torch.testing.assert_close(score, again)
    torch.testing.assert_close(grads(score), grads(again))


@pytest.mark.parametrize("estimator", ["pathwise", "stl", "score"])
@pytest.mark.parametrize("bound", [NegativeELBO, ImportanceWeightedELBO])
def test_finite_where_draws_are_rounded_onto_an_edge(bound: Any, estimator: str) -> None:
    class Squashed(Variational):
        loc = Param(30.0)
        scale = Param(1.0, Positive())

        def base(self, loc: Tensor, scale: Tensor) -> dd.TransformedDistribution:
            return dd.TransformedDistribution(dd.Normal(loc, scale), dd.TanhTransform())

    guide = Squashed()
    assert guide.sample((10,)).eq(1.0).all()
    objective = bound(lambda x: -x.square(), guide, num_samples=10, estimator=estimator)
    found = gradients(objective)
    assert objective().isfinite()
    assert all(gradient.isfinite().all() for gradient in found.values())
    if estimator == "stl":  # E log q = E log N(u) - E log tanh'(u), and tanh' = 4 exp(-2 u) here
        assert found["guide.raw_loc"].item() == pytest.approx(2.0, abs=1.0)

"""Divergence and entropy, live and plain, exact and estimated."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributions as dd

from declarative_dist import entropy, kl_divergence, learnable, rsample_and_log_prob
from tests.cases import Mixture

PAIRS = {
    "Normal": (lambda: dd.Normal(0.5, 2.0), lambda: dd.Normal(0.0, 1.0)),
    "Gamma": (lambda: dd.Gamma(2.0, 3.0), lambda: dd.Gamma(1.0, 1.0)),
    "Beta": (lambda: dd.Beta(2.0, 3.0), lambda: dd.Beta(1.0, 1.0)),
    "Gamma-Exponential": (lambda: dd.Gamma(2.0, 3.0), lambda: dd.Exponential(1.0)),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("live", [(True, False), (False, True), (True, True)])
def test_exact_both_ways_without_warnings(name: str, live: tuple[bool, bool]) -> None:
    p, q = (make() for make in PAIRS[name])
    expected = dd.kl_divergence(p, q)
    left = learnable(p) if live[0] else p
    right = learnable(q) if live[1] else q
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(dd.kl_divergence(left, right), expected)
        torch.testing.assert_close(kl_divergence(left, right), expected)


def test_gradients_reach_the_parameters() -> None:
    q = learnable(dd.Normal(0.5, 2.0))
    kl_divergence(q, dd.Normal(0.0, 1.0)).backward()
    assert q.raw_loc.grad.item() == pytest.approx(0.5)


def test_through_independent_and_transformed() -> None:
    p, q = dd.Normal(torch.zeros(3), 2.0), dd.Normal(torch.ones(3), 1.0)
    live = learnable(p)
    exact = dd.kl_divergence(p, q)
    independent = dd.kl_divergence(dd.Independent(live, 1), dd.Independent(q, 1))
    torch.testing.assert_close(independent, exact.sum())
    shift = dd.AffineTransform(1.0, 2.0)
    transformed = kl_divergence(
        dd.TransformedDistribution(live, shift), dd.TransformedDistribution(q, shift)
    )
    torch.testing.assert_close(transformed, exact)


def test_no_estimate_unless_asked() -> None:
    p, q = learnable(dd.Laplace(0.0, 1.0)), dd.StudentT(3.0)
    with pytest.raises(NotImplementedError, match="Laplace and StudentT.*num_samples="):
        kl_divergence(p, q)
    with pytest.raises(NotImplementedError, match="num_samples="):
        entropy(Mixture(k=2))
    for count in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="an int, 1 or more"):
            kl_divergence(p, q, num_samples=count)


def test_estimate_against_quadrature() -> None:
    p, q = dd.Laplace(0.0, 1.0), dd.StudentT(3.0)
    grid = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    log_p, log_q = p.log_prob(grid), q.log_prob(grid)
    exact = torch.trapezoid(log_p.exp() * (log_p - log_q), grid)
    estimate = kl_divergence(learnable(p), q, num_samples=200_000)
    assert estimate.item() == pytest.approx(exact.item(), abs=0.01)


def test_estimated_entropy_of_a_mixture_against_quadrature() -> None:
    q = Mixture(k=2, loc=[-2.0, 2.0])
    grid = torch.linspace(-12, 12, 100_001)
    log_q = q.log_prob(grid)
    exact = -torch.trapezoid(log_q.exp() * log_q, grid)
    estimate = entropy(q, num_samples=200_000)
    assert estimate.item() == pytest.approx(exact.item(), abs=0.02)


def test_gradient_without_reparametrisation_is_unbiased() -> None:
    q = learnable(dd.Poisson(3.0))
    p = dd.NegativeBinomial(5.0, 0.4)
    estimate = kl_divergence(q, p, num_samples=400_000)
    (gradient,) = torch.autograd.grad(estimate, q.raw_rate)
    k = torch.arange(60.0)
    rate = q.rate.detach().requires_grad_()
    log_q = dd.Poisson(rate).log_prob(k)
    exact = (log_q.exp() * (log_q - p.log_prob(k))).sum()
    (by_rate,) = torch.autograd.grad(exact, rate)
    assert estimate.item() == pytest.approx(exact.item(), abs=0.01)
    assert gradient.item() == pytest.approx((by_rate * q.raw_rate.sigmoid()).item(), abs=0.02)


def test_entropy_is_exact_where_torch_knows_it() -> None:
    plain = dd.Gamma(2.0, 3.0)
    assert entropy(learnable(plain), num_samples=1) == plain.entropy()


def test_scored_samples_keep_the_transform_cache() -> None:
    squashed = dd.TransformedDistribution(dd.Normal(0.0, 10.0), dd.TanhTransform(cache_size=1))
    x, log_prob = rsample_and_log_prob(squashed, (1000,))
    assert x.abs().max() == 1.0  # saturated, where the inverse is not known without the cache
    assert log_prob.isfinite().all()

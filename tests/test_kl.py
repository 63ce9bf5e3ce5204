"""Divergence and entropy, live and plain, exact and estimated."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.distributions as dd
from scipy import integrate
from torch import Tensor

from declarative_dist import Joint, entropy, kl_divergence, learnable, rsample_and_log_prob
from declarative_dist.errors import ConstraintError, DeclarationError
from tests.cases import Mixture
from tests.test_elbo import ByHand

PAIRS = {
    "Normal": (lambda: dd.Normal(0.5, 2.0), lambda: dd.Normal(0.0, 1.0)),
    "Gamma": (lambda: dd.Gamma(2.0, 3.0), lambda: dd.Gamma(1.0, 1.0)),
    "Beta": (lambda: dd.Beta(2.0, 3.0), lambda: dd.Beta(1.0, 1.0)),
    "Gamma-Exponential": (lambda: dd.Gamma(2.0, 3.0), lambda: dd.Exponential(1.0)),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("live", [(True, False), (False, True)])
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


def test_no_estimate_unless_asked() -> None:
    p, q = learnable(dd.Laplace(0.0, 1.0)), dd.StudentT(3.0)
    with pytest.raises(NotImplementedError, match="Laplace and StudentT.*num_samples="):
        kl_divergence(p, q)
    with pytest.raises(NotImplementedError, match="num_samples="):
        entropy(Mixture(k=2))
    for count in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="an int, 1 or more"):
            kl_divergence(p, q, num_samples=count)


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


def pair(*locs: float) -> dd.MixtureSameFamily:
    weights = dd.Categorical(torch.tensor([0.3, 0.7]))
    return dd.MixtureSameFamily(weights, dd.Normal(torch.tensor(locs), 0.8))


UNKNOWN: dict[str, tuple[Callable[[], dd.Distribution], Callable[[], dd.Distribution]]] = {
    "mixture and normal": (lambda: pair(-1.0, 2.0), lambda: dd.Normal(0.0, 2.0)),
    "normal and mixture": (lambda: dd.Normal(0.5, 1.2), lambda: pair(-1.0, 2.0)),
    "gamma and log-normal": (lambda: dd.Gamma(3.0, 2.0), lambda: dd.LogNormal(0.2, 0.7)),
    "squashed and uniform": (
        lambda: dd.TransformedDistribution(dd.Normal(0.2, 0.9), dd.SigmoidTransform()),
        lambda: dd.Beta(1.5, 1.5),
    ),
    "StudentT and StudentT": (lambda: dd.StudentT(5.0, 0.3), lambda: dd.StudentT(3.0)),
}


def by_quadrature(p: dd.Distribution, q: dd.Distribution) -> float:
    def integrand(x: float) -> float:
        at = torch.tensor(x)
        log_p = p.log_prob(at)
        return (log_p.exp() * (log_p - q.log_prob(at))).item()

    is_bounded = p.support.check(torch.tensor(-0.5)).logical_not().item()
    is_unit = is_bounded and p.support.check(torch.tensor(1.5)).logical_not().item()
    low, high = (1e-7 if is_bounded else -25.0), (1 - 1e-6 if is_unit else 25.0)
    return integrate.quad(integrand, low, high, limit=200, epsabs=1e-5)[0]


@pytest.mark.parametrize("name", UNKNOWN)
def test_pairs_that_torch_lacks_against_quadrature(name: str) -> None:
    p, q = (make() for make in UNKNOWN[name])
    with pytest.raises(NotImplementedError, match="num_samples="):
        kl_divergence(p, q)
    count = 100_000
    x = p.sample((count,))
    error = (p.log_prob(x) - q.log_prob(x)).std().item() / count**0.5
    for one in (p, learnable(p)):
        estimate = kl_divergence(one, learnable(q), num_samples=count).item()
        assert abs(estimate - by_quadrature(p, q)) < 4 * error + 1e-4


COPIES = 20_000


@pytest.mark.parametrize("count", [1, 3])
def test_gradients_of_a_mixture_are_unbiased(count: int) -> None:
    """Of both sides, in as many independent estimates as there are copies."""
    q = Mixture(k=2, batch_shape=(COPIES,), loc=[-1.0, 1.5], logits=[0.3, -0.2])
    target = learnable(dd.Normal(torch.full((COPIES,), 0.4), 1.5))
    kl_divergence(q, target, num_samples=count).sum().backward()
    one = Mixture(k=2, loc=[-1.0, 1.5], logits=[0.3, -0.2], dtype=torch.float64)
    other = learnable(dd.Normal(torch.tensor(0.4, dtype=torch.float64), 1.5))
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    log_q = one.log_prob(x)
    torch.trapezoid(log_q.exp() * (log_q - other.log_prob(x)), x).backward()
    expected = {**dict(one.named_parameters()), "target": other.raw_loc}
    for name, parameter in {**dict(q.named_parameters()), "target": target.raw_loc}.items():
        assert parameter.grad is not None
        deviation, mean = torch.std_mean(parameter.grad, 0)
        error = deviation / COPIES**0.5
        assert ((mean - expected[name].grad).abs() < 4 * error).all(), name


def test_the_gradient_vanishes_where_both_agree() -> None:
    """Every draw weighs as much as the others: the score function has no variance there."""
    q = learnable(pair(-1.0, 2.0))
    kl_divergence(q, pair(-1.0, 2.0), num_samples=10).backward()
    for parameter in q.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() < 1e-6


def test_gradient_of_an_estimated_entropy() -> None:
    q = Mixture(k=2, batch_shape=(COPIES,), loc=[-1.0, 1.5])
    entropy(q, num_samples=2).sum().backward()
    one = Mixture(k=2, loc=[-1.0, 1.5], dtype=torch.float64)
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    log_q = one.log_prob(x)
    torch.trapezoid(-log_q.exp() * log_q, x).backward()
    deviation, mean = torch.std_mean(q.raw_loc.grad, 0)
    assert ((mean - one.raw_loc.grad).abs() < 4 * deviation / COPIES**0.5).all()


def test_batch_shapes_broadcast_in_estimates() -> None:
    p = dd.MixtureSameFamily(
        dd.Categorical(torch.ones(3, 1, 2)), dd.Normal(torch.arange(6.0).reshape(3, 1, 2), 1.0)
    )
    q = dd.Normal(torch.tensor([0.0, 2.0, 4.0, 6.0]), 2.0)
    for one, other in ((p, q), (q, p)):
        estimate = kl_divergence(one, other, num_samples=20_000)
        assert estimate.shape == (3, 4)
        for i in range(3):
            narrow = dd.MixtureSameFamily(
                dd.Categorical(torch.ones(2)), dd.Normal(torch.arange(6.0).reshape(3, 2)[i], 1.0)
            )
            normal = dd.Normal(q.loc[1], 2.0)
            pair = (narrow, normal) if one is p else (normal, narrow)
            assert estimate[i, 1].item() == pytest.approx(by_quadrature(*pair), abs=0.08)


def test_events_that_differ_are_refused() -> None:
    """They would broadcast where the number of draws is the size of an event."""
    p, q = dd.Normal(0.0, 1.0), dd.MultivariateNormal(torch.zeros(3), torch.eye(3))
    mixture = dd.MixtureSameFamily(
        dd.Categorical(torch.ones(2)), dd.Independent(dd.Normal(torch.zeros(2, 3), 1.0), 1)
    )
    for one, other in ((p, mixture), (mixture, p), (p, q)):
        with pytest.raises(ConstraintError, match="Give both the same event shape"):
            kl_divergence(one, other, num_samples=3)


class Prior(Joint):
    mu = dd.Normal(0.0, 2.0)
    tau = dd.LogNormal(0.0, 1.0)


def test_guides_with_draws_by_site() -> None:
    """A log-normal is a normal at the logarithm, so there is a closed form."""
    guide = ByHand()
    normals = [dd.Normal(0.0, 2.0), dd.Normal(0.0, 1.0)]
    exact: Tensor = sum(
        dd.kl_divergence(dd.Normal(guide.loc[i], guide.log_scale[i].exp()), normal)
        for i, normal in enumerate(normals)
    )  # type: ignore[assignment]
    with pytest.raises(NotImplementedError, match="ByHand and Prior.*num_samples="):
        kl_divergence(guide, Prior())
    estimate = kl_divergence(guide, Prior(), num_samples=200_000)
    assert estimate.item() == pytest.approx(exact.item(), abs=0.01)
    found = torch.autograd.grad(estimate, list(guide.parameters()))
    expected = torch.autograd.grad(exact, list(guide.parameters()))
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)
    back = kl_divergence(Prior(), guide, num_samples=200_000)
    reverse = sum(
        dd.kl_divergence(normal, dd.Normal(guide.loc[i], guide.log_scale[i].exp())).item()
        for i, normal in enumerate(normals)
    )
    assert back.item() == pytest.approx(reverse, rel=0.02)
    with pytest.raises(NotImplementedError, match="entropy.*ByHand.*num_samples="):
        entropy(guide)
    own = guide.flat().entropy().sum() + guide.loc[1]
    assert entropy(guide, num_samples=100_000).item() == pytest.approx(own.item(), abs=0.02)


@pytest.mark.parametrize("ask", [entropy, rsample_and_log_prob, lambda d: kl_divergence(d, d)])
@pytest.mark.parametrize("given", [3, None, torch.ones(2), dd.Normal])
def test_what_is_no_distribution_is_refused(
    ask: Callable[[object], object], given: object
) -> None:
    with pytest.raises(DeclarationError, match="expected a distribution, plain or live, got"):
        ask(given)


def test_batches_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConstraintError, match=r"kl_divergence: .*broadcast with \(2,\)"):
        kl_divergence(learnable(dd.Normal(torch.zeros(2), 1.0)), dd.Normal(torch.zeros(3), 1.0))

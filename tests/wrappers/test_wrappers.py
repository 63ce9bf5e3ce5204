"""Truncated, censored and zero-inflated distributions beside scipy, quadrature and by hand."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats as st
import torch
import torch.distributions as dd
from torch import Tensor, tensor

from declarative_dist import (
    Conditional,
    ConstraintError,
    DeclarationError,
    Exp,
    Head,
    Joint,
    MeanFieldNormal,
    Param,
    Variational,
    entropy,
    fit,
    kl_divergence,
    learnable,
    site,
)
from declarative_dist.objectives import NegativeLogLikelihood
from declarative_dist.wrappers import Censored, Truncated, ZeroInflated, zero_inflated
from tests.cases import WRAPPED


def d(number: Any) -> Tensor:
    return torch.tensor(number, dtype=torch.float64)


TRUNCATED: dict[str, tuple[Truncated, Any]] = {
    "Normal": (Truncated(dd.Normal(d(1.0), d(2.0)), -1.0, 5.0), st.truncnorm(-1, 2, 1, 2)),
    "Normal above": (Truncated(dd.Normal(d(1.0), d(2.0)), 2.0), st.truncnorm(0.5, np.inf, 1, 2)),
    "Normal far out": (Truncated(dd.Normal(d(0.0), d(1.0)), 40.0), st.truncnorm(40, np.inf)),
    "Exponential": (Truncated(dd.Exponential(d(2.0)), 1.0, 4.0), st.truncexpon(6, 1, 0.5)),
    "Exponential above": (Truncated(dd.Exponential(d(2.0)), 1.0), st.expon(1, 0.5)),
    "Exponential, thin": (Truncated(dd.Exponential(d(2.0)), 1.0, 1.002),
        st.truncexpon(4e-3, 1, 0.5)),
    "Uniform": (Truncated(dd.Uniform(d(0.0), d(3.0)), -1.0, 2.0), st.uniform(0, 2)),
    "StudentT": (Truncated(dd.StudentT(d(3.0)), 0.0, 2.0),
        st.truncate(st.make_distribution(st.t)(df=3), 0, 2)),
}  # fmt: skip


def _integrate(p: Any, statistic: Callable[[Tensor], Tensor]) -> float:
    """The mean of a statistic, over the quantiles."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    # Nodes are dense at both ends, where a density may fall off fast.
    angles = (nodes + 1) * math.pi / 2
    points = p.icdf(torch.tensor((1 - np.cos(angles)) / 2).clamp(1e-15, 1 - 1e-15))
    return float((statistic(points).numpy() * np.sin(angles) / 2 * weights).sum() * math.pi / 2)


@pytest.mark.parametrize("name", TRUNCATED)
def test_truncated_agrees_with_scipy(name: str) -> None:
    ours, known = TRUNCATED[name]
    shares = torch.tensor([1e-6, 0.2, 0.5, 0.99], dtype=torch.float64)
    points = ours.icdf(shares)
    if name != "StudentT":
        np.testing.assert_allclose(points, known.ppf(shares), 1e-9)
        np.testing.assert_allclose(ours.log_prob(points), known.logpdf(points), 1e-9, 1e-9)
        np.testing.assert_allclose(ours.mean, known.mean(), 1e-9)
        np.testing.assert_allclose(ours.variance, known.var(), 1e-6)
        wanted = _integrate(ours, lambda x: -ours.log_prob(x))
        np.testing.assert_allclose(entropy(ours), wanted, 1e-6)
    else:
        np.testing.assert_allclose(ours.log_prob(points), known.logpdf(points), 1e-9)
    np.testing.assert_allclose(ours.cdf(points), known.cdf(points), 1e-9)


def test_normal_moments_of_thin_intervals_are_integrals() -> None:
    for scale, low, high in ((1e6, 0.0, 1.0), (1.0, 40.0, np.inf), (2.0, -90.0, -89.9)):
        x, weight = np.polynomial.legendre.leggauss(200)
        width = min(high - low, 1.0)
        x = (x + 1) * width / 2
        at = low + x
        weight = weight * np.exp(-((at / scale) ** 2) / 2 + min(low**2, high**2) / scale**2 / 2)
        mean = float(weight @ x / weight.sum())
        variance = float(weight @ (x - mean) ** 2 / weight.sum())
        numbers = [d(n).requires_grad_() for n in (0.0, scale, low, high)]
        cut = Truncated(dd.Normal(*numbers[:2]), *numbers[2:])
        assert cut.mean.item() == pytest.approx(low + mean, rel=1e-9)
        assert cut.variance.item() == pytest.approx(variance, rel=1e-9)
        gradients = torch.autograd.grad(cut.mean + cut.variance, numbers)
        assert all(gradient.isfinite() for gradient in gradients)


@pytest.mark.parametrize("name", ["Truncated", "Truncated without a formula", "Normal far out"])
def test_draws_are_those_of_the_density(name: str) -> None:
    plain = WRAPPED[name]() if name in WRAPPED else TRUNCATED[name][0]
    torch.manual_seed(0)
    shares = plain.cdf(plain.rsample((4000,)))
    for column in shares.reshape(4000, -1).T:
        assert st.kstest(column.numpy(), "uniform").pvalue > 1e-3


MADE = {
    **WRAPPED,
    "counts": lambda: Truncated(dd.NegativeBinomial(tensor([5.0, 2.0]), 0.3), high=7),
}


@pytest.mark.parametrize("name", ["counts", "hurdle"])
def test_masses_add_up_and_draws_follow(name: str) -> None:
    plain: Any = MADE[name]()
    torch.manual_seed(0)
    draws = plain.sample((4000,))
    assert plain.support.check(draws).all()
    counts = torch.arange(0.0, 60.0)[:, None]
    plain._validate_args = False
    masses = plain.log_prob(counts).exp()
    torch.testing.assert_close(masses.sum(0), torch.ones(2))
    torch.testing.assert_close(plain.cdf(counts), masses.cumsum(0), atol=1e-5, rtol=0)
    found = (draws[:, None] == counts).float().mean(0)
    assert ((found - masses).abs() < 5 * (masses / 4000).sqrt() + 1e-6).all()


def test_a_value_at_an_end_carries_the_mass_beyond() -> None:
    known = st.gamma(2, 0, 0.5)
    seen = Censored(dd.Gamma(d(2.0), d(2.0)), low=0.3, high=d([1.0, 2.0, np.inf]))
    at = d([[0.3, 0.5, 0.5], [1.0, 2.0, 2.0]])
    by_hand = [
        [known.logcdf(0.3), known.logpdf(0.5), known.logpdf(0.5)],
        [known.logsf(1.0), known.logsf(2.0), known.logpdf(2.0)],
    ]
    np.testing.assert_allclose(seen.log_prob(at), by_hand, 1e-12)
    pairs = d([[0.5, 0.5], [0.5, np.inf], [-np.inf, 0.5], [0.5, 1.0], [0.0, np.inf]])
    by_hand = [
        known.logpdf(0.5),
        known.logsf(0.5),
        known.logcdf(0.5),
        math.log(known.cdf(1.0) - known.cdf(0.5)),
        0.0,
    ]
    found = Censored(dd.Gamma(d(2.0), d(2.0))).log_prob(pairs)
    np.testing.assert_allclose(found, by_hand, 1e-12, 1e-14)
    above = Censored(dd.Gamma(d(2.0), d(2.0)), high=1.0)
    assert above.log_prob(d(1.0)).item() == pytest.approx(known.logsf(1.0))
    assert above.support.check(above.sample((50,))).all()
    counts = Censored(dd.Poisson(d(3.0)), low=1, high=4)
    whole = counts.log_prob(torch.arange(1.0, 5.0).double()).exp()
    of = st.poisson(3)
    np.testing.assert_allclose(whole, [of.cdf(1), of.pmf(2), of.pmf(3), of.sf(3)], 1e-12)


def test_moments_of_what_is_censored_or_inflated() -> None:
    torch.manual_seed(0)
    base = dd.Normal(d([0.0, 1.0]), d(1.0))
    for plain in (
        Censored(base, -0.5, d([1.0, 2.0])),
        Censored(base, low=0.3),
        ZeroInflated(base, 0.3),
    ):
        draws = plain.sample((100_000,))
        torch.testing.assert_close(plain.mean, draws.mean(0), atol=0.02, rtol=0)
        torch.testing.assert_close(plain.variance, draws.var(0), atol=0.02, rtol=0)


def test_moments_are_in_the_precision_of_the_base() -> None:
    half, double = (
        dd.Normal(*torch.tensor([0.5, 2.0], dtype=t)) for t in (torch.half, d(0).dtype)
    )
    for make in (lambda b: Truncated(b, -1.0, 2.0), lambda b: Censored(b, -1.0, 2.0)):
        mine, exact = make(half), make(double)
        results = [(mine.mean, exact.mean), (mine.variance, exact.variance)]
        if isinstance(mine, Truncated):
            results.append((mine.entropy(), exact.entropy()))
        for result, wanted in results:
            assert result.dtype == torch.half
            assert result.item() == pytest.approx(wanted.item(), rel=2e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["normal", "t", "gamma", "weibull", "logistic"])
def test_densities_and_gradients_are_finite_far_out(name: str, dtype: torch.dtype) -> None:
    makers: dict[str, Callable[..., dd.Distribution]] = {
        "normal": dd.Normal,
        "t": lambda a, b: dd.StudentT(3.0 + a, a, b),
        "gamma": lambda a, b: dd.Gamma(2.0 + a, b),
        "weibull": lambda a, b: dd.Weibull(b, 1.5 + a),
        "logistic": lambda a, b: dd.TransformedDistribution(
            dd.Uniform(torch.zeros_like(a), 1.0),
            [dd.SigmoidTransform().inv, dd.AffineTransform(a, b)],
        ),
    }
    ends = [0.0, 40.0] if name in ("normal", "t", "logistic") else [1e-3, 40.0]
    parameters = [torch.tensor(v, dtype=dtype, requires_grad=True) for v in (0.0, 1.0)]
    base = makers[name](*parameters)
    low, high = (torch.tensor(end, dtype=dtype) for end in ends)
    far = -high if name in ("normal", "t", "logistic") else low
    scored = [
        Truncated(base, low=high).log_prob(high * 1.25),
        Truncated(base, high=far).log_prob(far if far > 0 else far * 1.25),
        Censored(base, low=far, high=high).log_prob(high),
        Censored(base, low=far, high=high).log_prob(far),
        Censored(base).log_prob(torch.stack([low, high])),
    ]
    for score in scored:
        assert score.dtype == dtype
        assert score.isfinite()
        for gradient in torch.autograd.grad(
            score, parameters, retain_graph=True, allow_unused=True
        ):
            assert gradient is None or gradient.isfinite()


@pytest.mark.parametrize("size", [1e-10, 1.0, 1e10])
def test_censored_gradients_are_finite_at_any_scale(size: float) -> None:
    scale, shape = tensor(size, requires_grad=True), tensor(5.0, requires_grad=True)
    value = tensor([0.5 * size, 2 * size])
    Censored(dd.Weibull(scale, shape), high=2 * size).log_prob(value).sum().backward()
    # By hand: the density at a half of the scale, and 2 ** shape in the tail.
    wanted = (-5.0 + 5.0 * 0.5**5 + 5.0 * 2.0**5) / size
    assert scale.grad is not None and scale.grad.item() == pytest.approx(wanted, rel=1e-4)  # noqa: PT018
    assert shape.grad is not None and shape.grad.isfinite()  # noqa: PT018


def test_the_gradient_of_draws_is_that_of_the_quantile() -> None:
    def draw(loc: Tensor, scale: Tensor, low: Tensor) -> Tensor:
        torch.manual_seed(0)
        shape = Truncated(dd.Gamma(scale, 1.0 + scale), low=0.1 + low**2).rsample((3,))
        return torch.cat([shape, Truncated(dd.Normal(loc, scale), low, 1.0).rsample((3,))])

    inputs = tuple(d(v).requires_grad_() for v in (0.3, 1.2, -0.5))
    assert torch.autograd.gradcheck(draw, inputs)


def test_a_gate_has_right_gradients_at_its_ends() -> None:
    for value, zero, other in ((0.0, math.exp(2.0) - 1, -1.0), (1.0, 1 - math.exp(-2.0), 0.0)):
        gate = d(value).requires_grad_()
        scores = ZeroInflated(dd.Poisson(d(2.0)), gate).log_prob(d([0.0, 1.0]))
        slope = torch.autograd.grad(scores[0], gate, retain_graph=True)[0]
        assert slope.item() == pytest.approx(zero)
        assert scores[0].item() == pytest.approx(-2.0 if value == 0 else 0.0)
        assert torch.autograd.grad(scores[1], gate)[0].item() == pytest.approx(other)


PAIRS = [
    (Truncated(dd.Normal(d(0.0), d(1.0)), 0.5, 2.0), Truncated(dd.Normal(d(1.0), d(2.0)), 0.0)),
    (Truncated(dd.Exponential(d(2.0)), 0.5), dd.Exponential(d(1.0))),
    (Truncated(dd.Normal(d(0.0), d(1.0)), 0.5), dd.Exponential(d(1.0))),
    (dd.Uniform(d(0.5), d(1.0)), Truncated(dd.Exponential(d(2.0)), high=3.0)),
]


@pytest.mark.parametrize("index", range(len(PAIRS)))
def test_divergences_are_integrals(index: int) -> None:
    p, q = PAIRS[index]

    wanted = _integrate(p, lambda x: p.log_prob(x) - q.log_prob(x))
    assert kl_divergence(learnable(p), q).item() == pytest.approx(wanted, 1e-6)
    normal = dd.Normal(d(0.0), d(1.0))
    assert kl_divergence(normal, Truncated(normal, 0.0)) == np.inf


class Lifetimes(Conditional):
    base = dd.Weibull
    scale = Head(Exp())
    concentration = Param(1.5, Exp())


class Seen(Conditional):
    base = Censored
    base_distribution = Lifetimes
    high = 2.0


class SeenByMethod(Conditional):
    scale = Head(Exp())
    concentration = Param(1.5, Exp())

    def base(self, scale: Tensor, concentration: Tensor) -> Censored:
        return Censored(dd.Weibull(scale, concentration), high=2.0)


def test_heads_predict_what_is_censored() -> None:
    context = torch.linspace(-1.0, 1.0, 12).reshape(4, 3)
    value = tensor([0.5, 2.0, 1.0, 2.0])
    nested, method = Seen(in_features=3), SeenByMethod(in_features=3)
    with torch.no_grad():
        for layer in (nested.base_distribution.projection, method.projection):
            layer.weight.fill_(0.3)
            layer.bias.fill_(0.1)
    torch.testing.assert_close(nested(context).log_prob(value), method(context).log_prob(value))
    assert nested(context).batch_shape == (4,)


def test_a_plain_wrapper_of_a_live_distribution_is_live() -> None:
    inside = learnable(dd.Normal(0.0, 1.0))
    cut = Truncated(inside, low=0.0)
    before = cut.log_prob(tensor(1.0)).item()
    inside.scale = 3.0
    assert before == pytest.approx(dd.HalfNormal(1.0).log_prob(tensor(1.0)).item())
    assert cut.log_prob(tensor(1.0)).item() == pytest.approx(
        dd.HalfNormal(3.0).log_prob(tensor(1.0)).item()
    )


@pytest.mark.parametrize("name", MADE)
def test_they_expand_pickle_and_broadcast(name: str) -> None:
    plain = MADE[name]()
    torch.manual_seed(0)
    value = plain.sample()
    wide = plain.expand((3, 2))
    assert wide.sample((5,)).shape == (5, 3, 2, *plain.event_shape)
    torch.testing.assert_close(wide.log_prob(value), plain.log_prob(value).expand(3, 2))
    copied = pickle.loads(pickle.dumps(plain))
    assert torch.equal(copied.log_prob(value), plain.log_prob(value))
    assert repr(copied) == repr(plain)


def test_ends_stay_constant_unless_declared() -> None:
    q = learnable(Truncated(dd.Normal(0.0, 1.0), low=0.1, high=tensor([1.0, 2.0])))
    assert [name for name, _ in q.named_parameters()] == [
        "base_distribution.raw_loc",
        "base_distribution.raw_scale",
    ]

    class Learned(Variational):
        base = Truncated
        base_distribution = dd.Normal(0.0, 1.0)
        low = Param(-1.0)

    learned = Learned()
    learned.log_prob(tensor(0.5)).backward()
    mass = 1 - st.norm.cdf(-1.0)
    assert learned.raw_low.grad.item() == pytest.approx(st.norm.pdf(-1.0) / mass, 1e-5)


HALVE = dd.AffineTransform(0.0, 0.5)
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "crossing": (lambda: Truncated(dd.Normal(0.0, 1.0), 2.0, 1.0), "the lower first, got low=2.0"),
    "NaN": (lambda: Censored(dd.Normal(0.0, 1.0), low=math.nan), "got low=nan"),
    "no mass": (lambda: Truncated(dd.Gamma(1.0, 1.0), high=-1.0), "leave mass of a Gamma"),
    "no count": (lambda: Truncated(dd.Poisson(1.0), 3, 3.5), "leave mass of a Poisson"),
    "no cdf": (lambda: Truncated(dd.VonMises(0.0, 1.0), 0.0), "it needs one, got VonMises"),
    "events": (lambda: Censored(dd.Dirichlet(torch.ones(2)), 0.0), "numbers, got Dirichlet"),
    "a gate": (lambda: ZeroInflated(dd.Poisson(1.0), 1.5), "between 0 and 1, got 1.5"),
    "inflated events": (lambda: ZeroInflated(dd.Dirichlet(torch.ones(2)), 0.5),
        "of single numbers"),
    "no distribution": (lambda: Truncated(3.0), "a distribution, got 3.0"),
    "text": (lambda: Truncated(dd.Normal(0.0, 1.0), "a"), "a number or a"),
    "no gate": (lambda: ZeroInflated(dd.Poisson(1.0), None), "a number or a tensor.* None"),
    "a shape": (lambda: Truncated(dd.Normal(torch.zeros(2), 1.0), torch.zeros(3)),
        r"with \(2,\), got \(3,\)"),
    "beyond": (lambda: Censored(dd.Normal(0.0, 1.0), high=1.0).log_prob(tensor(2.0)), "got 2.0"),
    "a pair": (lambda: Censored(dd.Normal(0.0, 1.0)).log_prob(tensor([2.0, 1.0])),
        "values in pairs .*with a value above"),
    "a vector for pairs": (lambda: Censored(dd.Exponential(1.0)).log_prob(tensor([1.0, 2.0, 3.0])),
        r"log_prob: expected pairs.*got a tensor of shape \(3,\)"),
    "a number for pairs": (
        lambda: Censored(dd.Exponential(1.0), validate_args=False).log_prob(tensor(1.0)),
        r"log_prob: expected pairs.*got a tensor of shape \(\)",
    ),
    "a part of a count": (lambda: Censored(dd.Poisson(1.0)).log_prob(tensor([1.5, 1.5])),
        r"values in pairs .*with a count above.*\[1.5, 1.5\]"),
    "no count in a pair": (lambda: Censored(dd.Poisson(1.0)).log_prob(tensor([1.2, 1.8])),
        r"values in pairs .*with a count above.*\[1.2"),
    "a part without a cdf": (lambda: Truncated(dd.RelaxedBernoulli(tensor(0.5), tensor(0.3)), 0.2),
        r"Truncated\(base_distribution=\).*it needs one, got LogitRelaxedBernoulli"),
    "halves of counts": (
        lambda: ZeroInflated(dd.TransformedDistribution(dd.Poisson(3.0), HALVE), 0.2),
        r"ZeroInflated\(base_distribution=\): .*by whole numbers.* of a Poisson",
    ),
    "a zero": (lambda: Truncated(dd.Poisson(1.0), 0).log_prob(tensor(0.0)), "got 0.0"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_explained(name: str) -> None:
    make, said = WRONG[name]
    with pytest.raises((ConstraintError, DeclarationError), match=said):
        make()


@pytest.mark.parametrize("checks", [True, False])
def test_an_end_that_is_no_value_of_the_base_has_no_density(checks: bool) -> None:
    loc, scale = d(0.2).requires_grad_(), d(1.5).requires_grad_()
    known = st.lognorm(1.5, 0, math.exp(0.2))
    base = dd.LogNormal(loc, scale, validate_args=checks)
    cut, pairs = Censored(base, high=3.0, validate_args=checks), Censored(base, None, None, checks)
    found = cut.log_prob(d([0.0, 1.0, 3.0]))
    np.testing.assert_allclose(found.detach(), [-np.inf, known.logpdf(1), known.logsf(3)], 1e-12)
    both = pairs.log_prob(d([[0.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(both.detach(), [-np.inf, known.logpdf(1)], 1e-12)
    gradients = torch.autograd.grad(found.sum() + both.sum(), [loc, scale])
    alone = torch.autograd.grad(cut.log_prob(d([1.0, 1.0, 3.0])).sum(), [loc, scale])
    torch.testing.assert_close(gradients, alone)
    counts = Censored(dd.Poisson(2.0, validate_args=checks), validate_args=False)
    assert counts.log_prob(tensor([1.5, 1.5])).item() == -torch.inf


def test_quantiles_of_values_that_have_a_probability() -> None:
    shares, normal = np.array([0.0, 0.2, 0.4, 0.6, 0.9, 1.0]), st.norm()
    found = Censored(dd.Normal(d(0.0), d(1.0)), 0.0).icdf(torch.tensor(shares))
    np.testing.assert_allclose(found, normal.ppf(shares).clip(0.0), 1e-9, 1e-12)
    found = ZeroInflated(dd.Normal(d(0.0), d(1.0)), 0.3).icdf(torch.tensor(shares))
    low, high = normal.ppf(shares / 0.7), normal.ppf((shares - 0.3) / 0.7)
    by_hand = np.where(shares < 0.35, low, np.where(shares > 0.65, high, 0.0))
    np.testing.assert_allclose(found, by_hand, 1e-9, 1e-12)
    counts = ZeroInflated(dd.Poisson(d(2.0)), d([0.0, 0.3, 1.0]))
    assert counts.icdf(d(0.5)).tolist() == [2.0, 1.0, 0.0]


def test_what_has_no_closed_form_says_so() -> None:
    for plain in (Censored(dd.Normal(0.0, 1.0), 0.0), ZeroInflated(dd.Gamma(2.0, 1.0), 0.3)):
        with pytest.raises(NotImplementedError, match="rsample: .* carry no gradients"):
            plain.rsample()
        with pytest.raises(NotImplementedError, match="no entropy is known in closed form of a"):
            plain.entropy()
    gamma = dd.Gamma(2.0, 1.0)
    with pytest.raises(
        NotImplementedError, match="no mean is known in closed form of a Gamma. Take"
    ):
        _ = Truncated(gamma, 1.0).mean
    for pair in (Truncated(gamma, 1.0), dd.Normal(0.0, 1.0)):
        said = (
            f"for Truncated and {type(pair).__name__}, because Truncated: no kl_d[^.]*. Pass num"
        )
        with pytest.raises(NotImplementedError, match=said):
            kl_divergence(Truncated(gamma, 1.0), pair)
    with pytest.raises(NotImplementedError, match=r"p, q, num_samples"):
        dd.kl_divergence(Truncated(gamma, 1.0), dd.Normal(0.0, 1.0))
    with pytest.raises(NotImplementedError, match=r"entropy\(q, num_samples"):
        Truncated(gamma, 1.0).entropy()


def test_no_density_is_taken_where_values_have_a_probability() -> None:
    mixed = [ZeroInflated(dd.Gamma(2.0, 2.0), 0.3), Censored(dd.Normal(0.0, 1.0), 0.0)]
    mixed.append(Truncated(mixed[1], high=1.0))
    for plain in (*mixed, dd.TransformedDistribution(mixed[0], dd.AffineTransform(1.0, 2.0))):

        class Mixed(Joint):
            m = plain

            @site
            def y(self, m: Tensor) -> dd.Normal:
                return dd.Normal(m, 1.0)

        with pytest.raises(DeclarationError, match="continuous site.*a probability of their own"):
            MeanFieldNormal(Mixed().condition(y=0.5))
        with pytest.raises(DeclarationError, match="a prior with a density.*of their own"):

            class Prior(Variational):
                base = dd.Normal
                loc = Param(1.0, prior=plain)
                scale = 1.0

    cut = mixed[2]
    assert not cut.has_rsample
    with pytest.raises(NotImplementedError, match="carry no gradients"):
        cut.rsample()
    assert (cut.sample((400,)) == 0).float().mean() == pytest.approx(0.5 / 0.8413, abs=0.1)
    assert Truncated(dd.Normal(0.0, 1.0), 0.0).has_rsample


STARTED: dict[str, tuple[dd.Distribution, dd.Distribution]] = {
    "far from the start": (Truncated(dd.Normal(1010.0, 30.0), low=1000.0),
        Truncated(dd.Normal(0.0, 1.0), low=1000.0)),
    "a hurdle": (ZeroInflated(Truncated(dd.Poisson(40.0), low=0), tensor(0.3)),
        ZeroInflated(Truncated(dd.Poisson(1.0), low=0), tensor(0.5))),
    "censored": (Censored(dd.Weibull(3e4, 2.0), high=5e4),
        Censored(dd.Weibull(1.0, 1.0), high=5e4)),
}  # fmt: skip


@pytest.mark.parametrize("name", STARTED)
def test_fits_start_where_data_suggest(name: str) -> None:
    truth, start = STARTED[name]
    torch.manual_seed(0)
    data, q = truth.sample((2000,)), learnable(start)
    history = fit(NegativeLogLikelihood(q), data, progress=False)
    assert history.converged
    assert history.losses[-1] <= -truth.log_prob(data).mean().item() + 1e-4
    assert history.losses[0] < history.losses[-1] + 0.5  # it began nearby


def test_pairs_start_at_their_middle() -> None:
    times = dd.Gamma(4.0, 1e-3).sample((500,))
    pairs = torch.stack([(times / 1000).floor() * 1000, (times / 1000).ceil() * 1000], -1)
    q = learnable(Censored(dd.Gamma(1.0, 1.0)))
    history = fit(NegativeLogLikelihood(q), pairs, progress=False)
    assert history.losses[0] < history.losses[-1] + 0.05
    assert q.base_distribution.concentration.item() == pytest.approx(4.0, rel=0.3)


def test_a_half_line_below_an_end_is_a_set_of_its_own() -> None:
    support = Truncated(dd.Normal(0.0, 1.0), high=2.0).support
    assert repr(support) == "UpTo(upper_bound=2.0)"
    assert support.check(tensor([2.0, 2.1])).tolist() == [True, False]
    assert dd.biject_to(support)(tensor([-3.0, 0.3, 3.0])).lt(2.0).all()


def test_a_gate_of_zero_has_its_gradient_where_zeros_are_rare() -> None:
    gate = d(0.0).requires_grad_()
    ZeroInflated(dd.Poisson(d(40.0)), gate).log_prob(d(0.0)).backward()
    assert gate.grad is not None and gate.grad.item() == pytest.approx(math.exp(40.0))  # noqa: PT018


def test_a_mass_at_the_lower_end_counts() -> None:
    normal, inflated = dd.Normal(0.0, 1.0), ZeroInflated(dd.Exponential(1.0), 0.3)
    zero = torch.zeros(())
    close = torch.testing.assert_close
    close(inflated.cdf(torch.tensor([-1.0, 0.0, 1e-9])), torch.tensor([0.0, 0.3, 0.3]))
    close(Censored(normal, low=0.0).cdf(zero), torch.tensor(0.5))
    close(Censored(inflated, low=0.0).log_prob(zero).exp(), torch.tensor(0.3))
    close(ZeroInflated(inflated, 0.5).log_prob(zero).exp(), torch.tensor(0.65))
    close(ZeroInflated(Censored(normal, low=0.0), 0.3).log_prob(zero).exp(), torch.tensor(0.65))
    close(ZeroInflated(Censored(normal, low=-1.0), 0.3).log_prob(zero).exp(), torch.tensor(0.3))


def test_second_derivatives_in_the_gate() -> None:
    def score(gate: Tensor) -> Tensor:
        return ZeroInflated(dd.Normal(0.0, 1.0), gate).log_prob(torch.tensor([0.0, 0.5])).sum()

    found = torch.autograd.functional.hessian(score, torch.tensor(0.3))
    torch.testing.assert_close(found, torch.tensor(-1 / 0.3**2 - 1 / 0.7**2))


@pytest.mark.parametrize("at", [0.0, 1e6, 1e8])
def test_the_spread_of_a_censored_normal_does_not_depend_on_its_place(at: float) -> None:
    place = torch.tensor(at, dtype=torch.float64)
    half = Censored(dd.Normal(place, torch.ones_like(place)), high=at)
    exact = 0.5 - 0.5 / math.pi  # as E x^2 = 1/2 and E x = -1/sqrt(2 pi) below the middle
    assert half.variance.item() == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize("value", [1.0, [1.0], np.ones(3)])
def test_values_are_tensors(value: Any) -> None:
    with pytest.raises(ConstraintError, match=r"Truncated\.log_prob: .*no tensor"):
        Truncated(dd.Normal(0.0, 1.0), 0.0).log_prob(value)


def test_nothing_is_seen_at_infinity() -> None:
    censored, infinite = Censored(dd.Normal(0.0, 1.0)), tensor([torch.inf, torch.inf])
    for pair in (infinite, -infinite):
        with pytest.raises(ConstraintError, match=r"Censored\.log_prob"):
            censored.log_prob(pair)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_share", [-math.inf, -1e4, -60.0, -1.0])
def test_the_share_of_zeros_in_either_precision(log_share: float, dtype: torch.dtype) -> None:
    gate = tensor(0.3, dtype=dtype, requires_grad=True)  # Metal computes in float32
    mixed = zero_inflated._mix(gate, tensor(log_share, dtype=dtype))
    share = math.exp(log_share)
    assert mixed.item() == pytest.approx(math.log(0.3 + 0.7 * share), rel=1e-6)
    (slope,) = torch.autograd.grad(mixed, gate)
    assert slope.item() == pytest.approx((1 - share) / (0.3 + 0.7 * share), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rare_zeros_are_as_rare_as_the_gate_says(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    gate, count = tensor(1e-3, dtype=dtype), 1_000_000
    drawn = ZeroInflated(dd.Poisson(torch.tensor(50.0)), gate).sample((count,))
    expected = count * gate.item()
    assert abs((drawn == 0).sum().item() - expected) < 5 * math.sqrt(expected)


def test_nothing_is_left_of_a_base_without_a_mean_where_all_are_zeros() -> None:
    zeros = ZeroInflated(dd.Pareto(1.0, 0.5), tensor([1.0, 0.5]))
    assert zeros.mean.tolist() == zeros.variance.tolist() == [0.0, math.inf]

"""Both tails of every univariate family, and their quantiles, beside scipy and mpmath."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.stats as st
import torch
import torch.distributions as dd
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from declarative_dist import ConstraintError, learnable
from declarative_dist.wrappers import Truncated, cdf, icdf, log_cdf, log_survival_function
from declarative_dist.wrappers.cdfs import Univariate, tails_of, univariate
from declarative_dist.wrappers.incomplete import Tails, beta_tails, gamma_tails, log1mexp


def d(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.float64)


LOGISTIC = (dd.SigmoidTransform().inv, dd.AffineTransform(d(1.0), d(2.0)))
PAIRS: dict[str, tuple[dd.Distribution, Any]] = {
    "Beta": (dd.Beta(d(2.5), d(0.7)), st.beta(2.5, 0.7)),
    "Cauchy": (dd.Cauchy(d(1.0), d(2.0)), st.cauchy(1, 2)),
    "Chi2": (dd.Chi2(d(5.0)), st.chi2(5)),
    "Exponential": (dd.Exponential(d(2.0)), st.expon(0, 0.5)),
    "FisherSnedecor": (dd.FisherSnedecor(d(5.0), d(7.0)), st.f(5, 7)),
    "Gamma": (dd.Gamma(d(2.5), d(2.0)), st.gamma(2.5, 0, 0.5)),
    "Gamma of a small shape": (dd.Gamma(d(0.2), d(2.0)), st.gamma(0.2, 0, 0.5)),
    "Gamma of a large shape": (dd.Gamma(d(800.0), d(2.0)), st.gamma(800, 0, 0.5)),
    "Gumbel": (dd.Gumbel(d(1.0), d(2.0)), st.gumbel_r(1, 2)),
    "HalfCauchy": (dd.HalfCauchy(d(2.0)), st.halfcauchy(0, 2)),
    "HalfNormal": (dd.HalfNormal(d(2.0)), st.halfnorm(0, 2)),
    "InverseGamma": (dd.InverseGamma(d(3.0), d(2.0)), st.invgamma(3, 0, 2)),
    "Laplace": (dd.Laplace(d(1.0), d(2.0)), st.laplace(1, 2)),
    "Logistic": (
        dd.TransformedDistribution(dd.Uniform(d(0.0), d(1.0)), [*LOGISTIC]), st.logistic(1, 2)
    ),
    "LogNormal": (dd.LogNormal(d(0.3), d(0.7)), st.lognorm(0.7, 0, math.exp(0.3))),
    "Normal": (dd.Normal(d(1.0), d(2.0)), st.norm(1, 2)),
    "Pareto": (dd.Pareto(d(2.0), d(3.0)), st.pareto(3, 0, 2)),
    "StudentT": (dd.StudentT(d(3.5), d(1.0), d(2.0)), st.t(3.5, 1, 2)),
    "StudentT of heavy tails": (dd.StudentT(d(0.5), d(1.0), d(2.0)), st.t(0.5, 1, 2)),
    "Uniform": (dd.Uniform(d(-1.0), d(3.0)), st.uniform(-1, 4)),
    "Weibull": (dd.Weibull(d(2.0), d(1.5)), st.weibull_min(1.5, 0, 2)),
}  # fmt: skip
COUNTS: dict[str, tuple[dd.Distribution, Any]] = {
    "Bernoulli": (dd.Bernoulli(d(0.3)), st.bernoulli(0.3)),
    "Binomial": (dd.Binomial(10, d(0.3)), st.binom(10, 0.3)),
    "Geometric": (dd.Geometric(d(0.3)), st.geom(0.3, -1)),
    "NegativeBinomial": (dd.NegativeBinomial(d(4.5), d(0.3)), st.nbinom(4.5, 0.7)),
    "Poisson": (dd.Poisson(d(3.0)), st.poisson(3)),
}
SHARES = np.array([1e-6, 1e-3, 0.03, 0.2, 0.5, 0.8, 0.99, 1 - 1e-6])


@pytest.mark.parametrize("name", PAIRS)
def test_densities_agree_with_scipy(name: str) -> None:
    plain, known = PAIRS[name]
    points = known.ppf(SHARES)
    np.testing.assert_allclose(cdf(plain, torch.tensor(points)), known.cdf(points), 1e-10, 1e-15)
    found = log_survival_function(plain, torch.tensor(points))
    np.testing.assert_allclose(found, known.logsf(points), 1e-10, 1e-12)
    np.testing.assert_allclose(icdf(plain, torch.tensor(SHARES)), points, 1e-10)
    size = known.std() if math.isfinite(known.std()) else 1.0
    far = known.median() + np.array([-12.0, 12.0, 40.0]) * size
    with np.errstate(all="ignore"):
        lower, upper = known.logcdf(far), known.logsf(far)
    np.testing.assert_allclose(log_cdf(plain, torch.tensor(far)), lower, 1e-8, 1e-12)
    np.testing.assert_allclose(tails_of(plain, torch.tensor(far)).log_sf, upper, 1e-8, 1e-12)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_agree_with_scipy(name: str) -> None:
    plain, known = COUNTS[name]
    points = np.array([-1.0, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 12.0])
    tails = tails_of(plain, torch.tensor(points))
    np.testing.assert_allclose(tails.log_cdf.exp(), known.cdf(points), 1e-12)
    np.testing.assert_allclose(tails.log_sf.exp(), known.sf(points), 1e-10, 1e-15)
    shares = np.array([0.01, 0.31, 0.55, 0.9, 0.999])
    np.testing.assert_array_equal(icdf(plain, torch.tensor(shares)), known.ppf(shares))


@pytest.mark.parametrize("name", [*PAIRS, *COUNTS])
def test_quantiles_at_the_ends(name: str) -> None:
    plain, known = (PAIRS | COUNTS)[name]
    found = icdf(plain, torch.tensor([0.0, 1.0, -0.1, 1.1, torch.nan], dtype=torch.float64))
    first, last = known.support()
    np.testing.assert_array_equal(found, [first, last, np.nan, np.nan, np.nan])
    share = d(0.0).requires_grad_()
    low = d(0.5).requires_grad_()
    cut = Truncated(plain, low, 3.0, validate_args=False)
    ends = cut.icdf(torch.stack([share, share + 1]))
    if not plain.support.is_discrete:
        assert torch.equal(ends, torch.stack([low, d(3.0)]).clamp(max(first, 0.5), min(last, 3.0)))
        assert torch.autograd.grad(ends.sum(), low)[0].isfinite()


NAMES = ("concentration", "rate", "concentration1", "concentration0", "df", "loc", "scale")
TAILS: dict[str, tuple[Callable[..., Tensor], tuple[float, ...], Any]] = {
    "gamma below": (lambda a, x: gamma_tails(a, x).log_cdf, (1e4, 6e3),
        lambda a, x: mpmath.gammainc(a, 0, x, regularized=True)),
    "gamma above": (lambda a, x: gamma_tails(a, x).log_sf, (4.0, 84.0),
        lambda a, x: mpmath.gammainc(a, x, mpmath.inf, regularized=True)),
    "beta": (lambda a, b, x: beta_tails(a, b, x, 1 - x).log_cdf, (300.0, 200.0, 0.1),
        lambda a, b, x: mpmath.betainc(a, b, 0, x, regularized=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", TAILS)
def test_tails_and_gradients_agree_with_many_digits(name: str) -> None:
    ours, at, exact = TAILS[name]
    inputs = [d(number).requires_grad_() for number in at]
    value = ours(*inputs)
    value.backward()
    with mpmath.workdps(40):
        log = lambda *numbers: mpmath.log(exact(*numbers))  # noqa: E731
        assert abs(value.item() / float(log(*at)) - 1) < 1e-12
        for index, tensor in enumerate(inputs):
            orders = tuple(int(place == index) for place in range(len(at)))
            wanted = float(mpmath.diff(log, at, orders))
            assert tensor.grad is not None
            assert abs(tensor.grad.item() / wanted - 1) < 1e-9


def _cdf_by(make: Any, points: Tensor, *shapes: Tensor) -> Tensor:
    return cdf(make(*shapes), points)


def _icdf_by(make: Any, points: Tensor, *shapes: Tensor) -> Tensor:
    return icdf(make(*shapes), points)


def test_second_derivatives_in_shapes_and_through_quantiles() -> None:
    shapes = (d(0.7).requires_grad_(), d(2.5).requires_grad_())
    for make in (dd.Gamma, dd.Beta, dd.StudentT):
        assert torch.autograd.gradgradcheck(partial(_cdf_by, make, d(0.3)), shapes)
        assert torch.autograd.gradcheck(partial(_icdf_by, make, d(0.3)), shapes)
    assert torch.autograd.gradgradcheck(partial(_icdf_by, dd.Gamma, d(0.3)), shapes)


@pytest.mark.parametrize("kind", [dd.Normal, dd.HalfNormal, dd.HalfCauchy])
def test_second_derivatives_of_quantiles_by_formula(kind: Any) -> None:
    shares = torch.tensor([1e-4, 0.2, 0.5, 0.7, 0.999], dtype=torch.float64, requires_grad=True)
    plain = kind(*[d(2.0)] * len(kind.arg_constraints))
    quantiles = icdf(plain, shares)
    (slopes,) = torch.autograd.grad(quantiles.sum(), shares, create_graph=True)
    torch.testing.assert_close(slopes, (-plain.log_prob(quantiles)).exp())
    (bends,) = torch.autograd.grad(slopes.sum(), shares)
    x = quantiles.detach().requires_grad_()
    (steepness,) = torch.autograd.grad(plain.log_prob(x).sum(), x)  # x'' = -f'(x) / f(x)^3
    torch.testing.assert_close(bends, -steepness * (-2 * plain.log_prob(x)).exp())


SEARCHED = {
    "Beta": dd.Beta(d(0.3), d(0.4)),
    "FisherSnedecor": dd.FisherSnedecor(d(5.0), d(7.0)),
    "Gamma of a small shape": dd.Gamma(d(0.1), d(1.0)),
    "Gamma of a large shape": dd.Gamma(d(1e4), d(1.0)),
    "StudentT": dd.StudentT(d(3.0)),
    "StudentT of heavy tails": dd.StudentT(d(0.3)),
}


@pytest.mark.parametrize("name", SEARCHED)
def test_quantiles_are_found_in_a_few_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tails, points = Univariate.tails, []

    def count(self: Univariate, x: Tensor) -> Tails:
        points.append(x)
        return tails(self, x)

    monkeypatch.setattr(Univariate, "tails", count)
    for share in (1e-12, 1e-6, 0.01, 0.3, 0.5, 0.6, 0.9, 0.999):
        points.clear()
        icdf(SEARCHED[name], d(share))
        assert 0 < len(points) <= 9, share


class Operations(TorchDispatchMode):
    """Counts what torch computes."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("low", "high", "at_most"), [(-1.0, 2.0, 78), (-1.0, None, 54)])
def test_a_truncated_normal_takes_few_operations(
    low: float, high: float | None, at_most: int
) -> None:
    plain = Truncated(dd.Normal(torch.zeros(6), torch.ones(6)), low, high, validate_args=True)
    with Operations() as operations:
        plain.log_prob(torch.zeros(6))
    assert 0 < operations.count <= at_most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["Normal", "StudentT", "Gamma", "Beta", "Gumbel", "Laplace"])
def test_tails_and_gradients_are_finite_in_lower_precision(name: str, dtype: torch.dtype) -> None:
    kind = type(PAIRS[name][0])
    held = PAIRS[name][0]
    given = {n: getattr(held, n).to(dtype).requires_grad_() for n in NAMES if n in vars(held)}
    if name == "Beta":
        given = {n: torch.tensor(2.0, dtype=dtype, requires_grad=True) for n in NAMES[2:4]}
    plain = kind(**given)
    for share in (-40.0, -3.0, 0.0, 3.0, 40.0):
        for tail in tails_of(plain, (plain.mean + share * plain.stddev).detach().to(dtype)):
            assert tail.dtype == dtype
            if tail.isfinite():
                gradients = torch.autograd.grad(tail, list(given.values()), retain_graph=True)
                assert all(gradient.isfinite() for gradient in gradients)


def test_masses_never_subtract_numbers_near_one() -> None:
    normal = dd.Normal(d(0.0), d(1.0))
    ends = torch.tensor([[-9.0, -8], [-1, 2], [8, 9], [38, 40], [-41, -40]], dtype=torch.float64)
    with mpmath.workdps(1000):
        wanted = [float(mpmath.log(mpmath.ncdf(b) - mpmath.ncdf(a))) for a, b in ends.tolist()]
    np.testing.assert_allclose(univariate(normal).log_mass(*ends.T), wanted, 1e-12)
    inf = torch.inf
    ends = torch.tensor([[-inf, 0.0], [0.0, inf], [-inf, inf]], dtype=torch.float64)
    masses = univariate(normal).log_mass(*ends.T).exp()
    np.testing.assert_allclose(masses, [0.5, 0.5, 1.0], 1e-14)
    assert log1mexp(torch.tensor(-1e-30)).item() == pytest.approx(math.log(1e-30))


@pytest.mark.parametrize("name", ["Normal", "StudentT", "Gamma", "Cauchy", "Laplace"])
def test_masses_of_thin_intervals_keep_their_digits(name: str) -> None:
    known = PAIRS[name][0]
    thin = {n: v.float().requires_grad_() for n, v in vars(known).items() if n in NAMES}
    wide = {n: v.detach().double().requires_grad_() for n, v in thin.items()}
    low = torch.tensor(PAIRS[name][1].ppf([0.05, 0.3, 0.7, 0.99])[:, None]).float()
    high = low * (1 + torch.tensor([1e-6, 1e-4, 1e-2, 0.3]))
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    masses = []
    for held in (thin, wide):
        mass = univariate(type(known)(**held)).log_mass(low.double(), high.double())
        is_some = (low < high).expand_as(mass)
        slopes = torch.autograd.grad(mass[is_some].sum(), list(held.values()))
        masses.append((mass[is_some], slopes))
    torch.testing.assert_close(masses[0][0].double(), masses[1][0], rtol=1e-5, atol=2e-5)
    for mine, exact in zip(masses[0][1], masses[1][1], strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=1e-3, atol=1e-3)


def test_the_mass_of_a_thin_interval_by_hand() -> None:
    loc, scale = torch.tensor(5.0, requires_grad=True), torch.tensor(1e4)
    mass = univariate(dd.Normal(loc, scale)).log_mass(d(1.0), d(1.5))
    assert mass.item() == pytest.approx(st.norm.logpdf(1.25, 5, 1e4) + math.log(0.5), rel=1e-6)
    assert torch.autograd.grad(mass, loc)[0].item() == pytest.approx((1.25 - 5) / 1e8)
    cut = Truncated(dd.Normal(0.0, 1e6), 0.0, 1.0)
    assert cut.log_prob(torch.tensor(0.5)).item() == pytest.approx(0.0, abs=2e-6)
    assert cut.entropy().item() == pytest.approx(0.0, abs=2e-6)
    parts = dd.Uniform(torch.zeros(2), torch.tensor([1.0, 2.0]))
    jump = dd.MixtureSameFamily(dd.Categorical(torch.ones(2)), parts)  # which no node sees
    found = univariate(jump).log_mass(d(0.999), d(1.02)).exp()
    assert found.item() == pytest.approx(0.001 * 0.75 + 0.02 * 0.25, rel=1e-4)


def test_mixtures_and_what_turns_the_order() -> None:
    mixture = dd.MixtureSameFamily(
        dd.Categorical(torch.tensor([0.3, 0.7])), dd.Gamma(torch.tensor([1.0, 5.0]), 2.0)
    )
    turned = dd.TransformedDistribution(
        mixture, dd.AffineTransform(1.0, torch.tensor([-2.0, 3.0]))
    )
    points = torch.tensor([[-3.0, -1.0], [4.0, 7.0]]).T
    by_hand = 0.3 * st.gamma(1, 0, 0.5).cdf([2.0, 1.0]) + 0.7 * st.gamma(5, 0, 0.5).cdf([2.0, 1.0])
    np.testing.assert_allclose(cdf(turned, points)[:, 0], 1 - by_hand, 1e-5)
    quantiles = icdf(turned, torch.tensor([[0.2], [0.9]]))
    np.testing.assert_allclose(cdf(turned, quantiles), [[0.2] * 2, [0.9] * 2], 1e-4)


class Slow(dd.Exponential):
    """A density of its own beside a cdf that it inherits."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) - 1.0


@pytest.mark.parametrize("plain", [
    dd.VonMises(0.0, 1.0), dd.Independent(dd.Normal(torch.zeros(2), 1.0), 1),
    dd.TransformedDistribution(dd.Normal(0.0, 1.0), dd.AbsTransform()), Slow(1.0),
])  # fmt: skip
def test_others_are_refused(plain: dd.Distribution) -> None:
    with pytest.raises(
        ConstraintError, match="cdf: expected a distribution (of single|with a cum)"
    ):
        cdf(plain, torch.tensor(0.5))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_integers_are_counted_in_the_dtype_of_the_distribution(dtype: torch.dtype) -> None:
    value, share = torch.tensor([0, 1], dtype=dtype), st.poisson(3.0)
    plain = dd.Poisson(d(3.0))
    for tail, wanted in ((log_cdf, share.logcdf), (log_survival_function, share.logsf)):
        torch.testing.assert_close(tail(plain, value), torch.from_numpy(wanted([0, 1])))
    truncated = st.norm(0.0, 1.0).cdf([0, 1]) * 2 - 1
    half = Truncated(dd.Normal(0.0, 1.0), low=0.0)
    torch.testing.assert_close(learnable(half).cdf(value), torch.tensor(truncated).float())
    torch.testing.assert_close(icdf(half, value), torch.tensor([0.0, torch.inf]))
    assert cdf(dd.Normal(torch.tensor(0.0).half(), 1.0), value).dtype is torch.float16

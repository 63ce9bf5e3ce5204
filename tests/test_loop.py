"""The main job against the loop written by hand: same seed, same trajectory."""

from __future__ import annotations

import pytest
import scipy.stats
import torch
import torch.distributions as dd
import torch.nn.functional as F
from torch import Tensor, nn

from declarative_dist import Exp, Param, Variational, learnable
from tests.cases import GammaFamily, Mixture


class NormalFamily(Variational):
    base = dd.Normal
    loc = Param(0.0)
    scale = Param(1.0, Exp())


def losses_of_declared(q: Variational, target: dd.Distribution, steps: int) -> list[float]:
    """The loop that refers to the distribution only."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(q.parameters(), lr=0.05)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        x = q.rsample((100,))
        loss = -(target.log_prob(x) - q.log_prob(x)).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def losses_by_hand(make, raws: list[Tensor], target: dd.Distribution, steps: int) -> list[float]:
    """The loop that rebuilds the distribution in every step."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(raws, lr=0.05)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        distribution = make(*raws)
        x = distribution.rsample((100,))
        loss = -(target.log_prob(x) - distribution.log_prob(x)).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_gamma_trajectory() -> None:
    target = dd.Gamma(5.0, 5.0)
    q = GammaFamily(dtype=torch.float64)
    raws = [
        nn.Parameter(torch.tensor(1.0, dtype=torch.float64).expm1().log()),
        nn.Parameter(torch.tensor(0.0, dtype=torch.float64)),
    ]
    by_hand = losses_by_hand(lambda c, r: dd.Gamma(F.softplus(c), r.exp()), raws, target, 200)
    assert losses_of_declared(q, target, 200) == pytest.approx(by_hand, rel=1e-9)
    torch.testing.assert_close(q.raw_rate, raws[1])


def test_normal_trajectory() -> None:
    target = dd.Normal(5.0, 5.0)
    q = NormalFamily(dtype=torch.float64)
    raws = [nn.Parameter(torch.zeros((), dtype=torch.float64)) for _ in range(2)]
    by_hand = losses_by_hand(lambda loc, s: dd.Normal(loc, s.exp()), raws, target, 200)
    assert losses_of_declared(q, target, 200) == pytest.approx(by_hand, rel=1e-9)


def test_mixture_gradient_against_plain_torch() -> None:
    q = Mixture(k=3)
    x = torch.randn(50)
    q.log_prob(x).sum().backward()
    logits, loc = (t.detach().requires_grad_() for t in (q.logits, q.loc))
    raw_scale = q.raw_scale.detach().requires_grad_()
    dd.MixtureSameFamily(
        dd.Categorical(logits=logits), dd.Normal(loc, F.softplus(raw_scale))
    ).log_prob(x).sum().backward()
    for mine, theirs in ((q.raw_logits, logits), (q.raw_loc, loc), (q.raw_scale, raw_scale)):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_the_silent_variant_is_visible() -> None:
    q = NormalFamily()
    before = q.log_prob(torch.tensor(0.0)).item()
    nn.init.constant_(q.loc, 3.0)
    assert q.mean.item() == 3.0
    assert q.log_prob(torch.tensor(0.0)).item() != before


def test_plain_torch_fails_where_this_does_not() -> None:
    log_scale = torch.zeros((), requires_grad=True)
    frozen = dd.Normal(0.0, log_scale.exp())
    frozen.log_prob(torch.tensor(1.0)).backward()
    with pytest.raises(RuntimeError, match="second time"):
        frozen.log_prob(torch.tensor(1.0)).backward()
    q = NormalFamily()
    for _ in range(3):
        q.log_prob(torch.tensor(1.0)).backward()
    assert q.raw_scale.grad.item() == 0.0  # (x**2 - 1) at x = 1


SCIPY = {
    "Beta": (dd.Beta(2.0, 3.0), scipy.stats.beta(2, 3)),
    "Cauchy": (dd.Cauchy(1.0, 2.0), scipy.stats.cauchy(1, 2)),
    "Chi2": (dd.Chi2(3.0), scipy.stats.chi2(3)),
    "Exponential": (dd.Exponential(2.0), scipy.stats.expon(scale=0.5)),
    "FisherSnedecor": (dd.FisherSnedecor(3.0, 5.0), scipy.stats.f(3, 5)),
    "Gamma": (dd.Gamma(2.0, 3.0), scipy.stats.gamma(2, scale=1 / 3)),
    "Gumbel": (dd.Gumbel(1.0, 2.0), scipy.stats.gumbel_r(1, 2)),
    "HalfCauchy": (dd.HalfCauchy(2.0), scipy.stats.halfcauchy(scale=2)),
    "HalfNormal": (dd.HalfNormal(2.0), scipy.stats.halfnorm(scale=2)),
    "InverseGamma": (dd.InverseGamma(2.0, 3.0), scipy.stats.invgamma(2, scale=3)),
    "Laplace": (dd.Laplace(1.0, 2.0), scipy.stats.laplace(1, 2)),
    "LogNormal": (dd.LogNormal(0.5, 0.7), scipy.stats.lognorm(0.7, scale=2.718281828459045**0.5)),
    "Normal": (dd.Normal(1.0, 2.0), scipy.stats.norm(1, 2)),
    "Pareto": (dd.Pareto(1.0, 3.0), scipy.stats.pareto(3)),
    "StudentT": (dd.StudentT(3.0, 1.0, 2.0), scipy.stats.t(3, 1, 2)),
    "VonMises": (dd.VonMises(torch.tensor(0.5), torch.tensor(2.0)), scipy.stats.vonmises(2, 0.5)),
    "Weibull": (dd.Weibull(2.0, 1.5), scipy.stats.weibull_min(1.5, scale=2)),
}


@pytest.mark.parametrize("name", SCIPY)
def test_log_density_against_scipy(name: str) -> None:
    plain, reference = SCIPY[name]
    q = learnable(plain).double()
    x = reference.ppf([0.1, 0.3, 0.5, 0.8])
    expected = torch.as_tensor(reference.logpdf(x))
    torch.testing.assert_close(q.log_prob(torch.as_tensor(x)), expected, rtol=1e-5, atol=1e-5)


def test_scale_never_breaks_at_absurd_rates() -> None:
    for rate in (0.05, 1.0, 10.0, 1e6):
        q = learnable(dd.Normal(torch.zeros(3), torch.full((3,), 0.7)))
        optimizer = torch.optim.SGD(q.parameters(), lr=rate)
        for _ in range(300):
            optimizer.zero_grad()
            (-q.log_prob(torch.randn(16, 3)).mean()).backward()
            nn.utils.clip_grad_norm_(q.parameters(), 1.0)
            optimizer.step()
        assert q.scale.isfinite().all()
        assert (q.scale > 0).all()

"""Groups that share a mean and a spread, and a mixture of two groups that are not labelled."""

from __future__ import annotations

import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist import Declarative, Joint, Ordered, Param, Positive, UnitInterval, site
from posteriors.posterior import Moments, Posterior, Values, data_of, reference_of

SCHOOLS = data_of("eight_schools-eight_schools_noncentered")


class Schools(Joint):
    """Effects of coaching in eight schools, in units of their spread."""

    error = SCHOOLS["sigma"]
    theta_trans = dd.Independent(dd.Normal(torch.zeros(8), 1.0), 1)
    mu = dd.Normal(0.0, 5.0)
    tau = dd.HalfCauchy(5.0)

    @site(event_dim=1)
    def y(self, theta_trans: Tensor, mu: Tensor, tau: Tensor, error: Tensor) -> dd.Normal:
        """The measured effects."""
        return dd.Normal(mu[..., None] + tau[..., None] * theta_trans, error)


def _with_effects(values: Values) -> Values:
    theta = values["mu"][..., None] + values["tau"][..., None] * values["theta_trans"]
    return {**values, "theta": theta}


GROUPS = data_of("low_dim_gauss_mix-low_dim_gauss_mix")


class TwoGroups(Declarative):
    """A mixture of two normal distributions, the lower one first."""

    y = GROUPS["y"]
    mu = Param([-1.0, 1.0], Ordered())
    sigma = Param([1.0, 1.0], Positive(), prior=dd.HalfNormal(2.0))
    theta = Param(0.5, UnitInterval(), prior=dd.Beta(5.0, 5.0))

    def log_joint(self, values: Values) -> Tensor:
        """The log posterior density of values, of shape `(*sample)`."""
        mu, sigma, theta = values["mu"], values["sigma"], values["theta"]
        shares = dd.Categorical(torch.stack([theta, 1.0 - theta], -1)[..., None, :])
        parts = dd.Normal(mu[..., None, :], sigma[..., None, :])
        likelihood = dd.MixtureSameFamily(shares, parts).log_prob(self.y).sum(-1)
        prior = dd.Normal(0.0, 2.0).log_prob(mu).sum(-1)
        return self.log_prior(values) + prior + likelihood


class Centred(Joint):
    """Means of many groups, each measured with error one, around a common mean."""

    mu = dd.Normal(0.0, 5.0)
    tau = dd.HalfCauchy(5.0)
    groups = 20

    @site(event_dim=1)
    def theta(self, mu: Tensor, tau: Tensor) -> dd.Normal:
        """The mean of each group."""
        return dd.Normal(mu[..., None].expand(*mu.shape, self.groups), tau[..., None])

    @site(event_dim=1)
    def y(self, theta: Tensor) -> dd.Normal:
        """The measurements."""
        return dd.Normal(theta, 1.0)


class CentredParams(Declarative):
    """The same with parameters, whose density is written out."""

    mu = Param(0.0, prior=dd.Normal(0.0, 5.0))
    tau = Param(1.0, Positive(), prior=dd.HalfCauchy(5.0))
    theta = Param(0.0, shape=("groups",))

    def log_joint(self, values: Values, y: Tensor) -> Tensor:
        """The log posterior density of values, of shape `(*sample)`."""
        groups = dd.Normal(values["mu"][..., None], values["tau"][..., None])
        theta = values["theta"]
        scores = groups.log_prob(theta) + dd.Normal(theta, 1.0).log_prob(y)
        return self.log_prior(values) + scores.sum(-1)


def group_data(groups: int, seed: int = 0) -> Tensor:
    """Measurements of groups around 1, with a spread of 2 and an error of 1."""
    generator = torch.Generator().manual_seed(seed)
    theta = 1.0 + 2.0 * torch.randn(groups, generator=generator, dtype=torch.float64)
    return theta + torch.randn(groups, generator=generator, dtype=torch.float64)


def exact_moments(y: Tensor) -> Moments:
    """Moments of `mu`, `tau` and `theta` by quadrature: given both others, theta is normal."""
    tau = torch.linspace(-6.0, 5.0, 4001, dtype=torch.float64).exp()[:, None]
    variance = tau.square() + 1.0
    # Given tau, mu is normal, too.
    precision = len(y) / variance + 1.0 / 25.0
    centre = (y / variance).sum(-1, keepdim=True) / precision
    # The density of y with mu integrated out is that at any mu over that of mu given y.
    log_p = dd.Normal(centre, variance.sqrt()).log_prob(y).sum(-1, keepdim=True)
    log_p = log_p + dd.Normal(0.0, 5.0).log_prob(centre) - 0.5 * precision.log()
    log_p = log_p + dd.HalfCauchy(5.0).log_prob(tau) + tau.log()
    weight = log_p.softmax(0)
    share = tau.square() / variance
    theta = share * y + (1.0 - share) * centre
    theta_variance = share + (1.0 - share).square() / precision
    found = {"mu": (centre, 1.0 / precision), "tau": (tau, torch.zeros_like(tau))}
    found["theta"] = theta, theta_variance
    moments: Moments = {}
    for name, (mean, spread) in found.items():
        first = (weight * mean).sum(0)
        second = (weight * (spread + mean.square())).sum(0) - first.square()
        for index, (m, v) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
            moments[f"theta[{index + 1}]" if name == "theta" else name] = m, v**0.5
    return moments


def _centred(groups: int) -> list[Posterior]:
    y = group_data(groups)
    reference = exact_moments(y)

    class Many(Centred):
        """So many groups."""

    Many.groups = groups
    joint = Many(dtype=torch.float64).condition(y=y)
    params = CentredParams(groups=groups, dtype=torch.float64)
    return [
        Posterior(f"{groups} groups, centred, joint", joint, joint, reference),
        Posterior(
            f"{groups} groups, centred, parameters",
            params,
            lambda values: params.log_joint(values, y),
            reference,
        ),
    ]


def hierarchies() -> list[Posterior]:
    """The posteriors of this file."""
    schools = Schools(dtype=torch.float64).condition(y=SCHOOLS["y"])
    name = "eight_schools-eight_schools_noncentered"
    mixture, mixed = TwoGroups(dtype=torch.float64), "low_dim_gauss_mix-low_dim_gauss_mix"
    return [
        Posterior(name, schools, schools, reference_of(name), _with_effects),
        Posterior(mixed, mixture, mixture.log_joint, reference_of(mixed)),
        *_centred(20),
        *_centred(100),
    ]

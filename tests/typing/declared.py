"""What type checkers must say of declared classes and of `learnable`."""

from __future__ import annotations

import torch
import torch.distributions as dd
from torch import Tensor
from typing_extensions import assert_type

from declarative_dist import (
    Exp,
    Joint,
    LearnableTransform,
    Param,
    Positive,
    Variational,
    derived,
    kl_divergence,
    learnable,
    rsample_and_log_prob,
    site,
    summary,
)
from declarative_dist.display.summary import Summary
from declarative_dist.families.learnable import Live
from declarative_dist.joints.distribution import JointDistribution
from declarative_dist.objectives import NegativeLogLikelihood, NegativeLogPosterior


class GammaFamily(Variational):
    base = dd.Gamma
    concentration = Param(1.0, Positive())
    rate = Param(1.0, Exp())


class ByMean(Variational):
    base = dd.Gamma
    concentration = Param(1.0, Positive())
    location = Param(1.0, Positive())

    @derived
    def rate(self, concentration: Tensor, location: Tensor) -> Tensor:
        return concentration / location


class FromMethod(Variational):
    loc = Param(0.0)

    def base(self, loc: Tensor) -> dd.Normal:
        return dd.Normal(loc, 1.0)


class Weights(Variational):
    base = dd.Categorical
    logits = Param(0.0, shape=("k",))


class Components(Variational):
    base = dd.Normal
    loc = Param(0.0, shape=("k",))
    scale = Param(1.0, shape=("k",))


class Mixture(Variational):
    base = dd.MixtureSameFamily
    mixture_distribution = Weights(k=2)
    component_distribution = Components


class Shift(LearnableTransform):
    base = dd.AffineTransform
    loc = Param(0.0)
    scale = Param(1.0)


class Pair(Joint):
    mu = dd.Normal(0.0, 1.0)

    @site
    def y(self, mu: Tensor) -> dd.Normal:
        return dd.Normal(mu, 1.0)

    @site(event_dim=1)
    def z(self, mu: Tensor) -> dd.Normal:
        return dd.Normal(mu[..., None].expand(*mu.shape, 3), 1.0)


q = GammaFamily()
assert_type(GammaFamily.rate, Param)
assert_type(q.rate, Tensor)
assert_type(q(), dd.Gamma)
assert_type(q().concentration, Tensor)
assert_type(q.rsample((3,)), Tensor)
assert_type(q.log_prob(q.rate), Tensor)
assert_type(q.mean, Tensor)
assert_type(ByMean().rate, Tensor)
assert_type(ByMean()(), dd.Gamma)
assert_type(FromMethod()(), dd.Normal)
assert_type(kl_divergence(q, dd.Gamma(1.0, 1.0)), Tensor)
q.rate = 2.0
q.rate = q.concentration

live = learnable(dd.Gamma(1.0, 2.0))
assert_type(live, Live[dd.Gamma])
assert_type(live(), dd.Gamma)
assert_type(live.rate, Tensor)
assert_type(learnable(dd.Gamma), type[Live[dd.Gamma]])
assert_type(learnable(dd.Gamma)()(), dd.Gamma)


mixture = Mixture()
assert_type(mixture(), dd.MixtureSameFamily)
assert_type(mixture.mixture_distribution.logits, Tensor)
assert_type(Shift()(), dd.Transform)
assert_type(Pair()(), JointDistribution)
assert_type(Pair().sample((3,)), dict[str, Tensor])
assert_type(Pair().log_prob(Pair().sample()), Tensor)
assert_type(Pair().condition(y=1.0, z=[0.0, 0.0, 0.0])({"mu": q.rate}), Tensor)
assert_type(rsample_and_log_prob(q), tuple[Tensor, Tensor])
assert_type(rsample_and_log_prob(Pair()), tuple[dict[str, Tensor], Tensor])


def score(distribution: dd.Distribution, value: Tensor) -> Tensor:
    return distribution.log_prob(value)


score(q, q.rate)


class Weighed(Variational):
    base = dd.Normal
    loc = Param(0.0, prior=dd.Normal(0.0, 1.0))
    scale = Param(1.0, Positive(), prior=GammaFamily())


assert_type(Weighed().log_prior(unconstrained=True), Tensor)
assert_type(Weighed().to_vector(), Tensor)
assert_type(Weighed().from_vector_([0.0] * 4), Weighed)
assert_type(NegativeLogLikelihood(Weighed())(torch.zeros(3)), Tensor)
assert_type(NegativeLogPosterior(Weighed(), total_size=3)(torch.zeros(3)), Tensor)
assert_type(summary(Weighed()), Summary)

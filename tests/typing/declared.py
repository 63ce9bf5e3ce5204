"""What type checkers must say of declared classes and of `learnable`."""

from __future__ import annotations

import torch.distributions as dd
from torch import Tensor
from typing_extensions import assert_type

from declarative_dist import Exp, Param, Positive, Variational, derived, kl_divergence, learnable
from declarative_dist.distributions.learnable import Live


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


def score(distribution: dd.Distribution, value: Tensor) -> Tensor:
    return distribution.log_prob(value)


score(q, q.rate)

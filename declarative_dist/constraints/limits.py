"""Arguments that need a narrower range than the usual guard band, found by trying.

The densities of some families leave the dtype, or their samplers fail, at parameters that are
themselves fine numbers: `exp(loc)` of a log-normal overflows at 89 in float32. Where a constraint
is inferred for such an argument, it holds the value in the range given here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.distributions as dd
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.interval import Probability
from declarative_dist.constraints.matrix import LowerCholesky
from declarative_dist.constraints.positive import Positive
from declarative_dist.constraints.real import Real
from declarative_dist.constraints.representable import Limits


def _limits(double: tuple[float, float], single: tuple[float, float]) -> Limits:
    """Ranges per dtype; float16, which no range serves, keeps its own where that is narrower."""
    low, high = single
    return {
        torch.float64: double,
        torch.float32: single,
        torch.bfloat16: single,
        torch.float16: (max(low, -1e4) if low < 0 else max(low, 1e-3), min(high, 1e4)),
    }


def _real(double: float, single: float) -> Real:
    return Real(limits=_limits((-double, double), (-single, single)))


def _positive(double: tuple[float, float], single: tuple[float, float]) -> Positive:
    return Positive(guard=_limits(double, single))


_CONCENTRATION = _positive((1e-8, 1e12), (1e-4, 1e6))
_DEGREES = _positive((0.05, 1e12), (0.25, 1e6))
_LOGIT = _real(1e100, 1e12)

INFERRED: Mapping[tuple[type[Distribution], str], Constraint] = {
    # Draws of a gamma with a small concentration underflow, with a large one lose their gradient.
    (dd.Beta, "concentration0"): _CONCENTRATION,
    (dd.Beta, "concentration1"): _CONCENTRATION,
    (dd.Dirichlet, "concentration"): _CONCENTRATION,
    # The gradient of a draw with respect to the rate is concentration / rate**2.
    (dd.Gamma, "concentration"): _positive((1e-150, 1e50), (1e-18, 1e8)),
    (dd.Gamma, "rate"): _positive((1e-80, 1e80), (1e-12, 1e12)),
    (dd.Chi2, "df"): _positive((1e-150, 1e50), (1e-18, 1e8)),
    (dd.FisherSnedecor, "df1"): _positive((0.1, 1e8), (0.5, 1e4)),
    (dd.FisherSnedecor, "df2"): _positive((0.1, 1e8), (0.5, 1e4)),
    (dd.InverseGamma, "concentration"): _positive((0.1, 1e8), (0.4, 1e4)),
    (dd.InverseGamma, "rate"): _positive((1e-50, 1e50), (1e-6, 1e6)),
    (dd.StudentT, "df"): _DEGREES,
    # The log mass is multiplied by the count.
    (dd.Binomial, "logits"): _LOGIT,
    (dd.Multinomial, "logits"): _LOGIT,
    # Counts stay in the range where the sampler returns whole numbers.
    (dd.Geometric, "logits"): _real(300.0, 40.0),
    (dd.Geometric, "probs"): Probability(_limits((1e-100, 1 - 1e-15), (1e-15, 1 - 1e-6))),
    (dd.NegativeBinomial, "logits"): _real(20.0, 15.0),
    (dd.NegativeBinomial, "probs"): Probability(_limits((1e-100, 1 - 1e-9), (1e-15, 1 - 1e-6))),
    (dd.NegativeBinomial, "total_count"): _positive((1e-8, 1e6), (1e-4, 1e4)),
    (dd.Poisson, "rate"): _positive((1e-150, 1e15), (1e-18, 1e15)),
    # Values are exponentials of the parameters.
    (dd.LogNormal, "loc"): _real(300.0, 40.0),
    (dd.LogNormal, "scale"): _positive((1e-40, 40.0), (1e-6, 6.0)),
    (dd.LogisticNormal, "loc"): _real(200.0, 20.0),
    (dd.LogisticNormal, "scale"): _positive((1e-40, 40.0), (1e-6, 8.0)),
    (dd.Pareto, "scale"): _positive((1e-100, 1e100), (1e-9, 1e6)),
    (dd.Pareto, "alpha"): _positive((0.1, 1e50), (0.25, 1e6)),
    (dd.GeneralizedPareto, "concentration"): _real(8.0, 2.0),
    # Relaxed draws are quotients by the temperature.
    (dd.RelaxedBernoulli, "temperature"): _positive((1e-20, 1e20), (1e-6, 1e6)),
    (dd.RelaxedBernoulli, "logits"): _real(30.0, 14.0),
    (dd.RelaxedOneHotCategorical, "temperature"): _positive((1e-2, 1e20), (1e-2, 1e6)),
    (dd.RelaxedOneHotCategorical, "logits"): _real(100.0, 20.0),
    # Inverse cumulative distribution functions leave the open interval.
    (dd.Kumaraswamy, "concentration0"): _positive((0.5, 1e3), (0.5, 1e2)),
    (dd.Kumaraswamy, "concentration1"): _positive((0.5, 1e3), (0.5, 1e2)),
    (dd.Weibull, "concentration"): _positive((0.1, 1e3), (0.25, 1e2)),
    (dd.Weibull, "scale"): _positive((1e-50, 1e50), (1e-6, 1e9)),
    (dd.LKJCholesky, "concentration"): _positive((1e-3, 1e8), (1e-1, 1e4)),
    # Torch's rejection sampler may not end at extreme parameters.
    (dd.VonMises, "concentration"): _positive((1e-6, 1e8), (1e-3, 1e4)),
    (dd.VonMises, "loc"): _real(1e12, 1e5),
    (dd.Uniform, "low"): _real(1e150, 1e18),
    (dd.MultivariateNormal, "scale_tril"): LowerCholesky(conditioned=True),
    (dd.Wishart, "scale_tril"): LowerCholesky(conditioned=True),
    (dd.LowRankMultivariateNormal, "cov_factor"): _real(1e75, 1e9),
}
"""The constraint of an argument of a base, where torch's own says too little."""


def starting_value(argument: str) -> Callable[[torch.Size], Tensor] | None:
    """Where a parameter that nobody gave a value starts, if not at its constraint's default.

    A factor of zeros has no gradient: every direction out of it looks alike.
    """
    return _small if argument == "cov_factor" else None


def _small(shape: torch.Size) -> Tensor:
    return 0.1 * torch.randn(shape)


def guard_of(base: type[Distribution], argument: str) -> Limits | None:
    """The narrower guard band of a positive argument, if it needs one."""
    for ancestor in base.__mro__:
        constraint = INFERRED.get((ancestor, argument))
        if isinstance(constraint, Positive) and not isinstance(constraint.guard, bool):
            return constraint.guard
    return None

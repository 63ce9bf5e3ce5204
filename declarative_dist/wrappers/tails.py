"""The tails of torch's univariate families between the ends of their supports.

Sources: Johnson, Kotz and Balakrishnan, Continuous Univariate Distributions, volumes 1 and 2;
Johnson, Kemp and Kotz, Univariate Discrete Distributions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributions as dd
from torch import Tensor
from torch.nn.functional import logsigmoid

from declarative_dist.wrappers.cdfs import register_tails, tails_of, univariate
from declarative_dist.wrappers.incomplete import (
    Tails,
    beta_tails,
    from_half,
    from_smaller,
    gamma_tails,
    log1mexp,
    log_normal_tail,
    normal_tails,
)
from declarative_dist.wrappers.quantiles import monotone_steps, quantile_of

# Continuous families of a location and a scale.


def _register_located(
    kind: Any, tails: Callable[[Tensor], Tails], quantile: Callable[[Tails], Tensor] | None = None
) -> None:
    """Register a family of a location and a scale by its standard member."""
    register_tails(
        kind,
        lambda d, x: tails((x - d.loc) / d.scale),
        None if quantile is None else lambda d, t: d.loc + d.scale * quantile(t),
    )


def _of_smaller(lower_half: Callable[[Tensor], Tensor]) -> Callable[[Tails], Tensor]:
    """The quantile of a density that is symmetric about 0, from the smaller tail of it."""

    def quantile(tails: Tails) -> Tensor:
        is_lower = tails.log_cdf < tails.log_sf
        z = lower_half(torch.where(is_lower, tails.log_cdf, tails.log_sf))
        return torch.where(is_lower, z, -z)

    return quantile


def _normal_quantile(small: Tensor) -> Tensor:
    """By Newton's method on the logarithm of the lower tail, which is the smaller one.

    Two steps end at the last digit, and make first, second and third derivatives right.
    """
    with torch.no_grad():
        least = math.log(torch.finfo(small.dtype).tiny)
        far = (-2 * small - math.log(2 * math.pi) - (-2 * small).clamp_min(1.0).log()).abs().sqrt()
        z = torch.where(small < least, -far, torch.special.ndtri(small.clamp_min(least).exp()))
    for _ in range(2):
        stretched = -z * math.sqrt(0.5)
        share = torch.special.erfcx(stretched)
        found = (share / 2).log() - stretched * stretched
        z = z - (found - small) * share * math.sqrt(math.pi / 2)  # the tail over the density
    return z


def _laplace_tails(z: Tensor) -> Tails:
    is_lower = z < 0
    return from_half(torch.where(is_lower, z, -z) - math.log(2), is_lower)


def _cauchy_tails(z: Tensor) -> Tails:
    one = torch.ones_like(z)
    upper, lower = torch.atan2(one, z) / math.pi, torch.atan2(one, -z) / math.pi
    return Tails(lower.log(), upper.log())


def _gumbel_tails(z: Tensor) -> Tails:
    log_cdf = -(-z).exp()
    return Tails(log_cdf, log1mexp(log_cdf))


def _gumbel_quantile(tails: Tails) -> Tensor:
    is_lower = tails.log_cdf < tails.log_sf
    log_cdf = log1mexp(torch.where(is_lower, -1.0, tails.log_sf))
    return -(-torch.where(is_lower, tails.log_cdf, log_cdf)).log()


_register_located(dd.Normal, normal_tails, _of_smaller(_normal_quantile))
_register_located(dd.Laplace, _laplace_tails, _of_smaller(lambda small: small + math.log(2)))
_register_located(
    dd.Cauchy, _cauchy_tails, _of_smaller(lambda small: -1 / (math.pi * small.exp()).tan())
)
_register_located(dd.Gumbel, _gumbel_tails, _gumbel_quantile)


def _student_tails(d: Any, x: Tensor) -> Tails:
    """T is a function of a Beta(df / 2, df / 2), which is smooth at its centre."""
    z = (x - d.loc) / d.scale
    is_upper = z >= 0
    far = torch.where(is_upper, z, -z)
    radius = torch.hypot(d.df.sqrt(), far)
    beyond = d.df / (2 * radius * (radius + far))
    return beta_tails(d.df / 2, d.df / 2, beyond, (radius + far) / (2 * radius)).swap(is_upper)


register_tails(dd.StudentT, _student_tails)


# Half lines and intervals.


def _half_normal_tails(d: Any, x: Tensor) -> Tails:
    """The lower tail is an error function, which is right near 0, where the upper one is not."""
    far = x / d.scale * math.sqrt(0.5)
    log_sf = log_normal_tail(far) + math.log(2)
    is_near = far < 0.5
    near = torch.special.erf(torch.where(is_near, far, 0.5)).log()
    return Tails(torch.where(is_near, near, torch.log1p(-log_sf.exp())), log_sf)


def _half_normal_quantile(d: Any, tails: Tails) -> Tensor:
    """By the inverse of the error function; far out that of a normal of half of this tail."""
    is_lower = tails.log_cdf < tails.log_sf
    near = torch.special.erfinv(torch.where(is_lower, tails.log_cdf, -1.0).exp())
    far = _normal_quantile(torch.where(is_lower, -1.0, tails.log_sf) - math.log(2))
    return d.scale * torch.where(is_lower, near * math.sqrt(2), -far)


def _half_cauchy_tails(d: Any, x: Tensor) -> Tails:
    shares = torch.atan2(x, d.scale), torch.atan2(d.scale, x)
    return Tails(*(share.log() + math.log(2 / math.pi) for share in shares))


def _half_cauchy_quantile(d: Any, tails: Tails) -> Tensor:
    is_lower = tails.log_cdf < tails.log_sf
    slope = (torch.where(is_lower, tails.log_cdf, tails.log_sf).exp() * math.pi / 2).tan()
    return d.scale * torch.where(is_lower, slope, 1 / slope)


def _fisher_tails(d: Any, x: Tensor) -> Tails:
    shares = (part / (d.df1 * x + d.df2) for part in (d.df1 * x, d.df2))
    return beta_tails(d.df1 / 2, d.df2 / 2, *shares)


def _pareto_tails(d: Any, x: Tensor) -> Tails:
    shape, z = d.concentration, (x - d.loc) / d.scale
    bend = torch.where(shape == 0, 1.0, shape)
    return from_smaller(torch.where(shape == 0, -z, -torch.log1p(bend * z) / bend))


def _pareto_quantile(d: Any, tails: Tails) -> Tensor:
    shape, depth = d.concentration, -tails.log_sf
    bend = torch.where(shape == 0, 1.0, shape)
    z = torch.where(shape == 0, depth, torch.expm1(bend * depth) / bend)
    return d.loc + d.scale * z


def _uniform_tails(d: Any, x: Tensor) -> Tails:
    return Tails(*((apart / (d.high - d.low)).log() for apart in (x - d.low, d.high - x)))


register_tails(
    dd.Exponential, lambda d, x: from_smaller(-d.rate * x), lambda d, t: -t.log_sf / d.rate
)
register_tails(dd.HalfNormal, _half_normal_tails, _half_normal_quantile)
register_tails(dd.HalfCauchy, _half_cauchy_tails, _half_cauchy_quantile)
register_tails(dd.Gamma, lambda d, x: gamma_tails(d.concentration, d.rate * x))
register_tails(dd.Beta, lambda d, x: beta_tails(d.concentration1, d.concentration0, x, 1 - x))
register_tails(dd.FisherSnedecor, _fisher_tails)
if hasattr(dd, "GeneralizedPareto"):  # older versions of torch do not have it
    register_tails(dd.GeneralizedPareto, _pareto_tails, _pareto_quantile)
register_tails(dd.Uniform, _uniform_tails, lambda d, t: d.low + (d.high - d.low) * t.log_cdf.exp())


# Counts.

register_tails(dd.Poisson, lambda d, k: gamma_tails(k + 1, d.rate).swap())
register_tails(
    dd.NegativeBinomial, lambda d, k: beta_tails(d.total_count, k + 1, 1 - d.probs, d.probs)
)
register_tails(
    dd.Binomial, lambda d, k: beta_tails(d.total_count - k, k + 1, 1 - d.probs, d.probs)
)
register_tails(dd.Geometric, lambda d, k: from_smaller((k + 1) * torch.log1p(-d.probs)))
register_tails(dd.Bernoulli, lambda d, _: Tails(logsigmoid(-d.logits), logsigmoid(d.logits)))


# What is made of others.


def _mixture_tails(d: Any, x: Tensor) -> Tails:
    inside = tails_of(d.component_distribution, x.unsqueeze(-1))
    weights = d.mixture_distribution.logits
    return Tails(*((weights + tail).logsumexp(-1) for tail in inside))


def _transformed_tails(d: Any, x: Tensor) -> Tails:
    base, is_falling = d.base_dist, _is_falling(d)
    for step in reversed(d.transforms):
        is_logit = type(step._inv) is dd.SigmoidTransform  # of an inverse alone
        if is_logit and step is d.transforms[0] and isinstance(base, dd.Uniform):  # a logistic
            before, behind = x.sigmoid() - base.low, (-x).sigmoid() + (base.high - 1)
            width = base.high - base.low
            return Tails((before / width).log(), (behind / width).log()).swap(is_falling)
        x = step.inv(x)
    inside = univariate(base, x)
    if is_falling is not False and inside.has_masses:
        x = torch.where(torch.as_tensor(is_falling, device=x.device), inside.before(x), x)
    return inside.tails(x).swap(is_falling)


def _push_quantile(d: Any, tails: Tails) -> Tensor:
    x = quantile_of(univariate(d.base_dist, tails.log_cdf), tails.swap(_is_falling(d)))
    for step in d.transforms:
        x = step(x)
    return x


def _is_falling(d: Any) -> Tensor | bool:
    """Whether transforms, each of which keeps or turns the order, turn it."""
    sign: Any = 1
    for step in monotone_steps(d):
        sign = sign * step.sign
    return sign < 0


register_tails(
    dd.Independent,
    lambda d, x: tails_of(d.base_dist, x),
    lambda d, tails: quantile_of(univariate(d.base_dist, tails.log_cdf), tails),
)
register_tails(dd.MixtureSameFamily, _mixture_tails)
register_tails(dd.TransformedDistribution, _transformed_tails, _push_quantile)

"""The tails of torch's univariate families, and their quantiles where there is a formula.

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
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.transforms import _InverseTransform
from torch.nn.functional import logsigmoid

from declarative_dist.plain.supports import entries_of
from declarative_dist.wrappers.cdfs import no_cdf, quantile_of, register_tails, tails_of
from declarative_dist.wrappers.incomplete import (
    Tails,
    beta_tails,
    from_smaller,
    gamma_tails,
    log1mexp,
    normal_tails,
)

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


def _normal_quantile(tails: Tails) -> Tensor:
    """The quantile, by Newton's method on the logarithm of the small tail."""
    is_lower = tails.log_cdf < tails.log_sf
    small = torch.where(is_lower, tails.log_cdf, tails.log_sf)
    with torch.no_grad():
        far = (-2 * small - math.log(2 * math.pi) - (-2 * small).clamp_min(1.0).log()).abs().sqrt()
        z = torch.where(small < -15, -far, torch.special.ndtri(small.clamp_min(-15.0).exp()))
    for _ in range(4):
        found = torch.special.log_ndtr(z) if not small.requires_grad else normal_tails(z).log_cdf
        log_density = -z * z / 2 - math.log(2 * math.pi) / 2
        z = z - (found - small) * (found - log_density).exp()
    return torch.where(is_lower, z, -z)


def _laplace_tails(z: Tensor) -> Tails:
    is_lower = z < 0
    return from_smaller(torch.where(is_lower, z, -z) - math.log(2), is_lower)


def _laplace_quantile(tails: Tails) -> Tensor:
    log_cdf, log_sf = (tail + math.log(2) for tail in tails)
    return torch.where(log_cdf < 0, log_cdf, -log_sf)


def _cauchy_tails(z: Tensor) -> Tails:
    one = torch.ones_like(z)
    upper, lower = torch.atan2(one, z) / math.pi, torch.atan2(one, -z) / math.pi
    return Tails(lower.log(), upper.log())


def _cauchy_quantile(tails: Tails) -> Tensor:
    is_lower = tails.log_cdf < tails.log_sf
    z = 1 / (math.pi * torch.where(is_lower, tails.log_cdf, tails.log_sf).exp()).tan()
    return torch.where(is_lower, -z, z)


def _gumbel_tails(z: Tensor) -> Tails:
    log_cdf = -(-z).exp()
    return Tails(log_cdf, log1mexp(log_cdf))


_register_located(dd.Normal, normal_tails, _normal_quantile)
_register_located(dd.Laplace, _laplace_tails, _laplace_quantile)
_register_located(dd.Cauchy, _cauchy_tails, _cauchy_quantile)
_register_located(dd.Gumbel, _gumbel_tails, lambda t: -(-t.log_cdf).log())


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


def _on_half_line(
    x: Tensor, tails: Callable[[Tensor], Tails], point: float = 1.0, end: float = torch.inf
) -> Tails:
    """The tails of what is above 0, and below another end."""
    below, above = x <= 0, x >= end
    return tails(torch.where(below | above, point, x)).outside(below, above)


def _from_survival(log_sf: Tensor) -> Tails:
    return from_smaller(log_sf, is_lower=False)


def _half_normal_tails(d: Any, x: Tensor) -> Tails:
    def tails(x: Tensor) -> Tails:
        z = x / d.scale
        log_sf = normal_tails(z).log_sf + math.log(2)
        is_near = z < 0.5
        near = torch.where(is_near, z, 0.5) * math.sqrt(0.5)
        return Tails(torch.where(is_near, near.erf().log(), log1mexp(log_sf)), log_sf)

    return _on_half_line(x, tails)


def _half_cauchy_tails(d: Any, x: Tensor) -> Tails:
    def tails(x: Tensor) -> Tails:
        z = x / d.scale
        one, share = torch.ones_like(z), math.log(2 / math.pi)
        return Tails(torch.atan2(z, one).log() + share, torch.atan2(one, z).log() + share)

    return _on_half_line(x, tails)


def _half_normal_quantile(d: Any, tails: Tails) -> Tensor:
    log_sf = tails.log_sf - math.log(2)
    far = _normal_quantile(Tails(log1mexp(log_sf), log_sf))
    is_near = tails.log_cdf < -1
    near = torch.where(is_near, tails.log_cdf, -1.0).exp().erfinv() * math.sqrt(2)
    scaled: Tensor = d.scale * torch.where(is_near, near, far)
    return scaled


register_tails(dd.HalfNormal, _half_normal_tails, _half_normal_quantile)
register_tails(
    dd.HalfCauchy,
    _half_cauchy_tails,
    lambda d, t: d.scale * torch.where(
        t.log_cdf < t.log_sf,
        (math.pi / 2 * t.log_cdf.clamp_max(-0.5).exp()).tan(),
        1 / (math.pi / 2 * t.log_sf.clamp_max(-0.5).exp()).tan(),
    ),
)  # fmt: skip
register_tails(
    dd.Exponential,
    lambda d, x: _on_half_line(x, lambda x: _from_survival(-d.rate * x)),
    lambda d, t: -t.log_sf / d.rate,
)
register_tails(
    dd.Kumaraswamy,
    lambda d, x: _on_half_line(
        x,
        lambda x: _from_survival(d.concentration0 * log1mexp(d.concentration1 * x.log())),
        0.5,
        1.0,
    ),
    lambda d, t: (log1mexp(t.log_sf / d.concentration0) / d.concentration1).exp(),
)
register_tails(dd.Gamma, lambda d, x: gamma_tails(d.concentration, d.rate * x))
register_tails(
    dd.Beta,
    lambda d, x: beta_tails(d.concentration1, d.concentration0, x, 1 - x),
)
register_tails(
    dd.FisherSnedecor,
    lambda d, x: _on_half_line(
        x,
        lambda x: beta_tails(
            d.df1 / 2, d.df2 / 2, *((part / (d.df1 * x + d.df2)) for part in (d.df1 * x, d.df2))
        ),
    ),
)
register_tails(
    dd.Uniform,
    lambda d, x: _uniform_tails(d, x - d.low, d.high - x),
    lambda d, t: d.low + (d.high - d.low) * t.log_cdf.exp(),
)
register_tails(
    LogitRelaxedBernoulli,
    lambda d, x: _logistic_tails(d.temperature * x - d.logits),
    lambda d, t: (t.log_cdf - t.log_sf + d.logits) / d.temperature,
)


def _logistic_tails(z: Tensor) -> Tails:
    return Tails(logsigmoid(z), logsigmoid(-z))


def _uniform_tails(d: Any, before: Tensor, behind: Tensor) -> Tails:
    """The tails of a uniform distribution, from the distances to its ends."""
    below, above = before <= 0, behind <= 0
    shares = (torch.where(below | above, 1.0, t) / (d.high - d.low) for t in (before, behind))
    return Tails(*(share.log() for share in shares)).outside(below, above)


def _generalized_pareto_tails(d: Any, x: Tensor) -> Tails:
    def tails(z: Tensor) -> Tails:
        bent = d.concentration * z
        is_near = bent.abs() < 1e-4
        shape, far = torch.where(is_near, 1.0, d.concentration), torch.where(is_near, 0.0, bent)
        series = z * (1 - bent / 2 + bent**2 / 3 - bent**3 / 4)
        return _from_survival(-torch.where(is_near, series, far.log1p() / shape))

    z = (x - d.loc) / d.scale
    is_beyond = (z > 0) & (d.concentration * z <= -1)
    found = _on_half_line(torch.where(is_beyond, 0.0, z), tails)
    return found.outside(torch.zeros_like(is_beyond), is_beyond)


def _generalized_pareto_quantile(d: Any, tails: Tails) -> Tensor:
    flat = -tails.log_sf
    bent = d.concentration * flat
    is_near = bent.abs() < 1e-4
    shape, far = torch.where(is_near, 1.0, d.concentration), torch.where(is_near, 0.0, bent)
    series = flat * (1 + bent / 2 + bent**2 / 6 + bent**3 / 24)
    moved: Tensor = d.loc + d.scale * torch.where(is_near, series, far.expm1() / shape)
    return moved


# Counts.


def _register_counts(kind: Any, tails: Callable[[Any, Tensor], Tails]) -> None:
    """Register a family of counts by the tails at a whole number, 0 or above."""

    def at(d: Any, x: Tensor) -> Tails:
        count = x.floor()
        return tails(d, count.clamp_min(0.0)).outside(count < 0, torch.zeros_like(x).bool())

    register_tails(kind, at)


def _binomial_tails(d: Any, k: Tensor) -> Tails:
    is_all = k >= d.total_count
    left = torch.where(is_all, 1.0, d.total_count - k)
    found = beta_tails(left, torch.where(is_all, 1.0, k + 1), 1 - d.probs, d.probs)
    return found.outside(torch.zeros_like(is_all), is_all)


_register_counts(dd.Poisson, lambda d, k: gamma_tails(k + 1, d.rate).swap())
_register_counts(
    dd.NegativeBinomial, lambda d, k: beta_tails(d.total_count, k + 1, 1 - d.probs, d.probs)
)
_register_counts(dd.Binomial, _binomial_tails)
_register_counts(dd.Geometric, lambda d, k: _from_survival((k + 1) * torch.log1p(-d.probs)))
_register_counts(
    dd.Bernoulli,
    lambda d, k: Tails(logsigmoid(-d.logits), logsigmoid(d.logits)).outside(
        torch.zeros_like(k).bool(), k >= 1
    ),
)


# What is made of others.


def _independent_tails(d: Any, x: Tensor) -> Tails:
    return tails_of(d.base_dist, x)


def _mixture_tails(d: Any, x: Tensor) -> Tails:
    inside = tails_of(d.component_distribution, x.unsqueeze(-1))
    weights = d.mixture_distribution.logits
    return Tails(*((weights + tail).logsumexp(-1) for tail in inside))


def _transformed_tails(d: Any, x: Tensor) -> Tails:
    return _pull(d, x, len(d.transforms))


def _pull(d: Any, x: Tensor, count: int) -> Tails:
    """The tails behind the first transforms, by those in front of them."""
    if not count:
        return tails_of(d.base_dist, x)
    step = d.transforms[count - 1]
    _check_monotone(d, step)
    codomain: Any = entries_of(step.codomain)
    low, high = (getattr(codomain, f"{e}_bound", None) for e in ("lower", "upper"))
    low, high = -torch.inf if low is None else low, torch.inf if high is None else high
    below, above = x <= low, x >= high
    x = torch.where(below | above, _point_between(low, high), x)
    is_logit = isinstance(step, _InverseTransform) and type(step._inv) is dd.SigmoidTransform
    if is_logit and count == 1 and isinstance(d.base_dist, dd.Uniform):  # a logistic
        base = d.base_dist
        before = x.sigmoid() - base.low, (-x).sigmoid() + (base.high - 1)
        tails = _uniform_tails(base, *before)
    else:
        inner: Any = step.inv(x)
        tails = _pull(d, inner, count - 1)
    return tails.swap(_is_falling(step)).outside(below, above)


def _push_quantile(d: Any, tails: Tails) -> Tensor:
    for step in reversed(d.transforms):
        _check_monotone(d, step)
        tails = tails.swap(_is_falling(step))
    x = quantile_of(d.base_dist, tails)
    for step in d.transforms:
        x = step(x)
    return x


def _check_monotone(d: Any, step: Any) -> None:
    is_elementwise = isinstance(step, dd.AffineTransform) or step.domain.event_dim == 0
    if not (is_elementwise and step.bijective):
        raise no_cdf(f"{type(d).__name__} with {type(step).__name__}")


def _is_falling(step: Any) -> Tensor | bool:
    sign = step.sign
    return sign < 0 if isinstance(sign, Tensor) else bool(sign < 0)


def _point_between(low: float, high: float) -> float:
    if math.isinf(low):
        return 0.0 if math.isinf(high) else high - 1
    return low + 1 if math.isinf(high) else (low + high) / 2


register_tails(dd.Independent, _independent_tails, lambda d, t: quantile_of(d.base_dist, t))
register_tails(dd.MixtureSameFamily, _mixture_tails)
register_tails(dd.TransformedDistribution, _transformed_tails, _push_quantile)
if hasattr(dd, "GeneralizedPareto"):
    register_tails(dd.GeneralizedPareto, _generalized_pareto_tails, _generalized_pareto_quantile)

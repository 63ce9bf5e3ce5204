"""A distribution given that its value lies between two ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist.wrappers.cdfs import (
    Ends,
    bounds_of,
    like_of,
    log_mass,
    log_prob_where,
    register_tails,
    tails_at_ends,
    tails_of,
)
from declarative_dist.wrappers.incomplete import Tails
from declarative_dist.wrappers.quantiles import quantile_of
from declarative_dist.wrappers.wrapper import BetweenEnds, has_atoms

Moments = tuple[Tensor, Tensor]


class Truncated(BetweenEnds):
    r"""A distribution given that low < X <= high.

    Its density is the base's own over the probability of the interval,

    .. math:: p(x) = f(x) / (F(high) - F(low)), \quad low < x \le high.

    Counts at `low` are excluded, and those at `high` included: `Truncated(Poisson(3.0), low=0)`
    has no zeros. Draws come from the quantile function, with gradients to all parameters and ends.
    Mean, variance, entropy and divergences are known for `Normal`, `Exponential` and `Uniform`.

    Source: Johnson, Kotz and Balakrishnan, Continuous Univariate Distributions, volume 1.

    Args:
        base_distribution: a univariate distribution, plain or live, with a cumulative distribution
            function.
        low: the lower end, in the units of the value; None, or -inf, for none.
        high: the upper end; None, or inf, for none.
        validate_args: whether to check arguments and values; None to follow torch.

    Raises:
        ConstraintError: if the base has no cdf, or the ends cross or leave no mass.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist.wrappers import Truncated
        >>> half = Truncated(dd.Normal(0.0, 1.0), low=0.0)
        >>> half.log_prob(torch.tensor(1.0)) - dd.HalfNormal(1.0).log_prob(torch.tensor(1.0))
        tensor(0.)
        >>> Truncated(dd.Poisson(3.0), low=0).support.lower_bound
        tensor(1.)
    """

    _round_low = staticmethod(torch.floor)

    @property
    def has_atoms(self) -> bool:  # type: ignore[override]
        """Whether single values have a probability, which they do where the base's do."""
        return has_atoms(self._plain)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws carry gradients, which counts and values of a probability do not."""
        return not (self._plain.support.is_discrete or self.has_atoms)

    def _hull(self, plain: Any) -> Ends:
        first, last = super()._hull(plain)
        if plain.support.is_discrete:
            first = first + (first == self._ends(plain)[0]).to(first)
        return first, last

    def _score(self, plain: Any, x: Tensor) -> Tensor:
        first, last = self._hull(plain)
        scored = log_prob_where(plain, x, (x >= first) & (x <= last), (first, last))
        return scored - log_mass(plain, *self._ends(plain))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draw samples of shape `(*sample, *batch)` that carry gradients."""
        if not self.has_rsample:
            return super().rsample(sample_shape)
        return self._draw(torch.Size(sample_shape))

    def _draw(self, sample_shape: torch.Size) -> Tensor:
        like = like_of(self._plain)
        shape = self._extended_shape(sample_shape)
        share = torch.rand(shape, dtype=like.dtype, device=like.device)
        return self._quantile(Tails.of_share(share.clamp_min(torch.finfo(like.dtype).tiny)))

    def _quantile(self, tails: Tails) -> Tensor:
        plain = self._plain
        below, above = tails_at_ends(plain, *self._ends(plain))
        inside = (tail + below.log_mass_until(above) for tail in tails)
        log_cdf, log_sf = map(torch.logaddexp, (below.log_cdf, above.log_sf), inside)
        x = quantile_of(plain, Tails(log_cdf.clamp_max(0.0), log_sf.clamp_max(0.0)))
        first, last = self._hull(plain)
        return self._narrow(torch.minimum(torch.maximum(x, first), last))

    @property
    def mean(self) -> Tensor:
        """The mean, where it is known in closed form."""
        return self._moments("mean")[0]

    @property
    def variance(self) -> Tensor:
        """The variance, where it is known in closed form."""
        return self._moments("var")[1]

    def entropy(self) -> Tensor:
        """The entropy, where it is known in closed form."""
        plain = self._plain
        if type(plain) not in MOMENTS:
            raise self._unknown("entropy")
        expected = expected_log_prob(plain, *self._moments("mean"))
        return self._narrow(log_mass(plain, *self._ends(plain)) - expected)

    def _moments(self, member: str) -> Moments:
        plain = self._plain
        if type(plain) not in MOMENTS:
            raise self._unknown(member)
        low, high = (end.to(torch.float64) for end in self._hull(plain))
        found = MOMENTS[type(plain)](plain, low, high)
        mean, square = (self._narrow(moment.expand(self.batch_shape)) for moment in found)
        return mean, square


def _truncated_tails(d: Truncated, x: Tensor) -> Tails:
    plain, at = d._plain, tails_of(d._plain, x)
    below, above = tails_at_ends(plain, *d._ends(plain))
    total = below.log_mass_until(above)
    return Tails(below.log_mass_until(at) - total, at.log_mass_until(above) - total)


register_tails(Truncated, _truncated_tails, lambda d, tails: d._quantile(tails))


def _normal_moments(d: Any, low: Tensor, high: Tensor) -> Moments:
    """Source: Johnson, Kotz and Balakrishnan, volume 1, section 13.10."""
    loc, scale = d.loc.double(), d.scale.double()
    total = log_mass(dd.Normal(loc, scale, validate_args=False), low, high)

    def at(end: Tensor) -> tuple[Tensor, Tensor]:
        is_end = end.isfinite()
        z = (torch.where(is_end, end, 0.0) - loc) / scale
        share = torch.where(is_end, -z * z / 2 - math.log(2 * math.pi) / 2 - total, 0.0).exp()
        return torch.where(is_end, share, 0.0), torch.where(is_end, z * share, 0.0)

    (first, first_z), (last, last_z) = at(low), at(high)
    shift = first - last
    mean, variance = loc + scale * shift, scale**2 * (1 + first_z - last_z - shift**2)
    is_thin, thin_mean, thin_variance = _thin_moments(loc, scale, low, high)
    mean = torch.where(is_thin, thin_mean, mean)
    return mean, torch.where(is_thin, thin_variance, variance)


def _thin_moments(loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, ...]:
    """Whether the mass of a normal distribution lies in less than its scale, and the moments then.

    They are integrals from the end that is nearer to `loc` on, for formulas would cancel.
    """
    is_upper = high - loc < loc - low
    end = torch.where(is_upper, high, low)
    with torch.no_grad():
        distance = torch.where(is_upper, loc - high, low - loc) / scale
        width = (high - low) / scale
        reach = 40 / distance.clamp_min(1.0)  # beyond, exp(-40) is left
        is_cut, is_thin = width > reach, torch.minimum(width, reach) < 2
    is_whole = is_thin & ~is_cut
    end = torch.where(is_thin, end, loc.detach())
    distance = torch.where(is_upper, loc - end, end - loc) / scale
    width = torch.where(is_whole, high, 1.0) - torch.where(is_whole, low, 0.0)
    reach = 40 / torch.where(is_thin & is_cut, distance, 40.0)
    width = torch.where(is_cut, reach, width / scale)
    # The nodes of Gauss and Legendre are eigenvalues (Golub and Welsch, 1969).
    k = torch.arange(1, 24, dtype=loc.dtype, device=loc.device)
    beside = (k / (4 * k * k - 1).sqrt()).diag(1)
    nodes, vectors = torch.linalg.eigh(beside + beside.T)
    v = width[..., None] * (nodes + 1) / 2
    share = (2 * vectors[0].abs().log() - distance[..., None] * v - v * v / 2).softmax(-1)
    mean = (share * v).sum(-1)
    variance = (share * (v - mean[..., None]) ** 2).sum(-1)
    return is_thin, end + scale * torch.where(is_upper, -mean, mean), scale**2 * variance


def _uniform_moments(d: Any, low: Tensor, high: Tensor) -> Moments:
    return (low + high) / 2, (high - low) ** 2 / 12


def _exponential_moments(d: Any, low: Tensor, high: Tensor) -> Moments:
    rate = d.rate.double()
    is_end = high.isfinite()
    width = torch.where(is_end, high - low, 1.0)
    t = rate * width
    is_thin = t < 1e-2
    thin, wide = torch.where(is_thin, t, 0.0), torch.where(is_thin, 1.0, t)
    lost = wide / torch.expm1(wide)
    mean = torch.where(is_thin, 1 / 2 - thin / 12 + thin**3 / 720, (1 - lost) / wide)
    exact = (1 - lost * lost * wide.exp()) / wide**2
    variance = torch.where(is_thin, 1 / 12 - thin**2 / 240 + thin**4 / 6048, exact)
    mean = low + torch.where(is_end, mean * width, 1 / rate)
    return mean, torch.where(is_end, variance * width**2, 1 / rate**2)


MOMENTS: Mapping[type, Callable[[Any, Tensor, Tensor], Moments]] = {
    dd.Exponential: _exponential_moments,
    dd.Normal: _normal_moments,
    dd.Uniform: _uniform_moments,
}
"""Mean and variance between two ends, which may be infinite."""


def expected_log_prob(plain: Any, mean: Tensor, variance: Tensor) -> Tensor:
    """The mean log density, which is a square function of the value in all these families."""
    curvature = 1 / plain.scale**2 if isinstance(plain, dd.Normal) else 0.0
    score: Tensor = plain.log_prob(mean) - curvature * variance / 2
    return score


def divergence_of(p: Any, q: Any) -> Tensor:
    """The divergence of two distributions, of which one or both are truncated; see `Truncated`.

    Raises:
        NotImplementedError: if no moments are known for one of them.
    """
    mine, theirs = (d if isinstance(d, Truncated) else Truncated(d) for d in (p, q))
    if type(theirs._plain) not in MOMENTS:
        raise NotImplementedError
    mean, variance = mine._moments("mean")
    (low, high), (first, last) = (bounds_of(d, mean) for d in (mine, theirs))
    log_ratio = []
    for d, at in ((mine, mean), (theirs, torch.minimum(torch.maximum(mean, first), last))):
        mass = log_mass(d._plain, *d._ends(d._plain))
        log_ratio.append(expected_log_prob(d._plain, at, variance) - mass)
    return (log_ratio[0] - log_ratio[1]).masked_fill((low < first) | (high > last), torch.inf)

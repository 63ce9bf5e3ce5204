"""A distribution given that its value lies between two ends."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributions as dd
from torch import Tensor
from torch.nn.functional import logsigmoid

from declarative_dist.wrappers.cdfs import Univariate, gap_at, has_atoms, register_tails
from declarative_dist.wrappers.incomplete import Tails
from declarative_dist.wrappers.quantiles import quantile_of
from declarative_dist.wrappers.wrapper import BetweenEnds, Ends

SMOOTH = (dd.Exponential, dd.Normal, dd.Uniform)
"""The families whose moments between two ends are known."""


class Truncated(BetweenEnds):
    r"""A distribution given that low < X <= high.

    Its density is the base's own over the probability of the interval,

    .. math:: p(x) = f(x) / (F(high) - F(low)), \quad low < x \le high.

    Counts at `low`, or other values there that have a probability, are excluded, and those at
    `high` included: `Truncated(Poisson(3.0), low=0)` has no zeros. Draws come from the quantile
    function, with gradients to all parameters and ends. Mean, variance, entropy and divergences
    are known for `Normal`, `Exponential` and `Uniform`.

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
    _tail_at = 0

    @property
    def has_atoms(self) -> bool:  # type: ignore[override]
        """Whether single values have a probability, which they do where the base's do."""
        return has_atoms(self._base().plain)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws carry gradients, which counts and values of a probability do not."""
        return not self._base().has_masses

    def _hull(self, base: Univariate) -> Ends:
        first, last = super()._hull(base)
        if self.low is not None and base.has_masses:
            gap = 1 if base.is_discrete else gap_at(base.to_tensor(first), base.dtype)
            first = first + (first == self._ends(base)[0]) * gap
        return first, last

    def _score(self, base: Univariate, x: Tensor, is_inside: Tensor) -> Tensor:
        return base.log_prob(x, is_inside) - base.log_mass(*self._ends(base))

    def _draw(self, sample_shape: torch.Size) -> Tensor:
        base = self._base()
        shape = self._extended_shape(sample_shape)
        share = torch.rand(shape, dtype=base.like.dtype, device=base.like.device)
        tails = Tails.of_share(share.clamp_min(torch.finfo(share.dtype).tiny))
        return self._quantile(base, tails).to(base.dtype)

    def _quantile(self, base: Univariate, tails: Tails) -> Tensor:
        below, above = base.tails_at(*self._ends(base))
        log_mass = below.log_mass_until(above)
        inside = (base.cast(tail) + log_mass for tail in tails)
        log_cdf, log_sf = map(torch.logaddexp, (below.log_cdf, above.log_sf), inside)
        x = quantile_of(base, Tails(log_cdf.clamp_max(0.0), log_sf.clamp_max(0.0)))
        return base.clamp(x, self._hull(base))

    @property
    def mean(self) -> Tensor:
        """The mean, for some families."""
        start, beyond, share, _ = self._nodes("mean")
        return (start + (share * beyond).sum(0)).to(self._base().dtype)

    @property
    def variance(self) -> Tensor:
        """The variance, for some families."""
        _, beyond, share, _ = self._nodes("variance")
        spread = (beyond - (share * beyond).sum(0)) ** 2
        return (share * spread).sum(0).to(self._base().dtype)

    def entropy(self) -> Tensor:
        """The entropy, for some families."""
        *_, share, log_prob = self._nodes("entropy")
        return -(share * log_prob.nan_to_num(neginf=0.0)).sum(0).to(self._base().dtype)

    def _nodes(self, member: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What integrals over the density are computed from.

        The trapezoidal rule is exact to rounding after a double exponential substitution (Takahasi
        and Mori, 1974, https://doi.org/10.2977/prims/1195192451).

        Returns:
            Where all mass but a share of exp(-45) starts, of shape `(*batch)`; and for points
            their distances from there, shares of the mass and log densities, `(count, *batch)`.
        """
        base = self._base()
        if type(base.plain) not in SMOOTH:
            raise self._unknown(member)
        first, last = map(base.to_tensor, self._hull(base))
        column = (-1, *[1] * len(self.batch_shape))
        with torch.no_grad():
            log_cdf = base.like.new_tensor([-45.0, 0.0]).view(column)
            begin, end = self._quantile(base, Tails(log_cdf, log_cdf.flip(0)))
            hair = 1e-9 * (end - begin)
        start = torch.where(begin - first > hair, begin, first)
        width = torch.where(last - end > hair, end, last) - start
        t = torch.linspace(-3.1, 3.1, 128, dtype=width.dtype, device=width.device).view(column)
        odds = math.pi * t.sinh()
        beyond = odds.sigmoid() * width
        log_weight = t.cosh().log() + logsigmoid(odds) + logsigmoid(-odds)
        x = torch.minimum(start + beyond, last)
        log_prob = self._score(base, x, self._contains(base, x))
        return start, beyond, (log_prob + log_weight).softmax(0), log_prob


def _truncated_tails(d: Truncated, x: Tensor) -> Tails:
    base = d._base()
    at = base.tails(x)
    below, above = base.tails_at(*d._ends(base))
    total = below.log_mass_until(above)
    return Tails(below.log_mass_until(at) - total, at.log_mass_until(above) - total)


register_tails(Truncated, _truncated_tails, lambda d, tails: d._quantile(d._base(), tails))


def divergence_of(p: Any, q: Any) -> Tensor:
    """The divergence of two distributions, of which one or both are truncated; see `Truncated`.

    Raises:
        NotImplementedError: if no moments are known for one of them.
    """
    mine, theirs = (d if isinstance(d, Truncated) else Truncated(d) for d in (p, q))
    base, other = mine._base(), theirs._base()
    if type(other.plain) not in SMOOTH:
        raise theirs._unknown("kl_divergence")
    start, beyond, share, log_prob = mine._nodes("kl_divergence")
    x = start + beyond
    log_ratio = log_prob - theirs._score(other, x, theirs._contains(other, x))
    low, high, first, last = map(other.to_tensor, (*mine._hull(base), *theirs._hull(other)))
    divergence = (share * log_ratio.nan_to_num(0.0, 0.0, 0.0)).sum(0)
    return divergence.masked_fill((low < first) | (high > last), torch.inf).to(base.dtype)

"""A distribution of which values beyond an end are only known to lie there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from declarative_dist.errors import ConstraintError
from declarative_dist.wrappers.cdfs import Point, Univariate, register_tails
from declarative_dist.wrappers.incomplete import Tails
from declarative_dist.wrappers.quantiles import quantile_of
from declarative_dist.wrappers.truncated import SMOOTH, Truncated
from declarative_dist.wrappers.wrapper import BetweenEnds


class _Pairs(constraints.Constraint):
    """Pairs of a lower and an upper end between which a value of some support may be.

    Args:
        low: the lower end of the support, -inf if there is none.
        high: its upper end.
        is_whole: whether values are whole numbers.
    """

    event_dim = 1

    def __init__(self, low: Point, high: Point, *, is_whole: bool) -> None:
        self.low, self.high, self.is_whole = low, high, is_whole
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether the ends are in order, and some of the support is between them."""
        lower, upper = _split_pairs(value)
        is_seen = (lower == upper) & lower.isfinite()
        if self.is_whole:
            is_seen = is_seen & (lower == lower.floor())
            lower, upper = lower.floor(), upper.floor()
        is_some = is_seen | ((lower < upper) & (lower < self.high))
        return is_some & (upper >= self.low) & (lower <= self.high)

    def __repr__(self) -> str:
        kind = "a count" if self.is_whole else "a value"
        return (
            f"pairs (lower, upper) with {kind} above lower and up to upper, or (x, x) for {kind}"
        )


def _split_pairs(value: Tensor) -> tuple[Tensor, Tensor]:
    if value.shape[-1:] != (2,):
        expected = "pairs (lower, upper), of shape (*sample, *batch, 2), since it has no ends"
        fix = "Write Censored(base, high=...), or give (x, x) for a value that was seen."
        got = f"a tensor of shape {tuple(value.shape)}"
        raise ConstraintError("Censored.log_prob", expected, got, fix, code="wrong-shape")
    lower, upper = value.unbind(-1)
    return lower, upper


class Censored(BetweenEnds):
    """A distribution seen between two ends: what lies beyond counts as at the end.

    A value at an end carries the probability of all beyond it, P(X <= low) or P(X >= high); one
    between them has the density of the base. For survival times give each datum its
    own `high`: when you stopped watching, or infinity if you saw the event.

    Without ends events are *pairs* (lower, upper) that say what is known of each datum: (x, x) a
    value, (c, inf) one beyond c, (-inf, c) one up to c, (a, b) one between them. The log
    probability of a pair of different ends is log P(lower < X <= upper).

    Gradients are finite for values at the ends and far from them, which they are not if you write
    `torch.where` by hand.

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
        >>> from declarative_dist.wrappers import Censored
        >>> times = Censored(dd.Exponential(2.0), high=3.0)
        >>> times.log_prob(torch.tensor([1.0, 3.0]))
        tensor([-1.3069, -6.0000])
        >>> pairs = torch.tensor([[1.0, 1.0], [3.0, torch.inf], [1.0, 2.0]])
        >>> Censored(dd.Exponential(2.0)).log_prob(pairs)
        tensor([-1.3069, -6.0000, -2.1454])
    """

    has_rsample = False

    _shape_without_ends = torch.Size((2,))

    @constraints.dependent_property
    def support(self) -> Any:
        """What is between the ends, these included, and in the support of the base; or pairs."""
        return self._support(self._base())

    def _support(self, base: Univariate) -> Any:
        if not self.event_shape:
            return super()._support(base)
        return _Pairs(base.first, base.last, is_whole=base.is_discrete)

    def _contains(self, base: Univariate, x: Tensor) -> Tensor:
        if not self.event_shape:
            return super()._contains(base, x)
        return self._support(base).check(x)

    def _score(self, base: Univariate, x: Tensor, is_inside: Tensor) -> Tensor:
        if self.event_shape:
            lower, upper = _split_pairs(x)
            return self._score_known(base, lower == upper, lower, upper)
        low, high = self._ends(base)
        is_low, is_high = x <= low, x >= high
        # What has a probability at the upper end lies beyond it too.
        lower = torch.where(is_high, base.before(x), torch.where(is_low, -torch.inf, x))
        upper = torch.where(is_high, torch.inf, x)
        result = self._score_known(base, ~(is_low | is_high), lower, upper)
        return result.masked_fill(~is_inside, -torch.inf)

    def _score_known(
        self, base: Univariate, is_seen: Tensor, lower: Tensor, upper: Tensor
    ) -> Tensor:
        """Densities where a value was seen, and elsewhere the mass of what is known."""
        end = torch.where(lower.isfinite(), lower, upper)
        # Densities at ends are not used, but finite, with gradients, at any scale of the data.
        is_near = (end > base.first) & (end < base.last) & (not base.is_discrete)
        is_inside = (end >= base.first) & (end <= base.last)
        density = base.log_prob(end, (is_seen & is_inside) | is_near)
        return torch.where(is_seen, density, base.log_mass(lower, upper))

    def _draw(self, sample_shape: torch.Size) -> Tensor:
        drawn = self.base_distribution.sample(sample_shape)
        if self.event_shape:
            return torch.stack([drawn, drawn], -1)
        base = self._base()
        return base.clamp(drawn, self._ends(base)).to(drawn.dtype)

    @property
    def mean(self) -> Tensor:
        """The mean, where the truncated base's is known."""
        return self._moments("mean")[0].to(self._base().dtype)

    @property
    def variance(self) -> Tensor:
        """The variance, where the truncated base's is known."""
        return self._moments("variance")[1].to(self._base().dtype)

    def _moments(self, member: str) -> tuple[Tensor, Tensor]:
        """The mean and the variance."""
        base = self._base()
        if self.event_shape or type(base.plain) not in SMOOTH:
            raise self._unknown(member)
        below, above = base.tails_at(*self._ends(base))
        inside = Truncated(base.plain, self.low, self.high, validate_args=False)
        ends = map(base.to_tensor, self._ends(base))
        mass, middle = below.log_mass_until(above).exp(), inside.mean
        # Distances from the inner mean, for squares of large values would cancel.
        far = [torch.where(end.isinf(), middle, end) - middle for end in ends]
        low, high = (log_share.exp() for log_share in (below.log_cdf, above.log_sf))
        shift = low * far[0] + high * far[1]
        variance = mass * (inside.variance + shift**2)
        variance = variance + low * (far[0] - shift) ** 2 + high * (far[1] - shift) ** 2
        return middle + shift, variance


def _censored_quantile(d: Censored, tails: Tails) -> Tensor:
    base = d._base()
    return base.clamp(quantile_of(base, tails), d._ends(base))


register_tails(Censored, lambda d, x: d._base().tails(x), _censored_quantile)

"""A distribution of which values beyond an end are only known to lie there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from declarative_dist.wrappers.cdfs import (
    bounds_of,
    log_mass,
    point_between,
    register_tails,
    tails_of,
)
from declarative_dist.wrappers.incomplete import Tails
from declarative_dist.wrappers.truncated import Truncated
from declarative_dist.wrappers.wrapper import BetweenEnds, End, narrow_support, widen_value


class _Pairs(constraints.Constraint):
    """Pairs of a lower and an upper end between which a value of some support may be.

    Args:
        low: the lower end of the support.
        high: its upper end.
    """

    event_dim = 1

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.low, self.high = low, high
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether the ends are in order, and some of the support is between them."""
        lower, upper = value.unbind(-1)
        return (lower <= upper) & (upper >= self.low) & (lower <= self.high)


class Censored(BetweenEnds):
    """A distribution seen between two ends: what lies beyond counts as at the end.

    A value at an end carries the probability of all beyond it, P(X <= low) or P(X >= high); one
    between them has the density of the base. For data of survival let `high` be the time after
    which each datum was not seen any more, and infinite where the event was.

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

    def __init__(
        self,
        base_distribution: Distribution,
        low: End = None,
        high: End = None,
        validate_args: bool | None = None,
    ) -> None:
        event_shape = torch.Size((2,) if low is None and high is None else ())
        super().__init__(base_distribution, low, high, validate_args, event_shape)

    @constraints.dependent_property
    def support(self) -> Any:
        """What is between the ends, these included, and in the support of the base; or pairs."""
        if self.event_shape:
            return _Pairs(*bounds_of(self._plain, torch.empty(())))
        return narrow_support(self._plain, self.low, self.high, is_open=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density or probability at values of shape `(*sample, *batch, *event)`."""
        if self._validate_args:
            self._validate_sample(value)
        plain = self._plain
        wide = widen_value(value, plain)
        if self.event_shape:
            lower, upper = wide.unbind(-1)
            is_seen, known = lower == upper, (lower, upper)
        else:
            low, high = self._ends(plain)
            is_seen, known = torch.ones_like(wide).bool(), (wide, wide)
            if low is not None:
                is_low = wide <= low
                is_seen, known = is_seen & ~is_low, (torch.where(is_low, -torch.inf, wide), wide)
            if high is not None:
                is_high = wide >= high
                # Of counts those at the end lie beyond it too.
                before = wide.ceil() - 1 if self._is_discrete else wide
                lower = torch.where(is_high, before, known[0])
                upper = torch.where(is_high, torch.inf, known[1])
                is_seen, known = is_seen & ~is_high, (lower, upper)
        result = self._score(plain, is_seen, *known)
        if not (self._validate_args or self.event_shape):
            first, last = bounds_of(self, wide)
            result = result.masked_fill((wide < first) | (wide > last), -torch.inf)
        return result.to(value.dtype) if value.is_floating_point() else result

    def _score(self, plain: Any, is_seen: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """Densities where a value was seen, and elsewhere the mass of what is known.

        What is not scored in a branch is put where that has finite gradients.
        """
        first, last = bounds_of(plain, lower)
        end = torch.where(lower.isfinite(), lower, upper)
        is_inside = (end > first) & (end < last)
        fill = torch.where(is_inside, end, point_between(first, last)).detach()
        density = plain.log_prob(torch.where(is_seen, lower, fill))
        low, high = (
            torch.where(is_seen, e, t) for e, t in ((-torch.inf, lower), (torch.inf, upper))
        )
        return torch.where(is_seen, density, log_mass(plain, low, high))

    def _draw(self, sample_shape: torch.Size) -> Tensor:
        drawn = self.base_distribution.sample(sample_shape)
        if self.event_shape:
            return torch.stack([drawn, drawn], -1)
        return self._clip(drawn)

    def _clip(self, value: Tensor) -> Tensor:
        for end, clip in ((self.low, torch.maximum), (self.high, torch.minimum)):
            if end is not None:
                value = clip(value, torch.as_tensor(end, dtype=value.dtype, device=value.device))
        return value

    def cdf(self, value: Tensor) -> Tensor:
        """The cumulative distribution function at values of shape `(*sample, *batch)`."""
        return tails_of(self, value).log_cdf.exp()

    @property
    def mean(self) -> Tensor:
        """The mean, where that of the truncated base is known in closed form."""
        return self._moments("mean")[0]

    @property
    def variance(self) -> Tensor:
        """The variance, where that of the truncated base is known in closed form."""
        mean, square = self._moments("var")
        return square - mean**2

    def _moments(self, member: str) -> tuple[Tensor, Tensor]:
        """The mean of the value and of its square."""
        if self.event_shape:
            raise self._unknown(member)
        plain = self._plain
        low, high = self._ends(plain)
        inside = Truncated(plain, low, high, validate_args=False)
        mean, mass = inside._moments(member)[0], log_mass(plain, low, high).exp()
        first, second = mass * mean, mass * (inside.variance + mean**2)
        beyond = ((low, "log_cdf"), (high, "log_sf"))
        for end, name in beyond:
            if end is not None:
                share, at = (
                    getattr(tails_of(plain, end), name).exp(),
                    end.nan_to_num(0.0, 0.0, 0.0),
                )
                first, second = first + share * at, second + share * at**2
        return first, second


def _censored_tails(d: Censored, x: Tensor) -> Tails:
    inside, (first, last) = tails_of(d._plain, x), bounds_of(d, x)
    return inside.outside(x < first, x >= last)


register_tails(Censored, _censored_tails)

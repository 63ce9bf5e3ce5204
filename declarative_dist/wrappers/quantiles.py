"""Quantiles: by the formula of a family, or by a search to the last digit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
import torch.distributions as dd
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.errors import ConstraintError
from declarative_dist.plain.nests import steps_of
from declarative_dist.plain.tracing import is_traced
from declarative_dist.wrappers.cdfs import (
    Univariate,
    family_of,
    like_of,
    no_cdf,
    plain_of,
    univariate,
    widen,
)
from declarative_dist.wrappers.incomplete import Tails


def icdf(distribution: Distribution, probability: Tensor) -> Tensor:
    """The quantile function, the inverse of `cdf`, with the same gradients.

    At 0 and 1 it is the ends of the support, and NaN outside of [0, 1].

    Args:
        distribution: a univariate distribution.
        probability: of shape `(*sample, *batch)`.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist.wrappers import icdf
        >>> icdf(dd.Gamma(1.0, 2.0), torch.tensor(0.5))
        tensor(0.3466)
    """
    wide, dtype = widen(distribution, probability)
    wide = wide.expand(torch.broadcast_shapes(wide.shape, distribution.batch_shape))
    base = univariate(distribution, wide)
    is_between = (wide > 0) & (wide < 1)
    x = quantile_of(base, Tails.of_share(torch.where(is_between, wide, 0.5)))
    x = torch.where(wide == 0, base.first, torch.where(wide == 1, base.last, x))
    return x.masked_fill(~((wide >= 0) & (wide <= 1)), torch.nan).to(dtype)


def quantile_of(base: Univariate, tails: Tails) -> Tensor:
    """The point that has some tails.

    Its gradients follow from the equation that it solves. Of counts it is the smallest one whose
    lower tail is not below the one given, and has no gradient.
    """
    formula = family_of(base.plain).quantile
    if formula is not None:
        return formula(base.plain, Tails(*map(base.cast, tails)))
    wanted = Tails(*torch.broadcast_tensors(*map(base.cast, tails)))
    return _search_counts(base, wanted) if base.is_discrete else _search(base, wanted)


_SYMMETRIC = (
    dd.Cauchy, dd.Laplace, dd.Normal, dd.StudentT, dd.LowRankMultivariateNormal,
    dd.MultivariateNormal,
)  # fmt: skip
"""Families that are symmetric about `loc`."""


def median_of(plain: Any) -> Tensor:
    """The median of a plain distribution for every entry of its events, `(*batch, *event)`.

    Raises:
        NotImplementedError: if no cumulative distribution function is known.
    """
    wide = plain_of(plain)
    try:
        median = _median_of_wide(wide)
    except ConstraintError as error:
        fix = "Take it from draws: .sample((1001,)).median(0).values."
        raise NotImplementedError(f"median: none is known for {error.got}. {fix}") from error
    return median if wide is plain else median.to(like_of(plain).dtype)


def _median_of_wide(plain: Any) -> Tensor:
    """The median in the dtype of the computation."""
    if isinstance(plain, dd.Independent):
        return _median_of_wide(plain.base_dist)
    if type(plain) in _SYMMETRIC:
        return plain.loc
    is_pushed = isinstance(plain, dd.TransformedDistribution)
    if is_pushed and (plain.event_shape or type(plain) is dd.TransformedDistribution):
        median = _median_of_wide(plain.base_dist)
        for step in monotone_steps(plain):
            median = step(median)
        return median
    half = like_of(plain).new_full(plain.batch_shape, 0.5)
    return quantile_of(univariate(plain, half), Tails.of_share(half)).to(half.dtype)


def monotone_steps(d: Any) -> Iterator[Any]:
    """The steps of a transformed distribution, each of which keeps or turns the order.

    Raises:
        ConstraintError: if one does neither.
    """
    for transform in d.transforms:
        for step in steps_of(transform):
            is_elementwise = isinstance(step, dd.AffineTransform) or step.domain.event_dim == 0
            if not (is_elementwise and step.bijective):
                raise no_cdf(f"{type(d).__name__} with {type(step).__name__}")
            yield step


@torch.no_grad()
def _search_counts(base: Univariate, wanted: Tails) -> Tensor:
    """Halves of a bracket, over the logarithm of the distance to the least count."""
    least = base.to_tensor(base.first) - 1
    low, high = torch.full_like(wanted.log_cdf, -2.0), torch.full_like(wanted.log_cdf, 40.0)
    is_lower, found = wanted.log_cdf < wanted.log_sf, least
    for _ in range(10 - math.floor(math.log2(torch.finfo(low.dtype).eps))):
        y = (low + high) / 2
        tails = base.tails(least + y.exp())
        is_below = torch.where(
            is_lower, tails.log_cdf < wanted.log_cdf, tails.log_sf > wanted.log_sf
        )
        low, high = torch.where(is_below, y, low), torch.where(is_below, high, y)
        found = (least + high.exp()).floor()
        if not is_traced(y) and (found - (least + low.exp()).floor() <= 1).all():
            break
    return found


def _search(base: Univariate, wanted: Tails) -> Tensor:
    """Newton's method, and halves of a bracket, over a coordinate that runs over all numbers.

    It solves for the log odds of the tails, which are nearly straight lines in that coordinate.
    Two more steps, with a graph, make first, second and third derivatives right (Christianson,
    Reverse accumulation and implicit functions, 1998).
    """
    bounds = base.to_tensor(base.first), base.to_tensor(base.last)
    log_odds = wanted.log_cdf - wanted.log_sf

    def miss(x: Tensor) -> tuple[Tensor, Tensor]:
        """How far the log odds of the tails are beyond, and Newton's step towards them."""
        tails = base.tails(x)
        beyond = tails.log_cdf - tails.log_sf - log_odds
        # Where a quantile underflows to an end, there is no step from it.
        is_end = (x <= bounds[0]) | (x >= bounds[1])
        log_prob = base.plain.log_prob(torch.where(is_end, base.middle, x))
        slope = (tails.log_cdf + tails.log_sf - log_prob).exp()
        return beyond, -beyond.masked_fill(is_end, 0.0) * slope

    limits = torch.finfo(wanted.log_cdf.dtype)
    with torch.no_grad():
        most = math.log(limits.max) - 2
        high = torch.full_like(log_odds, most)
        low, y, move = -high, _guess(base, wanted, *bounds), high
        for _ in range(10 - math.floor(math.log2(limits.eps))):
            x, stretch = _stretch(y, *bounds)
            beyond, step = miss(x)
            low, high = torch.where(beyond < 0, y, low), torch.where(beyond < 0, high, y)
            step = step / stretch
            size, before, end = step.abs(), y, torch.where(beyond < 0, high, low)
            # Steps halve at least, unless nothing is known of the end that they go to.
            is_safe = (size < move.abs() / 2) | (end.abs() == most)
            # Far out the derivative is lost to rounding, and a step may be 0.
            is_near = (size < limits.eps**0.25 * (1 + y.abs())) & (beyond.abs() < 1)
            is_step = (is_safe & (size < (end - y).abs()) & (size > 0)) | is_near
            y = torch.where(is_step, y + step, (low + high) / 2)
            move = y - before
            if not is_traced(y) and is_near.all():
                break
    x, stretch = _stretch(y, *bounds)
    x, _ = _stretch(y + miss(x)[1] / stretch, *bounds)
    return (x + miss(x)[1]).clamp(*bounds)


def _guess(base: Univariate, wanted: Tails, low: Tensor, high: Tensor) -> Tensor:
    """Where a normal distribution of the same moments has these tails, or 0, as a coordinate."""
    y = torch.zeros_like(wanted.log_cdf)
    if is_traced(y):
        return y  # torch computes moments by masks
    with suppress(NotImplementedError):
        mean = base.plain.mean
        x = mean + base.plain.stddev * torch.special.ndtri(wanted.log_cdf.exp()).clamp(-8.0, 8.0)
        x = torch.where(low.isinf(), x, torch.maximum(x, low + (mean - low) / 8))
        x = torch.where(high.isinf(), x, torch.minimum(x, high - (high - mean) / 8))
        half = torch.where(low.isinf(), x.asinh(), (x - low).log())
        between = (x - low).log() - (high - x).log()
        y = y + torch.where(low.isinf() | high.isinf(), half, between).nan_to_num(0.0, 0.0, 0.0)
    return y


def _stretch(y: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """A map from all numbers to those from one end on, or between two ends, and its derivative."""
    is_line, is_half = low.isinf(), high.isinf()
    start, share = torch.where(is_line, 0.0, low), y.sigmoid()
    width = torch.where(is_line | is_half, 1.0, high - start)
    x, slope = start + width * share, width * share * (-y).sigmoid()
    x, slope = torch.where(is_half, start + y.exp(), x), torch.where(is_half, y.exp(), slope)
    return torch.where(is_line, y.sinh(), x), torch.where(is_line, y.cosh(), slope)

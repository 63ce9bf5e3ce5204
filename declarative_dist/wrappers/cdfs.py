"""Cumulative distribution and quantile functions by the logarithms of both tails.

A tail that is small is computed as such, never as one minus the other, so that both are right, and
have gradients, as far out as their logarithms are finite. What is known of torch's families is in
`tails`; `register_tails` adds others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.errors import ConstraintError
from declarative_dist.plain.supports import ends_of, entries_of, support_of
from declarative_dist.plain.tensors import map_tensors, tensors_of
from declarative_dist.plain.tracing import is_traced
from declarative_dist.wrappers.incomplete import Tails, log1mexp

HALVES = (torch.float16, torch.bfloat16)

Ends = tuple[Tensor, Tensor]


class Family(NamedTuple):
    """What is known of a family: its tails at a point, and the point that has some tails."""

    tails: Callable[[Any, Tensor], Tails]
    quantile: Callable[[Any, Tails], Tensor] | None = None


_FAMILIES: dict[type[Distribution], Family] = {}


def register_tails(
    kind: type[Distribution],
    tails: Callable[[Any, Tensor], Tails],
    quantile: Callable[[Any, Tails], Tensor] | None = None,
) -> None:
    """State the tails of a class of univariate distributions.

    Args:
        kind: the class; its subclasses have them too, unless they define `log_prob` or `cdf`.
        tails: from an instance and finite points to the logarithms of both tails.
        quantile: from an instance and tails to the point that has them, if there is a formula.
    """
    _FAMILIES[kind] = Family(tails, quantile)


def family_of(distribution: Distribution) -> Family:
    """What is known of the family of a distribution.

    Raises:
        ConstraintError: if it is no univariate distribution, or has no cumulative distribution
            function.
    """
    kind = type(distribution)
    if distribution.event_shape:
        got = f"{kind.__name__} with events of shape {tuple(distribution.event_shape)}"
        fix = "Take the distribution of single numbers, and make events of the result."
        raise ConstraintError("cdf", "a distribution of single numbers", got, fix, code="no-cdf")
    for ancestor in kind.__mro__[: kind.__mro__.index(Distribution)]:
        if ancestor in _FAMILIES:
            return _FAMILIES[ancestor]
        if "cdf" in vars(ancestor):
            return Family(_own_tails)
        if "log_prob" in vars(ancestor):
            break  # another density than that of the class whose cdf it inherits
    raise no_cdf(kind.__name__)


def no_cdf(name: str) -> ConstraintError:
    """The error about a distribution without a cumulative distribution function."""
    expected = "a distribution with a cumulative distribution function: it needs one"
    fix = "Define cdf(value) in its class."
    return ConstraintError("cdf", expected, f"{name}, which has none", fix, code="no-cdf")


def _own_tails(d: Any, x: Tensor) -> Tails:
    """The tails of a class that defines a cdf of its own, as far as that is good."""
    low, high = bounds_of(d, x)
    share = d.cdf(torch.where((x > low) & (x < high), x, point_between(low, high)))
    below, above = (x < low) | (share <= 0), (x >= high) | (share >= 1)
    share = torch.where(below | above, 0.5, share)
    return Tails(share.log(), torch.log1p(-share)).outside(below, above)


def bounds_of(distribution: Distribution, like: Tensor) -> Ends:
    """The ends of the support of a univariate distribution, infinite where there are none."""
    ends = ends_of(entries_of(support_of(distribution)))
    low, high = (torch.tensor(-torch.inf), torch.tensor(torch.inf)) if ends is None else ends
    return low.to(like), high.to(like)


def point_between(low: Tensor, high: Tensor) -> Tensor:
    """A constant between two ends, which stands in for values where nothing is scored."""
    low, high = low.detach(), high.detach()
    beside = torch.where(low.isinf(), torch.where(high.isinf(), 0.0, high - 1), low + 1)
    return torch.where(low.isinf() | high.isinf(), beside, (low + high) / 2)


def plain_of(distribution: Distribution) -> Distribution:
    """The plain distribution to compute with: a live one now, in float32 if it is in less."""
    if isinstance(distribution, nn.Module):
        distribution = distribution()
    if not any(tensor.dtype in HALVES for _, tensor in tensors_of(distribution)):
        return distribution
    wide: Distribution = map_tensors(
        distribution, lambda _, tensor: tensor.float() if tensor.dtype in HALVES else tensor
    )
    return wide


def tails_of(distribution: Distribution, value: Tensor) -> Tails:
    """The logarithms of P(X <= value) and P(X > value).

    Args:
        distribution: a univariate distribution.
        value: of shape `(*sample, *batch)`, or one that broadcasts with it; may be infinite.

    Returns:
        Two tensors of shape `(*sample, *batch)`.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist.wrappers.cdfs import tails_of
        >>> tails_of(dd.Normal(0.0, 1.0), torch.tensor(10.0)).log_sf
        tensor(-53.2313)
    """
    plain = plain_of(distribution)
    if value.dtype in HALVES:
        tails = tails_of(plain, value.float())
        return Tails(*(tail.to(value.dtype) for tail in tails))
    is_usual = value.isfinite() | value.isnan()
    tails = family_of(plain).tails(plain, torch.where(is_usual, value, 0.0))
    return tails.outside(value == -torch.inf, value == torch.inf)


def log_mass(distribution: Distribution, low: Tensor | None, high: Tensor | None) -> Tensor:
    """The logarithm of P(low < X <= high), from the tail that is the smaller one.

    Args:
        distribution: a univariate distribution.
        low: the lower end, which may be -inf; None for none.
        high: the upper end, which may be inf; None for none.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist.wrappers.cdfs import log_mass
        >>> log_mass(dd.Normal(0.0, 1.0), torch.tensor(10.0), torch.tensor(12.0))
        tensor(-53.2313)
    """
    if low is None:
        return torch.zeros(()) if high is None else tails_of(distribution, high).log_cdf
    below = tails_of(distribution, low)
    if high is None:
        return below.log_sf
    above = tails_of(distribution, high)
    is_upper = below.log_sf < above.log_cdf
    large = torch.where(is_upper, below.log_sf, above.log_cdf)
    small = torch.where(is_upper, above.log_sf, below.log_cdf)
    is_all, is_none = small == -torch.inf, (large == -torch.inf) | (small >= large)
    is_part = ~(is_all | is_none)
    rest = log1mexp(torch.where(is_part, small, -2.0) - torch.where(is_part, large, -1.0))
    return (large + rest.masked_fill(is_all, 0.0)).masked_fill(is_none, -torch.inf)


def quantile_of(distribution: Distribution, tails: Tails) -> Tensor:
    """The point that has some tails, by a formula or by a search to the last digit.

    Its gradients are those of the equation that it solves. Of counts it is the smallest one whose
    lower tail is not below the one given, and has no gradient.
    """
    plain: Any = plain_of(distribution)
    formula = family_of(plain).quantile
    if formula is not None:
        return formula(plain, tails)
    tails = Tails(*torch.broadcast_tensors(*tails))
    return (_search_counts if plain.support.is_discrete else _search)(plain, tails)


@torch.no_grad()
def _search_counts(plain: Any, wanted: Tails) -> Tensor:
    """Halves of a bracket, over the logarithm of the distance to the least count."""
    least = bounds_of(plain, wanted.log_cdf)[0] - 1
    low, high = torch.full_like(wanted.log_cdf, -2.0), torch.full_like(wanted.log_cdf, 40.0)
    is_lower, found = wanted.log_cdf < wanted.log_sf, least
    for _ in range(10 - math.floor(math.log2(torch.finfo(low.dtype).eps))):
        y = (low + high) / 2
        tails = tails_of(plain, least + y.exp())
        is_below = torch.where(
            is_lower, tails.log_cdf < wanted.log_cdf, tails.log_sf > wanted.log_sf
        )
        low, high = torch.where(is_below, y, low), torch.where(is_below, high, y)
        found = (least + high.exp()).floor()
        if not is_traced(y) and (found - (least + low.exp()).floor() <= 1).all():
            break
    return found


def _search(plain: Any, wanted: Tails) -> Tensor:
    """Newton's method, and halves of a bracket, over a coordinate that runs over all numbers.

    Two more steps, with a graph, make first, second and third derivatives right (Christianson,
    Reverse accumulation and implicit functions, 1998).
    """
    is_lower = wanted.log_cdf < wanted.log_sf
    bounds = bounds_of(plain, is_lower.to(wanted.log_cdf))

    def miss(x: Tensor) -> tuple[Tensor, Tensor]:
        """How far the logarithm of the small tail is beyond, and its derivative."""
        tails = tails_of(plain, x)
        beyond = torch.where(
            is_lower, tails.log_cdf - wanted.log_cdf, wanted.log_sf - tails.log_sf
        )
        small = torch.where(is_lower, tails.log_cdf, tails.log_sf)
        return beyond, small

    limits = torch.finfo(wanted.log_cdf.dtype)
    with torch.no_grad():
        high = torch.full_like(wanted.log_cdf, math.log(limits.max) - 2)
        low, y, move = -high, torch.zeros_like(high), high
        for _ in range(10 - math.floor(math.log2(limits.eps))):
            x, stretch = _stretch(y, *bounds)
            beyond, small = miss(x)
            low, high = torch.where(beyond < 0, y, low), torch.where(beyond < 0, high, y)
            before, y, last = y, (low + high) / 2, move
            log_prob = plain.log_prob(x.clamp(*bounds))
            step = before - beyond * (small - log_prob).exp() / stretch
            size = (step - before).abs()
            is_safe = (step > low) & (step < high) & (size < last.abs() / 2)
            # Far out the derivative is lost to rounding, and a step may be 0.
            is_near = (size < limits.eps**0.5 * (1 + before.abs())) & (beyond.abs() < 1)
            y = torch.where(is_safe | is_near, step, y)
            move = y - before
            if not is_traced(y) and is_near.all():
                break
        x, _ = _stretch(y, *bounds)
    for _ in range(2):
        beyond, small = miss(x)
        x = x - beyond * (small - plain.log_prob(x)).exp()
    return x


def _stretch(y: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """A map from all numbers to those between two ends, and its derivative."""
    half, share = y.exp(), y.sigmoid()
    no_low, no_high = low.isinf(), high.isinf()
    finite = torch.where(no_low, 0.0, low), torch.where(no_high, 0.0, high)
    x = torch.where(no_low, finite[1] - 1 / half, finite[0] + half)
    slope = torch.where(no_low, 1 / half, half)
    is_line, is_between = no_low & no_high, ~(no_low | no_high)
    width = finite[1] - finite[0]
    x = torch.where(is_line, y.sinh(), torch.where(is_between, finite[0] + width * share, x))
    between = width * share * (-y).sigmoid()
    return x, torch.where(is_line, y.cosh(), torch.where(is_between, between, slope))


def cdf(distribution: Distribution, value: Tensor) -> Tensor:
    """The cumulative distribution function, with gradients in the value and all parameters.

    Unlike torch's it also knows Beta, Chi2, Gamma, StudentT, FisherSnedecor and the families of
    counts. Gradients in a shape are those of a series of quadrature nodes: see `incomplete`.

    Args:
        distribution: a univariate distribution.
        value: of shape `(*sample, *batch)`.

    Raises:
        ConstraintError: if it has none.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist.wrappers import cdf
        >>> df = torch.tensor(3.0, requires_grad=True)
        >>> cdf(dd.StudentT(df), torch.tensor(1.0))
        tensor(0.8045, grad_fn=<ExpBackward0>)
    """
    return tails_of(distribution, value).log_cdf.exp()


def log_cdf(distribution: Distribution, value: Tensor) -> Tensor:
    """The logarithm of P(X <= value), good in both tails: see `cdf`.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist.wrappers import log_cdf
        >>> log_cdf(dd.Normal(0.0, 1.0), torch.tensor(-10.0))
        tensor(-53.2313)
    """
    return tails_of(distribution, value).log_cdf


def log_survival_function(distribution: Distribution, value: Tensor) -> Tensor:
    """The logarithm of P(X > value), good in both tails: see `cdf`.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist.wrappers import log_survival_function
        >>> log_survival_function(dd.Weibull(2.0, 1.5), torch.tensor(2.0))
        tensor(-1.)
    """
    return tails_of(distribution, value).log_sf


def icdf(distribution: Distribution, probability: Tensor) -> Tensor:
    """The quantile function, the inverse of `cdf`, with the same gradients.

    Args:
        distribution: a univariate distribution.
        probability: of shape `(*sample, *batch)`.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist.wrappers import icdf
        >>> icdf(dd.Gamma(1.0, 2.0), torch.tensor(0.5))
        tensor(0.3466)
    """
    wide = probability.float() if probability.dtype in HALVES else probability
    tails = Tails(wide.log(), torch.log1p(-wide))
    shape = torch.broadcast_shapes(wide.shape, distribution.batch_shape)
    tails = Tails(*(tail.expand(shape) for tail in tails))
    return quantile_of(distribution, tails).to(probability.dtype)

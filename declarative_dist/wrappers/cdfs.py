"""Cumulative distribution functions by the logarithms of both tails.

A tail that is small is computed as such, never as one minus the other, so that both are right, and
have gradients, as far out as their logarithms are finite. What is known of torch's families is in
`tails`; `register_tails` adds others. Points at the ends of a support and beyond them are handled
here, so that a family says only what its tails are between them.
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
from declarative_dist.wrappers.incomplete import Tails

HALVES = (torch.float16, torch.bfloat16)
_APART = math.sqrt(3 / 20)
"""How far from the middle, in widths, the outer nodes of Gauss and Legendre are, of three."""

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
        tails: from an instance and points between the ends of its support, whole numbers if it is
            discrete, to the logarithms of both tails.
        quantile: from an instance and tails to the point that has them, if there is a formula.
    """
    _FAMILIES[kind] = Family(tails, quantile)


def family_of(distribution: Distribution, subject: str = "cdf") -> Family:
    """What is known of the family of a distribution.

    Raises:
        ConstraintError: if it is no univariate distribution, or has no cumulative distribution
            function.
    """
    check_single_numbers(distribution, subject)
    kind = type(distribution)
    for ancestor in kind.__mro__[: kind.__mro__.index(Distribution)]:
        if ancestor in _FAMILIES:
            return _FAMILIES[ancestor]
        if "cdf" in vars(ancestor):
            return Family(_own_tails)
        if "log_prob" in vars(ancestor):
            break  # another density than the class's whose cdf it inherits
    raise no_cdf(kind.__name__, subject)


def check_single_numbers(distribution: Distribution, subject: str) -> None:
    """Refuse a distribution of events of several numbers."""
    if distribution.event_shape:
        got = f"{type(distribution).__name__} with events of {tuple(distribution.event_shape)}"
        fix = "Take the distribution of single numbers, and make events of the result."
        raise ConstraintError(subject, "a distribution of single numbers", got, fix, code="no-cdf")


def no_cdf(name: str, subject: str = "cdf") -> ConstraintError:
    """The error about a distribution without a cumulative distribution function."""
    expected = "a distribution with a cumulative distribution function: it needs one"
    fix = "Define cdf(value) in its class."
    return ConstraintError(subject, expected, f"{name}, which has none", fix, code="no-cdf")


def _own_tails(d: Any, x: Tensor) -> Tails:
    """The tails of a class that defines a cdf of its own, as far as that is good."""
    share = d.cdf(x)
    below, above = share <= 0, share >= 1
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


def log_prob_where(plain: Any, value: Tensor, is_scored: Tensor, bounds: Ends) -> Tensor:
    """Log densities at some values between two ends, and -inf at others, without gradients.

    An end that is not in the support is among the others, and so is a part of a count.
    """
    low, high = bounds
    is_doubtful = (value == low) | (value == high) | plain.support.is_discrete
    is_scored = is_scored & ~(is_doubtful & ~plain.support.check(value))
    fill = point_between(*bounds)
    fill = fill.floor() if plain.support.is_discrete else fill
    scored: Tensor = plain.log_prob(torch.where(is_scored, value, fill))
    return scored.masked_fill(~is_scored, -torch.inf)


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


def like_of(distribution: Distribution) -> Tensor:
    """A tensor in whose dtype and on whose device a distribution computes."""
    tensors = (tensor for _, tensor in tensors_of(distribution) if tensor.is_floating_point())
    return next(tensors, torch.empty(()))


def tails_of(distribution: Distribution, value: Tensor) -> Tails:
    """The logarithms of P(X <= value) and P(X > value), of shape `(*sample, *batch)`."""
    plain = plain_of(distribution)
    wide = value.float() if value.dtype in HALVES else value
    tails = tails_within(plain, wide, bounds_of(plain, wide))
    return tails if wide is value else Tails(*(tail.to(value.dtype) for tail in tails))


def tails_within(plain: Any, x: Tensor, bounds: Ends, fill: Tensor | None = None) -> Tails:
    """The tails of a distribution whose support has some ends.

    Args:
        plain: the distribution.
        x: any points.
        bounds: the ends of its support.
        fill: the points between them that stand in for those that are not.
    """
    low, high = bounds
    x = x.floor() if plain.support.is_discrete else x
    below, above = x < low if plain.support.is_discrete else x <= low, x >= high
    fill = point_between(low, high) if fill is None else fill
    tails = family_of(plain).tails(plain, torch.where(below | above, fill, x))
    return tails.outside(below, above)


def log_mass(distribution: Distribution, low: Tensor, high: Tensor) -> Tensor:
    """The logarithm of P(low < X <= high), whose ends may be infinite.

    That of a thin interval is an integral of the density, where the two agree but for the digits
    that the difference of the tails loses.
    """
    plain: Any = plain_of(distribution)
    below, above = tails_at_ends(plain, low, high)
    mass = below.log_mass_until(above)
    if plain.support.is_discrete:
        return mass
    with torch.no_grad():
        large = torch.minimum(below.log_sf, above.log_cdf)
        share = (mass - large).exp()  # of the larger tail: what is left of it by the difference
        is_thin = (low < high) & (share < 0.1)
    if not is_traced(is_thin) and not is_thin.any():
        return mass
    bounds = bounds_of(plain, mass)
    low, high = (torch.where(is_thin, end, point_between(*bounds)) for end in (low, high))
    points = torch.stack([(low + high) / 2 + at * (high - low) for at in (-_APART, 0.0, _APART)])
    is_known = (points > bounds[0]) & (points < bounds[1]) & plain.support.check(points)
    is_thin = is_thin & is_known.all(0)
    density = log_prob_where(plain, points, is_thin.expand_as(points), bounds)
    width = torch.where(is_thin, high - low, 1.0)
    shares = torch.tensor([5.0, 8.0, 5.0]).to(mass) / 18
    weights = shares.log().reshape(3, *([1] * mass.ndim))
    mean = (density + weights).logsumexp(0)
    integral = width.log() + mean
    with torch.no_grad():
        is_thin = is_thin & ((mean - density[1]).abs() < 1e-3)
        lost = 64 * torch.finfo(mass.dtype).eps * (1 - large) / share
        is_thin = is_thin & ~((integral - mass).abs() > lost)
    return torch.where(is_thin, integral, mass)


def tails_at_ends(distribution: Distribution, low: Tensor, high: Tensor) -> tuple[Tails, Tails]:
    """The tails at two ends, computed at once."""
    plain = plain_of(distribution)
    shape = torch.broadcast_shapes(low.shape, high.shape, plain.batch_shape)
    ends = torch.stack([low.expand(shape), high.expand(shape)])
    bounds = bounds_of(plain, ends)
    is_inside = (ends > bounds[0]) & (ends < bounds[1])
    # The other end stands in for one beyond the support, for it has the scale of the data.
    fill = torch.where(is_inside.flip(0), ends.flip(0), point_between(*bounds)).detach()
    tails = tails_within(plain, ends, bounds, fill)
    return Tails(tails.log_cdf[0], tails.log_sf[0]), Tails(tails.log_cdf[1], tails.log_sf[1])


def cdf(distribution: Distribution, value: Tensor) -> Tensor:
    """The cumulative distribution function, with gradients in the value and all parameters.

    Unlike torch's it also knows Beta, Chi2, Gamma, StudentT, FisherSnedecor and the families of
    counts. Gradients in a shape come from a series of quadrature nodes: see `incomplete`.

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

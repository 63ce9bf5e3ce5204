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
from torch.distributions import Distribution, constraints

from declarative_dist.errors import ConstraintError
from declarative_dist.plain.nests import innermost
from declarative_dist.plain.supports import bounds_of, entries_of, support_of
from declarative_dist.plain.tensors import (
    HALF,
    map_tensors,
    tensors_of,
    typical_tensor,
    with_checks,
)
from declarative_dist.wrappers.incomplete import Tails

LOST = 1e-9
"""Below which probability one minus a cdf has lost more than half of its digits."""

Point = float | Tensor
"""A number, which may be infinite where a support has no end, or a tensor of them."""


def smaller(one: Point, other: Point) -> Point:
    """The smaller one of two points."""
    if not isinstance(one, Tensor):
        one, other = other, one
    if not isinstance(one, Tensor):
        return min(one, other)
    is_open = not isinstance(other, Tensor) and other == math.inf
    return one if is_open else one.clamp_max(other)


def larger(one: Point, other: Point) -> Point:
    """The larger one of two points."""
    if not isinstance(one, Tensor):
        one, other = other, one
    if not isinstance(one, Tensor):
        return max(one, other)
    is_open = not isinstance(other, Tensor) and other == -math.inf
    return one if is_open else one.clamp_min(other)


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


def family_of(distribution: Distribution) -> Family:
    """What is known of the family of a distribution.

    Raises:
        ConstraintError: if it is no univariate distribution, or has no cumulative distribution
            function.
    """
    check_single_numbers(distribution)
    kind = type(distribution)
    for ancestor in kind.__mro__[: kind.__mro__.index(Distribution)]:
        if ancestor in _FAMILIES:
            return _FAMILIES[ancestor]
        if "cdf" in vars(ancestor):
            return Family(_own_tails)
        if "log_prob" in vars(ancestor):
            break  # another density than the class's whose cdf it inherits
    raise no_cdf(kind.__name__)


def check_single_numbers(distribution: Distribution) -> None:
    """Refuse a distribution of events of several numbers."""
    if distribution.event_shape:
        got = f"{type(distribution).__name__} with events of {tuple(distribution.event_shape)}"
        fix = "Take the distribution of single numbers, and make events of the result."
        raise ConstraintError("cdf", "a distribution of single numbers", got, fix, code="no-cdf")


def no_cdf(name: str) -> ConstraintError:
    """The error about a distribution without a cumulative distribution function."""
    expected = "a distribution with a cumulative distribution function: it needs one"
    fix = "Define cdf(value) in its class."
    return ConstraintError("cdf", expected, f"{name}, which has none", fix, code="no-cdf")


def _own_tails(d: Any, x: Tensor) -> Tails:
    """The tails of a class that defines a cdf of its own, and perhaps the upper tail too."""
    share = d.cdf(x).to(x)
    below, above = share <= 0, share >= 1
    share = torch.where(below | above, 0.5, share)
    tails = Tails(share.log(), torch.log1p(-share)).outside(below, above)
    log_sf = getattr(d, "log_survival_function", None)
    return tails if log_sf is None else Tails(tails.log_cdf, log_sf(x).to(x))


def loses_tail(base: Univariate, end: Point) -> bool:
    """Whether P(X > end) is one minus a cdf that is nearly 1, of a class of your own."""
    if not isinstance(end, Tensor) or family_of(base.plain).tails is not _own_tails:
        return False
    is_lost = (base.tails(end).log_sf < math.log(LOST)) & (end < base.last)
    return not hasattr(base.plain, "log_survival_function") and bool(is_lost.any())


def has_atoms(distribution: Distribution) -> bool:
    """Whether single values of a plain distribution, among others, have a probability."""
    return bool(getattr(innermost(distribution), "has_atoms", False))


def gap_at(x: Tensor, dtype: torch.dtype) -> Tensor:
    """How far the next number is from x in some dtype, or twice as far: a constant."""
    limits = torch.finfo(dtype)
    return (x.detach().abs() * limits.eps).clamp(limits.tiny, limits.max)


class Univariate(NamedTuple):
    """A plain distribution of single numbers, with what is asked of it again and again.

    Attributes:
        plain: the distribution, in the dtype of the computation.
        support: its support as torch states it.
        first: the lower end of the support, -inf if there is none.
        last: the upper end.
        middle: a constant between both, which stands in for values where nothing is scored.
        like: a tensor of the dtype of the computation, where it takes place.
        dtype: the dtype of the distribution that you gave.
        is_discrete: whether values are whole numbers.
    """

    plain: Any
    support: Any
    first: Point
    last: Point
    middle: Point
    like: Tensor
    dtype: torch.dtype
    is_discrete: bool

    @property
    def has_masses(self) -> bool:
        """Whether single values have a probability, that at an end perhaps."""
        return self.is_discrete or has_atoms(self.plain)

    def cast(self, x: Tensor) -> Tensor:
        """Numbers in the dtype of the computation."""
        return x.to(self.like.dtype)

    def place(self, value: Tensor, *ends: Point) -> Tensor:
        """A value in the dtype of the computation; one that is an end but for rounding, is there.

        A value and an end are compared in the narrower dtype of a value and the distribution, for
        0.1 is another number in each.
        """
        x = self.cast(value)
        if value.dtype == self.dtype or not value.is_floating_point():
            return x
        dtype = max(value.dtype, self.dtype, key=lambda dtype: torch.finfo(dtype).eps)
        for end in ends:
            if isinstance(end, Tensor):
                x = torch.where(x.to(dtype) == end.to(dtype), end.detach(), x)
        return x

    def to_tensor(self, point: Point) -> Tensor:
        """A point as a tensor of the dtype of the computation, also if it is a number."""
        if isinstance(point, Tensor):
            return point.to(self.like)
        return torch.full_like(self.like, point)

    def before(self, x: Tensor) -> Tensor:
        """A point up to which all values are that lie below x, so that P(X >= x) is beyond it."""
        if self.is_discrete:
            return x.ceil() - 1
        return x - gap_at(x, x.dtype) if has_atoms(self.plain) else x

    def log_prob(self, x: Tensor, is_scored: Tensor) -> Tensor:
        """Log densities at some values in the support, and -inf at others, without gradients."""
        if self.support is not constraints.real:  # whose ends say all
            is_scored = is_scored & self.support.check(x)
        scored = self.cast(self.plain.log_prob(torch.where(is_scored, x, self.middle)))
        return scored.masked_fill(~is_scored, -torch.inf)

    def tails(self, x: Point, *, are_ends: bool = False) -> Tails:
        """The tails at any points.

        Args:
            x: the points; a number is infinite, and stands for no end.
            are_ends: whether they are pairs of ends, in front. Then the other end stands in for
                one beyond the support, for it has the scale of the data.
        """
        if not isinstance(x, Tensor):
            return Tails(self.to_tensor(-torch.inf), self.to_tensor(0.0)).swap(x > 0)
        x = self.cast(x.floor() if self.is_discrete else x)
        below = x < self.first if self.has_masses else x <= self.first
        above = x >= self.last
        is_beyond, fill = below | above, self.middle
        if are_ends:
            fill = torch.where(is_beyond.flip(0), self.middle, x.flip(0)).detach()
        x = torch.where(is_beyond, fill, x)
        return family_of(self.plain).tails(self.plain, x).outside(below, above)

    def tails_at(self, low: Point, high: Point) -> tuple[Tails, Tails]:
        """The tails at two ends, computed at once if there are both."""
        if not isinstance(low, Tensor) or not isinstance(high, Tensor):
            return self.tails(low), self.tails(high)
        ends = torch.stack(torch.broadcast_tensors(low, high))
        missing = len(self.plain.batch_shape) - ends.ndim + 1
        if missing > 0:
            ends = ends.reshape(2, *(1,) * missing, *ends.shape[1:])
        log_cdf, log_sf = (tail.unbind() for tail in self.tails(ends, are_ends=True))
        return Tails(log_cdf[0], log_sf[0]), Tails(log_cdf[1], log_sf[1])

    def clamp(self, x: Tensor, ends: tuple[Point, Point]) -> Tensor:
        """The values between two ends that are nearest to some."""
        return self.to_tensor(smaller(larger(x, ends[0]), ends[1]))

    def log_mass(self, low: Point, high: Point) -> Tensor:
        """The logarithm of P(low < X <= high), whose ends may be infinite."""
        if not isinstance(low, Tensor):
            return self.tails(high).log_cdf
        if not isinstance(high, Tensor):
            return self.tails(low).log_sf
        below, above = self.tails_at(low, high)
        return below.log_mass_until(above)


def univariate(distribution: Distribution, like: Tensor | None = None) -> Univariate:
    """A distribution, plain or live, ready to be computed with.

    Args:
        distribution: it has events of single numbers.
        like: what it is computed for: in the dtype of the distribution itself, but in float32 if
            that is half precision. None for float64.
    """
    own = like_of(distribution)
    has_float64 = not own.is_mps  # Metal has none
    least = torch.float64 if like is None and has_float64 else torch.float32
    like = own.new_empty((), dtype=least) if like is None else like
    plain = plain_of(distribution, least)
    if plain._validate_args:  # of values that are known to be inside
        plain = with_checks(plain, False)
    support = _support_of_counts(plain)
    bounds = bounds_of(entries_of(support)) or (-torch.inf, torch.inf)
    first, last = (b.to(like) if isinstance(b, Tensor) else b for b in bounds)
    beside = smaller((last - first) / 4, 1.0)
    middle = smaller(larger(first + beside, 0.0), last - beside)
    is_discrete = bool(support.is_discrete)
    if isinstance(middle, Tensor):
        middle = (middle.floor() if is_discrete else middle).detach()
    elif is_discrete:
        middle = math.floor(middle)
    return Univariate(plain, support, first, last, middle, like, own.dtype, is_discrete)


def _support_of_counts(plain: Any) -> Any:
    """The support of a distribution, unless it makes fractions of counts.

    Raises:
        ConstraintError: if it does, for torch takes them for numbers that have a density.
    """
    support = support_of(plain)
    inside: Any = innermost(plain)
    if inside is plain or support.is_discrete or not inside.support.is_discrete:
        return support
    expected = "counts that are shifted or turned by whole numbers, if they are transformed"
    got = f"{type(plain).__name__} of a {type(inside).__name__}, whose values are no whole numbers"
    raise ConstraintError("cdf", expected, got, "Wrap the counts themselves.", code="no-cdf")


def plain_of(distribution: Distribution, least: torch.dtype = torch.float32) -> Any:
    """The plain distribution to compute with: a live one now, in some precision at least."""
    plain: Any = distribution() if isinstance(distribution, nn.Module) else distribution
    narrow = HALF if least is torch.float32 else (*HALF, torch.float32)
    if not any(tensor.dtype in narrow for _, tensor in tensors_of(plain)):
        return plain
    return map_tensors(plain, lambda _, t: t.to(least) if t.dtype in narrow else t)


def like_of(distribution: Distribution) -> Tensor:
    """A tensor in whose dtype and on whose device a distribution computes."""
    return typical_tensor(innermost(distribution))


def tails_of(distribution: Distribution, value: Tensor) -> Tails:
    """The logarithms of P(X <= value) and P(X > value), of shape `(*sample, *batch)`."""
    wide, dtype = widen(distribution, value)
    base = univariate(distribution, wide)
    tails = base.tails(base.place(value, base.first, base.last))
    return Tails(*(tail.to(dtype) for tail in tails))


def widen(distribution: Distribution, value: Tensor) -> tuple[Tensor, torch.dtype]:
    """A value as it is computed with, and the dtype of results: its own, unless it is integer."""
    dtype = value.dtype if value.is_floating_point() else like_of(distribution).dtype
    return value.to(torch.float32 if dtype in HALF else dtype), dtype


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

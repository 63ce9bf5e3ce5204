"""The supports of plain distributions, and how one set compares with another."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributions as dd
from torch import Tensor
from torch.distributions import Distribution, constraints

from declarative_dist.errors import shorten
from declarative_dist.plain.nests import fold, innermost, steps_of
from declarative_dist.plain.tensors import tensors_of
from declarative_dist.plain.tracing import is_traced

Support = constraints.Constraint
Ends = tuple[Tensor, Tensor]

ROUNDING = 1e-6
"""How far ends may differ, as a share of their size or of the distance between them."""

FLOOR = 1e-3
"""How much of a half line a constraint may leave out at its end, to keep numbers finite there."""


class OrderedVector(Support):
    """The set of strictly increasing vectors, which torch has no object for."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Whether each vector increases strictly."""
        return (value[..., 1:] > value[..., :-1]).all(-1)


class PositiveOrderedVector(OrderedVector):
    """The set of strictly increasing vectors of positive numbers."""

    def check(self, value: Tensor) -> Tensor:
        """Whether each vector increases strictly, from above zero."""
        return super().check(value) & (value > 0).all(-1)


class _UpTo(type(constraints.less_than(0.0))):  # type: ignore[misc]
    """The numbers up to an end, that end included, which torch has no object for."""

    def check(self, value: Tensor) -> Tensor:
        """Whether each number is at most the end."""
        return value <= self.upper_bound


for _registry in (dd.biject_to, dd.transform_to):
    _registry.register(_UpTo, lambda below: dd.biject_to(constraints.less_than(below.upper_bound)))

_WHOLE: tuple[type[Support], ...] = (
    type(constraints.simplex),
    type(constraints.lower_cholesky),
    type(constraints.corr_cholesky),
    type(constraints.positive_definite),
    type(constraints.positive_semidefinite),
    OrderedVector,
)
"""Sets of whole events that have no ends to compare."""

_ENDS = ("lower", "upper")
_GAUSSIAN = (dd.Normal, dd.MultivariateNormal, dd.LowRankMultivariateNormal)
"""Densities that fall faster than any bounded map can stretch them at its ends."""


def support_of(distribution: Distribution) -> Any:
    """The support of a plain distribution, where torch states a larger one than there is.

    That of a von Mises distribution is a circle, and what an elementwise transform does to an
    interval is known.

    Raises:
        NotImplementedError: if it states none.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist.plain.supports import support_of
        >>> support_of(dd.TransformedDistribution(dd.Uniform(0.0, 1.0), dd.AffineTransform(1, 2)))
        Interval(lower_bound=1.0, upper_bound=3.0)
    """
    return fold(
        distribution,
        _state_support,
        independent=lambda nest, support: _with_events(support, nest),
        transformed=_push_through,
        mixture=lambda _, support: constraints.MixtureSameFamilyConstraint(support),
    )


def _state_support(distribution: Any) -> Any:
    if isinstance(distribution, dd.VonMises):
        # Torch states all numbers, for the density lives on all of them, and repeats.
        return constraints.interval(-torch.pi, torch.pi)
    stated = distribution.support
    is_interval = isinstance(stated, type(constraints.unit_interval))
    return between(stated.lower_bound, stated.upper_bound) if is_interval else stated


def _push_through(nest: Any, support: Any) -> Any:
    if type(nest).support is not dd.TransformedDistribution.support:
        return nest.support
    for transform in nest.transforms:
        support = push_support(support, transform)
    return _with_events(support, nest)


def _with_events(support: Any, distribution: Distribution) -> Any:
    """The support of whole events, where it says what single entries may be."""
    missing = len(distribution.event_shape) - support.event_dim
    return constraints.independent(support, missing) if missing > 0 else support


def is_whole(support: object) -> bool:
    """Whether a set is one of whole events, without ends for their entries."""
    return isinstance(support, _WHOLE)


def find_outside(distribution: Distribution, value: Tensor) -> Tensor | None:
    """Where values are outside the support, of shape `(*sample, *batch)`.

    Args:
        distribution: a plain distribution.
        value: of shape `(*sample, *batch, *event)`.

    Returns:
        None if all are inside, or nothing is known.
    """
    try:
        support = support_of(distribution)
        is_bad: Tensor = support.check(value).logical_not()
    except (NotImplementedError, RuntimeError):
        return None
    missing = len(distribution.event_shape) - support.event_dim
    if missing > 0:
        is_bad = is_bad.flatten(-missing).any(-1)
    return None if is_traced(is_bad) or not is_bad.any() else is_bad


def first_outside(distribution: Distribution, value: Tensor) -> str:
    """The first value that `find_outside` finds, with its index; "" if there is none."""
    is_bad = find_outside(distribution, value)
    if is_bad is None:
        return ""
    index = tuple(is_bad.nonzero()[0].tolist())
    events = value.shape[value.ndim - len(distribution.event_shape) :]
    whole = value.expand(torch.Size((*is_bad.shape, *events)))
    where = f" at index {', '.join(map(str, index))}" if index else ""
    return f"{shorten(whole[index])}{where}"


def lies_within(own: Any, wanted: Any) -> bool:
    """Whether a support lies inside another one, up to the boundary.

    Args:
        own: the one inside.
        wanted: the one around it.

    Returns:
        False only if it is known not to.

    Example:
        >>> from torch.distributions import constraints
        >>> from declarative_dist.plain.supports import lies_within
        >>> lies_within(constraints.nonnegative, constraints.positive)
        True
        >>> lies_within(constraints.real, constraints.positive)
        False
    """
    try:
        if own.is_discrete != wanted.is_discrete:
            return False
    except NotImplementedError:
        return True
    mine, theirs = entries_of(own), entries_of(wanted)
    ends, others = ends_of(mine), ends_of(theirs)
    inner, outer = (entries_of(getattr(k, "base_constraint", k)) for k in (mine, theirs))
    if others is not None:
        return ends is None or _is_inside(ends, others)
    if not is_whole(outer) or not is_whole(inner):
        return ends is None or not is_whole(outer)
    is_scaled = isinstance(inner, type(constraints.corr_cholesky))
    is_lower = isinstance(outer, type(constraints.lower_cholesky))
    return shape_of(outer) is shape_of(inner) or (is_scaled and is_lower)


def has_learned_ends(distribution: Distribution) -> bool | None:
    """Whether its support has ends that carry gradients, at which its density may not vanish.

    That of a Gaussian that is squashed into an interval does.

    Returns:
        None where nobody can tell: something is learned, and no support is stated.
    """
    if isinstance(innermost(distribution), _GAUSSIAN):
        return False
    try:
        ends = ends_of(entries_of(support_of(distribution)))
    except NotImplementedError:
        is_learned = any(tensor.requires_grad for _, tensor in tensors_of(distribution))
        return None if is_learned else False
    return ends is not None and any(end.requires_grad for end in ends)


def push_support(support: Any, transform: Any) -> Any:
    """Where a transform puts a set: all that it reaches, or for an interval, what is between."""
    for step in steps_of(transform):
        ends = ends_of(entries_of(support))
        is_elementwise = isinstance(step, dd.AffineTransform) or (
            step.domain.event_dim == step.codomain.event_dim == 0
        )
        if ends is None or not is_elementwise or _is_domain(support, ends, step):
            support = step.codomain
            continue
        one, other = (_move_end(end, step) for end in ends)
        tensors = [bound for bound in vars(support).values() if isinstance(bound, Tensor)]
        tensors += [tensor for _, tensor in tensors_of(step)]
        pair = torch.minimum(one, other), torch.maximum(one, other)
        # In the dtype of the tensors that the ends come from, if any.
        bounds = (end.to(tensors[0].dtype) if tensors else end.item() for end in pair)
        is_counted = support.is_discrete and _keeps_whole(step)
        support = (constraints.integer_interval if is_counted else between)(*bounds)
    return support


def _keeps_whole(transform: Any) -> bool:
    """Whether a transform only shifts or turns whole numbers, by whole ones."""
    if not isinstance(transform, dd.AffineTransform):
        return False
    loc, scale = torch.as_tensor(transform.loc), torch.as_tensor(transform.scale)
    return is_traced(loc, scale) or bool(((loc == loc.floor()) & (scale.abs() == 1)).all())


def _is_domain(support: Any, ends: Ends, transform: Any) -> bool:
    """Whether a set is all that a transform takes, but for rounding."""
    sets = entries_of(support), entries_of(transform.domain)
    whole = ends_of(sets[1])
    if whole is None or not is_traced(*ends, *whole):
        return whole is None or are_near(ends, whole)
    # A tensor that nobody may look at now is learned, and no end of a domain is.
    mine, theirs = ([getattr(s, f"{end}_bound", None) for end in _ENDS] for s in sets)
    return not any(isinstance(bound, Tensor) for bound in (*mine, *theirs)) and mine == theirs


def between(low: Any, high: Any) -> Any:
    """The set between two ends, these included; one whose ends are all infinite is none."""
    if not is_traced(low, high):
        has_low, has_high = (not torch.as_tensor(end).isinf().all() for end in (low, high))
        if not has_high:
            return constraints.greater_than_eq(low) if has_low else constraints.real
        if not has_low:
            return _UpTo(high)
    return constraints.interval(low, high)


def _move_end(end: Tensor, transform: Any) -> Tensor:
    """Where a transform puts an end. A scale moves neither zero nor infinity, learned or not."""
    is_scaled = isinstance(transform, dd.AffineTransform) and not is_traced(end)
    if is_scaled and not end.nan_to_num(0.0, 0.0, 0.0).any():
        scale = torch.as_tensor(transform.scale, dtype=end.dtype).detach()
        return torch.as_tensor(transform.loc, dtype=end.dtype) + scale * end
    moved: Any = transform(end)
    return moved


def entries_of(support: Any) -> Any:
    """What a support says of each entry, where it says nothing of whole events."""
    while isinstance(support, type(constraints.independent(constraints.real, 1))):
        support = support.base_constraint
    return support


def shape_of(kind: Any) -> type:
    """The kind of set of whole events; semidefinite is definite but for the boundary."""
    is_semi = isinstance(kind, type(constraints.positive_semidefinite))
    return type(constraints.positive_definite) if is_semi else type(kind)


def ends_of(support: Any) -> Ends | None:
    """The lower and upper end of a set of numbers; None for another kind of set."""
    bounds = bounds_of(support)
    if bounds is None:
        return None
    low, high = (torch.as_tensor(bound, dtype=torch.float64) for bound in bounds)
    return low, high


def bounds_of(support: Any) -> tuple[float | Tensor, float | Tensor] | None:
    """The same as the set states them: numbers, infinite ones for none, or tensors."""
    if isinstance(support, constraints.MixtureSameFamilyConstraint):
        bounds = bounds_of(entries_of(support.base_constraint))
        if bounds is None:
            return None
        low, high = bounds
        among = -1 - support.base_constraint.event_dim  # where the components are
        low = _spread(low, -among).amin(among) if isinstance(low, Tensor) else low
        return low, _spread(high, -among).amax(among) if isinstance(high, Tensor) else high
    low = getattr(support, "lower_bound", -torch.inf)
    high = getattr(support, "upper_bound", torch.inf)
    if isinstance(support, type(constraints.boolean)):
        return 0, 1
    if isinstance(support, constraints.multinomial):
        return 0, high
    is_stated = hasattr(support, "lower_bound") or hasattr(support, "upper_bound")
    return (low, high) if is_stated or isinstance(support, type(constraints.real)) else None


def _spread(bound: Tensor, ndim: int) -> Tensor:
    """A bound with so many dimensions at least."""
    return bound if bound.ndim >= ndim else bound.expand((1,) * ndim)


def are_near(ends: Ends, others: Ends) -> bool:
    """Whether a constraint and a support have the same ends, but for rounding and a floor."""
    return _is_inside(ends, others) and _is_inside(others, ends, FLOOR)


def _is_inside(ends: Ends, others: Ends, floor: float = 0.0) -> bool:
    """Whether what is between two ends is between two others, but for rounding.

    Args:
        ends: the two ends inside.
        others: the two around them.
        floor: how much may be beyond the end of a half line, as a share of 1 or of its size.
    """
    if is_traced(*ends, *others):
        return True
    low, high, their_low, their_high = (end.detach().cpu() for end in (*ends, *others))
    parts = (low, high, their_low, their_high, high - low, their_high - their_low)
    try:
        sizes = torch.broadcast_tensors(*(part.nan_to_num(0.0, 0.0, 0.0).abs() for part in parts))
    except RuntimeError:
        return False  # the shapes of bounds do not go together
    size = torch.stack(sizes).amax(0)
    wide = torch.maximum(size * ROUNDING, size.clamp_min(1.0) * floor)
    below, above = (
        torch.where(far.isfinite(), size * ROUNDING, wide) for far in (their_high, their_low)
    )
    return bool(((low >= their_low - below) & (high <= their_high + above)).all())

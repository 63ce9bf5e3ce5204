"""How sets compare: the support of a prior with a constraint, that of a guide with its target.

A prior and its parameter must live on the same set but for the boundary, which has no mass: a
density on a larger set would not be one on the smaller set, and where it is smaller it would be
zero. A guide must lie inside its target's support, up to the boundary too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributions as dd
from torch import Tensor
from torch.distributions import Distribution, constraints

from declarative_dist.constraints.adapters import FromModule, FromTransform
from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.ordered import OrderedVector
from declarative_dist.errors import ConstraintError, DeclarationError, shorten
from declarative_dist.fields.prior import told
from declarative_dist.plain.tracing import is_traced
from declarative_dist.randomness import same_random_numbers

ROUNDING = 1e-6
"""How far ends may differ, as a share of their size or of the distance between them."""

FLOOR = 1e-3
"""How much of a half line a constraint may leave out at its end, to keep numbers finite there."""

_STATED: Mapping[type, constraints.Constraint] = {
    dd.VonMises: constraints.interval(-torch.pi, torch.pi)
}
"""Supports of densities that torch says to live on all numbers, and that repeat there."""

_SHAPED = (
    type(constraints.simplex),
    type(constraints.lower_cholesky),
    type(constraints.corr_cholesky),
    type(constraints.positive_definite),
    type(constraints.positive_semidefinite),
    OrderedVector,
)
"""Sets of whole events that have no ends to compare."""

_HULLS: Mapping[type, tuple[float, float]] = {
    type(constraints.simplex): (0.0, 1.0),
    type(constraints.corr_cholesky): (-1.0, 1.0),
    type(constraints.one_hot): (0.0, 1.0),
}
"""Between which numbers the entries of events are; those of other sets may be any."""

_ENDS = ("lower", "upper")
_GAUSSIAN = (dd.Normal, dd.MultivariateNormal, dd.LowRankMultivariateNormal)
"""Densities that fall faster than any bounded map can stretch them at its ends."""

_EXAMPLES = {
    type(constraints.simplex): "dd.Dirichlet(...)",
    type(constraints.corr_cholesky): "dd.LKJCholesky(dim)",
    type(constraints.positive_definite): "dd.Wishart(df, covariance)",
}
"""Plain distributions on them."""


def check_support(
    prior: Any,
    constraint: Constraint,
    subject: str,
    error: type[ConstraintError | DeclarationError] = ConstraintError,
) -> None:
    """Refuse a prior whose support is another set than that of the constraint.

    Args:
        prior: the module that holds it.
        constraint: that of the parameter, without names in it.
        subject: whom an error is about.
        error: the kind of error to raise.

    Raises:
        ConstraintError: or another kind, if the sets differ by more than their boundary.
    """
    distribution: Distribution = prior()
    try:
        support = support_of(distribution)
    except NotImplementedError:
        support = None
    if support is None or support.is_discrete:
        got = "which does not state its support" if support is None else "which is discrete"
        raise error(
            subject,
            "a prior with a density, on a stated support",
            f"{told(prior)}, {got}",
            f"Write prior={_example(constraint.support)}, for instance.",
            code="prior-mismatch",
        )
    if isinstance(constraint, FromModule):
        return  # only the module knows its set
    if not _agree(distribution, support, constraint):
        raise error(
            subject,
            f"a prior on the set of {constraint!r}, {constraint.describe()}",
            f"{told(prior)}, whose support is {support}",
            f"Write prior={_example(constraint.support)}, for instance, or give the parameter the "
            f"constraint of the prior. A prior is not cut off at a bound: move one there with "
            f"dd.TransformedDistribution.",
            code="prior-mismatch",
        )


def is_settled(constraint: Constraint) -> bool:
    """Whether the set of a constraint is known and stays as it was when it was checked."""
    return not constraint.names and not isinstance(constraint, FromModule)


def lies_within(own: Any, wanted: Any) -> bool:
    """Whether a support lies inside another one, up to the boundary.

    Args:
        own: the one inside.
        wanted: the one around it.

    Returns:
        False only if it is known not to.

    Example:
        >>> from torch.distributions import constraints
        >>> from declarative_dist.fields.supports import lies_within
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
    mine, theirs = _elementwise(own), _elementwise(wanted)
    ends, others = _ends_of(mine), _ends_of(theirs)
    inner, outer = (
        _elementwise(kind.base_constraint)
        if isinstance(kind, constraints.MixtureSameFamilyConstraint)
        else kind
        for kind in (mine, theirs)
    )
    if others is not None:
        if ends is None and isinstance(inner, (*_SHAPED, *_HULLS)):
            hull = _HULLS.get(type(inner), (-torch.inf, torch.inf))
            ends = torch.tensor(hull[0]).double(), torch.tensor(hull[1]).double()
        return ends is None or _are_inside(ends, others)
    if not isinstance(outer, _SHAPED):
        return True
    if not isinstance(inner, _SHAPED):
        return ends is None
    is_scaled = isinstance(inner, type(constraints.corr_cholesky))
    kinds = {_shape_of(inner), type(constraints.lower_cholesky) if is_scaled else None}
    return _shape_of(outer) in kinds


def has_learned_ends(distribution: Distribution) -> bool:
    """Whether its support has ends that carry gradients, at which its density may not vanish.

    That of a Gaussian that is squashed into an interval does.
    """
    leaf: Any = distribution
    while isinstance(leaf, (dd.Independent, dd.MixtureSameFamily)) or (
        type(leaf) is dd.TransformedDistribution
    ):
        is_mixture = isinstance(leaf, dd.MixtureSameFamily)
        leaf = getattr(leaf, "component_distribution" if is_mixture else "base_dist")
    if isinstance(leaf, _GAUSSIAN):
        return False
    try:
        ends = _ends_of(_elementwise(support_of(distribution)))
    except NotImplementedError:
        return False
    return ends is not None and any(end.requires_grad for end in ends)


def first_outside(distribution: Distribution, value: Tensor) -> str:
    """The first value outside the support, with its index; "" if there is none, or none known.

    Args:
        distribution: a plain distribution.
        value: of shape `(*sample, *batch, *event)`.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist.fields.supports import first_outside
        >>> first_outside(dd.Gamma(1.0, 1.0), torch.tensor([2.0, -1.0]))
        '-1.0 at index 1'
    """
    try:
        support: Any = distribution.support
        is_bad = support.check(value).logical_not()
    except (NotImplementedError, RuntimeError):
        return ""
    if is_traced(is_bad) or not is_bad.any():
        return ""
    index = tuple(is_bad.nonzero()[0].tolist())
    events = value.shape[value.ndim - int(support.event_dim) :]
    whole = value.expand(torch.Size((*is_bad.shape, *events)))
    where = f" at index {', '.join(map(str, index))}" if index else ""
    return f"{shorten(whole[index])}{where}"


def support_of(distribution: Distribution) -> Any:
    """The support of a plain distribution, where torch states a larger one than there is.

    Raises:
        NotImplementedError: if it states none.
    """
    if type(distribution) in _STATED:
        return _STATED[type(distribution)]
    if isinstance(distribution, dd.Independent):
        return support_of(distribution.base_dist)
    if isinstance(distribution, dd.MixtureSameFamily):
        component = distribution.component_distribution
        inner: Any = support_of(component)
        rest = len(component.event_shape) - inner.event_dim
        return constraints.MixtureSameFamilyConstraint(constraints.independent(inner, rest))
    if type(distribution) is not dd.TransformedDistribution:
        return distribution.support
    support = support_of(distribution.base_dist)
    for transform in distribution.transforms:
        support = _pushed(support, transform)
    return support


def _pushed(support: Any, transform: Any) -> Any:
    """Where a transform puts a set: all that it reaches, or for an interval, what is between."""
    if isinstance(transform, dd.ComposeTransform):
        for part in transform.parts:
            support = _pushed(support, part)
        return support
    if isinstance(transform, dd.IndependentTransform):
        return _pushed(support, transform.base_transform)
    ends, whole = (_ends_of(_elementwise(kind)) for kind in (support, transform.domain))
    is_elementwise = issubclass(type(transform), dd.AffineTransform) or (
        transform.domain.event_dim == 0 and transform.codomain.event_dim == 0
    )
    if ends is None or whole is None or not is_elementwise or _is_whole(support, transform):
        return transform.codomain
    one, other = (_moved(end, transform) for end in ends)
    return constraints.interval(torch.minimum(one, other), torch.maximum(one, other))


def _is_whole(support: Any, transform: Any) -> bool:
    """Whether a set is all that a transform takes, but for rounding."""
    sets = _elementwise(support), _elementwise(transform.domain)
    ends, whole = map(_ends_of, sets)
    if ends is None or whole is None:
        return False
    if not is_traced(*ends, *whole):
        return _are_near(ends, whole)
    # A tensor that nobody may look at now is learned, and no end of a domain is.
    lows, highs = ([getattr(kind, f"{end}_bound", None) for kind in sets] for end in _ENDS)
    is_known = not any(isinstance(bound, Tensor) for bound in (*lows, *highs))
    return is_known and lows[0] == lows[1] and highs[0] == highs[1]


def _moved(end: Tensor, transform: Any) -> Tensor:
    """Where a transform puts an end. A scale moves neither zero nor infinity, learned or not."""
    is_scaled = isinstance(transform, dd.AffineTransform) and not is_traced(end)
    if is_scaled and not _finite(end).any():
        scale = torch.as_tensor(transform.scale, dtype=end.dtype).detach()
        return torch.as_tensor(transform.loc, dtype=end.dtype) + scale * end
    return transform(end)  # type: ignore[no-any-return]


def _example(support: constraints.Constraint) -> str:
    inner = _elementwise(support)
    low, high = getattr(inner, "lower_bound", None), getattr(inner, "upper_bound", None)
    if type(inner) in _EXAMPLES:
        return _EXAMPLES[type(inner)]
    if type(inner) in _SHAPED:
        return "dd.TransformedDistribution(dd.Normal(...), constraint.as_transform())"
    if low is not None and high is not None:
        is_unit = not isinstance(low, Tensor) and (low, high) == (0.0, 1.0)
        return "dd.Beta(2.0, 2.0)" if is_unit else "dd.Uniform(low, high)"
    if isinstance(low, (int, float)) and low == 0:
        return "dd.LogNormal(0.0, 1.0)"
    if low is None and high is None:
        return "dd.Normal(0.0, 1.0)"
    sign = "" if low is not None else "-"
    return f"dd.TransformedDistribution(dd.HalfNormal(1.0), dd.AffineTransform(bound, {sign}1.0))"


def _elementwise(support: Any) -> Any:
    """What a support says of each entry, where it says no more."""
    while isinstance(support, type(constraints.independent(constraints.real, 1))):
        support = support.base_constraint
    return support


def _agree(distribution: Distribution, support: Any, constraint: Constraint) -> bool:
    own = constraint.support
    if isinstance(constraint, FromTransform):
        own = _pushed(constraints.real, constraint.current())
    mine, theirs = _elementwise(own), _elementwise(support)
    ends, others = _ends_of(mine), _ends_of(theirs)
    if ends is not None and others is not None:
        return _are_near(ends, others)
    shaped = [kind for kind in (mine, theirs) if isinstance(kind, _SHAPED)]
    if len(shaped) == 2:
        return _shape_of(mine) is _shape_of(theirs)
    if len(shaped) == 1 and (ends or others):
        return False
    return _agree_at_draws(distribution, support, constraint)


def _shape_of(kind: Any) -> type:
    is_semi = isinstance(kind, type(constraints.positive_semidefinite))
    return type(constraints.positive_definite) if is_semi else type(kind)


def _ends_of(support: Any) -> tuple[Tensor, Tensor] | None:
    """The lower and upper end of a set of numbers; None for another kind of set."""
    if isinstance(support, constraints.MixtureSameFamilyConstraint):
        ends = _ends_of(_elementwise(support.base_constraint))
        if ends is None:
            return None
        among = -1 - support.base_constraint.event_dim  # where the components are
        lows, highs = (end if end.ndim >= -among else end.expand((1,) * -among) for end in ends)
        return lows.amin(among), highs.amax(among)
    low: Any = getattr(support, "lower_bound", None)
    high: Any = getattr(support, "upper_bound", None)
    if isinstance(support, type(constraints.boolean)):
        low, high = 0, 1
    elif isinstance(support, constraints.multinomial):
        low = 0
    if low is None and high is None and not isinstance(support, type(constraints.real)):
        return None
    return (
        torch.as_tensor(-torch.inf if low is None else low, dtype=torch.float64),
        torch.as_tensor(torch.inf if high is None else high, dtype=torch.float64),
    )


def _are_inside(ends: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor]) -> bool:
    """Whether what is between two ends is between two others, but for rounding."""
    if is_traced(*ends, *others):
        return True
    low, high, their_low, their_high = (end.detach().cpu() for end in (*ends, *others))
    try:
        slack = ROUNDING * torch.stack(
            torch.broadcast_tensors(
                *(_finite(end).abs() for end in (low, high, their_low, their_high)),
                _finite(high - low),
            )
        ).amax(0)
    except RuntimeError:  # bounds whose shapes do not go together
        return True
    return bool(((low >= their_low - slack) & (high <= their_high + slack)).all())


def _are_near(ends: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor]) -> bool:
    """Whether the ends of a constraint are those of a support, but for rounding and a floor."""
    if is_traced(*ends, *others):
        return True
    low, high, their_low, their_high = (end.cpu() for end in (*ends, *others))
    length = _finite(high - low)
    try:
        return _is_near(low, their_low, length, low - their_low, high) and _is_near(
            high, their_high, length, their_high - high, low
        )
    except RuntimeError:  # bounds whose shapes do not go together
        return False


def _is_near(end: Tensor, their: Tensor, length: Tensor, left_out: Tensor, far: Tensor) -> bool:
    size = torch.maximum(torch.maximum(_finite(end).abs(), _finite(their).abs()), length)
    slack = size * ROUNDING
    floor = torch.where(far.isfinite(), slack, size.clamp_min(1.0) * FLOOR)
    return bool(((end == their) | ((left_out >= -slack) & (left_out <= floor))).all())


def _finite(numbers: Tensor) -> Tensor:
    return torch.where(numbers.isfinite(), numbers, torch.zeros_like(numbers))


def _agree_at_draws(distribution: Distribution, support: Any, constraint: Constraint) -> bool:
    """Whether draws of the prior are inside the constraint, and its values inside the support.

    For sets that nothing else is known about. The state of the random numbers stays as it was.
    """
    with torch.no_grad(), same_random_numbers():
        try:
            torch.manual_seed(0)
            draws = distribution.sample(torch.Size((64,)))
            if is_traced(draws):
                return True
            values = constraint.forward(torch.randn(constraint.raw_shape(draws.shape)).to(draws))
            inside = constraint.contains(draws).all() & support.check(values).all()
        except NotImplementedError:  # no sampler
            return True
        except (RuntimeError, ValueError, IndexError):  # events of other shapes
            return False
    return bool(inside)

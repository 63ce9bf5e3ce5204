"""Whether a guide and a target speak of the same values, as far as can be known beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributions as dd
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from declarative_dist.distributions.ancestral import JointDistribution, same_random_numbers
from declarative_dist.distributions.joint import Conditioned, Joint
from declarative_dist.distributions.probing import evaluating
from declarative_dist.distributions.variational import Variational
from declarative_dist.errors import ConstraintError, did_you_mean
from declarative_dist.objectives.targets import check_shapes

_UNCONSTRAINED = (-8.0, 0.0, 8.0)
_FAR = (*_UNCONSTRAINED, -1e4, 1e4)
_UNBOUNDED = (type(constraints.real), constraints.greater_than, constraints.greater_than_eq)
"""Supports whose far values do not come near a bound that they may share with the target."""


def check_match(target: Any, current: Any, guide: nn.Module, subject: str) -> None:
    """Refuse a guide with draws that a target has no density for.

    Args:
        target: what stands for the target; of functions and other modules nothing is known.
        current: the guide's distribution.
        guide: the guide.
        subject: whom an error is about.

    Raises:
        ConstraintError: if sites, event shapes or supports differ.
    """
    if isinstance(target, Variational):
        _check_kind(isinstance(current, Distribution), "a tensor", type(guide).__name__, subject)
        _check_distributions(target(), current, subject)
    elif isinstance(target, (Joint, Conditioned)):
        _check_kind(
            not isinstance(current, Distribution),
            "a dict of tensors by site",
            type(guide).__name__,
            subject,
        )
        _check_sites(target, current, guide, subject)


def _check_kind(is_right: bool, wanted: str, name: str, subject: str) -> None:
    if not is_right:
        other = "a tensor" if "dict" in wanted else "a dict of tensors by site"
        fix = "Declare the guide as a Joint." if "dict" in wanted else ""
        raise ConstraintError(
            subject, f"a guide whose draws are {wanted}", f"{name}, whose are {other}", fix
        )


def _check_distributions(target: Distribution, guide: Distribution, subject: str) -> None:
    if target.event_shape != guide.event_shape:
        check_shapes(target, guide.batch_shape, guide.event_shape, subject)
    own = _support(guide)
    if own is not None:
        shape = torch.Size((*guide.batch_shape, *guide.event_shape))
        _check_supports(own, _support(target), shape, subject)


def _check_sites(target: Any, current: Any, guide: nn.Module, subject: str) -> None:
    try:
        conditioned = target if isinstance(target, Conditioned) else target.condition()
        supports = conditioned.supports
        with torch.no_grad(), same_random_numbers(), evaluating(guide):
            draws = current.sample()
    except NotImplementedError:
        return  # a site without a sampler
    for name in supports:
        if name not in draws:
            raise ConstraintError(
                f"{subject}.{name}",
                f"a guide for every site of the target ({', '.join(supports)})",
                f"one for {', '.join(draws) or 'none'}",
                did_you_mean(name, draws),
            )
    for name in draws:
        if name not in supports:
            raise ConstraintError(
                f"{subject}.{name}",
                f"a guide for the sites of the target alone ({', '.join(supports)})",
                f"one for {name} too",
                did_you_mean(name, supports),
            )
    sites = current.sites if isinstance(current, JointDistribution) else {}
    for name, site in sites.items():
        own = _support(site) if isinstance(site, Distribution) else None
        if own is not None:
            _check_supports(own, supports[name], draws[name].shape, f"{subject}.{name}")


def _support(distribution: Distribution) -> constraints.Constraint | None:
    try:
        support: Any = distribution.support
    except NotImplementedError:
        return None
    return support if isinstance(support, constraints.Constraint) else None


def _check_supports(own: Any, wanted: Any, shape: torch.Size, subject: str) -> None:
    try:
        is_outside = wanted is not None and (
            own.is_discrete != wanted.is_discrete
            or any(not wanted.check(point).all() for point in _points(own, shape))
        )
    except (NotImplementedError, RuntimeError, ValueError):
        return  # supports that depend on what is not known here
    if is_outside:
        raise ConstraintError(
            subject,
            f"a guide inside the target's support, {wanted}",
            f"one whose support is {own}",
            "Choose a family with that support, or transform it: "
            "torch.distributions.TransformedDistribution.",
        )


def _points(support: Any, shape: torch.Size) -> Iterator[Tensor]:
    """Some values that lie well inside a support, and far out where it has no end."""
    inner = support
    while hasattr(inner, "base_constraint"):
        inner = inner.base_constraint
    if inner.is_discrete:
        low = 0 if inner is constraints.boolean else getattr(inner, "lower_bound", None)
        high = 1 if inner is constraints.boolean else getattr(inner, "upper_bound", None)
        if low is not None:
            for value in (low, low + 50 if high is None else high):
                yield torch.as_tensor(value).expand(shape).float()
        return
    if isinstance(support, constraints.MixtureSameFamilyConstraint):
        support = support.base_constraint
    transform = dd.transform_to(support)
    whole = transform.inverse_shape(shape)
    for raw in _FAR if isinstance(inner, _UNBOUNDED) else _UNCONSTRAINED:
        value = transform(torch.full(whole, raw, dtype=torch.float64))
        if value.shape == shape:
            yield value

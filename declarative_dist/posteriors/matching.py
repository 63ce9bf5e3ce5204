"""Whether a guide and a target speak of the same values, as far as can be known beforehand."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributions import Distribution, constraints

from declarative_dist.errors import ConstraintError, did_you_mean
from declarative_dist.families.probe import evaluating
from declarative_dist.families.variational import Variational
from declarative_dist.joints.conditioned import Conditioned
from declarative_dist.joints.distribution import JointDistribution
from declarative_dist.joints.joint import Joint
from declarative_dist.plain.supports import lies_within, support_of
from declarative_dist.posteriors.guides import NormalGuide
from declarative_dist.posteriors.targets import check_shapes
from declarative_dist.randomness import same_random_numbers


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
            subject,
            f"a guide whose draws are {wanted}",
            f"{name}, whose are {other}",
            fix,
            code="guide-mismatch",
        )


def _check_distributions(target: Distribution, guide: Distribution, subject: str) -> None:
    if target.event_shape != guide.event_shape:
        check_shapes(target, guide.batch_shape, guide.event_shape, subject)
    _check_supports(_support(guide), _support(target), subject)


def _check_sites(target: Any, current: Any, guide: nn.Module, subject: str) -> None:
    try:
        conditioned = target if isinstance(target, Conditioned) else target.condition()
        sites = conditioned.one_draw().items()
        supports = {n: _support(d) for n, (d, _) in sites if n not in conditioned.observed}
        with torch.no_grad(), same_random_numbers(), evaluating(guide):
            draws = current.sample()
    except NotImplementedError:
        return  # a site without a sampler
    listed = ", ".join(supports)
    for wanted, given, expected, got in (
        (supports, draws, f"every site of the target ({listed})", ", ".join(draws) or "none"),
        (draws, supports, f"the sites of the target alone ({listed})", "{name} too"),
    ):
        for name in wanted:
            if name not in given:
                raise ConstraintError(
                    f"{subject}.{name}",
                    f"a guide for {expected}",
                    f"one for {got.format(name=name)}",
                    did_you_mean(name, given) if given is draws else "Leave it out.",
                    code="guide-mismatch",
                )
    parts = current.sites if isinstance(current, JointDistribution) else {}
    own = {n: _support(site) for n, site in parts.items() if isinstance(site, Distribution)}
    if isinstance(guide, NormalGuide):
        own = guide.supports
    for name, support in own.items():
        _check_supports(support, supports[name], f"{subject}.{name}")


def _support(distribution: Distribution) -> constraints.Constraint | None:
    try:
        support: Any = support_of(distribution)
    except NotImplementedError:
        return None
    return support if isinstance(support, constraints.Constraint) else None


def _check_supports(own: Any, wanted: Any, subject: str) -> None:
    if own is not None and wanted is not None and not lies_within(own, wanted):
        raise ConstraintError(
            subject,
            f"a guide inside the target's support, {wanted}",
            f"one whose support is {own}",
            "Choose a family with that support, or transform it: "
            "torch.distributions.TransformedDistribution.",
            code="guide-mismatch",
        )

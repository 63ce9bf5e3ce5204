"""Draws of some sites of a joint distribution: read as its own are, and the others from them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.errors import ConstraintError
from declarative_dist.latents.named import (
    Values,
    as_value,
    check_names,
    check_shape,
    is_floating,
    lead_of,
)
from declarative_dist.latents.weighted import WeightedDraws
from declarative_dist.plain.supports import first_outside
from declarative_dist.plain.tensors import tensors_of
from declarative_dist.plain.tracing import is_traced
from declarative_dist.randomness import same_random_numbers

if TYPE_CHECKING:
    from declarative_dist.joints.distribution import JointDistribution


def predict(
    joint: JointDistribution,
    draws: Mapping[str, Any] | WeightedDraws,
    observed: Mapping[str, Tensor] = MappingProxyType({}),
) -> Values:
    """Draw what is not given, from its distribution at draws of the sites above it.

    Args:
        joint: the joint distribution.
        draws: by site numbers of shape `(*sample, *batch, *event)`, with every site that a given
            one depends on; `WeightedDraws` are resampled, to as many.
        observed: data of other sites, of shape `(*batch, *event)` or `(*event)`: they stay where a
            given site depends on them, and are drawn anew elsewhere.

    Returns:
        Draws of shape `(*sample, *batch, *event)` of the other sites, without gradients.

    Raises:
        ConstraintError: without draws, for an unknown site or a missing one, for a shape that
            does not fit, and for values outside their support.
    """
    values = draws.resample(len(draws)) if isinstance(draws, WeightedDraws) else draws
    names = [name for name in joint.sites if name not in observed]
    check_names(joint.owner, values, names, are_all=False)
    fixed = set(values)
    for name in reversed(joint.sites):
        for parent in joint.parents_of(name) if name in values or name in observed else ():
            if parent not in values and parent not in observed:
                expected, fix = f"draws of it, as {name} depends on it", f"Add {parent!r} to them."
                subject = f"{joint.owner}.{parent}"
                raise ConstraintError(subject, expected, "none", fix, code="missing-value")
        if name in fixed:
            fixed.update(joint.parents_of(name))
    lead = torch.Size((0,))
    first = next((name for name in joint.sites if name in values), None)
    if first is not None:
        distribution, subject = joint.distribution_of(first, observed), f"{joint.owner}.{first}"
        value = like_draws_of(distribution, values[first], subject)
        lead = lead_of(value, joint.batch_shape, distribution.event_shape, subject)
    if not lead.numel():
        expected, fix = "one draw or more", "Write sample((1000,)) to draw from the prior."
        raise ConstraintError(joint.owner, expected, "none", fix, code="missing-value")

    def draw(name: str, distribution: Distribution, shape: torch.Size) -> Tensor:
        if name not in fixed:
            return distribution.sample(shape)
        events = distribution.event_shape
        if name in observed:
            return observed[name].expand(torch.Size((*lead, *events)))
        subject = f"{joint.owner}.{name}"
        value = like_draws_of(distribution, values[name], subject)
        check_shape(value, lead, events, subject)
        outside = first_outside(distribution, value) if distribution._validate_args else ""
        if outside:
            expected = "draws in its support"
            raise ConstraintError(subject, expected, outside, code="outside-support")
        return value

    with torch.no_grad():
        drawn = joint.draw_in_order(lead[: len(lead) - len(joint.batch_shape)], draw)
    return {name: value for name, (_, value) in drawn.items() if name not in fixed}


def like_draws_of(distribution: Distribution, value: Any, subject: str) -> Tensor:
    """Numbers as a tensor like the draws of a distribution, where they are no such tensor yet.

    Counts become floating-point numbers for a Poisson distribution, whose draws are, and labels
    stay integers for a categorical one.
    """
    if is_floating(value) or (isinstance(value, Tensor) and is_traced(value)):
        return value
    like = draw_like(distribution)
    return as_value(value, like.dtype, like.device, subject)


def draw_like(distribution: Distribution) -> Tensor:
    """A tensor of the dtype and on the device of draws; random numbers stay as they were."""
    try:
        with torch.no_grad(), same_random_numbers():
            return distribution.sample()
    except NotImplementedError:  # no sampler
        tensors = (tensor for _, tensor in tensors_of(distribution))
        return next((t for t in tensors if t.is_floating_point()), torch.zeros(()))

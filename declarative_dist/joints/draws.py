"""Draws of some sites of a joint distribution: read as its own are, and the others from them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.errors import ConstraintError
from declarative_dist.latents.named import Reader, Values
from declarative_dist.latents.weighted import WeightedDraws
from declarative_dist.plain.supports import first_outside
from declarative_dist.plain.tensors import typical_tensor
from declarative_dist.plain.tracing import is_traced
from declarative_dist.randomness import same_random_numbers

if TYPE_CHECKING:
    from declarative_dist.joints.distribution import JointDistribution


def predict(
    joint: JointDistribution,
    draws: Mapping[str, Any] | WeightedDraws,
    observed: Mapping[str, Tensor] = MappingProxyType({}),
) -> Values:
    """As `Joint.predict`, with data of other sites.

    Args:
        joint: the joint distribution.
        draws: by site numbers of shape `(*sample, *batch, *event)`, or `WeightedDraws`.
        observed: data of shape `(*batch, *event)` or `(*event)`: they stay where a given site
            depends on them, and are drawn anew elsewhere.
    """
    values = draws.resample(len(draws)) if isinstance(draws, WeightedDraws) else draws
    names = [name for name in joint.sites if name not in observed]
    reader = Reader(joint.owner, values, names, joint.batch_shape, are_all=False)

    def read(name: str, distribution: Distribution) -> Tensor:
        like = partial(draw_like, distribution, values[name])
        return reader.read(name, distribution.event_shape, like)

    fixed = set(values)
    for name in reversed(joint.sites):
        for parent in joint.parents_of(name) if name in values or name in observed else ():
            if parent not in values and parent not in observed:
                expected, fix = f"draws of it, as {name} depends on it", f"Add {parent!r} to them."
                subject = f"{joint.owner}.{parent}"
                raise ConstraintError(subject, expected, "none", fix, code="missing-value")
        if name in fixed:
            fixed.update(joint.parents_of(name))
    first = next((name for name in joint.sites if name in values), None)
    if first is not None:
        read(first, joint.distribution_of(first, observed))
    lead = reader.lead
    if first is None or not lead.numel():
        expected, fix = "one draw or more", "Write sample((1000,)) to draw from the prior."
        raise ConstraintError(joint.owner, expected, "none", fix, code="missing-value")

    def draw(name: str, distribution: Distribution, shape: torch.Size) -> Tensor:
        if name not in fixed:
            return distribution.sample(shape)
        events = distribution.event_shape
        if name in observed:
            return observed[name].expand(torch.Size((*lead, *events)))
        value = read(name, distribution)
        outside = first_outside(distribution, value) if distribution._validate_args else ""
        if outside:
            expected = "draws in its support"
            subject = f"{joint.owner}.{name}"
            raise ConstraintError(subject, expected, outside, code="outside-support")
        return value

    with torch.no_grad():
        drawn = joint.draw_in_order(lead[: len(lead) - len(joint.batch_shape)], draw)
    return {name: value for name, (_, value) in drawn.items() if name not in fixed}


def draw_like(distribution: Distribution, value: object = None) -> Tensor:
    """A tensor of the dtype and on the device of draws; random numbers stay as they were.

    So counts become floating-point numbers for a Poisson distribution, whose draws are, and
    labels stay integers for a categorical one.

    Args:
        distribution: a plain distribution.
        value: what is asked for; where it is traced, nothing can be drawn, and it is fine itself.
    """
    if isinstance(value, Tensor) and is_traced(value) and not value.is_meta:
        return value
    try:
        with torch.no_grad(), same_random_numbers():
            return distribution.sample()
    except NotImplementedError:  # no sampler
        return typical_tensor(distribution)

"""Log densities for a batch of contexts: what counts once, and what each context adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from declarative_dist.errors import ConstraintError, shorten
from declarative_dist.fields.given import call_names
from declarative_dist.joints.distribution import JointDistribution
from declarative_dist.joints.joint import Joint
from declarative_dist.latents.named import as_value


def density_of_contexts(joint: Joint, total_size: int | None) -> Callable[..., Tensor]:
    """The log density under a joint of a context, as a function of draws of some of its sites.

    Args:
        joint: its keywords in a call are its own `Given`s, and data of the sites not drawn.
        total_size: how many contexts there are in all; None where the batch has all.
    """

    def density(draws: dict[str, Tensor], *batch: Any, **keywords: Any) -> Tensor:
        names = call_names(joint)
        given = {name: value for name, value in keywords.items() if name in names}
        current = joint(*batch, **given)
        if total_size is not None:
            current = current.weigh(total_size)
        like = next(iter(draws.values()))
        data = {}
        for name, value in keywords.items():
            if name not in names:
                place = like.dtype, like.device, f"{current.owner}.{name}"
                tensor = value if isinstance(value, Tensor) else as_value(value, *place)
                data[name] = tensor.expand(len(like), *tensor.shape)
        return current.log_prob({**draws, **data})

    return density


def add_terms(terms: Any, current: Any, shape: torch.Size, owner: str) -> Tensor:
    """The log density that the terms of a target add up to, for a guide of contexts.

    Args:
        terms: what counts once, of shape `(*sample)`, and what each context adds, of shape
            `(*sample, *contexts)`; the second alone, where contexts share no site.
        current: the guide's distribution, whose contexts are one event.
        shape: the shape of log densities of its draws, `(*sample)`.
        owner: whom an error is about.

    Raises:
        ConstraintError: for other shapes, and for a guide without such contexts.
    """
    subject = f"{owner}.log_joint"
    if not isinstance(current, JointDistribution) or current.batch_shape or len(shape) > 1:
        expected, got = "one tensor of log densities", f"{len(terms)} terms"
        fix = "Give total_size=, and for a guide a Joint with a context: then terms count apart."
        raise ConstraintError(subject, expected, got, fix, code="wrong-shape")
    shapes = [tuple(shape), tuple(shape + current.contexts)]
    is_local = len(terms) == 1 and len(current.local) == len(current.sites)
    found = [tuple(t.shape) if isinstance(t, Tensor) else shorten(t) for t in terms]
    if found != shapes[is_local:]:
        expected = (
            f"two tensors: what counts once, of shape (*sample) = {shapes[0]}, and what each "
            f"context adds, of shape (*sample, *contexts) = {shapes[1]}"
        )
        got = f"{len(found)} of shape {', '.join(map(str, found))}"
        fix = "Return log_prior_of_shared_sites, log_prior_of_local_ones + log_likelihood."
        raise ConstraintError(subject, expected, got, fix, code="wrong-shape")
    total: Tensor = current.weight * terms[-1].reshape(*shape, -1).sum(-1)
    return total if is_local else terms[0] + total

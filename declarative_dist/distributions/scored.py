"""Draws together with their log densities, without the way back through a transform.

The density of a transformed draw needs the point that was transformed. Inverting finds it only
as far as the draw was not rounded onto the edge of the support, where it is lost.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, TransformedDistribution

Scored = tuple[Tensor, Tensor]


def rsample_and_score(distribution: Distribution, sample_shape: torch.Size) -> Scored:
    """Reparametrised draws of a plain distribution and their log densities.

    Args:
        distribution: a plain distribution with `rsample`.
        sample_shape: the shape in front.

    Returns:
        Draws of shape `(*sample, *batch, *event)` and log densities of shape `(*sample, *batch)`.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist.distributions.scored import rsample_and_score
        >>> squashed = dd.TransformedDistribution(dd.Normal(50.0, 1.0), dd.TanhTransform())
        >>> x, log_prob = rsample_and_score(squashed, torch.Size())
        >>> x.item(), log_prob.isfinite().item()
        (1.0, True)
    """
    own: Any = getattr(distribution, "rsample_and_log_prob", None)
    if own is not None:
        scored: Scored = own(sample_shape)
        return scored
    if isinstance(distribution, Independent) and _is_plain(distribution, Independent):
        value, log_prob = rsample_and_score(distribution.base_dist, sample_shape)
        return value, _sum_rightmost(log_prob, distribution.reinterpreted_batch_ndims)
    if isinstance(distribution, TransformedDistribution) and _is_plain(
        distribution, TransformedDistribution
    ):
        return _through_transforms(distribution, sample_shape)
    value = distribution.rsample(sample_shape)
    return value, distribution.log_prob(value)


def _is_plain(distribution: Distribution, kind: type[Distribution]) -> bool:
    """Whether a distribution draws and scores as torch's class of this kind does."""
    own = type(distribution)
    return own.rsample is kind.rsample and own.log_prob is kind.log_prob


def _through_transforms(distribution: Any, sample_shape: torch.Size) -> Scored:
    value, log_prob = rsample_and_score(distribution.base_dist, sample_shape)
    event_dim = len(distribution.base_dist.event_shape)
    for transform in distribution.transforms:
        before, value = value, transform(value)
        rest = event_dim - transform.domain.event_dim  # torch gives the base enough events
        volume = transform.log_abs_det_jacobian(before, value)
        log_prob = log_prob - _sum_rightmost(volume, rest)
        event_dim = transform.codomain.event_dim + rest
    return value, log_prob


def _sum_rightmost(value: Tensor, count: int) -> Tensor:
    return value.flatten(-count).sum(-1) if count else value

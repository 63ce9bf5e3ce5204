"""Of a distribution of many numbers the distributions of each by itself."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributions as dd
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.plain.decompose import rebuild
from declarative_dist.plain.indexing import choose
from declarative_dist.plain.nests import fold


def one_of(distribution: Distribution, index: tuple[int, ...]) -> Distribution | None:
    """One of a batch of distributions, so that its density costs no more than that of one.

    None where it doesn't keep the arguments of its constructor.
    """
    if not distribution.batch_shape:
        return distribution
    try:
        one = choose(distribution, index)
    except (TypeError, ValueError, RuntimeError):
        return None
    is_same = not one.batch_shape and one.event_shape == distribution.event_shape
    return one if is_same else None


def marginals_of(distribution: Distribution) -> Distribution | None:
    """The distributions of the entries of an event, as one whose batch is `(*batch, *event)`.

    None where no closed form is known.
    """
    return fold(
        distribution,
        _marginals_of_leaf,
        independent=lambda _, inner: inner,
        transformed=_transform_marginals,
        mixture=_mix_marginals,
    )


def _marginals_of_leaf(leaf: Any) -> Distribution | None:
    if not leaf.event_shape:
        return leaf  # type: ignore[no-any-return]
    if isinstance(leaf, (dd.MultivariateNormal, dd.LowRankMultivariateNormal)):
        return dd.Normal(leaf.mean, leaf.stddev)
    if isinstance(leaf, dd.Dirichlet):
        share = leaf.concentration
        return dd.Beta(share, share.sum(-1, keepdim=True) - share)
    if isinstance(leaf, dd.Multinomial):
        return dd.Binomial(leaf.total_count, leaf.probs)
    return None


def _mix_marginals(mixture: Any, inner: Distribution | None) -> Distribution | None:
    if not mixture.event_shape:
        return mixture  # type: ignore[no-any-return]
    if inner is None:
        return None
    batch, at = inner.batch_shape, len(mixture.batch_shape)

    def move(tensor: Tensor, behind: int) -> Tensor:
        """Put the components behind the entries of an event."""
        own = tensor.shape[max(tensor.ndim - behind, 0) :]
        return tensor.expand(torch.Size((*batch, *own))).movedim(at, len(batch) - 1)

    events = (None,) * len(mixture.event_shape)
    logits = mixture.mixture_distribution.logits[(..., *events, slice(None))]
    shape = (*mixture.batch_shape, *mixture.event_shape, batch[at])
    weights = dd.Categorical(logits=logits.expand(shape))
    return dd.MixtureSameFamily(weights, rebuild(inner, move), validate_args=False)


def _transform_marginals(nest: Any, inner: Distribution | None) -> Distribution | None:
    if not nest.event_shape:
        return nest  # type: ignore[no-any-return]
    maps_each = not any(t.domain.event_dim or t.codomain.event_dim for t in nest.transforms)
    if inner is None or not maps_each:
        return None
    return dd.TransformedDistribution(inner, nest.transforms)

"""Of a distribution of many numbers the distributions of each by itself."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributions as dd
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.plain.decompose import rebuild
from declarative_dist.plain.nests import fold


def one_of(distribution: Distribution, index: tuple[int, ...]) -> Distribution | None:
    """One of a batch of distributions, so that its density costs no more than that of one.

    None where it doesn't keep the arguments of its constructor.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist.display.marginals import one_of
        >>> one_of(dd.Normal(torch.tensor([0.0, 1.0]), 2.0), (1,))
        Normal(loc: 1.0, scale: 2.0)
    """

    def choose(tensor: Tensor, behind: int) -> Tensor:
        if tensor.ndim <= behind:
            return tensor
        own = tensor.shape[tensor.ndim - behind :]
        return tensor.expand(torch.Size((*distribution.batch_shape, *own)))[index]

    try:
        one = rebuild(distribution, choose)
    except (TypeError, ValueError, RuntimeError):
        return None
    is_same = not one.batch_shape and one.event_shape == distribution.event_shape
    return one if is_same else None


def marginals_of(distribution: Distribution) -> Distribution | None:
    """The distributions of the entries of an event, as one whose batch is `(*batch, *event)`.

    None where no closed form is known.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist.display.marginals import marginals_of
        >>> marginals_of(dd.MultivariateNormal(torch.zeros(2), 4 * torch.eye(2)))
        Normal(loc: torch.Size([2]), scale: torch.Size([2]))
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
    return None if inner is None else MixedMarginals(mixture, inner)


def _transform_marginals(nest: Any, inner: Distribution | None) -> Distribution | None:
    if not nest.event_shape:
        return nest  # type: ignore[no-any-return]
    maps_each = not any(t.domain.event_dim or t.codomain.event_dim for t in nest.transforms)
    if inner is None or not maps_each:
        return None
    return dd.TransformedDistribution(inner, nest.transforms)


class MixedMarginals(Distribution):
    """The entries of the events of a mixture, each a mixture with the same weights.

    Args:
        mixture: of components with events.
        inner: the entries of the events of its components, of batch `(*batch, k, *event)`.
    """

    def __init__(self, mixture: dd.MixtureSameFamily, inner: Distribution) -> None:
        self._weights = mixture.mixture_distribution.logits.log_softmax(-1)
        self._inner = inner
        self._batch = len(mixture.batch_shape)
        shape = torch.Size((*mixture.batch_shape, *mixture.event_shape))
        super().__init__(shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        events = len(self.batch_shape) - self._batch
        at = -1 - events
        weights = self._weights[(..., *(None,) * events)]
        mixed: Tensor = (weights + self._inner.log_prob(value.unsqueeze(at))).logsumexp(at)
        return mixed

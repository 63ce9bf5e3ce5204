"""Exact medians: from quantile functions, symmetry, and transforms that keep or turn the order."""

from __future__ import annotations

from typing import Any, Never

import torch
import torch.distributions as dd
from torch import Tensor
from torch.distributions import Distribution, Transform

from declarative_dist.plain.nests import fold, steps_of

_SYMMETRIC = (dd.StudentT, dd.MultivariateNormal, dd.LowRankMultivariateNormal)
"""Families that are symmetric about `loc`, and have no quantile function in torch."""

_WITHOUT = (Distribution.icdf, dd.TransformedDistribution.icdf)


def median_of(plain: Distribution) -> Tensor:
    """The median of a plain distribution, for every entry of its events.

    Returns:
        A tensor of shape `(*batch, *event)`.

    Raises:
        NotImplementedError: if no exact formula is known.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist.plain.median import median_of
        >>> median_of(dd.TransformedDistribution(dd.Normal(0.0, 1.0), [dd.TanhTransform()]))
        tensor(0.)
    """
    median: Tensor = fold(
        plain,
        _of_leaf,
        independent=lambda _, inside: inside,
        transformed=_push,
        mixture=lambda nest, _: _refuse(nest),
    )
    return median.expand(plain.batch_shape + plain.event_shape)


def _of_leaf(leaf: Any) -> Tensor:
    median: Tensor
    if type(leaf).icdf not in _WITHOUT:
        median = leaf.icdf(torch.full_like(leaf.mean, 0.5))
    elif isinstance(leaf, dd.TransformedDistribution):  # a class of its own: a log-normal
        median = _push(leaf, median_of(leaf.base_dist))
    elif isinstance(leaf, _SYMMETRIC):
        median = leaf.loc
    else:
        _refuse(leaf)
    return median


def _push(nest: Any, median: Tensor) -> Tensor:
    for transform in nest.transforms:
        if not all(_is_monotone(step) for step in steps_of(transform)):
            _refuse(nest, transform)
        median = transform(median)
    return median


def _is_monotone(step: Transform) -> bool:
    """Whether a transform maps each entry alone, and never turns back."""
    is_elementwise = isinstance(step, dd.AffineTransform) or step.domain.event_dim == 0
    return is_elementwise and step.bijective


def _refuse(part: Any, reason: Any = None) -> Never:
    of = type(part).__name__ if reason is None else f"{type(part).__name__} with {reason}"
    fix = "Take it from draws: .sample((1001,)).median(0).values."
    raise NotImplementedError(f"median: no exact formula is known for a {of}. {fix}")

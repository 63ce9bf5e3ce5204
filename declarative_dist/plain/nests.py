"""Distributions that are made of others, and transforms that are made of others: one way through.

A nest is what somebody builds of parts: `Independent`, `TransformedDistribution` and
`MixtureSameFamily`. A class with arguments of its own, such as a log-normal, is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch.distributions as dd
from torch.distributions import Distribution, Transform

R = TypeVar("R")
Wrap = Callable[[Any, R], R]

_INSIDE: tuple[tuple[type[Distribution], str], ...] = (
    (dd.Independent, "base_dist"),
    (dd.TransformedDistribution, "base_dist"),
    (dd.MixtureSameFamily, "component_distribution"),
)
"""The classes of nests, and the attribute that holds what is inside."""


def fold(
    distribution: Distribution,
    leaf: Callable[[Any], R],
    *,
    independent: Wrap[R],
    transformed: Wrap[R],
    mixture: Wrap[R],
) -> R:
    """Compute something of a nest from the inside out.

    Args:
        distribution: a plain distribution.
        leaf: gives the result for what is no nest.
        independent: gives the result for an `Independent`, from it and the result of its base.
        transformed: the same for a `TransformedDistribution`.
        mixture: the same for a `MixtureSameFamily` and its components.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist.plain.nests import fold
        >>> plain = dd.TransformedDistribution(dd.Normal(0.0, 1.0), [dd.ExpTransform()])
        >>> deeper = lambda nest, depth: depth + 1
        >>> fold(plain, lambda _: 0, independent=deeper, transformed=deeper, mixture=deeper)
        1
    """
    wraps = {"independent": independent, "transformed": transformed, "mixture": mixture}
    for (kind, name), wrap in zip(_INSIDE, wraps.values(), strict=True):
        if is_nest(distribution, kind):
            return wrap(distribution, fold(getattr(distribution, name), leaf, **wraps))
    return leaf(distribution)


def innermost(distribution: Distribution) -> Distribution:
    """What is inside of all nests."""
    for kind, name in _INSIDE:
        if is_nest(distribution, kind):
            return innermost(getattr(distribution, name))
    return distribution


def is_nest(distribution: Distribution, kind: type[Distribution]) -> bool:
    """Whether a distribution is made of parts in the way of one of torch's classes."""
    return isinstance(distribution, kind) and type(distribution).__init__ is kind.__init__


def steps_of(transform: Transform) -> Iterator[Transform]:
    """The transforms that a chain applies one after the other, without what only adds events."""
    if isinstance(transform, dd.ComposeTransform):
        for part in transform.parts:
            yield from steps_of(part)
    elif isinstance(transform, dd.IndependentTransform):
        yield from steps_of(transform.base_transform)
    else:
        yield transform

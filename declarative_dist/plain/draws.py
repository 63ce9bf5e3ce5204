"""Draws together with their log densities, without the way back through a transform.

The density of a transformed draw needs the point that was transformed. Inverting finds it only
as far as the draw was not rounded onto the edge of the support, where it is lost. What a gradient
takes for fixed differs: nothing for a reparametrised draw; the parameters of the density for
"sticking the landing"; the draw for the score function.

Whatever scores takes a distribution and a sample shape, and gives draws of shape
`(*sample, *batch, *event)` with log densities of shape `(*sample, *batch)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.distributions import Distribution, Independent, Transform, TransformedDistribution

from declarative_dist.plain.tensors import is_of_torch, map_tensors, tensors_of

Scored = tuple[Tensor, Tensor]
Own = Callable[[torch.Size], Scored]
Scorer = Callable[[Distribution, torch.Size], Scored]


def is_reparametrised(distribution: Any) -> bool:
    """Whether `rsample` gives draws with gradients.

    A class that defines `rsample` and leaves torch's flag `has_rsample` at False is believed for
    its method; one that inherits the method and sets the flag to False, for the flag.
    """
    if distribution.has_rsample or "has_rsample" in vars(distribution):
        return bool(distribution.has_rsample)
    for ancestor in type(distribution).__mro__:
        if ancestor in (Independent, TransformedDistribution):
            return is_reparametrised(distribution.base_dist)
        flag = vars(ancestor).get("has_rsample")
        if isinstance(flag, property):
            return False
        if "rsample" in vars(ancestor) or flag is not None:
            return "rsample" in vars(ancestor) and ancestor is not Distribution
    return False


def rsample_and_score(distribution: Any, sample_shape: torch.Size) -> Scored:
    """Reparametrised draws of a plain distribution and their log densities."""
    return _score(distribution, sample_shape, _rsample, lambda _: False)


def rsample_and_score_detached(distribution: Any, sample_shape: torch.Size) -> Scored:
    """Reparametrised draws, and their log densities with detached parameters.

    The gradient of the densities goes through the draws alone (Roeder, Wu and Duvenaud, 2017,
    https://arxiv.org/abs/1703.09194). Both come from one distribution, so that a network that
    made it has run once.
    """
    return _score(distribution, sample_shape, _rsample_detached, _is_learned)


def sample_and_score(distribution: Any, sample_shape: torch.Size) -> tuple[Any, Tensor]:
    """Draws without gradients, and their log densities with gradients to the parameters.

    Anything with `sample` and `log_prob` will do.
    """
    if isinstance(distribution, Distribution):
        return _score(distribution, sample_shape, _sample, _is_learned)
    own: Own | None = getattr(distribution, "sample_and_score", None)
    if own is not None:
        return own(sample_shape)
    value = distribution.sample(sample_shape)
    return value, distribution.log_prob(value)


def center_leave_one_out(values: Tensor) -> Tensor:
    """Each of several independent values, less the mean of the others.

    The leave-one-out baseline of the score function (Kool, van Hoof and Welling, 2019,
    https://openreview.net/forum?id=r1lgTGL5DE): it does not depend on the draw that it is for, so
    the estimate stays unbiased. A single value has no others and is itself.

    Args:
        values: of shape `(count, *batch)`.

    Returns:
        A tensor of the same shape.

    Example:
        >>> import torch
        >>> from declarative_dist.plain.draws import center_leave_one_out
        >>> center_leave_one_out(torch.tensor([1.0, 2.0, 6.0]))
        tensor([-3.0000, -1.5000,  4.5000])
    """
    count = len(values)
    return values if count == 1 else (values - values.mean(0)) * (count / (count - 1))


def _score(
    distribution: Any, shape: torch.Size, score: Scorer, is_inverted: Callable[[Transform], bool]
) -> Scored:
    """Draws and densities by a function, pushed through the transforms around what it draws from.

    Args:
        distribution: a plain distribution.
        shape: the sample shape.
        score: draws and scores what is inside of nests.
        is_inverted: which transforms a draw has to go back through, for what they do to a draw
            that stays is learned. These and all inside of them are left to it.
    """
    if _is_plain(distribution, Independent):
        value, log_prob = _score(distribution.base_dist, shape, score, is_inverted)
        return value, sum_rightmost(log_prob, distribution.reinterpreted_batch_ndims)
    if not _is_plain(distribution, TransformedDistribution):
        return score(distribution, shape)
    base, transforms = distribution.base_dist, distribution.transforms
    inverted = [index for index, part in enumerate(transforms, 1) if is_inverted(part)]
    count = inverted[-1] if inverted else 0
    if count == len(transforms) > 0:
        return score(distribution, shape)
    if count:
        base = TransformedDistribution(base, transforms[:count], validate_args=False)
    value, log_prob = _score(base, shape, score, is_inverted)
    event_dim = len(base.event_shape)
    for transform in transforms[count:]:
        before, value = value, transform(value)
        rest = event_dim - transform.domain.event_dim  # torch gives the base enough events
        log_prob = log_prob - sum_rightmost(transform.log_abs_det_jacobian(before, value), rest)
        event_dim = transform.codomain.event_dim + rest
    return value, log_prob


def _rsample(distribution: Distribution, sample_shape: torch.Size) -> Scored:
    own: Own | None = getattr(distribution, "rsample_and_log_prob", None)
    if own is not None:
        return own(sample_shape)
    value = distribution.rsample(sample_shape)
    return value, distribution.log_prob(value)


def _rsample_detached(distribution: Distribution, sample_shape: torch.Size) -> Scored:
    own: Own | None = getattr(distribution, "rsample_and_score_detached", None)
    if own is not None:
        return own(sample_shape)
    value = distribution.rsample(sample_shape)
    if is_of_torch(distribution) and not is_compiling():
        fixed = map_tensors(distribution, lambda _, tensor: tensor.detach())
        return value, fixed.log_prob(value)
    log_prob = distribution.log_prob(value)
    by_parameters = distribution.log_prob(value.detach())
    return value, log_prob - (by_parameters - by_parameters.detach())


def _sample(distribution: Distribution, sample_shape: torch.Size) -> Scored:
    value = distribution.sample(sample_shape)
    # Another view of it, of which no transform remembers where it came from.
    return value, distribution.log_prob(value.view_as(value))


def _is_learned(transform: Transform) -> bool:
    return any(tensor.requires_grad for _, tensor in tensors_of(transform))


def _is_plain(distribution: Any, kind: type[Distribution]) -> bool:
    """Whether a distribution draws and scores as torch's class of this kind does."""
    own = type(distribution)
    return own.rsample is kind.rsample and own.log_prob is kind.log_prob


def sum_rightmost(value: Tensor, count: int) -> Tensor:
    """The sum over the last dimensions, or the value itself for a count of none."""
    return value.flatten(-count).sum(-1) if count > 0 else value

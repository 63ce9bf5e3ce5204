"""What you do with the current distribution of a live one: take it, choose from it, ask it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.errors import Code, DeclarationError, shorten
from declarative_dist.families.conditional import Conditional
from declarative_dist.families.variational import Variational
from declarative_dist.joints.distribution import JointDistribution
from declarative_dist.joints.joint import Joint
from declarative_dist.plain.indexing import choose
from declarative_dist.wrappers.quantiles import median_of


def snapshot(distribution: Any) -> Any:
    """The current plain distribution of a live one; a plain one as it is.

    Raises:
        FieldError: for a conditional, which is none before there is a context.
    """
    if isinstance(distribution, Conditional):
        distribution.entropy()  # which raises it
    return distribution() if isinstance(distribution, (Variational, Joint)) else distribution


def select(distribution: Distribution | nn.Module, index: Any) -> Distribution:
    """Pick distributions out of a batch by an index: the same class with sliced arguments.

    Use it for the rows of a mini-batch, or for one of many copies. Gradients flow to the
    parameters that were chosen.

    Args:
        distribution: a live or plain distribution, of any class that keeps its arguments.
        index: what a tensor of shape `batch_shape` takes in square brackets: a number, a slice, a
            mask, indices, or a tuple of them.

    Returns:
        A plain distribution. What a live one gives does not follow later updates.

    Raises:
        ConstraintError: if the index does not go with the batch shape, or it is that of a joint
            whose contexts share a site.
        DeclarationError: if it is no distribution, or does not keep one of its arguments.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import learnable, select
        >>> q = learnable(dd.Gamma(torch.tensor([1.0, 2.0, 3.0]), 1.0))
        >>> select(q, torch.tensor([True, False, True])).mean.tolist()
        [1.0, 3.0]
    """
    current = current_of(distribution, "select", (Distribution, JointDistribution))
    is_joint = isinstance(current, JointDistribution)
    chosen: Any = current[index] if is_joint else choose(current, index)
    return chosen


def median(distribution: Distribution | nn.Module) -> Tensor:
    """The exact median of a distribution, for every entry of its events.

    It goes through monotone elementwise transforms, so that the median of a squashed policy is
    its deterministic action.

    Args:
        distribution: a live or plain distribution.

    Returns:
        A tensor of shape `(*batch, *event)`.

    Raises:
        DeclarationError: if it is no distribution.
        NotImplementedError: if no cumulative distribution function is known, as for a von Mises.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist import learnable, median
        >>> round(median(learnable(dd.LogNormal(1.0, 2.0))).item(), 4)
        2.7183
    """
    return median_of(current_of(distribution, "median", Distribution))


def current_of(given: Any, subject: str, kinds: type | tuple[type, ...]) -> Any:
    """The plain distribution that a question is about.

    Raises:
        DeclarationError: if there is none of these kinds.
    """
    current = snapshot(given)
    if isinstance(current, kinds):
        return current
    code: Code = "wrong-argument"
    got, fix = shorten(given), ""
    if isinstance(given, type):
        got, code = f"the class {given.__name__}", "class-not-instance"
        fix = f"Give an instance: {given.__name__}(...)."
    raise DeclarationError(subject, "a distribution, plain or live", got, fix, code=code)

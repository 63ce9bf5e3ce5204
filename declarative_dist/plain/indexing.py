"""Choosing among the distributions of a batch, and a wrapper of events that keeps the face."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributions as dd
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.errors import ConstraintError, shorten
from declarative_dist.plain.decompose import rebuild
from declarative_dist.plain.tensors import tensors_of


def choose(plain: Distribution, index: Any) -> Distribution:
    """The distributions of a batch that an index chooses, as one of the same class.

    Args:
        plain: a plain distribution.
        index: what a tensor of shape `batch_shape` takes in square brackets.

    Raises:
        ConstraintError: if the index does not go with the batch shape.
        DeclarationError: if the distribution does not keep one of its arguments.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist.plain.indexing import choose
        >>> choose(dd.Normal(torch.tensor([1.0, 2.0, 3.0]), 1.0), slice(1, None)).mean
        tensor([2., 3.])
    """
    batch = plain.batch_shape
    parts = index if isinstance(index, tuple) else (index,)
    if not any(part is Ellipsis for part in parts):
        parts = (*parts, Ellipsis)
    device = next((tensor.device for _, tensor in tensors_of(plain)), None)  # of masks and indices
    try:
        _ = torch.zeros((), device=device).expand(batch)[parts]  # for its errors
    except (IndexError, TypeError) as error:
        expected, got = f"an index of its batch shape, {tuple(batch)}", shorten(index)
        fix, subject = f"It says: {error}. Events are not indexed.", f"{type(plain).__name__}[...]"
        raise ConstraintError(subject, expected, got, fix, code="wrong-shape") from error

    def pick(tensor: Tensor, behind: int) -> Tensor:
        if tensor.ndim <= behind:  # the same for all of the batch
            return tensor
        own = tensor.shape[tensor.ndim - behind :]
        return tensor.expand(*batch, *own)[(*parts, *(slice(None),) * behind)]

    return rebuild(plain, pick)


class Independent(dd.Independent[Any]):
    """An `Independent` that reads through to what it wraps, and can be indexed along its batch.

    `policy(x).loc` is the `loc` of the base, and `policy(x)[mask]` are the distributions of a
    part of the batch.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist.plain.indexing import Independent
        >>> normals = Independent(dd.Normal(torch.zeros(5, 2), 1.0), 1)
        >>> normals.loc.shape, normals[1:].batch_shape
        (torch.Size([5, 2]), torch.Size([4]))
    """

    __iter__ = None  # Python would index without end

    def __getitem__(self, index: Any) -> Distribution:
        return choose(self, index)

    def __getattr__(self, name: str) -> Any:
        # Copies and pickles ask an object that is still empty.
        if name == "base_dist" or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        return getattr(self.base_dist, name)

"""Choosing among the distributions of a batch, and a wrapper of events that keeps the face."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributions as dd
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.errors import ConstraintError, shorten
from declarative_dist.plain.decompose import rebuild
from declarative_dist.plain.tensors import tensors_of

Pick = Callable[[Tensor, int], Tensor]
"""From a tensor `(*batch, *own)`, and how many dimensions are its own, to the part chosen."""


def indexer(batch: torch.Size, index: Any, subject: str, of: Any) -> tuple[Pick, torch.Size]:
    """What an index of a batch does to tensors, and the batch shape that it leaves.

    A tensor without dimensions in front of its own is the same for all of the batch, and stays.

    Args:
        batch: the batch shape.
        index: what a tensor of that shape takes in square brackets.
        subject: whom an error is about.
        of: what holds the tensors, on whose device masks and indices may lie.

    Raises:
        ConstraintError: if the index does not go with the batch shape.
    """
    parts = index if isinstance(index, tuple) else (index,)
    if not any(part is Ellipsis for part in parts):
        parts = (*parts, Ellipsis)
    device = next((tensor.device for _, tensor in tensors_of(of)), None)
    try:
        chosen = torch.zeros((), device=device).expand(batch)[parts]  # for its errors
    except (IndexError, TypeError) as error:
        expected, got = f"an index of its batch shape, {tuple(batch)}", shorten(index)
        fix = f"It says: {error}. Events are not indexed."
        raise ConstraintError(f"{subject}[...]", expected, got, fix, code="wrong-shape") from error

    def pick(tensor: Tensor, behind: int) -> Tensor:
        if tensor.ndim <= behind:
            return tensor
        own = tensor.shape[tensor.ndim - behind :]
        return tensor.expand(*batch, *own)[(*parts, *(slice(None),) * behind)]

    return pick, chosen.shape


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
    pick, _ = indexer(plain.batch_shape, index, type(plain).__name__, plain)
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

"""How the distribution of a site follows from the values of earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.errors import ConstraintError, first_line
from declarative_dist.families.building import build_by_method, with_event_dim
from declarative_dist.fields.derived import map_method, refused_sizes
from declarative_dist.plain.decompose import rebuild
from declarative_dist.plain.refusals import is_about_values


@dataclass(frozen=True)
class Rule:
    """The method of a site of an instance.

    Args:
        field: the site.
        method: its method, bound to the instance, which takes the values by name.
        shape: the shape of independent copies of it, in one event.
        ndims: by field how many dimensions of a value are its own.
    """

    field: Any  # a Site, which checkers take for a descriptor of this class
    method: partial[Distribution]
    shape: torch.Size
    ndims: Mapping[str, int]

    def build(
        self, arguments: Mapping[str, Any], subject: str, events: Mapping[str, int]
    ) -> Distribution:
        """The distribution at values by name.

        Args:
            arguments: the values.
            subject: what errors name.
            events: by site among them how many dimensions one event has.

        Raises:
            ConstraintError: for values that the method does not take, and for shapes.
        """
        event_dim = self.field.event_dim
        method: Callable[..., Distribution] = self.method
        if self.field.vectorize:
            method = partial(map_method, method, {**self.ndims, **events})
        try:
            distribution = build_by_method(method, arguments, Distribution, subject, "site")
        except ValueError as error:
            if type(error) is not ValueError:
                raise
            if not is_about_values(error):
                raise refused_sizes(error, arguments, subject, "site") from error
            shapes = {n: tuple(a.shape) for n, a in arguments.items() if isinstance(a, Tensor)}
            raise ConstraintError(
                subject,
                "values of earlier sites that the method takes",
                f"{type(error).__name__} for {shapes}: {first_line(error)}",
                "Keep them inside, by another prior or a map.",
                code="outside-support",
            ) from error
        if event_dim is not None:
            distribution = with_event_dim(distribution, event_dim, f"{subject}(event_dim=)")
        return repeat(distribution, self.shape, subject) if self.shape else distribution


def repeat(distribution: Distribution, shape: torch.Size, subject: str) -> Distribution:
    """Independent and identically distributed copies of a distribution as one event."""
    ones = (None,) * len(shape)

    def add_dims(tensor: Tensor, behind: int) -> Tensor:
        split = max(tensor.ndim - behind, 0)
        return tensor[(*(slice(None),) * split, *ones)] if split else tensor

    copies = rebuild(distribution, add_dims).expand((*distribution.batch_shape, *shape))
    return with_event_dim(copies, len(shape) + len(distribution.event_shape), subject)

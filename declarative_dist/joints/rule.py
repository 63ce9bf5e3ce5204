"""How the distribution of a site follows from the values of earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.errors import ConstraintError, first_line
from declarative_dist.families.building import build_by_method, with_event_dim
from declarative_dist.fields.derived import is_about_sizes

BROADCAST = "Let values broadcast over what stands in front: mu[..., None], not mu."


@dataclass(frozen=True)
class Rule:
    """The method of a site, and what it takes.

    Args:
        method: takes the values by name.
        names: the names that it takes.
        event_dim: the total number of event dimensions, or None for the distribution's own.
    """

    method: Callable[..., Distribution]
    names: tuple[str, ...]
    event_dim: int | None

    def build(self, arguments: Mapping[str, Any], subject: str) -> Distribution:
        """The distribution at values by name.

        Raises:
            ConstraintError: for values that the method does not take, and for shapes.
        """
        try:
            distribution = build_by_method(self.method, arguments, Distribution, subject)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if not is_about_arguments(error):
                raise
            shapes = {n: tuple(a.shape) for n, a in arguments.items() if isinstance(a, Tensor)}
            is_about_values = "to satisfy the constraint" in str(error)
            raise ConstraintError(
                subject,
                "values of earlier sites that the method takes"
                if is_about_values
                else "a method that takes values of shape (*sample, *batch, *event)",
                f"{type(error).__name__} for {shapes}: {first_line(error)}",
                "Keep them inside, by another prior or a map." if is_about_values else BROADCAST,
                code="outside-support" if is_about_values else "wrong-shape",
            ) from error
        if self.event_dim is None:
            return distribution
        return with_event_dim(distribution, self.event_dim, f"{subject}(event_dim=)")


def is_about_arguments(error: Exception) -> bool:
    """Whether torch complains about values or shapes; its other errors have types of their own."""
    return type(error) is ValueError or is_about_sizes(error)

"""Where values start that nobody gave a start."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.errors import ConstraintError, first_line
from declarative_dist.plain.tracing import is_traced


def start_for_each(constraint: Constraint, zeros: Tensor) -> Tensor:
    """The unconstrained numbers of a start for each bound, where bounds broadcast the value.

    Args:
        constraint: with tensors as bounds.
        zeros: as many as the value has entries of its own, lined up with the bounds.
    """
    with torch.no_grad():
        return constraint.inverse(constraint.forward(zeros)).clone()


def default_of(constraint: Constraint, subject: str) -> Callable[[torch.Size], Tensor]:
    """The default value of a constraint by its shape; errors name the field."""

    def default(shape: torch.Size) -> Tensor:
        try:
            return constraint.default(shape)
        except ConstraintError as error:
            parts = (error.expected, error.got, error.fix)
            raise ConstraintError(subject, *parts, code=error.code) from None
        except RuntimeError as error:
            expected = f"bounds that broadcast to its shape {tuple(shape)}"
            got = first_line(error)
            fix = "Give it the shape of its bounds, or init."
            raise ConstraintError(subject, expected, got, fix, code="wrong-shape") from error

    return default


def nearest_inside(constraint: Constraint, value: Tensor) -> Tensor:
    """A default value, or where the dtype rounds it to the edge, the value of raw zeros."""
    if is_traced(value) or constraint.contains(value).all():
        return value
    raw_shape = constraint.raw_shape(value.shape)
    return constraint.forward(torch.zeros(raw_shape, dtype=value.dtype, device=value.device))

"""What torch refuses, told apart by what it says, and what you do about shapes."""

from __future__ import annotations

from typing import TypeGuard

import torch

REFUSALS = (RuntimeError, ValueError, IndexError, TypeError, AssertionError, AttributeError)
"""What torch and Python raise at values and shapes that do not go together."""

LinAlgError: type[Exception] = vars(torch.linalg)["LinAlgError"]
"""What torch raises for a matrix that it cannot decompose."""

BROADCAST = "Let values broadcast over what stands in front: mu[..., None], not mu."

FROM_THE_RIGHT = (
    "Index from the right, as in mu[..., None], and sum, sort and index over the dimensions of "
    "one event only, as in .sum(-1)"
)


def is_about_values(error: object) -> TypeGuard[Exception]:
    """Whether torch refuses values, and not shapes."""
    if not isinstance(error, Exception):
        return False
    said = str(error)
    is_said = any(words in said for words in ("satisfy the constraint", "within the support"))
    is_said = is_said or isinstance(error, LinAlgError)
    return is_said or is_about_values(error.__cause__)


def is_about_sizes(error: Exception) -> bool:
    """Whether torch complains about shapes, such as a loop over a tensor without dimensions.

    Errors of linear algebra, of compilers and of memory have types of their own, and say more.
    """
    if type(error) in (TypeError, ValueError):
        return any(words in str(error) for words in ("0-d tensor", "value per channel", "D input"))
    return type(error) in (RuntimeError, IndexError)

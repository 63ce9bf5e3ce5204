"""The volume change of a map, found by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

RANK_TOLERANCE = 1e-9
"""The share of a row that must be new, for the row to count as independent of those above."""


def derivatives(function: Callable[[Tensor], Tensor], raw: Tensor) -> Tensor:
    """The matrix of derivatives of all numbers of a value by all raw numbers."""
    jacobian = torch.autograd.functional.jacobian(function, raw)
    matrix: Tensor = jacobian.reshape(-1, raw.numel())
    return matrix


def first_coordinates(matrix: Tensor) -> Tensor:
    """The rows that are independent of those above them: the coordinates that tell a value.

    Those of a simplex are all entries but the last, those of a triangular or symmetric matrix its
    lower triangle, those of a correlation factor what is below the diagonal.

    Args:
        matrix: derivatives, a row per number of the value.

    Returns:
        The rows chosen, at most as many as there are columns.

    Example:
        >>> import torch
        >>> from declarative_dist.testing.jacobian import first_coordinates
        >>> first_coordinates(torch.tensor([[1.0, 1.0], [2.0, 2.0], [0.0, 3.0]]))
        tensor([[1., 1.],
                [0., 3.]])
    """
    chosen: list[Tensor] = []
    basis: list[Tensor] = []
    for row in matrix:
        rest = row
        for direction in [*basis, *basis]:  # twice, against rounding
            rest = rest - (rest @ direction) * direction
        if rest.norm() > RANK_TOLERANCE * row.norm():
            chosen.append(row)
            basis.append(rest / rest.norm())
    return torch.stack(chosen) if chosen else matrix[:0]

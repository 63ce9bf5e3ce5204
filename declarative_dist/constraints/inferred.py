"""The constraint of an argument for which none was declared, inferred from its base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributions as dd
from torch import Tensor
from torch.distributions import Distribution, Transform
from typing_extensions import Self

from declarative_dist.constraints.adapters import as_constraint
from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.inequality import GreaterThan, LessThan
from declarative_dist.constraints.limits import INFERRED
from declarative_dist.constraints.positive import GUARD
from declarative_dist.plain.arguments import MATRIX, Argument


def inferred_constraint(
    base: type[Distribution | Transform], argument: Argument, declared: Mapping[str, bool]
) -> Constraint | None:
    """The constraint of an argument for which none was declared.

    Args:
        base: the distribution or transform class.
        argument: one of its arguments.
        declared: the names declared beside it, and whether each has a constraint or value of its
            own.

    Returns:
        The constraint, or None where nothing is known about the argument.
    """
    if issubclass(base, dd.Uniform) and argument.name == "high":
        return WiderThan("low")
    if issubclass(base, dd.Uniform) and argument.name == "low" and declared.get("high"):
        return LessThan("high")
    if issubclass(base, dd.Wishart) and argument.name == "df":
        return DegreesOfFreedom(next(name for name in MATRIX if name in declared))
    if issubclass(base, dd.LowRankMultivariateNormal) and argument.name == "cov_diag":
        return NoiseFloor("cov_factor")
    for ancestor in base.__mro__:
        if (ancestor, argument.name) in INFERRED:
            return INFERRED[ancestor, argument.name]
    if argument.torch_constraint is None:
        return None
    return as_constraint(argument.torch_constraint, f"{base.__name__}.{argument.name}")


class DegreesOfFreedom(GreaterThan):
    """Numbers above n - 1, where n is the size of the matrix in another field.

    Args:
        matrix: the name of that field.
    """

    def resolved(self, values: Mapping[str, Any]) -> Self:
        matrix = values[self.low]
        return self.with_bounds({"low": float(matrix.shape[-1] - 1)})


class NoiseFloor(GreaterThan):
    """Variances above a few units in the last place of those that a low-rank factor adds.

    Below that, the sum of both has no Cholesky factor in the dtype.

    Args:
        factor: the name of the field that holds the factor, of shape `(*batch, dim, rank)`.
    """

    def forward(self, raw: Tensor) -> Tensor:
        return super().forward(raw.clamp_max(GUARD[raw.dtype][1]))

    def resolved(self, values: Mapping[str, Any]) -> Self:
        factor = values[self.low]
        share = 4 * factor.shape[-2] * torch.finfo(factor.dtype).eps
        return self.with_bounds({"low": factor.square().sum(-1) * share + GUARD[factor.dtype][0]})


class WiderThan(GreaterThan):
    """Upper ends so far above a lower one that numbers between them can be told apart.

    The distance is at least 7e-5 of the lower end in float32 and 4e-10 in float64. Closer, a
    uniform draw is rounded onto the upper end too often, which is outside the support.

    Args:
        low: the name of the field that holds the lower end.
    """

    def forward(self, raw: Tensor) -> Tensor:
        return super().forward(raw.clamp_max(GUARD[raw.dtype][1]))

    def resolved(self, values: Mapping[str, Any]) -> Self:
        low = values[self.low]
        share = torch.finfo(low.dtype).eps ** 0.6
        return self.with_bounds({"low": low + low.abs() * share + GUARD[low.dtype][0]})

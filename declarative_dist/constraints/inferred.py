"""The constraint of an argument for which none was declared, inferred from its base.

Most arguments get the constraint of their set, in the guard band of its dtype. `BANDS` lists
those that need a narrower one: beyond it torch's own `log_prob` of ordinary data fails, or the
building of the distribution, or its sampler does not end. That draws leave the dtype is no reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributions as dd
from torch import Tensor
from torch.distributions import Distribution, Transform
from typing_extensions import Self

from declarative_dist.constraints.adapters import as_constraint
from declarative_dist.constraints.band import GUARD, Limits
from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.half_line import GreaterThan, LessThan, Positive, Real
from declarative_dist.constraints.matrix import LowerCholesky
from declarative_dist.plain.arguments import MATRIX, Argument

Range = tuple[float, float]


def _limits(double: Range, single: Range) -> Limits:
    """Ranges per dtype; float16, which no range serves, keeps its own where that is narrower."""
    low, high = single
    return {
        torch.float64: double,
        torch.float32: single,
        torch.bfloat16: single,
        torch.float16: (max(low, -1e4) if low < 0 else max(low, 1e-3), min(high, 1e4)),
    }


class DegreesOfFreedom(GreaterThan):
    """Numbers above n - 1, where n is the size of the matrix in another field.

    Args:
        matrix: the name of that field.
    """

    dims_behind = 2

    def resolved(self, values: Mapping[str, Any]) -> Self:
        matrix = values[self.names[0]]
        return self.with_bounds({"low": float(matrix.shape[-1] - 1)})


class NoiseFloor(GreaterThan):
    """Variances above the rounding of those that a low-rank factor adds, in the guard band.

    Below that, the sum of both has no Cholesky factor in the dtype.

    Args:
        factor: the name of the field that holds the factor, of shape `(*batch, dim, rank)`.
    """

    dims_behind = 1

    def resolved(self, values: Mapping[str, Any]) -> Self:
        factor = values[self.names[0]]
        share = factor.shape[-2] * torch.finfo(factor.dtype).eps
        return self.with_bounds({"low": factor.square().sum(-1) * share + GUARD[factor.dtype][0]})

    def link(self, raw: Tensor) -> Tensor:
        return super().link(raw.clamp_max(GUARD[raw.dtype][1]))

    def contains(self, value: Tensor) -> Tensor:
        return super().contains(value) & (value - self.low <= GUARD[value.dtype][1])

    def without_guard(self) -> Positive:
        return Positive(guard=False)


_COUNTED = Real(limits=_limits((-1e290, 1e290), (-1e30, 1e30)))
_RELAXED = Real(limits=_limits((-600.0, 600.0), (-70.0, 70.0)))
_POWER = Positive(guard=_limits((1e-13, 1e10), (1e-4, 1e5)))
_SHAPE = Positive(guard=_limits((1e-150, 1e10), (1e-18, 1e5)))
_FACTOR = LowerCholesky(conditioned=True)

BANDS: Mapping[tuple[type[Distribution], str], Constraint] = {
    # log_prob multiplies the logits by a count, which overflows.
    (dd.Binomial, "logits"): _COUNTED,
    (dd.Multinomial, "logits"): _COUNTED,
    # log_prob takes the log of the probability and of the rest, which round to 0.
    (dd.Geometric, "logits"): Real(limits=_limits((-700.0, 36.0), (-87.0, 16.0))),
    # log_prob takes exp of the logits.
    (dd.RelaxedBernoulli, "logits"): _RELAXED,
    # x**a rounds to 0 or 1 for ordinary x, whose log_prob is then infinite.
    (dd.Kumaraswamy, "concentration0"): _POWER,
    (dd.Kumaraswamy, "concentration1"): _POWER,
    # log_prob takes the difference of two lgamma, which is rounding beyond: data that want the
    # limit, a normal or a Poisson distribution, would end at a density that is wrong.
    (dd.StudentT, "df"): _SHAPE,
    (dd.FisherSnedecor, "df1"): _SHAPE,
    (dd.FisherSnedecor, "df2"): _SHAPE,
    (dd.NegativeBinomial, "total_count"): _SHAPE,
    # Building adds half of the dimensions and subtracts them again, which leaves 0.
    (dd.LKJCholesky, "concentration"): Positive(guard=_limits((1e-12, 1e150), (1e-5, 1e18))),
    # Beyond, gradients of log_prob are NaN in float32; at 1e18 the sampler does not end.
    (dd.VonMises, "concentration"): Positive(guard=_limits((1e-40, 1e14), (1e-5, 1e4))),
    (dd.Uniform, "high"): GreaterThan("low"),
    # No number is left above the lower end.
    (dd.Uniform, "low"): Real(limits=_limits((-1e300, 1e300), (-1e36, 1e36))),
    # log_prob solves with the factor, which divides rounding errors by its diagonal.
    (dd.MultivariateNormal, "scale_tril"): _FACTOR,
    (dd.Wishart, "scale_tril"): _FACTOR,
    # Building squares the factor.
    (dd.LowRankMultivariateNormal, "cov_diag"): NoiseFloor("cov_factor"),
    (dd.LowRankMultivariateNormal, "cov_factor"): Real(
        limits=_limits((-1e150, 1e150), (-1e18, 1e18))
    ),
}
"""The constraint of an argument of a base where the general band holds too much."""


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
    if issubclass(base, dd.Uniform) and argument.name == "low" and declared.get("high"):
        return LessThan("high")
    if issubclass(base, dd.Wishart) and argument.name == "df":
        return DegreesOfFreedom(next(name for name in MATRIX if name in declared))
    own = _narrow_constraint(base, argument.name)
    if own is not None or argument.torch_constraint is None:
        return own
    return as_constraint(argument.torch_constraint, f"{base.__name__}.{argument.name}")


def narrow(constraint: Constraint, base: Any, argument: str) -> Constraint:
    """A declared constraint in the narrower band that an argument needs, if it has none already.

    Args:
        constraint: as it was declared.
        base: a distribution class, or what makes one.
        argument: the argument that it is for.
    """
    band = getattr(_narrow_constraint(base, argument), "guard", None)
    if isinstance(band, Mapping) and isinstance(constraint, Positive) and constraint.guard is True:
        return constraint.with_guard(band)
    return constraint


def _narrow_constraint(base: Any, argument: str) -> Constraint | None:
    kinds = getattr(base, "__mro__", ())
    return next((BANDS[kind, argument] for kind in kinds if (kind, argument) in BANDS), None)


STARTS: Mapping[str, Callable[[torch.Size], Tensor]] = {
    "cov_factor": lambda shape: 0.1 * torch.randn(shape)
}
"""Where parameters start that nobody gave a value, if not at their constraint's default.

A factor of zeros has no gradient: every direction out of it looks alike.
"""

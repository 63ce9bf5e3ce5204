"""The quadratic model of the losses of many independent problems, and the step it proposes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

REACH = 1e3
"""A step changes no number by more than so many times its size."""


class Model(NamedTuple):
    """The quadratic model of each problem's loss at a point, in float64.

    Attributes:
        losses: of shape `(problems,)`.
        gradient: of shape `(problems, numbers)`, zero for numbers that are held.
        hessian: of shape `(problems, numbers, numbers)`.
        step: the Newton step.
        decrement: half of what the step would gain if the model held, `g^T |H|^-1 g / 2`.
        valley: the direction of the most negative curvature, in its unit; zero without one.
    """

    losses: Tensor
    gradient: Tensor
    hessian: Tensor
    step: Tensor
    decrement: Tensor
    valley: Tensor


def solve(
    losses: Tensor, gradient: Tensor, hessian: Tensor, point: Tensor, held: Tensor, eps: float
) -> Model:
    """The model of each problem, with its step; numbers that are held do not move.

    It is solved in units in which the diagonal is one. A number without curvature gets a unit that
    bounds its step, unless all that it could gain is below rounding.
    """
    gradient = gradient.masked_fill(held, 0.0)
    fixed = held[:, :, None] | held[:, None, :]
    is_known = hessian.isfinite().all(-1).all(-1)
    hessian = hessian.masked_fill(fixed | ~is_known[:, None, None], 0.0)
    reach, rounding = 1 + point.abs(), 8 * eps * (1 + losses.abs())
    least = gradient.nan_to_num(0.0).abs() / (REACH * reach)
    least = least.masked_fill(least * reach**2 * REACH <= rounding[:, None], 0.0)
    size = torch.maximum(hessian.diagonal(dim1=1, dim2=2).abs(), least)
    unit = torch.where(size > 0, size.clamp_min(1e-300) ** -0.5, reach)
    scaled = (hessian + hessian.mT) / 2 * unit[:, :, None] * unit[:, None, :]
    values, vectors = torch.linalg.eigh(scaled)
    along = (vectors.mT @ (unit * gradient.nan_to_num(0.0))[..., None]).squeeze(-1)
    sizes = values.abs().clamp_min(eps**0.75)
    step = -unit * (vectors @ (along / sizes)[..., None]).squeeze(-1)
    step = step * (REACH * reach / step.abs().clamp_min(1e-300)).amin(1, keepdim=True).clamp_max(1)
    lowest = unit * vectors[:, :, 0]
    sign = torch.where((lowest * gradient).sum(1, keepdim=True) > 0, -1.0, 1.0)
    valley = torch.where(values[:, :1] < -1e-4, sign * lowest, 0.0)
    decrement = (along**2 / sizes).sum(1) / 2
    return Model(losses, gradient, hessian, step, decrement, valley)

"""Vectors whose entries increase strictly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.positive import inverse_softplus, softplus
from declarative_dist.constraints.representable import largest, widened
from declarative_dist.plain.supports import register_whole

INTEGERS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}


class OrderedVector(constraints.Constraint):
    """The set of strictly increasing vectors, which torch has no object for."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Whether each vector increases strictly."""
        return (value[..., 1:] > value[..., :-1]).all(-1)


register_whole(OrderedVector)


class Ordered(Constraint):
    """Strictly increasing vectors: a first number, then softplus gaps.

    Cut points of an ordinal model, or the means of a mixture in order. Where gaps are too small
    for the dtype, values are moved to its next numbers, so that the order stays strict.

    Values and raw numbers have shape `(*batch, K)`.

    Example:
        >>> import torch
        >>> from declarative_dist import Ordered
        >>> Ordered()(torch.tensor([0.0, -1e4, -1e4])).diff() > 0
        tensor([True, True])
    """

    support = OrderedVector()

    def forward(self, raw: Tensor) -> Tensor:
        wide = widened(raw)
        size = max(raw.shape[-1], 1)
        room = largest(raw.dtype) / (4 * size) * (1 - size * torch.finfo(wide.dtype).eps)
        wide = wide.clamp(-room, room)
        steps = torch.cat([wide[..., :1], softplus(wide[..., 1:])], -1)
        return _strictly_increasing(steps.cumsum(-1).to(raw.dtype))

    def inverse(self, value: Tensor) -> Tensor:
        wide = widened(value)
        gaps = inverse_softplus(wide[..., 1:] - wide[..., :-1])
        return torch.cat([wide[..., :1], gaps], -1).to(value.dtype)

    def contains(self, value: Tensor) -> Tensor:
        room = largest(value.dtype) / 4
        return (value.abs() <= room).all(-1) & self.support.check(value)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return F.logsigmoid(raw[..., 1:]).sum(-1)

    def default(self, shape: torch.Size) -> Tensor:
        size = shape[-1]
        return (torch.arange(float(size)) - (size - 1) / 2).expand(shape)

    def describe(self) -> str:
        return "finite numbers that increase strictly along the last dimension"


def _strictly_increasing(value: Tensor) -> Tensor:
    """Move entries up to the next numbers of the dtype where they do not increase.

    Bit patterns of floating-point numbers, read as integers, count them in order; there the rule
    is `key[k] >= key[k - 1] + 1`. The gradient passes straight through.
    """
    integer = INTEGERS[value.dtype]
    bits = value.detach().view(integer).to(torch.int64)
    lowest = torch.iinfo(integer).min
    key = torch.where(bits < 0, lowest - bits, bits)
    rank = torch.arange(value.shape[-1], device=value.device)
    key = (key - rank).cummax(-1).values + rank
    strict = torch.where(key < 0, lowest - key, key).to(integer).view(value.dtype)
    return value + (strict - value).detach()

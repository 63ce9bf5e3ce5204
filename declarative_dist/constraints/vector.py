"""Vectors: probabilities that sum to one, and numbers that increase strictly."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from declarative_dist.constraints.band import GUARD, WIDEST, promote
from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.half_line import Positive, Real, inverse_softplus, softplus
from declarative_dist.constraints.scalar import Scalar
from declarative_dist.errors import ConstraintError
from declarative_dist.plain.supports import OrderedVector, PositiveOrderedVector
from declarative_dist.plain.tensors import HALF

INTEGERS = {64: torch.int64, 32: torch.int32, 16: torch.int16}
"""The integers by how many bits they have."""


class Simplex(Constraint):
    """Vectors of K positive numbers that sum to one, from K - 1 raw numbers.

    The raw numbers are coordinates in an orthonormal basis of the vectors that sum to zero; their
    softmax is the value. So the map is bijective, treats all entries alike, and zero is the
    uniform vector (the isometric log-ratio transform of Egozcue et al., "Isometric logratio
    transformations for compositional data analysis", Mathematical Geology 35, 2003).

    Values have shape `(*batch, K)`, raw numbers `(*batch, K - 1)`.

    Example:
        >>> import torch
        >>> from declarative_dist import Simplex
        >>> Simplex()(torch.zeros(3))
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    support = constraints.simplex

    def forward(self, raw: Tensor) -> Tensor:
        if not raw.ndim:
            event_size(self, raw.shape)  # refuses it
        wide = promote(raw)
        room = torch.finfo(wide.dtype).max / (8 * (1 + math.log(raw.shape[-1] + 1)))
        rank = torch.arange(1, raw.shape[-1] + 1, dtype=wide.dtype, device=raw.device)
        # The vector that sums to zero with these coordinates in the Helmert basis.
        weights = wide.clamp(-room, room) / (rank * (rank + 1)).sqrt()
        zero = wide.new_zeros(*raw.shape[:-1], 1)
        above = torch.cat([weights.flip(-1).cumsum(-1).flip(-1), zero], -1)
        zero_sum = above - torch.cat([zero, rank * weights], -1)
        shifted = zero_sum - zero_sum.amax(-1, keepdim=True).detach()
        return shifted.clamp_min(math.log(WIDEST[raw.dtype][0])).softmax(-1).to(raw.dtype)

    def inverse(self, value: Tensor) -> Tensor:
        logs = promote(value).log()
        rank = torch.arange(1, value.shape[-1], dtype=logs.dtype, device=logs.device)
        contrasts = logs[..., :-1].cumsum(-1) - rank * logs[..., 1:]
        return (contrasts / (rank * (rank + 1)).sqrt()).to(value.dtype)

    def contains(self, value: Tensor) -> Tensor:
        eps = torch.finfo(value.dtype).eps
        slack = 4 * eps if value.dtype in HALF else (4 + value.shape[-1]) * eps
        sums_to_one = (promote(value).sum(-1) - 1).abs() <= slack
        return (value > 0).all(-1) & sums_to_one

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return value.log().sum(-1) + 0.5 * math.log(value.shape[-1])

    def raw_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], event_size(self, shape) - 1))

    def value_shape(self, raw_shape: torch.Size) -> torch.Size:
        return torch.Size((*raw_shape[:-1], raw_shape[-1] + 1))

    def default(self, shape: torch.Size) -> Tensor:
        return torch.full(shape, 1 / event_size(self, shape))

    def describe(self) -> str:
        return "positive numbers that sum to 1 along the last dimension"


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
    first: Scalar = Real()
    """The constraint of the first number."""

    def forward(self, raw: Tensor) -> Tensor:
        if not raw.ndim:
            event_size(self, raw.shape)  # refuses it
        wide = promote(raw)
        size = max(raw.shape[-1], 1)
        room = torch.finfo(raw.dtype).max / (4 * size) * (1 - size * torch.finfo(wide.dtype).eps)
        wide = wide.clamp(-room, room)  # so that sums stay finite
        first = promote(self.first.forward(wide[..., :1].to(raw.dtype)))
        steps = torch.cat([first, softplus(wide[..., 1:])], -1)
        return _increase_strictly(steps.cumsum(-1).to(raw.dtype))

    def inverse(self, value: Tensor) -> Tensor:
        gaps = inverse_softplus(promote(value).diff(dim=-1)).to(value.dtype)
        return torch.cat([self.first.inverse(value[..., :1]), gaps], -1)

    def contains(self, value: Tensor) -> Tensor:
        in_room = (value.abs() <= torch.finfo(value.dtype).max / 4).all(-1)
        return in_room & self.first.contains(value[..., 0]) & self.support.check(value)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        first = self.first.log_abs_det_jacobian(raw[..., 0], value[..., 0])
        return first + F.logsigmoid(raw[..., 1:]).sum(-1)

    def default(self, shape: torch.Size) -> Tensor:
        size = event_size(self, shape)
        return (torch.arange(float(size)) - (size - 1) / 2).expand(shape)

    def raw_shape(self, shape: torch.Size) -> torch.Size:
        event_size(self, shape)
        return shape

    def describe(self) -> str:
        return "finite numbers that increase strictly along the last dimension"


class PositiveOrdered(Ordered):
    """Strictly increasing vectors of positive numbers: softplus gaps, the first from zero.

    Rates or scales of a mixture in order. The first number stays in the guard band of `Positive`.

    Values and raw numbers have shape `(*batch, K)`.

    Example:
        >>> import torch
        >>> from declarative_dist import PositiveOrdered
        >>> PositiveOrdered()(torch.tensor([-1e4, 0.0, -1e4])) > 0
        tensor([True, True, True])
    """

    support = PositiveOrderedVector()
    first = Positive(guard={d: (low, WIDEST[d][1]) for d, (low, _) in GUARD.items()})

    def default(self, shape: torch.Size) -> Tensor:
        return (1 + torch.arange(float(event_size(self, shape)))).expand(shape)

    def describe(self) -> str:
        return "positive numbers that increase strictly along the last dimension"


def _increase_strictly(value: Tensor) -> Tensor:
    """Move entries up to the next numbers of the dtype where they do not increase.

    Bit patterns of floating-point numbers, read as integers, count them in order; there the rule
    is `key[k] >= key[k - 1] + 1`. The gradient passes straight through.
    """
    integer = INTEGERS[torch.finfo(value.dtype).bits]
    bits = value.detach().view(integer).to(torch.int64)
    lowest = torch.iinfo(integer).min
    key = torch.where(bits < 0, lowest - bits, bits)
    rank = torch.arange(value.shape[-1], device=value.device)
    key = (key - rank).cummax(-1).values + rank
    strict = torch.where(key < 0, lowest - key, key).to(integer).view(value.dtype)
    return value + (strict - value).detach()


def event_size(constraint: Constraint, shape: torch.Size) -> int:
    """The size of the vectors, or of the square matrices, in a tensor of this shape.

    Raises:
        ConstraintError: if it holds none.
    """
    events = shape[-constraint.event_dim :]
    if len(events) == constraint.event_dim and len(set(events)) == 1 and events[0]:
        return events[0]
    kinds = ("vectors, of shape (*batch, n)", "square matrices, of shape (*batch, n, n)")
    expected = f"{kinds[constraint.event_dim - 1]} and n of 1 or more"
    got = f"the shape {tuple(shape)}"
    raise ConstraintError(type(constraint).__name__, expected, got, code="wrong-shape")

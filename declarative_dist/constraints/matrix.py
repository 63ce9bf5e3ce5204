"""Cholesky factors, positive-definite matrices and correlation factors, from packed triangles.

Raw numbers of a triangular matrix are a vector: first the diagonal (where there is one), then the
entries below it, row by row. So no parameter is dead. The guarantees hold in float64 and float32;
half precision works where torch has the operators.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling
from torch.distributions import constraints

from declarative_dist.constraints.band import Guard, clamp_result, promote
from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.half_line import inverse_softplus, softplus
from declarative_dist.constraints.vector import event_size
from declarative_dist.errors import ConstraintError
from declarative_dist.plain.tensors import HALF
from declarative_dist.plain.tracing import is_autocasting, is_traced


class Packed(Constraint):
    """Square matrices packed as a triangle."""

    has_diagonal = True
    """Whether the packed numbers begin with the diagonal."""

    @property
    def raw_event_dim(self) -> int:
        return 1

    def raw_shape(self, shape: torch.Size) -> torch.Size:
        size = event_size(self, shape)
        return torch.Size((*shape[:-2], size * (size + (1 if self.has_diagonal else -1)) // 2))

    def value_shape(self, raw_shape: torch.Size) -> torch.Size:
        size = self._size_of(raw_shape)
        return torch.Size((*raw_shape[:-1], size, size))

    def _size_of(self, raw_shape: torch.Size) -> int:
        """The size of a matrix, by how many numbers its triangle has.

        Raises:
            ConstraintError: if they fill none.
        """
        count = raw_shape[-1] if raw_shape else 2  # two fill none either
        size = 0 if is_compiling() else math.isqrt(2 * count)
        while size * (size + 1) // 2 < count:  # dynamo has no integer root of an unknown size
            size += 1
        if size * (size + 1) // 2 == count:
            return size if self.has_diagonal else size + 1
        name, fill = type(self).__name__, size * (size + 1) // 2
        expected = f"raw numbers of shape (*batch, n), n as {fill} for one triangle"
        raise ConstraintError(name, expected, f"the shape {tuple(raw_shape)}", code="wrong-shape")

    def default(self, shape: torch.Size) -> Tensor:
        return torch.eye(event_size(self, shape)).expand(shape)


class LowerCholesky(Packed):
    """Lower-triangular matrices with a positive diagonal, through softplus.

    The usual parameter of a multivariate normal's covariance `L @ L.mT`. Values have shape
    `(*batch, n, n)`, raw numbers `(*batch, n * (n + 1) / 2)`.

    Args:
        conditioned: keeps every diagonal entry above the rounding of its row's length, and all
            entries where squares are finite. Below that, the row is one of the others in the
            dtype, and solving with the matrix divides rounding errors by it.
        guard: as for `Positive`, for the entries of the diagonal.

    Example:
        >>> import torch
        >>> from declarative_dist import LowerCholesky
        >>> constraint = LowerCholesky()
        >>> constraint(constraint.inverse(torch.eye(2)))
        tensor([[1., 0.],
                [0., 1.]])
    """

    support = constraints.lower_cholesky

    def __init__(self, *, conditioned: bool = False, guard: Guard = True) -> None:
        super().__init__()
        self.set_guard(guard)
        self.conditioned = conditioned

    def forward(self, raw: Tensor) -> Tensor:
        size = self._size_of(raw.shape)
        raw_diagonal, below = raw.split_with_sizes([size, raw.shape[-1] - size], -1)
        low, high = self.limits_in(raw.dtype)
        least: float | Tensor = low
        if self.conditioned:
            room = high / (4 * size)
            below = below.clamp(-room, room)
            beside = unpack_lower(torch.zeros_like(raw_diagonal), below.detach())
            least = self._share(beside).clamp_min(low)
        return unpack_lower(clamp_result(softplus(raw_diagonal), least, high), below)

    def _share(self, value: Tensor) -> Tensor:
        """What the diagonal must exceed: the rounding of the length of the row beside it."""
        beside = value.tril(-1)
        longest = beside.abs().amax(-1, keepdim=True).clamp_min(self.limits_in(value.dtype)[0])
        length = (beside / longest).square().sum(-1).sqrt() * longest.squeeze(-1)
        return length * (8 * value.shape[-1] * torch.finfo(value.dtype).eps)

    def inverse(self, value: Tensor) -> Tensor:
        diagonal = promote(value).diagonal(dim1=-2, dim2=-1)
        raw = inverse_softplus(diagonal.clamp_min(self.limits_in(value.dtype)[0]))
        return torch.cat([raw.to(value.dtype), pack_strictly_lower(value)], -1)

    def contains(self, value: Tensor) -> Tensor:
        low, high = self.limits_in(value.dtype)
        diagonal = value.diagonal(dim1=-2, dim2=-1)
        inside = _is_lower(value) & (diagonal >= low).all(-1) & (diagonal <= high).all(-1)
        if not self.conditioned:
            return inside
        in_range = (value.abs() <= high).flatten(-2).all(-1)
        share = self._share(value) * (1 - 16 * torch.finfo(value.dtype).eps)
        return inside & in_range & (diagonal >= share).all(-1)

    def without_guard(self) -> LowerCholesky:
        return LowerCholesky(guard=False)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return F.logsigmoid(raw[..., : value.shape[-1]]).sum(-1)

    def describe(self) -> str:
        ending = ", well conditioned" if self.conditioned else ""
        return f"lower-triangular matrices with a positive diagonal{ending}"

    def extra_repr(self) -> str:
        conditioned = "conditioned=True" if self.conditioned else ""
        return ", ".join(filter(None, (conditioned, super().extra_repr())))


class PositiveDefinite(Packed):
    """Symmetric positive-definite matrices `L @ L.mT`, always with a Cholesky factor.

    Entries stay in the guard band of `Positive`, the factor's entries in its square root. The
    diagonal is raised by a few units in the last place, so that torch's Cholesky
    decomposition of the value succeeds whatever the raw numbers are. Values have shape
    `(*batch, n, n)`, raw numbers `(*batch, n * (n + 1) / 2)`.

    Args:
        guard: as for `Positive`.

    Example:
        >>> import torch
        >>> from declarative_dist import PositiveDefinite
        >>> matrix = PositiveDefinite()(torch.tensor([0.0, -1e10, 1e6]))
        >>> torch.linalg.cholesky_ex(matrix).info
        tensor(0, dtype=torch.int32)
    """

    support = constraints.positive_definite

    def __init__(self, *, guard: Guard = True) -> None:
        super().__init__()
        self.set_guard(guard)

    def forward(self, raw: Tensor) -> Tensor:
        size = self._size_of(raw.shape)
        raw_diagonal, below = raw.split_with_sizes([size, raw.shape[-1] - size], -1)
        floor, ceiling = self._factor_limits(size, raw.dtype)
        diagonal = clamp_result(softplus(raw_diagonal), floor, ceiling)
        factor = unpack_lower(diagonal, below.clamp(-ceiling, ceiling))
        if is_autocasting(factor):  # in the dtype of the factor there too
            with torch.autocast(factor.device.type, enabled=False):
                matrix = factor @ factor.mT
        else:
            matrix = factor @ factor.mT
        raised = matrix.diagonal(dim1=-2, dim2=-1) * _raise(size, raw.dtype)
        return matrix + raised.diag_embed()

    def _factor_limits(self, size: int, dtype: torch.dtype) -> tuple[float, float]:
        """The range of a factor's entries for which the matrix stays inside the guard band."""
        low, high = self.limits_in(dtype)
        return math.sqrt(low), math.sqrt(high / (2 * size * (1 + _raise(size, dtype))))

    def inverse(self, value: Tensor) -> Tensor:
        size = value.shape[-1]
        # In single precision rounding is as large as what forward raised the diagonal by.
        wide = promote(value) if value.is_mps else value.double()  # Metal has no float64
        share = _raise(size, value.dtype)
        raised = wide.diagonal(dim1=-2, dim2=-1) * (share / (1 + share))
        exact, failed = torch.linalg.cholesky_ex(wide - raised.diag_embed())
        nearest = torch.linalg.cholesky_ex(wide).L
        factor = torch.where((failed == 0)[..., None, None], exact, nearest)
        diagonal = inverse_softplus(factor.diagonal(dim1=-2, dim2=-1))
        return torch.cat([diagonal, pack_strictly_lower(factor)], -1).to(value.dtype)

    def contains(self, value: Tensor) -> Tensor:
        finite = value.isfinite().flatten(-2).all(-1)
        identity = torch.eye(value.shape[-1]).to(value)
        wide = torch.where(finite[..., None, None], promote(value), identity)
        largest = wide.abs().amax((-2, -1), keepdim=True)
        slack = 8 * torch.finfo(value.dtype).eps * largest
        symmetric = ((wide - wide.mT).abs() <= slack).flatten(-2).all(-1)
        factor, failed = torch.linalg.cholesky_ex(wide)
        smallest = self._factor_limits(value.shape[-1], value.dtype)[0] * 0.99
        large_enough = (factor.diagonal(dim1=-2, dim2=-1) >= smallest).all(-1)
        small_enough = (largest <= self.limits_in(value.dtype)[1])[..., 0, 0]
        return finite & symmetric & (failed == 0) & large_enough & small_enough

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        size = value.shape[-1]
        diagonal = softplus(raw[..., :size])
        powers = torch.arange(size, 0, -1, dtype=raw.dtype, device=raw.device)
        from_factor = size * math.log(2.0) + (powers * diagonal.log()).sum(-1)
        raised = size * math.log1p(_raise(size, raw.dtype))
        return F.logsigmoid(raw[..., :size]).sum(-1) + from_factor + raised

    def describe(self) -> str:
        return "symmetric positive-definite matrices"


class CorrCholesky(Packed):
    """Cholesky factors of correlation matrices: rows of length one, a positive diagonal.

    Each row is `(raw_i, 1)` divided by its length. Values have shape `(*batch, n, n)`, raw numbers
    `(*batch, n * (n - 1) / 2)`.

    Example:
        >>> import torch
        >>> from declarative_dist import CorrCholesky
        >>> CorrCholesky()(torch.tensor([1.0]))
        tensor([[1.0000, 0.0000],
                [0.7071, 0.7071]])
    """

    support = constraints.corr_cholesky
    has_diagonal = False

    def forward(self, raw: Tensor) -> Tensor:
        rows = unpack_lower(raw.new_ones(*raw.shape[:-1], self._size_of(raw.shape)), raw)
        rows = rows / rows.abs().amax(-1, keepdim=True).detach()
        value = rows / rows.norm(dim=-1, keepdim=True)
        tiny = torch.finfo(raw.dtype).tiny
        diagonal = value.diagonal(dim1=-2, dim2=-1)
        return value.tril(-1) + diagonal.clamp_min(tiny).diag_embed()

    def inverse(self, value: Tensor) -> Tensor:
        wide = promote(value)
        ratio = wide / wide.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        return pack_strictly_lower(ratio).to(value.dtype)

    def contains(self, value: Tensor) -> Tensor:
        size = value.shape[-1]
        eps = torch.finfo(value.dtype).eps
        slack = 4 * eps if value.dtype in HALF else (4 + size) * eps
        unit = ((promote(value).norm(dim=-1) - 1).abs() <= slack).all(-1)
        positive = (value.diagonal(dim1=-2, dim2=-1) > 0).all(-1)
        return _is_lower(value) & positive & unit

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        size = value.shape[-1]
        powers = torch.arange(3, size + 2, dtype=value.dtype, device=value.device)
        return (powers * value.diagonal(dim1=-2, dim2=-1)[..., 1:].log()).sum(-1)

    def advice(self, value: Tensor) -> str:
        return "Divide each row by its length."

    def describe(self) -> str:
        return "lower-triangular matrices with rows of length 1 and a positive diagonal"


def _raise(size: int, dtype: torch.dtype) -> float:
    """The share of itself by which a diagonal of this size grows, for Cholesky to succeed."""
    return 4 * size**2 * torch.finfo(dtype).eps


def unpack_lower(diagonal: Tensor, below: Tensor) -> Tensor:
    """Unpack a triangle: its diagonal, and what is below it, row by row."""
    size = diagonal.shape[-1]
    is_stored = size <= 128 and not is_traced(below)  # at most 64 KiB a size
    places = (_stored_places if is_stored else _places)(size, below.device)
    flat = below.new_zeros(*below.shape[:-1], size * size)
    flat.index_add_(-1, places, torch.cat([diagonal, below], -1))
    return flat.unflatten(-1, (size, size))


def _places(size: int, device: torch.device) -> Tensor:
    """Where the numbers of a packed triangle go in the flat matrix."""
    rows, columns = torch.tril_indices(size, size, -1, device=device)
    diagonal = torch.arange(size, device=device) * (size + 1)
    return torch.cat([diagonal, rows * size + columns])


@lru_cache(maxsize=16)
def _stored_places(size: int, device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):  # a gradient may be asked for the next time
        return _places(size, device)


def pack_strictly_lower(matrix: Tensor) -> Tensor:
    """Pack what is below the diagonal, row by row."""
    size = matrix.shape[-1]
    rows, columns = torch.tril_indices(size, size, -1, device=matrix.device)
    return matrix[..., rows, columns]


def _is_lower(value: Tensor) -> Tensor:
    is_square = value.shape[-1] == value.shape[-2]
    finite = value.isfinite().flatten(-2).all(-1)
    return finite & (value == value.tril()).flatten(-2).all(-1) & is_square

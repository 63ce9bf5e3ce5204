"""Which raw numbers are saturated: so far out that steps of an optimizer do not move the value.

A raw number is saturated where its value is held at an end of its band, or where a unit step (a
hundred steps of Adam at 0.01) changes the value by less than a thousandth of itself, and of what
such a step changes around zero. So what is learned through a logarithm never is, however small,
until the guard band of its dtype holds it; an interval is near its ends, and a floor where the
value lies on it. Near an end that is zero, and for probabilities near both ends, where small
numbers matter, it takes a millionth of the width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from declarative_dist.constraints.adapters import FromModule
from declarative_dist.constraints.band import WIDEST
from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.half_line import Real
from declarative_dist.constraints.interval import LogInterval
from declarative_dist.constraints.matrix import CorrCholesky
from declarative_dist.constraints.vector import Simplex
from declarative_dist.plain.supports import ends_of

SHARE = 1e-3
"""What a step must change, as a share of the value, for it to count as moving."""

TINY = 1e-6
"""The same as a share of a bounded set whose small values matter."""

LARGEST = 10_000_000
"""The most raw numbers that are looked at."""

_DIRECTIONS = 3


def count_saturated(constraint: Constraint, raw: Tensor) -> tuple[int, int] | None:
    """How many numbers are saturated, and of how many.

    Args:
        constraint: with values in place of the names of its bounds.
        raw: the unconstrained numbers.

    Returns:
        Both counts; of a simplex they count its entries, and otherwise raw numbers. None where
        that is not known: on the meta device, where torch lacks an operator for the dtype, or of
        more than ten million numbers.
    """
    if type(constraint) is Real and constraint.limits is None:
        return 0, raw.numel()
    if raw.numel() > LARGEST:
        return None
    try:
        with torch.no_grad():
            still = _find_still(constraint, raw)
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        return None
    return int(still.sum()), still.numel()


def _find_still(constraint: Constraint, raw: Tensor) -> Tensor:
    """Which raw numbers are saturated; of a simplex, which entries."""
    value, relative, absolute = _slopes(constraint, raw)
    _, _, usual = _slopes(constraint, torch.zeros_like(raw))
    still = (relative <= SHARE) & (absolute <= SHARE * usual) & (usual > 0)
    if isinstance(constraint, Simplex):
        still = (still | (absolute <= TINY * usual)).all(-1, keepdim=True)
        return still | (value <= 1.01 * WIDEST[raw.dtype][0] * value.amax(-1, keepdim=True))
    if isinstance(constraint, CorrCholesky):
        still |= absolute <= TINY * usual
    if not _is_elementwise(constraint):
        return still
    if (ends := ends_of(constraint.support)) is not None:
        low, high = (end.detach().cpu() for end in ends)
        is_from_zero = (high - low).isfinite() & ((low == 0) | (high == 0))
        still |= is_from_zero & (absolute <= TINY * (high - low))
    step = 1 + 0.01 * raw.abs()
    at_end = constraint.is_at_end(raw + step) & constraint.is_at_end(raw - step)
    return still | at_end.cpu()


def _is_elementwise(constraint: Constraint) -> bool:
    is_known = not isinstance(constraint, FromModule)
    return is_known and constraint.event_dim == constraint.raw_event_dim == 0


def _slopes(constraint: Constraint, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The value, and how much each raw number moves it: as a share of its size, and in all.

    Where several raw numbers make one value, the length of a column of the Jacobian shows in its
    products with a few rows of random weights: of all columns at once, at the price of a backward
    pass for each row.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        point = raw.detach().clone().requires_grad_()
        value = constraint.forward(point * 1)  # maps may change what they are given
        value = value.log() if isinstance(constraint, LogInterval) else value
    size = _size(value.detach(), constraint)
    generator = torch.Generator().manual_seed(0)  # slopes at two places are compared

    def longest(rows: Tensor, weights: Tensor) -> Tensor:
        moved = [
            torch.autograd.grad(value, point, row.to(weights) * weights, retain_graph=True)[0]
            for row in rows
        ]
        return torch.stack(moved).cpu().double().abs().amax(0)

    ones, wide = torch.ones_like(size), value.detach().cpu().double()
    if _is_elementwise(constraint):
        absolute = longest(ones[None], ones)
        return wide, absolute / size.cpu().double().clamp_min(1e-300), absolute
    rows = torch.randn((_DIRECTIONS, *value.shape), generator=generator)
    least = torch.finfo(value.dtype).tiny ** 0.5
    return wide, longest(rows, 1 / size.clamp_min(least)), longest(rows, ones)


def _size(value: Tensor, constraint: Constraint) -> Tensor:
    """How large values are; of probabilities the distance to the nearer end, of logarithms one."""
    if isinstance(constraint, LogInterval):
        return torch.ones_like(value)
    low, high = (getattr(constraint.support, f"{end}_bound", None) for end in ("lower", "upper"))
    is_probability = not isinstance(low, Tensor) and (low, high) == (0, 1)
    return value.abs().minimum((1 - value).abs()) if is_probability else value.abs()

"""Which raw numbers are saturated: so far out that steps of an optimizer do not move the value.

A step is one unit of the raw number (a hundred steps of Adam at 0.01), or one percent of a large
one. A raw number is saturated where neither a step up nor a step down changes the value by a
thousandth of itself, nor of what such a step changes around zero. So what is learned through a
logarithm never is, however small, until the guard band of its dtype holds it; an interval is near
its ends, and a floor where the value lies on it. Near an end that is zero, and for probabilities
near both ends, where small numbers matter, it takes a millionth of the width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from declarative_dist.constraints.adapters import FromModule
from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.half_line import Real
from declarative_dist.constraints.interval import LogInterval
from declarative_dist.constraints.matrix import CorrCholesky
from declarative_dist.constraints.representable import WIDEST
from declarative_dist.constraints.simplex import Simplex

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

    Example:
        >>> import torch
        >>> from declarative_dist import Interval
        >>> from declarative_dist.display.saturation import count_saturated
        >>> count_saturated(Interval(-1.0, 1.0), torch.tensor([0.0, 50.0, -4.0]))
        (1, 3)
    """
    if type(constraint) is Real and constraint.limits is None:
        return 0, raw.numel()
    if raw.numel() > LARGEST:
        return None
    try:
        with torch.no_grad():
            if isinstance(constraint, Simplex):
                still = _still_entries(constraint, raw)
            elif _is_elementwise(constraint):
                still = _still_by_steps(constraint, raw)
            else:
                still = _still_by_gradient(constraint, raw)
            return int(still.sum()), still.numel()
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        return None


def _is_elementwise(constraint: Constraint) -> bool:
    is_known = not isinstance(constraint, FromModule)
    return is_known and constraint.event_dim == constraint.raw_event_dim == 0


def _still_by_steps(constraint: Constraint, raw: Tensor) -> Tensor:
    """Raw numbers whose value stays where it is when they step, compared value by value."""

    def forward(raw: Tensor) -> Tensor:
        # Maps may return what they were given.
        value = constraint.forward(raw.clone()).cpu().double()
        return value.log() if isinstance(constraint, LogInterval) else value

    value = forward(raw)
    change = _change(forward, raw, 1 + 0.01 * raw.abs())
    usual = _change(forward, torch.zeros_like(raw), torch.ones_like(raw))
    still = (change <= SHARE * _size(value, constraint)) & (change <= SHARE * usual)
    at_zero: Tensor = change <= TINY * _width_from_zero(constraint)
    return still | at_zero


def _size(value: Tensor, constraint: Constraint) -> Tensor:
    """How large values are; of probabilities the distance to the nearer end, of logarithms one."""
    if isinstance(constraint, LogInterval):
        return torch.ones_like(value)
    low, high = _ends(constraint)
    is_probability = not isinstance(low, Tensor) and (low, high) == (0, 1)
    return value.abs().minimum((1 - value).abs()) if is_probability else value.abs()


def _width_from_zero(constraint: Constraint) -> Any:
    """The width of an interval of which zero is an end; -1 for other sets."""
    low, high = _ends(constraint)
    if low is None or high is None:
        return -1.0
    low, high = (torch.as_tensor(end).detach().cpu().double() for end in (low, high))
    return torch.where((low == 0) | (high == 0), high - low, -1.0)


def _change(forward: Callable[[Tensor], Tensor], raw: Tensor, step: Tensor) -> Tensor:
    """How far the value moves when every raw number steps up or down, whichever is further."""
    here, up, down = forward(raw), forward(raw + step), forward(raw - step)
    return (up - here).abs().maximum((down - here).abs())


def _ends(constraint: Constraint) -> tuple[Any, Any]:
    support: Any = constraint.support
    return getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)


def _still_entries(constraint: Constraint, raw: Tensor) -> Tensor:
    """Entries of probability vectors: those held at the guard, and all where one has all."""
    value = constraint.forward(raw).cpu().double()
    floor = WIDEST[raw.dtype][0] * value.amax(-1, keepdim=True)
    one_hot = _still_by_gradient(constraint, raw).all(-1, keepdim=True)
    return (value <= floor * 1.01) | one_hot.expand(value.shape)


def _still_by_gradient(constraint: Constraint, raw: Tensor) -> Tensor:
    """Raw numbers whose derivatives nearly vanish, of maps that take several to one value.

    The length of a column of the Jacobian shows in its products with a few rows of random
    weights: of all of them at once, at the price of a backward pass for each row.
    """
    value, slope = _slopes(constraint, raw)
    least = torch.finfo(value.dtype).tiny ** 0.5
    relative = slope(1 / value.abs().clamp_min(least))
    absolute = slope(torch.ones_like(value))
    start, slope = _slopes(constraint, torch.zeros_like(raw))
    usual = slope(torch.ones_like(start))
    still = (relative <= SHARE) & (absolute <= SHARE * usual)
    if isinstance(constraint, (Simplex, CorrCholesky)):
        still |= absolute <= TINY * usual
    return still & (usual > 0)


def _slopes(constraint: Constraint, raw: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The value, and what gives for weights of its numbers how much each raw number moves it."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        point = raw.detach().clone().requires_grad_()
        value = constraint.forward(point * 1)

    def slope(weights: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)  # slopes at two places are compared
        longest = torch.zeros(point.shape, dtype=torch.float64)
        for _ in range(_DIRECTIONS):
            row = torch.randn(value.shape, generator=generator).to(weights) * weights
            (moved,) = torch.autograd.grad(value, point, row, retain_graph=True)
            longest = longest.maximum(moved.cpu().double().abs())
        return longest

    return value.detach(), slope

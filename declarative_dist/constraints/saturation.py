"""Which raw numbers are saturated: so far out that steps of an optimizer don't move the value."""

from __future__ import annotations

import torch
from torch import Tensor

from declarative_dist.constraints.adapters import FromModule
from declarative_dist.constraints.constraint import Constraint

_SHARE = 1e-6
"""What a step must change, as a share of the value, for it to count as moving."""

_USUAL = 1e-3
"""The same as a share of what a step changes around zero."""

_LARGEST = 10_000_000


def find_saturated(constraint: Constraint, raw: Tensor) -> Tensor:
    """Where a step hardly moves the value any more, in one direction or in both.

    A step is 1, a hundred steps of Adam at 0.01, or a hundredth of a large raw number. So a value
    held at an end of its band is saturated, and so are an interval near its ends, and a floor
    where the value lies on it; what is learned through its logarithm never is, however small.

    Args:
        constraint: with values in place of the names of its bounds.
        raw: unconstrained numbers, of shape `(*batch, *raw_event)`.

    Returns:
        A boolean tensor of the same shape. Of modules in torch's parametrization convention, and
        of very large matrices, it is False everywhere: nobody has looked.

    Example:
        >>> import torch
        >>> from declarative_dist import Interval
        >>> from declarative_dist.constraints.saturation import find_saturated
        >>> find_saturated(Interval(0.0, 1.0), torch.tensor([0.0, 30.0]))
        tensor([False,  True])
    """
    lead = raw.ndim - constraint.raw_event_dim
    batch, event = raw.shape[:lead], raw.shape[lead:]
    size = event.numel()
    is_known = raw.numel() and not isinstance(constraint, FromModule)
    if not is_known or size * raw.numel() > _LARGEST:
        return torch.zeros_like(raw, dtype=torch.bool)
    one = torch.eye(size, dtype=raw.dtype, device=raw.device)
    one = one.reshape(size, *(1,) * lead, *event)  # each number of an event moves by itself

    def change(start: Tensor, sign: float) -> tuple[Tensor, Tensor]:
        """How much the entries of a value change, and their size."""
        value = constraint.forward(start)
        moved = constraint.forward(start + sign * one * (1 + 0.01 * start.abs())) - value
        return moved.abs().reshape(size, *batch, -1), value.abs().reshape(*batch, -1)

    still = torch.zeros((size, *batch), dtype=torch.bool, device=raw.device)
    with torch.no_grad():
        for sign in (-1.0, 1.0):
            moved, value = change(raw, sign)
            usual, _ = change(torch.zeros_like(raw), sign)
            is_little = moved.amax(-1) <= _USUAL * usual.amax(-1)
            still |= (moved <= _SHARE * value).all(-1) & is_little
    return still.movedim(0, -1).reshape(raw.shape)

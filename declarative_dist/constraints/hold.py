"""Holding values inside a range without ending their gradient."""

from __future__ import annotations

from torch import Tensor

from declarative_dist.plain.tracing import is_transforming


def held(value: Tensor, low: float, high: float) -> Tensor:
    """A value moved to the nearest end of a range, with the gradient of the value.

    The gradient passes straight through: a clamp that stopped it would leave a parameter at the
    end of its range for good. The value must be the output of an operation, not a parameter: in
    eager mode its numbers are changed in place, which needs no node in the graph.

    Example:
        >>> from declarative_dist.constraints.hold import held
        >>> import torch
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> y = held(2 * x, 0.0, 1.0)
        >>> y.item(), *torch.autograd.grad(y, x)
        (1.0, tensor(2.))
    """
    if is_transforming():
        zero = (value - value.detach()).nan_to_num(0.0)
        return value.clamp(low, high).detach() + zero
    # Through .data, which leaves the version of the tensor that backward will read as it is.
    value.data.clamp_(low, high)
    return value

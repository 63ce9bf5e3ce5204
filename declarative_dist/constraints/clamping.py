"""Clamping numbers to a range without ending their gradient."""

from __future__ import annotations

from torch import Tensor, nn
from torch._C import _len_torch_dispatch_stack  # code that records what is called

from declarative_dist.plain.tracing import is_transforming

_WITH_NUMBERS = (nn.Parameter, Tensor)


def clamp_result(value: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Move a result to the nearest end of a range; its gradient stays as it is.

    The gradient passes straight through: a clamp that stopped it would leave a parameter at the
    end of its range for good.

    Args:
        value: the output of an operation whose backward does not read it, such as `softplus` or
            a sum. In eager mode its numbers are changed in place, which needs no node.
        low: the lower end.
        high: the upper end.

    Example:
        >>> from declarative_dist.constraints.clamping import clamp_result
        >>> import torch
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> y = clamp_result(2 * x, 0.0, 1.0)
        >>> y.item(), *torch.autograd.grad(y, x)
        (1.0, tensor(2.))
    """
    if is_transforming():
        zero = (value - value.detach()).nan_to_num(0.0)
        return value.detach().clamp(min=low).clamp(max=high) + zero
    # Through .data, which leaves the version of the tensor that backward will read as it is.
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        value.data.clamp_(min=low).clamp_(max=high)
    else:
        value.data.clamp_(low, high)
    return value


def clamp_input(raw: Tensor, low: float, high: float) -> Tensor:
    """Move the input of an operation to the nearest end of a range; its gradient passes through.

    For operations whose backward reads their result, such as `exp`: what they save is then inside
    from the start, also where autograd saves a copy or computes it anew (checkpointing, hooks on
    saved tensors).

    Returns:
        A copy; or the tensor itself where it is known to be inside, which costs no node.

    Example:
        >>> from declarative_dist.constraints.clamping import clamp_input
        >>> import torch
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> y = clamp_input(x, 0.0, 1.0).exp()
        >>> y.item() == torch.autograd.grad(y, x)[0].item() == torch.tensor(1.0).exp().item()
        True
    """
    if is_transforming():
        return clamp_result(raw, low, high)
    if raw.is_cpu and _is_within(raw, low, high):
        return raw
    copy = raw.clone()  # saves nothing, so that nothing is changed behind autograd's back
    copy.data.clamp_(low, high)
    return copy


def _is_within(raw: Tensor, low: float, high: float) -> bool:
    """Whether all numbers are known to be in a range; cheap on the CPU, where they are at hand."""
    if type(raw) not in _WITH_NUMBERS or _len_torch_dispatch_stack():
        return False
    if raw.numel() == 1:
        return low <= raw.item() <= high
    if not raw.numel():
        return True
    smallest, largest = raw.data.aminmax()
    return low <= smallest.item() and largest.item() <= high

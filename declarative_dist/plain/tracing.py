"""Whether tensors hold numbers that Python may look at right now."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C import _len_torch_dispatch_stack
from torch._C._functorch import (
    get_unwrapped,
    is_batchedtensor,
    maybe_current_level,
    maybe_get_bdim,
)
from torch._subclasses.fake_tensor import FakeTensor
from torch.compiler import is_compiling, is_dynamo_compiling


def is_transforming() -> bool:
    """Whether code is compiled by dynamo, exported, or runs under a `torch.func` transform.

    Then numbers must not be changed in place through `.data`. So it is where something records
    what is called, as an export does. Cheap: it is asked once per constraint and build.
    """
    # The level of torch.func transforms has no public name, and so has what records calls.
    is_transformed = is_dynamo_compiling() or maybe_current_level() is not None
    return is_transformed or _len_torch_dispatch_stack() > 0


def is_mapped() -> bool:
    """Whether code runs under a `torch.func` transform, also one that dynamo traces."""
    return maybe_current_level() is not None


# What torch.compiler.assume_constant_result does, which imports the whole compiler: dynamo calls
# the function while it traces.
is_mapped._dynamo_marked_constant = True  # type: ignore[attr-defined]


def unmap(tensor: Tensor) -> Tensor:
    """A tensor with the numbers of all that `torch.vmap` maps over in front."""
    while is_batchedtensor(tensor):
        tensor = get_unwrapped(tensor).movedim(maybe_get_bdim(tensor), 0)
    return tensor


def is_autocasting(tensor: Tensor) -> bool:
    """Whether autocast is on where a tensor is, and would lower what is computed from it."""
    kind = tensor.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def is_traced(*tensors: object) -> bool:
    """Whether a check of these tensors' values is impossible or would break a graph.

    That is so while compiling or exporting, under `torch.func` transforms (`vmap`, `grad`,
    `jacrev`), and for meta and fake tensors, which have no values.

    Example:
        >>> import torch
        >>> from declarative_dist.plain.tracing import is_traced
        >>> is_traced(torch.ones(2)), is_traced(torch.ones(2, device="meta"))
        (False, True)
    """
    if is_compiling() or maybe_current_level() is not None:
        return True
    for tensor in tensors:
        if type(tensor) is Tensor:
            if tensor.is_meta:
                return True
        elif isinstance(tensor, Tensor) and (tensor.is_meta or isinstance(tensor, FakeTensor)):
            return True
    return False

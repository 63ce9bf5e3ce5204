"""Whether tensors hold numbers that Python may look at right now."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def is_traced(*tensors: object) -> bool:
    """Whether a check of these tensors' values is impossible or would break a graph.

    That is so while compiling or exporting, under `torch.func` transforms (`vmap`, `grad`,
    `jacrev`), and for meta and fake tensors, which have no values.

    Example:
        >>> is_traced(torch.ones(2)), is_traced(torch.ones(2, device="meta"))
        (False, True)
    """
    if torch.compiler.is_compiling():
        return True
    # The level of torch.func transforms has no public name.
    if torch._C._functorch.maybe_current_level() is not None:
        return True
    return any(
        isinstance(tensor, Tensor) and (tensor.is_meta or isinstance(tensor, FakeTensor))
        for tensor in tensors
    )

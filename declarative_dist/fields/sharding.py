"""What sharding of parameters over processes (FSDP) must not do to declared modules.

`torch.distributed.fsdp.fully_shard` gathers the parameters of a module when that module is called,
and frees them behind the call; the tensors that come back bring them again in the backward pass. A
declared family returns a distribution, in which FSDP finds no tensor: whoever uses it afterwards
reads memory that is gone. So the objective is sharded, whose call spans all uses and ends in a
tensor, and never the family.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from declarative_dist.errors import FieldError

PLAIN = (Tensor, nn.Parameter)
"""The types of tensors that one process holds as a whole."""


def is_shard(tensor: object) -> bool:
    """Whether a tensor is distributed over processes."""
    is_tensor = type(tensor) not in PLAIN and isinstance(tensor, Tensor)
    return is_tensor and hasattr(tensor, "full_tensor")


def spread_like(parameter: Tensor, value: Tensor) -> Tensor:
    """A value, distributed over processes as a parameter is; each process must have all of it."""
    if not is_shard(parameter):
        return value
    tensors: Any = sys.modules["torch.distributed.tensor"]  # not for all who import this
    like: Any = parameter
    return tensors.distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def register_forward_pre_hook(
    self: nn.Module, hook: Callable[..., Any], **options: Any
) -> RemovableHandle:
    """Register a hook as `nn.Module` does, unless FSDP hooks onto what returns no tensors.

    It is refused before anything is sharded. What FSDP has noted about the module by then stays:
    build a new one.
    """
    inner: Any = hook
    while not hasattr(inner, "__self__") and hasattr(inner, "__wrapped__"):
        inner = inner.__wrapped__  # FSDP wraps its hook for a group of modules
    state = getattr(inner, "__self__", None)
    by_fsdp = type(state).__module__.startswith("torch.distributed.fsdp")
    kind = type(self)
    owner = next(klass for klass in kind.__mro__ if "forward" in vars(klass))
    builds = getattr(kind, "__builds__", None) or getattr(kind, "__predicts__", None)
    # A plain declarative class may have a forward that its author wrote.
    if by_fsdp and (builds is not None or owner is nn.Module):
        expected = "an objective to be sharded, a module that returns tensors"
        got = "a family, whose distribution would outlive its gathered parameters"
        fix = "Shard what calls it: fully_shard(objective)."
        raise FieldError(type(self).__name__, expected, got, fix, code="sharded")
    return nn.Module.register_forward_pre_hook(self, hook, **options)

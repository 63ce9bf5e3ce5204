"""All or nothing: modules get back what they held when a change is refused, or a trial ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution


@contextmanager
def restoring(*modules: nn.Module, recurse: bool = True, always: bool = False) -> Iterator[None]:
    """Put back everything that modules hold, if an error leaves the block.

    Everything means: which parameters, buffers, modules and other attributes there are, the
    numbers in all tensors, what requires gradients, and the class (parametrizations change it).

    Args:
        *modules: the modules to watch.
        recurse: whether to watch the modules inside of them too.
        always: whether to put everything back without an error as well, as for a trial.

    Example:
        >>> import torch
        >>> from declarative_dist.plain.restoring import restoring
        >>> linear = torch.nn.Linear(1, 1)
        >>> before = linear.weight.item()
        >>> with restoring(linear, always=True):
        ...     linear.weight = torch.nn.Parameter(torch.tensor([[7.0]]))
        >>> linear.weight.item() == before
        True
    """
    if recurse:
        modules = tuple({part: None for module in modules for part in module.modules()})
    holdings = [_Holding(part) for part in modules]
    tensors = {id(tensor): tensor for holding in holdings for tensor in holding.tensors()}
    values = [(t, t.detach().clone(), t.requires_grad) for t in tensors.values()]
    try:
        yield
    except BaseException:
        _restore(holdings, values)
        raise
    if always:
        _restore(holdings, values)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Try a module without dropout, and without changes of running means."""
    modes = {part: part.training for part in module.modules()}
    for part in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def without_validation() -> Iterator[None]:
    """Compile without checks of values, which break graphs, and leave torch's switch as it was.

    The first graph of a process would switch the validation of distributions off for good.
    """
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


_CONTAINERS = (dict, set)
"""What modules keep their parts, tensors and hooks in."""

_TRAITS = ("shape", "dtype", "device")
"""What is no longer the same where a tensor got other numbers than a copy can bring back."""


class _Holding:
    """What one module holds: its attributes, and the entries of those that are containers."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.kind = module, type(module)
        self.attributes = attributes = dict(vars(module))
        containers = [value for value in attributes.values() if isinstance(value, _CONTAINERS)]
        self.entries: list[Any] = [(value, value.copy() if value else ()) for value in containers]

    def tensors(self) -> Iterator[Tensor]:
        for store in (self.module._parameters, self.module._buffers):
            yield from (tensor for tensor in store.values() if tensor is not None)

    def restore(self) -> None:
        if type(self.module) is not self.kind:
            self.module.__class__ = self.kind
        vars(self.module).clear()
        vars(self.module).update(self.attributes)
        for container, entries in self.entries:  # in place: live views share them
            container.clear()
            container.update(entries)


def _restore(holdings: list[_Holding], values: list[tuple[Tensor, Tensor, bool]]) -> None:
    for holding in holdings:
        holding.restore()
    for tensor, value, requires_grad in values:
        if any(getattr(tensor, trait) != getattr(value, trait) for trait in _TRAITS):
            tensor.data = value
        elif not tensor.is_meta and not torch.equal(tensor, value):
            # Untouched tensors stay untouched: graphs that saved them can still go backward.
            with torch.no_grad():
                tensor.copy_(value)
        if tensor.requires_grad != requires_grad:
            tensor.requires_grad_(requires_grad)

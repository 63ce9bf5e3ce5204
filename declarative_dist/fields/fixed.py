"""How plain objects become parts of a module: transforms and distributions that are not learned.

`make_constant` is open for more kinds of objects; what is registered for a type is its module.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any, ClassVar

import torch
from torch import nn
from torch.distributions import Transform

from declarative_dist.errors import DeclarationError
from declarative_dist.plain.tensors import has_parts, map_tensors, tensors_of


def as_module(value: Any) -> nn.Module | None:
    """The module that stands for an object in another module; None where there is none.

    A module is itself, also one that is a transform. A plain transform or distribution becomes one
    whose tensors are buffers: they move, save and load, and are not trained.
    """
    return value if isinstance(value, nn.Module) else make_constant(value)


def as_constant(plain: Any, subject: str, fix: str) -> Any:
    """The module that stands for a distribution: a live one itself, a plain one as a constant.

    Args:
        plain: the distribution; one of parameters is refused, which it would not follow.
        subject: the class and field that an error names.
        fix: what to do in place of a snapshot of parameters.
    """
    module: Any = as_module(plain)
    if module is plain:
        return module
    known = {id(parameter) for parameter in module.parameters()}
    for name, tensor in tensors_of(plain):
        if tensor.requires_grad and id(tensor) not in known:
            what = "a parameter" if tensor.is_leaf else "computed from parameters"
            got = f"a {name.rpartition('_')[-1]} that is {what}"
            expected = f"constants in a plain {type(plain).__name__}"
            raise DeclarationError(subject, expected, got, fix, code="captured-parameter")
    return module


@singledispatch
def make_constant(value: Any) -> nn.Module | None:
    """Make the module that holds a plain object constant; open for more kinds of objects."""
    return None


class FixedTransform(nn.Module):
    """A plain transform as a module: calling it gives the transform, with the current tensors.

    Its tensors become buffers.
    """

    __builds__: ClassVar[type] = Transform

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self._starts = {name: t.detach().clone() for name, t in tensors_of(transform)}
        for name, tensor in self._starts.items():
            self.register_buffer(name, tensor.clone())
        self._template = map_tensors(transform, lambda *_: torch.empty(0))
        self._has_parts = has_parts(transform)

    def forward(self) -> Transform:
        """The transform; a copy whose cache is empty."""
        transform: Transform
        if self._has_parts:
            transform = map_tensors(self._template, lambda name, _: self._buffers[name])
        else:
            transform = object.__new__(type(self._template))
            vars(transform).update(vars(self._template), **self._buffers)
        return transform

    def reset_parameters(self) -> None:
        """Go back to the tensors that were given."""
        with torch.no_grad():
            for name, start in self._starts.items():
                self.get_buffer(name).copy_(start)

    def extra_repr(self) -> str:
        """The transform with its current tensors."""
        return repr(self())


make_constant.register(Transform)(FixedTransform)

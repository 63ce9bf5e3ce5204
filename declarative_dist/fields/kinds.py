"""What kind of module a nested part is, and how plain objects become one.

What is registered for a type with `make_constant` is the module that holds an object constant.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any, ClassVar

import torch
from torch import nn
from torch.distributions import Distribution, Transform

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.errors import DeclarationError
from declarative_dist.plain.tensors import has_parts, map_tensors, tensors_of, without_cache

_WORDS = {"Distribution": "a distribution", "Transform": "a transform"}


def is_declarative_class(value: object) -> bool:
    """Whether this is a class with a declaration, such as a `Variational`."""
    return isinstance(value, type) and hasattr(value, "__declaration__")


def is_declarative(value: object) -> bool:
    """Whether this is a class with a declaration, or an instance of one."""
    return hasattr(value if isinstance(value, type) else type(value), "__declaration__")


def lacks_forward(value: object) -> bool:
    """Whether this is a module that cannot be called, such as a plain `Declarative`."""
    return isinstance(value, nn.Module) and type(value).forward is nn.Module.forward


def built_kind(value: object) -> type | None:
    """What calling a module without arguments gives, if it stands for a plain object."""
    kind: Any = value if isinstance(value, type) else type(value)
    if getattr(kind, "__predicts__", None) is not None:
        return None
    return getattr(kind, "__builds__", None)


def predicted_kind(value: object) -> type | None:
    """What calling a module with a context gives, if it predicts a plain object."""
    kind: Any = value if isinstance(value, type) else type(value)
    return getattr(kind, "__predicts__", None)


def describe_kind(kind: type | None) -> str:
    """The kind of part that a base takes, in words."""
    if kind is None:
        return "a module"
    return _WORDS.get(kind.__name__, f"a {kind.__name__}")


def check_kind(value: Any, kind: type | None, subject: str) -> None:
    """Refuse a module, or the class of one, that cannot be what the base takes.

    A foreign module is believed: it is called, and must return what the base takes.
    """
    if kind is Transform and isinstance(value, Constraint):
        got, fix = f"the constraint {value!r}", f"Write {value!r}.as_transform()."
        raise DeclarationError(subject, "a transform", got, fix, code="wrong-part")
    declares = is_declarative(value)
    if kind is None or not (declares or built_kind(value) is not None):
        return
    found = built_kind(value) or predicted_kind(value)
    base = value.__declaration__.base if declares else None
    if found is not None and isinstance(base, type):
        found = base
    wanted = Distribution if found is not base and issubclass(kind, Distribution) else kind
    if found is None or not issubclass(found, wanted):
        name = value.__name__ if isinstance(value, type) else type(value).__name__
        what = "itself" if found is None else describe_kind(found)
        fix = "Declare it as a Variational, or as a LearnableTransform."
        got = f"{name}, which stands for {what}"
        raise DeclarationError(subject, describe_kind(kind), got, fix, code="wrong-part")


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
        self._start = map_tensors(transform, lambda _, tensor: tensor.detach().clone())
        for name, tensor in tensors_of(transform):
            self.register_buffer(name, tensor.detach().clone())
        self._has_parts = has_parts(transform)

    def forward(self) -> Transform:
        """The transform; a copy whose cache is empty."""
        transform: Transform
        if self._has_parts:
            transform = map_tensors(self._start, lambda name, _: self._buffers[name])
        else:
            transform = without_cache(self._start)
            vars(transform).update(self._buffers)
        return transform

    def reset_parameters(self) -> None:
        """Go back to the tensors that were given."""
        with torch.no_grad():
            for name, start in tensors_of(self._start):
                self.get_buffer(name).copy_(start)

    def extra_repr(self) -> str:
        """The transform with its current tensors."""
        return repr(self())


make_constant.register(Transform)(FixedTransform)

"""What kind of module a nested part is: what it declares, and what calling it gives."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributions import Distribution, Transform

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.errors import DeclarationError

_WORDS = {"Distribution": "a distribution", "Transform": "a transform"}


def is_declarative_class(value: object) -> bool:
    """Whether this is a class with a declaration, such as a `Variational`."""
    return isinstance(value, type) and hasattr(value, "__declaration__")


def is_declarative(value: object) -> bool:
    """Whether this is an instance of a class with a declaration."""
    return isinstance(value, nn.Module) and hasattr(type(value), "__declaration__")


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
    declares = is_declarative_class(value) or is_declarative(value)
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

"""What a nested part may be, and what it contributes to its owner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.distributions import Distribution, Transform

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.errors import DeclarationError, FieldError, did_you_mean, shorten
from declarative_dist.fields.dotted import nested_values
from declarative_dist.fields.fixed import as_module
from declarative_dist.fields.standin import kept
from declarative_dist.plain.tensors import without_cache

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


def built_by(value: object) -> type | None:
    """What calling a module without arguments gives, for modules that stand for a plain object."""
    kind: Any = value if isinstance(value, type) else type(value)
    builds: type | None = getattr(kind, "__builds__", None)
    return builds


def predicts_of(value: object) -> type | None:
    """What calling a module with a context gives, for modules that predict a plain object."""
    kind: Any = value if isinstance(value, type) else type(value)
    predicts: type | None = getattr(kind, "__predicts__", None)
    return predicts


def described(part: type | None) -> str:
    """A part that a base takes, in words."""
    if part is None:
        return "a module"
    return _WORDS.get(part.__name__, f"a {part.__name__}")


def check_part(value: Any, part: type | None, subject: str) -> None:
    """Refuse a module, or the class of one, that cannot be what the base takes.

    A foreign module is believed: it is called, and must return what the base takes.

    Raises:
        DeclarationError: if it stands for something else.
    """
    if part is Transform and isinstance(value, Constraint):
        raise DeclarationError(
            subject,
            "a transform",
            f"the constraint {value!r}",
            f"Write {value!r}.as_transform().",
            code="wrong-part",
        )
    declares = is_declarative_class(value) or is_declarative(value)
    if part is None or not (declares or built_by(value) is not None):
        return
    builds = built_by(value) or predicts_of(value)
    name = value.__name__ if isinstance(value, type) else type(value).__name__
    wanted = Distribution if issubclass(part, Distribution) else part
    if builds is None or not issubclass(builds, wanted):
        raise DeclarationError(
            subject,
            described(part),
            f"{name}, which stands for {'itself' if builds is None else described(builds)}",
            f"Declare it as a {'Variational' if wanted is Distribution else 'LearnableTransform'}"
            ".",
            code="wrong-part",
        )
    base = value.__declaration__.base if declares else None
    if isinstance(base, type) and not issubclass(base, part):
        raise DeclarationError(
            subject, described(part), f"{name}, whose base is {base.__name__}", code="wrong-part"
        )


def as_given(value: Any, template: Any, part: type | None, subject: str) -> Any:
    """What a constructor or an assignment was given for a nested field, found to be possible.

    Args:
        value: a module, a declared class, a plain object, or a dict of values.
        template: what the class body holds.
        part: what the base takes.
        subject: whom an error is about.

    Returns:
        The value as it came; a dict without dotted names.

    Raises:
        DeclarationError: if it is none of these, not what the base takes, or a dict with a name
            that is no field.
    """
    if isinstance(value, Mapping):
        _check_names(template, value, subject)
        return nested_values({str(name): item for name, item in value.items()}, subject)
    module = value if is_declarative_class(value) else as_module(value)
    if module is None:
        raise DeclarationError(
            subject,
            f"{described(part)}, as an instance of a declared class or a dict of its values",
            shorten(value),
            code="wrong-part",
        )
    check_part(module, part, subject)
    return value


def _check_names(template: Any, values: Mapping[Any, Any], subject: str) -> None:
    kind: Any = template if isinstance(template, type) else type(template)
    if not values:
        return
    if not is_declarative_class(kind):
        raise DeclarationError(
            subject,
            "an instance",
            f"a dict, {shorten(dict(values))}",
            "Build the module.",
            code="wrong-part",
        )
    fields = kind.__declaration__.fields
    for name in values:
        head = str(name).partition(".")[0]
        if head not in fields:
            raise DeclarationError(
                f"{subject}.{head}",
                f"the name of a field of {kind.__name__}",
                repr(name),
                did_you_mean(head, fields),
                code="unknown-name",
            )


def value_of(module: nn.Module, part: type | None, subject: str) -> Any:
    """What a nested module contributes: the plain object it stands for, or itself.

    Raises:
        FieldError: if a foreign module does not return what the base takes.
    """
    if built_by(module) is not None:
        return module()
    if part is None:
        return kept(module)
    if isinstance(module, part):  # such as a transform that is a module itself
        return without_cache(kept(module))
    name = type(module).__name__
    try:
        value = module()
    except TypeError as error:
        raise FieldError(subject, described(part), f"a {name}: {error}") from error
    if not isinstance(value, part):
        raise FieldError(subject, described(part), f"a {name} that returns {shorten(value)}")
    return value

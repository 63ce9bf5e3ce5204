"""One nested module: what stands for it in a class body, how an instance gets its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.errors import (
    ConstraintError,
    DeclarationError,
    ExplainedError,
    FieldError,
    did_you_mean,
    shortened,
)
from declarative_dist.fields.blueprint import Blueprint, Start
from declarative_dist.fields.fixed import as_module
from declarative_dist.fields.standin import kept

_WORDS = {"Distribution": "a distribution", "Transform": "a transform"}


def is_declarative_class(value: object) -> bool:
    """Whether this is a class with a declaration, such as a `Variational`."""
    return isinstance(value, type) and hasattr(value, "__declaration__")


def is_declarative(value: object) -> bool:
    """Whether this is an instance of a class with a declaration."""
    return isinstance(value, nn.Module) and hasattr(type(value), "__declaration__")


def built_by(value: object) -> type | None:
    """What calling a module without arguments gives, for modules that stand for a plain object."""
    kind: Any = value if isinstance(value, type) else type(value)
    builds: type | None = getattr(kind, "__builds__", None)
    return builds


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
    declares = is_declarative_class(value) or is_declarative(value)
    if part is None or not (declares or built_by(value) is not None):
        return
    builds = built_by(value)
    name = value.__name__ if isinstance(value, type) else type(value).__name__
    wanted = Distribution if issubclass(part, Distribution) else part
    if builds is None or not issubclass(builds, wanted):
        raise DeclarationError(
            subject,
            described(part),
            f"{name}, which stands for {'itself' if builds is None else described(builds)}",
            f"Declare it as a {'Variational' if wanted is Distribution else 'LearnableTransform'}"
            ".",
        )
    base = value.__declaration__.base if declares else None
    if isinstance(base, type) and not issubclass(base, part):
        raise DeclarationError(subject, described(part), f"{name}, whose base is {base.__name__}")


def as_given(value: Any, part: type | None, subject: str) -> Any:
    """What a constructor or an assignment was given for a nested field, as a module if it can be.

    Raises:
        DeclarationError: if it is no module, dict of values, or plain object that the base takes.
    """
    if isinstance(value, Mapping) or is_declarative_class(value):
        check_part(value, part, subject)
        return value
    module = as_module(value)
    if module is None:
        raise DeclarationError(
            subject,
            f"{described(part)}, as an instance of a declared class or a dict of its values",
            shortened(value),
        )
    check_part(module, part, subject)
    return module


def built(template: Any, given: Any, blueprint: Blueprint, subject: str) -> nn.Module:
    """The module of one instance, from the template of its class and what the constructor says.

    Args:
        template: a module to copy, a declarative class to instantiate, or None.
        given: a module, which is used as it is and so may be shared; a declarative class; a dict
            of values for the template; or None.
        blueprint: sizes, batch shape, device and dtype.
        subject: whom an error is about.

    Raises:
        ConstraintError: if neither says what to build, or values do not fit.
        DeclarationError: for a dict with a name that is no field.
    """
    if isinstance(given, Mapping):
        kind = template if isinstance(template, type) else type(template)
        if not is_declarative_class(kind):
            raise DeclarationError(
                subject, "an instance", f"a dict, {shortened(dict(given))}", "Build the module."
            )
        _check_names(kind, given, subject)
        if isinstance(template, type):
            return _made(kind, dict(given), blueprint, subject)
        values = {n: kind.__declaration__.fields[n].source(v, subject) for n, v in given.items()}
        if _has_shapes_of(template, values):
            return _changed(_copied(template, blueprint), values, subject)
        values = {**_given_values(template, sizes_told(kind, given)), **given}
        return _made(kind, values, blueprint, subject)
    if isinstance(given, nn.Module):
        return given
    if given is not None:
        return _made(given, {}, blueprint, subject)
    if template is None:
        owner, _, name = subject.rpartition(".")
        raise ConstraintError(subject, "an instance", "none", f"Write {owner}({name}=...).")
    if isinstance(template, type):
        return _made(template, {}, blueprint, subject)
    return _copied(template, blueprint)


def _check_names(kind: Any, values: Mapping[str, Any], subject: str) -> None:
    fields = kind.__declaration__.fields
    for name in values:
        if name not in fields:
            raise DeclarationError(
                f"{subject}.{name}",
                f"the name of a field of {kind.__name__}",
                repr(name),
                did_you_mean(name, fields),
            )


def _has_shapes_of(template: Any, values: Mapping[str, Any]) -> bool:
    """Whether values may be assigned to a copy as they are, or for each of its copies."""
    now = template.constrained_values()
    shapes = {name: getattr(value, "shape", torch.Size()) for name, value in values.items()}
    return all(
        now[name].shape[now[name].ndim - len(shape) :] == shape
        for name, shape in shapes.items()
        if len(shape) and isinstance(now.get(name), Tensor)
    )


def _changed(module: Any, values: Mapping[str, Any], subject: str) -> nn.Module:
    """A copy with other values, to which it can be reset too."""
    now = module.constrained_values()
    whole = {
        name: value.expand(now[name].shape)
        if isinstance(value, Tensor) and isinstance(now.get(name), Tensor)
        else value
        for name, value in values.items()
    }
    with inside(subject):
        prepared = module._prepared(whole)
    for part, field, ready in prepared:
        field.commit(part, ready)
        field.restart(part, is_new=True)
    changed: nn.Module = module
    return changed


def _given_values(template: nn.Module, sizes: Mapping[str, int]) -> dict[str, Any]:
    """What a template was built with, but for values of other sizes than the new ones."""
    values: dict[str, Any] = {}
    kind: Any = type(template)
    fields = kind.__declaration__.fields
    for name, start in vars(template)["_starts"].items():
        field = fields[name]
        if not field.holds_value:
            continue
        value = start.source if isinstance(start, Start) else start
        if isinstance(value, Tensor) and isinstance(start, Start) and not start.has_dtype:
            value = value.tolist()  # as it was given: its dtype means nothing
        names = getattr(field, "shape", None) or ()
        own = start.shape[-len(names) :] if names else ()
        if value is not None and all(
            sizes.get(n, size) == size for n, size in zip(names, own, strict=False)
        ):
            values[name] = value
    return values


@contextmanager
def inside(subject: str) -> Iterator[None]:
    """Say of errors about a part which field holds it: `Outer.field (Part.field)`."""
    try:
        yield
    except ExplainedError as error:
        where = f"{subject} ({error.subject})"
        inner, outer = (name.partition(".")[0] for name in (error.subject, subject))
        fix = error.fix.replace(f"Write {inner}(", f"Write {outer}(")
        raise type(error)(where, error.expected, error.got, fix) from error


def _made(kind: Any, values: dict[str, Any], blueprint: Blueprint, subject: str) -> nn.Module:
    known = kind.__declaration__.size_names
    keywords: dict[str, Any] = {
        name: size for name, size in blueprint.sizes.items() if name in known
    }
    if blueprint.batch_shape:
        keywords["batch_shape"] = blueprint.batch_shape
    if blueprint.device is not None:
        keywords["device"] = blueprint.device
    if blueprint.dtype is not None:
        keywords["dtype"] = blueprint.dtype
    with inside(subject):
        module: nn.Module = kind(**{**keywords, **values})
    return module


def _copied(template: nn.Module, blueprint: Blueprint) -> nn.Module:
    """A copy; the same template twice in a class body is one module twice in its instances."""
    module = copy.deepcopy(template, blueprint.copies)
    device = blueprint.device or torch.get_default_device()
    module.to(device=device, dtype=blueprint.dtype)
    if blueprint.batch_shape:
        replicate(module, blueprint.batch_shape, 0, blueprint.replicated)
    return module


def replicate(module: nn.Module, shape: torch.Size, at: int, done: set[int]) -> None:
    """Repeat the parameters of a declared module, or of those inside a foreign one.

    Args:
        module: the module.
        shape: the new dimensions.
        at: how many dimensions stand in front of them.
        done: the ids of the modules that have them already.
    """
    for part in module.modules():
        if is_declarative(part) and id(part) not in done:
            done.add(id(part))
            part._replicate(shape, at, done)  # type: ignore[operator]


def sizes_told(template: Any, given: Any) -> dict[str, int]:
    """The sizes that a nested part knows already, by the names that its class declares."""
    if isinstance(given, Mapping):
        kind: Any = template if isinstance(template, type) else type(template)
        if not is_declarative_class(kind):
            return {}
        told: dict[str, int] = {}
        for name, field in kind.__declaration__.fields.items():
            value = field.source(given.get(name), f"{kind.__name__}.{name}")
            shape = getattr(value, "shape", None)
            names = getattr(field, "shape", None) or ()
            if shape is not None and len(shape) >= len(names) > 0:
                sizes = zip(names, shape[-len(names) :], strict=True)
                told.update((n, size) for n, size in sizes if isinstance(n, str))
        return told
    module = given if given is not None else template
    return dict(vars(module).get("_sizes", {})) if is_declarative(module) else {}


def value_of(module: nn.Module, part: type | None, subject: str) -> Any:
    """What a nested module contributes: the plain object it stands for, or itself.

    Raises:
        FieldError: if a foreign module does not return what the base takes.
    """
    if built_by(module) is not None:
        return module()
    if part is None:
        return kept(module)
    name = type(module).__name__
    try:
        value = module()
    except TypeError as error:
        raise FieldError(subject, described(part), f"a {name}: {error}") from error
    if not isinstance(value, part):
        raise FieldError(subject, described(part), f"a {name} that returns {shortened(value)}")
    return value

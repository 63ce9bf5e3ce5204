"""How an instance gets its nested parts: from the templates of its class, or as given."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from declarative_dist.errors import DeclarationError, ExplainedError, did_you_mean, shorten
from declarative_dist.fields.fixed import as_module
from declarative_dist.fields.kinds import (
    check_kind,
    describe_kind,
    is_declarative,
    is_declarative_class,
    predicted_kind,
)
from declarative_dist.fields.sizes import Blueprint, Start
from declarative_dist.fields.walk import convert, walk


def nest_values(values: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """Values by dotted names, such as `component_distribution.scale`, as dicts in dicts.

    Raises:
        DeclarationError: if a part is named both as a whole and by its fields.

    Example:
        >>> from declarative_dist.fields.templates import nest_values
        >>> nest_values({"base.scale": 1.0, "base.loc": 0.0, "rate": 2.0}, "Family")
        {'rate': 2.0, 'base': {'scale': 1.0, 'loc': 0.0}}
    """
    nested: dict[str, Any] = {name: value for name, value in values.items() if "." not in name}
    deeper: set[str] = set()
    for name, value in values.items():
        head, dot, rest = name.partition(".")
        if dot and head in values:
            got = f"one for {head} too"
            raise DeclarationError(
                f"{subject}.{name}", "one value", got, "Put it in there.", code="unused-argument"
            )
        if dot:
            deeper.add(head)
            nested.setdefault(head, {})[rest] = value
    return {
        name: nest_values(value, f"{subject}.{name}") if name in deeper else value
        for name, value in nested.items()
    }


def check_given(value: Any, template: Any, kind: type | None, subject: str) -> Any:
    """Refuse what cannot be a part, whether a constructor or an assignment is given it.

    Args:
        value: a module, a declared class, a plain object, or a dict of values.
        template: what the class body has, or the part as it is now.
        kind: what the base takes.
        subject: the class and field that an error names.

    Returns:
        The value itself; a dict without dotted names.

    Raises:
        DeclarationError: if it is none of these, not what the base takes, or a dict with a name
            that is no field.
    """
    if isinstance(value, Mapping):
        _check_names(template, value, subject)
        return nest_values({str(name): item for name, item in value.items()}, subject)
    module = value if is_declarative_class(value) else as_module(value)
    if module is None:
        raise DeclarationError(
            subject,
            f"{describe_kind(kind)}, as an instance of a declared class or a dict of its values",
            shorten(value),
            code="wrong-part",
        )
    check_kind(module, kind, subject)
    return value


def _check_names(template: Any, values: Mapping[Any, Any], subject: str) -> None:
    owner: Any = template if isinstance(template, type) else type(template)
    if values and not is_declarative_class(owner):
        got = f"a dict, {shorten(dict(values))}"
        raise DeclarationError(subject, "an instance", got, "Build the module.", code="wrong-part")
    for name in values:
        head = str(name).partition(".")[0]
        if head not in owner.__declaration__.fields:
            expected = f"the name of a field of {owner.__name__}"
            got = repr(name)
            fix = did_you_mean(head, owner.__declaration__.fields)
            raise DeclarationError(f"{subject}.{head}", expected, got, fix, code="unknown-name")


@contextmanager
def inside(subject: str) -> Iterator[None]:
    """Name in errors about a part the field that it is in: `Outer.field (Part.field)`."""
    try:
        yield
    except ExplainedError as error:
        where = f"{subject} ({error.subject})"
        inner, outer = (name.partition(".")[0] for name in (error.subject, subject))
        fix = error.fix.replace(f"Write {inner}(", f"Write {outer}(")
        raise type(error)(where, error.expected, error.got, fix, code=error.code) from error


def make_part(template: Any, given: Any, blueprint: Blueprint, subject: str) -> nn.Module:
    """The module of one instance, from the template of its class and what the constructor says.

    Args:
        template: a module to copy, a declarative class to instantiate, or None.
        given: a module, which is used as it is and so may be shared; a declarative class; a plain
            object, which becomes a constant; a dict of values for the template; or None.
        blueprint: sizes, batch shape, device and dtype.
        subject: the class and field that an error names.

    Raises:
        ConstraintError: if values do not fit.
    """
    if given is not None and not isinstance(given, Mapping):
        if is_declarative_class(given):
            return _instantiate(given, {}, blueprint, subject)
        return as_part(given, blueprint.device, blueprint.dtype)
    if isinstance(template, type):
        return _instantiate(template, given or {}, blueprint, subject)
    if not given:
        return _copy(template, blueprint).to(blueprint.place)
    owner: Any = type(template)
    fields = owner.__declaration__.fields
    with inside(subject):
        values = {
            name: value if fields[name].is_part else fields[name].source(value, where)
            for name, value in given.items()
            for where in (f"{owner.__name__}.{name}",)
        }
    if _fits(template, values):
        return _assign(_copy(template, blueprint), values, subject).to(blueprint.place)
    kept = _values_of(template, known_sizes(owner, given))
    return _instantiate(owner, {**kept, **given}, blueprint, subject)


def as_part(
    given: Any, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """A module as it is; a plain object as a constant in one, on a device and in a dtype."""
    if isinstance(given, nn.Module):
        return given
    module: Any = as_module(given)
    part: nn.Module = module.to(device=device, dtype=dtype)
    return part


def _instantiate(
    owner: Any, values: Mapping[str, Any], blueprint: Blueprint, subject: str
) -> nn.Module:
    names = size_names(owner)
    keywords: dict[str, Any] = {n: size for n, size in blueprint.sizes.items() if n in names}
    settings = {
        "batch_shape": blueprint.batch_shape or None,
        "device": blueprint.device,
        "dtype": blueprint.dtype,
    }
    keywords |= {name: value for name, value in settings.items() if value is not None}
    with inside(subject):
        module: nn.Module = owner(**{**keywords, **values})
    return module


def _copy(template: nn.Module, blueprint: Blueprint) -> nn.Module:
    """A copy; the same template twice in a class body is one module twice in its instances.

    Move it to its device last, because it may have no values there.
    """
    module = convert(copy.deepcopy(template, blueprint.copies), blueprint.dtype)
    if blueprint.batch_shape:
        replicate(module, blueprint.batch_shape, blueprint.replicated)
    return module


def _fits(template: Any, values: Mapping[str, Any]) -> bool:
    """Whether values may be assigned to a copy as they are, or for each of its copies."""
    now = template.constrained_values()
    shapes = {name: getattr(value, "shape", torch.Size()) for name, value in values.items()}
    return all(
        now[name].shape[now[name].ndim - len(shape) :] == shape
        for name, shape in shapes.items()
        if len(shape) and isinstance(now.get(name), Tensor)
    )


def _assign(module: Any, values: Mapping[str, Any], subject: str) -> nn.Module:
    """Give a copy other values, to which it can be reset too."""
    now = module.constrained_values()
    whole = {
        name: value.expand(now[name].shape)
        if isinstance(value, Tensor) and isinstance(now.get(name), Tensor)
        else value
        for name, value in values.items()
    }
    with inside(subject):
        changes = module._prepare(whole)
    for part, field, ready in changes:
        field.commit(part, ready)
        field.restart(part, is_new=True)
    changed: nn.Module = module
    return changed


def _values_of(template: nn.Module, sizes: Mapping[str, int]) -> dict[str, Any]:
    """What a template was built with, but for values of other sizes than the new ones."""
    values: dict[str, Any] = {}
    owner: Any = type(template)
    fields = owner.__declaration__.fields
    for name, start in vars(template)["_starts"].items():
        field = fields[name]
        if not field.holds_value:
            continue
        value = start.source if isinstance(start, Start) else start
        if isinstance(value, Tensor) and isinstance(start, Start) and not start.has_dtype:
            value = value.tolist()  # as it was given: its dtype means nothing
        names = field.shape or ()
        own = start.shape[-len(names) :] if names else ()
        if value is not None and all(
            sizes.get(n, size) == size for n, size in zip(names, own, strict=False)
        ):
            values[name] = value
    return values


def replicate(module: nn.Module, copies: torch.Size, done: dict[int, Any]) -> None:
    """Give independent copies to a declared module, or to those inside a foreign one.

    Args:
        module: the module.
        copies: the dimensions of the copies.
        done: by id the modules that have them already, and parameters with their repetition.
    """
    for _, part in reversed(list(walk(module))):  # an owner lines its parts up after them
        if id(part) not in done:
            done[id(part)] = part
            part._replicate(copies, done)


def size_names(template: object) -> tuple[str, ...]:
    """The names of sizes that a template takes from the constructor of what it is in."""
    if not is_declarative_class(template):
        return ()
    names: tuple[str, ...] = template.__declaration__.size_names  # type: ignore[attr-defined]
    return names if predicted_kind(template) is None else ("in_features", *names)


def known_sizes(template: Any, given: Any) -> dict[str, int]:
    """The sizes that a nested part knows already, by the names that declarations use.

    Args:
        template: what the class body has.
        given: what the constructor was given, or None.
    """
    source = template if given is None else given
    if isinstance(source, nn.Module):
        return dict(vars(source).get("_sizes", {})) if is_declarative(source) else {}
    is_class = is_declarative_class(given)
    owner: Any = given if is_class else template if isinstance(template, type) else type(template)
    if not is_declarative_class(owner):
        return {}
    values = given if isinstance(given, Mapping) else {}
    known = known_sizes(template, None) if isinstance(template, nn.Module) and not is_class else {}
    for name, field in owner.__declaration__.fields.items():
        known |= field.known_sizes(values.get(name), f"{owner.__name__}.{name}")
    return known

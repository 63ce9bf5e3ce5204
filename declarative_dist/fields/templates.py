"""How an instance gets its nested parts: from the templates of its class, or as given."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from declarative_dist.errors import DeclarationError, ExplainedError
from declarative_dist.fields.blueprint import KEYWORDS, Blueprint
from declarative_dist.fields.kinds import as_module, is_declarative_class, predicted_kind
from declarative_dist.fields.walk import walk


def nest_values(values: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """Values by dotted names, such as `component_distribution.scale`, as dicts in dicts.

    A part that is named both as a whole and by its fields is refused.
    """
    deeper: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        head, dot, rest = name.partition(".")
        if dot and head in values:
            got, fix = f"one for {head} too", "Put it in there."
            where = f"{subject}.{name}"
            raise DeclarationError(where, "one value", got, fix, code="unused-argument")
        if dot:
            deeper.setdefault(head, {})[rest] = value
    if not deeper:
        return dict(values)
    whole = {name: value for name, value in values.items() if "." not in name}
    return whole | {head: nest_values(deeper[head], f"{subject}.{head}") for head in deeper}


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
    """
    if is_declarative_class(given):
        template, given = given, None
    if given is not None and not isinstance(given, Mapping):
        return as_part(given, blueprint.device, blueprint.dtype)
    with inside(subject):
        if not isinstance(template, type):
            return copy_template(template, blueprint, blueprint.dtype, given).to(blueprint.place)
        names = size_names(template)
        keywords: dict[str, Any] = {n: size for n, size in blueprint.sizes.items() if n in names}
        keywords |= {k: getattr(blueprint, k) for k in KEYWORDS if getattr(blueprint, k)}
        return template(**{**keywords, **(given or {})})


def as_part(given: Any, *place: Any) -> nn.Module:
    """A module as it is; a plain object as a constant in one, on a device and in a dtype."""
    module: Any = as_module(given)
    return module if module is given else module.to(*place)


def copy_template(
    template: nn.Module,
    blueprint: Blueprint,
    dtype: torch.dtype | None,
    values: Mapping[str, Any] | None = None,
    *,
    is_replicated: bool = True,
) -> nn.Module:
    """The copy of a template for one instance, on the device that the template is on.

    The same template twice in a class body is one module twice in its instances. Values that
    are given are those to which a reset goes back. Only if it is replicated do independent
    copies of the instance get one of their own each.
    """
    module: Any = copy.deepcopy(template, blueprint.copies).to(dtype)
    if is_replicated and blueprint.batch_shape:
        replicate(module, blueprint.batch_shape, blueprint.replicated)
    for changed, field, ready in module._prepare(values) if values else ():
        field.commit(changed, ready)
        if field.holds_value:
            field.restart(changed, is_new=True)
    return module


def replicate(module: nn.Module, copies: torch.Size, done: dict[int, Any]) -> None:
    """Give independent copies to a declared module, or to those inside a foreign one.

    `done` has by id the modules that have them already, and parameters with their repetition.
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

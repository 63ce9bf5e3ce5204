"""How an instance gets its own nested parts: copied, instantiated, or as they were given."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from declarative_dist.errors import ConstraintError, ExplainedError
from declarative_dist.fields.fixed import as_module
from declarative_dist.fields.part import is_declarative, is_declarative_class, predicts_of
from declarative_dist.fields.sizes import Blueprint, Start
from declarative_dist.fields.walk import walk


def built(template: Any, given: Any, blueprint: Blueprint, subject: str) -> nn.Module:
    """The module of one instance, from the template of its class and what the constructor says.

    Args:
        template: a module to copy, a declarative class to instantiate, or None.
        given: a module, which is used as it is and so may be shared; a declarative class; a plain
            object, which becomes a constant; a dict of values for the template; or None.
        blueprint: sizes, batch shape, device and dtype.
        subject: whom an error is about.

    Raises:
        ConstraintError: if neither says what to build, or values do not fit.
    """
    if isinstance(given, Mapping) and given:
        return _with_values(template, given, blueprint, subject)
    if isinstance(given, nn.Module):
        return given
    if given is not None and not isinstance(given, Mapping):
        if is_declarative_class(given):
            return _made(given, {}, blueprint, subject)
        return as_owned(given, blueprint.device, blueprint.dtype)
    if template is None:
        owner, _, name = subject.rpartition(".")
        raise ConstraintError(
            subject, "an instance", "none", f"Write {owner}({name}=...).", code="missing-value"
        )
    if isinstance(template, type):
        return _made(template, {}, blueprint, subject)
    return _placed(_copied(template, blueprint), blueprint)


def as_owned(
    given: Any, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """A module as it is; a plain object as a constant in one, on a device and in a dtype."""
    if isinstance(given, nn.Module):
        return given
    module: Any = as_module(given)
    owned: nn.Module = module.to(device=device, dtype=dtype)
    return owned


def _with_values(
    template: Any, given: Mapping[str, Any], blueprint: Blueprint, subject: str
) -> nn.Module:
    """A part with some values of its own: a changed copy, or where sizes differ another one."""
    if isinstance(template, type):
        return _made(template, dict(given), blueprint, subject)
    kind = type(template)
    fields = kind.__declaration__.fields
    with inside(subject):
        values = {n: fields[n].source(v, f"{kind.__name__}.{n}") for n, v in given.items()}
    if _has_shapes_of(template, values):
        return _placed(_changed(_copied(template, blueprint), values, subject), blueprint)
    values = {**_given_values(template, sizes_told(kind, given)), **given}
    return _made(kind, values, blueprint, subject)


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
        prepared = module._prepare(whole)
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
        raise type(error)(where, error.expected, error.got, fix, code=error.code) from error


def _made(kind: Any, values: dict[str, Any], blueprint: Blueprint, subject: str) -> nn.Module:
    known = kind.__declaration__.size_names
    if predicts_of(kind) is not None:
        known = ("in_features", *known)
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
    module.to(dtype=blueprint.dtype)
    if blueprint.batch_shape:
        replicate(module, blueprint.batch_shape, 0, blueprint.replicated)
    return module


def _placed(module: nn.Module, blueprint: Blueprint) -> nn.Module:
    """A module on its device: last, because there may be no values on it."""
    return module.to(blueprint.place)


def replicate(module: nn.Module, shape: torch.Size, at: int, done: dict[int, Any]) -> None:
    """Repeat the parameters of a declared module, or of those inside a foreign one.

    Args:
        module: the module.
        shape: the new dimensions.
        at: how many dimensions stand in front of them.
        done: by id what has them already: modules, and parameters with those in their place.
    """
    for _, part in walk(module):
        if id(part) not in done:
            done[id(part)] = part
            part._replicate(shape, at, done)


def sizes_told(template: Any, given: Any) -> dict[str, int]:
    """The sizes that a nested part knows already, by the names that declarations use.

    Args:
        template: what the class body holds.
        given: what the constructor was given, or None.
    """
    if isinstance(given, nn.Module) or (given is None and isinstance(template, nn.Module)):
        module = template if given is None else given
        return dict(vars(module).get("_sizes", {})) if is_declarative(module) else {}
    is_class = is_declarative_class(given)
    kind: Any = given if is_class else template if isinstance(template, type) else type(template)
    if not is_declarative_class(kind):
        return {}
    values = given if isinstance(given, Mapping) else {}
    told: dict[str, int] = {}
    for name, field in kind.__declaration__.fields.items():
        told.update(_told_by(field, values.get(name), f"{kind.__name__}.{name}"))
    known = sizes_told(template, None) if isinstance(template, nn.Module) and not is_class else {}
    return {**known, **told}


def _told_by(field: Any, value: Any, subject: str) -> Mapping[str, int]:
    if hasattr(field, "told"):
        told: Mapping[str, int] = field.told(value)
        return told
    names = getattr(field, "shape", None) or ()
    shape = getattr(field.source(value, subject), "shape", torch.Size())
    if not names or len(shape) < len(names):
        return {}
    sizes = zip(names, shape[len(shape) - len(names) :], strict=True)
    return {name: size for name, size in sizes if isinstance(name, str)}

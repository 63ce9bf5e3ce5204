"""What a class body declares: its base and its fields, along the line of inheritance."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from declarative_dist.constraints.inferred import STARTS
from declarative_dist.declaration.record import Base, Declaration
from declarative_dist.declaration.rules import SETTINGS, is_framework
from declarative_dist.errors import DeclarationError, shorten
from declarative_dist.fields.constant import Constant
from declarative_dist.fields.context import Head
from declarative_dist.fields.field import Field
from declarative_dist.fields.kinds import as_constant, as_module, is_declarative_class
from declarative_dist.fields.param import Param
from declarative_dist.fields.parts import Nested
from declarative_dist.fields.walk import walk
from declarative_dist.plain.arguments import Argument, choose_preferred, parameters_of
from declarative_dist.plain.tensors import is_array


def base_of(cls: type) -> Base:
    """The base that a class declares or inherits: a class of what it builds, or a method."""
    base = inspect.getattr_static(cls, "base", None)
    builds: type = getattr(cls, "__builds__", None) or Distribution
    is_class = isinstance(base, type) and issubclass(base, builds)
    if base is None or is_class or inspect.isfunction(base):
        return base
    expected, fix, kind = "no base: it is made of sites", "", builds.__name__
    if builds in (Distribution, Transform):
        expected = (
            f"a torch.distributions.{kind} subclass or a method that returns a {kind.lower()}"
        )
        example = "TanhTransform" if builds is Transform else "Normal"
        fix = f"Write base = torch.distributions.{example}, or def base(self, loc, scale): ..."
    raise DeclarationError(f"{cls.__name__}.base", expected, repr(base), fix, code="no-base")


class Body(dict[str, Any]):
    """The namespace of a class body, in which no two fields may have the same name."""

    def __setitem__(self, name: str, value: Any) -> None:
        both = (self[name], value) if name in self else ()
        if both and all(isinstance(v, Field) or is_nestable(v) for v in both):
            subject, got = f"{self['__qualname__']}.{name}", f"{shorten(value)} again"
            raise DeclarationError(subject, "one field of this name", got, code="name-taken")
        super().__setitem__(name, value)


def is_nestable(value: object) -> bool:
    """Whether a value in a class body is a nested part."""
    return isinstance(value, (nn.Module, Distribution, Transform)) or is_declarative_class(value)


def copy_body(owner: str, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """A class body with copies of its modules, and modules in place of plain parts.

    What the class holds does not change with the modules that it was given.
    """
    copies: dict[int, Any] = {}

    def copy_value(value: Any, subject: str) -> Any:
        if isinstance(value, Field):
            return value.with_own_modules(lambda module: copy_value(module, subject))
        if isinstance(value, nn.Module):
            module = copy.deepcopy(value, copies)
            for _, part in walk(module):
                part._restart()
            return module
        if isinstance(value, (list, tuple)) and any(map(is_nestable, value)):
            return [copy_value(item, subject) for item in value]
        if isinstance(value, Distribution):
            return as_constant(value, subject, "Declare a family with parameters of its own.")
        return as_module(value) if is_nestable(value) and not isinstance(value, type) else value

    body = dict(namespace)
    for name, value in namespace.items():
        if not name.startswith("__") and name not in SETTINGS:
            body[name] = copy_value(value, f"{owner}.{name}")
    return body


def collect_fields(record: Declaration, line: Iterable[type]) -> dict[str, Field]:
    """The fields of a class by name, in order; later ones override inherited ones.

    Numbers count as constants where something uses their name: an argument of the base, a derived
    field, or a bound. Tensors always do. What was declared automatically is inherited together
    with its base.

    Args:
        record: the class and its base, still without fields.
        line: the classes and mixins whose bodies count, the first one first.
    """
    fields: dict[str, Field] = {}
    base, known = record.base, record.arguments
    declared = {k: vars(k).get("__declared__") for k in line}  # before it was specialised
    bodies = {k: b or copy_body(k.__name__, vars(k)) for k, b in declared.items()}
    used = set(record.takes)
    switches = {name for name, a in known.items() if isinstance(a.default, bool)}
    for body in bodies.values():
        used.update(*(v.declared_needs for v in body.values() if isinstance(v, Field)))
    for klass, body in bodies.items():
        if "__auto__" in vars(klass) and base_of(klass) is base:
            fields.update(vars(klass)["__auto__"])
        for name, value in body.items():
            is_unused = isinstance(base, type) and isinstance(value, type) and name not in used
            if is_unused and value.__qualname__ == f"{klass.__qualname__}.{name}":
                continue  # a class for another field, whose statement stands in the body
            subject, argument = record.subject(name), known.get(name)
            is_used = name in (switches if isinstance(value, bool) else used)
            field = _as_field(subject, name, value, is_used, argument)
            if field is not None:
                fields[name] = field
            elif inspect.isfunction(value) and name in fields:
                got, fix = "a method that is no field", "Write its decorator above it."
                raise DeclarationError(subject, repr(fields[name]), got, fix, code="not-a-field")
            else:
                fields.pop(name, None)
    return fields


def _as_field(
    subject: str, name: str, value: Any, is_used: bool, argument: Argument | None
) -> Field | None:
    """The field that an attribute of a class body is, if it is one."""
    if isinstance(value, Field):
        return value.with_name(name)
    if name in SETTINGS or name.startswith("__") or value is None:
        return None
    is_sequence = argument is not None and argument.is_sequence
    if is_sequence or (isinstance(value, list) and any(map(is_nestable, value))):
        is_list = isinstance(value, (list, tuple, nn.ModuleList))
        items: list[Any] = list(value) if is_list else [value]
        for item in items:
            if not is_nestable(item):
                expected = "transforms" if is_sequence else "modules"
                raise DeclarationError(subject, expected, shorten(item), code="wrong-part")
        return Nested(items, is_list=True).with_name(name)
    if is_nestable(value):
        part: Any = value
        return Nested([part]).with_name(name)
    # A number, a list of them, or an array, NumPy's among them.
    if isinstance(value, Tensor) or (is_used and (isinstance(value, Real) or is_array(value))):
        return Constant(value).with_name(name)
    return None


def needed_arguments(record: Declaration) -> dict[str, Argument]:
    """The arguments of a base that a class without fields declares; some are required."""
    chosen = choose_preferred(record.arguments)
    if not chosen:
        expected = f"fields for the arguments that you mean: {', '.join(record.arguments)}"
        got = "none, and all are optional"
        fix = "Declare a class with this base, and a Param or a constant for each."
        raise record.error("base", expected, got, fix, code="base-arguments")
    return chosen


def infer_fields(arguments: Mapping[str, Argument], *, predicts: bool = False) -> dict[str, Field]:
    """Fields for these arguments of a base.

    Continuous arguments become parameters at their default values, or heads in a class that
    predicts from a context; counts and dimensions become constants; distributions and transforms
    become nested parts that every instance is given.
    """
    fields: dict[str, Field] = {}
    for name, argument in arguments.items():
        if argument.is_sequence:
            fields[name] = Nested(is_list=True).with_name(name)
        elif argument.part is not None:
            fields[name] = Nested().with_name(name)
        elif argument.is_learnable:
            default = argument.default if isinstance(argument.default, (int, float)) else None
            init = STARTS.get(name) if default is None else default
            field = Head(shape=argument.event_names(), init=init) if predicts else Param(init)
            fields[name] = field.with_name(name)
        else:
            fields[name] = Constant(argument.default).with_name(name)
    return fields


def signature_of(cls: type) -> inspect.Signature:
    """What the constructor takes: its own keywords, names of sizes, and fields.

    An `__init__` of the user's own comes first; where it passes keywords on, they follow.
    """
    line = [kind for kind in cls.__mro__ if "__init__" in vars(kind)]
    own = parameters_of(vars(line[0])["__init__"])
    passes_on = bool(own) and own[-1].kind is inspect.Parameter.VAR_KEYWORD
    if "__framework__" in vars(cls) or not passes_on:
        return inspect.Signature(own)
    named = (parameters_of(vars(k)["__init__"])[:-1] for k in line if is_framework(k))
    keywords = {p.name: p.replace(annotation=p.empty) for p in next(filter(None, named))}
    if not is_framework(line[0]):
        by_name = {n: p.replace(kind=p.KEYWORD_ONLY) for n, p in keywords.items()}
        keywords = by_name | {p.name: p for p in own[:-1]}
        keywords = dict(sorted(keywords.items(), key=lambda item: item[1].kind))
    declaration: Declaration = cls.__declaration__  # type: ignore[attr-defined]
    defaults = dict.fromkeys(declaration.size_names)
    defaults |= {n: field.init for n, field in declaration.fields.items() if field.takes_value}
    for name, default in defaults.items():
        parameter = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        keywords.setdefault(name, parameter)
    return inspect.Signature(list(keywords.values()))

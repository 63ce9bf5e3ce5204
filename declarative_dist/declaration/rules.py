"""What a class body may not say, and what may not be set on a finished class."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, ExponentialFamily, Transform

from declarative_dist.declaration.record import Declaration
from declarative_dist.errors import DeclarationError, FieldError, did_you_mean, is_count, shorten
from declarative_dist.fields.blueprint import KEYWORDS
from declarative_dist.fields.constant import Constant
from declarative_dist.fields.field import Field
from declarative_dist.fields.kinds import describe_kind
from declarative_dist.plain.arguments import Argument, alternatives, hides_arguments
from declarative_dist.words import is_one_edit_from

SETTINGS = ("base", "event_dim", "validate_args")
"""Names in a class body that are no fields."""

OF_MODULES = frozenset(dir(nn.Module()))
"""What `nn.Module` defines and keeps on instances."""

_DEFINED = "which nn.Module, Distribution or this library defines"


def check_base(record: Declaration) -> None:
    """Refuse a base that cannot be instantiated, or whose arguments collide with ours."""
    base = record.base
    if not isinstance(base, type):
        return
    way = "Write a method instead: def base(self, ...): return "
    is_abstract = base in (Distribution, ExponentialFamily, Transform)
    if is_abstract or hasattr(base, "__declaration__") or hides_arguments(base):
        kind = "transform" if issubclass(base, Transform) else "distribution"
        expected = f"a concrete torch {kind} class"
        got = f"{base.__name__}{inspect.signature(base)}"
        fix = f"{way}{base.__name__}(...), or give its __init__ named arguments."
        raise record.error("base", expected, got, fix, code="no-base")
    # A transform's event_dim is an argument like any other.
    ours = {*KEYWORDS, "base", *(() if issubclass(base, Transform) else ("event_dim",))}
    colliding = [name for name in record.takes if name in ours or name in OF_MODULES]
    if colliding:
        expected = "a base whose arguments have names of their own"
        fix = f"{way}{base.__name__}(...), with fields under other names."
        got = f"{base.__name__} with {', '.join(colliding)}"
        raise record.error("base", expected, got, fix, code="name-taken")


def check_settings(record: Declaration, namespace: Mapping[str, Any]) -> None:
    """Refuse an `event_dim` that is no size and a `validate_args` that is no switch."""
    event_dim = namespace.get("event_dim")
    if not (event_dim is None or is_count(event_dim) or isinstance(event_dim, Constant)):
        raise record.error("event_dim", "an int, 0 or above", shorten(event_dim))
    validates = namespace.get("validate_args")
    if not (validates is None or isinstance(validates, bool)):
        raise record.error("validate_args", "True or False", shorten(validates))


def check_setting(instance: nn.Module, name: str) -> None:
    """Refuse to set on an instance what its class body says for all of them, as priors are."""
    declaration: Any = instance.__declaration__
    if name in SETTINGS or name in declaration.of_prior:
        kind = type(instance).__name__
        subject, expected = f"{kind}.{name}", f"{name} in a class body"
        fix = f"Write class Other({kind}) with another {name} in its body."
        raise FieldError(subject, expected, "a value on an instance", fix, code="no-assignment")
    if name in _members_of(type(instance)):
        raise _ignored_error(type(instance), name, "one on an instance")


def check_spelling(instance: nn.Module, name: str, value: object) -> None:
    """Refuse a number, a tensor or a module under a new name that is nearly a field's."""
    is_value = isinstance(value, (int, float, Tensor, nn.Module)) and not isinstance(value, bool)
    if name.startswith("_") or not is_value or hasattr(instance, name):
        return
    declaration: Any = instance.__declaration__
    near = [field for field in declaration.fields if is_one_edit_from(name, field)]
    if near:
        subject, fix = f"{type(instance).__name__}.{name}", f"Did you mean {near[0]!r}?"
        raise FieldError(subject, "the name of a field", repr(name), fix, code="unknown-name")


def _members_of(cls: type) -> frozenset[str]:
    """The members of what calling an instance gives, which its class must leave alone.

    Objectives, nested parts and guides ask that object, and would ignore others.
    """
    makes: Any = getattr(cls, "__builds__", None) or getattr(cls, "__predicts__", None)
    if makes is None:
        return frozenset()
    library = next(kind for kind in cls.__mro__ if "__framework__" in vars(kind))
    return _shared_members(Transform if issubclass(makes, Transform) else Distribution, library)


@cache
def _shared_members(kind: type, library: type) -> frozenset[str]:
    """The members of a transform, or those of a distribution that a class of ours has, too."""
    names = {name for name in vars(kind) if not name.startswith("_")}
    if kind is Transform:
        return frozenset(names - {"event_dim"})
    names = names - {"set_default_validate_args"} | {"rsample_and_log_prob"}
    return frozenset(name for name in names if hasattr(library, name))


def check_members(record: Declaration, framework: Collection[type]) -> None:
    """Refuse methods of a distribution or a transform in the body of a class or a mixin."""
    members = _members_of(record.kind).difference(record.fields)
    for kind in record.kind.__mro__:
        own = members.intersection(vars(kind))
        members -= own
        for name in sorted(() if kind in framework else own):
            if vars(kind)[name] is not None:
                raise _ignored_error(record.kind, name, f"one in the body of {kind.__name__}")


def _ignored_error(cls: type, name: str, got: str) -> DeclarationError:
    kind = getattr(cls, "__builds__", None) or Distribution
    kind = Transform if issubclass(kind, Transform) else Distribution
    expected = f"{name} in the {kind.__name__.lower()} that the instance makes"
    got = f"{got}, which objectives and nested parts ignore"
    way = f"Write a {kind.__name__} class with this {name} and name it as base"
    fix = f"{way}, or override forward."
    return DeclarationError(f"{cls.__name__}.{name}", expected, got, fix, code="name-taken")


_PACKAGES = {"abc", "declarative_dist", "torch", "typing", "typing_extensions"}


def is_framework(klass: type) -> bool:
    """Whether a class is one of ours or torch's, whose attributes declare nothing."""
    if "__framework__" in vars(klass) or "__declared__" in vars(klass):
        return "__framework__" in vars(klass)
    package = klass.__module__.partition(".")[0]
    return klass is object or package in _PACKAGES


def check_change(cls: type, name: str, value: object, *, is_deleted: bool = False) -> None:
    """Refuse to change or delete what the body of a finished class declares.

    Torch's parametrizations put a property on a class that they make; that is let through.
    """
    declaration: Any = vars(cls).get("__declaration__")
    is_field = isinstance(value, Field)  # refused before the class is finished, too
    if isinstance(value, property) or (declaration is None and not is_field):
        return
    is_declared = declaration is not None and name in declaration.fields
    if is_field or is_declared or name in SETTINGS:
        expected = "no change, because a class is finished when its body ends"
        got = "its deletion" if is_deleted else shorten(value)
        fix = f"Write class Other({cls.__name__}) with another {name} in its body."
        raise DeclarationError(f"{cls.__name__}.{name}", expected, got, fix, code="name-taken")
    if not is_deleted and name in _members_of(cls) and "__framework__" not in vars(cls):
        raise _ignored_error(cls, name, shorten(value))


def check_namespace(record: Declaration, body: Mapping[str, Any]) -> None:
    """Refuse what stands where a field should, and numbers under names that are no field's."""
    for name, annotation in body.get("__annotations__", {}).items():
        if isinstance(annotation, Field):
            expected, got = f"{name} = {annotation}", f"{name}: {annotation}"
            raise record.error(name, expected, got, code="not-a-field")
    for name, value in body.items():
        is_parameter = isinstance(value, nn.Parameter)
        if name in SETTINGS or name[0] == "_" or (name in record.fields and not is_parameter):
            continue
        if is_parameter:
            got, fix = "a torch Parameter", f"Write {name} = Param(...)."
            raise record.error(name, "a Param", got, fix, code="not-a-field")
        if name in record.takes and value is not None:
            argument = record.arguments.get(name)
            expected, fix = "a Param, a number, a tensor or @derived", ""
            if argument is not None and argument.part is not None:
                expected = describe_kind(argument.part)
                if isinstance(value, type):
                    fix = f"Write {value.__name__}(...), or learnable({value.__name__})."
            raise record.error(name, expected, shorten(value), fix, code="not-a-field")
        is_number = isinstance(value, (int, float, list))
        is_switch = isinstance(getattr(nn.Module, name, None), bool)
        if is_number and name in OF_MODULES and not is_switch:
            record.refuse_name(name, _DEFINED)
        is_near = any(is_one_edit_from(name, other) for other in record.takes)
        if is_near and is_number and not isinstance(value, bool):
            expected, fix = "the name of an argument", did_you_mean(name, record.takes)
            raise record.error(name, expected, repr(name), fix, code="unknown-name")


def check_names(record: Declaration, reserved: Collection[str]) -> None:
    """Refuse names that the module or the distribution needs, and fields that collide."""
    for name, field in record.fields.items():
        is_network = name == "network" and record.predicts and not field.is_part
        is_taken = name in KEYWORDS or (name in reserved and name not in record.arguments)
        if is_network or is_taken:
            record.refuse_name(name, _DEFINED)
        for size in field.shape or ():
            if size in record.fields or size in KEYWORDS:
                got = f"{size!r}, the name of a field or keyword"
                expected = "a size with a name of its own"
                fix = "Choose another name for the size."
                raise record.error(name, expected, got, fix, code="name-taken")


def check_joint(record: Declaration, body: Mapping[str, Any]) -> None:
    """Refuse what looks like a site of a joint distribution and is none."""
    for name, value in body.items():
        if name in ("event_dim", "validate_args") and value is not None:
            expected, got = f"{name} of single sites", f"{name} of a Joint"
            fix = "Write @site(event_dim=...), or declare it in the class of a site."
            raise record.error(name, expected, got, fix, code="misplaced-field")
        is_field = name in record.fields
        if isinstance(value, type) and issubclass(value, Distribution) and not is_field:
            expected, got = "a distribution or a declared class", f"the class {value.__name__}"
            fix = f"Write {name} = {value.__name__}(...), or learnable({value.__name__})."
            raise record.error(name, expected, got, fix, code="class-not-instance")


def check_arguments(record: Declaration) -> None:
    """Refuse a class base without all that it requires, or with the same thing said twice."""
    if not isinstance(record.base, type):
        return
    base = record.base.__name__
    for group in alternatives(record.arguments):
        given = [name for name in group if name in record.fields]
        if len(given) != 1:
            expected = f"exactly one of {', '.join(group)}, as {base} takes it"
            got = " and ".join(given) or "none of them"
            fix = f"Keep {given[0]}." if given else f"Write {group[0]} = Param()."
            name = given[1] if given else group[0]
            raise record.error(name, expected, got, fix, code="base-arguments")
    required = [name for name, argument in record.arguments.items() if argument.required]
    for name in required:
        if name not in record.fields:
            expected = f"every required argument of {base} ({', '.join(required)})"
            got = f"none of that name among {', '.join(record.fields)}"
            fix = f"Write {name} = {_example_of(record.arguments[name])}."
            raise record.error(name, expected, got, fix, code="base-arguments")


def _example_of(argument: Argument) -> str:
    if argument.part is not None:
        return "a declared class or a distribution" if argument.part is not Transform else "[...]"
    return "Param()" if argument.is_learnable or argument.torch_constraint is not None else "1"


def check_needs(record: Declaration) -> None:
    """Refuse bounds, methods of fields and a base method that name no field."""
    needs = {name: field.needs for name, field in record.fields.items()}
    needs["base"] = () if isinstance(record.base, type) else record.takes
    for user, names in needs.items():
        for name in names:
            if name not in record.fields:
                others = [n for n in record.fields if n != user]
                got, fix = repr(name), did_you_mean(name, others)
                raise record.error(user, "names of fields", got, fix, code="unknown-name")

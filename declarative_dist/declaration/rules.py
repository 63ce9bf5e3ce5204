"""What a class body may not say; every rule raises a DeclarationError."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, ExponentialFamily, Transform

from declarative_dist.declaration.record import Base
from declarative_dist.errors import DeclarationError, FieldError, did_you_mean, is_count, shorten
from declarative_dist.fields.constant import Constant
from declarative_dist.fields.field import Field
from declarative_dist.fields.head import Head
from declarative_dist.fields.kinds import describe_kind
from declarative_dist.fields.param import Param
from declarative_dist.fields.parts import Nested
from declarative_dist.fields.prior import check_fits
from declarative_dist.fields.prior_support import check_support
from declarative_dist.fields.value import Constrained
from declarative_dist.plain.arguments import Argument, alternatives, takes_positions
from declarative_dist.words import is_one_edit_from

SETTINGS = ("base", "event_dim", "validate_args")
"""Names in a class body that are no fields."""

KEYWORDS = ("batch_shape", "device", "dtype")
"""The constructor's own keywords."""


def check_base(owner: str, base: Base, arguments: Mapping[str, Argument]) -> None:
    """Refuse a base that cannot be instantiated, or whose arguments collide with ours."""
    abstract = (Distribution, ExponentialFamily, Transform)
    if base in abstract or hasattr(base, "__declaration__"):
        kind = "transform" if base is Transform else "distribution"
        raise DeclarationError(
            f"{owner}.base",
            f"a concrete torch {kind} class",
            f"{base.__name__}",
            code="no-base",
        )
    if isinstance(base, type) and takes_positions(base):
        raise DeclarationError(
            f"{owner}.base",
            "a base whose arguments have names",
            f"{base.__name__}(*args), whose names nothing tells",
            "Write a method instead: def base(self, ...): return "
            f"{base.__name__}(...), or give its __init__ named arguments.",
            code="no-base",
        )
    # A transform's event_dim is an argument like any other.
    is_transform = isinstance(base, type) and issubclass(base, Transform)
    ours = (*KEYWORDS, "base") if is_transform else (*KEYWORDS, "base", "event_dim")
    colliding = [name for name in arguments if name in ours]
    colliding += [name for name in arguments if hasattr(nn.Module, name) or name == "training"]
    if colliding:
        raise DeclarationError(
            f"{owner}.base",
            "a base whose arguments have names of their own",
            f"{base.__name__} with {', '.join(colliding)}",
            "Write a method instead: def base(self, ...): return "
            f"{base.__name__}(...), with fields under other names.",
            code="name-taken",
        )


def check_settings(owner: str, namespace: Mapping[str, Any]) -> None:
    """Refuse an `event_dim` that is no size and a `validate_args` that is no switch."""
    event_dim = namespace.get("event_dim")
    if not (event_dim is None or is_count(event_dim) or isinstance(event_dim, Constant)):
        raise DeclarationError(f"{owner}.event_dim", "an int, 0 or above", shorten(event_dim))
    validates = namespace.get("validate_args")
    if not (validates is None or isinstance(validates, bool)):
        raise DeclarationError(f"{owner}.validate_args", "True or False", shorten(validates))


def check_setting(instance: nn.Module, name: str) -> None:
    """Refuse to set on an instance what its class body says for all of them."""
    if name in SETTINGS:
        kind = type(instance).__name__
        raise FieldError(
            f"{kind}.{name}",
            f"{name} in a class body",
            "a value on an instance",
            f"Write class Other({kind}) with another {name} in its body.",
            code="no-assignment",
        )


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


_MEMBERS: Mapping[type, frozenset[str]] = {
    kind: frozenset(name for name in vars(kind) if not name.startswith("_")) - others
    for kind, others in (
        (Distribution, {"set_default_validate_args"}),
        (Transform, {"event_dim"}),
    )
}


def check_members(cls: type, fields: Mapping[str, Field]) -> None:
    """Refuse methods of a distribution or a transform in the class body.

    Objectives, nested parts and guides ask the object that calling an instance returns, so they
    would ignore such a method.
    """
    makes: Any = getattr(cls, "__builds__", None) or getattr(cls, "__predicts__", None)
    if makes is None:
        return
    kind = Transform if issubclass(makes, Transform) else Distribution
    for name in sorted({*_MEMBERS[kind], "rsample_and_log_prob"}.difference(fields)):
        owner = next((k for k in cls.__mro__ if name in vars(k)), None)
        is_known = kind is Transform or hasattr(_framework_of(cls), name)
        if owner is None or not is_known or is_framework(owner) or vars(owner)[name] is None:
            continue
        word = kind.__name__.lower()
        raise DeclarationError(
            f"{cls.__name__}.{name}",
            f"{name} in the {word} that the instance makes",
            f"one in the body of {owner.__name__}, which objectives and nested parts ignore",
            f"Write a {kind.__name__} class with this {name} and name it as base, or override "
            "forward.",
            code="name-taken",
        )


def _framework_of(cls: type) -> type:
    """The class of this library from which a class derives."""
    return next(kind for kind in cls.__mro__ if "__framework__" in vars(kind))


def is_framework(klass: type) -> bool:
    """Whether a class is one of ours or torch's, whose attributes declare nothing."""
    if "__framework__" in vars(klass) or "__declared__" in vars(klass):
        return "__framework__" in vars(klass)
    package = klass.__module__.partition(".")[0]
    return klass is object or package in ("abc", "torch", "typing", "typing_extensions")


def check_change(cls: type, name: str, value: object, change: str) -> None:
    """Refuse to change or delete what the body of a finished class declares.

    Torch's parametrizations put a property on a class that they make; that is let through.

    Args:
        cls: the class.
        name: the attribute.
        value: its new value, or the one that would be deleted.
        change: what is about to happen, for the error.
    """
    declaration: Any = vars(cls).get("__declaration__")
    if declaration is None or isinstance(value, property):
        return
    if name in SETTINGS or name in declaration.fields or isinstance(value, Field):
        raise DeclarationError(
            f"{cls.__name__}.{name}",
            "no change, because a class is finished when its body ends",
            change,
            f"Write class Other({cls.__name__}) with another {name} in its body.",
            code="name-taken",
        )


def check_namespace(
    owner: str,
    namespace: Mapping[str, Any],
    fields: Mapping[str, Field],
    arguments: Collection[str],
    reserved: Collection[str],
) -> None:
    """Refuse what stands where a field should, and numbers under names that are no field's."""
    for name, annotation in namespace.get("__annotations__", {}).items():
        if isinstance(annotation, Field):
            raise DeclarationError(
                f"{owner}.{name}",
                f"{name} = {annotation}",
                f"{name}: {annotation}",
                code="not-a-field",
            )
    for name, value in namespace.items():
        if (name in fields and not isinstance(value, nn.Parameter)) or name.startswith("_"):
            continue
        if isinstance(value, nn.Parameter):
            raise DeclarationError(
                f"{owner}.{name}",
                "a Param",
                "a torch Parameter",
                f"Write {name} = Param(...).",
                code="not-a-field",
            )
        if name in arguments and name not in SETTINGS and value is not None:
            part = arguments[name].part if isinstance(arguments, Mapping) else None
            is_class = part is not None and isinstance(value, type)
            raise DeclarationError(
                f"{owner}.{name}",
                "a Param, a number, a tensor or @derived" if part is None else describe_kind(part),
                shorten(value),
                f"Write {value.__name__}(...), or learnable({value.__name__})."
                if is_class
                else "",
                code="not-a-field",
            )
        if not isinstance(value, (int, float, list)) or isinstance(value, bool):
            continue
        if name in reserved and name not in SETTINGS:
            raise _taken(owner, name)
        if any(is_one_edit_from(name, argument) for argument in arguments):
            raise DeclarationError(
                f"{owner}.{name}",
                "the name of an argument",
                repr(name),
                did_you_mean(name, arguments),
                code="unknown-name",
            )


def check_names(
    owner: str, fields: Mapping[str, Field], arguments: Collection[str], reserved: Collection[str]
) -> None:
    """Refuse names that the module or the distribution needs, and fields that collide."""
    for name, field in fields.items():
        if name in KEYWORDS or (name in reserved and name not in arguments):
            raise _taken(owner, name)
        for size in getattr(field, "shape", None) or ():
            if size in fields or size in KEYWORDS:
                raise DeclarationError(
                    f"{owner}.{name}",
                    "a size with a name of its own",
                    f"{size!r}, the name of a field or keyword",
                    "Choose another name for the size.",
                    code="name-taken",
                )


def _taken(owner: str, name: str) -> DeclarationError:
    return DeclarationError(
        f"{owner}.{name}",
        "a name that is free",
        f"{name!r}, which nn.Module, Distribution or this library defines",
        "Choose another name.",
        code="name-taken",
    )


def check_raw_names(cls: type, fields: Mapping[str, Field]) -> None:
    """Refuse whatever stands where an unconstrained parameter will, or its prior."""
    for name, field in fields.items():
        if isinstance(field, Constrained) and hasattr(cls, field.raw_name):
            raise DeclarationError(
                f"{cls.__name__}.{field.raw_name}",
                "a name that is free",
                f"{field.raw_name!r}, the unconstrained numbers of {name}",
                "Choose another name.",
                code="name-taken",
            )
        prior = field.prior_name if isinstance(field, Param) and field.prior is not None else ""
        if prior and (hasattr(cls, prior) or prior in fields):
            raise DeclarationError(
                f"{cls.__name__}.{prior}",
                "a name that is free",
                f"{prior!r}, the prior of {name}",
                "Choose another name.",
                code="name-taken",
            )


def check_priors(owner: str, fields: Mapping[str, Field]) -> None:
    """Refuse priors on another set than their parameter's, or for another shape than declared."""
    for name, field in fields.items():
        if not isinstance(field, Param) or field.prior is None:
            continue
        subject = f"{owner}.{name}"
        predicted = next((f for f in _needed(field, fields) if isinstance(f, Head)), None)
        if predicted is not None:
            raise DeclarationError(
                subject,
                "no prior where a bound is predicted from a context",
                f"a bound that needs {predicted.name!r}, {predicted!r}",
                "Leave the prior out, or bound the parameter by one.",
                code="prior-mismatch",
            )
        if not field.needs:
            check_support(field.prior, field.constraint, subject, DeclarationError)
        shape = field.declared_shape
        if shape is not None and not field.owns_constraint:  # tensors in it may add dimensions
            check_fits(field.prior, shape, subject, error=DeclarationError)


def _needed(field: Field, fields: Mapping[str, Field]) -> Iterator[Field]:
    """All fields that one is computed from."""
    for name in field.needs:
        yield fields[name]
        yield from _needed(fields[name], fields)


def check_needs(owner: str, fields: Mapping[str, Field]) -> None:
    """Refuse bounds and derived fields that name no field."""
    for name, field in fields.items():
        for needed in field.needs:
            if needed not in fields:
                raise DeclarationError(
                    f"{owner}.{name}",
                    "names of fields",
                    repr(needed),
                    did_you_mean(needed, [other for other in fields if other != name]),
                    code="unknown-name",
                )


def check_arguments(
    owner: str,
    base: type[Distribution | Transform],
    arguments: Mapping[str, Argument],
    fields: Mapping[str, Field],
) -> None:
    """Refuse unknown, missing and exclusive arguments, and parameters for counts."""
    used = {needed for field in fields.values() for needed in field.declared_needs}
    for name, field in fields.items():
        is_declared = isinstance(field, Nested) and field.is_declared
        if (isinstance(field, Constrained) or is_declared) and name not in {*arguments, *used}:
            raise DeclarationError(
                f"{owner}.{name}",
                f"an argument of {base.__name__}, or a name that another field uses",
                repr(name),
                did_you_mean(name, arguments),
                code="unknown-name",
            )
        argument = arguments.get(name)
        stated = None if argument is None else argument.torch_constraint
        is_count = stated is not None and stated.is_discrete
        if argument is not None and stated is None:
            is_count = argument.default is not None
        if isinstance(field, Constrained) and is_count and field.declared_constraint is None:
            raise DeclarationError(
                f"{owner}.{name}",
                "a constant, because no gradient reaches this argument",
                repr(field),
                f"Write {name} = 10, or give the constructor a value.",
                code="unlearnable-argument",
            )
    _check_alternatives(owner, base, arguments, fields)
    required = [name for name, argument in arguments.items() if argument.required]
    for name in required:
        if name not in fields:
            raise DeclarationError(
                f"{owner}.{name}",
                f"every required argument of {base.__name__} ({', '.join(required)})",
                f"none of that name among {', '.join(fields)}",
                f"Write {name} = {_example_of(arguments[name])}.",
                code="base-arguments",
            )


def _example_of(argument: Argument) -> str:
    if argument.part is not None:
        return "a declared class or a distribution" if argument.part is not Transform else "[...]"
    return "Param()" if argument.is_learnable or argument.torch_constraint is not None else "1"


def _check_alternatives(
    owner: str,
    base: type[Distribution | Transform],
    arguments: Mapping[str, Argument],
    fields: Mapping[str, Field],
) -> None:
    for group in alternatives(arguments):
        given = [name for name in group if name in fields]
        if len(given) != 1:
            raise DeclarationError(
                f"{owner}.{given[1] if given else group[0]}",
                f"exactly one of {', '.join(group)}, as {base.__name__} takes it",
                " and ".join(given) or "none of them",
                f"Keep {given[0]}." if given else f"Write {group[0]} = Param().",
                code="base-arguments",
            )


def check_inputs(owner: str, inputs: Collection[str], fields: Mapping[str, Field]) -> None:
    """Refuse a base method that takes names of no field."""
    for name in inputs:
        if name not in fields:
            raise DeclarationError(
                f"{owner}.base",
                "names of fields",
                repr(name),
                did_you_mean(name, fields),
                code="unknown-name",
            )

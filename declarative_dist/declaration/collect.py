"""What a class body declares: its base and its fields, along the line of inheritance."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from declarative_dist.constraints.inferred import starting_value
from declarative_dist.declaration.record import Base, Declaration
from declarative_dist.declaration.rules import SETTINGS, is_framework
from declarative_dist.errors import DeclarationError, ExplainedError, shorten
from declarative_dist.fields.constant import Constant
from declarative_dist.fields.field import Field
from declarative_dist.fields.fixed import as_constant, as_module
from declarative_dist.fields.head import Head
from declarative_dist.fields.kinds import is_declarative_class
from declarative_dist.fields.method import names_of
from declarative_dist.fields.param import Param
from declarative_dist.fields.parts import Nested
from declarative_dist.fields.walk import walk
from declarative_dist.plain.arguments import Argument, preferred
from declarative_dist.plain.tensors import is_array


def base_of(cls: type) -> Base:
    """The base that a class declares or inherits: a class of what it builds, or a method."""
    base = inspect.getattr_static(cls, "base", None)
    if base is None:
        return None
    builds: type = getattr(cls, "__builds__", None) or Distribution
    if isinstance(base, type) and issubclass(base, builds):
        return base
    if inspect.isfunction(base):
        return base
    kind = builds.__name__
    if builds not in (Distribution, Transform):
        raise DeclarationError(
            f"{cls.__name__}.base", "no base: it is made of sites", repr(base), code="no-base"
        )
    example = "TanhTransform" if kind == "Transform" else "Normal"
    expected = f"a torch.distributions.{kind} subclass or a method that returns a {kind.lower()}"
    fix = f"Write base = torch.distributions.{example}, or def base(self, loc, scale): ..."
    raise DeclarationError(f"{cls.__name__}.base", expected, repr(base), fix, code="no-base")


class Body(dict[str, Any]):
    """The namespace of a class body, in which no two fields may have the same name.

    Args:
        owner: the name of the class.
    """

    def __init__(self, owner: str) -> None:
        super().__init__()
        self.owner = owner

    def __setitem__(self, name: str, value: Any) -> None:
        before = self.get(name)
        if _declares(value) and _declares(before):
            subject = f"{self.owner}.{name}"
            got = f"two, {shorten(before)} and {shorten(value)}"
            fix = "Rename one of them."
            raise DeclarationError(subject, "one field of this name", got, fix, code="name-taken")
        super().__setitem__(name, value)


def _declares(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(is_nestable, value))
    return isinstance(value, Field) or is_nestable(value)


def is_nestable(value: object) -> bool:
    """Whether a value in a class body is a nested part."""
    return isinstance(value, (nn.Module, Distribution, Transform)) or is_declarative_class(value)


def copy_body(owner: str, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """A class body with copies of its modules, and modules in place of plain parts.

    What the class holds does not change with the modules that it was given.
    """
    copies: dict[int, Any] = {}

    def own(value: Any) -> Any:
        if isinstance(value, Field):
            return value.with_own_modules(own)
        if isinstance(value, nn.Module):
            module = copy.deepcopy(value, copies)
            for _, part in walk(module):
                part._restart()
            return module
        if isinstance(value, (list, tuple)) and any(map(is_nestable, value)):
            return [own(item) for item in value]
        if isinstance(value, Distribution):
            return as_constant(value, owner, "Declare a family with parameters of its own.")
        return as_module(value) if is_nestable(value) and not isinstance(value, type) else value

    def copy_value(name: str, value: Any) -> Any:
        try:
            return own(value)
        except ExplainedError as error:
            raise DeclarationError(
                f"{owner}.{name}", error.expected, error.got, error.fix, code=error.code
            ) from error

    return {
        name: value if name.startswith("__") or name in SETTINGS else copy_value(name, value)
        for name, value in namespace.items()
    }


def declared_fields(
    cls: type, base: Base, arguments: Mapping[str, Argument] | Iterable[str]
) -> dict[str, Field]:
    """The fields of a class by name, in order; later ones override inherited ones.

    Args:
        cls: the class.
        base: its base.
        arguments: what the base takes; only names, if it is a method.

    Numbers count as constants where something uses their name: an argument of the base, a derived
    field, or a bound. Tensors always do. What was declared automatically is inherited together
    with its base.
    """
    fields: dict[str, Field] = {}
    known = arguments if isinstance(arguments, Mapping) else {}
    sequences = [name for name, argument in known.items() if argument.is_sequence]
    switches = [name for name, argument in known.items() if isinstance(argument.default, bool)]
    line = [klass for klass in reversed(cls.__mro__) if not is_framework(klass)]
    used = {*arguments, *_names_used(map(_body_of, line))}
    for klass in line:
        if "__auto__" in vars(klass) and base_of(klass) is base:
            fields.update(vars(klass)["__auto__"])
        for name, value in _body_of(klass).items():
            if isinstance(base, type) and name not in used and _is_defined_in(klass, name, value):
                continue  # a class for another field, whose statement stands in the body
            numbers = switches if isinstance(value, bool) else used
            field = _as_field(f"{cls.__name__}.{name}", name, value, numbers, sequences)
            if field is not None:
                fields[name] = field
            elif name in fields:
                fields.pop(name).check_override(value, f"{cls.__name__}.{name}")
    return fields


def _is_defined_in(klass: type, name: str, value: object) -> bool:
    inner = f"{klass.__qualname__}.{name}"
    return isinstance(value, type) and value.__qualname__ == inner


def _body_of(klass: type) -> Mapping[str, Any]:
    """What the body of a class or a mixin says, before fields are specialised."""
    body: Mapping[str, Any] | None = vars(klass).get("__declared__")
    return copy_body(klass.__name__, vars(klass)) if body is None else body


def _names_used(bodies: Iterable[Mapping[str, Any]]) -> set[str]:
    used: set[str] = set()
    for body in bodies:
        for value in body.values():
            if isinstance(value, Field):
                used.update(value.declared_needs)
    return used


def _as_field(
    subject: str, name: str, value: Any, numbers: Iterable[str], sequences: Iterable[str]
) -> Field | None:
    if isinstance(value, Field):
        return value.with_name(name)
    if name in SETTINGS or name.startswith("__") or value is None:
        return None
    if name in sequences or (isinstance(value, list) and any(map(is_nestable, value))):
        is_list = isinstance(value, (list, tuple, nn.ModuleList))
        items: list[Any] = list(value) if is_list else [value]
        _check_items(subject, items, name in sequences)
        return Nested(items, is_list=True).with_name(name)
    if is_nestable(value):
        template: Any = value
        return Nested([template]).with_name(name)
    if isinstance(value, Tensor) or (name in numbers and _is_numeric(value)):
        return Constant(value).with_name(name)
    return None


def _is_numeric(value: object) -> bool:
    """Whether a value is a number, a list of them, or an array, NumPy's among them."""
    return isinstance(value, Real) or is_array(value)


def _check_items(subject: str, items: list[Any], are_transforms: bool) -> None:
    for index, item in enumerate(items):
        if not is_nestable(item):
            raise DeclarationError(
                f"{subject}[{index}]" if len(items) > 1 else subject,
                "a transform" if are_transforms else "a module",
                shorten(item),
                f"Write {item.__name__}()." if isinstance(item, type) else "",
                code="wrong-part",
            )


def needed_arguments(owner: str, arguments: Mapping[str, Argument]) -> dict[str, Argument]:
    """The arguments of a base that a class without fields declares.

    Raises:
        DeclarationError: if all are optional.
    """
    chosen = preferred(arguments)
    if arguments and not chosen:
        expected = f"fields for those of its arguments that you mean: {', '.join(arguments)}"
        got = "none, and all are optional"
        fix = "Declare a class with this base, and a Param or a constant for each."
        raise DeclarationError(f"{owner}.base", expected, got, fix, code="base-arguments")
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
            init = starting_value(name) if default is None else default
            field = Head(shape=argument.event_names(), init=init) if predicts else Param(init)
            fields[name] = field.with_name(name)
        else:
            fields[name] = Constant(argument.default).with_name(name)
    return fields


def settings_of(cls: type, fields: Mapping[str, Field]) -> dict[str, Any]:
    """What a class body or an inherited one says beside fields; a transform has its own."""
    event_dim = None if "event_dim" in fields else getattr(cls, "event_dim", None)
    return {
        "event_dim": None if event_dim is None else int(event_dim),
        "validates": getattr(cls, "validate_args", None),
    }


def inputs_of(
    owner: str, base: Base, arguments: Mapping[str, Argument], fields: Mapping[str, Field]
) -> tuple[str, ...]:
    """The names of the fields that go to the base."""
    if base is None:
        return ()
    if isinstance(base, type):
        return tuple(name for name in arguments if name in fields)
    return names_of(base, f"{owner}.base")


def signature_of(cls: type) -> inspect.Signature:
    """What the constructor takes: its own keywords, names of sizes, and fields.

    An `__init__` of the user's own comes first; where it passes keywords on, they follow.
    """
    line = [kind for kind in cls.__mro__ if "__init__" in vars(kind)]
    own = _parameters_of(line[0])
    passes_on = bool(own) and own[-1].kind is inspect.Parameter.VAR_KEYWORD
    if "__framework__" in vars(cls) or not passes_on:
        return inspect.Signature(own)
    named = (_parameters_of(kind)[:-1] for kind in line if is_framework(kind))
    keywords = {p.name: p.replace(annotation=p.empty) for p in next(filter(None, named))}
    if not is_framework(line[0]):
        by_name = {n: p.replace(kind=p.KEYWORD_ONLY) for n, p in keywords.items()}
        keywords = by_name | {p.name: p for p in own[:-1]}
        keywords = dict(sorted(keywords.items(), key=lambda item: item[1].kind))
    declaration: Declaration = cls.__declaration__  # type: ignore[attr-defined]
    defaults = dict.fromkeys(declaration.size_names)
    defaults |= {n: field.default for n, field in declaration.fields.items() if field.takes_value}
    for name, default in defaults.items():
        parameter = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        keywords.setdefault(name, parameter)
    return inspect.Signature(list(keywords.values()))


def _parameters_of(cls: type) -> list[inspect.Parameter]:
    """The parameters of a constructor behind self."""
    return list(inspect.signature(vars(cls)["__init__"]).parameters.values())[1:]

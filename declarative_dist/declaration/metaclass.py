"""The metaclass: it runs the steps that turn a class body into a declaration."""

from __future__ import annotations

import copyreg
import inspect
from abc import ABCMeta
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import nn

from declarative_dist.declaration import collect, rules
from declarative_dist.declaration.record import Declaration
from declarative_dist.errors import DeclarationError, shorten
from declarative_dist.fields.field import Field
from declarative_dist.plain.arguments import arguments_of, parameters_of


class DeclarativeMeta(ABCMeta):
    """The type of all declarative classes; their `__declaration__` is the record of their body."""

    __declaration__: Declaration
    __auto__: dict[str, Field]
    __recipe__: tuple[Callable[..., type], tuple[Any, ...]] | None

    @classmethod
    def __prepare__(cls, name: str, bases: tuple[type, ...], /, **keywords: Any) -> collect.Body:
        return collect.Body()

    def __new__(
        mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **keywords: Any
    ) -> DeclarativeMeta:
        own = collect.copy_body(name, namespace)
        namespace["__declared__"] = own
        cls = super().__new__(mcls, name, bases, namespace, **keywords)

        # The base and what it takes.
        base = collect.base_of(cls)
        arguments = arguments_of(base) if isinstance(base, type) else {}
        empty = Declaration(cls, base, arguments, {})
        rules.check_base(empty)
        rules.check_settings(empty, own)

        # The fields, declared here or inherited.
        framework = tuple(filter(rules.is_framework, cls.__mro__))
        line = [kind for kind in reversed(cls.__mro__) if kind not in framework]
        record = replace(empty, fields=collect.collect_fields(empty, line))
        rules.check_namespace(record, own)
        if arguments and not record.fields:
            needed = collect.needed_arguments(record)
            cls.__auto__ = collect.infer_fields(needed, predicts=record.predicts)
            record = replace(record, fields=cls.__auto__)

        # What they may not say, as a whole and each for itself.
        rules.check_names(record, _reserved_names(framework, record.predicts))
        rules.check_members(record, framework)
        for field in record.fields.values():
            field.check_place(record)
        rules.check_arguments(record)
        return cls._finish(record)

    def _finish(cls, record: Declaration) -> DeclarativeMeta:
        """Specialise the fields, make the record, and install the fields as descriptors."""
        fields = {name: field.specialize(record) for name, field in record.fields.items()}
        record = replace(record, fields=MappingProxyType(fields))
        rules.check_needs(record)
        record.settle()
        cls.__declaration__ = record
        for field in fields.values():
            field.settle(record)
        if record.is_joint:
            builds = getattr(cls, "__builds__", None) if record.predicts else None
            type.__setattr__(cls, "__predicts__", builds)
            rules.check_joint(record, vars(cls)["__declared__"])
        for field in fields.values():
            type.__setattr__(cls, field.name, field)
        return cls

    @property
    def __signature__(cls) -> inspect.Signature:
        """What `inspect.signature` shows of the constructor."""
        return collect.signature_of(cls)

    def __setattr__(cls, name: str, value: Any) -> None:
        rules.check_change(cls, name, value)
        super().__setattr__(name, value)

    def __delattr__(cls, name: str) -> None:
        rules.check_change(cls, name, vars(cls).get(name), is_deleted=True)
        super().__delattr__(name)

    def _check_positions(cls, arguments: tuple[Any, ...]) -> None:
        """Refuse values without names, as torch takes them; your own constructor may."""
        own = parameters_of(cls.__init__)  # type: ignore[misc]
        if any(p.kind in (p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in own):
            return
        values = ", ".join(f"{field.name}=..." for field in cls.__declaration__.stored)
        subject, got = f"{cls.__name__}(...)", ", ".join(map(shorten, arguments))
        fix = f"Write {cls.__name__}({values})." if values else ""
        raise DeclarationError(subject, "values by name", got, fix, code="wrong-argument")

    if not TYPE_CHECKING:  # checkers read what a call gives off __init__

        def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
            if arguments:
                cls._check_positions(arguments)
            instance = super().__call__(*arguments, **keywords)
            if "_is_built" in vars(instance):
                instance._check_whole()
                vars(instance)["_is_whole"] = True
            return instance


@cache
def _reserved_names(framework: tuple[type, ...], predicts: bool) -> frozenset[str]:
    """The names that the library's and torch's own classes define, or keep on instances."""
    defined = {name for klass in framework for name in dir(klass)}
    for klass in framework:
        if predicts or not vars(klass).get("__keywords__"):  # of those who take a context
            defined.update(vars(klass).get("__annotations__", ()))
    return frozenset(defined | set(vars(nn.Module())))


def _reduce(cls: DeclarativeMeta) -> Any:
    """A class that a function made is made again by it; any other is found by its name."""
    recipe = cls.__dict__.get("__recipe__")
    return cls.__qualname__ if recipe is None else recipe


copyreg.pickle(DeclarativeMeta, _reduce)

"""Methods in a class body that take values by name: self first, then the names of fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from declarative_dist.errors import ConstraintError, DeclarationError, first_line
from declarative_dist.fields.field import ReadOnly
from declarative_dist.fields.sizes import Blueprint

T = TypeVar("T")


def names_of(method: Callable[..., Any], subject: str) -> tuple[str, ...]:
    """The names of a method's arguments behind self; those with a default are left to it.

    Raises:
        DeclarationError: if it takes no self, or arguments without names.
    """
    parameters = list(inspect.signature(method).parameters.values())
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    takes_self = bool(parameters) and parameters[0].name == "self"
    if not takes_self or not all(p.kind in named for p in parameters[1:]):
        expected = "a method that takes self, then values by name"
        got = f"({', '.join(map(str, parameters))})"
        raise DeclarationError(subject, expected, got, code="not-a-field")
    return tuple(p.name for p in parameters[1:] if p.default is p.empty)


def call_method(method: Callable[..., T], arguments: Mapping[str, Any], subject: str) -> T:
    """What a method of a class body makes of values.

    Args:
        method: the method, bound to its instance.
        arguments: the values by name.
        subject: whom an error is about.

    Raises:
        ConstraintError: in place of torch's error about sizes, with the shapes that came.
    """
    try:
        return method(**arguments)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        if not is_about_sizes(error):
            raise
        shapes = {n: tuple(v.shape) for n, v in arguments.items() if isinstance(v, Tensor)}
        raise ConstraintError(
            subject,
            "a method that takes values with copies, contexts or draws in front of their own "
            "dimensions",
            f"{type(error).__name__} for {shapes}: {first_line(error)}",
            "Index from the right, as in mu[..., None], and sum, sort and index over the "
            "dimensions of one event only, as in .sum(-1).",
            code="wrong-shape",
        ) from error


def is_about_sizes(error: Exception) -> bool:
    """Whether torch complains about shapes, such as a loop over a tensor without dimensions.

    Errors of linear algebra, of compilers and of memory have types of their own, and say more.
    """
    if type(error) in (TypeError, ValueError):
        return any(words in str(error) for words in ("0-d tensor", "value per channel"))
    return type(error) in (RuntimeError, IndexError)


class MethodField(ReadOnly):
    """A field that a method says: an instance holds nothing of it.

    Args:
        function: the method.
        decorator: what stands above it, for errors.
    """

    takes_value = False

    def __init__(self, function: Callable[..., Any], decorator: str) -> None:
        self.function = function
        self.names = names_of(function, f"@{decorator} {function.__name__}")
        self.decorator = decorator
        self.__doc__ = self.doc = function.__doc__

    @property
    def needs(self) -> tuple[str, ...]:
        return self.names

    def check_override(self, value: object, subject: str) -> None:
        if inspect.isfunction(value):
            got, fix = "a method that is no field", "Write its decorator above it."
            raise DeclarationError(subject, repr(self), got, fix, code="not-a-field")

    def bind(self, module: nn.Module, blueprint: Blueprint, values: Mapping[str, Any]) -> None:
        if self.name in blueprint.given:
            self.refuse(module)

    def reset(self, module: nn.Module, values: Mapping[str, Any]) -> None:
        """There is nothing to go back to."""

    def __repr__(self) -> str:
        return f"{self.decorator}({', '.join(self.needs)})"

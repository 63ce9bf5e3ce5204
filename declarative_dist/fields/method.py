"""Methods in a class body that take values by name: self first, then the names of fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from declarative_dist.errors import DeclarationError


def names_of(method: Callable[..., Any], subject: str) -> tuple[str, ...]:
    """The names of a method's arguments behind self; those with a default are left to it.

    Raises:
        DeclarationError: if it takes no self, or arguments without names.

    Example:
        >>> from declarative_dist.fields.method import names_of
        >>> def rate(self, concentration, location): ...
        >>> names_of(rate, "rate")
        ('concentration', 'location')
    """
    parameters = list(inspect.signature(method).parameters.values())
    unnamed = (
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
        inspect.Parameter.POSITIONAL_ONLY,
    )
    if (
        not parameters
        or parameters[0].name != "self"
        or any(p.kind in unnamed for p in parameters[1:])
    ):
        raise DeclarationError(
            subject,
            "a method that takes self, then values by name",
            f"({', '.join(map(str, parameters))})",
        )
    return tuple(p.name for p in parameters[1:] if p.default is p.empty)

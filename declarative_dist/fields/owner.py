"""The class that fields are declared in, as far as its fields need to know it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from typing_extensions import Never

from declarative_dist.errors import Code, DeclarationError
from declarative_dist.fields.kinds import predicted_kind
from declarative_dist.plain.arguments import Argument


@dataclass(frozen=True)
class Owner:
    """A class body that is being read.

    Args:
        kind: the class.
        base: the distribution or transform class that it declares, a method, or None.
        arguments: what a class base takes, by name.
        fields: all fields by name, in the order of declaration.
    """

    kind: Any
    base: Any
    arguments: Mapping[str, Argument]
    fields: Mapping[str, Any]

    @cached_property
    def predicts(self) -> bool:
        """Whether instances predict from a context; a joint does if one of its fields does."""
        if self.is_joint:
            fields = self.fields.values()
            return any(field.needs_context for field in fields)
        return predicted_kind(self.kind) is not None

    @property
    def is_joint(self) -> bool:
        """Whether it is made of sites."""
        return hasattr(self.kind, "__joint__")

    @cached_property
    def used_names(self) -> frozenset[str]:
        """The names that the base or a field uses."""
        needed = (field.declared_needs for field in self.fields.values())
        return frozenset(self.arguments).union(*needed)

    def needs_of(self, name: str) -> set[str]:
        """The names that a field is computed from, and these in turn, as the class body has it."""
        needed: set[str] = set()
        waiting = [name]
        while waiting:
            field = self.fields.get(waiting.pop())
            new = set() if field is None else set(field.declared_needs) - needed
            needed |= new
            waiting += new
        return needed

    def subject(self, name: str) -> str:
        """What an error about a field names: `Class.field`."""
        return f"{self.kind.__name__}.{name}"

    def error(
        self, name: str, expected: str, got: str, fix: str = "", *, code: Code | None = None
    ) -> DeclarationError:
        """An error about what the class body has under a name."""
        return DeclarationError(self.subject(name), expected, got, fix, code=code)

    def refuse_name(self, name: str, user: str) -> Never:
        """Say that a name is not free, and what it is the name of."""
        got, fix = f"{name!r}, {user}", "Choose another name."
        raise self.error(name, "a name that is free", got, fix, code="name-taken")

    def require_conditional(self, name: str) -> None:
        """Refuse a field that comes from a context, where there is none."""
        if not self.predicts:
            kind, fix = self.kind.__name__, f"Write class {self.kind.__name__}(Conditional)."
            expected = "a Conditional around what comes from a context"
            raise self.error(name, expected, kind, fix, code="misplaced-field")

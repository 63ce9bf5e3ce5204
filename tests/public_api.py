"""What the package promises to keep: `make api` writes it into `tests/public_api.txt`."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import declarative_dist
import declarative_dist.integrations
from declarative_dist.explain import meanings
from declarative_dist.fields.field import Field
from tests.cases import CASES

STORED = Path(__file__).with_name("public_api.txt")
MODULES = [
    "declarative_dist",
    "declarative_dist.errors",
    "declarative_dist.fitting",
    "declarative_dist.objectives",
    "declarative_dist.testing",
    "declarative_dist.wrappers",
    *(
        f"declarative_dist.integrations.{found.name}"
        for found in pkgutil.iter_modules(declarative_dist.integrations.__path__)
    ),
]
NAMES = {"declarative_dist.errors": ["ExplainedError"]}
"""Modules of which only some names are meant for users."""


def names_of(module: ModuleType) -> list[str]:
    """What a module exports: its `__all__`, or the public names that it defines itself."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    return NAMES.get(module.__name__) or sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    )


def signature_of(value: Any) -> str:
    """How it is called, as it is written."""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(value)))


def told(name: str, member: Any) -> str:
    """One line about a member of a class."""
    if isinstance(member, property):
        return f"property {name}"
    if isinstance(member, (classmethod, staticmethod)):
        return f"{type(member).__name__} {name}{signature_of(member.__func__)}"
    return f"def {name}{signature_of(member)}" if inspect.isfunction(member) else name


def members_of(cls: type) -> list[str]:
    """The public members that the package itself gives a class, also through its bases."""
    if issubclass(cls, Field):
        return []  # what users do with a field is write it
    ours = [kind for kind in cls.__mro__ if kind.__module__.startswith("declarative_dist")]
    members: dict[str, str] = {}
    for kind in reversed(ours):
        members |= {n: told(n, vars(kind)[n]) for n in vars(kind) if not n.startswith("_")}
    return [members[name] for name in sorted(members)]


def lines_about(name: str, value: Any, listed: set[Any]) -> Iterator[str]:
    """A line for a function or a value; for a class others for what its listed bases lack."""
    if not isinstance(value, type):
        yield f"def {name}{signature_of(value)}" if callable(value) else name
        return
    bases = ", ".join(base.__name__ for base in value.__bases__)
    yield f"class {name}({bases})"
    yield f"    {name}{signature_of(value)}"
    known = [set(members_of(base)) for base in value.__mro__[1:] if base in listed]
    for line in members_of(value):
        if not any(line in lines for lines in known):
            yield f"    {line}"


def lines() -> Iterator[str]:
    """The whole list, module by module."""
    modules = [importlib.import_module(name) for name in MODULES if find_spec(name)]
    listed = {getattr(module, name) for module in modules for name in names_of(module)}
    for module in modules:
        yield f"# {module.__name__}"
        for name in names_of(module):
            yield from lines_about(name, getattr(module, name), listed)
        yield ""
    yield "# codes of errors"
    yield from meanings()
    yield ""
    yield "# names in saved states, of the cases that the promises are tested on"
    for name, make in CASES.items():
        yield f"{name}: {', '.join(make().state_dict())}"


def difference(before: str, now: str) -> str:
    """What disappeared (-), what came (+), and around it what stayed."""
    both = (text.splitlines() for text in (before, now))
    return "\n".join(difflib.unified_diff(*both, STORED.name, "the package", lineterm=""))


def current() -> str:
    """The list as it would be written now."""
    return "\n".join(lines()) + "\n"


if __name__ == "__main__":
    STORED.write_text(current(), encoding="utf-8")

"""Every public name has a place in the reference of the documentation."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import declarative_dist

PAGES = Path(__file__).parent.parent / "docs" / "api"
PACKAGE = Path(declarative_dist.__file__).parent
MODULES = [
    ".".join(("declarative_dist", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in (*PACKAGE.rglob("__init__.py"), *PACKAGE.glob("integrations/[!_]*.py"))
    if path.parent.name == "integrations" or "__all__" in path.read_text()
]


def documented() -> set[str]:
    """The full names that the pages of the reference ask for."""
    found = set()
    for page in PAGES.glob("*.md"):
        module = ""
        for directive, name in re.findall(r"^\.\. (\w+):: (\S+)", page.read_text(), re.MULTILINE):
            if directive == "currentmodule":
                module = name
            else:
                found.add(name if name.startswith("declarative_dist.") else f"{module}.{name}")
    return found


def public(module: str) -> set[str]:
    """What a module lists, or else what it defines, without a leading underscore."""
    of = importlib.import_module(module.removesuffix(".__init__"))
    defined = (name for name, member in vars(of).items() if _home(member) == of.__name__)
    names = getattr(of, "__all__", defined)
    known = () if of is declarative_dist else declarative_dist.__all__
    return {
        f"{of.__name__}.{name}" for name in names if not name.startswith("_") and name not in known
    }


def _home(member: object) -> str | None:
    return getattr(member, "__module__", None)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module: str) -> None:
    assert public(module) - documented() == set()


def test_a_missing_name_is_noticed() -> None:
    assert len(MODULES) >= 6
    assert "declarative_dist.objectives.NegativeELBO" in public(
        "declarative_dist.objectives.__init__"
    )
    assert "declarative_dist.errors.shorten" not in documented()

"""Examples in docstrings run as they stand: each imports what it uses."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import declarative_dist

MODULES = [
    name
    for _, name, is_package in pkgutil.walk_packages(
        declarative_dist.__path__, "declarative_dist."
    )
    if not is_package
]


def examples_of(name: str) -> list[doctest.DocTest]:
    module = importlib.import_module(name)
    return [test for test in doctest.DocTestFinder().find(module, name) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_import_what_they_use(name: str) -> None:
    for test in examples_of(name):
        test.globs.clear()
        test.globs["__name__"] = "pasted"
        failed, _ = doctest.DocTestRunner().run(test)
        assert failed == 0, test.name


@pytest.mark.parametrize("name", declarative_dist.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    member = getattr(declarative_dist, name)
    assert (member.__doc__ or "").strip()
    if not issubclass(member if isinstance(member, type) else object, Exception):
        assert ">>> " in member.__doc__, f"{name} has no example"

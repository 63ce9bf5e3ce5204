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


def test_every_public_name_has_an_example() -> None:
    for name in declarative_dist.__all__:
        member = getattr(declarative_dist, name)
        is_error = isinstance(member, type) and issubclass(member, Exception)
        assert is_error or ">>> " in (member.__doc__ or ""), name

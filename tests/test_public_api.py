"""No public name or signature disappears or changes unnoticed."""

from __future__ import annotations

import pytest

from tests.public_api import STORED, current, difference, lines_about


def test_public_names_and_signatures_are_those_that_are_stored() -> None:
    changes = difference(STORED.read_text(encoding="utf-8"), current())
    if changes:
        pytest.fail(
            f"What users see has changed:\n\n{changes}\n\nIf that is meant: run `make api`, and "
            "say it in CHANGELOG.md.",
            pytrace=False,
        )


class Shape:
    """Stands for a public class: members of its own package, others, and a private one."""

    size = 3

    def grow(self, by: int = 1) -> Shape:
        raise NotImplementedError

    @property
    def area(self) -> float:
        raise NotImplementedError

    @classmethod
    def of(cls, text: str) -> Shape:
        raise NotImplementedError

    def _hidden(self) -> None: ...


class Square(Shape):
    def __init__(self, side: float) -> None: ...

    def grow(self, by: float = 1.0) -> Square:
        raise NotImplementedError


Shape.__module__ = Square.__module__ = "declarative_dist.shapes"


def test_a_class_is_told_by_its_members() -> None:
    assert list(lines_about("Shape", Shape, set())) == [
        "class Shape(object)",
        "    Shape()",
        "    property area",
        "    def grow(self, by: int = 1) -> Shape",
        "    classmethod of(cls, text: str) -> Shape",
        "    size",
    ]


def test_what_a_listed_base_says_is_not_repeated() -> None:
    assert list(lines_about("Square", Square, {Shape, Square})) == [
        "class Square(Shape)",
        "    Square(side: float) -> None",
        "    def grow(self, by: float = 1.0) -> Square",
    ]
    assert len(list(lines_about("Square", Square, {Square}))) == 6


def test_a_difference_names_what_went_and_what_came() -> None:
    before = "class A(object)\n    def f(self)\ndef g(x)\ndef h()\n"
    now = "class A(object)\n    def f(self, y)\ndef h()\n"
    changes = difference(before, now).splitlines()
    assert [line for line in changes if line[0] in "+-"] == [
        "--- public_api.txt",
        "+++ the package",
        "-    def f(self)",
        "-def g(x)",
        "+    def f(self, y)",
    ]
    assert difference(before, before) == ""

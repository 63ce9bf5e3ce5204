"""Docstrings as they are written here, with `code` between single backticks, for Sphinx."""

from __future__ import annotations

import inspect
import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature

import declarative_dist
from declarative_dist.declaration.metaclass import DeclarativeMeta

SPAN = re.compile(r"(?<![`:\w])`([^`]+)`(\w?)")


def _as_markup(span: re.Match[str]) -> str:
    """A link where the code is a public name, else code; either may touch a letter."""
    code = " ".join(span[1].split())
    markup = (
        f":py:obj:`~declarative_dist.{code}`"
        if code in declarative_dist.__all__
        else f"``{code}``"
    )
    return markup + (rf"\ {span[2]}" if span[2] else "")


def _rewrite(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Rewrite the prose of a docstring in place, and leave its doctests."""
    paragraphs = re.split(r"(\n\s*\n)", "\n".join(lines))
    text = "".join(
        each if each.lstrip().startswith((">>>", "...")) else SPAN.sub(_as_markup, each)
        for each in paragraphs
    )
    lines[:] = text.split("\n")


def _signed(
    app: Sphinx, what: str, name: str, obj: Any, options: object, signature: str, returns: str
) -> tuple[str, str] | None:
    """The constructor's signature, where Sphinx would show how the metaclass is called."""
    if what != "class" or not isinstance(obj, DeclarativeMeta):
        return None
    _, *parameters = inspect.signature(obj.__init__).parameters.values()
    return stringify_signature(inspect.Signature(parameters), unqualified_typehints=True), ""


def _drop_ways_back(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Take the links from sources to the reference out: Sphinx gets re-exported names wrong."""
    if page.startswith("_modules/"):
        context["body"] = re.sub(r'<a class="viewcode-back".*?</a>', "", context["body"])


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of it, after the sections were told apart."""
    app.connect("autodoc-process-signature", _signed)
    app.connect("html-page-context", _drop_ways_back)
    app.connect("autodoc-process-docstring", _rewrite, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

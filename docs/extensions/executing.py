"""The Python blocks of a page, run from top to bottom in one namespace.

What follows the word `python` of a fence says what a block does beside running: with `raises
NAME` it ends in an error of that class or code, with `prints` its output is shown below, and with
`draws DESCRIPTION` the current figure of matplotlib is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

FENCE = re.compile(r"^```python\b(?P<info>.*)\n(?P<code>(?:.*\n)*?)^```$", re.MULTILINE)
ALONE = "howto/integrations"
"""A page that imports libraries which change torch: a test runs it in a process of its own."""
MARK = re.compile(r"(|prints|raises [\w-]+|draws .+)")


@dataclass(frozen=True)
class Block:
    """One fenced block: what follows the word `python`, its code, and the line above it."""

    info: str
    code: str
    line: int

    def __post_init__(self) -> None:
        if not MARK.fullmatch(self.info):
            raise ValueError(f"line {self.line}: 'python {self.info}' means nothing")

    def after(self, mark: str) -> str | None:
        """What is said after a mark, or None where the block does not have it."""
        name, _, said = self.info.partition(" ")
        return said if name == mark else None


def blocks_of(text: str) -> Iterator[Block]:
    """The Python blocks of a Markdown text, in order."""
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start("code"))
        yield Block(found["info"].strip(), found["code"], line)


class Page:
    """A page as a module of its own, so that the classes it defines can be pickled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.module = ModuleType(f"page_{path.stem}")
        sys.modules[self.module.__name__] = self.module

    def run(self, block: Block) -> Exception | None:
        """Run one block, and return the error it was to raise.

        A traceback points at the line of the page.

        Raises:
            AssertionError: if a block that was to raise an error did not, or raised another.
        """
        code = compile("\n" * block.line + block.code, str(self.path), "exec")
        expected = block.after("raises")
        if expected is None:
            exec(code, vars(self.module))  # noqa: S102 (the pages are ours)
            return None
        try:
            exec(code, vars(self.module))  # noqa: S102
        except Exception as error:
            if expected in (type(error).__name__, getattr(error, "code", None)):
                return error
            raise
        raise AssertionError(f"{self.path}, line {block.line}: no {expected} was raised")

"""The Python blocks of a page, run from top to bottom in one namespace."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

FENCE = re.compile(r"^```python\b(?P<info>.*)\n(?P<code>(?:.*\n)*?)^```$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block: what follows the word `python`, its code, and where it starts."""

    info: str
    code: str
    line: int


def blocks_of(text: str) -> Iterator[Block]:
    """The Python blocks of a Markdown text, in order."""
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start("code"))
        yield Block(found["info"].strip(), found["code"], line)


class Page:
    """A page as a module of its own: classes that it defines can be pickled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.module = ModuleType(f"page_{path.stem}")
        sys.modules[self.module.__name__] = self.module

    def run(self, block: Block) -> None:
        """Run one block; a traceback points at the line of the page."""
        code = compile("\n" * block.line + block.code, str(self.path), "exec")
        exec(code, vars(self.module))  # noqa: S102 (the pages are ours)

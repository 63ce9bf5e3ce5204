"""What the blocks of the README print and draw; `python -m tests.readme` renews it."""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from docs.extensions.executing import FENCE, Block, Page

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "_static" / "gamma.png"
SHOWN = re.compile(FENCE.pattern + r"(?:\n\n```text\n(?P<shown>(?:.*\n)*?)^```$)?", re.MULTILINE)


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-\d+)?")


def assert_alike(stored: str, printed: str) -> None:
    """Check that two texts are the same word for word; numbers may differ as machines do."""
    assert NUMBER.sub("0", stored).split() == NUMBER.sub("0", printed).split()
    for one, other in zip(NUMBER.findall(stored), NUMBER.findall(printed), strict=True):
        assert math.isclose(float(one), float(other), rel_tol=0.3, abs_tol=0.3), (one, other)


def outputs() -> Iterator[tuple[re.Match[str], str]]:
    """Each Python block of the README with what it prints, while they run from top to bottom."""
    page = Page(README)
    for found in SHOWN.finditer(README.read_text()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            page.run(Block(found["info"].strip(), found["code"], 0))
        yield found, printed.getvalue()


def _renew() -> None:
    """Write what the blocks print and draw today."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    text = README.read_text()
    for found, printed in outputs():
        if pyplot.get_fignums():
            pyplot.savefig(PICTURE, bbox_inches="tight", dpi=120)
            pyplot.close("all")
        if found["shown"] is not None:
            lines = (textwrap.fill(line, 100) for line in printed.splitlines())
            renewed = found[0][: found.start("shown") - found.start()]
            text = text.replace(found[0], f"{renewed}{chr(10).join(lines)}\n```")
    README.write_text(text)


if __name__ == "__main__":
    _renew()

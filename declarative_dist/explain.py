"""The page of a kind of error: `python -m declarative_dist.explain no-base` prints it.

The package does not import this file, since Python warns of a module that runs as a program and
was imported before.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Sequence
from importlib import resources

from declarative_dist.errors import Code, did_you_mean

PAGES = resources.files("declarative_dist") / "explanations"
"""A file for each code, with what it means in its third line."""


def page(code: Code) -> str:
    """What a kind of error is about, an example of it, the reason, and a way out, in Markdown.

    Raises:
        FileNotFoundError: if there is no such code.

    Example:
        >>> from declarative_dist.explain import page
        >>> print(page("bad-bounds").splitlines()[2])
        Bounds that leave no number between them, or are no numbers.
    """
    return (PAGES / f"{code}.md").read_text(encoding="utf-8")


def meanings() -> dict[Code, str]:
    """For each code, what was done wrong."""
    codes = sorted(file.name.removesuffix(".md") for file in PAGES.iterdir())
    return {code: page(code).splitlines()[2] for code in codes}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page of a code; without one, all codes.

    Returns:
        The status of the program: 0, or 2 for a code that does not exist.

    Example:
        >>> from declarative_dist.explain import main
        >>> main(["no-bases"])  # which goes to stderr
        2
    """
    parser = argparse.ArgumentParser("python -m declarative_dist.explain", description=__doc__)
    parser.add_argument("code", nargs="?", help="the last word of an error's message")
    code, known = parser.parse_args(arguments).code, meanings()
    if code in known:
        text = re.sub("```python raises.*", "This goes wrong:\n\n```python", page(code))
        print(text)  # noqa: T201 (what it is for)
        return 0
    if code is not None:
        print(f"There is no {code!r}. {did_you_mean(code, known)}", file=sys.stderr)  # noqa: T201
        return 2
    for each, meaning in known.items():
        print(textwrap.fill(f"{each:22}{meaning}", 80, subsequent_indent=" " * 22))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())

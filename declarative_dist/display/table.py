"""Rows as a table: of text in 80 columns, and of HTML."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape

from declarative_dist.display.posterior import PosteriorRow
from declarative_dist.display.rows import Row

WIDTH = 80
"""How many letters a line of text may have."""

MOST = 8
"""How many rows there are whose names differ in numbers only; others are folded."""

_DEEPEST = 6
_CELL = (
    "vertical-align:top;white-space:pre-wrap;padding:.2em .8em .2em 0;"
    "border-bottom:1px solid rgba(128,128,128,.4)"
)
_NUMBER = re.compile(r"-?(\d[\d.e+-]*|inf|nan)")


def as_text(title: str, rows: Sequence[Row | PosteriorRow]) -> str:
    """The title, the table, and the hints."""
    if not rows:
        return _wrap(f"{title}, no fields")
    columns = [_align(column) for column in zip(*_lines_of(rows), strict=True)]
    widths = _fit([max(len(p) for cell in each for p in cell.split("\n")) for each in columns])
    texts = []
    for line in zip(*columns, strict=True):
        cells = [_wrap_cell(cell, width) for cell, width in zip(line, widths, strict=True)]
        for parts in itertools.zip_longest(*cells, fillvalue=""):
            placed = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
            texts.append("  ".join(placed).rstrip())
    rule = "-" * max(map(len, texts))
    hints = [_wrap(row.hint) for row in rows if row.hint]
    below = [rule, *hints] if hints else []
    return "\n".join([_wrap(title), rule, texts[0], rule, *texts[1:], *below])


def as_html(title: str, rows: Sequence[Row | PosteriorRow]) -> str:
    """The same for a notebook, in the colours of the page, light or dark."""
    lines = _lines_of(rows) if rows else [["name"]]
    are_right = [_are_numbers(column) for column in zip(*lines, strict=True)]
    body = ""
    for at, line in enumerate(lines):
        cells = ""
        for heading, is_right, cell in zip(lines[0], are_right, line, strict=True):
            tag = "td" if at and heading != "name" else "th"
            side = "right" if (_is_number(cell) if at else is_right) else "left"
            style = f"{_CELL};text-align:{side}"
            if at and heading == "note" and cell:
                style += ";background:rgba(255,140,0,.3)"
            cells += f'<{tag} style="{style}">{escape(cell)}</{tag}>'
        body += f"<tr>{cells}</tr>"
    hints = "".join(f"<li>{escape(row.hint)}</li>" for row in rows if row.hint)
    plain = "color:inherit;background:transparent"
    return (
        f'<div style="{plain};overflow-x:auto"><table style="border-collapse:collapse;{plain}">'
        f'<caption style="text-align:left;color:inherit">{escape(title)}</caption>'
        f'{body}</table><ul style="margin:.4em 0">{hints}</ul></div>'
    )


def _lines_of(rows: Sequence[Row | PosteriorRow]) -> list[Sequence[str]]:
    """The headings and what stands under them, but for columns that would be empty."""
    cells = [row.cells for row in rows]
    headings = [name for name in cells[0] if name == "name" or any(each[name] for each in cells)]
    lines: list[Sequence[str]] = [headings]
    counts: Counter[str] = Counter()
    folded = 0
    labels = _labels([row.name for row in rows])
    for row, label, each in zip(rows, labels, cells, strict=True):
        kind = re.sub(r"\d+", "#", row.name)
        counts[kind] += 1
        folded = folded + 1 if counts[kind] > MOST and not row.hint else 0
        if folded > 1:
            lines.pop()
        line = [f"... {folded} more"] if folded else [label, *(each[n] for n in headings[1:])]
        lines.append(line + [""] * (len(headings) - len(line)))
    return lines


def _labels(names: Sequence[str]) -> Iterator[str]:
    """Names without the prefixes of their parts, indented below them."""
    above: list[str] = []
    for name in names:
        while above and not name.startswith(f"{above[-1]}."):
            above.pop()
        yield "  " * min(len(above), _DEEPEST) + (name[len(above[-1]) + 1 :] if above else name)
        above.append(name)


def _fit(widths: list[int]) -> list[int]:
    """Make the widest columns narrower until a line has room for all; names keep more."""
    room = WIDTH - 2 * (len(widths) - 1)
    while sum(widths) > room:
        widest = max(range(len(widths)), key=lambda at: widths[at] - (0 if at else 12))
        widths[widest] -= 1
    return widths


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_on_hyphens=False)


def _wrap_cell(cell: str, width: int) -> list[str]:
    """A cell in lines of a width."""
    lines = []
    for line in cell.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        found = textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False)
        lines += found or [""]
    return lines


def _align(column: Sequence[str]) -> list[str]:
    """Numbers below each other at their right; with the heading, where there is nothing else."""
    is_right = [_are_numbers(column), *map(_is_number, column[1:])]
    width = max((len(c) for c, right in zip(column, is_right, strict=True) if right), default=0)
    return [c.rjust(width) if right else c for c, right in zip(column, is_right, strict=True)]


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell) is not None


def _are_numbers(column: Sequence[str]) -> bool:
    """Whether all that stands under a heading are numbers."""
    return all(_is_number(cell) for cell in column[1:] if cell)

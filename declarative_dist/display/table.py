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

_MOST_LINES = 6
_DEEPEST = 6
_ROOM_FOR_NAMES = 12
_NUMBER = re.compile(r"-?(\d[\d.e+-]*|inf|nan)")

Lines = list[list[str]]


def as_text(title: str, rows: Sequence[Row | PosteriorRow]) -> str:
    """The title, the table, and the hints."""
    if not rows:
        return _wrap(f"{title}, no fields")
    lines = _lines_of(rows)
    columns = [list(each) for each in zip(*lines, strict=True)]
    for column in columns:
        column[:] = _align(column)
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
    columns = list(zip(*lines, strict=True))
    edge = "padding:.2em .8em .2em 0;border-bottom:1px solid rgba(128,128,128,.4)"
    style = f"vertical-align:top;{edge};text-align:"
    head = "".join(
        f'<th scope="col" style="{style}{_side(_are_numbers(each))}">{escape(each[0])}</th>'
        for each in columns
    )
    body = ""
    for name, *cells in lines[1:]:
        depth = (len(name) - len(name.lstrip())) / 2
        inner = f"left;padding-left:{depth}em;font-weight:600"
        row = f'<th scope="row" style="{style}{inner}">{escape(name.lstrip())}</th>'
        for heading, cell in zip(lines[0][1:], cells, strict=True):
            mark = (
                ";white-space:nowrap;background:rgba(255,140,0,.3)"
                if heading == "note" and cell
                else ""
            )
            text = escape(cell).replace("\n", "<br/>")
            row += f'<td style="{style}{_side(_is_number(cell))}{mark}">{text}</td>'
        body += f"<tr>{row}</tr>"
    hints = "".join(f"<li>{escape(row.hint)}</li>" for row in rows if row.hint)
    below = f'<ul style="margin:.4em 0">{hints}</ul>' if hints else ""
    return (
        '<div style="color:inherit;background:transparent;overflow-x:auto">'
        f'<table style="border-collapse:collapse;color:inherit;background:transparent">'
        f'<caption style="text-align:left;color:inherit">{escape(title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}</div>"
    )


def _lines_of(rows: Sequence[Row | PosteriorRow]) -> Lines:
    """The headings and what stands under them, but for columns that would be empty."""
    cells = [row.cells for row in rows]
    headings = [name for name in cells[0] if name == "name" or any(each[name] for each in cells)]
    whole = [
        [label, *(each[heading] for heading in headings[1:])]
        for label, each in zip(_labels([row.name for row in rows]), cells, strict=True)
    ]
    counts: Counter[str] = Counter()
    is_folded = []
    for row in rows:
        kind = re.sub(r"\d+", "#", row.name)
        counts[kind] += 1
        is_folded.append(counts[kind] > MOST and not row.hint)
    lines = [headings]
    for folded, group in itertools.groupby(
        zip(is_folded, whole, strict=True), lambda each: each[0]
    ):
        found = [line for _, line in group]
        lines += [[f"... {len(found)} more", *[""] * (len(headings) - 1)]] if folded else found
    return lines


def _labels(names: Sequence[str]) -> Iterator[str]:
    """Names without those of the parts they are in, indented below them."""
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
        widest = max(
            range(len(widths)), key=lambda at: widths[at] - (0 if at else _ROOM_FOR_NAMES)
        )
        widths[widest] -= 1
    return widths


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_on_hyphens=False)


def _wrap_cell(cell: str, width: int) -> list[str]:
    """A cell in lines of a width, of many the first."""
    lines = []
    for line in cell.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        found = textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False)
        lines += found or [""]
    return lines if len(lines) <= _MOST_LINES else [*lines[: _MOST_LINES - 1], "..."]


def _align(column: Sequence[str]) -> list[str]:
    """Numbers below each other at their right; with the heading, where there is nothing else."""
    is_right = [_is_number(cell) for cell in column]
    is_right[0] = _are_numbers(column)
    width = max((len(c) for c, right in zip(column, is_right, strict=True) if right), default=0)
    return [c.rjust(width) if right else c for c, right in zip(column, is_right, strict=True)]


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell) is not None


def _are_numbers(column: Sequence[str]) -> bool:
    """Whether all that stands under a heading are numbers."""
    return all(_is_number(cell) for cell in column[1:] if cell)


def _side(is_number: bool) -> str:
    return "right" if is_number else "left"

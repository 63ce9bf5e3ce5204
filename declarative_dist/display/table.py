"""Rows as a table: of text, and of HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from declarative_dist.display.posterior import PosteriorRow
from declarative_dist.display.rows import MARK, Row

WIDEST = 60
"""How many letters a column of text may have."""


def as_text(title: str, rows: Sequence[Row | PosteriorRow]) -> str:
    """The title, the table, and the hints."""
    if not rows:
        return f"{title}, no fields"
    lines = [
        [cell if len(cell) <= WIDEST else f"{cell[: WIDEST - 3]}..." for cell in line]
        for line in _lines_of(rows)
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    rule = "-" * max(map(len, texts))
    hints = [row.hint for row in rows if row.hint]
    return "\n".join([title, rule, texts[0], rule, *texts[1:], rule, *hints])


def as_html(title: str, rows: Sequence[Row | PosteriorRow]) -> str:
    """The same for a notebook, in the colours of the page, light or dark."""
    headings, *lines = _lines_of(rows) if rows else [["name"]]
    edge = "border-bottom:1px solid rgba(128,128,128,.4)"
    style = f"text-align:left;padding:.2em .8em .2em 0;vertical-align:top;{edge}"
    head = "".join(f'<th scope="col" style="{style}">{escape(name)}</th>' for name in headings)
    body = ""
    for name, *cells in lines:
        row = f'<th scope="row" style="{style};font-weight:600">{escape(name)}</th>'
        for cell in cells:
            weight = ";font-weight:600" if cell.startswith(MARK) else ""
            row += f'<td style="{style}{weight}">{escape(cell)}</td>'
        body += f"<tr>{row}</tr>"
    hints = "".join(f"<li>{escape(row.hint)}</li>" for row in rows if row.hint)
    below = f'<ul style="margin:.4em 0">{hints}</ul>' if hints else ""
    return (
        '<div style="color:inherit;background:transparent;overflow-x:auto">'
        f'<table style="border-collapse:collapse;color:inherit;background:transparent">'
        f'<caption style="text-align:left;color:inherit">{escape(title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}</div>"
    )


def _lines_of(rows: Sequence[Row | PosteriorRow]) -> list[list[str]]:
    """The headings and, row by row, what stands under them; columns without anything left out."""
    known = [row.cells for row in rows]
    headings = [
        heading
        for heading in known[0]
        if heading == "name" or any(cells[heading] for cells in known)
    ]
    return [headings, *([cells[heading] for heading in headings] for cells in known)]

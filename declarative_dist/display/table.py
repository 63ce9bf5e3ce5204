"""Rows as a table: of text, and of HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

from declarative_dist.display.rows import Row
from declarative_dist.words import format_number

_COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "name": lambda row: row.name,
    "value": lambda row: row.shown,
    "raw name": lambda row: row.raw_name,
    "constraint": lambda row: row.constraint,
    "prior": lambda row: row.prior,
    "shape": lambda row: "" if row.shape is None else str(row.shape),
    "trainable": lambda row: row.trainable,
    "gradient": lambda row: "" if row.gradient is None else format_number(row.gradient),
    "saturated": lambda row: _mark(row),
}
"""What stands under each heading."""

MARK = "YES"
"""What stands where numbers are saturated."""

WIDEST = 60
"""How many letters a column of text may have."""


def _cells_of(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The headings and, row by row, what stands under them; columns without anything left out."""
    columns = {name: [of(row) for row in rows] for name, of in _COLUMNS.items()}
    filled = {name: cells for name, cells in columns.items() if any(cells) or name == "name"}
    return list(filled), [list(cells) for cells in zip(*filled.values(), strict=True)]


def as_text(title: str, rows: Sequence[Row]) -> str:
    """The title, the table, and the hints."""
    if not rows:
        return f"{title}, no fields"
    headings, cells = _cells_of(rows)
    lines = [
        headings,
        *(
            [cell if len(cell) <= WIDEST else f"{cell[: WIDEST - 3]}..." for cell in line]
            for line in cells
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    rule = "-" * max(map(len, texts))
    return "\n".join([title, rule, texts[0], rule, *texts[1:], rule, *_hints_of(rows)])


def as_html(title: str, rows: Sequence[Row]) -> str:
    """The same for a notebook, in the colours of the page, light or dark."""
    headings, cells = _cells_of(rows)
    edge = "border-bottom:1px solid rgba(128,128,128,.4)"
    style = f"text-align:left;padding:.2em .8em .2em 0;vertical-align:top;{edge}"
    head = "".join(f'<th scope="col" style="{style}">{escape(name)}</th>' for name in headings)
    body = "".join(
        f"<tr>{''.join(_cell(cell, style, at == 0) for at, cell in enumerate(line))}</tr>"
        for line in cells
    )
    hints = "".join(f"<li>{escape(hint)}</li>" for hint in _hints_of(rows))
    below = f'<ul style="margin:.4em 0">{hints}</ul>' if hints else ""
    return (
        '<div style="color:inherit;background:transparent;overflow-x:auto">'
        f'<table style="border-collapse:collapse;color:inherit;background:transparent">'
        f'<caption style="text-align:left;color:inherit">{escape(title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}</div>"
    )


def _hints_of(rows: Sequence[Row]) -> list[str]:
    """The hints below the table."""
    return [row.hint for row in rows if row.hint]


def _cell(text: str, style: str, is_name: bool) -> str:
    tag, scope = ("th", ' scope="row"') if is_name else ("td", "")
    weight = ";font-weight:600" if is_name or text.startswith(MARK) else ""
    return f'<{tag}{scope} style="{style}{weight}">{escape(text)}</{tag}>'


def _mark(row: Row) -> str:
    if row.saturated is None:
        return "not finite" if row.hint else ""
    if not row.saturated:
        return "no"
    return MARK if row.saturated == row.parameters else f"{MARK}, {row.saturated}"

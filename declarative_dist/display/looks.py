"""How pictures look: colours and lines that you can tell apart in print, colour-blind or not."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from declarative_dist.errors import DeclarationError, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Of Okabe and Ito, "Color universal design", 2008; without yellow, too faint on white paper."""

LONE = COLORS[-1]
"""The colour of one curve over many."""

STYLES = ("-", "--", "-.", ":")

WIDTH = 1.4

MOST = 8
"""How many curves one picture has."""

PANELS = 12
"""How many pictures there are of the entries of one event."""


def looks() -> Iterator[tuple[str, str]]:
    """Pairs of a colour and a line style: neighbours differ in both.

    Example:
        >>> import itertools
        >>> from declarative_dist.display.looks import looks
        >>> list(itertools.islice(looks(), 2))
        [('#0072B2', '-'), ('#D55E00', '--')]
    """
    for turn in itertools.count():
        for at, color in enumerate(COLORS):
            yield color, STYLES[(at + turn) % len(STYLES)]


def name_entry(index: tuple[int, ...]) -> str:
    """An index as it stands behind a name; "" where there is only one number.

    Example:
        >>> from declarative_dist.display.looks import name_entry
        >>> f"loc{name_entry((1, 0))}"
        'loc[1, 0]'
    """
    return f"[{', '.join(map(str, index))}]" if index else ""


def pyplot() -> Any:
    """The interface of matplotlib, imported when a picture is drawn."""
    try:
        return importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise ImportError(
            "plot draws with matplotlib, which is not installed: "
            'pip install "declarative-dist[plot]"'
        ) from error


def grid_of_axes(count: int, ax: Any) -> tuple[Axes, ...]:
    """The axes that were given, or those of a new figure, in rows of three.

    Raises:
        DeclarationError: if what was given are no axes, or not as many.
    """
    matplotlib = pyplot()
    if ax is None:
        columns = min(count, 3)
        rows = math.ceil(count / columns)
        size = (5.4, 3.6) if count == 1 else (3.0 * columns + 0.4, 2.5 * rows + 0.2)
        figure, axes = matplotlib.subplots(
            rows, columns, squeeze=False, figsize=size, layout="constrained"
        )
        for left_over in axes.flat[count:]:
            figure.delaxes(left_over)
        return tuple(axes.flat[:count])
    given = axes_in(ax)
    if len(given) != count:
        one = "one axes" if count == 1 else f"{count} axes, one for each picture"
        raise DeclarationError(
            "plot(ax=)", one, shorten(ax), f"Write _, ax = plt.subplots({count})."
        )
    return given


def axes_in(ax: Any) -> tuple[Axes, ...]:
    """Axes, alone, in a list or in an array of rows and columns; empty for anything else."""
    if hasattr(ax, "get_xlim"):
        return (ax,)
    flat = getattr(ax, "flat", ax)  # an array of rows and columns
    given = tuple(flat) if hasattr(flat, "__iter__") else ()
    return given if all(hasattr(each, "get_xlim") for each in given) else ()

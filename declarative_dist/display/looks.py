"""How pictures look: colours and lines that you can tell apart in print, colour-blind or not."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

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


class Look(NamedTuple):
    """The name of a curve, and how it looks."""

    label: str
    color: str
    style: str

    @property
    def line(self) -> dict[str, Any]:
        """The look of its line, as matplotlib takes it."""
        return {"color": self.color, "linestyle": self.style, "linewidth": WIDTH}


def looks() -> Iterator[tuple[str, str]]:
    """Pairs of a colour and a line style: neighbours differ in both."""
    for turn in itertools.count():
        for at, color in enumerate(COLORS):
            yield color, STYLES[(at + turn) % len(STYLES)]


def look_of(label: str, at: int, turn: int, sizes: Sequence[int]) -> Look:
    """The look of a curve.

    Args:
        label: its name in the legend.
        at: the place of the curve among those of its distribution.
        turn: 0 for the distribution, 1 for what it is compared with.
        sizes: how many curves each has.
    """
    if len(sizes) == 1:
        return Look(label, *next(itertools.islice(looks(), at, None)))
    if sizes[0] == 1:
        return Look(label, COLORS[(turn + at) % len(COLORS)], STYLES[turn])
    return Look(label, LONE if sizes[turn] == 1 else COLORS[at % len(COLORS)], STYLES[turn])


def axes_on(
    ax: Any, counts: Sequence[int], expected: str, grid: tuple[int, int], **figure: Any
) -> tuple[Axes, ...]:
    """The axes that were given, or those of a new figure.

    Args:
        ax: axes, alone, in a list or in an array of rows and columns; None for a new figure.
        counts: how many there may be; the last is for a new figure.
        expected: the same in words.
        grid: the rows and columns of a new figure.
        **figure: what else matplotlib is to know of a new figure.

    Raises:
        DeclarationError: if what was given are no axes, or not as many.
        ImportError: if matplotlib is not installed.
    """
    try:
        matplotlib = importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        fix = 'pip install "declarative-dist[plot]"'
        raise ImportError(f"plot draws with matplotlib, which is not installed: {fix}") from error
    if ax is None:
        new, axes = matplotlib.subplots(*grid, squeeze=False, **figure)
        for left_over in axes.flat[counts[-1] :]:
            new.delaxes(left_over)
        return tuple(axes.flat[: counts[-1]])
    flat = getattr(ax, "flat", ax)
    given = tuple(flat) if hasattr(flat, "__iter__") else (flat,)
    if len(given) not in counts or not all(hasattr(each, "get_xlim") for each in given):
        fix = f"Write _, ax = plt.subplots({counts[-1]})."
        raise DeclarationError("plot(ax=)", expected, shorten(ax), fix)
    return given

"""How pictures look: colours and lines that you can tell apart in print, colour-blind or not."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from declarative_dist.errors import DeclarationError, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#0072B2", "#D55E00", "#009E73", "#AA3377", "#E69F00", "#56B4E9", "#7F7F7F")
"""Of Okabe and Ito, "Color universal design", 2008; without yellow, too faint on white paper, with
grey in place of black, which you would not see on a dark page, and with a stronger purple."""

STYLES: tuple[Any, ...] = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))


class Look(NamedTuple):
    """The name of a curve, how it looks, and whether it is there to be compared with."""

    label: str
    color: str
    style: Any
    is_target: bool = False

    @property
    def line(self) -> dict[str, Any]:
        """The look of its line, as matplotlib takes it."""
        return {"color": self.color, "linestyle": self.style, "linewidth": 1.4}


def look_of(label: str, at: int, turn: int = 0, sizes: Sequence[int] = (1,)) -> Look:
    """The look of a curve; neighbours differ in colour and in style.

    Args:
        label: its name in the legend.
        at: the place of the curve among its distribution's curves.
        turn: 0 for the distribution, 1 for what it is compared with.
        sizes: how many curves each has.
    """
    if len(sizes) == 1:
        turns, place = divmod(at, len(COLORS))
        return Look(label, COLORS[place], STYLES[(turns + place) % len(STYLES)])
    place = turn + at if sizes[0] == 1 else -1 if sizes[turn] == 1 else at
    return Look(label, COLORS[place % len(COLORS)], STYLES[turn], bool(turn))


def add_legend(axes: Axes, most: int, count: int, *, is_ours: bool) -> None:
    """Name the curves above their axes, side by side where there is room.

    Args:
        axes: with the curves.
        most: how many there may be.
        count: how many there would be.
        is_ours: whether the figure may grow for them.
    """
    title = f"{most} of {count}" if count > most else None
    labels = axes.get_legend_handles_labels()[1]
    figure: Any = axes.figure
    wide, high = axes.get_window_extent().size / figure.dpi
    columns = int(wide / (0.5 + 0.08 * max(map(len, labels), default=0)))
    columns = max(1, min(columns, len(labels)))
    place: Any = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2}
    text: Any = {"fontsize": "small", "title_fontsize": "small", "alignment": "left"}
    legend = axes.legend(title=title, ncols=columns, columnspacing=1.0, **place, **text)
    legend.set_frame_on(False)
    needed = 0.2 * len(labels) / columns
    if is_ours:
        figure.set_figheight(figure.get_figheight() + max(0.0, needed - 0.4))
    else:
        legend.set_in_layout(needed < 0.4 * high)  # or little would be left of your picture


def axes_on(
    ax: Any, counts: Sequence[int], grid: tuple[int, int], **figure: Any
) -> tuple[Axes, ...]:
    """The axes that you gave, or the axes of a new figure.

    Args:
        ax: axes, alone, in a list or in an array of rows and columns; None for a new figure.
        counts: how many there may be; the last is for a new figure.
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
        new, axes = matplotlib.subplots(*grid, squeeze=False, layout="constrained", **figure)
        for left_over in axes.flat[counts[-1] :]:
            new.delaxes(left_over)
        return tuple(axes.flat[: counts[-1]])
    flat = getattr(ax, "flat", ax)
    given = tuple(flat) if hasattr(flat, "__iter__") else (flat,)
    if len(given) not in counts or not all(hasattr(each, "get_xlim") for each in given):
        fix = f"Write _, ax = plt.subplots({counts[-1]})."
        expected = f"{' or '.join(map(str, counts))} axes"
        raise DeclarationError("plot(ax=)", expected, shorten(ax), fix)
    return given

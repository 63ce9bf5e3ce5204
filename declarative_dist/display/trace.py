"""A fit as pictures: its loss at every step, and the paths of its values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from declarative_dist.display.looks import COLORS, WIDTH, axes_on, looks
from declarative_dist.display.series import column
from declarative_dist.errors import DeclarationError
from declarative_dist.fitting.history import History
from declarative_dist.words import name_entry

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 6
"""How many paths there are in one picture."""

_DECADES = 100.0
_NOISY = 0.25
_FEWEST = 20
_LETTER = 8.5


def plot_history(history: History, ax: Axes | Sequence[Axes] | None) -> tuple[Axes, ...]:
    """Draw the loss, and where there are two axes below it the paths of values.

    Raises:
        DeclarationError: if there is nothing to draw, or no axes to draw on.
    """
    if not history.losses:
        raise DeclarationError("plot", "a History with steps", "one without", "Fit first.")
    paths = _paths(history)
    count = 2 if paths else 1
    new: dict[str, Any] = {
        "sharex": True,
        "figsize": (6.4, 1.2 + 1.8 * count),
        "layout": "constrained",
    }
    axes = axes_on(ax, (1, 2), "one axes, or two", (count, 1), **new)[:count]
    _draw_loss(axes[0], torch.tensor(history.losses, dtype=torch.float64))
    axes[-1].set_xlabel("step")
    if len(axes) > 1:
        _draw_paths(axes[1], history.steps, paths)
    return axes


def _draw_loss(axes: Axes, losses: Tensor) -> None:
    """The loss; where it is noisy faintly, below its moving average."""
    steps = range(1, len(losses) + 1)
    is_noisy = _is_noisy(losses)
    strength: Any = {"alpha": 0.35, "linewidth": 0.6} if is_noisy else {"linewidth": WIDTH}
    axes.plot(steps, losses.tolist(), color=COLORS[0], **strength)
    if is_noisy:
        axes.plot(steps, _average(losses).tolist(), color=COLORS[0], linewidth=WIDTH)
    finite = losses[losses.isfinite()]
    if len(finite) and 0 < _DECADES * float(finite.min()) < float(finite.max()):
        axes.set_yscale("log")
    axes.set_ylabel("loss")


def _is_noisy(losses: Tensor) -> bool:
    """Whether it goes up and down all the time."""
    turns = (losses.diff().sign().diff() != 0).double().mean()
    return len(losses) >= _FEWEST and bool(losses.isfinite().all()) and float(turns) > _NOISY


def _average(losses: Tensor) -> Tensor:
    """The mean of a twentieth of the steps around each."""
    sums = torch.cat([losses.new_zeros(1), losses.cumsum(0)])
    steps = torch.arange(len(losses))
    # Where it begins to fall there are as many steps before as after each.
    half = steps.clamp_max(max(2, len(losses) // 40))
    ends = (steps + half + 1).clamp_max(len(losses))
    averages: Tensor = (sums[ends] - sums[steps - half]) / (ends - steps + half)
    return averages


def _draw_paths(axes: Axes, steps: list[int], paths: dict[str, list[float]]) -> None:
    """Some paths, each with its name at its end."""
    chosen = _select_paths(paths)
    for name, (color, style) in zip(chosen, looks(), strict=False):
        marker = "." if len(steps) == 1 else None
        look: Any = {"color": color, "linestyle": style, "linewidth": WIDTH, "marker": marker}
        axes.plot(steps, paths[name], label=name, **look)
    few = f" ({len(chosen)} of {len(paths)})" if len(chosen) < len(paths) else ""
    axes.set_ylabel(f"value{few}")
    extent = axes.get_window_extent()
    wide, high = (72 * size / axes.figure.dpi for size in (extent.width, extent.height))
    share = min((0.65 * max(map(len, chosen)) + 1) * _LETTER / wide, 0.6)
    span = steps[-1] - steps[0] or 1
    axes.set_xlim(steps[0] - 0.03 * span, steps[-1] + span * share / (1 - share))
    bottom, top = axes.get_ylim()
    ends = [(paths[name][-1] - bottom) / (top - bottom) for name in chosen]
    place: Any = {"transform": axes.get_xaxis_transform(), "va": "center", "fontsize": _LETTER}
    heights = _spread(ends, 1.3 * _LETTER / high)
    for line, name, height in zip(axes.get_lines()[-len(chosen) :], chosen, heights, strict=True):
        axes.text(steps[-1] + 0.01 * span, height, name, color=line.get_color(), **place)


def _spread(heights: Sequence[float], apart: float) -> list[float]:
    """The heights of labels, moved no further than it takes for them not to overlap."""
    order = sorted(range(len(heights)), key=lambda at: heights[at])
    spread = [0.0] * len(heights)
    below = -math.inf
    for at in order:
        below = spread[at] = max(heights[at], below + apart)
    above = max(1.0, max(heights, default=0.0))
    for at in reversed(order):
        above = spread[at] = min(spread[at], above)
        above -= apart
    return spread


def _select_paths(paths: dict[str, list[float]]) -> list[str]:
    """The names of some paths that differ, of as many fields as there is room for."""
    different = {tuple(path): name for name, path in reversed(paths.items())}
    names = [name for name in paths if name in set(different.values())]
    fields = [list(group) for _, group in itertools.groupby(names, lambda n: n.partition("[")[0])]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*fields))
    chosen = set(itertools.islice(filter(None, turns), MOST))
    return [name for name in names if name in chosen]


def _paths(history: History) -> dict[str, list[float]]:
    """The path of every number, by the name of its field and its index."""
    tables = {n: torch.tensor(each, dtype=torch.float64) for n, each in history.values.items()}
    return {
        name + name_entry(index): column(table, index).tolist()
        for name, table in tables.items()
        for index in itertools.product(*map(range, table.shape[1:]))
    }

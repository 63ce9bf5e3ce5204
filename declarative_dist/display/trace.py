"""A fit as pictures: its loss at every step, and the paths of its values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from declarative_dist.display.looks import axes_on, look_of
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
    new: dict[str, Any] = {"sharex": True, "figsize": (6.4, 1.2 + 1.8 * count)}
    axes = axes_on(ax, (1, 2), (count, 1), **new)[:count]
    _draw_loss(axes[0], torch.tensor(history.losses, dtype=torch.float64))
    axes[-1].set_xlabel("step")
    if len(axes) > 1:
        _draw_paths(axes[1], history.steps, paths)
    return axes


def _draw_loss(axes: Axes, losses: Tensor) -> None:
    """The loss; where it goes up and down all the time faintly, below its moving average."""
    line = look_of("", 0).line
    moves = losses.diff()
    moves = moves.where(moves.abs() > 1e-5 * (losses.max() - losses.min()), 0.0)  # not rounding's
    turns = (moves.sign().diff() != 0).double().mean()
    is_noisy = len(losses) >= _FEWEST and bool(losses.isfinite().all()) and float(turns) > _NOISY
    drawn = [(losses, {**line, "alpha": 0.35, "linewidth": 0.6} if is_noisy else line)]
    if is_noisy:
        # The mean of a twentieth of the steps around each; at the ends of as many as there are.
        half = max(2, len(losses) // 40)
        mean = F.avg_pool1d(losses[None], 2 * half + 1, 1, half, count_include_pad=False)
        drawn.append((mean[0], line))
    for values, look in drawn:
        axes.plot(range(1, len(losses) + 1), values.tolist(), **look)
    finite = losses[losses.isfinite()]
    if len(finite) and 0 < _DECADES * float(finite.min()) < float(finite.max()):
        axes.set_yscale("log")
    axes.set_ylabel("loss")


def _draw_paths(axes: Axes, steps: list[int], paths: dict[str, list[float]]) -> None:
    """Some paths that differ, each with its name at its end, beside the axes."""
    different = {tuple(path): name for name, path in reversed(paths.items())}
    names = [name for name in paths if name in set(different.values())]
    fields = [list(group) for _, group in itertools.groupby(names, lambda n: n.partition("[")[0])]
    # The first entry of every field, then the second, as far as there is room.
    turns = itertools.chain.from_iterable(itertools.zip_longest(*fields))
    chosen = sorted(itertools.islice(filter(None, turns), MOST), key=names.index)
    for at, name in enumerate(chosen):
        axes.plot(steps, paths[name], label=name, **look_of(name, at).line)
    few = f" ({len(chosen)} of {len(paths)})" if len(chosen) < len(paths) else ""
    axes.set_ylabel(f"value{few}")
    span = steps[-1] - steps[0] or 1
    axes.set_xlim(steps[0] - 0.03 * span, steps[-1])
    high = 72 * axes.get_window_extent().height / axes.figure.dpi
    bottom, top = axes.get_ylim()
    ends = [(paths[name][-1] - bottom) / (top - bottom) for name in chosen]
    place: Any = {"transform": axes.transAxes, "va": "center", "fontsize": _LETTER}
    heights = _spread(ends, 1.3 * _LETTER / high)
    for at, (name, height) in enumerate(zip(chosen, heights, strict=True)):
        color = look_of(name, at).color
        axes.text(1.01, height, name, color=color, **place)


def _spread(heights: Sequence[float], apart: float) -> list[float]:
    """The heights of labels, moved no further than it takes for them not to overlap."""
    order = sorted(range(len(heights)), key=lambda at: heights[at])
    spread = list(heights)
    for below, at in itertools.pairwise(order):
        spread[at] = max(spread[at], spread[below] + apart)
    above = max(1.0, *heights) + apart
    for at in reversed(order):
        above = spread[at] = min(spread[at], above - apart)
    return spread


def _paths(history: History) -> dict[str, list[float]]:
    """The path of every number, by the name of its field and its index."""
    tables = {n: torch.tensor(each, dtype=torch.float64) for n, each in history.values.items()}
    return {
        name + name_entry(index): path
        for name, table in tables.items()
        for index, path in zip(
            itertools.product(*map(range, table.shape[1:])),
            table.reshape(len(table), -1).T.tolist(),
            strict=True,
        )
    }

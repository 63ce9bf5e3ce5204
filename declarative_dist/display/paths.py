"""The history of a fit as a picture: the loss, and the path of every value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from declarative_dist.display.looks import COLORS, WIDTH, axes_on, looks, name_entry
from declarative_dist.display.series import column, first
from declarative_dist.errors import DeclarationError
from declarative_dist.fitting.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED = 12
"""How many paths have a name in the legend."""


def plot_history(history: History, ax: Axes | Sequence[Axes] | None) -> tuple[Axes, ...]:
    """Draw the loss of every step, and below it the path of every value.

    Args:
        history: what `fit` returned.
        ax: one axes for the loss alone, two for both; None for a new figure.

    Raises:
        DeclarationError: if there is nothing to draw, or no axes to draw on.
    """
    if not history.losses:
        raise DeclarationError("plot", "a History with steps", "one without", "Fit first.")
    paths = _paths(history)
    count = 2 if paths else 1
    size = (6.4, 4.8 if paths else 3.0)
    axes = axes_on(
        ax, (1, 2), "one axes, or two", (count, 1), sharex=True, figsize=size, layout="tight"
    )[:count]
    axes[0].plot(range(1, history.step + 1), history.losses, color=COLORS[0], linewidth=WIDTH)
    axes[0].set_ylabel("loss")
    axes[-1].set_xlabel("step")
    if len(axes) > 1:
        _draw_paths(axes[1], history.steps, paths)
    return axes


def _draw_paths(axes: Axes, steps: list[int], paths: dict[str, list[float]]) -> None:
    for at, ((name, path), (color, style)) in enumerate(zip(paths.items(), looks(), strict=False)):
        label = name if at < NAMED else None
        marker = "." if len(path) == 1 else None
        axes.plot(steps, path, style, color=color, linewidth=WIDTH, label=label, marker=marker)
    title = f"{NAMED} of {len(paths)}" if len(paths) > NAMED else None
    axes.legend(title=title, fontsize="small", frameon=False)
    axes.set_ylabel("value")


def _paths(history: History) -> dict[str, list[float]]:
    """The path of every number, by the name of its field and its index."""
    paths = {}
    for name, values in history.values.items():
        table = torch.tensor(values, dtype=torch.float64)
        for index in first(table.shape[1:], table[0].numel()):
            paths[name + name_entry(index)] = column(table, index).tolist()
    return paths

"""Pictures of distributions and fits, drawn with matplotlib (extra `plot`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import torch

from declarative_dist.display.looks import COLORS, WIDTH, axes_on, looks
from declarative_dist.display.pictures import plot_distribution
from declarative_dist.display.series import column, first
from declarative_dist.errors import DeclarationError
from declarative_dist.fitting.history import History
from declarative_dist.words import name_entry

if TYPE_CHECKING:
    from matplotlib.axes import Axes


NAMED = 12
"""How many paths have a name in the legend."""


@overload
def plot(q: History, *, ax: Axes | Sequence[Axes] | None = None) -> tuple[Axes, ...]: ...
@overload
def plot(q: object, *, against: object = None, ax: Any = None) -> Any: ...
def plot(q: Any, *, against: Any = None, ax: Any = None) -> Any:
    """Draw a distribution, or what happened in a fit.

    Densities of numbers are curves, masses bars, and densities over the plane contours that hold
    50, 80 and 95 % of the mass. Of longer events each entry has a picture of its own; of a joint
    or a guide each site. Independent copies are curves in one picture, up to eight. Where a
    density has no closed form, such as a site given others, you see a histogram of draws, the same
    in every call. The range holds most of the mass, so that a heavy tail does not hide the rest.

    Of a history it draws the loss of every step and the path of every value: a field of shape `()`
    is one path, of any other shape one for each number, named by its index.

    Args:
        q: a declared or plain distribution, a joint, a guide, draws (a tensor or array, or
            a dict of such by site), or the `History` that `fit` returned.
        against: another one of the same kind to draw over it, dashed: the target of a fit, data,
            or draws of a sampler.
        ax: where to draw: one axes, or as many as there are pictures; None for a new figure. For
            a history one for the loss alone, two for the loss and the values.

    Returns:
        The axes drawn on; of several pictures, and of a history, a tuple.

    Raises:
        DeclarationError: if there is nothing to draw, or not the axes to draw on.
        ImportError: if matplotlib is not installed.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import fit, learnable, plot
        >>> from declarative_dist.objectives import NegativeLogLikelihood
        >>> q = learnable(dd.Normal(0.0, 1.0))
        >>> data = torch.linspace(-1.0, 3.0, 100)
        >>> history = fit(NegativeLogLikelihood(q), data, steps=20)
        >>> loss, values = plot(history)
        >>> [text.get_text() for text in values.get_legend().get_texts()]
        ['loc', 'scale']
        >>> axes = plot(q, against=data)
        >>> [text.get_text() for text in axes.get_legend().get_texts()]
        ['q: learnable Normal', 'target: data']
    """
    if isinstance(q, History):
        if against is not None:
            got, fix = (
                type(against).__name__,
                "Draw both into the same axes: plot(history, ax=axes).",
            )
            raise DeclarationError("plot(against=)", "nothing beside a History", got, fix)
        return _plot_history(q, ax)
    return plot_distribution(q, against, ax)


def _plot_history(history: History, ax: Axes | Sequence[Axes] | None) -> tuple[Axes, ...]:
    """Draw the loss of every step, and where there are two axes below it the path of every value.

    Raises:
        DeclarationError: if there is nothing to draw, or no axes to draw on.
    """
    if not history.losses:
        raise DeclarationError("plot", "a History with steps", "one without", "Fit first.")
    paths = _paths(history)
    count = 2 if paths else 1
    new: dict[str, Any] = {"sharex": True, "figsize": (6.4, 1.2 + 1.8 * count), "layout": "tight"}
    axes = axes_on(ax, (1, 2), "one axes, or two", (count, 1), **new)[:count]
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
    tables = {n: torch.tensor(each, dtype=torch.float64) for n, each in history.values.items()}
    return {
        name + name_entry(index): column(table, index).tolist()
        for name, table in tables.items()
        for index in first(table.shape[1:], table[0].numel())
    }

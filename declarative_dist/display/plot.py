"""Pictures, drawn with matplotlib (extra `plot`)."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from declarative_dist.errors import DeclarationError, shortened
from declarative_dist.fitting.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = ("#006BA4", "#FF800E", "#595959", "#5F9ED1", "#C85200", "#898989", "#A2C8EC", "#FFBC79")
"""Told apart by the colour-blind, and by their grey in print."""

_STYLES = ("-", "--", ":", "-.")

MOST = 12
"""How many paths have a name in the legend."""


def plot(history: History, *, ax: Axes | Sequence[Axes] | None = None) -> tuple[Axes, ...]:
    """Draw the loss of every step of a fit, and the path of every value.

    A field of shape `()` is one path, of any other shape one for each number, named by its index.

    Args:
        history: what `fit` returned.
        ax: where to draw: one axes for the loss alone, two for the loss and the values; None for
            a new figure.

    Returns:
        The axes drawn on, of the loss and of the values if there are any.

    Raises:
        DeclarationError: if there is nothing to draw, or no axes to draw on.
        ImportError: if matplotlib is not installed.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import fit, learnable, plot
        >>> from declarative_dist.objectives import NegativeLogLikelihood
        >>> q = learnable(dd.Normal(0.0, 1.0))
        >>> history = fit(NegativeLogLikelihood(q), torch.randn(100), steps=20)
        >>> loss, values = plot(history)
        >>> [text.get_text() for text in values.get_legend().get_texts()]
        ['loc', 'scale']
    """
    if not isinstance(history, History):
        raise DeclarationError("plot", "the History of a fit", shortened(history))
    if not history.losses:
        raise DeclarationError("plot", "a History with steps", "one without", "Fit first.")
    paths = list(_paths(history))
    axes = _axes(bool(paths), ax)
    axes[0].plot(range(1, history.step + 1), history.losses, color=_COLORS[0], linewidth=1.2)
    axes[0].set_ylabel("loss")
    axes[-1].set_xlabel("step")
    if len(axes) > 1:
        _draw_paths(axes[1], history.steps, paths)
    return axes


def _draw_paths(axes: Axes, steps: list[int], paths: list[tuple[str, list[float]]]) -> None:
    looks = itertools.cycle(itertools.product(_STYLES, _COLORS))
    for at, ((name, path), (style, color)) in enumerate(zip(paths, looks, strict=False)):
        label = name if at < MOST else None
        marker = "." if len(path) == 1 else None
        axes.plot(steps, path, style, color=color, linewidth=1.2, label=label, marker=marker)
    title = f"{MOST} of {len(paths)}" if len(paths) > MOST else None
    axes.legend(title=title, fontsize="small", frameon=False)
    axes.set_ylabel("value")


def _paths(history: History) -> Iterator[tuple[str, list[float]]]:
    """The path of every number, with the name of its field and its index."""
    for name, values in history.values.items():
        for index in _indices(values[0]):
            suffix = f"[{', '.join(map(str, index))}]" if index else ""
            yield name + suffix, [_at(value, index) for value in values]


def _indices(value: Any) -> Iterator[tuple[int, ...]]:
    if not isinstance(value, list):
        yield ()
        return
    for at, item in enumerate(value):
        for index in _indices(item):
            yield (at, *index)


def _at(value: Any, index: tuple[int, ...]) -> float:
    for at in index:
        value = value[at]
    number: float = value
    return number


def _axes(has_values: bool, ax: Any) -> tuple[Axes, ...]:
    """The axes that were given, or those of a new figure."""
    matplotlib = _pyplot()
    if ax is None:
        height = 4.8 if has_values else 3.0
        _, axes = matplotlib.subplots(
            1 + has_values, sharex=True, squeeze=False, figsize=(6.4, height), layout="tight"
        )
        return tuple(axes[:, 0])
    given = (ax,) if hasattr(ax, "plot") else tuple(ax) if hasattr(ax, "__iter__") else ()
    if len(given) not in (1, 2) or not all(hasattr(each, "plot") for each in given):
        raise DeclarationError(
            "plot(ax=)", "one axes, or two", shortened(ax), "Write _, ax = plt.subplots(2)."
        )
    return given[: 1 + has_values]


def _pyplot() -> Any:
    try:
        return importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise ImportError(
            "plot draws with matplotlib, which is not installed: "
            'pip install "declarative-dist[plot]"'
        ) from error

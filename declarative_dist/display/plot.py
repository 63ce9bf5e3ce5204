"""Pictures of distributions and fits, drawn with matplotlib (extra `plot`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from declarative_dist.display.pictures import plot_distribution
from declarative_dist.display.trace import plot_history
from declarative_dist.errors import DeclarationError
from declarative_dist.fitting.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@overload
def plot(q: History, *, ax: Axes | Sequence[Axes] | None = None) -> tuple[Axes, ...]: ...
@overload
def plot(q: object, *, against: object = None, ax: Any = None) -> Any: ...
def plot(q: Any, *, against: Any = None, ax: Any = None) -> Any:
    """Draw a distribution, or what happened in a fit.

    Densities of numbers are curves, masses bars, and densities over the plane contours that hold
    50, 80 and 95 % of the mass. Of a joint or a guide each site has a picture of its own; the
    entries of longer events and independent copies are curves in one picture, up to eight. Where a
    density has no closed form, such as a site given others, you see a histogram of draws, the same
    in every call. The range holds most of the mass of `q`, so that neither a heavy tail nor a wide
    prior beside it hides the rest. Names stand above the axes.

    Of a history it draws the loss of every step, on a logarithmic scale where it spans two
    decades, and with its moving average where it is noisy; and below it the paths of up to six
    values that differ, each with its name at its end.

    Args:
        q: a declared or plain distribution, a joint, a guide, draws (a tensor or array, or
            a dict of such by site), or the `History` that `fit` returned.
        against: another one of the same kind to draw over it, dashed: the target of a fit, data,
            or draws of a sampler.
        ax: where to draw: one axes, or as many as there are pictures; None for a new figure. For
            a history one for the loss alone, two for the loss and the values.

    Returns:
        The axes drawn on; of a joint, a guide, draws by site and a history, a tuple.

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
        >>> [text.get_text() for text in values.texts]
        ['loc', 'scale']
        >>> axes = plot(q, against=data)
        >>> [text.get_text() for text in axes.get_legend().get_texts()]
        ['q: learnable Normal', 'target: data']
    """
    if isinstance(q, History):
        if against is not None:
            got = type(against).__name__
            fix = "Draw both into the same axes: plot(history, ax=axes)."
            raise DeclarationError("plot(against=)", "nothing beside a History", got, fix)
        return plot_history(q, ax)
    return plot_distribution(q, against, ax)

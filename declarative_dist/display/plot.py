"""Pictures of distributions and fits, drawn with matplotlib (extra `plot`)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

from declarative_dist.display.contours import draw_plane
from declarative_dist.display.curves import draw_curves
from declarative_dist.display.looks import Look, add_legend, axes_on, look_of
from declarative_dist.display.sites import Marginal, source_of
from declarative_dist.display.trace import plot_history
from declarative_dist.errors import DeclarationError
from declarative_dist.fitting.history import History
from declarative_dist.words import name_entry

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 8
"""How many curves one picture has."""

MOST_PAIRS = 4
"""How many pairs one picture has."""


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
        q: a declared or plain distribution, a joint, a guide, draws (a tensor or array, a dict of
            such by site, or `WeightedDraws`), or the `History` that `fit` returned.
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
        ['q: learnable Normal', 'data']
    """
    if isinstance(q, History):
        if against is not None:
            got = type(against).__name__
            fix = "Draw both into the same axes: plot(history, ax=axes)."
            raise DeclarationError("plot(against=)", "nothing beside a History", got, fix)
        return plot_history(q, ax)
    return _draw(q, against, ax)


def _draw(given: Any, against: Any, ax: Any) -> Any:
    """Draw a distribution, and another over it."""
    name, sites = source_of(given, "plot")
    names, groups = [name], {n: [site] for n, site in sites.items()}
    if against is not None:
        target, others = source_of(against, "plot(against=)")
        names = [f"q: {name}", target if target == "data" else f"target: {target}"]
        for n, site in _sites_to_compare(name, sites, others).items():
            groups[n].append(site)
    count = len(groups)
    columns = 2 if count == 4 else min(count, 3)
    rows = math.ceil(count / columns)
    size = (5.4, 3.6) if count == 1 else (3.0 * columns + 0.4, 2.5 * rows + 0.2)
    axes = axes_on(ax, (count,), (rows, columns), figsize=size)
    seen: set[str] = set()
    for own, (site_name, group) in zip(axes, groups.items(), strict=True):
        shape = group[0].shape
        if not site_name and all(site.is_pair for site in group):
            pairs = _pick(group, MOST_PAIRS, names, event_dim=1)
            draw_plane(own, pairs, is_filled=group[0].batch.numel() == 1)
            add_legend(own, MOST_PAIRS, group[0].batch.numel(), is_ours=ax is None)
            continue
        is_one = not site_name or (shape.numel() == 1 and len(group) > 1)
        labels = names if is_one else [site_name, *names[1:]]
        draw_curves(own, _pick(group, MOST, labels, event_dim=0), site_name or "value")
        # A legend where it has a name that no other picture has, nor the axis.
        told = set(own.get_legend_handles_labels()[1])
        if not told <= seen | {site_name}:
            add_legend(own, MOST, shape.numel(), is_ours=ax is None)
        seen |= told
    return axes[0] if "" in groups else axes


def _sites_to_compare(
    name: str, sites: Mapping[str, Marginal], others: Mapping[str, Marginal]
) -> dict[str, Marginal]:
    """The sites of a target that the source has, too, with events of the same shape."""
    subject = "plot(against=)"
    both = {name: site for name, site in others.items() if name in sites}
    if not both:
        known = ", ".join(sites) or f"no sites, as {name} has"
        got = ", ".join(others) or "a distribution without sites"
        raise DeclarationError(subject, f"sites among {known}", got, code="wrong-shape")
    for site_name, site in both.items():
        own = sites[site_name]
        if site.density is None:  # what is batch and what is event, draws don't say
            both[site_name] = site = replace(site, event_dim=min(own.event_dim, len(site.shape)))
        if site.event != own.event or (site.density is None and site.batch not in ((), own.batch)):
            expected = f"events of shape {tuple(own.event)}, as {site_name or name} has"
            got = f"events of shape {tuple(site.shape)}"
            raise DeclarationError(subject, expected, got, code="wrong-shape")
    return both


def _pick(
    group: Sequence[Marginal], most: int, names: Sequence[str], *, event_dim: int
) -> list[tuple[Marginal, Look]]:
    """The numbers, or the events, of one picture, and how they look.

    Args:
        group: a site, and its target if there is one.
        most: how many of each there may be.
        names: what both are called.
        event_dim: 0 for numbers, 1 for pairs.
    """
    picked = []
    shapes = [site.shape[: len(site.shape) - event_dim] for site in group]
    sizes = [min(shape.numel(), most) for shape in shapes]
    for turn, (site, shape, name) in enumerate(zip(group, shapes, names, strict=False)):
        places = itertools.product(*map(range, shape))
        for at, index in enumerate(itertools.islice(places, most)):
            entry = name_entry(index) if sizes[turn] > 1 else ""
            # A target has the colours of what it is compared with, and one line in the legend.
            label = f"{name}{entry}" if not turn else name if not at else ""
            picked.append((site.pick(index), look_of(label, at, turn, sizes)))
    return picked

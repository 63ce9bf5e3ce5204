"""Distributions as pictures: which axes there are, and what is drawn in each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from declarative_dist.display.contours import MOST as MOST_PAIRS
from declarative_dist.display.contours import draw_pair, has_pairs
from declarative_dist.display.curves import Curves, draw_curves
from declarative_dist.display.looks import (
    COLORS,
    LONE,
    MOST,
    PANELS,
    STYLES,
    Look,
    axes_on,
    looks,
    name_entry,
)
from declarative_dist.display.series import Index, Series, Site, first
from declarative_dist.display.sources import Source, source_of
from declarative_dist.errors import DeclarationError, did_you_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_distribution(given: Any, against: Any, ax: Any) -> Axes | tuple[Axes, ...]:
    """Draw a distribution, and another over it.

    Args:
        given: what to draw.
        against: what to compare it with, or None.
        ax: where to draw; None for a new figure.
    """
    source = source_of(given, "plot")
    target = None if against is None else source_of(against, "plot(against=)")
    names = [source.name] if target is None else [f"q: {source.name}", f"target: {target.name}"]
    if source.is_joint:
        others = {} if target is None else _sites_to_compare(source, target)
        return _draw_sites(source, others, names, ax)
    site = source.sites[""]
    sites = [site] if target is None else [site, _site_to_compare(source, target)]
    if all(map(has_pairs, sites)):
        return _draw_plane(sites, names, ax)
    axes = _draw_entries(sites, names, ax)
    return axes if len(axes) > 1 else axes[0]


def _make_axes(count: int, ax: Any) -> tuple[Axes, ...]:
    """The axes for some pictures, in rows of three."""
    columns = min(count, 3)
    rows = math.ceil(count / columns)
    size = (5.4, 3.6) if count == 1 else (3.0 * columns + 0.4, 2.5 * rows + 0.2)
    expected = "one axes" if count == 1 else f"{count} axes, one for each picture"
    return axes_on(ax, (count,), expected, (rows, columns), figsize=size, layout="constrained")


def _draw_plane(sites: Sequence[Site], names: Sequence[str], ax: Any) -> Axes:
    """Draw pairs as contours in one picture, those of a target dashed."""
    (axes,) = _make_axes(1, ax)
    groups = [list(first(site.batch, MOST_PAIRS)) for site in sites]
    sizes = [len(group) for group in groups]
    for turn, (site, group, name) in enumerate(zip(sites, groups, names, strict=True)):
        for at, index in enumerate(group):
            look = Look(f"{name}{name_entry(index)}", *_look(at, turn, sizes))
            draw_pair(axes, site, index, look, is_filled=sizes[0] == 1 and not turn)
    axes.set_xlabel("value[0]")
    axes.set_ylabel("value[1]")
    _draw_legend(axes, sites[0].batch.numel(), MOST_PAIRS, above=True)
    return axes


def _draw_entries(sites: Sequence[Site], names: Sequence[str], ax: Any) -> tuple[Axes, ...]:
    """One picture for each entry of an event, with a curve for each of the batch."""
    by_entry: list[dict[Index, list[Series]]] = [{} for _ in sites]
    for site, entries in zip(sites, by_entry, strict=True):
        for series in site.series():
            entries.setdefault(series.index[len(site.batch) :], []).append(series)
    drawn = _make_axes(len(by_entry[0]), ax)
    for axes, entry in zip(drawn, by_entry[0], strict=True):
        groups = [entries[entry] for entries in by_entry if entry in entries]
        draw_curves(axes, _curves(groups, names, len(sites[0].batch)), f"value{name_entry(entry)}")
        if axes is drawn[0] or any(series.is_point for group in groups for series in group[:MOST]):
            _draw_legend(axes, sites[0].batch.numel(), MOST)
    if (total := sites[0].event.numel()) > PANELS:
        drawn[-1].set_title(f"{PANELS} of {total}", fontsize="small")
    return drawn


def _draw_sites(
    source: Source, others: dict[str, Site], names: Sequence[str], ax: Any
) -> tuple[Axes, ...]:
    """One picture for each site, with a curve for each of its numbers."""
    by_site = {
        name: [each.series() for each in (site, others.get(name)) if each is not None]
        for name, site in source.sites.items()
    }
    drawn = _make_axes(len(by_site), ax)
    is_named = len(names) == 1  # whether the names of source and target stand somewhere
    for axes, (name, groups) in zip(drawn, by_site.items(), strict=True):
        is_one = len(groups[0]) == 1
        has_legend = not is_one or (len(groups) > 1 and not is_named)
        is_named = is_named or (is_one and has_legend)
        labels = names if is_one and len(names) > 1 else [name, *names[1:]]
        shape = source.sites[name].shape
        draw_curves(axes, _curves(groups, labels, len(shape)), name)
        if has_legend:
            _draw_legend(axes, shape.numel(), MOST)
    return drawn


def _curves(groups: Sequence[Sequence[Series]], names: Sequence[str], dims: int) -> Curves:
    """The curves of one picture.

    Args:
        groups: the numbers of one distribution, or of two.
        names: what the distributions are called.
        dims: how many dimensions of an index tell curves of one picture apart.
    """
    sizes = [len(group) for group in groups]
    curves = []
    for turn, (group, name) in enumerate(zip(groups, names, strict=False)):
        for at, series in enumerate(group[:MOST]):
            index = name_entry(series.index[:dims]) if len(group) > 1 else ""
            # A target has the colours of what it is compared with, and one line in the legend.
            label = name if turn and not at else "" if turn else f"{name}{index}"
            curves.append((series, Look(label, *_look(at, turn, sizes))))
    return curves


def _look(at: int, turn: int, sizes: Sequence[int]) -> tuple[str, str]:
    """The colour and the line style of a curve.

    Args:
        at: the place of the curve among those of its distribution.
        turn: 0 for the distribution, 1 for what it is compared with.
        sizes: how many curves each has.
    """
    if len(sizes) == 1:
        return next(itertools.islice(looks(), at, None))
    if sizes[0] == 1:
        return COLORS[(turn + at) % len(COLORS)], STYLES[turn]
    color = LONE if sizes[turn] == 1 else COLORS[at % len(COLORS)]
    return color, STYLES[turn]


def _sites_to_compare(source: Source, target: Source) -> dict[str, Site]:
    """The sites of a target that the source has, too."""
    both = {name: site for name, site in target.sites.items() if name in source.sites}
    if not both:
        raise DeclarationError(
            "plot(against=)",
            f"sites among {', '.join(source.sites)}",
            ", ".join(name or "a distribution without sites" for name in target.sites),
            did_you_mean(next(iter(target.sites)), source.sites),
            code="wrong-shape",
        )
    for name, site in both.items():
        _check_same_event(source.sites[name], site, name)
    return both


def _site_to_compare(source: Source, target: Source) -> Site:
    """The one site of a target, which has events of the same shape."""
    if target.is_joint:
        raise DeclarationError(
            "plot(against=)",
            f"a distribution, as {source.name} is",
            f"sites: {', '.join(target.sites)}",
            "Give one of them.",
            code="wrong-shape",
        )
    own, site = source.sites[""], target.sites[""]
    if site.distribution is None:  # draws, in which batch and event can't be told apart
        event_dim = min(own.event_dim, len(site.shape))
        site = Site(None, site.draws, event_dim, site.is_discrete or own.is_discrete)
    _check_same_event(own, site, source.name)
    return site


def _check_same_event(site: Site, other: Site, name: str) -> None:
    if other.distribution is None and other.shape in (site.shape, site.event):
        return
    if site.event != other.event:
        raise DeclarationError(
            "plot(against=)",
            f"events of shape {tuple(site.event)}, as {name} has",
            f"events of shape {tuple(other.event)}",
            code="wrong-shape",
        )


def _draw_legend(axes: Axes, count: int, most: int, *, above: bool = False) -> None:
    title = f"{most} of {count}" if count > most else None
    size = "small" if len(axes.get_legend_handles_labels()[1]) <= 4 else "x-small"
    place: Any = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0)} if above else {}
    legend = axes.legend(title=title, fontsize=size, title_fontsize=size, frameon=False, **place)
    legend.set_in_layout(above)  # inside, many names would leave no room for the picture

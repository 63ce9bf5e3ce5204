"""Distributions as pictures: which axes there are, and what is drawn in each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from declarative_dist.display.contours import MOST as MOST_PAIRS
from declarative_dist.display.contours import Pair, draw_pairs, first_of, is_of_pairs
from declarative_dist.display.curves import Curve, draw_curves
from declarative_dist.display.looks import COLORS, LONE, MOST, PANELS, STYLES, grid_of_axes, looks
from declarative_dist.display.series import Series
from declarative_dist.display.sources import Site, Source, source_of
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
    if source.is_joint:
        return _plot_joint(source, target, ax)
    if target is not None:
        target = _matched(source, target)
    site, other = source.sites[""], None if target is None else target.sites[""]
    names = [source.name] if target is None else [f"q: {source.name}", f"target: {target.name}"]
    if site.event == (2,) and _is_pair(site) and (other is None or _is_pair(other)):
        (axes,) = grid_of_axes(1, ax)
        _draw_plane(axes, [each for each in (site, other) if each is not None], names)
        return axes
    return _plot_entries(site, other, names, ax)


def _is_pair(site: Site) -> bool:
    if site.draws is None or site.event != (2,):
        return False
    return site.distribution is None or is_of_pairs(site.distribution)


def _draw_plane(axes: Axes, sites: Sequence[Site], names: Sequence[str]) -> None:
    """Pairs as contours in one picture, those of a target dashed."""
    groups = [first_of(site.batch) for site in sites]
    sizes = [len(group) for group in groups]
    pairs = []
    for turn, (site, group, name) in enumerate(zip(sites, groups, names, strict=True)):
        draws: Any = site.draws
        for at, index in enumerate(group):
            color, style = _look(at, turn, sizes)
            label = f"{name}{_bracketed(index)}"
            filled = sizes[0] == 1 and not turn
            pairs.append(Pair(site.distribution, draws, index, label, color, style, filled))
    draw_pairs(axes, pairs, ("value[0]", "value[1]"))
    _legend(axes, sites[0].batch.numel(), MOST_PAIRS, above=True)


def _plot_entries(
    site: Site, other: Site | None, names: Sequence[str], ax: Any
) -> Axes | tuple[Axes, ...]:
    """One picture for each entry of an event, with a curve for each of the batch."""
    of_site = _by_entry(site)
    of_other = {} if other is None else _by_entry(other)
    axes = grid_of_axes(len(of_site), ax)
    for at, (each, entry) in enumerate(zip(axes, of_site, strict=True)):
        groups = [group for group in (of_site[entry], of_other.get(entry)) if group]
        curves = _curves(groups, names, len(site.batch))
        draw_curves(each, curves, f"value{_bracketed(entry)}")
        if not at or any(curve.series.is_point for curve in curves):
            _legend(each, site.batch.numel(), MOST)
    if site.event.numel() > PANELS:
        axes[-1].set_title(f"{PANELS} of {site.event.numel()}", fontsize="small")
    return axes if len(axes) > 1 else next(iter(axes))


def _by_entry(site: Site) -> dict[tuple[int, ...], list[Series]]:
    """The numbers of a site by their place in the event, in the order of the batch."""
    found: dict[tuple[int, ...], list[Series]] = {}
    for series in site.series():
        found.setdefault(series.index[len(site.batch) :], []).append(series)
    return found


def _curves(groups: Sequence[Sequence[Series]], names: Sequence[str], dims: int) -> list[Curve]:
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
            index = _bracketed(series.index[:dims]) if len(group) > 1 else ""
            # A target has the colours of what it is compared with, and one line in the legend.
            label = name if turn and not at else "" if turn else f"{name}{index}"
            curves.append(Curve(series, label, *_look(at, turn, sizes)))
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
    if sizes[turn] == 1:
        return LONE, STYLES[turn]
    return COLORS[at % len(COLORS)], STYLES[turn]


def _plot_joint(source: Source, target: Source | None, ax: Any) -> tuple[Axes, ...]:
    """One picture for each site, with a curve for each of its numbers."""
    others = {} if target is None else _named_sites(source, target)
    names = [] if target is None else [f"q: {source.name}", f"target: {target.name}"]
    axes = grid_of_axes(len(source.sites), ax)
    is_told = False
    for each, (name, site) in zip(axes, source.sites.items(), strict=True):
        groups = [group for group in (site.series(), _series_in(others, name)) if group]
        is_one = len(groups[0]) == 1
        labels = names if names and is_one else [name, *names[1:]]
        draw_curves(each, _curves(groups, labels, len(site.shape)), name)
        if not is_one or (len(groups) > 1 and not is_told):
            _legend(each, site.shape.numel(), MOST)
            is_told = is_told or is_one
    return axes


def _series_in(sites: Mapping[str, Site], name: str) -> list[Series]:
    return sites[name].series() if name in sites else []


def _named_sites(source: Source, target: Source) -> dict[str, Site]:
    common = {name: site for name, site in target.sites.items() if name in source.sites}
    if not common:
        known = ", ".join(name or "a distribution without sites" for name in target.sites)
        raise DeclarationError(
            "plot(against=)",
            f"sites among {', '.join(source.sites)}",
            known,
            did_you_mean(next(iter(target.sites)), source.sites),
            code="wrong-shape",
        )
    for name, site in common.items():
        _check_same_event(source.sites[name], site, name)
    return common


def _matched(source: Source, target: Source) -> Source:
    """The target, found to have events as the source has."""
    if target.is_joint:
        raise DeclarationError(
            "plot(against=)",
            f"a distribution, as {source.name} is",
            f"sites: {', '.join(target.sites)}",
            "Give one of them.",
            code="wrong-shape",
        )
    site = target.sites[""]
    if site.distribution is None:  # draws, in which batch and event can't be told apart
        own = source.sites[""]
        dims = min(own.event_dim, len(site.shape))
        site = Site(None, site.draws, dims, site.is_discrete or own.is_discrete)
        target = Source(target.name, {"": site})
    _check_same_event(source.sites[""], site, source.name)
    return target


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


def _bracketed(index: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, index))}]" if index else ""


def _legend(axes: Axes, count: int, most: int, *, above: bool = False) -> None:
    title = f"{most} of {count}" if count > most else None
    size = "small" if len(axes.get_legend_handles_labels()[1]) <= 4 else "x-small"
    place: Any = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0)} if above else {}
    legend = axes.legend(title=title, fontsize=size, title_fontsize=size, frameon=False, **place)
    legend.set_in_layout(above)  # inside, many names would leave no room for the picture

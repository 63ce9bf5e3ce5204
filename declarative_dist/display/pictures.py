"""Distributions as pictures: which axes there are, and what is drawn in each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from declarative_dist.display.contours import MOST as MOST_PAIRS
from declarative_dist.display.contours import draw_pair, has_pairs, reaches_of
from declarative_dist.display.curves import Curves, Reach, draw_curves, view_of
from declarative_dist.display.looks import MOST, PANELS, add_legend, axes_on, look_of
from declarative_dist.display.series import Series, Site, first
from declarative_dist.display.sources import Source, source_of
from declarative_dist.errors import DeclarationError, did_you_mean
from declarative_dist.words import name_entry

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Panel(NamedTuple):
    """One picture of curves.

    Args:
        name: of the number, below the picture.
        groups: the numbers of one distribution, or of two.
        labels: what the distributions are called.
        shape: of the curves that there would be, if there were room for all.
    """

    name: str
    groups: Sequence[Sequence[Series]]
    labels: Sequence[str]
    shape: torch.Size


def plot_distribution(given: Any, against: Any, ax: Any) -> Axes | tuple[Axes, ...]:
    """Draw a distribution, and another over it.

    Args:
        given: what to draw.
        against: what to compare it with, or None.
        ax: where to draw; None for a new figure.
    """
    source = source_of(given, "plot")
    names, others = [source.name], {}
    if against is not None:
        target = source_of(against, "plot(against=)")
        names = [f"q: {source.name}", f"target: {target.name}"]
        others = _sites_to_compare(source, target)
    if source.is_joint:
        return _draw_panels(_panels_of_sites(source, others, names), ax)
    sites = [source.sites[""], *others.values()]
    if all(map(has_pairs, sites)):
        return _draw_plane(sites, names, ax)
    axes = _draw_panels(_panels_of_entries(sites, names), ax)
    if (total := sites[0].event.numel()) > PANELS:
        axes[-1].set_title(f"{PANELS} of {total}", fontsize="small")
    return axes if len(axes) > 1 else next(iter(axes))


def _sites_to_compare(source: Source, target: Source) -> dict[str, Site]:
    """The sites of a target that the source has, too, with events of the same shape."""
    subject = "plot(against=)"
    both = {name: site for name, site in target.sites.items() if name in source.sites}
    if not both:
        names = [name or "a distribution without sites" for name in target.sites]
        expected, fix = f"a distribution, as {source.name} is", "Give one of its sites."
        if source.is_joint:
            expected = f"sites among {', '.join(source.sites)}"
            fix = did_you_mean(names[0], source.sites)
        raise DeclarationError(subject, expected, ", ".join(names), fix, code="wrong-shape")
    for name, site in both.items():
        own, are_draws = source.sites[name], site.distribution is None
        if are_draws and not name:  # what is batch and what is event, draws don't say
            known = min(own.event_dim, len(site.shape)), site.is_discrete or own.is_discrete
            both[name] = site = Site(None, *known, site.draws)
        if site.event != own.event and not (are_draws and site.shape in (own.shape, own.event)):
            expected = f"events of shape {tuple(own.event)}, as {name or source.name} has"
            got = f"events of shape {tuple(site.event)}"
            raise DeclarationError(subject, expected, got, code="wrong-shape")
    return both


def _panels_of_sites(source: Source, others: dict[str, Site], names: Sequence[str]) -> list[Panel]:
    """One picture for each site, with a curve for each of its numbers."""
    panels = []
    for name, site in source.sites.items():
        groups = [each.series() for each in (site, others.get(name)) if each is not None]
        is_compared = len(groups[0]) == 1 and len(groups) > 1
        labels = names if is_compared else [name, *names[1:]]
        panels.append(Panel(name, groups, labels, site.shape))
    return panels


def _panels_of_entries(sites: Sequence[Site], names: Sequence[str]) -> list[Panel]:
    """One picture for each entry of an event, with a curve for each of the batch."""
    found = [(len(site.batch), site.series()) for site in sites]
    panels = []
    for entry in first(sites[0].event, PANELS):
        groups = [[one for one in every if one.index[batch:] == entry] for batch, every in found]
        name = f"value{name_entry(entry)}"
        panels.append(Panel(name, [group for group in groups if group], names, sites[0].batch))
    return panels


def _draw_panels(panels: Sequence[Panel], ax: Any) -> tuple[Axes, ...]:
    """Draw each picture, with a legend where it has a name that no other one told."""
    drawn = _make_axes(len(panels), ax)
    seen: set[str] = set()
    for axes, panel in zip(drawn, panels, strict=True):
        curves = _curves(panel)
        draw_curves(axes, curves, panel.name)
        if not seen.union([panel.name]).issuperset(axes.get_legend_handles_labels()[1]):
            add_legend(axes, _count(MOST, panel.shape), is_ours=ax is None)
        seen.update(look.label for _, look in curves)
    return drawn


def _curves(panel: Panel) -> Curves:
    sizes = [len(group) for group in panel.groups]
    curves = []
    for turn, (group, name) in enumerate(zip(panel.groups, panel.labels, strict=False)):
        for at, series in enumerate(group[:MOST]):
            index = name_entry(series.index[: len(panel.shape)]) if len(group) > 1 else ""
            # A target has the colours of what it is compared with, and one line in the legend.
            label = name if turn and not at else "" if turn else f"{name}{index}"
            curves.append((series, look_of(label, at, turn, sizes)))
    return curves


def _draw_plane(sites: Sequence[Site], names: Sequence[str], ax: Any) -> Axes:
    """Draw pairs as contours in one picture, those of a target dashed."""
    (axes,) = _make_axes(1, ax)
    groups = [list(first(site.batch, MOST_PAIRS)) for site in sites]
    sizes = [len(group) for group in groups]
    reaches: list[list[Reach]] = []
    for turn, (site, group, name) in enumerate(zip(sites, groups, names, strict=True)):
        reaches += (reaches_of(site, index) for index in group)
        for at, index in enumerate(group):
            look = look_of(f"{name}{name_entry(index)}", at, turn, sizes)
            draw_pair(axes, site, index, look, is_filled=sizes[0] == 1 and not turn)
    are_targets = [at >= sizes[0] for at in range(len(reaches))]
    for axis, own in zip("xy", zip(*reaches, strict=True), strict=True):
        left, right = view_of(own, are_targets)
        margin = 0.05 * (right - left) or 0.5
        axes.set(**{f"{axis}lim": (left - margin, right + margin)})
    axes.set(xlabel="value[0]", ylabel="value[1]")
    add_legend(axes, _count(MOST_PAIRS, sites[0].batch), is_ours=ax is None)
    return axes


def _count(most: int, shape: torch.Size) -> str | None:
    """What to say where there are more curves than are drawn."""
    return f"{most} of {shape.numel()}" if shape.numel() > most else None


def _make_axes(count: int, ax: Any) -> tuple[Axes, ...]:
    """The axes for some pictures, in rows of two or three."""
    columns = 2 if count == 4 else min(count, 3)
    rows = math.ceil(count / columns)
    size = (5.4, 3.6) if count == 1 else (3.0 * columns + 0.4, 2.5 * rows + 0.2)
    expected = "one axes" if count == 1 else f"{count} axes, one for each picture"
    return axes_on(ax, (count,), expected, (rows, columns), figsize=size, layout="constrained")

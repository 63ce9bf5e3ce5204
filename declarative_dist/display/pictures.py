"""Distributions as pictures: which axes there are, and what is drawn in each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from declarative_dist.display.contours import draw_pair
from declarative_dist.display.curves import Curve, draw_curves, view_of
from declarative_dist.display.looks import add_legend, axes_on, look_of
from declarative_dist.display.sites import Index, Site, Source, first, source_of
from declarative_dist.errors import DeclarationError
from declarative_dist.words import name_entry

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 8
"""How many curves one picture has."""

MOST_PAIRS = 4
"""How many pairs one picture has."""

PANELS = 12
"""How many pictures there are of the entries of one event."""


class Panel(NamedTuple):
    """One picture of curves.

    Args:
        name: of the number, below the picture.
        groups: the numbers of one distribution, or of two: of a site, by their indices.
        labels: what the distributions are called.
        shape: of the curves that there would be, if there were room for all.
    """

    name: str
    groups: Sequence[tuple[Site, list[Index]]]
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
    pairs = {n: [s, *([others[n]] if n in others else [])] for n, s in source.sites.items()}
    if "" not in pairs:
        return _draw_panels([_panel_of_site(n, sites, names) for n, sites in pairs.items()], ax)
    sites = pairs[""]
    if all(site.is_pair for site in sites):
        return _draw_plane(sites, names, ax)
    axes = _draw_panels(_panels_of_entries(sites, names), ax)
    if (total := sites[0].event.numel()) > PANELS:
        axes[-1].set_title(f"{PANELS} of {total}", fontsize="small")
    return axes if len(axes) > 1 else axes[0]


def _sites_to_compare(source: Source, target: Source) -> dict[str, Site]:
    """The sites of a target that the source has, too, with events of the same shape."""
    subject = "plot(against=)"
    both = {name: site for name, site in target.sites.items() if name in source.sites}
    if not both:
        names = ", ".join(source.sites) or f"no sites, as {source.name} has"
        got = ", ".join(target.sites) or "a distribution without sites"
        raise DeclarationError(subject, f"sites among {names}", got, code="wrong-shape")
    for name, site in both.items():
        own = source.sites[name]
        if site.density is None:  # what is batch and what is event, draws don't say
            both[name] = site = replace(site, event_dim=min(own.event_dim, len(site.shape)))
        if site.event != own.event or (site.density is None and site.batch not in ((), own.batch)):
            expected = f"events of shape {tuple(own.event)}, as {name or source.name} has"
            got = f"events of shape {tuple(site.batch + site.event)}"
            raise DeclarationError(subject, expected, got, code="wrong-shape")
    return both


def _panel_of_site(name: str, sites: Sequence[Site], names: Sequence[str]) -> Panel:
    """The picture of a site, with a curve for each of its numbers."""
    groups = [(site, list(first(site.shape, MOST))) for site in sites]
    is_compared = len(groups[0][1]) == 1 and len(groups) > 1
    return Panel(name, groups, names if is_compared else [name, *names[1:]], sites[0].shape)


def _panels_of_entries(sites: Sequence[Site], names: Sequence[str]) -> list[Panel]:
    """One picture for each entry of an event, with a curve for each of the batch."""
    return [
        Panel(
            f"value{name_entry(entry)}",
            [(site, [(*copy, *entry) for copy in first(site.batch, MOST)]) for site in sites],
            names,
            sites[0].batch,
        )
        for entry in first(sites[0].event, PANELS)
    ]


def _draw_panels(panels: Sequence[Panel], ax: Any) -> tuple[Axes, ...]:
    """Draw each picture, with a legend where it has a name that no other one told."""
    drawn = _make_axes(len(panels), ax)
    seen: set[str] = set()
    for axes, panel in zip(drawn, panels, strict=True):
        curves = _curves(panel)
        draw_curves(axes, curves, panel.name)
        if not seen.union([panel.name]).issuperset(axes.get_legend_handles_labels()[1]):
            add_legend(axes, _count(MOST, panel.shape), is_ours=ax is None)
        seen.update(curve.look.label for curve in curves)
    return drawn


def _curves(panel: Panel) -> list[Curve]:
    sizes = [len(indices) for _, indices in panel.groups]
    curves = []
    for turn, ((site, indices), name) in enumerate(zip(panel.groups, panel.labels, strict=False)):
        for at, index in enumerate(indices):
            entry = name_entry(index[: len(panel.shape)]) if len(indices) > 1 else ""
            # A target has the colours of what it is compared with, and one line in the legend.
            label = f"{name}{entry}" if not turn else name if not at else ""
            look = look_of(label, at, turn, sizes)
            score = partial(site.score, index=index)
            curves.append(Curve(look, site.column(index), site.is_discrete, score))
    return curves


def _draw_plane(sites: Sequence[Site], names: Sequence[str], ax: Any) -> Axes:
    """Draw pairs as contours in one picture, those of a target dashed."""
    (axes,) = _make_axes(1, ax)
    groups = [list(first(site.batch, MOST_PAIRS)) for site in sites]
    sizes, reaches, are_targets = [len(group) for group in groups], [], []
    for turn, (site, group, name) in enumerate(zip(sites, groups, names, strict=True)):
        for at, index in enumerate(group):
            look = look_of(f"{name}{name_entry(index)}", at, turn, sizes)
            is_filled = sizes[0] == 1 and not turn
            reaches.append(draw_pair(axes, site, index, look, is_filled=is_filled))
            are_targets.append(look.is_target)
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
    return axes_on(ax, (count,), expected, (rows, columns), figsize=size)

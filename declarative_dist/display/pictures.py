"""Distributions as pictures: which axes there are, and what is drawn in each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from declarative_dist.display.contours import draw_pair
from declarative_dist.display.curves import Curve, draw_curves, view_of
from declarative_dist.display.looks import Look, add_legend, axes_on, look_of
from declarative_dist.display.sites import Index, Site, first, source_of
from declarative_dist.errors import DeclarationError
from declarative_dist.words import name_entry

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 8
"""How many curves one picture has."""

MOST_PAIRS = 4
"""How many pairs one picture has."""


def plot_distribution(given: Any, against: Any, ax: Any) -> Axes | tuple[Axes, ...]:
    """Draw a distribution, and another over it.

    Args:
        given: what to draw.
        against: what to compare it with, or None.
        ax: where to draw; None for a new figure.
    """
    name, sites = source_of(given, "plot")
    names, groups = [name], {n: [site] for n, site in sites.items()}
    if against is not None:
        target, others = source_of(against, "plot(against=)")
        names = [f"q: {name}", f"target: {target}"]
        for n, site in _sites_to_compare(name, sites, others).items():
            groups[n].append(site)
    count = len(groups)
    columns = 2 if count == 4 else min(count, 3)
    rows = math.ceil(count / columns)
    size = (5.4, 3.6) if count == 1 else (3.0 * columns + 0.4, 2.5 * rows + 0.2)
    axes = axes_on(ax, (count,), (rows, columns), figsize=size)
    if "" in groups and all(site.is_pair for site in groups[""]):
        _draw_plane(axes[0], groups[""], names)
        add_legend(axes[0], MOST_PAIRS, groups[""][0].batch.numel(), is_ours=ax is None)
        return axes[0]
    seen: set[str] = set()
    for own, (site_name, group) in zip(axes, groups.items(), strict=True):
        shape = group[0].shape
        is_one = not site_name or (shape.numel() == 1 and len(group) > 1)
        labels = names if is_one else [site_name, *names[1:]]
        curves = [
            Curve(look, site.column(index), site.is_discrete, partial(site.score, index=index))
            for site, index, look in _numbers(group, MOST, labels, event_dim=0)
        ]
        draw_curves(own, curves, site_name or "value")
        # A legend where it has a name that no other one told.
        if not seen.union([site_name]).issuperset(own.get_legend_handles_labels()[1]):
            add_legend(own, MOST, shape.numel(), is_ours=ax is None)
        seen.update(curve.look.label for curve in curves)
    return axes[0] if "" in groups else axes


def _sites_to_compare(
    name: str, sites: Mapping[str, Site], others: Mapping[str, Site]
) -> dict[str, Site]:
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


def _numbers(
    group: Sequence[Site], most: int, names: Sequence[str], *, event_dim: int
) -> Iterator[tuple[Site, Index, Look]]:
    """The numbers, or the events, of one picture, and how they look.

    Args:
        group: a site, and its target if there is one.
        most: how many of each there may be.
        names: what both are called.
        event_dim: 0 for numbers, 1 for pairs.
    """
    shapes = [site.shape[: len(site.shape) - event_dim] for site in group]
    sizes = [min(shape.numel(), most) for shape in shapes]
    for turn, (site, shape, name) in enumerate(zip(group, shapes, names, strict=False)):
        for at, index in enumerate(first(shape, most)):
            entry = name_entry(index) if sizes[turn] > 1 else ""
            # A target has the colours of what it is compared with, and one line in the legend.
            label = f"{name}{entry}" if not turn else name if not at else ""
            yield site, index, look_of(label, at, turn, sizes)


def _draw_plane(axes: Axes, group: Sequence[Site], names: Sequence[str]) -> None:
    """Draw pairs as contours in one picture, a target's dashed."""
    numbers = list(_numbers(group, MOST_PAIRS, names, event_dim=1))
    is_alone = group[0].batch.numel() == 1
    reaches = [
        draw_pair(axes, site, index, look, is_filled=is_alone and not look.is_target)
        for site, index, look in numbers
    ]
    for axis, own in zip("xy", zip(*reaches, strict=True), strict=True):
        left, right = view_of(own, [look.is_target for _, _, look in numbers])
        margin = 0.05 * (right - left) or 0.5
        axes.set(**{f"{axis}lim": (left - margin, right + margin)})
    axes.set(xlabel="value[0]", ylabel="value[1]")

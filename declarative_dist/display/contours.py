"""Distributions of pairs, as contours around most of their mass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from declarative_dist.display.curves import Reach, reach_of
from declarative_dist.display.looks import Look
from declarative_dist.display.marginals import one_of
from declarative_dist.display.series import Index, Site, column, score_of
from declarative_dist.errors import DeclarationError
from declarative_dist.plain.supports import ends_of, entries_of, support_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARES = (0.5, 0.8, 0.95)
"""The shares of the mass that contours hold."""

MOST = 4
"""How many pairs one picture has."""

_SIDE = 121
_MOST_DOTS = 500


def has_pairs(site: Site) -> bool:
    """Whether a site has draws of pairs, and a density over the plane, or over a box in it."""
    if site.draws is None or site.event != (2,):
        return False
    if site.distribution is None:
        return True
    try:
        ends = ends_of(entries_of(support_of(site.distribution)))
    except NotImplementedError:
        return True
    return ends is not None and not site.is_discrete


def draw_pair(axes: Axes, site: Site, index: Index, look: Look, *, is_filled: bool) -> None:
    """Draw the contours of one pair of a batch, or dots where only draws are known.

    Args:
        axes: where to draw.
        site: events of shape `(2,)`, or draws of such.
        index: which of the batch.
        look: of its lines.
        is_filled: whether the surface inside is tinted.
    """
    draws: Any = site.draws
    one = None if site.distribution is None else one_of(site.distribution, index)
    if one is None:
        left, up = (column(draws[:_MOST_DOTS], (*index, at)).tolist() for at in (0, 1))
        axes.scatter(left, up, s=8, color=look.color, alpha=0.5, linewidths=0, label=look.label)
        return
    sides = _sides(reaches_of(site, index))
    heights = score_of(one, draws[0][index])(torch.cartesian_prod(*sides))
    heights = heights.exp().nan_to_num(0.0, 0.0, 0.0).reshape(_SIDE, _SIDE)
    if not (heights > 0).any():
        raise DeclarationError("plot", "a density over the plane", "none in reach of its draws")
    cell = math.prod(float(side[1] - side[0]) for side in sides)
    levels = levels_of(heights, cell)
    where = [*(side.tolist() for side in sides), heights.T.tolist()]
    if is_filled:
        top = float(heights.max()) * 1.01
        axes.contourf(*where, levels=[*levels, top], colors=[look.color], alpha=0.15)
    line: dict[str, Any] = {f"{name}s": [value] for name, value in look.line.items()}
    axes.contour(*where, levels=levels, **line)
    shares = ", ".join(f"{share:.0%}" for share in SHARES)
    axes.plot([], [], label=f"{look.label} ({shares} inside)".strip(), **look.line)


def levels_of(heights: Tensor, cell: float) -> list[float]:
    """The densities around which the regions of highest density hold the shares of the mass.

    Args:
        heights: the density at the points of a grid.
        cell: the surface of one cell.
    """
    ordered = heights.flatten().sort(descending=True).values
    mass = (ordered * cell).cumsum(0)
    wanted = torch.tensor(SHARES).to(mass).clamp_max(0.999 * mass[-1])
    at = torch.searchsorted(mass, wanted).clamp_max(len(ordered) - 1)
    # Contours need different levels, which few or flat cells do not give.
    levels: list[float] = ordered[at].unique().tolist()
    return levels


def reaches_of(site: Site, index: Index) -> list[Reach]:
    """The ranges of both numbers of a pair."""
    found = {series.index: series for series in site.series()}
    return [reach_of(found[(*index, at)]) for at in (0, 1)]


def _sides(reaches: Sequence[Reach]) -> list[Tensor]:
    """The points along both axes, a little inside of the ends."""
    sides = []
    for left, right in reaches:
        nudge = 1e-3 * (right - left) or -1e-6 * max(abs(left), 1e-30)
        sides.append(torch.linspace(left + nudge, right - nudge, _SIDE, dtype=torch.float64))
    return sides

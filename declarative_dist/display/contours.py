"""Distributions of pairs, as contours around most of their mass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from declarative_dist.display.curves import reach_of
from declarative_dist.display.looks import WIDTH
from declarative_dist.display.series import Index, Site, column, log_densities
from declarative_dist.errors import DeclarationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARES = (0.5, 0.8, 0.95)
"""The shares of the mass that contours hold."""

MOST = 4
"""How many pairs one picture has."""

_SIDE = 121
_MOST_POINTS = 4_000_000
_MOST_DOTS = 500


@dataclass(frozen=True)
class Pair:
    """The distribution of a pair, in a batch of such.

    Args:
        site: events of shape `(2,)`, or draws of such.
        index: which of the batch it is.
        label: its name.
        color: of its contours.
        style: of its lines.
        filled: whether the surface inside is tinted.
    """

    site: Site
    index: Index
    label: str
    color: str
    style: str
    filled: bool = False


def has_pairs(site: Site) -> bool:
    """Whether a site has draws of pairs, and a density over the plane, or over a box in it."""
    if site.draws is None or site.event != (2,):
        return False
    try:
        support: Any = None if site.distribution is None else site.distribution.support
    except NotImplementedError:
        return True
    if isinstance(support, constraints.MixtureSameFamilyConstraint):
        support = support.base_constraint
    if support is None or support.is_discrete:
        return site.distribution is None
    base = getattr(support, "base_constraint", support)
    return support.event_dim == 1 and base.event_dim == 0 and base is not support


def draw_pairs(axes: Axes, pairs: Sequence[Pair], names: tuple[str, str]) -> None:
    """Draw the contours of all pairs into one picture, or dots where only draws are known."""
    for pair in pairs:
        if pair.site.distribution is not None:
            _draw_contours(axes, pair, pair.site.distribution)
            continue
        draws: Any = pair.site.draws
        left, up = (column(draws[:_MOST_DOTS], (*pair.index, at)) for at in (0, 1))
        axes.scatter(
            left.tolist(),
            up.tolist(),
            s=8,
            color=pair.color,
            alpha=0.5,
            linewidths=0,
            label=pair.label,
        )
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])


def _draw_contours(axes: Axes, pair: Pair, distribution: Distribution) -> None:
    sides = _sides(pair, distribution)
    corners = torch.cartesian_prod(*sides)
    draw: Any = pair.site.draws
    found = log_densities(distribution, pair.index, corners, draw[0].detach())
    heights = found.exp().nan_to_num(0.0, 0.0, 0.0).reshape(len(sides[0]), len(sides[1]))
    if not (heights > 0).any():
        raise DeclarationError("plot", "a density over the plane", "none in reach of its draws")
    cell = math.prod(float(side[1] - side[0]) for side in sides)
    levels = levels_of(heights, cell)
    where = [*(side.tolist() for side in sides), heights.T.tolist()]
    if pair.filled:
        top = float(heights.max()) * 1.01
        axes.contourf(*where, levels=[*levels, top], colors=[pair.color], alpha=0.15)
    axes.contour(
        *where, levels=levels, colors=[pair.color], linestyles=[pair.style], linewidths=WIDTH
    )
    shares = ", ".join(f"{share:.0%}" for share in SHARES)
    label = f"{pair.label} ({shares} inside)".strip()
    axes.plot([], [], pair.style, color=pair.color, linewidth=WIDTH, label=label)


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


def _sides(pair: Pair, distribution: Distribution) -> list[Tensor]:
    """The points along both axes: fewer where every point is one of all copies."""
    copies = distribution.batch_shape.numel()
    count = max(31, min(_SIDE, int((_MOST_POINTS / copies) ** 0.5)))
    found = {series.index: series for series in pair.site.series()}
    sides = []
    for at in (0, 1):
        left, right = reach_of(found[(*pair.index, at)])
        nudge = 1e-3 * (right - left) or 1e-6 * max(abs(left), 1e-30)
        inwards = nudge if right > left else -nudge
        sides.append(torch.linspace(left + inwards, right - inwards, count, dtype=torch.float64))
    return sides

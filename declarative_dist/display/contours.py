"""Distributions of pairs, as contours around most of their mass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from declarative_dist.display.curves import Reach, reach_of, view_of
from declarative_dist.display.looks import Look
from declarative_dist.display.sites import Marginal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARES = (0.5, 0.8, 0.95)
"""The shares of the mass that contours hold."""

_SIDE = 101
_MOST_DOTS = 500


def draw_plane(axes: Axes, pairs: Sequence[tuple[Marginal, Look]], *, is_filled: bool) -> None:
    """Draw pairs into one picture: contours, or dots where no density is known."""
    reaches = [
        _draw_pair(axes, site, look, is_filled=is_filled and not look.is_target)
        for site, look in pairs
    ]
    for axis, own in zip("xy", zip(*reaches, strict=True), strict=True):
        left, right = view_of(own, [look for _, look in pairs])
        margin = 0.05 * (right - left) or 0.5
        axes.set(**{f"{axis}lim": (left - margin, right + margin)})
    axes.set(xlabel="value[0]", ylabel="value[1]")


def _draw_pair(axes: Axes, site: Marginal, look: Look, *, is_filled: bool) -> tuple[Reach, Reach]:
    """Draw one pair, and return the ranges of both numbers."""
    left, up = site.column(0), site.column(1)
    reaches = reach_of(left), reach_of(up)
    sides = [torch.linspace(low, high, _SIDE, dtype=torch.float64) for low, high in reaches]
    scores = site.score(torch.cartesian_prod(*sides))
    if scores is None:
        dots: Any = {"s": 8, "color": look.color, "alpha": 0.5, "linewidths": 0}
        axes.scatter(left[:_MOST_DOTS], up[:_MOST_DOTS], label=look.label, **dots)
        return reaches
    heights = scores.exp().nan_to_num(0.0, 0.0).reshape(_SIDE, _SIDE)
    ordered = heights.flatten().sort(descending=True).values
    mass = ordered.cumsum(0) * math.prod(float(side[1] - side[0]) for side in sides)
    wanted = torch.tensor(SHARES, dtype=torch.float64).clamp_max(0.999 * float(mass[-1]))
    # Contours need different levels, which few or flat cells do not give.
    levels = ordered[torch.searchsorted(mass, wanted)].unique().tolist()
    where = [*(side.tolist() for side in sides), heights.T.tolist()]
    if is_filled:
        top = float(heights.max()) * 1.01
        axes.contourf(*where, levels=[*levels, top], colors=[look.color], alpha=0.15)
    line: dict[str, Any] = {f"{name}s": [value] for name, value in look.line.items()}
    axes.contour(*where, levels=levels, **line)
    shares = ", ".join(f"{share:.0%}" for share in SHARES)
    axes.plot([], [], label=f"{look.label} ({shares} inside)", **look.line)
    return reaches

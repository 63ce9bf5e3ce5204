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
from declarative_dist.display.series import column, entries, series_of
from declarative_dist.errors import DeclarationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARES = (0.5, 0.8, 0.95)
"""The shares of the mass that contours hold."""

MOST = 4
"""How many pairs one picture has."""

_SIDE = 121
_MOST_POINTS = 4_000_000


@dataclass(frozen=True)
class Pair:
    """The distribution of a pair, in a batch of such.

    Args:
        distribution: of events of shape `(2,)`; None where only draws are known.
        draws: of shape `(n, *batch, 2)`.
        index: which of the batch it is.
        label: its name.
        color: that of its contours.
        style: the style of its lines.
        filled: whether the surface inside is tinted.
    """

    distribution: Distribution | None
    draws: Tensor
    index: tuple[int, ...]
    label: str
    color: str
    style: str
    filled: bool = False


def is_of_pairs(distribution: Distribution) -> bool:
    """Whether a distribution has a density over the plane, or over a box in it."""
    if distribution.event_shape != (2,):
        return False
    try:
        support: Any = distribution.support
    except NotImplementedError:
        return True
    if isinstance(support, constraints.MixtureSameFamilyConstraint):
        support = support.base_constraint
    if support is None or support.is_discrete:
        return False
    base = getattr(support, "base_constraint", support)
    return support.event_dim == 1 and base.event_dim == 0 and base is not support


def draw_pairs(axes: Axes, pairs: Sequence[Pair], names: tuple[str, str]) -> None:
    """Draw the contours of all pairs into one picture."""
    for pair in pairs:
        if pair.distribution is None:
            first, second = (column(pair.draws, (*pair.index, at)) for at in (0, 1))
            few = slice(0, 500)
            axes.scatter(
                first[few].tolist(),
                second[few].tolist(),
                s=8,
                color=pair.color,
                alpha=0.5,
                linewidths=0,
                label=pair.label,
            )
            continue
        _draw_contours(axes, pair)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])


def _draw_contours(axes: Axes, pair: Pair) -> None:
    sides = _sides(pair)
    heights = _heights(pair, sides)
    if not (heights > 0).any():
        raise DeclarationError("plot", "a density over the plane", "none in reach of its draws")
    levels = levels_of(heights, _cell(sides))
    grid = [side.tolist() for side in sides]
    rows = heights.T.tolist()
    if pair.filled:
        axes.contourf(
            *grid, rows, levels=[*levels, float(heights.max()) * 1.01], colors=[pair.color],
            alpha=0.15,
        )  # fmt: skip
    axes.contour(
        *grid, rows, levels=levels, colors=[pair.color], linestyles=[pair.style], linewidths=WIDTH
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
    levels = []
    for share in SHARES:
        at = min(int((mass < min(share, 0.999 * float(mass[-1]))).sum()), len(ordered) - 1)
        levels.append(float(ordered[at]))
    rising = sorted(levels)
    # Contours need different levels, which few or flat cells do not give.
    return [level for at, level in enumerate(rising) if not at or level > rising[at - 1]]


def _sides(pair: Pair) -> list[Tensor]:
    """The points along both axes."""
    distribution: Any = pair.distribution
    side = _side(distribution.batch_shape.numel())
    found = {series.index: series for series in series_of(distribution, pair.draws)}
    sides = []
    for at in (0, 1):
        left, right = reach_of(found[(*pair.index, at)])
        nudge = 1e-3 * (right - left) or 1e-6 * max(abs(left), 1e-30)
        sides.append(
            torch.linspace(left + nudge, right - nudge, side, dtype=torch.float64)
            if right > left
            else torch.linspace(left - nudge, right + nudge, side, dtype=torch.float64)
        )
    return sides


def _side(copies: int) -> int:
    """How many points there are along an axis: fewer where every point is one of all copies."""
    return max(31, min(_SIDE, int((_MOST_POINTS / copies) ** 0.5)))


def _cell(sides: list[Tensor]) -> float:
    return math.prod(float(side[1] - side[0]) for side in sides)


def _heights(pair: Pair, sides: list[Tensor]) -> Tensor:
    """The density at all points of the grid, zero outside of the support."""
    distribution: Any = pair.distribution
    others = pair.draws[0].detach()
    corners = torch.cartesian_prod(*sides).to(others)
    points = others.expand(len(corners), *others.shape).clone()
    at: Any = (slice(None), *pair.index)
    legal = points[at]
    points[at] = corners
    inside = _inside(distribution, points)[at]
    points[at] = torch.where(inside[:, None], corners, legal)
    with torch.no_grad():
        heights = distribution.log_prob(points)[at].exp()
    heights = torch.where(inside, heights, 0.0).cpu().double().nan_to_num(0.0, 0.0, 0.0)
    return heights.reshape(len(sides[0]), len(sides[1]))


def _inside(distribution: Any, points: Tensor) -> Tensor:
    try:
        inside: Tensor = distribution.support.check(points)
        return inside
    except (NotImplementedError, AttributeError, RuntimeError):
        return torch.ones(points.shape[:-1], dtype=torch.bool, device=points.device)


def first_of(batch: torch.Size) -> list[tuple[int, ...]]:
    """The indices of the pairs that one picture has."""
    return [index for index, _ in zip(entries(batch), range(MOST), strict=False)]

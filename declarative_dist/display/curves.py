"""Numbers drawn in one picture: densities as curves, masses as bars, draws as histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from declarative_dist.display.looks import Look
from declarative_dist.display.sites import Marginal
from declarative_dist.errors import DeclarationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Reach = tuple[float, float]

_POINTS = 257
_MOST_BINS = 60
_MOST_BARS = 60


def draw_curves(axes: Axes, curves: Sequence[tuple[Marginal, Look]], name: str) -> None:
    """Draw numbers into one picture, with their name below it."""
    axes.set_xlabel(name)
    reaches = [reach_of(site.column(), is_discrete=site.is_discrete) for site, _ in curves]
    view = view_of(reaches, [look for _, look in curves])
    if any(site.is_discrete for site, _ in curves):
        _draw_bars(axes, curves, view)
        axes.set_ylabel("probability")
        return
    width, top = view[1] - view[0], 0.0
    for (site, look), (left, right) in zip(curves, reaches, strict=True):
        if right - left <= max(1e-4 * width, 1e-6 * abs(left)):
            label = f"{look.label} (all at {left:.4g})" if look.label else ""
            axes.axvline(left, label=label, **look.line)
        else:
            top = max(top, _draw_density(axes, site, look, view, is_filled=len(curves) <= 2))
    axes.set_ylim(0.0, 1.08 * (top or 1.0))
    axes.set_ylabel("density")
    if not top:
        margin = width or 0.1 * abs(view[0]) or 1.0
        axes.set_xlim(view[0] - margin, view[1] + margin)


def reach_of(draws: Tensor, *, is_discrete: bool = False) -> Reach:
    """The range of a number: most of its mass, without the far ends of heavy tails.

    Raises:
        DeclarationError: if no draw is finite.
    """
    if not len(draws):
        expected, fix = "draws that are numbers", "summary(q) has its parameters."
        raise DeclarationError("plot", expected, "draws that are NaN or infinite", fix)
    rank = 0.001 if is_discrete else 0.03
    left, right = draws.quantile(draws.new_tensor([rank, 1 - rank])).tolist()
    margin = 0.0 if is_discrete else 0.3 * (right - left)
    return max(left - margin, float(draws.min())), min(right + margin, float(draws.max()))


def view_of(reaches: Sequence[Reach], looks: Sequence[Look]) -> Reach:
    """The range of a picture: the distribution's, and a little of a wider target's.

    A target somewhere else is in the picture as a whole.
    """
    pairs = list(zip(reaches, looks, strict=True))
    own = [reach for reach, look in pairs if not look.is_target]
    left, right = min(low for low, _ in own), max(high for _, high in own)
    for low, high in (reach for reach, look in pairs if look.is_target):
        shared = min(high, right) - max(low, left)
        room = 0.5 * (right - left) if shared > 0.5 * (right - left) else math.inf
        left, right = min(left, max(low, left - room)), max(right, min(high, right + room))
    return left, right


def _draw_density(
    axes: Axes, site: Marginal, look: Look, view: Reach, *, is_filled: bool
) -> float:
    """Draw one curve, or a histogram of draws; how high the picture must be for it."""
    draws = site.column()
    margin = 0.02 * (view[1] - view[0])
    points = torch.linspace(view[0] - margin, view[1] + margin, 4 * _POINTS, dtype=torch.float64)
    dense = draws.quantile(torch.linspace(0.0, 1.0, _POINTS, dtype=torch.float64))
    points = torch.cat([points, dense[(dense > view[0]) & (dense < view[1])]]).unique()
    scores = site.score(points)
    if scores is None:
        left, right = (min(max(end, view[0]), view[1]) for end in reach_of(draws))
        bins = max(8, min(int(2 * len(draws) ** (1 / 3)), _MOST_BINS))  # Rice's rule
        shares = torch.histc(draws, bins, left, right) * bins / (right - left) / len(draws)
        edges = torch.linspace(left, right, bins + 1, dtype=torch.float64).tolist()
        how: Any = {"fill": True, "alpha": 0.35, "color": look.color, "zorder": 1}
        axes.stairs(shares.tolist(), edges, label=look.label, **(how if is_filled else look.line))
        return float(shares.max())
    inside = scores > -math.inf
    points, heights = points[inside], scores[inside].exp().nan_to_num(math.nan, math.nan)
    axes.plot(points.tolist(), heights.tolist(), label=look.label, **look.line)
    if is_filled and not look.is_target:
        axes.fill_between(points, heights, color=look.color, alpha=0.15, linewidth=0)
    # A density may go to infinity at an end, which leaves little room for the rest.
    heights = heights.nan_to_num(0.0)
    middle = heights[(points - points[0] > margin / 2) & (points[-1] - points > margin / 2)]
    return min(float(heights.max()), 1.5 * float(middle.max()))


def _draw_bars(axes: Axes, curves: Sequence[tuple[Marginal, Look]], view: Reach) -> None:
    """Draw masses at all values in the range; of many values as lines."""
    values = torch.cat([site.column() for site, _ in curves]).unique()
    values = values[(values >= view[0]) & (values <= view[1])]
    values = values[:: max(1, len(values) // 1000)]
    gap = float(values.diff().min()) if len(values) > 1 else 1.0
    width = 0.8 * gap / len(curves)
    for at, (site, look) in enumerate(curves):
        scores = site.score(values)
        is_equal = site.column()[:, None] == values
        masses = is_equal.double().mean(0) if scores is None else scores.exp()
        if len(values) > _MOST_BARS:
            axes.plot(values.tolist(), masses.tolist(), label=look.label, **look.line)
            continue
        places = values + (at - (len(curves) - 1) / 2) * width
        marks: Any = {"label": look.label, "color": look.color, "hatch": "///" * look.is_target}
        edges: Any = {"edgecolor": axes.get_facecolor(), "linewidth": 0.5}
        axes.bar(places.tolist(), masses.tolist(), width, **marks, **edges)
    if len(values) <= 12:
        axes.set_xticks(values.tolist())

"""Numbers drawn in one picture: densities as curves, masses as bars, points as stems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from declarative_dist.display.looks import Look
from declarative_dist.display.series import Series
from declarative_dist.errors import DeclarationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curves = Sequence[tuple[Series, Look]]
Reach = tuple[float, float]

_POINTS = 257
_MOST_BINS = 60
_MOST_BARS = 60
_HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "ooo", "+++")


def draw_curves(axes: Axes, curves: Curves, name: str) -> None:
    """Draw all curves into one picture, with the name of the number below it."""
    axes.set_xlabel(name)
    if any(series.is_discrete for series, _ in curves):
        _draw_bars(axes, curves)
        axes.set_ylabel("probability")
        return
    reaches = [reach_of(series) for series, _ in curves]
    view = view_of(reaches, [look.is_target for _, look in curves])
    top, points = 0.0, []
    for (series, look), (left, right) in zip(curves, reaches, strict=True):
        if series.is_point or right - left < 1e-4 * (view[1] - view[0]):  # also beside the others
            points.append(((left + right) / 2, look))
        else:
            top = max(top, _draw_density(axes, series, look, view, is_filled=len(curves) <= 2))
    axes.set_ylim(0.0, 1.08 * (top or 1.0))
    axes.set_ylabel("density")
    _draw_points(axes, points, is_alone=len(points) == len(curves))


def view_of(reaches: Sequence[Reach], are_targets: Sequence[bool]) -> Reach:
    """The range of a picture: that of the distribution, and a little of a wider target's.

    A target somewhere else is in the picture as a whole.
    """
    own, others = (
        [reach for reach, is_target in zip(reaches, are_targets, strict=True) if is_target == each]
        for each in (False, True)
    )
    left, right = min(low for low, _ in own), max(high for _, high in own)
    for low, high in others:
        shared = min(high, right) - max(low, left)
        room = 0.5 * (right - left) if shared > 0.5 * (right - left) else math.inf
        left, right = min(left, max(low, left - room)), max(right, min(high, right + room))
    return left, right


def _draw_points(axes: Axes, points: Sequence[tuple[float, Look]], *, is_alone: bool) -> None:
    """Numbers that are always the same, as lines upwards."""
    left, right = axes.get_xlim()
    places = [0.0 if abs(place) < 1e-6 * (right - left) else place for place, _ in points]
    for place, (_, look) in zip(places, points, strict=True):
        label = f"{look.label} (all at {place:.4g})" if look.label else ""
        axes.axvline(place, label=label, **look.line)
    if is_alone:
        margin = max(max(places) - min(places), 0.1 * max(map(abs, places))) or 1.0
        axes.set_xlim(min(places) - margin, max(places) + margin)
        axes.set_yticks([])


def reach_of(series: Series) -> Reach:
    """The range in which to draw a number: most of its mass, without the far ends of heavy tails.

    Raises:
        DeclarationError: if its range is not known.
    """
    low, high = series.ends
    draws = series.draws
    if draws is None or not len(draws):
        if math.isfinite(low) and math.isfinite(high):
            return low, high
        expected = "a distribution that can be drawn from, or one between two ends"
        if draws is None:
            got, fix = "one without a sampler", "Define sample in its class."
        else:
            got, fix = "draws that are NaN or infinite", "summary(q) has its parameters."
        got = f"{got}, of which nothing tells where its values are"
        raise DeclarationError("plot", expected, got, fix)
    inner = draws.quantile(torch.tensor([0.03, 0.97], dtype=draws.dtype)).tolist()
    margin = 0.3 * (inner[1] - inner[0])
    left = max(inner[0] - margin, float(draws.min()))
    right = min(inner[1] + margin, float(draws.max()))
    near = 0.05 * (right - left)  # ends near by belong to the picture
    left = low if 0 <= left - low <= near else left
    right = high if 0 <= high - right <= near else right
    return left, right


def _points_of(series: Series, view: Reach) -> Tensor:
    """Where to compute a density: evenly, and more where the mass is."""
    low, high = series.ends
    # An end itself may lie outside, and a density be infinite there.
    nudge = 1e-6 * (view[1] - view[0])
    start = view[0] if view[0] > low else low + nudge
    stop = view[1] if view[1] < high else high - nudge
    points = torch.linspace(start, stop, _POINTS, dtype=torch.float64)
    if series.draws is None:
        return points
    dense = series.draws.quantile(torch.linspace(0.0, 1.0, _POINTS, dtype=torch.float64))
    ordered: Tensor = torch.cat([points, dense[(dense > start) & (dense < stop)]]).unique()
    return ordered


def _draw_density(
    axes: Axes, series: Series, look: Look, view: Reach, *, is_filled: bool
) -> float:
    """Draw one curve, or a histogram of draws; how high the picture must be for it."""
    points = _points_of(series, view)
    heights = series.heights(points)
    if heights is None:
        left, right = (min(max(end, view[0]), view[1]) for end in reach_of(series))
        draws = series.known_draws()
        bins = max(8, min(int(2 * len(draws) ** (1 / 3)), _MOST_BINS))  # Rice's rule
        shares = torch.histc(draws, bins, left, right) * bins / (right - left) / series.count
        edges = torch.linspace(left, right, bins + 1, dtype=torch.float64).tolist()
        how: Any = {"fill": True, "alpha": 0.35, "color": look.color, "zorder": 1}
        axes.stairs(shares.tolist(), edges, label=look.label, **(how if is_filled else look.line))
        return float(shares.max())
    x, y = points.tolist(), heights.tolist()
    axes.plot(x, y, label=look.label, **look.line)
    if is_filled and not look.is_target:
        axes.fill_between(x, y, color=look.color, alpha=0.15, linewidth=0)
    return _top(series, points, heights)


def _top(series: Series, points: Tensor, heights: Tensor) -> float:
    """The highest point; where the density goes to infinity at an end, less."""
    top = float(heights[heights.isfinite()].max())
    width = float(points[-1] - points[0])
    middle = (points > points[0] + 0.01 * width) & (points < points[-1] - 0.01 * width)
    for end, sign in ((0, -1), (-1, 1)):
        if float(heights[end]) == top and middle.any():
            nearer = series.heights(points[end, None] + sign * 0.9e-6 * width)
            if nearer is None or not float(nearer) <= 1.5 * top:
                return 1.5 * float(heights[middle].nan_to_num(0.0).max())
    return top


def _draw_bars(axes: Axes, curves: Curves) -> None:
    found = [_values_of(series) for series, _ in curves]
    reaches = [(float(each.min()), float(each.max())) for each in found]
    low, high = view_of(reaches, [look.is_target for _, look in curves])
    values = torch.cat(found).unique()
    values = values[(values >= low) & (values <= high)]
    values = values[:: max(1, len(values) // 1000)]
    gap = float(values.diff().min()) if len(values) > 1 else 1.0
    width = 0.8 * gap / len(curves)
    for at, (series, look) in enumerate(curves):
        masses = series.heights(values)
        if masses is None:
            draws = series.known_draws()
            masses = (draws[:, None] == values).sum(0).double() / series.count
        if len(values) > _MOST_BARS:
            axes.plot(values.tolist(), masses.tolist(), label=look.label, **look.line)
            continue
        places = values + (at - (len(curves) - 1) / 2) * width
        marks: Any = {"hatch": _HATCHES[at % len(_HATCHES)], "edgecolor": axes.get_facecolor()}
        marks |= {"label": look.label, "color": look.color, "linewidth": 0.5}
        axes.bar(places.tolist(), masses.tolist(), width, **marks)
    if len(values) <= 12:
        axes.set_xticks(values.tolist())


def _values_of(series: Series) -> Tensor:
    """The values at which a number has bars: all, or all whole ones where most draws are."""
    if series.values is not None:
        return series.values
    draws = series.draws
    if draws is None or not len(draws):
        low, high = reach_of(series)
    elif (draws != draws.round()).any():
        return draws
    else:
        ranks = torch.tensor([0.001, 0.999], dtype=draws.dtype)
        low, high = draws.quantile(ranks).round().tolist()
    return torch.arange(low, high + 1, max(1, (high - low) // 1000), dtype=torch.float64)

"""Numbers drawn in one picture: densities as curves, masses as bars, points as stems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from declarative_dist.display.looks import WIDTH
from declarative_dist.display.series import Series
from declarative_dist.errors import DeclarationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 257
_MOST_BINS = 60
_MOST_BARS = 60
_HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "ooo", "+++")


@dataclass(frozen=True)
class Curve:
    """A series with its name and its look."""

    series: Series
    label: str
    color: str
    style: str

    @property
    def line(self) -> dict[str, Any]:
        """The look of its line, as matplotlib takes it."""
        return {"color": self.color, "linestyle": self.style, "linewidth": WIDTH}


def draw_curves(axes: Axes, curves: Sequence[Curve], name: str) -> None:
    """Draw all curves into one picture, with the name of the number below it."""
    axes.set_xlabel(name)
    if any(curve.series.is_discrete for curve in curves):
        _draw_bars(axes, curves)
        axes.set_ylabel("probability")
        return
    points = _points_among(curves)
    spread = [curve for curve in curves if curve not in points]
    tops = [_draw_density(axes, curve, filled=len(curves) <= 2) for curve in spread]
    axes.set_ylim(0.0, 1.08 * max(tops, default=1.0))
    axes.set_ylabel("density")
    _draw_points(axes, points, alone=not spread)


def _points_among(curves: Sequence[Curve]) -> list[Curve]:
    """Those that are points, or look like it beside the others."""
    ends = [reach_of(curve.series) for curve in curves]
    whole = max(right for _, right in ends) - min(left for left, _ in ends)
    return [
        curve
        for curve, (left, right) in zip(curves, ends, strict=True)
        if curve.series.is_point or right - left < 1e-4 * whole
    ]


def _draw_points(axes: Axes, curves: Sequence[Curve], *, alone: bool) -> None:
    """Numbers that are always the same, as lines upwards."""
    places = [sum(reach_of(curve.series)) / 2 for curve in curves]
    left, right = axes.get_xlim()
    places = [0.0 if abs(each) < 1e-6 * (right - left) else each for each in places]
    for curve, place in zip(curves, places, strict=True):
        label = f"{curve.label} (all at {place:.4g})" if curve.label else ""
        axes.axvline(place, label=label, **curve.line)
    if alone and places:
        margin = max(max(places) - min(places), 0.1 * max(map(abs, places))) or 1.0
        axes.set_xlim(min(places) - margin, max(places) + margin)
        axes.set_yticks([])


def reach_of(series: Series) -> tuple[float, float]:
    """The range in which to draw a number: most of its mass, without the far ends of heavy tails.

    Raises:
        DeclarationError: if its range is not known.
    """
    low, high = series.ends
    draws = series.draws
    if draws is None or not draws.isfinite().any():
        if math.isfinite(low) and math.isfinite(high):
            return low, high
        what = "one without a sampler" if draws is None else "draws that are NaN or infinite"
        raise DeclarationError(
            "plot",
            "a distribution that can be drawn from, or one between two ends",
            f"{what}, of which nothing tells where its values are",
            "Define sample in its class." if draws is None else "summary(q) has its parameters.",
        )
    draws = draws[draws.isfinite()]
    ranks = torch.tensor([0.03, 0.97], dtype=draws.dtype)
    inner = draws.quantile(ranks)
    margin = 0.3 * float(inner[1] - inner[0])
    left = max(float(inner[0]) - margin, float(draws.min()))
    right = min(float(inner[1]) + margin, float(draws.max()))
    # Ends near by belong to the picture.
    near = 0.05 * (right - left)
    left = low if 0 <= left - low <= near else left
    right = high if 0 <= high - right <= near else right
    return left, right


def points_of(series: Series) -> Tensor:
    """Where to compute a density: evenly, and more where the mass is."""
    left, right = reach_of(series)
    width = right - left
    low, high = series.ends
    # An end itself may lie outside, and a density be infinite there.
    start = left + 1e-6 * width if left <= low else left
    stop = right - 1e-6 * width if right >= high else right
    points = torch.linspace(start, stop, _POINTS, dtype=torch.float64)
    if series.draws is None:
        return points
    ranks = torch.linspace(0.0, 1.0, _POINTS, dtype=torch.float64)
    dense = series.draws[series.draws.isfinite()].quantile(ranks)
    ordered: Tensor = torch.cat([points, dense[(dense > start) & (dense < stop)]]).unique()
    return ordered


def _draw_density(axes: Axes, curve: Curve, *, filled: bool) -> float:
    """Draw one curve; how high the picture must be for it."""
    series, look = curve.series, curve.line
    points, heights = _heights(series)
    is_step = len(points) != len(heights)
    if is_step:
        axes.stairs(heights.tolist(), points.tolist(), label=curve.label, **look)
        return float(heights.max())
    axes.plot(points.tolist(), heights.tolist(), label=curve.label, **look)
    if filled:
        axes.fill_between(
            points.tolist(), heights.tolist(), color=curve.color, alpha=0.15, linewidth=0
        )
    return _top(series, points, heights)


def _heights(series: Series) -> tuple[Tensor, Tensor]:
    """Points and the density there, or the edges of bins and the share of draws in each."""
    points = points_of(series)
    heights = series.heights(points)
    if heights is not None:
        return points, heights
    if series.draws is None:
        raise DeclarationError("plot", "a density or draws", "neither", "Define log_prob.")
    left, right = reach_of(series)
    draws = series.draws[series.draws.isfinite()]
    bins = max(8, min(int(2 * len(draws) ** (1 / 3)), _MOST_BINS))  # Rice's rule
    counts = torch.histc(draws, bins, left, right)
    edges = torch.linspace(left, right, bins + 1, dtype=torch.float64)
    return edges, counts * bins / (right - left) / len(series.draws)


def _top(series: Series, points: Tensor, heights: Tensor) -> float:
    """The highest point; where the density goes to infinity at an end, less."""
    known = heights[heights.isfinite()]
    top = float(known.max())
    width = float(points[-1] - points[0])
    middle = (points > points[0] + 0.01 * width) & (points < points[-1] - 0.01 * width)
    for end, sign in ((0, -1), (-1, 1)):
        is_highest = float(heights[end]) == top
        if not is_highest or not middle.any():
            continue
        nearer = series.heights(points[end, None] + sign * 0.9e-6 * width)
        if nearer is None or not float(nearer) <= 1.5 * top:
            return 1.5 * float(heights[middle].nan_to_num(0.0).max())
    return top


def _draw_bars(axes: Axes, curves: Sequence[Curve]) -> None:
    values = _values_of([curve.series for curve in curves])
    gap = float(values.diff().min()) if len(values) > 1 else 1.0
    width = 0.8 * gap / len(curves)
    for at, curve in enumerate(curves):
        masses = _masses(curve.series, values)
        where = values + (at - (len(curves) - 1) / 2) * width
        if len(values) <= _MOST_BARS:
            axes.bar(
                where.tolist(),
                masses.tolist(),
                width,
                label=curve.label,
                color=curve.color,
                hatch=_HATCHES[at % len(_HATCHES)],
                edgecolor="white",
                linewidth=0.5,
            )
        else:
            axes.plot(values.tolist(), masses.tolist(), label=curve.label, **curve.line)
    axes.set_ylim(0.0, 1.15 * axes.get_ylim()[1])  # room for the legend
    if len(values) <= 12:
        axes.set_xticks(values.tolist())


def _values_of(all_series: Sequence[Series]) -> Tensor:
    """All values at which to draw bars."""
    found = []
    for series in all_series:
        if series.values is not None:
            found.append(series.values)
        elif series.draws is not None:
            found.append(_whole_numbers(series.draws[series.draws.isfinite()]))
        else:
            left, right = reach_of(series)
            found.append(torch.arange(left, right + 1, dtype=torch.float64))
    values: Tensor = torch.cat(found).unique()
    return values[:: max(1, len(values) // 1000)]


def _whole_numbers(draws: Tensor) -> Tensor:
    if (draws != draws.round()).any():
        ordered: Tensor = draws.unique()
        return ordered
    ranks = torch.tensor([0.001, 0.999], dtype=draws.dtype)
    low, high = draws.quantile(ranks).round().tolist()
    return torch.arange(low, high + 1, max(1, (high - low) // 1000), dtype=torch.float64)


def _masses(series: Series, values: Tensor) -> Tensor:
    masses = series.heights(values)
    if masses is not None:
        return masses
    if series.draws is None:
        raise DeclarationError("plot", "masses or draws", "neither", "Define log_prob.")
    return (series.draws[:, None] == values).double().mean(0)

"""Numbers drawn in one picture: densities as curves, masses as bars, draws as histograms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from declarative_dist.display.looks import Look
from declarative_dist.errors import DeclarationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Reach = tuple[float, float]

_POINTS = 257
_MOST_BINS = 60
_MOST_BARS = 60
_HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "ooo", "+++")


class Curve(NamedTuple):
    """The distribution of one number.

    Args:
        look: of its line, with its name.
        draws: those that are finite, of shape `(n,)`, in float64.
        is_discrete: whether it has masses.
        score: gives log densities or masses, or None where only draws are known.
    """

    look: Look
    draws: Tensor
    is_discrete: bool
    score: Callable[[Tensor], Tensor | None]


def draw_curves(axes: Axes, curves: Sequence[Curve], name: str) -> None:
    """Draw all curves into one picture, with the name of the number below it."""
    axes.set_xlabel(name)
    reaches = [reach_of(curve.draws, is_discrete=curve.is_discrete) for curve in curves]
    view = view_of(reaches, [curve.look.is_target for curve in curves])
    if any(curve.is_discrete for curve in curves):
        _draw_bars(axes, curves, view)
        axes.set_ylabel("probability")
        return
    width, top = view[1] - view[0], 0.0
    for curve, (left, right) in zip(curves, reaches, strict=True):
        if right - left <= max(1e-4 * width, 1e-6 * abs(left)):
            label = f"{curve.look.label} (all at {left:.4g})" if curve.look.label else ""
            axes.axvline(left, label=label, **curve.look.line)
        else:
            top = max(top, _draw_density(axes, curve, view, is_filled=len(curves) <= 2))
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


def view_of(reaches: Sequence[Reach], are_targets: Sequence[bool]) -> Reach:
    """The range of a picture: the distribution's, and a little of a wider target's.

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


def _draw_density(axes: Axes, curve: Curve, view: Reach, *, is_filled: bool) -> float:
    """Draw one curve, or a histogram of draws; how high the picture must be for it."""
    draws, look = curve.draws, curve.look
    margin = 0.02 * (view[1] - view[0])
    points = torch.linspace(view[0] - margin, view[1] + margin, 4 * _POINTS, dtype=torch.float64)
    dense = draws.quantile(torch.linspace(0.0, 1.0, _POINTS, dtype=torch.float64))
    points = torch.cat([points, dense[(dense > view[0]) & (dense < view[1])]]).unique()
    scores = curve.score(points)
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


def _draw_bars(axes: Axes, curves: Sequence[Curve], view: Reach) -> None:
    """Draw masses at all values in the range; of many values as lines."""
    values = torch.cat([curve.draws for curve in curves]).unique()
    values = values[(values >= view[0]) & (values <= view[1])]
    values = values[:: max(1, len(values) // 1000)]
    gap = float(values.diff().min()) if len(values) > 1 else 1.0
    width = 0.8 * gap / len(curves)
    for at, curve in enumerate(curves):
        look, scores = curve.look, curve.score(values)
        is_equal = curve.draws[:, None] == values
        masses = is_equal.double().mean(0) if scores is None else scores.exp()
        if len(values) > _MOST_BARS:
            axes.plot(values.tolist(), masses.tolist(), label=look.label, **look.line)
            continue
        places = values + (at - (len(curves) - 1) / 2) * width
        marks: Any = {"hatch": _HATCHES[at % len(_HATCHES)], "edgecolor": axes.get_facecolor()}
        marks |= {"label": look.label, "color": look.color, "linewidth": 0.5}
        axes.bar(places.tolist(), masses.tolist(), width, **marks)
    if len(values) <= 12:
        axes.set_xticks(values.tolist())

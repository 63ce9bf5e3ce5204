"""Pareto smoothing: importance weights with a tamed tail, and the shape of that tail.

Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling", JMLR 25, 2024,
https://arxiv.org/abs/1507.02646; the fit is by Zhang and Stephens, "A new and efficient
estimation method for the generalized Pareto distribution", Technometrics 51, 2009.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FEWEST = 25
"""With fewer draws there are less than five in the tail to which a distribution is fitted."""

_ROUNDING = 1e-3
"""Log weights within this of each other are taken for equal: their tail is rounding alone."""


def smooth(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Smooth importance weights, and find the shape of their tail.

    Args:
        log_weights: logarithms of importance ratios, of shape `(num_samples, *columns)`; minus
            infinity is a weight of zero.

    Returns:
        The logarithms of smoothed weights that add up to one, and k-hat of shape `(*columns)`:
        the ratios have about `1 / k_hat` moments. It is infinite where fewer than five weights
        are left in the tail, and 0 where all are equal.

    Example:
        >>> import torch
        >>> from declarative_dist.latents.pareto import smooth
        >>> weights, k_hat = smooth(-torch.linspace(0.001, 1.0, 1000).log())
        >>> round(weights.exp().sum().item(), 6), bool(0.8 < k_hat < 1.2)
        (1.0, True)
    """
    ordered, order = log_weights.double().sort(0)
    ordered = ordered - ordered[-1]
    tail, floor, k_hat, scale = _fit_tail(ordered)
    ranks = (torch.arange(len(tail)).to(tail) + 0.5) / len(tail)
    ranks = ranks.reshape(-1, *[1] * k_hat.ndim)
    logs = torch.log1p(-ranks)
    stretch = torch.where(k_hat.abs() < 1e-8, -logs, torch.expm1(-k_hat * logs) / k_hat)
    smoothed = (floor + scale * stretch).log().clamp_max(0.0)
    smoothed = torch.where(k_hat.isfinite() & (scale > 0), smoothed, tail)
    whole = torch.cat([ordered[: -len(tail)], smoothed])
    back = torch.empty_like(whole).scatter_(0, order, whole)
    return back.log_softmax(0), k_hat


def tail_shape(log_values: Tensor) -> Tensor:
    """The shape k-hat of the upper tail of positive numbers, of shape `(*columns)`.

    The smaller one of two estimates, as either may be large by itself. One comes from a
    generalised Pareto distribution, and is large where the tail is skewed and yet ends; the other
    from the largest number's share of the sum, about `num_samples ** (k - 1)`, and is large by
    chance (Embrechts, Klueppelberg and Mikosch, Modelling Extremal Events, 1997, section 6.2.6).

    Args:
        log_values: their logarithms, of shape `(num_samples, *columns)`.
    """
    ordered = log_values.double().nan_to_num(-math.inf).sort(0).values
    log_share = ordered[-1] - ordered.logsumexp(0)
    return _fit_tail(ordered - ordered[-1])[2].minimum(
        1 + log_share / math.log(max(len(ordered), 2))
    )


def _fit_tail(ordered: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fit a generalised Pareto distribution to the largest of numbers in ascending order.

    Args:
        ordered: logarithms, with a largest of 0.

    Returns:
        The logarithms of the tail, the number that it begins at, and shape and scale.
    """
    count = math.ceil(min(len(ordered) / 5, 3 * math.sqrt(len(ordered))))
    tail = ordered[-count:]
    lowest = math.log(torch.finfo(ordered.dtype).tiny)
    floor = ordered[-count - 1].clamp_min(lowest).exp()
    excess = (tail.exp() - floor).clamp_min(torch.finfo(ordered.dtype).tiny)
    shape, scale = _fit_pareto(excess)
    is_flat = ordered[-1] - ordered[0] < _ROUNDING
    has_few = (tail > lowest).sum(0) < 5
    shape = shape.masked_fill(is_flat, 0.0).masked_fill(has_few, torch.inf)
    return tail, floor, shape, scale.masked_fill(is_flat, 0.0)


def _fit_pareto(excess: Tensor) -> tuple[Tensor, Tensor]:
    """Shape and scale of a generalised Pareto distribution, from ascending positive numbers.

    The posterior mean of Zhang and Stephens over a grid, with their weak prior on the shape that
    Vehtari et al. add, worth ten numbers at 0.5.
    """
    count = len(excess)
    grid = 30 + int(math.sqrt(count))
    points = 1 - (grid / (torch.arange(1, grid + 1).to(excess) - 0.5)).sqrt()
    points = points.reshape(-1, *[1] * (excess.ndim - 1))
    slopes = points / (3 * excess[int(count / 4 + 0.5) - 1]) + 1 / excess[-1]
    shapes = torch.log1p(-slopes[:, None] * excess).mean(1)
    profile = count * ((-slopes / shapes).log() - shapes - 1)
    slope = (profile.nan_to_num(-torch.inf).softmax(0) * slopes).sum(0)
    shape = torch.log1p(-slope * excess).mean(0)
    scale = -shape / slope
    return (count * shape + 10 * 0.5) / (count + 10), scale

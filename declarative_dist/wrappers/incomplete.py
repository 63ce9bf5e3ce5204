"""The logarithms of both tails of a normal, a gamma and a beta distribution, with all derivatives.

Torch's `gammainc` has no derivative in its shape, and no incomplete beta function. Here the small
tail is an integral over logarithms, in which these densities are log-concave and analytic: with
s = log x - log t, for instance,

    P(a, x) = x^a exp(-x) / Gamma(a) * integral over s > 0 of exp(-a s - x (exp(-s) - 1)).

A double exponential substitution makes the trapezoidal rule exact to rounding (Takahasi and Mori,
1974, https://doi.org/10.2977/prims/1195192451), with the same nodes everywhere. So autograd gives
the derivatives of any order, in shapes too. The factor in front is written by deviances, which do
not cancel for large shapes (Loader, Fast and accurate computation of binomial probabilities,
2000). The other tail is one minus this one: relative to itself it is good wherever it is not tiny,
and it is not, but for shapes near zero.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

NODES, FIRST, LAST = 64, -3.6, 4.2
"""How many nodes the trapezoidal rule has, and between which points."""

_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
_ROOT = math.sqrt(0.5)


class Tails(NamedTuple):
    """The logarithms of P(X <= x) and P(X > x)."""

    log_cdf: Tensor
    log_sf: Tensor

    @classmethod
    def of_share(cls, share: Tensor) -> Tails:
        """The tails at a quantile, from the share of all mass that is below it."""
        return cls(share.log(), torch.log1p(-share))

    def log_mass_until(self, above: Tails) -> Tensor:
        """The logarithm of the mass up to a higher point, from the tail that is the smaller one.

        It is -inf where there is none, or where the point is no higher one.
        """
        is_upper = self.log_sf < above.log_cdf
        large = torch.where(is_upper, self.log_sf, above.log_cdf)
        small = torch.where(is_upper, above.log_sf, self.log_cdf)
        lowest = torch.finfo(large.dtype).min  # for both may be -inf
        share = -torch.expm1((small - large.clamp_min(lowest)).clamp_max(0.0))
        is_none = share == 0
        return (large + share.masked_fill(is_none, 1.0).log()).masked_fill(is_none, -torch.inf)

    def swap(self, where: Tensor | bool = True) -> Tails:
        """The tails of a variable that runs the other way, there or everywhere."""
        if isinstance(where, bool):
            return Tails(self.log_sf, self.log_cdf) if where else self
        lower = torch.where(where, self.log_sf, self.log_cdf)
        return Tails(lower, torch.where(where, self.log_cdf, self.log_sf))

    def outside(self, below: Tensor, above: Tensor) -> Tails:
        """The tails, where points below and above a support have all mass on one side."""
        log_cdf = self.log_cdf.masked_fill(below, -torch.inf).masked_fill(above, 0.0)
        return Tails(log_cdf, self.log_sf.masked_fill(below, 0.0).masked_fill(above, -torch.inf))


def log1mexp(x: Tensor) -> Tensor:
    """The logarithm of `1 - exp(x)` for x at most 0 (Maechler, 2012)."""
    # Both formulas are computed everywhere, with finite gradients.
    near = (-torch.expm1(x.clamp(-0.6931, -torch.finfo(x.dtype).tiny))).log()
    far = torch.log1p(-x.clamp_max(-0.6931).exp())
    return torch.where(x > -0.6931, near, far).masked_fill(x >= 0, -torch.inf)


def from_smaller(small: Tensor, is_lower: Tensor | bool = False) -> Tails:
    """Both tails from the one that is computed, which is the lower one there or everywhere."""
    return Tails(log1mexp(small), small).swap(is_lower)


def from_half(small: Tensor, is_lower: Tensor) -> Tails:
    """Both tails from the one that is at most a half, which is the lower one there."""
    return Tails(torch.log1p(-small.exp()), small).swap(is_lower)


def log_normal_tail(far: Tensor) -> Tensor:
    """The logarithm of P(Z > sqrt(2) far) for a standard normal variable Z."""
    scaled: Tensor = torch.special.erfcx(far) / 2
    return scaled.log() - far * far


def normal_tails(z: Tensor) -> Tails:
    """The tails of a standard normal distribution."""
    is_lower = z < 0
    # The derivative of |z| at 0 is 0, which would be one of the tails there.
    return from_half(log_normal_tail(torch.where(is_lower, -z, z) * _ROOT), is_lower)


def gamma_tails(a: Tensor, x: Tensor) -> Tails:
    """The tails of a gamma distribution of concentration a and rate 1."""
    a, x = torch.broadcast_tensors(a, x)
    below, above = x <= 0, x == torch.inf
    x = torch.where(below | above, 1.0, x)
    is_upper = (x >= a) & (x >= 1)
    with torch.no_grad():
        curved = torch.where(is_upper, 2 * (a - 1).clamp_min(0), 2 * x)
        rate = _rate(torch.where(is_upper, x - a + 1, (x - a).abs()), curved)
        rate = torch.where(is_upper, rate, torch.minimum(rate, a))
    count = NODES if x.dtype == torch.float64 else NODES // 2  # which is enough for float32
    s, log_weight = _nodes(rate, count)
    a_, x_, side = a[..., None], x[..., None], is_upper[..., None]
    slopes = torch.where(side, (a_ - 1) * s.log1p() - x_ * s, -a_ * s - x_ * torch.expm1(-s))
    front = (a / (2 * math.pi)).log() / 2 - _stirling(a) - a * _deviance(x, a, x - a)
    small = (slopes + log_weight).logsumexp(-1) + front
    return from_smaller(small, ~is_upper).outside(below, above)


def beta_tails(a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tails:
    """The tails of a beta distribution at x, which is 1 - y; you may know either more exactly."""
    a, b, x, y = torch.broadcast_tensors(a, b, x, y)
    below, above = x <= 0, y <= 0
    x, y = (torch.where(below | above, 0.5, t) for t in (x, y))
    is_before, n = (a + b) * x < a, a + b
    is_lower = (is_before & ~_is_cut(a, y)) | (~is_before & _is_cut(b, x))
    a, b = torch.where(is_lower, a, b), torch.where(is_lower, b, a)
    x, y = torch.where(is_lower, x, y), torch.where(is_lower, y, x)
    apart = b * x - a * y
    with torch.no_grad():
        rate = torch.minimum(_rate(apart.abs(), 2 * n * x * y), a)
    s, log_weight = _nodes(rate)
    slopes = -a[..., None] * s - n[..., None] * (x[..., None] * torch.expm1(-s)).log1p()
    front = (a / (2 * math.pi)).log() / 2 + (b.log() - n.log()) / 2
    front = front - _stirling(a) - _stirling(b) + _stirling(n)
    front = front - a * _deviance(n * x, a, apart) - b * _deviance(n * y, b, -apart)
    small = (slopes + log_weight).logsumexp(-1) + front
    return from_smaller(small, is_lower).outside(below, above)


def _is_cut(shape: Tensor, rest: Tensor) -> Tensor:
    """Whether a density is flat for long and then ends abruptly, to be integrated from there."""
    return (shape >= 1) & (shape * rest < 3) & (rest < 0.3)


def _rate(slope: Tensor, curvature: Tensor) -> Tensor:
    """How fast an integrand falls."""
    return (slope + torch.hypot(slope, curvature.sqrt())) / 2


def _nodes(rate: Tensor, count: int = NODES) -> tuple[Tensor, Tensor]:
    """The nodes for an integral over positive numbers, and the logarithms of their weights."""
    step = (LAST - FIRST) / (count - 1)
    t = torch.arange(count, dtype=rate.dtype, device=rate.device) * step + FIRST
    squeezed = (-t).exp()
    log_node = t - squeezed
    log_weight = log_node + squeezed.log1p() + math.log(step)
    return log_node.exp() / rate[..., None], log_weight - rate.log()[..., None]


def _deviance(x: Tensor, mean: Tensor, apart: Tensor) -> Tensor:
    """What x / m - 1 - log(x / m) is, where x - m is known."""
    u = apart / mean
    is_near = u.abs() < 0.5
    near = torch.where(is_near, u, 0.0)
    return torch.where(is_near, near - near.log1p(), u - x.log() + mean.log())


def _stirling(a: Tensor) -> Tensor:
    """How much log Gamma(a) exceeds Stirling's formula."""
    is_large = a > 10
    inverse = 1 / torch.where(is_large, a, 10.0)
    series = inverse * sum(c * inverse ** (2 * k) for k, c in enumerate(_STIRLING))
    small = torch.where(is_large, 10.0, a)
    exact = small.lgamma() - (small - 0.5) * small.log() + small - math.log(2 * math.pi) / 2
    return torch.where(is_large, series, exact)

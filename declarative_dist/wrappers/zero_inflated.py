"""A distribution with extra zeros."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from declarative_dist.errors import ConstraintError, shorten
from declarative_dist.plain.arguments import register_arguments
from declarative_dist.plain.tracing import is_traced
from declarative_dist.wrappers.cdfs import (
    Univariate,
    check_single_numbers,
    has_atoms,
    larger,
    register_tails,
    smaller,
)
from declarative_dist.wrappers.incomplete import Tails, log1mexp
from declarative_dist.wrappers.quantiles import quantile_of
from declarative_dist.wrappers.wrapper import Ends, Wrapper


class ZeroInflated(Wrapper):
    """A distribution that is zero with an extra probability, and else what its base is.

    P(X = 0) = gate + (1 - gate) P(base = 0), where a base with a density has no mass at 0. A
    hurdle model is `ZeroInflated(Truncated(base, low=0), gate)`: its zeros come from the gate
    alone.

    Source: Lambert, Zero-inflated Poisson regression, Technometrics, 1992.

    Args:
        base_distribution: a univariate distribution, plain or live.
        gate: the probability of an extra zero, between 0 and 1.
        validate_args: whether to check arguments and values; None to follow torch.

    Raises:
        ConstraintError: if the gate is outside of [0, 1], or events are not single numbers.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist.wrappers import ZeroInflated
        >>> ZeroInflated(dd.Poisson(2.0), 0.25).log_prob(torch.tensor([0.0, 2.0])).exp()
        tensor([0.3515, 0.2030])
    """

    arg_constraints: Any = {"gate": constraints.unit_interval}  # noqa: RUF012 - as torch has it
    has_rsample = False
    gate: Any

    def __init__(
        self,
        base_distribution: Distribution,
        gate: float | Tensor,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(base_distribution, {"gate": gate}, validate_args)

    def _check_arguments(self) -> None:
        kind = type(self).__name__
        check_single_numbers(self._base().plain)
        if not is_traced(self.gate) and not ((self.gate >= 0) & (self.gate <= 1)).all():
            fix = "Learn it as Param(0.5, UnitInterval())."
            raise ConstraintError(
                f"{kind}(gate=)", "probabilities between 0 and 1", shorten(self.gate), fix
            )

    def _hull(self, base: Univariate) -> Ends:
        return smaller(base.first, 0.0), larger(base.last, 0.0)

    def _score(self, base: Univariate, x: Tensor, is_inside: Tensor) -> Tensor:
        gate = base.cast(self.gate)
        is_zero, is_closed = x == 0, gate >= 1
        is_scored = is_inside & (~is_zero | base.is_discrete)
        density = base.log_prob(x, is_scored)
        if has_atoms(base.plain):
            zero = torch.zeros_like(density)
            at_zero = base.log_mass(base.before(zero), zero)
            density = torch.where(is_zero, at_zero, density)
        others = torch.log1p(-torch.where(is_zero | is_closed, 0.0, gate)) + density
        others = others.masked_fill(is_closed, -torch.inf)
        return torch.where(is_zero, _mix(gate, density), others)

    def _draw(self, sample_shape: torch.Size) -> Tensor:
        drawn = self.base_distribution.sample(sample_shape)
        # In float64: narrower numbers between 0 and 1 are 0 more often than a small gate is met.
        dtype = torch.float32 if self.gate.is_mps else torch.float64
        share = torch.rand(drawn.shape, dtype=dtype, device=self.gate.device)
        return torch.where(share < self.gate, torch.zeros_like(drawn), drawn)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self._thin(self.base_distribution.mean)

    @property
    def variance(self) -> Tensor:
        """The variance."""
        base = self.base_distribution
        spread = base.variance + self.gate * base.mean**2
        return self._thin(spread)

    def _thin(self, moment: Tensor) -> Tensor:
        """A moment of the base as far as it counts, zero where nothing of it does."""
        return torch.where(self.gate == 1, 0.0, (1 - self.gate) * moment)


register_arguments(ZeroInflated, {"base_distribution": Distribution})


def _mix(gate: Tensor, log_share: Tensor) -> Tensor:
    """The logarithm of gate + (1 - gate) * share, with right gradients at gates of 0 and 1."""
    least = -0.42 * math.log(torch.finfo(gate.dtype).max)  # its square is finite, for derivatives
    share = log_share.clamp_min(least)
    mixed = share + torch.log1p(gate * torch.expm1(-share))
    return torch.where((gate > 0) | (log_share > least), mixed, log_share)


def _inflated_tails(d: ZeroInflated, x: Tensor) -> Tails:
    base, is_below = d._base(), x < 0
    inside, gate = base.tails(x), base.cast(d.gate)
    rest = torch.log1p(-gate)
    lower = torch.where(is_below, rest + inside.log_cdf, _mix(gate, inside.log_cdf))
    return Tails(lower, torch.where(is_below, _mix(gate, inside.log_sf), rest + inside.log_sf))


def _inflated_quantile(d: ZeroInflated, tails: Tails) -> Tensor:
    """What is below 0, by the lower tail, or above it, by the upper one: never both."""
    base = d._base()
    rest = torch.log1p(-base.cast(d.gate))
    below, above = (torch.where(tail < rest, tail - rest, -1.0) for tail in tails)
    first = quantile_of(base, Tails(below, log1mexp(below))).clamp_max(0.0)
    last = quantile_of(base, Tails(log1mexp(above), above)).clamp_min(0.0)
    is_below, is_above = (tail < rest for tail in tails)
    return torch.where(is_below, first, 0.0) + torch.where(is_above, last, 0.0)


register_tails(ZeroInflated, _inflated_tails, _inflated_quantile)

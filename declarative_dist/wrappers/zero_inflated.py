"""A distribution with extra zeros."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from declarative_dist.errors import ConstraintError, shorten
from declarative_dist.plain.arguments import register_arguments
from declarative_dist.plain.tensors import as_tensor
from declarative_dist.plain.tracing import is_traced
from declarative_dist.wrappers.cdfs import (
    Ends,
    bounds_of,
    check_single_numbers,
    like_of,
    log_prob_where,
    register_tails,
    tails_of,
)
from declarative_dist.wrappers.incomplete import Tails, log1mexp
from declarative_dist.wrappers.quantiles import quantile_of
from declarative_dist.wrappers.wrapper import Wrapper


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
        kind, gate = type(self).__name__, as_tensor(self.gate)
        check_single_numbers(self._plain, f"{kind}(base_distribution=)")
        if not is_traced(gate) and not ((gate >= 0) & (gate <= 1)).all():
            fix = "Learn it as Param(0.5, UnitInterval())."
            raise ConstraintError(
                f"{kind}(gate=)", "probabilities between 0 and 1", shorten(self.gate), fix
            )

    def _hull(self, plain: Any) -> Ends:
        first, last = bounds_of(plain, like_of(plain))
        return first.clamp_max(0.0), last.clamp_min(0.0)

    def _gate(self, plain: Distribution) -> Tensor:
        like = like_of(plain)
        return as_tensor(self.gate, like.dtype, like.device)

    def _score(self, plain: Any, x: Tensor) -> Tensor:
        gate = self._gate(plain)
        first, last = bounds_of(plain, x)
        is_zero, is_closed = x == 0, gate >= 1
        has_zero = plain.support.is_discrete & (first <= 0) & (last >= 0)
        is_scored = (x >= first) & (x <= last) & (~is_zero | has_zero)
        density = log_prob_where(plain, x, is_scored, (first, last))
        others = torch.log1p(-torch.where(is_zero | is_closed, 0.0, gate)) + density
        others = others.masked_fill(is_closed, -torch.inf)
        return torch.where(is_zero, _mix(gate, density), others)

    def _draw(self, sample_shape: torch.Size) -> Tensor:
        drawn = self.base_distribution.sample(sample_shape)
        gate = self._gate(self._plain)
        share = torch.rand(drawn.shape, dtype=gate.dtype, device=gate.device)
        return torch.where(share < gate, torch.zeros_like(drawn), drawn)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        mean: Tensor = (1 - self.gate) * self.base_distribution.mean
        return mean

    @property
    def variance(self) -> Tensor:
        """The variance."""
        base = self.base_distribution
        spread = base.variance + self.gate * base.mean**2
        variance: Tensor = (1 - self.gate) * spread
        return variance


register_arguments(ZeroInflated, {"base_distribution": Distribution})


def _mix(gate: Tensor, log_share: Tensor) -> Tensor:
    """The logarithm of gate + (1 - gate) * share, with right gradients at gates of 0 and 1."""
    is_usual, is_open = log_share > -30, gate > 0
    usual = torch.where(is_usual, log_share, 0.0)
    near = usual + torch.log1p(gate * torch.expm1(-usual))
    # Elsewhere the share is tiny or none, and what is -inf must not meet a gradient.
    almost_one = 1 - torch.finfo(gate.dtype).eps
    rest = torch.where(is_usual, 0.0, log_share.clamp_min(-1e4))
    rest = rest + torch.log1p(-gate.clamp_max(almost_one))
    far = torch.logaddexp(torch.where(is_open, gate, 1.0).log(), rest)
    return torch.where(is_usual, near, torch.where(is_open, far, log_share))


def _inflated_tails(d: ZeroInflated, x: Tensor) -> Tails:
    plain = d._plain
    inside, gate, is_below = tails_of(plain, x), d._gate(plain), x < 0
    rest = torch.log1p(-gate)
    lower = torch.where(is_below, rest + inside.log_cdf, _mix(gate, inside.log_cdf))
    return Tails(lower, torch.where(is_below, _mix(gate, inside.log_sf), rest + inside.log_sf))


def _inflated_quantile(d: ZeroInflated, tails: Tails) -> Tensor:
    """What is below 0, by the lower tail, or above it, by the upper one: never both."""
    plain = d._plain
    rest = torch.log1p(-d._gate(plain))
    logs = [tail - rest for tail in tails]
    below, above = (log < 0 for log in logs)
    lower, upper = (torch.where(log < 0, log, -1.0) for log in logs)
    first = quantile_of(plain, Tails(lower, log1mexp(lower))).clamp_max(0.0)
    last = quantile_of(plain, Tails(log1mexp(upper), upper)).clamp_min(0.0)
    return torch.where(below, first, 0.0) + torch.where(above, last, 0.0)


register_tails(ZeroInflated, _inflated_tails, _inflated_quantile)

"""Values that have a probability: at the ends of wrappers, shifted counts, foreign counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats as st
import torch
import torch.distributions as dd
from torch import Tensor, tensor

from declarative_dist import ConstraintError
from declarative_dist.wrappers import Censored, Truncated, ZeroInflated, cdf, icdf

NORMAL = dd.Normal(-1.0, 1.0)


@pytest.mark.parametrize(("plain", "expected"), [
    (Censored(ZeroInflated(NORMAL, 0.3), high=0.0), 0.3 + 0.7 * st.norm.sf(1.0)),
    (Censored(Censored(NORMAL, high=0.0), high=0.0), st.norm.sf(1.0)),
    (Censored(Truncated(Censored(NORMAL, high=0.0), -1.0), high=0.0), 2 * st.norm.sf(1.0)),
    (Censored(ZeroInflated(NORMAL, 0.3), low=0.0), 0.3 + 0.7 * st.norm.cdf(1.0)),
])  # fmt: skip
def test_a_mass_of_the_base_at_an_end_counts(plain: Censored, expected: float) -> None:
    found = plain.log_prob(tensor(0.0)).exp()
    torch.testing.assert_close(found, tensor(expected, dtype=torch.float32))
    share = (plain.sample((2000,)) == 0).double().mean().item()
    assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 2000))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_mass_at_the_lower_end_is_cut_off(dtype: torch.dtype) -> None:
    ends, rate = torch.tensor([0.0, 0.5], dtype=dtype), torch.ones(2, dtype=dtype)
    inflated = ZeroInflated(dd.Exponential(rate), 0.3)
    cut = Truncated(inflated, low=ends)
    with pytest.raises(ConstraintError, match="got 0.0 at index 0"):
        cut.log_prob(ends)
    unchecked = Truncated(inflated, low=ends, validate_args=False)
    found = unchecked.log_prob(torch.stack([ends, ends + 1])).exp()
    expected = torch.tensor([[0.0, 0.0], [math.exp(-1)] * 2], dtype=dtype)
    torch.testing.assert_close(found, expected)
    assert (cut.sample((500,)) > ends).all()


def _shift(base: dd.Distribution, loc: float, scale: float) -> dd.Distribution:
    return dd.TransformedDistribution(base, [dd.AffineTransform(loc, scale)])


SHIFTED: dict[str, tuple[dd.Distribution, Any]] = {
    "Poisson": (_shift(dd.Poisson(3.0), 1.0, 1.0), st.poisson(3, 1)),
    "Geometric": (_shift(dd.Geometric(tensor(0.3)), 1.0, 1.0), st.geom(0.3)),
    "turned": (_shift(dd.Binomial(10, tensor(0.3)), 10.0, -1.0), st.binom(10, 0.7)),
    "turned twice": (
        _shift(_shift(dd.Binomial(10, tensor(0.7)), 4.0, -1.0), -6.0, -1.0), st.binom(10, 0.7, -10)
    ),
    "mixture": (
        _shift(
            dd.MixtureSameFamily(dd.Categorical(torch.ones(2)), dd.Poisson(torch.full((2,), 3.0))),
            1.0, 1.0,
        ), st.poisson(3, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHIFTED)
def test_shifted_counts_agree_with_scipy(name: str) -> None:
    plain, known = SHIFTED[name]
    first = known.support()[0]
    points = np.arange(max(first, -12), first + 8)
    low, high = points[2], points[5]
    numbers = torch.tensor(points, dtype=torch.float32)
    close: Callable[..., None] = np.testing.assert_allclose
    close(cdf(plain, numbers), known.cdf(points), 1e-5)
    close(cdf(plain, numbers + 0.5), known.cdf(points), 1e-5)
    shares = (known.cdf(points[:-1]) + known.cdf(points[1:])) / 2
    close(icdf(plain, torch.tensor(shares, dtype=torch.float32)), points[1:])
    cut = Truncated(plain, low, high, validate_args=False)
    mass = known.cdf(high) - known.cdf(low)
    is_inside = (points > low) & (points <= high)
    close(cut.log_prob(numbers).exp(), np.where(is_inside, known.pmf(points), 0.0) / mass, 1e-5)
    draws = cut.sample((300,))
    assert draws.min() == low + 1
    assert draws.max() == high
    shown = Censored(plain, low, high, validate_args=False).log_prob(numbers).exp()
    expected = np.where(is_inside, known.pmf(points), 0.0)
    expected[2], expected[5] = known.cdf(low), known.sf(high - 1)
    close(shown, expected, 1e-5)
    inflated = ZeroInflated(plain, 0.25).log_prob(numbers).exp()
    close(inflated, 0.75 * known.pmf(points) + 0.25 * (points == 0), 1e-5)


def test_a_mass_that_is_turned_around() -> None:
    plain = _shift(Censored(dd.Normal(0.0, 1.0), low=0.0), 0.0, -1.0)
    expected = tensor([st.norm.cdf(-1.0), 1.0, 1.0], dtype=torch.float32)
    torch.testing.assert_close(cdf(plain, tensor([-1.0, 0.0, 1.0])), expected)


class Die(dd.Distribution):
    """A count without a zero, whose log probabilities are float32 whatever you ask."""

    arg_constraints: Any = {}  # noqa: RUF012 - as torch has it
    support = dd.constraints.integer_interval(1, 6)

    def __init__(self, validate_args: bool | None = None) -> None:
        super().__init__(validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.full(value.shape, -math.log(6.0))


def test_zeros_of_a_count_that_has_none() -> None:
    found = ZeroInflated(Die(), 0.3).log_prob(tensor([0.0, 1.0])).exp()
    torch.testing.assert_close(found, tensor([0.3, 0.7 / 6]))

"""Weighted draws: smoothing against ArviZ's, moments against closed forms, honest verdicts."""

from __future__ import annotations

import math
from typing import Any

import arviz
import numpy as np
import pytest
import torch
import torch.distributions as dd
from scipy import stats
from torch import Tensor

from declarative_dist import (
    ConstraintError,
    Declarative,
    FullRankNormal,
    NonFiniteError,
    Param,
    WeightedDraws,
    diagnose,
    fit,
    summary,
)
from declarative_dist.latents.pareto import smooth
from declarative_dist.objectives import NegativeELBO, NegativeLogPosterior
from declarative_dist.posteriors.gaussian import Gaussian
from declarative_dist.posteriors.sampling import Mixture

pytestmark = pytest.mark.usefixtures("one_thread")


def ratios(count: int, deviation: float, *columns: int) -> tuple[Tensor, Tensor]:
    """Standard normal draws, and the log weights that make them ones of another deviation."""
    x = torch.randn(count, *columns, dtype=torch.float64)
    target, own = dd.Normal(0.0, deviation), dd.Normal(0.0, 1.0)
    return x, target.log_prob(x) - own.log_prob(x)


@pytest.mark.parametrize("count", [30, 1000, 4000])
@pytest.mark.parametrize("deviation", [0.5, 1.3, 3.0])
def test_smoothing_is_that_of_arviz(count: int, deviation: float) -> None:
    _, log_weights = ratios(count, deviation, 2)
    log_weights[0, 1] = -math.inf
    weights, k_hat = smooth(log_weights)
    for column in range(2):
        expected, shape = arviz.psislw(log_weights[:, column].numpy().copy())
        expected = torch.as_tensor(np.asarray(expected)).log_softmax(0)
        torch.testing.assert_close(weights[:, column], expected)
        assert k_hat[column].item() == pytest.approx(float(shape), abs=1e-9)


def test_weights_of_one_draw_and_of_equals() -> None:
    equal = WeightedDraws({"x": torch.arange(100.0)}, torch.zeros(100))
    assert (equal.k_hat, equal.ess) == (0.0, pytest.approx(100.0))
    torch.testing.assert_close(equal.std()["x"], torch.arange(100.0).std())
    single = torch.full((100,), -math.inf).index_fill(0, torch.tensor([7]), 0.0)
    alone = WeightedDraws({"x": torch.arange(100.0)}, single)
    assert alone.k_hat == math.inf
    assert alone.mean()["x"] == 7.0
    assert alone.verdict.startswith("unreliable")


def test_moments_and_quantiles_in_closed_form() -> None:
    x, log_weights = ratios(40_000, 0.8)
    draws = WeightedDraws({"x": 3.0 + 2.0 * x, "pair": torch.stack([x, -x], -1)}, log_weights)
    assert draws.weights.sum().item() == pytest.approx(1.0)
    assert draws.mean()["x"].item() == pytest.approx(3.0, abs=0.03)
    assert draws.std()["x"].item() == pytest.approx(1.6, rel=0.02)
    low, high = draws.quantile([0.05, 0.95])["x"]
    assert ((high - 3.0).item(), (3.0 - low).item()) == pytest.approx((2.632, 2.632), rel=0.04)
    assert draws.quantile(0.5)["pair"].shape == (2,)
    assert draws.quantile([0.1, 0.5, 0.9])["pair"].shape == (3, 2)
    same = draws.resample(10_000)
    assert same["pair"].shape == (10_000, 2)
    assert torch.equal(same["pair"][:, 0], -same["pair"][:, 1])
    assert same["x"].std().item() == pytest.approx(1.6, rel=0.04)
    assert draws.verdict.startswith("good")
    assert "worth" in repr(draws)


def test_quantiles_of_equal_weights_are_those_of_torch() -> None:
    draws = WeightedDraws({"x": torch.randn(2001, 3)}, torch.zeros(2001))
    found, ranks = draws.quantile([0.1, 0.5, 0.9])["x"], torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(found, draws.values["x"].quantile(ranks, 0), atol=5e-3, rtol=0.0)


def test_copies_are_weighted_apart() -> None:
    x, log_weights = ratios(4000, 0.7, 2)
    log_weights[:, 1] = 0.0
    both = WeightedDraws({"x": x[..., None]}, log_weights)
    first = WeightedDraws({"x": x[:, :1]}, log_weights[:, 0])
    assert both.weights.sum(0).tolist() == pytest.approx([1.0, 1.0])
    for name in ("mean", "std"):
        torch.testing.assert_close(getattr(both, name)()["x"][0], getattr(first, name)()["x"])
    torch.testing.assert_close(both.quantile(0.3)["x"][0], first.quantile(0.3)["x"])
    assert both.resample(50)["x"].shape == (50, 2, 1)
    assert both.ess == pytest.approx(first.ess)


def test_derived_quantities() -> None:
    x, log_weights = ratios(4000, 0.8)
    draws = WeightedDraws({"x": x}, log_weights, doubts=["A doubt."])
    derived = draws.transform(square=lambda values: values["x"].square())
    assert derived.mean()["square"].item() == pytest.approx(0.64, rel=0.05)
    assert torch.equal(derived.weights, draws.weights)
    both = draws.transform(
        square=lambda values: values["x"].square(), root=lambda values: values["square"].sqrt()
    )
    assert torch.equal(both.values["root"], x.abs())
    assert draws.values.keys() == {"x"}
    assert "A doubt." in derived.verdict
    assert derived.verdict.startswith("usable, not good")


def test_the_table_of_a_posterior() -> None:
    x, log_weights = ratios(4000, 0.8)
    draws = WeightedDraws({"x": x, "pair": torch.stack([x, 2 * x], -1)}, log_weights)
    table = summary(draws)
    assert table["pair[1]"].sd == pytest.approx(1.6, rel=0.05)
    assert table["x"].high == pytest.approx(0.8 * 1.645, abs=0.08)
    lines = str(table).splitlines()
    assert " ".join(str(table).split()).startswith(repr(draws))
    assert lines[-5].split() == ["name", "mean", "sd", "5%", "50%", "95%"]
    assert [line.split()[0] for line in lines[-3:]] == ["x", "pair[0]", "pair[1]"]
    assert max(map(len, lines)) <= 80
    assert "<table" in table._repr_html_()
    assert table.to_dict()["x"]["median"] == pytest.approx(0.0, abs=0.05)


def test_a_heavy_tail_of_one_quantity_is_named() -> None:
    heavy = dd.StudentT(1.0).sample((4000,))
    draws = WeightedDraws({"x": torch.randn(4000), "y": heavy}, torch.zeros(4000))
    assert not draws.verdict.startswith("good")
    assert "The spread of y has a heavy tail" in draws.verdict
    few = WeightedDraws({"x": torch.randn(100)}, torch.zeros(100))
    assert few.verdict.startswith("usable, not good")
    assert "make more draws" in few.verdict


@pytest.mark.parametrize("infinite", [math.inf, -math.inf])
@pytest.mark.parametrize("is_weighted", [True, False])
def test_an_infinite_draw_is_never_good(infinite: float, is_weighted: bool) -> None:
    """Its mean and sd are infinite or no numbers; its quantiles are."""
    x, log_weights = ratios(4000, 0.9, 2)
    log_weights = log_weights[:, 0] if is_weighted else torch.zeros(4000)
    assert WeightedDraws({"x": x}, log_weights).verdict.startswith("good")
    x[7, 1] = infinite
    draws = WeightedDraws({"pair": x, "z": x[:, 0]}, log_weights)
    assert not draws.mean()["pair"][1].isfinite()
    assert draws.verdict.startswith("unreliable: ")
    assert "pair[1] has no finite mean and sd: trust its quantiles." in draws.verdict
    assert draws.quantile(0.5)["pair"].abs().max() < 0.1


def test_a_derived_quantity_that_overflows_is_named() -> None:
    draws = WeightedDraws({"p": torch.rand(4000)}, torch.zeros(4000))
    far = draws.transform(r=lambda values: (1000 * values["p"]).exp())
    assert not far.std()["r"].isfinite()
    assert far.verdict.startswith("unreliable: ")
    assert "r has no finite mean and sd" in far.verdict


def test_exact_draws_miss_nothing_of_a_target_whatever_is_derived() -> None:
    draws = WeightedDraws({"x": torch.randn(4000)}, torch.zeros(4000))
    inverse = draws.transform(r=lambda values: 1 / values["x"])
    assert "The spread of r has a heavy tail" in inverse.verdict
    assert "miss part" not in inverse.verdict
    none = WeightedDraws({"x": torch.randn(4000), "c": torch.zeros(4000, 0)}, torch.zeros(4000))
    assert none.verdict.startswith("good")


@pytest.mark.parametrize(
    ("family", "is_heavy"),
    [(stats.t(3), True), (stats.gamma(1.0), False), (stats.beta(0.5, 5.0), False)],
)
def test_a_spread_without_an_error_is_not_called_good(family: Any, is_heavy: bool) -> None:
    """Of Student's t with 3 degrees of freedom the sd of a sample has no finite error."""
    values = torch.as_tensor(family.ppf((np.arange(4000) + 0.5) / 4000))
    verdict = WeightedDraws({"x": values}, torch.zeros(4000)).verdict
    assert verdict.startswith("good") is not is_heavy
    assert ("trust its quantiles, not its mean and sd" in verdict) is is_heavy


NOTHING = torch.zeros(9, device="meta")
UNNAMED = r"transform\(y=\): expected a function of the draws, got 3.0\. Write y=lambda values"


def weigh(values: Any, weights: Any) -> WeightedDraws:
    return WeightedDraws({"x": values}, weights)


def test_quantiles_lie_where_there_is_weight() -> None:
    log_weights = torch.full((1000,), -math.inf)
    log_weights[7:9] = 0.0
    draws = WeightedDraws({"x": torch.arange(1000.0)}, log_weights)
    assert draws.quantile([0.0, 0.1, 0.5, 0.9, 1.0])["x"].tolist() == [7.0, 7.0, 7.0, 8.0, 8.0]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda d: weigh([1.0], [0.0]), ConstraintError, "weights of 2 draws"),
        (lambda d: weigh(1.0, 0.0), ConstraintError, "weights of 2 draws"),
        (lambda d: weigh("one", torch.zeros(9)), ConstraintError, "expected numbers"),
        (lambda d: weigh(NOTHING, torch.zeros(9)), ConstraintError, r"\.x: .* on the meta device"),
        (lambda d: weigh(torch.zeros(3), torch.zeros(4)), ConstraintError, r"\.x: expected"),
        (lambda d: weigh(torch.zeros(4), 4 * [math.nan]), NonFiniteError, "infinity at 4 of 4"),
        (lambda d: weigh(torch.zeros(4), 4 * [-math.inf]), NonFiniteError, "infinity at 4 of 4"),
        (lambda d: d.quantile(5.0), ConstraintError, "probabilities from 0 to 1"),
        (lambda d: d.resample(0), ConstraintError, r"resample\(num_samples\)"),
        (lambda d: d.transform(y=3.0), ConstraintError, UNNAMED),
        (lambda d: d.transform(f=lambda v: 3.0), ConstraintError, r"WeightedDraws\.f"),
        (lambda d: d.transform(f=lambda v: v["x"][1:]), ConstraintError, r"WeightedDraws\.f"),
        (lambda d: d.transform(x=lambda v: v["x"]), ConstraintError, r"x=\): .* a new name"),
        (lambda d: d.transform(f=lambda v: v["x"].log()), NonFiniteError, r"f: .* NaN at 1 of"),
        (lambda d: d.quantile("a"), ConstraintError, "quantile: expected numbers"),
    ],
)
def test_what_draws_cannot_be(make: Any, error: type, message: str) -> None:
    draws = WeightedDraws({"x": torch.linspace(-1.0, 100.0, 102)}, torch.zeros(102))
    with pytest.raises(error, match=message):
        make(draws)


def test_a_component_of_almost_no_weight_has_no_draw() -> None:
    rows = Gaussian(torch.zeros(3, 2), torch.ones(3, 2))
    assert Mixture(rows, (0.499, 0.002, 0.499)).draw(100, 0).shape == (100, 2)


def test_a_log_posterior_is_drawn_from() -> None:
    class Level(Declarative):
        m = Param(0.0, prior=dd.Normal(0.0, 10.0))

    x = torch.tensor([1.0, 2.0, 3.0])
    whole = NegativeLogPosterior(
        Level(),
        total_size=None,
        log_likelihood=lambda one: dd.Normal(one.m, 1.0).log_prob(x).sum(),
    )
    guide = FullRankNormal(whole.module)
    fit(NegativeELBO(whole, guide), progress=False)
    draws = guide.importance_sample(whole, 2000)
    variance = 1 / (3 + 0.01)
    assert draws.mean()["m"].item() == pytest.approx(6.0 * variance, abs=0.03)
    assert diagnose(guide, whole, 1000).is_reliable
    each = NegativeLogPosterior(
        Level(), total_size=3, log_likelihood=lambda one, x: dd.Normal(one.m, 1.0).log_prob(x)
    )
    with pytest.raises(TypeError, match="argument: 'x'"):
        guide.importance_sample(each, 100)

"""Posteriors that a dtype or a start is far from: right, or said to be wrong."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributions as dd
from scipy import stats
from torch import Tensor, tensor

from declarative_dist import (
    Declarative,
    FullRankNormal,
    Joint,
    MeanFieldNormal,
    Param,
    WeightedDraws,
    fit,
    site,
)
from declarative_dist.joints.flat_sites import InLogs
from declarative_dist.objectives import NegativeELBO
from tests.cases import Numbers

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::declarative_dist.NotConvergedWarning"),  # verdicts say it
]


Line = partial(Numbers, size=2)


def drawn(
    latents: Any, log_joint: Any, kind: Any = FullRankNormal, count: int = 4000
) -> WeightedDraws:
    torch.manual_seed(0)
    guide = kind(latents)
    fit(NegativeELBO(log_joint, guide), progress=False)
    return guide.importance_sample(log_joint, count)


def of_prior(
    distribution: dd.Distribution, dtype: torch.dtype, count: int = 4000
) -> WeightedDraws:
    class One(Joint):
        x = distribution

    posterior = One(dtype=dtype).condition()
    return drawn(posterior, posterior, count=count)


@pytest.mark.parametrize("distribution", [
    dd.Beta(tensor(0.01), tensor(0.02)), dd.Beta(tensor(0.1), tensor(0.1)),
    dd.Beta(tensor(3.0), tensor(0.05)), dd.Dirichlet(tensor([0.1, 0.1, 0.3])),
], ids=repr)  # fmt: skip
def test_mass_beyond_the_last_number_is_told(distribution: dd.Distribution) -> None:
    verdict = of_prior(distribution, torch.float32).verdict
    assert not verdict.startswith("good")
    assert "of the weight has x at the last number of torch.float32: what lies beyond" in verdict


@pytest.mark.parametrize(("a", "dtype"), [
    (0.3, torch.float32), (0.3, torch.float64), (1.0, torch.float32), (20.0, torch.float64),
])  # fmt: skip
def test_mass_that_a_dtype_holds_is_not_complained_of(a: float, dtype: torch.dtype) -> None:
    draws = of_prior(dd.Beta(tensor(a), tensor(a)), dtype)
    assert draws.verdict.startswith("good")
    assert draws.std()["x"].item() == pytest.approx(stats.beta.std(a, a), rel=0.03)
    assert draws.mean()["x"].item() == pytest.approx(0.5, abs=0.01)


def test_a_density_of_nan_where_mass_is_is_told() -> None:
    """In float32 torch has no density of it near one."""
    narrow = dd.Kumaraswamy(tensor(0.1), tensor(0.1))
    told = of_prior(narrow, torch.float32).verdict
    assert not told.startswith("good")
    assert "The log density is NaN at 2% of the draws: it is lost there." in told
    draws = of_prior(narrow, torch.float64)
    assert "NaN" not in draws.verdict
    assert draws.mean()["x"].item() == pytest.approx(float(narrow.mean), abs=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_priors_over_many_orders_of_magnitude(dtype: torch.dtype) -> None:
    # Of 4,000 draws the last quantile has an error of 7 %.
    gamma = of_prior(dd.Gamma(tensor(0.05), tensor(1.0)), dtype, count=30_000)
    assert gamma.mean()["x"].item() == pytest.approx(0.05, rel=0.1)
    low, high = gamma.quantile([0.3, 0.95])["x"].double()
    assert low.log10().item() == pytest.approx(math.log10(stats.gamma.ppf(0.3, 0.05)), abs=0.4)
    assert high.item() == pytest.approx(stats.gamma.ppf(0.95, 0.05), rel=0.1)
    wide = of_prior(dd.LogNormal(0.0, 10.0), dtype)
    logs = wide.transform(log=lambda values: values["x"].log())
    assert logs.mean()["log"].item() == pytest.approx(0.0, abs=0.5)
    assert logs.std()["log"].item() == pytest.approx(10.0, rel=0.03)


def test_logarithms_give_less_mass_beyond_a_dtype() -> None:
    own = InLogs(guard=False)
    raw = tensor([-100.0, -90.0, 0.0, 3.0, 90.0, 100.0], requires_grad=True)
    log_volume = own.log_abs_det_jacobian(raw, own(raw)).tolist()
    assert log_volume[2:4] == [0.0, 3.0]
    assert log_volume[0] == log_volume[1] - 10
    assert log_volume[5] == log_volume[4] - 10


def test_a_dtype_that_is_too_coarse_is_told() -> None:
    """At 1.7e9 the numbers of float32 are 128 apart; the posterior has a deviation of 35."""

    class Moment(Declarative):
        t = Param(0.0)

    mean = tensor(1.7e9 + 50.0, dtype=torch.float64)

    def log_joint(values: dict[str, Tensor]) -> Tensor:
        return dd.Normal(mean, 35.0).log_prob(values["t"]).to(values["t"].dtype)

    told = drawn(Moment(dtype=torch.float32), log_joint).verdict
    assert told.startswith("unreliable")
    assert "of the weight has t at one number: torch.float32 is too coarse there: use" in told
    draws = drawn(Moment(dtype=torch.float64), log_joint)
    assert draws.verdict.startswith("good")
    assert draws.mean()["t"].item() == pytest.approx(mean.item(), abs=2.0)
    assert draws.std()["t"].item() == pytest.approx(35.0, rel=0.03)


@pytest.mark.parametrize(("far", "dtype", "kind"), [
    (1e5, torch.float32, MeanFieldNormal), (1e5, torch.float64, FullRankNormal),
    (3.4e6, torch.float32, FullRankNormal), (3.4e6, torch.float64, MeanFieldNormal),
])  # fmt: skip
def test_a_posterior_millions_of_deviations_away(
    far: float, dtype: torch.dtype, kind: Any
) -> None:
    mean = tensor([far, -2.0], dtype=dtype)
    draws = drawn(Line(dtype=dtype), lambda v: dd.Normal(mean, 1.0).log_prob(v["x"]).sum(-1), kind)
    if torch.finfo(dtype).eps * far < 0.1:  # how far numbers of the dtype are apart there
        assert draws.verdict.startswith("good")
    else:
        assert draws.verdict.startswith("usable")
        assert "of the weight has x at one number: torch.float32 is coarse there" in draws.verdict
    torch.testing.assert_close(draws.mean()["x"], mean, atol=0.1, rtol=0.0)
    torch.testing.assert_close(draws.std()["x"], torch.ones(2, dtype=dtype), atol=0.0, rtol=0.03)


def test_a_wide_prior_is_no_posterior_that_runs_away() -> None:
    class Clock(Joint):
        t = dd.Normal(0.0, 1e10)

        @site(event_dim=1)
        def y(self, t: Tensor) -> dd.Distribution:
            return dd.Normal(t[..., None].expand(*t.shape, 20), 100.0)

    y = 1.7e9 + 100.0 * torch.randn(20, dtype=torch.float64)
    posterior = Clock(dtype=torch.float64).condition(y=y)
    draws = drawn(posterior, posterior)
    assert draws.verdict.startswith("good")
    assert draws.mean()["t"].item() == pytest.approx(y.mean().item(), abs=1.0)
    assert draws.std()["t"].item() == pytest.approx(100.0 / math.sqrt(20), rel=0.03)


@pytest.mark.parametrize(("size", "correlation"), [(2, 0.9999999), (10, 0.99999)])
def test_narrow_ridges(size: int, correlation: float) -> None:
    covariance = torch.full((size, size), correlation, dtype=torch.float64)
    covariance.fill_diagonal_(1.0)
    mean = torch.linspace(1.0, 3.0, size, dtype=torch.float64)
    precision = torch.linalg.inv(covariance)

    def log_joint(values: dict[str, Tensor]) -> Tensor:
        centred = values["x"].double() - mean
        return (-0.5 * ((centred @ precision) * centred).sum(-1)).float()

    draws = drawn(Numbers(size=size), log_joint)
    assert draws.verdict.startswith("good")
    torch.testing.assert_close(draws.mean()["x"].double(), mean, atol=0.05, rtol=0.0)
    torch.testing.assert_close(draws.std()["x"], torch.ones(size), atol=0.0, rtol=0.03)


@pytest.mark.parametrize("width", [0.3, 0.0045])
def test_a_narrow_banana_is_right_or_told(width: float) -> None:
    """The second number is the square of the first: it has mean 1 and variance 2."""

    def log_joint(values: dict[str, Tensor]) -> Tensor:
        first, second = values["x"].unbind(-1)
        return -0.5 * (first.square() + ((second - first.square()) / width).square())

    draws = drawn(Line(), log_joint)
    if width < 0.01:
        assert draws.verdict.startswith("unreliable")
        return
    assert draws.verdict.startswith("good")
    expected = math.sqrt(2.0 + width**2)
    assert draws.mean()["x"][1].item() == pytest.approx(1.0, abs=0.05 * expected)
    assert draws.std()["x"][1].item() == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_deviations_of_numbers_whose_squares_are_none(scale: float) -> None:
    x = torch.randn(4000, dtype=torch.float64)
    logs = torch.zeros(4000, dtype=torch.float64)
    logs[0] = -math.inf
    values = scale * x
    values[0] = torch.finfo(torch.float64).max  # of no weight
    draws = WeightedDraws({"x": values}, logs)
    assert draws.std()["x"].item() == pytest.approx(scale * x[1:].std().item(), rel=1e-6)
    assert draws.verdict.startswith("good")
    assert "of means 0.016 sd" in draws.verdict


@pytest.mark.parametrize(("height", "place", "width"), [
    (0.5, 100.0, 0.2), (0.02, 100.0, 0.2), (1e-4, 40.0, 1.0),
])  # fmt: skip
def test_modes_a_hundred_deviations_away(height: float, place: float, width: float) -> None:
    heights = tensor([1 - height, height], dtype=torch.float64)
    places = tensor([0.0, place], dtype=torch.float64)
    modes = dd.Normal(places, tensor([1.0, width], dtype=torch.float64))

    def log_joint(values: dict[str, Tensor]) -> Tensor:
        x = values["x"]
        mixed = (heights.log() + modes.log_prob(x[..., :1])).logsumexp(-1)
        return mixed + dd.Normal(0.0, 1.0).log_prob(x[..., 1])

    mixture = dd.MixtureSameFamily(dd.Categorical(heights), modes)
    draws = drawn(Line(dtype=torch.float64), log_joint)
    deviation = mixture.stddev.item()
    assert draws.mean()["x"][0].item() == pytest.approx(mixture.mean.item(), abs=0.05 * deviation)
    assert draws.std()["x"][0].item() == pytest.approx(deviation, rel=0.03)
    assert ("Several modes hold mass" in draws.verdict) == (height > 1e-3)
    assert draws.verdict.startswith("good" if height < 1e-3 else "usable")


def test_five_modes_of_equal_mass_are_all_sampled() -> None:
    class Place(Declarative):
        x = Param(0.0)

    modes = dd.Normal(tensor([-8.0, -4.0, 0.0, 4.0, 8.0]), 0.4)

    def log_joint(values: dict[str, Tensor]) -> Tensor:
        return modes.log_prob(values["x"][..., None]).logsumexp(-1)

    draws = drawn(Place(), log_joint)
    assert "found 4 other modes" in draws.verdict
    assert "Several modes hold mass: there may be more." in draws.verdict
    assert draws.mean()["x"].item() == pytest.approx(0.0, abs=0.05)
    assert draws.std()["x"].item() == pytest.approx(math.sqrt(32.0 + 0.16), rel=0.01)


def test_names_of_components_are_exchanged_or_there_may_be_more() -> None:
    class Centres(Declarative):
        mu = Param(torch.zeros(3))

    y = torch.cat([place + torch.linspace(-1.5, 1.5, 20) for place in (-4.0, 0.0, 4.0)])

    def log_joint(values: dict[str, Tensor]) -> Tensor:
        mu = values["mu"]
        each = dd.Normal(mu[..., None, :], 1.0).log_prob(y[:, None]).logsumexp(-1)
        return each.sum(-1) + dd.Normal(0.0, 10.0).log_prob(mu).sum(-1)

    draws = drawn(Centres(), log_joint)
    assert "Several modes hold mass: there may be more." in draws.verdict
    orders = draws.resample(6000)["mu"].argsort(-1) @ tensor([9, 3, 1])
    counts = orders.unique(return_counts=True)[1]
    assert len(counts) >= 5
    assert counts.max() - counts.min() < 200

"""Pictures of distributions: what the axes hold is what torch says, and nothing else changes."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import pytest
import scipy.stats
import torch
import torch.distributions as dd
from matplotlib.collections import PathCollection
from matplotlib.patches import StepPatch
from torch import Tensor, nn, tensor

from declarative_dist import (
    Conditional,
    DeclarationError,
    Declarative,
    FullRankNormal,
    Head,
    Interval,
    Joint,
    MeanFieldNormal,
    Param,
    Positive,
    Real,
    Variational,
    WeightedDraws,
    learnable,
    plot,
    site,
)
from declarative_dist.display.contours import SHARES
from declarative_dist.display.looks import COLORS, look_of
from declarative_dist.display.plot import MOST
from declarative_dist.fields.kinds import predicted_kind
from declarative_dist.fitting import History
from declarative_dist.objectives import NegativeLogLikelihood
from tests.cases import CASES, PLAIN

mpl.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")


class Family(Variational):
    base = dd.Gamma
    concentration = Param(2.0, Positive())
    rate = Param(3.0, Positive())


class Coin(Joint):
    bias = dd.Beta(2.0, 3.0)
    shift = learnable(dd.Independent(dd.Normal(torch.zeros(2), torch.ones(2)), 1))

    @site
    def heads(self, bias: Tensor) -> dd.Distribution:
        return dd.Binomial(4, bias)

    @site
    def place(self, bias: Tensor) -> dd.Distribution:
        return dd.Normal(bias, 0.1)


class Latents(Declarative):
    rate = Param(2.0, Positive())
    place = Param(0.5, Interval(0.0, 1.0))
    free = Param([0.0, 1.0, 2.0], Real())


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def curve(axes: Any, at: int = 0) -> tuple[Tensor, Tensor]:
    """The points of a curve."""
    line = axes.get_lines()[at]
    return (
        tensor(line.get_xdata(), dtype=torch.float64),
        tensor(line.get_ydata(), dtype=torch.float64),
    )


def labels(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def bars(axes: Any, at: int = 0) -> tuple[list[float], list[float]]:
    """The values and heights of bars."""
    container = axes.containers[at]
    centres = [round(bar.get_x() + bar.get_width() / 2, 6) for bar in container]
    return centres, [bar.get_height() for bar in container]


def assert_is_density(axes: Any, distribution: dd.Distribution, at: int = 0) -> Tensor:
    x, y = curve(axes, at)
    dtype = distribution.sample().dtype
    expected = distribution.log_prob(x.to(dtype)).exp().double()
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-6)
    assert (x.diff() > 0).all()
    return x


NUMBERS = {
    "normal": dd.Normal(1.0, 2.0),
    "uniform": dd.Uniform(-1.0, 3.0),
    "beta": dd.Beta(2.0, 3.0),
    "von Mises": dd.VonMises(0.0, 2.0),
    "mixture": dd.MixtureSameFamily(
        dd.Categorical(tensor([0.3, 0.7])), dd.Normal(tensor([-3.0, 2.0]), tensor([0.5, 1.0]))
    ),
    "transformed": dd.TransformedDistribution(dd.Normal(0.0, 1.0), dd.SigmoidTransform()),
    "shifted": dd.TransformedDistribution(dd.Exponential(1.0), dd.AffineTransform(-2.0, 3.0)),
    "double": dd.Gumbel(tensor(0.0, dtype=torch.float64), tensor(1.0, dtype=torch.float64)),
    "relaxed": dd.RelaxedBernoulli(tensor(0.7), logits=tensor(0.2)),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_curve_is_the_density(name: str) -> None:
    distribution = NUMBERS[name]
    axes = plot(distribution)
    x = assert_is_density(axes, distribution)
    heights = curve(axes)[1]
    assert torch.trapezoid(heights, x) > 0.9
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("value", "density")
    assert labels(axes) == [type(distribution).__name__]


def test_a_live_distribution_and_its_target() -> None:
    q, target = Family(), dd.Gamma(5.0, 5.0)
    axes = plot(q, against=target)
    assert_is_density(axes, q(), 0)
    assert_is_density(axes, target, 1)
    assert labels(axes) == ["q: Family", "target: Gamma"]
    first, second = axes.get_lines()
    assert first.get_linestyle() != second.get_linestyle()
    assert first.get_color() != second.get_color()
    q.rate = 30.0
    assert_is_density(plot(q), q())
    assert labels(plot(learnable(target))) == ["learnable Gamma"]


def test_independent_copies_are_curves_in_one_picture() -> None:
    q = dd.Normal(torch.arange(3.0), tensor([1.0, 2.0, 0.1]))
    axes = plot(q)
    assert labels(axes) == ["Normal[0]", "Normal[1]", "Normal[2]"]
    for at in range(3):
        assert_is_density(axes, dd.Normal(q.loc[at], q.scale[at]), at)
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
    assert len(looks) == 3
    many = plot(dd.Normal(torch.zeros(100), 1.0))
    assert len(many.get_lines()) == MOST
    assert many.get_legend().get_title().get_text() == "8 of 100"
    axes = plot(q, against=dd.Normal(0.0, 1.0))
    assert len(axes.get_lines()) == 4
    assert axes.get_lines()[-1].get_color() == COLORS[-1]
    assert labels(axes)[-1] == "target: Normal"
    bounded = dd.Uniform(tensor([0.0, 5.0]), tensor([1.0, 7.0]))
    for at in range(2):
        x, y = curve(plot(bounded), at)
        torch.testing.assert_close(y, torch.full_like(y, [1.0, 0.5][at]))
        assert x[0] >= [0.0, 5.0][at]


def test_neighbours_differ_in_colour_and_in_style() -> None:
    several = [look_of("", at) for at in range(28)]
    assert len(set(several)) == 28
    for one, other in itertools.pairwise(several):
        assert one.color != other.color
    for one, other in itertools.pairwise(several[:7]):
        assert one.style != other.style
    assert set(COLORS) >= {"#0072B2", "#D55E00", "#009E73"}


MASSES = {
    "Categorical": (dd.Categorical(tensor([0.2, 0.5, 0.3])), [0.0, 1.0, 2.0]),
    "Binomial": (dd.Binomial(4, tensor(0.3)), [0.0, 1.0, 2.0, 3.0, 4.0]),
    "Poisson": (dd.Poisson(2.0), list(map(float, range(8)))),
}


@pytest.mark.parametrize("name", MASSES)
def test_bars_are_probabilities(name: str) -> None:
    distribution, values = MASSES[name]
    axes = plot(distribution)
    centres, heights = bars(axes)
    assert centres[: len(values)] == values
    expected = distribution.log_prob(tensor(centres)).exp()
    assert heights == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-6)
    assert sum(heights) > 0.99
    assert axes.get_ylabel() == "probability"
    assert axes.get_ylim()[0] == 0.0


def test_one_hot_categories_and_many_values() -> None:
    probs = tensor([0.1, 0.2, 0.7])
    _, heights = bars(plot(dd.OneHotCategorical(probs)))
    assert heights == pytest.approx(probs.tolist())
    wide = plot(dd.Poisson(10_000.0))
    assert not wide.containers
    x, y = curve(wide)
    torch.testing.assert_close(y, dd.Poisson(10_000.0).log_prob(x.float()).exp().double())
    assert len(plot(dd.Categorical(torch.ones(500))).get_lines()) == 1


def test_bars_of_several() -> None:
    q, target = dd.Binomial(3, tensor([0.2, 0.6])), dd.Poisson(1.0)
    axes = plot(q, against=target)
    assert len(axes.containers) == 3
    assert labels(axes) == ["q: Binomial[0]", "q: Binomial[1]", "target: Poisson"]
    hatches = [bool(container[0].get_hatch()) for container in axes.containers]
    assert hatches == [False, False, True]
    assert [bar.get_height() for bar in axes.containers[1]][:4] == pytest.approx(
        dd.Binomial(3, tensor(0.6)).log_prob(torch.arange(4.0)).exp().tolist(), rel=1e-4
    )
    # A value that one of them can't take has no mass.
    assert bars(axes)[1][4] == 0.0


def test_contours_hold_their_share_of_the_mass() -> None:
    q = dd.MultivariateNormal(torch.zeros(2), torch.eye(2))
    axes = plot(q)
    assert labels(axes) == ["MultivariateNormal (50%, 80%, 95% inside)"]
    contour = axes.collections[-1]
    # The region of highest density of a standard normal that holds p is where it is above
    # (1 - p) / (2 pi).
    expected = sorted((1 - share) / (2 * math.pi) for share in SHARES)
    assert list(contour.levels) == pytest.approx(expected, rel=0.03)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("value[0]", "value[1]")
    for path, level in zip(contour.get_paths(), expected, strict=True):
        radius = math.sqrt(-2 * math.log(2 * math.pi * level))
        assert torch.tensor(path.vertices).norm(dim=-1).median().item() == pytest.approx(
            radius, rel=0.05
        )


def test_contours_of_several_and_of_data() -> None:
    q = dd.Independent(dd.Normal(torch.zeros(2, 2), 1.0), 1)
    target = dd.MultivariateNormal(torch.ones(2), torch.eye(2))
    axes = plot(q, against=target)
    names = ["q: Independent[0]", "q: Independent[1]", "target: MultivariateNormal"]
    assert [text.partition(" (")[0] for text in labels(axes)] == names
    axes = plot(target, against=torch.randn(100, 2))
    (points,) = [each for each in axes.collections if isinstance(each, PathCollection)]
    assert len(points.get_offsets()) == 100
    axes = plot(dd.Independent(dd.Uniform(tensor([0.0, 1.0]), tensor([1.0, 3.0])), 1))
    assert list(axes.collections[-1].levels) == [pytest.approx(0.5)]
    assert axes.get_xlim()[0] >= -0.1
    assert axes.get_ylim()[1] <= 3.1


def test_entries_of_an_event_are_curves_in_one_picture() -> None:
    covariance = tensor([[4.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 9.0]])
    q = dd.MultivariateNormal(tensor([0.0, 1.0, 2.0]), covariance)
    axes = plot(q)
    assert labels(axes) == [f"MultivariateNormal[{at}]" for at in range(3)]
    for at in range(3):
        assert_is_density(axes, dd.Normal(q.loc[at], covariance[at, at].sqrt()), at)
    batch = plot(dd.Dirichlet(tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])))
    assert labels(batch)[5] == "Dirichlet[1, 2]"
    assert_is_density(batch, dd.Beta(1.0, 5.0), 5)
    wide = plot(dd.MultivariateNormal(torch.zeros(40), torch.eye(40)))
    assert wide.get_legend().get_title().get_text() == "8 of 40"
    data = plot(q, against=q.sample((200,)))
    assert labels(data)[-1] == "data"
    assert len(data.patches) == 3


def test_large_batches_do_not_take_long() -> None:
    start = time.perf_counter()
    axes = plot(dd.MultivariateNormal(torch.zeros(200, 100), torch.eye(100)))
    assert time.perf_counter() - start < 10.0
    assert_is_density(axes, dd.Normal(0.0, 1.0), 7)


def test_sites_of_a_joint() -> None:
    axes = plot(Coin())
    names = [each.get_xlabel() for each in axes]
    assert names == ["bias", "shift", "heads", "place"]
    assert_is_density(axes[0], dd.Beta(2.0, 3.0))
    assert labels(axes[1]) == ["shift[0]", "shift[1]"]
    assert_is_density(axes[1], dd.Normal(0.0, 1.0), 1)
    expected = scipy.stats.betabinom(4, 2.0, 3.0).pmf(range(5))
    values, heights = bars(axes[2])
    assert values == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert heights == pytest.approx(expected.tolist(), abs=0.015)
    (steps,) = axes[3].patches
    data = steps.get_data()
    assert (data.values * (data.edges[1:] - data.edges[:-1])).sum() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("kind", [MeanFieldNormal, FullRankNormal])
def test_sites_of_a_guide_have_exact_densities(kind: Any) -> None:
    guide = kind(Latents(), init_scale=0.5)
    with torch.no_grad():
        guide.raw_loc += torch.linspace(-1.0, 1.0, 5)
    rate, place, free = plot(guide)
    assert [each.get_xlabel() for each in (rate, place, free)] == ["rate", "place", "free"]
    draws = guide.sample((20_000,))
    for axes, column in ((rate, draws["rate"]), (place, draws["place"])):
        x, y = curve(axes)
        low, high = column.quantile(0.3), column.quantile(0.7)
        inside = (x > low) & (x < high)
        assert torch.trapezoid(y[inside], x[inside]).item() == pytest.approx(0.4, abs=0.03)
    assert len(free.get_lines()) == 3


def test_joints_beside_each_other_and_beside_draws() -> None:
    posterior = Coin().condition(heads=2, place=0.4)
    guide = FullRankNormal(posterior)
    axes = plot(guide, against=Coin())
    assert labels(axes[0]) == ["q: FullRankNormal", "target: Coin"]
    assert len(axes[1].get_lines()) == 4
    assert labels(axes[1]) == ["shift[0]", "shift[1]", "target: Coin"]
    draws = {"bias": torch.rand(100)}
    axes = plot(guide, against=draws)
    assert len(axes[0].patches) == 1
    assert len(axes[1].get_lines()) == 2
    both = plot({"a": torch.rand(50), "b": torch.rand(50)})
    assert [each.get_xlabel() for each in both] == ["a", "b"]


def test_data_below_a_density() -> None:
    data = torch.randn(1000)
    axes = plot(learnable(dd.Normal(0.0, 1.0)), against=data)
    assert labels(axes) == ["q: learnable Normal", "data"]
    (steps,) = axes.patches
    assert steps.get_fill()
    assert steps.get_alpha() < 0.5
    values, edges = steps.get_data().values, steps.get_data().edges
    at = len(values) // 2
    share = ((data >= edges[at]) & (data < edges[at + 1])).double().mean().item()
    assert values[at] * (edges[at + 1] - edges[at]) == pytest.approx(share, abs=2e-3)
    counts = plot(dd.Poisson(2.0), against=tensor([0.0, 1.0, 1.0, 4.0]))
    assert bars(counts, 1)[1][:5] == [0.25, 0.5, 0.0, 0.0, 0.25]


def test_lists_and_arrays_are_data() -> None:
    for data in ([0.0, 1.0, 5.0], tensor([0.0, 1.0, 5.0]).numpy(), tensor([0.0, 1.0, math.nan])):
        for dtype in (torch.float32, torch.float16):
            axes = plot(dd.Normal(*tensor([0.0, 1.0], dtype=dtype)), against=data)
            assert labels(axes) == ["q: Normal", "data"]


def test_heavy_tails_do_not_hide_the_middle() -> None:
    for distribution in (dd.Cauchy(0.0, 1.0), dd.HalfCauchy(1.0), dd.StudentT(1.0)):
        x = assert_is_density(plot(distribution), distribution)
        assert x[-1] < 40
        assert ((x.abs() < 2).sum() > 50).item()


def test_a_narrow_peak_is_not_missed() -> None:
    distribution = dd.MixtureSameFamily(
        dd.Categorical(torch.ones(2)), dd.Normal(tensor([0.0, 20.0]), tensor([0.01, 3.0]))
    )
    _, y = curve(plot(distribution))
    assert y.max() > 0.9 * 0.5 / (0.01 * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("distribution", [dd.Beta(0.5, 0.5), dd.Gamma(0.3, 1.0)])
def test_infinite_ends_leave_room_for_the_rest(distribution: dd.Distribution) -> None:
    axes = plot(distribution)
    _, y = curve(axes)
    assert axes.get_ylim()[1] < y.max() / 5
    assert axes.get_ylim()[1] > y.median()


def test_point_masses() -> None:
    axes = plot(dd.Normal(5.0, 1e-12))
    assert labels(axes) == ["Normal (all at 5)"]
    assert list(axes.get_lines()[0].get_xdata()) == [5.0, 5.0]
    assert axes.get_xlim()[0] < 5 < axes.get_xlim()[1]
    factors = plot(dd.LKJCholesky(2, 1.0))
    assert "LKJCholesky[0, 0] (all at 1)" in labels(factors)
    both = plot(dd.Normal(tensor([0.0, 1.0]), tensor([1e-12, 1.0])))
    assert labels(both)[1] == "Normal[1]"
    assert labels(both)[0].startswith("Normal[0] (all at ")
    assert len(bars(plot(dd.Categorical(torch.ones(1))))[0]) == 1
    assert bars(plot(dd.Binomial(0, tensor(0.3))))[1] == [1.0]


class Tent(dd.Distribution):
    """Without cdf, icdf, mean, or a support."""

    arg_constraints: Any = {}  # noqa: RUF012

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return torch.rand(sample_shape) + torch.rand(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return (1 - (value - 1).abs()).clamp_min(0.0).log()


class Unscored(Tent):
    def log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError


def test_distributions_that_lack_members() -> None:
    assert_is_density(plot(Tent()), Tent())
    assert len(plot(Unscored()).patches) == 1


@pytest.mark.parametrize("name", [n for n in CASES if n not in PLAIN and "-" not in n])
def test_every_case_can_be_drawn(name: str) -> None:
    q = CASES[name]()
    drawn = plot(q if predicted_kind(q) is None else q())
    for axes in drawn if isinstance(drawn, tuple) else (drawn,):
        assert axes.get_xlabel()
        things = [*axes.get_lines(), *axes.patches, *axes.collections, *axes.containers]
        assert things


def test_where_it_draws() -> None:
    _, ax = plt.subplots()
    assert plot(dd.Normal(0.0, 1.0), ax=ax) is ax
    _, grid = plt.subplots(2, 2)
    assert plot(Coin(), ax=grid) == tuple(grid.flat)
    with pytest.raises(DeclarationError, match=r"plot\(ax=\): expected 4 axes"):
        plot(Coin(), ax=ax)
    with pytest.raises(DeclarationError, match=r"plot\(ax=\): expected 1 axes"):
        plot(dd.Normal(0.0, 1.0), ax=3)


class Policy(Conditional):
    base = dd.Normal
    loc = Head()
    scale = 1.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Policy(in_features=2), r"got Policy\(.*Give it a context: plot\(q\(context"),
        (Coin().condition(heads=2), r"Fit a guide to it"),
        (NegativeLogLikelihood(Family()), r"got NegativeLogLikelihood\(.*Plot a distribution in"),
        (nn.Linear(2, 3), r"got Linear\("),
        (Family, r"got <class '.*Family'>\. Give an instance of it"),
        (3, "plot: expected a distribution, a joint, a guide, draws"),
        (dd.Normal(torch.zeros(30_000), 1.0), "at most 20000 numbers, got Normal of 30000"),
        (dd.Normal(torch.zeros(0), 1.0), "expected numbers to draw, got Normal, no numbers"),
        (Family(device="meta"), "Family, on the meta device"),
        (tensor([math.nan]), "got draws that are NaN or infinite"),
        (torch.zeros(0, 2), "expected numbers to draw, got draws, no numbers"),
        (["a"], r"got \['a'\]"),
        ([[1.0], [1.0, 2.0]], "expected numbers to draw, got draws, stack expects"),
        (torch.zeros(3, device="meta"), "expected numbers to draw, got draws, on the meta device"),
        (torch.zeros(3, dtype=torch.complex64), "got draws, complex numbers"),
    ],
)
def test_what_cannot_be_drawn(given: Any, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        plot(given)


def test_targets_that_do_not_fit() -> None:
    normal, vector = dd.Normal(0.0, 1.0), dd.Dirichlet(torch.ones(3))
    with pytest.raises(DeclarationError, match=r"events of shape \(\), as Normal has"):
        plot(normal, against=vector)
    with pytest.raises(DeclarationError, match="expected sites among no sites, as Normal has"):
        plot(normal, against=Coin())
    with pytest.raises(DeclarationError, match="expected sites among bias"):
        plot(Coin(), against={"bia": torch.rand(3)})
    with pytest.raises(DeclarationError, match=r"bias has, got events of shape \(2,\)"):
        plot(Coin(), against={"bias": torch.rand(3, 2)})
    history = History()
    history.add(1.0)
    with pytest.raises(DeclarationError, match="expected nothing beside a History"):
        plot(history, against=normal)


def test_nothing_else_changes() -> None:
    q = Coin()
    q.train()
    random = torch.get_rng_state()
    settings = dict(mpl.rcParams)
    first = plot(q)
    assert torch.equal(torch.get_rng_state(), random)
    assert dict(mpl.rcParams) == settings
    assert all(part.training for part in q.modules())
    assert all(parameter.grad is None for parameter in q.parameters())
    torch.manual_seed(7)
    second = plot(q)
    for one, other in zip(first, second, strict=True):
        for mine, theirs in zip(one.get_lines(), other.get_lines(), strict=True):
            assert list(mine.get_ydata()) == list(theirs.get_ydata())


def test_a_wide_prior_follows_the_range_of_the_posterior() -> None:
    axes = plot(dd.Normal(3.0, 0.1), against=dd.HalfNormal(100.0))
    low, high = axes.get_xlim()
    assert 2.0 < low < 2.7
    assert 3.3 < high < 4.0
    x, y = curve(axes, 1)
    torch.testing.assert_close(y, dd.HalfNormal(100.0).log_prob(x).exp())
    assert len(x[(x > 2.7) & (x < 3.3)]) > 50
    draws = plot({"x": 3 + 0.1 * torch.randn(2000)}, against={"x": 100 * torch.randn(2000)})[0]
    assert draws.get_xlim()[1] < 4.0
    counts = plot(dd.Poisson(3.0), against=dd.Poisson(1000.0).expand((1,)))
    assert counts.get_xlim()[1] > 1000  # elsewhere: as a whole
    assert plot(dd.Normal(0.0, 1.0), against=dd.Normal(50.0, 1.0)).get_xlim()[1] > 50

    posterior = dd.MultivariateNormal(tensor([3.0, 0.0]), 0.01 * torch.eye(2))
    axes = plot(posterior, against=dd.MultivariateNormal(torch.zeros(2), 100 * torch.eye(2)))
    assert 2.0 < axes.get_xlim()[0] < 2.8
    assert 3.2 < axes.get_xlim()[1] < 4.0
    assert -1.0 < axes.get_ylim()[0] < -0.2


def test_weighted_draws_are_those_of_the_target() -> None:
    """Of a wide normal, weighted to be those of a narrow one: you see the latter."""
    torch.manual_seed(0)
    wide, narrow = dd.Normal(0.0, 3.0), dd.Normal(1.0, 0.5)
    values = wide.sample((20_000,))
    draws = WeightedDraws({"a": values}, narrow.log_prob(values) - wide.log_prob(values))
    (axes,) = plot(draws)
    (histogram,) = [each for each in axes.patches if isinstance(each, StepPatch)]
    heights, edges, _ = histogram.get_data()
    middles = tensor(edges[1:] + edges[:-1]) / 2
    assert torch.allclose(tensor(heights), narrow.log_prob(middles).exp().double(), atol=0.1)
    assert float(axes.get_xlim()[1]) < 4.0
    (again,) = plot(draws, against={"a": values})
    assert labels(again) == ["q: draws", "target: draws"]

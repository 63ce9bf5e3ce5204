"""What a fit says of itself, on regressions whose answers others compute too."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist import (
    Conditional,
    Declarative,
    Exp,
    Head,
    NotConvergedWarning,
    Param,
    Positive,
    UnitInterval,
    Variational,
    derived,
    fit,
    learnable,
)
from declarative_dist.fitting import strategies
from declarative_dist.objectives import NegativeELBO, NegativeLogLikelihood, NegativeLogPosterior
from tests.cases import Counted


def features(rows: int = 300, columns: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


class Robust(Conditional):
    base = dd.StudentT
    df = Param(5.0, Exp())
    loc = Head()
    scale = Param(1.0, Exp())


class Counts(Conditional):
    base = dd.NegativeBinomial
    total_count = Param(1.0, Exp())
    mean = Head(Exp())

    @derived
    def logits(self, mean: Tensor, total_count: Tensor) -> Tensor:
        return mean.log() - total_count.log()


@pytest.mark.filterwarnings("ignore::declarative_dist.NotConvergedWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_t_distribution_of_light_tails_is_no_better_than_scipy_says(dtype: torch.dtype) -> None:
    """Far up torch's density is rounding alone, and may look better than any."""
    torch.manual_seed(0)
    x = features()
    y = x[:, 0] + dd.Uniform(-1.7, 1.7).sample((300,)).double()
    model = Robust(in_features=2, dtype=dtype)
    history = fit(NegativeLogLikelihood(model), (x.to(dtype), y.to(dtype)))
    with torch.no_grad():
        t = model(x.to(dtype))
    exact = scipy.stats.t.logpdf(y.numpy(), *(a.double().numpy() for a in (t.df, t.loc, t.scale)))
    rounding = 5e-3 if dtype == torch.float32 else 1e-4
    assert history.losses[-1] == pytest.approx(-exact.mean(), abs=rounding)
    # The limit is least squares.
    design = np.column_stack([x.numpy(), np.ones(300)])
    squares = np.linalg.lstsq(design, y.numpy(), rcond=None)[1][0]
    normal = 0.5 * np.log(2 * np.pi * squares / 300) + 0.5
    assert -exact.mean() == pytest.approx(normal, abs=1e-3)
    assert history.converged or "rounding hides the rest" in history.verdict


@pytest.mark.filterwarnings("ignore::declarative_dist.NotConvergedWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counts_below_poisson_have_the_likelihood_that_scipy_says(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = features()
    y = dd.Binomial(20, torch.sigmoid(x[:, 0])).sample()
    model = Counts(in_features=2, dtype=dtype)
    history = fit(NegativeLogLikelihood(model), (x.to(dtype), y.to(dtype)))
    with torch.no_grad():
        d: Any = model(x.to(dtype))
    count, mean = d.total_count.double().numpy(), d.mean.double().numpy()
    exact = scipy.stats.nbinom.logpmf(y.numpy(), count, count / (count + mean)).mean()
    assert history.losses[-1] == pytest.approx(-exact, abs=2e-3)


def test_a_loss_lost_in_its_own_rounding_does_not_fall_without_end() -> None:
    torch.manual_seed(0)
    x = features().float()
    y = torch.poisson((12.5 + 0.5 * x[:, 0]).exp())
    model = Counted(in_features=2)
    history = fit(NegativeLogLikelihood(model), (x, y))
    assert history.converged is not False, history.verdict
    assert "without end" not in history.verdict
    # Iterated least squares, in double precision.
    design = torch.cat([x, torch.ones(300, 1)], 1).double()
    weights = torch.tensor([0.0, 0.0, 12.0], dtype=torch.float64)
    for _ in range(50):
        rate = (design @ weights).exp()
        gradient = design.mT @ (y.double() - rate)
        weights = weights + torch.linalg.solve(design.mT * rate @ design, gradient)
    ours = torch.cat([model.projection.weight[0], model.projection.bias]).double()
    torch.testing.assert_close(ours, weights, atol=2e-6, rtol=0.0)


class Dollars(Conditional):
    base = dd.Normal
    loc = Head()
    scale = Param(1.0, Exp())


def test_a_weight_near_zero_is_not_called_flat() -> None:
    """Beside its standard error it is small, as by chance; the data determine it all the same."""
    x = features(200)
    noise = torch.randn(200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    design = torch.cat([x, torch.ones(200, 1, dtype=torch.float64)], 1)
    noise = noise - design @ torch.linalg.lstsq(design, noise[:, None]).solution[:, 0]
    y = 1e5 * (3.0 + x[:, 0] + noise) + x[:, 1]
    model = Dollars(in_features=2, dtype=torch.float64)
    history = fit(NegativeLogLikelihood(model), (x, y))
    assert history.converged
    assert model.projection.weight[0, 1].item() == pytest.approx(1.0, abs=0.1)
    assert "flat" not in history.verdict
    same = torch.cat([x, x[:, :1]], 1)
    model = Dollars(in_features=3, dtype=torch.float64)
    history = fit(NegativeLogLikelihood(model), (same, y))
    assert "the loss is flat in projection.weight" in history.verdict


class Median(Conditional):
    base = dd.Laplace
    loc = Head()
    scale = Param(1.0, Exp())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_least_absolute_deviations_against_a_linear_program(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = features()
    y = x[:, 0] + dd.Laplace(0.0, 1.0).sample((300,)).double()
    model = Median(in_features=2, dtype=dtype)
    with pytest.warns(NotConvergedWarning, match="the loss has corners"):
        history = fit(NegativeLogLikelihood(model), (x.to(dtype), y.to(dtype)))
    assert len(history.losses) < 40
    design = np.column_stack([x.numpy(), np.ones(300)])
    sides = np.block([[design, -np.eye(300)], [-design, -np.eye(300)]])
    cost = np.concatenate([np.zeros(3), np.full(300, 1 / 300)])
    limits = [(None, None)] * 3 + [(0, None)] * 300
    ends = np.concatenate([y.numpy(), -y.numpy()])
    least = scipy.optimize.linprog(cost, sides, ends, bounds=limits).fun
    assert history.losses[-1] == pytest.approx(np.log(2 * least) + 1, abs=1e-5)


@pytest.mark.parametrize("unit", [1.0, 1e5])
def test_mini_batches_are_settled_only_near_the_maximum(unit: float) -> None:
    """In dollars all gradients are small, and so are the steps beside the way to go."""
    torch.manual_seed(0)
    x = features(2000, 3).float()
    y = unit * (3.0 + x @ torch.tensor([1.0, -2.0, 0.5]) + 0.5 * torch.randn(2000))
    model = Dollars(in_features=3)
    if unit == 1.0:
        assert fit(NegativeLogLikelihood(model), (x, y), batch_size=100).converged
    else:
        with pytest.warns(NotConvergedWarning, match="projection.weight still goes one way"):
            fit(NegativeLogLikelihood(model), (x, y), batch_size=100)
    design = torch.cat([x, torch.ones(2000, 1)], 1)
    best = torch.linalg.lstsq(design, y[:, None]).solution[:, 0]
    ours = torch.cat([model.projection.weight[0], model.projection.bias])
    error = (ours - best).abs().max() / (0.5 * unit / 2000**0.5)
    assert (error < 0.5) == (unit == 1.0)


def test_a_score_estimate_without_noise_at_the_answer_settles_there() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log() + torch.tensor([-1.0, -2.0, -0.5, -4.0])

    class Kind(Variational):
        base = dd.Categorical
        logits = Param(0.0, shape=(4,))

    guide = Kind()
    history = fit(NegativeELBO(lambda kind: logits[kind], guide, num_samples=16))
    assert history.converged, history.verdict
    torch.testing.assert_close(guide().probs, logits.softmax(0), atol=0.01, rtol=0.0)


class Sparse(Declarative):
    """Far from the data their noise is large, so that the prior's corner at zero draws first."""

    weights = Param(0.2, shape=(2,), prior=dd.Laplace(0.0, 0.3))
    noise = Param(100.0, Positive(), prior=dd.HalfCauchy(1.0))

    def score(self, x: Tensor, y: Tensor) -> Tensor:
        return dd.Normal(x @ self.weights, self.noise).log_prob(y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_number_leaves_a_corner_that_the_others_have_moved_away_from(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(60, 2, dtype=torch.float64)
    y = x @ torch.tensor([2.0, -1.0], dtype=torch.float64) + 0.3 * torch.randn(60)

    def density(numbers: Any) -> float:
        a, b, log_noise = numbers
        noise = math.exp(log_noise)
        residuals = (y - a * x[:, 0] - b * x[:, 1]).numpy() / noise
        prior = (abs(a) + abs(b)) / 0.3 + math.log1p(noise**2)
        return float((residuals**2).sum() / 2 + 60 * log_noise + prior)

    options = {"maxiter": 4000, "xatol": 1e-9, "fatol": 1e-11}
    best = scipy.optimize.minimize(density, [1.0, 0.0, 0.0], method="Nelder-Mead", options=options)
    model = Sparse(dtype=dtype)
    objective = NegativeLogPosterior(model, total_size=60, log_likelihood=Sparse.score)
    history = fit(objective, (x.to(dtype), y.to(dtype)))
    assert history.converged, history.verdict
    found = [*model.weights.tolist(), model.noise.log().item()]
    assert found == pytest.approx(best.x.tolist(), abs=1e-3)


class ManyWeights(Declarative):
    weights = Param(0.0, shape=(12,), prior=dd.Laplace(0.0, 0.05))
    noise = Param(1.0, Positive(), prior=dd.HalfCauchy(1.0))

    def score(self, x: Tensor, y: Tensor) -> Tensor:
        return dd.Normal(x @ self.weights, self.noise).log_prob(y)


def descend_by_coordinates(x: Tensor, y: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """The mode of a linear regression under Laplace priors: closed forms, one number by one."""
    weights, noise = x.new_zeros(x.shape[1]), x.new_ones(())
    for _ in range(300):
        for j in range(len(weights)):
            along = x[:, j] @ (y - x @ weights + x[:, j] * weights[j])
            size = (along.abs() - rate * noise**2).clamp_min(0.0)
            weights[j] = along.sign() * size / x[:, j].square().sum()
        # Of the square v the slope is zero where n v (1 + v) - r (1 + v) + 2 v^2 is.
        squares, count = (y - x @ weights).square().sum(), len(y)
        half = (count - squares) / (2 * (count + 2))
        noise = (-half + (half**2 + squares / (count + 2)).sqrt()).sqrt()
    return weights, noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_weights_end_at_their_corners(dtype: torch.dtype) -> None:
    truth = torch.tensor([2.0, -1.0, 0.3, *[0.0] * 9], dtype=torch.float64)
    x = torch.randn(60, 12, dtype=torch.float64)
    y = x @ truth + 0.5 * torch.randn(60)
    weights, noise = descend_by_coordinates(x, y, 20.0)
    assert (weights == 0).sum() > 3
    model = ManyWeights(dtype=dtype)
    objective = NegativeLogPosterior(model, total_size=60, log_likelihood=ManyWeights.score)
    history = fit(objective, (x.to(dtype), y.to(dtype)))
    assert history.converged, history.verdict
    torch.testing.assert_close(model.weights.detach().double(), weights, rtol=0, atol=3e-3)
    assert model.noise.item() == pytest.approx(noise.item(), rel=1e-3)


def test_a_mode_at_the_end_of_a_unit_interval_has_no_density() -> None:
    class Coin(Variational):
        base = dd.Bernoulli
        probs = Param(0.5, UnitInterval(), prior=dd.Beta(0.5, 0.5))

    with pytest.warns(NotConvergedWarning, match="probs is held at the end of its band"):
        fit(NegativeLogPosterior(Coin(), total_size=20), torch.zeros(20))


class Held(Variational):
    """A scale that ends far above the spread of the data."""

    base = dd.Normal
    loc = Param(0.0)
    scale = Param(1.0, Exp(guard={torch.float32: (1e-2, 1e2)}))


@pytest.mark.parametrize("seed", range(4))
def test_a_number_where_the_loss_is_smooth_is_at_no_corner(seed: int) -> None:
    x = 1e-4 * torch.randn(50, generator=torch.Generator().manual_seed(seed))
    with pytest.warns(NotConvergedWarning, match="scale is held at the end of its band"):
        history = fit(NegativeLogLikelihood(Held()), x)
    assert "corner" not in history.verdict


def test_counts_with_less_spread_than_any_answer_settle_at_its_limit() -> None:
    x = torch.tensor([3.0, 3.0, 2.0, 3.0, 4.0, 3.0], dtype=torch.float64)
    q = learnable(dd.NegativeBinomial(5.0, 0.5)).double()
    history = fit(NegativeLogLikelihood(q), x)
    assert history.converged, history.verdict
    limit = -dd.Poisson(x.mean()).log_prob(x).mean().item()
    assert NegativeLogLikelihood(q)(x).item() == pytest.approx(limit, abs=1e-5)


@pytest.mark.parametrize("change", [Tensor.to_sparse, lambda x: x[0]])
def test_a_context_of_any_layout_or_rank_is_fitted(change: Any) -> None:
    class Line(Conditional):
        base = dd.Normal
        loc = Head()
        scale = 1.0

    x, y = features(40, 3).float(), torch.linspace(-1.0, 1.0, 40)
    line = Line(in_features=3)
    context = change(x)
    targets = y if context.ndim == 2 else y[0]
    before = NegativeLogLikelihood(line)(context, targets).item()
    fit(NegativeLogLikelihood(line), (context, targets))
    assert NegativeLogLikelihood(line)(context, targets).item() < before


def test_a_verdict_that_fails_leaves_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    q, found = learnable(dd.Exponential(1.0)), list[float]()

    def judge(objective: Any, *others: Any) -> Any:
        found.append(q.rate.item())
        q.rate = 7.0
        raise RuntimeError("out of memory")

    monkeypatch.setattr(strategies, "judge_descent", judge)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(NegativeLogLikelihood(q), torch.tensor([1.0, 2.0]))
    assert found == [q.rate.item()] == [pytest.approx(1 / 1.5, rel=1e-5)]

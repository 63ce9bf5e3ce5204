"""Fits without `steps`: they end at the answer, at any scale, or say why not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import torch.distributions as dd
from torch import Tensor, nn

from declarative_dist import (
    Conditional,
    Constraint,
    Declarative,
    Head,
    History,
    Interval,
    Joint,
    LogInterval,
    NotConvergedWarning,
    Param,
    Positive,
    Variational,
    fit,
    learnable,
)
from declarative_dist.errors import ConstraintError, NonFiniteError
from declarative_dist.fitting import strategies
from declarative_dist.objectives import NegativeLogLikelihood, NegativeLogPosterior
from declarative_dist.optimization.newton import Newton
from declarative_dist.optimization.rows import Rows
from tests.cases import Counted, GammaByMean, Mixture

DOUBLE = {"dtype": torch.float64}


def one(number: float) -> Tensor:
    return torch.tensor(number, **DOUBLE)


# The truth, a start far from it, and scipy's own family to fit beside it.
FAMILIES: dict[str, tuple[Callable[[float], dd.Distribution], dd.Distribution, str]] = {
    "Normal": (
        lambda s: dd.Normal(one(170 * s), one(9 * s)),
        dd.Normal(one(0.0), one(1.0)),
        "norm",
    ),
    "Laplace": (lambda s: dd.Laplace(one(s), one(s)), dd.Laplace(one(0.0), one(1.0)), "laplace"),
    "Cauchy": (lambda s: dd.Cauchy(one(s), one(s)), dd.Cauchy(one(0.0), one(1.0)), ""),
    "StudentT": (
        lambda s: dd.StudentT(one(3.0), one(s), one(s)),
        dd.StudentT(one(10.0), one(0.0), one(1.0)),
        "",
    ),
    "Gumbel": (lambda s: dd.Gumbel(one(s), one(s)), dd.Gumbel(one(0.0), one(1.0)), "gumbel_r"),
    "Gamma": (lambda s: dd.Gamma(one(2.5), one(3 / s)), dd.Gamma(one(1.0), one(1.0)), ""),
    "Weibull": (lambda s: dd.Weibull(one(s), one(1.5)), dd.Weibull(one(1.0), one(1.0)), ""),
    "LogNormal": (
        lambda s: dd.LogNormal(one(math.log(s)), one(0.5)),
        dd.LogNormal(one(0.0), one(1.0)),
        "",
    ),
    "InverseGamma": (
        lambda s: dd.InverseGamma(one(3.0), one(s)),
        dd.InverseGamma(one(1.0), one(1.0)),
        "",
    ),
    "Exponential": (lambda s: dd.Exponential(one(1 / s)), dd.Exponential(one(1.0)), ""),
    "HalfNormal": (lambda s: dd.HalfNormal(one(s)), dd.HalfNormal(one(1.0)), ""),
    "HalfCauchy": (lambda s: dd.HalfCauchy(one(s)), dd.HalfCauchy(one(1.0)), ""),
    "Uniform": (
        lambda s: dd.Uniform(one(s), one(3 * s)),
        dd.Uniform(one(0.0), one(1.0)),
        "uniform",
    ),
    "Pareto": (lambda s: dd.Pareto(one(s), one(2.0)), dd.Pareto(one(1.0), one(1.0)), ""),
}


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_maximum_of_the_likelihood_at_any_scale(name: str, scale: float) -> None:
    make, start, theirs = FAMILIES[name]
    truth = make(scale)
    x = truth.sample((300,))
    objective = NegativeLogLikelihood(learnable(start))
    history = fit(objective, x)
    assert history.converged, history
    assert history.verdict.startswith("settled")
    loss = objective(x)
    least = -truth.log_prob(x).mean().item()
    if theirs:
        family = getattr(scipy.stats, theirs)
        least = min(least, -family.logpdf(x.numpy(), *family.fit(x.numpy())).mean())
    assert loss.item() <= least + 1e-9 * (1 + abs(least))
    if "corner" in history.verdict:
        return
    gradients = torch.autograd.grad(loss, list(objective.parameters()))
    assert max(g.abs().item() for g in gradients) <= 1e-5 * (1 + abs(loss.item())) * max(
        1, 1 / scale
    )


COUNTS = {
    "Poisson": dd.Poisson(one(4.0)),
    "NegativeBinomial": dd.NegativeBinomial(one(5.0), one(0.4)),
    "Geometric": dd.Geometric(one(0.3)),
    "Binomial": dd.Binomial(10, one(0.3)),
    "Categorical": dd.Categorical(torch.tensor([0.2, 0.5, 0.3], **DOUBLE)),
    "Beta": dd.Beta(one(0.6), one(3.0)),
    "Kumaraswamy": dd.Kumaraswamy(one(2.0), one(3.0)),
    "Dirichlet": dd.Dirichlet(torch.tensor([0.5, 2.0, 7.0], **DOUBLE)),
    "VonMises": dd.VonMises(one(2.0), one(3.0)),
    "ContinuousBernoulli": dd.ContinuousBernoulli(one(0.8)),
    "FisherSnedecor": dd.FisherSnedecor(one(5.0), one(8.0)),
    "MultivariateNormal": dd.MultivariateNormal(
        torch.tensor([1.0, -300.0], **DOUBLE),
        scale_tril=torch.tensor([[2.0, 0.0], [30.0, 90.0]], **DOUBLE),
    ),
    "RelaxedOneHotCategorical": dd.RelaxedOneHotCategorical(
        one(0.7), logits=torch.tensor([0.1, 0.2, -1.0], **DOUBLE)
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_maximum_of_the_likelihood_from_random_numbers(name: str) -> None:
    truth = COUNTS[name]
    x = truth.sample((300,))
    q = learnable(truth)
    for parameter in q.parameters():
        nn.init.normal_(parameter)
    objective = NegativeLogLikelihood(q)
    history = fit(objective, x)
    assert history.converged, history
    assert "flat" not in history.verdict  # a shift of logits is no parameter
    assert objective(x).item() <= -truth.log_prob(x).mean().item() + 1e-12


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_single_precision(scale: float) -> None:
    truth = dd.Gamma(3.0, 2.0 / scale)
    x = truth.sample((2000,))
    q = learnable(dd.Gamma(1.0, 1.0))
    assert fit(NegativeLogLikelihood(q), x).converged
    shape, _, wide = scipy.stats.gamma.fit(x.double().numpy(), floc=0)
    assert q.concentration.item() == pytest.approx(shape, rel=2e-3)
    assert q.rate.item() == pytest.approx(1 / wide, rel=2e-3)


def test_a_thousand_fits_are_one() -> None:
    scales = torch.logspace(-3, 3, 1000, **DOUBLE)
    x = dd.Weibull(scales, torch.linspace(0.5, 4, 1000, **DOUBLE)).sample((100,))
    q = learnable(dd.Weibull)(batch_shape=(1000,), dtype=torch.float64)
    history = fit(NegativeLogLikelihood(q), x)
    assert history.converged
    assert history.step < 20
    for at in (0, 500, 999):
        shape, _, scale = scipy.stats.weibull_min.fit(x[:, at].numpy(), floc=0)
        assert q.concentration[at].item() == pytest.approx(shape, rel=1e-3)
        assert q.scale[at].item() == pytest.approx(scale, rel=1e-3)


CLOSED = {
    "Normal": (dd.Normal(one(3e6), one(2e6)), "scale", lambda x: x.std(0, correction=0)),
    "Normal, tiny": (dd.Normal(one(1.0), one(1e-6)), "scale", lambda x: x.std(0, correction=0)),
    "Gamma": (dd.Gamma(one(3.0), one(1e-3)), "rate", lambda x: gamma_rate(x)),
    "Uniform": (dd.Uniform(one(2e-6), one(3e-6)), "high", lambda x: x.amax(0)),
    "Pareto": (dd.Pareto(one(2e4), one(3.0)), "scale", lambda x: x.amin(0)),
}


def gamma_rate(x: Tensor) -> Tensor:
    fits = [scipy.stats.gamma.fit(column.numpy(), floc=0) for column in x.T]
    return torch.tensor([1 / scale for *_, scale in fits], **DOUBLE)


@pytest.mark.parametrize("name", CLOSED)
def test_an_answer_in_closed_form_takes_few_evaluations(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two to see that the loss is no other the second time, and those around the answer."""
    truth, field, answer = CLOSED[name]
    kind, scored = type(truth), []

    def log_prob(self: Any, value: Tensor) -> Tensor:
        scored.append(value)
        return original(self, value)

    original = kind.log_prob
    x = truth.sample((500, 3))
    q = learnable(kind)(batch_shape=(3,), dtype=torch.float64)
    monkeypatch.setattr(kind, "log_prob", log_prob)
    history = fit(NegativeLogLikelihood(q), x)
    assert "in closed form" in history.verdict
    assert 1 <= len(scored) <= 4
    torch.testing.assert_close(getattr(q, field).detach(), answer(x), rtol=1e-9, atol=0.0)


def test_large_copies_go_down_apart() -> None:
    class Family(Variational):
        base = dd.Normal
        event_dim = 1
        loc = Param(0.0, shape=("d",), prior=dd.Normal(0.0, 2.0))
        scale = 3.0

    x = torch.tensor([[1.0], [1e3], [-5.0]], **DOUBLE) + 3 * torch.randn(9, 3, 150, **DOUBLE)
    q = Family(d=150, batch_shape=(3,), dtype=torch.float64)
    history = fit(NegativeLogPosterior(q, total_size=9), x)
    assert history.converged, history
    torch.testing.assert_close(q.loc.detach(), x.mean(0) / (1 + 1 / 4))


def test_a_copy_that_fails_leaves_the_others_their_answers() -> None:
    x = dd.Normal(one(5.0), one(2.0)).sample((100, 3))
    x[:, 1] = 4.0  # no spread: the scale goes to zero
    q = learnable(dd.Normal)(batch_shape=(3,), dtype=torch.float64)
    with pytest.warns(NotConvergedWarning, match="2 of 3 copies settled, not 1: "):
        history = fit(NegativeLogLikelihood(q), x)
    assert "scale is held at the end of its band" in history.verdict
    torch.testing.assert_close(q.loc[[0, 2]].detach(), x.mean(0)[[0, 2]])
    torch.testing.assert_close(q.scale[[0, 2]].detach(), x.std(0, correction=0)[[0, 2]])


def test_a_mixture_starts_apart_though_its_components_are_equal() -> None:
    components = dd.Normal(torch.zeros(3, **DOUBLE), torch.ones(3, **DOUBLE))
    q = learnable(dd.MixtureSameFamily(dd.Categorical(torch.ones(3, **DOUBLE)), components))
    truth = dd.MixtureSameFamily(
        dd.Categorical(torch.tensor([0.2, 0.3, 0.5], **DOUBLE)),
        dd.Normal(
            torch.tensor([-900.0, 0.0, 700.0], **DOUBLE), torch.tensor([30.0, 60.0, 9.0], **DOUBLE)
        ),
    )
    x = truth.sample((1500,))
    objective = NegativeLogLikelihood(q)
    assert fit(objective, x).converged
    assert objective(x).item() <= -truth.log_prob(x).mean().item()


def test_components_that_differ_in_scale_alone_start_apart_too() -> None:
    parts = dd.Categorical(torch.ones(2, **DOUBLE)), torch.zeros(2, **DOUBLE)
    x = torch.cat([torch.randn(300, **DOUBLE), 10 * torch.randn(300, **DOUBLE)])
    ones, true = torch.ones(2, **DOUBLE), torch.tensor([1.0, 10.0], **DOUBLE)
    losses = []
    for scale in (ones, true):
        mixture = dd.MixtureSameFamily(parts[0], dd.Normal(parts[1], scale))
        objective = NegativeLogLikelihood(learnable(mixture))
        assert fit(objective, x).converged
        losses.append(objective(x).item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-8)


def test_a_noisy_fit_that_is_still_on_its_way_says_so() -> None:
    x = 1e4 * (10 + 3 * torch.randn(200))
    with pytest.warns(NotConvergedWarning, match=r"module\.raw_(loc|scale) still goes one way"):
        history = fit(NegativeLogLikelihood(learnable(dd.Normal(0.0, 1.0))), x, batch_size=20)
    assert history.converged is False


def test_random_numbers_of_a_generator_of_its_own_make_a_loss_noisy() -> None:
    generator = torch.Generator().manual_seed(0)

    class Divergence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = learnable(dd.Normal(0.0, 1.0))

        def forward(self) -> Tensor:
            x = self.q.loc + self.q.scale * torch.randn(64, generator=generator)
            loss: Tensor = (self.q.log_prob(x) - dd.Normal(3.0, 2.0).log_prob(x)).mean()
            return loss

    objective = Divergence()
    assert fit(objective).converged
    assert objective.q.loc.item() == pytest.approx(3.0, abs=0.1)
    assert objective.q.scale.item() == pytest.approx(2.0, abs=0.1)


def test_a_mixture_written_as_a_method_starts_apart_too() -> None:
    x = torch.cat([torch.randn(300, **DOUBLE) - 1e4, 50 * torch.randn(700, **DOUBLE) + 1e4])
    q = Mixture(loc=[0.0, 0.0], dtype=torch.float64)
    assert fit(NegativeLogLikelihood(q), x).converged
    assert q.loc.detach().sort().values.tolist() == pytest.approx([-1e4, 1e4], rel=1e-3)


def test_newton_leaves_a_saddle() -> None:
    x = torch.tensor([1.0, 0.0], requires_grad=True, **DOUBLE)
    newton = Newton(Rows([x]))
    while not newton.is_done:
        newton.step(lambda: x[0] ** 2 + (x[1] ** 2 - 1) ** 2)
    assert newton.converged.all()
    assert x[1].abs().item() == pytest.approx(1.0)


def test_a_derived_argument_far_away() -> None:
    x = dd.Gamma(one(3.0), one(1e-4)).sample((500,))
    q = GammaByMean(dtype=torch.float64)
    assert fit(NegativeLogLikelihood(q), x).converged
    assert q.location.item() == pytest.approx(x.mean().item())


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_regression_against_least_squares(scale: float) -> None:
    class Line(Conditional):
        base = dd.Normal
        loc = Head()
        scale = Param(1.0, Positive())

    x = torch.randn(400, 3, **DOUBLE)
    y = scale * (
        x @ torch.tensor([1.0, -2.0, 0.5], **DOUBLE) + 7 + 0.3 * torch.randn(400, **DOUBLE)
    )
    model = Line(in_features=3, dtype=torch.float64)
    history = fit(NegativeLogLikelihood(model), (x, y))
    assert history.converged, history
    design = np.c_[x.numpy(), np.ones(400)]
    found, residual, *_ = np.linalg.lstsq(design, y.numpy(), rcond=None)
    assert model.projection.weight[0].tolist() == pytest.approx(found[:3].tolist(), rel=1e-6)
    assert model.projection.bias.item() == pytest.approx(found[3], rel=1e-6)
    assert model.scale.item() == pytest.approx(math.sqrt(residual[0] / 400), rel=1e-6)


def test_the_mode_of_a_posterior_in_closed_form() -> None:
    class Family(Variational):
        base = dd.Normal
        loc = Param(0.0, prior=dd.Normal(0.0, 2.0))
        scale = 3.0

    x = dd.Normal(one(50.0), one(3.0)).sample((10,))
    q = Family(dtype=torch.float64)
    assert fit(NegativeLogPosterior(q, total_size=10), x).converged
    precision = 10 / 9 + 1 / 4
    assert q.loc.item() == pytest.approx(x.sum().item() / 9 / precision)


# Verdicts


def test_a_scale_that_runs_away_is_named() -> None:
    x = dd.Normal(one(0.0), one(1.0)).sample((3000,)).clamp(-2.5, 2.5)
    history = fit(NegativeLogLikelihood(learnable(dd.StudentT(one(5.0), one(0.0), one(1.0)))), x)
    assert "df" in history.verdict, history


@pytest.mark.filterwarnings("ignore::declarative_dist.NotConvergedWarning")
@pytest.mark.parametrize(("family", "field", "dtype"), [
    (dd.Gamma(1.0, 1.0), "rate", torch.float64),
    (dd.InverseGamma(1.0, 1.0), "concentration", torch.float32),
    (dd.Beta(1.0, 1.0), "concentration1", torch.float64),
    (dd.Dirichlet(torch.ones(2)), "concentration", torch.float32),
    (dd.Normal(0.0, 1.0), "scale", torch.float32),
    (dd.Laplace(0.0, 1.0), "scale", torch.float64),
    (dd.VonMises(0.0, 1.0), "concentration", torch.float32),
    (dd.Pareto(0.1, 1.0), "scale", torch.float32),
    (dd.Pareto(0.1, 1.0), "scale", torch.float64),
])  # fmt: skip
def test_data_that_are_all_alike_have_no_maximum(
    family: dd.Distribution, field: str, dtype: torch.dtype
) -> None:
    """The loss falls without end, until rounding hides it or a band ends."""
    for number in (0.4, 0.7, 0.9):
        datum = torch.tensor([number, 1 - number] if family.event_shape else number, dtype=dtype)
        data = datum.expand(20, *datum.shape)
        history = fit(NegativeLogLikelihood(learnable(family).to(dtype)), data)
        assert field in history.verdict
        assert history.converged is False


def test_data_that_are_all_alike_but_for_some_without_weight_have_no_maximum() -> None:
    data, weights = torch.full((30,), 0.7), torch.ones(30)
    data[:5], weights[:5] = 0.4, 0.0
    objective = NegativeLogLikelihood(learnable(dd.Gamma)())
    with pytest.warns(NotConvergedWarning, match="falls without end in concentration"):
        fit(objective, (data, {"weights": weights}))


def test_equal_data_in_single_precision_are_no_answer_of_an_inverse_gamma() -> None:
    """At most numbers nearby rounding leaves the loss where it is; not at all of them."""
    with pytest.warns(NotConvergedWarning, match="falls without end in concentration"):
        fit(NegativeLogLikelihood(learnable(dd.InverseGamma(1.0, 1.0))), torch.full((20,), 3.0))


class Shifted(Variational):
    """A log-normal from an end on: its likelihood is infinite where the end nears a datum."""

    low = Param(0.1)
    loc = Param(0.0)
    scale = Param(1.0, Positive())

    def base(self, low: Tensor, loc: Tensor, scale: Tensor) -> dd.Distribution:
        shift = dd.AffineTransform(low, 1.0)
        return dd.TransformedDistribution(dd.LogNormal(loc, scale), [shift])


NEAR = [0.35, 0.36, 0.38, 0.41, 0.5, 0.52, 0.6, 0.9, 1.4]


@pytest.mark.parametrize(("make", "data", "field"), [
    (Shifted, torch.tensor(NEAR), "low"),
    (lambda: Shifted(dtype=torch.float64), torch.tensor(NEAR, **DOUBLE), "low"),
    (lambda: learnable(dd.Gamma(1.0, 1.0)), torch.tensor([0.0, 0.7, 1.2, 1.9]), "concentration"),
    (lambda: learnable(dd.Beta(1.0, 1.0)), torch.tensor([1.0, 0.3, 0.5, 0.6]), "concentration0"),
    (lambda: learnable(dd.Uniform(-1.0, 2.0)), torch.full((50,), 1e6), "high"),
])  # fmt: skip
def test_an_infinite_density_is_no_corner(
    make: Callable[[], Variational], data: Tensor, field: str
) -> None:
    """Of data at an end of the support, or that the end may reach, rounding stops the climb."""
    with pytest.warns(NotConvergedWarning, match=f"falls without end in {field}"):
        history = fit(NegativeLogLikelihood(make()), data)
    assert history.converged is False


def test_a_datum_without_a_density_at_the_start_is_named() -> None:
    data = torch.tensor([1.0, 2.0, 0.0, 3.0])
    with pytest.raises(NonFiniteError, match=r"log density is -inf at index 2 of the data, one"):
        fit(NegativeLogLikelihood(learnable(dd.Gamma(2.0, 1.0))), data)


def test_fewer_data_than_dimensions_end_at_a_band() -> None:
    family = learnable(dd.MultivariateNormal(torch.zeros(2), torch.eye(2))).double()
    with pytest.warns(NotConvergedWarning, match="covariance_matrix is held at the end of its"):
        fit(NegativeLogLikelihood(family), torch.randn(2, 2, **DOUBLE))


def test_an_end_of_the_support_that_data_determine_is_an_answer_though_they_are_alike() -> None:
    class Tail(Variational):
        base = dd.Pareto
        alpha = 3.0
        scale = Param(1.0, Positive())

    q = Tail()
    assert fit(NegativeLogLikelihood(q), torch.full((20,), 0.7)).converged
    assert q.scale.item() == pytest.approx(0.7, rel=1e-4)


@pytest.mark.parametrize("shift", [-5.0, -2.0, 0.0])
def test_a_uniform_ends_at_its_data_though_one_is_zero(shift: float) -> None:
    x = 5 * torch.rand(50) + shift
    x[:2] = torch.tensor([shift, shift + 5.0])
    q = learnable(dd.Uniform(-9.0, 9.0))
    history = fit(NegativeLogLikelihood(q), x)
    assert history.converged, history.verdict
    low, width = scipy.stats.uniform.fit(x.numpy())
    assert [q.low.item(), q.high.item()] == pytest.approx([low, low + width], abs=1e-4)


class Logits(Conditional):
    base = dd.Bernoulli
    logits = Head()


@pytest.mark.parametrize(("family", "answer", "dtype"), [
    (Counted, 0.0, torch.float64), (Logits, 1.0, torch.float32),
])  # fmt: skip
def test_a_slope_that_data_leave_open_on_one_side_is_named(
    family: Any, answer: float, dtype: torch.dtype
) -> None:
    """A group in which all counts are zero, or all answers are yes."""
    x = torch.randn(100, 2, dtype=dtype)
    x[:, 1] = torch.arange(100) < 10
    y = (torch.rand(100) < 0.5).to(dtype)
    y[:10] = answer
    history = fit(NegativeLogLikelihood(family(in_features=2, dtype=dtype)), (x, y))
    assert "the loss is flat in projection.weight" in history.verdict


@pytest.mark.parametrize(("family", "field", "datum"), [
    (dd.Poisson(one(1.0)), "rate", 0.0), (dd.Bernoulli(one(0.5)), "probs", 0.0),
    (dd.Categorical(torch.ones(3, **DOUBLE)), "probs", 1.0),
])  # fmt: skip
def test_a_maximum_at_the_end_of_a_range_is_told(
    family: dd.Distribution, field: str, datum: float
) -> None:
    q = learnable(family)
    history = fit(NegativeLogLikelihood(q), torch.full((50,), datum, **DOUBLE))
    assert history.converged
    assert f"flat in {field}: " in history.verdict
    assert "or its range ends here" in history.verdict
    assert getattr(q, field).min().item() < 1e-6


def test_counts_below_poisson_have_no_best_negative_binomial() -> None:
    x = dd.Binomial(20, one(0.8)).sample((500,))
    history = fit(NegativeLogLikelihood(learnable(dd.NegativeBinomial(one(3.0), one(0.5)))), x)
    assert "the loss is flat in total_count" in history.verdict


def test_data_without_weight_count_for_nothing() -> None:
    x = dd.Uniform(one(2.0), one(5.0)).sample((300,))
    weights = (torch.rand(300) < 0.5).to(x)
    objective = NegativeLogLikelihood(learnable(dd.Uniform(one(0.0), one(1.0))))
    data = torch.where(weights > 0, x, torch.nan)
    assert fit(objective, (data, {"weights": weights})).converged
    assert objective.module.high.item() == pytest.approx(x[weights > 0].max().item())


def test_sites_of_a_joint_start_from_their_own_data() -> None:
    class Two(Joint):
        a = learnable(dd.Normal)
        b = learnable(dd.Gamma)

    data = {
        "a": 1e5 + torch.randn(300, **DOUBLE),
        "b": dd.Gamma(one(3.0), one(2e-3)).sample((300,)),
    }
    joint = Two(dtype=torch.float64)
    assert fit(NegativeLogLikelihood(joint), (data,)).converged
    assert joint.a.loc.item() == pytest.approx(data["a"].mean().item())


def test_a_flat_direction_is_named() -> None:
    class Twice(Variational):
        a = Param(0.0)
        b = Param(0.0)
        c = Param(1.0, Positive())

        def base(self, a: Tensor, b: Tensor, c: Tensor) -> dd.Distribution:
            return dd.Normal(a + b, c)

    x = dd.Normal(one(3.0), one(1.0)).sample((100,))
    history = fit(NegativeLogLikelihood(Twice(dtype=torch.float64)), x)
    assert history.converged
    assert "the loss is flat in a, b: the data do not determine it" in history.verdict


def test_a_value_at_the_end_of_its_band_is_named() -> None:
    class Family(Variational):
        base = dd.Normal
        loc = Param(0.0, Interval(-1.0, 1.0))
        scale = Param(1.0, Positive())

    q = Family(dtype=torch.float64)
    history = fit(NegativeLogLikelihood(q), dd.Normal(one(30.0), one(0.5)).sample((200,)))
    assert "loc is held at the end of its band: give its constraint more room" in history.verdict
    assert q.loc.item() == pytest.approx(1.0)


@pytest.mark.parametrize(("spread", "end"), [(1e-4, 1e-2), (1e3, 1e2)])
@pytest.mark.parametrize("constraint", [Interval(1e-2, 1e2), LogInterval(1e-2, 1e2)])
def test_a_bound_that_you_declare_is_an_answer(
    constraint: Constraint, spread: float, end: float
) -> None:
    class Family(Variational):
        base = dd.Normal
        loc = Param(0.0)
        scale = Param(1.0, constraint)

    x = 3 + spread * torch.randn(200)
    q = Family()
    history = fit(NegativeLogLikelihood(q), x)
    assert history.converged, history.verdict
    assert "scale is held at the end of its band" in history.verdict
    assert q.loc.item() == pytest.approx(x.mean().item(), rel=1e-5)
    assert q.scale.item() == pytest.approx(end, rel=1e-5)


def test_steps_are_judged_too() -> None:
    x = dd.Normal(one(170.0), one(9.0)).sample((2000,))
    objective = NegativeLogLikelihood(learnable(dd.Normal(one(0.0), one(1.0))))
    history = fit(objective, x, steps=500)
    assert history.converged is False
    assert history.verdict.startswith("still falling: 500 steps, loss down")
    assert history.verdict in repr(history)
    history = fit(objective, x, steps=20, optimizer=torch.optim.LBFGS)
    assert history.converged, history


def test_a_budget_that_is_used_up_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(strategies.BUDGETS, Newton, 2)
    x = dd.Weibull(one(0.3), one(4.0)).sample((200,))
    with pytest.warns(NotConvergedWarning, match="2 steps are used up"):
        history = fit(NegativeLogLikelihood(learnable(dd.Weibull(one(1.0), one(1.0)))), x)
    assert history.converged is False


# The rest of the loop


def test_newton_goes_on_from_a_checkpoint(tmp_path) -> None:
    def make() -> NegativeLogLikelihood:
        return NegativeLogLikelihood(learnable(dd.Weibull(one(1.0), one(1.0))))

    x = dd.Weibull(one(0.3), one(4.0)).sample((200,))
    whole = make()
    reference = fit(whole, x)
    path, part = tmp_path / "fit.pt", make()
    fit(part, x, checkpoint=path, every=1, callbacks=lambda step, *_: step == 2)
    again = make()
    history = fit(again, x, checkpoint=path, resume=True)
    assert history.converged
    assert again(x).item() == pytest.approx(whole(x).item(), abs=1e-14)
    assert history.losses[:2] == reference.losses[:2]


def test_a_settled_fit_is_over_when_resumed_and_other_data_are_not(tmp_path) -> None:
    x = dd.Gamma(one(3.0), one(2.0)).sample((400,))

    def go(data: Tensor) -> History:
        q = learnable(dd.Gamma(one(1.0), one(1.0)))
        return fit(NegativeLogLikelihood(q), data, checkpoint=tmp_path / "a", resume=True)

    first = go(x)
    again = go(x)
    assert (again.losses, again.converged) == (first.losses, True)
    other = go(7 * x)
    assert other.converged
    assert other.values["rate"][-1] == pytest.approx(first.values["rate"][-1] / 7, rel=1e-6)


def test_a_component_on_one_datum_is_named() -> None:
    x = torch.cat([torch.randn(50), torch.tensor([1000.0])])
    pair = dd.Categorical(torch.ones(2) / 2), dd.Normal(torch.zeros(2), torch.ones(2))
    with pytest.raises(NonFiniteError, match=r"scale is at the end of its band, as where a comp"):
        fit(NegativeLogLikelihood(learnable(dd.MixtureSameFamily(*pair))), x)


def test_ctrl_c_leaves_the_last_step() -> None:
    x = dd.Weibull(one(0.3), one(4.0)).sample((200,))

    def interrupt(step: int, *_: object) -> None:
        if step == 2:
            raise KeyboardInterrupt

    objective = NegativeLogLikelihood(learnable(dd.Weibull(one(1.0), one(1.0))))
    history = fit(objective, x, callbacks=interrupt)
    assert isinstance(history, History)
    assert history.interrupted
    assert history.converged is None
    assert "ended by Ctrl-C" in history.verdict
    assert history.step == 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tolerance": -1.0}, "fit(tolerance=): expected a positive, finite number"),
        ({"restarts": -1}, "fit(restarts=): expected an int, 0 or more"),
        ({"steps": 3, "tolerance": 1e-3}, "Leave one of them out."),
        ({"steps": 3, "restarts": 2}, "Leave one of them out."),
    ],
)
def test_bad_ends_are_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(ConstraintError) as caught:
        fit(NegativeLogLikelihood(learnable(dd.Normal(0.0, 1.0))), torch.ones(3), **options)
    assert text in str(caught.value)


def test_more_numbers_than_newton_affords_go_to_lbfgs() -> None:
    class Line(Conditional):
        base = dd.Normal
        loc = Head()
        scale = 0.5

    x = torch.randn(600, 150, **DOUBLE)
    w = torch.randn(150, **DOUBLE)
    y = x @ w + 3
    model = Line(in_features=150, dtype=torch.float64)
    history = fit(NegativeLogLikelihood(model), (x, y))
    assert history.converged, history
    torch.testing.assert_close(model.projection.weight[0].detach(), w, atol=1e-4, rtol=0)


def test_an_error_of_linear_algebra_names_the_matrix() -> None:
    class Root(Declarative):
        other = Param(torch.eye(2))
        matrix = Param(torch.tensor([[1.0, 2.0], [2.0, 4.0]]))

        def forward(self) -> Tensor:
            return torch.linalg.cholesky(self.matrix).sum() + self.other.sum()

    with pytest.raises(NonFiniteError, match="Root.matrix: expected a matrix that torch can"):
        fit(Root(), steps=3)

"""ArviZ: named dimensions, groups, and checks and comparisons equal to those by hand."""

from __future__ import annotations

from typing import Any

import arviz
import numpy as np
import pytest
import torch
import torch.distributions as dd
from torch import Tensor, tensor

from declarative_dist import (
    ConstraintError,
    DeclarationError,
    Declarative,
    Exp,
    FullRankNormal,
    Joint,
    MeanFieldNormal,
    Param,
    Simplex,
    Variational,
    WeightedDraws,
    site,
)
from declarative_dist.integrations.arviz import to_inference_data
from declarative_dist.objectives import NegativeLogPosterior
from declarative_dist.wrappers import Censored
from tests.test_joint import EFFECT, ERROR, Correlated

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = list("ABCDEFGH")


class Effects(Variational):
    """Standard normal effects of schools."""

    base = dd.Normal
    event_dim = 1
    loc = Param(0.0, shape=("school",), trainable=False)
    scale = Param(1.0, Exp(), shape=("school",), trainable=False)


class Schools(Joint):
    error = ERROR
    mu = dd.Normal(0.0, 5.0)
    tau = dd.HalfCauchy(5.0)
    z = Effects(school=8)

    @site(event_dim=1)
    def y(self, mu: Tensor, tau: Tensor, z: Tensor, error: Tensor) -> dd.Normal:
        return dd.Normal(mu[..., None] + tau[..., None] * z, error)


@pytest.fixture(scope="module")
def posterior() -> Any:
    return Schools().condition(y=EFFECT)


@pytest.fixture(scope="module")
def draws(posterior: Any) -> WeightedDraws:
    torch.manual_seed(0)
    return FullRankNormal(posterior).importance_sample(posterior, 2000)


def test_eight_schools_with_all_groups(posterior: Any, draws: WeightedDraws) -> None:
    derived = draws.transform(effect=lambda v: v["mu"][:, None] + v["tau"][:, None] * v["z"])
    torch.manual_seed(7)
    data = to_inference_data(
        derived, num_chains=2, model=posterior,
        dims={"y": ["school"], "effect": ["school"]},
    ).assign_coords(school=NAMES)  # fmt: skip
    added = {"posterior_predictive", "log_likelihood", "prior", "prior_predictive"}
    assert set(data.groups()) == {"posterior", *added, "observed_data"}
    assert dict(data.posterior.z.sizes) == {"chain": 2, "draw": 1000, "school": 8}
    assert data.posterior.effect.dims == data.log_likelihood.y.dims == ("chain", "draw", "school")
    assert data.observed_data.y.dims == ("school",)
    assert data.observed_data.y.sel(school="A").item() == 28.0
    assert data.prior.z.dims == ("chain", "draw", "school")
    assert data.prior_predictive.y.shape == data.posterior_predictive.y.shape == (2, 1000, 8)
    values = {name: torch.as_tensor(data.posterior[name].values) for name in ("mu", "tau", "z")}
    torch.manual_seed(7)
    resampled = derived.resample(2000)
    assert torch.equal(values["mu"].flatten(), resampled["mu"])

    # By hand: the log likelihood, and what ArviZ makes of it.
    mean = values["mu"][..., None] + values["tau"][..., None] * values["z"]
    by_hand = arviz.from_dict(
        posterior={name: value.numpy() for name, value in {**values, "effect": mean}.items()},
        log_likelihood={"y": dd.Normal(mean, ERROR).log_prob(tensor(EFFECT)).double().numpy()},
        posterior_predictive={"y": data.posterior_predictive.y.values},
        prior_predictive={"y": data.prior_predictive.y.values},
        observed_data={"y": np.array(EFFECT, dtype=np.float32)},
    )
    ours, theirs = arviz.loo(data, pointwise=True), arviz.loo(by_hand, pointwise=True)
    assert ours.elpd_loo == pytest.approx(theirs.elpd_loo, rel=1e-6)
    assert ours.p_loo == pytest.approx(theirs.p_loo, rel=1e-4)
    np.testing.assert_allclose(ours.pareto_k.values, theirs.pareto_k.values, rtol=1e-3)
    assert -32.5 < ours.elpd_loo < -29.5  # -30.7 in the literature (Vehtari and others, 2017)
    for group in ("posterior", "prior"):
        checked = [
            arviz.summary(each[f"{group}_predictive"], kind="stats").to_numpy()
            for each in (data, by_hand)
        ]
        np.testing.assert_array_equal(*checked)
    p_values = (data.posterior_predictive.y > data.observed_data.y).mean(("chain", "draw"))
    assert ((p_values > 0.05) & (p_values < 0.95)).all()


def test_dimensions_of_guides_weighted_draws_and_dicts(
    posterior: Any, draws: WeightedDraws
) -> None:
    class Latents(Declarative):
        shares = Param([0.2, 0.3, 0.5], Simplex(), shape=("kind",))
        table = Param(0.0, shape=("school", 2))
        square = Param(0.0, shape=("kind", "kind"))

    guide = MeanFieldNormal(Latents(school=4, batch_shape=3))
    weighted = WeightedDraws(guide.sample((90,)), torch.zeros(90, 3), dims=guide.flat.dims)
    for source in (guide, weighted):
        found = to_inference_data(source, 50).posterior
        assert found.square.dims[2:] == ("square_dim_0", "kind", "square_dim_2")
        assert found.shares.dims == ("chain", "draw", "shares_dim_0", "kind")
        assert found.table.dims[2:] == ("table_dim_0", "school", "table_dim_2")
        assert found.table.shape == (1, 50, 3, 4, 2)
    assert to_inference_data(FullRankNormal(posterior), 20).posterior.z.dims[2:] == ("school",)
    assert to_inference_data(draws, 20).posterior.z.dims[2:] == ("school",)
    assert to_inference_data(draws.values).posterior.z.dims[2:] == ("z_dim_0",)
    named = to_inference_data(draws.values, model=posterior)
    assert named.posterior.z.dims[2:] == named.prior.z.dims[2:] == ("school",)


def test_names_that_mean_two_things_are_no_dimensions() -> None:
    class One(Declarative):
        left = Param(0.0, shape=("size",))
        other = Param(0.0, shape=("chain",))

    class Both(Declarative):
        a = One(size=2, chain=4)
        b = One(size=3, chain=4)

    found = to_inference_data(MeanFieldNormal(Both()), 10).posterior
    assert found["a.left"].dims[2:] == ("size",)
    assert found["b.left"].dims[2:] == ("b.left_dim_0",)
    assert found["b.left"].shape == (1, 10, 3)
    named = to_inference_data(MeanFieldNormal(Both()), 10, dims={"b.left": [None]}).posterior
    assert named["b.left"].dims == found["b.left"].dims
    assert found["b.other"].dims[2:] == ("b.other_dim_0",)


def test_names_of_sites_are_those_of_arguments_that_reach_events() -> None:
    class Counts(Variational):
        base = dd.Multinomial
        total_count = 5
        probs = Param([0.5, 0.25, 0.25], Simplex(), shape=("colour",))

    class Label(Variational):
        base = dd.Categorical
        event_dim = 1
        logits = Param(0.0, shape=("person", "label"))

    class Sites(Joint):
        counts = Counts
        label = Label(person=2, label=2)
        plain = dd.Normal(0.0, 1.0)

    dims = Sites().condition().dims
    assert dims == {"counts": ("colour",), "label": (), "plain": ()}


def test_data_of_copies_and_events_that_are_one_datum() -> None:
    joint = Correlated()
    posterior = joint.condition(x=[0.1, 0.2])
    sites = {name: value for name, value in joint.sample((30,)).items() if name != "x"}
    found = to_inference_data(sites, model=posterior, dims={"x": ["axis"]})
    assert found.log_likelihood.x.dims == ("chain", "draw")
    assert found.posterior_predictive.x.dims == ("chain", "draw", "axis")

    class Group(Joint):
        mu = dd.Normal(0.0, 1.0)
        scale = Param(1.0, Exp())

        @site(event_dim=1)
        def y(self, mu: Tensor, scale: Tensor) -> dd.Normal:
            return dd.Normal(mu[..., None].expand(*mu.shape, 3), scale[..., None])

    copies = Group(batch_shape=2).condition(y=[1.0, 2.0, 3.0])
    mu = {"mu": torch.randn(40, 2)}
    found = to_inference_data(mu, model=copies, dims={"y": ["row"]})
    assert found.log_likelihood.y.dims == ("chain", "draw", "y_dim_0", "row")
    assert found.log_likelihood.y.shape == (1, 40, 2, 3)
    assert found.observed_data.y.dims == ("row",)


def test_a_posterior_of_data() -> None:
    class Line(Declarative):
        slope = Param(0.0, prior=dd.Normal(0.0, 2.0))
        noise = Param(1.0, Exp(), prior=dd.Gamma(2.0, 2.0))

    def log_likelihood(line: Line, x: Tensor, y: Tensor, *, shift: float = 0.0) -> Tensor:
        return dd.Normal(line.slope * x + shift, line.noise).log_prob(y)

    torch.manual_seed(0)
    x = torch.linspace(-1.0, 1.0, 20)
    y = 2.0 * x + 0.3 * torch.randn(20)
    model = NegativeLogPosterior(Line(), total_size=20, log_likelihood=log_likelihood)
    guide = FullRankNormal(model.module)
    draws = guide.importance_sample(lambda v: model.log_joint(v, x, y), 1000)
    draws = draws.transform(double=lambda v: 2 * v["slope"])
    found = to_inference_data(draws, model=model, data=(x, y))
    assert found.groups() == ["posterior", "log_likelihood", "observed_data"]
    slope, noise = (torch.as_tensor(found.posterior[n].values) for n in ("slope", "noise"))
    expected = dd.Normal(slope[..., None] * x, noise[..., None]).log_prob(y)
    np.testing.assert_allclose(found.log_likelihood.data.values, expected, rtol=1e-4, atol=1e-5)
    assert found.observed_data.data.shape == (20,)
    values = {name: found.posterior[name].values for name in ("slope", "noise")}
    shifted = to_inference_data(values, has_chains=True, model=model, data=(x, y, {"shift": 5.0}))
    expected = dd.Normal(slope[..., None] * x + 5.0, noise[..., None]).log_prob(y)
    np.testing.assert_allclose(shifted.log_likelihood.data.values, expected, rtol=1e-4, atol=1e-5)


DRAWS = {
    "z": torch.zeros(30, 8),
    "m": torch.zeros(30, 2, 2),
    "mu": torch.zeros(30),
    "tau": torch.ones(30),
}


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"dims": {"w": ["a"]}}, ConstraintError, r"dims=\): expected known names, got 'w'"),
        ({"dims": {"z": ["a", "b"]}}, ConstraintError, "1 names or fewer for z"),
        ({"dims": {"z": ["chain"]}}, ConstraintError, r"1 names or fewer for z, .*\['chain'\]"),
        ({"dims": {"z": ["a"], "m": ["a"]}}, ConstraintError, "for m, of one size"),
        ({"dims": {"z": ["mu"]}}, ConstraintError, "no variable, got"),
        ({"model": Schools()}, DeclarationError, r"joint\.condition\(y=data\), or a"),
        ({"num_chains": 0}, ConstraintError, "num_chains"),
    ],
)
def test_what_does_not_fit(keywords: dict[str, Any], error: type, message: str) -> None:
    draws = DRAWS if "num_chains" not in keywords else WeightedDraws(DRAWS, torch.zeros(30))
    with pytest.raises(error, match=message):
        to_inference_data(draws, **keywords)


def test_draws_of_another_model_are_refused(posterior: Any) -> None:
    with pytest.raises(ConstraintError, match=r"Schools\.z: expected"):
        to_inference_data({"mu": torch.zeros(3), "tau": torch.ones(3)}, model=posterior)
    with pytest.raises(ConstraintError, match=r"Schools\.tau: .*support"):
        to_inference_data({**DRAWS, "tau": -DRAWS["tau"]}, model=posterior)


def test_names_of_copies_stand_before_the_dimensions_of_their_events() -> None:
    class Pairs(Joint):
        scale = dd.Gamma(2.0, 1.0)

        @site(shape=("person",))
        def t(self, scale: Tensor) -> Censored:
            return Censored(dd.Exponential(scale))

        @site(shape=("place", "person"))
        def u(self, scale: Tensor) -> dd.MultivariateNormal:
            return dd.MultivariateNormal(scale[..., None].expand(*scale.shape, 2), torch.eye(2))

    known = tensor([[1.0, 1.0], [0.5, torch.inf]])  # as many persons as numbers of a pair
    posterior = Pairs(person=2, place=3).condition(t=known)
    draws = {"scale": torch.rand(6) + 0.1, "u": torch.randn(6, 3, 2, 2)}
    found = to_inference_data(draws, model=posterior)
    found = found.assign_coords(person=["a", "b"])
    assert found.observed_data.t.dims == ("person", "t_dim_1")
    assert found.posterior.u.dims == ("chain", "draw", "place", "person", "u_dim_2")
    assert found.log_likelihood.t.dims == ("chain", "draw", "person")
    np.testing.assert_array_equal(found.observed_data.t.sel(person="b"), known[1])
    by_hand = -0.5 * draws["scale"]
    np.testing.assert_allclose(found.log_likelihood.t.sel(person="b")[0], by_hand, 1e-6)
    assert MeanFieldNormal(posterior).flat.dims["u"] == ("place", "person", None)

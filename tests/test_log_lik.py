"""Log likelihoods of each datum: by hand, in copies, and what has none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor, nn, tensor

from declarative_dist import (
    Conditional,
    ConstraintError,
    Declarative,
    Exp,
    Head,
    Interval,
    Joint,
    Param,
    Positive,
    Variational,
    learnable,
    site,
)
from declarative_dist.objectives import NegativeLogPosterior
from tests.test_joint import EFFECT, ERROR, Correlated, Schools

pytestmark = pytest.mark.usefixtures("one_thread")
X = tensor([1.0, 0.2, 2.5, -0.4], dtype=torch.float64)


def test_the_entries_of_an_event_are_one_datum_each() -> None:
    posterior = Schools().condition(y=EFFECT)
    draws = {n: v for n, v in Schools().sample((2, 3)).items() if n != "y"}
    found = posterior.log_lik(draws)
    assert found.keys() == {"y"}
    expected = dd.Normal(draws["theta"], ERROR).log_prob(tensor(EFFECT))
    assert expected.shape == (2, 3, 8)
    torch.testing.assert_close(found["y"], expected)
    one = {name: value[0, 0] for name, value in draws.items()}
    torch.testing.assert_close(posterior.log_lik(one)["y"], expected[0, 0])


def test_an_event_that_is_correlated_is_one_datum() -> None:
    joint = Correlated()
    draws = joint.sample((3,))
    x = draws.pop("x")[0]
    scale = draws["tau"][..., None] * draws["chol"]
    expected = dd.MultivariateNormal(torch.zeros(2), scale_tril=scale).log_prob(x)
    torch.testing.assert_close(joint.condition(x=x).log_lik(draws)["x"], expected)


def test_several_sites_and_copies() -> None:
    class Group(Joint):
        mu = learnable(dd.Normal(0.0, 1.0))

        @site(event_dim=1)
        def y(self, mu: Tensor) -> dd.Normal:
            return dd.Normal(mu[..., None].expand(*mu.shape, 3), 2.0)

        @site
        def z(self, mu: Tensor) -> dd.Normal:
            return dd.Normal(mu, 1.0)

    mu, y, z = torch.randn(2, 2), torch.randn(2, 3), torch.randn(2)
    found = Group(batch_shape=2).condition(y=y, z=z).log_lik({"mu": mu})
    torch.testing.assert_close(found["y"], dd.Normal(mu[..., None], 2.0).log_prob(y))
    torch.testing.assert_close(found["z"], dd.Normal(mu, 1.0).log_prob(z))
    every = Group().condition(mu=0.0, z=1.0, y=[1.0, 2.0, 3.0]).log_lik({})
    assert {name: value.shape for name, value in every.items()} == {"mu": (), "z": (), "y": (3,)}


class Gaussian(Variational):
    base = dd.Normal
    loc = Param(0.0, prior=dd.Normal(0.0, 2.0))
    scale = Param(1.0, Exp())


class Vector(Variational):
    base = dd.Normal
    event_dim = 1
    loc = Param(torch.zeros(2))
    scale = 1.0


class Line(Declarative):
    low = Param(0.0)
    slope = Param(1.0, Interval("low", 5.0))


class Regression(Conditional):
    base = dd.Normal
    loc = Head()
    scale = Param(1.0, Positive())


def posterior_of(module: Any, **keywords: Any) -> NegativeLogPosterior:
    return NegativeLogPosterior(module, total_size=len(X), **keywords)


def test_of_families_and_of_copies() -> None:
    z = {"loc": torch.randn(3, 2, 5).double(), "scale": torch.rand(3, 2, 5).double() + 0.1}
    expected = dd.Normal(z["loc"][..., None, :], z["scale"][..., None, :])
    copies = posterior_of(Gaussian(batch_shape=5, dtype=torch.float64))
    data = torch.randn(4, 5).double()
    torch.testing.assert_close(copies.log_lik(z, data), expected.log_prob(data))
    one = {name: value[..., 0] for name, value in z.items()}
    found = posterior_of(Gaussian(dtype=torch.float64)).log_lik(one, data)
    torch.testing.assert_close(
        found, dd.Normal(one["loc"][..., None, None], one["scale"][..., None, None]).log_prob(data)
    )
    rows, loc = torch.randn(4, 2), torch.randn(7, 2)
    found = posterior_of(Vector()).log_lik({"loc": loc}, rows)
    torch.testing.assert_close(found, dd.Normal(loc[:, None], 1.0).log_prob(rows).sum(-1))


def test_of_a_likelihood_of_ones_own_and_of_predictions() -> None:
    def score(line: Line, x: Tensor, y: Tensor) -> Tensor:
        return dd.Normal(line.slope * x + line.low, 1.0).log_prob(y)

    z = {"low": torch.zeros(3).double(), "slope": tensor([1.0, 2.0, 3.0]).double()}
    found = posterior_of(Line(dtype=torch.float64), log_likelihood=score).log_lik(z, X, X)
    expected = dd.Normal(z["slope"][:, None] * X, 1.0).log_prob(X)
    torch.testing.assert_close(found, expected)
    regression = Regression(in_features=2, network=nn.Identity())
    x, y, scale = torch.randn(4, 2), torch.randn(4), tensor([0.5, 2.0])
    found = posterior_of(regression).log_lik({"scale": scale}, x, y)
    loc = regression(x).loc
    torch.testing.assert_close(found, dd.Normal(loc, scale[:, None]).log_prob(y))


def test_of_a_joint_with_data_of_all_sites() -> None:
    class Pair(Joint):
        mu = Gaussian

        @site
        def y(self, mu: Tensor) -> dd.Normal:
            return dd.Normal(mu, 1.0)

    z = {"mu.loc": torch.randn(3), "mu.scale": torch.rand(3) + 0.1}
    x = X.float()
    found = posterior_of(Pair()).log_lik(z, {"mu": x, "y": x + 1})
    expected = dd.Normal(z["mu.loc"][:, None], z["mu.scale"][:, None]).log_prob(x)
    torch.testing.assert_close(found, expected + dd.Normal(x, 1.0).log_prob(x + 1))


def test_what_has_no_log_likelihood_of_each() -> None:
    whole = NegativeLogPosterior(
        Line(), total_size=None, log_likelihood=lambda line: -line.slope.square()
    )
    z = {"low": torch.zeros(3), "slope": torch.ones(3)}
    with pytest.raises(ConstraintError, match=r"log_lik: expected a log_likelihood of each datum"):
        whole.log_lik(z)
    gaussian = posterior_of(Gaussian())
    good = {"loc": torch.zeros(3), "scale": torch.ones(3)}
    for values, batch, keywords, message in (
        ({"loc": torch.zeros(3)}, (X.float(),), {}, r"Gaussian\.scale"),
        (good, (X,), {}, r"expected data in torch\.float32"),
        (good, (X.float(),), {"weights": torch.ones(4)}, "no keywords"),
        ({**good, "scale": -torch.ones(3)}, (X.float(),), {}, r"Gaussian\.scale"),
    ):
        with pytest.raises(ConstraintError, match=message):
            gaussian.log_lik(values, *batch, **keywords)
    with pytest.raises(ConstraintError, match=r"Schools\.tau: expected a value for every site"):
        Schools().condition(y=EFFECT).log_lik({"mu": torch.zeros(3)})

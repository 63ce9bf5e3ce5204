"""Predictions from draws: closed forms, new groups, shapes, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist import (
    ConstraintError,
    FieldError,
    FullRankNormal,
    Head,
    Joint,
    Param,
    Variational,
    WeightedDraws,
    learnable,
    site,
)
from tests.test_joint import EFFECT, Counts, Schools, Topics

pytestmark = pytest.mark.usefixtures("one_thread")


class Level(Joint):
    """A conjugate model: five measurements of a level, each with deviation 2."""

    mu = dd.Normal(1.0, 3.0)

    @site(event_dim=1)
    def y(self, mu: Tensor) -> dd.Normal:
        return dd.Normal(mu[..., None].expand(*mu.shape, 5), 2.0)


class Mixed(Joint):
    """A matrix, a vector and a number, of sizes that a sample may have, and labels."""

    factor = dd.LKJCholesky(3, 2.0)
    beta = dd.Independent(dd.Normal(torch.zeros(3), 1.0), 1)
    scale = Param(0.5)

    @site
    def row(self, factor: Tensor, beta: Tensor) -> dd.MultivariateNormal:
        return dd.MultivariateNormal(beta, scale_tril=factor)

    @site(event_dim=2)
    def table(self, row: Tensor, beta: Tensor) -> dd.Normal:
        return dd.Normal(row[..., :, None] + beta[..., None, :], self.scale)

    @site
    def label(self, row: Tensor) -> dd.Categorical:
        return dd.Categorical(logits=row)


def test_the_posterior_predictive_of_a_conjugate_model() -> None:
    torch.manual_seed(0)
    data = torch.tensor([2.0, 5.0, 1.0, 4.0, 3.0])
    precision = 1 / 9 + 5 / 4
    mean, variance = (1 / 9 + data.sum() / 4) / precision, 1 / precision
    posterior = Level().condition(y=data)
    exact = dd.Normal(mean, variance**0.5).sample((20_000,))
    for draws in (
        {"mu": exact},
        WeightedDraws({"mu": 2 * exact}, Level().condition(y=data)({"mu": 2 * exact})
                      - dd.Normal(2 * mean, 2 * variance**0.5).log_prob(2 * exact)),
        FullRankNormal(posterior).importance_sample(posterior, 20_000),
    ):  # fmt: skip
        y = posterior.predict(draws)["y"]
        assert y.shape == (20_000, 5)
        torch.testing.assert_close(y.mean(0), mean.expand(5), atol=0.06, rtol=0.0)
        expected = torch.full((5, 5), variance) + 4 * torch.eye(5)
        torch.testing.assert_close(y.T.cov(), expected, atol=0.15, rtol=0.0)


def test_new_groups_from_the_upper_levels() -> None:
    torch.manual_seed(0)
    draws = {"mu": torch.full((50_000,), 7.0), "tau": torch.full((50_000,), 3.0)}
    schools = Schools()
    found = schools.predict(draws)
    assert {name: x.shape for name, x in found.items()} == {"theta": (50_000, 8), "y": (50_000, 8)}
    torch.testing.assert_close(found["theta"].std(0), torch.full((8,), 3.0), atol=0.1, rtol=0.0)
    spread = (9 + schools.error.square()).sqrt()
    torch.testing.assert_close(found["y"].std(0), spread, atol=0.3, rtol=0.0)
    # What is predicted belongs to the draw: data follow their own effects.
    below = schools.predict({**draws, "theta": found["theta"]})["y"] - found["theta"]
    torch.testing.assert_close(below.std(0), schools.error, atol=0.3, rtol=0.0)


def test_predictions_are_draws_of_the_seed_and_leave_what_they_are_given() -> None:
    joint = Mixed()
    drawn = joint.sample((3,))
    given = {"factor": drawn["factor"].requires_grad_(), "beta": drawn["beta"]}
    torch.manual_seed(4)
    first = joint.predict(given)
    torch.manual_seed(4)
    again = joint().predict(given)
    assert first.keys() == {"row", "table", "label"}
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(value.requires_grad for value in first.values())
    shapes = {name: tuple(value.shape) for name, value in first.items()}
    assert shapes == {"row": (3, 3), "table": (3, 3, 3), "label": (3,)}
    joint.scale.data.fill_(1e-6)
    exact = joint.predict({**given, "row": first["row"]})["table"]
    expected = first["row"][..., :, None] + given["beta"][..., None, :]
    torch.testing.assert_close(exact, expected.detach(), atol=1e-4, rtol=0.0)
    chains = {name: drawn[name].expand(2, *drawn[name].shape) for name in given}
    assert joint.predict(chains)["table"].shape == (2, 3, 3, 3)
    assert joint.predict(joint.sample((3,))) == {}


def test_numbers_labels_and_counts() -> None:
    topics = Topics()
    found = topics.predict({"share": [[1.0, 0.0, 0.0]] * 4})
    assert found["z"].tolist() == [0, 0, 0, 0]
    assert topics.predict({"share": [[0.2, 0.3, 0.5]] * 2, "z": [2, 0]})["x"].shape == (2,)
    assert Counts().condition(k=3).predict({"rate": [1e-6, 1000.0]})["k"][0] == 0.0


def test_copies_are_predicted_apart() -> None:
    class Group(Joint):
        mu = learnable(dd.Normal(0.0, 1.0))
        spread = Param(1.0)

        @site
        def y(self, mu: Tensor, spread: Tensor) -> dd.Normal:
            return dd.Normal(mu, spread)

    groups = Group(batch_shape=2, spread=torch.tensor([1e-6, 100.0]))
    y = groups.predict({"mu": torch.full((2, 2), 5.0)})["y"]  # as many draws as copies
    assert y.shape == (2, 2)
    assert torch.allclose(y[:, 0], torch.tensor(5.0))
    assert (y[:, 1] - 5.0).abs().min() > 1e-3
    posterior = groups.condition(y=[1.0, 2.0])
    draws = WeightedDraws({"mu": torch.randn(100, 2)}, torch.zeros(100, 2))
    assert posterior.predict(draws)["y"].shape == (100, 2)


class Line(Joint):
    """Data above the latent site, below it, and beside it."""

    x = dd.Independent(dd.Normal(torch.zeros(2), 1.0), 1)
    beside = dd.Normal(0.0, 1.0)

    @site(event_dim=1)
    def slope(self, x: Tensor) -> dd.Normal:
        return dd.Normal(x, 0.1)

    @site(event_dim=1)
    def y(self, slope: Tensor, x: Tensor) -> dd.Normal:
        return dd.Normal(slope * x, 1e-4)

    @site
    def later(self, slope: Tensor) -> dd.Normal:
        return dd.Normal(slope.sum(-1), 1.0)


def test_data_above_what_is_given_stay() -> None:
    posterior = Line().condition(x=[3.0, -2.0], y=[9.0, 4.0], beside=0.0)
    slope = torch.tensor([[2.0, 1.0], [1.0, 2.0], [0.0, 0.0]])
    found = posterior.predict({"slope": slope})
    assert found.keys() == {"y", "beside", "later"}
    torch.testing.assert_close(found["y"], slope * torch.tensor([3.0, -2.0]), atol=1e-3, rtol=0.0)
    assert len(set(found["beside"].tolist())) == 3
    again = Line().condition(x=[3.0, -2.0]).predict({"slope": slope, "beside": torch.zeros(3)})
    assert again.keys() == {"y", "later"}


def test_networks_are_asked_as_in_training_and_left_as_they_are() -> None:
    class Network(Joint):
        net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(2, 1))
        z = dd.Independent(dd.Normal(torch.zeros(2), 1.0), 1)

        @site(event_dim=1)
        def y(self, z: Tensor, net: torch.nn.Module) -> dd.Normal:
            return dd.Normal(net(z), 1e-6)

    posterior = Network().condition(y=[0.0])
    z = torch.ones(50, 2)
    assert posterior.predict({"z": z})["y"].std() < 1e-3
    assert posterior.joint.training
    assert posterior.joint.predict({"z": z})["y"].std() > 1e-2


SCHOOLS = Schools()
POSTERIOR = SCHOOLS.condition(y=EFFECT)
UPPER = {"mu": torch.zeros(3), "tau": torch.ones(3)}


@pytest.mark.parametrize(("make", "message"), [
    (lambda: SCHOOLS.predict({}), r"Schools: expected one draw or more, got none. Write sa"),
    (lambda: SCHOOLS.predict({"mu": torch.zeros(0)}), "Schools: expected one draw or more"),
    (lambda: SCHOOLS.predict(torch.zeros(3)), "Schools: expected a dict of values by site"),
    (lambda: SCHOOLS.predict({"nu": [1.0]}), "name of a site, got .nu.. Known here: mu"),
    (lambda: SCHOOLS.predict({0: [1.0]}), "Schools.0: expected the name of a site"),
    (lambda: SCHOOLS.predict({"mu": "a"}), "Schools.mu: expected numbers"),
    (lambda: SCHOOLS.predict({**UPPER, "tau": torch.ones(4)}), r"Schools.tau: .*here \(3,\)"),
    (lambda: SCHOOLS.predict({**UPPER, "theta": torch.ones(3)}), r"theta: .*here \(3, 8\)"),
    (lambda: SCHOOLS.predict({"mu": [0.0], "tau": [-1.0]}), r"tau: .*support, got -1.0 at"),
    (lambda: SCHOOLS.predict({"mu": [torch.nan], "tau": [1.0]}), r"mu: .*support, got nan at"),
    (lambda: SCHOOLS.predict({"mu": [0.0], "theta": torch.ones(1, 8)}),
        "Schools.tau: expected draws of it, as theta depends on it, got none. Add 'tau'"),
    (lambda: SCHOOLS.predict({"theta": torch.ones(1, 8)}), "Schools.mu: expected draws of it"),
    (lambda: POSTERIOR.predict({"mu": [0.0], "y": [EFFECT]}), "Schools.y: .*name of a site"),
    (lambda: POSTERIOR.predict(UPPER), "Schools.theta: .*as y depends on it, got none"),
    (lambda: POSTERIOR.predict({}), "Schools.theta: expected draws of it, as y"),
])  # fmt: skip
def test_what_cannot_be_predicted_from(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConstraintError, match=message):
        make()


def test_a_nested_family_is_predicted_with_what_it_has_learned() -> None:
    class Rate(Variational):
        base = dd.Normal
        event_dim = 1
        loc = Param(torch.zeros(3))
        scale = 1e-6

    class Nested(Joint):
        top = dd.Normal(0.0, 1.0)
        rate = Rate

    nested = Nested()
    nested.rate.loc = [1.0, 2.0, 3.0]
    found = nested.predict({"top": torch.zeros(3)})["rate"]
    torch.testing.assert_close(found, torch.tensor([[1.0, 2.0, 3.0]] * 3), atol=1e-4, rtol=0.0)


class Robot(Joint):
    """A gain that all contexts share, and an arm and a hand in each."""

    gain = dd.Gamma(2.0, 2.0)
    reach = Head()

    @site
    def arm(self, reach: Tensor, gain: Tensor) -> dd.Normal:
        return dd.Normal(reach * gain, 1e-5)

    @site
    def hand(self, arm: Tensor) -> dd.Normal:
        return dd.Normal(2 * arm, 1e-5)


def test_a_snapshot_of_contexts_predicts_each() -> None:
    robot, x = Robot(in_features=3), torch.randn(4, 3)
    reach = robot.projection(x)[:, 0].detach()
    snapshot, gain = robot(x), torch.rand(5) + 0.5
    expected = gain[:, None] * reach
    found = snapshot.predict({"gain": gain})
    torch.testing.assert_close(found["arm"], expected, atol=1e-3, rtol=0.0)
    torch.testing.assert_close(found["hand"], 2 * found["arm"], atol=1e-3, rtol=0.0)
    posterior = snapshot.condition(hand=torch.zeros(4))
    given = {"gain": gain, "arm": torch.ones(5, 4)}
    torch.testing.assert_close(
        posterior.predict(given)["hand"], torch.full((5, 4), 2.0), atol=1e-3, rtol=0.0
    )
    assert posterior.log_lik(given)["hand"].shape == (5, 4)
    with pytest.raises(FieldError, match="a context first"):
        robot.predict({"gain": gain})
    with pytest.raises(ConstraintError, match=r"Robot\.gain: expected draws of it, as arm"):
        snapshot.predict({"arm": torch.ones(5, 4)})

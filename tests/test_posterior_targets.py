"""Mode and posterior from one declaration: a `NegativeLogPosterior` as a variational target."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor, tensor

from declarative_dist import (
    ConstraintError,
    Declarative,
    FullRankNormal,
    Interval,
    Joint,
    MeanFieldNormal,
    Param,
    Positive,
    Variational,
    site,
)
from declarative_dist.objectives import NegativeELBO, NegativeLogPosterior
from declarative_dist.posteriors.fits import can_fit_guide, fit_guide
from tests.states import assert_unchanged, state_of

X = tensor([0.5, 1.5, 2.5, 1.0], dtype=torch.float64)


class Gaussian(Variational):
    base = dd.Normal
    loc = Param(0.3, prior=dd.Normal(0.0, 2.0))
    scale = Param(1.0, Positive(), prior=dd.Gamma(2.0, 1.0))


class Line(Declarative):
    low = Param(0.0, prior=dd.Normal(0.0, 1.0))
    slope = Param(2.0, Interval("low", 5.0))
    noise = Param(1.0, Positive(), trainable=False, prior=dd.HalfNormal(1.0))

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        return dd.Normal(self.slope * x + self.low, self.noise).log_prob(y)


class Pair(Joint):
    mu = Gaussian

    @site
    def y(self, mu: Tensor) -> dd.Distribution:
        return dd.Normal(mu, 1.0)


def gaussian_by_hand(z: dict[str, Tensor], x: Tensor) -> Tensor:
    prior = dd.Normal(0.0, 2.0).log_prob(z["loc"]) + dd.Gamma(2.0, 1.0).log_prob(z["scale"])
    return prior + dd.Normal(z["loc"][..., None], z["scale"][..., None]).log_prob(x).sum(-1)


def line_by_hand(z: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    mean = z["slope"][..., None] * x + z["low"][..., None]
    prior = dd.Normal(0.0, 1.0).log_prob(z["low"]) + dd.HalfNormal(1.0).log_prob(tensor(1.0))
    return prior + dd.Normal(mean, 1.0).log_prob(y).sum(-1)


def gaussians() -> NegativeLogPosterior:
    return NegativeLogPosterior(Gaussian(dtype=torch.float64), total_size=len(X))


def test_the_density_at_values_is_the_one_by_hand() -> None:
    z = {"loc": torch.randn(3, 5).double(), "scale": torch.rand(3, 5).double() + 0.1}
    posterior = gaussians()
    torch.testing.assert_close(posterior.log_joint(z, X), gaussian_by_hand(z, X))
    half = NegativeLogPosterior(posterior.module, total_size=len(X), unconstrained=True)
    torch.testing.assert_close(half.log_joint(z, X[:2]) - half.log_joint(z, X[2:]), (
        2 * (gaussian_by_hand(z, X[:2]) - gaussian_by_hand(z, X[2:]))))  # fmt: skip
    weights = [1, 0, 2, 1]
    spoiled = X.where(tensor(weights) > 0, math.nan)
    torch.testing.assert_close(
        posterior.log_joint(z, spoiled, weights=weights), posterior.log_joint(z, X[[0, 2, 2, 3]])
    )
    one = {name: value[0, 0] for name, value in z.items()}
    torch.testing.assert_close(posterior.log_joint(one, X), gaussian_by_hand(one, X))
    current = posterior.module.constrained_values()
    torch.testing.assert_close(posterior.log_joint(current, X), -len(X) * posterior(X))


@pytest.mark.parametrize("total_size", [4, None])
def test_a_log_likelihood_of_one_module_is_mapped_over_draws(total_size: int | None) -> None:
    """Written for one module, per datum or in all; bounds follow the values."""

    def score(line: Line, x: Tensor, y: Tensor) -> Tensor:
        each = line.log_likelihood(x, y)
        return each if total_size else each.sum()

    module = Line(dtype=torch.float64)
    posterior = NegativeLogPosterior(module, total_size=total_size, log_likelihood=score)
    low = torch.randn(7).double()
    z = {"low": low, "slope": low + 0.9 * (5.0 - low)}
    torch.testing.assert_close(posterior.log_joint(z, X, 2 * X), line_by_hand(z, X, 2 * X))
    with pytest.raises(ConstraintError, match=r"Line\.slope"):
        posterior.log_joint({"low": low, "slope": low - 1.0}, X, X)
    with pytest.raises(ConstraintError, match="a value for every site"):
        posterior.log_joint({"low": low}, X, X)


def test_copies_stay_apart() -> None:
    module = Gaussian(batch_shape=2, dtype=torch.float64)
    posterior = NegativeLogPosterior(module, total_size=len(X))
    z = {"loc": torch.randn(3, 2).double(), "scale": torch.rand(3, 2).double() + 0.1}
    data = torch.stack([X, -X], -1)
    expected = [gaussian_by_hand({n: v[:, i] for n, v in z.items()}, data[:, i]) for i in range(2)]
    torch.testing.assert_close(posterior.log_joint(z, data), torch.stack(expected, -1))


def test_a_joint_keeps_its_sites() -> None:
    joint = Pair(dtype=torch.float64)
    posterior = NegativeLogPosterior(joint, total_size=len(X))
    data = {"mu": X, "y": X + 1.0}
    z = {"mu.loc": torch.randn(3).double(), "mu.scale": torch.rand(3).double() + 0.1}
    own = {name.removeprefix("mu."): value for name, value in z.items()}
    expected = gaussian_by_hand(own, X) + dd.Normal(X, 1.0).log_prob(X + 1.0).sum()
    torch.testing.assert_close(posterior.log_joint(z, data), expected)


@pytest.mark.parametrize("guide_of", [FullRankNormal, MeanFieldNormal])
def test_a_guide_is_fitted_to_it(guide_of: Any) -> None:
    """As to the same density written as a function; the module itself stays where it is."""
    posterior = gaussians()
    before = state_of(posterior.module)
    guide, other = guide_of(posterior.module), guide_of(posterior.module)
    objective = NegativeELBO(posterior, guide)
    assert can_fit_guide(objective, (X,))
    fit_guide(objective, (X,), restarts=0)
    fit_guide(NegativeELBO(gaussian_by_hand, other), (X,), restarts=0)
    for name, value in other.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(guide.state_dict()[name], value, rtol=1e-4, atol=1e-4)
    assert_unchanged(posterior.module, before)
    weighted = guide.importance_sample(lambda z: posterior.log_joint(z, X), 2000)
    assert weighted.k_hat < 0.7


def test_a_step_has_the_loss_and_gradients_of_the_function() -> None:
    """Keywords too, as `fit` gives those of a batch that ends in a dict."""
    posterior, losses, gradients = gaussians(), [], []
    guide = FullRankNormal(posterior.module)
    for target in (posterior, gaussian_by_hand):
        torch.manual_seed(0)
        objective = NegativeELBO(target, guide, num_samples=3)
        guide.zero_grad()
        losses.append(objective(X))
        losses[-1].backward()
        gradients.append([p.grad for p in guide.parameters()])
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)
    assert all(p.grad is None or not p.grad.any() for p in posterior.parameters())
    objective = NegativeELBO(posterior, guide, num_samples=3)
    torch.manual_seed(0)
    spoiled, weights = torch.cat([X, X[:1] * math.nan]), tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(objective(spoiled, weights=weights), losses[0])


def test_weights_go_through_a_fit_of_a_guide() -> None:
    posterior = gaussians()
    guides = [FullRankNormal(posterior.module) for _ in range(2)]
    spoiled = X.where(X < 2.0, math.nan)
    data = (spoiled, {"weights": (X < 2.0).double()})
    for guide, batch in zip(guides, (data, (X[X < 2.0],)), strict=True):
        fit_guide(NegativeELBO(posterior, guide), batch, restarts=0)
    states = [guide.state_dict() for guide in guides]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value)

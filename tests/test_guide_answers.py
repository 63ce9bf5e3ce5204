"""Fits of guides that end at the answer, or say why not: modes, flat directions, hierarchies."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist import (
    Declarative,
    Exp,
    FullRankNormal,
    Joint,
    MeanFieldNormal,
    Param,
    Positive,
    diagnose,
    site,
)
from declarative_dist.objectives import NegativeELBO
from declarative_dist.posteriors.fits import GuideFit, can_fit_guide, fit_guide

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS: list[Any] = [MeanFieldNormal, FullRankNormal]


class Line(Declarative):
    x = Param([0.0, 0.0])


def fitted(latents: Any, log_joint: Any, kind: Any = FullRankNormal) -> tuple[Any, GuideFit]:
    guide = kind(latents)
    return guide, fit_guide(NegativeELBO(log_joint, guide))


def between(places: list[float], heights: list[float], width: float = 0.5) -> Any:
    """Normal modes at places along the first number, and a normal second one."""

    def log_joint(values: dict[str, Tensor]) -> Tensor:
        x = values["x"]
        scores = dd.Normal(torch.tensor(places), width).log_prob(x[..., :1])
        modes = (scores + torch.tensor(heights).log()).logsumexp(-1)
        return modes + dd.Normal(3.0, 2.0).log_prob(x[..., 1])

    return log_joint


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_units_of_any_size(kind: Any, dtype: torch.dtype) -> None:
    mean, deviation = torch.tensor([5e3, 0.02]), torch.tensor([300.0, 1e-3])
    guide, found = fitted(
        Line(dtype=dtype), lambda v: dd.Normal(mean, deviation).log_prob(v["x"]).sum(-1), kind
    )
    assert found.converged
    assert found.verdict.startswith("settled: bound ")
    assert "Weighted draws: good" in found.verdict
    assert "Plain draws: close to weighted ones" in found.verdict
    torch.testing.assert_close(guide().loc, mean.to(dtype), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(
        guide().gaussian.deviations, deviation.to(dtype), rtol=2e-2, atol=0.0
    )


def test_a_wrong_mode_is_left_and_told() -> None:
    guide, found = fitted(Line(), between([0.0, 20.0], [1e-4, 1.0]))
    assert guide.median["x"][0].item() == pytest.approx(20.0, abs=0.1)
    assert found.converged
    assert "another mode: 9.21 nats lower." in found.verdict
    draws = guide.importance_sample(between([0.0, 20.0], [1e-4, 1.0]), 4000)
    assert draws.verdict.startswith("good")


def test_a_guide_in_a_wrong_mode_is_never_called_good() -> None:
    target = between([0.0, 20.0], [1e-4, 1.0])
    guide = FullRankNormal(Line()).initialize_(target)
    assert guide.median["x"][0].item() == pytest.approx(0.0, abs=0.1)
    diagnosis = diagnose(guide, target, 2000)
    assert diagnosis.khat < 0.5
    assert not diagnosis.is_reliable
    assert diagnosis.verdict.startswith("wrong: the guide is in another place")
    draws = guide.importance_sample(target, 4000)
    assert "nats below the best bound found: fit it again" in draws.verdict
    assert draws.mean()["x"][0].item() == pytest.approx(20.0, abs=0.1)


def test_two_modes_are_both_sampled_and_not_called_good() -> None:
    target = between([-8.0, 8.0], [0.3, 0.7])
    guide, found = fitted(Line(), target)
    assert "Weighted draws: good" not in found.verdict
    assert "Several modes hold mass" in found.verdict
    assert "Plain draws: use weighted ones" in found.verdict
    draws = guide.importance_sample(target, 4000)
    assert draws.mean()["x"][0].item() == pytest.approx(8.0 * 0.4, abs=0.4)
    assert draws.quantile(0.15)["x"][0].item() == pytest.approx(-8.0, abs=0.2)
    again = copy.deepcopy(guide).importance_sample(target, 4000)
    assert again.std()["x"][0].item() == pytest.approx(7.35, rel=0.05)


def test_a_flat_direction_is_named() -> None:
    class Sum(Declarative):
        a = Param(0.0)
        b = Param(0.0)
        c = Param(1.0)

    def log_joint(v: dict[str, Tensor]) -> Tensor:
        return dd.Normal(v["a"] + v["b"], 1.0).log_prob(torch.tensor(2.0)) - v["c"].square()

    _, found = fitted(Sum(), log_joint)
    assert not found.converged
    assert found.verdict.startswith("not settled")
    assert "a, b run away: the posterior is flat there" in found.verdict


class Funnel(Declarative):
    v = Param(0.0)
    x = Param(torch.zeros(9))


def test_a_funnel_is_neither_its_neck_nor_good() -> None:
    def log_joint(z: dict[str, Tensor]) -> Tensor:
        inner = dd.Normal(0.0, (z["v"] / 2).exp()[..., None]).log_prob(z["x"]).sum(-1)
        return dd.Normal(0.0, 3.0).log_prob(z["v"]) + inner

    guide, found = fitted(Funnel(), log_joint)
    assert guide.median["v"].abs().item() < 3.0
    assert "Weighted draws: good" not in found.verdict


class Groups(Joint):
    mu = dd.Normal(0.0, 5.0)
    tau = dd.HalfCauchy(2.0)

    @site(event_dim=1)
    def theta(self, mu: Tensor, tau: Tensor) -> dd.Normal:
        return dd.Normal(mu[..., None].expand(*mu.shape, 20), tau[..., None])

    @site(event_dim=1)
    def y(self, theta: Tensor) -> dd.Normal:
        return dd.Normal(theta, 1.0)


class GroupParams(Declarative):
    mu = Param(0.0)
    tau = Param(1.0, Exp())
    theta = Param(torch.zeros(20))


def exact_tau(y: Tensor) -> tuple[float, float]:
    """Mean and deviation of tau by quadrature, with the groups and their mean integrated out."""
    tau = torch.linspace(1e-3, 15.0, 20_000, dtype=torch.float64)
    covariance = (1 + tau.square())[:, None, None] * torch.eye(20) + 25.0
    marginal = dd.MultivariateNormal(torch.zeros(20, dtype=torch.float64), covariance[::20])
    weight = (marginal.log_prob(y) + dd.HalfCauchy(2.0).log_prob(tau[::20])).softmax(0)
    mean = (weight * tau[::20]).sum()
    return mean.item(), (weight * (tau[::20] - mean).square()).sum().sqrt().item()


def test_a_centred_hierarchy_is_right_for_both_kinds_of_latents() -> None:
    generator = torch.Generator().manual_seed(4)
    y = 1.0 + 2.2 * torch.randn(20, generator=generator, dtype=torch.float64)
    posterior = Groups(dtype=torch.float64).condition(y=y)
    mean, deviation = exact_tau(y)
    for latents in (posterior, GroupParams(dtype=torch.float64)):
        guide, found = fitted(latents, posterior)
        assert found.converged
        draws = guide.importance_sample(posterior, 4000)
        assert not draws.verdict.startswith("unreliable")
        assert draws.mean()["tau"].item() == pytest.approx(mean, abs=0.08 * deviation)
        assert draws.std()["tau"].item() == pytest.approx(deviation, rel=0.06)


def test_copies_are_fitted_apart() -> None:
    class Scale(Declarative):
        s = Param([1.0], Positive())

    shapes, rates = torch.tensor([3.0, 40.0]), torch.tensor([1.0, 2000.0])

    def log_joint(v: dict[str, Tensor]) -> Tensor:
        return dd.Gamma(shapes, rates).log_prob(v["s"][..., 0])

    guide, found = fitted(Scale(batch_shape=(2,)), log_joint)
    draws = guide.importance_sample(log_joint, 4000)
    assert draws.weights.shape == (4000, 2)
    torch.testing.assert_close(draws.mean()["s"][:, 0], shapes / rates, rtol=0.03, atol=0.0)
    torch.testing.assert_close(draws.std()["s"][:, 0], shapes.sqrt() / rates, rtol=0.04, atol=0.0)
    assert found.converged


def test_points_without_a_density_are_no_obstacle() -> None:
    """A matrix that can't be factorised at some draws, and an argument that torch refuses."""

    class Kernel(Declarative):
        x = Param([0.3, 0.0])

    def log_joint(v: dict[str, Tensor]) -> Tensor:
        a, b = v["x"].unbind(-1)
        matrix = torch.stack([torch.ones_like(a), a, a, torch.ones_like(a)], -1)
        factor = torch.linalg.cholesky(matrix.reshape(*a.shape, 2, 2))
        spread = dd.Normal(0.0, (1.0 - b.square()), validate_args=True)
        return factor[..., 1, 1].log() * 20 + spread.log_prob(a) - 20 * b.square()

    guide, found = fitted(Kernel(dtype=torch.float64), log_joint)
    assert found.converged
    assert guide.median["x"].abs().max().item() < 0.2


def test_which_objectives_it_fits() -> None:
    class Target(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(2.0))

        def forward(self, values: dict[str, Tensor]) -> Tensor:
            return dd.Normal(0.0, self.scale).log_prob(values["x"]).sum(-1)

    def plain(values: dict[str, Tensor]) -> Tensor:
        return -values["x"].square().sum(-1)

    class Many(Declarative):
        x = Param(torch.zeros(500))

    class Own(Declarative):
        x = Param([1.0, 2.0], prior=dd.Normal(0.0, 1.0))
        width = Param(1.0, Positive(), prior=dd.Gamma(2.0, 1.0))

        def log_joint(self, values: dict[str, Tensor]) -> Tensor:
            return self.log_prior(values)

    own = Own()
    assert can_fit_guide(NegativeELBO(own.log_joint, FullRankNormal(own)))
    assert can_fit_guide(NegativeELBO(plain, FullRankNormal(Line())))
    assert not can_fit_guide(NegativeELBO(Target(), FullRankNormal(Line())))
    assert not can_fit_guide(NegativeELBO(plain, FullRankNormal(Many())))
    assert can_fit_guide(NegativeELBO(plain, MeanFieldNormal(Many())))
    assert not can_fit_guide(torch.nn.Linear(1, 1))

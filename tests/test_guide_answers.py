"""Fits of guides that end at the answer, or say why not: modes, flat directions, hierarchies."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any, NamedTuple

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
    fit,
    site,
)
from declarative_dist.objectives import NegativeELBO
from declarative_dist.posteriors.fits import can_fit_guide, fit_guide
from tests.cases import Numbers

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS: list[Any] = [MeanFieldNormal, FullRankNormal]


Line = partial(Numbers, size=2)


class Fit(NamedTuple):
    losses: list[float]
    converged: bool
    verdict: str


def fitted(latents: Any, log_joint: Any, kind: Any = FullRankNormal) -> tuple[Any, Fit]:
    guide = kind(latents)
    return guide, Fit(*fit_guide(NegativeELBO(log_joint, guide)))


def between(places: list[float], heights: list[float], width: Any = 0.5) -> Any:
    """Normal modes at places along the first number, and a normal second one."""

    def log_joint(values: dict[str, Tensor]) -> Tensor:
        x = values["x"]
        scores = dd.Normal(torch.tensor(places), width).log_prob(x[..., :1])
        modes = (scores + torch.tensor(heights).log()).logsumexp(-1)
        return modes + dd.Normal(3.0, 2.0).log_prob(x[..., 1])

    return log_joint


@pytest.mark.parametrize(
    ("kind", "dtype"), [*zip(KINDS, (torch.float32, torch.float64), strict=True)]
)
def test_units_of_any_size(kind: Any, dtype: torch.dtype) -> None:
    mean, deviation = torch.tensor([5e3, 0.02]), torch.tensor([300.0, 1e-3])
    guide, found = fitted(
        Line(dtype=dtype), lambda v: dd.Normal(mean, deviation).log_prob(v["x"]).sum(-1), kind
    )
    assert found.converged
    assert found.verdict.startswith("settled: bound ")
    assert "Weighted draws: good" in found.verdict
    assert "Plain draws: good: means off by" in found.verdict
    torch.testing.assert_close(guide().loc, mean.to(dtype), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(
        guide().gaussian.deviations, deviation.to(dtype), rtol=2e-2, atol=0.0
    )


def test_a_wrong_mode_is_left_and_told() -> None:
    guide, found = fitted(Line(), between([0.0, 20.0], [1e-4, 1.0]))
    assert guide.median["x"][0].item() == pytest.approx(20.0, abs=0.1)
    assert found.converged
    assert "another mode: 9.21 nats lower (sampled)." in found.verdict
    draws = guide.importance_sample(between([0.0, 20.0], [1e-4, 1.0]), 4000)
    assert draws.verdict.startswith("good")
    # A ten thousandth, forty deviations away, adds a twelfth to the deviation.
    share = 1 / 1.0001
    exact = math.sqrt(0.25 + 400.0 * share * (1 - share))
    assert draws.std()["x"][0].item() == pytest.approx(exact, rel=0.01)


def test_a_guide_in_a_wrong_mode_is_never_called_good() -> None:
    target = between([0.0, 20.0], [1e-4, 1.0])
    guide = FullRankNormal(Line()).initialize_(target)
    assert guide.median["x"][0].item() == pytest.approx(0.0, abs=0.1)
    diagnosis = diagnose(guide, target, 2000)
    assert diagnosis.khat < 0.5
    assert not diagnosis.is_reliable
    assert diagnosis.verdict.startswith("unreliable: means off by up to")
    draws = guide.importance_sample(target, 4000)
    assert "nats below the best bound found: fit it again" in draws.verdict
    assert draws.mean()["x"][0].item() == pytest.approx(20.0, abs=0.1)


def test_a_far_and_narrow_mode_that_holds_most_is_found() -> None:
    target = between([0.0, 8.0], [0.01, 0.9], torch.tensor([1.0, 0.1]))
    guide, found = fitted(Line(), target)
    assert "Weighted draws: good" not in found.verdict
    share = 0.9 / 0.91
    draws = guide.importance_sample(target, 4000)
    assert draws.mean()["x"][0].item() == pytest.approx(8.0 * share, abs=0.1)


def test_two_modes_are_both_sampled_and_not_called_good() -> None:
    target = between([-8.0, 8.0], [0.3, 0.7])
    guide, found = fitted(Line(), target)
    assert "Weighted draws: good" not in found.verdict
    assert "Several modes hold mass" in found.verdict
    assert "; use weighted ones." in found.verdict
    draws = guide.importance_sample(target, 4000)
    assert draws.mean()["x"][0].item() == pytest.approx(8.0 * 0.4, abs=0.4)
    assert draws.quantile(0.15)["x"][0].item() == pytest.approx(-8.0, abs=0.2)
    again = copy.deepcopy(guide).importance_sample(target, 4000)
    assert again.std()["x"][0].item() == pytest.approx(7.35, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_of_one_target_says_nothing_of_another(kind: Any) -> None:
    """Both have a mode where the guide is, of the same height but for a constant."""
    one, both = between([0.0], [1.0]), between([0.0, 12.0], [0.5, 0.5])
    guide = kind(Line()).initialize_(one, restarts=8)
    assert guide.importance_sample(one, 2000).verdict.startswith("good")
    draws = guide.importance_sample(both, 2000)
    assert draws.mean()["x"][0].item() == pytest.approx(6.0, abs=0.3)
    assert "another mode" in draws.verdict
    assert not diagnose(guide, both).is_reliable


def test_data_that_change_are_another_target() -> None:
    data = torch.tensor([0.0])

    def log_joint(v: dict[str, Tensor]) -> Tensor:
        return torch.logaddexp(
            dd.Normal(0.0, 1.0).log_prob(v["x"]).sum(-1),
            data + dd.Normal(12.0, 1.0).log_prob(v["x"]).sum(-1),
        )

    data -= torch.inf
    guide = FullRankNormal(Line()).initialize_(log_joint, restarts=8)
    assert guide.importance_sample(log_joint, 2000).mean()["x"][0].abs().item() < 0.1
    data.zero_()
    draws = guide.importance_sample(log_joint, 2000)
    assert draws.mean()["x"][0].item() == pytest.approx(6.0, abs=0.3)


def test_a_search_is_used_by_a_new_function_of_the_same_target() -> None:
    calls = []

    def again() -> Any:
        target = between([0.0], [1.0])
        return lambda v: calls.append(len(v["x"])) or target(v)

    guide = FullRankNormal(Line()).initialize_(again(), restarts=8)
    searched = sum(calls)
    calls.clear()
    guide.importance_sample(again(), 1000)
    assert sum(calls) < searched / 2


def test_four_modes_around_a_saddle_are_all_sampled() -> None:
    """The declared start is in the middle, where a wide Gaussian covers them all."""
    corners = torch.tensor([[3.0, 3.0], [-3.0, 3.0], [3.0, -3.0], [-3.0, -3.0]])

    def log_joint(v: dict[str, Tensor]) -> Tensor:
        return dd.Normal(corners, 0.4).log_prob(v["x"][..., None, :]).sum(-1).logsumexp(-1)

    guide, found = fitted(Line(), log_joint)
    assert "Several modes hold mass" in found.verdict
    draws = guide.importance_sample(log_joint, 4000)
    evidence = draws.log_weights.logsumexp(0) - math.log(4000)
    assert evidence.item() == pytest.approx(math.log(4), abs=0.05)


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


def groups(count: int) -> type[Joint]:
    class Groups(Joint):
        mu = dd.Normal(0.0, 5.0)
        tau = dd.HalfCauchy(2.0)

        @site(event_dim=1)
        def theta(self, mu: Tensor, tau: Tensor) -> dd.Normal:
            return dd.Normal(mu[..., None].expand(*mu.shape, count), tau[..., None])

        @site(event_dim=1)
        def y(self, theta: Tensor) -> dd.Normal:
            return dd.Normal(theta, 1.0)

    return Groups


class GroupParams(Declarative):
    mu = Param(0.0)
    tau = Param(1.0, Exp())
    theta = Param(0.0, shape=("groups",))


def exact_tau(y: Tensor) -> tuple[float, float]:
    """Mean and deviation of tau by quadrature, with the groups and their mean integrated out."""
    log_tau = torch.linspace(-9.0, 4.0, 2000, dtype=torch.float64)
    tau, eye = log_tau.exp(), torch.eye(len(y), dtype=torch.float64)
    covariance = (1 + tau.square())[:, None, None] * eye + 25.0
    marginal = dd.MultivariateNormal(torch.zeros(len(y), dtype=torch.float64), covariance)
    weight = (marginal.log_prob(y) + dd.HalfCauchy(2.0).log_prob(tau) + log_tau).softmax(0)
    mean = (weight * tau).sum()
    return mean.item(), (weight * (tau - mean).square()).sum().sqrt().item()


@pytest.mark.parametrize(("count", "true", "kind", "is_joint"), [
    (20, 2.2, FullRankNormal, True), (8, 0.5, FullRankNormal, False),
    (8, 0.5, MeanFieldNormal, True),
])  # fmt: skip
def test_a_centred_hierarchy_is_right_for_both_kinds_of_latents(
    count: int, true: float, kind: Any, is_joint: bool
) -> None:
    """Of eight groups tau may be near zero: there the others are in a narrow neck."""
    generator = torch.Generator().manual_seed(4)
    y = 1.0 + true * torch.randn(count, generator=generator, dtype=torch.float64)
    posterior = groups(count)(dtype=torch.float64).condition(y=y)
    mean, deviation = exact_tau(y)
    latents = posterior if is_joint else GroupParams(groups=count, dtype=torch.float64)
    guide, found = fitted(latents, posterior, kind)
    assert found.converged
    draws = guide.importance_sample(posterior, 4000)
    assert not draws.verdict.startswith("unreliable")
    assert draws.mean()["tau"].item() == pytest.approx(mean, abs=0.05 * deviation)
    assert draws.std()["tau"].item() == pytest.approx(deviation, rel=0.04)


class VagueVariance(Joint):
    mu = dd.Normal(0.0, 100.0)
    size = dd.InverseGamma(1e-3, 1e-3)

    @site(event_dim=1)
    def effect(self, mu: Tensor, size: Tensor) -> dd.Normal:
        return dd.Normal(mu[..., None].expand(*mu.shape, 8), self.deviation_of(size)[..., None])

    @site(event_dim=1)
    def y(self, effect: Tensor) -> dd.Normal:
        return dd.Normal(effect, 1.0)

    def deviation_of(self, size: Tensor) -> Tensor:
        return size.sqrt()


class VaguePrecision(VagueVariance):
    size = dd.Gamma(1e-3, 1e-3)

    def deviation_of(self, size: Tensor) -> Tensor:
        return size.rsqrt()


@pytest.mark.parametrize(
    ("kind", "dtype"), [(VagueVariance, torch.float32), (VaguePrecision, torch.float64)]
)
def test_a_prior_whose_draws_have_no_size_gives_a_start(kind: Any, dtype: torch.dtype) -> None:
    y = torch.tensor([-3.1, -0.4, 0.2, 1.0, 1.9, 2.6, 4.0, 6.3], dtype=torch.float64)
    posterior = kind(dtype=dtype).condition(y=y)
    guide, found = fitted(posterior, posterior)
    assert found.converged, found.verdict
    draws = guide.importance_sample(posterior, 4000)
    # Given the size, all else is normal: what is left is one integral.
    log_size = torch.linspace(-12.0, 14.0, 4001, dtype=torch.float64)[:, None]
    size, variance = log_size.exp(), kind().deviation_of(log_size.exp()).square()
    precision = len(y) / (variance + 1.0) + 1e-4
    centre = (y / (variance + 1.0)).sum(-1, keepdim=True) / precision
    log_p = dd.Normal(centre, (variance + 1.0).sqrt()).log_prob(y).sum(-1, keepdim=True)
    log_p += dd.Normal(0.0, 100.0).log_prob(centre) - precision.log() / 2
    weight = (log_p + kind().get_submodule("size").log_prob(size) + log_size).softmax(0)
    share = variance / (variance + 1.0)
    effect = (weight * (share * y + (1.0 - share) * centre)).sum(0)
    torch.testing.assert_close(draws.mean()["effect"].double(), effect, atol=0.06, rtol=0.0)
    middle = (weight * log_size).sum()
    ours = draws.transform(log_size=lambda values: values["size"].log()).mean()["log_size"]
    torch.testing.assert_close(ours.double(), middle, atol=0.05, rtol=0.0)


def test_weights_of_a_funnel_add_up_to_its_mass() -> None:
    """The density is normalised, so weights have a mean of one: no part is missed."""

    def log_joint(z: dict[str, Tensor]) -> Tensor:
        inner = dd.Normal(0.0, (z["v"] / 2).exp()[..., None]).log_prob(z["x"]).sum(-1)
        return dd.Normal(0.0, 3.0).log_prob(z["v"]) + inner

    guide, found = fitted(Funnel(dtype=torch.float64), log_joint)
    assert guide.median["v"].abs().item() < 3.0
    assert "Weighted draws: good" not in found.verdict
    draws = guide.importance_sample(log_joint, 4000)
    evidence = draws.log_weights.logsumexp(0) - math.log(4000)
    assert evidence.item() == pytest.approx(0.0, abs=0.05)
    assert draws.std()["v"].item() == pytest.approx(3.0, rel=0.04)


def test_a_guide_may_start_where_there_is_no_density() -> None:
    """The declared start is at zero, where the density begins: other starts find it."""
    objective = NegativeELBO(
        lambda v: dd.Gamma(9.0, 1.0).log_prob(v["x"]).sum(-1), FullRankNormal(Line())
    )
    history = fit(objective, restarts=1, progress=False)
    assert math.isfinite(history.losses[0])
    assert objective.guide.median["x"].sub(8.5).abs().max() < 1.0


class Scale(Declarative):
    s = Param(1.0, Positive())


@pytest.mark.parametrize(("log_joint", "expected", "converged"), [
    (dd.HalfCauchy(1.0).log_prob, "The spread of s has a heavy tail", True),
    (lambda s: -s.log(), "unreliable", False),
    (lambda s: 0.1 * s, "unreliable", False),
])  # fmt: skip
def test_targets_without_moments_or_without_end_are_not_trusted(
    log_joint: Any, expected: str, converged: bool
) -> None:
    guide, found = fitted(Scale(), lambda v: log_joint(v["s"]))
    verdict = guide.importance_sample(lambda v: log_joint(v["s"]), 4000).verdict
    assert expected in verdict
    assert not verdict.startswith("good")
    assert found.converged is converged


def test_copies_are_fitted_apart() -> None:
    class Scales(Declarative):
        s = Param([1.0], Positive())

    shapes, rates = torch.tensor([3.0, 40.0]), torch.tensor([1.0, 2000.0])

    def log_joint(v: dict[str, Tensor]) -> Tensor:
        return dd.Gamma(shapes, rates).log_prob(v["s"][..., 0])

    guide, found = fitted(Scales(batch_shape=(2,)), log_joint)
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

    many = Numbers(size=500)

    class Own(Declarative):
        x = Param([1.0, 2.0], prior=dd.Normal(0.0, 1.0))
        width = Param(1.0, Positive(), prior=dd.Gamma(2.0, 1.0))

        def log_joint(self, values: dict[str, Tensor]) -> Tensor:
            return self.log_prior(values)

    own = Own()
    assert can_fit_guide(NegativeELBO(own.log_joint, FullRankNormal(own)))
    assert can_fit_guide(NegativeELBO(plain, FullRankNormal(Line())))
    assert not can_fit_guide(NegativeELBO(Target(), FullRankNormal(Line())))
    assert not can_fit_guide(NegativeELBO(plain, FullRankNormal(many)))
    assert can_fit_guide(NegativeELBO(plain, MeanFieldNormal(many)))
    assert not can_fit_guide(torch.nn.Linear(1, 1))

"""Automatic guides through `fit`: where they start, what is kept, and fits without tuning."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor, nn

from declarative_dist import (
    ConstraintError,
    Declarative,
    FullRankNormal,
    Joint,
    MeanFieldNormal,
    NonFiniteError,
    Param,
    Positive,
    Simplex,
    fit,
)
from declarative_dist.objectives import ImportanceWeightedELBO, NegativeELBO
from tests.cases import Numbers
from tests.states import assert_unchanged, state_of

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS: list[Any] = [MeanFieldNormal, FullRankNormal]
BOUNDS: list[Any] = [NegativeELBO, ImportanceWeightedELBO]
MEAN, DEVIATION = torch.tensor([2000.0, 0.003]), torch.tensor([100.0, 0.0005])


Pair = partial(Numbers, size=2)


def far(values: dict[str, Tensor]) -> Tensor:
    return dd.Normal(MEAN, DEVIATION).log_prob(values["x"]).sum(-1)


# --- where they start --------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "bound"), [*zip(KINDS, BOUNDS, strict=True)])
def test_a_fit_finds_the_start(kind: Any, bound: Any) -> None:
    guide = kind(Pair())
    assert guide.awaits_density
    history = fit(bound(far, guide, num_samples=4), steps=1)
    assert not guide.awaits_density
    torch.testing.assert_close(guide.center, MEAN, rtol=1e-4, atol=1e-6)
    # Of a normalised density the bound is exact where the guide is the posterior.
    assert history.losses[0] == pytest.approx(0.0, abs=0.05)


def test_the_first_batch_is_the_first_step() -> None:
    """One pass over the data in mini-batches: the start and step 1 see the same rows."""
    data = torch.arange(10.0)
    seen: list[Tensor] = []

    def log_joint(values: dict[str, Tensor], x: Tensor) -> Tensor:
        seen.append(x)
        return dd.Normal(values["x"][..., :1], 1.0).log_prob(x).sum(-1) + far(values)

    torch.manual_seed(0)
    order = torch.randperm(10)
    torch.manual_seed(0)
    fit(NegativeELBO(log_joint, FullRankNormal(Pair())), data, batch_size=4, steps=2)
    assert len(seen) > 4
    assert all(torch.equal(x, data[order[:4]]) for x in seen[:-1])
    assert torch.equal(seen[-1], data[order[4:8]])


def test_a_target_for_one_draw() -> None:
    def one(values: dict[str, Tensor]) -> Tensor:
        assert values["x"].shape == (2,)
        return dd.Normal(MEAN, DEVIATION).log_prob(values["x"]).sum()

    guide, numbers = FullRankNormal(Pair()), torch.get_rng_state()
    NegativeELBO(one, guide, num_samples=3, vectorize=True).before_fit()
    assert torch.equal(torch.get_rng_state(), numbers)  # it draws none
    torch.testing.assert_close(guide.center, MEAN, rtol=1e-4, atol=1e-6)


def test_learned_targets_get_no_gradients_from_a_start() -> None:
    class Target(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, values: dict[str, Tensor]) -> Tensor:
            return dd.Normal(0.0, self.scale).log_prob(values["x"]).sum(-1)

    target = Target()
    NegativeELBO(target, FullRankNormal(Pair())).before_fit()
    assert target.scale.grad is None
    assert target.scale.item() == 2.0


# --- what is kept ------------------------------------------------------------------------------


def initialised(guide: Any) -> None:
    guide.initialize_(far)


def trained(guide: Any) -> None:
    with torch.no_grad():
        guide.raw_loc.add_(0.1)


def loaded(guide: Any) -> None:
    other = type(guide)(Pair())
    guide.load_state_dict(other.initialize_(far).state_dict())


@pytest.mark.parametrize("begin", [initialised, trained, loaded])
def test_what_somebody_chose_is_kept(begin: Any) -> None:
    guide = FullRankNormal(Pair())
    begin(guide)
    before = state_of(guide)
    assert not guide.awaits_density
    NegativeELBO(far, guide).before_fit()
    assert_unchanged(guide, before)


def test_a_scale_is_kept() -> None:
    guide = MeanFieldNormal(Pair(), init_scale=0.3)
    fit(NegativeELBO(far, guide), steps=1, lr=1e-6)
    torch.testing.assert_close(guide().scale, torch.full((2,), 0.3))


def test_a_second_fit_goes_on() -> None:
    guide = FullRankNormal(Pair())
    objective = NegativeELBO(lambda v: dd.Laplace(3.0, 1.0).log_prob(v["x"]).sum(-1), guide)
    fit(objective, steps=20)
    before = state_of(guide)
    objective.before_fit()
    assert_unchanged(guide, before)


def test_a_new_guide_again() -> None:
    guide = FullRankNormal(Pair()).initialize_(far)
    guide.reset_parameters()
    assert guide.awaits_density
    assert guide.double().awaits_density


def test_a_joint_has_begun_by_itself() -> None:
    class Far(Joint):
        x = dd.Normal(1000.0, 50.0)

    posterior = Far().condition()
    guide = FullRankNormal(posterior)
    before = state_of(guide)
    assert not guide.awaits_density
    NegativeELBO(posterior, guide).before_fit()
    assert_unchanged(guide, before)


def test_many_numbers_are_left_alone() -> None:
    guide = MeanFieldNormal(Numbers(size=10_001))
    before = state_of(guide)
    NegativeELBO(lambda v: -v["x"].square().sum(-1), guide).before_fit()
    assert_unchanged(guide, before)


def test_it_resumes_bit_for_bit(tmp_path: Path) -> None:
    def log_joint(values: dict[str, Tensor], x: Tensor) -> Tensor:
        centre = values["x"].sum(-1, keepdim=True)
        return far(values) + 3 * dd.Cauchy(centre, 2.0).log_prob(x).sum(-1)

    data = 2000.0 + torch.randn(30)

    def run(steps: int, guide: Any, **options: Any) -> Any:
        objective = NegativeELBO(log_joint, guide, num_samples=2)
        return fit(objective, data, batch_size=7, steps=steps, **options)

    torch.manual_seed(1)
    whole = FullRankNormal(Pair())
    history = run(12, whole)
    torch.manual_seed(1)
    run(5, FullRankNormal(Pair()), checkpoint=tmp_path / "fit.pt")
    torch.manual_seed(99)
    rest = FullRankNormal(Pair())
    again = run(12, rest, checkpoint=tmp_path / "fit.pt", resume=True)
    assert again.losses == history.losses
    assert_unchanged(rest, whole.state_dict())


def test_a_resumed_guide_keeps_its_verdict(tmp_path: Path) -> None:
    def run(guide: Any, **options: Any) -> Any:
        target = NegativeELBO(lambda z: dd.Normal(1.0, 2.0).log_prob(z["x"]).sum(-1), guide)
        return fit(target, checkpoint=tmp_path / "fit.pt", **options)

    first, again = run(FullRankNormal(Pair())), run(FullRankNormal(Pair()), resume=True)
    assert first.converged is again.converged is True
    assert first.verdict == again.verdict


def test_a_failed_first_step_leaves_a_new_guide() -> None:
    calls = []

    def log_joint(values: dict[str, Tensor]) -> Tensor:
        calls.append(values["x"].requires_grad)
        # Only a step draws one, with gradients; checks look at several, without.
        if calls[-1] and len(values["x"]) == 1 and values["x"].ndim == 2:
            return far(values) * torch.nan
        return far(values)

    guide = FullRankNormal(Pair())
    before = state_of(guide)
    with pytest.raises(ArithmeticError):
        fit(NegativeELBO(log_joint, guide), steps=3)
    assert_unchanged(guide, before)


def test_compiled_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    guide = FullRankNormal(Pair())
    fit(NegativeELBO(far, guide), steps=2, compile=True)
    torch.testing.assert_close(guide.center, MEAN, rtol=1e-4, atol=1e-6)
    torch._dynamo.reset()


def test_a_hook_of_your_own() -> None:
    class Objective(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Parameter(torch.zeros(()))
            self.calls: list[int] = []

        def before_fit(self, batch: Tensor) -> None:
            self.calls.append(len(batch))

        def forward(self, batch: Tensor) -> Tensor:
            return (self.x - batch).square().mean()

    objective = Objective()
    fit(objective, torch.ones(6), batch_size=4, steps=5)
    assert objective.calls == [4]


@pytest.mark.parametrize(
    ("log_joint", "data", "message"),
    [
        (lambda v: v["x"], None, r"NegativeELBO.log_joint: expected .*got shape \(1, 2\)"),
        (lambda v, x: v["x"].sum(-1), (torch.ones(2),) * 2, r"takes 2 positional arguments"),
        (lambda v: v["y"].sum(-1), None, "y"),
    ],
)
def test_mistakes_in_a_target_are_told_as_by_a_step(
    log_joint: Any, data: Any, message: str
) -> None:
    said = []
    for scale in (None, 0.1):  # the second has no start to look for
        guide = FullRankNormal(Pair(), init_scale=scale)
        before = state_of(guide)
        with pytest.raises((ConstraintError, TypeError, KeyError), match=message) as caught:
            fit(NegativeELBO(log_joint, guide), data, steps=1)
        assert_unchanged(guide, before)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_the_estimator_of_automatic_guides() -> None:
    for bound in BOUNDS:
        assert bound(far, FullRankNormal(Pair()), num_samples=2).estimator == "stl"
        chosen = bound(far, FullRankNormal(Pair()), num_samples=2, estimator="pathwise")
        assert chosen.estimator == "pathwise"


# --- fits without tuning -----------------------------------------------------------------------


class Shares(Declarative):
    shares = Param([1 / 3] * 3, Simplex())
    rate = Param(1.0, Positive())


def test_shares_and_a_rate_in_closed_form() -> None:
    """Poisson counts whose rates are shares of a total: gamma and Dirichlet posteriors."""
    counts = torch.tensor([3.0, 40.0, 900.0])

    def log_joint(v: dict[str, Tensor]) -> Tensor:
        expected = v["rate"][..., None] * v["shares"]
        prior = dd.Dirichlet(torch.ones(3)).log_prob(v["shares"])
        prior = prior + dd.Gamma(2.0, 0.01).log_prob(v["rate"])
        return prior + dd.Poisson(expected).log_prob(counts).sum(-1)

    guide = FullRankNormal(Shares())
    fit(NegativeELBO(log_joint, guide, num_samples=4), steps=400)
    draws, total = guide.sample((20_000,)), counts.sum().double()
    exact = {"shares": dd.Dirichlet(counts.double() + 1), "rate": dd.Gamma(2.0 + total, 1.01)}
    for name, q in exact.items():
        value = draws[name].double()
        assert ((value.mean(0) - q.mean).abs() / q.stddev).max() < 0.15, name
        assert (value.std(0) / q.stddev - 1).abs().max() < 0.15, name


def test_a_target_without_a_density_at_the_draws_is_told() -> None:
    class Pair(Declarative):
        x = Param(0.0)
        t = Param(0.5)

    def log_joint(draw: dict[str, Tensor]) -> Tensor:
        half = dd.HalfNormal(1.0, validate_args=False).log_prob(draw["t"])
        return dd.Normal(0.0, 1.0).log_prob(draw["x"]) + half

    guide = MeanFieldNormal(Pair(), init_scale=1.0)
    before = state_of(guide)
    with pytest.raises(NonFiniteError, match=r"of 100 draws of the guide"):
        fit(NegativeELBO(log_joint, guide, num_samples=8), steps=50)
    assert_unchanged(guide, before)


def test_a_noisy_fit_of_a_guide_says_what_its_draws_are_worth() -> None:
    """A mean-field Gaussian is far too narrow where numbers go together: exact sds are 1."""
    covariance = torch.full((2, 2), 0.995) + 0.005 * torch.eye(2)

    class Together(Declarative):
        z = Param(0.0, shape=(2,), prior=dd.MultivariateNormal(torch.zeros(2), covariance))

    model = Together()
    guide = MeanFieldNormal(model)
    history = fit(NegativeELBO(model.log_prior, guide), lr=0.1, tolerance=0.1)
    assert guide.sample((2000,))["z"].std(0).max() < 0.2
    assert "Weighted draws: " in history.verdict
    assert "Plain draws: unreliable" in history.verdict


class OwnBound(nn.Module):
    """A loss of one's own that has a guide, and is no bound of the library's."""

    def __init__(self) -> None:
        super().__init__()
        self.guide = MeanFieldNormal(Numbers(size=1))

    def forward(self) -> Tensor:
        draws, log_q = self.guide.rsample_and_log_prob((64,))
        return (log_q - dd.Normal(1.0, 0.5).log_prob(draws["x"]).sum(-1)).mean()


@pytest.mark.parametrize("lr", [None, 0.03])
def test_a_loss_of_your_own_may_have_a_guide(lr: float | None) -> None:
    objective = OwnBound()
    history = fit(objective, lr=lr)
    assert history.converged, history.verdict
    draws = objective.guide.sample((4000,))["x"]
    assert draws.mean().item() == pytest.approx(1.0, abs=0.05)
    assert draws.std().item() == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_another_size_is_refused_in_torchs_words(kind: Any) -> None:
    guide = kind(Pair())
    state = kind(Numbers(size=3)).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"):
        guide.load_state_dict(state)

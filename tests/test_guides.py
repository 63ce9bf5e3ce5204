"""Automatic guides: densities against torch's own, every support, starts, fits without tuning."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributions as dd
from torch import Tensor, nn

from declarative_dist import (
    Conditional,
    ConstraintError,
    DeclarationError,
    Declarative,
    Exp,
    FullRankNormal,
    Head,
    Joint,
    MeanFieldNormal,
    Param,
    Positive,
    Simplex,
    entropy,
    site,
)
from declarative_dist.objectives import NegativeELBO
from declarative_dist.testing import check_distribution
from tests.cases import Numbers
from tests.test_flat import Bounds, Everything, Moving, Supports

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Torch warns at the first draw of every Wishart, singular or not.
    pytest.mark.filterwarnings("ignore:Singular sample:UserWarning"),
]
KINDS: list[Any] = [MeanFieldNormal, FullRankNormal]
LATENTS: dict[str, Callable[..., Any]] = {
    "everything": Everything,
    "bounds": Bounds,
    "copies": lambda **kw: Scaled(batch_shape=(3,), **kw),
    "supports": lambda **kw: Supports(**kw).condition(),
    "moving": lambda **kw: Moving(**kw).condition(y=0.3),
}
PAIRS = [*((MeanFieldNormal, name) for name in LATENTS), (FullRankNormal, "copies")]


class Scaled(Declarative):
    scale = Param(2.0, Exp())
    weights = Param([0.2, 0.3, 0.5], Simplex())


Line = partial(Numbers, size=2)


def unsettled(guide: Any, spread: float = 0.3) -> Any:
    """The guide with parameters that are nothing special."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in guide.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(spread * noise.to(parameter))
    return guide


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_every_promise(kind: Any, name: str) -> None:
    check_distribution(unsettled(kind(LATENTS[name]())))


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_draws_and_densities(kind: Any, name: str) -> None:
    guide = unsettled(kind(LATENTS[name](dtype=torch.float64)))
    values, log_q = guide.rsample_and_log_prob((4, 2))
    batch = guide.batch_shape
    assert log_q.shape == (4, 2, *batch)
    for slot in guide.flat.slots:
        assert values[slot.name].shape == (4, 2, *batch, *slot.event_shape)
    torch.testing.assert_close(guide.log_prob(values), log_q, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(guide.detach().log_prob(values), log_q, rtol=1e-6, atol=1e-6)
    one = {n: v[1, 1] for n, v in values.items()}
    torch.testing.assert_close(guide.log_prob(one), log_q[1, 1], rtol=1e-6, atol=1e-6)
    assert guide.sample()[guide.flat.names[0]].requires_grad is False


@pytest.mark.parametrize("kind", KINDS)
def test_wide_guides_stay_inside(kind: Any) -> None:
    guide = kind(Everything(), init_scale=30.0)
    draws, log_q = guide.rsample_and_log_prob((500,))
    for slot in guide.flat.slots:
        constraint = type(guide.flat.latents).__declaration__.fields[slot.name].constraint
        if slot.name != "own":  # a user's own has no guarantee
            assert constraint.contains(draws[slot.name]).all(), slot.name
    assert log_q.shape == (500,)


def test_it_is_the_gaussian_of_torch() -> None:
    guide = unsettled(FullRankNormal(Line(dtype=torch.float64), init_scale=2.0))
    q = guide()
    plain = dd.MultivariateNormal(q.loc, scale_tril=q.scale)
    x = torch.randn(5, 2, dtype=torch.float64)
    torch.testing.assert_close(guide.log_prob({"x": x}), plain.log_prob(x))
    with pytest.raises(NotImplementedError):
        guide.entropy()
    assert torch.equal(guide.median["x"], q.loc)
    draws = guide.sample((200_000,))["x"]
    torch.testing.assert_close(draws.T.cov(), plain.covariance_matrix, rtol=0.05, atol=0.05)
    diagonal = unsettled(MeanFieldNormal(Line(dtype=torch.float64)))
    own = diagonal()
    torch.testing.assert_close(
        diagonal.log_prob({"x": x}), dd.Normal(own.loc, own.scale).log_prob(x).sum(-1)
    )


def test_it_is_the_transformed_gaussian_of_torch() -> None:
    class Latents(Declarative):
        rate = Param(2.0, Exp())

    guide = unsettled(MeanFieldNormal(Latents(dtype=torch.float64)))
    x = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64)
    plain = dd.LogNormal(guide().loc[0], guide().scale[0])
    torch.testing.assert_close(guide.log_prob({"rate": x}), plain.log_prob(x))
    with pytest.raises(NotImplementedError, match="num_samples"):
        entropy(guide)
    estimate = entropy(guide, num_samples=20_000)
    torch.testing.assert_close(estimate, plain.entropy(), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_at_the_declared_values(kind: Any) -> None:
    latents = Scaled(scale=3.0)
    guide = kind(latents)
    for name in ("scale", "weights"):
        torch.testing.assert_close(guide.median[name], getattr(latents, name).detach())
    with torch.no_grad():
        latents.scale = 9.0
    assert guide.median["scale"].item() == pytest.approx(3.0)
    assert not any(value.requires_grad for value in guide.median.values())
    assert not any(value.requires_grad for value in guide().median.values())
    names = ["raw_loc", "raw_scale", "raw_tril"][: len(list(guide.parameters()))]
    assert [name for name, _ in guide.named_parameters()] == names
    small = kind(latents, init_scale=1e-3).sample((500,))["scale"]
    assert small.std().item() == pytest.approx(9e-3, rel=0.15)


def test_it_starts_in_the_prior_of_a_joint() -> None:
    class Far(Joint):
        a = dd.Normal(1000.0, 50.0)
        b = dd.LogNormal(5.0, 0.1)

    guide = MeanFieldNormal(Far().condition(), init_scale=1.0)
    draws = guide.sample((5000,))
    assert draws["a"].mean().item() == pytest.approx(1000.0, abs=30.0)
    assert draws["a"].std().item() == pytest.approx(50.0, rel=0.4)
    assert draws["b"].log().mean().item() == pytest.approx(5.0, abs=0.1)


# --- promises ----------------------------------------------------------------------------------


def test_it_compiles_whole() -> None:
    guide = unsettled(FullRankNormal(Everything()))

    def loss(count: int) -> Tensor:
        values, log_q = guide.rsample_and_log_prob((count,))
        return log_q.mean() + sum(value.mean() for value in values.values())

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.manual_seed(1)
    expected = loss(8)
    torch.manual_seed(1)
    torch.testing.assert_close(compiled(8), expected, rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()


def test_copies_of_a_joint() -> None:
    class Groups(Joint):
        scale = dd.HalfNormal(2.0)
        loc = Param(0.0)

        @site(event_dim=1)
        def x(self, scale: Tensor, loc: Tensor) -> dd.Normal:
            return dd.Normal(loc[..., None].expand(*scale.shape, 2), scale[..., None])

    posterior = Groups(batch_shape=(3,)).condition(x=torch.randn(3, 2))
    for kind in KINDS:
        guide = kind(posterior)
        draws, log_q = guide.rsample_and_log_prob((5,))
        assert (draws["scale"].shape, log_q.shape) == ((5, 3), (5, 3))
        assert posterior(draws).shape == (5, 3)
        assert "loc" not in dict(guide.named_parameters())


def test_a_detached_snapshot() -> None:
    guide = unsettled(FullRankNormal(Scaled()))
    values = guide.rsample((3,))
    snapshot = guide.detach()
    before = snapshot.log_prob(values)
    assert snapshot.log_prob({n: v.detach() for n, v in values.items()}).requires_grad is False
    before.sum().backward()
    assert guide.raw_loc.grad is not None
    with torch.no_grad():
        guide.raw_loc.add_(1.0)
    torch.testing.assert_close(snapshot.log_prob(values), before)


# --- fits --------------------------------------------------------------------------------------


def fitted(guide: Any, log_joint: Any, lr: float) -> Any:
    """A bare loop at a fixed rate: what is to be promised without tuning."""
    optimizer = torch.optim.Adam(guide.parameters(), lr=lr)
    for _ in range(150):
        optimizer.zero_grad()
        values = guide.rsample((16,))
        (guide.detach().log_prob(values) - log_joint(values)).sum(0).mean().backward()
        optimizer.step()
    return guide


def check_moments(guide: Any, mean: Tensor, deviation: Tensor, name: str = "x") -> None:
    draws = guide.sample((20_000,))[name].double()
    assert ((draws.mean(0) - mean).abs() / deviation).max() < 0.15
    assert (draws.std(0) / deviation - 1).abs().max() < 0.15


def gaussian(mean: Tensor, covariance: Tensor) -> tuple[Declarative, Any]:
    precision = torch.linalg.inv(covariance.double()).float()

    def log_joint(values: dict[str, Tensor]) -> Tensor:
        centred = values["x"] - mean
        return -0.5 * ((centred @ precision) * centred).sum(-1)

    return Numbers(size=len(mean)), log_joint


SCALES = torch.logspace(-3, 3, 8)
CORRELATED = torch.full((8, 8), 0.99) + 0.01 * torch.eye(8)
GAUSSIANS = {
    "scales": (torch.tensor([1500.0, 0.002]), torch.tensor([1e6, 1e-6]).diag()),
    "far": (torch.tensor([1e4, 5.0]), torch.tensor([1e4, 1e-6]).diag()),
    "both": (3 * SCALES, CORRELATED * SCALES[:, None] * SCALES),
}


@pytest.mark.parametrize(
    ("name", "kind", "lr"),
    [
        ("far", FullRankNormal, 0.01),
        ("both", FullRankNormal, 0.1),
        ("scales", MeanFieldNormal, 0.05),
    ],
)
def test_badly_scaled_and_correlated_posteriors(name: str, kind: Any, lr: float) -> None:
    mean, covariance = GAUSSIANS[name]
    latents, log_joint = gaussian(mean, covariance)
    guide = fitted(kind(latents).initialize_(log_joint), log_joint, lr)
    check_moments(guide, mean, covariance.diagonal().sqrt())


def test_initialising_copies_one_by_one() -> None:
    mean, deviation = torch.tensor([[1.0], [500.0], [-3.0]]), torch.tensor([[1e-3], [50.0], [1.0]])

    def log_joint(values: dict[str, Tensor]) -> Tensor:
        return dd.Normal(mean, deviation).log_prob(values["x"]).sum(-1)

    for kind in KINDS:
        guide = kind(Numbers(size=1, batch_shape=(3,))).initialize_(log_joint)
        torch.testing.assert_close(guide.median["x"], mean, rtol=1e-3, atol=1e-3)
        check_moments(guide, mean, deviation)


def test_initialising_keeps_what_is_better_and_draws_nothing() -> None:
    guide = MeanFieldNormal(Line(), init_scale=1.0)

    def kinked(values: dict[str, Tensor]) -> Tensor:
        return dd.Laplace(0.0, 1.0).log_prob(values["x"]).sum(-1)

    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    guide.initialize_(kinked)
    assert torch.equal(torch.randn(3), expected)
    draws = guide.sample((1000,))["x"]
    assert 0.3 < draws.std().item() < 2.0
    with pytest.raises(ConstraintError, match="log_joint: expected log densities of shape"):
        guide.initialize_(lambda values: values["x"])


def test_many_numbers_take_the_diagonal() -> None:
    deviation = torch.logspace(-2, 2, 300)

    guide = MeanFieldNormal(Numbers(size=300)).initialize_(
        lambda v: dd.Normal(5.0 * deviation, deviation).log_prob(v["x"]).sum(-1)
    )
    check_moments(guide, 5.0 * deviation, deviation)


# --- mistakes ----------------------------------------------------------------------------------


class Policy(Conditional):
    base = dd.Normal
    loc = Head()
    scale = Head()


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (Scaled, r"got <class '.*Scaled'>. Declare class Latents"),
        (nn.Linear(2, 2), "expected an instance of a Declarative class, or a conditioned joint"),
        (dd.Normal(0.0, 1.0), "got Normal"),
        (lambda: Moving(), r"Write Moving\(\).condition\(y=data\)"),
        (lambda: Policy(in_features=2), "trainable Params"),
    ],
)
def test_latents_of_the_wrong_kind(latents: Any, message: str) -> None:
    is_function = callable(latents) and not isinstance(latents, (type, nn.Module))
    with pytest.raises(DeclarationError, match=message):
        MeanFieldNormal(latents() if is_function else latents)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 10**400, "1", True])
def test_a_bad_init_scale(scale: Any) -> None:
    with pytest.raises(ConstraintError, match=r"FullRankNormal\(init_scale=\): expected a pos"):
        FullRankNormal(Line(), init_scale=scale)


@pytest.mark.parametrize("scale", [np.float32(0.25), np.float64(0.25), np.int64(1), Tensor([0.5])])
def test_numbers_of_numpy_are_numbers(scale: Any) -> None:
    guide = MeanFieldNormal(Line(), init_scale=scale)
    assert guide().scale.tolist() == [float(scale)] * 2


def test_bad_values() -> None:
    guide = MeanFieldNormal(Scaled())
    good = guide.sample((3,))
    for change, message in (
        ({"scale": torch.tensor([1.0, -1.0, 1.0])}, r"Scaled.scale: expected a finite positive"),
        ({"weights": torch.ones(3, 3)}, "Scaled.weights: expected positive numbers that sum"),
        ({"scale": torch.ones(2)}, "Scaled.weights: expected shape"),
        ({"weights": torch.ones(3, 4) / 4}, "Scaled.weights: expected shape"),
        ({"scales": torch.ones(3)}, "Did you mean 'scale'"),
    ):
        with pytest.raises(ConstraintError, match=message):
            guide.log_prob({**good, **change})
    with pytest.raises(ConstraintError, match="expected a dict of values by site"):
        guide.log_prob(torch.ones(3))


def test_repr_names_the_sites() -> None:
    assert repr(MeanFieldNormal(Scaled())) == "MeanFieldNormal(scale (), weights (3,))"
    assert repr(MeanFieldNormal(Scaled())()) == "PushedNormal(scale (), weights (3,))"


def test_one_number_has_no_triangle() -> None:
    class One(Declarative):
        x = Param(0.5)

    guide = FullRankNormal(One(), init_scale=0.3)
    assert [name for name, _ in guide.named_parameters()] == ["raw_loc", "raw_scale"]
    draw, log_prob = guide.rsample_and_log_prob((5,))
    torch.testing.assert_close(log_prob, dd.Normal(0.5, 0.3).log_prob(draw["x"]))
    log_prob.sum().backward()


def test_a_guide_outside_the_support_of_a_site_is_refused() -> None:
    class Scale(Joint):
        tau = dd.HalfNormal(1.0)

        @site
        def y(self, tau: Tensor) -> dd.Normal:
            return dd.Normal(0.0, tau)

    class Real(Declarative):
        tau = Param(0.5)

    class Other(Declarative):
        ta = Param(0.5, Positive())

    target = Scale().condition(y=1.0)
    with pytest.raises(
        ConstraintError, match=r"tau: expected a guide with a support inside .*GreaterThanEq"
    ):
        NegativeELBO(target, MeanFieldNormal(Real()))
    with pytest.raises(
        ConstraintError, match="dicts of tau, got one with draws that are dicts of ta"
    ):
        NegativeELBO(target, MeanFieldNormal(Other()))

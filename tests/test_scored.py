"""Draws with their log densities: exact against torch, and where rounding loses the way back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions as dd
import torch.nn.functional as F
from torch import Tensor

from declarative_dist import (
    Exp,
    Interval,
    LearnableTransform,
    LogInterval,
    Ordered,
    Positive,
    Simplex,
    UnitInterval,
    Variational,
    learnable,
    rsample_and_log_prob,
)
from declarative_dist.plain.draws import rsample_and_score
from tests.composites import (
    COMPOSITES,
    NO_DENSITY,
    SinhArcsinh,
    Skewed,
    affine,
    normal,
    plain,
    real,
    same,
    spread,
    tril,
)

Transformed = dd.TransformedDistribution


def leaf(tensor: Tensor) -> Tensor:
    return tensor.clone().requires_grad_()


# Against plain torch, away from saturation.

CHAINS: dict[str, Callable[[Any], dd.Distribution]] = {
    **{n: make for n, make in COMPOSITES.items() if n not in NO_DENSITY and plain(n).has_rsample},
    "more dims in the transform": lambda t: Transformed(
        normal(t, 3), [affine(t, 5, 2, 3), dd.SigmoidTransform()]
    ),
    "events in the base": lambda t: Transformed(
        dd.Independent(normal(t, 4, 3), 1), [dd.ExpTransform(), affine(t, 3)]
    ),
    "two event dims in the base": lambda t: Transformed(
        dd.Independent(normal(t, 4, 3, 2), 2), [affine(t, 2, event_dim=1), dd.SoftplusTransform()]
    ),
    "events in the transform": lambda t: Transformed(
        normal(t, 4, 3), [affine(t, 3, event_dim=1), dd.ExpTransform()]
    ),
    "events late": lambda t: Transformed(
        normal(t, 4, 3), [dd.SoftplusTransform(), affine(t, 4, 3, event_dim=2)]
    ),
    "events here and there": lambda t: Transformed(
        normal(t, 5, 4, 3),
        [
            dd.TanhTransform(),
            affine(t, 3, event_dim=1),
            SinhArcsinh(t(real(5, 4, 3)), 1.2),
            dd.IndependentTransform(affine(t, 4, 3), 2),
            dd.SigmoidTransform(),
        ],
    ),
    "full rank": lambda t: Transformed(
        dd.MultivariateNormal(t(real(2, 3)), scale_tril=t(tril(3, 3))),
        [dd.StickBreakingTransform()],
    ),
    "back from the simplex": lambda t: Transformed(
        dd.Dirichlet(t(2 + spread(2, 4))),
        [dd.StickBreakingTransform().inv, affine(t, 3), dd.StickBreakingTransform()],
    ),
    "vector to matrix": lambda t: Transformed(
        dd.MultivariateNormal(t(real(2, 4)), scale_tril=t(tril(4, 4))),
        [dd.ReshapeTransform((4,), (2, 2)), affine(t, 2, event_dim=1), dd.TanhTransform()],
    ),
    "matrix to vector": lambda t: Transformed(
        dd.Independent(normal(t, 5, 2, 2), 2),
        [dd.TanhTransform(), dd.ReshapeTransform((2, 2), (4,)), dd.StickBreakingTransform()],
    ),
    "matrix to number": lambda t: Transformed(
        dd.Independent(normal(t, 5, 1, 1), 2), [dd.ReshapeTransform((1, 1), ()), affine(t, 5)]
    ),
    "composed, with events": lambda t: Transformed(
        normal(t, 4, 3),
        [
            dd.ComposeTransform(
                [dd.TanhTransform(), affine(t, 3, event_dim=1), dd.SoftplusTransform()]
            ),
            dd.ComposeTransform([dd.ExpTransform()]).inv,
        ],
    ),
    "transformed twice, with events": lambda t: Transformed(
        Transformed(normal(t, 4, 3), [affine(t, 3, event_dim=1), dd.ExpTransform()]),
        [affine(t, 4, 3), dd.SoftplusTransform()],
    ),
    "independent inside and outside": lambda t: dd.Independent(
        Transformed(
            dd.Independent(Transformed(normal(t, 5, 4, 3), affine(t, 4, 3)), 1),
            [dd.TanhTransform(), affine(t, 3)],
        ),
        1,
    ),
    "torch's own": lambda t: dd.Independent(
        Transformed(dd.Kumaraswamy(t(1 + spread(3)), t(1 + spread(3))), affine(t, 3)), 1
    ),
    "logistic": lambda t: Transformed(dd.LogisticNormal(t(real(2, 3)), t(spread(2, 3))), []),
    "relaxed": lambda t: Transformed(
        dd.RelaxedOneHotCategorical(t(torch.tensor(0.9)), logits=t(real(4))), affine(t, 4)
    ),
    "constraints": lambda t: Transformed(
        normal(t, 2, 3),
        [Interval(-3.0, 2.0).as_transform(), Simplex().as_transform(), affine(t, 4)],
    ),
    "ordered": lambda t: Transformed(
        normal(t, 2, 3), [Ordered().as_transform(1), Positive().as_transform(1)]
    ),
    "expanded": lambda t: Transformed(
        normal(t, 3), [affine(t, 3, event_dim=1), dd.StickBreakingTransform()]
    ).expand((4, 2)),
    "expanded around a broadcast": lambda t: dd.Independent(
        Transformed(normal(t, 3), affine(t, 2, 3)).expand((4, 2, 3)), 2
    ),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.usefixtures("float64")
def test_it_agrees_with_torch(name: str) -> None:
    distribution, sample_shape = CHAINS[name](same), (2, 3)
    torch.manual_seed(1)
    x, log_prob = rsample_and_score(distribution, torch.Size(sample_shape))
    torch.manual_seed(1)
    assert torch.equal(x, distribution.rsample(sample_shape))
    assert log_prob.shape == (*sample_shape, *distribution.batch_shape)
    assert log_prob.dtype == torch.float64
    torch.testing.assert_close(log_prob, distribution.log_prob(x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.usefixtures("float64")
def test_gradients_agree_with_the_way_back(name: str) -> None:
    def gradients(score: Callable[[Any], tuple[Tensor, Tensor]]) -> list[Tensor]:
        leaves: list[Tensor] = []

        def watched(tensor: Tensor) -> Tensor:
            leaves.append(leaf(tensor))
            return leaves[-1]

        distribution = CHAINS[name](watched)
        torch.manual_seed(1)
        x, log_prob = score(distribution)
        loss = log_prob.sum() + x.sin().sum()
        return list(torch.autograd.grad(loss, leaves, allow_unused=True))

    def by_hand(distribution: Any) -> tuple[Tensor, Tensor]:
        x = distribution.rsample((4,))
        return x, distribution.log_prob(x)

    expected = gradients(by_hand)
    found = gradients(lambda d: rsample_and_score(d, torch.Size((4,))))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", [n for n in COMPOSITES if not plain(n).has_rsample][::3])
def test_without_a_sampler_with_gradients_it_is_refused(name: str) -> None:
    kind = type(plain(name)).__name__
    with pytest.raises(NotImplementedError, match=f"{kind} has no reparametrised sampler"):
        learnable(plain(name)).rsample_and_log_prob()
    with pytest.raises(NotImplementedError, match=f"{kind} has no reparametrised sampler"):
        rsample_and_log_prob(plain(name))


# At saturation: the closed form at the point before the squashing, drawn again from its seed.


def tanh_volume(x: Tensor) -> Tensor:
    return 2 * (math.log(2.0) - x.abs() - (-2 * x.abs()).exp().log1p())


def sigmoid_volume(x: Tensor) -> Tensor:
    return F.logsigmoid(x) + F.logsigmoid(-x)


SQUASHES: dict[str, tuple[Callable[[], Any], Callable[[Tensor], Tensor]]] = {
    "tanh": (dd.TanhTransform, tanh_volume),
    "cached tanh": (lambda: dd.TanhTransform(cache_size=1), tanh_volume),
    "sigmoid": (dd.SigmoidTransform, sigmoid_volume),
    "interval": (lambda: Interval(-1.0, 1.0).as_transform(),
        lambda x: math.log(2.0) + sigmoid_volume(x)),
    "cached interval": (lambda: Interval(-1.0, 1.0).as_transform(cache_size=1),
        lambda x: math.log(2.0) + sigmoid_volume(x)),
    "unit interval": (lambda: UnitInterval().as_transform(), sigmoid_volume),
}  # fmt: skip

LOCS = torch.tensor([-1000.0, -60.0, -20.0, -9.0, 0.0, 9.0, 20.0, 60.0, 1000.0])


def squashed(loc: Tensor, scale: Tensor, transform: Any) -> dd.Distribution:
    return Transformed(dd.Normal(loc, scale), transform)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SQUASHES)
def test_a_squashed_normal_is_exact_at_saturation(name: str, dtype: torch.dtype) -> None:
    make, volume = SQUASHES[name]
    loc, scale = leaf(LOCS.to(dtype)), leaf(torch.full_like(LOCS, 3.0, dtype=dtype))
    torch.manual_seed(1)
    x, log_prob = rsample_and_log_prob(squashed(loc, scale, make()), (50,))
    assert (x.abs() > 1 - 1e-5).any()
    gradients = torch.autograd.grad(log_prob.sum(), (loc, scale))

    by_hand_loc, by_hand_scale = leaf(LOCS.double()), leaf(torch.full_like(LOCS, 3.0).double())
    torch.manual_seed(1)
    noise = dd.Normal(torch.zeros_like(LOCS, dtype=dtype), 1.0).rsample((50,)).double()
    before = by_hand_loc + by_hand_scale * noise
    expected = dd.Normal(by_hand_loc, by_hand_scale).log_prob(before) - volume(before)
    assert log_prob.isfinite().all()
    eps = torch.finfo(dtype).eps
    # Torch's transforms take softplus for linear from 20 on, which costs them exp(-20).
    linear = 0.0 if "interval" in name else 2 * math.exp(-20.0)
    torch.testing.assert_close(log_prob.double(), expected, rtol=8 * eps, atol=200 * eps + linear)
    for one, other in zip(
        gradients, torch.autograd.grad(expected.sum(), (by_hand_loc, by_hand_scale)), strict=True
    ):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=2e4 * eps)


class Squash(LearnableTransform):
    base = dd.TanhTransform
    event_dim = 1


class Declared(Variational):
    base = Transformed
    base_distribution = dd.Normal(torch.full((3,), 20.0), torch.ones(3))
    transforms = [Squash]  # noqa: RUF012


MANY = torch.tensor([[40.0, -40.0, 0.5], [30.0, 30.0, 30.0]])
CHAIN = [dd.TanhTransform(), dd.AffineTransform(5.0, 2.0), dd.ExpTransform()]
SATURATED: dict[str, tuple[Any, Tensor, Callable[[Tensor], Tensor], float]] = {
    "many dimensions in one event": (
        dd.Independent(squashed(MANY, torch.ones(2, 3), dd.TanhTransform()), 1), MANY,
        tanh_volume, 1.0,
    ),
    # What comes behind the squashing cannot bring the lost digits back.
    "in the middle of a chain": (
        squashed(torch.full((3,), 25.0), torch.ones(3), CHAIN), torch.full((3,), 25.0),
        lambda x: tanh_volume(x) + math.log(2.0) + 5.0 + 2 * x.tanh(), math.exp(7.0),
    ),
    "an overflowing exponential": (
        squashed(torch.tensor(1000.0), torch.ones(()), dd.ExpTransform()), torch.tensor(1000.0),
        lambda x: x, math.inf,
    ),
    "a declared transform with events": (Declared(), torch.full((3,), 20.0), tanh_volume, 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", SATURATED)
def test_other_chains_at_saturation(name: str) -> None:
    distribution, loc, volume, edge = SATURATED[name]
    torch.manual_seed(1)
    x, log_prob = rsample_and_log_prob(distribution, (5,))
    torch.manual_seed(1)
    before = dd.Normal(loc, 1.0).rsample((5,))
    expected = dd.Normal(loc, 1.0).log_prob(before) - volume(before)
    torch.testing.assert_close(
        log_prob, expected.sum(-1) if distribution.event_shape else expected
    )
    assert log_prob.shape == (5, *distribution.batch_shape)
    assert x.abs().max().item() == pytest.approx(edge)


# Families of other people.


class Reweighted(dd.TransformedDistribution):
    """A family whose density is not what its transforms say."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + 100.0


class Shifted(dd.TransformedDistribution):
    """A family that draws by itself."""

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return super().rsample(sample_shape) + 1.0


class Halved(dd.Independent):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) / 2


class Scoring(dd.Normal):
    """A family that scores its own draws."""

    def rsample_and_log_prob(self, sample_shape: Any = torch.Size()) -> tuple[Tensor, Tensor]:
        x = self.rsample(sample_shape)
        return x, torch.full_like(x, 7.0)


OVERRIDING = {
    "log_prob": lambda: Reweighted(normal(same, 3), [dd.ExpTransform()]),
    "log_prob inside": lambda: dd.Independent(Reweighted(normal(same, 3), dd.ExpTransform()), 1),
    "log_prob under a transform": lambda: Transformed(
        Reweighted(normal(same, 3), dd.ExpTransform()), affine(same, 3)
    ),
    "rsample": lambda: Shifted(normal(same, 3), [dd.ExpTransform()]),
    "independent": lambda: Halved(normal(same, 3), 1),
    "own family": lambda: Skewed(real(3), spread(3)),
}


@pytest.mark.parametrize("name", OVERRIDING)
@pytest.mark.usefixtures("float64")
def test_overridden_methods_are_heard(name: str) -> None:
    distribution = OVERRIDING[name]()
    torch.manual_seed(1)
    x, log_prob = rsample_and_log_prob(distribution, (4,))
    torch.manual_seed(1)
    assert torch.equal(x, distribution.rsample((4,)))
    torch.testing.assert_close(log_prob, distribution.log_prob(x), rtol=1e-9, atol=1e-9)


def test_a_family_that_scores_its_own_draws_is_asked() -> None:
    own = Scoring(real(3), spread(3))
    assert rsample_and_log_prob(own)[1].tolist() == [7.0] * 3
    assert rsample_and_log_prob(dd.Independent(own, 1))[1].item() == 21.0
    doubled = Transformed(own, dd.AffineTransform(0.0, 2.0))
    torch.testing.assert_close(rsample_and_log_prob(doubled)[1], torch.full((3,), 7 - math.log(2)))


def test_live_bases_inside_plain_wrappers() -> None:
    q = learnable(normal(same, 3))
    wrapped = dd.Independent(Transformed(q, dd.TanhTransform()), 1)
    torch.manual_seed(1)
    x, log_prob = rsample_and_log_prob(wrapped, (4,))
    torch.testing.assert_close(log_prob, wrapped.log_prob(x), rtol=1e-4, atol=1e-4)
    log_prob.sum().backward()
    assert all(p.grad is not None for p in q.parameters())


# The recipe for actions: an interval never returns its ends.

DTYPES = (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(
    "constraint",
    [UnitInterval(), Positive(), Exp(), LogInterval(1e-2, 1e2), Interval(-5.0, 5.0)],
    ids=repr,
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_other_constraints_as_the_last_transform(constraint: Any, dtype: torch.dtype) -> None:
    loc = torch.linspace(-30.0, 30.0, 13, dtype=dtype)
    policy = Transformed(dd.Normal(loc, torch.ones_like(loc)), constraint.as_transform(1))
    x, own = rsample_and_log_prob(policy, (5,))
    assert constraint.contains(x).all()
    assert own.isfinite().all()
    later = Transformed(dd.Normal(loc.flip(0) / 10, torch.ones_like(loc)), policy.transforms)
    assert later.log_prob(x.detach().clone()).isfinite().all()


def test_a_module_of_bounds_moves_with_the_policy() -> None:
    low, high = torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 0.0])
    q = learnable(Transformed(normal(same, 2), Interval(low, high).as_transform(1)))
    with torch.no_grad():
        q.base_distribution.raw_loc.copy_(torch.tensor([-100.0, 100.0]))
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x, log_prob = q.to(dtype).rsample_and_log_prob((10,))
        assert x.dtype == dtype
        assert (x > low.to(dtype)).all()
        assert (x < high.to(dtype)).all()
        assert log_prob.isfinite().all()
        assert q.log_prob(x.detach().clone()).isfinite().all()


def test_learned_squashed_policies_train_at_saturation() -> None:
    q = learnable(squashed(torch.full((3,), 15.0), torch.ones(3), dd.TanhTransform()))
    optimizer = torch.optim.SGD(q.parameters(), lr=1.0)
    before = q.base_distribution.loc.clone()
    for _ in range(20):
        optimizer.zero_grad()
        _, log_prob = q.rsample_and_log_prob((32,))
        log_prob.mean(0).sum().backward()  # towards more entropy, which is in the middle
        assert all(p.grad.isfinite().all() for p in q.parameters())
        optimizer.step()
    assert (q.base_distribution.loc < before - 1.0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_learned_policies_keep_the_recipe(dtype: torch.dtype) -> None:
    class Policy(Variational):
        base = Transformed
        event_dim = 1
        base_distribution = learnable(dd.Normal(torch.zeros(3), torch.ones(3)))
        transforms = [Interval(-1.0, 1.0).as_transform(cache_size=1)]  # noqa: RUF012

    policy = Policy(dtype=dtype)
    with torch.no_grad():
        policy.base_distribution.raw_loc.copy_(torch.tensor([-50.0, 0.0, 50.0]))
    action = policy.rsample((20,)).detach().clone()
    assert action.dtype == dtype
    assert (action.abs() < 1).all()
    for _ in range(20):
        with torch.no_grad():
            policy.base_distribution.raw_loc.copy_(3 * torch.randn(3))
        policy.zero_grad()
        log_prob = policy.log_prob(action)
        assert log_prob.shape == (20,)
        assert log_prob.isfinite().all()
        log_prob.float().sum().backward()
        assert all(p.grad.isfinite().all() for p in policy.parameters())

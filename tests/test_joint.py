"""Joint distributions: sums of plain log densities, shapes that must not lie, conditioning."""

from __future__ import annotations

import copy
import itertools
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import torch.distributions as dd
from torch import Tensor, nn, tensor
from torch.distributions import Distribution, constraints

from declarative_dist import (
    ConstraintError,
    DeclarationError,
    Declarative,
    Exp,
    FieldError,
    GreaterThan,
    Joint,
    LearnableTransform,
    Param,
    Positive,
    Variational,
    derived,
    entropy,
    fields_of,
    kl_divergence,
    learnable,
    rsample_and_log_prob,
    site,
)
from declarative_dist.errors import first_line
from declarative_dist.testing import check_distribution

ERROR = tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
EFFECT = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]


class Schools(Joint):
    error = ERROR
    mu = dd.Normal(0.0, 5.0)
    tau = dd.HalfCauchy(5.0)

    @site(event_dim=1)
    def theta(self, mu: Tensor, tau: Tensor) -> dd.Normal:
        return dd.Normal(mu[..., None].expand(*mu.shape, 8), tau[..., None])

    @site(event_dim=1)
    def y(self, theta: Tensor, error: Tensor) -> dd.Normal:
        return dd.Normal(theta, error)


def schools_log_prob(x: dict[str, Tensor]) -> Tensor:
    mu, tau, theta, y = (x[name] for name in ("mu", "tau", "theta", "y"))
    return (
        dd.Normal(0.0, 5.0).log_prob(mu)
        + dd.HalfCauchy(5.0).log_prob(tau)
        + dd.Normal(mu[..., None], tau[..., None]).log_prob(theta).sum(-1)
        + dd.Normal(theta, ERROR).log_prob(y).sum(-1)
    )


class Rich(Joint):
    """Learned, constant and dependent sites, vectors of three, a parameter and a derived value."""

    x = tensor([0.5, -1.0, 2.0])
    mu = learnable(dd.Normal(0.2, 1.5))
    beta = dd.Independent(dd.Normal(torch.zeros(3), tensor([1.0, 2.0, 3.0])), 1)
    tau = dd.HalfCauchy(5.0)
    scale = Param(2.0, Exp())

    @derived
    def width(self, scale: Tensor) -> Tensor:
        return 1.0 + scale.square()

    @site(event_dim=1)
    def theta(self, mu: Tensor, beta: Tensor, tau: Tensor) -> dd.Normal:
        return dd.Normal(mu[..., None] + beta, tau[..., None])

    @site
    def total(self, theta: Tensor, x: Tensor, width: Tensor) -> dd.Normal:
        return dd.Normal((theta * x).sum(-1), width)

    @site(event_dim=1)
    def y(self, theta: Tensor, total: Tensor, scale: Tensor) -> dd.StudentT:
        return dd.StudentT(4.0, theta - total[..., None], scale[..., None])


def rich_log_prob(x: dict[str, Tensor], loc: object, spread: object, scale: object) -> Tensor:
    loc, spread, scale = (torch.as_tensor(v) for v in (loc, spread, scale))
    mu, beta, tau, theta, total, y = (
        x[name] for name in ("mu", "beta", "tau", "theta", "total", "y")
    )
    weight = tensor([0.5, -1.0, 2.0], dtype=theta.dtype)
    return (
        dd.Normal(loc, spread).log_prob(mu)
        + dd.Normal(torch.zeros(3), tensor([1.0, 2.0, 3.0])).log_prob(beta).sum(-1)
        + dd.HalfCauchy(5.0).log_prob(tau)
        + dd.Normal(mu[..., None] + beta, tau[..., None]).log_prob(theta).sum(-1)
        + dd.Normal(theta @ weight, 1.0 + scale**2).log_prob(total)
        + dd.StudentT(4.0, theta - total[..., None], scale[..., None]).log_prob(y).sum(-1)
    )


class Pair(Joint):
    a = dd.Normal(0.0, 1.0)
    b = dd.Gamma(2.0, 3.0)


class Chain(Joint):
    """A learned start and a learned step, both reparametrised."""

    start = learnable(dd.Normal(0.5, 2.0))
    rate = Param(0.7, Positive())

    @site
    def step(self, start: Tensor, rate: Tensor) -> dd.Normal:
        return dd.Normal(start.tanh(), rate)


class ReadsSelf(Joint):
    """Sites that read a constant and a parameter from self."""

    weight = Param(2.0, Exp())
    shift = tensor(0.25)
    mu = dd.Normal(0.0, 1.0)

    @site
    def y(self, mu: Tensor) -> dd.Normal:
        return dd.Normal(mu + self.shift, self.weight)


class Decoder(Joint):
    """A site that calls a network."""

    net = nn.Linear(2, 3)
    z = dd.Independent(dd.Normal(torch.zeros(2), 1.0), 1)

    @site(event_dim=1)
    def x(self, z: Tensor, net: nn.Module) -> dd.Normal:
        return dd.Normal(net(z), 0.5)


class Scale(Joint):
    """A scale that is legal in half of all draws."""

    s = dd.Normal(0.0, 1.0)

    @site
    def x(self, s: Tensor) -> dd.Normal:
        return dd.Normal(0.0, s)


class Topics(Joint):
    share = dd.Dirichlet(tensor([1.0, 2.0, 3.0]))
    loc = tensor([-1.0, 0.0, 4.0])

    @site
    def z(self, share: Tensor) -> dd.Categorical:
        return dd.Categorical(share)

    @site
    def x(self, z: Tensor, loc: Tensor) -> dd.Normal:
        return dd.Normal(loc[z], 0.5)


class Correlated(Joint):
    tau = dd.Independent(dd.HalfNormal(torch.ones(2)), 1)
    chol = dd.LKJCholesky(2, 1.5)

    @site
    def x(self, tau: Tensor, chol: Tensor) -> dd.MultivariateNormal:
        return dd.MultivariateNormal(torch.zeros(2), scale_tril=tau[..., None] * chol)


class Squash(LearnableTransform):
    base = dd.AffineTransform
    loc = Param(0.0)
    scale = Param(0.5, Positive())  # tanh of more than 9 is 1 in float32


class Flow(Joint):
    mu = learnable(dd.Normal(0.0, 1.0))
    squash = Squash

    @site
    def y(self, mu: Tensor, squash: dd.Transform) -> dd.TransformedDistribution:
        return dd.TransformedDistribution(dd.Normal(mu, 1.0), [squash, dd.TanhTransform()])


class Counts(Joint):
    rate = dd.Gamma(2.0, 1.0)

    @site
    def k(self, rate: Tensor) -> dd.Poisson:
        return dd.Poisson(rate)


class Ends(Joint):
    low = dd.Normal(0.0, 1.0)
    span = dd.Gamma(2.0, 1.0)

    @site
    def u(self, low: Tensor, span: Tensor) -> dd.Uniform:
        return dd.Uniform(low, low + span)


ALL: dict[str, type[Joint]] = {
    kind.__name__: kind
    for kind in (
        Schools,
        Rich,
        Pair,
        Chain,
        ReadsSelf,
        Decoder,
        Topics,
        Correlated,
        Flow,
        Counts,
        Ends,
    )
}
PATHWISE = ("Schools", "Rich", "Pair", "Chain", "ReadsSelf", "Decoder", "Flow", "Ends")


@pytest.fixture(params=ALL)
def joint(request: pytest.FixtureRequest) -> Joint:
    made = ALL[request.param]()
    with torch.no_grad():  # no parameter where it started
        for parameter in made.parameters():
            parameter.add_(torch.linspace(0.1, 0.3, parameter.numel()).reshape(parameter.shape))
    return made


def at(x: dict[str, Tensor], *index: int) -> dict[str, Tensor]:
    return {name: value[index] for name, value in x.items()}


def refused(make: Callable[[], object], error: type[Exception] = ConstraintError) -> str:
    with pytest.raises(error) as caught:
        make()
    return first_line(caught.value)


# --- densities are sums ---------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (3, 3)])
def test_learned_constant_and_dependent_sites(shape: tuple[int, ...]) -> None:
    joint = Rich(scale=0.5)
    x = joint.sample(shape)
    assert joint.log_prob(x).shape == shape
    expected = rich_log_prob(x, 0.2, 1.5, 0.5)
    torch.testing.assert_close(joint.log_prob(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_of_draws_scores_as_each_alone(joint: Joint, count: int) -> None:
    x = joint.sample((count, 2))
    each = [[joint.log_prob(at(x, i, j)) for j in range(2)] for i in range(count)]
    expected = torch.stack([torch.stack(row) for row in each])
    torch.testing.assert_close(joint.log_prob(x), expected, rtol=1e-4, atol=1e-4)


def test_fields_from_self_are_those_of_now() -> None:
    joint = ReadsSelf(weight=3.0, shift=tensor(-1.0))
    x = joint.sample((5,))
    mu = dd.Normal(0.0, 1.0).log_prob(x["mu"])
    expected = mu + dd.Normal(x["mu"] - 1.0, 3.0).log_prob(x["y"])
    torch.testing.assert_close(joint.log_prob(x), expected)
    joint.weight = 0.5
    joint.shift = 2.0
    expected = mu + dd.Normal(x["mu"] + 2.0, 0.5).log_prob(x["y"])
    torch.testing.assert_close(joint.log_prob(x), expected)


# --- draws ----------------------------------------------------------------------------------


def test_draws_are_ancestral_and_in_order() -> None:
    schools = Schools()
    torch.manual_seed(3)
    x = schools.sample((8,))
    torch.manual_seed(3)
    mu = dd.Normal(0.0, 5.0).sample((8,))
    tau = dd.HalfCauchy(5.0).sample((8,))
    theta = dd.Normal(mu[:, None].expand(8, 8), tau[:, None]).sample()
    y = dd.Normal(theta, ERROR).sample()
    for name, value in {"mu": mu, "tau": tau, "theta": theta, "y": y}.items():
        torch.testing.assert_close(x[name], value)


def test_sites_that_ignore_others_are_drawn_for_every_sample() -> None:
    class Idle(Joint):
        mu = dd.Normal(0.0, 1.0)

        @site
        def noise(self) -> dd.Normal:
            return dd.Normal(1.0, 2.0)

        @site(event_dim=1)
        def vector(self, mu: Tensor) -> dd.Normal:
            return dd.Normal(torch.zeros(3), 1.0)

    for keywords in ({}, {"batch_shape": (2,)}):
        x = Idle(**keywords).sample((4000,))
        noise = x["noise"].flatten()
        assert noise.unique().numel() > 3900
        assert noise.mean().item() == pytest.approx(1.0, abs=0.15)
        assert noise.std().item() == pytest.approx(2.0, abs=0.15)
        assert x["vector"].std(0).min() > 0.9


def test_gradients_reach_nested_sites_through_dependent_ones() -> None:
    chain = Chain()
    torch.manual_seed(5)
    x = chain.rsample((3, 3))
    (x["step"].square() + x["start"]).sum().backward()

    raws = (chain.start.raw_loc, chain.start.raw_scale, chain.raw_rate)
    raw_loc, raw_scale, raw_rate = (p.detach().clone().requires_grad_() for p in raws)
    softplus = nn.functional.softplus
    torch.manual_seed(5)
    start = dd.Normal(raw_loc, softplus(raw_scale)).rsample((3, 3))
    step = dd.Normal(start.tanh(), softplus(raw_rate)).rsample()
    (step.square() + start).sum().backward()
    torch.testing.assert_close(x["step"], step)
    for raw, expected in zip(raws, (raw_loc, raw_scale, raw_rate), strict=True):
        torch.testing.assert_close(raw.grad, expected.grad)


@pytest.mark.parametrize("name", PATHWISE)
@pytest.mark.parametrize("shape", [(), (2, 8)])
def test_scored_draws(name: str, shape: tuple[int, ...]) -> None:
    joint = ALL[name](dtype=torch.float64)
    draws = (
        joint.rsample_and_log_prob,
        joint().rsample_and_log_prob,
        lambda shape: rsample_and_log_prob(joint, shape),
    )
    for draw in draws:
        x, log_prob = draw(shape)
        assert log_prob.shape == shape
        torch.testing.assert_close(log_prob, joint.log_prob(x), rtol=1e-5, atol=1e-5)


def test_scored_draws_at_the_edge_of_a_transform() -> None:
    class Saturated(Joint):
        mu = dd.Normal(50.0, 1.0)

        @site
        def y(self, mu: Tensor) -> dd.TransformedDistribution:
            return dd.TransformedDistribution(dd.Normal(mu, 1.0), dd.TanhTransform())

    x, log_prob = Saturated().rsample_and_log_prob((100,))
    assert x["y"].max() == 1.0
    assert log_prob.isfinite().all()


@pytest.mark.parametrize("draw", [
    lambda joint: joint.rsample(), lambda joint: joint().rsample((3,)),
    lambda joint: joint.rsample_and_log_prob((3,)),
    lambda joint: rsample_and_log_prob(joint, (3,)),
])  # fmt: skip
def test_no_reparametrised_sampler(draw: Callable[[Joint], object]) -> None:
    with pytest.raises(NotImplementedError, match=r"Counts\.k.*Poisson.*sample\(\)"):
        draw(Counts())


# --- the stream of random numbers -----------------------------------------------------------


QUIET = {
    "building": lambda joint: type(joint)(),
    "building copies": lambda joint: type(joint)(batch_shape=(3,)),
    "conditioning": lambda joint: joint.condition(),
    "supports": lambda joint: joint.condition().supports,
    "a snapshot": lambda joint: joint().has_rsample,
    "moving": lambda joint: joint.to(torch.float64),
}


@pytest.mark.parametrize("joint", ["Rich", "Flow", "Topics"], indirect=True)
@pytest.mark.parametrize("act", QUIET)
def test_random_numbers_are_left_as_they_were(joint: Joint, act: str) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    QUIET[act](joint)
    assert torch.equal(torch.rand(3), expected)


# --- independent copies ---------------------------------------------------------------------


LOC, SPREAD, WIDTH = tensor([-1.0, 0.5, 2.0]), tensor([0.5, 1.0, 3.0]), tensor([0.3, 1.0, 2.5])


def batched() -> Rich:
    return Rich(batch_shape=(3,), mu={"loc": LOC, "scale": SPREAD}, scale=WIDTH)


def test_a_site_given_per_copy() -> None:
    prior = dd.Normal(torch.arange(8.0), 1.0)
    joint = Schools(batch_shape=(8,), mu=prior)
    x = joint.sample((8,))
    expected = schools_log_prob(x) - dd.Normal(0.0, 5.0).log_prob(x["mu"])
    expected = expected + prior.log_prob(x["mu"])
    torch.testing.assert_close(joint.log_prob(x), expected, rtol=1e-4, atol=1e-3)


# --- shapes that lie ------------------------------------------------------------------------


def joint_with(method: Callable[..., Distribution], event_dim: int | None) -> type[Joint]:
    class Lie(Joint):
        mu = dd.Normal(0.0, 1.0)
        tau = dd.HalfNormal(1.0)
        beta = dd.Independent(dd.Normal(torch.zeros(3), 1.0), 1)
        one = dd.Independent(dd.Normal(torch.zeros(1), 1.0), 1)
        x = tensor([0.5, -1.0, 2.0])
        square = torch.arange(9.0).reshape(3, 3)
        tall = torch.arange(15.0).reshape(5, 3)
        y = site(event_dim=event_dim)(method)

    return Lie


LIES: dict[str, tuple[Callable[..., Distribution], int | None]] = {
    "an event without event_dim": (lambda self, mu: dd.Normal(mu[..., None] + torch.zeros(3), 1.0),
        None),
    "a larger event than event_dim": (
        lambda self, mu: dd.Normal(mu[..., None, None] + torch.zeros(2, 3), 1.0), 1),
    "an event from a constant alone": (lambda self, x: dd.Normal(x, 1.0), None),
    "an event of a vector": (lambda self, beta: dd.Normal(beta, 1.0), None),
    "no new axis": (lambda self, mu: dd.Normal(mu * torch.ones(3), 1.0), 1),
    "no new axis for a constant": (lambda self, mu, x: dd.Normal(mu * x, 1.0), 1),
    "no new axis for the scale": (
        lambda self, mu, tau: dd.Normal(mu[..., None].expand(*mu.shape, 3), tau), 1),
    "no new axis beside a vector": (lambda self, beta, tau: dd.Normal(beta, tau), 1),
    "a scalar plus a vector": (lambda self, mu, beta: dd.Normal(mu + beta, 1.0), 1),
    "a new axis in front": (lambda self, mu: dd.Normal(mu[None], 1.0), 1),
    "expanded in front": (lambda self, mu: dd.Normal(mu.expand(3, *mu.shape), 1.0), 1),
    "stacked in front": (lambda self, mu, tau: dd.Normal(torch.stack([mu, tau]), 1.0), 1),
    "joined in front": (lambda self, mu, tau: dd.Normal(torch.cat([mu[None], tau[None]]), 1.0), 1),
    "matrix on the left": (lambda self, beta, tall: dd.Normal(tall @ beta, 1.0), 1),
    "square matrix on the left": (lambda self, beta, square: dd.Normal(square @ beta, 1.0), 1),
    "dot": (lambda self, beta, x: dd.Normal(beta.dot(x), 1.0), None),
    "first entry in front": (lambda self, beta: dd.Normal(beta[0], 1.0), None),
    "sum in front": (lambda self, beta: dd.Normal(beta.sum(0), 1.0), None),
    "reshaped to the event": (lambda self, beta: dd.Normal(beta.reshape(3), 1.0), 1),
    "flattened": (lambda self, beta: dd.Normal(beta.flatten(), 1.0), 1),
    "unpacked in front": (lambda self, beta: dd.Normal(sum(beta), 1.0), None),
    "a matrix event without its own axes": (
        lambda self, mu: dd.MultivariateNormal(mu * torch.ones(2), torch.eye(2)), None),
    "no value kept of the wrong shape": (lambda self: dd.Normal(torch.zeros(3), 1.0), None),
}  # fmt: skip


FIXES = {
    "an event without event_dim": "@site(event_dim=1)",
    "a larger event than event_dim": "@site(event_dim=2)",
    "an event from a constant alone": "@site(event_dim=1)",
    "no new axis": "mu[..., None]",
    "no new axis for the scale": "mu[..., None]",
}
HONEST_COPIES = (
    "an event from a constant alone", "no value kept of the wrong shape",
    "square matrix on the left",
)  # fmt: skip
"""Three numbers may be one for each of three copies."""


@pytest.mark.parametrize(
    ("lie", "copies"),
    [(lie, ()) for lie in LIES] + [(lie, (3,)) for lie in LIES if lie not in HONEST_COPIES],
)
def test_wrong_broadcasting_is_refused(lie: str, copies: tuple[int, ...]) -> None:
    """Also with copies of the size of an event."""
    make = joint_with(*LIES[lie])
    with pytest.raises(ConstraintError, match=r"^Lie\.y") as caught:
        make(batch_shape=copies)
    assert caught.value.fix
    if not copies:
        assert FIXES.get(lie, "") in first_line(caught.value)


@pytest.mark.parametrize("plain", [True, False])
def test_nested_sites_with_an_event_too_many(plain: bool) -> None:
    given = dd.Normal(torch.zeros(3), 1.0)

    class Lie(Joint):
        mu = dd.Normal(0.0, 1.0)
        vector = given if plain else learnable(given)

    message = refused(Lie)
    assert message.startswith("Lie.vector: expected")
    assert "(3,)" in message
    assert "event_dim = 1" in message


HIDDEN = {
    "a sum over a constant": lambda x: lambda self, mu: dd.Normal((mu * x).sum(-1), 1.0),
    "a mixture": lambda x: (
        lambda self, mu: dd.MixtureSameFamily(
            dd.Categorical(torch.ones_like(x)), dd.Normal(mu * x, 1.0)
        )
    ),
    "logits": lambda x: lambda self, mu: dd.Categorical(logits=mu * x),
    "concentrations": lambda x: (
        lambda self, tau: dd.Normal(dd.Dirichlet(1.0 + tau * x.exp()).mean.sum(-1), 1.0)
    ),
    "a matrix product": lambda x: (
        lambda self, mu: dd.Normal(mu.expand(x.numel()) @ x if mu.ndim == 0 else mu @ x, 1.0)
    ),
}
"""Sites whose sizes nobody sees: at a sample of that size they broadcast without a word."""


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("kind", HIDDEN)
def test_sizes_that_no_draw_shows(kind: str, size: int) -> None:
    make = joint_with(HIDDEN[kind](torch.linspace(-1.0, 1.0, size)), None)
    assert refused(make).startswith("Lie.y")


HONEST: dict[str, tuple[Callable[..., Distribution], int | None]] = {
    "new axis": (lambda self, mu, x: dd.Normal(mu[..., None] * x, 1.0), 1),
    "two new axes": (
        lambda self, mu: dd.Normal(mu[..., None, None].expand(*mu.shape, 2, 3), 1),
        2,
    ),
    "matrix on the right": (lambda self, beta, tall: dd.Normal(beta @ tall.T, 1.0), 1),
    "last entry": (lambda self, beta: dd.Normal(beta[..., 0], 1.0), None),
    "running sum": (lambda self, beta: dd.Normal(beta.cumsum(-1), 1.0), 1),
    "softmax": (lambda self, beta: dd.Categorical(beta.softmax(-1)), None),
    "stacked behind": (lambda self, mu, tau: dd.Normal(torch.stack([mu, tau], -1), 1.0), 1),
    "one entry": (lambda self, one: dd.Normal(one.squeeze(-1), 1.0), None),
    "kept size one": (lambda self, one: dd.Normal(one, 1.0), 1),
    "from nothing": (lambda self: dd.Normal(0.0, 1.0), None),
    "an event from a constant": (lambda self, x: dd.Normal(x, 1.0), 1),
    "mixture": (
        lambda self, mu, x: dd.MixtureSameFamily(
            dd.Categorical(torch.ones(*mu.shape, 3)), dd.Normal(mu[..., None] * x, 1.0)
        ),
        None,
    ),
    "logits": (lambda self, mu, x: dd.Categorical(logits=mu[..., None] * x), None),
    "default argument": (lambda self, mu, scale=2.0: dd.Normal(mu, scale), None),
}


@pytest.mark.parametrize("keywords", [{}, {"batch_shape": (2, 3)}])
@pytest.mark.parametrize("kind", HONEST)
def test_right_broadcasting_is_taken(kind: str, keywords: dict[str, tuple[int, ...]]) -> None:
    joint = joint_with(*HONEST[kind])(**keywords)
    x = joint.sample((3,))
    log_prob = joint.log_prob(x)
    assert log_prob.shape == (3, *keywords.get("batch_shape", ()))
    each = torch.stack([joint.log_prob(at(x, i)) for i in range(3)])
    torch.testing.assert_close(log_prob, each, rtol=1e-4, atol=1e-4)


def test_a_site_put_in_later_obeys_the_rule_of_shapes() -> None:
    schools = Schools()
    x = schools.sample((3,))

    def put_in_and_use(use: Callable[[], object]) -> None:
        schools.mu = dd.Normal(torch.zeros(3), 5.0)
        use()

    for use in (
        lambda: schools.log_prob(x),
        lambda: schools.sample((3,)),
        lambda: schools.rsample_and_log_prob((3,)),
        lambda: schools.condition(y=EFFECT),
    ):
        message = refused(lambda use=use: put_in_and_use(use))
        assert message.startswith("Schools.mu")
        assert "event_dim" in message


def test_a_site_given_to_the_constructor_obeys_the_rule_of_shapes() -> None:
    message = refused(lambda: Schools(mu=dd.Normal(torch.zeros(8), 5.0)))
    assert message.startswith("Schools.mu")
    assert "event_dim" in message
    with pytest.raises(ConstraintError, match=r"Schools\.y"):
        Schools(error=torch.ones(5))


# --- draws that are legal only sometimes ----------------------------------------------------


class Crossing(Joint):
    low = dd.Normal(0.0, 1.0)
    high = dd.Normal(0.0, 1.0)

    @site
    def u(self, low: Tensor, high: Tensor) -> dd.Uniform:
        return dd.Uniform(low, high)


class Degrees(Joint):
    df = dd.Gamma(3.0, 1.0)

    @site
    def w(self, df: Tensor) -> dd.Wishart:
        return dd.Wishart(df, torch.eye(2).expand(*df.shape, 2, 2))


NORMAL = dd.Normal(0.0, 1.0)
SOMETIMES: dict[str, tuple[type[Joint], dict[str, Tensor], list[Distribution]]] = {
    "scales": (Scale, {"s": tensor(2.0), "x": tensor(1.0)}, [NORMAL, dd.Normal(0.0, 2.0)]),
    "ends": (Crossing, {"low": tensor(-1.0), "high": tensor(3.0), "u": tensor(2.0)},
        [NORMAL, NORMAL, dd.Uniform(-1.0, 3.0)]),
    "degrees of freedom": (Degrees, {"df": tensor(4.0), "w": 2.0 * torch.eye(2)},
        [dd.Gamma(3.0, 1.0), dd.Wishart(tensor(4.0), torch.eye(2))]),
}  # fmt: skip


@pytest.mark.parametrize("name", SOMETIMES)
@pytest.mark.filterwarnings("ignore:Singular sample:UserWarning")
@pytest.mark.filterwarnings("ignore:Low df values:UserWarning")
def test_sites_whose_draws_are_legal_only_sometimes(name: str) -> None:
    kind, x, parts = SOMETIMES[name]
    expected = sum(part.log_prob(value) for part, value in zip(parts, x.values(), strict=True))
    torch.testing.assert_close(kind().log_prob(x), expected)
    latent = next(iter(x))
    posterior = kind().condition(**{n: value for n, value in x.items() if n != latent})
    torch.testing.assert_close(posterior({latent: x[latent]}), expected)
    assert list(posterior.supports) == [latent]


def test_an_illegal_draw_does_not_hide_a_wrong_shape() -> None:
    class Lie(Scale):
        @site(event_dim=1)
        def y(self, s: Tensor) -> dd.Normal:
            return dd.Normal(s * torch.ones(3), 1.0)

    assert refused(Lie).startswith("Lie.y")


def test_a_draw_that_torch_cannot_make_names_the_site() -> None:
    def mixture(mu: Tensor) -> dd.MixtureSameFamily:
        weights = dd.Categorical(torch.ones(2))
        return dd.MixtureSameFamily(weights, dd.Normal(mu[..., None] + torch.zeros(2), 1.0))

    with pytest.raises(RuntimeError):  # torch itself does not draw from it
        mixture(torch.zeros(3)).sample()
    with pytest.raises((ConstraintError, FieldError), match=r"Returns\.y"):
        site_returning(mixture)()


# --- values that do not match ---------------------------------------------------------------


def test_missing_and_unknown_sites() -> None:
    schools = Schools()
    x = schools.sample((8,))
    for name in x:
        rest = {other: value for other, value in x.items() if other != name}
        message = refused(lambda rest=rest: schools.log_prob(rest))
        assert message.startswith(f"Schools.{name}: expected")
        assert "mu, tau, theta, y" in message
        assert name in message.rpartition("got")[2]


VALUES = Schools().sample((8,))
UPPER = {name: VALUES[name] for name in ("mu", "tau")}
POSTERIOR = Schools().condition(y=EFFECT)
NO_VALUES: list[tuple[Callable[[], object], str]] = [
    *((lambda value=value: Schools().log_prob(value), "^Schools: expected a dict")
      for value in (None, "mu", torch.zeros(8), [1.0], 3.0)),
    *((lambda value=value: Pair().log_prob({"a": 0.0, "b": value}), r"^Pair\.b")
      for value in (None, "one", [1.0], {"loc": 1.0})),
    (lambda: Schools().log_prob({**VALUES, "thta": VALUES["theta"]}),
     r"^Schools\.thta: expected.*Did you mean 'theta'\?"),
    (lambda: Schools().log_prob({**VALUES, "error": ERROR}), "error"),
    (lambda: Schools().log_prob({}), "none at all"),
    (lambda: Schools().log_prob({**VALUES, 3: ERROR}), ""),
    (lambda: POSTERIOR(VALUES), r"Schools\.y"),
    (lambda: POSTERIOR(UPPER), r"Schools\.theta"),
    (lambda: POSTERIOR({**UPPER, "theta": VALUES["theta"][0]}), r"Schools\.theta"),
]  # fmt: skip


@pytest.mark.parametrize(("score", "said"), NO_VALUES)
def test_values_that_do_not_match(score: Callable[[], object], said: str) -> None:
    assert re.search(said, refused(score))


WRONG_SHAPES: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "one draw for many": ("theta", lambda theta: theta[0]),
    "one draw for many scalars": ("tau", lambda tau: tau[0]),
    "a sample of one": ("tau", lambda tau: tau[:1]),
    "another sample": ("tau", lambda tau: tau[:5]),
    "an axis behind": ("tau", lambda tau: tau[:, None]),
    "an axis in front": ("tau", lambda tau: tau[None]),
    "a smaller event": ("theta", lambda theta: theta[:, :7]),
    "an event of one": ("theta", lambda theta: theta[:, :1]),
    "no event": ("theta", lambda theta: theta[:, 0]),
    "an event too many": ("y", lambda y: y[..., None]),
    "a sample too many": ("y", lambda y: y[None]),
    "flattened": ("y", lambda y: y.flatten()),
}


@pytest.mark.parametrize("keywords", [{}, {"batch_shape": (8,)}])
@pytest.mark.parametrize("kind", WRONG_SHAPES)
def test_shapes_that_would_broadcast(kind: str, keywords: dict[str, tuple[int, ...]]) -> None:
    name, wrong = WRONG_SHAPES[kind]
    schools = Schools(**keywords)
    x = schools.sample((8,))
    with pytest.raises(ConstraintError, match=rf"^Schools\.{name}: ") as caught:
        schools.log_prob({**x, name: wrong(x[name])})
    assert caught.value.fix
    if wrong(x[name]).ndim:
        assert str(tuple(wrong(x[name]).shape)) in str(caught.value)


def test_samples_that_would_broadcast_among_sites() -> None:
    wrong = {"a": torch.zeros(3, 1), "b": torch.ones(1, 3)}
    assert refused(lambda: Pair().log_prob(wrong)).startswith("Pair.b")
    wrong = {"a": torch.zeros(1), "b": torch.ones(3)}
    assert refused(lambda: Pair().log_prob(wrong)).startswith("Pair.b")
    # Without the axis of the copies.
    joint = Pair(batch_shape=(3,))
    for missing in ({"a": torch.zeros(()), "b": torch.ones(())}, {"a": 0.0, "b": 1.0}):
        assert refused(lambda missing=missing: joint.log_prob(missing)).startswith("Pair.a")
    assert refused(lambda: joint.log_prob({"a": torch.zeros(1), "b": torch.ones(1)}))
    assert refused(lambda: joint.log_prob({"a": torch.zeros(2, 1), "b": torch.ones(2, 1)}))


# --- what a site may return -----------------------------------------------------------------


def site_returning(make: Callable[[Tensor], object], event_dim: int | None = None) -> type[Joint]:
    class Returns(Joint):
        mu = dd.Normal(0.0, 1.0)
        y = site(event_dim=event_dim)(lambda self, mu: make(mu))

    return Returns


RETURNS: dict[str, tuple[Callable[[Tensor], object], Callable[[Tensor, Tensor], Tensor]]] = {
    "live": (lambda mu: learnable(dd.Normal(mu, 2.0)),
        lambda mu, y: dd.Normal(mu, 2.0).log_prob(y)),
    "Independent": (
        lambda mu: dd.Independent(dd.Normal(mu[..., None].expand(*mu.shape, 3), 1.0), 1),
        lambda mu, y: dd.Normal(mu[..., None], 1.0).log_prob(y).sum(-1),
    ),
    "TransformedDistribution": (
        lambda mu: dd.TransformedDistribution(dd.Normal(mu, 1.0), dd.ExpTransform()),
        lambda mu, y: dd.LogNormal(mu, 1.0).log_prob(y),
    ),
    "mixture": (
        lambda mu: dd.MixtureSameFamily(
            dd.Categorical(tensor([0.25, 0.75]).expand(*mu.shape, 2)),
            dd.Normal(mu[..., None] + tensor([-1.0, 1.0]), 0.5),
        ),
        lambda mu, y: (
            tensor([0.25, 0.75]).log()
            + dd.Normal(mu[..., None] + tensor([-1.0, 1.0]), 0.5).log_prob(y[..., None])
        ).logsumexp(-1),
    ),
    "a batch of one": (lambda mu: dd.Normal(torch.zeros(1) if mu.ndim else torch.zeros(()), 1.0),
        lambda mu, y: dd.Normal(0.0, 1.0).log_prob(y)),
}  # fmt: skip


@pytest.mark.parametrize("kind", RETURNS)
@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_what_a_site_may_return(kind: str, shape: tuple[int, ...]) -> None:
    make, log_prob = RETURNS[kind]
    joint = site_returning(make)()
    x = joint.sample(shape)
    expected = dd.Normal(0.0, 1.0).log_prob(x["mu"]) + log_prob(x["mu"], x["y"])
    torch.testing.assert_close(joint.log_prob(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("garbage", [
    None, dd.Normal, 1.0, "Normal", torch.zeros(3), (dd.Normal(0.0, 1.0),), nn.Linear(1, 1),
], ids=repr)  # fmt: skip
def test_garbage_from_a_site(garbage: object) -> None:
    with pytest.raises((FieldError, ConstraintError), match=r"^Returns\.y: ") as caught:
        site_returning(lambda mu: garbage)()
    message = str(caught.value)
    assert message.startswith("Returns.y: expected a torch distribution")
    assert "mu[..., None]" not in message  # which is about something else


def test_an_attribute_that_is_not_there() -> None:
    misspelt = declared(mu=normal(), y=site(lambda self, mu: dd.Normal(mu, self.nonsense)))
    with pytest.raises((FieldError, ConstraintError), match=r"Bad\.y.*nonsense") as caught:
        misspelt()
    assert "mu[..., None]" not in str(caught.value)


def test_event_dim_that_does_not_fit() -> None:
    low = site_returning(lambda mu: dd.MultivariateNormal(torch.zeros(2), torch.eye(2)), 0)
    assert re.search(r"^Returns\.y.*1", refused(low))
    high = site_returning(lambda mu: dd.Normal(mu, 1.0), 1)
    assert refused(high).startswith("Returns.y")


# --- declarations that mean nothing ---------------------------------------------------------


def declared(**body: object) -> type[Joint]:
    return type(Joint)("Bad", (Joint,), dict(body))


def normal() -> dd.Normal:
    return dd.Normal(0.0, 1.0)


def needs_a(self: Joint, a: Tensor) -> dd.Normal:
    return dd.Normal(a, 1.0)


def test_arguments_of_the_decorator() -> None:
    for event_dim in (-1, 1.0, True, "1", (3,)):
        message = refused(lambda event_dim=event_dim: site(event_dim=event_dim), DeclarationError)
        assert message.startswith("site(event_dim=)")
    for function in (1, dd.Normal(0.0, 1.0), "theta"):
        assert refused(lambda function=function: site(function), DeclarationError)


def needs_b(self: Joint, b: Tensor) -> dd.Normal:
    return dd.Normal(b, 1.0)


def normals(self: Joint) -> dd.Normal:
    return normal()


LATER = r"^Bad\.a: expected.*'b'.*Move b above a"
BODIES: dict[str, tuple[Callable[[], object], str]] = {
    "a later site": (lambda: declared(a=site(needs_b), b=normal()), LATER),
    "a later method": (lambda: declared(a=site(needs_b), b=site(normals)), LATER),
    "a later class": (lambda: declared(a=site(needs_b), b=learnable(dd.Normal)), LATER),
    "an unknown name": (
        lambda: declared(bb=normal(), y=site(needs_b)),
        r"^Bad\.y: expected.*'b'.*Did you mean 'bb'\?",
    ),
    "a derived value of a draw": (
        lambda: declared(a=normal(), b=site(needs_a), width=derived(lambda self, b: b)),
        r"^Bad\.width",
    ),
    "a bound by a draw": (
        lambda: declared(a=normal(), b=site(needs_a), high=Param(1.0, GreaterThan("b"))),
        r"^Bad\.high",
    ),
    "a joint": (lambda: declared(inner=Pair(), x=normal()), r"^Bad\.inner"),
    "a class of joints": (lambda: declared(inner=Pair, x=normal()), r"^Bad\.inner"),
    "a joint for a site": (lambda: Schools(mu=Pair()), r"^Schools\.mu.*Variational"),
    "a joint that is assigned": (lambda: setattr(Schools(), "mu", Pair()), r"Schools\.mu"),
    "a base": (lambda: declared(base=dd.Normal, x=normal()), r"Bad\.base"),
    # It has no arguments: to drop it in silence would change the model.
    "a plain class": (lambda: declared(a=dd.Normal, b=normal())(), r"^Bad\.a"),
    "no sites": (declared(), "sites"),
    "a parameter alone": (declared(scale=Param(1.0)), "sites"),
    "a joint itself": (Joint, "sites"),
    **{
        f"arguments, {index}": (lambda method=method: site(method), "self, then values by name")
        for index, method in enumerate((
            lambda: None, lambda a: None, lambda self, *a: None, lambda self, **a: None,
            lambda self, a, /: None,
        ))
    },
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_declarations_that_mean_nothing(name: str) -> None:
    make, said = BODIES[name]
    assert re.search(said, refused(make, DeclarationError))


def test_a_bound_cannot_be_a_distribution() -> None:
    with pytest.raises((DeclarationError, ConstraintError), match=r"Bad\.high"):
        declared(a=normal(), high=Param(1.0, GreaterThan("a")))()


@pytest.mark.parametrize("name", ["sample", "condition", "forward", "assign", "batch_shape"])
def test_reserved_names(name: str) -> None:
    for field in (normal(), site(normals)):
        message = refused(lambda field=field: declared(**{name: field}), DeclarationError)
        assert message.startswith(f"Bad.{name}")


def test_sites_outside_a_joint() -> None:
    normal = {"base": dd.Normal, "loc": Param(0.0), "scale": Param(1.0)}
    for kind, body in ((Declarative, {}), (Variational, normal)):
        with pytest.raises(DeclarationError, match=r"Outside\.x.*Joint"):
            type(kind)("Outside", (kind,), {**body, "x": site(normals)})


def test_two_sites_of_one_name() -> None:
    with pytest.raises(DeclarationError, match=r"Twice\.mu"):

        class Twice(Joint):
            mu = dd.Normal(0.0, 1.0)

            @site
            def mu(self) -> dd.Normal:  # noqa: F811
                return dd.Normal(0.0, 1.0)


# --- fields, inheritance, assignment --------------------------------------------------------


def test_fields() -> None:
    assert list(fields_of(Schools)) == ["error", "mu", "tau", "theta", "y"]
    assert list(fields_of(Schools())) == list(fields_of(Schools))
    assert Schools.theta is fields_of(Schools)["theta"]
    made = Schools().theta(tensor(1.0), tensor(2.0))
    torch.testing.assert_close(made.mean, torch.ones(8))


class Tight(Schools):
    tau = dd.HalfNormal(1.0)

    @site(event_dim=1)
    def y(self, theta: Tensor, error: Tensor) -> dd.Laplace:
        return dd.Laplace(theta, error)

    @site
    def total(self, y: Tensor) -> dd.Normal:
        return dd.Normal(y.sum(-1), 1.0)


def test_sites_are_inherited_overridden_and_added() -> None:
    assert list(fields_of(Tight)) == ["error", "mu", "tau", "theta", "y", "total"]
    x = Tight().sample((8,))
    expected = (
        dd.Normal(0.0, 5.0).log_prob(x["mu"])
        + dd.HalfNormal(1.0).log_prob(x["tau"])
        + dd.Normal(x["mu"][:, None], x["tau"][:, None]).log_prob(x["theta"]).sum(-1)
        + dd.Laplace(x["theta"], ERROR).log_prob(x["y"]).sum(-1)
        + dd.Normal(x["y"].sum(-1), 1.0).log_prob(x["total"])
    )
    torch.testing.assert_close(Tight().log_prob(x), expected, rtol=1e-4, atol=1e-3)
    y = Schools().sample((8,))  # the parent stays as it was
    torch.testing.assert_close(Schools().log_prob(y), schools_log_prob(y), rtol=1e-4, atol=1e-3)


def test_a_dependent_site_replaced_by_a_plain_one_and_back() -> None:
    class Plain(Chain):
        step = dd.Laplace(0.0, 1.0)

    class Back(Plain):
        @site
        def step(self, start: Tensor) -> dd.Normal:
            return dd.Normal(start, 3.0)

    x = Plain().sample((3,))
    start = dd.Normal(0.5, 2.0).log_prob(x["start"])
    expected = start + dd.Laplace(0.0, 1.0).log_prob(x["step"])
    torch.testing.assert_close(Plain().log_prob(x), expected)
    expected = start + dd.Normal(x["start"], 3.0).log_prob(x["step"])
    torch.testing.assert_close(Back().log_prob(x), expected)


def test_a_site_removed() -> None:
    class Alone(Chain):
        step = None

    assert list(Alone().sample()) == ["start"]
    with pytest.raises(DeclarationError, match="'start'"):

        class Headless(Chain):
            start = None


def test_a_site_moved_behind_what_the_child_needs() -> None:
    with pytest.raises(DeclarationError, match=r"Later\.start.*Move origin above start"):

        class Later(Chain):
            @site
            def start(self, origin: Tensor) -> dd.Normal:
                return dd.Normal(origin, 1.0)

            origin = dd.Normal(0.0, 1.0)


def test_another_distribution_from_the_constructor() -> None:
    x = Schools().sample((8,))
    rest = schools_log_prob(x) - dd.Normal(0.0, 5.0).log_prob(x["mu"])
    for given, expected in (
        (dd.StudentT(3.0, 1.0, 2.0), dd.StudentT(3.0, 1.0, 2.0)),
        (learnable(dd.Normal(1.0, 2.0)), dd.Normal(1.0, 2.0)),
        ({"loc": 1.0}, dd.Normal(1.0, 5.0)),
    ):
        value = Schools(mu=given).log_prob(x)
        torch.testing.assert_close(value, rest + expected.log_prob(x["mu"]), rtol=1e-4, atol=1e-3)
    assert list(Schools(mu=learnable(dd.Normal)).parameters())


@pytest.mark.parametrize(("keywords", "error", "said"), [
    ({"theta": torch.zeros(8)}, FieldError, r"^Schools\.theta.*condition\(theta=\.\.\.\)"),
    ({"mu": 1.0}, DeclarationError, r"^Schools\.mu: expected a distribution"),
    ({"mu": {"lok": 1.0}}, DeclarationError, r"Did you mean 'loc'\?"),
    ({"sigma": 1.0}, DeclarationError, "'sigma'"),
    ({"tau": nn.Linear(1, 1)}, (DeclarationError, FieldError), r"Schools\.tau.*a distribution"),
])  # fmt: skip
def test_keywords_of_the_constructor(keywords: dict[str, object], error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        Schools(**keywords)


def test_assignment_to_sites() -> None:
    schools = Schools()
    message = refused(lambda: setattr(schools, "theta", torch.zeros(8)), FieldError)
    assert message.startswith("Schools.theta")
    assert "condition(theta=...)" in message
    assert refused(lambda: schools.assign(y=dd.Normal(0.0, 1.0)), FieldError)
    with pytest.raises(DeclarationError, match=r"Schools\.mu"):
        schools.mu = 3.0
    x = schools.sample((8,))
    schools.mu = {"loc": 3.0}
    change = dd.Normal(3.0, 5.0).log_prob(x["mu"]) - dd.Normal(0.0, 5.0).log_prob(x["mu"])
    expected = schools_log_prob(x) + change
    torch.testing.assert_close(schools.log_prob(x), expected, rtol=1e-4, atol=1e-3)
    schools.mu = dd.Laplace(0.0, 1.0)
    assert isinstance(schools.mu(), dd.Laplace)
    schools.assign(**{"tau.scale": 2.0})
    assert schools.tau().scale.item() == 2.0


def test_one_module_under_two_names() -> None:
    class Tied(Joint):
        a = learnable(dd.Normal(0.0, 1.0))
        b = a

    tied = Tied()
    assert tied.a is tied.b
    assert len(list(tied.parameters())) == 2
    x = tied.sample((3,))
    tied.log_prob(x).sum().backward()
    assert tied.a.raw_loc.grad.item() == pytest.approx((x["a"] + x["b"]).sum().item(), abs=1e-4)
    assert not torch.equal(x["a"], x["b"])


# --- a module's life ------------------------------------------------------------------------


@pytest.mark.parametrize("joint", ["Rich", "Decoder", "Correlated", "Ends"], indirect=True)
def test_every_promise(joint: Joint) -> None:
    skip = [] if list(joint.parameters()) else ["parameters"]
    in_float32 = ["dtype"] if isinstance(joint, Correlated) else []  # its method makes a matrix
    check_distribution(joint, skip=skip + in_float32)


class ReadsMap(Joint):
    """A site that reads a number as it is, one by a map, and a constant."""

    mu = dd.Normal(0.0, 1.0)
    shift = Param(0.0)
    spread = Param(1.0, Exp())
    unit = torch.tensor(2.0)

    @site
    def y(self, mu: Tensor) -> dd.Normal:
        return dd.Normal(mu + self.shift, self.spread * self.unit)


@pytest.mark.parametrize("change", ["step", "assign", "load"])
@pytest.mark.parametrize("kind", [Chain, ReadsMap])
def test_a_snapshot_is_frozen(kind: type[Joint], change: str) -> None:
    joint = kind()
    snapshot, x = joint(), joint.sample((3,))
    before = snapshot.log_prob(x)
    before.sum().backward()
    assert all(parameter.grad is not None for parameter in joint.parameters())
    if change == "step":
        torch.optim.SGD(joint.parameters(), lr=0.1).step()
    elif change == "assign":
        joint.assign(**({"rate": 7.0} if kind is Chain else {"shift": 3.0, "unit": 5.0}))
    else:
        joint.load_state_dict({name: t + 0.5 for name, t in joint.state_dict().items()})
    torch.testing.assert_close(snapshot.log_prob(x), before)
    assert not torch.allclose(joint.log_prob(x), before)


# --- compilation ----------------------------------------------------------------------------


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_scored_draws() -> None:
    joint = ALL["Flow"]()

    def draw() -> tuple[dict[str, Tensor], Tensor]:
        return joint.rsample_and_log_prob((4,))

    compiled = torch.compile(draw, fullgraph=True, backend="aot_eager")
    torch.manual_seed(4)
    x, log_prob = compiled()
    torch.manual_seed(4)
    expected, expected_log_prob = draw()
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(log_prob, expected_log_prob, rtol=1e-4, atol=1e-3)
    parameters = list(joint.parameters())
    mine = torch.autograd.grad(log_prob.sum(), parameters)
    theirs = torch.autograd.grad(expected_log_prob.sum(), parameters)
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


# --- conditioning ---------------------------------------------------------------------------


ONES = (1, 1.0, np.float64(1.0), np.int64(1), np.array(1.0), tensor(1))
EFFECTS = (EFFECT, tuple(EFFECT), np.array(EFFECT), np.float32(EFFECT), tensor(EFFECT))


@pytest.mark.parametrize("shape", [(), (8, 8)])
@pytest.mark.parametrize(
    ("name", "data"), [("mu", data) for data in ONES] + [("y", data) for data in EFFECTS]
)
def test_data_in_many_guises(name: str, data: object, shape: tuple[int, ...]) -> None:
    x = Schools().sample(shape)
    value = Schools().condition(**{name: data})({n: v for n, v in x.items() if n != name})
    assert value.shape == shape
    assert value.dtype == torch.float32
    held = torch.as_tensor(data, dtype=torch.float32)
    expected = schools_log_prob({**x, name: held.expand((*shape, *held.shape))})
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("held", [
    (), ("mu",), ("tau", "y"), ("mu", "theta"), ("mu", "tau"), ("theta",),
    ("mu", "tau", "theta", "y"),
])  # fmt: skip
@pytest.mark.parametrize("shape", [(), (8, 2)])
def test_conditioning_on_any_sites(held: tuple[str, ...], shape: tuple[int, ...]) -> None:
    data = {name: value for name, value in Schools().sample().items() if name in held}
    shape = shape if len(held) < 4 else ()
    x = Schools().sample(shape)
    rest = {name: value for name, value in x.items() if name not in held}
    value = Schools().condition(**data)(rest)
    full = {**rest, **{name: v.expand((*shape, *v.shape)) for name, v in data.items()}}
    assert value.shape == shape
    torch.testing.assert_close(value, schools_log_prob(full), rtol=1e-4, atol=1e-3)


def test_conditioning_on_all_sites_of_copies() -> None:
    assert Schools().condition(**Schools().sample()).supports == {}
    copies = Pair(batch_shape=(3,)).condition(a=0.5, b=[1.0, 2.0, 3.0])
    expected = dd.Normal(0.0, 1.0).log_prob(tensor(0.5)) + dd.Gamma(2.0, 3.0).log_prob(
        tensor([1.0, 2.0, 3.0])
    )
    torch.testing.assert_close(copies({}), expected)
    torch.testing.assert_close(Pair().log_prob({"a": 0.5, "b": 2}), expected[1])


def test_discrete_data() -> None:
    topics = Topics()
    share, x = topics.sample((3,))["share"], torch.randn(3)
    for data in (2, tensor(2), np.int64(2)):
        value = topics.condition(z=data)({"share": share, "x": x})
        expected = topics.log_prob({"share": share, "z": torch.full((3,), 2), "x": x})
        torch.testing.assert_close(value, expected)
    value = Counts().condition(k=3)({"rate": tensor([1.0, 2.0])})
    expected = dd.Gamma(2.0, 1.0).log_prob(tensor([1.0, 2.0])) + tensor(
        scipy.stats.poisson.logpmf(3, [1.0, 2.0]), dtype=torch.float32
    )
    torch.testing.assert_close(value, expected)


def test_data_for_copies() -> None:
    joint = batched()
    x = joint.sample((3,))
    shared, own = torch.randn(3), torch.randn(3, 3)
    per_copy = torch.randn(3)
    for data in (shared, own):
        posterior = joint.condition(y=data, total=per_copy)
        rest = {name: x[name] for name in ("mu", "beta", "tau", "theta")}
        value = posterior(rest)
        assert value.shape == (3, 3)
        for i in range(3):
            full = {name: v[:, i] for name, v in rest.items()}
            y = data if data.ndim == 1 else data[i]
            full |= {"y": y.expand(3, 3), "total": per_copy[i].expand(3)}
            expected = rich_log_prob(full, LOC[i], SPREAD[i], WIDTH[i])
            torch.testing.assert_close(value[:, i], expected, rtol=1e-4, atol=1e-4)


def test_data_that_does_not_fit() -> None:
    schools = Schools()
    for data in (1.0, EFFECT[:7], [EFFECT], [[y] for y in EFFECT], torch.zeros(8, 8)):
        message = refused(lambda data=data: schools.condition(y=data))
        assert message.startswith("Schools.condition(y=): expected shape")
        assert "(8,)" in message
    for data in (None, "y", dd.Normal(0.0, 1.0), [[1.0], [1.0, 2.0]], [None], np.array(["a"])):
        message = refused(lambda data=data: schools.condition(mu=data))
        assert message.startswith("Schools.condition(mu=)")
    message = refused(lambda: schools.condition(teta=EFFECT))
    assert "Did you mean 'theta'?" in message
    assert "'error'" in refused(lambda: schools.condition(error=EFFECT))
    for wrong in ([1.0, 2.0], torch.zeros(2, 3), torch.zeros(3, 1)):
        assert refused(lambda wrong=wrong: Pair(batch_shape=(3,)).condition(a=wrong))


def test_a_condition_is_a_module() -> None:
    joint = Rich()
    data = torch.randn(3)
    posterior = joint.condition(y=data, tau=1.0)
    assert posterior.joint is joint
    assert set(posterior.observed) == {"y", "tau"}
    assert {id(p) for p in posterior.parameters()} == {id(p) for p in joint.parameters()}
    assert set(posterior.state_dict()) == {f"joint.{key}" for key in joint.state_dict()}
    x = joint.sample((3,))
    rest = {name: x[name] for name in ("mu", "beta", "theta", "total")}
    value = posterior(rest)
    value.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in joint.parameters())
    twin = copy.deepcopy(posterior)
    torch.testing.assert_close(twin(rest), value)
    assert twin.joint is not joint
    torch.testing.assert_close(pickle.loads(pickle.dumps(posterior))(rest), value)
    joint.scale = 0.5  # the joint is held, not copied
    assert not torch.allclose(posterior(rest), value)
    torch.testing.assert_close(twin(rest), value)
    posterior.double()
    assert posterior.observed["y"].dtype == torch.float64
    double = posterior({name: v.double() for name, v in rest.items()})
    assert double.dtype == torch.float64
    posterior.to("meta")
    assert all(t.is_meta for t in (*posterior.parameters(), *posterior.buffers()))
    assert "y" in repr(twin)


def test_data_of_a_joint_without_values_wait_for_them() -> None:
    class Rates(Joint):
        rate = dd.Gamma(torch.tensor(2.0), torch.tensor(1.0))
        gap = learnable(dd.Exponential(torch.tensor(3.0)))

    posterior = Rates(device="meta").condition(gap=0.5)
    assert posterior.observed["gap"].is_meta
    posterior.to_empty(device="cpu").joint.reset_parameters()
    assert posterior.observed["gap"] == 0.5
    values = {"rate": torch.tensor(1.5)}
    torch.testing.assert_close(posterior(values), Rates().condition(gap=0.5)(values))

    class Late(Joint):
        rate = dd.Gamma(torch.tensor(2.0), torch.tensor(1.0))

        @site
        def gap(self, rate: Tensor) -> dd.Distribution:
            return dd.Exponential(rate)

    with pytest.raises(ConstraintError, match=r"Late\.gap: expected .* meta device .* to_empty"):
        Late(device="meta").condition(gap=0.5)


@pytest.mark.parametrize("is_alone", [False, True])
@pytest.mark.parametrize("make", [float, np.float64, np.array])
def test_data_keep_their_digits_through_a_move(make: Any, is_alone: bool) -> None:
    class Times(Joint):
        gap = dd.Normal(torch.tensor(0.0), 1.0)
        exact = dd.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
        label = dd.Categorical(logits=torch.zeros(3))

    for number in (0.1, 1609459230.123):
        posterior = Times().condition(gap=make(number), exact=make(number), label=2)
        assert posterior.observed["gap"].dtype == torch.float32
        assert posterior.observed["exact"].item() == number
        (posterior.joint if is_alone else posterior).double()
        assert posterior.observed["gap"].item() == number
        assert posterior.observed["label"].dtype == torch.int64
    if is_alone:  # then its data follow at the next call
        posterior.joint.half()
    with pytest.raises(ConstraintError, match=r"Times\.condition\(gap=\): expected .*float16"):
        posterior({}) if is_alone else posterior.half()
    assert is_alone or posterior.observed["gap"].item() == number
    assert is_alone or posterior.joint().sites["gap"].loc.dtype == torch.float64


@pytest.mark.parametrize("name", ["hold", "given", "data", "joint"])
def test_a_site_may_have_any_free_name(name: str) -> None:
    made = type(Joint)("Made", (Joint,), {name: dd.Normal(0.0, 1.0), "other": dd.Normal(0.0, 1.0)})
    posterior = made().condition(**{name: 0.5}).double()
    assert posterior.observed == {name: 0.5}
    score = dd.Normal(0.0, 1.0).log_prob(torch.tensor([0.5, 0.0])).sum().double()
    torch.testing.assert_close(posterior({"other": 0.0}), score, atol=1e-6, rtol=0.0)


def test_an_ensemble_of_posteriors_has_data_of_its_own() -> None:
    class Mean(Joint):
        mu = learnable(dd.Normal(0.0, 1.0))

        @site
        def y(self, mu: Tensor) -> dd.Normal:
            return dd.Normal(mu, 1.0)

    models = [Mean().condition(y=y) for y in (0.0, 5.0)]
    state = torch.func.stack_module_state(models)
    empty, values = copy.deepcopy(models[0]).to("meta"), {"mu": tensor(0.5)}
    found = torch.vmap(lambda *s: torch.func.functional_call(empty, s, (values,)))(*state)
    normal = dd.Normal(0.0, 1.0)
    expected = normal.log_prob(tensor(0.5)) + normal.log_prob(tensor([-0.5, 4.5]))
    torch.testing.assert_close(found, expected)


def test_data_is_copied() -> None:
    given, array = torch.ones(3), np.ones(3, dtype=np.float32)
    by_tensor, by_array = Rich().condition(y=given), Rich().condition(y=array)
    given.fill_(9.0)
    array.fill(9.0)
    assert by_tensor.observed["y"].tolist() == [1.0, 1.0, 1.0]
    assert by_array.observed["y"].tolist() == [1.0, 1.0, 1.0]


def test_supports() -> None:
    supports = Schools().condition(y=EFFECT).supports
    assert list(supports) == ["mu", "tau", "theta"]
    assert supports["mu"] == constraints.real
    assert supports["tau"].check(tensor([0.5, -0.5])).tolist() == [True, False]
    assert supports["theta"].event_dim == 1
    assert supports["theta"].check(torch.zeros(3, 8)).shape == (3,)
    assert list(Schools().condition().supports) == ["mu", "tau", "theta", "y"]
    supports = Topics().condition(x=0.0).supports
    assert supports["share"] == constraints.simplex
    assert supports["share"].event_dim == 1
    assert supports["z"].is_discrete
    supports = Correlated().condition().supports
    assert supports["chol"].event_dim == 2
    assert supports["tau"].event_dim == 1


@pytest.mark.parametrize("shape", [{}, {"batch_shape": (3,)}])
def test_supports_that_depend_on_data(shape: dict[str, tuple[int, ...]]) -> None:
    support = Ends(**shape).condition(low=7.0, span=2.0).supports["u"]
    inside = support.check(torch.full(shape.get("batch_shape", ()), 8.0))
    outside = support.check(torch.full(shape.get("batch_shape", ()), 6.5))
    assert inside.all()
    assert not outside.any()
    assert (support.lower_bound == 7.0).all()
    assert (support.upper_bound == 9.0).all()


# --- divergence and entropy -----------------------------------------------------------------


class Learned(Joint):
    a = learnable(dd.Normal(0.5, 2.0))
    b = learnable(dd.Gamma(3.0, 1.0))


class Vectors(Joint):
    v = dd.Independent(dd.Normal(torch.zeros(3), tensor([1.0, 2.0, 3.0])), 1)
    m = dd.MultivariateNormal(torch.zeros(2), torch.eye(2))


def test_divergence_is_the_sum_over_sites() -> None:
    p, q = Learned(), Pair()
    expected = dd.kl_divergence(dd.Normal(0.5, 2.0), dd.Normal(0.0, 1.0)) + dd.kl_divergence(
        dd.Gamma(3.0, 1.0), dd.Gamma(2.0, 3.0)
    )
    for left in (p, p()):
        for right in (q, q()):
            torch.testing.assert_close(kl_divergence(left, right), expected)
    value = kl_divergence(p, q)
    assert value.shape == ()
    value.backward()
    assert p.a.raw_loc.grad.item() == pytest.approx(0.5)


def test_divergence_of_vectors_and_copies() -> None:
    class Others(Joint):
        m = dd.MultivariateNormal(torch.ones(2), 2 * torch.eye(2))
        v = dd.Independent(dd.Normal(torch.ones(3), 1.0), 1)

    one, two = Vectors(), Others()
    expected = sum(dd.kl_divergence(getattr(one, n)(), getattr(two, n)()) for n in ("v", "m"))
    for left, right in itertools.product(((), (3,)), repeat=2):
        value = kl_divergence(Vectors(batch_shape=left), Others(batch_shape=right))
        torch.testing.assert_close(value, expected.expand(max(left, right)))
    loc = tensor([0.0, 1.0, 2.0])
    value = kl_divergence(Learned(batch_shape=(3,), a={"loc": loc}), Pair())
    expected = dd.kl_divergence(dd.Normal(loc, 2.0), dd.Normal(0.0, 1.0))
    expected = expected + dd.kl_divergence(dd.Gamma(3.0, 1.0), dd.Gamma(2.0, 3.0))
    torch.testing.assert_close(value, expected)


def test_divergence_of_events_of_other_sizes() -> None:
    """Torch's formula broadcasts them."""

    class One(Joint):
        v = dd.Independent(dd.Normal(torch.zeros(1), 1.0), 1)
        m = dd.MultivariateNormal(torch.zeros(2), torch.eye(2))

    with pytest.raises(ValueError, match="v"):
        kl_divergence(Vectors(), One())


def test_no_exact_divergence() -> None:
    class Unknown(Joint):
        a = dd.Laplace(0.0, 1.0)
        b = dd.StudentT(3.0)

    class Known(Joint):
        a = dd.Laplace(0.0, 2.0)
        b = dd.Normal(0.0, 1.0)

    class Loose(Schools):
        mu = dd.Normal(0.0, 10.0)

    for p, q, said in (
        (Schools(), Schools(), "Schools"), (Chain(), Chain(), "Chain"),
        (Unknown(), Known(), ""), (Schools(), Loose(), "Schools.*Loose"),
    ):  # fmt: skip
        with pytest.raises(NotImplementedError, match=f"{said}.*num_samples="):
            kl_divergence(p, q)


def test_estimated_divergence_of_dependent_sites() -> None:
    """Linear and Gaussian, so that the closed form is that of a multivariate normal."""

    class Walk(Joint):
        first = dd.Normal(0.0, 1.0)
        drift = Param(0.5)

        @site
        def second(self, first: Tensor, drift: Tensor) -> dd.Normal:
            return dd.Normal(first + drift, 1.0)

    def closed(drift: float) -> dd.MultivariateNormal:
        covariance = tensor([[1.0, 1.0], [1.0, 2.0]])
        return dd.MultivariateNormal(tensor([0.0, drift]), covariance)

    p, q = Walk(), Walk(drift=1.5)
    expected = dd.kl_divergence(closed(0.5), closed(1.5)).item()
    estimate = kl_divergence(p, q, num_samples=100_000)
    assert estimate.item() == pytest.approx(expected, abs=0.02)
    (gradient,) = torch.autograd.grad(estimate, [q.raw_drift])
    assert gradient.item() == pytest.approx(1.0, abs=0.02)
    # The score function, where a site cannot be reparametrised.
    value = kl_divergence(Counts(), Counts(rate=dd.Gamma(3.0, 1.0)), num_samples=100_000)
    exact = dd.kl_divergence(dd.Gamma(2.0, 1.0), dd.Gamma(3.0, 1.0)).item()
    assert value.item() == pytest.approx(exact, abs=0.02)


def test_entropy() -> None:
    expected = dd.Normal(0.5, 2.0).entropy() + dd.Gamma(3.0, 1.0).entropy()
    torch.testing.assert_close(entropy(Learned()), expected)
    torch.testing.assert_close(entropy(Learned()()), expected)
    torch.testing.assert_close(entropy(Learned(batch_shape=(3,))), expected.expand(3))
    torch.testing.assert_close(entropy(Pair(batch_shape=(3,))).shape, torch.Size([3]))
    vectors = entropy(Vectors())
    expected = (
        dd.Normal(torch.zeros(3), tensor([1.0, 2.0, 3.0])).entropy().sum()
        + dd.MultivariateNormal(torch.zeros(2), torch.eye(2)).entropy()
    )
    torch.testing.assert_close(vectors, expected)
    with pytest.raises(NotImplementedError, match="Chain.*num_samples="):
        entropy(Chain())
    exact = dd.Normal(0.0, 2.0).entropy() + dd.Normal(0.0, 0.7).entropy()
    assert entropy(Chain(), num_samples=50_000).item() == pytest.approx(exact.item(), abs=0.03)

"""Joints of a context: sites that a network predicts, beside some that all contexts share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor, nn

from declarative_dist import (
    Conditional,
    ConstraintError,
    DeclarationError,
    Exp,
    FieldError,
    Given,
    Head,
    Joint,
    Param,
    Positive,
    derived,
    learnable,
    select,
    site,
    summary,
)
from declarative_dist.joints.distribution import JointDistribution
from declarative_dist.objectives import NegativeLogLikelihood
from declarative_dist.testing import check_distribution
from tests.cases import Policy, Robot, Speed
from tests.nests import Shift


class Trunk(nn.Module):
    """A network that counts how often it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 8)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        features: Tensor = self.layer(x).tanh()
        return features


class Arms(Joint):
    """Everything depends on the context, through parts, heads, a given value and a derived one."""

    turn = Policy
    speed = Speed
    bias = Head(shape=("actions",))
    noise = Param(0.3, Exp())
    load = Given(Positive())

    @derived
    def width(self, noise: Tensor, load: Tensor) -> Tensor:
        return noise * load

    @site
    def angle(self, turn: Tensor, speed: Tensor, bias: Tensor, width: Tensor) -> dd.Normal:
        return dd.Normal((turn + bias).sum(-1) / speed, width)


class Level(Joint):
    """Two sites that all contexts share, and two that each has of its own."""

    mu = learnable(dd.Normal(0.5, 2.0))
    local = Speed
    spread = Param(0.7, Exp())
    fixed = dd.Gamma(torch.tensor(2.0), torch.tensor(1.0))

    @site
    def tau(self, mu: Tensor, spread: Tensor) -> dd.LogNormal:
        return dd.LogNormal(mu, spread)

    @site(event_dim=1)
    def y(self, local: Tensor, tau: Tensor) -> dd.Normal:
        return dd.Normal(torch.stack([local, tau], -1), 1.0)


def arms() -> Arms:
    torch.manual_seed(0)
    return Arms(in_features=8, actions=2, network=Trunk())


def contexts(*shape: int) -> Tensor:
    return torch.linspace(-1.0, 1.0, 3 * torch.Size(shape).numel()).reshape(*shape, 3)


@pytest.mark.parametrize("batch", [(), (1,), (5,), (2, 5)])
def test_all_sites_see_one_run_of_the_network(batch: tuple[int, ...]) -> None:
    robot, x = arms(), contexts(*batch)
    load = torch.rand(batch) + 0.5
    d = robot(x, load=load)
    assert robot.network.calls == 1
    draw = d.sample((7,))
    assert draw["turn"].shape == (7, *batch, 2)
    assert draw["angle"].shape == (7, *batch)
    features = robot.network.layer(x).tanh()
    bias = robot.projection(features)
    turn = dd.Normal(robot.turn.projection(features), torch.full((2,), 0.7))
    loc, raw = robot.speed.projection(features).unbind(-1)
    angle = dd.Normal((draw["turn"] + bias).sum(-1) / draw["speed"], 0.3 * load)
    expected = turn.log_prob(draw["turn"]).sum(-1) + angle.log_prob(draw["angle"])
    expected = expected + dd.LogNormal(loc, raw.exp()).log_prob(draw["speed"])
    torch.testing.assert_close(d.log_prob(draw), expected)
    assert d.batch_shape == batch
    values, log_prob = d.rsample_and_log_prob((3,))
    torch.testing.assert_close(d.log_prob(values), log_prob)
    log_prob.sum().backward()
    assert all(p.grad is not None for p in robot.parameters())


@pytest.mark.parametrize("batch", [(), (2,), (4, 2)])
def test_shared_sites_are_drawn_and_counted_once(batch: tuple[int, ...]) -> None:
    level, x = Level(in_features=3), contexts(*batch)
    draw = level(x).sample((6,))
    assert {name: tuple(value.shape) for name, value in draw.items()} == {
        "mu": (6,),
        "local": (6, *batch),
        "fixed": (6,),
        "tau": (6,),
        "y": (6, *batch, 2),
    }
    once = dd.Normal(0.5, 2.0).log_prob(draw["mu"]) + dd.Gamma(2.0, 1.0).log_prob(draw["fixed"])
    once = once + dd.LogNormal(draw["mu"], 0.7).log_prob(draw["tau"])
    tau = draw["tau"].reshape(6, *(1 for _ in batch)).expand(6, *batch)
    y = dd.Normal(torch.stack([draw["local"], tau], -1), 1.0).log_prob(draw["y"]).sum(-1)
    each = level.local(x).log_prob(draw["local"]) + y
    total = each.reshape(6, -1).sum(-1)
    torch.testing.assert_close(level(x).log_prob(draw), once + total)
    weighed = level(x).weigh(100)
    torch.testing.assert_close(weighed.log_prob(draw), once + total * 100 / each[0].numel())
    assert level(x).batch_shape == ()


def test_snapshots_can_be_conditioned() -> None:
    robot, x = arms(), contexts(5)
    d = robot(x, load=1.0)
    draw = d.sample((4,))
    held = {"turn": draw["turn"][0], "speed": draw["speed"][0]}
    left = d.condition(**held)
    assert set(left.supports) == {"angle"}
    expected = d.log_prob({**draw, **{n: v.expand_as(draw[n]) for n, v in held.items()}})
    torch.testing.assert_close(left({"angle": draw["angle"]}), expected)
    assert d.predict(held)["angle"].shape == (5,)

    level = Level(in_features=3)(x)
    y = level.sample()["y"]
    posterior = level.condition(y=y)
    density = posterior.unconstrained_log_density()
    values = density.constrain(torch.zeros(2, density.size))
    assert values["local"].shape == (2, 5)
    assert values["mu"].shape == (2,)
    torch.testing.assert_close(
        posterior(values), level.log_prob({**values, "y": y.expand(2, 5, 2)})
    )
    with pytest.raises(ConstraintError, match=r"Level\.condition\(z=\): expected the name"):
        level.condition(z=1.0)


def test_parts_that_share_a_network_run_it_once() -> None:
    trunk, x = Trunk(), contexts(5)
    kinds = {name: Speed(in_features=8, network=trunk) for name in ("one", "two")}

    class Pair(Joint):
        one = Speed
        two = Speed

    pair = Pair(**kinds)
    draw = pair(x).sample()
    assert trunk.calls == 1
    expected = sum(part(x).log_prob(draw[name]) for name, part in kinds.items())
    torch.testing.assert_close(pair(x).log_prob(draw), expected)


def test_from_features_detach_and_start() -> None:
    robot, x = arms(), contexts(5)
    draw = robot(x, load=1.0).sample()
    features = robot.network(x)
    torch.testing.assert_close(
        robot.from_features(features, load=1.0).log_prob(draw), robot(x, load=1.0).log_prob(draw)
    )
    fixed = robot.detach(x, load=1.0)
    assert not fixed.log_prob(draw).requires_grad
    assert {n: v.shape for n, v in robot.at_start((4,)).sample().items()}["turn"] == (4, 2)


def test_life_as_a_module() -> None:
    robot, x = arms(), contexts(5)
    check_distribution(robot, x, load=1.0)
    other, draw = arms(), robot(x, load=1.0).sample()
    other.load_state_dict(robot.state_dict())
    expected = robot(x, load=1.0).log_prob(draw)
    torch.testing.assert_close(other(x, load=1.0).log_prob(draw), expected)
    mapped = torch.func.vmap(lambda x, draw: robot(x, load=1.0).log_prob(draw))(x, draw)
    torch.testing.assert_close(mapped, expected)
    table = str(summary(robot))
    assert "angle" in table
    assert "needs a context" in table


class FirstHalf(Speed):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x[:2])


class Halved(Joint):
    one = FirstHalf
    two = Speed


class Wide(Conditional):
    base = dd.Normal
    loc = Head(shape=("k",))
    scale = 1.0


class Plain(Joint):
    mu = dd.Normal(0.0, 1.0)


class TooWide(Joint):
    wide = Wide
    other = Head()


class Mixing(Joint):
    loc = Head()

    @site
    def y(self, loc: Tensor) -> dd.Normal:
        return dd.Normal(loc.mean(), 1.0)


class MixingDraws(Joint):
    mu = dd.Normal(0.0, 1.0)
    loc = Head()

    @site
    def y(self, mu: Tensor, loc: Tensor) -> dd.Normal:
        return dd.Normal(loc + mu.sum(), 1.0)


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "other batches": (lambda: Halved(in_features=3)(contexts(5)), ConstraintError,
        r"Halved: expected one batch of contexts .*, got \(2,\) for one, \(5,\) for two"),
    "no event_dim": (lambda: TooWide(in_features=3, k=2), ConstraintError,
        r"TooWide\.wide: .*got \(2, 2\)\. If .*, or event_dim = 1 in its class"),
    "mixed contexts": (lambda: Mixing(in_features=3), ConstraintError, r"each of the contexts"),
    "mixed draws": (lambda: MixingDraws(in_features=3), ConstraintError, r"MixingDraws\.y"),
    "no context": (lambda: arms().sample(), FieldError,
        r"Arms: expected a context first.* Write arms\(context, load=\.\.\.\)\.sample\(\)"),
    "condition without one": (lambda: arms().condition(turn=0.0), FieldError,
        r"arms\(context, load=\.\.\.\)\.condition\("),
    "a context for nothing": (lambda: Plain()(torch.zeros(3)), ConstraintError,
        r"Plain: expected no context"),
    "a network for nothing": (lambda: Plain(network=nn.Linear(3, 3)), DeclarationError,
        r"Plain\(network=\): expected the name of a field"),
    "copies": (lambda: Level(in_features=3, batch_shape=2), ConstraintError,
        r"Level\(batch_shape=\): expected no batch_shape"),
    "no width": (lambda: Robot(actions=2), ConstraintError, r"in_features=\).*neither that nor"),
    "no given": (lambda: arms()(contexts(5)), ConstraintError, r"Arms\.load: expected a value"),
    "another given": (lambda: arms()(contexts(5), load=torch.ones(4)), ConstraintError,
        r"Arms\.load: expected batch shapes"),
    "the value first": (
        lambda: NegativeLogLikelihood(arms())({"turn": torch.zeros(5, 2)}, contexts(5)),
        ConstraintError,
        r"expected the context, and behind it a dict of data by site, got a tensor of shape",
    ),
    "an attribute of this name": (lambda: type("Bad", (Joint,), {"projection": Head()}),
        DeclarationError, r"Bad\.projection: expected a name that is free"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    make, kind, said = REFUSED[name]
    with pytest.raises(kind, match=said):
        make()


def test_a_joint_without_a_context_keeps_its_names_and_its_class() -> None:
    class Named(Joint):
        projection = dd.Normal(0.0, 1.0)
        network = nn.Linear(2, 2)
        width = Param(torch.zeros, shape=("in_features",))

        @site
        def y(self, projection: Tensor, width: Tensor) -> dd.Normal:
            return dd.Normal(projection + width.sum(), 1.0)

    named = Named(in_features=3)
    assert named.width.shape == (3,)
    assert isinstance(named(), JointDistribution)

    class Freed(Level):  # the part of the context is replaced by one without
        local = dd.LogNormal(0.0, 1.0)

    assert Freed().sample((2,))["local"].shape == (2,)


def test_a_conditional_that_a_method_calls_is_set_in_the_constructor() -> None:
    class Model(Joint):
        speed = Speed

        def __init__(self, **keywords: Any) -> None:
            super().__init__(**keywords)
            self.decoder = Speed(in_features=1)

        @site
        def y(self, speed: Tensor) -> dd.Distribution:
            return self.decoder(speed[..., None])

    model, x = Model(in_features=3), contexts(5)
    draw = model(x).sample((2,))
    assert set(draw) == {"speed", "y"}
    expected = model.speed(x).log_prob(draw["speed"])
    expected = expected + model.decoder(draw["speed"][..., None]).log_prob(draw["y"])
    torch.testing.assert_close(model(x).log_prob(draw), expected)


# Choosing among copies and contexts: what is left is as it was beside the others.


class Copies(Joint):
    m = learnable(dd.Normal(0.0, 1.0))
    spread = Param(1.0, Exp())
    weights = Param([1.0, 2.0])
    c = dd.Normal(0.0, 1.0)
    shift = Shift

    @derived
    def total(self, weights: Tensor) -> Tensor:
        return weights.sum(-1)

    @site
    def y(self, m: Tensor, c: Tensor, total: Tensor) -> dd.Distribution:
        return dd.Normal(m + c * total, self.spread)  # read from self

    @site
    def z(self, y: Tensor, shift: Any) -> dd.Distribution:
        return dd.TransformedDistribution(dd.Normal(y, 1.0), [shift])

    @site(event_dim=1, vectorize=True)
    def u(self, y: Tensor, weights: Tensor) -> dd.Distribution:
        return dd.Normal(y + weights.cumsum(0), 1.0)

    @site(shape=(3,))
    def s(self, z: Tensor, spread: Tensor) -> dd.Distribution:
        return dd.Normal(z, spread)


class Contexts(Joint):
    a = Speed
    h = Head(shape=(2,))
    size = Given(Positive())
    bias = Param([0.5, 1.5])

    @derived
    def loc(self, h: Tensor, bias: Tensor) -> Tensor:
        return h + bias

    @site(event_dim=1)
    def y(self, a: Tensor, loc: Tensor, size: Tensor) -> dd.Distribution:
        return dd.Normal(a[..., None] + loc, size[..., None])


MASK = torch.tensor([True, False, True, False])
INDICES: list[tuple[tuple[int, ...], Any]] = [
    ((4,), slice(1, 3)), ((4,), [2, 0, 1, 3]), ((4,), MASK), ((4,), 2), ((4,), -1), ((4,), ...),
    ((2, 3), 1), ((2, 3), (slice(None), [2, 0])), ((2, 3), (1, 2)), ((2, 3), (..., 0)),
    ((2, 3), torch.ones(2, 3).tril() > 0),
]  # fmt: skip


def joints(batch: tuple[int, ...]) -> list[Any]:
    """A live one with copies, and a snapshot of a batch of contexts, with differing numbers."""
    torch.manual_seed(0)
    copies, contexts = Copies(batch_shape=batch), Contexts(in_features=3)
    with torch.no_grad():
        for parameter in copies.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return [copies, contexts(torch.randn(*batch, 3), size=0.5 + torch.rand(batch))]


@pytest.mark.parametrize(("batch", "index"), INDICES)
def test_densities_and_draws_of_what_is_chosen(batch: tuple[int, ...], index: Any) -> None:
    parts = index if isinstance(index, tuple) else (index,)
    for joint in joints(batch):
        values = joint.sample((5,))
        expected = joint.log_prob(values)[(slice(None), *parts)]
        events = {name: value.ndim - 1 - len(batch) for name, value in values.items()}
        for chosen in (select(joint, index), joint[index]):
            assert chosen.batch_shape == expected.shape[1:]
            picked = {
                name: value[(slice(None), *parts, *(slice(None),) * events[name])]
                for name, value in values.items()
            }
            torch.testing.assert_close(chosen.log_prob(picked), expected)
            draws = chosen.rsample((7,))
            for name, draw in draws.items():
                own = values[name].shape[1 + len(batch) :]
                assert draw.shape == (7, *chosen.batch_shape, *own)
                assert draw.requires_grad is (name != "c")


def test_a_given_that_all_contexts_share() -> None:
    joint = Contexts(in_features=3)(torch.randn(4, 3), size=2.0)
    values = joint.sample()
    chosen = joint[1:3].log_prob({name: value[1:3] for name, value in values.items()})
    torch.testing.assert_close(chosen, joint.log_prob(values)[1:3])


def test_a_snapshot_that_is_older_than_an_update() -> None:
    joint = joints((4,))[0]
    snapshot = joint()
    values = snapshot.sample()
    joint.spread = 3.0
    found = snapshot[2].log_prob({name: value[2] for name, value in values.items()})
    torch.testing.assert_close(found, snapshot.log_prob(values)[2])


def test_gradients_reach_what_was_chosen() -> None:
    joint = joints((4,))[0]
    select(joint, 1).rsample()["z"].backward()
    gradient = joint.raw_weights.grad
    assert gradient is not None
    assert gradient[1].abs().min() > 0
    assert (gradient[[0, 2, 3]] == 0).all()


def test_what_cannot_be_chosen() -> None:
    class Shared(Joint):
        mu = learnable(dd.Normal(0.0, 1.0))
        a = Speed

    shared = Shared(in_features=3)(torch.randn(6, 3))
    for ask in (lambda: shared[1:3], lambda: select(shared, 0)):
        with pytest.raises(ConstraintError, match=r"Shared\[\.\.\.\]: .*got mu, drawn once"):
            ask()
    with pytest.raises(ConstraintError, match=r"Copies\[\.\.\.\]: expected an index of .*\(4,\)"):
        joints((4,))[0][7]
    with pytest.raises(TypeError, match="not iterable"):
        iter(shared)

"""Conditionals and heads, beside the same heads written by hand in plain torch."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions as dd
import torch.nn.functional as F
from torch import Tensor, nn

from declarative_dist import (
    Conditional,
    Constraint,
    ConstraintError,
    DeclarationError,
    Declarative,
    Exp,
    FieldError,
    GreaterThan,
    Head,
    Interval,
    LearnableTransform,
    LessThan,
    LogInterval,
    LowerCholesky,
    Ordered,
    Param,
    Positive,
    Real,
    Simplex,
    StateMismatchError,
    Variational,
    derived,
    entropy,
    fields_of,
    kl_divergence,
)
from declarative_dist.testing import check_distribution
from tests.cases import Shares
from tests.constraints.cases import CASES, Case
from tests.sharing import Policy

INF, NAN = math.inf, math.nan
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


class Regression(Conditional):
    base = dd.Normal
    loc = Head(init=0.25)
    scale = Head(Exp(), init=0.5)


class FullRank(Conditional):
    base = dd.MultivariateNormal
    loc = Head(shape=("d",))
    scale_tril = Head(LowerCholesky(), shape=("d", "d"))


class Range(Conditional):
    """Bounds by name: of a head by a head, and of a head by a parameter."""

    base = dd.Uniform
    low = Head()
    high = Head(GreaterThan("low"), init=2.0)


class FloorRange(Conditional):
    base = dd.Uniform
    low = Param(-1.0, Real())
    high = Head(GreaterThan("low"), init=2.0)


class Mixture(Conditional):
    """A mixture density network, by a method."""

    logits = Head(shape=("k",))
    loc = Head(shape=("k",), init=lambda shape: torch.arange(1.0, 1 + shape.numel()).view(shape))
    scale = Head(Positive(), shape=("k",))

    def base(self, logits: Tensor, loc: Tensor, scale: Tensor) -> dd.MixtureSameFamily:
        return dd.MixtureSameFamily(dd.Categorical(logits=logits), dd.Normal(loc, scale))


class GammaByMean(Conditional):
    """A head, a parameter and a constant feed a derived argument."""

    base = dd.Gamma
    concentration = Head(Positive(), init=2.0)
    location = Param(4.0, Positive())
    unit = 0.5

    @derived
    def rate(self, concentration: Tensor, location: Tensor, unit: Tensor) -> Tensor:
        return concentration / (location * unit)


class Parts(Conditional):
    base = dd.Normal
    loc = Head(shape=("k",))
    scale = Param(0.7, Exp(), shape=("k",))


class Nest(Conditional):
    """Two nested conditionals receive the same context, and there is no head of its own."""

    base = dd.MixtureSameFamily
    mixture_distribution = Shares
    component_distribution = Parts


class HalfNest(Conditional):
    """A nested conditional beside a free nested distribution."""

    base = dd.MixtureSameFamily
    mixture_distribution = Shares(in_features=3, k=2)
    component_distribution = dd.Normal(torch.tensor([-1.0, 1.0]), torch.tensor([0.5, 0.5]))


class Two(nn.Module):
    """A network of several arguments that returns raw numbers by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 2)

    def forward(self, x: Tensor, y: Tensor, *, scale: float = 1.0) -> dict[str, Tensor]:
        out = self.body(x * scale + y)
        return {"scale": out[..., 0], "loc": out[..., 1]}


class Returns(nn.Module):
    """A network whose output is what it was told."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Any) -> Any:
        return self.output


MAKE: dict[str, Callable[[], Conditional]] = {
    "regression": lambda: Regression(in_features=3),
    "policy": lambda: Policy(
        in_features=4, actions=2, network=nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    ),
    "full rank": lambda: FullRank(in_features=3, d=2),
    "range": lambda: Range(in_features=3),
    "floor range": lambda: FloorRange(in_features=3),
    "mixture": lambda: Mixture(in_features=3, k=3),
    "derived": lambda: GammaByMean(in_features=3),
    "nest": lambda: Nest(in_features=3, k=2),
    "half nest": HalfNest,
}


@pytest.fixture(params=MAKE)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def p(name: str) -> Conditional:
    return MAKE[name]()


def context(count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 3, generator=generator)


def value_for(p: Conditional, x: Tensor) -> Tensor:
    """Values inside the support of every context."""
    torch.manual_seed(4)
    d = p(x)
    return d.mean.detach() if isinstance(d, dd.Uniform) else d.sample().detach()


KINDS = (
    "exp-floor", "real", "above-tensor", "interval-1000-2000", "log-interval", "simplex",
    "positive-ordered", "lower-cholesky", "positive-definite", "corr-cholesky",
)  # fmt: skip
"""One for every shape of raw numbers and kind of bound: a head knows no more of a constraint."""


def by_constraint(case: Case) -> type[Conditional]:
    """A class with one head under this constraint, whose mean is the head's value."""

    class One(Conditional):
        value = Head(case.make(), shape=tuple(case.shape))

        def base(self, value: Tensor) -> dd.Normal:
            return dd.Normal(value, torch.ones_like(value), validate_args=False)

    return One


# What features of zeros predict.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("constraint", KINDS)
def test_features_of_zeros_give_init(constraint: str, dtype: torch.dtype) -> None:
    case = CASES[constraint]
    numbers = 0.3 + torch.linspace(-1.0, 1.0, math.prod(case.raw_shape), dtype=dtype)
    raw_shape = case.make().raw_shape(case.shape)
    init = case.built(dtype)(numbers.reshape(raw_shape)).detach()

    class One(by_constraint(case)):  # type: ignore[misc]
        value = Head(case.make(), shape=tuple(case.shape), init=init)

    one = One(in_features=3, dtype=dtype)
    rule = case.built(dtype)
    expected = rule(rule.right_inverse(init.to(dtype)))
    for seed in (0, 1):
        torch.manual_seed(seed)
        one.reset_parameters()
        got = one(torch.zeros(4, 3, dtype=dtype)).loc
        assert got.dtype == dtype
        assert torch.equal(got, expected.expand(4, *case.shape))
        torch.testing.assert_close(got[0], init.to(dtype), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("constraint", KINDS)
def test_without_init_the_default_of_the_constraint(constraint: str) -> None:
    case = CASES[constraint]
    one = by_constraint(case)(in_features=3)
    expected = case.make().default(case.shape).float()
    torch.testing.assert_close(one(torch.zeros(3)).loc, expected, rtol=1e-5, atol=1e-6)
    assert one.projection.out_features == case.make().raw_shape(case.shape).numel()


def test_kinds_of_init() -> None:
    class Kinds(Conditional):
        number = Head(Exp(), init=2.0, shape=("d",))
        row = Head(shape=("d",), init=[1.0, 2.0, 3.0])
        table = Head(Positive(), shape=("d",), init=torch.tensor([1.0, 2.0, 3.0]))
        drawn = Head(shape=("d",), init=torch.rand)

        def base(self, number: Tensor, row: Tensor, table: Tensor, drawn: Tensor) -> dd.Normal:
            return dd.Normal(torch.stack([number, row, table, drawn], -2), 1.0)

    kinds = Kinds(in_features=2)  # the size is read off the list and the tensor
    number, row, table, drawn = kinds(torch.zeros(2)).mean
    torch.testing.assert_close(number, torch.full((3,), 2.0))
    torch.testing.assert_close(row, torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(table, torch.tensor([1.0, 2.0, 3.0]))
    assert ((drawn > 0) & (drawn < 1)).all()
    kinds.reset_parameters()
    assert not torch.equal(kinds(torch.zeros(2)).mean[3], drawn)


def test_a_start_given_to_the_constructor() -> None:
    assert Regression(in_features=3, scale=3.0)(torch.zeros(3)).scale.item() == pytest.approx(3)
    policy = Policy(in_features=3, loc=torch.tensor([1.0, -1.0]))
    assert policy(torch.zeros(3)).mean.tolist() == [1.0, -1.0]
    assert policy.scale.shape == (2,)
    with torch.no_grad():
        policy.projection.bias.zero_()
    policy.reset_parameters()
    assert policy(torch.zeros(3)).mean.tolist() == [1.0, -1.0]


@pytest.mark.parametrize(
    "init",
    [torch.zeros(4), [0.0], torch.zeros(1, 3), lambda shape: torch.zeros(2)],
    ids=["longer", "list", "batched", "callable"],
)
def test_an_init_of_the_wrong_shape(init: Any) -> None:
    class Odd(Conditional):
        base = dd.Normal
        loc = Head(shape=(3,), init=init)
        scale = Head(shape=(3,))

    with pytest.raises(ConstraintError, match=r"Odd\.loc: expected shape \(3"):
        Odd(in_features=2)


# Beside the same head written by hand.


def test_an_empty_batch_of_contexts() -> None:
    assert Policy(in_features=3, actions=2)(torch.zeros(0, 3)).sample().shape == (0, 2)
    d = Regression(in_features=3)(torch.zeros(0, 3))
    assert d.batch_shape == (0,)
    assert d.log_prob(d.rsample()).shape == (0,)


def test_a_normal_head_equals_one_by_hand_with_torch_functions_only() -> None:
    class Heads(Conditional):
        base = dd.Normal
        event_dim = 2
        loc = Head(shape=(2, 3))
        scale = Head(Positive(floor=0.1), shape=(2, 3))

    p = Heads(in_features=3)
    with torch.no_grad():
        p.projection.weight.normal_()
    other = copy.deepcopy(p.projection)
    x, y = torch.randn(5, 3), torch.randn(5, 2, 3)
    raw = other(x)
    loc, scale = raw.split([6, 6], dim=-1)
    scale = 0.1 + F.softplus(scale.reshape(5, 2, 3))
    theirs = dd.Independent(dd.Normal(loc.reshape(5, 2, 3), scale), 2)
    mine = p(x)
    assert isinstance(mine, dd.Independent)
    assert (mine.batch_shape, mine.event_shape) == ((5,), (2, 3))
    torch.testing.assert_close(mine.log_prob(y), theirs.log_prob(y))
    mine.log_prob(y).sum().backward()
    theirs.log_prob(y).sum().backward()
    torch.testing.assert_close(p.projection.weight.grad, other.weight.grad)
    torch.testing.assert_close(p.projection.bias.grad, other.bias.grad)


def test_raw_sizes_and_named_sizes() -> None:
    assert FullRank(in_features=4, d=3).projection.weight.shape == (3 + 6, 4)

    class Sizes(Conditional):
        triangle = Head(LowerCholesky(), shape=("k", "d", "d"))
        weights = Head(Simplex(), shape=("k",))
        steps = Head(Ordered(), shape=("d",))

        def base(self, triangle: Tensor, weights: Tensor, steps: Tensor) -> dd.Distribution:
            parts = dd.MultivariateNormal(steps[..., None, :], scale_tril=triangle)
            return dd.MixtureSameFamily(dd.Categorical(weights), parts)

    p = Sizes(in_features=2, k=4, d=3)
    assert p.projection.weight.shape == (4 * 6 + 3 + 3, 2)
    x = torch.randn(5, 2)
    raw = p.projection(x)
    d = p(x)
    expected = LowerCholesky()(raw[:, :24].reshape(5, 4, 6))
    torch.testing.assert_close(d.component_distribution.scale_tril, expected)
    torch.testing.assert_close(d.mixture_distribution.probs, Simplex()(raw[:, 24:27]))
    torch.testing.assert_close(d.component_distribution.loc[:, 0], Ordered()(raw[:, 27:]))


def test_weights_start_small_and_are_not_zero() -> None:
    p = Policy(in_features=256, actions=64)
    spread = p(torch.randn(512, 256)).mean.std().item()
    assert 0.01 < spread < 0.3
    assert p.projection.weight.abs().min() > 0


def test_every_promise(p: Conditional, name: str) -> None:
    # The support of a uniform depends on its parameters, and clamped bounds have no gradient.
    bounds = ["score", "gradient"] if name in ("range", "floor range") else []
    check_distribution(p, context(), skip=bounds)


# Whatever the raw numbers are, the parameters are valid.


EXTREME = [INF, -INF, 1e38, -1e38, 3e38, -3e38, 88.0, -88.0, 1e4, -1e4, 0.0, 1e-38]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("constraint", KINDS)
def test_infinite_and_huge_raw_numbers_give_values_inside(
    constraint: str, dtype: torch.dtype
) -> None:
    case = CASES[constraint]
    one = by_constraint(case)(network=nn.Identity(), dtype=dtype)
    size = math.prod(case.raw_shape)
    numbers = torch.tensor([EXTREME[(7 * i) % 12] for i in range(12 * size)])
    same = torch.tensor(EXTREME)[:, None].expand(12, size)
    raw = torch.cat([numbers.reshape(12, size), same]).to(dtype)
    raw = raw.reshape(24, *case.make().raw_shape(case.shape)).requires_grad_()
    value = one(raw).loc
    rule = case.built(dtype)
    assert value.dtype == dtype
    for each in value:
        assert rule.contains(each).all(), each
        assert case.is_inside(each.detach().double(), torch.finfo(dtype).eps), each
    (gradient,) = torch.autograd.grad(value, raw, torch.ones_like(value))
    assert gradient.isfinite().all()


@pytest.mark.parametrize("constraint", KINDS)
def test_nan_passes_through_and_stays_in_its_row(constraint: str) -> None:
    case = CASES[constraint]
    one = by_constraint(case)(network=nn.Identity())
    raw = torch.linspace(-1.0, 1.0, 3 * math.prod(case.raw_shape))
    raw = raw.reshape(3, *case.make().raw_shape(case.shape))
    clean = one(raw).loc
    raw[1] = NAN
    value = one(raw).loc
    assert value[1].isnan().any()
    torch.testing.assert_close(value[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("make", [lambda: Range(network=Raw()), FloorRange], ids=["head", "param"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_named_bounds_hold_at_infinity(
    make: Callable[..., Conditional], dtype: torch.dtype
) -> None:
    p = make() if make is not FloorRange else FloorRange(network=nn.Identity())
    p.to(dtype)
    raw = torch.tensor(EXTREME, dtype=dtype)
    d = p(raw)
    assert (d.low < d.high).all()
    assert d.low.isfinite().all()
    assert d.high.isfinite().all()


class Raw(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"low": x, "high": x.flip(0)}


# Kinds of fields side by side.


def test_named_bounds_by_heads_and_parameters() -> None:
    p = Range(in_features=3)
    with torch.no_grad():
        p.projection.weight.normal_()
    x = context()
    low, raw = p.projection(x).unbind(-1)
    torch.testing.assert_close(p(x).low, low)
    torch.testing.assert_close(p(x).high, GreaterThan(low.detach())(raw))
    torch.testing.assert_close(p(torch.zeros(3)).high, torch.tensor(2.0))
    p = FloorRange(in_features=3)
    p.low = 1.0
    torch.testing.assert_close(p(torch.zeros(3)).high, torch.tensor(4.0))
    p.reset_parameters()
    torch.testing.assert_close(p(torch.zeros(3)).high, torch.tensor(2.0))


class Above(Conditional):
    """A parameter that a head bounds."""

    base = dd.Normal
    loc = Head(init=[1.0, 2.0], shape=(2,))
    scale = Param(5.0, GreaterThan("loc"), shape=(2,))


def test_a_parameter_bounded_by_a_head() -> None:
    p = Above(in_features=3)
    with torch.no_grad():
        p.projection.weight.normal_(0.0, 0.3)
        p.projection.bias.fill_(9.0)
    d = p(context())
    assert d.scale.shape == (5, 2)
    torch.testing.assert_close(d.scale, GreaterThan(d.loc.detach())(p.raw_scale).expand(5, 2))
    p(context()).scale.sum().backward()
    assert p.projection.weight.grad.abs().sum() > 0
    with torch.no_grad():
        p.projection.bias.fill_(-9.0)
    with pytest.raises(ValueError, match="scale"):  # below which no scale may be
        p(context())


def test_values_before_a_context_follow_a_dtype_and_a_device() -> None:
    assert Above(in_features=3).double().at_start().loc.dtype == torch.float64
    p = Regression(in_features=3).double()
    p.reset_parameters()
    expected = torch.tensor(0.5, dtype=torch.float64).log()
    torch.testing.assert_close(p.projection.bias[1], expected, rtol=1e-14, atol=0)
    p = Above(in_features=3).to("meta")
    assert p.scale.is_meta  # reading it needs the head that bounds it
    assert p.at_start().loc.is_meta


def test_derived_parameter_constant_and_head_together() -> None:
    p = GammaByMean(in_features=3)
    with torch.no_grad():
        p.projection.weight.normal_()
    x = context()
    concentration = F.softplus(p.projection(x)[:, 0])
    expected = dd.Gamma(concentration, concentration / 2.0)
    y = torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0])
    torch.testing.assert_close(p(x).log_prob(y), expected.log_prob(y))
    p.unit = 0.25
    torch.testing.assert_close(p(x).mean, torch.ones(5))


def test_nested_conditionals_receive_the_same_context() -> None:
    p = Nest(in_features=3, k=4)
    assert p.projection is None
    x = context()
    d = p(x)
    logits = p.mixture_distribution.projection(x)
    torch.testing.assert_close(d.mixture_distribution.logits, logits.log_softmax(-1))
    loc = p.component_distribution.projection(x)
    torch.testing.assert_close(d.component_distribution.loc, loc)
    assert d.component_distribution.loc.shape == (5, 4)
    p.component_distribution.scale = 0.2
    assert p(x).component_distribution.scale.unique().item() == pytest.approx(0.2)


def test_nested_instances_are_copies_and_get_keywords_too() -> None:
    one, two = HalfNest(), HalfNest()
    ids = {id(q) for q in one.parameters()} & {id(q) for q in two.parameters()}
    assert not ids

    class Keyed(Conditional):
        base = dd.Normal
        loc = Head(shape=(2,))
        scale = Param(1.0, shape=(2,))

    class Outer(Conditional):
        base = dd.MixtureSameFamily
        mixture_distribution = dd.Categorical(torch.ones(2))
        component_distribution = Keyed(network=Gain(), in_features=3)

    p, x = Outer(), context()
    part = p.component_distribution
    d = p(x, gain=2.0)
    assert d.batch_shape == (5,)
    torch.testing.assert_close(d.component_distribution.loc, part.projection(2.0 * x))


class Gain(nn.Module):
    def forward(self, x: Tensor, *, gain: float) -> Tensor:
        return x * gain


class Counting(nn.Module):
    """A trunk that counts how often it is called."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layer = nn.Linear(3, width)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        features: Tensor = self.layer(x)
        return features


class Shifted(Nest):
    """A nested mixture with a head of its own."""

    shift = Head(shape=("k",))

    @derived
    def component_distribution(self, shift: Tensor) -> dd.Normal:
        return dd.Normal(shift, 1.0)


def test_one_network_serves_all_nested_parts_and_runs_once() -> None:
    x, y = context(), torch.randn(5)
    p = Nest(in_features=8, network=Counting(), k=4)
    names = {name.rpartition(".")[0] for name in p.state_dict()}
    assert {"network.layer", "mixture_distribution.projection"} <= names
    d = p(x)
    assert p.network.calls == 1
    features = p.network.layer(x)
    expected = dd.MixtureSameFamily(
        dd.Categorical(logits=p.mixture_distribution.projection(features)),
        dd.Normal(p.component_distribution.projection(features), torch.full((4,), 0.7)),
    )
    torch.testing.assert_close(d.log_prob(y), expected.log_prob(y))
    d.log_prob(y).sum().backward()
    assert p.network.layer.weight.grad.abs().sum() > 0

    q = Shifted(in_features=8, network=Counting(), k=2)  # a head of its own sees the same
    q(x)
    assert q.network.calls == 1
    assert q.projection.out_features == 2
    given = Nest(
        network=Counting(),
        mixture_distribution=Shares(in_features=8, k=4),
        component_distribution=Parts(in_features=8, k=4),
    )
    assert given(x).batch_shape == (5,)
    assert given.network.calls == 1
    with pytest.raises(ConstraintError, match=r"Shares\(in_features=\)"):
        Nest(network=Counting(), k=4)


def test_a_method_written_for_a_batch_of_contexts() -> None:
    class Chunked(Conditional):
        raw = Head(shape=(2, 4))

        def base(self, raw: Tensor) -> dd.Distribution:
            return dd.Independent(dd.Normal(raw[:, 0, :], raw[:, 1, :].exp()), 1)

    d = Chunked(in_features=3)(context())
    assert (d.batch_shape, d.event_shape) == ((5,), (4,))


def test_a_class_without_heads() -> None:
    class Free(Conditional):
        base = dd.Normal
        loc = Param(1.0)
        scale = 2.0

    p = Free()
    assert p.projection is None
    assert p(torch.zeros(7)).mean.item() == 1.0
    assert dict(p.named_parameters()).keys() == {"raw_loc"}


def test_base_as_a_method_and_event_dim() -> None:
    p = Mixture(in_features=3, k=3)
    torch.testing.assert_close(
        p(torch.zeros(3)).component_distribution.loc, torch.tensor([1.0, 2.0, 3.0])
    )
    x = context()
    raw = p.projection(x)
    expected = dd.MixtureSameFamily(
        dd.Categorical(logits=raw[:, :3]), dd.Normal(raw[:, 3:6], F.softplus(raw[:, 6:]))
    )
    torch.testing.assert_close(p(x).log_prob(torch.ones(5)), expected.log_prob(torch.ones(5)))
    d = Policy(in_features=3, actions=2)(torch.zeros(4, 5, 3))
    assert (d.batch_shape, d.event_shape) == ((4, 5), (2,))


# Networks, and what they return.


def test_a_network_of_several_arguments_that_returns_a_dict() -> None:
    p = Regression(network=Two())
    assert p.projection is None
    x, y = context(), torch.ones(5, 3)
    out = p.network.body(x * 2.0 + y)
    d = p(x, y, scale=2.0)
    torch.testing.assert_close(d.loc, out[:, 1])
    torch.testing.assert_close(d.scale, out[:, 0].exp())
    torch.testing.assert_close(p(x=x, y=y, scale=2.0).loc, out[:, 1])
    d.log_prob(torch.zeros(5)).sum().backward()
    assert p.network.body.weight.grad.abs().sum() > 0


def test_a_network_with_keywords_and_a_layer() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, *others: Tensor, gain: float = 1.0) -> Tensor:
            return gain * (x + sum(others))

    p = Policy(in_features=3, actions=2, network=Sum())
    x = context()
    torch.testing.assert_close(p(x, x, x, gain=2.0).mean, p.projection(6 * x))


def test_an_image_keeps_its_shape() -> None:
    class Decoder(Conditional):
        base = dd.Bernoulli
        event_dim = 3
        logits = Head(shape=(1, 8, 8))

    network = nn.Sequential(nn.Linear(3, 16), nn.Unflatten(1, (4, 2, 2)), nn.Upsample((8, 8)),
                            nn.Conv2d(4, 1, 3, padding=1))  # fmt: skip
    p = Decoder(network=network)
    d = p(context())
    assert (d.batch_shape, d.event_shape) == ((5,), (1, 8, 8))
    assert torch.equal(d.base_dist.logits, network(context()))


WRONG = {
    "a tensor for two": (torch.zeros(5, 2), r"numbers .* in a dict of loc, scale"),
    "a tuple": ((torch.zeros(5), torch.zeros(5)), r"numbers .* in a dict of loc, scale"),
    "none": (None, r"numbers .* in a dict of loc, scale, got None"),
    "a name missing": ({"loc": torch.zeros(5)}, r"got a dict of loc"),
    "a name too many": ({"loc": torch.zeros(5), "scale": torch.zeros(5), "x": torch.zeros(5)},
        r"got a dict of loc, scale, x"),
    "a number": ({"loc": 1.0, "scale": torch.zeros(5)}, r"Regression\.(loc|network): expected"),
    "a list": ({"loc": [1.0], "scale": torch.zeros(5)}, r"Regression\.(loc|network): expected"),
    "integers": ({"loc": torch.zeros(5, dtype=torch.long), "scale": torch.zeros(5)},
        r"Regression\.(loc|network): expected"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_network_that_returns_something_else(kind: str) -> None:
    output, message = WRONG[kind]
    p = Regression(network=Returns(output))
    with pytest.raises((ConstraintError, FieldError), match=message):
        p(torch.zeros(5))


@pytest.mark.parametrize("shape", [(5, 3), (), (4, 5)], ids=str)
def test_a_network_that_returns_another_shape(shape: tuple[int, ...]) -> None:
    p = Shares(network=Returns(torch.zeros(shape)), k=4)
    with pytest.raises(ConstraintError, match=r"Shares\.logits: expected .*\(\*batch, 4\)"):
        p(None)


class Triangle(Conditional):
    base = dd.MultivariateNormal
    loc = Param(0.0, shape=(3,))
    scale_tril = Head(LowerCholesky(), shape=(3, 3))


def test_a_raw_triangle_is_packed() -> None:
    assert Triangle(network=Returns(torch.zeros(5, 6)))(None).batch_shape == (5,)
    named = Shares(network=Returns({"logits": torch.zeros(5, 4)}), k=4)
    assert named(None).logits.shape == (5, 4)


def test_a_network_in_the_class_body() -> None:
    class Trunk(Policy):
        network = nn.Linear(3, 4)

    one, two = Trunk(in_features=4, actions=2), Trunk(in_features=4, actions=2)
    assert one.network is not two.network
    assert torch.equal(one.network.weight, two.network.weight)
    x = context()
    torch.testing.assert_close(one(x).mean, one.projection(one.network(x)))
    start = one.network.weight.detach().clone()
    with torch.no_grad():
        one.network.weight.add_(1.0)
    one.reset_parameters()
    assert torch.equal(one.network.weight, start)  # as the instance was built, like any part
    wider = Trunk(in_features=6, actions=2, network=nn.Linear(3, 6))
    assert wider(x).mean.shape == (5, 2)


# What is refused.


class Predicted:
    loc = Head()


def test_an_inherited_head_is_a_field() -> None:
    class Good(Predicted, Conditional):
        base = dd.Normal
        scale = Param(1.0)

    assert list(fields_of(Good)) == ["loc", "scale"]


def made(*kinds: Any, **body: Any) -> Any:
    """A family of this body, by default a conditional normal of scale 1."""
    kinds = kinds or (Conditional,)
    normal = {} if "base" in body else {"base": dd.Normal, "scale": Param(1.0)}
    return type(kinds[-1])("Made", kinds, {**normal, **body})


def of_mixture(kind: Any, part: Any) -> Any:
    weights = dd.Categorical(torch.ones(2))
    parts = {"mixture_distribution": weights, "component_distribution": part}
    return made(kind, base=dd.MixtureSameFamily, **parts)


def regression(*arguments: Any, **keywords: Any) -> Any:
    return Regression(in_features=3)(*arguments, **keywords)


def policy(**keywords: Any) -> Any:
    return Policy(**{"in_features": 3, "actions": 2, **keywords})


NARROW = {"loc": Head(Interval(1000.0, 1001.0))}
INT = r"Regression\(in_features=\): expected an int"
CONTEXT = r"Regression: expected a context first"
REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: made(loc=Head(), scale=Head(init=-1.0))(2), ConstraintError,
        r"Made\.scale: expected .*got -1\.0"),
    (lambda: Regression(2, scale=0.0), ConstraintError, r"Regression\.scale: expected .*got 0\.0"),
    (lambda: Policy(in_features=3), ConstraintError, r"Policy\.loc: expected a size for 'actio"),
    (lambda: policy(loc=torch.zeros(3)), ConstraintError, r"actions=2"),
    (lambda: FloorRange(in_features=3, low=5.0), ConstraintError, r"FloorRange\.high"),
    (lambda: made(base=dd.MultivariateNormal, loc=Head(shape=2), scale_tril=Head()),
        DeclarationError, r"Made\.scale_tril: .*Write shape=\("),
    (lambda: made(base=dd.Uniform, low=Head(LessThan("high")), high=Head(GreaterThan("low"))),
        DeclarationError, "circle"),
    (lambda: made(Policy, event_dim=2)(3, actions=2)(torch.zeros(3)), ConstraintError,
        r"Made\.event_dim: expected event_dim between 0 .*and 1"),
    (lambda: regression(torch.zeros(5, 4)), ConstraintError,
        r"Regression\.context: .*\(\*batch, 3\).*\(5, 4\)"),
    (lambda: regression(torch.tensor(1.0)), ConstraintError, r"Regression\.context"),
    (lambda: regression([1.0, 2.0, 3.0]), (ConstraintError, FieldError), "Regression"),
    (lambda: regression(), FieldError, r"Regression: expected one tensor of features, got 0"),
    (lambda: regression(torch.zeros(3), mask=None), ConstraintError,
        r"Regression\.mask: .*Given.*no network"),
    (lambda: regression(torch.zeros(2, 3, dtype=torch.int64)), ConstraintError,
        r"Regression\.context: expected features of torch.float32"),
    (lambda: kl_divergence(Regression(3), dd.Normal(0.0, 1.0)), FieldError, CONTEXT),
    (lambda: entropy(Regression(3)), FieldError, CONTEXT),
    (lambda: policy(network=nn.Linear(3, 4))(torch.zeros(5, 3)), ConstraintError,
        r"Policy\.network: .*Write in_features=4"),
    (lambda: policy(network=Returns((torch.zeros(3), 1)))(None), (ConstraintError, FieldError),
        r"Policy\.network"),
    (lambda: policy(in_features=4, network=nn.Linear(3, 4).double(), dtype=torch.float32)(
        torch.zeros(5, 3, dtype=torch.float64)), ConstraintError,
     r"Policy\.network: expected features"),
    (lambda: Triangle(network=Returns(torch.zeros(5, 3, 3)))(None), ConstraintError,
        r"Triangle\.scale_tril: expected .*\(\*batch, 6\)"),
    *((lambda x=x: policy(network=x), (ConstraintError, DeclarationError),
       r"Policy\(?\.?network") for x in ("trunk", nn.Linear, torch.tanh, 3)),
    (lambda: made(loc=Param(0.0))(network=nn.Linear(2, 2)), ConstraintError,
        r"Made\(network=\): expected none"),
    (lambda: made(loc=Param(0.0))(in_features=9), ConstraintError,
        r"Made\(in_features=\): expected none.*got 9"),
    (Regression, ConstraintError, r"Regression\(in_features=\): .*loc, scale.*Write"),
    *((lambda x=x: Regression(in_features=x), ConstraintError, INT)
      for x in (0, -1, 2.0, True, "3")),
    (lambda: Regression(infeatures=3), DeclarationError, r"Did you mean 'in_features'"),
    *((lambda x=x: policy(batch_shape=x), ConstraintError, r"Policy\(batch_shape=\).*context")
      for x in ((4,), 4)),
    (lambda: made(**NARROW)(2, dtype=torch.bfloat16), ConstraintError,
        r"Made\.loc: expected bounds.*bfloat16"),
    (lambda: made(Variational, loc=Head()), DeclarationError,
        r"Made\.loc: .*Write class Made\(Conditional\)"),
    (lambda: made(Predicted, Variational), DeclarationError, r"Made\.loc"),
    (lambda: type(Declarative)("Made", (Declarative,), {"width": Head(Positive())}),
        DeclarationError, r"Made\.width"),
    (lambda: made(LearnableTransform, base=dd.AffineTransform, loc=Head(), scale=1.0),
        DeclarationError, r"Made\.loc"),
    (lambda: of_mixture(Variational, Parts), DeclarationError, r"Made\.component_distribution"),
    (lambda: of_mixture(Variational, Parts(in_features=3, k=2)), DeclarationError,
        r"Made\.component_distribution"),
    *((lambda x=x: made(base=lambda self: dd.Normal(0.0, 1.0), **{x: Head()}), DeclarationError,
       rf"Made\.{x}: expected a name that is free") for x in ("network", "projection")),
    (lambda: made(base=dd.Normal, loc=Head()), DeclarationError, r"Made.*scale"),
    (lambda: made(base=dd.Bernoulli, logits=Head(), probs=Head()), DeclarationError,
        r"Made.*(logits|probs)"),
    (lambda: type(Conditional)("NoBase", (Conditional,), {"loc": Head()})(in_features=3),
        DeclarationError, r"NoBase: expected a class with a base"),
    (lambda: made(loc=Head(1.0)), DeclarationError, r"Made\.loc: expected .*constraint"),
]  # fmt: skip


@pytest.mark.parametrize("at", range(len(REFUSED)))
def test_refused(at: int) -> None:
    make, kind, said = REFUSED[at]
    with pytest.raises(kind, match=said):
        make()


class Decoder(Conditional):
    base = dd.Normal
    event_dim = 1
    loc = Head(shape=("out",))
    scale = Head(shape=("out",), init=0.5)


def test_a_bound_that_only_a_head_uses() -> None:
    class Above(Conditional):
        base = dd.Normal
        lo = Param(0.0)
        loc = Head(GreaterThan("lo"), init=0.5)
        scale = Head()

    p = Above(in_features=2, lo=-3.0, loc=-2.5)
    torch.testing.assert_close(p(torch.zeros(2)).mean, torch.tensor(-2.5))
    assert (p(100 * torch.randn(50, 2)).mean > -3.0).all()


def test_compiled_detach() -> None:
    p = Decoder(in_features=2, out=3)
    x = torch.randn(4, 2)
    compiled = torch.compile(lambda x: p.detach(x).mean, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), p(x).mean)


def test_heads_have_no_parameters_of_their_own() -> None:
    p = Decoder(in_features=2, out=3)
    with pytest.raises(DeclarationError, match="which is predicted. Its weights are in 'projec"):
        p.freeze("loc")
    p.freeze("projection")
    assert not p.projection.weight.requires_grad


def test_overriding_in_subclasses() -> None:
    class Fixed(Regression):
        scale = 2.0

    class Learned(Regression):
        scale = Param(3.0, Exp())

    class Predicted(Policy):
        scale = Head(Exp(), shape=("actions",), init=0.5)

    assert Fixed(in_features=3).projection.out_features == 1
    assert Fixed(in_features=3)(torch.zeros(3)).scale.item() == 2.0
    assert Learned(in_features=3).raw_scale.requires_grad
    p = Predicted(in_features=3, actions=2)
    assert p.projection.out_features == 4
    assert "raw_scale" not in dict(p.named_parameters())
    torch.testing.assert_close(p(torch.zeros(3)).stddev, torch.tensor([0.5, 0.5]))


def test_a_head_takes_no_value() -> None:
    p = Policy(in_features=3, actions=2)
    assert p.loc is Policy.loc
    assert isinstance(p.loc, Head)
    with pytest.raises(FieldError, match=r"Policy\.loc: expected no assignment to a head"):
        p.loc = torch.zeros(2)
    with pytest.raises(FieldError, match=r"Policy\.loc"):
        p.assign(scale=2.0, loc=0.0)
    torch.testing.assert_close(p.scale, torch.ones(2))


@pytest.mark.parametrize(
    "method", ["log_prob", "rsample", "sample", "entropy", "cdf", "icdf", "rsample_and_log_prob"]
)
def test_methods_of_a_distribution_ask_for_a_context(method: str) -> None:
    for arguments in ((), (torch.zeros(2),)):
        with pytest.raises(FieldError, match=r"Policy: expected a context first.*q\(context"):
            getattr(Policy(in_features=3, actions=2), method)(*arguments)


# Detached snapshots.


def test_detach_keeps_gradients_of_context_and_values(p: Conditional, name: str) -> None:
    x = context().requires_grad_()
    y = value_for(p, x.detach())
    if y.is_floating_point():
        y.requires_grad_()
    snapshot = p.detach(x)
    log_prob = snapshot.log_prob(y)
    torch.testing.assert_close(log_prob, p(x).log_prob(y))
    log_prob.sum().backward()
    assert all(parameter.grad is None for parameter in p.parameters())
    assert x.grad is not None
    if name not in ("range", "floor range"):
        assert y.grad.abs().sum() > 0
    assert all(parameter.requires_grad for parameter in p.parameters())


def test_detach_is_a_snapshot_and_takes_all_arguments() -> None:
    p = Regression(network=Two())
    x = context()
    old = p.detach(x, y=x, scale=2.0)
    before = old.loc.clone()
    torch.testing.assert_close(before, p(x, x, scale=2.0).loc)
    with torch.no_grad():
        for parameter in p.parameters():
            parameter.add_(1.0)
    assert torch.equal(old.loc, before)
    policy = Policy(in_features=3, actions=2)
    old = policy.detach(x)
    with torch.no_grad():
        policy.raw_scale.add_(1.0)
    torch.testing.assert_close(old.stddev, torch.ones(5, 2))


# State.


def mean_and_noise(heads: dict[str, Head]) -> type[Conditional]:
    return type(Conditional)("Family", (Conditional,), {"base": dd.Normal, **heads})


def test_the_state_refuses_other_heads() -> None:
    family = mean_and_noise({"loc": Head(shape=2), "scale": Head(Exp(), shape=2)})
    state = family(in_features=3).state_dict()
    family(in_features=3).load_state_dict(state)
    others = {
        "order": {"scale": Head(Exp(), shape=2), "loc": Head(shape=2)},
        "sizes": {"loc": Head(shape=3), "scale": Head(Exp(), shape=1)},
        "total": {"loc": Head(shape=3), "scale": Head(Exp(), shape=3)},
        "constraint": {"loc": Head(shape=2), "scale": Head(Positive(), shape=2)},
    }
    for kind, heads in others.items():
        other = mean_and_noise(heads)(in_features=3)
        before = copy.deepcopy(other.state_dict())
        with pytest.raises(StateMismatchError, match=r"Family\.") as raised:
            other.load_state_dict(state)
        assert "heads" in str(raised.value) or kind == "constraint"
        for key, tensor in other.state_dict().items():
            assert torch.equal(tensor, before[key])


def test_the_state_refuses_another_arrangement_of_the_same_count() -> None:
    shapes = ((2, 3), (3, 2))
    saved, turned = (
        mean_and_noise({"loc": Head(shape=shape), "scale": Head(shape=shape)})(3)
        for shape in shapes
    )
    state = saved.state_dict()
    with pytest.raises(StateMismatchError, match=r"Family\."):
        turned.load_state_dict(state)


def test_the_state_refuses_other_heads_inside_parents() -> None:
    one = nn.Sequential(nn.Identity(), mean_and_noise({"loc": Head(), "scale": Head()})(3))
    two = nn.Sequential(nn.Identity(), mean_and_noise({"scale": Head(), "loc": Head()})(3))
    with pytest.raises(StateMismatchError, match=r"Family\.heads"):
        two.load_state_dict(one.state_dict())


def test_a_field_called_heads_keeps_its_constraint_in_the_state() -> None:
    def family(constraint: Constraint) -> Conditional:
        class Named(Conditional):
            heads = Param(1.0, constraint)
            loc = Head()

            def base(self, heads: Tensor, loc: Tensor) -> dd.Normal:
                return dd.Normal(loc, heads)

        return Named(in_features=2)

    with pytest.raises(StateMismatchError, match=r"Named\.heads"):
        family(Positive()).load_state_dict(family(Exp()).state_dict())


class Drawn(Conditional):
    base = dd.Normal
    loc = Head(init=lambda shape: torch.rand(shape))
    scale = Head(LogInterval(1e-3, 10.0))


class DrawnParam(Conditional):
    base = dd.Normal
    loc = Param(lambda shape: torch.rand(shape))
    scale = Head()


@pytest.mark.parametrize("family", [DrawnParam, Drawn, Mixture])
def test_pickle_with_a_start_that_cannot_be_pickled(family: type[Conditional]) -> None:
    p = family(in_features=3, k=2) if family is Mixture else family(in_features=3)
    other = pickled(p)
    assert torch.equal(other(context()).mean, p(context()).mean)


def pickled(p: Conditional) -> Conditional:
    buffer = io.BytesIO()
    torch.save(p, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert type(pickle.loads(pickle.dumps(p))) is type(loaded)
    return loaded


def test_a_context_on_the_meta_device(p: Conditional) -> None:
    dd.Distribution.set_default_validate_args(False)  # torch's checks read values
    p.to("meta")
    d = p(torch.zeros(4, 3, device="meta"))
    assert d.batch_shape == (4,)
    assert d.mean.is_meta


def test_dtype_and_device_come_from_the_network() -> None:
    p = Policy(in_features=4, actions=2, network=nn.Linear(3, 4).double())
    assert {q.dtype for q in p.parameters()} == {torch.float64}
    assert p(context().double()).mean.dtype == torch.float64
    p = Policy(in_features=4, actions=2, network=nn.Linear(3, 4, device="meta"))
    assert all(q.is_meta for q in p.parameters())
    p = Regression(in_features=3, dtype=torch.bfloat16)
    assert p(context().bfloat16()).scale.dtype == torch.bfloat16
    net = nn.Sequential(nn.Linear(4, 4, dtype=torch.bfloat16), nn.Linear(4, 16))
    assert Regression(in_features=16, network=net).projection.weight.dtype == torch.float32
    wide = Regression(in_features=16, network=nn.Linear(4, 16), dtype=torch.float64)
    assert wide.projection.weight.dtype == torch.float64


# Autocast.


@pytest.mark.parametrize(
    ("constraint", "dtype"), list(zip(KINDS, 5 * (torch.bfloat16, torch.float16), strict=True))
)
def test_under_autocast_constraints_are_computed_in_float32(
    constraint: str, dtype: torch.dtype
) -> None:
    case = CASES[constraint]
    one = by_constraint(case)(in_features=3)
    with torch.no_grad():
        one.projection.weight.normal_()
    x = context()
    with torch.autocast("cpu", dtype=dtype):
        raw = one.projection(x)
        value = one(x).loc
    assert raw.dtype == dtype
    assert value.dtype == torch.float32
    raw = raw.float().reshape(5, *case.make().raw_shape(case.shape))
    torch.testing.assert_close(value, case.make()(raw), rtol=1e-6, atol=1e-7)
    assert case.make().contains(value).all()


def test_autocast_of_a_network_that_predicts_directly() -> None:
    p = Shares(network=nn.Linear(3, 4), k=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert p(context()).logits.dtype == torch.float32
    wide = Shares(network=nn.Linear(3, 4).double(), k=4)
    assert wide(context().double()).logits.dtype == torch.float64


# Compilation.


@pytest.mark.usefixtures("fresh_compiler")
def test_compiling_under_autocast() -> None:
    p = FullRank(in_features=3, d=2)

    def mean(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            d = p(x)
            return d.loc, d.scale_tril

    mine, theirs = (
        torch.compile(mean, fullgraph=True, backend="eager")(context()),
        mean(context()),
    )
    for one, other in zip(mine, theirs, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other)


class Act(nn.Module):
    def __init__(self, policy: Conditional) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, x: Tensor) -> Tensor:
        return self.policy(x).mean


@pytest.mark.parametrize("name", ["policy"])
@pytest.mark.usefixtures("fresh_compiler")
def test_export_of_the_mean(p: Conditional) -> None:
    x = context()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(Act(p), (x,), strict=False, dynamic_shapes={"x": {0: batch}})
    for count in (5, 9):
        x = context(count)
        torch.testing.assert_close(program.module()(x), p(x).mean)
    assert set(program.state_dict) == {f"policy.{key}" for key in p.state_dict()}


# As a module among modules.


def test_hooks_fire_once_per_call() -> None:
    p = Nest(in_features=3, k=2)
    calls: list[str] = []
    p.register_forward_hook(lambda module, args, output: calls.append("outer"))
    p.mixture_distribution.register_forward_hook(lambda *args: calls.append("inner"))
    p(context())
    assert calls == ["inner", "outer"]
    p.detach(context())
    assert calls == ["inner", "outer"] * 2
    q = Policy(in_features=3, actions=2)
    q.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    torch.testing.assert_close(q(context()).mean, q.projection(2 * context()))
    q.register_forward_hook(lambda module, args, output: output.expand((7, 5)))
    assert q(context()).batch_shape == (7, 5)


def test_repr() -> None:
    p = Policy(in_features=4, actions=2, network=nn.Linear(3, 4))
    rule = "LogInterval(low=0.001, high=10.0)"
    text = repr(p)
    assert text.splitlines() == [
        "Policy(Normal",
        "  (loc): predicted, of shape (2,), Real()",
        f"  (scale): [1.0, 1.0], {rule}",
        "  (network): Linear(in_features=3, out_features=4, bias=True)",
        "  (projection): Linear(in_features=4, out_features=2, bias=True)",
        ")",
    ]
    assert repr(Head()) == "Head()"
    assert repr(Head(Exp, shape="d")) == "Head(Exp, shape=('d',))"
    assert repr(Policy.loc) == "Head(Real(), shape=('actions',))"
    assert repr(Regression.scale) == "Head(Exp(), init=0.5)"


def test_no_state_is_kept_between_calls(p: Conditional) -> None:
    before = {key: id(value) for key, value in vars(p).items()}
    x = context()
    p(x).log_prob(value_for(p, x)).sum().backward()
    assert {key: id(value) for key, value in vars(p).items()} == before


# Validation.


def test_arguments_by_heads_alone_are_not_validated() -> None:
    p = Regression(in_features=3)
    d = p(torch.full((2, 3), NAN))  # plain torch raises here
    assert d.scale.isnan().all()
    with pytest.raises(ValueError, match="NaN|nan|constraint"):
        dd.Normal(d.loc, d.scale)
    matrix = FullRank(in_features=3, d=2)(torch.full((2, 3), NAN))
    assert matrix.loc.isnan().all()


def test_a_derived_argument_is_validated_by_torch_default() -> None:
    class Negative(Conditional):
        base = dd.Normal
        loc = Head(init=1.0)

        @derived
        def scale(self, loc: Tensor) -> Tensor:
            return loc

    p = Negative(in_features=1)
    with torch.no_grad():
        p.projection.weight.fill_(1.0)
    p(torch.tensor([[1.0]]))
    with pytest.raises(ValueError, match="scale"):
        p(torch.tensor([[-5.0]]))
    dd.Distribution.set_default_validate_args(False)
    assert p(torch.tensor([[-5.0]])).scale.item() < 0


def test_values_are_validated_by_torch_default_and_the_class_switch() -> None:
    class Grey(Conditional):
        base = dd.Bernoulli
        validate_args = False
        logits = Head()

    class Strict(Conditional):
        base = dd.Bernoulli
        logits = Head()

    x, grey = torch.zeros(2, 3), torch.tensor([0.5, 0.25])
    torch.testing.assert_close(Grey(in_features=3)(x).log_prob(grey), torch.full((2,), 0.5).log())
    with pytest.raises(ValueError, match="support"):
        Strict(in_features=3)(x).log_prob(grey)
    with pytest.raises(ValueError, match="support"):
        GammaByMean(in_features=3)(x).log_prob(torch.tensor([-1.0, 1.0]))


def test_names_that_only_a_conditional_keeps() -> None:
    class Free(Variational):
        projection = Param(0.5)

        def base(self, projection: Tensor) -> dd.Normal:
            return dd.Normal(projection, 1.0)

    assert Free().mean.item() == 0.5


def test_a_class_without_fields_predicts_all_arguments() -> None:
    class Every(Conditional):
        base = dd.MultivariateNormal

    every = Every(in_features=3, dim=2)
    assert list(fields_of(Every)) == ["loc", "scale_tril"]
    assert all(isinstance(field, Head) for field in fields_of(Every).values())
    d = every(torch.zeros(4, 3))
    assert torch.equal(d.scale_tril, torch.eye(2).expand(4, 2, 2))
    assert [name for name, _ in every.named_parameters()] == [
        "projection.weight",
        "projection.bias",
    ]


def test_the_order_of_heads_matters_only_for_a_layer() -> None:
    class Turned(Conditional):
        base = dd.Normal
        scale = Head(Exp(), init=0.5)
        loc = Head(init=0.25)

    saved = Regression(network=Two()).state_dict()
    Turned(network=Two()).load_state_dict(saved)
    with pytest.raises(StateMismatchError, match=r"Declare the heads in that order"):
        Turned(in_features=3).load_state_dict(Regression(in_features=3).state_dict())

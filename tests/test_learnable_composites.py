"""`learnable` on nests: distributions made of distributions and transforms, at any depth."""

from __future__ import annotations

import pickle
from typing import Any, ClassVar

import pytest
import torch
import torch.distributions as dd
from torch import Tensor, nn
from torch.distributions import constraints, transforms

from declarative_dist import (
    ConstraintError,
    DeclarationError,
    LearnableTransform,
    Param,
    Variational,
    learnable,
)
from declarative_dist.testing import check_distribution
from tests.composites import (
    COMPOSITES,
    NO_DENSITY,
    SinhArcsinh,
    affine,
    live,
    logits,
    normal,
    plain,
    real,
    same,
    spread,
    with_leaves,
)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # torch warns at the first draw of every Wishart, singular or not.
    pytest.mark.filterwarnings("ignore:Singular sample:UserWarning"),
]

WITH_DENSITY = [name for name in COMPOSITES if name not in NO_DENSITY]


def drawn(distribution: dd.Distribution, *sample_shape: int, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return distribution.sample(sample_shape)


def names_of(q: nn.Module) -> list[str]:
    return [name for name, _ in q.named_parameters()]


def value_of(q: nn.Module, name: str) -> Tensor:
    """The constrained value behind the full name of a raw parameter."""
    path, _, raw = name.rpartition(".")
    return getattr(q.get_submodule(path), raw.removeprefix("raw_"))


DISTINCT = (
    "independent", "independent of a triangle", "mixture by probs", "mixture in a batch",
    "mixture of Wishart", "mixture of counts", "affine, negative", "power", "correlation",
    "inverse of a composed", "copula", "side by side", "reshaped", "own family", "simplex",
    "transformed mixture of vectors", "transformed twice", "everything",
)  # fmt: skip
"""Nests of which no two go the same way."""


# Agreement with plain torch.


@pytest.mark.parametrize("name", COMPOSITES)
def test_it_agrees_with_plain_torch(name: str) -> None:
    """And learns the tensors it was given, but no numbers."""
    q, reference = live(name), plain(name)
    assert type(q()) is type(reference)
    assert (q.batch_shape, q.event_shape) == (reference.batch_shape, reference.event_shape)
    assert q.has_rsample == reference.has_rsample
    assert q()._validate_args == reference._validate_args
    _, leaves = with_leaves(name)
    for (key, parameter), leaf in zip(q.named_parameters(), leaves, strict=True):
        assert parameter.is_leaf
        torch.testing.assert_close(value_of(q, key).detach(), leaf.detach(), msg=key)
    x = drawn(reference, 4, 2)
    torch.testing.assert_close(drawn(q, 4, 2), x, rtol=1e-4, atol=1e-4)
    if name in NO_DENSITY:
        return
    mine, theirs = q.support, reference.support
    assert type(mine) is type(theirs)
    assert (mine.event_dim, mine.is_discrete) == (theirs.event_dim, theirs.is_discrete)
    torch.testing.assert_close(q.log_prob(x), reference.log_prob(x), rtol=1e-4, atol=1e-4)


# Parameters.


@pytest.mark.parametrize("name", WITH_DENSITY)
@pytest.mark.usefixtures("float64")
def test_gradients_are_those_of_the_arguments(name: str) -> None:
    reference, leaves = with_leaves(name)
    x = drawn(plain(name), 5)
    reference.log_prob(x).sum().backward()
    q = learnable(plain(name))
    assert all(p.dtype == torch.float64 for p in q.parameters())
    log_prob = q.log_prob(x)
    torch.testing.assert_close(log_prob, plain(name).log_prob(x), rtol=1e-9, atol=1e-9)
    log_prob.sum().backward()
    for (key, parameter), leaf in zip(q.named_parameters(), leaves, strict=True):
        # What the gradient by the value says of the raw number, by the constraint's own slope.
        (expected,) = torch.autograd.grad(value_of(q, key), parameter, leaf.grad)
        assert parameter.grad is not None, key
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-7, atol=1e-9, msg=key)
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("fixed", [(), ("base_distribution.scale", "transforms")])
def test_what_was_given_is_copied(fixed: tuple[str, ...]) -> None:
    scale, shift = torch.ones(3), torch.zeros(3)
    given = dd.TransformedDistribution(dd.Normal(0.0, scale), dd.AffineTransform(shift, 1.0))
    q = learnable(given, fixed=fixed)
    before = q.log_prob(torch.ones(3))
    scale.fill_(9.0)
    shift.fill_(9.0)
    torch.testing.assert_close(q.log_prob(torch.ones(3)), before)
    for parameter in q.parameters():
        parameter.data.fill_(1.0)
    assert [*scale.tolist(), *shift.tolist()] == [9.0] * 6


def test_results_of_computations_become_parameters() -> None:
    raw = torch.zeros(3, requires_grad=True)
    given = dd.TransformedDistribution(
        dd.Normal(2 * raw, raw.exp()), dd.AffineTransform(raw + 1, raw.exp())
    )
    q = learnable(given)
    assert len(names_of(q)) == 4
    for _ in range(2):
        q.log_prob(torch.zeros(3)).sum().backward()
    assert raw.grad is None


def test_expanded_arguments_become_parameters_of_their_own() -> None:
    q = learnable(dd.TransformedDistribution(dd.Normal(0.0, 1.0), affine(same, 3)).expand((2, 3)))
    assert q.base_distribution.raw_loc.shape == (2, 3)
    assert q.transforms[0].raw_loc.shape == (3,)
    q.log_prob(torch.randn(2, 3)).sum().backward()
    assert q.base_distribution.raw_loc.grad.unique().numel() == 6


# Signs.


EXTREME = (-1e30, -100.0, 0.0, 100.0, 1e30)


@pytest.mark.parametrize("raw", EXTREME)
@pytest.mark.parametrize("sign", [1, -1])
def test_scales_and_exponents_keep_their_sign(sign: int, raw: float) -> None:
    scaled = learnable(dd.TransformedDistribution(normal(same, 3), affine(same, 3, sign=sign)))
    power = learnable(
        dd.TransformedDistribution(
            dd.Gamma(spread(3), spread(3)), dd.PowerTransform(sign * spread(3))
        )
    )
    with torch.no_grad():
        scaled.transforms[0].raw_scale.fill_(raw)
        power.transforms[0].raw_exponent.fill_(raw)
    for value in (scaled.transforms[0].scale, power.transforms[0].exponent):
        assert (value.sign() == sign).all()
        assert value.isfinite().all()


@pytest.mark.parametrize("raw", EXTREME)
@pytest.mark.parametrize("sign", [1, -1])
def test_density_and_gradient_are_finite_at_any_scale(sign: int, raw: float) -> None:
    q = learnable(
        dd.TransformedDistribution(
            dd.Normal(torch.zeros(3), 1.0), dd.AffineTransform(0.0, sign * spread(3))
        )
    )
    with torch.no_grad():
        q.transforms[0].raw_scale.fill_(raw)
    log_prob = q.log_prob(drawn(q, 5))
    assert log_prob.isfinite().all()
    log_prob.sum().backward()
    assert q.transforms[0].raw_scale.grad.isfinite().all()


@pytest.mark.parametrize("transform", [
    lambda: dd.AffineTransform(0.0, torch.zeros(2)),
    lambda: dd.AffineTransform(0.0, torch.tensor([1.0, 0.0])),
    lambda: dd.PowerTransform(torch.zeros(2)),
])  # fmt: skip
def test_a_scale_or_an_exponent_of_zero_is_refused(transform: Any) -> None:
    given = dd.TransformedDistribution(dd.Gamma(spread(2), spread(2)), transform())
    with pytest.raises(ConstraintError, match=r"scale|exponent"):
        learnable(given)


def test_values_at_the_edge_are_refused_inside_parts() -> None:
    weights = torch.tensor([0.0, 1.0])
    with pytest.raises(ConstraintError, match="probs"):
        learnable(dd.MixtureSameFamily(dd.Categorical(weights), normal(same, 2)))


# Arguments held constant.


def mixture() -> dd.Distribution:
    return dd.MixtureSameFamily(logits(same, 3), normal(same, 3))


def flow() -> dd.Distribution:
    return dd.TransformedDistribution(
        normal(same, 3),
        [
            affine(same, 3),
            dd.TanhTransform(),
            dd.ComposeTransform([dd.AffineTransform(2.0, spread(3)), dd.ExpTransform()]),
        ],
    )


FLOW = [
    "base_distribution.raw_loc", "base_distribution.raw_scale", "transforms.0.raw_loc",
    "transforms.0.raw_scale", "transforms.2.parts.0.raw_scale",
]  # fmt: skip


@pytest.mark.parametrize(("fixed", "held"), [
    ("base_distribution", FLOW[:2]), (("base_distribution.scale",), FLOW[1:2]),
    (["transforms.0.loc"], FLOW[2:3]), ("transforms.0", FLOW[2:4]),
    ("transforms.2.parts.0.scale", FLOW[4:]), ("transforms.2", FLOW[4:]),
    ("transforms", FLOW[2:]), (("transforms", "base_distribution.loc"), [FLOW[0], *FLOW[2:]]),
    (iter(["base_distribution.loc"]), FLOW[:1]), ("transforms.0.event_dim", []), ((), []),
])  # fmt: skip
def test_dotted_names_are_held_constant(fixed: Any, held: list[str]) -> None:
    q = learnable(flow(), fixed=fixed)
    assert names_of(q) == [name for name in FLOW if name not in held]
    x = drawn(flow(), 4)
    torch.testing.assert_close(q.log_prob(x), flow().log_prob(x), rtol=1e-4, atol=1e-4)
    if len(held) < len(FLOW):
        q.log_prob(x).sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in q.parameters())


def test_a_fixed_argument_does_not_change_in_training_but_moves_and_saves() -> None:
    name = "component_distribution.scale"
    q, other = (learnable(mixture(), fixed=(name,)) for _ in range(2))
    before = q.component_distribution.scale.clone()
    optimizer = torch.optim.Adam(q.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (-q.log_prob(torch.randn(10))).mean().backward()
        optimizer.step()
    assert torch.equal(q.component_distribution.scale, before)
    assert q.double().component_distribution.scale.dtype == torch.float64
    state = q.float().state_dict()
    other.load_state_dict({**state, name: state[name] + 1.0})
    torch.testing.assert_close(other().component_distribution.scale, before + 1)


PART = {"mixture_distribution": logits(same, 3), "component_distribution": normal(same, 3)}


@pytest.mark.parametrize(("make", "fixed", "message"), [
    (mixture, "component_distribution.scle", "Did you mean 'scale'"),
    (mixture, "component_distributions", "Did you mean 'component_distribution'"),
    (mixture, "mixture_distribution.probs", "logits"),
    (mixture, "scale", "component_distribution"),
    (mixture, "", "mixture_distribution"),
    (mixture, "component_distribution.", "scale"),
    # A name that nothing has must not pass for one that is held.
    (mixture, "component_distribution.scale.value", "scale.value|'value'"),
    (mixture, ("component_distribution", "component_distribution.scle"), "scle"),
    *((flow, name, "fixed") for name in (
        "transforms.0.lok", "transforms.1.loc", "transforms.3.loc", "transforms.2.parts.1.scale",
        "transforms.0.loc.0",
    )),
    *((mixture, no_text, "fixed") for no_text in (3, None, (3,), (None,))),
    (lambda: dd.MixtureSameFamily, ("component_distribution.scle",), "scle"),
    (lambda: dd.Normal, ("loc.value",), "fixed"),
])  # fmt: skip
def test_wrong_names_are_refused(make: Any, fixed: Any, message: str) -> None:
    with pytest.raises(DeclarationError, match=message) as caught:
        learnable(make(), fixed=fixed)(**PART)  # a class sees its parts only then
    assert "fixed" in str(caught.value)


def test_live_parts_are_used_as_they_are() -> None:
    part = learnable(normal(same, 3))
    q = learnable(dd.Independent(part, 1))
    assert {id(p) for p in q.parameters()} == {id(p) for p in part.parameters()}
    with torch.no_grad():
        part.raw_loc.add_(1.0)
    x = torch.zeros(3)
    torch.testing.assert_close(q.log_prob(x), part.log_prob(x).sum())


def test_what_is_inside_a_live_part_cannot_be_fixed() -> None:
    part = learnable(normal(same, 3))
    with pytest.raises(DeclarationError, match=r"fixed=.*live already\. Call its freeze"):
        learnable(dd.Independent(part, 1), fixed=("base_distribution.scale",))


# The class form.


def test_a_class_takes_plain_parts() -> None:
    family = learnable(dd.MixtureSameFamily)
    q, other = family(**PART), family(**PART)
    assert type(q()) is dd.MixtureSameFamily
    assert names_of(q) == names_of(learnable(mixture()))
    x = torch.randn(5)
    torch.testing.assert_close(q.log_prob(x), mixture().log_prob(x))
    assert not {id(p) for p in q.parameters()} & {id(p) for p in other.parameters()}


def test_a_class_takes_a_list_of_transforms_or_one() -> None:
    family = learnable(dd.TransformedDistribution)
    for transform in (affine(same, 3), [affine(same, 3)]):
        q = family(base_distribution=normal(same, 3), transforms=transform)
        assert names_of(q)[2:] == ["transforms.0.raw_loc", "transforms.0.raw_scale"]
        x = torch.randn(5, 3)
        expected = dd.TransformedDistribution(normal(same, 3), affine(same, 3)).log_prob(x)
        torch.testing.assert_close(q.log_prob(x), expected)


def test_a_class_takes_live_parts_and_shares_them() -> None:
    part = learnable(normal(same, 3))
    family = learnable(dd.Independent)
    q = family(base_distribution=part, reinterpreted_batch_ndims=1)
    again = family(base_distribution=part, reinterpreted_batch_ndims=1)
    assert [id(p) for p in q.parameters()] == [id(p) for p in again.parameters()]


def test_the_class_is_cached_and_pickles() -> None:
    family = learnable(dd.MixtureSameFamily)
    assert learnable(dd.MixtureSameFamily) is family
    assert pickle.loads(pickle.dumps(family)) is family
    assert type(learnable(mixture())) is type(learnable(mixture()))


def test_a_class_with_a_dotted_name_held_constant() -> None:
    q = learnable(dd.MixtureSameFamily, fixed=("component_distribution.scale",))(**PART)
    assert names_of(q) == ["mixture_distribution.raw_logits", "component_distribution.raw_loc"]


NORMAL = {"base_distribution": normal(same, 3)}
EXP = {"base_distribution": dd.ExpTransform()}
SIZES = r"mixture_distribution.*component_distribution"


@pytest.mark.parametrize(("base", "keywords", "message"), [
    (dd.MixtureSameFamily, {"mixture_distribution": logits(same, 3)}, "component_distr"),
    (dd.MixtureSameFamily, {**PART, "mixture_distribution": normal(same, 3)}, "a Categorical"),
    (dd.MixtureSameFamily, {**PART, "mixture_distribution": logits(same, 2)}, SIZES),
    (dd.MixtureSameFamily, {**PART, "component_distribution": dd.Normal(0.0, 1.0)}, SIZES),
    (dd.Independent, NORMAL, "reinterpreted_batch_ndims"),
    (dd.Independent, {**NORMAL, "reinterpreted_batch_ndims": 2}, "Independent"),
    (dd.Independent, {"base_distribution": 3.0, "reinterpreted_batch_ndims": 0}, "a distrib"),
    (dd.TransformedDistribution, NORMAL, "transforms"),
    (dd.TransformedDistribution, {**NORMAL, "transforms": [dd.TanhTransform]}, "transforms"),
    (dd.TransformedDistribution, {**EXP, "transforms": [dd.TanhTransform()]}, "base_distribution"),
])  # fmt: skip
def test_a_class_refuses_wrong_parts(base: Any, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises((ConstraintError, DeclarationError), match=message) as caught:
        learnable(base)(**keywords)
    assert f"Live{base.__name__}" in str(caught.value)


@pytest.mark.parametrize(("base", "parts"), [
    (dd.MixtureSameFamily, PART),
    (dd.Independent, {**NORMAL, "reinterpreted_batch_ndims": 1}),
    (dd.TransformedDistribution, {**NORMAL, "transforms": [affine(same, 3)]}),
])  # fmt: skip
def test_independent_copies_of_plain_parts(base: Any, parts: Any) -> None:
    single = learnable(base)(**parts)
    q = learnable(base)(**parts, batch_shape=(4,), dtype=torch.float64)
    assert q.batch_shape == (4, *single.batch_shape)
    assert all(p.dtype == torch.float64 and p.shape[0] == 4 for p in q.parameters())
    x = drawn(single, 2)
    torch.testing.assert_close(
        q.log_prob(x.double()[:, None])[:, 1], single.log_prob(x), check_dtype=False
    )


@pytest.mark.parametrize("x", [dd.AffineTransform(0.0, 1.0), dd.AffineTransform, 3.0, nn.Module])
def test_neither_a_distribution_nor_its_class(x: Any) -> None:
    with pytest.raises(DeclarationError, match="plain torch distribution"):
        learnable(x)


def test_live_already() -> None:
    for x in (learnable(mixture()), learnable(dd.MixtureSameFamily)):
        with pytest.raises(DeclarationError, match="live already"):
            learnable(x)


# Users' own classes.


class Truncated(dd.Distribution):
    """A user's own wrapper around any distribution of numbers."""

    arg_constraints: ClassVar = {"high": constraints.real}

    def __init__(self, base_dist: dd.Distribution, high: Tensor, validate_args=None) -> None:
        self.base_dist = base_dist
        self.high = torch.as_tensor(high)
        super().__init__(base_dist.batch_shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        return constraints.less_than(self.high)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base_dist.log_prob(value) - self.base_dist.cdf(self.high).log()


def test_a_part_of_a_users_own_family_is_learned() -> None:
    q = learnable(Truncated(normal(same, 3), torch.tensor(2.0)))
    assert sorted(names_of(q)) == ["base_dist.raw_loc", "base_dist.raw_scale", "raw_high"]
    x = torch.zeros(3)
    expected = Truncated(normal(same, 3), torch.tensor(2.0)).log_prob(x)
    torch.testing.assert_close(q.log_prob(x), expected)


def test_a_users_own_transform_in_a_class_body_and_in_a_nest_learn_the_same() -> None:
    class Skew(LearnableTransform):
        base = SinhArcsinh
        skew = Param(real(3))
        tail = 2.0

    class Family(Variational):
        base = dd.TransformedDistribution
        base_distribution = normal(same, 3)
        transforms: ClassVar = [Skew]

    q = learnable(dd.TransformedDistribution(normal(same, 3), SinhArcsinh(real(3), 2.0)))
    assert names_of(q)[-1] == names_of(Family())[-1] == "transforms.0.raw_skew"
    x = torch.randn(4, 3)
    torch.testing.assert_close(q.log_prob(x), Family().log_prob(x), rtol=1e-4, atol=1e-5)


class Shifting(transforms.Transform):
    """A user's own transform that holds a module."""

    domain = codomain = constraints.real
    bijective = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def _call(self, x: Tensor) -> Tensor:
        return x + self.network(torch.ones(2))

    def _inverse(self, y: Tensor) -> Tensor:
        return y - self.network(torch.ones(2))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(x)


def test_a_module_inside_a_transform_trains() -> None:
    flow = dd.TransformedDistribution(normal(same, 3), [Shifting(nn.Linear(2, 3))])
    q, x = learnable(flow), torch.randn(4, 3)
    torch.testing.assert_close(q.log_prob(x), flow.log_prob(x))
    network = "transforms.0.network."
    assert names_of(q)[2:] == [f"{network}weight", f"{network}bias"]
    q.log_prob(x).sum().backward()
    assert all(p.grad is not None for p in q.parameters())


def test_weights_without_the_batch_of_the_components() -> None:
    """Torch takes them, and scores, but cannot draw."""

    def mixtures() -> dd.Distribution:
        return dd.MixtureSameFamily(logits(same, 3), normal(same, 5, 3))

    q = learnable(mixtures())
    assert names_of(q)[0] == "mixture_distribution.raw_logits"
    assert q.mixture_distribution.raw_logits.shape == (3,)
    x = torch.randn(4, 5)
    torch.testing.assert_close(q.log_prob(x), mixtures().log_prob(x))
    torch.testing.assert_close(q.mean, mixtures().mean)
    assert q.sample((2,)).shape == (2, 5)


# Transforms, one by one.


def test_a_stack_along_the_first_dimension() -> None:
    def stacked() -> dd.Distribution:
        transform = dd.StackTransform([dd.ExpTransform(), affine(same, 3)], dim=0)
        return dd.TransformedDistribution(normal(same, 2, 3), transform)

    q = learnable(stacked())
    assert names_of(q)[2:] == ["transforms.0.tseq.1.raw_loc", "transforms.0.tseq.1.raw_scale"]
    x = drawn(stacked())
    torch.testing.assert_close(drawn(q), x)
    torch.testing.assert_close(q.log_prob(x), stacked().log_prob(x))


# Life of a module.


@pytest.mark.parametrize("name", DISTINCT)
def test_every_promise(name: str) -> None:
    # Draws and densities are torch's own, and agree with it above.
    check_distribution(live(name), skip=["score"])

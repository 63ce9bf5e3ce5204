"""Nested fields: what an instance owns, shares, takes and replaces."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributions as dd
from torch import nn
from torch.func import functional_call

from declarative_dist import (
    ConstraintError,
    DeclarationError,
    Declarative,
    FieldError,
    GreaterThan,
    Param,
    Variational,
    learnable,
)
from tests.nests import (
    MIXED_NAMES,
    Components,
    Deep,
    Encoder,
    Mixture,
    Pair,
    Shift,
    Triple,
    Weights,
    flags,
    jitter,
    made,
    mixture_of,
    plain_mixture,
    refused,
    shapes,
)
from tests.states import assert_unchanged, state_of

# --- what an instance holds -----------------------------------------------------------------


def test_parts_are_submodules_in_the_order_of_declaration():
    q = Triple()
    assert [name for name, _ in q.named_children()] == [
        "mixture_distribution",
        "component_distribution",
    ]
    assert [name for name, _ in q.named_parameters()] == MIXED_NAMES
    assert list(q.state_dict()) == MIXED_NAMES
    assert isinstance(q.component_distribution, Components)
    assert q.get_submodule("component_distribution") is q.component_distribution
    assert q.get_parameter(MIXED_NAMES[1]) is q.component_distribution.raw_loc


def test_it_is_the_mixture_that_one_builds_by_hand():
    logits, loc, scale = torch.tensor([0.0, 1.0, -1.0]), torch.randn(3), torch.rand(3) + 0.5
    q = Triple(
        mixture_distribution={"logits": logits},
        component_distribution={"loc": loc, "scale": scale},
    )
    plain = plain_mixture(logits, loc, scale)
    x = torch.linspace(-3, 3, 7)
    torch.testing.assert_close(q.log_prob(x), plain.log_prob(x))
    torch.testing.assert_close(q.mean, plain.mean)
    torch.testing.assert_close(q.variance, plain.variance)
    assert type(q()) is dd.MixtureSameFamily
    assert type(q().mixture_distribution) is dd.Categorical
    assert type(q().component_distribution) is dd.Normal
    assert (q.batch_shape, q.event_shape) == (plain.batch_shape, plain.event_shape)


def test_any_module_may_stand_in_a_class_body():
    encoder = Encoder()
    assert [name for name, _ in encoder.named_children()] == ["net"]
    assert len(list(encoder.parameters())) == 5
    assert encoder.net(torch.randn(4, 2)).shape == (4, 3)
    assert encoder.eval().net.training is False
    assert encoder.train().net[1].training is True


def test_a_private_name_may_hold_a_module():
    model = type(Declarative)("Model", (Declarative,), {"_net": nn.Linear(1, 1)})
    assert len(list(model().parameters())) == 2


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_of_modules(kind):
    class Model(Declarative):
        parts = kind([Components, Weights(logits=[1.0, 2.0]), nn.Linear(2, 2)])

    model = Model(k=3)
    assert isinstance(model.parts, nn.ModuleList)
    assert shapes(model)["parts.0.raw_loc"] == (3,)
    assert shapes(model)["parts.1.raw_logits"] == (2,)
    assert shapes(model)["parts.2.weight"] == (2, 2)


# --- copies ---------------------------------------------------------------------------------


def test_later_changes_of_what_the_body_holds_change_nothing():
    weights, net, logits = Weights(logits=[1.0, 2.0]), nn.Linear(2, 2), torch.tensor([1.0, 2.0])
    plain = dd.Categorical(logits=logits)
    expected, weight = plain.logits.clone(), net.weight.detach().clone()

    class Model(Declarative):
        declared = weights
        foreign = net
        distribution = plain
        several = [weights, net]  # noqa: RUF012

    weights.logits = 7.0
    with torch.no_grad():
        net.weight.fill_(7.0)
        logits.fill_(7.0)
        plain.logits.fill_(7.0)
    weights.freeze()
    net.register_buffer("new", torch.zeros(1))
    model = Model()
    assert model.declared.logits.tolist() == [1.0, 2.0]
    assert model.several[0].logits.tolist() == [1.0, 2.0]
    assert all(flags(model).values())
    assert torch.equal(model.foreign.weight, weight)
    assert "foreign.new" not in model.state_dict()
    torch.testing.assert_close(model.distribution().logits, expected)


def test_what_was_trained_and_frozen_is_copied_as_it_is():
    components = Components(loc=[1.0, 2.0, 3.0])
    components.freeze("scale")
    with torch.no_grad():
        components.raw_loc.add_(1.0)
    q = mixture_of(Weights, components)()
    assert q.component_distribution.loc.tolist() == [2.0, 3.0, 4.0]
    assert flags(q) == dict(zip(MIXED_NAMES, [True, True, False], strict=True))


@pytest.mark.parametrize("build", [
    lambda q: q(), lambda q: q(batch_shape=(2,)), lambda q: q(dtype=torch.float64),
    lambda q: copy.deepcopy(q()),
])  # fmt: skip
def test_frozen_parts_stay_frozen(build):
    live = learnable(dd.Normal(torch.zeros(3), torch.ones(3)))
    live.freeze("loc")
    q = build(mixture_of(Weights(k=3), live))
    for _ in range(2):
        assert flags(q) == dict(zip(MIXED_NAMES, [True, False, True], strict=True))
        q.reset_parameters()
        q.double()


# --- ties -----------------------------------------------------------------------------------


def test_the_same_instance_under_two_names_is_one_module():
    one, two = Pair(), Pair()
    assert one.left is one.right
    assert one.left is not one.other
    assert one.left is not two.left
    assert [name for name, _ in one.named_parameters()] == ["left.raw_logits", "other.raw_logits"]
    assert list(one.state_dict()) == ["left.raw_logits", "right.raw_logits", "other.raw_logits"]
    one.left.logits = 4.0
    assert one.right.logits.tolist() == [4.0, 4.0]
    assert one.other.logits.tolist() == two.right.logits.tolist() == [1.0, 2.0]
    many = Pair(batch_shape=(4,))
    assert many.left is many.right
    assert many.left.logits.shape == many.other.logits.shape == (4, 2)
    weights = Weights(k=3)
    given = Pair(left=weights, right=weights)
    assert given.left is given.right is weights


def test_functional_call_replaces_a_tied_part_under_both_names():
    class Sum(Variational):
        left = twin = Components(loc=[0.0], scale=[1.0])
        right = twin

        def base(self, left, right):
            return dd.Normal(left.loc + right.loc, 1.0)

        del twin

    q = Sum()
    replaced = functional_call(q, {"left.raw_loc": torch.tensor([3.0])}, ())
    assert replaced.loc.tolist() == [6.0]


# --- what the constructor is given ----------------------------------------------------------


def test_a_class_is_instantiated():
    class Heavy(Components):
        base = dd.StudentT
        df = 4

    q = Mixture(component_distribution=Heavy, k=2)
    assert isinstance(q.component_distribution, Heavy)
    assert q.component_distribution.loc.shape == (2,)


def test_a_plain_distribution_is_held_constant():
    loc, scale = torch.tensor([1.0, 3.0]), torch.tensor([0.5, 2.0])
    q = Mixture(
        mixture_distribution={"logits": [0.0, 1.0]}, component_distribution=dd.Normal(loc, scale)
    )
    assert [name for name, _ in q.named_parameters()] == MIXED_NAMES[:1]
    torch.testing.assert_close(q.mean, plain_mixture(torch.tensor([0.0, 1.0]), loc, scale).mean)


def test_none_means_what_the_class_says():
    q = Triple(component_distribution=None, mixture_distribution=None)
    assert q.mixture_distribution.logits.tolist() == [0.0, 0.0, 0.0]


def test_a_callable_in_a_dict_gets_the_full_shape():
    given = []

    def start(shape):
        given.append(shape)
        return torch.zeros(shape)

    Mixture(k=3, batch_shape=(2,), component_distribution={"loc": start})
    assert given == [torch.Size([2, 3])]


@pytest.mark.parametrize(
    "values", [[{"scale": 3.0}, {}], {0: {"scale": 3.0}}, {"0": {"scale": 3.0}}]
)
def test_values_for_the_items_of_a_list(values):
    q = Deep(k=2, transforms=values)
    torch.testing.assert_close(q.transforms[0].scale, torch.tensor(3.0))
    assert type(q().transforms[1]) is dd.ExpTransform


def test_a_dict_for_a_class_without_a_template():
    class Open(Variational):
        base = dd.MixtureSameFamily

    q = Open(mixture_distribution=Weights(k=2), component_distribution=Components(k=2))
    assert shapes(q) == dict.fromkeys(MIXED_NAMES, (2,))
    text = refused(Open, ConstraintError, "Open.mixture_distribution: expected")
    assert "Open(mixture_distribution=" in text


# A dict changes what it names in what the class body holds, and nothing else.


def test_values_for_an_instance_keep_its_other_values():
    components = Components(loc=[1.0, 2.0, 3.0], scale=[1.0, 2.0, 3.0])
    q = mixture_of(Weights(k=3), components)(component_distribution={"scale": 5.0})
    assert q.component_distribution.loc.tolist() == [1.0, 2.0, 3.0]
    torch.testing.assert_close(q.component_distribution.scale, torch.full((3,), 5.0))
    torch.testing.assert_close(components.scale, torch.tensor([1.0, 2.0, 3.0]))


def test_values_for_an_instance_keep_the_values_of_its_own_parts():
    inner = Mixture(component_distribution={"loc": [1.0, 2.0, 3.0]})
    outer = made(dd.TransformedDistribution, base_distribution=inner, transforms=[Shift])
    q = outer(base_distribution={"mixture_distribution": {"logits": [0.0, 0.0, 5.0]}})
    assert q.base_distribution.component_distribution.loc.tolist() == [1.0, 2.0, 3.0]
    assert q.base_distribution.mixture_distribution.logits.tolist() == [0.0, 0.0, 5.0]


class Ends(Declarative):
    low = Param(0.0)
    high = Param(1.0, GreaterThan("low"))


def test_an_instance_whose_bound_has_moved_past_a_start_keeps_its_values():
    ends = Ends()
    ends.low = 3.0  # above where high started, which moves along
    outer = type(Declarative)("Outer", (Declarative,), {"part": ends})()
    assert outer.part.low == 3.0
    assert outer.part.high == ends.high
    jitter(outer)
    outer.reset_parameters()
    torch.testing.assert_close(outer.part.high, ends.high)


@pytest.mark.parametrize("loc", [torch.arange(3.0), torch.arange(6.0).reshape(2, 3)])
def test_values_for_an_instance_and_copies(loc):
    family = mixture_of(Weights(k=3), Components(loc=[7.0, 8.0, 9.0], scale=2.0))
    q = family(batch_shape=(2,), component_distribution={"loc": loc})
    assert q.batch_shape == (2,)
    assert torch.equal(q.component_distribution.loc, loc.expand(2, 3))
    torch.testing.assert_close(q.component_distribution.scale, torch.full((2, 3), 2.0))
    own = mixture_of(Weights(k=3), Components(k=3, batch_shape=(2,)))
    assert own(component_distribution={"scale": 2.0}).batch_shape == (2,)


def test_values_for_an_instance_are_those_that_a_reset_goes_back_to():
    family = mixture_of(Weights(k=3), Components(loc=[7.0, 8.0, 9.0], scale=2.0))
    q = family(component_distribution={"loc": [1.0, 2.0, 3.0]})
    before = state_of(q)
    jitter(q)
    q.reset_parameters()
    assert_unchanged(q, before)
    q = family(device="meta", component_distribution={"loc": [1.0, 2.0, 3.0]})
    assert all(tensor.is_meta for tensor in q.state_dict().values())
    q.to_empty(device="cpu")
    q.reset_parameters()
    assert_unchanged(q, before)


def test_values_for_a_tied_part_keep_the_tie():
    q = Pair(left={"logits": [5.0, 6.0]})
    assert q.left is q.right
    assert q.right.logits.tolist() == [5.0, 6.0]


# --- replacing parts ------------------------------------------------------------------------


def test_a_part_is_replaced_by_assignment():
    q, components = Triple(), Components(loc=[5.0, 5.0, 5.0])
    q.component_distribution = components
    assert q.component_distribution is components
    assert q.mean.item() == pytest.approx(5.0)
    assert [name for name, _ in q.named_parameters()] == MIXED_NAMES
    components.loc = 9.0
    q.reset_parameters()
    assert q.component_distribution is components
    assert components.loc.tolist() == [5.0, 5.0, 5.0]
    q.component_distribution = dd.Normal(torch.full((3,), 7.0), 1.0)
    assert q.mean.item() == pytest.approx(7.0)
    assert [name for name, _ in q.named_parameters()] == MIXED_NAMES[:1]


def test_values_are_assigned_to_a_part():
    q = Triple()
    components = q.component_distribution
    q.component_distribution = {"loc": 4.0}
    assert q.component_distribution is components
    assert components.loc.tolist() == [4.0, 4.0, 4.0]


def test_a_foreign_module_is_replaced_by_assignment():
    encoder, net = Encoder(), nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    encoder.net = net
    assert encoder.net is net
    encoder.reset_parameters()  # to no value of what it has replaced
    assert not torch.equal(net[0].weight, Encoder().net[0].weight)


def test_torchs_own_ways_of_replacing():
    q, one, two = Triple(), Components(k=3), Components(k=3)
    q.add_module("component_distribution", one)
    assert q().component_distribution.loc is one.loc
    q.set_submodule("component_distribution", two)
    assert q().component_distribution.loc is two.loc


def assert_cannot_replace(q, name, value, said):
    before = getattr(q, name)
    refused(lambda: setattr(q, name, value), (DeclarationError, ConstraintError), said)
    assert getattr(q, name) is before
    assert q.sample().shape == ()


@pytest.mark.parametrize("value", [
    None, 3.0, torch.zeros(3), dd.Normal(0.0, 1.0), Shift(), Encoder(), dd.Categorical,
])  # fmt: skip
def test_what_cannot_replace_a_part(value):
    said = "Triple.mixture_distribution: expected a Categorical"
    assert_cannot_replace(Triple(), "mixture_distribution", value, said)


def test_a_list_is_replaced_by_assignment():
    q = Deep(k=2)
    shift = Shift(loc=3.0)
    q.transforms = [shift, dd.ExpTransform()]
    assert q.transforms[0] is shift
    q.transforms = dd.SigmoidTransform()
    assert [type(transform) for transform in q().transforms] == [dd.SigmoidTransform]
    q.transforms = nn.ModuleList([shift])
    assert q.transforms[0] is shift


@pytest.mark.parametrize("value", [3, [3], [Components(k=2)], [dd.TanhTransform], None, [Shift]])
def test_what_cannot_replace_a_list(value):
    assert_cannot_replace(Deep(k=2), "transforms", value, "Deep.transforms")


def test_a_part_cannot_be_deleted():
    q = Triple()
    with pytest.raises(FieldError, match=r"Triple\.component_distribution: expected a field that"):
        del q.component_distribution
    assert q.sample().shape == ()


# --- reading --------------------------------------------------------------------------------


def test_repr_shows_the_nest():
    q = Deep(base_distribution={"component_distribution": {"loc": [1.0, 2.0]}})
    q.base_distribution.freeze("mixture_distribution")
    lines = [line.strip() for line in repr(q).splitlines()]
    assert lines[0] == "Deep(TransformedDistribution"
    assert "(base_distribution): Mixture(MixtureSameFamily" in lines
    assert "(component_distribution): Components(Normal" in lines
    assert any(line.startswith("(loc): ") and "[1.0, 2.0]" in line for line in lines)
    assert any(line.startswith("(logits): ") and "frozen" in line for line in lines)
    assert "(0): Shift(AffineTransform" in lines
    assert "(scale): 2.0, Positive()" in lines
    assert any("ExpTransform()" in line for line in lines)
    assert "(0): Linear(in_features=2, out_features=3, bias=True)" in repr(Encoder())


@pytest.mark.parametrize("part", [Components(k=5), dd.Normal(0.0, 1.0)])
def test_a_part_that_does_not_go_with_the_others_replaces_nothing(part):
    assert_cannot_replace(Triple(), "component_distribution", part, "Triple")


def test_dotted_names_in_the_constructor():
    q = Deep(k=2, **{"base_distribution.component_distribution.scale": 3.0, "transforms.0.loc": 7})
    assert q.transforms[0].loc.item() == 7.0
    expected = torch.full((2,), 3.0)
    torch.testing.assert_close(q.base_distribution.component_distribution.scale, expected)


def test_parameters_tied_inside_a_body_stay_tied_in_all_copies():
    class Both(Declarative):
        left = Components(loc=[0.0, 1.0], scale=[1.0, 2.0])
        right = Components(loc=[5.0, 6.0], scale=[1.0, 2.0])
        right.raw_scale = left.raw_scale

    for q in (Both(), Both(batch_shape=(3,)), copy.deepcopy(Both(batch_shape=(3,)))):
        assert q.left.raw_scale is q.right.raw_scale
        assert q.left.raw_loc is not q.right.raw_loc
    assert Both(batch_shape=(3,)).right.scale.shape == (3, 2)
    assert Both().left.raw_scale is not Both().left.raw_scale

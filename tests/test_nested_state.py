"""The life of a nest: moves, resets, values, names, saved states, and what torch does to it."""

from __future__ import annotations

import pytest
import torch
import torch.distributions as dd
from torch import nn
from torch.nn.utils import parametrize

from declarative_dist import (
    ConstraintError,
    DeclarationError,
    Exp,
    Interval,
    Param,
    StateMismatchError,
    Variational,
)
from tests.nests import (
    Components,
    Deep,
    Encoder,
    Grid,
    Logits,
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
)
from tests.states import assert_unchanged, state_of

# --- moves, meta and reset ------------------------------------------------------------------


@pytest.mark.parametrize("keywords", [
    {"mixture_distribution": {"logits": torch.zeros(3, dtype=torch.float64)}},
    {"mixture_distribution": Weights(k=3, dtype=torch.float64)},
])  # fmt: skip
def test_the_dtype_is_that_of_what_is_given(keywords):
    q = Mixture(**keywords)
    assert {tensor.dtype for tensor in q.state_dict().values()} == {torch.float64}


def test_a_dtype_and_a_device_reach_plain_distributions_that_are_given():
    given = dd.Normal(torch.zeros(3), 1.0)
    q = Triple(component_distribution=given, dtype=torch.float64)
    assert {tensor.dtype for tensor in q.state_dict().values()} == {torch.float64}
    q = Triple(component_distribution=given, device="meta")
    assert all(tensor.is_meta for tensor in q.state_dict().values())


def test_a_dtype_without_room_in_a_part_is_refused_and_nothing_moves():
    class Narrow(Variational):
        base = dd.Normal
        loc = Param(1000.5, Interval(1000.0, 1001.0))
        scale = Param(1.0)

    for part in (Narrow, Narrow()):
        family = made(dd.TransformedDistribution, base_distribution=part, transforms=[Shift])
        with pytest.raises(ConstraintError, match=r"Narrow\.loc.*bfloat16"):
            family(dtype=torch.bfloat16)
        q = family()
        with pytest.raises(ConstraintError, match=r"Narrow\.loc.*bfloat16"):
            q.to(torch.bfloat16)
        assert {tensor.dtype for tensor in q.state_dict().values()} == {torch.float32}


def test_reset_of_a_foreign_module():
    encoder = Encoder()
    before = state_of(encoder)
    jitter(encoder)
    encoder.net(torch.randn(8, 2))
    encoder.reset_parameters()
    assert_unchanged(encoder, before)


def test_reset_of_what_the_constructor_was_given():
    weights = Weights(logits=[1.0, 2.0])
    q = Mixture(mixture_distribution=weights)
    weights.logits = 7.0
    q.reset_parameters()
    assert q.mixture_distribution is weights
    assert weights.logits.tolist() == [1.0, 2.0]


# --- assign ---------------------------------------------------------------------------------


def test_assign_by_dict_and_by_dotted_name():
    q = Deep(k=2)
    raw = q.base_distribution.component_distribution.raw_scale
    q.assign(
        **{
            "base_distribution.component_distribution.scale": [3.0, 4.0],
            "base_distribution.mixture_distribution.logits": [0.0, 1.0],
            "transforms.0.loc": 7.0,
        }
    )
    torch.testing.assert_close(
        q.base_distribution.component_distribution.scale, torch.tensor([3.0, 4.0])
    )
    assert q.base_distribution.component_distribution.raw_scale is raw
    assert q.base_distribution.mixture_distribution.logits.tolist() == [0.0, 1.0]
    assert q.transforms[0].loc.item() == 7.0
    q.assign(base_distribution={"component_distribution": {"loc": 5.0}})
    q.assign(base_distribution={"mixture_distribution.logits": 3.0}, transforms=[{"loc": 2.0}, {}])
    assert q.base_distribution.component_distribution.loc.tolist() == [5.0, 5.0]
    assert q.base_distribution.mixture_distribution.logits.tolist() == [3.0, 3.0]
    assert q.transforms[0].loc.item() == 2.0


@pytest.mark.parametrize("key", [0, "0"])
def test_assign_by_index(key):
    q = Deep(k=2)
    q.assign(transforms={key: {"loc": 3.0}})
    assert q.transforms[0].loc.item() == 3.0
    torch.testing.assert_close(q.transforms[0].scale, torch.tensor(2.0))


@pytest.mark.parametrize("values", [
    {"mixture_distribution": {"logits": 1.0}, "component_distribution": {"scale": -1.0}},
    {"component_distribution": {"loc": 1.0, "scale": -1.0}},
    {"component_distribution.loc": 1.0, "component_distribution.scale": -1.0},
    {"component_distribution.loc": 1.0, "component_distribution.scale": torch.ones(7)},
    {"mixture_distribution.logits": 1.0, "component_distribution.scal": 1.0},
    {"mixture_distribution.logits": 1.0, "component": 1.0},
    {"mixture_distribution.logits": 1.0, "component_distribution": 3.0},
    {"mixture_distribution": Weights(k=3), "component_distribution": {"scale": -1.0}},
    {"mixture_distribution": {"logits": 1.0}, "component_distribution": Shift()},
])  # fmt: skip
def test_one_refused_value_changes_nothing(values):
    q = Triple(component_distribution={"loc": [1.0, 2.0, 3.0]})
    parts, before = dict(q.named_modules()), state_of(q)
    with pytest.raises((ConstraintError, DeclarationError)):
        q.assign(**values)
    assert_unchanged(q, before)
    assert all(module is parts[name] for name, module in q.named_modules())


TWICE = {"component_distribution": {"loc": 1.0}, "component_distribution.scale": 1.0}


@pytest.mark.parametrize(("make", "values", "error", "words"), [
    (Triple, {"component_distribution.scale": -1.0}, ConstraintError,
     ("Triple.component_distribution", "scale")),
    (Triple, {"component_distribution.scal": 1.0}, DeclarationError,
     ("component_distribution", "Did you mean 'scale'?")),
    (lambda: Deep(k=2), {"transforms.0.scal": 1.0}, DeclarationError, ("Did you mean 'scale'?",)),
    (Triple, TWICE, DeclarationError, ("Triple.component_distribution.scale",)),
])  # fmt: skip
def test_a_refused_value_names_its_part(make, values, error, words):
    text = refused(
        lambda: make().assign(**values), error, words[0] if "Triple" in words[0] else ""
    )
    assert all(word in text for word in words)


def test_assign_a_part_and_values_together():
    q, components = Triple(), Components(k=3)
    q.assign(component_distribution=components, mixture_distribution={"logits": [0.0, 1.0, 2.0]})
    assert q.component_distribution is components
    assert q.mixture_distribution.logits.tolist() == [0.0, 1.0, 2.0]


# --- names of parameters --------------------------------------------------------------------


@pytest.mark.parametrize(("name", "frozen"), [
    ("base_distribution.component_distribution.scale", 1),
    ("base_distribution.component_distribution", 2), ("base_distribution", 3),
    ("transforms", 2), ("transforms.0", 2), ("transforms.0.loc", 1),
])  # fmt: skip
def test_freeze_and_unfreeze_by_name(name, frozen):
    q = Deep(k=2)
    q.freeze(name)
    assert list(flags(q).values()).count(False) == frozen
    q.unfreeze(name)
    assert all(flags(q).values())
    q.freeze()
    assert not any(flags(q).values())
    q.unfreeze(name)
    assert list(flags(q).values()).count(True) == frozen


def test_freeze_of_foreign_modules():
    encoder = Encoder()
    encoder.freeze("net")
    assert [name for name, on in flags(encoder).items() if on] == ["raw_gain"]
    encoder.unfreeze("net.0.weight")
    assert [name for name, on in flags(encoder).items() if on] == ["raw_gain", "net.0.weight"]
    encoder.freeze()
    encoder.unfreeze("net.1")
    assert sum(flags(encoder).values()) == 2


@pytest.mark.parametrize("name", [
    "component_distribution.scal", "component_distributio", "component_distribution.scale.raw",
    "transforms.0.loc",
])  # fmt: skip
def test_a_name_of_nothing(name):
    q = Triple()
    for call in (q.freeze, q.unfreeze, lambda name: q.parameter_groups(**{name: {}})):
        refused(lambda call=call: call(name), DeclarationError, "Triple.")
    assert all(flags(q).values())


def test_parameter_groups_by_dotted_name():
    q = Deep(k=2)
    groups = q.parameter_groups(
        **{
            "base_distribution": {"lr": 1.0},
            "base_distribution.component_distribution.scale": {"lr": 2.0},
            "transforms.0.loc": {"lr": 3.0},
        }
    )
    parts = q.base_distribution
    assert [(group.get("lr"), group["params"]) for group in groups] == [
        (1.0, [parts.mixture_distribution.raw_logits, parts.component_distribution.raw_loc]),
        (2.0, [parts.component_distribution.raw_scale]),
        (3.0, [q.transforms[0].raw_loc]),
        (None, [q.transforms[0].raw_scale]),
    ]
    optimizer = torch.optim.Adam(groups, lr=0.1)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 5


# --- values ---------------------------------------------------------------------------------


def test_constrained_values_follow_the_nest():
    q = Deep(base_distribution={"component_distribution": {"loc": [1.0, 2.0]}})
    values = q.constrained_values()
    assert list(values) == ["base_distribution", "transforms"]
    inner = values["base_distribution"]
    assert list(inner) == ["mixture_distribution", "component_distribution"]
    assert inner["component_distribution"]["loc"].tolist() == [1.0, 2.0]
    torch.testing.assert_close(values["transforms"][0]["scale"], torch.tensor(2.0))
    assert len(values["transforms"]) == 2
    loc = inner["component_distribution"]["loc"]
    assert not loc.requires_grad
    loc.fill_(9.0)
    assert q.base_distribution.component_distribution.loc.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("make", [
    Triple, Pair, Encoder,
    lambda **values: Mixture(**{"k": 3, **values}),
    lambda **values: Deep(**{"k": 3, **values}),
    mixture_of(dd.Categorical(logits=torch.zeros(3)), Components(k=3)),
    made(dd.Independent, base_distribution=mixture_of(Logits, Grid), reinterpreted_batch_ndims=1),
])  # fmt: skip
def test_values_go_back_into_the_constructor_and_into_assign(make):
    q = make()
    jitter(q)
    values = q.constrained_values()
    assigned = make()
    assigned.assign(**values)
    declared = {name for name, _ in q.named_parameters() if "raw_" in name}
    for twin in (make(**values), assigned):
        names = [name for name, _ in twin.named_parameters()]
        assert names == [name for name, _ in q.named_parameters()]
        for name in declared:
            torch.testing.assert_close(twin.get_parameter(name), q.get_parameter(name))


# --- saved states ---------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2])
def test_a_state_saved_under_another_constraint_inside_a_part(depth):
    class Sharp(Components):
        scale = Param(1.0, Exp(), shape=("k",))

    class Other(Mixture):
        component_distribution = Sharp

    def nest(family):
        return made(dd.TransformedDistribution, base_distribution=family, transforms=[Shift])

    old, new = (Mixture, Other) if depth == 1 else (nest(Mixture), nest(Other))
    with pytest.raises(StateMismatchError) as caught:
        new(k=3).load_state_dict(old(k=3).state_dict())
    for word in ("scale", "Exp()", "Positive()", "constrained_values"):
        assert word in str(caught.value)


# --- what else torch users do ---------------------------------------------------------------


def test_a_hook_on_a_part_may_replace_its_distribution():
    q = Deep(k=2)
    q.base_distribution.component_distribution.register_forward_hook(
        lambda module, args, output: dd.Normal(torch.full((2,), 3.0), 1.0)
    )
    x = torch.tensor([0.5, 2.0])
    plain = dd.TransformedDistribution(
        plain_mixture(torch.zeros(2), torch.full((2,), 3.0), torch.ones(2)),
        [dd.AffineTransform(0.5, 2.0), dd.ExpTransform()],
    )
    torch.testing.assert_close(q.log_prob(x), plain.log_prob(x))


def test_a_parametrization_of_a_raw_parameter_in_a_part():
    class Doubled(nn.Module):
        def forward(self, raw):
            return 2 * raw

        def right_inverse(self, value):
            return value / 2

    q = Triple(component_distribution={"loc": [1.0, 2.0, 3.0]})
    parametrize.register_parametrization(q.component_distribution, "raw_loc", Doubled())
    torch.testing.assert_close(q().component_distribution.loc, torch.tensor([1.0, 2.0, 3.0]))
    q.assign(**{"component_distribution.loc": 5.0})
    torch.testing.assert_close(q().component_distribution.loc, torch.full((3,), 5.0))
    q.freeze("component_distribution.loc")
    assert not q.component_distribution.parametrizations.raw_loc.original.requires_grad

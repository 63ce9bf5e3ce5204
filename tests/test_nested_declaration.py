"""Nested fields in a class body: what it refuses, inherits and builds, its sizes and copies."""

from __future__ import annotations

import pytest
import torch
import torch.distributions as dd
from torch import nn

from declarative_dist import (
    ConstraintError,
    DeclarationError,
    Declarative,
    FieldError,
    Param,
    Positive,
    Variational,
    derived,
)
from tests.nests import (
    MIXED_NAMES,
    ByMethod,
    Components,
    Deep,
    Encoder,
    Mixture,
    Shift,
    Triple,
    Weights,
    jitter,
    made,
    mixture_of,
    plain_mixture,
    refused,
    shapes,
)

# --- what a class body refuses --------------------------------------------------------------


def sub(parent, **body):
    return type(parent)("Sub", (parent,), body)


@pytest.mark.parametrize("value", [
    3, 1.0, torch.zeros(3), [1.0, 2.0], Param(1.0), Param(torch.zeros(3), Positive()),
])  # fmt: skip
def test_a_tensor_where_the_base_wants_a_part(value):
    text = refused(
        lambda: mixture_of(value, Components),
        DeclarationError,
        "Made.mixture_distribution: expected a Categorical",
    )
    assert "Write mixture_distribution = " in text


@pytest.mark.parametrize("value", [
    Components, Components(k=3), nn.Linear(1, 1), dd.Normal(0.0, 1.0), dd.TanhTransform(), Shift,
    [Components],
])  # fmt: skip
def test_a_part_where_the_base_wants_a_tensor(value):
    text = refused(
        lambda: made(dd.Normal, loc=value, scale=Param(1.0)),
        DeclarationError,
        "Made.loc: expected a tensor",
    )
    assert "Write loc = Param()" in text


@pytest.mark.parametrize("name", ["forward", "to", "children", "device", "batch_shape", "mean"])
def test_reserved_names(name):
    refused(lambda: made(dd.Normal, **{name: Weights}), DeclarationError, f"Made.{name}")


def test_a_missing_part():
    text = refused(
        lambda: made(dd.MixtureSameFamily, component_distribution=Components),
        DeclarationError,
        "Made.mixture_distribution: expected every required argument of MixtureSameFamily",
    )
    assert "Param()" not in text


@pytest.mark.parametrize(("parent", "body", "start"), [
    (Declarative, {"x": Param(1.0), "raw_x": nn.ReLU()}, "raw_x: expected a name that is"),
    (Triple, {"component_distribution": Param(1.0)}, "component_distribution: expected a"),
    (Triple, {"component_distribution": None}, "component_distribution: expected every required"),
    *((Triple, {"mixture_distribution": value}, "mixture_distribution")
      for value in ([Weights], [Weights, Weights], [nn.Linear(1, 1)])),
])  # fmt: skip
def test_bodies_that_are_refused(parent, body, start):
    refused(lambda: sub(parent, **body), DeclarationError, f"Sub.{start}")


# --- what the constructor refuses -----------------------------------------------------------


class Zeros(nn.Module):
    """A module that returns no distribution."""

    def forward(self):
        return torch.zeros(3)


def triple(**part):
    return lambda: Triple(component_distribution=part.get("given", part))


WHOLE, PART = "Triple", "Triple.component_distribution"
ANY = (DeclarationError, ConstraintError, FieldError)
REFUSED = [
    (triple(scale=-1.0), ConstraintError, f"{PART} (Components.scale): expected a finite pos", ()),
    (triple(scal=1.0), DeclarationError, f"{PART} (Components(scal=)): expected the name of a",
     ("field or of a size, got 'scal'. Did you mean 'scale'?",)),
    (triple(given={0: 1.0}), DeclarationError, PART, ()),
    (triple(given=dd.Normal(torch.zeros(2), 1.0)), ConstraintError, f"{WHOLE}: expected",
     ("(3)", "(2)")),
    (triple(given=dd.Normal(0.0, 1.0)), ConstraintError, WHOLE, ("MixtureSameFamily",)),
    (triple(given=Zeros()), ANY, WHOLE, ("component_distribution",)),
    (lambda: Encoder(net={"weight": 1.0}), DeclarationError, "Encoder.net: expected", ()),
    (lambda: Encoder(net=nn.Linear), DeclarationError, "Encoder.net: expected a module", ()),
    *((lambda given=given: Triple(mixture_distribution=given), DeclarationError,
       "Triple.mixture_distribution: expected a Categorical", ()) for given in (
        3, 2.0, "weights", torch.zeros(3), [1.0, 2.0], object(), Components(k=3), Components,
        dd.Normal(0.0, 1.0), Shift(), Shift, dd.TanhTransform(),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "start", "words"), REFUSED)
def test_what_does_not_fit_is_named(make, error, start, words):
    text = refused(make, error, start)
    assert all(word in text for word in words)


def test_a_foreign_module_that_returns_a_distribution():
    class Foreign(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(3))

        def forward(self):
            return dd.Normal(self.loc, 1.0)

    q = Triple(component_distribution=Foreign())
    q.log_prob(torch.tensor([0.5])).sum().backward()
    assert q.component_distribution.loc.grad is not None


# --- inheritance ----------------------------------------------------------------------------


def test_a_subclass_overrides_a_part():
    q = sub(Triple, component_distribution=dd.Laplace(torch.zeros(3), 1.0))()
    assert type(q().component_distribution) is dd.Laplace
    assert type(Triple()().component_distribution) is dd.Normal


def test_none_removes_a_part():
    bare = sub(Encoder, net=None)()
    assert [name for name, _ in bare.named_parameters()] == ["raw_gain"]
    assert bare.net is None
    assert Encoder().net is not None


def test_a_part_gives_way_to_another_field_where_the_base_does_not_mind():
    q = sub(Encoder, net=Param(2.0))()
    assert q.net.item() == 2.0
    assert [name for name, _ in q.named_children()] == []


def test_a_subclass_with_another_base_takes_the_parts():
    q = sub(Triple, base=lambda self, component_distribution: component_distribution)()
    assert type(q()) is dd.Normal
    assert [name for name, _ in q.named_parameters()] == MIXED_NAMES


# --- methods and derived fields -------------------------------------------------------------


def test_a_method_takes_plain_parts_by_name():
    seen = {}

    class Model(Variational):
        declared = Components(k=3)
        plain = dd.Normal(0.0, 1.0)
        shift = Shift
        tanh = dd.TanhTransform()
        several = [Shift, dd.ExpTransform()]  # noqa: RUF012
        net = nn.Linear(1, 1)
        settings = Encoder

        def base(self, declared, plain, shift, tanh, several, net, settings):
            seen.update(locals())
            return dd.Normal(net(torch.ones(1)), settings.gain)

    q = Model()
    assert type(q()) is dd.Normal
    assert [type(seen[name]) for name in ("declared", "plain", "shift", "tanh")] == [
        dd.Normal,
        dd.Normal,
        dd.AffineTransform,
        dd.TanhTransform,
    ]
    assert [type(item) for item in seen["several"]] == [dd.AffineTransform, dd.ExpTransform]
    assert seen["net"] is q.net
    assert seen["settings"] is q.settings
    torch.testing.assert_close(q.mean, q.net(torch.ones(1)))


def test_a_method_base_is_the_mixture_one_builds_by_hand():
    q = ByMethod(k=3)
    jitter(q)
    x = torch.linspace(-2, 2, 5)
    plain = plain_mixture(q.weights.logits, q.components.loc, q.components.scale)
    torch.testing.assert_close(q.log_prob(x), plain.log_prob(x))


@pytest.mark.parametrize("base", [lambda self, part: part, lambda self, part: self.part])
def test_a_method_may_return_a_part(base):
    q = made(base, part=Components)(k=3)
    assert type(q()) is dd.Normal
    torch.testing.assert_close(q.mean, q.part.loc)


def test_derived_fields_use_parts():
    class Model(Variational):
        base = dd.Normal
        net = nn.Linear(2, 3)
        context = torch.ones(2)
        prior = Components(k=3)
        scale = Param(1.0)

        @derived
        def loc(self, net, context, prior):
            return net(context) + prior.mean

    q = Model()
    torch.testing.assert_close(q.mean, q.net(torch.ones(2)) + q.prior.loc)
    q.log_prob(torch.zeros(3)).sum().backward()
    assert q.net.weight.grad.abs().sum() > 0
    assert q.prior.raw_loc.grad.abs().sum() > 0
    assert Model(dtype=torch.float64).mean.dtype == torch.float64
    with torch.no_grad():
        q.net.bias.add_(1.0)
    torch.testing.assert_close(q.mean, q.net(torch.ones(2)) + q.prior.loc)


def test_a_derived_field_may_be_the_part():
    class Model(Variational):
        base = dd.MixtureSameFamily
        temperature = Param(2.0, Positive())
        component_distribution = Components

        @derived
        def mixture_distribution(self, temperature):
            return dd.Categorical(logits=torch.arange(3.0) / temperature)

    q = Model(k=3)
    plain = plain_mixture(
        torch.arange(3.0) / 2, q.component_distribution.loc, q.component_distribution.scale
    )
    torch.testing.assert_close(q.mean, plain.mean)
    q.mean.backward()
    assert q.raw_temperature.grad is not None


def test_a_plain_part_that_is_computed_from_a_parameter_is_refused() -> None:
    prior = dd.Normal(0.0, torch.tensor(0.5, requires_grad=True).exp())
    said = "Sub.prior: expected constants in a plain Nor"
    refused(lambda: sub(Declarative, prior=prior), DeclarationError, said)


# --- named sizes ----------------------------------------------------------------------------


class Sized(Declarative):
    table = Param(0.0, shape=("k", 2))
    weights = Weights


class Family(Declarative):
    """A size that only a part two levels below knows."""

    mixture = Mixture
    weights = Weights


def test_a_size_is_a_keyword_for_all_parts():
    assert shapes(Mixture(k=4)) == dict.fromkeys(MIXED_NAMES, (4,))
    assert shapes(Sized(k=4)) == {"raw_table": (4, 2), "weights.raw_logits": (4,)}
    assert shapes(Deep(k=4))["base_distribution.component_distribution.raw_loc"] == (4,)
    assert shapes(Family(k=4))["mixture.component_distribution.raw_scale"] == (4,)


TWO, TABLE = {"loc": [1.0, 2.0]}, torch.zeros(3, 2)


@pytest.mark.parametrize("keywords", [
    {"component_distribution": TWO}, {"component_distribution": {"scale": torch.ones(2)}},
    {"mixture_distribution": {"logits": [0.0, 1.0]}}, {"mixture_distribution": Weights(k=2)},
    {"mixture_distribution": Weights(logits=[0.0, 1.0])},
    {"component_distribution": Components(k=2)}, {"component_distribution": TWO, "k": 2},
    {"component_distribution": TWO, "mixture_distribution": Weights(k=2)},
    {"component_distribution": {"loc": torch.zeros(5, 2)}, "batch_shape": (5,)},
])  # fmt: skip
def test_a_size_is_read_off_what_a_part_is_given(keywords):
    q = Mixture(**keywords)
    assert q.mixture_distribution.logits.shape[-1] == 2
    assert q.component_distribution.scale.shape[-1] == 2


def test_a_size_is_read_off_the_instance_in_the_class_body():
    given = mixture_of(Weights, Components(k=3))(component_distribution={"scale": 2.0})
    for q in (Triple(), given):
        assert shapes(q) == dict.fromkeys(MIXED_NAMES, (3,))


def test_a_size_is_read_off_a_value_of_the_outer_class():
    assert Sized(table=TABLE).weights.logits.shape == (3,)
    assert Sized(weights={"logits": [0.0, 1.0, 2.0]}).table.shape == (3, 2)


def test_values_keep_the_size_of_the_instance_in_the_class_body():
    subject = "Triple.mixture_distribution (Weights.logits)"
    refused(lambda: Triple(mixture_distribution={"logits": [0.0, 1.0]}), ConstraintError, subject)
    q = Triple(mixture_distribution=Weights(k=5))
    assert shapes(q) == dict.fromkeys(MIXED_NAMES, (5,))


@pytest.mark.parametrize("keywords", [
    {"mixture": {"component_distribution": TWO}}, {"mixture": Mixture(k=2)},
    {"weights": Weights(k=2)}, {"weights": {"logits": [1.0, 2.0]}},
])  # fmt: skip
def test_a_size_is_read_off_any_depth(keywords):
    family = Family(**keywords)
    assert family.weights.logits.shape == (2,)
    assert family.mixture.component_distribution.loc.shape == (2,)


def test_a_size_is_read_off_a_list():
    class Model(Declarative):
        parts = [Components, Weights]  # noqa: RUF012

    model = Model(parts=[{}, {"logits": [1.0, 2.0]}])
    assert model.parts[0].loc.shape == (2,)


@pytest.mark.parametrize(("family", "keywords"), [
    (Mixture, {"k": 3, "component_distribution": TWO}),
    (Sized, {"table": TABLE, "weights": {"logits": [1.0, 2.0]}}),
    (Sized, {"k": 3, "weights": {"logits": [1.0, 2.0]}}),
    (Family, {"weights": {"logits": [1.0, 2.0]}, "k": 3}),
    (Family, {"weights": {"logits": [1.0, 2.0]},
              "mixture": {"component_distribution": {"loc": [0.0] * 3}}}),
    (Triple, {"k": 4}),
    (Triple, {"component_distribution": TWO}),
])  # fmt: skip
def test_sizes_that_conflict(family, keywords):
    with pytest.raises((ConstraintError, DeclarationError)) as caught:
        family(**keywords)
    text = str(caught.value)
    assert text.startswith(family.__name__), text
    assert "3" in text
    assert "2" in text or "4" in text


def test_a_size_that_nobody_knows():
    text = refused(Mixture, ConstraintError, "Mixture")
    assert "'k'" in text
    assert "Mixture(k=" in text
    text = refused(Deep, ConstraintError, "Deep")
    assert "Deep(k=" in text


# --- independent copies ---------------------------------------------------------------------


def test_a_number_stands_for_one_dimension():
    assert Mixture(k=3, batch_shape=4).batch_shape == (4,)
    assert Triple(batch_shape=()).batch_shape == ()
    assert Triple(batch_shape=(0,)).batch_shape == (0,)


def test_copies_of_an_instance_start_at_its_values():
    trained = Weights(logits=[0.0, 1.0, 2.0])
    with torch.no_grad():
        trained.raw_logits.mul_(2)
    q = mixture_of(trained, Components)(batch_shape=(2,))
    assert q.mixture_distribution.logits.tolist() == [[0.0, 2.0, 4.0]] * 2
    jitter(q)
    q.reset_parameters()
    assert q.mixture_distribution.logits.tolist() == [[0.0, 2.0, 4.0]] * 2


def test_copies_reach_three_levels():
    q = Deep(k=3, batch_shape=(2,))
    assert q.base_distribution.component_distribution.loc.shape == (2, 3)
    assert q.transforms[0].loc.shape == (2,)
    assert q.batch_shape == (2,)
    deep = made(
        dd.TransformedDistribution, base_distribution=Mixture(k=3), transforms=[Shift(), Shift]
    )(batch_shape=(2,))
    assert deep.base_distribution.component_distribution.loc.shape == (2, 3)
    assert deep.base_distribution.component_distribution.loc.unique().numel() == 6


def test_copies_reach_declared_modules_inside_foreign_ones():
    class Model(Declarative):
        table = nn.ModuleDict({"weights": Weights(k=3), "net": nn.Linear(2, 2)})

    model = Model(batch_shape=(4,))
    assert model.table["weights"].logits.shape == (4, 3)
    assert model.table["net"].weight.shape == (2, 2)


def test_a_given_instance_is_not_replicated():
    weights = Weights(k=3)
    q = Mixture(batch_shape=(2,), mixture_distribution=weights)
    assert weights.logits.shape == (3,)
    assert q.mixture_distribution is weights
    assert q.component_distribution.loc.shape == (2, 3)
    assert q.batch_shape == (2,)
    with_own = Components(k=3, batch_shape=(2,))
    assert Mixture(batch_shape=(2,), component_distribution=with_own).batch_shape == (2,)

"""Nested fields in a class body: what it refuses, inherits, derives and builds from them."""

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
    Encoder,
    Shift,
    Triple,
    Weights,
    jitter,
    made,
    mixture_of,
    plain_mixture,
    refused,
)

# --- what a class body refuses --------------------------------------------------------------


def test_the_same_part_again_in_a_subclass_is_no_second_one():
    class Sub(Triple):
        component_distribution = Components(loc=[1.0, 2.0, 3.0])

    assert Sub().component_distribution.loc.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "value",
    [
        lambda: 3,
        lambda: 1.0,
        lambda: torch.zeros(3),
        lambda: [1.0, 2.0],
        lambda: Param(1.0),
        lambda: Param(torch.zeros(3), Positive()),
    ],
)
def test_a_tensor_where_the_base_wants_a_part(value):
    text = refused(
        lambda: mixture_of(value(), Components),
        DeclarationError,
        "Made.mixture_distribution: expected a Categorical",
    )
    assert "Write mixture_distribution = " in text


@pytest.mark.parametrize(
    "value",
    [
        lambda: Components,
        lambda: Components(k=3),
        lambda: nn.Linear(1, 1),
        lambda: dd.Normal(0.0, 1.0),
        lambda: dd.TanhTransform(),
        lambda: Shift,
        lambda: [Components],
    ],
)
def test_a_part_where_the_base_wants_a_tensor(value):
    text = refused(
        lambda: made(dd.Normal, loc=value(), scale=Param(1.0)),
        DeclarationError,
        "Made.loc: expected a tensor",
    )
    assert "Write loc = Param()" in text


@pytest.mark.parametrize("value", [[Weights], [Weights, Weights], [nn.Linear(1, 1)]])
def test_a_list_where_the_base_wants_one_part(value):
    refused(lambda: mixture_of(value, Components), DeclarationError, "Made.mixture_distribution")


@pytest.mark.parametrize("name", ["forward", "to", "children", "device", "batch_shape", "mean"])
def test_reserved_names(name):
    refused(
        lambda: type(Variational)("Made", (Variational,), {"base": dd.Normal, name: Weights}),
        DeclarationError,
        f"Made.{name}",
    )


def test_a_missing_part():
    text = refused(
        lambda: made(dd.MixtureSameFamily, component_distribution=Components),
        DeclarationError,
        "Made.mixture_distribution: expected every required argument of MixtureSameFamily",
    )
    assert "Param()" not in text
    for parent, body, start in (
        (
            Declarative,
            {"x": Param(1.0), "raw_x": nn.ReLU()},
            "Made.raw_x: expected a name that is",
        ),
        (
            Triple,
            {"component_distribution": Param(1.0)},
            "Made.component_distribution: expected a",
        ),
    ):
        refused(lambda p=parent, b=body: type(p)("Made", (p,), b), DeclarationError, start)


# --- what the constructor refuses -----------------------------------------------------------


class Zeros(nn.Module):
    """A module that returns no distribution."""

    def forward(self):
        return torch.zeros(3)


def triple(**part):
    return lambda: Triple(component_distribution=part.get("given", part))


WHOLE, PART = "Triple", "Triple.component_distribution"
REFUSED = [
    (triple(scale=-1.0), ConstraintError, f"{PART} (Components.scale): expected a finite positi"),
    (
        triple(scal=1.0),
        DeclarationError,
        (
            f"{PART} (Components(scal=)): expected the name of a field or of a size, got 'scal'. "
            "Did you mean 'scale'?"
        ),
    ),
    (triple(given={0: 1.0}), DeclarationError, PART),
    (triple(given=dd.Normal(torch.zeros(2), 1.0)), ConstraintError, f"{WHOLE}: expected"),
    (triple(given=dd.Normal(0.0, 1.0)), ConstraintError, WHOLE),
    (lambda: Encoder(net={"weight": 1.0}), DeclarationError, "Encoder.net: expected"),
    (lambda: Encoder(net=nn.Linear), DeclarationError, "Encoder.net: expected a module"),
]
ALSO = {3: ("(3)", "(2)"), 4: ("MixtureSameFamily",)}


@pytest.mark.parametrize("at", range(len(REFUSED)))
def test_what_does_not_fit_is_named(at):
    text = refused(*REFUSED[at])
    assert all(word in text for word in ALSO.get(at, ()))


def test_a_foreign_module_that_returns_no_distribution():
    kinds = (DeclarationError, ConstraintError, FieldError)
    assert "component_distribution" in refused(triple(given=Zeros()), kinds, WHOLE)


@pytest.mark.parametrize("given", [3, 2.0, "weights", torch.zeros(3), [1.0, 2.0], object()])
def test_what_is_no_part(given):
    refused(
        lambda: Triple(mixture_distribution=given),
        DeclarationError,
        "Triple.mixture_distribution: expected a Categorical",
    )


@pytest.mark.parametrize(
    "given",
    [
        lambda: Components(k=3),
        lambda: Components,
        lambda: dd.Normal(0.0, 1.0),
        lambda: Shift(),
        lambda: Shift,
        lambda: dd.TanhTransform(),
    ],
)
def test_a_part_of_the_wrong_kind(given):
    refused(
        lambda: Triple(mixture_distribution=given()),
        DeclarationError,
        "Triple.mixture_distribution: expected a Categorical",
    )


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
    class Sub(Triple):
        component_distribution = dd.Laplace(torch.zeros(3), 1.0)

    q = Sub()
    assert type(q().component_distribution) is dd.Laplace
    assert type(Triple()().component_distribution) is dd.Normal


def test_none_removes_a_part():
    refused(
        lambda: type(Triple)("Sub", (Triple,), {"component_distribution": None}),
        DeclarationError,
        "Sub.component_distribution: expected every required argument",
    )

    class Bare(Encoder):
        net = None

    assert [name for name, _ in Bare().named_parameters()] == ["raw_gain"]
    assert Bare().net is None
    assert Encoder().net is not None


def test_a_part_gives_way_to_another_field_where_the_base_does_not_mind():
    class Sub(Encoder):
        net = Param(2.0)

    assert Sub().net.item() == 2.0
    assert [name for name, _ in Sub().named_children()] == []


def test_a_subclass_with_another_base_takes_the_parts():
    class Alone(Triple):
        def base(self, component_distribution):
            return component_distribution

    q = Alone()
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


def test_a_method_may_return_a_part():
    class Plain(Variational):
        part = Components

        def base(self, part):
            return part

    class Live(Variational):
        part = Components

        def base(self, part):
            return self.part

    for kind in (Plain, Live):
        q = kind(k=3)
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
    raw = torch.tensor(0.5, requires_grad=True)
    with pytest.raises(DeclarationError, match=r"Held\.prior: expected constants in a plain Nor"):

        class Held(Declarative):
            prior = dd.Normal(0.0, raw.exp())

"""How declarations are inherited, overridden, mixed and dropped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import pytest
import torch
import torch.distributions as dd
from torch import nn

from declarative_dist import (
    DeclarationError,
    Declarative,
    Exp,
    Param,
    Positive,
    Real,
    Simplex,
    UnitInterval,
    Variational,
    derived,
    fields_of,
)

T = TypeVar("T")


class Heavy(Variational):
    base = dd.StudentT
    df = Param(5.0)
    loc = Param(1.0)
    scale = Param(2.0, Exp())


class AutoNormal(Variational):
    base = dd.Normal


def raw_names(q):
    return [name for name, _ in q.named_parameters()]


def declared(name, *bases, **body):
    return type(Variational)(name, bases, {"__module__": __name__, **body})


# --- overriding -----------------------------------------------------------------------------

tied = derived(lambda self, loc: loc.abs() + 1)
OVERRIDDEN = {
    "nothing": ({}, {"df": 5.0, "loc": 1.0, "scale": 2.0}, ["df", "loc", "scale"]),
    "a start": ({"loc": Param(-3.0)}, {"loc": -3.0, "scale": 2.0}, ["df", "loc", "scale"]),
    "a constraint": ({"scale": Param(2.0, Positive())}, {"scale": 2.0}, ["df", "loc", "scale"]),
    "a constant": ({"df": 4}, {"df": 4.0}, ["loc", "scale"]),
    "a derived one": ({"scale": tied}, {"scale": 2.0}, ["df", "loc"]),
    "none": ({"scale": None}, {"scale": 1.0}, ["df", "loc"]),  # the default of StudentT
}


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_an_overridden_field_keeps_its_place_and_leaves_the_parent_alone(name):
    body, values, learned = OVERRIDDEN[name]
    cls = declared("Sub", Heavy, **body)
    q = cls()
    assert list(fields_of(cls)) == ["df", "loc", "scale"][: 2 if name == "none" else 3]
    assert raw_names(q) == [f"raw_{field}" for field in learned]
    assert [key for key, _ in q.named_buffers()] == (["df"] if "df" in body else [])
    assert {field: getattr(q(), field).item() for field in values} == pytest.approx(values)
    assert all(getattr(cls, field) is not getattr(Heavy, field) for field in body)
    assert raw_names(Heavy()) == ["raw_df", "raw_loc", "raw_scale"]
    assert [value.item() for value in Heavy().constrained_values().values()] == [5.0, 1.0, 2.0]
    back = declared("Back", cls, **{field: vars(Heavy)[field] for field in body})
    assert (raw_names(back()), list(back().buffers())) == (raw_names(Heavy()), [])
    if name == "a constraint":
        assert q.raw_scale.item() == pytest.approx(1.8545865)  # log(exp(2) - 1)
        assert Heavy().raw_scale.item() == pytest.approx(0.6931472)  # log(2)
    if name == "none":
        q.scale = 3.0  # the name is free
        assert (q.scale, q().scale.item()) == (3.0, 1.0)


class NonNegativeLoc(dd.Normal):
    arg_constraints = dict.fromkeys(("loc", "scale"), dd.constraints.positive)


@pytest.mark.parametrize(("bases", "body", "text"), [
    ([Heavy], {"df": None}, r"df: expected every required argument"),
    ([declared("Tied", Heavy, scale=tied)], {"loc": None},
        r"scale: expected names of fields, got 'loc'"),
    ([Heavy], {"base": dd.Gamma}, r"df: expected an argument of Gamma"),
    ([Variational], {"base": dd.Normal, "loc": 0.0}, r"scale: expected every required argument"),
    ([declared("Free", Variational, base=dd.Normal, loc=-1.0, scale=Param(1.0))],
        {"base": NonNegativeLoc}, r"loc: expected a value in GreaterThan"),
])  # fmt: skip
def test_what_is_refused_of_a_subclass(bases, body, text):
    with pytest.raises(DeclarationError, match=rf"^Sub\.{text}"):
        declared("Sub", *bases, **body)


def test_methods_and_settings_are_inherited():
    class Event(Heavy):
        event_dim = 1
        loc = Param(torch.zeros(3))

        def halved(self):
            return self.loc / 2

    class Sub(Event):
        loc = Param(torch.ones(4))

    assert Sub()().event_shape == (4,)
    assert Sub().halved().tolist() == [0.5] * 4

    class Flat(Sub):
        event_dim = 0

    assert Flat()().event_shape == ()


# --- mixins ---------------------------------------------------------------------------------


class Scaled(Declarative):
    scale = Param(3.0, Exp())


@pytest.mark.parametrize(("mixins", "scale", "learned"), [
    ([{"scale": Param(3.0, Exp())}], 3.0, ["raw_loc", "raw_scale"]),
    ([Scaled], 3.0, ["raw_loc", "raw_scale"]),
    ([{"scale": 4}], 4.0, ["raw_loc"]),
    ([{"scale": derived(lambda self, loc: loc.exp())}], 1.0, ["raw_loc"]),
    ([{"scale": Param(2.0)}, {"scale": Param(1.0)}], 2.0, ["raw_loc", "raw_scale"]),
])  # fmt: skip
def test_mixins(mixins, scale, learned):
    """Plain ones and declared ones; the first in the line wins."""
    mixins = [type("Mixin", (), one) if isinstance(one, dict) else one for one in mixins]
    cls = declared("Gaussian", *mixins, Variational, base=dd.Normal, loc=Param(0.0))
    assert set(fields_of(cls)) == {"loc", "scale"}
    assert cls()().scale.item() == pytest.approx(scale)
    assert sorted(raw_names(cls())) == learned


# --- another base ---------------------------------------------------------------------------


def test_another_base_infers_constraints_anew():
    class Coin(Variational):
        base = dd.Bernoulli
        probs = Param(torch.tensor([0.25, 0.75]))

    class Die(Coin):
        base = dd.OneHotCategorical

    assert isinstance(fields_of(Coin)["probs"].constraint, UnitInterval)
    assert isinstance(fields_of(Die)["probs"].constraint, Simplex)
    assert isinstance(Coin.probs.constraint, UnitInterval)
    assert Coin().raw_probs.shape == (2,)
    assert Die().raw_probs.shape == (1,)  # a simplex of two has one degree of freedom
    assert Coin()().batch_shape == (2,)
    assert (Die()().batch_shape, Die()().event_shape) == ((), (2,))


def test_another_base_reads_event_dimensions_anew():
    class Rates(Variational):
        base = dd.Gamma
        concentration = Param(torch.ones(3))
        rate = Param(1.0)

    class Shares(Rates):
        base = dd.Dirichlet
        rate = None

    assert Rates(batch_shape=(2,))().batch_shape == (2, 3)
    assert Shares(batch_shape=(2,))().batch_shape == (2,)
    assert Rates.concentration.event_dim == 0
    assert Shares.concentration.event_dim == 1


def test_a_constraint_that_was_declared_stays_with_another_base():
    class Normalish(Variational):
        base = dd.Normal
        loc = Param(0.0)
        scale = Param(2.0, Exp())

    class Logistic(Normalish):
        base = dd.LogNormal

    assert isinstance(fields_of(Logistic)["scale"].constraint, Exp)
    assert Logistic().raw_scale.item() == pytest.approx(0.6931472)


def test_bare_parameters_follow_a_base_class_replaced_by_a_method():
    class Gaussian(Variational):
        base = dd.Normal
        loc = Param(0.0)
        scale = Param(1.0)

    class ByLog(Gaussian):
        def base(self, loc, scale):
            return dd.Normal(loc, scale.exp())

    assert isinstance(fields_of(Gaussian)["scale"].constraint, Positive)
    assert isinstance(fields_of(ByLog)["scale"].constraint, Real)
    assert ByLog()().scale.item() == pytest.approx(2.7182817)


def test_method_replaced_by_a_base_class():
    class ByMethod(Variational):
        loc = Param(0.0)
        scale = Param(1.0)

        def base(self, loc, scale):
            return dd.Laplace(loc, scale)

    class ByClass(ByMethod):
        base = dd.Normal

    assert type(ByMethod()()) is dd.Laplace
    assert type(ByClass()()) is dd.Normal
    assert isinstance(fields_of(ByClass)["scale"].constraint, Positive)


def test_class_without_a_base_cannot_be_instantiated():
    class Abstract(Variational):
        loc = Param(0.0)

    with pytest.raises(DeclarationError) as caught:
        Abstract()
    assert caught.value.sentence == (
        "Abstract: expected a class with a base, got none. "
        "Write base = torch.distributions.Normal in the class body."
    )

    class Concrete(Abstract):
        base = dd.Normal
        scale = Param(1.0)

    assert raw_names(Concrete()) == ["raw_loc", "raw_scale"]
    with pytest.raises(DeclarationError, match=r"^Variational: expected a class with a base"):
        Variational()


# --- declared automatically -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "fields"),
    [
        (dd.Normal, ["loc", "scale"]),
        (dd.StudentT, ["df", "loc", "scale"]),
        (dd.Bernoulli, ["logits"]),
        (dd.Binomial, ["total_count", "logits"]),
        (dd.MultivariateNormal, ["loc", "scale_tril"]),
        (dd.Wishart, ["df", "scale_tril"]),
        (dd.Uniform, ["low", "high"]),
    ],
)
def test_auto_declared_in_the_preferred_parametrisation(base, fields):
    cls = declared("Auto", Variational, base=base)
    assert set(fields_of(cls)) == set(fields)
    sub = declared("Sub", cls, **{fields[-1]: Param(None, Real())})
    assert list(fields_of(sub)) == list(fields_of(cls))
    assert isinstance(fields_of(sub)[fields[-1]].constraint, Real)


def test_auto_declared_class_with_another_base_is_declared_anew():
    class AutoGamma(AutoNormal):
        base = dd.Gamma

    assert list(fields_of(AutoGamma)) == ["concentration", "rate"]
    assert type(AutoGamma()()) is dd.Gamma
    assert raw_names(AutoGamma()) == ["raw_concentration", "raw_rate"]
    assert not hasattr(AutoGamma(), "loc")


# --- other metaclasses, and who owns a field ------------------------------------------------


def test_abstract_base_classes_mix_in():
    class Shape(ABC):
        @abstractmethod
        def area(self): ...

    class Disc(Declarative, Shape):
        radius = Param(2.0, Positive())

    with pytest.raises(TypeError, match="abstract"):
        Disc()

    class Whole(Disc):
        def area(self):
            return 3 * self.radius**2

    torch.testing.assert_close(Whole().area(), torch.tensor(12.0))
    assert isinstance(Whole(), Shape)


def test_generic_classes_mix_in():
    class Typed(Variational, Generic[T]):
        base = dd.Normal

    class Concrete(Typed[int]):
        pass

    assert raw_names(Concrete()) == ["raw_loc", "raw_scale"]


def test_modules_mix_in():
    class WithLayer(Declarative, nn.Module):
        gain = Param(2.0, Positive())

        def __init__(self, width, **keywords):
            super().__init__(**keywords)
            self.layer = nn.Linear(width, 1)

    module = WithLayer(3, gain=5.0)
    assert raw_names(module) == ["raw_gain", "layer.weight", "layer.bias"]


def test_fields_of_class_and_instance():
    assert fields_of(Heavy) is fields_of(Heavy())
    assert list(fields_of(Heavy).values()) == [Heavy.df, Heavy.loc, Heavy.scale]
    assert dict(fields_of(Declarative)) == {}


@pytest.mark.parametrize("other", [3, nn.Linear(1, 1), nn.Linear, dd.Normal(0.0, 1.0)])
def test_fields_of_something_else(other):
    with pytest.raises(DeclarationError, match="expected a declarative class or instance"):
        fields_of(other)


def test_fields_cannot_be_changed_through_the_listing():
    with pytest.raises(TypeError):
        fields_of(Heavy)["other"] = Param(1.0)
    assert "other" not in fields_of(Heavy)


def test_one_object_under_two_names_is_two_fields():
    shared = Param(2.0, Positive())

    class GammaFamily(Variational):
        base = dd.Gamma
        concentration = shared
        rate = shared

    q = GammaFamily()
    assert raw_names(q) == ["raw_concentration", "raw_rate"]
    assert (GammaFamily.concentration.name, GammaFamily.rate.name) == ("concentration", "rate")
    q.rate = 5.0
    torch.testing.assert_close(q.concentration, torch.tensor(2.0))
    torch.testing.assert_close(q.rate, torch.tensor(5.0))

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


# --- overriding -----------------------------------------------------------------------------


def test_subclass_inherits_base_and_fields():
    class Sub(Heavy):
        pass

    assert list(fields_of(Sub)) == ["df", "loc", "scale"]
    torch.testing.assert_close(Sub()().scale, torch.tensor(2.0))
    assert type(Sub()()) is dd.StudentT


def test_overridden_field_keeps_its_place_and_leaves_the_parent_alone():
    class Sub(Heavy):
        loc = Param(-3.0)

    assert list(fields_of(Sub)) == ["df", "loc", "scale"]
    assert (Sub().loc.item(), Heavy().loc.item()) == (-3.0, 1.0)
    assert Sub.loc is not Heavy.loc


def test_another_constraint_for_an_inherited_field():
    class Sub(Heavy):
        scale = Param(2.0, Positive())

    raw = Sub().raw_scale.item()
    assert raw == pytest.approx(1.8545865)  # log(exp(2) - 1)
    assert Heavy().raw_scale.item() == pytest.approx(0.6931472)  # log(2)


def test_field_replaced_by_a_constant():
    class Sub(Heavy):
        df = 4

    q = Sub()
    assert raw_names(q) == ["raw_loc", "raw_scale"]
    assert [name for name, _ in q.named_buffers()] == ["df"]
    assert q().df.item() == 4.0
    assert raw_names(Heavy()) == ["raw_df", "raw_loc", "raw_scale"]


def test_constant_replaced_by_a_field():
    class Fixed(Heavy):
        df = 4

    class Free(Fixed):
        df = Param(4.0)

    assert raw_names(Free()) == ["raw_df", "raw_loc", "raw_scale"]
    assert list(Free().buffers()) == []


def test_field_replaced_by_a_derived_one():
    class Sub(Heavy):
        @derived
        def scale(self, loc):
            return loc.abs() + 1

    q = Sub(loc=-3.0)
    assert raw_names(q) == ["raw_df", "raw_loc"]
    assert q().scale.item() == 4.0


def test_derived_replaced_by_a_field():
    class Tied(Heavy):
        @derived
        def scale(self, loc):
            return loc.abs() + 1

    class Free(Tied):
        scale = Param(7.0)

    torch.testing.assert_close(Free()().scale, torch.tensor(7.0))


def test_field_dropped_with_none():
    class Sub(Heavy):
        scale = None

    q = Sub()
    assert list(fields_of(Sub)) == ["df", "loc"]
    assert raw_names(q) == ["raw_df", "raw_loc"]
    assert q().scale.item() == 1.0  # the default of StudentT
    assert not isinstance(Sub.scale, Param)


def test_dropping_a_required_argument_is_refused():
    with pytest.raises(DeclarationError, match=r"^Sub\.df: expected every required argument"):

        class Sub(Heavy):
            df = None


def test_dropping_what_a_derived_field_needs_is_refused():
    class Tied(Heavy):
        @derived
        def scale(self, loc):
            return loc.abs() + 1

    with pytest.raises(
        DeclarationError, match=r"^Sub\.scale: expected names of fields, got 'loc'"
    ):

        class Sub(Tied):
            loc = None


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


def test_plain_mixin():
    class LogScale:
        scale = Param(3.0, Exp())

    class Gaussian(LogScale, Variational):
        base = dd.Normal
        loc = Param(0.0)

    q = Gaussian()
    assert set(fields_of(Gaussian)) == {"loc", "scale"}
    torch.testing.assert_close(q().scale, torch.tensor(3.0))
    assert sorted(raw_names(q)) == ["raw_loc", "raw_scale"]


def test_plain_mixin_with_a_number_and_a_derived_field():
    class FourDegrees:
        df = 4

        @derived
        def scale(self, loc):
            return loc.exp()

    class Tail(FourDegrees, Variational):
        base = dd.StudentT
        loc = Param(0.0)

    assert (Tail()().df.item(), Tail()().scale.item()) == (4.0, 1.0)
    assert raw_names(Tail()) == ["raw_loc"]


def test_declarative_mixin():
    class Scaled(Declarative):
        scale = Param(3.0, Exp())

    class Gaussian(Scaled, Variational):
        base = dd.Normal
        loc = Param(0.0)

    assert set(fields_of(Gaussian)) == {"loc", "scale"}
    torch.testing.assert_close(Gaussian()().scale, torch.tensor(3.0))
    assert raw_names(Scaled()) == ["raw_scale"]


def test_the_first_in_the_line_wins():
    class One:
        scale = Param(1.0)

    class Two:
        scale = Param(2.0)

    class Gaussian(Two, One, Variational):
        base = dd.Normal
        loc = Param(0.0)

    torch.testing.assert_close(Gaussian()().scale, torch.tensor(2.0))


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


def test_another_base_that_does_not_take_the_inherited_arguments():
    with pytest.raises(DeclarationError, match=r"^Sub\.df: expected an argument of Gamma"):

        class Sub(Heavy):
            base = dd.Gamma


def test_constants_are_checked_against_the_new_base():
    class Free(Variational):
        base = dd.Normal
        loc = -1.0
        scale = Param(1.0)

    with pytest.raises(DeclarationError, match=r"^Sub\.loc: expected a value in GreaterThan"):

        class Sub(Free):
            base = NonNegativeLoc

    assert Free()().loc.item() == -1.0


class NonNegativeLoc(dd.Normal):
    arg_constraints = {  # noqa: RUF012
        "loc": dd.constraints.positive,
        "scale": dd.constraints.positive,
    }


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


def test_the_library_class_itself_cannot_be_instantiated():
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
    cls = type(Variational)("Auto", (Variational,), {"base": base, "__module__": __name__})
    assert set(fields_of(cls)) == set(fields)


def test_subclass_of_an_auto_declared_class_inherits_its_fields():
    class Log(AutoNormal):
        scale = Param(2.0, Exp())

    assert list(fields_of(Log)) == ["loc", "scale"]
    assert isinstance(fields_of(Log)["scale"].constraint, Exp)
    assert isinstance(fields_of(AutoNormal)["scale"].constraint, Positive)
    torch.testing.assert_close(Log()().scale, torch.tensor(2.0))


def test_auto_declared_class_with_another_base_is_declared_anew():
    class AutoGamma(AutoNormal):
        base = dd.Gamma

    assert list(fields_of(AutoGamma)) == ["concentration", "rate"]
    assert type(AutoGamma()()) is dd.Gamma
    assert raw_names(AutoGamma()) == ["raw_concentration", "raw_rate"]


def test_fields_of_another_base_are_no_attributes():
    class AutoGamma(AutoNormal):
        base = dd.Gamma

    assert not hasattr(AutoGamma(), "loc")


def test_attribute_of_a_dropped_field_is_free():
    class Without(Heavy):
        scale = None

    q = Without()
    q.scale = 3.0
    assert q.scale == 3.0
    assert q().scale.item() == 1.0


def test_auto_declared_with_one_constant_is_declared_by_hand():
    """With at least one field declared, every required argument must be."""
    with pytest.raises(DeclarationError, match=r"^Half\.scale: expected every required argument"):

        class Half(Variational):
            base = dd.Normal
            loc = 0.0


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

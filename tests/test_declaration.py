"""What a class body may say, and how it is told what it may not."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
import torch.distributions as dd
from torch import nn
from torch.distributions import constraints

from declarative_dist import (
    Constraint,
    DeclarationError,
    Declarative,
    GreaterThan,
    Interval,
    LessThan,
    Param,
    Positive,
    Real,
    UnitInterval,
    Variational,
    derived,
    fields_of,
)
from tests.cases import Count


class MeanAndDeviation(dd.Distribution):
    """A distribution whose argument is called like a member of every distribution."""

    arg_constraints = {"mean": constraints.real, "deviation": constraints.positive}  # noqa: RUF012

    def __init__(self, mean, deviation, validate_args=None):
        self.inner = dd.Normal(mean, deviation, validate_args=False)
        super().__init__(self.inner.batch_shape, validate_args=False)

    @property
    def mean(self):
        return self.inner.mean

    def log_prob(self, value):
        return self.inner.log_prob(value)


def taking(name):
    """A distribution with an argument of this name."""
    made = type(f"Takes_{name}", (dd.Distribution,), {"arg_constraints": {name: constraints.real}})
    parameters = [
        inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in ("self", name)
    ]
    made.__init__ = lambda self, *arguments: None
    made.__init__.__signature__ = inspect.Signature(parameters)
    return made


def declared(name, base_class=Variational, **body):
    return type(base_class)(name, (base_class,), {"__module__": __name__, **body})


def refused(name, base_class=Variational, **body):
    """The text of the error that a class with this body raises."""
    with pytest.raises(DeclarationError) as caught:
        declared(name, base_class, **body)
    assert isinstance(caught.value, TypeError)
    return caught.value.sentence


# --- the whole text -------------------------------------------------------------------------


SENTENCES = {
    "Gamma.rte": (
        {"base": dd.Gamma, "concentration": Param(1.0), "rte": Param(1.0)},
        ("expected an argument of Gamma, or a name that another field uses, got 'rte'. "
        "Did you mean 'rate'? Known here: concentration, rate.")),
    "Gamma.rate": (
        {"base": dd.Gamma, "concentration": Param(1.0)},
        ("expected every required argument of Gamma (concentration, rate), got none of that "
        "name among concentration. Write rate = Param().")),
    "Coin.probs": (
        {"base": dd.Bernoulli, "probs": Param(0.5), "logits": Param(0.0)},
        ("expected exactly one of logits, probs, as Bernoulli takes it, got logits and probs. "
        "Keep logits.")),
    "Constant.probs": (
        {"base": dd.Bernoulli, "probs": 0.5, "logits": Param(0.0)},
        ("expected exactly one of logits, probs, as Bernoulli takes it, got logits and probs. "
        "Keep logits.")),
    "Wrong.base": (
        {"base": 3},
        ("expected a torch.distributions.Distribution subclass or a method that returns a "
        "distribution, got 3. Write base = torch.distributions.Normal, or "
        "def base(self, loc, scale): ...")),
    "Gaussian.mean": (
        {"base": dd.Normal, "mean": Param(0.0), "scale": Param(1.0)},
        ("expected a name that is free, got 'mean', which nn.Module, Distribution or this "
        "library defines. Choose another name.")),
    "Box.high": (
        {"base": dd.Uniform, "low": Param(0.0), "high": Param(1.0, GreaterThan("lwo"))},
        "expected names of fields, got 'lwo'. Did you mean 'low'? Known here: low."),
    "Box.low": (
        {"base": dd.Uniform, "low": Param(0.0, LessThan("high")),
         "high": Param(1.0, GreaterThan("low"))},
        "expected no circle, got low -> high -> low. Cut it at one field."),
    "Gaussian.scale": (
        {"base": dd.Normal, "loc": Param(0.0), "scale": Param(1.0, "positive")},
        ("expected a Constraint, a torch constraint, a Transform, or a module with "
        "right_inverse, got 'positive'.")),
    "Gaussian.loc": (
        {"base": dd.Normal, "loc": Param(0.0, Interval), "scale": Param(1.0)},
        ("expected Interval with its arguments, got the class Interval. "
        "Write Interval(low, high).")),
    "Heavy.sacle": (
        {"base": dd.StudentT, "df": Param(3.0), "sacle": 2.0},
        ("expected the name of an argument, got 'sacle'. Did you mean 'scale'? "
        "Known here: df, loc, scale.")),
    "Bare.sacle": (
        {"base": dd.Normal, "sacle": 2.0},
        ("expected the name of an argument, got 'sacle'. Did you mean 'scale'? "
        "Known here: loc, scale.")),
    "Method.base": (
        {"loc": Param(0.0), "base": lambda self, lco: dd.Normal(lco, 1.0)},
        "expected names of fields, got 'lco'. Did you mean 'loc'? Known here: loc."),
    "Model.twice": (
        {"scale": Param(1.0), "twice": derived(lambda self, scal: 2 * scal)},
        "expected names of fields, got 'scal'. Did you mean 'scale'? Known here: scale."),
}  # fmt: skip


@pytest.mark.parametrize("subject", SENTENCES)
def test_what_is_said(subject):
    body, said = SENTENCES[subject]
    base_class = Variational if "base" in body else Declarative
    assert refused(subject.partition(".")[0], base_class, **body) == f"{subject}: {said}"


# --- bases ----------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [dd.Distribution, dd.ExponentialFamily])
def test_abstract_base(base):
    text = refused("Wrong", base=base)
    assert text.startswith("Wrong.base: expected a concrete torch distribution class, got ")
    assert base.__name__ in text


@pytest.mark.parametrize(
    "base", [nn.Linear, "Normal", dd.Normal(0.0, 1.0), 1.5, staticmethod(lambda self, loc: None)]
)
def test_other_bases_that_are_none(base):
    text = refused("Wrong", base=base)
    assert text.startswith("Wrong.base: expected a torch.distributions.Distribution subclass")


def test_a_declared_class_is_no_base():
    inner = declared("Inner", base=dd.Normal)
    assert "Outer.base: expected a concrete torch distribution class" in refused(
        "Outer", base=inner
    )


@pytest.mark.parametrize(
    "method", [lambda loc: None, lambda self, *loc: None, lambda self, **loc: None, lambda: None]
)
def test_method_base_without_self_or_names(method):
    text = refused("Wrong", loc=Param(0.0), base=method)
    assert text.startswith("Wrong.base: expected a method that takes self, then values by name")


# --- arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [dd.Binomial, dd.Multinomial])
def test_parameter_for_a_count(base):
    text = refused("Count", base=base, total_count=Param(5.0), logits=Param(0.0))
    assert text.startswith("Count.total_count: expected a constant, because no gradient reaches")
    assert "Write total_count = 10" in text


@pytest.mark.parametrize("name", ["event_dim", "dtype", "forward"])
def test_base_whose_arguments_collide(name):
    assert refused("Wrong", base=taking(name)) == (
        "Wrong.base: expected a base whose arguments have names of their own, got "
        f"Takes_{name} with {name}. Write a method instead: def base(self, ...): return "
        f"Takes_{name}(...), with fields under other names."
    )


@pytest.mark.parametrize(("df", "shown"), [
    (-1, "-1.0"), (0, "0.0"), (0.0, "0.0"), (math.nan, "nan"), (math.inf, "inf"),
    (torch.tensor([1.0, -2.0]), "(2,)"),
])  # fmt: skip
def test_constant_outside_its_constraint(df, shown):
    text = refused("Heavy", base=dd.StudentT, df=df)
    assert text.startswith("Heavy.df: expected a value in GreaterThan(lower_bound=0.0), got ")
    assert shown in text


@pytest.mark.parametrize("count", [-3, 3.5])
def test_count_outside_its_constraint(count):
    text = refused("Count", base=dd.Binomial, total_count=count, logits=Param(0.0))
    assert text.startswith("Count.total_count: expected a value in IntegerGreaterThan(")
    assert repr(count) in text


@pytest.mark.parametrize("others", [{"scale": Param(1.0)}, {}])
@pytest.mark.parametrize("value", ["zero", torch.zeros, Param, {"a": 1}, True, lambda self: 0.0])
def test_something_else_under_an_arguments_name(value, others):
    """A body without a field is declared automatically; what it says must not get lost."""
    text = refused("Gaussian", base=dd.Normal, loc=value, **others)
    assert text.startswith("Gaussian.loc: expected a Param, a number, a tensor or @derived, got ")


def test_module_where_the_base_wants_a_tensor():
    text = refused("Model", base=dd.Normal, loc=nn.Linear(1, 1), scale=Param(1.0))
    assert text.startswith("Model.loc: expected a tensor")
    assert "Linear" in text


def test_parameter_of_an_argument_that_torch_says_nothing_about():
    text = refused("Coin", base=dd.ContinuousBernoulli, logits=Param(0.0), lims=Param(0.5))
    assert text.startswith("Coin.lims: expected a constant")


# --- names ----------------------------------------------------------------------------------

MODULE_NAMES = ["training", "parameters", "forward", "state_dict", "register_buffer", "to", "eval"]
DISTRIBUTION_NAMES = ["mean", "mode", "variance", "support", "log_prob", "event_shape", "expand"]
OWN_NAMES = ["assign", "freeze", "constrained_values", "reset_parameters"]
KEYWORDS = ["batch_shape", "device", "dtype"]


@pytest.mark.parametrize("name", [*MODULE_NAMES, *OWN_NAMES, *KEYWORDS])
@pytest.mark.parametrize("value", [Param(1.0), torch.ones(()), derived(lambda self: 1.0)])
def test_reserved_in_every_declarative_class(name, value):
    text = refused("Model", Declarative, **{name: value})
    assert text.startswith(f"Model.{name}: expected a name that is free, got {name!r}")


@pytest.mark.parametrize("name", [*MODULE_NAMES, *DISTRIBUTION_NAMES, *OWN_NAMES, *KEYWORDS])
def test_reserved_in_every_variational_class(name):
    body = {name: Param(1.0), "loc": Param(0.0), "scale": Param(1.0)}
    text = refused("Gaussian", base=dd.Normal, **body)
    assert text.startswith(f"Gaussian.{name}: expected a name that is free, got {name!r}")


@pytest.mark.parametrize("name", ["mean", "variance", "support", "batch_shape"])
def test_number_under_a_reserved_name(name):
    """A constant called `mean` would silently stand in place of the distribution's mean."""
    body = {name: 3.0, "loc": Param(0.0), "scale": Param(1.0)}
    text = refused("Gaussian", base=dd.Normal, **body)
    assert text.startswith(f"Gaussian.{name}: expected")


def test_names_of_distributions_are_free_without_a_distribution():
    class Model(Declarative):
        mean = Param(1.5)

    assert Model().mean.item() == 1.5


def test_field_called_mean_for_an_argument_called_mean():
    q = declared("Family", base=MeanAndDeviation, mean=Param(2.0), deviation=Param(3.0))()
    assert q.mean is q.raw_mean
    torch.testing.assert_close(q.deviation, torch.tensor(3.0))
    x = torch.tensor(0.5)
    torch.testing.assert_close(q.log_prob(x), dd.Normal(2.0, 3.0).log_prob(x))
    q.mean = 4.0
    assert q().mean.item() == 4.0


@pytest.mark.parametrize(
    ("param", "shown"),
    [
        (Param(), "Param()"),
        (Param(1.0), "Param(1.0)"),
        (Param(1.0, Positive()), "Param(1.0, Positive())"),
        (Param(1.0, Positive), "Param(1.0, Positive)"),
        (Param(1.0, "positive"), "Param(1.0, 'positive')"),
    ],
)
def test_a_param_outside_a_class_shows_the_constraint_that_it_was_given(param, shown):
    assert repr(param) == shown


def test_base_and_event_dim_are_no_fields():
    assert refused("Model", Declarative, base=Param(1.0)).startswith("Model.base: expected")
    assert refused("Model", Declarative, event_dim=Param(1.0)) == (
        "Model.event_dim: expected an int, 0 or above, got Param(1.0)."
    )


@pytest.mark.parametrize("event_dim", [-1, 1.5, True, "one", torch.tensor(1)])
def test_bad_event_dim(event_dim):
    text = refused("Gaussian", base=dd.Normal, event_dim=event_dim)
    assert text.startswith("Gaussian.event_dim: expected an int, 0 or above, got ")


@pytest.mark.parametrize("switch", ["no", 2, 0.5])
def test_bad_validate_args(switch):
    text = refused("Gaussian", base=dd.Normal, validate_args=switch)
    assert text.startswith("Gaussian.validate_args: expected True or False, got ")


@pytest.mark.parametrize(
    "other", [Param(0.0), torch.zeros(1), derived(lambda self, x: x), lambda self: 1.0, 3.0]
)
def test_raw_name_of_another_field(other):
    for body in ({"x": Param(0.0), "raw_x": other}, {"raw_x": other, "x": Param(0.0)}):
        text = refused("Model", Declarative, **body)
        assert text.startswith("Model.raw_x: expected a name that is free, got 'raw_x'")


def test_size_named_like_a_field():
    text = refused("Model", Declarative, x=Param(0.0, shape=("y",)), y=Param(0.0))
    assert text == (
        "Model.x: expected a size with a name of its own, got 'y', the name of a field or "
        "keyword. Choose another name for the size."
    )


@pytest.mark.parametrize("size", ["device", "dtype", "batch_shape"])
def test_size_named_like_a_keyword(size):
    text = refused("Model", Declarative, x=Param(0.0, shape=(size,)))
    assert text.startswith("Model.x: expected a size with a name of its own")


# --- what fields need -----------------------------------------------------------------------


def test_bound_that_names_the_other_end_of_a_uniform():
    """What is inferred for the one end must not need the other in a circle."""
    q = declared("Box", base=dd.Uniform, low=Param(0.0), high=Param(1.0, GreaterThan("low")))(
        low=2.0, high=3.0
    )
    assert (q.low.item(), q.high.item()) == pytest.approx((2.0, 3.0))


def test_low_end_stays_below_a_high_one_that_is_bounded_by_another_field():
    high = Param(1.0, GreaterThan("middle"))
    q = declared("Box", base=dd.Uniform, middle=Param(0.5), low=Param(0.0), high=high)()
    with torch.no_grad():
        for name, raw in q.named_parameters():
            raw.fill_(7.0 if "low" in name else -7.0)
    assert q().low < q().high


def test_derived_end_of_a_uniform():
    high = derived(lambda self, low, width: low + width)
    body = {"low": Param(2.0), "width": Param(3.0, Positive()), "high": high}
    assert declared("Window", base=dd.Uniform, **body)()().high.item() == pytest.approx(5.0)


@pytest.mark.parametrize("method", [lambda x: x, lambda self, *x: x, lambda self, **x: x])
def test_derived_without_self_or_names(method):
    with pytest.raises(DeclarationError, match="expected a method that takes self, then values"):
        derived(method)


# --- fields ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(-1,), ("a b",), (1.5,), (True,), 2.5, (None,)])
def test_bad_shape(shape):
    with pytest.raises(DeclarationError, match=r"^Param\(shape=\): expected sizes"):
        Param(0.0, shape=shape)


@pytest.mark.parametrize("init", ["one", True, 1j, object(), [[1.0], [1.0, 2.0]], {"a": 1.0}])
def test_bad_starting_value(init):
    with pytest.raises(DeclarationError, match=r"^Param\(init=\): expected a number, a list"):
        Param(init)


@pytest.mark.parametrize(
    "constraint", [constraints.integer_interval(0, 3), constraints.dependent, constraints.boolean]
)
def test_torch_constraint_in_which_nothing_can_be_learned(constraint):
    text = refused("Gaussian", base=dd.Normal, loc=Param(0.0, constraint), scale=Param(1.0))
    assert text.startswith("Gaussian.loc: expected a torch constraint that a parameter can be")


@pytest.mark.parametrize(
    ("base", "kinds"),
    [(dd.Normal, {"loc": Real, "scale": Positive}), (dd.Bernoulli, {"probs": UnitInterval})],
)
def test_constraint_is_inferred_from_the_base(base, kinds):
    cls = declared("Family", base=base, **{name: Param() for name in kinds})
    assert {name: type(field.constraint) for name, field in fields_of(cls).items()} == kinds


def test_bare_parameter_of_a_method_base_is_real():
    cls = declared("Method", rate=Param(-1.0), base=lambda self, rate: dd.Poisson(rate.exp()))
    assert isinstance(cls.rate.constraint, Real)
    assert cls().rate.item() == -1.0


@pytest.mark.parametrize(
    "constraint", [Positive(), Positive, constraints.positive, dd.ExpTransform()]
)
def test_what_counts_as_a_constraint(constraint):
    cls = declared("Model", Declarative, x=Param(2.0, constraint))
    torch.testing.assert_close(cls().x, torch.tensor(2.0))


def test_a_constraint_in_place_of_the_starting_value():
    for given in (Positive(), Positive):
        with pytest.raises(DeclarationError, match=r"Write Param\(1\.0, Positive\(\)\)"):
            Param(given)


def test_a_torch_parameter_in_a_class_body():
    text = refused("Coin", base=dd.Bernoulli, logits=nn.Parameter(torch.tensor(0.0)))
    assert text.startswith("Coin.logits: ")
    assert "Write logits = Param" in text


def test_a_colon_in_place_of_an_equals_sign():
    text = refused("Slip", base=dd.Normal, __annotations__={"loc": Param(0.0)})
    assert text.startswith("Slip.loc: expected loc = Param")


def test_a_constraint_without_support():
    class Nowhere(Constraint):
        def forward(self, raw):
            return raw

        def inverse(self, value):
            return value

    text = refused("Model", base=dd.Normal, loc=Param(0.0, Nowhere()), scale=Param(1.0))
    assert text.startswith("Model.loc: expected Nowhere.support")


def test_classes_made_by_calls_have_fields_too():
    made = type(
        "Made", (Variational,), {"base": dd.Normal, "loc": Param(2.0), "scale": Param(1.0)}
    )
    assert made().mean.item() == 2.0


def test_reading_a_misspelt_field_proposes_it():
    with pytest.raises(AttributeError, match="Did you mean 'logits'"):
        _ = Count().logit
    assert not hasattr(Count(), "logit")

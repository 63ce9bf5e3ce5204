"""Derived fields and named bounds: computed once per build, in order, with errors that tell."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.distributions as dd

from declarative_dist import (
    ConstraintError,
    Declarative,
    Exp,
    FieldError,
    GreaterThan,
    Interval,
    Param,
    Positive,
    Real,
    Variational,
    derived,
)
from declarative_dist.fields.derived import Derived

calls: Counter[str] = Counter()


class Counting:
    """A constraint that counts how often it is computed."""

    def __init__(self, name, *arguments):
        super().__init__(*arguments)
        self.called = name

    def forward(self, raw):
        calls[self.called] += 1
        return super().forward(raw)


class Counted(Counting, Exp):
    pass


class CountedReal(Counting, Real):
    pass


class CountedGreaterThan(Counting, GreaterThan):
    pass


class GammaByMean(Variational):
    base = dd.Gamma
    concentration = Param(2.0, Counted("concentration"))
    location = Param(4.0, Counted("location"))

    @derived
    def rate(self, concentration, location):
        """The rate that gives the mean."""
        calls["rate"] += 1
        return concentration / location


class Chain(Variational):
    """The derived fields stand before what they need, and two of them share an ancestor."""

    base = dd.Normal

    @derived
    def scale(self, part, root):
        calls["scale"] += 1
        return part * root

    @derived
    def part(self, spread):
        calls["part"] += 1
        return spread / 2

    @derived
    def root(self, spread):
        calls["root"] += 1
        return spread.sqrt()

    spread = Param(4.0, Counted("spread"))
    loc = Param(1.0)


class CountedBox(Variational):
    base = dd.Uniform
    high = Param(3.0, CountedGreaterThan("high", "low"))
    low = Param(1.0, CountedReal("low"))


class Guide(Declarative):
    """Bounds on bounds, and a bound that is derived."""

    top = Param(9.0, GreaterThan("middle"))
    middle = Param(5.0, Interval("bottom", "ceiling"))
    bottom = Param(1.0, Counted("bottom"))

    @derived
    def ceiling(self, bottom):
        calls["ceiling"] += 1
        return bottom + 6


ONCE = {
    GammaByMean: ["concentration", "location", "rate"],
    Chain: ["spread", "part", "root", "scale"],
    CountedBox: ["low", "high"],
}
"""What a build computes."""


class Drifting(Real):
    """Another value on each read."""

    def forward(self, raw):
        calls["reads"] += 1
        return raw + calls["reads"]


class Drift(Variational):
    base = dd.Uniform
    low = Param(0.0, Drifting())
    middle = Param(5.0, GreaterThan("low"))

    @derived
    def high(self, low, middle):
        return low.detach() + 2 * (middle - low)


# --- values ---------------------------------------------------------------------------------


def test_derived_value_as_an_argument_of_the_base():
    q = GammaByMean()
    assert q.rate.item() == q().rate.item() == pytest.approx(0.5)
    assert q.mean.item() == pytest.approx(4.0)
    chain = Chain()
    found = chain.part.item(), chain.root.item(), chain.scale.item(), chain().scale.item()
    assert found == pytest.approx((2.0, 2.0, 4.0, 4.0))
    chain.spread = 16.0
    assert chain().scale.item() == pytest.approx(32.0)


def test_gradient_reaches_what_it_is_computed_from():
    q = GammaByMean()
    x = torch.tensor(3.0)
    q.log_prob(x).backward()
    raw = torch.tensor([2.0, 4.0]).log().requires_grad_()
    concentration, location = raw.exp()
    dd.Gamma(concentration, concentration / location).log_prob(x).backward()
    got = torch.stack([q.raw_concentration.grad, q.raw_location.grad])
    torch.testing.assert_close(got, raw.grad)


def test_derived_without_names_uses_self():
    class Model(Declarative):
        x = Param(3.0)
        factor = 2  # nothing takes it by name, so it is an attribute of the class

        @derived
        def y(self):
            return self.factor * self.x

        @derived
        def z(self, x, factor=2.0):  # by its default
            return factor * x

    assert Model().y.item() == Model().z.item() == 6.0


def test_derived_by_a_method_base():
    class Wide(Variational):
        width = Param(2.0, Positive())

        @derived
        def scale(self, width):
            return width * 3

        def base(self, scale):
            return dd.Normal(0.0, scale)

    assert Wide()().scale.item() == pytest.approx(6.0)


def test_derived_argument_outside_its_constraint(monkeypatch):
    """Nothing constrains a derived value, so torch's own validation looks at it."""
    monkeypatch.setattr(dd.Distribution, "_validate_args", True)

    class Wrong(Variational):
        base = dd.Normal
        loc = Param(1.0)

        @derived
        def scale(self, loc):
            return loc

    q = Wrong()
    assert q().scale.item() == 1.0
    q.loc = -1.0
    with pytest.raises(ValueError, match="scale"):
        q()
    for copies in [(), (2,)]:
        with pytest.raises(ConstraintError, match=r"^Wrong: expected arguments that Normal takes"):
            Wrong(loc=-1.0, batch_shape=copies)


def test_read_on_the_class():
    assert isinstance(GammaByMean.rate, Derived)
    assert GammaByMean.rate.name == "rate"
    assert GammaByMean.rate.needs == ("concentration", "location")
    assert GammaByMean.rate.__doc__ == "The rate that gives the mean."
    assert isinstance(GammaByMean.location, Param)


# --- once per build -------------------------------------------------------------------------


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("cls", [GammaByMean, Chain, CountedBox])
def test_every_member_computes_everything_once(monkeypatch, validate, cls):
    monkeypatch.setattr(dd.Distribution, "_validate_args", validate)
    q, x = cls(), torch.tensor(2.0)
    for use in (
        q,
        q.rsample,
        q.entropy,
        q.rsample_and_log_prob,
        lambda: q.log_prob(x),
        lambda: q.mean,
    ):
        calls.clear()
        use()
        assert calls == dict.fromkeys(ONCE[cls], 1)


def test_reading_one_field_computes_only_what_it_needs():
    q = Chain()
    calls.clear()
    assert q.part.item() == pytest.approx(2.0)
    assert calls == {"spread": 1, "part": 1}
    calls.clear()
    assert q.loc.item() == 1.0
    assert calls == {}
    q.constrained_values()
    assert calls["spread"] == 1


def test_what_the_base_does_not_need_is_not_computed():
    class Monitored(GammaByMean):
        @derived
        def unused(self, rate):
            calls["unused"] += 1
            return rate

    q = Monitored()
    calls.clear()
    q()
    assert calls == {"concentration": 1, "location": 1, "rate": 1}
    assert q.unused.item() == pytest.approx(0.5)


# --- named bounds ---------------------------------------------------------------------------


def test_bounds_derived_fields_and_the_base_see_the_same_values():
    q = Drift()
    for _ in range(3):
        distribution = q()
        width = 2 * torch.nn.functional.softplus(q.raw_middle)
        torch.testing.assert_close(distribution.high - distribution.low, width)


def test_bounds_of_bounds():
    guide = Guide()
    assert [guide.bottom.item(), guide.middle.item(), guide.top.item()] == pytest.approx(
        [1.0, 5.0, 9.0]
    )
    guide.bottom = 10.0
    assert guide.ceiling.item() == pytest.approx(16.0)
    assert 10.0 < guide.middle.item() < 16.0
    assert guide.top.item() > guide.middle.item()


def test_derived_bound_is_checked_on_assignment():
    guide = Guide()
    with pytest.raises(ConstraintError, match=r"^Guide\.middle: expected a number strictly betw"):
        guide.middle = 7.0
    assert guide.middle.item() == pytest.approx(5.0)
    guide.assign(middle=20.0, bottom=15.0, top=21.0)
    assert guide.top.item() == pytest.approx(21.0)


# --- attribute errors -----------------------------------------------------------------------


class Faulty(Declarative):
    x = Param(1.0)
    broken = False

    @derived
    def y(self, x):
        return x.missing_method() if type(self).broken else x

    @derived
    def z(self, y):
        return y + 1


class FaultyBase(Variational):
    loc = Param(1.0)

    def base(self, loc):
        return dd.Normal(loc, self.no_such_field)


@pytest.fixture
def faulty(monkeypatch):
    model = Faulty()
    monkeypatch.setattr(Faulty, "broken", True)
    return model


def test_attribute_error_in_a_derived_field(faulty):
    with pytest.raises(FieldError) as caught:
        _ = faulty.y
    assert caught.value.sentence == (
        "Faulty.y: expected a value, got AttributeError: 'Parameter' object has no attribute "
        "'missing_method'."
    )
    assert not isinstance(caught.value, AttributeError)
    assert isinstance(caught.value, RuntimeError)
    assert isinstance(caught.value.__cause__, AttributeError)
    assert "FieldError" in repr(faulty)


def test_attribute_error_in_a_constraint():
    class Odd(Real):
        def forward(self, raw):
            return raw.missing_method() if calls["odd"] else raw

    class Model(Declarative):
        x = Param(1.0, Odd())

    model = Model()
    calls["odd"] = 1
    with pytest.raises(FieldError, match=r"^Model\.x: .*missing_method"):
        _ = model.x


@pytest.mark.parametrize("use", [
    lambda q: q(), lambda q: q.rsample(), lambda q: q.log_prob(torch.tensor(0.0)),
    lambda q: q.mean, lambda q: q.batch_shape, lambda q: q.support, lambda q: q.has_rsample,
    lambda q: q.entropy(),
])  # fmt: skip
def test_attribute_error_in_the_base_method(use):
    with pytest.raises(FieldError) as caught:
        use(FaultyBase())
    assert caught.value.sentence == (
        "FaultyBase.base: expected a distribution, got AttributeError: 'FaultyBase' object has "
        "no attribute 'no_such_field'."
    )


def test_attribute_error_in_a_property_of_the_class():
    """`nn.Module` would say that the property itself does not exist."""

    class Family(Variational):
        base = dd.Normal

        @property
        def precision(self):
            return self.scael**-2

    q = Family()
    with pytest.raises(FieldError) as caught:
        _ = q.precision
    text = str(caught.value)
    assert text.startswith("Family.precision: expected a value, got AttributeError: ")
    assert "'scael'" in text
    assert "no attribute 'precision'" not in text


def test_base_method_that_returns_no_distribution():
    class Wrong(Variational):
        loc = Param(1.0)

        def base(self, loc):
            return loc

    with pytest.raises(FieldError) as caught:
        Wrong()()
    assert caught.value.sentence == (
        "Wrong.base: expected a torch distribution from the method, got 1.0. Return one."
    )

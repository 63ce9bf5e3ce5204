"""Constants: numbers that a declaration holds fixed, checked, moved and saved."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.distributions as dd
from torch import nn

from declarative_dist import (
    Constant,
    ConstraintError,
    DeclarationError,
    Declarative,
    FieldError,
    GreaterThan,
    Interval,
    LogInterval,
    Param,
    Positive,
    StateMismatchError,
    Variational,
    derived,
    fields_of,
)
from tests.cases import Count, FixedTail
from tests.states import assert_unchanged, state_of


class Votes(Variational):
    base = dd.Multinomial
    total_count = 7
    logits = Param(0.0, shape=("k",))


class Coin(Variational):
    base = dd.ContinuousBernoulli
    lims = (0.48, 0.52)
    logits = Param(0.0)


class Whitened(Declarative):
    gain = Param(2.0)
    center = torch.tensor([1.0, 2.0])
    index = torch.tensor([1, 0])

    def forward(self, x):
        return self.gain * (x[self.index] - self.center)


# --- what becomes of a number ---------------------------------------------------------------


@pytest.mark.parametrize("df", [4, 4.0, torch.tensor(4.0), torch.tensor(4)])
def test_continuous_constants_are_floating_buffers(df):
    cls = type(Variational)(
        "Family", (Variational,), {"__module__": __name__, "base": dd.StudentT, "df": df}
    )
    q = cls()
    assert q.df.dtype == torch.float32
    assert q.df.item() == 4.0
    assert [name for name, _ in q.named_buffers()] == ["df"]
    assert list(q.parameters()) == []
    x = torch.tensor(0.5)
    torch.testing.assert_close(q.log_prob(x), dd.StudentT(4.0).log_prob(x))


@pytest.mark.parametrize(("cls", "count"), [(Count, 10), (Votes, 7)])
def test_counts_stay_ints(cls, count):
    q = cls() if cls is Count else cls(k=3)
    assert type(q.total_count) is int
    assert q.total_count == count
    assert q().total_count == count if cls is Votes else q().total_count.item() == count
    assert "total_count" not in q.state_dict()
    q.double()
    assert type(q.total_count) is int
    q.total_count = 3
    assert type(q.total_count) is int
    assert int(torch.as_tensor(q().total_count)) == 3


def test_read_on_the_class():
    assert isinstance(FixedTail.df, Constant)
    assert isinstance(fields_of(Count)["total_count"], Constant)
    assert FixedTail.df.name == "df"


def test_defaults_of_the_base_are_left_to_it():
    class Plain(Variational):
        base = dd.StudentT
        df = Param(3.0)

    q = Plain()
    assert (q().loc.item(), q().scale.item()) == (0.0, 1.0)
    assert list(q.buffers()) == []


def test_lists_become_tensors():
    class Fixed(Variational):
        base = dd.Normal
        loc = [1, 2]  # noqa: RUF012
        scale = Param(1.0)

    q = Fixed()
    assert q.loc.dtype == torch.float32
    assert q.loc.tolist() == [1.0, 2.0]
    assert q().batch_shape == (2,)


def test_tuple_that_is_no_tensor():
    q = Coin()
    assert q.lims == (0.48, 0.52)
    assert "lims" not in q.state_dict()
    x = torch.tensor(0.25)
    plain = dd.ContinuousBernoulli(logits=torch.tensor(0.0), lims=(0.48, 0.52))
    torch.testing.assert_close(q.log_prob(x), plain.log_prob(x))
    assert Coin(lims=(0.4, 0.6))()._lims == (0.4, 0.6)
    assert q.constrained_values()["lims"] == (0.48, 0.52)


# --- tensors under other names, numbers that something uses ---------------------------------


def test_tensors_under_other_names_are_buffers():
    module = Whitened()
    assert list(module.state_dict()) == ["raw_gain", "center", "index"]
    assert module.index.dtype == torch.int64
    assert module(torch.tensor([5.0, 7.0])).tolist() == [12.0, 6.0]
    module.double()
    assert (module.center.dtype, module.index.dtype) == (torch.float64, torch.int64)


def test_number_that_a_derived_field_uses():
    class Model(Declarative):
        x = Param(3.0)
        factor = 2.0

        @derived
        def y(self, x, factor):
            return factor * x

    model = Model()
    assert model.y.item() == 6.0
    assert "factor" in model.state_dict()
    assert Model(factor=5.0).y.item() == 15.0
    model.factor = 4.0
    assert model.y.item() == 12.0


def test_number_that_a_bound_uses():
    class Model(Declarative):
        floor = 1.5
        x = Param(2.0, GreaterThan("floor"))

    assert Model().x.item() == pytest.approx(2.0)
    with pytest.raises(ConstraintError, match=r"^Model\.x"):
        Model(x=1.5)
    assert Model(floor=-3.0, x=-2.0).x.item() == pytest.approx(-2.0)


def test_numbers_that_nothing_uses_are_attributes_of_the_class():
    class Model(Declarative):
        version = 3
        x = Param(0.0)

    assert list(fields_of(Model)) == ["x"]
    assert Model().version == 3


# --- in the constructor ---------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, np.int64(3)])
def test_count_in_the_constructor(count):
    q, other = Count(total_count=count), Count()
    other.total_count = count
    for each in (q, other):
        assert each.total_count == 3
        assert each().total_count.item() == 3
    assert Count().total_count == 10


@pytest.mark.parametrize("count", [torch.tensor([3, 5]), torch.tensor([3.0, 5.0]), [3, 5]])
def test_tensor_of_counts(count):
    q = Count(total_count=count)
    assert q.total_count.tolist() == [3, 5]
    assert q().batch_shape == (2,)
    assert "total_count" in q.state_dict()
    x = torch.tensor([1.0, 4.0])
    plain = dd.Binomial(torch.tensor([3.0, 5.0]), logits=torch.tensor(0.0))
    torch.testing.assert_close(q.log_prob(x), plain.log_prob(x))


def test_default_of_a_count():
    class Auto(Variational):
        base = dd.Multinomial

    assert Auto(dim=3).total_count == 1  # the default of Multinomial


def test_dimension_without_a_default_must_be_given():
    class Correlation(Variational):
        base = dd.LKJCholesky

    q = Correlation(dim=4)
    assert type(q.dim) is int
    assert q.sample().shape == (4, 4)
    with pytest.raises(ConstraintError) as caught:
        Correlation()
    assert caught.value.sentence == (
        "Correlation.dim: expected a value, got none. Write Correlation(dim=...)."
    )


# --- assignment -----------------------------------------------------------------------------


def test_a_buffer_is_checked_when_it_is_not_an_argument():
    module = Whitened()
    with pytest.raises(ConstraintError, match=r"^Whitened\.center: expected a finite number"):
        module.center = torch.tensor([math.nan, 0.0])
    with pytest.raises(ConstraintError, match=r"^Whitened\.center: expected shape \(2,\)"):
        module.center = torch.zeros(3)
    assert module.center.tolist() == [1.0, 2.0]
    module.center = [3.0, 4.0]
    assert module.center.tolist() == [3.0, 4.0]


# --- moved, saved, carried over -------------------------------------------------------------


def test_state_saved_with_another_count_is_refused(tmp_path):
    torch.save(Count(total_count=5).state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    q = Count(logits=0.25)
    with pytest.raises(StateMismatchError) as caught:
        q.load_state_dict(state)
    assert caught.value.sentence == (
        "Count.total_count: expected a state saved under constant 10, got one saved under "
        "constant 5. Load it into the class that saved it and carry the values over: "
        "new.assign(**old.constrained_values())."
    )
    assert q.logits.item() == 0.25
    Count(total_count=5).load_state_dict(state)
    with pytest.raises(StateMismatchError, match=r"^Coin\.lims"):
        Coin().load_state_dict(Coin(lims=(0.4, 0.6)).state_dict())
    q.assign(**Count(total_count=5, logits=0.5).constrained_values())
    assert (q.total_count, q.logits.item()) == (5, 0.5)


# --- validation -----------------------------------------------------------------------------


@pytest.mark.parametrize("base", [dd.Exponential, lambda self, rate: dd.Exponential(rate)])
def test_switch_for_values(base):
    body = {"base": base, "validate_args": False, "rate": Param(1.0, Positive())}
    cls = type(Variational)("Unchecked", (Variational,), body)
    assert cls().log_prob(torch.tensor(-1.0)).item() == pytest.approx(1.0)
    assert "validate_args" not in fields_of(cls)


NUMBERS = (
    np.int64(10), np.uint8(10), np.float32(10), np.float16(10), np.array(10), np.array([10.0]),
)  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_numpy_numbers_are_numbers_wherever_a_constant_is_given(number):
    class Body(FixedTail):
        df = number
        scale = Param(number)

    class Trials(Count):
        total_count = number

    for q in (Body(), FixedTail(df=number)):
        assert q.df.dtype == torch.float32
        assert (q.df == 10.0).all()
    for q in (Trials(), Count(total_count=number)):
        assert (torch.as_tensor(q.total_count) == 10).all()


def test_an_array_in_a_class_body_is_copied():
    numbers = np.array([1.0, 2.0])

    class Body(Variational):
        base = dd.StudentT
        df = numbers

    numbers[:] = 7.0
    assert Body().df.tolist() == [1.0, 2.0]


def test_values_on_meta_decide_where_to_build_only_if_they_are_all():
    nothing = torch.empty((), device="meta")
    assert FixedTail(df=nothing, loc=nothing, scale=nothing).scale.is_meta
    assert FixedTail(df=nothing, device="meta").scale.is_meta


def test_a_constant_is_not_moved_to_complex_numbers():
    with pytest.raises(ConstraintError, match="floating-point type"):
        FixedTail().type(torch.complex64)


class Negative(torch.nn.Module):
    def forward(self, raw):
        return raw

    def right_inverse(self, value):
        return value


@pytest.mark.parametrize("name", ["df", "raw_scale"])
def test_a_state_is_checked_behind_parametrizations(name):
    q = FixedTail()
    torch.nn.utils.parametrize.register_parametrization(q, name, Negative())
    state = state_of(q)
    with pytest.raises(ConstraintError):
        q.load_state_dict(state | {f"parametrizations.{name}.original": torch.tensor(-math.inf)})
    assert_unchanged(q, state)


@pytest.mark.parametrize("tensor", [torch.tensor(-1.0), torch.tensor(math.nan), torch.ones(2)])
def test_registering_a_buffer_in_place_of_a_constant_checks_it(tensor):
    q = FixedTail()
    with pytest.raises(ConstraintError, match=r"FixedTail\.df"):
        q.register_buffer("df", tensor)
    q.register_buffer("df", torch.tensor(7.0))
    assert q().df == q.df == 7.0


@pytest.mark.parametrize(
    ("way", "name"),
    [
        ("register_buffer", "loc"),
        ("register_parameter", "loc"),
        ("register_parameter", "df"),
        ("add_module", "loc"),
        ("add_module", "df"),
    ],
)
def test_what_no_field_would_read_is_not_registered_under_its_name(way, name):
    q = FixedTail()
    held = nn.Linear(1, 1) if way == "add_module" else nn.Parameter(torch.tensor(3.0))
    with pytest.raises(
        (FieldError, ConstraintError, DeclarationError), match=rf"FixedTail\.{name}: "
    ):
        getattr(q, way)(name, held)
    assert (q.df, q.loc) == (4.0, 0.0)


class Ends(Variational):
    base = dd.Uniform
    low = 0.0
    high = 5.0


class Between(Declarative):
    low = 1.0
    high = 5.0
    linear = Param(2.0, Interval("low", "high"))
    log = Param(2.0, LogInterval("low", "high"))

    @derived
    def twice(self, low):
        return 2 * low

    far = Param(4.0, Interval("twice", "high"))


@pytest.mark.parametrize("kind", [Ends, Between])
@pytest.mark.parametrize("wrap", [lambda q: q, nn.Sequential], ids=["alone", "in a container"])
def test_values_that_do_not_go_together_are_refused_however_they_come(kind, wrap):
    q = kind()
    before, bad = state_of(q), state_of(wrap(q))
    bad["low" if wrap(q) is q else "0.low"] = torch.tensor(7.0)
    for change in (
        lambda: setattr(q, "low", 7.0),
        lambda: setattr(q, "high", 0.5 if kind is Between else -0.5),
        lambda: q.assign(low=7.0),
        lambda: wrap(q).load_state_dict(bad),
        lambda: kind(low=7.0),
    ):
        with pytest.raises(ConstraintError):
            change()
        assert_unchanged(q, before)
    q.assign(low=6.5, high=20.0)
    assert q.low == 6.5


@pytest.mark.parametrize("bound", [0.0, -1.0])
def test_a_named_bound_of_a_log_interval_stays_positive(bound):
    q = Between()
    with pytest.raises(ConstraintError, match=r"Between\.log"):
        q.low = bound


@pytest.mark.parametrize("name", ["df", "raw_scale"])
@pytest.mark.parametrize("value", [3 + 4j, True], ids=["complex", "flag"])
def test_a_state_of_another_kind_of_number_is_not_loaded_in_part(name, value):
    q = FixedTail()
    before = state_of(q)
    for assign in (False, True) if isinstance(value, complex) else (True,):
        with pytest.raises(ConstraintError):
            q.load_state_dict({**before, name: torch.tensor(value)}, assign=assign)
    assert_unchanged(q, before)


def test_an_index_takes_no_fractions_from_a_state():
    q = Whitened()
    with pytest.raises(ConstraintError, match=r"Whitened\.index"):
        q.load_state_dict({**q.state_dict(), "index": torch.tensor([0.5, 1.0])})


class Sized(Variational):
    base = dd.Normal
    event_dim = 1
    loc = Constant(0.1, shape=("d",))
    scale = Constant(torch.tensor([1.0, 2.0]), shape=("d",))
    df = Constant(3, shape=(2, "d"))


def test_a_constant_spreads_over_named_sizes() -> None:
    sized = Sized(dtype=torch.float64)  # the size is that of the other one
    assert sized.loc.tolist() == [0.1, 0.1]
    assert sized.df.dtype == torch.int64
    assert sized.df.tolist() == [[3, 3]] * 2
    copies = Sized(batch_shape=4, loc=torch.arange(8.0).reshape(4, 2))
    assert torch.equal(copies.mean, copies.loc)
    assert copies.stddev.tolist() == [[1.0, 2.0]] * 4
    same = Sized(batch_shape=2, loc=[5.0, 7.0])  # one copy's, though it looks like all copies'
    assert same.mean.tolist() == [[5.0, 7.0]] * 2
    copies.double().loc = 3.0
    copies.reset_parameters()
    assert copies.loc[3, 1] == 7.0
    sized.loc = 2.0
    new = Sized()
    new.load_state_dict(sized.state_dict())
    assert new.loc.tolist() == [2.0, 2.0]
    assert repr(Sized.df) == "Constant(3, shape=(2, 'd'))"
    for act, match in (
        (lambda: Sized(loc=torch.zeros(3)), r"Sized\.(loc|scale): expected size d="),
        (lambda: Sized(df=torch.ones(2)), r"Sized\.df: expected shape \(2, 2\)"),
        (lambda: setattr(new, "loc", torch.zeros(3)), r"Sized\.loc: expected shape \(2,\)"),
        (lambda: Constant(1.0, shape=-1), r"Constant\(shape=\)"),
    ):
        with pytest.raises((ConstraintError, DeclarationError), match=match):
            act()

"""Values that you give: taken in every guise, copied, and checked, wherever you give them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.distributions as dd
from torch import nn

from declarative_dist import (
    ConstraintError,
    DeclarationError,
    Declarative,
    Exp,
    GreaterThan,
    Interval,
    LessThan,
    Param,
    Positive,
    Real,
    Simplex,
    Variational,
)
from tests.cases import Count, FixedTail, GammaFamily
from tests.states import assert_unchanged, state_of

FIELDS = ["df", "loc", "scale"]
NUMBERS = [
    2, 2.0, np.float64(2.0), np.float32(2.0), np.int64(2), np.array(2.0), torch.tensor(2),
    torch.tensor(2.0, dtype=torch.float64), nn.Parameter(torch.tensor(2.0)),
    torch.tensor(1.0, requires_grad=True) * 2,
]  # fmt: skip
VECTORS = [
    [1.0, 2.0], (1.0, 2.0), [1, 2], np.array([1.0, 2.0], dtype=np.float32), np.array([1, 2]),
    torch.tensor([1.0, 2.0]), torch.tensor([1, 2]), nn.Parameter(torch.tensor([1.0, 2.0])),
    torch.tensor([1.0, 2.0], requires_grad=True) * 1,
]  # fmt: skip


def tensor_of(q, name):
    """The parameter or buffer that holds a field."""
    return getattr(q, name if name == "df" else f"raw_{name}")


# --- in every guise -------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [*NUMBERS, *VECTORS], ids=lambda value: type(value).__name__)
def test_in_the_constructor_and_on_assignment(value, name):
    wanted = (
        torch.tensor(2.0) if any(value is one for one in NUMBERS) else torch.tensor([1.0, 2.0])
    )
    given = FixedTail(**{name: value}, dtype=torch.float32)
    assigned = FixedTail(**{name: torch.full_like(wanted, 3.0)})
    tensor = tensor_of(assigned, name)
    address = tensor.data_ptr()
    setattr(assigned, name, value)
    assert tensor_of(assigned, name) is tensor
    assert tensor.data_ptr() == address
    for q in (given, assigned):
        tensor = tensor_of(q, name)
        assert tensor.is_leaf
        assert tensor.dtype == torch.float32
        assert tensor.requires_grad == (name != "df")
        torch.testing.assert_close(getattr(q, name).detach(), wanted)
        torch.testing.assert_close(getattr(q(), name).detach(), wanted)
        assert [key for key, _ in q.named_parameters()] == ["raw_loc", "raw_scale"]


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [2, 2.0, torch.tensor(2.0)])
def test_a_number_fills_a_vector(value, name):
    q = FixedTail(**{name: [1.0, 3.0, 5.0]})
    setattr(q, name, value)
    torch.testing.assert_close(getattr(q, name).detach(), torch.full((3,), 2.0))


# --- copied ---------------------------------------------------------------------------------


def test_what_was_given_is_copied():
    start, array = torch.ones(2), np.ones(2, dtype=np.float32)
    parameter = nn.Parameter(torch.ones(2))

    class Model(Declarative):
        x = Param(start)
        y = Param(array)
        z = start

    model, given = Model(), FixedTail(df=start, loc=parameter, scale=array)
    assigned = FixedTail(**dict.fromkeys(FIELDS, torch.full((2,), 3.0)))
    assigned.df, assigned.loc, assigned.scale = start, parameter, array
    with torch.no_grad():
        start.fill_(9.0)
        parameter.fill_(9.0)
    array.fill(9.0)
    for q in (model, Model(), given, assigned):
        assert all(value.tolist() == [1.0, 1.0] for value in q.constrained_values().values())
    for q in (model, given):
        q.reset_parameters()
        assert all(value.tolist() == [1.0, 1.0] for value in q.constrained_values().values())


def test_counts_that_were_given_are_copied():
    counts = torch.tensor([3, 5])
    given, assigned = Count(total_count=counts), Count()
    assigned.total_count = counts
    counts.fill_(0)
    for q in (given, assigned):
        assert q.total_count.tolist() == [3, 5]
        assert q().total_count.tolist() == [3, 5]


# --- checked --------------------------------------------------------------------------------

NOT_FINITE = [math.inf, -math.inf, math.nan]
REFUSED = [
    *((kind(), 0.7, value) for kind in (Positive, Exp) for value in (0.0, -0.0, -1.0)),
    *((Interval(-1.0, 1.0), 0.25, value) for value in (-1.0, 1.0, -1.5, 2.0)),
    (GreaterThan(2.0), 2.5, 2.0),
    (LessThan(2.0), 1.5, 2.0),
    (Positive(floor=0.5), 0.75, 0.5),
    (Exp(floor=0.5), 0.75, 0.25),
    *(
        (constraint, 0.7, value)
        for constraint in (Real(), Positive(), Exp(), Interval(-1.0, 1.0), LessThan(2.0))
        for value in NOT_FINITE
    ),
]


@pytest.mark.parametrize("one_of_two", [False, True])
@pytest.mark.parametrize(("constraint", "start", "value"), REFUSED)
def test_refused_by_a_constraint(constraint, start, value, one_of_two):
    class Model(Declarative):
        x = Param([start, start] if one_of_two else start, constraint)

    model = Model()
    before = state_of(model)
    given = [start, value] if one_of_two else value
    where = "at [1] of a tensor of shape (2,)" if one_of_two else ""
    for give in (lambda given: Model(x=given), lambda given: setattr(model, "x", given)):
        with pytest.raises(ConstraintError) as caught:
            give(given)
        text = caught.value.sentence
        assert text.startswith(f"Model.x: expected {constraint.describe()}, got {value!r}")
        assert where in text
        assert isinstance(caught.value, ValueError)
        assert_unchanged(model, before)


def test_a_refusal_in_full():
    with pytest.raises(ConstraintError) as caught:
        GammaFamily(rate=-1.0)
    assert caught.value.sentence == (
        "GammaFamily.rate: expected a finite positive number, got -1.0. Give a number above 0."
    )


@pytest.mark.parametrize(
    "value", [[0.2, 0.3, 0.6], [1.0, 0.0, 0.0], [0.5, 0.5, math.nan], [1.5, -0.5, 0.0]]
)
def test_refused_by_a_simplex(value):
    class Die(Variational):
        base = dd.Categorical
        probs = Param([0.2, 0.3, 0.5], Simplex())

    die = Die()
    before = state_of(die)
    for give in (lambda value: Die(probs=value), lambda value: setattr(die, "probs", value)):
        with pytest.raises(ConstraintError, match=r"^Die\.probs: expected "):
            give(value)
        assert_unchanged(die, before)


NO_NUMBERS = [
    "one", True, np.bool_(True), torch.tensor(True),
    torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged), 1j,
    object(), {"a": 1}, [[1.0], [1.0, 2.0]], [1.0, [2.0]], 10**400, 1e39, torch.tensor(1j),
    torch.eye(2).to_sparse(), np.array(["one"]), nn.Linear(1, 1), lambda shape: None,
]  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: type(value).__name__)
def test_what_is_no_number_is_refused_by_name(value, name):
    q = FixedTail()
    before = state_of(q)
    for give in (
        lambda value: FixedTail(**{name: value}),
        lambda value: setattr(q, name, value),
        lambda value: q.assign(**{name: value}),
    ):
        with pytest.raises(
            (ConstraintError, DeclarationError),
            match=rf"^FixedTail\.{name}: expected a (nu|val|fin)",
        ):
            give(value)
        assert_unchanged(q, before)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [torch.randn, None, torch.ones((), device="meta")])
def test_what_only_a_constructor_takes(value, name):
    q = FixedTail()
    before = state_of(q)
    with pytest.raises(
        (ConstraintError, DeclarationError), match=rf"^FixedTail\.{name}: expected"
    ):
        setattr(q, name, value)
    assert_unchanged(q, before)


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        *((FixedTail, "df", value) for value in (0, 0.0, -1, -2.5, "four", True, [3.0, -1.0])),
        *((FixedTail, "df", value) for value in NOT_FINITE),
        *((Count, "total_count", value) for value in (-1, 2.5, "three", True, [3, -1])),
        *((Count, "total_count", value) for value in (math.nan, math.inf, torch.tensor([2.5]))),
    ],
)
def test_refused_for_a_constant(cls, name, value):
    q = cls()
    before = getattr(q, name)
    text = rf"^{cls.__name__}\.{name}: expected a value in (GreaterThan|IntegerGreaterThan)\(low"
    for give in (lambda value: cls(**{name: value}), lambda value: setattr(q, name, value)):
        with pytest.raises(ConstraintError, match=text):
            give(value)
        assert getattr(q, name) == before

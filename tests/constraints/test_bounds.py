from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from declarative_dist import (
    Constraint,
    ConstraintError,
    CorrCholesky,
    DeclarationError,
    Declarative,
    Exp,
    GreaterThan,
    Interval,
    LessThan,
    LogInterval,
    LowerCholesky,
    Ordered,
    Param,
    Positive,
    PositiveDefinite,
    PositiveOrdered,
    Simplex,
    UnitInterval,
    as_constraint,
)
from tests.constraints.cases import DTYPES

LOW = torch.tensor([0.0, 1.0, -2.0])
HIGH = torch.tensor([1.0, 3.0, 5.0])


def bounded_by_tensors() -> Interval:
    return Interval(LOW, HIGH)


def test_number_bounds_and_names_are_no_state() -> None:
    for constraint in (Interval(0.0, 1.0), GreaterThan("low"), LogInterval(0.1, "high")):
        assert not constraint.state_dict()


@pytest.mark.parametrize("kind", [GreaterThan, LessThan])
@pytest.mark.parametrize("bound", [LOW, LOW.double()], ids=["float32", "float64"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_beside_a_tensor_have_the_dtype_of_the_raw_number(
    kind: type[GreaterThan] | type[LessThan], bound: Tensor, dtype: torch.dtype
) -> None:
    raw = torch.zeros(3, dtype=dtype)
    assert kind(bound)(raw).dtype == kind(bound).to(dtype)(raw).dtype == dtype


@pytest.mark.parametrize("learned", [nn.Parameter(LOW), LOW.clone().requires_grad_() * 2])
@pytest.mark.parametrize(
    "make", [GreaterThan, LessThan, lambda bound: Interval(bound, 9.0), constraints.greater_than]
)
def test_a_bound_that_learns_is_refused(make: Any, learned: Tensor) -> None:
    with pytest.raises(DeclarationError, match="a bound that does not learn.*write its name here"):
        as_constraint(make(learned))
    as_constraint(make(learned.detach()))


def test_integers_become_floating_with_all_their_digits() -> None:
    bound = GreaterThan(torch.tensor([1609459230, 2**40 + 1]))
    assert bound.low.tolist() == [1609459230.0, 2.0**40 + 1]
    low = GreaterThan(3).low
    assert type(low) is float
    assert low == 3.0
    assert Interval(np.int64(0), np.float32(2.0)).high == 2.0
    assert Positive(floor=np.float64(0.5)).floor == 0.5


def test_a_tensor_bound_broadcasts_with_a_number() -> None:
    constraint = Interval(0.0, torch.tensor([1.0, 10.0]))
    value = constraint(torch.zeros(4, 2))
    torch.testing.assert_close(value, torch.tensor([0.5, 5.0]).expand(4, 2))
    assert constraint.default(torch.Size((2,))).tolist() == [0.5, 5.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [GreaterThan, LessThan])
def test_a_bound_is_finite(kind: type[GreaterThan] | type[LessThan], bad: float) -> None:
    name = "low" if kind is GreaterThan else "high"
    with pytest.raises(ConstraintError) as caught:
        kind(bad)
    assert (
        caught.value.sentence == f"{kind.__name__}({name}=): expected a finite bound, got {bad!r}."
    )
    with pytest.raises(ConstraintError) as caught:
        kind(torch.tensor([0.0, bad]))
    assert str(caught.value).startswith(f"{kind.__name__}({name}=): expected finite bounds, got ")


@pytest.mark.parametrize("bad", [None, True, 1j, b"low"])
def test_a_bound_is_a_number_a_tensor_or_a_name(bad: object) -> None:
    with pytest.raises(DeclarationError) as caught:
        Interval(0.0, bad)  # type: ignore[arg-type]
    assert caught.value.sentence == (
        f"Interval(high=): expected a number, a tensor or the name of a field, got {bad!r}."
    )


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (1.0, 1.0),
        (2.0, 1.0),
        (torch.tensor([0.0, 2.0]), 1.0),
        (0.0, torch.tensor([1.0, -1.0])),
        (torch.tensor(1.0), torch.tensor(1.0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [Interval, LogInterval])
def test_low_is_below_high(
    kind: type[Interval], low: float | Tensor, high: float | Tensor
) -> None:
    with pytest.raises(ConstraintError, match=f"^{kind.__name__}: expected low below high, got"):
        kind(low, high)


@pytest.mark.parametrize("kind", [Interval, LogInterval])
def test_bounds_broadcast_together(kind: type[Interval]) -> None:
    match = f"{kind.__name__}: expected bounds whose shapes broadcast together"
    with pytest.raises(ConstraintError, match=match):
        kind(torch.ones(2), 2 * torch.ones(3))


@pytest.mark.parametrize("low", [0.0, -1.0, torch.tensor([1.0, 0.0])], ids=str)
def test_the_low_end_of_a_log_interval_is_positive(low: float | Tensor) -> None:
    with pytest.raises(ConstraintError, match=r"^LogInterval: expected a positive low, got low="):
        LogInterval(low, 10.0)


@pytest.mark.parametrize(
    "bad", [1j * LOW, LOW > 0, LOW.to_sparse(), torch.tensor([math.nan])], ids=str
)
def test_a_tensor_bound_holds_real_numbers(bad: Tensor) -> None:
    for make in (GreaterThan, LessThan, lambda bound: Interval(0.0, bound)):
        with pytest.raises((DeclarationError, ConstraintError)) as caught:
            make(bad)
        assert caught.value.code == "bad-bounds"


def test_close_bounds_are_compared_in_full_precision() -> None:
    interval = Interval(16777216.0, 16777217.0)
    interval.check_dtype(torch.float64, "Family.rate")
    assert interval(torch.zeros((), dtype=torch.float64)).item() == 16777216.5


@pytest.mark.parametrize("kind", [Positive, Exp, LowerCholesky, PositiveDefinite])
@pytest.mark.parametrize(
    "bad",
    [
        None,
        "float32",
        {},
        {torch.float32: 1.0},
        {torch.float32: (1.0, 0.5)},
        {torch.float32: (0.0, 1.0)},
        {torch.float32: ("a", "b")},
        {"float32": (1.0, 2.0)},
    ],
    ids=str,
)
def test_a_guard_is_a_switch_or_ranges(kind: type[Positive], bad: Any) -> None:
    with pytest.raises(DeclarationError, match="pair of positive numbers in order"):
        kind(guard=bad)


@pytest.mark.parametrize("kind", [Positive, Exp, LowerCholesky, PositiveDefinite])
def test_a_guard_without_the_dtype_is_refused(kind: type[Positive]) -> None:
    constraint = kind(guard={torch.float32: (0.5, 2.0)})
    with pytest.raises(ConstraintError, match=r"Family.rate: expected a guard for torch.float64"):
        constraint.check_dtype(torch.float64, "Family.rate")
    raw = torch.zeros(constraint.raw_shape(torch.Size((2, 2))), dtype=torch.float64)
    for use in (constraint.forward, constraint.right_inverse, constraint.is_at_end):
        with pytest.raises(ConstraintError, match="float64"):
            use(torch.ones(2, 2, dtype=torch.float64) if use == constraint.right_inverse else raw)


@pytest.mark.parametrize("kind", [LowerCholesky, PositiveDefinite, CorrCholesky])
@pytest.mark.parametrize("shape", [(2, 3), (3,), ()])
def test_a_matrix_is_square(kind: type[LowerCholesky], shape: tuple[int, ...]) -> None:
    for use in (kind().raw_shape, kind().default):
        with pytest.raises(ConstraintError, match=r"expected square matrices"):
            use(torch.Size(shape))
    with pytest.raises(ConstraintError):
        kind().right_inverse(torch.ones(shape))

    class Model(Declarative):
        factor = Param(constraint=kind(), shape=shape)

    with pytest.raises(ConstraintError, match=r"^Model.factor: expected square matrices"):
        Model()


@pytest.mark.parametrize("kind", [Simplex, Ordered, PositiveOrdered])
def test_a_vector_has_a_dimension(kind: type[Simplex]) -> None:
    for use in (kind().raw_shape, kind().default):
        with pytest.raises(ConstraintError, match="expected vectors"):
            use(torch.Size())


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        *((kind, shape) for kind in (LowerCholesky, PositiveDefinite) for shape in ((5,), (2,))),
        (CorrCholesky, (2, 4)),
        *((kind, ()) for kind in (LowerCholesky, CorrCholesky, Simplex, Ordered, PositiveOrdered)),
    ],
    ids=str,
)
def test_raw_numbers_that_make_no_value_are_refused(
    kind: type[Constraint], shape: tuple[int, ...]
) -> None:
    with pytest.raises(
        ConstraintError, match=rf"^{kind.__name__}: expected .*\*batch, n"
    ) as caught:
        kind()(torch.zeros(shape))
    assert caught.value.code == "wrong-shape"
    assert str(shape) in caught.value.got


@pytest.mark.parametrize("constraint", [Positive(), Interval(0.0, 1.0), Simplex()], ids=str)
def test_a_sparse_value_and_a_flat_matrix_are_refused(constraint: Constraint) -> None:
    with pytest.raises(ConstraintError, match="a dense floating-point tensor"):
        constraint.right_inverse(torch.full((3,), 0.5).to_sparse())
    with pytest.raises(ConstraintError, match="lower-triangular"):
        LowerCholesky().right_inverse(torch.eye(2, 3))


@pytest.mark.parametrize("kind", [Positive, Exp])
@pytest.mark.parametrize("floor", ["1", None, 1j, -1.0, math.nan, math.inf])
def test_a_floor_is_a_finite_number_and_not_negative(kind: type[Positive], floor: Any) -> None:
    error = ConstraintError if isinstance(floor, float) else DeclarationError
    with pytest.raises(error) as caught:
        kind(floor=floor)
    assert caught.value.sentence == (
        f"{kind.__name__}(floor=): expected a finite number, 0 or above, got {floor!r}."
    )


@pytest.mark.parametrize(
    ("constraint", "dtype"),
    [
        (Interval(1000.0, 1001.0), torch.bfloat16),
        (Interval(1000.0, 1000.5), torch.float16),
        (Interval(torch.tensor([0.0, 1000.0]), torch.tensor([1.0, 1001.0])), torch.bfloat16),
        (Interval(1e8, 1e8 + 8), torch.float32),
        (LogInterval(1000.0, 1001.0), torch.bfloat16),
        (Interval(-3e38, 3e38), torch.float32),
        (Interval(-3e38, 3e38), torch.bfloat16),
        (Interval(-60000.0, 60000.0), torch.float16),
        (Interval(torch.tensor(-3e38), torch.tensor(3e38)), torch.float32),
        (Interval(torch.tensor(-6e4), torch.tensor(6e4)), torch.float16),
        (Interval(1e5, 2e5), torch.float16),
        (GreaterThan(1e6), torch.float16),
        (GreaterThan(65504.0), torch.float16),
        (GreaterThan(torch.tensor(1e6)), torch.float16),
        (GreaterThan(torch.tensor(65504.0)), torch.float16),
        (LessThan(-1e6), torch.float16),
        (LessThan(torch.tensor(-1e6)), torch.float16),
        (LessThan(torch.tensor(-65504.0)), torch.float16),
    ],
    ids=str,
)
def test_bounds_without_room_in_a_dtype_are_refused(
    constraint: Constraint, dtype: torch.dtype
) -> None:
    constraint.check_dtype(torch.float64, "Family.rate")
    with pytest.raises(ConstraintError) as caught:
        constraint.check_dtype(dtype, "Family.rate")
    numbers = (
        " with low=a tensor of shape (2,) with values [0.0, 1000.0], "
        "high=a tensor of shape (2,) with values [1.0, 1001.0]"
    )
    assert caught.value.sentence == (
        f"Family.rate: expected bounds with numbers of {dtype} strictly between, "
        f"got {constraint!r}{numbers if 'a tensor' in repr(constraint) else ''}. "
        "Use a wider dtype or a wider interval."
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "constraint",
    [
        Interval(1000.0, 1016.0),
        Interval(-1.0, 1.0),
        Interval(torch.tensor([0.0, 1000.0]), torch.tensor([1.0, 1016.0])),
        LogInterval(1e-3, 10.0),
        UnitInterval(),
        GreaterThan(1000.0),
        LessThan(torch.tensor(1000.0)),
        Interval("low", "high"),
        Interval(0.0, "high"),
        Positive(floor=10.0),
        Interval(torch.zeros(2, device="meta"), torch.ones(2, device="meta")),
    ],
    ids=str,
)
def test_bounds_with_room_are_accepted_and_give_values(
    constraint: Constraint, dtype: torch.dtype
) -> None:
    constraint.check_dtype(dtype, "Family.rate")
    buffers = list(constraint.buffers())
    if constraint.names or any(buffer.is_meta for buffer in buffers):
        return
    raw = torch.zeros(buffers[0].shape if buffers else (), dtype=dtype)
    moved = copy.deepcopy(constraint).to(dtype)
    assert moved.contains(moved(raw)).all()


def test_a_floor_above_the_band_is_refused() -> None:
    with pytest.raises(ConstraintError) as caught:
        Positive(floor=2e4).check_dtype(torch.float16, "Family.rate")
    assert caught.value.sentence == (
        "Family.rate: expected bounds with numbers of torch.float16 strictly between, "
        "got Positive(floor=20000). Use a wider dtype or a wider interval."
    )
    Positive(floor=2e4).check_dtype(torch.float32, "Family.rate")


@pytest.mark.parametrize("constraint", [GreaterThan("a"), LessThan("a"), Interval(0.0, "a")])
def test_names_must_be_resolved_first(constraint: Constraint) -> None:
    with pytest.raises(ConstraintError, match=r"constraint.resolved\({'a': ...}\)"):
        constraint(torch.zeros(2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_resolved_puts_values_in_the_place_of_names(dtype: torch.dtype) -> None:
    low = torch.tensor([1000.0, 0.0], dtype=dtype)
    high = torch.tensor([2000.0, 1.0], dtype=dtype)
    values: dict[str, object] = {"a": low, "b": high}
    raw = torch.tensor([[-1e4, -1e4], [0.0, 0.0], [1e4, 1e4]], dtype=dtype)
    above = GreaterThan("a").resolved(values)(raw)
    assert (above > low).all()
    below = LessThan("b").resolved(values)(raw)
    assert (below < high).all()
    assert Interval("a", "b").names == ("a", "b")
    between = Interval("a", "b").resolved(values)
    value = between(raw)
    assert ((value > low) & (value < high)).all()
    assert between.contains(value).all()
    assert not between.contains(low).any()
    assert between.names == ()


def test_resolved_leaves_the_constraint_as_it_was() -> None:
    constraint = Interval(0.0, "high")
    resolved = constraint.resolved({"high": torch.tensor(2.0)})
    assert constraint.names == ("high",)
    assert resolved.names == ()
    assert constraint.high == "high"
    assert resolved is not constraint
    assert resolved.resolved({"high": torch.tensor(5.0)}) is resolved
    assert resolved(torch.tensor(0.0)).item() == 1.0


def test_resolved_without_names_is_the_constraint_itself() -> None:
    for constraint in (Interval(0.0, 1.0), bounded_by_tensors(), Positive()):
        assert constraint.resolved({"low": torch.tensor(1.0)}) is constraint


def test_a_tensor_beside_a_name_stays() -> None:
    constraint = Interval(LOW, "high")
    resolved = constraint.resolved({"high": HIGH})
    torch.testing.assert_close(resolved(torch.zeros(3)), (LOW + HIGH) / 2)


@pytest.mark.parametrize("raw", [-1e4, -1.0, 0.0, 3.0])
def test_gradients_reach_the_other_fields(raw: float) -> None:
    low, high = torch.tensor([-1.0, 2.0], requires_grad=True).unbind()
    value = GreaterThan("low").resolved({"low": low})(torch.tensor(raw))
    assert torch.autograd.grad(value, low)[0].item() == pytest.approx(1.0)
    value = Interval("a", "b").resolved({"a": low, "b": high})(torch.tensor(raw))
    share = torch.tensor(raw).sigmoid().item()
    gradients = torch.stack(torch.autograd.grad(value, [low, high])).tolist()
    assert gradients == pytest.approx([1 - share, share])


def test_a_resolved_log_interval() -> None:
    constraint = LogInterval("low", 10.0).resolved({"low": torch.tensor([0.1, 1.0])})
    value = constraint(torch.zeros(2))
    torch.testing.assert_close(value, torch.tensor([1.0, 10.0**0.5]))
    torch.testing.assert_close(constraint.inverse(value), torch.zeros(2), atol=1e-6, rtol=0)


def test_bounds_are_written() -> None:
    assert repr(Interval(-1.0, "high")) == "Interval(low=-1.0, high='high')"
    assert repr(GreaterThan(torch.tensor(2.0))) == "GreaterThan(low=2.0)"
    assert repr(GreaterThan(LOW)) == "GreaterThan(low=a tensor)"
    assert Interval(0.0, 2.0).describe() == "a number strictly between 0.0 and 2.0"


def test_a_value_that_does_not_broadcast_with_a_bound_is_told() -> None:
    with pytest.raises(ConstraintError) as caught:
        GreaterThan(LOW).right_inverse(torch.ones(2))
    assert caught.value.code == "wrong-shape"
    assert caught.value.sentence == (
        "GreaterThan: expected a finite number above a tensor, of a shape that goes with it, got "
        "a tensor of shape (2,) with values [1.0, 1.0]. torch says: The size of tensor a (2) must "
        "match the size of tensor b (3) at non-singleton dimension 0."
    )

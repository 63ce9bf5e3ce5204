from __future__ import annotations

import copy
from collections.abc import Iterator
from types import MappingProxyType

import pytest
import torch
import torch.distributions as dd
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    ComposeTransform,
    ExpTransform,
    StickBreakingTransform,
    constraints,
)
from torch.nn.utils import parametrize

from declarative_dist import (
    Constraint,
    ConstraintError,
    CorrCholesky,
    DeclarationError,
    Declarative,
    Exp,
    GreaterThan,
    Interval,
    LogInterval,
    LowerCholesky,
    Param,
    Positive,
    PositiveDefinite,
    Real,
    Simplex,
    UnitInterval,
    Variational,
    as_constraint,
    register_constraint,
)
from declarative_dist.constraints import adapters


class Percent(constraints.Constraint):
    def check(self, value: Tensor) -> Tensor:
        return (value > 0) & (value < 100)


class Rotation(nn.Module):
    """The sphere, through dividing by the length."""

    def forward(self, raw: Tensor) -> Tensor:
        return raw / raw.norm(dim=-1, keepdim=True)

    def right_inverse(self, value: Tensor) -> Tensor:
        return value


class Squares(nn.Module):
    """A map whose inverse loses values: negative ones do not come back."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))

    def forward(self, raw: Tensor) -> Tensor:
        return self.weight * raw.square()

    def right_inverse(self, value: Tensor) -> Tensor:
        return (value / self.weight).abs().sqrt()


class OneWay(nn.Module):
    def forward(self, raw: Tensor) -> Tensor:
        return raw


@pytest.fixture
def table() -> Iterator[None]:
    before = dict(adapters._FACTORIES)
    yield
    adapters._FACTORIES.clear()
    adapters._FACTORIES.update(before)


def test_a_constraint_is_taken_as_it_is() -> None:
    constraint = Interval(0.0, 2.0)
    assert as_constraint(constraint) is constraint


@pytest.mark.parametrize("kind", [Positive, Exp, Real, Simplex, UnitInterval, LowerCholesky])
def test_a_class_is_constructed(kind: type[Constraint]) -> None:
    assert type(as_constraint(kind)) is kind


TRANSLATED = [
    (constraints.real, "Real()"),
    (constraints.real_vector, "Real()"),
    (constraints.independent(constraints.positive, 1), "Positive()"),
    (constraints.positive, "Positive()"),
    (constraints.nonnegative, "Positive()"),
    (constraints.greater_than(0.0), "Positive()"),
    (constraints.greater_than(2.0), "GreaterThan(low=2.0)"),
    (constraints.greater_than_eq(-1.5), "GreaterThan(low=-1.5)"),
    (constraints.less_than(3.0), "LessThan(high=3.0)"),
    (constraints.unit_interval, "UnitInterval()"),
    (constraints.interval(0.0, 1.0), "UnitInterval()"),
    (constraints.interval(-1, 4), "Interval(low=-1.0, high=4.0)"),
    (constraints.half_open_interval(0.0, 1.0), "UnitInterval()"),
    (constraints.half_open_interval(-1.0, 1.0), "Interval(low=-1.0, high=1.0)"),
    (constraints.simplex, "Simplex()"),
    (constraints.lower_cholesky, "LowerCholesky()"),
    (constraints.corr_cholesky, "CorrCholesky()"),
    (constraints.positive_definite, "PositiveDefinite()"),
    (constraints.positive_semidefinite, "PositiveDefinite()"),
]


@pytest.mark.parametrize(("foreign", "written"), TRANSLATED, ids=lambda part: str(part))
def test_torchs_constraints_are_translated(foreign: constraints.Constraint, written: str) -> None:
    assert repr(as_constraint(foreign)) == written


@pytest.mark.parametrize(("foreign", "written"), TRANSLATED, ids=lambda part: str(part))
def test_what_a_translated_constraint_gives_satisfies_torch(
    foreign: constraints.Constraint, written: str
) -> None:
    constraint = as_constraint(foreign)
    shape = torch.Size((3, 3)) if constraint.event_dim == 2 else torch.Size((4,))
    value = constraint(torch.randn(50, *constraint.raw_shape(shape), dtype=torch.float64))
    assert foreign.check(value).all()


def test_tensor_bounds_are_translated() -> None:
    low = torch.tensor([0.0, -5.0])
    above = as_constraint(constraints.greater_than(low))
    assert isinstance(above, GreaterThan)
    assert torch.equal(above.low, low)
    between = as_constraint(constraints.interval(low, low + 1))
    assert isinstance(between, Interval)
    assert torch.equal(between.high, low + 1)


@pytest.mark.parametrize(
    "foreign",
    [
        constraints.boolean,
        constraints.nonnegative_integer,
        constraints.integer_interval(0, 3),
        constraints.dependent,
        Percent(),
    ],
    ids=lambda foreign: type(foreign).__name__,
)
def test_torchs_other_constraints_are_refused(foreign: constraints.Constraint) -> None:
    with pytest.raises(DeclarationError) as caught:
        as_constraint(foreign, "q.rate")
    text = str(caught.value)
    assert text.startswith(
        "q.rate: expected a torch constraint that a parameter can be learned in, got "
    )
    assert "Declare a constant, give the field a constraint, or call register_constraint." in text
    assert "Simplex" in text
    assert "got Percent" in text or not isinstance(foreign, Percent)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    "thing",
    [1.0, None, "positive", torch.ones(2), OneWay(), nn.Linear, torch.exp],
    ids=lambda thing: type(thing).__name__,
)
def test_other_things_are_refused(thing: object) -> None:
    with pytest.raises(DeclarationError) as caught:
        as_constraint(thing, "q.rate")
    assert str(caught.value).startswith(
        "q.rate: expected a Constraint, a torch constraint, a Transform, "
        "or a module with right_inverse, got "
    )


def test_a_transform_becomes_a_constraint() -> None:
    transform = ComposeTransform([ExpTransform(), AffineTransform(1.0, 3.0)])
    constraint = as_constraint(transform)
    raw = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    value = constraint(raw)
    torch.testing.assert_close(value, 1 + 3 * raw.exp())
    torch.testing.assert_close(constraint.right_inverse(value), raw)
    log_det = constraint.log_abs_det_jacobian(raw, value)
    torch.testing.assert_close(log_det, (3 * raw.exp()).log())
    torch.testing.assert_close(constraint.default(torch.Size((2,))), torch.full((2,), 4.0))
    with pytest.raises(ConstraintError):
        constraint.right_inverse(torch.tensor([0.5, 2.0]))


def test_a_transform_that_changes_shape() -> None:
    constraint = as_constraint(StickBreakingTransform())
    assert constraint.event_dim == 1
    assert constraint.raw_shape(torch.Size((2, 4))) == (2, 3)
    assert constraint.value_shape(torch.Size((2, 3))) == (2, 4)
    value = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    torch.testing.assert_close(constraint(constraint.right_inverse(value)), value)
    with pytest.raises(ConstraintError, match="FromTransform"):
        constraint.right_inverse(torch.tensor([0.5, 0.5, 0.5]))


def test_a_transform_keeps_no_cache_of_values() -> None:
    transform = ExpTransform(cache_size=1)
    constraint = as_constraint(transform)
    raw = torch.zeros(2)
    constraint(raw)
    assert transform.inv(torch.ones(2)) is not raw
    assert constraint(raw) is not constraint(raw)


def test_a_module_becomes_a_constraint() -> None:
    constraint = as_constraint(Rotation())
    value = constraint(torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(value, torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(constraint.right_inverse(value), value)
    with pytest.raises(ConstraintError) as caught:
        constraint.right_inverse(torch.tensor([3.0, 4.0]))
    assert str(caught.value).startswith(
        "FromModule: expected a value that Rotation maps onto, got 3.0 at [0] of a tensor"
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -3.0])
def test_a_value_that_a_module_does_not_give_back_is_refused(bad: float) -> None:
    constraint = as_constraint(Squares())
    raw = constraint.right_inverse(torch.tensor([12.0]))
    torch.testing.assert_close(raw, torch.tensor([2.0]))
    with pytest.raises(ConstraintError, match="a value that Squares maps onto"):
        constraint.right_inverse(torch.tensor([bad]))


def test_a_modules_parameters_are_the_constraints_own() -> None:
    constraint = as_constraint(Squares())
    assert [name for name, _ in constraint.named_parameters()] == ["module.weight"]
    raw = torch.tensor([2.0], requires_grad=True)
    gradients = torch.autograd.grad(constraint(raw).sum(), [raw, *constraint.parameters()])
    assert [gradient.item() for gradient in gradients] == [12.0, 4.0]
    assert constraint.default(torch.Size((2,))).tolist() == [0.0, 0.0]


def test_a_transform_that_learns_is_refused() -> None:
    shift = nn.Parameter(torch.tensor(1.0))
    match = "AffineTransform: expected a transform that does not learn, got a loc that needs"
    with pytest.raises(DeclarationError, match=match):
        as_constraint(AffineTransform(shift, 1.0))


def test_a_module_does_not_know_its_raw_shape() -> None:
    with pytest.raises(NotImplementedError, match="Rotation does not say which shape"):
        as_constraint(Rotation()).raw_shape(torch.Size((2,)))


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("factory", [lambda _: UnitInterval(), UnitInterval(), UnitInterval])
def test_register_constraint(factory: object) -> None:
    register_constraint(Percent, factory)
    assert repr(as_constraint(Percent())) == "UnitInterval()"


@pytest.mark.usefixtures("table")
def test_a_registered_factory_replaces_the_one_before_and_sees_the_object() -> None:
    kind = type(constraints.less_than(0.0))
    register_constraint(kind, lambda less: Interval(less.upper_bound - 1, less.upper_bound))
    assert repr(as_constraint(constraints.less_than(3.0))) == "Interval(low=2.0, high=3.0)"


class Tenth(Percent):
    """A set inside another that is registered."""


class Rate(dd.Exponential):
    """A family whose argument is a percentage, which torch has no constraint for."""

    arg_constraints = MappingProxyType({"rate": Tenth()})


def family() -> type[Variational]:
    class Family(Variational):
        base = Rate
        rate = Param(1.0)

    return Family


@pytest.mark.usefixtures("table")
def test_a_registered_factory_that_fails_is_named() -> None:
    register_constraint(Percent, lambda percent: Interval(0.0, percent.high))
    match = r"factory registered for Percent, got AttributeError: .*\. Mend register_constraint"
    with pytest.raises(DeclarationError, match=match):
        as_constraint(Percent())


@pytest.mark.usefixtures("table")
def test_an_entry_serves_subclasses_until_they_have_their_own() -> None:
    register_constraint(Percent, Interval(0.0, 100.0))
    assert repr(as_constraint(Tenth())) == "Interval(low=0.0, high=100.0)"
    register_constraint(Tenth, Interval(0.0, 10.0))
    assert repr(as_constraint(Tenth())) == "Interval(low=0.0, high=10.0)"
    assert repr(as_constraint(Percent())) == "Interval(low=0.0, high=100.0)"


@pytest.mark.usefixtures("table")
def test_fields_are_inferred_from_the_table_as_it_is_when_their_class_is_declared() -> None:
    families = {}
    for high in (100.0, 50.0):
        register_constraint(Percent, Interval(0.0, high))
        families[high] = family()
    for high, cls in families.items():
        with pytest.raises(ConstraintError, match=f"between 0.0 and {high}, got 200.0"):
            cls(rate=200.0)


@pytest.mark.usefixtures("table")
def test_a_registered_constraint_with_tensors_is_copied_per_instance() -> None:
    register_constraint(Percent, Interval(torch.tensor(0.0), torch.tensor(100.0)))

    cls = family()
    one, other = cls(), cls()
    assert one.raw_rate_constraint is not other.raw_rate_constraint


@pytest.mark.usefixtures("table")
def test_what_a_factory_makes_is_looked_at() -> None:
    register_constraint(Percent, lambda _: constraints.positive)
    with pytest.raises(DeclarationError) as caught:
        as_constraint(Percent(), "Family.rate")
    assert caught.value.sentence == (
        "Family.rate: expected a Constraint from the factory registered for Percent, got "
        "GreaterThan(lower_bound=0.0). Mend register_constraint(Percent, ...)."
    )


KIND = "expected a subclass of torch.distributions.constraints.Constraint, got "


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(("kind", "factory", "message"), [
    (Percent(), Positive, KIND),
    (Positive, Positive, f"{KIND}<class"),
    (constraints.positive, Positive,
        f"{KIND}GreaterThan(lower_bound=0.0). Write type(...) of that object."),
    (Percent, 3.0, "expected a callable factory or a constraint, got 3.0"),
    (Percent, "Positive", "expected a callable factory or a constraint, got 'Positive'"),
    (Percent, Interval, "expected Interval with its arguments, got the class Interval. Write Int"),
], ids=["object", "ours", "torch's", "number", "name", "class"])  # fmt: skip
def test_register_constraint_refuses(kind: object, factory: object, message: str) -> None:
    before = dict(adapters._FACTORIES)
    with pytest.raises(DeclarationError) as caught:
        register_constraint(kind, factory)  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"register_constraint: {message}")
    assert before == adapters._FACTORIES


@pytest.mark.parametrize(
    ("constraint", "value"),
    [
        (Positive(), torch.tensor([[0.5, 2.0], [3.0, 4.0]])),
        (Exp(floor=0.1), torch.tensor([[0.5, 2.0], [3.0, 4.0]])),
        (LogInterval(1e-3, 10.0), torch.tensor([[0.5, 2.0], [3.0, 4.0]])),
        (Interval(torch.tensor([0.0, 1.0]), 5.0), torch.tensor([[0.5, 2.0], [3.0, 4.0]])),
        (Simplex(), torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])),
        (LowerCholesky(), torch.tensor([[0.5, 0.0], [3.0, 4.0]])),
        (PositiveDefinite(), torch.tensor([[2.0, 0.5], [0.5, 1.0]])),
        (CorrCholesky(), torch.tensor([[1.0, 0.0], [0.6, 0.8]])),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_works_as_a_parametrization(constraint: Constraint, value: Tensor) -> None:
    layer = nn.Module()
    layer.weight = nn.Parameter(value.clone())
    parametrize.register_parametrization(layer, "weight", copy.deepcopy(constraint))
    torch.testing.assert_close(layer.weight, value)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e4)
    layer.weight.square().sum().backward()
    optimizer.step()
    assert not torch.equal(layer.weight, value)
    assert constraint.contains(layer.weight.detach()).all()
    layer.weight = value
    torch.testing.assert_close(layer.weight, value)


def test_a_parametrization_refuses_values_outside() -> None:
    layer = nn.Linear(2, 1)
    nn.init.constant_(layer.weight, -1.0)
    with pytest.raises(ConstraintError, match=r"^Positive: expected a finite positive number"):
        parametrize.register_parametrization(layer, "weight", Positive())


def test_tensors_of_a_transform_move_load_and_belong_to_the_instance() -> None:
    shift = AffineTransform(torch.tensor([1.0, 2.0]), torch.tensor(2.0))

    class Model(Declarative):
        x = Param(torch.tensor([3.0, 4.0]), ComposeTransform([ExpTransform(), shift]))

    one, two = Model(), Model()
    torch.testing.assert_close(one.x, torch.tensor([3.0, 4.0]))
    one.double()
    assert one.x.dtype == torch.float64
    assert two.x.dtype == torch.float32
    one.raw_x_constraint.part1_loc.add_(1.0)
    torch.testing.assert_close(one.x.float(), torch.tensor([4.0, 5.0]))
    torch.testing.assert_close(two.x, torch.tensor([3.0, 4.0]))
    two.load_state_dict(one.state_dict())
    torch.testing.assert_close(two.x, torch.tensor([4.0, 5.0]))
    assert Model(device="meta").x.is_meta

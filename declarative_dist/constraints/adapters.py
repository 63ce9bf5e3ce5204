"""Constraints made of torch's constraints, of transforms and of parametrization modules."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import CatTransform, StackTransform, Transform, constraints
from typing_extensions import TypeVar

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.half_line import GreaterThan, LessThan, Positive, Real
from declarative_dist.constraints.interval import Interval, UnitInterval
from declarative_dist.constraints.matrix import CorrCholesky, LowerCholesky, PositiveDefinite
from declarative_dist.constraints.vector import Simplex
from declarative_dist.errors import DeclarationError, did_you_mean, first_line, shorten
from declarative_dist.plain.arguments import REGISTERED, look_up, unwrap
from declarative_dist.plain.restoring import restoring
from declarative_dist.plain.tensors import map_tensors, tensors_of

C = TypeVar("C", bound=constraints.Constraint)
Factory = Callable[[Any], Constraint]


class FromTransform(Constraint):
    """A `torch.distributions.Transform` as a constraint; its guarantees are its own.

    Args:
        transform: a bijective transform from real numbers.

    Example:
        >>> import torch
        >>> from torch.distributions import ExpTransform
        >>> from declarative_dist import as_constraint
        >>> as_constraint(ExpTransform()).right_inverse(torch.tensor(1.0))
        tensor(0.)
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform.with_cache(0)
        for name, tensor in tensors_of(self.transform):
            if tensor.requires_grad:
                subject, expected = type(transform).__name__, "a transform that does not learn"
                got = f"a {name.rpartition('_')[-1]} that needs a gradient"
                fix = "Give .detach(), or write a constraint that names a field as its bound."
                raise DeclarationError(subject, expected, got, fix, code="bad-bounds")
            self.register_buffer(name, tensor.detach().clone())

    def current(self) -> Any:
        """The transform with the tensors of this module, which move and load with it."""
        if not self._buffers:
            return self.transform
        return map_tensors(self.transform, lambda name, _: self._buffers[name])

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return self.current().codomain

    @property
    def raw_event_dim(self) -> int:
        return int(self.current().domain.event_dim)

    def forward(self, raw: Tensor) -> Tensor:
        return self.current()(raw)

    def inverse(self, value: Tensor) -> Tensor:
        return self.current().inv(value)

    def contains(self, value: Tensor) -> Tensor:
        return super().contains(value) & _comes_back(self, value)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return self.current().log_abs_det_jacobian(raw, value)

    def raw_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size(self.current().inverse_shape(torch.Size(shape)))

    def value_shape(self, raw_shape: torch.Size) -> torch.Size:
        return torch.Size(self.current().forward_shape(torch.Size(raw_shape)))

    def extra_repr(self) -> str:
        return repr(self.transform)


class FromModule(Constraint):
    """A module in torch's parametrization convention, `forward` and `right_inverse`.

    What the module maps onto is known to it alone, so a value counts as inside when it is finite
    and `forward(right_inverse(value))` gives it back. A manifold may move its base point in
    `right_inverse`; its tensors are part of the state, and come back where a value is refused.

    Args:
        module: any module with both methods, such as geotorch's manifolds.
    """

    support = constraints.real

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, raw: Tensor) -> Tensor:
        return self.module(raw)

    def inverse(self, value: Tensor) -> Tensor:
        return self.module.right_inverse(value)  # type: ignore[operator]

    def contains(self, value: Tensor) -> Tensor:
        try:
            with restoring(self, always=True):
                return value.isfinite() & _comes_back(self, value)
        except ValueError:  # the module's own refusal
            return torch.zeros_like(value, dtype=torch.bool)

    def is_at_end(self, raw: Tensor) -> Tensor:
        return torch.zeros_like(raw, dtype=torch.bool)

    def raw_shape(self, shape: torch.Size) -> torch.Size:
        name = type(self.module).__name__
        raise NotImplementedError(
            f"{name} does not say which shape its raw numbers have: give the field a value"
        )

    def value_shape(self, raw_shape: torch.Size) -> torch.Size:
        return self.raw_shape(raw_shape)

    def default(self, shape: torch.Size) -> Tensor:
        return self.forward(torch.zeros(shape))

    def describe(self) -> str:
        return f"a value that {type(self.module).__name__} maps onto"


def _comes_back(constraint: Constraint, value: Tensor) -> Tensor:
    """Whether the map gives each value back from the raw numbers that its inverse finds."""
    with torch.no_grad():
        again = constraint.forward(constraint.inverse(value))
    tolerance = torch.finfo(value.dtype).eps ** 0.5
    close = torch.isclose(again.to(value), value, rtol=tolerance, atol=tolerance)
    return close.flatten(-constraint.event_dim).all(-1) if constraint.event_dim else close


def _side_by_side(constraint: Any) -> Constraint:
    """Different sets along one dimension of a tensor, whose size they say."""
    parts = [as_constraint(part).as_transform() for part in constraint.cseq]
    lengths = getattr(constraint, "lengths", None)
    if lengths is None:
        return FromTransform(StackTransform(parts, constraint.dim))
    return FromTransform(CatTransform(parts, constraint.dim, lengths))


def _interval(constraint: Any) -> Constraint:
    low, high = constraint.lower_bound, constraint.upper_bound
    if not isinstance(low, Tensor) and not isinstance(high, Tensor) and (low, high) == (0, 1):
        return UnitInterval()
    return Interval(low, high)


def _greater_than(constraint: Any) -> Constraint:
    low = constraint.lower_bound
    return Positive() if not isinstance(low, Tensor) and low == 0 else GreaterThan(low)


_FACTORIES: dict[type[constraints.Constraint], Factory] = {
    type(constraints.real): lambda _: Real(),
    type(constraints.independent(constraints.real, 1)): lambda c: as_constraint(c.base_constraint),
    type(constraints.positive): _greater_than,
    type(constraints.nonnegative): _greater_than,
    type(constraints.cat([constraints.real])): _side_by_side,
    type(constraints.stack([constraints.real])): _side_by_side,
    type(constraints.less_than(0.0)): lambda c: LessThan(c.upper_bound),
    type(constraints.unit_interval): _interval,
    type(constraints.half_open_interval(0.0, 1.0)): _interval,
    type(constraints.simplex): lambda _: Simplex(),
    type(constraints.lower_cholesky): lambda _: LowerCholesky(),
    type(constraints.corr_cholesky): lambda _: CorrCholesky(),
    type(constraints.positive_definite): lambda _: PositiveDefinite(),
    type(constraints.positive_semidefinite): lambda _: PositiveDefinite(),
}


def register_constraint(
    torch_constraint: type[C], factory: Callable[[C], Constraint] | Constraint | type[Constraint]
) -> None:
    """Say which constraint stands for a type of torch constraint.

    The table is used when a field has no constraint and its base says only what
    `torch.distributions.constraints` object the argument must satisfy. An entry serves subclasses
    of its type too, but for those that have one of their own. A later entry for the same type
    takes the place of the one before, also of those that are here from the start; classes that
    were declared meanwhile keep what they have.

    Args:
        torch_constraint: a subclass of `torch.distributions.constraints.Constraint`.
        factory: makes the constraint from an object of that type; or a constraint or its class,
            where it is the same for all of them.

    Raises:
        DeclarationError: if the first argument is no such type, or the second makes nothing.

    Example:
        >>> from torch.distributions import constraints
        >>> from declarative_dist import Interval, as_constraint, register_constraint
        >>> class Below(constraints.Constraint):
        ...     def __init__(self, high):
        ...         self.high = high
        ...     def check(self, value):
        ...         return (value > 0) & (value < self.high)
        >>> register_constraint(Below, lambda below: Interval(0.0, below.high))
        >>> as_constraint(Below(100.0))
        Interval(low=0.0, high=100.0)
    """
    subject = "register_constraint"
    is_type = isinstance(torch_constraint, type)
    if not is_type or not issubclass(torch_constraint, constraints.Constraint):
        is_object = isinstance(torch_constraint, constraints.Constraint)
        fix = "Write type(...) of that object." if is_object else ""
        expected = "a subclass of torch.distributions.constraints.Constraint"
        raise DeclarationError(subject, expected, shorten(torch_constraint), fix)
    if isinstance(factory, (type, Constraint)):
        constraint = as_constraint(factory, subject)
        _FACTORIES[torch_constraint] = lambda _: constraint
    elif callable(factory):
        _FACTORIES[torch_constraint] = factory
    else:
        expected = "a callable factory or a constraint"
        raise DeclarationError(subject, expected, shorten(factory))
    REGISTERED.add(torch_constraint)


def as_constraint(constraint: object, subject: str = "as_constraint") -> Constraint:
    """Make a constraint of anything that says how to constrain a number.

    Args:
        constraint: a Constraint or its class, a `torch.distributions.constraints` object, a
            `Transform`, or a module with `forward` and `right_inverse`.
        subject: whom an error is about.

    Returns:
        A Constraint. For foreign maps its guarantees are theirs.

    Raises:
        DeclarationError: if the object is none of these, or a torch constraint unknown here.

    Example:
        >>> from torch.distributions import constraints
        >>> from declarative_dist import as_constraint
        >>> as_constraint(constraints.positive), as_constraint(constraints.interval(0.0, 2.0))
        (Positive(), Interval(low=0.0, high=2.0))
    """
    if isinstance(constraint, type) and issubclass(constraint, Constraint):
        constraint = _construct(constraint, subject)
    if isinstance(constraint, Constraint):
        support: object = getattr(constraint, "support", None)
        if isinstance(support, constraints.Constraint):
            return constraint
        name = type(constraint).__name__
        expected = f"{name}.support, a torch.distributions.constraints object"
        fix = f"Write support = torch.distributions.constraints.positive in {name}, for instance."
        raise DeclarationError(subject, expected, shorten(support), fix, code="unknown-set")
    if isinstance(constraint, constraints.Constraint):
        return _translate(constraint, subject)
    if isinstance(constraint, Transform):
        return FromTransform(constraint)
    if isinstance(constraint, nn.Module) and hasattr(constraint, "right_inverse"):
        return FromModule(constraint)
    expected = "a Constraint, a torch constraint, a Transform, or a module with right_inverse"
    raise DeclarationError(subject, expected, shorten(constraint))


def _construct(kind: type[Constraint], subject: str) -> Constraint:
    required = [
        name
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if not required:
        return kind()
    name = kind.__name__
    expected, got = f"{name} with its arguments", f"the class {name}"
    fix = f"Write {name}({', '.join(required)})."
    raise DeclarationError(subject, expected, got, fix, code="class-not-instance")


def _translate(constraint: constraints.Constraint, subject: str) -> Constraint:
    constraint = unwrap(constraint)
    kind = type(constraint)
    factory = look_up(_FACTORIES, kind)
    if factory is None:
        known = sorted(each.__name__.strip("_") for each in _FACTORIES)
        raise DeclarationError(
            subject,
            "a torch constraint that a parameter can be learned in",
            kind.__name__,
            "Declare a constant, give the field a constraint, or call register_constraint. "
            + did_you_mean(kind.__name__.strip("_"), known),
            code="unknown-set",
        )
    expected = f"a Constraint from the factory registered for {kind.__name__}"
    fix = f"Mend register_constraint({kind.__name__}, ...)."
    try:
        made: object = factory(constraint)
    except (AttributeError, TypeError, ValueError, RuntimeError, LookupError) as error:
        got = f"{type(error).__name__}: {first_line(error)}"
        raise DeclarationError(subject, expected, got, fix, code="failed-method") from error
    if isinstance(made, Constraint):
        return made
    raise DeclarationError(subject, expected, shorten(made), fix, code="failed-method")

"""Fields with a constraint: what parameters and predicted values have in common."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from numbers import Real as RealNumber
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints
from typing_extensions import Self

from declarative_dist.constraints.adapters import as_constraint
from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.half_line import Real
from declarative_dist.constraints.inferred import inferred_constraint, narrow
from declarative_dist.constraints.scalar import Scalar
from declarative_dist.errors import ConstraintError, DeclarationError, first_line, shorten
from declarative_dist.fields.alignment import line_up, ndims_of
from declarative_dist.fields.blueprint import Blueprint, Shape, Start, as_shape, make_value
from declarative_dist.fields.field import Field
from declarative_dist.fields.storage import check_floating, check_shape, copy_tensors, find_tensor
from declarative_dist.plain.arguments import Argument
from declarative_dist.plain.supports import lies_within
from declarative_dist.plain.tensors import as_tensor
from declarative_dist.plain.tracing import is_traced
from declarative_dist.words import spell_constraint

if TYPE_CHECKING:
    from declarative_dist.declaration.record import Declaration

REAL = Real()
"""The constraint of a field that belongs to no class yet."""

SMALL = 64
"""How many numbers a start may have for a class to keep it, once it is checked and mapped."""

_HALF_LINES = constraints.positive, constraints.nonnegative

Init = float | Sequence[Any] | Tensor | Callable[[torch.Size], Tensor]


class Constrained(Field):
    """A value that a constraint keeps inside its set, and that starts somewhere.

    Its arguments are as in `Param` and `Head`.
    """

    event_dim = 0
    raw_name = ""
    """The name of the unconstrained numbers on an instance."""

    starts_at_zero = False
    """Whether the unconstrained numbers start at zero, for nothing is known of their bounds."""

    def __init__(
        self, init: Init | None, constraint: object, shape: int | str | Sequence[int | str] | None
    ) -> None:
        owner = type(self).__name__
        # What the class holds does not change with the tensor that it was given.
        source = as_source(init, f"{owner}(init=)")
        self.init = source.clone() if isinstance(source, Tensor) else source
        self.has_dtype = isinstance(init, Tensor) and init.is_floating_point()
        self.declared_constraint = constraint
        self.constraint: Constraint = REAL
        self.shape: Shape | None = as_shape(shape, f"{owner}(shape=)")
        self.owns_constraint = False
        """Whether every instance has a copy of the constraint, for it holds tensors."""
        self._forward: Callable[[Tensor], Tensor] | None = None
        self._known_raws: dict[tuple[Any, ...], Any] = {}
        """The unconstrained numbers of the declared start, by shape, dtype and device."""

    def with_name(self, name: str) -> Self:
        field = super().with_name(name)
        field.raw_name = f"raw_{name}"
        return field

    @property
    def states_range(self) -> bool:  # type: ignore[override]
        return self.declared_constraint is not None

    def check_place(self, owner: Declaration) -> None:
        super().check_place(owner)
        self.check_use(owner)
        prior = () if self.prior is None else (f"{self.name}_prior",)
        for name in (self.raw_name, *prior):
            if hasattr(owner.kind, name) or name in owner.fields:
                owner.refuse_name(name, f"what {self.name} keeps")
        argument = owner.arguments.get(self.name)
        is_count = argument is not None and argument.is_count and not self.is_given
        if is_count and self.declared_constraint is None:
            expected = "a constant, because no gradient reaches this argument"
            fix = f"Write {self.name} = 10, or give the constructor a value."
            raise owner.error(self.name, expected, repr(self), fix, code="unlearnable-argument")

    def specialize(self, owner: Declaration) -> Self:
        argument = owner.arguments.get(self.name)
        field = copy.copy(self)
        field.constraint = constraint = field._constraint_in(owner, argument)
        tensors = itertools.chain(constraint.buffers(), constraint.parameters())
        field.owns_constraint = next(tensors, None) is not None
        is_shared = not constraint.names and not field.owns_constraint
        field._forward = constraint.forward if is_shared else None
        field._known_raws = {}
        if argument is not None and self.declared_constraint is not None and not self.is_given:
            field.may_leave = _may_leave(constraint, argument.torch_constraint)
        field.event_dim = constraint.event_dim if argument is None else argument.event_dim
        has_shape = self.shape is not None or not (self.init is None or callable(self.init))
        field.event_names = () if argument is None or has_shape else argument.event_names()
        return field

    def _constraint_in(self, owner: Declaration, argument: Argument | None) -> Constraint:
        """The declared constraint, or the one that the base's argument asks for."""
        base, subject = owner.base, owner.subject(self.name)
        if self.declared_constraint is not None:
            return narrow(as_constraint(self.declared_constraint, subject), base, self.name)
        if argument is None:
            return Real()
        # Whether others have a range of their own, which this one's value does not enter.
        settled = {
            name: field.states_range and self.name not in owner.needs_of(name)
            for name, field in owner.fields.items()
        }
        inferred = inferred_constraint(base, argument, settled)
        if inferred is not None:
            return inferred
        if issubclass(base, Transform):
            return Real()
        way = f"write {type(self).__name__}(..., constraint), or declare a constant."
        fix = f"{base.__name__} does not say what {self.name} must satisfy: {way}"
        raise DeclarationError(subject, "a constraint", "none", fix, code="unknown-set")

    @property
    def declared_needs(self) -> tuple[str, ...]:
        return getattr(self.declared_constraint, "names", ())

    @property
    def needs(self) -> tuple[str, ...]:
        return self.constraint.names

    def settle(self, owner: Declaration) -> None:
        super().settle(owner)
        for name in self.needs:
            if owner.fields[name].is_part:
                expected, got = "bounds that are numbers", f"the part {name!r}"
                fix = "Declare the bound as a field of its own."
                raise owner.error(self.name, expected, got, fix, code="field-order")

    def check_dtype(self, module: nn.Module, dtype: torch.dtype) -> None:
        """Refuse a dtype in which its constraint leaves no room."""
        check_floating(dtype, self.subject(module))
        self.constraint_of(module).check_dtype(dtype, self.subject(module))

    def check_room(self, module: nn.Module, values: Mapping[str, Any]) -> None:
        """Refuse bounds, among the values of other fields, that leave nothing between them."""
        if not is_traced(*values.values()):
            constraint = self.resolved_constraint(module, values)
            constraint.check_dtype(self.place_of(module)[0], self.subject(module))

    @property
    def shown_constraint(self) -> list[str]:
        """The constraint in a repr: as it was given, before a class has settled it."""
        given = self.declared_constraint if self.constraint is REAL else self.constraint
        if given is None:
            return []
        return [given.__name__ if isinstance(given, type) else repr(given)]

    def constraint_of(self, module: nn.Module) -> Constraint:
        """The constraint as it is on an instance."""
        if not self.owns_constraint:
            return self.constraint
        return getattr(module, f"{self.raw_name}_constraint")

    def rule(self, module: nn.Module) -> str:
        return spell_constraint(self.constraint_of(module))

    def resolved_constraint(self, module: nn.Module, values: Mapping[str, Any]) -> Constraint:
        """The constraint with the values of its bounds, lined up with the field's own."""
        if self._forward is not None:  # the common case, without one more call
            return self.constraint
        constraint = self.constraint_of(module)
        if not constraint.names:
            return constraint
        ndims = ndims_of(module)
        ndim = ndims[self.name] + constraint.dims_behind
        bounds = {n: line_up(values[n], ndims.get(n, 0), ndim) for n in constraint.names}
        return constraint.resolved(bounds)

    def place_of(self, module: nn.Module) -> tuple[torch.dtype, torch.device]:
        """The dtype of the unconstrained numbers, and where they are."""
        raw: Any = find_tensor(module, self.raw_name)
        return raw.dtype, raw.device

    def build_raw(
        self, module: nn.Module, blueprint: Blueprint, values: Mapping[str, Any]
    ) -> Tensor:
        """The unconstrained numbers of a new instance, which gets a constraint of its own."""
        start = vars(module)["_starts"][self.name] = blueprint.start(self)
        dtype = blueprint.dtype_of(self)
        if self.owns_constraint:
            own = copy.deepcopy(self.constraint).to(device=blueprint.place, dtype=dtype)
            module.add_module(f"{self.raw_name}_constraint", own)
        return self.compute_raw(module, start, values, dtype, blueprint.place)

    def rebuild(self, module: nn.Module, values: Mapping[str, Any]) -> Tensor:
        """The unconstrained numbers that an instance was built with, where they are now."""
        return self.compute_raw(module, vars(module)["_starts"][self.name], values)

    def reset(self, module: nn.Module, values: Mapping[str, Any]) -> None:
        if self.owns_constraint:
            copy_tensors(self.constraint, self.constraint_of(module))
        super().reset(module, values)

    def compute_raw(
        self,
        module: nn.Module,
        start: Start,
        values: Mapping[str, Any],
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """The unconstrained numbers of a starting value; without a place, where they are now."""
        if dtype is None or device is None:
            dtype, device = self.place_of(module)
        key, ndims = (start.shape, dtype, device), ndims_of(module)
        own = ndims[self.name] = len(start.shape) - len(vars(module)["_copies"])
        if start.source is None and key in self._known_raws:
            return torch.tensor(self._known_raws[key], dtype=dtype, device=device)
        subject, source = self.subject(module), self.source_of(start)
        self.constraint_of(module).check_dtype(dtype, subject)
        ndim = ndims[self.name] = self._ndim_among_bounds(module)
        constraint = self.resolved_constraint(module, values)
        with torch.no_grad():
            is_middle = type(constraint).default is Constraint.default
            if source is None and (own < ndim or self.starts_at_zero or is_middle):
                zeros = torch.zeros(constraint.raw_shape(start.shape), dtype=dtype, device=device)
                value = constraint.forward(line_up(zeros, own, ndim))
                return zeros.new_zeros(constraint.raw_shape(value.shape))
            default = source is None and _default_of(constraint, subject)
            value = make_value(default or source, start.shape, dtype, device, subject)
            check_shape(value, start.shape, subject)
            if default and not is_traced(value) and not constraint.contains(value).all():
                # The dtype rounds the default to the edge.
                value = constraint.forward(value.new_zeros(constraint.raw_shape(value.shape)))
            raw = to_raw(constraint, line_up(value, own, ndim), source, subject)
        is_declared = start.source is None and not callable(source) and self._forward is not None
        is_small = 0 < raw.numel() <= SMALL and raw.dtype == dtype
        if is_declared and is_small and not is_traced(raw):
            self._known_raws[key] = raw.tolist()  # which depends on no mode of torch
        return raw

    def _ndim_among_bounds(self, module: nn.Module) -> int:
        """How many dimensions one copy has, where elementwise bounds of more broadcast it."""
        constraint, ndims = self.constraint_of(module), ndims_of(module)
        bounds = [ndims.get(name, 0) - constraint.dims_behind for name in constraint.names]
        if self.owns_constraint and not constraint.event_dim and not constraint.raw_event_dim:
            bounds += [bound.ndim for bound in constraint.buffers()]
        return max([ndims[self.name], *bounds])

    def signature(self, module: nn.Module) -> str | None:
        return self.constraint_of(module).signature()


def _default_of(constraint: Constraint, subject: str) -> Callable[[torch.Size], Tensor]:
    """The default value of a constraint by its shape; errors name the field."""

    def make(shape: torch.Size) -> Tensor:
        try:
            return constraint.default(shape)
        except ConstraintError as error:
            parts = (error.expected, error.got, error.fix)
            raise ConstraintError(subject, *parts, code=error.code) from None
        except RuntimeError as error:
            expected = f"bounds that broadcast to its shape {tuple(shape)}"
            fix, got = "Give it the shape of its bounds, or init.", first_line(error)
            raise ConstraintError(subject, expected, got, fix, code="wrong-shape") from error

    return make


def to_raw(constraint: Constraint, value: Tensor, source: Any, subject: str) -> Tensor:
    """The unconstrained numbers of a value, which is checked first.

    It is checked as narrow as its source: what adds up to one in float32 need not in float64.
    """
    checked = value
    if isinstance(source, Tensor) and source.is_floating_point():
        is_narrow = torch.finfo(source.dtype).eps > torch.finfo(value.dtype).eps
        checked = value.to(source.dtype) if is_narrow else value
    constraint.check(checked, subject)
    return constraint.inverse(value).detach().clone()


def as_source(value: Any, subject: str) -> Any:
    """Numbers with all their digits: lists and arrays as tensors; callables and None as they are.

    Raises:
        DeclarationError: if it is none of these.
    """
    is_object = isinstance(value, (type, nn.Module, Distribution, Transform))
    if value is None or (callable(value) and not is_object):
        return value
    try:
        if isinstance(value, RealNumber) and not isinstance(value, bool):
            return float(value)
        tensor = as_tensor(value).detach()
        if tensor.dtype == torch.bool:
            raise TypeError("True and False are no numbers")
    except (TypeError, ValueError, OverflowError) as error:
        expected = "a number, a list, a tensor or a callable"
        got = shorten(value) if is_object else f"{shorten(value)} ({error})"
        fix = "Write Param(1.0, Positive())." if is_object and "(init=)" in subject else ""
        raise DeclarationError(subject, expected, got, fix) from error
    # Lists, arrays and integers mean no dtype: they keep their digits until the field's is
    # known.
    means_dtype = isinstance(value, Tensor) and tensor.is_floating_point()
    return tensor if means_dtype else tensor.to(torch.float64)


def _may_leave(constraint: Constraint, wanted: Any) -> bool:
    """Whether values of a constraint may be none that an argument takes.

    Ends that are tensors, or other fields, may move anywhere.
    """
    own: Any = constraints.real
    if not isinstance(constraint, Scalar):
        own = constraint.support
    elif constraint.limits is not None:
        if constraint.low >= 0 and wanted in _HALF_LINES:
            return False  # the common case, in a fraction of the time
        own = constraint.support
    return wanted is not None and not lies_within(own, wanted)

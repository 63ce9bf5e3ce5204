"""Given values: what comes with a context and is not predicted from it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from numbers import Real as RealNumber
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.errors import ConstraintError, first_line, shorten
from declarative_dist.fields.context import CONTEXT, Call, FromContext
from declarative_dist.fields.kinds import predicted_kind
from declarative_dist.fields.value import REAL
from declarative_dist.plain.arguments import Argument
from declarative_dist.plain.refusals import is_about_values
from declarative_dist.plain.tensors import as_tensor
from declarative_dist.plain.tracing import is_traced

if TYPE_CHECKING:
    from declarative_dist.declaration.record import Declaration

T = TypeVar("T")


class Given(FromContext):
    """A value that comes with the context and is not predicted; only in a `Conditional`.

    An exposure, a library size, a mask, the bounds of an action space: you pass it by keyword,
    beside the context, and the base, `@derived` fields, bounds and nested parts use it by name.

    On an instance it reads as the Given itself, and it is in no state: it has a value only in a
    call. That has the dtype and device of the module, but for integers, which become int64, to be
    indices, and flags; gradients flow through it. NaN is refused.

    Args:
        constraint: the set that values must lie in: anything that `as_constraint` takes, or a
            discrete set such as `torch.distributions.constraints.nonnegative_integer`. None for
            what the argument of the base that bears the field's name takes, or else any value. Of
            a set of torch's you may give the ends too, for what is given is not learned: 0 in
            `nonnegative`, a `rate` of 0, an infinite `low` of `Truncated`.
        shape: sizes and names of sizes of the value for one context; a name becomes a keyword of
            the constructor. In a call the value has shape `(*batch, *shape)`, and its batch
            broadcasts with the context's. A plain number counts for the whole shape.

    Raises:
        DeclarationError: if an argument is of the wrong kind.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import Conditional, Given, Head, Positive, derived
        >>> class Claims(Conditional):
        ...     base = dd.Poisson
        ...     intensity = Head(Positive(), init=0.5)
        ...     years = Given(Positive())
        ...     @derived
        ...     def rate(self, intensity, years):
        ...         return intensity * years
        >>> claims = Claims(in_features=3)
        >>> claims(torch.zeros(2, 3), years=torch.tensor([1.0, 4.0])).mean.tolist()
        [0.5, 2.0]
    """

    is_given = True
    takes_value = False
    starts_at_zero = True
    label = "a given value"
    origin = "given with the context"

    def __init__(
        self, constraint: object = None, *, shape: int | str | Sequence[int | str] = ()
    ) -> None:
        super().__init__(None, constraint, shape)

    is_real = False
    """Whether integers become real numbers: all of them, where the base takes such."""

    sets: tuple[Any, ...] = ()
    """Torch's sets that values lie in: the one you stated, and what the base takes. A value that
    is given is not learned, so ends of a set that are its own may be given."""

    def _constraint_in(self, owner: Declaration, argument: Argument | None) -> Constraint:
        taken: Any = None if argument is None else argument.torch_constraint
        stated: Any = self.declared_constraint if self.states_range else taken
        self.is_real = argument is not None and argument.is_learnable
        sets = [s for s in (stated, taken) if isinstance(s, constraints.Constraint)]
        self.sets = tuple(s for s in dict.fromkeys(sets) if not constraints.is_dependent(s))
        # Onto whole numbers and flags no smooth map leads.
        is_discrete = self.is_of_torch and stated.is_discrete
        if is_discrete or (argument is None and stated is None):
            return REAL  # as for a field without a class: any
        return super()._constraint_in(owner, argument)

    def settle(self, owner: Declaration) -> None:
        super().settle(owner)
        if self.name == "weights":
            owner.refuse_name(self.name, "which objectives take as weights of the data")

    def take(self, module: nn.Module, keywords: Mapping[str, Any]) -> Tensor:
        """The value among the keywords of a call, of shape `(*batch, *own)`.

        Raises:
            ConstraintError: if it is missing, no number, NaN, or of another shape.
        """
        subject = self.subject(module)
        if self.name not in keywords:
            expected = "a value by keyword, for it comes with each context"
            got = f"only {', '.join(keywords)}" if keywords else "none"
            call = f"{type(module).__name__.lower()}(context, {self.name}=...)"
            fix = f"Write {call}; in a fit, (context, value, {{{self.name!r}: ...}}) are the data."
            raise ConstraintError(subject, expected, got, fix, code="missing-value")
        value = keywords[self.name]
        try:
            tensor = as_tensor(value)
            dtype, device = self.place_of(module)
            is_number = isinstance(value, RealNumber) and not isinstance(value, bool)
            is_real = self.is_real or (is_number and self.has_map) or tensor.is_floating_point()
            if not (is_real or tensor.dtype is torch.bool):
                dtype, is_real = torch.int64, True
            tensor = as_tensor(tensor, dtype if is_real else None, device)
        except (TypeError, ValueError) as error:
            got, expected = f"{shorten(value)} ({error})", "numbers or flags"
            raise ConstraintError(subject, expected, got, code="wrong-argument") from error
        own = torch.Size(self.shape_of(module))
        if not (isinstance(value, Tensor) or tensor.ndim):
            tensor = tensor.expand(own)
        if tensor.shape[max(tensor.ndim - len(own), 0) :] != own:
            expected = f"shape ({', '.join(['*batch', *map(str, own)])})"
            fix = "Give it the dimensions of one context last, and the batch's in front."
            raise ConstraintError(subject, expected, shorten(tensor), fix, code="wrong-shape")
        if tensor.is_floating_point() and not is_traced(tensor) and tensor.isnan().any():
            at = list(tensor.isnan().nonzero()[0].tolist())
            got = f"nan at {at} of {shorten(tensor)}" if at else "nan"
            fix = "Leave such contexts out, or replace it: a network may mix contexts."
            raise ConstraintError(subject, "no NaN", got, fix, code="not-finite")
        return tensor

    def value(self, module: nn.Module, values: Mapping[str, Any]) -> Tensor:
        call: Call | None = values.get(CONTEXT)
        if call is None:
            return self._imagine(module, values)
        value: Tensor = call.own[self.name]
        if self.is_open or is_traced(value):
            return value
        subject = self.subject(module)
        number = value if value.is_floating_point() else value.double()
        # A guard keeps what a map makes of raw numbers; here there is none.
        constraint = self.resolved_constraint(module, values).without_guard()
        if self.has_map and not self.is_of_torch:
            constraint.check(number, subject)
        for allowed in self.sets:
            # In half precision, torch's check refuses what adds up to 1 but for rounding.
            is_inside = allowed.check(number).all() or (
                self.has_map and self.is_of_torch and constraint.contains(number).all()
            )
            if not is_inside:
                is_own = allowed is self.declared_constraint
                expected = f"{'a value in' if is_own else 'what the base takes,'} {allowed}"
                raise ConstraintError(subject, expected, shorten(value))
        return value

    @property
    def has_map(self) -> bool:
        """Whether a smooth map leads onto its set."""
        return self.constraint is not REAL

    @property
    def is_open(self) -> bool:
        """Whether any value may be given, of any dtype."""
        return not (self.has_map or self.sets)

    @property
    def is_of_torch(self) -> bool:
        """Whether one of torch's sets says which values may be given."""
        return bool(self.sets) and self.declared_constraint in (None, self.sets[0])

    def _imagine(self, module: nn.Module, values: Mapping[str, Any]) -> Tensor:
        """A value that stands in where there is no call: of the set, or of the kind in use."""
        raw = self.stand_in(module, values)
        if self.has_map:
            return self.resolved_constraint(module, values).forward(raw)
        kind: int = vars(module)["_kinds"].get(self.name, 0)
        return KINDS[kind](raw)

    def signature(self, module: nn.Module) -> None:
        """Nothing: no number in a state depends on it."""

    def rule(self, module: nn.Module) -> str:
        if self.has_map:
            return super().rule(module)
        return "any value" if self.is_open else str(self.sets[0])

    def advice(self, owner: str) -> str:
        return f"It comes with each context: write {owner.lower()}(context, {self.name}=...)."


KINDS: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.exp,
    lambda raw: (raw > 0).long(),
    lambda raw: raw > 0,
    lambda raw: torch.zeros_like(raw, dtype=torch.long),
    torch.sigmoid,
    lambda raw: raw,
)
"""What may stand in for a given value onto whose set no map leads: positive numbers, which go for
a scale and for a mean, indices, flags, shares, numbers of either sign."""


def try_kinds(module: Any, attempt: Callable[[], T]) -> T:
    """Find out which kinds of values methods take for fields onto whose set no map leads.

    An index into a table is no real number, and a mask must be one of flags. All combinations are
    tried until one is taken, which then stands in.

    Args:
        module: the instance.
        attempt: does what needs stand-ins.

    Raises:
        ConstraintError: if torch refuses all of them as arguments of what methods build.
        Exception: what the attempt raises with positive numbers, if it fails with all otherwise.
    """
    fields = [field for field in module.__declaration__.givens if not field.has_map]
    if not fields:
        return attempt()
    kinds, first = vars(module)["_kinds"], None
    for numbers in itertools.product(range(len(KINDS)), repeat=len(fields)):
        kinds.update({f.name: number for f, number in zip(fields, numbers, strict=True)})
        try:
            return attempt()
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            first = first or error
    kinds.clear()
    if is_about_values(first):
        names = ", ".join(field.name for field in fields)
        expected = "methods that take one of: positive numbers, shares, indices, flags"
        fix = f"Say which values there may be, as in {names} = Given(Positive())."
        got = f"{type(first).__name__}: {first_line(first)}"
        raise ConstraintError(f"{type(module).__name__}.{names}", expected, got, fix) from first
    raise first or RuntimeError


def take_call(module: Any, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Call:
    """What an instance is called with, told apart: what the network takes and what is given."""
    names = call_names(module)
    given = {name: value for name, value in keywords.items() if name in names}
    others = {name: value for name, value in keywords.items() if name not in names}
    own = {field.name: field.take(module, keywords) for field in module.__declaration__.givens}
    return Call(args, others, given, own)


def call_names(module: Any) -> frozenset[str]:
    """The keywords of a call that fields of an instance or of its parts take."""
    declaration = module.__declaration__
    names = [frozenset(field.name for field in declaration.givens)]
    parts = (part for f in declaration.order if f.is_part for part in f.parts_of(module))
    names += [call_names(part) for part in parts if predicted_kind(part) is not None]
    return frozenset().union(*names)


def check_batches(module: Any, own: Mapping[str, Tensor], raws: Mapping[str, Tensor]) -> None:
    """Refuse given values whose batches go with neither the context's nor one another.

    Args:
        module: the instance.
        own: its given values, of shape `(*batch, *own)`.
        raws: the raw numbers of its heads, by raw name.
    """
    batches = {}
    for name, shape in [*vars(module)["_raw_shapes"].items()][:1]:
        batches["the context"] = raws[name].shape[: raws[name].ndim - len(shape)]
    for field in module.__declaration__.givens:
        shape = own[field.name].shape
        batches[field.name] = shape[: len(shape) - len(field.shape_of(module))]
    try:
        torch.broadcast_shapes(*batches.values())
    except RuntimeError as error:
        got = ", ".join(f"{tuple(shape)} of {name}" for name, shape in batches.items())
        expected = "batch shapes that broadcast together"
        fix = "Give one value for each context: a batch of the shape of the context's."
        subject = f"{type(module).__name__}.{', '.join(own)}"
        raise ConstraintError(subject, expected, got, fix, code="wrong-shape") from error

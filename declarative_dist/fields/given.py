"""Given values: what comes with a context and is not predicted from it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from numbers import Real as RealNumber
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from typing_extensions import Never, Self

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.errors import ConstraintError, shorten
from declarative_dist.fields.context import CONTEXT, Call, FromContext
from declarative_dist.fields.owner import Owner
from declarative_dist.fields.sizes import Blueprint
from declarative_dist.plain.arguments import Argument
from declarative_dist.plain.supports import entries_of
from declarative_dist.plain.tensors import as_tensor
from declarative_dist.plain.tracing import is_traced

T = TypeVar("T")


class Discrete(Constraint):
    """A set of whole numbers or flags, onto which no smooth map leads.

    Args:
        support: the set, such as `constraints.nonnegative_integer`.
    """

    def __init__(self, support: constraints.Constraint) -> None:
        super().__init__()
        self.support = support

    def forward(self, raw: Tensor) -> Tensor:
        """Some values of the set, to stand in for those that are not given yet."""
        entries: Any = entries_of(self.support)
        if isinstance(entries, type(constraints.boolean)):
            return raw > 0
        low, high = getattr(entries, "lower_bound", 0), getattr(entries, "upper_bound", None)
        # Without an end it may be an index into a table of few.
        steps = (raw > 0).long() if high is None else (4 * raw.abs()).long() % (high - low + 1)
        values: Tensor = steps + low
        return values

    def inverse(self, value: Tensor) -> Never:
        raise NotImplementedError(f"no smooth map leads to {self.support}")

    def contains(self, value: Tensor) -> Tensor:
        inside = value.isfinite()
        inside = inside.flatten(-self.event_dim).all(-1) if self.event_dim else inside
        allowed: Tensor = self.support.check(value)
        return inside & allowed

    def advice(self, value: Tensor) -> str:
        return "Give a value of this set."

    def extra_repr(self) -> str:
        return str(self.support)


class Given(FromContext):
    """A value that comes with the context and is not predicted; only in a `Conditional`.

    An exposure, a library size, a mask, the bounds of an action space: you pass it by keyword,
    beside the context, and the base, `@derived` fields, bounds and nested parts use it by name.

    On an instance it reads as the Given itself, and it is in no state: it has a value only in a
    call. That has the dtype and device of the module, but for integers and flags, which keep their
    dtype; gradients flow through it. NaN is refused.

    Args:
        constraint: the set that values must lie in: anything that `as_constraint` takes, or a
            discrete set such as `torch.distributions.constraints.nonnegative_integer`. None for
            what the argument of the base that bears the field's name takes, or else any value.
        shape: sizes and names of sizes of the value for one context; a name becomes a keyword of
            the constructor. In a call the value has shape `(*batch, *shape)`, and its batch
            broadcasts with that of the context. A plain number counts for the whole shape.

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
        super().__init__(constraint, shape, None, "Given(Positive())")

    is_open = False
    """Whether any value may be given, of any dtype."""

    taken: Any = None
    """What torch says of the argument of the base that it is; None of others."""

    is_taken_apart = False
    """Whether the set that you declare need not be in that of the base."""

    is_real = False
    """Whether integers become real numbers: all of them, where the base takes such."""

    def specialize(self, owner: Owner) -> Self:
        field = super().specialize(owner)
        argument = owner.arguments.get(self.name)
        field.is_real = argument is not None and argument.is_learnable
        field.taken = None if argument is None else argument.torch_constraint
        field.is_open = self.declared_constraint is None and field.taken is None
        is_known = field.taken is not None and not constraints.is_dependent(field.taken)
        field.is_taken_apart = self.states_range and is_known
        return field

    def _constraint_in(self, owner: Owner, argument: Argument | None) -> Constraint:
        stated: Any = self.declared_constraint
        if stated is None:
            stated = None if argument is None else argument.torch_constraint
            if stated is None:
                return self.constraint  # as that of a field without a class: any
        if isinstance(stated, constraints.Constraint) and stated.is_discrete:
            return Discrete(stated)
        return super()._constraint_in(owner, argument)

    def check_learnable(self, owner: Owner) -> None:
        """It may be a count: nothing learns it."""

    def check(self, owner: Owner) -> None:
        super().check(owner)
        if self.name == "weights":
            owner.refuse_name(self.name, "which objectives take as weights of the data")

    def call_names(self, module: nn.Module) -> tuple[str, ...]:
        return (self.name,)

    def bind(self, module: nn.Module, blueprint: Blueprint, values: Mapping[str, Any]) -> None:
        if self.name in blueprint.given:
            self.refuse(module)
        super().bind(module, blueprint, values)

    def take(self, module: nn.Module, keywords: Mapping[str, Any]) -> Tensor:
        """The value among the keywords of a call, of shape `(*batch, *own)`.

        Raises:
            ConstraintError: if it is missing, no number, NaN, or of another shape.
        """
        subject = self.subject(module)
        if self.name not in keywords:
            expected = "a value by keyword, for it comes with each context"
            got = f"only {', '.join(keywords)}" if keywords else "none"
            fix = f"Write {type(module).__name__.lower()}(context, {self.name}=...)."
            raise ConstraintError(subject, expected, got, fix, code="missing-value")
        value = keywords[self.name]
        try:
            tensor = as_tensor(value)
            dtype, device = self.place_of(module)
            is_number = isinstance(value, RealNumber) and not isinstance(value, bool)
            is_real = self.is_real or (
                is_number and not (self.is_open or isinstance(self.constraint, Discrete))
            )
            is_real = is_real or tensor.is_floating_point()
            tensor = as_tensor(tensor, dtype if is_real else None, device)
        except (TypeError, ValueError) as error:
            got, expected = f"{shorten(value)} ({error})", "numbers or flags"
            raise ConstraintError(subject, expected, got, code="wrong-argument") from error
        own = torch.Size(self.shape_of(module))
        if not (isinstance(value, Tensor) or tensor.ndim):
            tensor = tensor.expand(own)
        if tensor.shape[max(tensor.ndim - len(own), 0) :] != own:
            expected = f"shape ({', '.join(['*batch', *map(str, own)])})"
            fix = "Give it the dimensions of one context last, and those of the batch in front."
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
        if not self.is_open and not is_traced(value):
            number = value if value.is_floating_point() else value.double()
            # A guard keeps what a map makes of raw numbers; here there is none.
            constraint = self.resolved_constraint(module, values).without_guard()
            constraint.check(number, self.subject(module))
            if self.is_taken_apart and not self.taken.check(number).all():
                subject, expected = self.subject(module), f"what the base takes, {self.taken}"
                raise ConstraintError(subject, expected, shorten(value))
        return value

    def stand_in(self, module: nn.Module, values: Mapping[str, Any]) -> Tensor:
        """Raw numbers that differ from context to context."""
        raw = super().stand_in(module, values)
        lead = raw.shape[: raw.ndim - vars(module)["_biases"][self.name].ndim]
        if not lead:
            return raw
        steps = torch.arange(float(lead[0]), dtype=raw.dtype, device=raw.device)
        return raw + steps.reshape(-1, *(1,) * (raw.ndim - 1))

    def _imagine(self, module: nn.Module, values: Mapping[str, Any]) -> Tensor:
        """A value that stands in where there is no call: of the set, or of the kind in use."""
        raw = self.stand_in(module, values)
        if self.is_open:
            kind: int = vars(module)["_kinds"].get(self.name, 0)
            return KINDS[kind](raw)
        return self.resolved_constraint(module, values).forward(raw)

    def signature(self, module: nn.Module) -> None:
        """Nothing: no number in a state depends on it."""

    def rule(self, module: nn.Module) -> str:
        return "any value" if self.is_open else super().rule(module)

    def advice(self, module: nn.Module) -> str:
        name = type(module).__name__.lower()
        return f"It comes with each context: write {name}(context, {self.name}=...)."


KINDS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda raw: raw,
    lambda raw: (raw > 0).long(),
    lambda raw: raw > 0,
    lambda raw: torch.zeros_like(raw, dtype=torch.long),
)
"""What may stand in for a given value that may be anything: real numbers, indices or flags."""


def try_kinds(module: Any, attempt: Callable[[], T]) -> T:
    """Find out which kinds of values methods take for fields that may be anything.

    An index into a table is no real number, and a mask must be one of flags. All combinations are
    tried until one is taken, which then stands in.

    Args:
        module: the instance.
        attempt: does what needs stand-ins.

    Raises:
        Exception: what the attempt raises with real numbers, if it fails with all.
    """
    fields = [field for field in module.__declaration__.givens if field.is_open]
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
    raise first or RuntimeError


def take_call(module: Any, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Call:
    """What an instance is called with, told apart: what the network takes and what is given."""
    names = call_names(module)
    given = {name: value for name, value in keywords.items() if name in names}
    others = {name: value for name, value in keywords.items() if name not in names}
    own = {field.name: field.take(module, keywords) for field in module.__declaration__.givens}
    return Call(args, others, given, own)


def call_names(module: Any) -> frozenset[str]:
    """The keywords of a call that fields of an instance take, or those of its parts."""
    fields = module.__declaration__.order
    return frozenset(name for field in fields for name in field.call_names(module))


def check_batches(module: Any, own: Mapping[str, Tensor], raws: Mapping[str, Tensor]) -> None:
    """Refuse given values whose batch goes with that of neither the context nor one another.

    Args:
        module: the instance.
        own: its given values, of shape `(*batch, *own)`.
        raws: the raw numbers of its heads, by raw name.
    """
    batches = {}
    for split in vars(module)["_splits"][:1]:
        raw = raws[split.raw_name]
        batches["the context"] = raw.shape[: raw.ndim - len(split.shape)]
    for field in module.__declaration__.givens:
        shape = own[field.name].shape
        batches[field.name] = shape[: len(shape) - len(field.shape_of(module))]
    try:
        torch.broadcast_shapes(*batches.values())
    except RuntimeError as error:
        names = ", ".join(own)
        raise ConstraintError(
            f"{type(module).__name__}.{names}",
            "batch shapes that broadcast together",
            ", ".join(f"{tuple(shape)} of {name}" for name, shape in batches.items()),
            "Give one value for each context: a batch of the shape of the context's.",
            code="wrong-shape",
        ) from error

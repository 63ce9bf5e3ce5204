"""The declaration: what a class body says, computed once per class and then only read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn
from torch.distributions import Distribution
from typing_extensions import Never

from declarative_dist.errors import Code, DeclarationError, FieldError
from declarative_dist.fields.derived import names_of
from declarative_dist.fields.field import Field
from declarative_dist.fields.kinds import predicted_kind
from declarative_dist.fields.param import Param
from declarative_dist.plain.arguments import Argument, depends_on_values
from declarative_dist.plain.build import builder_of

Base = Any
"""A distribution or transform class, or a method that makes one."""


@dataclass(frozen=True)
class Declaration:
    """The frozen record of a class body.

    It is made in steps: first of what the class body has, then of its specialised fields.

    Args:
        kind: the class.
        base: a distribution or transform class, a method that makes one, or None.
        arguments: what a class base takes, by name.
        fields: all fields by name, in the order in which they were declared.
    """

    kind: Any
    base: Base
    arguments: Mapping[str, Argument]
    fields: Mapping[str, Field]

    def settle(self) -> None:
        """Compute all at once: a circle is refused, and dynamo, which can't, finds them there."""
        for name, member in vars(Declaration).items():
            if isinstance(member, cached_property):
                getattr(self, name)

    @cached_property
    def owner(self) -> str:
        """The name of the class."""
        return str(self.kind.__name__)

    def subject(self, name: str) -> str:
        """What an error about a field names: `Class.field`."""
        return f"{self.owner}.{name}"

    def error(
        self, name: str, expected: str, got: str, fix: str = "", *, code: Code | None = None
    ) -> DeclarationError:
        """An error about what the class body has under a name."""
        return DeclarationError(self.subject(name), expected, got, fix, code=code)

    def refuse_name(self, name: str, user: str) -> Never:
        """Say that a name is not free, and what it is the name of."""
        got, fix = f"{name!r}, {user}", "Choose another name."
        raise self.error(name, "a name that is free", got, fix, code="name-taken")

    def require_conditional(self, name: str) -> None:
        """Refuse a field that comes from a context, where there is none."""
        if not self.predicts:
            expected = "a Conditional around what comes from a context"
            fix = f"Write class {self.owner}(Conditional)."
            raise self.error(name, expected, self.owner, fix, code="misplaced-field")

    @cached_property
    def is_joint(self) -> bool:
        """Whether it is made of sites."""
        return hasattr(self.kind, "__joint__")

    @cached_property
    def predicts(self) -> bool:
        """Whether instances predict from a context; a joint does if one of its fields does."""
        if self.is_joint:
            return any(field.needs_context for field in self.fields.values())
        return predicted_kind(self.kind) is not None

    @cached_property
    def takes(self) -> tuple[str, ...]:
        """The names of what the base takes."""
        if self.base is None or isinstance(self.base, type):
            return tuple(self.arguments)
        return names_of(self.base, self.subject("base"))

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The names of the fields that the base takes."""
        return tuple(name for name in self.takes if name in self.fields)

    @cached_property
    def event_dim(self) -> int | None:
        """The total number of event dimensions asked for, or None for the base's own."""
        # A transform has an event_dim of its own.
        stated = None if "event_dim" in self.fields else getattr(self.kind, "event_dim", None)
        return None if stated is None else int(stated)

    @cached_property
    def validates(self) -> bool | None:
        """The class body's `validate_args`, or None."""
        return getattr(self.kind, "validate_args", None)

    def needs_of(self, name: str) -> set[str]:
        """The names that a field is computed from, and these in turn, as the class body has it."""
        needed: set[str] = set()
        waiting = [name]
        while waiting:
            field = self.fields.get(waiting.pop())
            new = set() if field is None else set(field.declared_needs) - needed
            needed |= new
            waiting += new
        return needed

    def run(
        self,
        module: nn.Module,
        fields: Iterable[Field],
        values: dict[str, Any] | None = None,
        compute: Callable[[Field, dict[str, Any]], Any] | None = None,
    ) -> dict[str, Any]:
        """Compute fields one after the other, each from the values of those before it.

        Args:
            module: the instance.
            fields: what to compute, each field behind those that it needs, as `order`, `build`
                and each of `chains` have them.
            values: values that you know already, by name; the new ones are added.
            compute: gives a field's value from the field and the values so far; None for the
                field's current value.

        Returns:
            The values by name.

        Raises:
            FieldError: in place of an AttributeError, which `nn.Module` would take for a missing
                attribute, and of a RecursionError, where a field asks what it helps to build.
        """
        if values is None:
            values = {}
        for field in fields:
            try:
                if compute is None:
                    values[field.name] = field.value(module, values)
                else:
                    values[field.name] = compute(field, values)
            except (AttributeError, RecursionError) as error:
                subject, got = field.subject(module), f"{type(error).__name__}: {error}"
                fix = "A field cannot ask the object that it helps to build, as self.mean does."
                fix = fix if isinstance(error, RecursionError) else ""
                raise FieldError(subject, "a value", got, fix) from error
        return values

    def base_values(
        self, module: nn.Module, values: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Compute what the base takes, by name; `values` are known already, as for `run`."""
        computed = self.run(module, self.build, values)
        if len(computed) == len(self.inputs):  # then they are the same
            return computed
        return {name: computed[name] for name in self.inputs}

    @cached_property
    def chains(self) -> Mapping[str, tuple[Field, ...]]:
        """For each field what must be computed to know it, itself last.

        Raises:
            DeclarationError: if fields need each other in a circle.
        """
        chains: dict[str, tuple[Field, ...]] = {}

        def visit(name: str, path: tuple[str, ...]) -> tuple[Field, ...]:
            if name in path:
                circle = " -> ".join((*path[path.index(name) :], name))
                fix = "Cut it at one field."
                raise self.error(name, "no circle", circle, fix, code="field-order")
            if name not in chains:
                field = self.fields[name]
                needed = [each for need in field.needs for each in visit(need, (*path, name))]
                chains[name] = tuple(dict.fromkeys((*needed, field)))
            return chains[name]

        for name in self.fields:
            visit(name, ())
        return chains

    def chain_of(self, names: Iterable[str]) -> tuple[Field, ...]:
        """What must be computed to know some fields, each behind those that it needs."""
        return tuple(dict.fromkeys([field for name in names for field in self.chains[name]]))

    @cached_property
    def order(self) -> tuple[Field, ...]:
        """All fields, each behind those that it needs."""
        return self.chain_of(self.fields)

    @cached_property
    def build(self) -> tuple[Field, ...]:
        """What must be computed for the base, and what is given: it is checked, used or not."""
        return self.chain_of((*self.inputs, *(field.name for field in self.givens)))

    @cached_property
    def make(self) -> Callable[..., Any] | None:
        """For a class base, what builds it without checking values that are valid already."""
        if not isinstance(self.base, type):
            return None
        return builder_of(self.base) if issubclass(self.base, Distribution) else self.base

    @cached_property
    def of_prior(self) -> Mapping[str, Param]:
        """The parameters that have a prior, by the name of their prior."""
        fields: list[Any] = [field for field in self.fields.values() if field.prior is not None]
        return {field.prior_name: field for field in fields}

    @cached_property
    def heads(self) -> tuple[Any, ...]:
        """The fields that are predicted from a context."""
        return tuple(field for field in self.fields.values() if field.is_predicted)

    @cached_property
    def givens(self) -> tuple[Any, ...]:
        """The fields that come with a context."""
        return tuple(field for field in self.fields.values() if field.is_given)

    @cached_property
    def with_given(self) -> frozenset[str]:
        """The fields that have no value before something is given, but for what is given."""
        chains = self.chains.items()
        return frozenset(n for n, chain in chains if any(f.is_given for f in chain[:-1]))

    @cached_property
    def has_free_input(self) -> bool:
        """Whether a value that the base may refuse goes to it."""
        return any(self.fields[name].may_leave for name in self.inputs)

    @cached_property
    def has_parts(self) -> bool:
        """Whether distributions or transforms go to the base."""
        return any(self.fields[name].is_part for name in self.inputs)

    @cached_property
    def stored(self) -> tuple[Any, ...]:
        """The fields of which instances hold a value, each behind those that it needs."""
        return tuple(field for field in self.order if field.holds_value)

    @cached_property
    def value_order(self) -> tuple[Field, ...]:
        """What must be computed to know all parameters and constants."""
        return self.chain_of(field.name for field in self.stored)

    @cached_property
    def event_dims(self) -> Mapping[str, int]:
        """How many rightmost dimensions of what the base takes belong to one event, by name."""
        stated = {name: argument.event_dim for name, argument in self.arguments.items()}
        return {n: self.fields[n].event_dim or stated.get(n, 0) for n in self.inputs}

    @cached_property
    def bounded(self) -> tuple[Any, ...]:
        """The fields whose bounds are other fields with a value of their own."""
        bounded = (field for field in self.order if field.is_learned and field.needs)
        chains = self.chains
        return tuple(b for b in bounded if not any(f.needs_context for f in chains[b.name]))

    @cached_property
    def local_names(self) -> frozenset[str]:
        """The fields that follow from a context: each context has values of its own."""
        chains = self.chains.items()
        return frozenset(n for n, chain in chains if any(f.needs_context for f in chain))

    @cached_property
    def has_methods(self) -> bool:
        """Whether methods of the class body compute values, or make what it builds."""
        is_method = self.base is not None and not isinstance(self.base, type)
        return is_method or any(field.is_computed or field.is_site for field in self.order)

    @cached_property
    def tied_names(self) -> frozenset[str]:
        """The fields whose values must go with others.

        These are bounds, what torch takes together, and constants on which methods may branch.
        """
        tied = set(self.build if self.is_tied else ())
        if self.has_methods:
            tied.update(field for field in self.stored if not field.is_learned)
        for field in self.bounded:
            tied.update(self.chains[field.name][:-1])
        return frozenset([field.name for field in tied])

    @cached_property
    def is_tied(self) -> bool:
        """Whether the base refuses values that each field takes by itself."""
        inputs = [self.fields[name] for name in self.inputs]
        is_free = any(field.may_leave and not field.is_computed for field in inputs)
        is_class = isinstance(self.base, type) and not self.heads
        return is_class and (is_free or depends_on_values(self.base))

    @cached_property
    def declared_sizes(self) -> frozenset[Any]:
        """The sizes in a declared `shape`: their names mean something beyond one field."""
        fields: list[Any] = list(self.fields.values())
        templates = (t for field in fields if field.is_part for t in field.templates)
        parts = (t.__declaration__ for t in templates if hasattr(t, "__declaration__"))
        own = (size for field in fields for size in field.shape or ())
        return frozenset(own).union(*(part.declared_sizes for part in parts))

    @cached_property
    def size_names(self) -> tuple[str, ...]:
        """The names of sizes that a constructor takes as keywords."""
        names = [name for field in self.fields.values() for name in field.size_names]
        return tuple(dict.fromkeys(names))


def fields_of(declared: Any) -> Mapping[str, Field]:
    """The fields of a declarative class or instance by name, in the order of declaration.

    Raises:
        DeclarationError: if the argument is neither.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist import Variational, fields_of
        >>> class Standard(Variational):
        ...     base = dd.Normal
        >>> list(fields_of(Standard))
        ['loc', 'scale']
    """
    declaration = getattr(declared, "__declaration__", None)
    if not isinstance(declaration, Declaration):
        raise DeclarationError("fields_of", "a declarative class or instance", repr(declared))
    return declaration.fields

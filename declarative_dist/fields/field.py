"""What a field is: one declared attribute, the same descriptor for the class and its instances.

Read on the class, a field is itself; read on an instance, it is its current value. Fields know
how to install themselves on an instance (`bind`), how to compute their value from the instance and
the values of the fields they need (`value`), and how to take a new value in two steps: `prepare`,
which checks and changes nothing, and `commit`, which cannot fail.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributions import Transform
from typing_extensions import Self

from declarative_dist.errors import ConstraintError, FieldError, did_you_mean
from declarative_dist.fields.blueprint import Start
from declarative_dist.fields.kinds import describe_kind
from declarative_dist.fields.sharding import is_shard
from declarative_dist.fields.storage import find_tensor
from declarative_dist.plain.tensors import is_dense
from declarative_dist.plain.tracing import is_traced
from declarative_dist.words import format_value

if TYPE_CHECKING:
    from declarative_dist.declaration.record import Declaration
    from declarative_dist.fields.blueprint import Blueprint


class Field(ABC):
    """One declared attribute of a declarative class.

    Attributes:
        name: the attribute's name, known once its class is.
        init: the starting value that the class body declares, if any.
        label: what it is, in errors about an assignment that it does not take.
        shape: the sizes, and names of sizes, that the class body declares.
        event_names: the names of sizes that the base gives to a field without a shape.
        event_dim: how many rightmost dimensions of a value belong to one event.
        doc: what the field is for, in the words of whoever declared it.
        has_dtype: whether `init` is a tensor whose dtype was meant.
        prior: the module that stands for the distribution of its value, or what makes it.
        states_range: whether the class body says which values it may take, or leaves that to the
            base.
        takes_value: whether a constructor may be given a value of this field.
        holds_value: whether an instance holds a value of this field, as of parameters.
        is_learned: whether an instance learns it, through unconstrained numbers.
        is_computed: whether it is computed from other fields, so that nothing constrains it.
        may_leave: whether values may leave what the base's argument takes.
        is_predicted: whether a network predicts it from a context.
        is_given: whether it comes with a context.
        needs_context: whether it has a value only in a call with a context, or predicts in one.
        is_site: whether it is a distribution of a joint one.
        is_drawn: whether it has no value before earlier sites are drawn.
        is_part: whether instances hold modules for this field, each with fields of its own.
    """

    name: str = ""
    init: Any = None
    label = "a field"
    shape: tuple[int | str, ...] | None = None
    event_names: tuple[str, ...] = ()
    event_dim: Any = 0
    doc: str | None = None
    has_dtype = False
    prior: Any = None
    states_range = True
    takes_value = True
    holds_value = False
    is_learned = False
    is_computed = False
    may_leave = False
    is_predicted = False
    is_given = False
    needs_context = False
    is_site = False
    is_drawn = False
    is_part = False

    @property
    def stored_name(self) -> str:
        """Under which name an instance, and its state, hold the field's tensor."""
        return self.name

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the fields from which this one is computed."""
        return ()

    @property
    def declared_needs(self) -> tuple[str, ...]:
        """The same as far as the class body says it, before anything is inferred from a base."""
        return self.needs

    @property
    def sizes(self) -> tuple[int | str, ...]:
        """The sizes of one copy of a value, as far as they are known, or their names."""
        return self.event_names if self.shape is None else self.shape

    @property
    def size_names(self) -> tuple[str, ...]:
        """The names of sizes that a constructor takes as keywords."""
        return tuple(size for size in self.sizes if isinstance(size, str))

    def dims(self, module: nn.Module) -> tuple[str | None, ...]:
        """The names of the sizes of a value's last dimensions, None for those without."""
        return tuple(size if isinstance(size, str) else None for size in self.sizes)

    def known_sizes(self, given: Any) -> Iterable[tuple[str, int]]:
        """The sizes of what a constructor was given, or else of `init`, by their names."""
        value = self.init if given is None else given
        if isinstance(value, Tensor) and value.ndim >= len(self.sizes):
            sizes = zip(reversed(self.sizes), reversed(value.shape), strict=False)
            yield from ((name, size) for name, size in sizes if isinstance(name, str))

    def __set_name__(self, owner: type, name: str) -> None:
        if not self.name:
            self.name = name

    def with_name(self, name: str) -> Self:
        """The same field under its own name: a copy, if it already goes by another."""
        if self.name == name:
            return self
        field = copy.copy(self)
        field.name = name
        return field

    def with_own_modules(self, copy_value: Callable[[Any], Any]) -> Self:
        """The field for another class body, with copies of the modules that it holds."""
        return self

    def check_place(self, owner: Declaration) -> None:
        """Refuse a field that its class has no use for, before anything is inferred.

        That is so where the base takes another kind of field under this name, or nothing uses it.
        """
        argument = owner.arguments.get(self.name)
        if argument is not None and argument.part is not None:
            kind = describe_kind(argument.part)
            expected = "a list of transforms" if argument.is_sequence else kind
            word = "transform" if argument.part is Transform else "distribution"
            fix = f"Write {self.name} = a declared class, an instance, or a plain {word}."
            raise owner.error(self.name, expected, repr(self), fix, code="misplaced-field")

    def check_use(self, owner: Declaration) -> None:
        """Refuse a name that neither the class base nor another field uses."""
        if not isinstance(owner.base, type) or self.name in owner.arguments:
            return
        if not any(self.name in field.declared_needs for field in owner.fields.values()):
            expected = f"an argument of {owner.base.__name__}, or a name that another field uses"
            fix = did_you_mean(self.name, owner.arguments)
            raise owner.error(self.name, expected, repr(self.name), fix, code="unknown-name")

    def specialize(self, owner: Declaration) -> Self:
        """A copy with what the class says of it: its constraint, its event dimensions, its kind.

        The field of the class body stays as it is, so that a subclass with another base infers
        anew.
        """
        return self

    def settle(self, owner: Declaration) -> None:
        """Settle what the others say of it, once all are specialised, or refuse it.

        It may have no meaning in this class, or need a field without a value.
        """
        names = list(owner.fields)
        for needed in (owner.fields[name] for name in self.needs):
            is_later = names.index(needed.name) >= names.index(self.name)
            if needed.is_site and is_later if self.is_drawn else needed.is_drawn:
                expected = "names of fields that have a value before it is computed"
                fix = f"Move {needed.name} above {self.name}, and let what needs a site be one."
                got = f"the site {needed.name!r}"
                raise owner.error(self.name, expected, got, fix, code="field-order")

    def as_source(self, value: Any, subject: str) -> Any:
        """A value as a constructor was given it, in a form that `bind` takes."""
        expected, fix = f"no assignment to {self.label}", self.advice(subject.partition(".")[0])
        raise FieldError(subject, expected, "a value", fix, code="no-assignment")

    def advice(self, owner: str) -> str:
        """What to do in place of an assignment to an instance of the class `owner`."""
        return ""

    @abstractmethod
    def bind(self, module: nn.Module, blueprint: Blueprint, values: Mapping[str, Any]) -> None:
        """Install the field on a new instance; `values` holds the fields that it needs."""

    @abstractmethod
    def value(self, module: nn.Module, values: Mapping[str, Any]) -> Any:
        """The current value, computed afresh."""

    def prepare(self, module: nn.Module, value: object, values: Mapping[str, Any]) -> Any:
        """Check a new value and return what `commit` stores; the instance stays as it was."""
        return Field.as_source(self, value, self.subject(module))

    def commit(self, module: nn.Module, prepared: Any) -> None:
        """Store what `prepare` returned."""
        return

    def source_of(self, start: Start) -> Any:
        """What a start is made of: given to the constructor or declared; None for the default."""
        return self.init if start.source is None else start.source

    def reset(self, module: nn.Module, values: Mapping[str, Any]) -> None:
        """Go back to what the instance was built with."""
        return

    def export(self, module: nn.Module, values: Mapping[str, Any]) -> Any:
        """What `constrained_values` shows of the field, or None for nothing."""
        return None

    def parameters_of(self, module: nn.Module) -> list[nn.Parameter]:
        """The parameters that an instance trains for this field."""
        return []

    def render(self, module: nn.Module) -> str:
        """The field in the `repr` of an instance."""
        if self.name in declaration_of(module, self.name).with_given:
            return f"needs a context, {self.describe(module)}"
        return f"{format_value(current_value(module, self.name))}, {self.describe(module)}"

    def describe(self, module: nn.Module) -> str:
        """What stands behind the value in `repr`."""
        return self.rule(module)

    def rule(self, module: nn.Module) -> str:
        """Where the value comes from, or its constraint, for a summary."""
        return ""

    def signature(self, module: nn.Module) -> str | None:
        """What a saved state must agree on with the class that loads it, or None."""
        return None

    def subject(self, module: nn.Module) -> str:
        """What an error about the field names: `Class.field`."""
        return f"{type(module).__name__}.{self.name}"

    def __set__(self, instance: Any, value: Any) -> None:
        if self.name in declaration_of(instance, self.name).tied_names:
            instance.assign(**{self.name: value})
        else:
            needed = needed_values(instance, self.name)
            self.commit(instance, self.prepare(instance, value, needed))

    def __delete__(self, instance: Any) -> None:
        expected, got = "a field that stays", "its deletion"
        fix = "Declare a class without it, or assign another value."
        raise FieldError(self.subject(instance), expected, got, fix, code="no-assignment")


class Stored(Field):
    """A field of which instances hold a value: it starts somewhere, is assigned, and is saved."""

    holds_value = True

    @abstractmethod
    def rebuild(self, module: nn.Module, values: Mapping[str, Any]) -> Any:
        """What the instance held at its start, where it is now and in the dtype of now."""

    @abstractmethod
    def check_stored(self, module: nn.Module, tensor: Tensor, now: Tensor | None = None) -> None:
        """Refuse a tensor, loaded or moved, in the place of the one that an instance holds.

        Args:
            module: the instance.
            tensor: the new one.
            now: the one that it holds, if the new one is the same in another dtype: then a value
                that would change by more than rounding is refused.
        """

    def reset(self, module: nn.Module, values: Mapping[str, Any]) -> None:
        self.commit(module, self.rebuild(module, values))

    def is_at_start(self, module: nn.Module, tensor: Tensor | None = None) -> bool:
        """Whether a tensor, or the one held now, is the start, rounded to its dtype."""
        now = find_tensor(module, self.stored_name) if tensor is None else tensor
        is_drawn = callable(self.source_of(vars(module)["_starts"][self.name]))
        if is_drawn or not is_dense(now) or is_traced(now) or is_shard(now):
            return False
        try:
            start = self.rebuild(module, needed_values(module, self.name))
        except ConstraintError:  # a bound has moved past it
            return False
        return isinstance(start, Tensor) and torch.equal(now, start.to(now))

    def restart(self, module: nn.Module, *, is_new: bool = False) -> None:
        """Make the current value the one that `reset` goes back to.

        A callable start stays one, unless the value is new: set just now.
        """
        starts = vars(module)["_starts"]
        is_drawn = callable(self.source_of(starts[self.name]))
        if is_new or not (is_drawn or self.is_at_start(module)):
            starts[self.name] = Start.of(current_value(module, self.name))

    def export(self, module: nn.Module, values: Mapping[str, Any]) -> Any:
        value = values[self.name]
        return value.detach().clone() if isinstance(value, Tensor) else value


def declaration_of(instance: nn.Module, name: str) -> Any:
    """The declaration of an instance's class; without one, the field `name` means nothing."""
    kind = type(instance)
    declaration = getattr(kind, "__declaration__", None)
    if declaration is None:
        expected = "a class that derives from Declarative"
        got, fix = f"{kind.__name__}, which does not", f"Write class {kind.__name__}(Declarative)."
        subject = f"{kind.__name__}.{name}"
        raise FieldError(subject, expected, got, fix, code="misplaced-field")
    if name not in declaration.fields:  # the field of an ancestor with another base
        raise AttributeError(f"{kind.__name__} has no field {name!r}")
    return declaration


def current_value(instance: nn.Module, name: str) -> Any:
    """The value of one field of an instance, computed afresh with all that it needs."""
    declaration = declaration_of(instance, name)
    chain = declaration.chains[name]
    if name in declaration.with_given:
        expected, got = "a context first, for what comes with it is needed", "none"
        fix = "Call the instance with a context, and read the distribution."
        raise FieldError(chain[-1].subject(instance), expected, got, fix, code="no-context")
    return declaration.run(instance, chain)[name]


def needed_values(instance: nn.Module, name: str) -> dict[str, Any]:
    """The values of all fields that one field of an instance needs."""
    declaration: Any = instance.__declaration__
    return declaration.run(instance, declaration.chains[name][:-1])

"""Fields that methods compute: self first, then the values of fields by name.

A derived value is computed from other fields, and never stored.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, overload

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from typing_extensions import Self, TypeVar

from declarative_dist.errors import ConstraintError, DeclarationError, first_line
from declarative_dist.fields.alignment import ndims_of
from declarative_dist.fields.blueprint import Blueprint
from declarative_dist.fields.field import Field, current_value
from declarative_dist.fields.kinds import built_kind
from declarative_dist.plain.decompose import rebuild
from declarative_dist.plain.refusals import FROM_THE_RIGHT, is_about_sizes
from declarative_dist.plain.tensors import as_tensor

if TYPE_CHECKING:
    from declarative_dist.declaration.record import Declaration

T = TypeVar("T")


def names_of(method: Callable[..., Any], subject: str) -> tuple[str, ...]:
    """The names of a method's arguments behind self; those with a default are left to it.

    A method that takes no self, or arguments without names, is refused.
    """
    parameters = list(inspect.signature(method).parameters.values())
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    takes_self = bool(parameters) and parameters[0].name == "self"
    if not takes_self or not all(p.kind in named for p in parameters[1:]):
        expected = "a method that takes self, then values by name"
        got = f"({', '.join(map(str, parameters))})"
        raise DeclarationError(subject, expected, got, code="not-a-field")
    return tuple(p.name for p in parameters[1:] if p.default is p.empty)


def call_method(
    method: Callable[..., T], arguments: Mapping[str, Any], subject: str, decorator: str
) -> T:
    """What a method of a class body, bound to its instance, makes of values by name.

    Torch's error about sizes becomes ours, with the shapes that the method got.
    """
    try:
        return method(**arguments)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        if not is_about_sizes(error):
            raise
        raise refused_sizes(error, arguments, subject, decorator) from error


def refused_sizes(
    error: Exception, arguments: Mapping[str, Any], subject: str, decorator: str
) -> ConstraintError:
    """Our error for torch's about sizes: the shapes that a method got, and the ways out."""
    shapes = {n: tuple(v.shape) for n, v in arguments.items() if isinstance(v, Tensor)}
    said = str(error)
    if "used as indices" in said or "Long, Int" in said:
        expected, fix = "integers as indices", "Write labels.long() where they are numbers."
    elif any(words in said for words in ("is out of bounds for", "index out of range")):
        expected = "indices of entries that there are"
        fix = "Give numbers from 0 to the size less one: see the shapes."
    elif "on meta tensors" in said:
        expected = "tensors with values; those on the meta device have none"
        fix = "Move it first: to_empty(device=...), then reset_parameters()."
    elif "data-dependent" in said:  # of vmap
        fix = "Leave such a check out: validate_args=False of a distribution, where it is one."
        expected = "a method without a choice that depends on numbers, since it is mapped"
    else:
        expected = (
            "a method that takes values with copies, contexts or draws in front of their own "
            "dimensions"
        )
        way = "Or compute what it needs in a field for one: @derived(vectorize=True)."
        if decorator:
            way = f"Or write it for one, with none in front: @{decorator}(vectorize=True)."
        fix = f"{FROM_THE_RIGHT}. {way}"
    got = f"{type(error).__name__} for {shapes}: {first_line(error)}"
    return ConstraintError(subject, expected, got, fix, code="wrong-shape")


def map_method(method: Callable[..., Any], ndims: Mapping[str, int], /, **arguments: Any) -> Any:
    """What a method that is written for one gives for everything that stands in front.

    A distribution cannot leave `torch.vmap`, but the tensors that it is made of can: it is taken
    apart inside and put together outside, so that it draws and scores as any other.

    Args:
        method: takes values of one draw, copy or context by name.
        ndims: by name how many dimensions of a value are its own; None stands in front of others.
        **arguments: tensors of shape `(*lead, *own)`, and whatever else the method takes.

    Returns:
        A tensor of shape `(*lead, *own)`, or a distribution whose batch shape begins with the
        lead.
    """
    leads = {
        name: value.shape[: value.ndim - ndims[name]]
        for name, value in arguments.items()
        if isinstance(value, Tensor) and value.ndim > ndims.get(name, value.ndim)
    }
    lead = torch.broadcast_shapes(*leads.values())
    if not lead:
        result = method(**arguments)
        is_live = isinstance(result, nn.Module)
        return result if is_live else _check_result(method, result, arguments)
    mapped, count = {}, lead.numel()  # in place of none, one stands in
    for name, own_lead in leads.items():
        value = arguments.pop(name)
        own = value.shape[len(own_lead) :]
        flat = value.expand(*lead, *own).reshape(-1, *own) if count else value.new_ones(1, *own)
        mapped[name] = flat
    templates: list[Distribution] = []

    def call_once(mapped: dict[str, Tensor]) -> Any:
        result = method(**arguments, **mapped)
        if isinstance(result, nn.Module) and built_kind(result) is not None:
            result = result()
        result = _check_result(method, result, mapped)
        if isinstance(result, Tensor):
            return result
        tensors, rank = [], len(result.batch_shape)

        def stand_in(tensor: Tensor, behind: int) -> Tensor:
            tensors.append(tensor[(None,) * (rank + behind - tensor.ndim)])
            ones = torch.ones(tensor.shape, dtype=tensor.dtype, device=tensor.device)
            is_square = behind > 1 and tensor.ndim > 1 and tensor.shape[-1] == tensor.shape[-2]
            return ones.tril().triu() if is_square else ones  # an identity has a factor

        templates.append(rebuild(result, stand_in))
        return tensors

    found = torch.vmap(call_once, randomness="different")(mapped)
    if not templates:
        return found[:count].reshape(*lead, *found.shape[1:])
    new = iter([t[:count].reshape(*lead, *t.shape[1:]) for t in found])
    return rebuild(templates[-1], lambda *_: next(new))


def _check_result(method: Any, result: Any, arguments: Mapping[str, Any]) -> Any:
    """What a mapped method of an instance returns, where it can be mapped; numbers as tensors."""
    if isinstance(result, (bool, int, float)):  # the same for all
        tensors = [value for value in arguments.values() if isinstance(value, Tensor)]
        dtype = next((t.dtype for t in tensors if t.is_floating_point()), None)
        return as_tensor(result, dtype, next((t.device for t in tensors), None))
    if isinstance(result, (Tensor, Distribution)):
        return result
    subject = f"{type(method.args[0]).__name__}.{method.func.__name__}"
    expected = "a tensor, a number or a distribution of a method that is mapped"
    got = "None" if result is None else f"a {type(result).__name__}"
    fix = "Return one, and declare a field for each of several values."
    raise ConstraintError(subject, expected, got, fix, code="wrong-argument")


class MethodField(Field):
    """A field that a method says, under a decorator: an instance holds nothing of it."""

    takes_value = False
    relation: str
    """What it has to do with the fields that it needs, in words."""

    def __init__(
        self, function: Callable[..., Any], decorator: str, *, vectorize: bool = False
    ) -> None:
        if not callable(function):
            got = repr(function)
            raise DeclarationError(f"@{decorator}", "a method", got, code="not-a-field")
        self.vectorize = vectorize
        self.function = function
        self.names = names_of(function, f"@{decorator} {function.__name__}")
        self.decorator = decorator
        self.__doc__ = self.doc = function.__doc__

    @property
    def needs(self) -> tuple[str, ...]:
        return self.names

    def bind(self, module: nn.Module, blueprint: Blueprint, values: Mapping[str, Any]) -> None:
        """There is nothing to install."""

    def rule(self, module: nn.Module) -> str:
        return f"{self.relation} {', '.join(self.needs) or 'nothing'}"

    def __repr__(self) -> str:
        return f"{self.decorator}({', '.join(self.needs)})"


class Derived(MethodField, Generic[T]):
    """A value computed from other fields by a method: self, then values by name."""

    label = "a derived field"
    relation = "derived from"
    is_computed = True
    may_leave = True

    def __init__(self, function: Callable[..., T], *, vectorize: bool = False) -> None:
        super().__init__(function, "derived", vectorize=vectorize)

    def check_place(self, owner: Declaration) -> None:
        """It may stand for anything that a base takes: what it returns is seen at a build."""

    def value(self, module: nn.Module, values: Mapping[str, Any]) -> T:
        arguments = {name: values[name] for name in self.needs}
        method: Callable[..., T] = partial(self.function, module)
        if self.vectorize:
            method = partial(map_method, method, ndims_of(module))
        return call_method(method, arguments, self.subject(module), self.decorator)

    def advice(self, owner: str) -> str:
        return f"It is computed from {', '.join(self.needs) or 'nothing'}: set these instead."

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: nn.Module, owner: type) -> T: ...
    def __get__(self, instance: nn.Module | None, owner: type) -> Self | T:
        if instance is None:
            return self
        return current_value(instance, self.name)


@overload
def derived(function: Callable[..., T], /) -> Derived[T]: ...
@overload
def derived(*, vectorize: bool = False) -> Callable[[Callable[..., T]], Derived[T]]: ...
def derived(
    function: Callable[..., T] | None = None, /, *, vectorize: bool = False
) -> Derived[T] | Callable[[Callable[..., T]], Derived[T]]:
    """Declare a value that is computed from other fields.

    The method takes self, then the values of fields by their names. The result may be an argument
    of the base and may be used by other derived fields. It is computed once per build.

    Args:
        function: the method, where `@derived` stands without arguments.
        vectorize: whether the method is written for one copy, context or draw, whose values have
            shape `(*own)`: `torch.vmap` maps it over all that stand in front. Otherwise it takes
            values of shape `(*sample, *batch, *own)` and indexes from the right.

    Raises:
        DeclarationError: if it is not written like that.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist import Param, Positive, Variational, derived
        >>> class GammaByMean(Variational):
        ...     base = dd.Gamma
        ...     concentration = Param(2.0)
        ...     location = Param(4.0, Positive())
        ...     @derived
        ...     def rate(self, concentration, location):
        ...         return concentration / location
        >>> round(GammaByMean().mean.item(), 4)
        4.0
    """
    if function is None:
        return lambda method: Derived(method, vectorize=vectorize)
    return Derived(function, vectorize=vectorize)

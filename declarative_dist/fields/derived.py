"""Derived values: computed from other fields, never stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Generic, overload

from torch import nn
from typing_extensions import Self, TypeVar

from declarative_dist.fields.field import current_value
from declarative_dist.fields.method import MethodField, call_method
from declarative_dist.fields.owner import Owner

T = TypeVar("T")


class Derived(MethodField, Generic[T]):
    """A value computed from other fields by a method: self, then values by name.

    Args:
        function: the method.
    """

    label = "a derived field"
    is_computed = True

    def __init__(self, function: Callable[..., T]) -> None:
        super().__init__(function, "derived")

    def check_place(self, owner: Owner) -> None:
        """It may stand for anything that a base takes: what it returns is seen at a build."""

    def value(self, module: nn.Module, values: Mapping[str, Any]) -> T:
        arguments = {name: values[name] for name in self.needs}
        method: Callable[..., T] = partial(self.function, module)
        return call_method(method, arguments, self.subject(module))

    def advice(self, module: nn.Module) -> str:
        return f"It is computed from {', '.join(self.needs) or 'nothing'}: set these instead."

    def rule(self, module: nn.Module) -> str:
        return f"derived from {', '.join(self.needs)}" if self.needs else "derived"

    def describe(self, module: nn.Module) -> str:
        return f", derived from {', '.join(self.needs)}" if self.needs else ", derived"

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: nn.Module, owner: type) -> T: ...
    def __get__(self, instance: nn.Module | None, owner: type) -> Self | T:
        if instance is None:
            return self
        value: T = current_value(instance, self.name)
        return value


def derived(function: Callable[..., T]) -> Derived[T]:
    """Declare a value that is computed from other fields.

    The method takes self, then the values of fields by their names. The result may be an argument
    of the base and may be used by other derived fields. It is computed once per build.

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
    return Derived(function)

"""Constants: numbers that a declaration holds fixed, moved and saved with the module."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from typing_extensions import Self

from declarative_dist.constraints.representable import floating
from declarative_dist.errors import ConstraintError, shorten
from declarative_dist.fields.field import Field, current_value
from declarative_dist.fields.sizes import Blueprint
from declarative_dist.plain.tracing import is_traced


class Constant(Field):
    """A number or tensor that is not learned.

    A tensor is a buffer under the field's own name. A count or a dimension, an int for an argument
    that is not continuous, stays a Python int, as does whatever else is no number.

    Args:
        init: the value; None if every instance must be given one.
        torch_constraint: what torch says that it must satisfy, or None.
    """

    shape = None
    event_names: tuple[str, ...] = ()
    holds_value = True

    def __init__(
        self, init: Any = None, torch_constraint: constraints.Constraint | None = None
    ) -> None:
        self.init = init.clone() if isinstance(init, Tensor) else init
        self.torch_constraint = torch_constraint

    @property
    def event_dim(self) -> int:
        return 0 if self.torch_constraint is None else self.torch_constraint.event_dim

    @property
    def is_continuous(self) -> bool:
        """Whether an int means a real number here."""
        return self.torch_constraint is not None and not self.torch_constraint.is_discrete

    @property
    def _is_count(self) -> bool:
        return self.torch_constraint is not None and self.torch_constraint.is_discrete

    @property
    def default(self) -> Any:
        return inspect.Parameter.empty if self.init is None else self.init

    def accepting(
        self, torch_constraint: constraints.Constraint | None, event_names: tuple[str, ...]
    ) -> Self:
        """A copy that must satisfy a torch constraint."""
        constant = copy.copy(self)
        constant.torch_constraint = torch_constraint
        if self.init is None:
            constant.event_names = event_names
        return constant

    def converted(self, value: Any, subject: str) -> Any:
        """The value as it is kept: a tensor, or a Python object as it came.

        Raises:
            ConstraintError: if it is no number where one is needed, not finite, or not allowed.
        """
        converted = value
        if isinstance(value, Integral) and not isinstance(value, bool):
            converted = float(value) if self.is_continuous else int(value)
        elif isinstance(value, float) and self._is_count and value.is_integer():
            converted = int(value)
        if isinstance(converted, float):
            converted = torch.tensor(float(converted), device="cpu")
        elif converted is value and (isinstance(value, list) or hasattr(value, "__array__")):
            converted = (
                value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")
            )
        if self.is_continuous and isinstance(converted, Tensor):
            converted = floating(converted)
        self._check(converted, subject)
        return converted

    def _check(self, value: Any, subject: str) -> None:
        expected = (
            f"a value in {self.torch_constraint}" if self.torch_constraint else "a finite number"
        )
        if not isinstance(value, Tensor):
            if self.torch_constraint is None:
                return
            if not isinstance(value, int) or isinstance(value, bool):
                raise ConstraintError(subject, expected, shorten(value), code="wrong-argument")
        if is_traced(value):
            return
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")
        allowed = tensor.isfinite().all()
        if self.torch_constraint is not None:
            with tensor.device:
                allowed = allowed & self.torch_constraint.check(tensor).all()
        if not allowed:
            raise ConstraintError(subject, expected, shorten(value))

    def bind(self, module: nn.Module, blueprint: Blueprint, values: Mapping[str, Any]) -> None:
        value = blueprint.given.get(self.name, self.init)
        if value is None:
            raise ConstraintError(
                self.subject(module),
                "a value",
                "none",
                f"Write {type(module).__name__}({self.name}=...).",
                code="missing-value",
            )
        value = self.converted(value, self.subject(module))
        start = value
        if isinstance(value, Tensor):
            dtype = blueprint.dtype if value.is_floating_point() else None
            device = blueprint.place
            start = value.detach().clone()
            value = start.clone().to(device=device, dtype=dtype)
        self.commit(module, value)
        module.__dict__["_starts"][self.name] = start

    def value(self, module: nn.Module, values: Mapping[str, Any]) -> Any:
        buffer = module._buffers.get(self.name)
        return module.__dict__[self.name] if buffer is None else buffer

    def prepare(self, module: nn.Module, value: object, values: Mapping[str, Any]) -> Any:
        new = self.converted(value, self.subject(module))
        now = self.value(module, values)
        if isinstance(now, Tensor) and isinstance(new, (int, float)):
            new = torch.as_tensor(new)
        if not isinstance(now, Tensor) or not isinstance(new, Tensor):
            return new.detach().clone() if isinstance(new, Tensor) else new
        if new.ndim and new.shape != now.shape:
            raise ConstraintError(
                self.subject(module),
                f"shape {tuple(now.shape)}",
                shorten(new),
                code="wrong-shape",
            )
        return new.detach().to(now.device, now.dtype).expand(now.shape).clone()

    def commit(self, module: nn.Module, prepared: Any) -> None:
        now = module._buffers.get(self.name)
        if now is not None and isinstance(prepared, Tensor):
            with torch.no_grad():
                now.copy_(prepared)
        elif isinstance(prepared, Tensor):
            module.__dict__.pop(self.name, None)
            module._buffers[self.name] = prepared
        else:
            module._buffers.pop(self.name, None)
            module.__dict__[self.name] = prepared

    def read(self, module: nn.Module, prepared: Any, values: Mapping[str, Any]) -> Any:
        return prepared

    def reset(self, module: nn.Module, values: Mapping[str, Any]) -> None:
        self.commit(module, module.__dict__["_starts"][self.name])

    def restart(self, module: nn.Module, *, is_new: bool = False) -> None:
        value = self.value(module, {})
        start = value.detach().clone() if isinstance(value, Tensor) else value
        vars(module)["_starts"][self.name] = start

    def describe(self, module: nn.Module) -> str:
        return ", constant"

    def signature(self, module: nn.Module) -> str | None:
        value = self.value(module, {})
        return None if isinstance(value, Tensor) else f"constant {value!r}"

    def __get__(self, instance: nn.Module | None, owner: type) -> Any:
        return self if instance is None else current_value(instance, self.name)

    def __repr__(self) -> str:
        return f"Constant({shorten(self.init)})"

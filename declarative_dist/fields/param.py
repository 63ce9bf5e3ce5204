"""Parameters: learned through an unconstrained number, read and written constrained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from typing_extensions import Self

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.real import Real
from declarative_dist.constraints.representable import floating
from declarative_dist.constraints.tracing import is_traced
from declarative_dist.errors import ConstraintError, DeclarationError, shortened
from declarative_dist.fields.blueprint import Blueprint, Shape, Start, inserted
from declarative_dist.fields.field import Field, chain_of, current_value, evaluate

_REAL = Real()
"""The constraint of a parameter that belongs to no class yet."""

Init = float | Sequence[Any] | Tensor | Callable[[torch.Size], Tensor]


class Param(Field):
    """A learned, constrained attribute.

    On the class it reads as the `Param`; on an instance as a Tensor, the constrained value,
    computed afresh on every read. The unconstrained `nn.Parameter` is `raw_<name>`. Assigning
    checks the value and writes through the inverse into the same Parameter, so the state of an
    optimizer survives. Changing the tensor that was read (`q.scale[0] = 1.0`) cannot persist.

    Args:
        init: the starting value, constrained: a number, a nested list, a tensor, or a callable
            that takes the full shape, such as `torch.randn`. None for the constraint's default.
        constraint: anything that `as_constraint` takes; None to infer it from the argument of the
            base that bears the field's name.
        shape: sizes and names of sizes; a name becomes a keyword of the constructor. None for the
            shape of the value.
        trainable: False keeps the parameter out of training (`requires_grad` off), but saved and
            moved with the others.
        doc: what the parameter is for.

    Raises:
        DeclarationError: if an argument is of the wrong kind.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist import Exp, Param, Positive, Variational
        >>> class GammaFamily(Variational):
        ...     base = dd.Gamma
        ...     concentration = Param(1.0, Positive())
        ...     rate = Param(1.0, Exp())
        >>> q = GammaFamily(rate=2.0)
        >>> q.rate
        tensor(2., grad_fn=<ExpBackward0>)
        >>> GammaFamily.rate
        Param(1.0, Exp())
    """

    event_dim = 0
    event_names: tuple[str, ...] = ()
    holds_value = True
    raw_name = ""
    """The name of the unconstrained parameter on an instance."""

    def __init__(
        self,
        init: Init | None = None,
        constraint: object = None,
        *,
        shape: int | str | Sequence[int | str] | None = None,
        trainable: bool = True,
        doc: str | None = None,
    ) -> None:
        if isinstance(init, Constraint) or (
            isinstance(init, type) and issubclass(init, Constraint)
        ):
            raise DeclarationError(
                "Param(init=)",
                "a starting value first",
                repr(init),
                "Write Param(1.0, Positive()), or Param(constraint=Positive()).",
            )
        # What the class holds does not change with the tensor that it was given.
        source = _as_source(init)
        self.init = source.clone() if isinstance(source, Tensor) else source
        self.has_dtype = isinstance(init, Tensor)
        self.declared_constraint = constraint
        self.constraint: Constraint = _REAL
        self.shape: Shape | None = _as_shape(shape)
        self.trainable = trainable
        self.doc = doc
        self._forward: Callable[[Tensor], Tensor] | None = None
        if doc is not None:
            self.__doc__ = doc

    def named(self, name: str) -> Self:
        param = super().named(name)
        param.raw_name = f"raw_{name}"
        return param

    def constrained_by(
        self, constraint: Constraint, event_dim: int = 0, event_names: tuple[str, ...] = ()
    ) -> Self:
        """A copy with the constraint that it has in a class."""
        param = copy.copy(self)
        param.constraint = constraint
        is_shared = not constraint.names and not param.owns_constraint
        param._forward = constraint.forward if is_shared else None
        param.event_dim = event_dim
        if self.shape is None and (self.init is None or callable(self.init)):
            param.event_names = event_names
        return param

    @property
    def needs(self) -> tuple[str, ...]:
        return self.constraint.names

    @property
    def owns_constraint(self) -> bool:
        """Whether every instance has a copy of the constraint, for it holds tensors."""
        constraint = self.constraint
        return next(constraint.buffers(), next(constraint.parameters(), None)) is not None

    def constraint_of(self, module: nn.Module) -> Constraint:
        """The constraint as it is on an instance."""
        if not self.owns_constraint:
            return self.constraint
        own: Constraint = getattr(module, f"{self.raw_name}_constraint")
        return own

    def source(self, value: Any, subject: str) -> Any:
        return _as_source(value, subject)

    def bind(self, module: nn.Module, blueprint: Blueprint, values: Mapping[str, Any]) -> None:
        start = blueprint.start(self)
        dtype, device = self._place(start, blueprint)
        if self.owns_constraint:
            own = copy.deepcopy(self.constraint).to(device=device, dtype=dtype)
            module.add_module(f"{self.raw_name}_constraint", own)
        self.constraint_of(module).check_dtype(dtype, self.subject(module))
        raw = self._started(module, start, dtype, device, values)
        module.register_parameter(self.raw_name, nn.Parameter(raw, requires_grad=self.trainable))
        module.__dict__["_starts"][self.name] = start

    def _place(self, start: Start, blueprint: Blueprint) -> tuple[torch.dtype, torch.device]:
        dtype = blueprint.dtype
        if dtype is None:
            source = self.init if start.source is None else start.source
            is_meant = self.has_dtype if start.source is None else start.has_dtype
            if is_meant and isinstance(source, Tensor):
                dtype = source.dtype
            else:
                dtype = torch.get_default_dtype()
        return dtype, blueprint.device or torch.get_default_device()

    def _started(
        self,
        module: nn.Module,
        start: Start,
        dtype: torch.dtype,
        device: torch.device,
        values: Mapping[str, Any],
    ) -> Tensor:
        constraint = self.constraint_of(module).resolved(values)
        with torch.no_grad():
            declared = constraint.default if self.init is None else self.init
            value = start.tensor(declared, dtype, device)
            if self.init is None and start.source is None:
                value = _nearest_inside(constraint, value)
            if value.shape != start.shape:
                raise ConstraintError(
                    self.subject(module), f"shape {tuple(start.shape)}", shortened(value)
                )
            constraint.check(value, self.subject(module))
            return constraint.inverse(value).detach().clone()

    def value(self, module: nn.Module, values: Mapping[str, Any]) -> Tensor:
        raw = module._parameters.get(self.raw_name)
        if raw is None:  # a parametrization of torch has replaced it
            raw = getattr(module, self.raw_name)
        if self._forward is not None:
            return self._forward(raw)
        return self.constraint_of(module).resolved(values).forward(raw)

    def prepare(self, module: nn.Module, value: object, values: Mapping[str, Any]) -> Tensor:
        source = _as_source(value, self.subject(module))
        with torch.no_grad():
            now = self.value(module, values)
            if not isinstance(source, (int, float, Tensor)):
                raise ConstraintError(
                    self.subject(module), "a number or a tensor", shortened(source)
                )
            new = torch.as_tensor(source, dtype=now.dtype, device=now.device)
            if new.ndim and new.shape != now.shape:
                raise ConstraintError(
                    self.subject(module), f"shape {tuple(now.shape)}", shortened(new)
                )
            new = new.expand(now.shape)
            constraint = self.constraint_of(module).resolved(values)
            constraint.check(new, self.subject(module))
            return constraint.inverse(new).clone()

    def commit(self, module: nn.Module, prepared: Tensor) -> None:
        raw = module._parameters.get(self.raw_name)
        if raw is None:
            setattr(module, self.raw_name, prepared)
            return
        with torch.no_grad():
            raw.copy_(prepared)

    def read(self, module: nn.Module, prepared: Tensor, values: Mapping[str, Any]) -> Tensor:
        return self.constraint_of(module).resolved(values).forward(prepared)

    def reset(self, module: nn.Module, values: Mapping[str, Any]) -> None:
        if self.owns_constraint:
            own = self.constraint_of(module)
            with torch.no_grad():
                for name, tensor in [*own.named_buffers(), *own.named_parameters()]:
                    tensor.copy_(_at(self.constraint, name))
        raw = getattr(module, self.raw_name)
        start: Start = module.__dict__["_starts"][self.name]
        self.commit(module, self._started(module, start, raw.dtype, raw.device, values))

    def parameters_of(self, module: nn.Module) -> list[nn.Parameter]:
        raw = module._parameters.get(self.raw_name)
        if raw is not None:
            return [raw]
        # Those behind a parametrization of torch that has replaced it.
        parametrizations: Any = module.parametrizations
        return list(parametrizations[self.raw_name].parameters())

    def replicate(
        self, module: nn.Module, shape: torch.Size, at: int, lead: int, done: set[int]
    ) -> None:
        start: Start = vars(module)["_starts"][self.name]
        raw = module._parameters[self.raw_name]
        if raw is None:
            return
        ones = max(lead - (len(start.shape) - at - self.event_dim), 0)
        start = start.replicated(torch.Size((*shape, *(1,) * ones)), at)
        is_drawn = callable(self.init if start.source is None else start.source)
        if is_drawn and any(size != 1 for size in shape):
            known = evaluate(module, chain_of(module, self.name)[:-1])
            new = self._started(module, start, raw.dtype, raw.device, known)
        else:
            new = inserted(raw.detach(), torch.Size((*shape, *(1,) * ones)), at).clone()
        module._parameters[self.raw_name] = nn.Parameter(new, requires_grad=raw.requires_grad)
        vars(module)["_starts"][self.name] = start

    def restart(self, module: nn.Module, *, is_new: bool = False) -> None:
        starts: dict[str, Start] = vars(module)["_starts"]
        start = starts[self.name]
        raw = getattr(module, self.raw_name)
        known = evaluate(module, chain_of(module, self.name)[:-1])
        if callable(self.init if start.source is None else start.source) and not is_new:
            return
        if is_new or not torch.equal(
            raw, self._started(module, start, raw.dtype, raw.device, known)
        ):
            value = current_value(module, self.name).detach().clone()
            starts[self.name] = Start(value, value.shape, has_dtype=True, own=start.own)

    def describe(self, module: nn.Module) -> str:
        frozen = "" if getattr(module, self.raw_name).requires_grad else ", frozen"
        return f", {self.constraint_of(module)!r}{frozen}"

    def signature(self, module: nn.Module) -> str:
        return self.constraint_of(module).signature()

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: nn.Module, owner: type) -> Tensor: ...
    def __get__(self, instance: nn.Module | None, owner: type) -> Self | Tensor:
        if instance is None:
            return self
        value: Tensor = current_value(instance, self.name)
        return value

    def __set__(self, instance: nn.Module, value: float | Sequence[Any] | Tensor) -> None:
        super().__set__(instance, value)

    def __repr__(self) -> str:
        init = [] if self.init is None else [shortened(self.init)]
        shape = [] if self.shape is None else [f"shape={self.shape!r}"]
        trainable = [] if self.trainable else ["trainable=False"]
        return f"Param({', '.join([*init, repr(self.constraint), *shape, *trainable])})"


def _nearest_inside(constraint: Constraint, value: Tensor) -> Tensor:
    """A default value, or where the dtype rounds it to the edge, the value of raw zeros."""
    if is_traced(value) or constraint.contains(value).all():
        return value
    raw_shape = constraint.raw_shape(value.shape)
    return constraint.forward(torch.zeros(raw_shape, dtype=value.dtype, device=value.device))


def _at(constraint: Constraint, name: str) -> Tensor:
    """The buffer or parameter of this dotted name."""
    return {**dict(constraint.named_buffers()), **dict(constraint.named_parameters())}[name]


def _as_source(value: Any, subject: str = "Param(init=)") -> Any:
    """Lists and arrays as tensors; numbers, tensors, callables and None as they are."""
    if value is None:
        return None
    if isinstance(value, (nn.Module, Distribution, Transform)):
        raise DeclarationError(
            subject, "a number, a list, a tensor or a callable", f"a {type(value).__name__}"
        )
    if isinstance(value, Tensor):
        if value.is_complex():
            raise DeclarationError(
                subject, "a number, a list or a tensor that is real", repr(value)
            )
        return floating(value.detach())
    if callable(value):
        return value
    try:
        if isinstance(value, (bool, complex, str)):
            raise TypeError
        if isinstance(value, (int, float)):
            return float(value)
        # A list is exact until the dtype of its field is known.
        dtype = torch.float64 if isinstance(value, (list, tuple)) else None
        return _as_source(torch.as_tensor(value, dtype=dtype, device="cpu"), subject)
    except DeclarationError:
        raise
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise DeclarationError(
            subject, "a number, a list, a tensor or a callable", shortened(value)
        ) from error


def _as_shape(shape: int | str | Sequence[int | str] | None) -> Shape | None:
    if shape is None:
        return None
    sizes: Any = (shape,) if isinstance(shape, str) or not isinstance(shape, Sequence) else shape
    for size in sizes:
        is_size = isinstance(size, int) and not isinstance(size, bool) and size >= 0
        if not is_size and not (isinstance(size, str) and size.isidentifier()):
            raise DeclarationError(
                "Param(shape=)", "sizes (0 or above) and names", shortened(shape)
            )
    return tuple(sizes)

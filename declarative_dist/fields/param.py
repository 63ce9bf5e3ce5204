"""Parameters: learned through an unconstrained number, read and written constrained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn
from typing_extensions import Self

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.errors import ConstraintError, DeclarationError, shortened
from declarative_dist.fields.blueprint import Blueprint, Start, inserted
from declarative_dist.fields.constrained import Constrained, Init, as_source
from declarative_dist.fields.field import chain_of, current_value, evaluate
from declarative_dist.fields.sharding import check_gathered, spread_like


class Param(Constrained):
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

    holds_value = True

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
        start: Any = init
        super().__init__(start, constraint, shape, "Param")
        self.trainable = trainable
        self.doc = doc
        if doc is not None:
            self.__doc__ = doc

    def bind(self, module: nn.Module, blueprint: Blueprint, values: Mapping[str, Any]) -> None:
        start = blueprint.start(self)
        dtype, device = self.place(start, blueprint)
        self.hold_constraint(module, dtype, device)
        raw = self.started(module, start, dtype, device, values)
        module.register_parameter(self.raw_name, nn.Parameter(raw, requires_grad=self.trainable))
        module.__dict__["_starts"][self.name] = start

    def value(self, module: nn.Module, values: Mapping[str, Any]) -> Tensor:
        raw = values.get(self.raw_name)
        if raw is None:
            raw = module._parameters.get(self.raw_name)
        if raw is None:  # a parametrization of torch has replaced it
            raw = getattr(module, self.raw_name)
        if self._forward is not None:  # the common case, without one more call
            return self._forward(raw)
        return self.constrained(module, raw, values)

    def prepare(self, module: nn.Module, value: object, values: Mapping[str, Any]) -> Tensor:
        source = as_source(value, self.subject(module))
        with torch.no_grad():
            try:
                now = self.value(module, values)
            except RuntimeError:
                check_gathered(module)
                raise
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
            raw.copy_(spread_like(raw, prepared))

    def read(self, module: nn.Module, prepared: Tensor, values: Mapping[str, Any]) -> Tensor:
        return self.constraint_of(module).resolved(values).forward(prepared)

    def reset(self, module: nn.Module, values: Mapping[str, Any]) -> None:
        self.reset_constraint(module)
        raw = getattr(module, self.raw_name)
        start: Start = module.__dict__["_starts"][self.name]
        self.commit(module, self.started(module, start, raw.dtype, raw.device, values))

    def parameters_of(self, module: nn.Module) -> list[nn.Parameter]:
        raw = module._parameters.get(self.raw_name)
        if raw is not None:
            return [raw]
        # Those behind a parametrization of torch that has replaced it.
        parametrizations: Any = module.parametrizations
        return list(parametrizations[self.raw_name].parameters())

    def replicate(
        self, module: nn.Module, shape: torch.Size, at: int, lead: int, done: dict[int, Any]
    ) -> None:
        start: Start = vars(module)["_starts"][self.name]
        raw = module._parameters[self.raw_name]
        if raw is None:
            return
        ones = max(lead - (len(start.shape) - at - self.event_dim), 0)
        whole = torch.Size((*shape, *(1,) * ones))
        start = start.replicated(whole, at)
        _, new = done.get(id(raw), (raw, None))
        if new is None or new.shape != torch.Size((*raw.shape[:at], *whole, *raw.shape[at:])):
            is_drawn = callable(self.init if start.source is None else start.source)
            if is_drawn and any(size != 1 for size in shape):
                known = evaluate(module, chain_of(module, self.name)[:-1])
                values = self.started(module, start, raw.dtype, raw.device, known)
            else:
                values = inserted(raw.detach(), whole, at).clone()
            new = nn.Parameter(values, requires_grad=raw.requires_grad)
            done[id(raw)] = (raw, new)
        module._parameters[self.raw_name] = new
        vars(module)["_starts"][self.name] = start

    def restart(self, module: nn.Module, *, is_new: bool = False) -> None:
        starts: dict[str, Start] = vars(module)["_starts"]
        start = starts[self.name]
        raw = getattr(module, self.raw_name)
        known = evaluate(module, chain_of(module, self.name)[:-1])
        if callable(self.init if start.source is None else start.source) and not is_new:
            return
        if is_new or not torch.equal(
            raw, self.started(module, start, raw.dtype, raw.device, known)
        ):
            value = current_value(module, self.name).detach().clone()
            starts[self.name] = Start(value, value.shape, has_dtype=True, own=start.own)

    def describe(self, module: nn.Module) -> str:
        frozen = "" if getattr(module, self.raw_name).requires_grad else ", frozen"
        return f", {self.constraint_of(module)!r}{frozen}"

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: nn.Module, owner: type) -> Tensor: ...
    def __get__(self, instance: nn.Module | None, owner: type) -> Self | Tensor:
        if instance is None:
            return self
        try:
            value: Tensor = current_value(instance, self.name)
        except RuntimeError:
            check_gathered(instance)
            raise
        return value

    def __set__(self, instance: nn.Module, value: float | Sequence[Any] | Tensor) -> None:
        super().__set__(instance, value)

    def __repr__(self) -> str:
        init = [] if self.init is None else [shortened(self.init)]
        shape = [] if self.shape is None else [f"shape={self.shape!r}"]
        trainable = [] if self.trainable else ["trainable=False"]
        return f"Param({', '.join([*init, repr(self.constraint), *shape, *trainable])})"

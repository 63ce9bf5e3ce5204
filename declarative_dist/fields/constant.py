"""Constants: numbers that a declaration holds fixed, moved and saved with the module."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from typing_extensions import Self

from declarative_dist.errors import ConstraintError, DeclarationError, ExplainedError, shorten
from declarative_dist.fields import storage
from declarative_dist.fields.alignment import ndims_of
from declarative_dist.fields.blueprint import Blueprint, Start, as_shape
from declarative_dist.fields.field import Stored, declaration_of
from declarative_dist.plain.arguments import ExtendedReal
from declarative_dist.plain.tensors import is_array
from declarative_dist.plain.tracing import is_traced

if TYPE_CHECKING:
    from declarative_dist.declaration.record import Declaration


class Constant(Stored):
    """A number or tensor that is not learned.

    A number or a tensor in the class body is one by itself: `df = 4.0`. You write `Constant` where
    the sizes of instances say how large it is.

    A tensor is a buffer under the field's own name, and torch may do to it what it does to any
    buffer. A count or a dimension, an int for an argument that is not continuous, stays a Python
    int, as does whatever else is no number.

    Args:
        init: the value; None if every instance must be given one.
        shape: sizes and names of sizes, over which a number is spread; a name becomes a keyword of
            the constructor. None for the shape of the value.

    Raises:
        DeclarationError: for a shape without numbers, or with some that it does not fit.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist import Constant, Variational
        >>> class Prior(Variational):
        ...     base = dd.Normal
        ...     event_dim = 1
        ...     loc = Constant(0.0, shape=("latents",))
        ...     scale = 1.0
        >>> Prior(latents=20).event_shape
        torch.Size([20])
    """

    torch_constraint: constraints.Constraint | None = None
    """What the base says that it must satisfy."""

    def __init__(
        self, init: Any = None, *, shape: int | str | Sequence[int | str] | None = None
    ) -> None:
        self.shape = as_shape(shape, "Constant(shape=)")
        # What the class holds does not change with the array that it was given.
        if is_array(init):
            init = init.clone() if isinstance(init, Tensor) else copy.deepcopy(init)
        self.init = init
        self.has_dtype = isinstance(init, Tensor) and init.is_floating_point()

    @property
    def event_dim(self) -> int:
        return 0 if self.torch_constraint is None else self.torch_constraint.event_dim

    @property
    def _is_continuous(self) -> bool:
        """Whether an int means a real number here."""
        return self.torch_constraint is not None and not self.torch_constraint.is_discrete

    @property
    def _expected(self) -> str:
        torch_constraint = self.torch_constraint
        return "a finite number" if torch_constraint is None else f"a value in {torch_constraint}"

    def specialize(self, owner: Declaration) -> Self:
        constant, argument = copy.copy(self), owner.arguments.get(self.name)
        if argument is not None:
            constant.torch_constraint = argument.torch_constraint
        if self.init is None:
            constant.event_names = () if argument is None else argument.event_names()
            return constant
        try:
            constant.init = constant.as_source(self.init, owner.subject(self.name))
        except ExplainedError as error:
            raise DeclarationError(*error.args, code=error.code) from error
        return constant

    def as_source(self, value: Any, subject: str) -> Any:
        """A value with all its digits: a number, a tensor, or a Python object as you gave it.

        Raises:
            ConstraintError: if it is no number where one is needed, not finite, or not allowed.
        """
        stated, source = self.torch_constraint, value
        if isinstance(value, Real) and not isinstance(value, bool):
            # A count, or an int that no base takes.
            number: Any = value
            if not isinstance(value, float):  # an int may be too large for one
                number = storage.to_tensor(value, subject, torch.float64, None, self._expected)
            is_whole = isinstance(value, Integral) or (stated and float(number).is_integer())
            source = int(source) if is_whole and not self._is_continuous else float(number)
        elif stated is None and isinstance(value, Tensor):
            source = value.detach()  # of any dtype and layout: other methods of the class read it
        # A tuple is numbers where the base takes numbers; elsewhere, as in `lims`, it stays one.
        elif is_array(value) and not (stated is None and isinstance(value, tuple)):
            source = storage.to_tensor(value, subject, expected=self._expected)
        is_flag = isinstance(source, Tensor) and source.dtype == torch.bool
        takes_flags = stated in (None, constraints.boolean)
        is_number = isinstance(source, (int, float, Tensor)) and not isinstance(source, bool)
        if is_number and (takes_flags or not is_flag):
            is_spread = self.shape is not None and not getattr(source, "ndim", 0)
            if not (is_spread and self.event_dim):  # else it is checked as a whole event
                self._check(source, subject)
        elif stated is not None and value is not None:
            raise ConstraintError(subject, self._expected, shorten(value), code="wrong-argument")
        return source

    def _check(self, value: Any, subject: str, origin: Any = None) -> None:
        """Refuse numbers that are not finite, or that the base does not take."""
        if is_traced(value) or (isinstance(value, Tensor) and value.layout is not torch.strided):
            return
        tensor = value
        if not isinstance(value, Tensor):
            tensor = storage.to_tensor(value, subject, expected=self._expected)
        is_extended = isinstance(self.torch_constraint, ExtendedReal)
        is_allowed = is_extended or bool(tensor.isfinite().all())
        if is_allowed and self.torch_constraint is not None:
            has_event = tensor.ndim >= self.torch_constraint.event_dim
            is_allowed = has_event and bool(self.torch_constraint.check(tensor).all())
        if not is_allowed:
            got = shorten(value)
            if origin is not None:
                got = f"{shorten(origin)}, which is {got} in {tensor.dtype}"
            elif isinstance(value, Tensor):
                got = f"{got} in {tensor.dtype}"
            raise ConstraintError(subject, self._expected, got)

    def bind(self, module: nn.Module, blueprint: Blueprint, values: Mapping[str, Any]) -> None:
        subject = self.subject(module)
        if self.init is None and self.name not in blueprint.given:
            fix = f"Write {type(module).__name__}({self.name}=...)."
            raise ConstraintError(subject, "a value", "none", fix, code="missing-value")
        start = blueprint.start(self)
        source, own = self.source_of(start), start.shape[len(blueprint.batch_shape) :]
        if self.shape is not None and not getattr(source, "ndim", 0):
            source = storage.to_tensor(source, subject, expected=self._expected).expand(own)
            self._check(source, subject)
        vars(module)["_starts"][self.name] = Start.of(source)
        stored = self._build(source, blueprint.dtype_of(self), blueprint.place, subject)
        if isinstance(stored, Tensor):
            ndims_of(module)[self.name] = len(own)
        self.commit(module, stored)

    def _build(self, source: Any, dtype: torch.dtype, device: torch.device, subject: str) -> Any:
        """What an instance holds: a new tensor in the dtype of then, or a Python object."""
        if not isinstance(source, (float, Tensor)):
            return source
        own = getattr(source, "dtype", torch.float64)
        if isinstance(source, Tensor) and not (own.is_floating_point or self._is_continuous):
            return source.to(device).clone()
        tensor = storage.to_tensor(source, subject, dtype, device, self._expected)
        if dtype != own:
            self._check(tensor, subject, source)
        return tensor.clone() if isinstance(source, Tensor) else tensor

    def value(self, module: nn.Module, values: Mapping[str, Any]) -> Any:
        buffer = module._buffers.get(self.name)
        if buffer is not None:
            return buffer
        constants = module.__dict__["_constants"]
        if self.name in constants:
            return constants[self.name]
        tensor = storage.find_tensor(module, self.name)
        if tensor is None:  # as torch finds out whether a buffer is gone
            raise AttributeError("it was deleted: set it, or call reset_parameters()")
        return tensor

    def rebuild(self, module: nn.Module, values: Mapping[str, Any]) -> Any:
        now, start = storage.find_tensor(module, self.name), vars(module)["_starts"][self.name]
        dtype = _dtype_beside(module) if now is None else now.dtype
        device = torch.get_default_device() if now is None else now.device
        return self._build(start.source, dtype, device, self.subject(module))

    def prepare(self, module: nn.Module, value: object, values: Mapping[str, Any]) -> Any:
        subject = self.subject(module)
        new = self.as_source(value, subject)
        if new is None:
            raise ConstraintError(subject, self._expected, "None", code="wrong-argument")
        now = storage.find_tensor(module, self.name)
        if now is None:  # a Python object, or deleted
            place = _dtype_beside(module), torch.get_default_device()
            return self._build(new, *place, subject)
        tensor = storage.to_tensor(new, subject, now.dtype, now.device, self._expected)
        own = ndims_of(module).get(self.name, 0)
        whole = storage.expand_to_copies(tensor, now, own, subject).clone()
        if tensor is not new or not tensor.ndim:  # in another dtype, or spread
            self._check(whole, subject, new)
        return whole

    def commit(self, module: nn.Module, prepared: Any) -> None:
        if not isinstance(prepared, Tensor):
            module._buffers.pop(self.name, None)
            module.__dict__["_constants"][self.name] = prepared
        elif storage.find_tensor(module, self.name) is None:
            module.__dict__["_constants"].pop(self.name, None)
            module._buffers[self.name] = prepared
        else:
            storage.write_tensor(module, self.name, prepared, self)

    def check_stored(self, module: nn.Module, tensor: Tensor, now: Tensor | None = None) -> None:
        held, subject = storage.find_tensor(module, self.name), self.subject(module)
        if held is not None and held.is_floating_point():
            storage.check_floating(tensor.dtype, subject)
        if now is not None and not is_traced(now, tensor):
            storage.check_finite(now, tensor, now, subject)
        self._check(tensor, subject, now)

    def rule(self, module: nn.Module) -> str:
        return "constant"

    def signature(self, module: nn.Module) -> str | None:
        constants = module.__dict__["_constants"]
        return f"constant {constants[self.name]!r}" if self.name in constants else None

    def __get__(self, instance: nn.Module | None, owner: type) -> Any:
        if instance is None:
            return self
        declaration_of(instance, self.name)
        return self.value(instance, {})

    def __delete__(self, instance: Any) -> None:
        if self.name not in instance._buffers:
            super().__delete__(instance)
        del instance._buffers[self.name]  # as torch does before it parametrizes a buffer

    def __repr__(self) -> str:
        shape = "" if self.shape is None else f", shape={self.shape!r}"
        return f"Constant({shorten(self.init)}{shape})"


def _dtype_beside(module: nn.Module) -> torch.dtype:
    """The floating-point type of the other tensors of a module, or torch's default."""
    tensors = (*module._parameters.values(), *module._buffers.values())
    dtypes = (t.dtype for t in tensors if t is not None and t.is_floating_point())
    return next(dtypes, torch.get_default_dtype())

"""Fields that depend on a context: the call, what stands in before there is one, and heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Self

from declarative_dist.errors import DeclarationError, shorten
from declarative_dist.fields.blueprint import Blueprint
from declarative_dist.fields.field import declaration_of
from declarative_dist.fields.value import Constrained, Init, as_source
from declarative_dist.plain.tensors import HALF, floating_tensors
from declarative_dist.plain.tracing import is_autocasting

if TYPE_CHECKING:
    from declarative_dist.declaration.record import Declaration

CONTEXT = "*context"
"""Among the values of an evaluation: the `Call` that it is for."""

CONTEXT_SHAPE = "*context_shape"
"""Among the values of an evaluation: the batch shape of the contexts that are tried."""


class Call(NamedTuple):
    """What an instance is called with.

    Args:
        args: what goes to the network by position.
        keywords: what goes to it by name.
        given: what the fields of the class and of its parts take by name.
        own: of these the fields of the class, as tensors of shape `(*batch, *own)`.
        outputs: what networks that several parts share have returned so far.
    """

    args: tuple[Any, ...]
    keywords: Mapping[str, Any]
    given: Mapping[str, Any] = {}
    own: Mapping[str, Tensor] = {}
    outputs: dict[nn.Module, Any] | None = None

    def predict(self, part: Any, given: Mapping[str, Any], *, is_shared: bool) -> Any:
        """What a part predicts; a network that it shares with others runs once for all."""
        outputs = self.outputs if is_shared and _is_plain(part) else None
        if outputs is None:
            return part(*self.args, **self.keywords, **given)
        if part.network not in outputs:
            outputs[part.network] = part.network(*self.args, **self.keywords)
        return part.from_features(outputs[part.network], **given)


def _is_plain(part: nn.Module) -> bool:
    """Whether a part passes on what it is called with: its class has no `forward` of its own."""
    kind = next(kind for kind in type(part).__mro__ if "forward" in vars(kind))
    return "__framework__" in vars(kind)


class FromContext(Constrained):
    """A value that an instance has only in a call with a context.

    On an instance it reads as the field itself. Where something must be computed without a
    context, raw numbers stand in: those at which the field starts.
    """

    needs_context = True
    origin: str
    """How it comes about, in a word."""

    def settle(self, owner: Declaration) -> None:
        owner.require_conditional(self.name)
        super().settle(owner)
        if len(self.shape or ()) < self.event_dim:
            sizes = ", ".join(f'"d{index + 1}"' for index in range(self.event_dim))
            expected = f"a shape of {self.event_dim} sizes or more"
            fix = f"Write shape=({sizes},)."
            raise owner.error(self.name, expected, repr(self), fix, code="wrong-shape")

    def bind(self, module: nn.Module, blueprint: Blueprint, values: Mapping[str, Any]) -> None:
        vars(module)["_biases"][self.name] = self.build_raw(module, blueprint, values)

    def bias(self, module: nn.Module) -> Tensor:
        """The raw numbers of the start, where the module is."""
        dtype, device = self.place_of(module)
        bias: Tensor = vars(module)["_biases"][self.name]
        return bias.to(device, dtype)

    def stand_in(self, module: nn.Module, values: Mapping[str, Any]) -> Tensor:
        """The raw numbers of the start for contexts of the shape that is tried."""
        raw = self.bias(module)
        return raw.expand((*values.get(CONTEXT_SHAPE, ()), *raw.shape))

    def place_of(self, module: nn.Module) -> tuple[torch.dtype, torch.device]:
        layer = module._modules.get("projection") or module
        bias: Tensor = vars(module)["_biases"][self.name]
        like = next(floating_tensors(layer), bias)
        return like.dtype, like.device

    def shape_of(self, module: nn.Module) -> tuple[int, ...]:
        """The shape of the value for one context."""
        return tuple(vars(module)["_starts"][self.name].shape)

    def reset(self, module: nn.Module, values: Mapping[str, Any]) -> None:
        super().reset(module, values)
        vars(module)["_biases"][self.name] = self.rebuild(module, values)

    def render(self, module: nn.Module) -> str:
        words = [self.origin, f"of shape {self.shape_of(module)}", *self.shown_constraint]
        return ", ".join(words)

    def __get__(self, instance: nn.Module | None, owner: type) -> Self:
        if instance is not None:
            declaration_of(instance, self.name)
        return self

    def __repr__(self) -> str:
        shape = [] if self.shape == () else [f"shape={self.shape!r}"]
        init = [] if self.init is None else [f"init={shorten(self.init)}"]
        return f"{type(self).__name__}({', '.join([*self.shown_constraint, *shape, *init])})"


class Head(FromContext):
    """A value predicted from a context; only in a `Conditional`.

    On an instance it reads as the Head itself: it has no value before there is a context.

    Args:
        constraint: anything that `as_constraint` takes; None to infer it from the argument of the
            base that bears the field's name.
        shape: sizes and names of sizes of one prediction; a name becomes a keyword of the
            constructor.
        init: the value predicted from features of zeros, constrained; None for the constraint's
            default. A head whose bounds depend on a `Given` takes none: its unconstrained numbers
            start at 0.

    Raises:
        DeclarationError: if an argument is of the wrong kind.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import Conditional, Exp, Head
        >>> class Regression(Conditional):
        ...     base = dd.Normal
        ...     loc = Head()
        ...     scale = Head(Exp(), init=0.5)
        >>> regression = Regression(in_features=3)
        >>> regression(torch.zeros(3))
        Normal(loc: 0.0, scale: 0.5)
    """

    is_predicted = True
    label = "a head"
    origin = "predicted"

    def __init__(
        self,
        constraint: object = None,
        *,
        shape: int | str | Sequence[int | str] = (),
        init: Init | None = None,
    ) -> None:
        super().__init__(init, constraint, shape)

    def settle(self, owner: Declaration) -> None:
        super().settle(owner)
        chain = owner.chains[self.name]
        bound = next((field for field in chain if field.is_given), None)
        self.starts_at_zero = bound is not None
        self.as_source(self.init, owner.subject(self.name))

    def as_source(self, value: Any, subject: str) -> Any:
        if self.starts_at_zero and value is not None:
            expected = "no init, for its bounds come with each call"
            fix = "Leave it out: its unconstrained numbers start at 0, as of a midpoint."
            raise DeclarationError(subject, expected, shorten(value), fix, code="unused-argument")
        return as_source(value, subject)

    def value(self, module: nn.Module, values: Mapping[str, Any]) -> Tensor:
        raw = values.get(self.raw_name)
        if raw is None:  # before there is a context: what features of zeros predict
            raw = self.stand_in(module, values)
        is_lowered = raw.dtype in HALF and is_autocasting(raw)  # what autocast made
        if self._forward is not None and not is_lowered:  # the common case, in few calls
            return self._forward(raw)
        constraint = self.resolved_constraint(module, values)
        if self.starts_at_zero and CONTEXT in values:
            self.check_room(module, values)  # between bounds that come with the call
        if is_lowered:
            with torch.autocast(raw.device.type, enabled=False):
                return constraint.forward(raw.float())
        return constraint.forward(raw)

    def advice(self, owner: str) -> str:
        return "It is predicted from a context: train the network, or declare a Param."

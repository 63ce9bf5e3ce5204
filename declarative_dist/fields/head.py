"""Heads: values that a network predicts from a context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from typing_extensions import Self

from declarative_dist.errors import DeclarationError, shorten
from declarative_dist.fields.field import ReadOnly, declaration_of
from declarative_dist.fields.owner import Owner
from declarative_dist.fields.sizes import Blueprint
from declarative_dist.fields.value import Constrained, Init
from declarative_dist.plain.tracing import is_autocasting

CONTEXT_SHAPE = "*context_shape"
"""Among the values of an evaluation: the batch shape of the contexts that are tried."""


class Split(NamedTuple):
    """What a head takes of the output of a layer that serves all heads."""

    raw_name: str
    shape: torch.Size
    size: int

    def reshape(self, part: Tensor) -> Tensor:
        """Numbers of shape `(*batch, size)` in the shape that the constraint takes."""
        if len(self.shape) == 1:
            return part
        return part.reshape(torch.Size((*part.shape[:-1], *self.shape)))


class Head(ReadOnly, Constrained):
    """A value predicted from a context; only in a `Conditional`.

    On an instance it reads as the Head itself: it has no value before there is a context.

    Args:
        constraint: anything that `as_constraint` takes; None to infer it from the argument of the
            base that bears the field's name.
        shape: sizes and names of sizes of one prediction; a name becomes a keyword of the
            constructor.
        init: the value predicted from features of zeros, constrained; None for the constraint's
            default.

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

    def __init__(
        self,
        constraint: object = None,
        *,
        shape: int | str | Sequence[int | str] = (),
        init: Init | None = None,
    ) -> None:
        kinds = (type, nn.Module, Transform, constraints.Constraint)
        if constraint is not None and not isinstance(constraint, kinds):
            subject, fix = "Head(constraint=)", "Write Head(Positive(), init=1.0)."
            raise DeclarationError(subject, "a constraint first", shorten(constraint), fix)
        super().__init__(init, constraint, shape, "Head")

    is_predicted = True
    label = "a head"

    def specialize(self, owner: Owner) -> Self:
        head = super().specialize(owner)
        if len(self.shape or ()) < head.event_dim:
            sizes = ", ".join(f'"d{index + 1}"' for index in range(head.event_dim))
            expected = f"a shape of {head.event_dim} sizes or more"
            fix = f"Write shape=({sizes},)."
            raise owner.error(self.name, expected, repr(self), fix, code="wrong-shape")
        return head

    def check(self, owner: Owner) -> None:
        owner.require_conditional(self.name)
        super().check(owner)

    def bind(self, module: nn.Module, blueprint: Blueprint, values: Mapping[str, Any]) -> None:
        vars(module)["_biases"][self.name] = self.build_raw(module, blueprint, values)

    def value(self, module: nn.Module, values: Mapping[str, Any]) -> Tensor:
        raw = values.get(self.raw_name)
        if raw is None:  # before there is a context: what features of zeros predict
            raw = self.bias(module)
            raw = raw.expand((*values.get(CONTEXT_SHAPE, ()), *raw.shape))
        if _is_lowered(raw):
            with torch.autocast(raw.device.type, enabled=False):
                return self.resolved_constraint(module, values).forward(raw.float())
        if self._forward is not None:  # the common case, without one more call
            return self._forward(raw)
        return self.resolved_constraint(module, values).forward(raw)

    def bias(self, module: nn.Module) -> Tensor:
        """The unconstrained numbers that features of zeros predict, where the module is."""
        dtype, device = self.place_of(module)
        bias: Tensor = vars(module)["_biases"][self.name]
        return bias.to(device, dtype)

    def split(self, module: nn.Module) -> Split:
        """What it takes of the output of a layer for all heads."""
        shape: torch.Size = vars(module)["_biases"][self.name].shape
        return Split(self.raw_name, shape, shape.numel())

    def place_of(self, module: nn.Module) -> tuple[torch.dtype, torch.device]:
        bias: Tensor = vars(module)["_biases"][self.name]
        layer = module._modules.get("projection") or module
        like = next((t for t in layer.parameters() if t.is_floating_point()), bias)
        return like.dtype, like.device

    def advice(self, module: nn.Module) -> str:
        return "It is predicted from a context: train the network, or declare a Param."

    def reset(self, module: nn.Module, values: Mapping[str, Any]) -> None:
        vars(module)["_biases"][self.name] = self.reset_raw(module, values)

    def render(self, module: nn.Module) -> str:
        shape = tuple(vars(module)["_starts"][self.name].shape)
        return f"predicted, of shape {shape}, {self.constraint_of(module)!r}"

    def __get__(self, instance: nn.Module | None, owner: type) -> Self:
        if instance is not None:
            declaration_of(instance, self.name)
        return self

    def __repr__(self) -> str:
        shape = [] if self.shape == () else [f"shape={self.shape!r}"]
        init = [] if self.init is None else [f"init={shorten(self.init)}"]
        return f"Head({', '.join([*self.shown_constraint, *shape, *init])})"


def _is_lowered(raw: Tensor) -> bool:
    """Whether autocast made these numbers, and would lower what is computed from them."""
    return raw.dtype in (torch.bfloat16, torch.float16) and is_autocasting(raw)

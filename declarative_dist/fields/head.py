"""Heads: values that a network predicts from a context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from declarative_dist.constraints.band import HALF
from declarative_dist.errors import DeclarationError, shorten
from declarative_dist.fields.context import CONTEXT, FromContext
from declarative_dist.fields.owner import Owner
from declarative_dist.fields.value import Init, as_source
from declarative_dist.plain.tracing import is_autocasting


class Split(NamedTuple):
    """What a head takes of the output of a layer that serves all heads."""

    raw_name: str
    shape: torch.Size
    size: int
    takes_infinity: bool


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
        super().__init__(init, constraint, shape, "Head")

    def check(self, owner: Owner) -> None:
        super().check(owner)
        chain = owner.kind.__declaration__.chains[self.name]
        bound = next((field for field in chain if field.is_given), None)
        self.starts_at_zero = bound is not None
        self.source(self.init, owner.subject(self.name))

    def source(self, value: Any, subject: str) -> Any:
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

    def split(self, module: nn.Module) -> Split:
        """What it takes of the output of a layer for all heads."""
        shape: torch.Size = vars(module)["_biases"][self.name].shape
        takes_infinity = self._forward is not None and self.constraint.takes_infinity
        return Split(self.raw_name, shape, shape.numel(), takes_infinity)

    def advice(self, owner: str) -> str:
        return "It is predicted from a context: train the network, or declare a Param."

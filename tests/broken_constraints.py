"""Constraints that break one promise each."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from declarative_dist import Constraint, Simplex
from declarative_dist.constraints.band import clamp_result
from declarative_dist.plain.tracing import is_mapped


class Good(Constraint):
    """Positive numbers, kept strictly inside: this one keeps every promise."""

    support: Any = constraints.positive

    def forward(self, raw: Tensor) -> Tensor:
        return clamp_result(F.softplus(raw), 1e-3, 1e4)

    def inverse(self, value: Tensor) -> Tensor:
        wide = value.double()
        return (wide + (-torch.expm1(-wide)).log()).to(value.dtype)

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return F.logsigmoid(raw)


class WithoutSupport(Good):
    support = "positive"


class WithEvents(Good):
    event_dim = 1


class ShortRaw(Good):
    def raw_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], shape[-1] - 1))


class WrongRawEvents(Simplex):
    raw_event_dim = 2


class WrongValueShape(Good):
    def value_shape(self, raw_shape: torch.Size) -> torch.Size:
        return torch.Size((*raw_shape, 1))


class Normalised(Good):
    """Reduces over the batch too."""

    support = constraints.simplex

    def forward(self, raw: Tensor) -> Tensor:
        return raw.exp() / raw.exp().sum()

    def inverse(self, value: Tensor) -> Tensor:
        return value.log()

    def contains(self, value: Tensor) -> Tensor:
        return (value > 0).all(-1)


class Noisy(Good):
    def forward(self, raw: Tensor) -> Tensor:
        return super().forward(raw + torch.rand_like(raw))


class Overflowing(Good):
    def forward(self, raw: Tensor) -> Tensor:
        return raw.exp()


class AtTheEnd(Good):
    def forward(self, raw: Tensor) -> Tensor:
        return raw.sigmoid()


class Sigmoid(Good):
    support = constraints.unit_interval

    def forward(self, raw: Tensor) -> Tensor:
        return raw.sigmoid()


class Lenient(Sigmoid):
    """Takes its ends for values."""

    def contains(self, value: Tensor) -> Tensor:
        return value.isfinite() & (value >= 0) & (value <= 1)

    def forward(self, raw: Tensor) -> Tensor:
        return clamp_result(raw.sigmoid(), 1e-3, 0.99)


class InFloat32(Good):
    def forward(self, raw: Tensor) -> Tensor:
        return super().forward(raw.float())


class OfAnotherSet(Good):
    support = constraints.greater_than(1.0)

    def contains(self, value: Tensor) -> Tensor:
        return value > 0


class Infinite(Good):
    """A clamp behind the exponential: infinity times zero."""

    def forward(self, raw: Tensor) -> Tensor:
        return raw.exp().clamp(1e-3, 1e4)


class BehindAutograd(Good):
    """Changes the result of exp after autograd has saved it."""

    def forward(self, raw: Tensor) -> Tensor:
        value = raw.exp()
        if not is_mapped():
            value.data.clamp_(1e-3, 1e4)
        return value


class Detached(Good):
    def forward(self, raw: Tensor) -> Tensor:
        return super().forward(raw.detach())


class DeadEntry(Good):
    def forward(self, raw: Tensor) -> Tensor:
        mask = torch.tensor([1.0, 1.0, 0.0], dtype=raw.dtype)
        return super().forward(raw * mask)


class FarDefault(Good):
    def default(self, shape: torch.Size) -> Tensor:
        return torch.zeros(shape)


class ShapelessDefault(Good):
    def default(self, shape: torch.Size) -> Tensor:
        return torch.tensor(1.0)


class WrongInverse(Good):
    def inverse(self, value: Tensor) -> Tensor:
        return value.expm1().log() + 1e-3


class RoundedInverse(Good):
    """Digits cancel: exp(value) - 1."""

    def forward(self, raw: Tensor) -> Tensor:
        return clamp_result(F.softplus(raw - 9), 1e-6, 1e4)

    def inverse(self, value: Tensor) -> Tensor:
        return (value.exp() - 1).log() + 9


class Folded(Good):
    """Not one to one: both signs give the same value."""

    def forward(self, raw: Tensor) -> Tensor:
        return super().forward(raw.abs())

    def inverse(self, value: Tensor) -> Tensor:
        return super().inverse(value.clamp_min(0.6931))


class WrongJacobian(Good):
    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return -F.logsigmoid(raw)


class ShapelessJacobian(Good):
    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return F.logsigmoid(raw).sum(-1)


class Mixed(Good):
    """Entries that depend on each other, under a support of single numbers."""

    def forward(self, raw: Tensor) -> Tensor:
        return super().forward(raw).cumsum(-1)

    def inverse(self, value: Tensor) -> Tensor:
        first = value[..., :1]
        return super().inverse(torch.cat([first, value.diff(dim=-1)], -1))


class Redundant(Good):
    """A softmax of as many raw numbers as entries: one too many for a density."""

    support = constraints.simplex

    def forward(self, raw: Tensor) -> Tensor:
        return (raw - raw.detach().amax(-1, keepdim=True)).softmax(-1)

    def inverse(self, value: Tensor) -> Tensor:
        return value.log()

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return value.log().sum(-1)


class Plain(Good):
    """A tensor that does not move."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.tensor(1.0)


class OnTheCpu(Good):
    def forward(self, raw: Tensor) -> Tensor:
        if raw.is_meta:
            raw = torch.zeros(raw.shape)
        return super().forward(raw)


class Unpicklable(Good):
    def __init__(self) -> None:
        super().__init__()
        self.softplus = lambda raw: F.softplus(raw)


class Branching(Good):
    """Looks at numbers, which a transform of functions does not have."""

    def forward(self, raw: Tensor) -> Tensor:
        if not raw.is_meta and raw.sum() > 1e30:
            raw = raw.clamp(max=1e30)
        return super().forward(raw)


class BreaksGraphs(Good):
    """Prints while it is compiled."""

    def forward(self, raw: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return super().forward(raw)


class Refusing(Good):
    def forward(self, raw: Tensor) -> Tensor:
        if raw.ndim == 1:
            raise TypeError("one dimension is not enough.")
        return super().forward(raw)


class WideInverse(Good):
    def inverse(self, value: Tensor) -> Tensor:
        return super().inverse(value.double())


class Aging(Good):
    """Every copy is another map."""

    age = 0

    def __deepcopy__(self, memo: Any) -> Aging:
        copy = type(self)()
        copy.age = self.age + 1
        return copy

    def forward(self, raw: Tensor) -> Tensor:
        return super().forward(raw + self.age)

    def inverse(self, value: Tensor) -> Tensor:
        return super().inverse(value) - self.age

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return super().log_abs_det_jacobian(raw + self.age, value)


class OtherwiseMapped(Good):
    """Another value under a transform of functions."""

    def forward(self, raw: Tensor) -> Tensor:
        return super().forward(raw + 1 if is_mapped() else raw)


class GradientOtherwiseMapped(Good):
    """Another gradient under a transform of functions."""

    def forward(self, raw: Tensor) -> Tensor:
        value = super().forward(raw)
        return value.detach() + 0 * raw if is_mapped() else value


class OtherwiseCompiled(Good):
    def forward(self, raw: Tensor) -> Tensor:
        return super().forward(raw + 1 if torch.compiler.is_compiling() else raw)


class OutsideCompiled(Good):
    def forward(self, raw: Tensor) -> Tensor:
        value = super().forward(raw)
        return -value if torch.compiler.is_compiling() else value

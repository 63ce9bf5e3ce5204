"""A constraint seen as a transform of torch's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Transform, constraints

from declarative_dist.plain.tracing import is_traced

if TYPE_CHECKING:
    from declarative_dist.constraints.constraint import Constraint


class ConstraintTransform(Transform):
    """A constraint seen as a `torch.distributions.Transform` from all real numbers.

    Args:
        constraint: the constraint whose `forward` and `inverse` are used.
        cache_size: as for every torch transform.
    """

    bijective = True

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...

    def __init__(self, constraint: Constraint, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.constraint = constraint
        ndim = constraint.raw_event_dim
        self.domain = constraints.independent(constraints.real, ndim) if ndim else constraints.real

    @constraints.dependent_property(is_discrete=False)
    def codomain(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The values that the constraint gives, between the bounds that it has now."""
        return self.constraint.support

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConstraintTransform) and self.constraint is other.constraint

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.constraint!r})"

    @property
    def sign(self) -> Any:
        """1 where numbers that are mapped one by one keep their order, -1 where it is turned.

        Raises:
            NotImplementedError: if events of several numbers are mapped.
        """
        if self.domain.event_dim or self.codomain.event_dim:
            raise NotImplementedError(f"{self}.sign: whole events are mapped, in no order.")
        default = torch.empty((), dtype=torch.float64, device="cpu")
        like = next(self.constraint.buffers(), default)
        low, high = (self.constraint.forward(like.new_tensor(raw)) for raw in (-8.0, 8.0))
        is_falling = high < low
        # A number, where it can be one: torch keeps the digits of a cdf with that alone.
        return 1 - 2 * is_falling.int() if is_traced(is_falling) or is_falling.any() else 1

    def with_cache(self, cache_size: int = 1) -> ConstraintTransform:
        """The same transform with another cache."""
        return ConstraintTransform(self.constraint, cache_size=cache_size)

    def _call(self, x: Tensor) -> Tensor:
        return self.constraint.forward(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.constraint.inverse(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The log of the volume change at a pair of points, of shape `(*sample, *batch)`."""
        return self.constraint.log_volume(x, y)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """The shape of the value of raw numbers of this shape."""
        return self._broadcast(self.constraint.value_shape(shape))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """The shape of the raw numbers of a value of this shape."""
        return self._broadcast(self.constraint.raw_shape(shape))

    def _broadcast(self, shape: torch.Size) -> torch.Size:
        """A shape of elementwise values, with tensor bounds beside it."""
        if self.constraint.event_dim or self.constraint.raw_event_dim:
            return shape
        bounds = (bound.shape for bound in self.constraint.buffers())
        return torch.Size(torch.broadcast_shapes(shape, *bounds))

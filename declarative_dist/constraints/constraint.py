"""What a constraint is: a set of values, and the smooth map that keeps a parameter inside it.

A family's own constraint is a class of about eight lines:

    class Even(Constraint):
        support = constraints.positive

        def forward(self, raw):
            return 2 * raw.exp()

        def inverse(self, value):
            return (value / 2).log()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from typing_extensions import Self, final

from declarative_dist.errors import ConstraintError, first_line, shorten
from declarative_dist.plain.tracing import is_traced


class Constraint(nn.Module, ABC):
    """A set of values and a smooth map onto it from all real numbers.

    Raw values are unconstrained; values are constrained. Shapes are `(*batch, *event)` for values
    and `(*batch, *raw_event)` for raw values; only maps that change shape tell the two apart.
    `forward` and `inverse` are pure maths; `right_inverse` checks first, and makes every
    constraint a parametrization for `torch.nn.utils.parametrize`.

    Example:
        >>> import torch
        >>> from torch.distributions import constraints
        >>> from declarative_dist import Constraint
        >>> class Squared(Constraint):
        ...     support = constraints.positive
        ...     def forward(self, raw):
        ...         return raw.exp().square()
        ...     def inverse(self, value):
        ...         return value.sqrt().log()
        >>> constraint = Squared()
        >>> constraint(constraint.right_inverse(torch.tensor(4.0)))
        tensor(4.)
    """

    support: constraints.Constraint
    """The set as a `torch.distributions.constraints` object."""

    if TYPE_CHECKING:

        def __call__(self, raw: Tensor) -> Tensor: ...

    names: tuple[str, ...] = ()
    """The other fields whose values are bounds of this constraint."""

    dims_behind = 0
    """How many dimensions these have behind those that go with the value's own."""

    takes_infinity = False
    """Whether infinite raw numbers too give values inside."""

    @abstractmethod
    def forward(self, raw: Tensor) -> Tensor:
        """Map unconstrained numbers to constrained values."""

    @abstractmethod
    def inverse(self, value: Tensor) -> Tensor:
        """Map constrained values back to unconstrained numbers, without checks."""

    @final
    def right_inverse(self, value: Tensor) -> Tensor:
        """Check that the value is inside, then invert.

        Args:
            value: a constrained value, of shape `(*batch, *event)`.

        Returns:
            The unconstrained numbers, of shape `raw_shape(value.shape)`.

        Raises:
            ConstraintError: if a value is outside, on the boundary or not finite. Skipped for
                meta and fake tensors, while compiling, and under `torch.func` transforms.
        """
        self.check(value, type(self).__name__)
        return self.inverse(value)

    @final
    def check(self, value: Tensor, subject: str) -> None:
        """Raise a ConstraintError about `subject` unless every value is inside."""
        if is_traced(value):
            return
        is_floating, event_dim = value.is_floating_point(), self.event_dim
        if not is_floating or value.ndim < event_dim:
            expected = f"a floating-point tensor of {event_dim} dimensions or more"
            expected, got = (
                f"{self.describe()}, as {expected}",
                f"{shorten(value)} of {value.dtype}",
            )
            code = "wrong-shape" if is_floating else "dtype-or-device"
            raise ConstraintError(subject, expected, got, code=code)
        try:
            inside = self.contains(value)
        except RuntimeError as error:
            expected = f"{self.describe()}, of a shape that goes with it"
            got, fix = shorten(value), f"torch says: {first_line(error)}."
            raise ConstraintError(subject, expected, got, fix, code="wrong-shape") from error
        if not inside.all():
            got = self._offender(value, inside)
            raise ConstraintError(subject, self.describe(), got, self.advice(value))

    def contains(self, value: Tensor) -> Tensor:
        """Whether each value is finite and inside the open set.

        Unlike torch's own check of an interval, this one leaves the bounds of the support out.

        Args:
            value: candidate values, of shape `(*batch, *event)`.

        Returns:
            A boolean tensor of shape `(*batch)`.
        """
        support: Any = self.support
        inside = value.isfinite()
        if hasattr(support, "lower_bound"):
            inside = inside & (value > support.lower_bound)
        if hasattr(support, "upper_bound"):
            inside = inside & (value < support.upper_bound)
        if self.event_dim:
            inside = inside.flatten(-self.event_dim).all(-1)
        checked: Tensor = support.check(value)
        return inside & checked

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        """The log of the volume change from raw to value, of shape `(*batch)`.

        Raises:
            NotImplementedError: for a constraint that does not define it.
        """
        raise NotImplementedError(
            f"{type(self).__name__}.log_abs_det_jacobian is not defined: define it in the class "
            "to use the constraint as a transform of densities"
        )

    @final
    def log_volume(self, raw: Tensor, value: Tensor) -> Tensor:
        """`log_abs_det_jacobian`, found to be one number per value: this is what densities use.

        Args:
            raw: unconstrained numbers, of shape `(*batch, *raw_event)`.
            value: their values, of shape `(*batch, *event)`.

        Returns:
            A tensor of shape `(*batch)`.

        Raises:
            NotImplementedError: for a constraint that does not define it.
            ConstraintError: if it has another shape, which would count it too often or too rarely.
        """
        log_det = self.log_abs_det_jacobian(raw, value)
        shape = value.shape[: value.ndim - self.event_dim]
        own = raw.shape[: raw.ndim - self.raw_event_dim]
        if not isinstance(log_det, Tensor) or log_det.shape not in (shape, own):
            name = f"{type(self).__name__}.log_abs_det_jacobian"
            expected = f"one number per value, of shape {tuple(shape)}"
            events = f"the {self.event_dim} dimensions of an event"
            fix = f"Return log |d value / d raw| for each value, summed over {events}."
            raise ConstraintError(name, expected, shorten(log_det), fix, code="wrong-shape")
        return log_det.expand(shape)

    @property
    def event_dim(self) -> int:
        """How many rightmost dimensions one value spans."""
        return self.support.event_dim

    @property
    def raw_event_dim(self) -> int:
        """How many rightmost dimensions the raw numbers of one value span."""
        return self.event_dim

    def raw_shape(self, shape: torch.Size) -> torch.Size:
        """The shape of the raw numbers of a value of this shape."""
        return torch.Size(shape)

    def value_shape(self, raw_shape: torch.Size) -> torch.Size:
        """The shape of the value of raw numbers of this shape."""
        return torch.Size(raw_shape)

    def default(self, shape: torch.Size) -> Tensor:
        """A starting value of this shape."""
        return self.forward(torch.zeros(self.raw_shape(torch.Size(shape))))

    def signature(self) -> str:
        """What a saved state must agree on: the map and its numbers."""
        return repr(self)

    def extra_repr(self) -> str:
        """The plain numbers that the constraint holds."""
        return ", ".join(
            f"{name}={value!r}"
            for name, value in vars(self).items()
            if isinstance(value, (int, float)) and not name.startswith("_") and name != "training"
        )

    def describe(self) -> str:
        """What the constraint expects, in words."""
        return f"a value in {self.support}"

    def advice(self, value: Tensor) -> str:
        """What to do about a value that is not inside."""
        return "Give a finite value strictly inside."

    def resolved(self, values: Mapping[str, Any]) -> Self:
        """The constraint with the values of other fields in place of their names."""
        return self

    def check_dtype(self, dtype: torch.dtype, subject: str) -> None:
        """Raise a ConstraintError if the dtype has no number inside."""

    def is_at_end(self, raw: Tensor) -> Tensor:
        """Whether each value is held at an end of its band, where steps no longer move it.

        Args:
            raw: unconstrained numbers, of shape `(*batch, *raw_event)`.

        Returns:
            A boolean tensor of shape `(*batch)`; of an event, whether any of its numbers is.

        Example:
            >>> import torch
            >>> from declarative_dist import Positive
            >>> Positive().is_at_end(torch.tensor([0.0, -1000.0]))
            tensor([False,  True])
        """
        shape = raw.shape[: raw.ndim - self.raw_event_dim]
        return torch.zeros(shape, dtype=torch.bool, device=raw.device)

    def without_guard(self) -> Constraint:
        """The same set without a guard band: all that the dtype holds."""
        return self

    @final
    def widen_to(self, value: Tensor, others: Mapping[str, Any] | None = None) -> Constraint:
        """The constraint, or the same set without its guard band where only that holds a value.

        Args:
            value: a value that the constraint should hold.
            others: the values of the fields that its bounds name.

        Example:
            >>> import torch
            >>> from declarative_dist import Positive
            >>> Positive().widen_to(torch.tensor(1e-30)), Positive().widen_to(torch.tensor(1.0))
            (Positive(guard=False), Positive())
        """
        candidates = (self, self.without_guard())
        fits = (c for c in candidates if c.resolved(others or {}).contains(value).all())
        return next(fits, self)

    @final
    def as_transform(self, cache_size: int = 0) -> ConstraintTransform:
        """The same map as a `torch.distributions.Transform`.

        Args:
            cache_size: 1 remembers the last pair, so that the exact inverse of a sample is known.

        Example:
            >>> import torch
            >>> from declarative_dist import Interval
            >>> Interval(-1.0, 1.0).as_transform()(torch.tensor(0.0))
            tensor(0.)
        """
        return ConstraintTransform(self, cache_size=cache_size)

    def _offender(self, value: Tensor, inside: Tensor) -> str:
        if value.ndim == 0 or self.event_dim:
            return shorten(value)
        index = tuple((~inside).nonzero()[0].tolist())
        at = value.expand(inside.shape)[index]  # bounds may have more dimensions
        return f"{at.item()!r} at {list(index)} of {shorten(value)}"


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
        self.codomain = constraint.support

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
        bounds = [bound.shape for bound in self.constraint.buffers()]
        return torch.broadcast_shapes(shape, *bounds) if bounds else shape


def event_size(constraint: Constraint, shape: torch.Size) -> int:
    """The size of the vectors, or of the square matrices, in a tensor of this shape.

    Raises:
        ConstraintError: if it holds none.
    """
    events = shape[-constraint.event_dim :]
    if len(events) == constraint.event_dim and len(set(events)) == 1 and events[0]:
        return events[0]
    kinds = ("vectors, of shape (*batch, n)", "square matrices, of shape (*batch, n, n)")
    expected = f"{kinds[constraint.event_dim - 1]} and n of 1 or more"
    got = f"the shape {tuple(shape)}"
    raise ConstraintError(type(constraint).__name__, expected, got, code="wrong-shape")

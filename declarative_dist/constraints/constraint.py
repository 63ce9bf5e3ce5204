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

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from typing_extensions import Self, final

from declarative_dist.constraints.band import Guard, Limits, band_of
from declarative_dist.constraints.transform import ConstraintTransform
from declarative_dist.errors import Code, ConstraintError, first_line, shorten
from declarative_dist.plain.tensors import is_floating
from declarative_dist.plain.tracing import is_traced

_SHARE = 1e-6
"""What a step must change, as a share of the value, for it to count as moving."""

_USUAL = 1e-3
"""The same as a share of what a step changes around zero."""

_MOST_TO_FOLLOW = 10_000_000
"""How many numbers are looked at for that."""


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

    def __call__(self, raw: Tensor) -> Tensor:
        """The values of unconstrained numbers, as `forward` maps them.

        Raises:
            ConstraintError: for what is no dense tensor of floating-point numbers.
        """
        if not is_floating(raw):
            expected = "unconstrained numbers in a dense floating-point tensor"
            got = f"{shorten(raw)} of {getattr(raw, 'dtype', type(raw).__name__)}"
            raise ConstraintError(type(self).__name__, expected, got, code="dtype-or-device")
        return super().__call__(raw)

    names: tuple[str, ...] = ()
    """The other fields whose values are bounds of this constraint."""

    dims_behind = 0
    """How many dimensions these have behind those that go with the value's own."""

    guard: Guard | None = None
    """As it was given; None where there is none to give."""

    limits: Limits | None = None
    """For each dtype the range that numbers are held in; None where there is none, or tensors."""

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
        if not is_floating(value) or value.ndim < self.event_dim:
            wanted = f"a dense floating-point tensor of {self.event_dim} dimensions or more"
            got = f"{shorten(value)} of {getattr(value, 'dtype', type(value).__name__)}"
            code: Code = "wrong-shape" if is_floating(value) else "dtype-or-device"
            raise ConstraintError(subject, f"{self.describe()}, as {wanted}", got, code=code)
        try:
            inside = self.contains(value)
        except RuntimeError as error:
            expected, got = f"{self.describe()}, of a shape that goes with it", shorten(value)
            fix = f"torch says: {first_line(error)}."
            raise ConstraintError(subject, expected, got, fix, code="wrong-shape") from error
        if not inside.all():
            got = shorten(value)
            if value.ndim and not self.event_dim:
                index = tuple((~inside).nonzero()[0].tolist())
                at = value.expand(inside.shape)[index]  # bounds may have more dimensions
                got = f"{at.item()!r} at {list(index)} of {got}"
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
        """The plain numbers that the constraint holds, or what its guard is."""
        if self.guard is not None:
            return "guard=False" if self.guard is False else ""
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
        if self.limits is None or not Constraint.contains(self, value).all():
            return "Give a finite value strictly inside."
        is_widest = self.guard is None or self.guard is False
        wider = "" if is_widest else "; guard=False widens this to the dtype's own range"
        return f"{self._describe_band(value.dtype)}{wider}."

    def _describe_band(self, dtype: torch.dtype) -> str:
        low, high = self.limits_in(dtype)
        return f"In {dtype} numbers are held in [{low:.3g}, {high:.3g}]"

    def resolved(self, values: Mapping[str, Any]) -> Self:
        """The constraint with the values of other fields in place of their names."""
        return self

    def check_dtype(self, dtype: torch.dtype, subject: str) -> None:
        """Raise a ConstraintError if the dtype has no number inside."""
        if self.limits is not None:
            self.limits_in(dtype, subject)

    def limits_in(self, dtype: torch.dtype, subject: str = "") -> tuple[float, float]:
        """The smallest and the largest number allowed in a dtype."""
        limits = self.limits or {}
        if dtype in limits:
            return limits[dtype]
        known = ", ".join(map(str, limits))
        expected, got, fix = f"a guard for {dtype}", f"one for {known}", "Add it to guard=."
        if self.guard is None or not dtype.is_floating_point:
            expected, got, fix = f"one of {known}", str(dtype), ""
        subject = subject or type(self).__name__
        raise ConstraintError(subject, expected, got, fix, code="dtype-or-device")

    def is_at_end(self, raw: Tensor) -> Tensor:
        """Where a step hardly moves the value any more, in one direction or in both.

        A step is 1, a hundred steps of Adam at 0.01, or a hundredth of a large raw number. So a
        value held at an end of its band is marked, and so are an interval near its ends, and a
        floor where the value lies on it.

        Args:
            raw: unconstrained numbers, of shape `(*batch, *raw_event)`.

        Returns:
            A boolean tensor of the same shape. Of modules in torch's parametrization convention,
            and of very large matrices, it is False everywhere: nobody has looked.

        Example:
            >>> import torch
            >>> from declarative_dist import Positive
            >>> Positive().is_at_end(torch.tensor([0.0, -1000.0]))
            tensor([False,  True])
        """
        lead = raw.ndim - self.raw_event_dim
        batch, event = raw.shape[:lead], raw.shape[lead:]
        size = event.numel()
        if not raw.numel() or size * raw.numel() > _MOST_TO_FOLLOW:
            return torch.zeros_like(raw, dtype=torch.bool)
        one = torch.eye(size, dtype=raw.dtype, device=raw.device)
        one = one.reshape(size, *(1,) * lead, *event)  # each number of an event moves by itself

        def change(start: Tensor, sign: float) -> tuple[Tensor, Tensor]:
            """How much the entries of a value change, and their size."""
            value = self.forward(start + 0 * one)  # rounded as the other
            moved = self.forward(start + sign * one * (1 + 0.01 * start.abs())) - value
            return moved.abs().reshape(size, *batch, -1), value.abs().reshape(size, *batch, -1)

        still = torch.zeros((size, *batch), dtype=torch.bool, device=raw.device)
        with torch.no_grad():
            for sign in (-1.0, 1.0):
                moved, value = change(raw, sign)
                usual, _ = change(torch.zeros_like(raw), sign)
                is_little = moved.amax(-1) <= _USUAL * usual.amax(-1)
                still |= (moved <= _SHARE * value).all(-1) & is_little
        return still.movedim(0, -1).reshape(raw.shape)

    def set_guard(self, guard: Guard) -> None:
        """Hold numbers in the band that a `guard=` stands for."""
        self.guard = guard
        self._set_band(band_of(guard, f"{type(self).__name__}(guard=)"))

    def _set_band(self, band: Limits) -> None:
        self.limits = band

    def with_guard(self, guard: Guard) -> Self:
        """The same map in another band."""
        constraint = copy.copy(self)
        constraint.set_guard(guard)
        return constraint

    def without_guard(self) -> Constraint:
        """The same set without a guard band: all that the dtype holds."""
        return self if self.guard is None else self.with_guard(False)

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

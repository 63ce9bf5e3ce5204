"""The map between a flat unconstrained vector and the constrained values of named sites.

Samplers and optimisers of other libraries, and Gaussian guides, work on one vector of real
numbers. A `FlatMap` cuts it into sites and pushes each through its constraint, with the log of the
volume change. Sites are mapped in order, so that the bounds of one may be values of those above
it: the Jacobian of the whole is triangular, and its log determinant the sum over its sites.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.errors import ConstraintError, shorten
from declarative_dist.latents.named import Reader, Values
from declarative_dist.plain.draws import sum_rightmost
from declarative_dist.plain.tensors import is_floating


@dataclass(frozen=True)
class Slot:
    """Where a site lies in the vector.

    Args:
        name: the site's name.
        offset: the index of its first number.
        raw_shape: the shape of its raw numbers in one copy.
        event_shape: the shape of its value in one copy.
    """

    name: str
    offset: int
    raw_shape: torch.Size
    event_shape: torch.Size

    @property
    def count(self) -> int:
        """How many numbers it takes."""
        return self.raw_shape.numel()


class FlatMap(nn.Module, ABC):
    """The map from vectors `(*sample, *batch, size)` to dicts of values by site, and back.

    Args:
        owner: the name of the class whose sites these are, for errors.
        shapes: by site the shapes of raw numbers and of the value in one copy, in order.
        batch_shape: the shape of independent copies.
    """

    dims: Mapping[str, tuple[str | None, ...]]
    """By site the names of its last dimensions that shapes say, None for those without."""

    def __init__(
        self,
        owner: str,
        shapes: Mapping[str, tuple[torch.Size, torch.Size]],
        batch_shape: torch.Size,
    ) -> None:
        super().__init__()
        self.owner = owner
        self.batch_shape = batch_shape
        self.slots: tuple[Slot, ...] = ()
        for name, (raw_shape, event_shape) in shapes.items():
            self.slots += (Slot(name, self.size, raw_shape, event_shape),)

    if TYPE_CHECKING:

        def __call__(self, vector: Tensor) -> Values: ...

    @property
    def names(self) -> list[str]:
        """The sites, in order."""
        return [slot.name for slot in self.slots]

    @property
    def size(self) -> int:
        """How many numbers one copy has."""
        return self.slots[-1].offset + self.slots[-1].count if self.slots else 0

    @abstractmethod
    def start(self) -> Tensor:
        """Where to begin: the vector of the starting values, of shape `(*batch, size)`."""

    def reset(self) -> None:
        """Fill what `to_empty` left empty."""

    def spread(self) -> Tensor:
        """How far around the start values may lie, of shape `(*batch, size)`; ones if unknown."""
        return torch.ones_like(self.start())

    @abstractmethod
    def resolver(self, lead: torch.Size) -> Callable[[Slot, Values], Constraint]:
        """What gives the constraint of a site, from the values of those above it.

        Args:
            lead: the shape `(*sample, *batch)` in front of every value.
        """

    def forward(self, vector: Tensor) -> Values:
        """The values of a vector `(*sample, *batch, size)`, by site."""
        return self.constrain(vector)[0]

    def constrain(self, vector: Tensor) -> tuple[Values, Tensor]:
        """The values of a vector, and the log of the volume change.

        Args:
            vector: of shape `(*sample, *batch, size)`.

        Returns:
            Values of shape `(*sample, *batch, *event)` by site, and a tensor `(*sample, *batch)`.

        Raises:
            ConstraintError: if it is no floating-point tensor of such a shape.
        """
        wanted = torch.Size((*self.batch_shape, self.size))
        if not (is_floating(vector) and vector.ndim and vector.shape[-len(wanted) :] == wanted):
            expected = f"a floating-point vector, with (*batch, size) = {tuple(wanted)}"
            got = shorten(vector) + f" of {getattr(vector, 'dtype', type(vector).__name__)}"
            raise ConstraintError(f"{self.owner}.unconstrained", expected, got, code="wrong-shape")
        lead = vector.shape[:-1]
        constraint_of = self.resolver(lead)
        values: Values = {}
        total = vector.new_zeros(lead)
        for slot in self.slots:
            raw = vector[..., slot.offset : slot.offset + slot.count]
            raw = raw.reshape((*lead, *slot.raw_shape))
            constraint = constraint_of(slot, values)
            values[slot.name] = constraint.forward(raw)
            total = total + volume(constraint, raw, values[slot.name], len(lead))
        return values, total

    def unconstrain(
        self, values: Mapping[str, Any], *, validate: bool = True
    ) -> tuple[Tensor, Tensor]:
        """The vector of values, and the log of the volume change from it to them.

        Args:
            values: of shape `(*sample, *batch, *event)` by site, one sample shape for all.
            validate: whether to refuse values outside their support; never while compiling, under
                `torch.func` transforms, or where torch's own default is off.

        Returns:
            A vector `(*sample, *batch, size)`, and a tensor `(*sample, *batch)`.

        Raises:
            ConstraintError: for a missing or unknown site, a shape that does not fit, or a value
                outside its support.
        """
        reader = Reader(self.owner, values, self.names, self.batch_shape)
        given = {s.name: reader.read(s.name, s.event_shape, self.start) for s in self.slots}
        constraint_of = self.resolver(reader.lead)
        validate = validate and Distribution._validate_args is True
        raws: list[Tensor] = []
        total: Any = 0.0
        for slot in self.slots:
            value, constraint = given[slot.name], constraint_of(slot, given)
            if validate:
                constraint.check(value, f"{self.owner}.{slot.name}")
            raw = constraint.inverse(value)
            raws.append(raw.reshape((*reader.lead, slot.count)))
            total = total + volume(constraint, raw, value, len(reader.lead))
        return torch.cat(raws, -1), total

    def extra_repr(self) -> str:
        """The sites with the shapes of their values."""
        shown = [f"{slot.name} {tuple(slot.event_shape)}" for slot in self.slots]
        batch = [f"batch_shape={tuple(self.batch_shape)}"] if self.batch_shape else []
        return ", ".join([*shown, *batch])


def volume(constraint: Constraint, raw: Tensor, value: Tensor, lead: int) -> Tensor:
    """The log of the volume change of one site, summed over all but the first dimensions."""
    log_det = constraint.log_volume(raw, value)
    return sum_rightmost(log_det, log_det.ndim - lead)


def check_volume(constraint: Constraint, subject: str) -> None:
    """Refuse a constraint that does not say its volume change.

    Raises:
        ConstraintError: if it has no `log_abs_det_jacobian`.
    """
    if type(constraint).log_abs_det_jacobian is Constraint.log_abs_det_jacobian:
        expected = "a constraint whose log |det J| is known"
        fix = f"Define log_abs_det_jacobian(self, raw, value) in {type(constraint).__name__}"
        fix += ", with the dimensions of one value in support.event_dim."
        raise ConstraintError(subject, expected, repr(constraint), fix, code="no-jacobian")

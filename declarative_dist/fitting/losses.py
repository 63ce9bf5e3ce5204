"""The losses of an objective on whole data, copy by copy, and the data of each distribution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from declarative_dist.families.conditional import Conditional
from declarative_dist.families.variational import Variational
from declarative_dist.fields.given import call_names
from declarative_dist.fitting.evaluation import loss_of
from declarative_dist.fitting.moments import Sample
from declarative_dist.joints.joint import Joint
from declarative_dist.plain.batch import split_keywords
from declarative_dist.plain.supports import has_learned_ends

_GRAIN = 64
"""How many roundings beyond the data an end of a support may start: a map may round its number."""


class Losses:
    """Gives the losses at the current numbers, of shape `(*copies,)`.

    Args:
        objective: whose losses they are: it gives them by its method `losses`, or has one loss.
        batch: the data.

    Attributes:
        module: whose parameters they depend on, where the objective tells.
        copies: the shape of the independent problems.
    """

    def __init__(self, objective: nn.Module, batch: tuple[Any, ...]) -> None:
        self._objective: Any = objective
        self.batch = batch
        self.module: Any = None
        self.copies = torch.Size()
        if callable(getattr(objective, "losses", None)):
            self.module = self._objective.module
            self.copies = vars(self.module)["_copies"]
        self._known: tuple[list[int], Tensor] | None = None

    def __call__(self) -> Tensor:
        """The losses now; where no number has changed, the last call's."""
        objective = self._objective
        versions = [t._version for t in (*objective.parameters(), *objective.buffers())]
        if self._known is not None and self._known[0] == versions:
            losses = self._known[1]
            if losses.requires_grad or not torch.is_grad_enabled():
                return losses
        is_one = self.module is None
        losses = loss_of(objective, objective if is_one else objective.losses, self.batch, is_one)
        self._known = versions, losses
        return losses

    def forget(self) -> None:
        """Evaluate anew in the next call, for somebody may have changed numbers meanwhile."""
        self._known = None

    @cached_property
    def data(self) -> list[FamilyData]:
        """The distributions in the module, each with its data."""
        with torch.enable_grad():
            return list(split_data(self.module, self.batch))

    @cached_property
    def has_equal_data(self) -> bool:
        """Whether all data of a copy that have a weight are the same."""
        ends = (data.sample.ends() for data in self.data)
        return any(bool((low == high).any()) for low, high in ends)

    @cached_property
    def _ends(self) -> list[tuple[Any, Tensor]]:
        """Distributions whose support has learned ends, with the smallest and largest datum."""
        # Supports are made anew, and only with gradients do ends tell that they are learned.
        with torch.enable_grad():
            return [
                (data.module, torch.stack(data.sample.ends()))
                for data in self.data
                if isinstance(data.module, Variational) and has_learned_ends(data.plain)
            ]

    @property
    def unit(self) -> float:
        """The size of data that ends of supports are learned from; of equal data 1 at least."""
        sizes = [float(ends.abs().max()) for _, ends in self._ends]
        return max(*sizes, float(self.has_equal_data), 0.0)

    def find_refused(self) -> Tensor | None:
        """Which copies have data outside of a support with learned ends, of shape `(*copies)`.

        None if there are no such ends.
        """
        refused = None
        for module, ends in self._ends:
            plain: Any = module()
            inside: Tensor = plain.support.check(ends).all(0).expand(plain.batch_shape)
            outside = ~inside.reshape(*self.copies, -1).all(-1)
            refused = outside if refused is None else refused | outside
        return refused


class FamilyData(NamedTuple):
    """A distribution with its data.

    Attributes:
        prefix: what stands before the names of its parameters.
        module: the declared one.
        plain: what it is now; of a `Conditional` for features of zeros.
        sample: the data.
    """

    prefix: str
    module: Any
    plain: Any
    sample: Sample


def split_data(module: Any, batch: tuple[Any, ...], prefix: str = "") -> Iterator[FamilyData]:
    """A distribution, or the sites of a `Joint`, with the data of each; nothing of others."""
    items, given = split_keywords(batch)
    if isinstance(module, Joint) and items and isinstance(items[0], Mapping):
        for name, value in items[0].items():
            inside = f"{prefix}{name}."
            yield from split_data(module._modules.get(name), (value, given), inside)
    elif len(items) == 1 + isinstance(module, Conditional) and not given.keys() - {"weights"}:
        plain, value, weights = plain_of(module), items[-1], given.get("weights")
        if plain is None or not isinstance(value, Tensor):
            return
        if weights is None or torch.as_tensor(weights).shape[:1] == value.shape[:1]:
            yield FamilyData(prefix, module, plain, _sample_of(plain, value, weights))


def plain_of(module: Any) -> Any:
    """The plain distribution now; of a `Conditional` for features of zeros; None of others."""
    if isinstance(module, Variational):
        return module()
    layer = getattr(module, "projection", None)
    is_predicted = isinstance(module, Conditional) and not call_names(module)
    if is_predicted and module.network is None and layer is not None:
        is_class = isinstance(type(module).__declaration__.base, type)
        return module(layer.weight.new_zeros(layer.in_features)) if is_class else None
    return None


def _sample_of(plain: Any, value: Tensor, weights: Any) -> Sample:
    batch, event = plain.batch_shape, plain.event_shape
    grain = _GRAIN * torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
    value = value.double()
    value = value.flatten(0, value.ndim - len(batch) - len(event) - 1)
    if weights is None:
        return Sample(value, value.new_ones(len(value), *(1,) * len(batch)), len(event), grain)
    weights = torch.as_tensor(weights, dtype=torch.float64, device=value.device)
    weights = weights.reshape(weights.shape + (1,) * (1 + len(batch) - weights.ndim))
    counts = weights.reshape(weights.shape + (1,) * len(event)) > 0
    return Sample(torch.where(counts, value, value.new_ones(())), weights, len(event), grain)

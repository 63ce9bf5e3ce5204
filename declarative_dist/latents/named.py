"""Distributions over dicts of values by site: what all of them offer, take and refuse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.errors import Code, ConstraintError, did_you_mean, shorten
from declarative_dist.fields.storage import check_shape
from declarative_dist.plain.supports import first_outside
from declarative_dist.plain.tensors import as_tensor, is_floating
from declarative_dist.plain.tracing import is_traced

Values = dict[str, Tensor]
"""Values of shape `(*sample, *batch, *event)` by site."""


class NamedDistribution(ABC):
    """A distribution over dicts: draws are tensors `(*sample, *batch, *event)` by site.

    A plain one has the parameters of the moment when it was made; see `NamedModule` for live ones.
    """

    __framework__ = True

    @property
    @abstractmethod
    def has_rsample(self) -> bool:
        """Whether draws can carry gradients."""

    @abstractmethod
    def sample(self, sample_shape: Any = torch.Size()) -> Values:
        """Draw all sites without gradients; of shape `(*sample, *batch, *event)` by site."""

    @abstractmethod
    def rsample(self, sample_shape: Any = torch.Size()) -> Values:
        """Draw all sites with gradients; of shape `(*sample, *batch, *event)` by site.

        Raises:
            NotImplementedError: if a site has no reparametrised sampler.
        """

    @abstractmethod
    def rsample_and_log_prob(self, sample_shape: Any = torch.Size()) -> tuple[Values, Tensor]:
        """Draws with gradients, and their log densities, of shape `(*sample, *batch)`."""

    @abstractmethod
    def log_prob(self, values: Mapping[str, Any]) -> Tensor:
        """The log density of a dict of values, of shape `(*sample, *batch)`.

        Args:
            values: for every site numbers of shape `(*sample, *batch, *event)`, with the same
                sample shape for all.

        Raises:
            ConstraintError: for a missing or unknown site, a shape that does not fit, or a value
                outside its support.
        """

    def entropy(self) -> Tensor:
        """The entropy, of shape `(*batch)`, in nats, where it is known.

        Raises:
            NotImplementedError: if it is not; `declarative_dist.entropy(q, num_samples=...)`
                estimates it.
        """
        raise NotImplementedError


class NamedModule(NamedDistribution):
    """A module that gives a distribution over dicts when you call it, and is one itself.

    Each member asks the distribution of the moment, so none is ever stale.
    """

    __framework__ = True

    if TYPE_CHECKING:

        def __call__(self) -> NamedDistribution: ...

    @property
    def has_rsample(self) -> bool:
        return self().has_rsample

    def sample(self, sample_shape: Any = torch.Size()) -> Values:
        return self().sample(sample_shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> Values:
        return self().rsample(sample_shape)

    def rsample_and_log_prob(self, sample_shape: Any = torch.Size()) -> tuple[Values, Tensor]:
        return self().rsample_and_log_prob(sample_shape)

    def log_prob(self, values: Mapping[str, Any]) -> Tensor:
        return self().log_prob(values)

    def entropy(self) -> Tensor:
        return self().entropy()


class Reader:
    """Reads a dict of values by site as tensors, with one shape in front of all their events.

    Args:
        owner: the name of the class whose sites these are, for errors.
        values: numbers of shape `(*sample, *batch, *event)` by site.
        names: the sites that it may have.
        batch_shape: the shape of independent copies.
        are_all: whether it must have all of them.

    Attributes:
        lead: the shape `(*sample, *batch)`, once a value has been read; before it, `(*batch)`.

    Raises:
        ConstraintError: for what is no dict, and for a missing or unknown site.
    """

    def __init__(
        self,
        owner: str,
        values: Any,
        names: Collection[str],
        batch_shape: torch.Size,
        *,
        are_all: bool = True,
    ) -> None:
        self.owner, self.values = owner, values
        self.batch_shape = self.lead = batch_shape
        self._is_first = True
        if not isinstance(values, Mapping):
            fix = f"Write {{{', '.join(f'{name!r}: ...' for name in names)}}}."
            expected, got = "a dict of values by site", shorten(values)
            raise ConstraintError(owner, expected, got, fix, code="wrong-argument")
        for name in names if are_all else ():
            if name not in values:
                expected = f"a value for every site ({', '.join(names)})"
                got = f"none among {', '.join(map(str, values)) or 'none at all'}"
                fix = f"Add {name!r} to the dict."
                raise ConstraintError(f"{owner}.{name}", expected, got, fix, code="missing-value")
        for name in values:
            if name not in names:
                subject, fix = f"{owner}.{name}", did_you_mean(str(name), names)
                expected, got = "the name of a site", repr(name)
                raise ConstraintError(subject, expected, got, fix, code="unknown-name")

    def read(self, name: str, event_shape: torch.Size, like: Callable[[], Tensor]) -> Tensor:
        """The value of a site as a tensor; a floating-point one keeps its dtype.

        Args:
            name: the site.
            event_shape: the shape of its events.
            like: gives a tensor of the dtype and on the device of the site.

        Raises:
            ConstraintError: for what is no numbers, and for another shape in front.
        """
        value, subject = self.values[name], f"{self.owner}.{name}"
        if not is_floating(value) or value.is_meta:
            found = like()
            value = as_value(value, found.dtype, found.device, subject)
        if self._is_first:
            count = value.ndim - len(self.batch_shape) - len(event_shape)
            self.lead, self._is_first = value.shape[: max(count, 0)] + self.batch_shape, False
        check_lead(value, self.lead, event_shape, subject)
        return value


def as_value(
    value: object,
    dtype: torch.dtype | None,
    device: torch.device | None,
    subject: str,
    code: Code = "wrong-argument",
) -> Tensor:
    """The numbers of a site as a tensor, with every digit that the dtype has."""
    try:
        tensor = as_tensor(value, dtype, device)
        if getattr(value, "dtype", None) != tensor.dtype and _overflows(tensor, value):
            raise ValueError(f"too large for {tensor.dtype}")
    except (TypeError, ValueError) as error:
        expected, got = "numbers: one, a list, an array or a tensor", f"{shorten(value)} ({error})"
        raise ConstraintError(subject, expected, got, code=code) from error
    return tensor


def _overflows(tensor: Tensor, value: object) -> bool:
    """Whether numbers became infinite where they were made a tensor."""
    if is_traced(tensor) or not tensor.is_floating_point() or not tensor.isinf().any():
        return False
    exact = as_tensor(value, torch.float64, tensor.device)
    return bool((tensor.isinf() & exact.isfinite()).any())


def check_lead(value: Tensor, lead: torch.Size, event_shape: torch.Size, subject: str) -> None:
    """Refuse a value with another shape in front than the sites above it have."""
    shape = torch.Size((*lead, *event_shape))
    fix = "Give every site the same sample shape in front."
    check_shape(value, shape, subject, fix, "(*sample, *batch, *event), here ")


def score_in_support(distribution: Distribution, value: Tensor, subject: str) -> Tensor:
    """The log density of values, where the distribution has one.

    Raises:
        ConstraintError: naming the first value outside its support.
    """
    try:
        return distribution.log_prob(value)
    except ValueError as error:
        raise ConstraintError(
            subject,
            f"a value in the support of {type(distribution).__name__}, "
            f"{shorten(distribution.support)}",
            first_outside(distribution, value)
            or f"{shorten(value)}, some of which a part of it refuses",
            "Remove such values, or choose a distribution that has a density there.",
            code="outside-support",
        ) from error

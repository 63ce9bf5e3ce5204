"""The numbers in a picture: for each the draws, and where it is known the density."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.display.looks import MOST, PANELS
from declarative_dist.display.marginals import marginals_of, one_of
from declarative_dist.errors import DeclarationError
from declarative_dist.plain.supports import ends_of, entries_of, find_outside, support_of

Index = tuple[int, ...]
"""The place of a number, or of an event, in a tensor."""

Score = Callable[[Tensor], Tensor]
"""From values to their log densities or masses, in float64."""


@dataclass(frozen=True)
class Series:
    """The distribution of one number.

    Args:
        index: where it is in a draw `(*batch, *event)`.
        draws: those that are finite, of shape `(n,)`, in float64; None where there is no sampler.
        count: how many draws there are in all.
        is_discrete: whether it has a mass.
        score: gives log densities or masses; None where only draws are known.
        ends: the ends of its support.
        values: all that it can be, for a discrete one with few values.
    """

    index: Index
    draws: Tensor | None
    count: int
    is_discrete: bool
    score: Score | None = None
    ends: tuple[float, float] = (-math.inf, math.inf)
    values: Tensor | None = None

    def heights(self, numbers: Tensor) -> Tensor | None:
        """The densities or masses of numbers, NaN where infinite; None where none is known."""
        if self.score is None:
            return None
        try:
            heights = self.score(numbers).exp()
        except (NotImplementedError, ValueError):  # torch refuses what is outside of the support
            return None
        heights = torch.where(heights.isfinite(), heights, math.nan)
        return heights if bool((heights > 0).any()) else None

    def known_draws(self) -> Tensor:
        """The draws, where there must be some, for no density is known."""
        if self.draws is None:
            raise DeclarationError("plot", "a density or draws", "neither", "Define log_prob.")
        return self.draws

    @property
    def is_point(self) -> bool:
        """Whether all draws are the same, to a millionth."""
        if self.draws is None or self.is_discrete or not len(self.draws):
            return False
        low, high = self.draws.aminmax()
        return bool(high - low <= 1e-6 * torch.maximum(low.abs(), high.abs()))


@dataclass(frozen=True)
class Site:
    """A distribution with its draws, or draws alone.

    Args:
        distribution: None where it depends on other sites.
        event_dim: how many dimensions belong to one event.
        is_discrete: whether its values have masses.
        draws: of shape `(n, *batch, *event)`; None without a sampler.
    """

    distribution: Distribution | None
    event_dim: int
    is_discrete: bool
    draws: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """The shape `(*batch, *event)` of one draw."""
        if self.distribution is not None:
            return torch.Size((*self.distribution.batch_shape, *self.distribution.event_shape))
        return torch.Size() if self.draws is None else self.draws.shape[1:]

    @property
    def batch(self) -> torch.Size:
        """The shape of independent copies."""
        return self.shape[: len(self.shape) - self.event_dim]

    @property
    def event(self) -> torch.Size:
        """The shape of one event."""
        return self.shape[len(self.shape) - self.event_dim :]

    def series(self) -> list[Series]:
        """The numbers that pictures have room for, each by itself.

        Raises:
            DeclarationError: if there is none.
        """
        if not self.shape.numel():
            got = f"none in shape {tuple(self.shape)}"
            raise DeclarationError("plot", "numbers to draw", got, code="wrong-shape")
        exact = None if self.distribution is None else marginals_of(self.distribution)
        if exact is None and self.event.numel() == 1:
            exact = self.distribution  # whose events are numbers, in brackets
        places = itertools.product(first(self.batch, MOST), first(self.event, PANELS))
        return [self._one_number((*copy, *entry), exact) for copy, entry in places]

    def _one_number(self, index: Index, exact: Distribution | None) -> Series:
        draws = None if self.draws is None else column(self.draws, index)
        count = 0 if draws is None else len(draws)
        draws = None if draws is None else draws[draws.isfinite()]
        one = None if exact is None else one_of(exact, index[: len(exact.batch_shape)])
        known: dict[str, Any] = {}
        if one is not None:
            known["score"] = score_of(one, None if self.draws is None else self.draws[0][index])
            with suppress(NotImplementedError):  # such as a support that it does not state
                if (ends := ends_of(entries_of(support_of(one)))) is not None:
                    known["ends"] = tuple(float(end.detach().max()) for end in ends)
            if self.is_discrete and one.has_enumerate_support:
                known["values"] = one.enumerate_support(expand=False).flatten().cpu().double()
        return Series(index, draws, count, self.is_discrete, **known)


def score_of(one: Distribution, draw: Tensor | None) -> Score:
    """The log density of one distribution; minus infinity outside of its support.

    Args:
        one: a distribution without a batch.
        draw: a legal value, which tells dtype and device; None where there is no sampler.
    """
    legal = torch.zeros(one.event_shape) if draw is None else draw.reshape(one.event_shape)
    legal = legal if legal.is_floating_point() else legal.to(torch.get_default_dtype())

    def score(values: Tensor) -> Tensor:
        points = values.to(legal, copy=True).reshape(len(values), *one.event_shape)
        outside = find_outside(one, points)
        if outside is not None:
            points[outside] = legal
        with torch.no_grad():
            found: Tensor = one.log_prob(points).cpu().double()
        return found if outside is None else found.where(~outside.cpu(), -math.inf)

    return score


def column(draws: Tensor, index: Index) -> Tensor:
    """The draws of one number, or the values of one number at every step."""
    at: Any = (slice(None), *index)
    return draws[at].detach().cpu().double()


def first(shape: torch.Size, count: int) -> Iterator[Index]:
    """The first indices of a tensor."""
    return itertools.islice(itertools.product(*map(range, shape)), count)


def is_discrete(distribution: Distribution) -> bool:
    """Whether it has masses; one that does not say has densities."""
    try:
        return bool(distribution.support.is_discrete)  # type: ignore[union-attr]
    except (NotImplementedError, AttributeError):
        return False

"""The numbers in a picture: for each the draws, and where it is known the density."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
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

    def known_draws(self, expected: str) -> Tensor:
        """The draws, where there must be some."""
        if self.draws is None:
            raise DeclarationError("plot", expected, "neither", "Define log_prob.")
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
        draws: of shape `(n, *batch, *event)`; None without a sampler.
        event_dim: how many dimensions belong to one event.
        is_discrete: whether its values have masses.
    """

    distribution: Distribution | None
    draws: Tensor | None
    event_dim: int
    is_discrete: bool

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
            raise DeclarationError(
                "plot", "numbers to draw", f"none in shape {tuple(self.shape)}", code="wrong-shape"
            )
        exact = None if self.distribution is None else marginals_of(self.distribution)
        if exact is None and self.event.numel() == 1:
            exact = self.distribution  # whose events are numbers, in brackets
        found = []
        for copy in first(self.batch, MOST):
            for entry in first(self.event, PANELS):
                index = (*copy, *entry)
                draws = None if self.draws is None else column(self.draws, index)
                count = 0 if draws is None else len(draws)
                draws = None if draws is None else draws[draws.isfinite()]
                density = {} if exact is None else self._density(exact, index)
                found.append(Series(index, draws, count, self.is_discrete, **density))
        return found

    def score_at(self, index: Index, among: Distribution) -> Score:
        """The log density at one place of a batch; minus infinity outside the support.

        Args:
            index: the place.
            among: a batch of distributions that draws are of: of events, or of their entries.
        """
        one = one_of(among, index)
        draw = torch.zeros(self.shape) if self.draws is None else self.draws[0].detach()
        if one is not None:
            among, draw, index = one, draw[index], ()
        # Of a distribution that can't be taken apart, the others stand where they may.
        legal = draw if draw.is_floating_point() else draw.to(torch.get_default_dtype())
        at: Any = (slice(None), *index)

        def score(values: Tensor) -> Tensor:
            points = legal.expand(len(values), *legal.shape).clone()
            points[at] = values.to(legal).reshape(len(values), *among.event_shape)
            outside = find_outside(among, points)
            if outside is not None:
                points[outside] = legal.expand_as(points)[outside]
            with torch.no_grad():
                found: Tensor = among.log_prob(points)[at].cpu().double()
            return found if outside is None else found.where(~outside[at].cpu(), -math.inf)

        return score

    def _density(self, exact: Distribution, index: Index) -> dict[str, Any]:
        """What is known of the density of one number, from a batch of such."""
        place = index[: len(exact.batch_shape)]
        low, high, values = -math.inf, math.inf, None
        try:
            if self.is_discrete:
                values = (one_of(exact, place) or exact).enumerate_support(expand=False)
                values = values.flatten().cpu().double()
        except NotImplementedError:  # such as counts of different totals
            pass
        try:
            ends = ends_of(entries_of(support_of(exact)))
            if ends is not None:
                low, high = (float(end.detach().expand(self.shape)[index]) for end in ends)
        except (NotImplementedError, RuntimeError):  # a support that it does not state
            pass
        return {"score": self.score_at(place, exact), "ends": (low, high), "values": values}


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

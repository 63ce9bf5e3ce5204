"""The numbers in a picture: for each the draws, and where it is known the density."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.display.looks import MOST, PANELS
from declarative_dist.display.marginals import marginals_of, one_of
from declarative_dist.errors import DeclarationError
from declarative_dist.randomness import same_random_numbers

DRAWS = 10_000

Index = tuple[int, ...]
"""The place of a number, or of an event, in a tensor."""


@dataclass(frozen=True)
class Series:
    """The distribution of one number.

    Args:
        index: where it is in a draw `(*batch, *event)`.
        draws: of shape `(n,)`, in float64; None where there is no sampler.
        is_discrete: whether it has a mass.
        score: from numbers `(n,)` to their log densities or masses, both in float64; None where
            only draws are known.
        ends: the ends of its support.
        values: all that it can be, for a discrete one with few values.
    """

    index: Index
    draws: Tensor | None
    is_discrete: bool = False
    score: Callable[[Tensor], Tensor] | None = None
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

    @property
    def is_point(self) -> bool:
        """Whether all draws are the same, to a millionth."""
        if self.draws is None or self.is_discrete:
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
                density = self._density(exact, index)
                found.append(Series(index, draws, self.is_discrete, **density))
        return found

    def _density(self, exact: Distribution | None, index: Index) -> dict[str, Any]:
        """What is known of the density of one number.

        Args:
            exact: of single numbers, in a batch; None where densities are not known.
            index: where the number is in a draw.
        """
        if exact is None:
            return {}
        draw = None if self.draws is None else self.draws[0].detach()
        place = index[: len(exact.batch_shape)]
        one = one_of(exact, place)
        if one is not None:
            exact, draw, place = one, None if draw is None else draw[place], ()
        known: Distribution = exact

        def score(numbers: Tensor) -> Tensor:
            values = numbers.reshape(-1, *(1 for _ in known.event_shape))
            return log_densities(known, place, values, draw)

        values = _values(known) if self.is_discrete else None
        return {"score": score, "ends": _ends(known, place), "values": values}


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


def seeded_draws(sample: Callable[[torch.Size], Any], size: int) -> Any:
    """The same draws every time, which leave everybody's random numbers as they were.

    Args:
        sample: what draws, of a shape that it is given.
        size: how many numbers one draw has.

    Returns:
        What `sample` returns; None if it is not implemented.
    """
    count = max(min(DRAWS, 4_000_000 // max(size, 1)), 200)
    with torch.no_grad(), same_random_numbers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a sampler's, about draws that nobody else sees
        # torch.manual_seed would seed the devices that nobody uses yet.
        torch.default_generator.manual_seed(0)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(0)
        try:
            return sample(torch.Size((count,)))
        except NotImplementedError:
            return None


def log_densities(
    distribution: Distribution, place: Index, values: Tensor, draw: Tensor | None
) -> Tensor:
    """The log densities of values at one place of a batch; minus infinity outside the support.

    Args:
        distribution: a batch of distributions.
        place: which of the batch.
        values: of shape `(n, *event)`.
        draw: one draw of the whole batch, at which the others stand; None for zeros.
    """
    like = values if draw is None else draw
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    shape = (len(values), *distribution.batch_shape, *distribution.event_shape)
    legal = torch.zeros(shape, dtype=dtype, device=like.device) + (0 if draw is None else draw)
    points = legal.clone()
    at: Any = (slice(None), *place)
    points[at] = values.to(legal)
    inside = _is_inside(distribution, points, at)
    is_legal = inside.reshape(-1, *(1 for _ in distribution.event_shape))
    points[at] = torch.where(is_legal, points[at], legal[at])
    with torch.no_grad():
        found = distribution.log_prob(points)[at]
    return torch.where(inside, found, -math.inf).cpu().double()


def _is_inside(distribution: Distribution, points: Tensor, at: Any) -> Tensor:
    """Which of the points at one place are in the support, of shape `(n,)`."""
    try:
        inside: Tensor = distribution.support.check(points)[at]  # type: ignore[union-attr]
        return inside.reshape(len(points), -1).all(-1)
    except (NotImplementedError, AttributeError, RuntimeError):
        return torch.ones(len(points), dtype=torch.bool, device=points.device)


def _ends(exact: Distribution, place: Index) -> tuple[float, float]:
    """The ends of the support of one number, as far as it says them."""
    try:
        support: Any = exact.support
    except (NotImplementedError, AttributeError):
        support = None
    while hasattr(support, "base_constraint"):
        support = support.base_constraint

    def end(name: str, other: float) -> float:
        bound = torch.as_tensor(getattr(support, name, other)).detach()
        return float(bound.expand(exact.batch_shape)[place])

    try:
        return end("lower_bound", -math.inf), end("upper_bound", math.inf)
    except (RuntimeError, IndexError):  # those of components
        return -math.inf, math.inf


def _values(exact: Distribution) -> Tensor | None:
    """All values of a discrete number, if they are the same for the whole batch."""
    try:
        values: Tensor = exact.enumerate_support(expand=False)
        return values.flatten().cpu().double()
    except NotImplementedError:  # such as counts of different totals
        return None

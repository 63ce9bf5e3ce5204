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
from declarative_dist.randomness import same_random_numbers

Score = Callable[[Tensor], Tensor]
"""From numbers `(n,)` to their log densities `(n,)`, both in float64."""

DRAWS = 10_000
LARGEST = 20_000
"""How many numbers one draw may have."""


@dataclass(frozen=True)
class Series:
    """The distribution of one number.

    Args:
        index: where it is in a draw `(*batch, *event)`.
        draws: of shape `(n,)`, in float64; None where there is no sampler.
        score: the log density or mass; None where only draws are known.
        is_discrete: whether it has a mass.
        ends: the ends of its support.
        values: all that it can be, for a discrete one with few values.
    """

    index: tuple[int, ...]
    draws: Tensor | None
    score: Score | None = None
    is_discrete: bool = False
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


def seeded_draws(source: Any, size: int) -> Any:
    """The same draws every time, which leave everybody's random numbers as they were.

    Args:
        source: anything with `sample`.
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
            return source.sample(torch.Size((count,)))
        except NotImplementedError:
            return None


def entries(shape: torch.Size) -> Iterator[tuple[int, ...]]:
    """The indices of a tensor of this shape."""
    return itertools.product(*map(range, shape))


def first_entries(batch: torch.Size, event: torch.Size) -> Iterator[tuple[int, ...]]:
    """The indices `(*batch, *event)` of the numbers that pictures have room for."""
    for copy in itertools.islice(entries(batch), MOST):
        for entry in itertools.islice(entries(event), PANELS):
            yield (*copy, *entry)


def series_of(distribution: Distribution, draws: Tensor | None) -> list[Series]:
    """The numbers of a distribution that pictures have room for, each by itself.

    Args:
        distribution: of events of any shape.
        draws: its draws, of shape `(n, *batch, *event)`.
    """
    batch, event = distribution.batch_shape, distribution.event_shape
    exact = marginals_of(distribution)
    if exact is None and event.numel() == 1:
        exact = distribution  # whose events are numbers, in brackets
    is_discrete = is_discrete_of(distribution)
    others = None if draws is None else draws[0].detach()
    found = []
    for index in first_entries(batch, event):
        own = None if draws is None else column(draws, index)
        known = {}
        if exact is not None:
            place = index[: len(exact.batch_shape)]
            known = _series(exact, place, others, is_discrete)
        found.append(Series(index, own, is_discrete=is_discrete, **known))
    return found


def drawn_series(
    draws: Tensor, batch: torch.Size, event: torch.Size, *, is_discrete: bool
) -> list[Series]:
    """The numbers of draws `(n, *batch, *event)` of something whose densities are not known."""
    return [
        Series(index, column(draws, index), is_discrete=is_discrete)
        for index in first_entries(batch, event)
    ]


def column(draws: Tensor, index: tuple[int, ...]) -> Tensor:
    """The draws of one number."""
    at: Any = (slice(None), *index)
    return draws[at].detach().cpu().double()


def is_discrete_of(distribution: Distribution) -> bool:
    """Whether it has masses; one that does not say has densities."""
    try:
        return bool(distribution.support.is_discrete)  # type: ignore[union-attr]
    except (NotImplementedError, AttributeError):
        return False


def _series(
    exact: Distribution, place: tuple[int, ...], others: Tensor | None, is_discrete: bool
) -> dict[str, Any]:
    """What a series knows of its density.

    Args:
        exact: of single numbers, in a batch.
        place: where it is in the batch.
        others: one draw of the whole batch.
        is_discrete: whether it has a mass.
    """
    one = one_of(exact, place)
    if one is not None:
        exact, others, place = one, None if others is None else others[place], ()
    return {
        "score": _scored(exact, place, others),
        "ends": _ends(exact, place),
        "values": _values(exact, is_discrete),
    }


def _scored(exact: Distribution, place: tuple[int, ...], others: Tensor | None) -> Score:
    """The log density of one number, where others in the batch stand at a draw of theirs."""

    def score(numbers: Tensor) -> Tensor:
        like = numbers if others is None else others
        dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
        numbers = numbers.to(like.device, dtype)
        points = torch.zeros(
            (len(numbers), *exact.batch_shape, *exact.event_shape), dtype=dtype, device=like.device
        )
        points += 0 if others is None else others.to(dtype)
        at: Any = (slice(None), *place, *(0 for _ in exact.event_shape))
        inside = _inside(exact, points, at, numbers)
        points[at] = torch.where(inside, numbers, points[at])
        with torch.no_grad():
            found = exact.log_prob(points)[at[: 1 + len(place)]]
        return torch.where(inside, found, -math.inf).cpu().double()

    return score


def _inside(exact: Distribution, points: Tensor, at: Any, numbers: Tensor) -> Tensor:
    """Which numbers are in the support."""
    tried = points.clone()
    tried[at] = numbers
    try:
        inside: Tensor = exact.support.check(tried)  # type: ignore[union-attr]
        return inside[at[: inside.ndim]]
    except (NotImplementedError, AttributeError, RuntimeError):
        return torch.ones_like(numbers, dtype=torch.bool)


def _ends(exact: Distribution | None, index: tuple[int, ...]) -> tuple[float, float]:
    """The ends of the support of one number, as far as it says them."""
    try:
        support: Any = None if exact is None else exact.support
    except (NotImplementedError, AttributeError):
        support = None
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    try:
        low = _at(getattr(support, "lower_bound", -math.inf), exact, index)
        high = _at(getattr(support, "upper_bound", math.inf), exact, index)
    except (RuntimeError, IndexError):  # those of components
        return -math.inf, math.inf
    return low, high


def _at(end: Any, exact: Any, index: tuple[int, ...]) -> float:
    if not isinstance(end, Tensor):
        return float(end)
    return float(end.detach().expand(exact.batch_shape)[index[: len(exact.batch_shape)]])


def _values(exact: Any, is_discrete: bool) -> Tensor | None:
    """All values of a discrete number, if they are the same for the whole batch."""
    if not is_discrete or exact is None or not exact.has_enumerate_support:
        return None
    try:
        return exact.enumerate_support(expand=False).flatten().cpu().double()  # type: ignore[no-any-return]
    except NotImplementedError:  # such as counts of different totals
        return None

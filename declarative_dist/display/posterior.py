"""Guides and draws as a table: where the posterior of each number lies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from declarative_dist.latents.weighted import WeightedDraws
from declarative_dist.posteriors.guides import NormalGuide
from declarative_dist.posteriors.noise import sobol_normal
from declarative_dist.words import describe_absence, format_numbers, name_entry

_RANKS = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class PosteriorRow:
    """One line of a summary of a guide or of draws: a number, and where its posterior lies.

    Args:
        name: the site, with the index of the entry.
        mean: its mean.
        sd: its standard deviation.
        low: its 5 % quantile.
        median: its median.
        high: its 95 % quantile.
    """

    name: str
    mean: float
    sd: float
    low: float
    median: float
    high: float
    saturated: ClassVar[int | None] = None
    hint: ClassVar[str] = ""

    @property
    def cells(self) -> dict[str, str]:
        """What stands under each heading of the table."""
        numbers = (self.mean, self.sd, self.low, self.median, self.high)
        shown: Iterator[str] = map(format_numbers, numbers)
        if 1e-5 < self.sd < 1e6 and all(abs(number) < 1e7 for number in numbers):
            digits = max(0, 1 - math.floor(math.log10(self.sd)))  # two of the deviation
            shown = (f"{number:.{digits}f}" for number in numbers)
        headings = ("mean", "sd", "5%", "50%", "95%")
        return {"name": self.name, **dict(zip(headings, shown, strict=True))}


def posterior_rows(draws: WeightedDraws) -> tuple[PosteriorRow, ...]:
    """A row for every number of every site."""
    means, sds, quantiles = draws.mean(), draws.std(), draws.quantile(_RANKS)
    rows = []
    for name, mean in means.items():
        columns = torch.stack([mean, sds[name], *quantiles[name]], -1).double()
        places = itertools.product(*map(range, mean.shape))
        for index, numbers in zip(places, columns.reshape(-1, 5).tolist(), strict=True):
            rows.append(PosteriorRow(f"{name}{name_entry(index)}", *numbers))
    return tuple(rows)


def draws_of(guide: NormalGuide) -> WeightedDraws | None:
    """Draws of a guide, spread evenly by a Sobol sequence, so that few give exact numbers.

    None where it has no numbers, or NaN.
    """
    if describe_absence(guide.raw_loc):
        return None
    now, shape = guide(), guide.raw_loc.shape
    count = max(256, min(4096, 4_000_000 // shape.numel()))
    with torch.no_grad():
        # A point near the end of the sequence would count for too much of the tail.
        noise = sobol_normal(count, shape.numel(), 0).clamp(-3.7, 3.7).to(now.loc)
        values = now.flat(now.gaussian.move(noise.reshape(count, *shape)))
    if any(each.isnan().any() for each in values.values()):
        return None
    return WeightedDraws(values, torch.zeros(count, *guide.batch_shape))

"""Weighted draws as a table: where the posterior of each number lies."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch

from declarative_dist.latents.weighted import WeightedDraws
from declarative_dist.words import format_number

_RANKS = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class PosteriorRow:
    """One line of a summary of draws: a number.

    Args:
        name: the site, with the index of the entry.
        mean: its posterior mean.
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

    hint: ClassVar[str] = ""
    saturated: ClassVar[None] = None

    @property
    def cells(self) -> dict[str, str]:
        """What stands under each heading of the table."""
        numbers = (self.mean, self.sd, self.low, self.median, self.high)
        headings = ("mean", "sd", "5%", "50%", "95%")
        shown = map(format_number, numbers)
        return {"name": self.name, **dict(zip(headings, shown, strict=True))}

    def to_dict(self) -> dict[str, Any]:
        """The row as numbers and strings, such as JSON can hold."""
        return asdict(self)


def posterior_rows(draws: WeightedDraws) -> list[PosteriorRow]:
    """A row for every number of every site."""
    means, sds, quantiles = draws.mean(), draws.std(), draws.quantile(_RANKS)
    rows = []
    for name, mean in means.items():
        columns = torch.stack([mean, sds[name], *quantiles[name]], -1).double()
        for at, numbers in enumerate(columns.reshape(-1, 5).tolist()):
            index = torch.unravel_index(torch.tensor(at), mean.shape) if mean.ndim else ()
            entry = ", ".join(str(int(i)) for i in index)
            rows.append(PosteriorRow(f"{name}[{entry}]" if entry else name, *numbers))
    return rows

"""Paired ratios: everything that is compared runs in turn in one process, block by block.

A ratio is taken within a block, so that what slows the machine down for a while slows both sides.
What counts is the time that the process had a processor, so that others at work do not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

Function = Callable[[], object]

BLOCK = 0.01
"""How long one function runs in a block, in seconds, unless a single call takes longer."""


@dataclass(frozen=True)
class Ratio:
    """Our time over another's: the median of many blocks, with the middle half of them.

    Args:
        case: what is done.
        ours: which way of ours.
        other: what it is compared with.
        median: the middle of the ratios.
        low: their first quartile.
        high: their third quartile.
        microseconds: the least that one call of ours took.
        at_most: the bound that the median should keep, or None.
    """

    case: str
    ours: str
    other: str
    median: float
    low: float
    high: float
    microseconds: float
    at_most: float | None = None

    def to_dict(self) -> dict[str, object]:
        """All of it, for JSON."""
        return asdict(self)


def seconds(function: Function, repeats: int) -> float:
    """The time of some calls."""
    start = time.process_time()
    for _ in range(repeats):
        function()
    return time.process_time() - start


def ratios(ours: Function, theirs: Function, blocks: int, repeats: int) -> list[float]:
    """The ratio of our time to theirs, block by block, in alternating order."""
    times = interleaved({"ours": ours, "theirs": theirs}, blocks, repeats)
    return sorted(a / b for a, b in zip(times["ours"], times["theirs"], strict=True))


def interleaved(
    functions: Mapping[str, Function], blocks: int, repeats: int | None = None
) -> dict[str, list[float]]:
    """Seconds per call, by name and block; every block begins with another function."""
    names = list(functions)
    for name in names:
        seconds(functions[name], 3)
    if repeats is None:
        slowest = max(seconds(function, 1) for function in functions.values())
        repeats = max(1, int(BLOCK / slowest))
    times: dict[str, list[float]] = {name: [] for name in names}
    for block in range(blocks):
        first = block % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(seconds(functions[name], repeats) / repeats)
    return times


def compared(
    case: str,
    times: Mapping[str, list[float]],
    ours: str,
    other: str,
    at_most: float | None = None,
) -> Ratio:
    """The ratio of two of the functions that ran together."""
    pairs = zip(times[ours], times[other], strict=True)
    low, median, high = statistics.quantiles([a / b for a, b in pairs], n=4)
    return Ratio(case, ours, other, median, low, high, 1e6 * min(times[ours]), at_most)

"""Comparing what methods give for some things together with what they give for each alone.

A size that equals one of one, two and three cannot equal the others, so it hides no mistake.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from declarative_dist.errors import first_line, shorten
from declarative_dist.families.building import REFUSALS
from declarative_dist.randomness import draws_random_numbers

COUNT = 3
"""How many copies, contexts or draws are tried together at most."""

ALL = [*range(COUNT)]

TOGETHER = ([0, 1], [1, 0], ALL, [2, 1, 0], [0])
"""Which of them are tried together: two and three, in both orders, and a batch of one."""

TOLERANCE = (1e-3, 0.02)
"""How far rounding may take the same value, alone and beside others, at least and at most."""

Index = tuple[Any, ...]
"""An int per dimension for one alone, a tensor of positions per dimension for several."""

See = Callable[[Index], Mapping[str, Tensor]]
"""Gives the values of methods, by name, for some of the things that are tried."""


class Difference(NamedTuple):
    """Where a value beside others is not what it is alone.

    Args:
        name: the field or site.
        alone: the value alone, or the error there.
        together: the same beside others.
    """

    name: str
    alone: str
    together: str


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Try a module without dropout, and without changes of running means."""
    modes = {part: part.training for part in module.modules()}
    for part in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def find_difference(
    see: See, rank: int, module: nn.Module, groups: Iterable[list[int]] = TOGETHER
) -> Difference | None:
    """The first value that depends on how many there are, or on those beside it.

    A module that draws random numbers itself, as dropout does, is compared in evaluation mode, and
    by shapes alone if it draws some there too.

    Args:
        see: gives the values; they have the dimensions of the index in front.
        rank: how many dimensions an index has.
        module: what is tried.
        groups: which are tried together.
    """
    found = _compare_groups(see, rank, groups)
    if found is None or not _is_random(see, rank):
        return found
    with evaluating(module):
        return _compare_groups(see, rank, groups, by_shape=_is_random(see, rank))


def _is_random(see: See, rank: int) -> bool:
    return draws_random_numbers(lambda: attempt(see, block(ALL, rank)))


def _compare_groups(
    see: See, rank: int, groups: Iterable[list[int]], *, by_shape: bool = False
) -> Difference | None:
    batched: set[str] = set()
    for positions in groups:
        many = attempt(see, block(positions, rank))
        if is_about_values(many) and not takes_each(see, positions, rank):
            continue  # at random numbers a method may fail for reasons of its own
        for place in itertools.product(sorted({0, len(positions) - 1}), repeat=rank):
            one = attempt(see, tuple(positions[at] for at in place))
            lead = torch.Size((len(positions),) * rank)
            found = _compare(one, many, lead, place, batched, by_shape)
            if found is not None:
                return found
    return None


def takes_each(see: See, positions: Iterable[int], rank: int) -> bool:
    """Whether a method takes each of some things alone."""
    every = itertools.product(positions, repeat=rank)
    return not any(isinstance(attempt(see, alone), Exception) for alone in every)


def block(positions: list[int], rank: int) -> Index:
    """The index of all combinations of some positions along each dimension."""
    return torch.meshgrid(*[torch.tensor(positions)] * rank, indexing="ij")


def _compare(
    one: Any,
    many: Any,
    lead: torch.Size,
    place: tuple[int, ...],
    batched: set[str],
    by_shape: bool,
) -> Difference | None:
    """The first value that differs; `batched` collects the names of which each has its own."""
    failed = [isinstance(seen, Exception) for seen in (one, many)]
    if any(failed):
        subject = str(getattr(one if failed[0] else many, "subject", ""))
        name = subject.rpartition(".")[2]
        return None if all(failed) else Difference(name, _describe(one), _describe(many))
    for name, value in many.items():
        single = one[name]
        if value.shape != single.shape or name in batched:
            if value.shape != torch.Size((*lead, *single.shape)):
                alone, together = (f"shape {tuple(v.shape)}" for v in (single, value))
                return Difference(name, alone, together)
            batched.add(name)
            value = value[place]
        if not by_shape and not _agree(value, single):
            return Difference(name, shorten(single), shorten(value))
    return None


def is_about_values(seen: object) -> bool:
    """Whether torch refused values, and not shapes."""
    if not isinstance(seen, BaseException):
        return False
    said = str(seen)
    is_told = any(words in said for words in ("satisfy the constraint", "within the support"))
    return is_told or is_about_values(seen.__cause__)


def attempt(see: See, index: Index) -> Any:
    """What is seen there, or the error that torch raises in place of it."""
    try:
        return see(index)
    except REFUSALS as error:
        return error


def _describe(seen: Any) -> str:
    if not isinstance(seen, Exception):
        return f"shapes {', '.join(str(tuple(value.shape)) for value in seen.values())}"
    return f"{type(seen).__name__}: {first_line(seen)}"


def _agree(one: Tensor, other: Tensor) -> bool:
    """Whether values are the same but for rounding; a mistake goes further."""
    rounding = 3 * torch.finfo(one.dtype).eps ** 0.5 if one.is_floating_point() else 0.0
    tolerance = min(max(rounding, TOLERANCE[0]), TOLERANCE[1])
    one, other = one.double(), other.double()
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)

"""Comparing what methods give for some things together with what they give for each alone.

A size that equals one of one, two and three cannot equal the others, so it hides no mistake.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from declarative_dist.errors import first_line, shorten

COUNT = 3
"""How many copies, contexts or draws are tried together at most."""

ALL = [*range(COUNT)]

TOGETHER = ([0, 1], [1, 0], ALL, [2, 1, 0], [0])
"""Which of them are tried together: two and three, in both orders, and a batch of one."""

TOLERANCE = (1e-3, 0.02)
"""How far rounding may take the same value, alone and beside others, at least and at most."""

TRIES = 12
"""How often what may be random is seen again: dropout of few entries repeats itself."""

REFUSALS = (RuntimeError, ValueError, IndexError, TypeError, AssertionError)
"""What torch and Python raise where shapes do not go together."""

Index = tuple[Any, ...]
"""An int per dimension for one alone, a tensor of positions per dimension for several."""


class See(Protocol):
    """Gives the values of a method, by name, for some of the things that are tried."""

    def __call__(self, index: Index, is_evaluating: bool = False) -> Mapping[str, Tensor]:
        """See them as the module is, or in evaluation mode."""
        ...


class Difference(NamedTuple):
    """Where a value beside others is not what it is alone.

    Args:
        name: the field or site.
        alone: the value alone, or the error there.
        together: the same beside others.
        is_number: whether shapes agree and numbers do not.
    """

    name: str
    alone: str
    together: str
    is_number: bool = False


def find_difference(
    see: See, rank: int, groups: Iterable[list[int]] = TOGETHER
) -> Difference | None:
    """The first value that depends on how many there are, or on those beside it.

    What draws random numbers itself, such as dropout, is compared once more without them.

    Args:
        see: gives the values; they have the dimensions of the index in front.
        rank: how many dimensions an index has.
        groups: which are tried together.
    """
    batched: set[str] = set()
    for positions in groups:
        together = block(positions, rank)
        many = attempt(see, together)
        if is_about_values(many) and not takes_each(see, positions, rank):
            continue  # at random numbers a method may fail for reasons of its own
        for place in itertools.product(sorted({0, len(positions) - 1}), repeat=rank):
            alone = tuple(positions[at] for at in place)
            where = (len(positions), place)
            found = _compare(attempt(see, alone), many, where, batched)
            if found is not None and found.is_number and _is_random(see, together):
                if _is_random(see, together, True):
                    continue
                one, calm = (attempt(see, index, True) for index in (alone, together))
                found = _compare(one, calm, where, batched)
            if found is not None:
                return found
    return None


def takes_each(see: See, positions: Iterable[int], rank: int) -> bool:
    """Whether a method takes each of some things alone."""
    every = itertools.product(positions, repeat=rank)
    return not any(isinstance(attempt(see, alone), Exception) for alone in every)


def block(positions: list[int], rank: int) -> Index:
    """The index of all combinations of some positions along each dimension."""
    index = torch.tensor(positions)
    return tuple(
        index.reshape([-1 if other == dim else 1 for other in range(rank)]) for dim in range(rank)
    )


def _compare(
    one: Any, many: Any, where: tuple[int, tuple[int, ...]], batched: set[str]
) -> Difference | None:
    """The first value that differs; `batched` collects the names of which each has its own."""
    if isinstance(many, Exception) or isinstance(one, Exception):
        both = isinstance(many, Exception) and isinstance(one, Exception)
        return None if both else Difference(_name_of(one, many), _describe(one), _describe(many))
    size, place = where
    lead = (size,) * len(place)
    for name, value in many.items():
        single = one[name]
        if value.shape == single.shape and name not in batched:
            if _agree(value, single):
                continue  # nothing in it comes from what is tried
            return Difference(name, shorten(single), shorten(value), is_number=True)
        if value.shape != torch.Size((*lead, *single.shape)):
            alone, together = (f"shape {tuple(v.shape)}" for v in (single, value))
            return Difference(name, alone, together)
        batched.add(name)
        if not _agree(value[place], single):
            return Difference(name, shorten(single), shorten(value[place]), is_number=True)
    return None


def is_about_values(seen: object) -> bool:
    """Whether torch refused values, and not shapes."""
    if not isinstance(seen, BaseException):
        return False
    said = str(seen)
    is_told = any(words in said for words in ("satisfy the constraint", "within the support"))
    return is_told or is_about_values(seen.__cause__)


def attempt(see: See, index: Index, is_evaluating: bool = False) -> Any:
    """What is seen there, or the error that torch raises in place of it."""
    try:
        return see(index, is_evaluating)
    except REFUSALS as error:
        return error


def _name_of(*seen: Any) -> str:
    subjects = [str(getattr(s, "subject", "")) for s in seen if isinstance(s, Exception)]
    return subjects[0].rpartition(".")[2] if subjects else ""


def _describe(seen: Any) -> str:
    if not isinstance(seen, Exception):
        return f"shapes {', '.join(str(tuple(value.shape)) for value in seen.values())}"
    return f"{type(seen).__name__}: {first_line(seen)}"


def _agree(one: Tensor, other: Tensor) -> bool:
    """Whether values are the same but for rounding; a mistake goes further."""
    rounding = 3 * torch.finfo(one.dtype).eps ** 0.5 if one.is_floating_point() else 0.0
    tolerance = min(max(rounding, TOLERANCE[0]), TOLERANCE[1])
    one, other = one.double(), other.double()
    close = torch.isclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)
    return bool(close.all())


def _is_random(see: See, index: Index, is_evaluating: bool = False) -> bool:
    first = attempt(see, index, is_evaluating)
    return any(_differ(first, attempt(see, index, is_evaluating)) for _ in range(TRIES))


def _differ(one: Any, other: Any) -> bool:
    if isinstance(one, Exception) or isinstance(other, Exception):
        return isinstance(one, Exception) != isinstance(other, Exception)
    return any(
        value.shape != other[name].shape
        or not torch.allclose(value, other[name], rtol=0.0, atol=0.0, equal_nan=True)
        for name, value in one.items()
    )

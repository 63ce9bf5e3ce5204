"""Comparing what methods give for some things together with what they give for each alone.

A size that equals one of one, two and three cannot equal the others, so it hides no mistake.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from declarative_dist.errors import ConstraintError, first_line, shorten
from declarative_dist.plain.refusals import FROM_THE_RIGHT, REFUSALS, is_about_values
from declarative_dist.plain.restoring import evaluating
from declarative_dist.randomness import draws_random_numbers

COUNT = 3
"""How many copies, contexts or draws are tried together at most."""

ALL = [*range(COUNT)]

TOGETHER = ([0, 1], [1, 0], ALL, [2, 1, 0], [0])
"""Which of them are tried together: two and three, in both orders, and a batch of one."""

TOLERANCE = (1e-6, 0.02)
"""How far rounding may take the same value, alone and beside others, at least and at most."""

Index = tuple[Any, ...]
"""An int per dimension for one alone, a tensor of positions per dimension for several."""

Change = Callable[[Tensor], Tensor]
"""Makes other numbers of those that are tried."""

See = Callable[..., Mapping[str, Tensor]]
"""Gives the values of methods, by name, for the things at an index; with `change=blur`, as a
second argument, for others that are the same but for their last digits."""


Difference = tuple[str, str, str]
"""A field or site, its value or error alone, and the same beside others."""


class Rounding(TorchDispatchMode):
    """Watches how coarsely operations round numbers that were finer before.

    Attributes:
        eps: of the coarsest dtype that they were moved to; 0 if there was none.
    """

    eps = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        before, after = _eps_of((args, kwargs)), _eps_of(result)
        if before and after and min(before) < max(after):
            self.eps = max(self.eps, *after)
        return result


def _eps_of(tree: Any) -> list[float]:
    tensors = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
    return [torch.finfo(t.dtype).eps for t in tensors if t.is_floating_point()]


def find_difference(
    see: See, rank: int, module: nn.Module, groups: Iterable[list[int]] = TOGETHER
) -> Difference | None:
    """The first value that depends on how many there are, or on those beside it.

    A module that draws random numbers itself, as dropout does, is compared in evaluation mode; if
    it draws some there too, nothing can be compared. Where a method rounds to a coarser dtype on
    its way, values may differ as far as that dtype lets them.

    Args:
        see: gives the values; they have the dimensions of the index in front.
        rank: how many dimensions an index has.
        module: what is tried.
        groups: which are tried together.
    """

    def is_random() -> bool:
        return draws_random_numbers(lambda: attempt(see, block(ALL, rank)))

    def compare() -> Difference | None:
        found = _compare_groups(see, rank, groups)
        if found is None:
            return None
        with Rounding() as rounding:  # type: ignore[no-untyped-call]
            attempt(see, block(ALL, rank))
        return _compare_groups(see, rank, groups, rounding.eps) if rounding.eps else found

    found = compare()
    if found is None or not is_random():
        return found
    with evaluating(module):
        return None if is_random() else compare()


def refuse_mixing(
    see: See, rank: int, module: nn.Module, what: str, subject: str, groups: Any = TOGETHER
) -> None:
    """Refuse a module one of whose values depends on how many there are, or on those beside it."""
    found = find_difference(see, rank, module, groups)
    if found is None:
        return
    name, alone, together = found
    raise ConstraintError(
        f"{subject}.{name}" if name else subject,
        f"for each of the {what} a value that does not depend on the {what} beside it",
        f"{alone} alone, and {together} beside others",
        f"{FROM_THE_RIGHT} and not .sum().",
        code="mixed-draws",
    )


def _compare_groups(
    see: See, rank: int, groups: Iterable[list[int]], eps: float = 0.0
) -> Difference | None:
    batched: set[str] = set()
    for positions in groups:
        many = attempt(see, block(positions, rank))
        if is_about_values(many):
            continue  # at random numbers a method may fail for reasons of its own
        for place in itertools.product(sorted({0, len(positions) - 1}), repeat=rank):
            one = attempt(see, tuple(positions[at] for at in place))
            lead = torch.Size((len(positions),) * rank)
            found = _compare(one, many, lead, place, batched, eps)
            if found is None:
                continue
            # Where rounding alone changes a value as much, nothing can be said.
            near = attempt(partial(see, change=blur), tuple(positions[at] for at in place))
            if isinstance(near, Exception):
                return found
            name = found[0]
            is_value = isinstance(one, Mapping)
            if is_value and (name not in one or _agree(near[name], one[name], eps)):
                return found
    return None


def blur(numbers: Tensor) -> Tensor:
    """Numbers that differ in their last digits only."""
    if not numbers.is_floating_point():
        return numbers
    return numbers + 64 * torch.finfo(numbers.dtype).eps * (1 + numbers.abs())


def keep(numbers: Tensor) -> Tensor:
    """Numbers as they are."""
    return numbers


def block(positions: list[int], rank: int) -> Index:
    """The index of all combinations of some positions along each dimension."""
    return torch.meshgrid(*[torch.tensor(positions)] * rank, indexing="ij")


def _compare(
    one: Any, many: Any, lead: torch.Size, place: tuple[int, ...], batched: set[str], eps: float
) -> Difference | None:
    """The first value that differs; `batched` collects the names of which each has its own."""
    failed = [seen for seen in (one, many) if isinstance(seen, Exception)]
    if failed:
        name = str(getattr(failed[0], "subject", "")).rpartition(".")[2]
        return None if len(failed) == 2 else (name, _describe(one), _describe(many))
    if one.keys() != many.keys():  # of a dict or a list that a method returns
        return next(iter(one.keys() ^ many.keys())), _describe(one), _describe(many)
    for name, value in many.items():
        single = one[name]
        if value.shape != single.shape or name in batched:
            if value.shape != torch.Size((*lead, *single.shape)):
                return name, f"shape {tuple(single.shape)}", f"shape {tuple(value.shape)}"
            batched.add(name)
            value = value[place]
        if not _agree(value, single, eps):
            return name, shorten(single), shorten(value)
    return None


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


def _agree(one: Tensor, other: Tensor, eps: float) -> bool:
    """Whether values are the same but for rounding, to a dtype of this `eps` or to their own."""
    rounding = 3 * max([eps, *_eps_of([one, other])]) ** 0.5
    tolerance = min(max(rounding, TOLERANCE[0]), TOLERANCE[1])
    one, other = one.double(), other.double()
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)

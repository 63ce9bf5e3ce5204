"""The batches of a fit, one after another, from tensors or from any iterable of batches.

A batch is the tuple of arguments for the objective's forward. The place in the data can be taken
down and gone back to: an epoch is begun again from the random numbers that it began with, and the
batches that were used already are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from declarative_dist.errors import ConstraintError, DeclarationError, is_count, shorten
from declarative_dist.fitting import random_state

Batch = tuple[Any, ...]

_DATA = "a tensor, a tuple or dict of tensors, or an iterable of batches such as a DataLoader"


class Place(NamedTuple):
    """A place in the data: how many batches of an epoch are used, and how the epoch began."""

    used: int = 0
    began: dict[str, Any] | None = None


class Batches:
    """An endless sequence of batches.

    Args:
        data: None for empty batches; a tensor, or a tuple or dict of tensors, for the whole of it
            in every step; an iterable of batches, gone through again in every epoch.
        batch_size: for tensors: draw this many rows without replacement, with torch's global
            generator, `torch.randperm` at the start of every epoch; the last batch of an epoch has
            what is left.
        remembers: whether to know the `place` well enough to go back to it.

    Raises:
        ConstraintError: if the sizes do not go together.
        DeclarationError: if the data is of another kind.

    Example:
        >>> import torch
        >>> from declarative_dist.fitting.batches import Batches
        >>> batches = Batches((torch.arange(5), torch.arange(5)), batch_size=2)
        >>> [len(batches.next()[0]) for _ in range(6)]
        [2, 2, 1, 2, 2, 1]
    """

    def __init__(self, data: Any, batch_size: int | None = None, *, remembers: bool = False):
        self.remembers = remembers
        self.place = Place()
        self.signature: dict[str, Any] = {"batch_size": batch_size, "length": None}
        self._epoch: Iterator[Batch] | None = None
        self._generators = _generators_of(data)
        self._is_one_shot = isinstance(data, Iterator)
        tensors = _as_tensors(data)
        if tensors is None:
            if batch_size is not None:
                raise DeclarationError(
                    "fit(batch_size=)",
                    "tensors to draw batches from",
                    "no data" if data is None else f"a {type(data).__name__}",
                    "A DataLoader has a batch_size of its own.",
                    code="wrong-data",
                )
            self._begin: Callable[[], Iterator[Batch]] = lambda: map(as_batch, iter(data))
            self._whole: Batch | None = () if data is None else None
        else:
            self._whole = as_batch(data) if batch_size is None else None
            if batch_size is not None:
                length = _checked_length(tensors, batch_size)
                self.signature["length"] = length
                self._begin = lambda: _drawn(data, length, batch_size)

    def next(self) -> Batch:
        """The next batch, the first of a new epoch behind the last one.

        Raises:
            ConstraintError: if an epoch has no batch.
        """
        if self._whole is not None:
            return self._whole
        batch = None if self._epoch is None else next(self._epoch, None)
        if batch is None:
            used = self.place.used
            began = random_state.captured(self._generators) if self.remembers else None
            self._epoch = self._begin()
            batch = next(self._epoch, None)
            if batch is None:
                raise self._empty(used)
            self.place = Place(0, began)
        self.place = Place(self.place.used + 1, self.place.began)
        return batch

    def _empty(self, used: int) -> ConstraintError:
        if self._is_one_shot and used:
            return ConstraintError(
                "fit(data=)",
                "batches for all steps",
                f"an iterator that ended after {used}",
                "Give something that can be gone through again: a list or a DataLoader.",
                code="wrong-data",
            )
        return ConstraintError(
            "fit(data=)",
            "at least one batch",
            "none in an epoch",
            "Is the DataLoader empty?",
            code="wrong-data",
        )

    def go_to(self, place: Place) -> None:
        """Go back to a place; the random generators are left as the epoch needs them.

        Raises:
            ConstraintError: if the epoch has fewer batches now.
        """
        self.place = place
        if self._whole is not None or place.began is None:
            return
        random_state.restore(place.began, self._generators)
        self._epoch = self._begin()
        for used in range(place.used):
            if next(self._epoch, None) is None:
                raise ConstraintError(
                    "fit(data=)",
                    f"the data of the checkpoint, with {place.used} batches or more in an epoch",
                    str(used),
                    code="state-mismatch",
                )


def as_batch(item: Any) -> Batch:
    """What a loader gave as arguments: the items of a tuple or list, or the one that it is."""
    return tuple(item) if isinstance(item, (tuple, list)) else (item,)


def _as_tensors(data: Any) -> list[Tensor] | None:
    """The tensors that data consists of; None for no data or an iterable of batches."""
    if isinstance(data, Tensor):
        tensors = [data]
    elif isinstance(data, (tuple, Mapping)):
        tensors = list(data.values()) if isinstance(data, Mapping) else list(data)
    elif data is None or (isinstance(data, Iterable) and not _is_array(data)):
        return None
    else:
        raise DeclarationError(
            "fit(data=)",
            _DATA,
            f"a {type(data).__name__}",
            "Write torch.as_tensor(data)." if _is_array(data) else "",
            code="wrong-data",
        )
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise DeclarationError(
                "fit(data=)",
                _DATA,
                f"a {type(data).__name__} with {shorten(tensor)}",
                "Write torch.as_tensor(...), or a list for an iterable of batches.",
                code="wrong-data",
            )
        if tensor.numel() == 0:
            raise ConstraintError("fit(data=)", "data", shorten(tensor), code="wrong-data")
    if not tensors:
        raise ConstraintError(
            "fit(data=)", "data", f"an empty {type(data).__name__}", code="wrong-data"
        )
    return tensors


def _is_array(data: Any) -> bool:
    return hasattr(data, "__array__") or isinstance(data, (str, bytes))


def _checked_length(tensors: list[Tensor], batch_size: Any) -> int:
    lengths = [tensor.shape[0] if tensor.ndim else None for tensor in tensors]
    if len(set(lengths)) > 1 or lengths[0] is None:
        raise ConstraintError(
            "fit(data=)",
            "tensors with as many rows each, to draw batches of them",
            f"shapes {', '.join(str(tuple(tensor.shape)) for tensor in tensors)}",
            code="wrong-data",
        )
    if not is_count(batch_size, 1) or batch_size > lengths[0]:
        raise ConstraintError(
            "fit(batch_size=)",
            f"an int from 1 to {lengths[0]}, the rows",
            shorten(batch_size),
            code="wrong-argument",
        )
    return lengths[0]


def _drawn(data: Any, length: int, batch_size: int) -> Iterator[Batch]:
    """One epoch of rows in random order."""
    order = torch.randperm(length, device="cpu")
    for start in range(0, length, batch_size):
        chosen = order[start : start + batch_size]
        if isinstance(data, Mapping):
            yield ({name: _rows(tensor, chosen) for name, tensor in data.items()},)
        else:
            yield tuple(_rows(tensor, chosen) for tensor in as_batch(data))


def _rows(tensor: Tensor, chosen: Tensor) -> Tensor:
    return tensor[chosen.to(tensor.device)]


def _generators_of(data: Any) -> list[torch.Generator]:
    """The generators that a DataLoader draws its order from, besides the global one."""
    holders = [data, getattr(data, "sampler", None)]
    holders.append(getattr(getattr(data, "batch_sampler", None), "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return [
        generator
        for at, generator in enumerate(found)
        if isinstance(generator, torch.Generator)
        and not any(generator is other for other in found[:at])
    ]

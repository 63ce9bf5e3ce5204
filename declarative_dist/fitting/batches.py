"""The batches of a fit, one after another, from tensors or from any iterable of batches.

A batch is the tuple of arguments for the objective's forward; a dict behind others gives keywords.
Of tensors and lists a fit can go on from any batch; of other iterables, such as a DataLoader, from
the end of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from numbers import Number
from typing import Any

import torch
from torch import Tensor

from declarative_dist.errors import ConstraintError, DeclarationError, is_count, shorten

Batch = tuple[Any, ...]

_DATA = "a tensor, a tuple or dict of tensors, or an iterable of batches such as a DataLoader"

_WHOLE = (Tensor, tuple, Mapping)


class Batches:
    """An endless sequence of batches.

    Args:
        data: None for empty batches; a tensor, or a tuple or dict of tensors, for the whole of it
            in every step; an iterable of batches, gone through again in every epoch.
        batch_size: for tensors: draw this many rows without replacement, with torch's global
            generator, `torch.randperm` at the start of every epoch; the last batch of an epoch has
            what is left. One number behind the data, in a dict of keywords, is for all rows.

    Attributes:
        whole: the batch of every step, where all have the same; else None.
        is_loader: whether these are batches of an iterable that only begins at its beginning.

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

    def __init__(self, data: Any, batch_size: int | None = None) -> None:
        is_whole = _check_data(data)
        self.whole: Batch | None = None
        if is_whole and batch_size is None:
            self.whole = () if data is None else as_batch(data)
        self._epochs: Any = data if batch_size is None else _Rows(data, batch_size)
        self.is_loader = not (is_whole or isinstance(data, Sequence))
        samplers = (getattr(data, "sampler", None), getattr(data, "batch_sampler", None))
        holders = (data, *samplers, getattr(samplers[1], "sampler", None))
        found = (getattr(holder, "generator", None) for holder in holders)
        self._generators = [one for one in found if isinstance(one, torch.Generator)]
        self._epoch: Iterator[Batch] | None = None
        self._ahead: Batch | None = None
        self._used = 0
        self._began = torch.get_rng_state()

    def __repr__(self) -> str:
        if self.whole is not None:
            return "no batch_size"
        if isinstance(self._epochs, _Rows):
            return f"batch_size={self._epochs.size} of {self._epochs.count} rows"
        kind, count = type(self._epochs).__name__, len(self._generators)
        generators = f"a {kind} with {count} generators of its own"
        return generators if self.is_loader else f"{len(self._epochs)} batches"

    def fetch(self) -> Batch | None:
        """The next batch of this epoch, which `next` will give; None behind the last one."""
        if self._ahead is None and self._epoch is not None:
            self._ahead = next(self._epoch, None)
            if self._ahead is None:
                self._epoch = None
        return self._ahead

    def next(self) -> Batch:
        """The next batch, the first of a new epoch behind the last one.

        Raises:
            ConstraintError: if an epoch has no batch.
        """
        if self.whole is not None:
            return self.whole
        batch = self.fetch()
        if batch is None:
            used = self._used
            self._begin()
            batch = self.fetch()
            if batch is None:
                got = f"none, after {used} in the epoch before" if used else "none in an epoch"
                fix = "Is the DataLoader empty, or an iterator that ends? A list begins anew."
                expected = "at least one batch"
                raise ConstraintError("fit(data=)", expected, got, fix, code="wrong-data")
        self._ahead = None
        self._used += 1
        return batch

    def _begin(self, used: int = 0) -> None:
        """Begin an epoch, behind so many of its batches."""
        self._began = torch.get_rng_state()
        self._epoch = map(as_batch, islice(iter(self._epochs), used, None))
        self._used = used

    @property
    def position(self) -> dict[str, Any] | None:
        """What `go_to` takes, of tensors and numbers; None inside of an epoch of a loader."""
        if self.is_loader and self._epoch is not None:
            return None
        return {
            "used": 0 if self.is_loader else self._used,
            "began": self._began,
            "generators": [generator.get_state() for generator in self._generators],
        }

    def go_to(self, position: Mapping[str, Any] | None) -> None:
        """Go back to a position. Torch's random numbers are to be restored afterwards."""
        if position is None:
            self._epoch = iter(())  # its next batch was given already, and is lost
            return
        for generator, state in zip(self._generators, position["generators"], strict=True):
            generator.set_state(state)
        self._epoch = self._ahead = None
        if position["used"]:
            torch.set_rng_state(position["began"])
            self._begin(position["used"])


class _Rows:
    """So many rows of all tensors at a time, in a new order in every epoch."""

    def __init__(self, data: Any, size: Any) -> None:
        if not isinstance(data, _WHOLE):
            expected, got = "tensors to draw batches from", f"a {type(data).__name__}"
            fix = "A DataLoader has a batch_size of its own."
            raise DeclarationError("fit(batch_size=)", expected, got, fix, code="wrong-data")
        columns = _columns_of(data)
        lengths = {len(column) if column.ndim else 0 for column in columns}
        self.count = min(lengths, default=0)
        if len(lengths) > 1 or not self.count:
            expected = "tensors with as many rows each, to draw batches of them"
            got = f"shapes {', '.join(str(tuple(column.shape)) for column in columns)}"
            raise ConstraintError("fit(data=)", expected, got, code="wrong-data")
        if not is_count(size, 1) or size > self.count:
            expected, got = f"an int from 1 to {self.count}, the rows", shorten(size)
            raise ConstraintError("fit(batch_size=)", expected, got, code="wrong-argument")
        self._data, self.size = data, int(size)

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(self.count, device="cpu")  # now, and not at the first batch
        chunks = order.split(self.size)
        return (tuple(_rows_of(item, rows) for item in as_batch(self._data)) for rows in chunks)


def as_batch(item: Any) -> Batch:
    """An item of a loader as arguments: a tuple or list has one in each of its own items."""
    return tuple(item) if isinstance(item, (tuple, list)) else (item,)


def _rows_of(item: Any, rows: Tensor) -> Any:
    if isinstance(item, Mapping):
        return {name: t if _is_shared(t) else _rows_of(t, rows) for name, t in item.items()}
    return item[rows.to(item.device)]


def _is_shared(value: Any) -> bool:
    """Whether this is one number, which stands in a dict for all rows."""
    return isinstance(value, Number) or (isinstance(value, Tensor) and not value.ndim)


def _columns_of(data: Any) -> list[Any]:
    """What has rows: all that stands in data but the single numbers in dicts."""
    columns: list[Any] = []
    for item in as_batch(data):
        is_dict = isinstance(item, Mapping)
        columns += [t for t in item.values() if not _is_shared(t)] if is_dict else [item]
    return columns


def _check_data(data: Any) -> bool:
    """Refuse what is neither tensors nor batches.

    Returns:
        Whether it has the whole data: no data at all, or tensors.
    """
    is_whole = data is None or isinstance(data, _WHOLE)
    first = next(iter(data), None) if isinstance(data, (list, set)) else data
    # An array or a list of numbers would give them one by one.
    is_numbers = hasattr(data, "__array__") or isinstance(first, (Number, str, bytes))
    if data is None or (not is_whole and isinstance(data, Iterable) and not is_numbers):
        return is_whole
    for column in _columns_of(data) if is_whole else [first]:
        if not isinstance(column, Tensor):
            got = f"a {type(data).__name__} with {shorten(column)}"
            fix = "Write torch.as_tensor(...), or a list for an iterable of batches."
            raise DeclarationError("fit(data=)", _DATA, got, fix, code="wrong-data")
        if not column.numel():
            raise ConstraintError("fit(data=)", "data", shorten(column), code="wrong-data")
    if not isinstance(data, Tensor) and not data:
        fix = "Leave it out where forward takes no arguments."
        got = f"an empty {type(data).__name__}"
        raise ConstraintError("fit(data=)", "data", got, fix, code="wrong-data")
    return True

"""The batches of a fit, one after another, from tensors or from any iterable of batches.

A batch is the tuple of arguments for the objective's forward; a dict behind others gives keywords.
Of tensors a fit can go on from any batch; of an iterable, such as a DataLoader, from the end of an
epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
        is_iterable: whether these are batches of an iterable, which only begins at its beginning.
        rows: how many rows batches are drawn from; 0 where none are drawn.
        size: how many rows such a batch has.

    Raises:
        ConstraintError: if the sizes do not go together.
        DeclarationError: if the data is of another kind.
    """

    def __init__(self, data: Any, batch_size: int | None = None) -> None:
        self.is_iterable = not _check_data(data)
        self._data, self.rows, self.size = data, 0, 0
        self.whole: Batch | None = None
        if batch_size is not None:
            self.rows = _count_rows(data)
            if not is_count(batch_size, 1) or batch_size > self.rows:
                expected, got = f"an int from 1 to {self.rows}, the rows", shorten(batch_size)
                raise ConstraintError("fit(batch_size=)", expected, got, code="wrong-argument")
            self.size = int(batch_size)
        elif not self.is_iterable:
            self.whole = () if data is None else as_batch(data)
        samplers = (getattr(data, "sampler", None), getattr(data, "batch_sampler", None))
        holders = (data, *samplers, getattr(samplers[1], "sampler", None))
        found = (getattr(holder, "generator", None) for holder in holders)
        self._generators = [one for one in found if isinstance(one, torch.Generator)]
        self._order = torch.arange(0)
        self._epoch: Iterator[Batch] | None = None
        self._ahead: Batch | None = None

    def __repr__(self) -> str:
        if self.rows:
            return f"batch_size={self.size} of {self.rows} rows"
        kind, count = type(self._data).__name__, len(self._generators)
        return f"a {kind} with {count} generators" if self.is_iterable else "no batch_size"

    def next(self) -> Batch:
        """The next batch, the first of a new epoch behind the last one.

        Raises:
            ConstraintError: if an epoch has no batch.
        """
        if self.whole is not None:
            return self.whole
        if self.rows:
            if not len(self._order):
                self._order = torch.randperm(self.rows, device="cpu")
            rows, self._order = self._order[: self.size], self._order[self.size :]
            return tuple(_rows_of(item, rows) for item in as_batch(self._data))
        batch = self.fetch()
        if batch is None:
            self._epoch = map(as_batch, iter(self._data))
            batch = self.fetch()
        if batch is None:
            fix = "Is the DataLoader empty, or an iterator that ends? A list begins anew."
            expected, got = "at least one batch", "none in an epoch"
            raise ConstraintError("fit(data=)", expected, got, fix, code="wrong-data")
        self._ahead = None
        return batch

    def fetch(self) -> Batch | None:
        """The next batch of this epoch of an iterable, which `next` will give; None at its end."""
        if self._ahead is None and self._epoch is not None:
            self._ahead = next(self._epoch, None)
            if self._ahead is None:
                self._epoch = None
        return self._ahead

    def has_more(self) -> bool:
        """Whether the first batch has a part of the data only."""
        return self.size < self.rows or (self.is_iterable and self.fetch() is not None)

    @property
    def position(self) -> dict[str, Any] | None:
        """What `go_to` takes, of tensors; None inside of an epoch of an iterable."""
        if self._epoch is not None:
            return None
        generators = [generator.get_state() for generator in self._generators]
        return {"order": self._order.clone(), "generators": generators}

    def go_to(self, position: Mapping[str, Any] | None) -> None:
        """Go back to a position."""
        if position is None:
            self._epoch = iter(())  # its next batch was given already, and is lost
            return
        for generator, state in zip(self._generators, position["generators"], strict=True):
            generator.set_state(state)
        self._order, self._epoch, self._ahead = position["order"], None, None


def check_rows(objective: Any, batches: Batches) -> None:
    """Let an objective refuse batches of more data, if it must know how many there are."""
    check = getattr(objective, "_check_total_size", None)
    if callable(check):
        check(batches.rows, batches.has_more)


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
    # An array would give its numbers one by one.
    is_iterable = isinstance(data, Iterable) and not hasattr(data, "__array__")
    if isinstance(data, (str, list)) and data and all(isinstance(n, (str, Number)) for n in data):
        fix, got = "Write torch.as_tensor(data).", shorten(data)
        raise DeclarationError("fit(data=)", _DATA, got, fix, code="wrong-data")
    if data is None or (is_iterable and not isinstance(data, _WHOLE)):
        return data is None
    for column in _columns_of(data):
        if not isinstance(column, Tensor):
            got = f"a {type(data).__name__} with {shorten(column)}"
            fix = "Write torch.as_tensor(...), or a list for an iterable of batches."
            raise DeclarationError("fit(data=)", _DATA, got, fix, code="wrong-data")
        if column.is_meta or not column.numel():
            raise ConstraintError("fit(data=)", "data", shorten(column), code="wrong-data")
    if not isinstance(data, Tensor) and not data:
        fix = "Leave it out where forward takes no arguments."
        got = f"an empty {type(data).__name__}"
        raise ConstraintError("fit(data=)", "data", got, fix, code="wrong-data")
    return True


def _count_rows(data: Any) -> int:
    """How many rows there are to draw batches from."""
    if not isinstance(data, _WHOLE):
        expected, got = "tensors to draw batches from", f"a {type(data).__name__}"
        fix = "A DataLoader has a batch_size of its own."
        raise DeclarationError("fit(batch_size=)", expected, got, fix, code="wrong-data")
    columns = _columns_of(data)
    lengths = {len(column) if column.ndim else 0 for column in columns}
    if len(lengths) != 1 or 0 in lengths:
        expected = "tensors with as many rows each, to draw batches of them"
        got = f"shapes {', '.join(str(tuple(column.shape)) for column in columns)}"
        raise ConstraintError("fit(data=)", expected, got, code="wrong-data")
    return lengths.pop()

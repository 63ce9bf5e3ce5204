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
from declarative_dist.plain.batch import split_keywords

Batch = tuple[Any, ...]

_DATA = "a tensor, a tuple or dict of tensors, or an iterable of batches such as a DataLoader"


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
        tensors = _tensors_of(data)
        self._data = data
        self._rows = 0 if batch_size is None else _count_rows(data, tensors, batch_size)
        self._size = None if batch_size is None else int(batch_size)
        is_whole = batch_size is None and (data is None or tensors is not None)
        self.whole: Batch | None = as_batch(() if data is None else data) if is_whole else None
        self._generators = _generators_of(data)
        self._epoch: Iterator[Batch] | None = None
        self._ahead: Batch | None = None
        self._used = 0
        self._began: Tensor | None = None

    @property
    def is_loader(self) -> bool:
        """Whether these are batches of an iterable that only begins at its beginning."""
        return not (self.whole is not None or self._rows or isinstance(self._data, Sequence))

    def __repr__(self) -> str:
        if self._rows:
            return f"batch_size={self._size} of {self._rows} rows"
        if self.whole is not None:
            return "no batch_size"
        if not self.is_loader:
            return f"{len(self._data)} batches"
        generators = len(self._generators)
        return f"a {type(self._data).__name__} with {generators} generators of its own"

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
                raise self._no_batch(used)
        self._ahead = None
        self._used += 1
        return batch

    def _begin(self, used: int = 0) -> None:
        """Begin an epoch, behind so many of its batches."""
        if self._size is None:
            self._epoch = map(as_batch, islice(iter(self._data), used, None))
        else:
            self._began = torch.get_rng_state()
            order = torch.randperm(self._rows, device="cpu")
            self._epoch = self._draw(order[used * self._size :], self._size)
        self._used = used

    def _draw(self, order: Tensor, size: int) -> Iterator[Batch]:
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield tuple(_rows_of(item, rows) for item in as_batch(self._data))

    def _no_batch(self, used: int) -> ConstraintError:
        expected, got, fix = "at least one batch", "none in an epoch", "Is the DataLoader empty?"
        if used and isinstance(self._data, Iterator):
            expected, got = "batches for all steps", f"an iterator that ended after {used}"
            fix = "Give something that can be gone through again: a list or a DataLoader."
        return ConstraintError("fit(data=)", expected, got, fix, code="wrong-data")

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
            if position["began"] is not None:
                torch.set_rng_state(position["began"])
            self._begin(position["used"])


def as_batch(item: Any) -> Batch:
    """An item of a loader as arguments: a tuple or list has one in each of its own items."""
    return tuple(item) if isinstance(item, (tuple, list)) else (item,)


def _rows_of(item: Any, rows: Tensor) -> Any:
    """So many rows of a tensor, or of each in a dict; one number there is for all rows."""
    if isinstance(item, Mapping):
        return {name: t if t.ndim == 0 else _rows_of(t, rows) for name, t in item.items()}
    return item[rows.to(item.device)]


def _tensors_of(data: Any) -> list[Tensor] | None:
    """The tensors that data consists of; None for no data or an iterable of batches."""
    kind = type(data).__name__
    # A list of the data themselves, of which each would be a batch.
    has_numbers = isinstance(data, (list, set)) and isinstance(next(iter(data), None), Number)
    is_array = hasattr(data, "__array__") or isinstance(data, (str, bytes))
    if isinstance(data, Tensor):
        tensors = [data]
    elif isinstance(data, (tuple, Mapping)):
        nested = (
            item.values() if isinstance(item, Mapping) else [item] for item in as_batch(data)
        )
        tensors = [tensor for items in nested for tensor in items]
    elif data is None or (isinstance(data, Iterable) and not (is_array or has_numbers)):
        return None
    else:
        fix = "Write torch.as_tensor(data)." if is_array or has_numbers else ""
        kind = f"{kind} of numbers" if has_numbers else kind
        raise DeclarationError("fit(data=)", _DATA, f"a {kind}", fix, code="wrong-data")
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            got = f"a {kind} with {shorten(tensor)}"
            fix = "Write torch.as_tensor(...), or a list for an iterable of batches."
            raise DeclarationError("fit(data=)", _DATA, got, fix, code="wrong-data")
    empty = next((tensor for tensor in tensors if tensor.numel() == 0), None)
    if empty is not None or not tensors:
        got = shorten(empty) if tensors else f"an empty {kind}"
        fix = "" if tensors else "Leave it out where forward takes no arguments."
        raise ConstraintError("fit(data=)", "data", got, fix, code="wrong-data")
    return tensors


def _count_rows(data: Any, tensors: list[Tensor] | None, batch_size: Any) -> int:
    """How many rows there are to draw batches from."""
    if tensors is None:
        raise DeclarationError(
            "fit(batch_size=)",
            "tensors to draw batches from",
            "no data" if data is None else f"a {type(data).__name__}",
            "A DataLoader has a batch_size of its own.",
            code="wrong-data",
        )
    if any(tensor.layout is not torch.strided for tensor in tensors):
        expected, got = "dense tensors to draw rows of", "sparse ones"
        raise ConstraintError("fit(data=)", expected, got, "Use to_dense().", code="wrong-data")
    _, keywords = split_keywords(data) if isinstance(data, tuple) else ((), {})
    shared = {id(tensor) for tensor in keywords.values() if tensor.ndim == 0}
    lengths = {t.shape[0] if t.ndim else 0 for t in tensors if id(t) not in shared}
    rows = min(lengths)
    if len(lengths) > 1 or not rows:
        expected = "tensors with as many rows each, to draw batches of them"
        got = f"shapes {', '.join(str(tuple(tensor.shape)) for tensor in tensors)}"
        raise ConstraintError("fit(data=)", expected, got, code="wrong-data")
    if not is_count(batch_size, 1) or batch_size > rows:
        expected, got = f"an int from 1 to {rows}, the rows", shorten(batch_size)
        raise ConstraintError("fit(batch_size=)", expected, got, code="wrong-argument")
    return rows


def _generators_of(data: Any) -> list[torch.Generator]:
    """The generators that a DataLoader draws its order from, besides the global one."""
    holders = [data, getattr(data, "sampler", None)]
    holders.append(getattr(getattr(data, "batch_sampler", None), "sampler", None))
    found = {id(one): one for one in (getattr(holder, "generator", None) for holder in holders)}
    return [one for one in found.values() if isinstance(one, torch.Generator)]

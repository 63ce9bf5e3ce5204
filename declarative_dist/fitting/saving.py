"""Where a fit stands: written to a checkpoint, and taken up again from one."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from declarative_dist.errors import ExplainedError, StateMismatchError
from declarative_dist.fitting import random_state
from declarative_dist.fitting.batches import Batches, Place
from declarative_dist.fitting.checkpoint import (
    Checkpoint,
    load_state,
    state_of,
    unchanged_if_refused,
)
from declarative_dist.fitting.history import History

_KEYS = {"classes", "module", "optimizer", "data", "history", "used", "began", "random"}
"""What a checkpoint holds."""

_DAMAGES = (KeyError, TypeError, ValueError, OverflowError, AttributeError, RuntimeError)
"""What comes of reading one that is damaged inside."""


class _Mark(NamedTuple):
    step: int
    place: Place
    random: dict[str, Any]


class Saver:
    """Saves a fit after its last finished step, also from the middle of the next one.

    Args:
        path: the checkpoint, or None to save nothing.
        objective: the module that is trained.
        optimizer: what trains it.
        batches: the data, and the place in it.
        history: the record; how many steps it has is how many are finished.
        every: after how many steps to write.

    Raises:
        StateMismatchError: if the file is there and no checkpoint of `fit`.
        OSError: if nothing can be written there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        objective: nn.Module,
        optimizer: Optimizer,
        batches: Batches,
        history: History,
        every: int | None = None,
    ) -> None:
        self._checkpoint = None if path is None else Checkpoint(path)
        self._found = None if self._checkpoint is None else self._checkpoint.read()
        self._objective = objective
        self._optimizer = optimizer
        self._batches = batches
        self._history = history
        self._every = every
        self._mark: _Mark | None = None
        self._written = 0

    def resume(self) -> None:
        """Go on where the checkpoint was written; without one, nothing happens.

        Raises:
            StateMismatchError: if it is one of another objective, optimizer or data.
        """
        found, self._found = self._found, None
        if found is None:
            return
        if not found.keys() >= _KEYS:
            raise self._foreign("one without " + ", ".join(sorted(_KEYS - found.keys())))
        if found["data"] != self._batches.signature:
            raise StateMismatchError(
                "fit(resume=)",
                f"a checkpoint of data with {_told(self._batches.signature)}",
                f"one with {_told(found['data'])}",
            )
        before = random_state.captured()
        try:
            with unchanged_if_refused(self._objective, self._optimizer):
                self._batches.go_to(Place(found["used"], found["began"]))
                load_state(found, self._objective, self._optimizer)
                self._history.load_state_dict(found["history"])
                random_state.restore(found["random"])
        except BaseException as error:
            random_state.restore(before)
            self._history.clear()
            if isinstance(error, _DAMAGES) and not isinstance(error, ExplainedError):
                raise self._foreign("one that is damaged") from error
            raise
        self._written = self._history.step

    def mark(self) -> None:
        """Remember the random numbers and the place in the data before a step."""
        if self._checkpoint is not None:
            random = random_state.captured()
            self._mark = _Mark(self._history.step, self._batches.place, random)

    def write_if_due(self) -> None:
        """Write after every so many steps."""
        if self._every is not None and self._history.step % self._every == 0:
            self.write()

    def _foreign(self, got: str) -> StateMismatchError:
        checkpoint: Any = self._checkpoint
        error: StateMismatchError = checkpoint.foreign(got)
        return error

    def write(self) -> None:
        """Write the state after the last finished step, if any step is new."""
        if self._checkpoint is None or self._written == self._history.step:
            return
        mark = self._mark
        if mark is None or mark.step != self._history.step:  # no step has begun since
            mark = _Mark(self._history.step, self._batches.place, random_state.captured())
        self._checkpoint.write(
            {
                **state_of(self._objective, self._optimizer),
                "data": self._batches.signature,
                "history": self._history.state_dict(),
                "used": mark.place.used,
                "began": random_state.storable(mark.place.began),
                "random": random_state.storable(mark.random),
            }
        )
        self._written, self._found = mark.step, None


def _told(signature: dict[str, Any]) -> str:
    if signature["batch_size"] is None:
        return "no batch_size"
    return f"batch_size={signature['batch_size']} of {signature['length']} rows"

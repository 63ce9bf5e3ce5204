"""Checkpoints of a fit: one file, written whole or not at all, and read only where it belongs.

A new state is written beside the file, under a name of its process, flushed to the disk, and then
put in its place in one move; whatever happens meanwhile, the file is the old one or the new one.
It holds tensors, numbers and strings only, is read with `weights_only=True`, and ends with the
SHA-256 digest of all that, so that no damage goes unnoticed.
"""

from __future__ import annotations

import io
import os
import shutil
import warnings
from collections.abc import Mapping
from glob import escape
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from declarative_dist.errors import ConstraintError, StateMismatchError
from declarative_dist.fitting.batches import Batches
from declarative_dist.fitting.history import History
from declarative_dist.fitting.snapshot import Snapshot

FORMAT = "declarative_dist.fit"
VERSION = 4

_SEAL = f"\n{FORMAT} {VERSION} sha256 ".encode()
"""What stands behind the state, in front of its digest."""


class Checkpoint:
    """Goes on from a file, if it is there, and from then on writes the state of a fit to it.

    Args:
        path: the file; its folder must be there.
        snapshot: what gives and takes the state of module, optimizer and data.
        batches: the data, and the position in it.
        history: the record.
        every: after how many steps to write.
        resume: whether to go on from a file that is there.
        overwrite: whether to replace a file that is there.

    Raises:
        ConstraintError: if the file is there, without `resume` and `overwrite`, or its folder is
            not.
        StateMismatchError: if it is no checkpoint of `fit`, or one of another objective, optimizer
            or data.
        NonFiniteError: if it has parameters that are infinite or NaN.
        OSError: if nothing can be written there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        snapshot: Snapshot,
        batches: Batches,
        history: History,
        *,
        every: int | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self._path = Path(path).resolve()
        self._snapshot, self._batches, self._history = snapshot, batches, history
        self._every = every or (1 if batches.is_iterable else None)
        if not self._path.parent.is_dir():
            expected, got = "a file in a folder that is there", str(path)
            fix = f"Write Path({str(self._path.parent)!r}).mkdir(parents=True) first."
            raise ConstraintError("fit(checkpoint=)", expected, got, fix, code="wrong-argument")
        state = None if overwrite else read_state(self._path)
        if state is not None and not resume:
            expected = "a new file"
            got = f"{path}, which has {len(state['history']['losses'])} steps of a fit"
            fix = "Write resume=True to go on from it, or overwrite=True to begin anew."
            raise ConstraintError("fit(checkpoint=)", expected, got, fix, code="wrong-argument")
        _partial_of(self._path).touch()  # what fails, fails before a long run
        _partial_of(self._path).unlink()
        if state is not None:
            snapshot.load_state_dict(state)
            history.load_state_dict(state["history"])
        self._step = history.step

    def __call__(self, *step: object) -> None:
        """Write after every so many steps, and of an iterable after every epoch."""
        every = self._every
        if every and self._history.step // every > self._step // every:
            self.write()

    def write(self) -> None:
        """Write the state after the last step, unless it is in the file or no fit could go on."""
        step, batches = self._history.step, self._batches
        if self._step == step:
            return
        if not self._history.interrupted:
            batches.fetch()  # only so is it known whether an epoch is at its end
        if batches.position is not None:
            state = {**self._snapshot.state_dict(), "history": self._history.state_dict()}
            write_state(self._path, state)
            self._step = step

    def close(self) -> None:
        """Write for the last time; warn if the fit ends in its first epoch and has no file."""
        self.write()
        if self._step < self._history.step and not self._path.exists():
            warnings.warn(
                f"fit(checkpoint={str(self._path)!r}) has written nothing: of an iterable of "
                "batches it is written at the end of an epoch, and none has ended.",
                stacklevel=3,
            )


def _partial_of(path: Path) -> Path:
    """The file beside a checkpoint to which this process writes."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Put a new state in the place of the old one; the file's permissions stay.

    Raises:
        OSError: if the disk is full or the folder cannot be written; the old state stays.
        StateMismatchError: if the state has objects that `read_state` would refuse.
    """
    buffer, partial = io.BytesIO(), _partial_of(path)
    torch.save({"format": FORMAT, "version": VERSION, **state}, buffer)
    buffer.seek(0)
    foreign = get_unsafe_globals_in_checkpoint(buffer)
    if foreign:
        raise StateMismatchError(
            f"fit(checkpoint={str(path)!r})",
            "states of module and optimizer with tensors, numbers and strings only",
            ", ".join(foreign),
            "Have state_dict and get_extra_state give tensors and numbers.",
        )
    content = buffer.getbuffer()
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.write(_SEAL + sha256(content).hexdigest().encode())
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if Path("/proc/self").exists():  # what processes that were killed have left
        for left in path.parent.glob(f".{escape(path.name)}.*.partial"):
            if not Path("/proc", left.name.split(".")[-2]).exists():
                left.unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, Any] | None:
    """The state in a file, or None if there is no file.

    Raises:
        StateMismatchError: if the file is damaged, or not a checkpoint of this version.
    """
    if not path.exists():
        return None
    content, _, digest = path.read_bytes().rpartition(_SEAL)
    if sha256(content).hexdigest().encode() != digest:
        raise StateMismatchError(
            f"fit(checkpoint={str(path)!r})",
            f"a checkpoint of fit (version {VERSION}) with its digest",
            "a file that is damaged, of an earlier version, or something else",
            "It was not touched: give another path, or write overwrite=True to replace it.",
        )
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)

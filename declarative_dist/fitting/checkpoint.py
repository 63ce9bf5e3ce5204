"""Checkpoints of a fit: one file, written whole or not at all, and read only where it belongs."""

from __future__ import annotations

import io
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from hashlib import sha256
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from declarative_dist.errors import ConstraintError, DeclarationError, StateMismatchError
from declarative_dist.fitting.batches import Batches
from declarative_dist.fitting.history import History
from declarative_dist.fitting.snapshot import load_state, state_of

FORMAT = "declarative_dist.fit"
VERSION = 2

_SEAL = f"\n{FORMAT} {VERSION} sha256 ".encode()
"""What stands behind the state, in front of its digest."""


class Checkpoint:
    """A file that always holds a whole state.

    A new state is written beside the file, under a name of its process, flushed to the disk, and
    then put in its place in one move; whatever happens meanwhile, the file is the old one or the
    new one. It holds tensors, numbers and strings only, is read with `weights_only=True`, and ends
    with the SHA-256 digest of all that, so that no damage goes unnoticed.

    Args:
        path: the file; its folder must be there.

    Raises:
        DeclarationError: if it is no path.
        ConstraintError: if it is a folder.
        OSError: if nothing can be written there.

    Example:
        >>> import tempfile, torch
        >>> from declarative_dist.fitting.checkpoint import Checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoint = Checkpoint(f"{folder}/fit.pt")
        ...     checkpoint.write({"step": 3, "rng": torch.get_rng_state()})
        ...     checkpoint.read()["step"]
        3
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise DeclarationError("fit(checkpoint=)", "a path", f"a {type(path).__name__}")
        self.path = Path(path).resolve()
        if self.path.is_dir():
            raise ConstraintError(
                "fit(checkpoint=)",
                "the path of a file",
                f"the folder {self.path}",
                code="wrong-argument",
            )
        self._is_readable = False
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        with self._explaining():  # before a long run rather than behind it
            self._partial.touch()
            self._partial.unlink()
        for left in self.path.parent.glob(f".{escape(self.path.name)}.*.partial"):
            if not _is_running(left.name.split(".")[-2]):
                left.unlink(missing_ok=True)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            text = f"fit(checkpoint=) could not write {self.path}: {error.strerror or error}."
            raise OSError(error.errno, f"{text} What was there before is as it was") from error

    def write(self, state: Mapping[str, Any]) -> None:
        """Put a new state in the place of the old one; the file's permissions stay.

        Raises:
            StateMismatchError: if there is something in it but tensors, numbers and strings.
            OSError: if the disk is full or the folder cannot be written; the old state stays.
        """
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, "version": VERSION, **state}, buffer)
        content = buffer.getbuffer()
        if not self._is_readable:
            self._load(content)  # what nobody could read again is not worth a long run
            self._is_readable = True
        try:
            with self._explaining():
                with self._partial.open("wb") as file:
                    file.write(content)
                    file.write(_SEAL + sha256(content).hexdigest().encode())
                    file.flush()
                    os.fsync(file.fileno())
                if self.path.exists():
                    shutil.copymode(self.path, self._partial)
                self._partial.replace(self.path)
                _sync_folder(self.path.parent)
        except BaseException:
            with suppress(OSError):
                self._partial.unlink()
            raise

    def read(self) -> dict[str, Any] | None:
        """The state in the file, or None if there is no file.

        Raises:
            StateMismatchError: if the file is damaged, or not a checkpoint of this version.
        """
        if not self.path.exists():
            return None
        content, seal, digest = self.path.read_bytes().rpartition(_SEAL)
        if not seal:
            raise self._foreign("a file that is cut off, of an earlier version, or something else")
        if sha256(content).hexdigest().encode() != digest:
            raise self._foreign("one that was changed or damaged: its digest is another")
        return self._load(content)

    def _load(self, content: bytes | memoryview) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(
                io.BytesIO(content), map_location="cpu", weights_only=True
            )
        except UnpicklingError as error:
            found = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(content))
            raise StateMismatchError(
                f"fit(checkpoint={str(self.path)!r})",
                "states of module and optimizer with tensors, numbers and strings only",
                f"{', '.join(found)}",
                "Have state_dict and get_extra_state give tensors and numbers.",
            ) from error
        return state

    def _foreign(self, got: str) -> StateMismatchError:
        return StateMismatchError(
            f"fit(checkpoint={str(self.path)!r})",
            f"a checkpoint of fit (version {VERSION})",
            got,
            "It was not touched: give another path, or write overwrite=True to replace it.",
        )


class Saver:
    """Goes on from a checkpoint, if there is one, and writes it from then on.

    Args:
        path: the checkpoint, or None to save nothing.
        objective: the module that is trained.
        optimizer: what trains it.
        batches: the data, and the position in it.
        history: the record.
        every: after how many steps to write.
        resume: whether to go on from a file that is there.
        overwrite: whether to replace a file that is there.

    Raises:
        ConstraintError: if the file is there, without `resume` and `overwrite`.
        StateMismatchError: if it is no checkpoint of `fit`, or one of another objective, optimizer
            or data.
        NonFiniteError: if it has parameters that are infinite or NaN.
        OSError: if nothing can be written there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        objective: nn.Module,
        optimizer: Optimizer,
        batches: Batches,
        history: History,
        *,
        every: int | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self._file = None if path is None else Checkpoint(path)
        self._parts = objective, optimizer, batches
        self._history = history
        self._every = every
        self._step = 0
        state = None if self._file is None or overwrite else self._file.read()
        self._has_file = state is not None
        if state is None:
            return
        if not resume:
            raise ConstraintError(
                "fit(checkpoint=)",
                "a new file",
                f"{path}, which has {len(state['history']['losses'])} steps of a fit",
                "Write resume=True to go on from it, or overwrite=True to begin anew.",
                code="wrong-argument",
            )
        load_state(state, *self._parts)
        history.load_state_dict(state["history"])
        self._step = history.step

    def write_if_due(self) -> None:
        """Write after every so many steps, and in data that begins anew, after every epoch."""
        batches = self._parts[2]
        every = self._every or (1 if batches.is_loader else None)
        if self._file is None or every is None:
            return
        if self._history.step // every > self._step // every:
            self.write()

    def write(self) -> None:
        """Write the state after the last step, unless it is in the file or no fit could go on."""
        step, batches = self._history.step, self._parts[2]
        if self._file is None or self._step == step:
            return
        if not self._history.interrupted:
            batches.fetch()  # only so is it known whether an epoch is at its end
        if batches.position is None:
            return
        self._file.write({**state_of(*self._parts), "history": self._history.state_dict()})
        self._step, self._has_file = step, True

    def close(self) -> None:
        """Write for the last time; warn if the fit ends in its first epoch and has no file."""
        self.write()
        if self._file is not None and self._history.step and not self._has_file:
            warnings.warn(
                f"fit(checkpoint={str(self._file.path)!r}) has written nothing: of batches from a "
                "loader it is written at the end of an epoch, and none has ended.",
                stacklevel=3,
            )


def _is_running(name: str) -> bool:
    """Whether a process has this number, where that can be found out without disturbing it."""
    if os.name == "nt" or not name.isdigit():
        return True
    try:
        os.kill(int(name), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Have the new name on the disk too, where folders can be opened."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems do not know it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)

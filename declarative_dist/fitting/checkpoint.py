"""Checkpoints of a fit: written whole or not at all, and read only where they belong."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from declarative_dist.errors import ConstraintError, DeclarationError, StateMismatchError

FORMAT = "declarative_dist.fit"
VERSION = 1


class Checkpoint:
    """A file that always holds a whole state.

    A new state is written beside the file, flushed to the disk, and then put in its place in one
    move; whatever happens meanwhile, the file is the old one or the new one. It holds tensors,
    numbers and strings only and is read with `weights_only=True`.

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
        self._beside = self.path.with_name(f".{self.path.name}.partial")
        with self._explained():  # before a long run rather than behind it
            self._beside.touch()
            self._beside.unlink()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            text = f"fit(checkpoint=) could not write {self.path}: {error.strerror or error}."
            raise OSError(error.errno, f"{text} What was there before is as it was") from error

    def write(self, state: Mapping[str, Any]) -> None:
        """Put a new state in the place of the old one.

        Raises:
            OSError: if the disk is full or the folder cannot be written; the old state stays.
        """
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, "version": VERSION, **state}, buffer)
        try:
            with self._explained():
                with self._beside.open("wb") as file:
                    file.write(buffer.getbuffer())
                    file.flush()
                    os.fsync(file.fileno())
                self._beside.replace(self.path)
                _sync_folder(self.path.parent)
        except BaseException:
            with suppress(OSError):
                self._beside.unlink()
            raise

    def read(self) -> dict[str, Any] | None:
        """The state in the file, or None if there is no file.

        Raises:
            StateMismatchError: if the file is broken, or not a checkpoint of `fit`.
        """
        if not self.path.exists():
            return None
        content = io.BytesIO(self.path.read_bytes())
        try:
            state = torch.load(content, map_location="cpu", weights_only=True)
        except Exception as error:  # a foreign file fails in any way
            raise self.foreign("a file that is broken or something else") from error
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise self.foreign("something else")
        if state.get("version") != VERSION:
            raise self.foreign(f"one of version {state.get('version')}")
        return state

    def foreign(self, got: str) -> StateMismatchError:
        """The error about a file that is something else."""
        return StateMismatchError(
            f"fit(checkpoint={str(self.path)!r})",
            f"a checkpoint of fit (version {VERSION})",
            got,
            "It was not touched: give another path, or move it away.",
        )


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


def state_of(objective: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """The state of a module and its optimizer, and what they must agree on with a reader."""
    return {
        "classes": _classes(objective, optimizer),
        "module": objective.state_dict(),
        "optimizer": optimizer.state_dict(),
    }


def load_state(state: Mapping[str, Any], objective: nn.Module, optimizer: Optimizer) -> None:
    """Load both.

    Raises:
        StateMismatchError: if they are of another class, or tensors of another shape or dtype.
    """
    _check_classes(state["classes"], _classes(objective, optimizer))
    _check_tensors(state["module"], objective.state_dict(), type(objective).__name__)
    _check_groups(state["optimizer"], optimizer)
    objective.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])


@contextmanager
def unchanged_if_refused(objective: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Give both their states back if something goes wrong."""
    before = deepcopy(objective.state_dict()), deepcopy(optimizer.state_dict())
    try:
        yield
    except BaseException:
        objective.load_state_dict(before[0])
        optimizer.load_state_dict(before[1])
        raise


def _classes(objective: nn.Module, optimizer: Optimizer) -> dict[str, str]:
    classes = {name: type(module).__qualname__ for name, module in objective.named_modules()}
    return {**classes, "(optimizer)": type(optimizer).__qualname__}


def _check_classes(saved: Mapping[str, str], mine: Mapping[str, str]) -> None:
    for name in {**mine, **saved}:
        if saved.get(name) != mine.get(name):
            raise StateMismatchError(
                f"fit(resume=): {name or 'the objective'}",
                f"{mine.get(name, 'no such module')}",
                f"a checkpoint of {saved.get(name, 'an objective without it')}",
                "Give the objective and the optimizer that were saved, or another path.",
            )


def _check_tensors(saved: Mapping[str, Any], mine: Mapping[str, Any], owner: str) -> None:
    for name in {**mine, **saved}:
        kinds = [_kind(tensors, name) for tensors in (mine, saved)]
        if kinds[0] != kinds[1]:
            raise StateMismatchError(
                f"fit(resume=): {owner}.{name}", kinds[0], f"{kinds[1]} in the checkpoint"
            )


def _kind(tensors: Mapping[str, Any], name: str) -> str:
    if name not in tensors:
        return "no such tensor"
    value = tensors[name]
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"


def _check_groups(saved: Mapping[str, Any], optimizer: Optimizer) -> None:
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    found = [len(group["params"]) for group in saved["param_groups"]]
    if sizes != found:
        raise StateMismatchError(
            f"fit(resume=): {type(optimizer).__name__}",
            f"groups of {sizes} parameters",
            f"{found} in the checkpoint",
        )

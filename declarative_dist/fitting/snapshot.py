"""The state of a fit: kept from step to step to go back to, and written to and read from files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.errors import StateMismatchError
from declarative_dist.fields.kinds import is_declarative
from declarative_dist.fitting.batches import Batches
from declarative_dist.fitting.finite import check_parameters
from declarative_dist.plain.restoring import restoring
from declarative_dist.randomness import random_state, set_random_state

_PLAIN = frozenset((float, int, bool, str, tuple, type(None)))
"""Types of an optimizer's numbers and options that nothing changes in place."""


class Snapshot:
    """A copy of all that a step changes, to go back to if the next step fails.

    These are the parameters in the optimizer, its state and groups, and the buffers that may
    change, such as the running averages of a normalisation; declared constants do not. The copy
    is on the same device, and costs as much memory as they do. With `batches` the position in the
    data and the random numbers are part of it.

    Args:
        objective: the module that is trained.
        optimizer: what trains it.
        batches: the data, if the fit has a checkpoint.

    Attributes:
        parameters: those in the optimizer, when the copy was made.
    """

    def __init__(
        self, objective: nn.Module, optimizer: Optimizer, batches: Batches | None = None
    ) -> None:
        self._objective, self._optimizer, self._batches = objective, optimizer, batches
        self._buffers = list(_changing_buffers(objective))
        self._parts: list[Any] = []
        self._live: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._records: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._groups: list[dict[str, Any]] = []
        self._states: dict[Any, dict[str, Any]] = {}
        self._draws: Any = None
        self._step: int | None = None
        self.parameters: list[Tensor] = []

    def take(self, step: int) -> None:
        """Copy the current state, the one after this step."""
        self._step = None  # an interruption may leave the copy half made
        groups = self._optimizer.param_groups
        records = [*groups, *self._optimizer.state.values()]
        parts = records[:]
        for record in records:
            parts += record.values()
        for group in groups:
            parts += group["params"]
        if not _are_same(parts, self._parts):
            is_flat = self._copy_records(records)
            self._parts = parts if is_flat else []
        self._copy_numbers(self._copies, self._live)
        if self._batches is not None:
            self._draws = self._batches.position, random_state()
        self._step = step

    def _copy_records(self, records: list[dict[str, Any]]) -> bool:
        """Copy what the optimizer has beside the numbers of tensors, and find those tensors.

        Returns:
            Whether only tensors can change in place.
        """
        self._groups, self._states = self._optimizer.param_groups[:], dict(self._optimizer.state)
        self.parameters = [p for group in self._groups for p in group["params"]]
        self._records, live, is_flat = [], self.parameters + self._buffers, True
        for record in records:
            copy = record.copy()
            self._records.append((record, copy))
            for name, value in record.items():
                if isinstance(value, Tensor):
                    live.append(value)
                elif name == "params":
                    copy[name] = list(value)
                elif type(value) not in _PLAIN:
                    copy[name], is_flat = deepcopy(value), False
        if not _are_same(live, self._live):
            self._live, self._copies = live, [tensor.detach().clone() for tensor in live]
        return is_flat

    def _copy_numbers(self, into: list[Tensor], tensors: list[Tensor]) -> None:
        """Copy the numbers of tensors in one call."""
        before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)  # in every step, a fraction of what a context costs
        try:
            torch._foreach_copy_(into, tensors)  # pyright: ignore[reportPrivateImportUsage]
        finally:
            torch._C._set_grad_enabled(before)

    def restore(self, step: int) -> None:
        """Go back to the state after this step, if it is the one copied, and clear gradients."""
        if self._step != step:
            return
        self._optimizer.zero_grad()
        self._copy_numbers(self._live, self._copies)
        for record, copy in self._records:
            record.clear()
            record.update(copy)
        self._optimizer.param_groups[:] = self._groups
        self._optimizer.state.clear()
        self._optimizer.state.update(self._states)
        if self._batches is not None:
            position, numbers = self._draws
            self._batches.go_to(position)
            set_random_state(numbers)
        self._step = None

    def state_dict(self) -> dict[str, Any]:
        """The current state of a fit, of tensors, numbers and strings, for a file."""
        optimizer = self._optimizer.state_dict()
        return {
            "signature": self._signature(),
            "module": self._objective.state_dict(),
            "optimizer": optimizer,
            "entries": _count_entries(optimizer),
            "data": self._batches.position if self._batches is not None else None,
            "random": random_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` gave; all of it, or nothing changes.

        Raises:
            StateMismatchError: if it is one of other classes, tensors or data, or lacks something.
            NonFiniteError: if it has parameters that are infinite or NaN.
        """
        saved, mine = dict(state["signature"]), self._signature()
        mine["(optimizer state)"] = f"{state['entries']} entries"
        saved["(optimizer state)"] = f"{_count_entries(state['optimizer'])} entries"
        for name in {**mine, **saved}:
            if saved.get(name) != mine.get(name):
                raise StateMismatchError(
                    f"fit(resume=): {name}",
                    mine.get(name, "nothing of this name"),
                    f"a checkpoint of {saved.get(name, 'something without it')}",
                    "Give the objective, optimizer and data that were saved, or another path.",
                )
        check_parameters(self._objective, "in the checkpoint", state["module"])
        self.take(0)
        try:
            with restoring(self._objective):
                self._objective.load_state_dict(state["module"])
                self._optimizer.load_state_dict(state["optimizer"])
                if self._batches is not None:
                    self._batches.go_to(state["data"])
                set_random_state(state["random"])
        except BaseException:
            self.restore(0)
            raise

    def _signature(self) -> dict[str, str]:
        """What a state and whoever goes on from it must agree on, in words."""
        name, optimizer = type(self._objective).__name__, type(self._optimizer)
        sizes = [len(group["params"]) for group in self._optimizer.param_groups]
        found = {
            path or "the objective": type(module).__qualname__
            for path, module in self._objective.named_modules()
        }
        found["(optimizer)"] = f"{optimizer.__qualname__} for groups of {sizes} parameters"
        for key, value in self._objective.state_dict().items():
            is_tensor = isinstance(value, Tensor)
            kind = f"tensor of shape {tuple(value.shape)} and {value.dtype}" if is_tensor else ""
            found[f"{name}.{key}"] = f"a {kind or type(value).__name__}"
        found["data"] = repr(self._batches)
        return found


def _are_same(these: list[Any], those: list[Any]) -> bool:
    """Whether two lists have the same objects, not only equal ones."""
    return len(these) == len(those) and all(map(is_, these, those))


def _changing_buffers(objective: nn.Module) -> Iterator[Tensor]:
    for module in objective.modules():
        if isinstance(module, Constraint):
            continue
        kind: Any = type(module)
        constants = kind.__declaration__.fields if is_declarative(module) else {}
        for name, buffer in module._buffers.items():
            is_saved = name not in module._non_persistent_buffers_set and name not in constants
            if buffer is not None and is_saved:
                yield buffer


def _count_entries(optimizer: Mapping[str, Any]) -> int:
    """How many tensors and numbers an optimizer remembers of its steps."""
    return sum(len(entry) for entry in optimizer["state"].values())

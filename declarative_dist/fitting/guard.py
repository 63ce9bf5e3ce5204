"""The last good state of a module and its optimizer, and what went bad after it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.errors import NonFiniteError
from declarative_dist.fields.part import is_declarative
from declarative_dist.fitting.finite import bad_data, first_bad
from declarative_dist.fitting.tracked import field_of

_PLAIN = (Tensor, int, float, str, type(None))


class Guard:
    """Keeps one copy of all that a step changes, to go back to if the step fails.

    The copy is of the parameters in the optimizer, its state, and the buffers of modules that are
    not declared (the running averages of a normalisation; constants do not change). It is on the
    same device, and costs as much memory as parameters and optimizer do.

    Args:
        objective: the module that is trained.
        optimizer: what trains it.
    """

    def __init__(self, objective: nn.Module, optimizer: Optimizer) -> None:
        self._objective = objective
        self._optimizer = optimizer
        self._buffers = list(_changing_buffers(objective))
        self._states: list[tuple[Any, dict[str, Any]]] = []
        self._live: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._step: int | None = None

    def _parameters(self) -> list[Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def take(self, step: int) -> None:
        """Keep the current state, that after a step; call it without gradients."""
        self._step = None  # an interruption may leave the copy half made
        states = [(key, dict(state)) for key, state in self._optimizer.state.items()]
        live = self._parameters() + self._buffers
        for _, state in states:
            for name, value in state.items():
                if isinstance(value, Tensor):
                    live.append(value)
                elif not isinstance(value, _PLAIN):
                    state[name] = copy.deepcopy(value)
        if len(live) == len(self._live) and all(map(is_, live, self._live)):
            _copy(self._copies, live)
        else:
            self._copies = [tensor.detach().clone() for tensor in live]
        self._live, self._states = live, states
        self._step = step

    def restore(self, step: int) -> None:
        """Go back to the state after a step, unless it is the current one; clear gradients."""
        if self._step != step:
            return
        self._optimizer.zero_grad()
        with torch.no_grad():
            _copy(self._live, self._copies)
        self._optimizer.state.clear()
        self._optimizer.state.update(self._states)

    def check(self, step: int, loss: float, batch: tuple[Any, ...]) -> None:
        """Refuse a step whose loss, or parameters after it, are not finite.

        Raises:
            NonFiniteError: naming the field and the index.
        """
        if math.isfinite(loss) and _are_finite([p for p in self._parameters() if p.requires_grad]):
            return
        error = self._blame(step, loss, batch)
        if error is not None:
            raise error

    def _blame(self, step: int, loss: float, batch: tuple[Any, ...]) -> NonFiniteError | None:
        bad = bad_data(batch)
        hint = f"The batch has {bad}." if bad else "Check the data and try a smaller lr."
        fix = f"{hint} Everything is as it was before this step."
        named = [(p, p.detach()) for p in self._objective.parameters() if p.requires_grad]
        gradients = [(p, p.grad.detach()) for p, _ in named if p.grad is not None]
        for pairs, what in ((named, ""), (gradients, "the gradient of ")):
            for parameter, tensor in pairs:
                found = first_bad(tensor)
                if found is not None:
                    index, value = found
                    subject, raw = field_of(self._objective, parameter)
                    got = f"{what}{raw}{index} = {value} at step {step}"
                    return NonFiniteError(subject, "finite numbers", got, fix)
        if math.isfinite(loss):  # a sum overflowed, nothing else
            return None
        name = type(self._objective).__name__
        return NonFiniteError(name, "a finite loss", f"{loss} at step {step}", fix)


def _changing_buffers(objective: nn.Module) -> Iterator[Tensor]:
    for module in objective.modules():
        if not isinstance(module, Constraint) and not is_declarative(module):
            for name, buffer in module._buffers.items():
                if buffer is not None and name not in module._non_persistent_buffers_set:
                    yield buffer


def _copy(into: list[Tensor], tensors: list[Tensor]) -> None:
    if into:
        torch._foreach_copy_(into, tensors)  # pyright: ignore[reportPrivateImportUsage]


def _are_finite(tensors: list[Tensor]) -> bool:
    """Whether sums of the tensors are finite, as they are of finite numbers but for overflow."""
    if len(tensors) > 8 or any(tensor.device.type != "cpu" for tensor in tensors):
        sums = torch._foreach_norm(tensors, 1)  # pyright: ignore[reportPrivateImportUsage]
        place = sums[0].device
        return math.isfinite(torch.stack([s.to(place, torch.float32) for s in sums]).sum().item())
    sums = (tensor.sum() if tensor.ndim else tensor for tensor in tensors)
    return all(math.isfinite(abs(one.item())) for one in sums)

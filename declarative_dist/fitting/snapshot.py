"""The last good state of a module and its optimizer, and what went bad after it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import suppress
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.errors import NonFiniteError, shorten
from declarative_dist.fields.kinds import is_declarative
from declarative_dist.fitting.finite import bad_data, bracketed, first_bad
from declarative_dist.fitting.tracked import declared_values, field_of

_PLAIN = (int, float, str, type(None))

FEW = 8
"""Up to how many tensors it is cheaper to look at one after another."""


class Guard:
    """Keeps one copy of all that a step changes, to go back to if the step fails.

    The copy is of the parameters in the optimizer, its state, and the buffers that may change (the
    running averages of a normalisation; not declared constants). It is on the same device, and
    costs as much memory as parameters and optimizer do.

    Args:
        objective: the module that is trained.
        optimizer: what trains it.
    """

    def __init__(self, objective: nn.Module, optimizer: Optimizer) -> None:
        self._objective = objective
        self._optimizer = optimizer
        self._buffers = list(_changing_buffers(objective))
        self._states: list[tuple[Any, dict[str, Any]]] = []
        self._slots: list[tuple[dict[str, Any], str]] = []
        self._live: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._watched: list[Tensor] = []
        self._are_plain = True
        self._has_few = True
        self._step: int | None = None

    def take(self, step: int) -> None:
        """Keep the current state, that after a step."""
        self._step = None  # an interruption may leave the copy half made
        if self._is_as_before():
            self._copy(self._copies, self._live)
        else:
            self._take_anew()
        self._step = step

    def _is_as_before(self) -> bool:
        """Whether the tensors to copy are those of the last time, and nothing else is."""
        states = self._optimizer.state
        live = [p for group in self._optimizer.param_groups for p in group["params"]]
        live += self._buffers
        live += [state.get(name) for state, name in self._slots]
        return (
            sum(map(len, states.values())) == len(self._slots)
            and len(live) == len(self._live)
            and all(map(is_, live, self._live))
        )

    def _take_anew(self) -> None:
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        live = parameters + self._buffers
        self._states, self._slots = [], []
        for key, state in self._optimizer.state.items():
            kept = dict(state)
            self._states.append((key, kept))
            for name, value in state.items():
                if isinstance(value, Tensor):
                    live.append(value)
                    self._slots.append((state, name))
                elif not isinstance(value, _PLAIN):
                    kept[name] = copy.deepcopy(value)
        self._live, self._copies = live, [tensor.detach().clone() for tensor in live]
        self._are_plain = all(type(tensor) in (Tensor, nn.Parameter) for tensor in live)
        self._watched = parameters
        self._has_few = len(parameters) <= FEW and all(p.is_cpu for p in parameters)

    def _copy(self, into: list[Tensor], tensors: list[Tensor]) -> None:
        """Copy the numbers of tensors; those that are spread over processes one by one."""
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(False)  # in every step, and half as much as a context costs
        try:
            if self._are_plain:
                torch._foreach_copy_(into, tensors)  # pyright: ignore[reportPrivateImportUsage]
            else:
                for mine, theirs in zip(into, tensors, strict=True):
                    mine.copy_(theirs)
        finally:
            torch.set_grad_enabled(before)

    def restore(self, step: int) -> None:
        """Go back to the state after a step, unless it is the current one; clear gradients."""
        if self._step != step:
            return
        self._optimizer.zero_grad()
        self._copy(self._live, self._copies)
        self._optimizer.state.clear()
        self._optimizer.state.update(self._states)
        self._slots, self._live, self._step = [], [], None

    def check(self, step: int, loss: float, batch: tuple[Any, ...]) -> None:
        """Refuse a step whose loss, or parameters after it, are not finite.

        Raises:
            NonFiniteError: naming the field and the index.
        """
        if math.isfinite(loss) and _are_finite(self._watched, self._has_few):
            return
        error = self._blame(step, loss, batch)
        if error is not None:
            why = "" if math.isfinite(loss) else self._why(step, batch)
            fix = f"{why} {error.fix}".strip()
            raise NonFiniteError(error.subject, error.expected, error.got, fix, code=error.code)

    def _why(self, step: int, batch: tuple[Any, ...]) -> str:
        """What the objective itself says of its loss, at the last good state."""
        asked = getattr(self._objective, "why_not_finite", None)
        if not callable(asked):
            return ""
        self.restore(step - 1)
        with torch.no_grad(), suppress(Exception):
            return str(asked(*batch))
        return ""

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
                    subject, raw = field_of(self._objective, parameter, index)
                    got = f"{what}{raw}{bracketed(index)} = {value} at step {step}"
                    return NonFiniteError(subject, "finite numbers", got, fix)
        for parameter, name, current in declared_values(self._objective):
            found = first_bad(current)
            if found is not None:
                got = f"{name}{bracketed(found[0])} = {found[1]} at step {step}"
                return NonFiniteError(
                    field_of(self._objective, parameter)[0], "finite numbers", got, fix
                )
        if math.isfinite(loss):  # a sum overflowed, nothing else
            return None
        largest, _ = max(named, key=lambda pair: pair[1].abs().amax() if pair[1].numel() else 0)
        subject, raw = field_of(self._objective, largest)
        fix = f"The largest number is in {raw} of {subject}: {shorten(largest)}. {fix}"
        name = type(self._objective).__name__
        return NonFiniteError(name, "a finite loss", f"{loss} at step {step}", fix)


def _changing_buffers(objective: nn.Module) -> Iterator[Tensor]:
    for module in objective.modules():
        if isinstance(module, Constraint):
            continue
        kind: Any = type(module)
        constants = kind.__declaration__.fields if is_declarative(module) else {}
        for name, buffer in module._buffers.items():
            is_kept = name not in module._non_persistent_buffers_set and name not in constants
            if buffer is not None and is_kept:
                yield buffer


def _are_finite(tensors: list[Tensor], few: bool) -> bool:
    """Whether sums of the tensors are finite, as they are of finite numbers but for overflow."""
    if few:
        sums = (tensor.sum() if tensor.ndim else tensor for tensor in tensors)
        return all(math.isfinite(abs(one.item())) for one in sums)
    norms = torch._foreach_norm(tensors, 1)  # pyright: ignore[reportPrivateImportUsage]
    place = norms[0].device
    total = torch.stack([norm.to(place, torch.float32) for norm in norms]).sum()
    return math.isfinite(total.item())

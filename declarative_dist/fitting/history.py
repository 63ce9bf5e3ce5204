"""What happened in a fit: the loss of every step and the path of every value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def spell_steps(count: int) -> str:
    """A number of steps in words."""
    return f"{count} step{'' if count == 1 else 's'}"


class History:
    """The record of a fit, filled step by step.

    Losses are kept of every step. Values are kept after each of the first 31 steps, and then after
    16 more whenever the number of steps doubles: every second step, from 64 on every fourth, and
    so forth, so that a record of any length stays small. The values at the end are kept, too.

    Attributes:
        losses: the loss of each step, computed before its update.
        interrupted: whether Ctrl-C ended the fit.
        stopped: whether a callback ended the fit.
        converged: whether the fit has reached an answer; None where that cannot be known.
        verdict: how the fit ended, in one sentence.

    Example:
        >>> from declarative_dist.fitting.history import History
        >>> history = History()
        >>> history.add(2.5, {"loc": 0.0})
        >>> history.add(1.5, {"loc": 0.1})
        >>> history
        History(2 steps, loss 2.5 to 1.5, values of loc)
        >>> history.values
        {'loc': [0.0, 0.1]}
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.interrupted = False
        self.stopped = False
        self.converged: bool | None = None
        self.verdict = ""
        self._records: dict[int, dict[str, Any]] = {}

    @property
    def step(self) -> int:
        """How many steps are done."""
        return len(self.losses)

    @property
    def steps(self) -> list[int]:
        """The steps after which values were recorded, counted from 1."""
        return [step for step in self._records if step <= self.step]

    @property
    def values(self) -> dict[str, list[Any]]:
        """By dotted name of the field its constrained value after each of `steps`.

        A number for a field of shape `()`, nested lists for others. Fields of more than 100
        numbers, and frozen ones, are left out.
        """
        records = [self._records[step] for step in self.steps]
        names = records[0] if records else {}
        return {name: [values[name] for values in records] for name in names}

    def is_due(self, step: int) -> bool:
        """Whether the values after this step are to be recorded."""
        return step % 2 ** max(step.bit_length() - 5, 0) == 0

    def add(self, loss: float, values: dict[str, Any] | None = None) -> None:
        """Record a step that is done; that it counts is the last thing to happen."""
        if values is not None:
            self._records[self.step + 1] = values
        self.losses.append(loss)

    def end(self, values: dict[str, Any]) -> None:
        """Record the values after the last step, unless they are there already."""
        if self.step:
            self._records.setdefault(self.step, values)

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, strings and lists, such as JSON can hold."""
        return {
            "losses": list(self.losses),
            "steps": self.steps,
            "values": self.values,
            "interrupted": self.interrupted,
            "stopped": self.stopped,
            "converged": self.converged,
            "verdict": self.verdict,
        }

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes; of tensors, numbers and lists."""
        return {
            "losses": torch.tensor(self.losses, dtype=torch.float64, device="cpu"),
            "steps": self.steps,
            "values": self.values,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue a record, as one that was neither interrupted nor stopped."""
        steps, values = state["steps"], state["values"]
        self.losses = state["losses"].tolist()
        self._records = {
            step: {name: path[at] for name, path in values.items()}
            for at, step in enumerate(steps)
            if self.is_due(step)  # the last one was kept because it was the last
        }

    def __len__(self) -> int:
        return self.step

    def __repr__(self) -> str:
        losses = f", loss {self.losses[0]:.4g} to {self.losses[-1]:.4g}" if self.losses else ""
        names = list(self.values)
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        values = f", values of {shown}" if names else ""
        ended = ", interrupted" if self.interrupted else ", stopped" if self.stopped else ""
        verdict = f": {self.verdict}" if self.verdict else ""
        return f"History({spell_steps(self.step)}{losses}{values}{ended}){verdict}"

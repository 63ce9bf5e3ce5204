"""The steps of a fit, one after the other, each of them whole and good or not done at all."""

from __future__ import annotations

from collections.abc import Iterator

from declarative_dist.fitting.batches import Batches
from declarative_dist.fitting.evaluation import Closure
from declarative_dist.fitting.history import History
from declarative_dist.fitting.saving import Saver
from declarative_dist.fitting.snapshot import Guard
from declarative_dist.fitting.tracked import FieldValues


def finished_steps(
    steps: int,
    closure: Closure,
    batches: Batches,
    history: History,
    guard: Guard,
    saver: Saver,
    fields: FieldValues,
) -> Iterator[int]:
    """Do the steps, and give the number of each when it is done and good."""
    for step in range(history.step + 1, steps + 1):
        saver.mark()
        guard.take(step - 1)
        closure.begin(batches.next(), step)
        closure.optimizer.step(closure)  # type: ignore[arg-type]
        loss = closure.first_loss()
        guard.check(step, loss, closure.batch)
        history.add(loss, fields.read() if history.is_due(step) else None)
        yield step

"""The loop over an objective: thin, and safe against interruptions and numbers that blow up."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from declarative_dist.fitting import arguments
from declarative_dist.fitting.batches import Batches, check_rows
from declarative_dist.fitting.checkpoint import Checkpoint
from declarative_dist.fitting.finite import ADVICE, error_of_step, reason_of
from declarative_dist.fitting.history import History
from declarative_dist.fitting.parameters import FieldValues
from declarative_dist.fitting.progress import Progress
from declarative_dist.fitting.snapshot import Snapshot
from declarative_dist.fitting.strategies import Strategy, choose_strategy
from declarative_dist.plain.tensors import are_finite


def fit(
    objective: nn.Module,
    data: Any = None,
    *,
    steps: int | None = None,
    optimizer: Optimizer | Callable[[list[nn.Parameter]], Optimizer] | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    tolerance: float | None = None,
    restarts: int | None = None,
    progress: bool | Literal["always"] = True,
    compile: bool = False,  # noqa: A002 - what torch calls it
    checkpoint: str | os.PathLike[str] | None = None,
    every: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Iterable[arguments.Callback] | arguments.Callback = (),
) -> History:
    """Minimise an objective, in place, until it is settled or for as many steps as you say.

    Without `steps` the fit ends at an answer, or says why not. A loss of whole data that is the
    same every time, such as a likelihood or a posterior, begins at the best of several starts (the
    values as they are, and what the data suggest), copy by copy, and goes on by Newton's method
    with exact second derivatives; by L-BFGS above 100 numbers of a copy. An automatic guide is
    fitted on fixed draws, from several starts (`NormalGuide`). A noisy loss (of mini-batches, or
    of other draws) takes steps of Adam with a rate that decays when the loss stops
    falling, and ends with averages over the last phase. With `steps` values begin as they are.

    Ctrl-C ends it like `steps` does, after the last finished step. If a step goes wrong, module
    and optimizer go back to where they were before it (a copy in memory serves that), and the
    error has the record so far as `error.history`.

    Args:
        objective: a module whose forward is a scalar loss; what is trainable in it is trained. A
            method `before_fit(*batch)` is called before step 1: there a new guide finds its start.
        data: the arguments of forward: None; a tensor, or a tuple or dict of tensors, whole in
            every step; or an iterable of batches, such as a DataLoader, gone through in every
            epoch. The items of a tuple are arguments; a dict that ends it gives keywords, as in
            `(x, y, {"weights": w})`; single numbers in a dict are for all rows.
        steps: how many steps in all, those before `resume` too, counted from 1; None to go on
            until it is settled.
        optimizer: one, or a callable from parameters to one; None for the one that suits the
            objective, with `steps` or `lr` Adam, torch's fused one where it can be. A step is
            `optimizer.step(closure)`, so LBFGS works: its class gets strong Wolfe.
        lr: the rate of an optimizer that is made; None for its own, for Adam 0.01, or 0.03 at
            first where it decays.
        batch_size: draw so many rows of the tensors for a step, without replacement, in the order
            of `torch.randperm`; the last batch of an epoch has what is left of it, and counts like
            any other: a size that divides the data has less noise. With `weights` that differ
            much, the mean over batches is not that over all data, as each batch divides by its own
            sum: draw rows by their weights instead, with `torch.utils.data.WeightedRandomSampler`.
        tolerance: when a fit without `steps` is settled, relative to one plus the loss: how small
            the gradient is to be, by default as small as rounding lets it; of a noisy loss what a
            lower rate still has to gain, by default 1e-4.
        restarts: how many more starts to try, from random numbers further and further away; of a
            mixture also with other centres. None for 8 of a guide, to which some far away
            are added, and for no more of the others.
        progress: True for a bar on a terminal (extra `fit`), "always" for one anywhere, or False.
        compile: compile the objective and its gradients, as one graph, which has no second
            derivatives: without `steps` Adam goes down then. In it torch's validation of
            distributions is off by default, as `torch.compile` wants it.
        checkpoint: a file for the state, written at the end; whole, or not at all. Of an iterable
            of batches, it is written at the ends of epochs.
        every: write it after every so many steps, too; of an iterable, at the end of the epoch.
        resume: go on from that file, if it is there, bit for bit: module, optimizer and its
            settings, random numbers, position in the data, history. Newton's method and L-BFGS
            go on from the values, to the same answer. Callbacks save what is theirs.
        overwrite: replace that file, if it is there.
        callbacks: called after a step with its number, its loss (from before the update) and the
            objective; True from one ends the fit.

    Returns:
        The losses of all steps, the paths of the values of all small fields, whether the fit has
        `converged`, and a `verdict` in one sentence: it also names fields that are held at the end
        of their band, and those that the data do not determine.

    Warns:
        NotConvergedWarning: if a fit without `steps` ends without an answer.

    Raises:
        NonFiniteError: if the loss or a parameter is infinite or NaN.
        StateMismatchError: if `checkpoint` is a foreign or broken file, or cannot be resumed here.
        ConstraintError, DeclarationError: for arguments, data or a loss that make no sense; for a
            `checkpoint` that exists, without `resume` and `overwrite`.
        ImportError, OSError: if tqdm is asked for and missing; if the file cannot be written.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import fit, learnable
        >>> from declarative_dist.objectives import NegativeLogLikelihood
        >>> x = dd.Gamma(2.0, 3.0).sample((1000,))
        >>> q = learnable(dd.Gamma(1.0, 1.0))
        >>> history = fit(NegativeLogLikelihood(q), x)
        >>> history.converged, bool(abs(q.rate - 3.0) < 0.6)
        (True, True)

        Steps of Adam on mini-batches:

        >>> q = learnable(dd.Gamma(1.0, 1.0))
        >>> history = fit(NegativeLogLikelihood(q), x, steps=500, lr=0.05, batch_size=100)
        >>> len(history.losses), bool(abs(history.values["rate"][-1] - 3.0) < 0.6)
        (500, True)

        A few steps of LBFGS, stopped where the loss is flat:

        >>> def is_flat(step, loss, module):
        ...     losses.append(loss)
        ...     return min(losses[:-1], default=torch.inf) - loss < 1e-6
        >>> losses, LBFGS = [], torch.optim.LBFGS
        >>> objective = NegativeLogLikelihood(learnable(dd.Gamma(1.0, 1.0)))
        >>> fit(objective, x, steps=50, optimizer=LBFGS, callbacks=is_flat).stopped
        True
    """
    writing: dict[str, Any] = {"every": every, "resume": resume, "overwrite": overwrite}
    ending = {"steps": steps, "tolerance": tolerance, "restarts": restarts}
    arguments.check_options(checkpoint, {**ending, **writing})
    arguments.check_objective(objective)
    calls = arguments.as_callbacks(callbacks)
    with torch.set_grad_enabled(torch.is_grad_enabled()):  # and so it stays if interrupted
        batches, history = Batches(data, batch_size), History()
        strategy = choose_strategy(
            objective, batches, optimizer, lr,
            steps=steps, tolerance=tolerance, compiles=compile,
        )  # fmt: skip
        bar, fields = Progress(progress, steps), FieldValues(objective)
        snapshot = Snapshot(objective, strategy.optimizer, None if checkpoint is None else batches)
        files = []
        if checkpoint is not None:
            files.append(Checkpoint(checkpoint, snapshot, batches, history, **writing))
        calls = (bar, *calls, *files)
        try:
            for step, loss in _steps(strategy, batches, snapshot, history, restarts):
                history.add(loss, fields.read() if history.is_due(step) else None)
                history.stopped = arguments.stops(calls, step, loss, objective)
                if history.stopped:
                    break
        except BaseException as error:
            snapshot.restore(history.step)
            if not isinstance(error, KeyboardInterrupt):
                bar.close()
                error.history = history  # type: ignore[attr-defined]
                raise
            history.interrupted = True
        for file in files:
            file.close()
        history.end(fields.read())
        strategy.conclude(history)
        bar.close(history.verdict)
    return history


def _steps(
    strategy: Strategy,
    batches: Batches,
    snapshot: Snapshot,
    history: History,
    restarts: int | None,
) -> Iterator[tuple[int, float]]:
    """Take steps until the strategy or the number of steps ends it; each is checked, then yielded.

    Raises:
        NonFiniteError: naming the field and the index; everything is as before the step.
    """
    limit = 0 if strategy.replay(history.losses) else strategy.limit
    first = history.step + 1
    for step in range(first, limit + 1):
        snapshot.take(step - 1)
        batch = batches.next()
        if step == 1:
            check_rows(strategy.objective, batches)
            strategy.begin(batch, restarts)
        loss = strategy.step(batch)
        if not (math.isfinite(loss) and are_finite(snapshot.parameters)):
            error = error_of_step(strategy.objective, step, loss, batch)
            if error is not None:  # else only a sum of large numbers was not finite
                snapshot.restore(step - 1)
                why = "" if math.isfinite(loss) else reason_of(strategy.objective, batch)
                error.fix = error.fix.replace(ADVICE, why or ADVICE)
                raise error
        is_over = strategy.observe(loss)
        if is_over and step == first and history.losses[-1:] == [loss]:
            return  # the checkpoint was of a fit that was over
        yield step, loss
        if is_over:
            return

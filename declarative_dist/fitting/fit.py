"""The loop over an objective: thin, and safe against interruptions and numbers that blow up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from declarative_dist.errors import check_count
from declarative_dist.fitting import arguments
from declarative_dist.fitting.batches import Batches
from declarative_dist.fitting.compiled import compiled
from declarative_dist.fitting.evaluation import Closure, backward_of
from declarative_dist.fitting.history import History
from declarative_dist.fitting.progress import Progress
from declarative_dist.fitting.saving import Saver
from declarative_dist.fitting.snapshot import Guard
from declarative_dist.fitting.steps import finished_steps
from declarative_dist.fitting.tracked import FieldValues


def fit(
    objective: nn.Module,
    data: Any = None,
    *,
    steps: int,
    optimizer: Optimizer | Callable[[list[nn.Parameter]], Optimizer] | None = None,
    lr: float = 1e-2,
    batch_size: int | None = None,
    progress: bool | Literal["always"] = True,
    compile: bool = False,  # noqa: A002 - what torch calls it
    checkpoint: str | os.PathLike[str] | None = None,
    every: int | None = None,
    resume: bool = False,
    callbacks: Iterable[arguments.Callback] | arguments.Callback = (),
) -> History:
    """Minimise an objective, step by step, in place.

    Ctrl-C ends it like `steps` does, after the last finished step. If a step goes wrong, module
    and optimizer go back to where they were before it (a copy is kept in memory for that), and the
    error has the record so far as `error.history`.

    Args:
        objective: a module whose forward is a scalar loss; what is trainable in it is trained. A
            method `before_fit(*batch)` is called before step 1: there a new guide finds its start.
        data: the arguments of forward: None; a tensor, or a tuple or dict of tensors, whole in
            every step; or an iterable of batches, such as a DataLoader, gone through in every
            epoch. The items of a tuple are arguments.
        steps: how many steps in all, those before `resume` too; they are counted from 1.
        optimizer: one, or a callable from parameters to one; None for Adam, torch's fused one
            where it can be. A step is `optimizer.step(closure)`, so LBFGS works.
        lr: the rate of the default optimizer, and of no other.
        batch_size: draw so many rows of the tensors for a step, without replacement, in the order
            of `torch.randperm`; the last batch of an epoch has what is left of it, and counts like
            any other: a size that divides the data has less noise.
        progress: True for a bar on a terminal (extra `fit`), "always" for one anywhere, or False.
        compile: compile the objective and its gradients, as one graph. Meanwhile torch's
            validation of distributions is off by default, as `torch.compile` wants it, and
            afterwards as it was.
        checkpoint: a file for the state, written at the end; whole, or not at all.
        every: write it after every so many steps, too.
        resume: continue from that file, if it is there, bit for bit: module, optimizer and its
            settings, random numbers, place in the data, history. A DataLoader begins its epoch
            again and passes over what was used. Callbacks save what is theirs.
        callbacks: called after a step with its number, its loss (from before the update) and the
            objective; True from one ends the fit.

    Returns:
        The losses of all steps, and the paths of the values of all small fields.

    Raises:
        NonFiniteError: if the loss or a parameter is infinite or NaN.
        StateMismatchError: if `checkpoint` is a foreign or broken file, or cannot be resumed here.
        ConstraintError, DeclarationError: for arguments, data or a loss that make no sense.
        ImportError, OSError: if tqdm is asked for and missing; if the file cannot be written.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import fit, learnable
        >>> from declarative_dist.objectives import NegativeLogLikelihood
        >>> x = dd.Gamma(2.0, 3.0).sample((1000,))
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
    steps = check_count("fit(steps=)", steps)
    arguments.check_files(checkpoint, every, resume)
    arguments.check_objective(objective)
    calls = arguments.checked_callbacks(callbacks)
    trainer = arguments.optimizer_of(objective, optimizer, lr)
    bar = Progress(progress, steps)
    batches = Batches(data, batch_size, remembers=checkpoint is not None)
    history, guard = History(), Guard(objective, trainer)
    saver = Saver(checkpoint, objective, trainer, batches, history, every)
    fields, grad_mode = FieldValues(objective), torch.is_grad_enabled()
    try:
        if resume:
            saver.resume()
        with compiled(objective) if compile else nullcontext(backward_of(objective)) as backward:
            closure = Closure(objective, backward, trainer)
            for step in finished_steps(steps, closure, batches, history, guard, saver, fields):
                loss = history.losses[-1]
                bar.show(step, loss)
                history.stopped = arguments.stops(calls, step, loss, objective)
                saver.write_if_due()
                if history.stopped:
                    break
        saver.write()
        history.end(fields.read())
    except BaseException as error:
        guard.restore(history.step)
        if not isinstance(error, KeyboardInterrupt):
            with suppress(AttributeError):
                error.history = history  # type: ignore[attr-defined]
            raise
        history.interrupted = True
        saver.write()
        history.end(fields.read())
    finally:
        torch.set_grad_enabled(grad_mode)  # which an interruption may have left switched off
        bar.close()
    return history

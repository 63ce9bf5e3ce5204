"""One evaluation of an objective: its loss, or what is wrong with it or with the batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from declarative_dist.errors import (
    DeclarationError,
    ExplainedError,
    NonFiniteError,
    first_line,
)
from declarative_dist.fitting.finite import bad_data
from declarative_dist.fitting.parameters import declared_values
from declarative_dist.optimization.rows import NO_LOSS
from declarative_dist.plain.batch import call_with
from declarative_dist.plain.refusals import LinAlgError

Backward = Callable[[tuple[Any, ...]], Tensor]
"""From a batch to the loss; gradients are left in the parameters."""


def take_step(backward: Backward, optimizer: Optimizer, batch: tuple[Any, ...]) -> float:
    """Do a step of an optimizer on a batch; the loss from before the update.

    Where the optimizer searches along a line, a place without a finite loss and gradient counts as
    very high. One that does not ask for the loss is a `DeclarationError`.

    Args:
        backward: what computes a loss and its gradients.
        optimizer: whose parameters get the gradients.
        batch: the data.
    """
    losses: list[Tensor] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        if losses and any(g.get("line_search_fn") is not None for g in optimizer.param_groups):
            with suppress(*NO_LOSS):
                loss = backward(batch)
                if loss.isfinite() and math.isfinite(gradient_of(optimizer)):
                    return loss
            optimizer.zero_grad(set_to_none=False)
            return losses[0].detach() + 1e6 * (1 + losses[0].detach().abs())
        losses.append(backward(batch))
        return losses[-1]

    optimizer.step(closure)  # type: ignore[arg-type]
    if not losses:
        got = f"a {type(optimizer).__name__} that did not"
        expected = "one whose step calls its closure"
        raise DeclarationError("fit(optimizer=)", expected, got, code="wrong-optimizer")
    return losses[0].item()


def gradient_of(optimizer: Optimizer) -> float:
    """The largest gradient left in the parameters of an optimizer; infinite without any."""
    members = (p for group in optimizer.param_groups for p in group["params"])
    sizes = [p.grad.abs().amax() for p in members if p.grad is not None and p.numel()]
    return float(torch.stack(sizes).max()) if sizes else math.inf


def begin(objective: nn.Module, batch: tuple[Any, ...]) -> None:
    """Let an objective prepare for a fit, once, with the first batch."""
    prepare = getattr(objective, "before_fit", None)
    if callable(prepare):
        _evaluate(objective, prepare, batch)


def backward_of(objective: nn.Module) -> Backward:
    """Evaluate the objective and its gradients as written."""

    def backward(batch: tuple[Any, ...]) -> Tensor:
        loss = loss_of(objective, objective, batch)
        loss.backward()
        return loss

    return backward


def loss_of(
    objective: nn.Module,
    forward: Callable[..., Any],
    batch: tuple[Any, ...],
    is_one: bool = True,
) -> Tensor:
    """The loss of a batch.

    Args:
        objective: whose loss it is.
        forward: what computes it, the objective itself or a compiled version.
        batch: the arguments.
        is_one: whether it is one number, and not one for each problem.

    Raises:
        DeclarationError: if what comes is no loss.
        NonFiniteError: if it fails on data that is infinite or NaN.
    """
    loss: Tensor = _evaluate(objective, forward, batch)
    got = f"a {type(loss).__name__}"
    if isinstance(loss, Tensor):
        has_gradient = loss.requires_grad or not torch.is_grad_enabled()
        is_real = loss.is_floating_point() and not loss.is_meta
        if is_real and has_gradient and (loss.ndim == 0 or not is_one):
            return loss
        lack = "" if loss.requires_grad else ", without a gradient"
        got = f"one of shape {tuple(loss.shape)} and {loss.dtype} on {loss.device}{lack}"
    raise DeclarationError(
        f"{type(objective).__name__}.forward",
        "a loss, a real tensor of shape () that depends on the parameters",
        got,
        "Return the mean or sum of what is to be small; not under no_grad, from detached values, "
        "or by sample in place of rsample.",
        code="not-an-objective",
    )


def _evaluate(objective: nn.Module, function: Callable[..., Any], batch: tuple[Any, ...]) -> Any:
    """Call a function of an objective with a batch; an error says if the numbers are to blame."""
    try:
        return call_with(function, batch)
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, LinAlgError):
            _name_matrix(objective, error)
        bad = "" if isinstance(error, ExplainedError) else bad_data(batch)
        if bad:
            fix = f"{type(objective).__name__} refused it: {first_line(error)}"
            raise NonFiniteError("fit(data=)", "finite numbers", bad, fix) from error
        raise


def _name_matrix(objective: nn.Module, error: Exception) -> None:
    """Raise an error about the matrix that is nearest to a singular one, if a field is one."""
    conditions = [
        (torch.linalg.cond(value.double()).max().item(), subject)
        for subject, _, value in declared_values(objective)
        if value.ndim > 1 and value.shape[-1] == value.shape[-2] > 1 and value.isfinite().all()
    ]
    if conditions:
        condition, subject = max(conditions)
        raise NonFiniteError(
            subject,
            "a matrix that torch can decompose",
            f"one of condition number {condition:.2g}: {first_line(error)}",
            "Keep it from becoming singular: with a prior, a floor or PositiveDefinite().",
            code="refused-by-torch",
        ) from error

"""An objective and its gradients as one compiled graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from declarative_dist.families.clipping import hooks_of_others
from declarative_dist.fitting.arguments import check_forward
from declarative_dist.fitting.evaluation import loss_of
from declarative_dist.fitting.parameters import trainable_of
from declarative_dist.plain.batch import call_with
from declarative_dist.plain.restoring import without_validation


def compiled(objective: nn.Module) -> Callable[..., Tensor]:
    """An objective with its gradients as one compiled graph, for a training loop of your own.

    Call it in place of `objective(*batch)` and `loss.backward()`: it gives the loss, and leaves
    new gradients in the parameters, so you need no `zero_grad`. It compiles when you call it
    first, and again where something that the graph depends on has changed. It is what `fit` runs
    with `compile=True`.

    While it runs, torch validates no distribution, as in every compiled graph: a value outside a
    support has whatever density the formula gives. Afterwards torch's default is as it was.

    Args:
        objective: a module whose forward is a scalar loss.

    Returns:
        A function from the arguments of the objective's forward to the loss, a detached tensor of
        shape `()`.

    Raises:
        DeclarationError: if it is no such module.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import compiled, learnable
        >>> from declarative_dist.objectives import NegativeLogLikelihood
        >>> x = dd.Gamma(2.0, 3.0).sample((1000,))
        >>> q = learnable(dd.Gamma(1.0, 1.0))
        >>> loss_and_gradients = compiled(NegativeLogLikelihood(q))
        >>> optimizer = torch.optim.Adam(q.parameters(), lr=0.05)
        >>> for _ in range(300):
        ...     loss = loss_and_gradients(x)
        ...     optimizer.step()
        >>> bool(abs(q.rate - 3.0) < 0.6)
        True
    """
    check_forward(objective, "compiled(objective)")
    backward = CompiledBackward(objective)

    def loss_and_gradients(*batch: Any, **given: Any) -> Tensor:
        return backward((*batch, given) if given else batch)

    return loss_and_gradients


class CompiledBackward:
    """One graph of loss and gradients, or where those go through hooks, one of the loss.

    Args:
        objective: whose loss it is.
    """

    def __init__(self, objective: nn.Module) -> None:
        self._objective = objective
        self._parameters = list(objective.parameters())
        self._kind: tuple[bool, ...] = ()
        self._graph: Callable[..., Any] = objective
        # As a function of its own the backward pass costs twice: guards, and autograd's engine.
        self._tracing = torch._dynamo.config.patch(trace_autograd_ops=True)

    def __call__(self, batch: tuple[Any, ...]) -> Tensor:
        with without_validation(), self._tracing:
            return self._run(batch)

    def _run(self, batch: tuple[Any, ...]) -> Tensor:
        parameters = list(self._objective.parameters())
        if not all(map(is_, parameters, self._parameters)):  # a state may bring its own
            self._parameters, self._kind = parameters, ()
        is_shared = dist.is_available() and dist.is_initialized()
        has_hooks = is_shared or any(map(hooks_of_others, self._parameters))
        kind = (has_hooks, *(parameter.requires_grad for parameter in self._parameters))
        if kind != self._kind:  # at first, and where a callback freezes, unfreezes or hooks
            self._kind = kind
            whole = self._objective if has_hooks else self._loss_and_gradients()
            self._graph = torch.compile(whole, options={"guard_filter_fn": may_change})
        loss: Tensor
        if has_hooks:
            for parameter in self._parameters:
                parameter.grad = None
            loss = loss_of(self._objective, self._graph, batch)
            loss.backward()
            return loss.detach()
        try:
            loss, gradients = self._graph(*batch)
        except Exception:
            loss_of(self._objective, self._objective, batch)  # which may know what is wrong
            raise
        if loss.ndim:
            loss_of(self._objective, self._objective, batch)
        for parameter, gradient in zip(trainable_of(self._objective), gradients, strict=True):
            parameter.grad = gradient
            if gradient is not None and gradient.layout is torch.strided:
                # In memory of its own, and laid out as the parameter, as `backward` leaves it.
                parameter.grad = torch.empty_like(parameter).copy_(gradient.detach())
        return loss

    def _loss_and_gradients(self) -> Callable[..., tuple[Tensor, tuple[Tensor | None, ...]]]:
        objective = self._objective
        parameters = trainable_of(objective)

        def loss_and_gradients(*batch: Any) -> tuple[Tensor, tuple[Tensor | None, ...]]:
            loss: Tensor = call_with(objective, batch)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            return loss.detach(), gradients

        # Dynamo compiles each code so many times at most: every objective has one of its own.
        loss_and_gradients.__code__ = loss_and_gradients.__code__.replace()
        return loss_and_gradients


def may_change(guards: Sequence[Any]) -> list[bool]:
    """Which guards dynamo is to ask at every call: none of a declaration, which is frozen.

    What a declaration leads to is asked for: a constraint, a method or what it closes over may
    have numbers that somebody changes.

    Args:
        guards: what dynamo found that a graph depends on.
    """
    ways = (".__", ".constraint", ".base")
    parts = [guard.name.partition("__declaration__") for guard in guards]
    return [not mark or any(way in fact for way in ways) for _, mark, fact in parts]

"""A compiled step beside the same one written by hand, compiled and not."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from paired import Ratio, compared, interleaved
from problems import MAPS, Problem, problems
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.fitting.compiled import may_change

torch._dynamo.config.trace_autograd_ops = True

NAMES = ("Normal, 64 dims, 1000 samples", "MultivariateNormal(64), 1000 samples")
"""Gamma is left out: its sampler, which no compiler changes, is all that takes time."""


class Declared(nn.Module):
    """The loss of a declared family."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.q, self.loss_of = problem.declared(), problem.loss()

    def forward(self) -> Tensor:
        """The loss."""
        return self.loss_of(self.q())


class ByHand(nn.Module):
    """The same, written out."""

    def __init__(self, problem: Problem, validate_args: bool | None = None) -> None:
        super().__init__()
        self.raw = nn.ParameterDict(problem.raw())
        self.maps = {name: MAPS[kind] for name, kind in problem.maps.items()}
        self.make, self.loss_of = problem.make, problem.loss()
        self.validate_args = validate_args

    def forward(self) -> Tensor:
        """The loss."""
        values = {name: f(self.raw[name]) for name, f in self.maps.items()}
        return self.loss_of(self.make(**values, validate_args=self.validate_args))


def eager(objective: nn.Module) -> Callable[[], None]:
    """A step with Adam."""
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        objective().backward()
        optimizer.step()

    return step


def compiled(objective: nn.Module) -> Callable[[], None]:
    """Loss and gradients as one graph, and a fused update, as the README shows it."""
    parameters = list(objective.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-6, fused=True)
    one = torch.ones(())

    def loss_and_gradients() -> tuple[Tensor, list[Tensor]]:
        loss: Tensor = objective()
        gradients = torch.autograd.grad(loss, parameters, one)
        return loss.detach(), [gradient.contiguous() for gradient in gradients]

    # Dynamo compiles each code so many times at most.
    loss_and_gradients.__code__ = loss_and_gradients.__code__.replace()
    options: dict[str, Any] = {"guard_filter_fn": may_change}
    graph = torch.compile(loss_and_gradients, fullgraph=True, options=options)

    def step() -> None:
        _, gradients = graph()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()

    return step


def unvalidated(problem: Problem) -> Problem:
    """The same with a target that looks at no values, which a graph cannot do."""
    target = copy.copy(problem.target)
    if target is not None:
        target._validate_args = False
    return dataclasses.replace(problem, target=target)


def cases(blocks: int, only: str) -> Iterator[Ratio]:
    """All ratios of the problems whose names contain a word."""
    for problem in problems():
        if problem.name not in NAMES or only not in problem.name:
            continue
        torch._dynamo.reset()
        quiet = unvalidated(problem)
        steps = {
            "compiled": compiled(Declared(quiet)),
            "compiled by hand": compiled(ByHand(quiet, validate_args=False)),
            "by hand": eager(ByHand(problem)),
        }
        steps["compiled"]()
        # The first compilation of a process has switched it off.
        Distribution.set_default_validate_args(True)
        times = interleaved(steps, blocks)
        bound = 0.5 if problem.name == NAMES[0] else None
        yield compared(problem.name, times, "compiled", "by hand", bound)
        yield compared(problem.name, times, "compiled", "compiled by hand", 1.02)

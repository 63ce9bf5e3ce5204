"""A compiled step beside the same one written by hand, compiled and not."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator

import torch
from paired import Ratio, compared, interleaved
from problems import MAPS, Problem, problems
from torch import Tensor, nn
from torch.distributions import Distribution

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
    """Forward and backward as one graph, and the update, as the README shows it."""
    optimizer = torch.optim.Adam(objective.parameters(), lr=torch.tensor(1e-6))
    loss_of = torch.compile(objective, fullgraph=True)
    update = torch.compile(optimizer.step)

    def step() -> None:
        optimizer.zero_grad()
        loss_of().backward()
        update()

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

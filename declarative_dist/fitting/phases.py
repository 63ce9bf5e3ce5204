"""When a noisy loss has settled: rates that fall in phases, and gradients that cancel out."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

DECAY = 0.3
"""By what a rate is multiplied at the end of a phase."""

SHORTEST = 200
"""The fewest steps of a phase."""

LONGEST = 4000
"""How many steps a phase takes only for a mean that is known better."""

FEWEST = 4
"""How many phases there are at least."""

_ENOUGH = 50
_ONE_WAY = 0.2
_AGREED = 0.9
"""Shares of a squared mean gradient in the mean square: one that has a direction, and one without
noise, which has a direction at an answer, too."""


class Phases:
    """Tells from the losses of all steps when the rate should decay, and when a fit has settled.

    In a phase the rate is constant. It ends where the loss has stopped falling: where the means
    over the third and the last quarter of the phase differ by no more than their noise, and where
    that is small enough to tell anything. The fit has settled when a phase gained no more over the
    one before than the noise, or a share of the loss. The idea comes from Welandawe, Andersen,
    Vehtari and Huggins, A framework for improving the reliability of black-box variational
    inference, JMLR 25, 2024.

    Args:
        tolerance: the share of one plus the loss that a phase has to gain.

    Attributes:
        level: the mean loss over the last quarter of the last phase that ended.
        noise: the standard error of that mean.

    Example:
        >>> from declarative_dist.fitting.phases import Phases
        >>> phases = Phases()
        >>> events = [phases.observe(1.0) for _ in range(800)]
        >>> [(step, event) for step, event in enumerate(events, 1) if event]
        [(200, 'decay'), (400, 'decay'), (600, 'decay'), (800, 'settled')]
    """

    def __init__(self, tolerance: float = 1e-4) -> None:
        self.tolerance = tolerance
        self._losses: list[float] = []
        self._next = SHORTEST
        self._ended = 0
        self.level, self.noise = math.inf, math.inf

    def observe(self, loss: float) -> Literal["decay", "settled"] | None:
        """Take note of a loss, and say what follows from all losses so far."""
        self._losses.append(loss)
        if len(self._losses) < self._next:
            return None
        fall, noise = fall_of(self._losses, len(self._losses) // 4)
        quarter = self._losses[-(len(self._losses) // 4) :]
        level = math.fsum(quarter) / len(quarter)
        scale = self.tolerance * (1 + abs(level))
        is_vague = noise > 30 * scale and len(self._losses) < LONGEST
        if fall > max(noise, 0.01 * scale) or is_vague:
            self._next += self._next // 2
            return None
        gain = self.level - level
        least = max(scale, 2 * noise)
        self.level, self.noise = level, noise
        self._ended += 1
        self._losses, self._next = [], SHORTEST
        return "settled" if self._ended >= FEWEST and gain <= least else "decay"


def fall_of(losses: list[float], width: int) -> tuple[float, float]:
    """How far the mean of losses fell from the window before the last to the last one.

    Returns:
        The fall, and its standard error from the means of five batches in each window, which
        holds for neighbours that are alike, too.

    Example:
        >>> from declarative_dist.fitting.phases import fall_of
        >>> fall_of([2.0] * 10 + [1.0] * 10, 10)
        (1.0, 0.0)
    """
    before, after = losses[-2 * width : -width], losses[-width:]
    means, variance = [], 0.0
    for window in (before, after):
        size = max(len(window) // 5, 1)
        batches = [window[at : at + size] for at in range(0, size * 5, size)]
        centers = [math.fsum(batch) / len(batch) for batch in batches if batch]
        mean = math.fsum(window) / len(window)
        means.append(mean)
        spread = math.fsum((center - mean) ** 2 for center in centers) / max(len(centers) - 1, 1)
        variance += spread / len(centers)
    return means[0] - means[1], math.sqrt(variance)


class GradientSums:
    """The gradients of the last phase: at an answer their noise outweighs their mean.

    The losses alone can't tell: where steps are small beside the way that is left, the loss hardly
    falls in a phase, as at an answer.

    Args:
        objective: whose parameters have the gradients.
    """

    def __init__(self, objective: nn.Module) -> None:
        self._named = [(n, p) for n, p in objective.named_parameters() if p.requires_grad]
        self._begin()

    def _begin(self) -> None:
        self._count = 0
        self._losses: list[float] = []
        self._sums: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}

    def add(self, event: str | None, loss: float) -> None:
        """Add the gradients of a step and its loss; after one that ended a phase, begin anew."""
        if event == "decay":
            self._begin()
            return
        self._count += 1
        self._losses.append(loss)
        for name, parameter in self._named:
            gradient = parameter.grad
            if gradient is None or gradient.layout is not torch.strided:
                continue
            gradient = gradient.detach()
            if name not in self._sums:
                self._sums[name] = torch.zeros_like(gradient)
                self._squares[name] = gradient.new_zeros(())
            self._sums[name] += gradient
            self._squares[name] += gradient.square().sum()

    def find_moving(self, least: float, gain: float) -> str | None:
        """A parameter whose gradient goes one way.

        It counts if there is something to gain: for a likelihood the squared mean of gradients
        over their variance, times the variance of the loss, is about what a Newton step gains,
        whatever the units and the size of batches are. Where all agree, they have no variance.

        Args:
            least: a gradient that is small.
            gain: a gain of the loss that is small.
        """
        spread = torch.tensor(self._losses, dtype=torch.float64).var(correction=0).item()
        for name, total in self._sums.items():
            mean = total / self._count
            square = self._squares[name] / self._count
            share = mean.square().sum() / square
            promises = spread * share > gain * (1 - share)
            agrees = share > _AGREED and mean.abs().max() > least
            if self._count >= _ENOUGH and share > _ONE_WAY and (promises or agrees):
                return name
        return None

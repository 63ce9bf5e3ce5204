"""The strategies of a fit: what takes the steps, when they end, and what is said of the end.

With `steps` a fit does as many as you say. Without, the objective decides: Newton's method where
the loss of whole data is the same every time and has few numbers, L-BFGS where it has more, and
Adam with a rate that decays where the loss is noisy, or where you choose the optimizer.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from declarative_dist.fitting.arguments import optimizer_of
from declarative_dist.fitting.batches import Batches
from declarative_dist.fitting.compiled import CompiledBackward
from declarative_dist.fitting.evaluation import backward_of, begin, gradient_of, take_step
from declarative_dist.fitting.history import History, spell_steps
from declarative_dist.fitting.losses import Losses
from declarative_dist.fitting.parameters import Saturated, saturated_fields, trainable_of
from declarative_dist.fitting.phases import DECAY, GradientSums, Phases, fall_of
from declarative_dist.fitting.starts import race
from declarative_dist.fitting.verdict import NotConvergedWarning, judge_descent
from declarative_dist.optimization.lbfgs import LBFGS
from declarative_dist.optimization.newton import Newton
from declarative_dist.optimization.rows import Rows
from declarative_dist.plain.restoring import restoring
from declarative_dist.posteriors.fits import can_fit_guide, fit_guide, guide_of, judge_guide
from declarative_dist.posteriors.guides import MOST_TO_BEGIN
from declarative_dist.randomness import draws_random_numbers

NEWTON = 100
"""Up to how many numbers of a problem second derivatives are computed."""

FIRST_RATE = 0.03
"""The rate that a noisy fit begins with, and that decays."""

BUDGETS: dict[type[Optimizer], int] = {Newton: 300, LBFGS: 200, Optimizer: 30_000}
"""How many steps a fit without `steps` may take at most, by what takes them."""

SMALL = 1e-5
"""What a gradient may be at an answer, relative to one plus the loss."""


class Strategy:
    """As many steps as you say, with the optimizer that you chose.

    Args:
        objective: what is fitted.
        optimizer: what takes the steps.
        limit: how many steps there may be.
        compiles: whether loss and gradient are one graph.

    Attributes:
        has_steps: whether the number of steps was given.
    """

    has_steps = True

    def __init__(
        self, objective: nn.Module, optimizer: Optimizer, limit: int, *, compiles: bool = False
    ) -> None:
        self.objective, self.optimizer, self.limit = objective, optimizer, limit
        self._backward = CompiledBackward(objective) if compiles else backward_of(objective)

    def step(self, batch: tuple[Any, ...]) -> float:
        """Do a step on a batch; the loss from before it."""
        return take_step(self._backward, self.optimizer, batch)

    def begin(self, batch: tuple[Any, ...], restarts: int | None) -> None:
        """Find where to start, before the first step: with `steps`, at the values as they are."""
        begin(self.objective, batch)

    def observe(self, loss: float) -> bool:
        """Take note of a step that is done, and say whether it was the last one."""
        return False

    def replay(self, losses: list[float]) -> bool:
        """Take note of the steps that were done before, and say whether nothing is left to do."""
        return False

    def judge(self, history: History, saturated: list[Saturated]) -> tuple[bool | None, list[str]]:
        """Whether the fit has converged, and sentences about it.

        Args:
            history: the record, of a step at least.
            saturated: the fields with a value at the end of its band.
        """
        losses, count = history.losses, history.step
        gradient = gradient_of(self.optimizer)
        if gradient <= SMALL * (1 + abs(losses[-1])):
            return True, [f"settled: gradient {gradient:.1g}, {spell_steps(count)}"]
        width = min(max(count // 10, 5), 200)
        if count < 2 * width:
            return None, [f"{spell_steps(count)}, too few to tell"]
        fall, noise = fall_of(losses, width)
        if abs(fall) > max(2 * noise, 1e-6 * (1 + abs(losses[-1]))):
            way = f"loss {'down' if fall > 0 else 'up'} {abs(fall):.2g} in the last {width}"
            advice = "; give more steps or none" if self.has_steps else ""
            if fall > 0:
                return False, [f"still falling: {count} steps, {way}{advice}"]
            return False, [f"rising: {count} steps, {way}; try a smaller lr"]
        return None, [f"level: {count} steps, loss within its noise over the last {2 * width}"]

    def conclude(self, history: History) -> None:
        """Say in a history how the fit ended, and warn where it should have ended at an answer."""
        if not history.step:
            history.verdict = "no step was done"
            return
        saturated = list(saturated_fields(self.objective))
        converged, (verdict, *notes) = self.judge(history, saturated)
        if not converged and (history.interrupted or history.stopped):
            who = "Ctrl-C" if history.interrupted else "a callback"
            converged, verdict = None, f"ended by {who}: {verdict}"
        history.converged = converged
        advice = "give its constraint more room, or a prior"
        bands = [f"{field.name} is held at the end of its band: {advice}" for field in saturated]
        history.verdict = "; ".join([verdict, *bands, *notes])
        if converged is False and not self.has_steps:
            warnings.warn(NotConvergedWarning(history.verdict), stacklevel=3)


class SteadyDescent(Strategy):
    """Newton's method, or L-BFGS, for all independent problems in one batch."""

    has_steps = False
    optimizer: Newton | LBFGS

    def __init__(
        self, objective: nn.Module, rows: Rows, losses: Losses, tolerance: float | None
    ) -> None:
        kind = LBFGS if rows.numbers > NEWTON else Newton
        super().__init__(objective, kind(rows, tolerance), BUDGETS[kind])
        self._losses, self._tolerance = losses, tolerance

    def step(self, batch: tuple[Any, ...]) -> float:
        loss = self.optimizer.step(self._losses).item()
        self._losses.forget()
        return loss if self.optimizer.gradients.isfinite().any() else torch.nan

    def begin(self, batch: tuple[Any, ...], restarts: int | None) -> None:
        begin(self.objective, batch)
        is_suggested = race(self.optimizer.rows, self._losses, restarts or 0)
        if isinstance(self.optimizer, Newton):
            self.optimizer.trusts_start = is_suggested

    def observe(self, loss: float) -> bool:
        if isinstance(newton := self.optimizer, Newton) and newton.is_cornered:
            self.optimizer = LBFGS(newton.rows, self._tolerance)
        return self.optimizer.is_done

    def judge(self, history: History, saturated: list[Saturated]) -> tuple[bool | None, list[str]]:
        if not self.optimizer.evaluations:  # a checkpoint has used up all steps
            return super().judge(history, saturated)
        with restoring(self.objective):
            return judge_descent(
                self.objective, self.optimizer, self._losses, saturated, history.step
            )


class NoisyDescent(Strategy):
    """A rate that decays where the loss stops falling, and averages over the last phase."""

    has_steps = False

    def __init__(
        self,
        objective: nn.Module,
        optimizer: Optimizer,
        tolerance: float | None,
        whole: tuple[Any, ...] | None,
        *,
        compiles: bool,
    ) -> None:
        super().__init__(objective, optimizer, BUDGETS[Optimizer], compiles=compiles)
        self._whole = whole
        self._phases = Phases() if tolerance is None else Phases(tolerance)
        self._is_settled = False
        self._gradients = GradientSums(objective)

    def begin(self, batch: tuple[Any, ...], restarts: int | None) -> None:
        begin(self.objective, batch)
        losses = Losses(self.objective, batch)
        race(Rows(trainable_of(self.objective), losses.copies), losses, restarts or 0)

    def replay(self, losses: list[float]) -> bool:
        for loss in losses:
            self._is_settled = self._phases.observe(loss) == "settled"
        return self._is_settled

    def observe(self, loss: float) -> bool:
        event = self._phases.observe(loss)
        self._gradients.add(event, loss)
        groups = self.optimizer.param_groups
        members = [p.detach() for group in groups for p in group["params"]]
        first = groups[0]  # where a checkpoint has the averages, too
        if "averaged" not in first:
            first.update({f"average {at}": p.clone() for at, p in enumerate(members)}, averaged=0)
        averages = [first[f"average {at}"].to(p) for at, p in enumerate(members)]
        first["averaged"] += 1
        with torch.no_grad():  # later steps weigh more (Shamir and Zhang, 2013)
            torch._foreach_lerp_(averages, members, 2 / (first["averaged"] + 1))  # pyright: ignore[reportPrivateImportUsage]
            if event is not None:
                torch._foreach_copy_(members, averages)  # pyright: ignore[reportPrivateImportUsage]
                first["averaged"] = 0
                for group in groups:
                    group["lr"] = group["lr"] * DECAY
        self._is_settled = event == "settled"
        return self._is_settled

    def judge(self, history: History, saturated: list[Saturated]) -> tuple[bool | None, list[str]]:
        if not self._is_settled:
            return super().judge(history, saturated)
        phases = self._phases
        level = f"loss {phases.level:.5g}, known to {max(phases.noise, 0.0):.1g}"
        scale = 1 + abs(phases.level)
        moving = self._gradients.find_moving(SMALL * scale, phases.tolerance * scale)
        if moving:
            advice = "steps are too small for the way it has to go: scale the data, or raise lr"
            return False, [f"not settled: {moving} still goes one way, {advice}; {level}"]
        end = f"{level}, {history.step} steps"
        guide = guide_of(self.objective)
        if self._whole is None or guide is None or guide.flat.size > MOST_TO_BEGIN:
            return True, [f"settled: {end}"]
        is_good, verdict = judge_guide(self.objective, self._whole, end)
        return is_good, [verdict.rstrip(".")]


class GuideSearch(Strategy):
    """The fit of an automatic guide as a whole: its first step does all, the others report it."""

    has_steps = False

    def __init__(self, objective: nn.Module, tolerance: float | None) -> None:
        super().__init__(objective, optimizer_of(objective, None, None), BUDGETS[Optimizer])
        self._tolerance = tolerance
        self._losses: list[float] = []

    def replay(self, losses: list[float]) -> bool:
        return bool(losses)

    def begin(self, batch: tuple[Any, ...], restarts: int | None) -> None:
        losses, converged, verdict = fit_guide(
            self.objective, batch, restarts=restarts, tolerance=self._tolerance
        )
        self._losses = [*losses]
        # In a group of the optimizer, which a checkpoint has.
        self.optimizer.param_groups[0].update(converged=converged, verdict=verdict.rstrip("."))

    def step(self, batch: tuple[Any, ...]) -> float:
        return self._losses.pop(0)  # the loss of the next cycle of the search

    def observe(self, loss: float) -> bool:
        return not self._losses

    def judge(self, history: History, saturated: list[Saturated]) -> tuple[bool | None, list[str]]:
        found = self.optimizer.param_groups[0]
        return found["converged"], [found["verdict"]]


def choose_strategy(
    objective: nn.Module,
    batches: Batches,
    optimizer: Any,
    lr: float | None,
    *,
    steps: int | None,
    tolerance: float | None,
    compiles: bool,
) -> Strategy:
    """The strategy of a fit.

    Args:
        objective: what is fitted.
        batches: the data.
        optimizer: the one that you chose, or what makes one, or None.
        lr: the rate of an optimizer that is made, or None.
        steps: how many you want, or None.
        tolerance: for the end of a fit without `steps`.
        compiles: whether loss and gradient are one graph, which has no second derivatives.
    """
    if steps is not None:
        return Strategy(
            objective, optimizer_of(objective, optimizer, lr), steps, compiles=compiles
        )
    is_free = optimizer is None and lr is None
    if is_free and batches.whole is not None and can_fit_guide(objective, batches.whole):
        return GuideSearch(objective, tolerance)
    if is_free and batches.whole is not None and not compiles:
        losses = Losses(objective, batches.whole)
        rows = Rows(trainable_of(objective), losses.copies)
        if not _is_noisy(objective, rows, losses):
            return SteadyDescent(objective, rows, losses, tolerance)
    made = optimizer_of(objective, optimizer, FIRST_RATE if is_free else lr)
    return NoisyDescent(objective, made, tolerance, batches.whole, compiles=compiles)


def _is_noisy(objective: nn.Module, rows: Rows, losses: Losses) -> bool:
    """Whether losses draw random numbers, or are others in the same state, but for rounding."""
    seen: list[Tensor] = []

    def look() -> None:
        with restoring(objective, always=True):  # such as running statistics
            losses.forget()
            seen.append(rows.attempt(losses, rows.read(), rows.read()))

    with torch.no_grad():
        if draws_random_numbers(look):
            return True
        look()  # a generator of its own shows in what it gives
    first, second = seen
    return not torch.allclose(first, second, rtol=1e-4, equal_nan=True)

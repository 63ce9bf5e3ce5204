"""The ways of a fit: which optimizer takes the steps, when they end, and what is said of the end.

With `steps` a fit does as many as you say. Without, the objective decides: Newton's method where
the loss of whole data is the same every time and has few numbers, L-BFGS where it has more, and
Adam with a rate that decays where the loss is noisy, or where you choose the optimizer.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from declarative_dist.fitting.arguments import optimizer_of
from declarative_dist.fitting.batches import Batches
from declarative_dist.fitting.evaluation import (
    Closure,
    LossesClosure,
    backward_of,
    begin,
    gradient_of,
    searches,
)
from declarative_dist.fitting.history import History
from declarative_dist.fitting.parameters import held_fields, singular_fields
from declarative_dist.fitting.phases import DECAY, GradientSums, Phases, fall_of
from declarative_dist.fitting.starts import race
from declarative_dist.optimization.ends import Ends
from declarative_dist.optimization.newton import Newton
from declarative_dist.optimization.rows import REFUSALS, Rows
from declarative_dist.plain.batch import call_with
from declarative_dist.posteriors.fits import GuideFit, can_fit_guide, fit_guide
from declarative_dist.randomness import draws_random_numbers

NEWTON = 100
"""Up to how many numbers of a problem second derivatives are computed."""

FIRST_RATE = 0.03
"""The rate that a noisy fit begins with, and that decays."""

BUDGETS = {"Newton": 300, "L-BFGS": 1000, "noisy": 30_000}
"""How many steps a fit without `steps` may take at most."""

SMALL = 1e-5
"""What a gradient may be at an answer, relative to one plus the loss."""


class Way:
    """As many steps as you say, with the optimizer that you chose.

    Args:
        objective: what is fitted.
        optimizer: what takes the steps.
        limit: how many steps there may be.

    Attributes:
        is_told: whether the number of steps was given.
        is_suggested: whether all numbers begin as the data suggest.
    """

    is_told = True
    is_suggested = False

    def __init__(self, objective: nn.Module, optimizer: Optimizer, limit: int) -> None:
        self.objective = objective
        self.optimizer = optimizer
        self.limit = limit

    def closure(self, backward: Any) -> Closure:
        """What the optimizer calls for the loss."""
        return Closure(self.objective, backward, self.optimizer)

    def begin(self, batch: tuple[Any, ...], restarts: int | None) -> None:
        """Find where to start, before the first step: with `steps`, at the values as they are."""
        begin(self.objective, batch)
        if self.is_told:
            return
        trainable = [p for p in self.objective.parameters() if p.requires_grad]
        closure = LossesClosure(self.objective, backward_of(self.objective), self.optimizer)
        closure.batch = batch
        has_starts = callable(getattr(self.objective, "losses", None))
        module = self.objective.module if has_starts else None
        rows = Rows(trainable, copies_of(self.objective))
        self.is_suggested = race(rows, closure, module, batch, restarts or 0)

    def is_sound(self) -> bool:
        """Whether the gradients of the last step were finite, for what they change."""
        return True

    def observe(self, loss: float) -> bool:
        """Take note of a step that is done, and say whether it was the last one."""
        return False

    def replay(self, losses: list[float]) -> bool:
        """Take note of the steps that were done before, and say whether nothing is left to do."""
        return False

    def judge(self, history: History) -> tuple[bool | None, str]:
        """Whether the fit has converged, and a sentence about it."""
        losses, count = history.losses, history.step
        gradient = gradient_of(self.optimizer)
        if gradient <= SMALL * (1 + abs(losses[-1])):
            return True, f"settled: gradient {gradient:.1g}, {count} steps"
        width = min(max(count // 10, 5), 200)
        if count < 2 * width:
            return None, f"{count} steps, too few to tell"
        fall, noise = fall_of(losses, width)
        if fall > 2 * noise and fall > 1e-6 * (1 + abs(losses[-1])):
            advice = "; give more steps or none" if self.is_told else ""
            down = f"{count} steps, loss down {fall:.2g} in the last {width}"
            return False, f"still falling: {down}{advice}"
        if fall < -2 * noise and -fall > 1e-6 * (1 + abs(losses[-1])):
            up = f"{count} steps, loss up {-fall:.2g} in the last {width}"
            return False, f"rising: {up}; try a smaller lr"
        return None, f"level: {count} steps, loss within its noise over the last {2 * width}"


class NewtonWay(Way):
    """Newton's method, for all independent problems in one batch."""

    is_told = False
    optimizer: Newton
    ends: Ends | None = None

    def __init__(self, objective: nn.Module, tolerance: float | None) -> None:
        trainable = [p for p in objective.parameters() if p.requires_grad]
        super().__init__(
            objective, Newton(trainable, copies_of(objective), tolerance), BUDGETS["Newton"]
        )

    def closure(self, backward: Any) -> Closure:
        self._closure = LossesClosure(self.objective, backward, self.optimizer)
        return self._closure

    def begin(self, batch: tuple[Any, ...], restarts: int | None) -> None:
        super().begin(batch, restarts)
        self.optimizer.trusts_start = self.is_suggested

    def observe(self, loss: float) -> bool:
        return self.optimizer.is_done

    def is_sound(self) -> bool:
        return bool(self.optimizer.gradients.isfinite().any())

    def judge(self, history: History) -> tuple[bool | None, str]:
        newton = self.optimizer
        if newton.model is None:
            return None, "no step was done"
        if newton.is_closed:
            gradient = newton.gradients.max().item()
            return True, f"settled: gradient {gradient:.1g}, in closed form"
        self.ends = ends = Ends(newton, newton.model, self._closure)
        failed = ~newton.converged | ends.runaways.any(1)
        if newton.is_done and not any(held_fields(self.objective)):
            failed |= ends.is_lost  # at the end of a band that is so, and said
        is_singular = any(singular_fields(self.objective))
        failed |= is_singular
        numbers = f"{newton.evaluations} evaluations"
        gradient = newton.gradients.max().item()
        if not failed.any():
            return True, f"settled: gradient {gradient:.1g}, {numbers}"
        if not newton.is_done:
            return False, f"not settled: {history.step} steps are used up, {numbers}"
        if is_singular or (len(failed) == 1 and (ends.runaways.any() or ends.is_lost.any())):
            return False, f"not settled: {numbers}"
        rest = f"gradient {gradient:.2g}, {numbers}"
        if len(failed) == 1:
            return False, f"not settled: {ends.stop}, {rest}"
        names = failed.nonzero().flatten().tolist()
        shown = ", ".join(map(str, names[:4])) + (", ..." if len(names) > 4 else "")
        found = f"{len(failed) - len(names)} of {len(failed)} copies settled"
        return False, f"{found}, not {shown}: {rest}"


class SearchWay(Way):
    """L-BFGS until its gradient is small, or no step lowers the loss any more."""

    is_told = False

    def __init__(
        self, objective: nn.Module, optimizer: Optimizer, tolerance: float | None
    ) -> None:
        super().__init__(objective, optimizer, BUDGETS["L-BFGS"])
        eps = torch.finfo(next(p.dtype for p in objective.parameters() if p.requires_grad)).eps
        self._eps = eps
        self._tolerance = max(1e-7, 100 * eps) if tolerance is None else tolerance
        self._before = math.inf
        self._still = 0
        self._closure: Closure | None = None

    def closure(self, backward: Any) -> Closure:
        self._closure = Closure(self.objective, backward, self.optimizer)
        return self._closure

    @property
    def _gradient(self) -> float:
        return math.inf if self._closure is None else self._closure.gradient

    def observe(self, loss: float) -> bool:
        gains = self._before - loss > 4 * self._eps * (1 + abs(loss))
        self._still = 0 if gains else self._still + 1
        if self._still == 1:
            self.optimizer.state.clear()  # a memory of bends that led nowhere
        self._before = loss
        return self._still > 2 or self._gradient <= self._tolerance * (1 + abs(loss))

    def judge(self, history: History) -> tuple[bool | None, str]:
        least = max(SMALL, self._eps**0.5) * (1 + abs(history.losses[-1]))
        numbers = f"gradient {self._gradient:.1g}, {history.step} rounds"
        if self._gradient <= least:
            return True, f"settled: {numbers}"
        is_over = history.step < self.limit
        why = "the last rounds gained nothing" if is_over else "steps are used up"
        return False, f"not settled: {why}, {numbers}"


class NoisyWay(Way):
    """A rate that decays where the loss stops falling, and averages over the last phase."""

    is_told = False

    def __init__(
        self, objective: nn.Module, optimizer: Optimizer, tolerance: float | None
    ) -> None:
        super().__init__(objective, optimizer, BUDGETS["noisy"])
        self._phases = Phases() if tolerance is None else Phases(tolerance)
        self._is_settled = False
        self._gradients = GradientSums(objective)

    def replay(self, losses: list[float]) -> bool:
        for loss in losses:
            self._is_settled = self._phases.observe(loss) == "settled"
        return self._is_settled

    def observe(self, loss: float) -> bool:
        event = self._phases.observe(loss)
        self._gradients.add(event)
        averages, members = self._averages()
        group = self.optimizer.param_groups[0]
        group["averaged"] = count = group["averaged"] + 1
        with torch.no_grad():  # later steps weigh more (Shamir and Zhang, 2013)
            torch._foreach_lerp_(averages, members, 2 / (count + 1))  # pyright: ignore[reportPrivateImportUsage]
            if event is not None:
                torch._foreach_copy_(members, averages)  # pyright: ignore[reportPrivateImportUsage]
                group["averaged"] = 0
                for each in self.optimizer.param_groups:
                    each["lr"] = each["lr"] * DECAY
        self._is_settled = event == "settled"
        return self._is_settled

    def _averages(self) -> tuple[list[Tensor], list[Tensor]]:
        """The averages, in the optimizer's first group, and what they are averages of."""
        groups = self.optimizer.param_groups
        members = [p.detach() for group in groups for p in group["params"]]
        first = groups[0]
        if "averaged" not in first:
            first.update({f"average {at}": p.clone() for at, p in enumerate(members)}, averaged=0)
        return [first[f"average {at}"].to(p) for at, p in enumerate(members)], members

    def judge(self, history: History) -> tuple[bool | None, str]:
        if not self._is_settled:
            return super().judge(history)
        phases = self._phases
        level = f"loss {phases.level:.5g}, known to {max(phases.noise, 0.0):.1g}"
        moving = self._gradients.find_moving(SMALL * (1 + abs(phases.level)))
        if moving:
            advice = "steps are too small for the way it has to go: scale the data, or raise lr"
            return False, f"not settled: {moving} still goes one way, {advice}; {level}"
        return True, f"settled: {level}, {history.step} steps"


class GuideWay(Way):
    """The fit of an automatic guide as a whole: its first step does all, the others report it."""

    is_told = False

    def __init__(self, objective: nn.Module, tolerance: float | None) -> None:
        super().__init__(objective, optimizer_of(objective, None, None), BUDGETS["noisy"])
        self._tolerance = tolerance
        self._found: GuideFit | None = None
        self._reported = 0

    def replay(self, losses: list[float]) -> bool:
        return bool(losses)

    def begin(self, batch: tuple[Any, ...], restarts: int | None) -> None:
        self._found = fit_guide(
            self.objective, batch, restarts=restarts, tolerance=self._tolerance
        )

    def closure(self, backward: Any) -> Any:
        return self

    def step(self, batch: tuple[Any, ...]) -> float:
        """The loss of the next cycle of the search."""
        found = self._fit
        self._reported += 1
        return found.losses[self._reported - 1]

    @property
    def _fit(self) -> GuideFit:
        if self._found is None:
            raise RuntimeError("a guide is fitted in the first step")
        return self._found

    def observe(self, loss: float) -> bool:
        return self._reported == len(self._fit.losses)

    def judge(self, history: History) -> tuple[bool | None, str]:
        if self._found is None:
            return None, "a checkpoint of a guide that was fitted before"
        return self._found.converged, self._found.verdict.rstrip(".")


def choose_way(
    objective: nn.Module,
    batches: Batches,
    optimizer: Any,
    lr: float | None,
    *,
    steps: int | None,
    tolerance: float | None,
    compiles: bool,
) -> Way:
    """The way of a fit.

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
        return Way(objective, optimizer_of(objective, optimizer, lr), steps)
    is_free = optimizer is None and lr is None
    if is_free and batches.whole is not None and can_fit_guide(objective, batches.whole):
        return GuideWay(objective, tolerance)
    if is_free and _is_the_same_each_time(objective, batches):
        trainable = [p for p in objective.parameters() if p.requires_grad]
        if not compiles and Rows(trainable, copies_of(objective)).numbers <= NEWTON:
            return NewtonWay(objective, tolerance)
        options: dict[str, Any] = {"max_iter": 50, "history_size": 50}
        lbfgs = LBFGS(trainable, line_search_fn="strong_wolfe", tolerance_change=0.0, **options)
        return SearchWay(objective, lbfgs, tolerance)
    made = optimizer_of(objective, optimizer, FIRST_RATE if is_free else lr)
    return (SearchWay if searches(made) else NoisyWay)(objective, made, tolerance)


def _is_the_same_each_time(objective: nn.Module, batches: Batches) -> bool:
    """Whether every step has the same data, and the loss draws no random numbers."""
    if batches.whole is None:
        return False

    def evaluate() -> None:
        with suppress(*REFUSALS), torch.no_grad():
            call_with(objective, batches.whole or ())

    return not draws_random_numbers(evaluate)


def copies_of(objective: Any) -> torch.Size:
    """The shape of the independent problems that an objective has losses of."""
    if not callable(getattr(objective, "losses", None)):
        return torch.Size()
    copies: torch.Size = vars(objective.module)["_copies"]
    return copies

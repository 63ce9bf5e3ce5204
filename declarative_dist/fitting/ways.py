"""The ways of a fit: which optimizer takes the steps, when they end, and what is said of the end.

With `steps` a fit does as many as you say. Without, the objective decides: Newton's method where
the loss of whole data is the same every time and has few numbers, L-BFGS where it has more, and
Adam with a rate that decays where the loss is noisy, or where you choose the optimizer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from declarative_dist.fitting.arguments import optimizer_of
from declarative_dist.fitting.batches import Batches
from declarative_dist.fitting.evaluation import Closure, begin, gradient_of
from declarative_dist.fitting.history import History
from declarative_dist.fitting.losses import Losses
from declarative_dist.fitting.parameters import held_fields, singular_fields
from declarative_dist.fitting.phases import DECAY, GradientSums, Phases, fall_of
from declarative_dist.fitting.starts import race
from declarative_dist.optimization.ends import Ends
from declarative_dist.optimization.lbfgs import LBFGS
from declarative_dist.optimization.newton import Newton
from declarative_dist.optimization.rows import Rows
from declarative_dist.posteriors.fits import GuideFit, can_fit_guide, fit_guide
from declarative_dist.randomness import draws_random_numbers

NEWTON = 100
"""Up to how many numbers of a problem second derivatives are computed."""

FIRST_RATE = 0.03
"""The rate that a noisy fit begins with, and that decays."""

BUDGETS: dict[type[Optimizer], int] = {Newton: 300, LBFGS: 1000, Optimizer: 30_000}
"""How many steps a fit without `steps` may take at most, by what takes them."""

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
    """

    is_told = True

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
        if not self.is_told:
            losses = Losses(self.objective, batch)
            trainable = [p for p in self.objective.parameters() if p.requires_grad]
            race(Rows(trainable, losses.copies), losses, restarts or 0)

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


class DescentWay(Way):
    """Newton's method, or L-BFGS, for all independent problems in one batch."""

    is_told = False
    optimizer: Newton | LBFGS
    ends: Ends | None = None

    def __init__(
        self, objective: nn.Module, losses: Losses, tolerance: float | None, *, compiles: bool
    ) -> None:
        trainable = [p for p in objective.parameters() if p.requires_grad]
        copies = torch.Size() if compiles else losses.copies
        is_large = Rows(trainable, copies).numbers > NEWTON
        kind = LBFGS if is_large or compiles else Newton
        super().__init__(objective, kind(trainable, copies, tolerance), BUDGETS[kind])
        self._losses, self._compiles = losses, compiles

    def closure(self, backward: Any) -> Any:
        self._backward = backward
        return self

    def step(self, batch: tuple[Any, ...]) -> float:
        """Do a step, and give the loss from before it."""
        self._losses.batch = batch
        self._losses.backward = self._backward if self._compiles else None
        loss = self.optimizer.step(self._losses).item()
        self._losses.forget()
        return loss

    def begin(self, batch: tuple[Any, ...], restarts: int | None) -> None:
        begin(self.objective, batch)
        start = race(self.optimizer.rows, self._losses, restarts or 0)
        if isinstance(self.optimizer, Newton):
            self.optimizer.trusts_start, self.optimizer.walls = start

    def observe(self, loss: float) -> bool:
        return self.optimizer.is_done

    def is_sound(self) -> bool:
        return bool(self.optimizer.gradients.isfinite().any())

    def judge(self, history: History) -> tuple[bool | None, str]:
        search = self.optimizer
        rest = f"gradient {search.gradients.max().item():.1g}, {search.evaluations} evaluations"
        failed = ~search.converged
        if isinstance(search, Newton) and search.model is not None:
            if search.is_closed:
                return True, f"settled: {rest.partition(',')[0]}, in closed form"
            self.ends = Ends(search, search.model, self._losses)
            failed |= self.ends.runaways.any(1) | any(singular_fields(self.objective))
            if search.is_done and not any(held_fields(self.objective)):
                failed |= self.ends.is_lost  # at the end of a band that is so, and said
            is_far = search.rows.read().abs().amax(1) > 1 / search.eps  # where losses are rounded
            if is_far.any() and self._losses.has_equal_data:
                why = "data are all alike, and the loss may fall without end"
                return False, f"not settled: {why}, {rest}"
        if not failed.any():
            return True, f"settled: {rest}"
        if not search.is_done:
            return False, f"not settled: {history.step} steps are used up, {rest}"
        if len(failed) == 1:
            return False, f"not settled: {rest}"
        names = failed.nonzero().flatten().tolist()
        shown = ", ".join(map(str, names[:4])) + (", ..." if len(names) > 4 else "")
        return (
            False,
            f"{len(failed) - len(names)} of {len(failed)} copies settled, not {shown}: {rest}",
        )


class NoisyWay(Way):
    """A rate that decays where the loss stops falling, and averages over the last phase."""

    is_told = False

    def __init__(
        self, objective: nn.Module, optimizer: Optimizer, tolerance: float | None
    ) -> None:
        super().__init__(objective, optimizer, BUDGETS[Optimizer])
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
        super().__init__(objective, optimizer_of(objective, None, None), BUDGETS[Optimizer])
        self._tolerance = tolerance
        self._found = GuideFit([], None, "a checkpoint of a guide that was fitted before")

    def replay(self, losses: list[float]) -> bool:
        return bool(losses)

    def begin(self, batch: tuple[Any, ...], restarts: int | None) -> None:
        self._found = fit_guide(
            self.objective, batch, restarts=restarts, tolerance=self._tolerance
        )
        self._losses = list(self._found.losses)

    def closure(self, backward: Any) -> Any:
        return self

    def step(self, batch: tuple[Any, ...]) -> float:
        """The loss of the next cycle of the search."""
        return self._losses.pop(0)

    def observe(self, loss: float) -> bool:
        return not self._losses

    def judge(self, history: History) -> tuple[bool | None, str]:
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
    if is_free and batches.whole is not None:
        losses = Losses(objective, batches.whole)
        rows = Rows([p for p in objective.parameters() if p.requires_grad], losses.copies)
        with torch.no_grad():
            is_noisy = draws_random_numbers(lambda: rows.attempt(losses, rows.read(), rows.read()))
        if not is_noisy:
            return DescentWay(objective, losses, tolerance, compiles=compiles)
    made = optimizer_of(objective, optimizer, FIRST_RATE if is_free else lr)
    return NoisyWay(objective, made, tolerance)

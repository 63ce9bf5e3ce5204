"""L-BFGS for many smooth functions at once, row by row in one batch.

Every evaluation serves all rows: one that found its step takes it, another shortens or lengthens
its own. `torch.optim.LBFGS` knows one function only, and starts, copies and restarts of a fit are
many. The method is Nocedal's, "Updating quasi-Newton matrices with limited storage",
Mathematics of Computation 35, 1980; the line search Lewis and Overton's, "Nonsmooth
optimization via quasi-Newton methods", Mathematical Programming 141, 2013, for the weak Wolfe
conditions: a point without a finite value is a step too far, like any other.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

from declarative_dist.optimization.rows import Closure, Rows

Function = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From points `(*rows, size)` to values `(*rows)` and gradients `(*rows, size)`."""

_DESCENT = 1e-4
_TURN = 0.9
_SHORTEST = 1e-10
_IDLE = 50
"""After how many steps in a row without a visible gain a row has ended, as at a corner."""

_MEMORY = 12
"""How many steps of a row shape the next one."""

_ROUND = 25
"""How many evaluations are a step of the optimizer."""


class LBFGS(Optimizer):
    """L-BFGS for parameters of many independent problems; a step is a round of evaluations.

    Args:
        rows: the parameters.
        tolerance: how small a gradient is to be, relative to one plus the loss; None for 1e-7, or
            what the dtype holds.

    Attributes:
        evaluations: how often the closure was called, since a step found the numbers moved.

    Example:
        >>> import torch
        >>> from declarative_dist.optimization.lbfgs import LBFGS
        >>> from declarative_dist.optimization.rows import Rows
        >>> x = torch.tensor([3.0, 30.0], dtype=torch.float64, requires_grad=True)
        >>> lbfgs = LBFGS(Rows([x], torch.Size([2])))
        >>> while not lbfgs.is_done:
        ...     _ = lbfgs.step(lambda: (x - torch.tensor([1.0, 2.0])) ** 4)
        >>> x.data.round(decimals=2)
        tensor([1., 2.], dtype=torch.float64)
    """

    _descent: Descent

    def __init__(self, rows: Rows, tolerance: float | None = None) -> None:
        super().__init__(rows.parameters, {})
        self.rows = rows
        self._eps = torch.finfo(rows.parameters[0].dtype).eps
        self._tolerance = max(1e-7, 100 * self._eps) if tolerance is None else tolerance
        self._gain = max(1e-9, 2 * self._eps) if tolerance is None else torch.inf
        self.evaluations = 0

    @property
    def is_done(self) -> bool:
        """Whether every problem is settled, or finds no step that lowers its loss."""
        return self.evaluations > 0 and not bool(self._descent.is_active.any())

    @property
    def gradients(self) -> Tensor:
        """The largest gradient of each problem."""
        return self._descent.gradient.abs().amax(-1)

    @property
    def converged(self) -> Tensor:
        """For which problems gradient and gain are small, relative to one plus the loss."""
        scale = 1 + self._descent.value.abs()
        is_small = self.gradients.le(max(1e-5, self._eps**0.5) * scale)
        return is_small & self._descent.gain.le(10 * self._gain * scale)

    @torch.no_grad()
    def step(self, closure: Closure) -> Tensor:  # type: ignore[override]
        """Do a round for all problems that are not done.

        Args:
            closure: gives the losses of all problems, of shape `(*copies,)`.

        Returns:
            The sum of the losses from before the round.
        """
        rows = self.rows

        def evaluate(point: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                losses = rows.attempt(closure, point, fallback)
                if losses.requires_grad:
                    return losses.detach(), rows.differentiate(losses)
            return losses, torch.zeros_like(point)

        fallback = rows.read()
        is_begun = self.evaluations > 0 and torch.equal(self._descent.point, fallback)
        if not is_begun:  # new, or somebody has moved the numbers
            with torch.enable_grad():
                rows.losses(closure)  # what is wrong with the first one is an error
            self._descent = Descent(evaluate, fallback, self._tolerance, self._gain)
        before = self._descent.value.sum()
        self._descent.function = evaluate
        self._descent.run(self._descent.evaluations + _ROUND)
        self.evaluations = self._descent.evaluations
        rows.write(self._descent.point)
        return before


def _finite(value: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Values that count as infinitely large where they or their gradient are not finite."""
    is_sound = value.isfinite() & gradient.isfinite().all(-1)
    return value.masked_fill(~is_sound, torch.inf), gradient.masked_fill(~is_sound[..., None], 0.0)


class Descent:
    """Rows on their way downhill: each has its point, direction, and bracket of a line search.

    Args:
        function: from points `(*rows, size)` to values and gradients. Where either is not finite,
            the value counts as infinitely large.
        point: where rows start; one without a finite value stays where it is.
        tolerance: a row is settled where no entry of its gradient is larger than this times one
            plus the magnitude of the value,
        least: and where a step promises no more than this share of it: of a large sum of many
            numbers a gradient is small by comparison, though there is something to gain.

    Attributes:
        point: the best point of every row.
        value: the value there, of shape `(*rows)`.
        gradient: the gradient there.
        gain: what a whole step along the next direction promises.
        is_active: which rows are not settled, and may find a step that lowers their value.
        evaluations: how often the function was called.

    Example:
        >>> import torch
        >>> from declarative_dist.optimization.lbfgs import Descent
        >>> starts = torch.tensor([[-1.2, 1.0], [5.0, -3.0]])
        >>> descent = Descent(lambda x: ((x - 3).square().sum(-1), 2 * (x - 3)), starts)
        >>> descent.run(evaluations=100)
        >>> descent.point
        tensor([[3., 3.],
                [3., 3.]])
    """

    def __init__(
        self,
        function: Function,
        point: Tensor,
        tolerance: float = 1e-8,
        least: float = torch.inf,
    ) -> None:
        self.function, self.point = function, point.detach()
        self.tolerance, self.least = tolerance, least
        self.value, self.gradient = _finite(*function(point))
        self.evaluations = 1
        self.steps = point.new_zeros((_MEMORY, *point.shape))
        self.turns = torch.zeros_like(self.steps)
        self.is_active = torch.ones_like(self.value, dtype=torch.bool)
        self.lowest, self.idle = self.value, torch.zeros_like(self.value)
        self.low, self.high = torch.zeros_like(self.value), torch.full_like(self.value, torch.inf)
        self.length = torch.ones_like(self.value)
        self.direction = torch.zeros_like(point)
        self._begin_lines(torch.ones_like(self.is_active))

    def run(self, evaluations: int) -> None:
        """Go on until the function was called so many times, or all rows are settled."""
        while self.evaluations < evaluations and self.is_active.any():
            trial = self.point + self.length[..., None] * self.direction
            self._advance(trial, *_finite(*self.function(trial)))
            self.evaluations += 1

    def _advance(self, trial: Tensor, value: Tensor, gradient: Tensor) -> None:
        """Take the step of each row that is good enough, and change the length of the others."""
        slope = (self.gradient * self.direction).sum(-1)
        # Below the rounding of values, only the slope can tell.
        noise = 4 * torch.finfo(value.dtype).eps * self.value.abs()
        descends = value <= self.value + _DESCENT * self.length * slope + noise
        turns = (gradient * self.direction).sum(-1) >= _TURN * slope
        is_stuck = self.is_active & ~(descends & turns) & self._is_exhausted()
        takes = self.is_active & ((descends & turns) | (is_stuck & (value < self.value)))
        self._shorten_or_lengthen(descends, value, slope)
        if (takes | is_stuck).any():
            self._remember(takes, trial - self.point, gradient - self.gradient)
            forgets = is_stuck & ~takes
            had_memory = self.turns[-1].any(-1)
            self.turns.masked_fill_(forgets[..., None], 0.0)
            self.steps.masked_fill_(forgets[..., None], 0.0)
            self.point = torch.where(takes[..., None], trial, self.point)
            self.gradient = torch.where(takes[..., None], gradient, self.gradient)
            self.value = torch.where(takes, value, self.value)
            self.is_active &= takes | ~forgets | had_memory
            gains = self.value < self.lowest - noise
            self.lowest = torch.where(gains, self.value, self.lowest)
            self.idle = torch.where(gains, 0.0, self.idle + takes)
            self.is_active &= self.idle < _IDLE
            self._begin_lines(takes | forgets)

    def _is_exhausted(self) -> Tensor:
        """Where a line has no other length to try."""
        longest = torch.where(self.high.isfinite(), self.high, 1 / _SHORTEST)
        narrow = self.high - self.low <= 1e-6 * longest
        return narrow | (self.length < _SHORTEST) | (self.length > 1 / _SHORTEST)

    def _shorten_or_lengthen(self, descends: Tensor, value: Tensor, slope: Tensor) -> None:
        self.high = torch.where(descends, self.high, self.length)
        self.low = torch.where(descends, self.length, self.low)
        # The lowest point of the parabola through what is known, where the line begins.
        rise = value - self.value - self.length * slope
        parabola = -slope * self.length.square() / (2 * rise)
        inner = torch.minimum(torch.maximum(parabola, 0.1 * self.high), 0.5 * self.high)
        middle = (self.low + self.high) / 2
        is_first = (self.low == 0) & inner.isfinite()
        between = torch.where(is_first, inner, middle)
        self.length = torch.where(self.high.isfinite(), between, 2 * self.low)

    def _remember(self, takes: Tensor, step: Tensor, turn: Tensor) -> None:
        is_curved = (step * turn).sum(-1) > 1e-12 * turn.square().sum(-1)
        keeps = (takes & is_curved)[..., None]
        steps = torch.cat([self.steps[1:], step[None]])
        turns = torch.cat([self.turns[1:], turn[None]])
        self.steps = torch.where(keeps, steps, self.steps)
        self.turns = torch.where(keeps, turns, self.turns)

    def _begin_lines(self, rows: Tensor) -> None:
        largest = self.gradient.abs().amax(-1)
        self.is_active &= self.value.isfinite()
        direction, scale = self._direction(), 1 + self.value.abs()
        self.gain = -(self.gradient * direction).sum(-1) / 2
        is_steep = largest > self.tolerance * scale
        self.is_active &= is_steep | (self.gain > self.least * scale)
        # A row that is settled stays, whatever its length.
        direction = direction.masked_fill(~self.is_active[..., None], 0.0)
        self.direction = torch.where(rows[..., None], direction, self.direction)
        self.low = self.low.masked_fill(rows, 0.0)
        self.high = self.high.masked_fill(rows, torch.inf)
        self.length = self.length.masked_fill(rows, 1.0)

    def _direction(self) -> Tensor:
        """Minus the gradient, turned and stretched by what the last steps have shown."""
        products = (self.steps * self.turns).sum(-1)
        weights = torch.where(products > 0, 1 / products, 0.0)
        known = products.reshape(len(products), -1).any(1).tolist()
        vector, shares = self.gradient, {}
        for i in reversed(range(len(known))):
            if known[i]:
                shares[i] = weights[i] * (self.steps[i] * vector).sum(-1)
                vector = vector - shares[i][..., None] * self.turns[i]
        squares = self.turns[-1].square().sum(-1)
        unit = 1 / self.gradient.norm(dim=-1).clamp_min(1.0)
        vector = vector * torch.where(squares > 0, products[-1] / squares, unit)[..., None]
        for i, share in sorted(shares.items()):
            back = weights[i] * (self.turns[i] * vector).sum(-1)
            vector = vector + (share - back)[..., None] * self.steps[i]
        return -vector

"""Newton's method with exact second derivatives, for many independent problems in one batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from declarative_dist.optimization.quadratic import Model, solve
from declarative_dist.optimization.rows import Closure, Rows

SUFFICIENT = 1e-4
"""The share of the promised decrease that a step must bring (Armijo, 1966)."""

LENGTHS = (1.0, 0.5, 0.25, 0.1, 0.03, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8)
"""The shares of a step that are tried, until one is good."""

_JUMP = 1e-3
"""By what share of its size a gradient jumps at a corner, at least."""

_PATIENCE = 50
"""For how many evaluations corners are tried, before something else is."""


class Newton(Optimizer):
    """Damped Newton steps, problem by problem, until rounding hides any further gain.

    Second derivatives come from a plain double backward pass, one number of a problem at a time
    and for all problems at once. Eigenvalues count by their magnitude (Greenstadt, 1967), in units
    of the diagonal, so that every step goes down and scales do not matter; at a saddle a step goes
    along the most negative curvature. Steps are shortened by Armijo's rule for each problem alone.
    Where the gain of a step is below the rounding of the loss, a step stays if it shortens the
    next one. Where a whole step is too long, numbers stop at a corner at zero on their way (as in
    Andrew and Gao, "Scalable training of L1-regularized log-linear models", ICML 2007). Numbers
    that cannot follow their gradient, because of a corner, or because the loss ends there or no
    longer changes, are held, and the others go on.

    Args:
        rows: the parameters.
        tolerance: how small a gradient is to be, relative to one plus the loss; None for 1e-8, or
            what the dtype holds.

    Attributes:
        eps: the rounding of their dtype.
        trusts_start: whether a start with a small gradient is the answer, as where it was computed
            in closed form: second derivatives are not asked for then.
        is_closed: whether that is how it ended.
        held: which numbers cannot follow their gradient, of shape `(problems, numbers)`.
        evaluations: how often the closure was called.
        model: the one of the last step, where there was one.

    Example:
        >>> import torch
        >>> from declarative_dist.optimization.newton import Newton
        >>> from declarative_dist.optimization.rows import Rows
        >>> x = torch.tensor([3.0, 30.0], dtype=torch.float64, requires_grad=True)
        >>> newton = Newton(Rows([x], torch.Size([2])))
        >>> while not newton.is_done:
        ...     _ = newton.step(lambda: (x.exp() - x * torch.tensor([1.0, 2.0])))
        >>> x.data.exp().round(decimals=6)
        tensor([1., 2.], dtype=torch.float64)
        >>> newton.converged
        tensor([True, True])
    """

    model: Model

    def __init__(self, rows: Rows, tolerance: float | None = None) -> None:
        super().__init__(rows.parameters, {})
        self.rows, self._before = rows, rows.read()
        self.eps = torch.finfo(rows.parameters[0].dtype).eps
        self._tolerance = max(1e-8, 10 * self.eps) if tolerance is None else tolerance
        self.trusts_start = self.is_closed = False
        self.evaluations = 0
        self.held = torch.zeros_like(self._before, dtype=torch.bool)
        self._done = self._trying = self.held.any(1)
        self._decrement = torch.full_like(self._before[:, 0], torch.inf)

    @property
    def is_done(self) -> bool:
        """Whether no problem has a step left."""
        return bool(self._done.all())

    @property
    def converged(self) -> Tensor:
        """For which problems the gradient, or what a step would gain, is at its floor."""
        gains = self.model.decrement <= 16 * self.eps * (1 + self.model.losses.abs())
        return self._done & (gains | self._is_small(self.model, 1e-5) | self.is_closed)

    @property
    def is_cornered(self) -> bool:
        """Whether a problem gets no further amid corners: its loss is a plane between them."""
        model = self.model
        if not self.is_done and self.evaluations < _PATIENCE:
            return False
        is_plane = (model.hessian.diagonal(dim1=1, dim2=2) == 0) & (model.gradient != 0)
        return bool((is_plane.any(1) & ~self.held.any(1) & ~self.converged).any())

    @property
    def gradients(self) -> Tensor:
        """The largest gradient of each problem, of numbers that are not held."""
        return self.model.gradient.abs().amax(1)

    @torch.no_grad()
    def step(self, closure: Closure) -> Tensor:  # type: ignore[override]
        """Do one step for all problems that are not done.

        Args:
            closure: gives the losses of all problems, of shape `(*copies,)`.

        Returns:
            The sum of the losses from before the step.
        """
        model = self._find_model(closure)
        rows, point = self.rows, self.rows.read()
        # A step that nobody could see in the loss must show in the next one.
        worse = self._trying & ~(model.decrement < 0.5 * self._decrement)
        floor = 8 * self.eps * (1 + model.losses.abs())
        is_level = model.decrement <= floor
        is_saddle = is_level & (model.valley != 0).any(1)
        finished = is_level & ~is_saddle & self._is_small(model, self._tolerance)
        finished |= self.is_closed
        # What cannot be evaluated stays where it is: the caller sees to it.
        failed = ~(model.losses.isfinite() & model.gradient.isfinite().all(1))
        moving = ~(self._done | worse | finished | failed)
        new = torch.where((worse & ~self._done)[:, None], self._before, point)
        tentative = moving & is_level & ~is_saddle
        searching = moving & ~tentative
        done = self._done | finished | failed | worse
        if searching.any():
            direction = torch.where(is_saddle[:, None], model.valley, model.step)
            new, stuck, is_finite = self._search(closure, point, new, model, direction, searching)
            stopped = searching[:, None] & (new == 0) & (point != 0)
            above, below = self._slopes_around_zero(closure, new, stopped, point)
            self.held = self.held | stopped & (above > 0) & (below < 0)
            # Rounding may hide a gain that the model promises.
            hidden = stuck & is_finite & (model.decrement <= 1e4 * floor)
            tentative |= hidden
            stuck &= ~hidden
            if stuck.any():
                held = self._find_held(closure, point, model, stuck)
                done = done | (stuck & ~held.any(1))
                self.held = self.held | held
        ends = done & ~self._done & self.held.any(1)
        if ends.any():  # where the others have been since, numbers that were held may gain
            lower = (model.losses[:, None] - self._visible(model)).expand_as(point)
            mask, longest = self.held & ends[:, None], 1 + point.abs().double()
            freed = mask & self._can_gain(closure, new, self._slopes, longest, lower, mask)
            self.held = self.held & ~freed
            done = done & ~freed.any(1)
        new = torch.where(tentative[:, None], (point + model.step).to(point), new)
        self._before, self._trying, self._decrement = point, tentative, model.decrement
        self._done = done
        rows.write(new)
        if worse.any():
            model = Model(*(_choose(worse, *pair) for pair in zip(self.model, model, strict=True)))
        self.model = model
        pieces = rows.split(model.gradient.to(point))
        for parameter, piece in zip(rows.parameters, pieces, strict=True):
            parameter.grad = piece.reshape(parameter.shape)
        return model.losses.sum()

    def _is_small(self, model: Model, tolerance: float) -> Tensor:
        """Whether gradients are below a tolerance."""
        scale = (1 + model.losses.abs())[:, None]
        return (model.gradient.abs() <= tolerance * scale).all(1)

    def _find_model(self, closure: Closure) -> Model:
        rows, point = self.rows, self.rows.read()
        with torch.enable_grad():
            known = None if self.evaluations else self._look(closure, point)
            self.evaluations += 1
            losses = rows.losses(closure) if known is None else known[0]
            gradient = rows.differentiate(losses, create_graph=True) if known is None else known[1]
            columns = [
                rows.differentiate(column) if column.requires_grad else torch.zeros_like(gradient)
                for column in gradient.unbind(1)
            ]
        hessian = torch.stack(columns, 2).double()
        self._slopes = gradient.detach()
        return solve(
            losses.detach().double(), gradient.detach().double(), hessian, point.double(),
            self.held, self.eps,
        )  # fmt: skip

    def _look(self, closure: Closure, point: Tensor) -> tuple[Tensor, Tensor] | None:
        """Look for walls around the start; loss and gradient there, if it is the answer already.

        That is where all gradients of a problem are small, or some are, and the others point back
        four roundings further down.
        """
        walls, rows = self._find_walls(closure), self.rows
        if walls is None and not self.trusts_start:
            return None
        losses = rows.losses(closure)
        gradient = rows.differentiate(losses)
        if walls is not None:
            self.held = walls[0] & (gradient < 0) | walls[1] & (gradient > 0)
        free, scale = gradient.masked_fill(self.held, 0.0), 1 + losses.detach().abs()
        # The largest number knows the units: in large ones all gradients are small.
        gain = free.abs() * (1 + point.abs().amax(1, keepdim=True))
        is_small = gain <= self._tolerance * scale[:, None]
        if self.trusts_start and is_small.any(1).all() and not is_small.all():
            self.evaluations += 1
            rows.write(point - 4 * self.eps * point.abs() * free.sign())
            nudged = rows.losses(closure)
            is_level = (nudged - losses).abs() <= self.eps**0.5 * scale
            ahead = rows.differentiate(nudged, mask=~is_small)
            is_small |= (ahead * free < 0) & is_level[:, None]
            rows.write(point)
        self.is_closed = bool(self.trusts_start and is_small.all())
        return (losses, gradient) if self.is_closed else None

    def _find_walls(self, closure: Closure) -> Tensor | None:
        """Which numbers can't rise, and which can't fall, for there data are outside of a support.

        A mask of shape `(2, problems, numbers)`; None where supports have no learned ends.
        """
        if self.rows.find_refused(closure) is None:
            return None
        point = self.rows.read()
        walls = torch.zeros((2, *point.shape), dtype=torch.bool, device=point.device)
        step = self.eps**0.5 * (1 + point.abs())
        for side, sign in enumerate((1, -1)):
            for number in range(self.rows.numbers):
                moved = point.clone()
                moved[:, number] += sign * step[:, number]
                self.rows.write(moved)
                walls[side, :, number] = torch.as_tensor(self.rows.find_refused(closure))
        self.rows.write(point)
        return walls

    def _search(
        self,
        closure: Closure,
        point: Tensor,
        new: Tensor,
        model: Model,
        direction: Tensor,
        searching: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Shorten a step until it brings its share of the decrease.

        Returns:
            The new numbers, which problems found none, and for which the whole step had a loss.
        """
        slope = (model.gradient * direction).sum(1)
        curved = (direction * (model.hessian @ direction[..., None]).squeeze(-1)).sum(1)
        bend = curved.clamp_max(0) * (slope.abs() <= curved.abs())  # counts at a saddle only
        is_finite, corners = searching, torch.zeros_like(self.held)
        for length in LENGTHS:
            at = torch.where(searching[:, None], (point + length * direction).to(point), new)
            if length == LENGTHS[1]:  # a step that is too long may have crossed corners
                crossed = searching[:, None] & ((point + direction) * point < 0)
                above, below = self._slopes_around_zero(closure, point, crossed, point)
                jumps = above - below > _JUMP * (above.abs() + below.abs())
                corners = crossed & jumps
            at = at.masked_fill(corners & (at * point < 0), 0.0)
            self.evaluations += 1
            losses = self.rows.attempt(closure, at, point).double()
            if length == 1:
                is_finite = losses.isfinite()
            promised = length * slope + length**2 * bend / 2
            is_lower = losses < model.losses
            found = searching & is_lower & (losses <= model.losses + SUFFICIENT * promised)
            new = torch.where(found[:, None], at, new)
            searching = searching & ~found
            if not searching.any():
                break
        return new, searching, is_finite

    def _slopes_around_zero(
        self, closure: Closure, point: Tensor, mask: Tensor, before: Tensor
    ) -> list[Tensor]:
        """Gradients just above and just below zero of the numbers of a mask; zero if unknown.

        How far that is depends on where they were before, for each has a unit of its own.
        """
        slopes, nudge = [torch.zeros_like(point) for _ in range(2)], 4 * self.eps * before.abs()
        for at, near in enumerate((nudge, -nudge) if mask.any() else ()):
            self.evaluations += 1
            with torch.enable_grad():
                losses = self.rows.attempt(closure, torch.where(mask, near, point), point)
                if losses.requires_grad:
                    slopes[at] = self.rows.differentiate(losses)
        return slopes

    def _find_held(self, closure: Closure, point: Tensor, model: Model, stuck: Tensor) -> Tensor:
        """Which numbers of the problems that are stuck gain nothing, however short their step."""
        size = model.hessian.diagonal(dim1=1, dim2=2).abs()
        reach = 1 + point.abs().double()
        longest = torch.minimum(model.gradient.abs() / size, reach).nan_to_num(0.0)
        promised, scale = model.gradient.abs() * longest, 1 + model.losses.abs()
        held = stuck[:, None] & (promised > 64 * self.eps * scale[:, None]) & ~self.held
        # Where a loss is smooth it falls by half of that.
        lower = model.losses[:, None] - torch.minimum(promised / 8, self._visible(model))
        return held & ~self._can_gain(closure, point, model.gradient, longest, lower, held)

    def _visible(self, model: Model) -> Tensor:
        """The least gain that counts, `(problems, 1)`: what is nearer to its corner is at it."""
        return max(64 * self.eps, 1e-6) * (1 + model.losses.abs())[:, None]

    def _can_gain(
        self,
        closure: Closure,
        point: Tensor,
        gradient: Tensor,
        longest: Tensor,
        lower: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Which numbers of a mask reach a loss lower than one, each on its own, by three steps."""
        gains = torch.zeros_like(mask)
        for number in mask.any(0).nonzero().flatten().tolist():
            for share in (1.0, 1e-3, 1e-6):
                at = point.double().clone()
                at[:, number] -= share * gradient[:, number].sign() * longest[:, number]
                self.evaluations += 1
                losses = self.rows.attempt(closure, at.to(point), point).double()
                gains[:, number] |= losses < lower[:, number]
        return gains


def _choose(mask: Tensor, mine: Tensor, theirs: Tensor) -> Tensor:
    """Of two tensors `(problems, ...)`, the first for the problems that are marked."""
    return torch.where(mask.reshape(-1, *(1,) * (mine.ndim - 1)), mine, theirs)

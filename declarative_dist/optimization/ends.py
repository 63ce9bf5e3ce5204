"""What stands against the end of a descent: numbers that run away, level directions, rounding."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from declarative_dist.optimization.newton import Newton
from declarative_dist.optimization.rows import Closure

LOST = 2e-3
"""How coarse a loss is, relative to one plus it, that is lost in rounding; a change that shows."""

_LONG = 2e-3
"""A step is long that changes a number by this share of one plus its size."""


class Ends:
    """Looks around the place where Newton's method has ended; numbers are as before then.

    Args:
        newton: what has ended.
        closure: gives the losses of all problems.
        unit: the least size of a number at a wall. The raw numbers of an end may be far smaller
            than the data, whose rounding it is that stops them.
    """

    def __init__(self, newton: Newton, closure: Closure, unit: float = 0.0) -> None:
        self._newton, self._model, self._closure = newton, newton.model, closure
        self._unit = unit
        self._point = newton.rows.read()
        self._size = self._point.abs().double()
        self._scale = 1 + self._model.losses.abs()

    @cached_property
    def runaways(self) -> Tensor:
        """Which numbers still gain when they change by half their size, all of them at once.

        Their gradients vanish only because the numbers are large: the loss falls without end. A
        mask of shape `(problems, numbers)`.
        """
        gradient, size = self._model.gradient, self._size
        visible = max(1e-5, 1e4 * self._newton.eps) * self._scale[:, None]
        mask = (gradient.abs() * size > visible) & (size > 1e3)
        if mask.any():
            mask &= self._rise(-0.5 * size * gradient.sign() * mask)[:, None] < -visible
        return mask

    @cached_property
    def lost(self) -> Tensor:
        """The numbers of problems whose loss is lost in rounding: a mask `(problems, numbers)`."""
        is_lost = self._noise > LOST * self._scale
        return is_lost[:, None] & ~self._newton.held

    @cached_property
    def is_coarse(self) -> Tensor:
        """For which problems the loss is lost in its own rounding, and not in that of numbers.

        It changes no more where numbers move by many roundings than by few: `(problems)`.
        """
        is_lost = self.lost.any(1)
        return is_lost & (self._rises_by(40) <= 4 * self._noise) if is_lost.any() else is_lost

    @cached_property
    def _noise(self) -> Tensor:
        return torch.stack([self._rises_by(count) for count in (1, 2, 3, 5)]).amax(0)

    def _rises_by(self, count: int) -> Tensor:
        """The largest change where numbers, by so many roundings, move all up, or by turns."""
        nudges = (count * self._newton.eps * self._size).masked_fill(self._newton.held, 0.0)
        signs = 1.0 - 2.0 * (torch.arange(nudges.shape[1], device=nudges.device) % 2)
        ways = (torch.ones_like(signs), signs)[: nudges.shape[1]]
        return self._largest_rise([way * nudges for way in ways])

    @cached_property
    def edges(self) -> Tensor:
        """The walls at which there is no answer: a mask of shape `(problems, numbers)`.

        Behind one the loss is minus infinity, or it falls towards it so fast that rounding decides
        where it ends. At a corner, or at the end of a uniform's support, it does neither.
        """
        newton, found = self._newton, torch.zeros_like(self._newton.held)
        least = max(self._unit, torch.finfo(self._point.dtype).tiny)
        nudges = 8 * newton.eps * self._size.clamp_min(least)
        for number in newton.held.any(0).nonzero().flatten().tolist():
            nudge = torch.zeros_like(nudges)
            nudge[:, number] = nudges[:, number]
            found[:, number] = self._largest_rise([nudge, -nudge]) > LOST * self._scale
        return found & newton.held

    def _largest_rise(self, nudges: list[Tensor]) -> Tensor:
        """The largest change of each problem's loss, inside its support."""
        rises = torch.stack([self._rise(nudge) for nudge in nudges])
        return rises.masked_fill(rises == torch.inf, 0.0).abs().amax(0)

    @cached_property
    def flat_directions(self) -> Tensor:
        """Directions of length one in which the loss is level, of shape `(directions, numbers)`.

        Either there is no curvature in units of the numbers' sizes; or the loss falls forever,
        less and less, where the last step goes. Corners look alike: a step tells.
        """
        model, held, reach = self._model, self._newton.held, 1 + self._size
        hessian = model.hessian * reach[:, :, None] * reach[:, None, :] + torch.diag_embed(
            1.0 * held
        )
        values, vectors = torch.linalg.eigh(hessian)
        is_even = values.abs() <= self._newton.eps**0.6 * self._scale[:, None]
        # Where a loss falls as exp(-x) does, Newton's steps stay long, though they gain nothing.
        is_long = (model.step / reach).abs().amax(1) > _LONG
        falls = is_long & (model.decrement < 1e-5 * self._scale)
        directions = torch.cat([vectors.mT * reach[:, None, :], model.step[:, None]], 1)
        directions = directions.masked_fill(held[:, None, :], 0.0)
        size = (directions.abs() / reach[:, None, :]).amax(2, keepdim=True).clamp_min(1e-300)
        steps, level = directions / size, max(1e-6, 64 * self._newton.eps) * self._scale
        is_flat = torch.cat([is_even, falls[:, None]], 1)
        last = is_flat.shape[1] - 1
        for at in is_flat.any(0).nonzero().flatten().tolist():
            rises = torch.stack([self._rise(length * steps[:, at]) for length in (-0.01, 0.01)])
            is_level = (rises.abs() <= level).all(0)
            # A number near zero is small for its unit; where data say nothing, any step is free.
            along = directions[:, at]
            alone = (along.square() * model.hessian.diagonal(dim1=1, dim2=2).abs()).sum(1)
            bend = (along * (model.hessian @ along[..., None]).squeeze(-1)).sum(1)
            far = torch.stack([self._rise(length * steps[:, at]) for length in (-1e4, 1e4)])
            is_level &= (far <= level).any(0) | (bend < 1e-3 * alone)
            if at == last:
                ahead = torch.stack([self._rise(length * steps[:, at]) for length in (0.3, 1.0)])
                is_level |= (ahead <= level).all(0)
            is_flat[:, at] &= is_level
        found: Tensor = directions[is_flat]
        lengths: Tensor = found.norm(dim=1, keepdim=True).clamp_min(1e-300)
        return found / lengths

    def _rise(self, step: Tensor) -> Tensor:
        """How much higher the losses are a step `(problems, numbers)` away."""
        at = (self._point.double() + step).to(self._point)
        attempt = self._newton.rows.attempt
        losses = attempt(self._closure, at, self._point, is_step=False).double()
        self._newton.rows.write(self._point)
        return losses - self._model.losses

"""What stands against the end of a descent: numbers that run away, level directions, rounding."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from declarative_dist.optimization.newton import Newton
from declarative_dist.optimization.quadratic import Model, diagonalize
from declarative_dist.optimization.rows import Closure

_LOST = 2e-3
"""How coarse a loss is, relative to one plus it, that is lost in rounding."""

_LONG = 2e-3
"""A step is long that changes a number by this share of one plus its size."""


class Ends:
    """Looks around the place where Newton's method has ended; numbers are as before then.

    Args:
        newton: what has ended.
        model: its last one.
        closure: gives the losses of all problems.
    """

    def __init__(self, newton: Newton, model: Model, closure: Closure) -> None:
        self._newton = newton
        self._model = model
        self._closure = closure
        self._point = newton.rows.read()
        self._scale = 1 + model.losses.abs()

    @cached_property
    def runaways(self) -> Tensor:
        """Which numbers still gain when they change by half their size, all of them at once.

        Their gradients vanish only because the numbers are large: the loss falls without end. A
        mask of shape `(problems, numbers)`.
        """
        model, newton = self._model, self._newton
        position = self._point.abs().double()
        visible = max(1e-5, 1e4 * newton.eps) * self._scale[:, None]
        mask = (model.gradient.abs() * position > visible) & (position > 1e3)
        mask &= model.gradient.abs() > newton.grain(model)
        if mask.any():
            step = -0.5 * position * model.gradient.sign() * mask
            mask &= self._rise(step)[:, None] < -visible
        return mask

    @cached_property
    def is_lost(self) -> Tensor:
        """Whose losses are lost in rounding, of shape `(problems)`.

        Numbers move by their rounding, all up, or up and down by turns.
        """
        nudges = 2 * self._newton.eps * self._point.abs().double()
        nudges = nudges.masked_fill(self._newton.held, 0.0)
        signs = 1.0 - 2.0 * (torch.arange(nudges.shape[1], device=nudges.device) % 2)
        rises = torch.stack([self._rise(nudges), self._rise(signs * nudges)])
        moves = rises.masked_fill(rises == torch.inf, 0.0).abs().amax(0)  # outside of the support
        return (moves > _LOST * self._scale) | self._coarse.any(1)

    @property
    def lost(self) -> Tensor:
        """Which numbers are so large that rounding loses the loss: `(problems, numbers)`."""
        return (
            self.is_lost[:, None] & (self._point.abs() > 1e3) & ~self._newton.held | self._coarse
        )

    @property
    def moving(self) -> Tensor:
        """Which numbers have a gradient that is not small: a mask `(problems, numbers)`."""
        least = max(1e-5, 100 * self._newton.eps) * self._scale
        return self._model.gradient.abs() > least[:, None]

    @cached_property
    def flat_directions(self) -> Tensor:
        """Directions of length one in which the loss is level, of shape `(directions, numbers)`.

        Either a number may change by its own size and rounding hides what that does; or the loss
        is level in a direction that is no number's own; or it falls forever, less and less, where
        the last step goes. Corners look alike: a step tells.
        """
        model, newton, place = self._model, self._newton, self._point.double()
        reach, scale, eps = 1 + place.abs(), self._scale, newton.eps
        unit, values, vectors = diagonalize(model.gradient, model.hessian, place, 8 * eps * scale)
        bend = model.hessian.diagonal(dim1=1, dim2=2).abs() * reach**2
        alone = (bend <= eps**0.6 * scale[:, None]) & ~newton.held
        shared = (values.abs() <= eps**0.7) & ~(alone[:, :, None] & (vectors != 0)).any(1)
        # Where a loss falls as exp(-x) does, Newton's steps stay long, though they gain nothing.
        falls = ((model.step / reach).abs().amax(1) > _LONG) & (model.decrement < 1e-5 * scale)
        singles = torch.diag_embed(torch.ones_like(reach))
        shares = (unit[:, :, None] * vectors).mT
        directions = torch.cat([singles, shares, model.step[:, None]], 1)
        directions = directions.masked_fill(newton.held[:, None, :], 0.0)
        size = (directions.abs() / reach[:, None, :]).amax(2, keepdim=True).clamp_min(1e-300)
        steps = directions / size
        is_flat, level = torch.cat([alone, shared, falls[:, None]], 1), max(1e-6, 64 * eps) * scale
        last = is_flat.shape[1] - 1
        for at in is_flat.any(0).nonzero().flatten().tolist():
            sides = [self._rise(length * steps[:, at]) for length in (-0.01, 0.01)]
            is_level = (sides[0].abs() <= level) & (sides[1].abs() <= level)
            if at == last:
                ahead = [self._rise(length * steps[:, at]) for length in (0.3, 1.0)]
                is_level |= (ahead[0] <= level) & (ahead[1] <= level)
            is_flat[:, at] &= is_level
        found: Tensor = directions[is_flat]
        lengths: Tensor = found.norm(dim=1, keepdim=True).clamp_min(1e-300)
        return found / lengths

    @property
    def _coarse(self) -> Tensor:
        """Which held numbers are so large that the next ones are more than 1 apart."""
        return self._newton.held & (self._point.abs() > 1 / self._newton.eps)

    def _rise(self, step: Tensor) -> Tensor:
        """How much higher the losses are a step `(problems, numbers)` away."""
        at = (self._point.double() + step).to(self._point)
        losses = self._newton.rows.attempt(self._closure, at, self._point).double()
        self._newton.rows.write(self._point)
        rise: Tensor = losses - self._model.losses
        return rise

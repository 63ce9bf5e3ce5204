"""How the gradient of an expectation under a guide is estimated from draws of it.

Values are the same for all: the Monte Carlo mean. What differs is where gradients flow. In what
follows draws are tensors, or dicts of them by site, of shape `(count, *batch, *event)`, and
densities have shape `(count, *batch)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from declarative_dist.plain.draws import (
    center_leave_one_out,
    rsample_and_score,
    rsample_and_score_detached,
    sample_and_score,
)

Density = Callable[[Any], Tensor]


class Pathwise:
    """Gradients through reparametrised draws.

    For the evidence lower bound and for the importance-weighted one: automatic differentiation of
    the estimate (Kingma and Welling, 2014, https://arxiv.org/abs/1312.6114; Burda, Grosse and
    Salakhutdinov, 2016, https://arxiv.org/abs/1509.00519).
    """

    name: ClassVar[str] = "pathwise"
    needs_rsample: ClassVar[bool] = True
    draw = staticmethod(rsample_and_score)

    def losses(self, log_joint: Density, draws: Any, log_q: Tensor) -> Tensor:
        """Negative log ratios, `(count, *batch)`, whose mean has the gradient of the bound."""
        return log_q - log_joint(draws)

    def bound(self, log_joint: Density, draws: Any, log_q: Tensor) -> Tensor:
        """The importance-weighted bound, of shape `(*batch)`."""
        return log_mean_exp(log_joint(draws) - log_q)


class StickingTheLanding(Pathwise):
    """Gradients through reparametrised draws, with the guide's own parameters held.

    The density of the guide is taken with its parameters held, which drops a term of zero
    expectation: where guide and posterior agree, the gradient is zero for any draw (Roeder, Wu and
    Duvenaud, 2017, https://arxiv.org/abs/1703.09194). For the importance-weighted bound that term
    has another expectation, and it is the doubly reparametrised gradient that is unbiased: weights
    enter squared where gradients flow through draws, and as they are where they flow to the
    model's parameters (Tucker, Lawson, Gu and Maddison, 2019, https://arxiv.org/abs/1810.04152).

    Only where the support is fixed: where its ends are learned, that term is not zero.
    """

    name: ClassVar[str] = "stl"
    draw = staticmethod(rsample_and_score_detached)

    def bound(self, log_joint: Density, draws: Any, log_q: Tensor) -> Tensor:
        with torch.no_grad():
            weights = (log_joint(draws) - log_q).softmax(0)

        def weigh_gradient(value: Tensor) -> Tensor:
            fixed = value.detach()
            return fixed + weights.reshape(*weights.shape, *[1] * (value.ndim - weights.ndim)) * (
                value - fixed
            )

        log_p = log_joint(map_draws(draws, weigh_gradient))
        surrogate = (weights * log_p - weights.square() * log_q).sum(0)
        return log_mean_exp((log_p - log_q).detach()) + (surrogate - surrogate.detach())


class Score:
    """Gradients of the score function, for guides whose draws carry none.

    Every draw is weighed against the mean of the others, which lowers the variance and adds no
    bias (Kool, van Hoof and Welling, 2019, https://openreview.net/forum?id=r1lgTGL5DE); in the
    importance-weighted bound each is weighed against the bound with its weight replaced by the
    geometric mean of the others (Mnih and Rezende, 2016, https://arxiv.org/abs/1602.06725). One
    draw has no others, and its score is used without a baseline.

    Only where the support is fixed: draws at an end that moves are not in the score.
    """

    name: ClassVar[str] = "score"
    needs_rsample: ClassVar[bool] = False
    draw = staticmethod(sample_and_score)

    def losses(self, log_joint: Density, draws: Any, log_q: Tensor) -> Tensor:
        """Negative log ratios, `(count, *batch)`, whose mean has the gradient of the bound."""
        fixed = log_q.detach()
        ratio = log_joint(draws) - fixed
        signal = center_leave_one_out(ratio.detach())
        return -ratio - signal * (log_q - fixed)

    def bound(self, log_joint: Density, draws: Any, log_q: Tensor) -> Tensor:
        """The importance-weighted bound, of shape `(*batch)`."""
        ratio = log_joint(draws) - log_q
        value = log_mean_exp(ratio)
        signal = value.detach()
        if len(ratio) > 1:
            signal = signal - bounds_of_the_others(ratio.detach())
        return value + (signal * (log_q - log_q.detach())).sum(0)


ESTIMATORS: Mapping[str, Pathwise | Score] = {
    estimator.name: estimator for estimator in (Pathwise(), StickingTheLanding(), Score())
}
"""The estimators by the names that objectives take."""


def log_mean_exp(values: Tensor) -> Tensor:
    """The logarithm of the mean of exponentials over the first dimension."""
    return values.logsumexp(0) - math.log(len(values))


def bounds_of_the_others(ratios: Tensor) -> Tensor:
    """For each of several log ratios the bound, with it replaced by the mean of the others.

    Args:
        ratios: of shape `(count, *batch)`, with a count of 2 or more.

    Returns:
        A tensor of the same shape.

    Example:
        >>> import torch
        >>> from declarative_dist.objectives.estimators import bounds_of_the_others
        >>> bounds_of_the_others(torch.tensor([0.0, 2.0]))
        tensor([2., 0.])
    """
    count = len(ratios)
    is_own = torch.eye(count, dtype=torch.bool, device=ratios.device)
    is_own = is_own.reshape(count, count, *[1] * (ratios.ndim - 1))
    replaced = ratios - center_leave_one_out(ratios)
    return log_mean_exp(torch.where(is_own, replaced, ratios[:, None]))


def one_of(draws: Any) -> Tensor:
    """The first tensor of draws."""
    return draws if isinstance(draws, Tensor) else next(iter(draws.values()))


def map_draws(draws: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Draws with every tensor changed."""
    if isinstance(draws, Tensor):
        return change(draws)
    return {name: change(value) for name, value in draws.items()}

"""Trying a joint distribution out: whether every draw has a density of its own.

Sample sizes that equal an event size hide mistakes of broadcasting. So a new joint is drawn from
once alone, and then in a number that no size of it equals; and the density of one draw must not
depend on what was drawn beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from declarative_dist.distributions.ancestral import JointDistribution
from declarative_dist.errors import ConstraintError, shortened

_COUNTS = (2, 3)
"""Numbers of draws; a size that is hidden in a site can equal one of them, not both."""

_FIX = "Let values broadcast over what stands in front: mu[..., None], not mu."


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Try a module without dropout, and without changes of running means."""
    modes = {part: part.training for part in module.modules()}
    for part in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def check_sites_broadcast(joint: JointDistribution) -> None:
    """Refuse sites whose values follow the number of draws, or mix them.

    Raises:
        ConstraintError: naming the site; nothing is said where no draw is legal.
    """
    try:
        joint.legal_draw((max(_COUNTS),))
        singles = [
            {name: value for name, _, value in joint.legal_draw()} for _ in range(max(_COUNTS))
        ]
        alone = [joint.scores(single, {}) for single in singles[:2]]
        for count in _COUNTS:
            draws = {n: torch.stack([single[n] for single in singles[:count]]) for n in singles[0]}
            together = joint.scores(draws, {})
            for index, scores in enumerate(alone):
                _check_same(joint, scores, {n: s[index] for n, s in together.items()})
        if joint.batch_shape.numel() > 1:
            _check_copies(joint, singles, alone)
    except ValueError as error:
        is_ours = isinstance(error, ConstraintError)
        if is_ours and not isinstance(error.__cause__, ValueError):
            raise
        # Torch refused a value: no draw is legal, or one lies on the edge of its support.


def _check_copies(
    joint: JointDistribution, singles: list[dict[str, Tensor]], alone: list[dict[str, Tensor]]
) -> None:
    """Refuse densities of one independent copy that follow the values of another."""
    first = torch.arange(joint.batch_shape[0]) == 0
    mixed, expected = (
        {name: _chosen(first, one[name], other) for name, other in others.items()}
        for one, others in ((singles[0], singles[1]), (alone[0], alone[1]))
    )
    _check_same(joint, expected, joint.scores(mixed, {}))


def _chosen(first: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """One tensor at its first entries, another at the rest."""
    return torch.where(first.to(one.device).reshape(-1, *(1,) * (one.ndim - 1)), one, other)


def _check_same(
    joint: JointDistribution, alone: dict[str, Tensor], beside: dict[str, Tensor]
) -> None:
    """Refuse densities of one draw that differ when others are drawn beside it.

    Loosely: rounding differs between one and many, mixing changes a density as such.
    """
    for name, score in alone.items():
        if not torch.isclose(beside[name], score, rtol=0.05, atol=0.05, equal_nan=True).all():
            raise ConstraintError(
                f"{joint.owner}.{name}",
                "a density of each draw and copy that does not depend on others beside it",
                f"{shortened(score)} alone and {shortened(beside[name])} among others",
                f"Sum, sort and index over the event only, as in sum(-1). {_FIX}",
            )

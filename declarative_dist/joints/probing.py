"""Trying a joint distribution out: whether every draw has a density of its own.

A number of draws that equals an event size hides mistakes of broadcasting. So draws of a new joint
are scored in twos and in threes, since a size can't equal both; and the density of one draw must
not depend on what was drawn beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from declarative_dist.errors import ConstraintError, shorten
from declarative_dist.joints.distribution import JointDistribution

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

    Densities are compared between draws of one shape, so that they are rounded alike.

    Raises:
        ConstraintError: naming the site; nothing is said where nothing can be drawn.
    """
    try:
        joint.legal_draw((3,))
        one, two, three = ({n: v for n, _, v in joint.legal_draw()} for _ in range(3))
        # A size that is hidden in a site can equal one of these numbers of draws, not both.
        joint.scores(_together(one, two, three), {})
        pair = joint.scores(_together(one, two), {})
        _check_same(joint, pair, joint.scores(_together(one, three), {}), 0)
        _check_same(joint, pair, joint.scores(_together(three, two), {}), 1)
        if joint.batch_shape.numel() > 1:
            _check_copies(joint, one, two)
    except NotImplementedError:
        """A site without a sampler may be observed."""
    except ValueError as error:
        is_ours = isinstance(error, ConstraintError)
        if is_ours and not isinstance(error.__cause__, ValueError):
            raise
        # Torch refused a value: no draw is legal, or one lies on the edge of its support.


Draws = dict[str, Tensor]


def _together(*draws: Draws) -> Draws:
    return {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}


def _check_copies(joint: JointDistribution, one: Draws, other: Draws) -> None:
    """Refuse densities of one independent copy that follow the values of another."""
    first = torch.arange(joint.batch_shape[0]) == 0
    mixed = {name: _chosen(first, one[name], value) for name, value in other.items()}
    alone, others = (joint.scores(draws, {}) for draws in (one, other))
    expected = {name: _chosen(first, alone[name], score) for name, score in others.items()}
    _check_same(joint, expected, joint.scores(mixed, {}))


def _chosen(first: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """One tensor at its first entries, another at the rest."""
    return torch.where(first.to(one.device).reshape(-1, *(1,) * (one.ndim - 1)), one, other)


def _check_same(
    joint: JointDistribution, scores: Draws, others: Draws, index: int | None = None
) -> None:
    """Refuse densities of the same draws that differ when others beside them do."""
    for name, score in scores.items():
        one, other = score, others[name]
        if index is not None:
            one, other = one[index], other[index]
        if not torch.isclose(one, other, rtol=0.05, atol=0.05, equal_nan=True).all():
            raise ConstraintError(
                f"{joint.owner}.{name}",
                "a density of each draw and copy that does not depend on others beside it",
                f"{shorten(one)}, and with others beside it {shorten(other)}",
                f"Sum, sort and index over the event only, as in sum(-1). {_FIX}",
                code="mixed-draws",
            )

"""The verdict on a descent: how it ended, and what there is to say of single fields."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from declarative_dist.fitting.losses import Losses
from declarative_dist.fitting.parameters import is_at_limit, short_name, singular_fields
from declarative_dist.optimization.ends import Ends
from declarative_dist.optimization.lbfgs import LBFGS
from declarative_dist.optimization.newton import Newton

_ENDLESS = "so it may fall without end, as where data are all alike or too few"


class NotConvergedWarning(UserWarning):
    """A fit without `steps` ended without an answer.

    Args:
        verdict: why, in one sentence.
    """

    def __init__(self, verdict: str) -> None:
        super().__init__(f"fit: {verdict}.")
        self.verdict = verdict


def judge_descent(
    objective: nn.Module, search: Newton | LBFGS, losses: Losses, held: list[str], count: int
) -> tuple[bool, list[str]]:
    """Whether a descent has converged, and sentences about it.

    Args:
        objective: what is fitted.
        search: what went down.
        losses: gives the losses of all problems.
        held: the fields at the end of their band.
        count: how many steps were done.
    """
    rest = f"gradient {search.gradients.max().item():.1g}, {search.evaluations} evaluations"
    failed, notes = ~search.converged, list[str]()
    if isinstance(search, Newton):
        corners = [n for n in _names(objective, search, search.held) if n not in held]
        notes = [f"{name} is at a corner of the loss, where no step gains" for name in corners]
        if search.is_closed:
            return True, [f"settled: {rest.partition(',')[0]}, in closed form", *notes]
        ends = Ends(search, losses, is_degenerate=losses.has_equal_data)
        singular = list(singular_fields(objective))
        failed |= ends.runaways.any(1) | bool(singular)
        if losses.has_equal_data:
            failed |= ends.coarse.any(1)
        if search.is_done and not held:
            failed |= ends.is_lost  # at the end of a band that is so, and said
        notes = [
            *[f"{n} is as good as singular, as of too few data: give a prior" for n in singular],
            *[
                f"{name} runs away: the loss falls without end"
                for name in _names(objective, search, ends.runaways)
            ],
            *(notes + list(_describe(objective, search, ends, held)) if search.is_done else ()),
        ]
    if not failed.any():
        return True, [f"settled: {rest}", *notes]
    if not search.is_done:
        rest = f"{count} steps are used up, {rest}"
    head = f"not settled: {rest}"
    if len(failed) > 1:
        names = failed.nonzero().flatten().tolist()
        shown = ", ".join(map(str, names[:4])) + (", ..." if len(names) > 4 else "")
        head = f"{len(failed) - len(names)} of {len(failed)} copies settled, not {shown}: {rest}"
    return False, [head, *notes]


def _names(objective: nn.Module, newton: Newton, mask: Tensor) -> list[str]:
    """The fields that have marked numbers, of a mask `(problems, numbers)`."""
    pieces = zip(newton.rows.parameters, newton.rows.split(mask), strict=True)
    return [short_name(objective, parameter) for parameter, piece in pieces if piece.any()]


def _describe(objective: nn.Module, newton: Newton, ends: Ends, held: list[str]) -> Iterator[str]:
    """What the place says where Newton's method has ended."""
    if ends.is_lost.any() and not held:
        names = ", ".join(_names(objective, newton, ends.lost)) or "all numbers together"
        yield f"rounding hides the loss in {names}, {_ENDLESS}: give a prior or a floor"
        return
    moving = [name for name in _names(objective, newton, ends.moving) if name not in held]
    if moving and not newton.converged.all() and not ends.runaways.any():
        yield f"the loss still has a slope in {', '.join(moving)}, {_ENDLESS}"
    flat = {n: at for n, at in _flat_fields(objective, newton, ends).items() if n not in held}
    limits = [name for name, is_limit in flat.items() if is_limit]
    level = [name for name, is_limit in flat.items() if not is_limit]
    if limits:
        yield f"the maximum is at the end of the range of {', '.join(limits)}"
    if level:
        yield f"the loss is flat in {', '.join(level)}, which the data do not determine"


def _flat_fields(objective: nn.Module, newton: Newton, ends: Ends) -> dict[str, bool]:
    """The fields along which the loss is level, and whether their values have come to a limit.

    A common shift of all logits of a vector does not count: it changes no distribution.
    """
    directions = ends.flat_directions
    if not len(directions):
        return {}
    pieces = newton.rows.split(directions)
    # A vector has its logits along its last dimension, the weights that predict one the first.
    lengths = [
        torch.cat([_without_shift(piece, dim) for piece in pieces], 1).norm(dim=1)
        for dim in (-1, 1)
    ]
    counts = torch.minimum(*lengths) > 1e-3
    members = [
        (parameter, piece[counts & (piece.reshape(len(piece), -1).abs() > 0.1).any(1)])
        for parameter, piece in zip(newton.rows.parameters, pieces, strict=True)
    ]
    return {
        short_name(objective, parameter): is_at_limit(objective, parameter, piece)
        for parameter, piece in members
        if len(piece)
    }


def _without_shift(piece: Tensor, dim: int) -> Tensor:
    """Directions `(directions, *own)` less what all numbers along a dimension have in common."""
    if piece.ndim > 1 and piece.shape[dim] > 1:
        piece = piece - piece.mean(dim, keepdim=True)
    return piece.reshape(len(piece), -1)

"""The verdict on a fit: how it ended, and what there is to say of single fields."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from declarative_dist.fitting.history import History
from declarative_dist.fitting.parameters import held_fields, short_name, singular_fields
from declarative_dist.fitting.ways import DescentWay, Way
from declarative_dist.optimization.ends import Ends
from declarative_dist.optimization.newton import Newton


class NotConvergedWarning(UserWarning):
    """A fit without `steps` ended without an answer.

    Args:
        verdict: why, in one sentence.
    """

    def __init__(self, verdict: str) -> None:
        super().__init__(f"fit: {verdict}.")
        self.verdict = verdict


def judge(way: Way, history: History) -> None:
    """Say in a history how the fit ended, and warn where it should have ended at an answer."""
    if not history.step:
        history.verdict = "no step was done"
        return
    converged, verdict = way.judge(history)
    if not converged and (history.interrupted or history.stopped):
        who = "Ctrl-C" if history.interrupted else "a callback"
        converged, verdict = None, f"ended by {who}: {verdict}"
    history.converged = converged
    history.verdict = "; ".join([verdict, *_notes(way)])
    if converged is False and not way.is_told:
        warnings.warn(NotConvergedWarning(history.verdict), stacklevel=3)


def _notes(way: Way) -> Iterator[str]:
    """What there is to say about single fields."""
    held = list(held_fields(way.objective))
    for name in held:
        yield f"{name} is held at the end of its band"
    if isinstance(way, DescentWay) and isinstance(way.optimizer, Newton):
        yield from _notes_of_newton(way.objective, way.optimizer, way.ends, held)


def _notes_of_newton(
    objective: nn.Module, newton: Newton, ends: Ends | None, held: list[str]
) -> Iterator[str]:
    """What the place says where Newton's method has ended."""

    def named(mask: Tensor) -> list[str]:
        pieces = zip(newton.rows.parameters, newton.rows.split(mask), strict=True)
        return [short_name(objective, parameter) for parameter, piece in pieces if piece.any()]

    if ends is not None:
        for name in singular_fields(objective):
            yield f"{name} is as good as singular, as of too few data: give a prior"
        for name in named(ends.runaways):
            yield f"{name} runs away: the loss falls without end"
    if not newton.is_done:
        return
    for name in named(newton.held):
        if name not in held:
            yield f"{name} is at a corner of the loss, where no step gains"
    if ends is None:  # the answer is one in closed form
        return
    endless = "so it may fall without end, as where data are all alike or too few"
    if ends.is_lost.any() and not held:
        names = ", ".join(named(ends.lost)) or "all numbers together"
        yield f"rounding hides the loss in {names}, {endless}: give a prior or a floor"
        return
    moving = [name for name in named(ends.moving) if name not in held]
    if moving and not newton.converged.all() and not ends.runaways.any():
        yield f"the loss still has a slope in {', '.join(moving)}, {endless}"
    flat = [name for name in _flat_fields(objective, newton, ends) if name not in held]
    if flat:
        yield f"the loss is flat in {', '.join(flat)}, which the data do not determine"


def _flat_fields(objective: nn.Module, newton: Newton, ends: Ends) -> Iterator[str]:
    """The fields along which the loss is level, but for a common shift of all logits of a vector.

    Such a shift changes no distribution, so there is nothing to determine.
    """
    if not len(ends.flat_directions):
        return
    pieces = newton.rows.split(ends.flat_directions)
    # A vector has its logits along its last dimension, the weights that predict one the first.
    lengths = [
        torch.cat([_without_shift(piece, dim) for piece in pieces], 1).norm(dim=1)
        for dim in (-1, 1)
    ]
    counts = torch.minimum(*lengths) > 1e-3
    for parameter, piece in zip(newton.rows.parameters, pieces, strict=True):
        if (piece[counts].abs() > 0.1).any():
            yield short_name(objective, parameter)


def _without_shift(piece: Tensor, dim: int) -> Tensor:
    """Directions `(directions, *own)` less what all numbers along a dimension have in common."""
    if piece.ndim > 1 and piece.shape[dim] > 1:
        piece = piece - piece.mean(dim, keepdim=True)
    return piece.reshape(len(piece), -1)

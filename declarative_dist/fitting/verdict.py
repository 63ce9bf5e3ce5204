"""The verdict on a descent: how it ended, and what there is to say of single fields."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from declarative_dist.fitting.losses import Losses
from declarative_dist.fitting.parameters import STEP, Saturated, short_name
from declarative_dist.optimization.ends import LOST, Ends
from declarative_dist.optimization.lbfgs import LBFGS
from declarative_dist.optimization.newton import Newton

_ENDLESS = "data all alike, too few or at an end of the support need a prior or a floor"
_STUCK = "no step gains: the loss has corners, or its rounding hides the rest (float64 has less)"
_COARSE = "the loss is lost in its own rounding: use float64, or counts and values of another size"


class NotConvergedWarning(UserWarning):
    """A fit without `steps` ended without an answer.

    Args:
        verdict: why, in one sentence.
    """

    def __init__(self, verdict: str) -> None:
        super().__init__(f"fit: {verdict}.")
        self.verdict = verdict


def judge_descent(
    objective: nn.Module,
    search: Newton | LBFGS,
    losses: Losses,
    saturated: list[Saturated],
    count: int,
) -> tuple[bool | None, list[str]]:
    """Whether a descent has converged, and sentences about it.

    Args:
        objective: what is fitted.
        search: what went down.
        losses: gives the losses of all problems.
        saturated: the fields with a value at the end of its band.
        count: how many steps were done.
    """
    rest = f"gradient {search.gradients.max().item():.1g}, {search.evaluations} evaluations"
    named, notes = [field.name for field in saturated], list[str]()
    beyond = _falls_beyond(search, losses, saturated)
    failed = ~search.converged | beyond
    is_stuck = search.is_done & failed & ~beyond
    is_coarse = torch.zeros_like(failed)
    if isinstance(search, Newton) and search.is_closed:
        rest = f"{rest.partition(',')[0]}, in closed form"
        notes = _describe_corners(objective, search, named)
    elif isinstance(search, Newton):
        ends = Ends(search, losses, losses.unit)
        # At the end of a band rounding may hide the loss, and the band is said.
        is_coarse = ends.is_coarse & (not (saturated or losses.has_equal_data))
        lost = ends.lost & ~is_coarse[:, None]
        falls = ends.runaways if saturated else ends.runaways | lost | ends.edges
        endless = _names(objective, search, falls)
        failed |= falls.any(1)
        notes = _describe_corners(objective, search, named + endless)
        if endless:
            notes.append(f"the loss falls without end in {', '.join(endless)}: {_ENDLESS}")
        flat = [n for n in _flat_fields(objective, search, ends) if n not in named + endless]
        if flat and search.is_done:
            why = "the data do not determine it, or its range ends here"
            notes.append(f"the loss is flat in {', '.join(flat)}: {why}")
        is_stuck &= ~falls.any(1)
    if (is_stuck & ~is_coarse).any():
        notes.append(_STUCK)
    if is_coarse.any():
        notes.append(_COARSE)
    if not (failed & ~is_coarse).any() and is_coarse.any():
        return None, [f"level: {rest}", *notes]
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


def _falls_beyond(search: Newton | LBFGS, losses: Losses, saturated: list[Saturated]) -> Tensor:
    """For which problems a band ends where the loss still falls: its minimum lies beyond."""
    falls = torch.zeros_like(search.converged)
    rows, point = search.rows, search.rows.read()
    if not saturated:
        return falls
    with torch.no_grad():
        least = rows.attempt(losses, point, point)
        for field in saturated:
            field.raw.copy_(field.back)
            risen = rows.attempt(losses, rows.read(), point) - least
            falls |= risen > STEP * LOST * (1 + least.abs())
            rows.write(point)
    return falls


def _describe_corners(objective: nn.Module, newton: Newton, known: list[str]) -> list[str]:
    """Sentences about fields at corners of the loss, but for those that have one already."""
    names = [name for name in _names(objective, newton, newton.held) if name not in known]
    return [f"{name} is at a corner of the loss, where no step gains" for name in names]


def _names(objective: nn.Module, newton: Newton, mask: Tensor) -> list[str]:
    """The fields that have marked numbers, of a mask `(problems, numbers)`."""
    pieces = zip(newton.rows.parameters, newton.rows.split(mask), strict=True)
    return [short_name(objective, parameter) for parameter, piece in pieces if piece.any()]


def _flat_fields(objective: nn.Module, newton: Newton, ends: Ends) -> list[str]:
    """The fields along which the loss is level.

    A common shift of all logits of a vector does not count: it changes no distribution.
    """
    directions = ends.flat_directions
    pieces = newton.rows.split(directions)
    # A vector has its logits along its last dimension, the weights that predict one the first.
    lengths = [
        torch.cat([_without_shift(piece, dim) for piece in pieces], 1).norm(dim=1)
        for dim in (-1, 1)
    ]
    counts = torch.minimum(*lengths) > 1e-3
    return _names(objective, newton, counts[:, None] & (directions.abs() > 0.1))


def _without_shift(piece: Tensor, dim: int) -> Tensor:
    """Directions `(directions, *own)` less what all numbers along a dimension have in common."""
    if piece.ndim > 1 and piece.shape[dim] > 1:
        piece = piece - piece.mean(dim, keepdim=True)
    return piece.reshape(len(piece), piece.shape[1:].numel())

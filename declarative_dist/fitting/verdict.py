"""The verdict on a fit: how it ended, and what there is to say of single fields."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.fields.field import needed_values
from declarative_dist.fitting.history import History
from declarative_dist.fitting.parameters import declared_params, field_of
from declarative_dist.fitting.ways import NewtonWay, Way

FAR = 1e4
"""How far a raw number is from the end of any band."""


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
    held = list(_held_fields(way.objective))
    for name in held:
        yield f"{name} is held at the end of its band"
    if isinstance(way, NewtonWay) and way.optimizer.is_done:
        for parameter, is_held in way.optimizer.split(way.optimizer.held):
            name = _name(way.objective, parameter)
            if is_held.any() and name not in held:
                yield f"{name} is at a corner of the loss, where no step gains"
        for parameter, runs in way.optimizer.split(way.runaways):
            if runs.any():
                yield f"{_name(way.objective, parameter)} runs away: the loss falls without end"
        flat = [name for name in _flat_fields(way) if name not in held]
        if flat:
            yield f"the loss is flat in {', '.join(flat)}, which the data do not determine"


def _flat_fields(way: NewtonWay) -> Iterator[str]:
    """The fields along which the loss is level, but for a common shift of all logits of a vector.

    Such a shift changes no distribution, so there is nothing to determine.
    """
    pieces = way.optimizer.split(way.flat_directions())
    if not len(pieces[0][1]):
        return
    # A vector has its logits along its last dimension, the weights that predict one the first.
    lengths = [
        torch.cat([_without_shift(piece, dim) for _, piece in pieces], 1).norm(dim=1)
        for dim in (-1, 1)
    ]
    counts = torch.minimum(*lengths) > 1e-3
    for parameter, piece in pieces:
        if (piece[counts].abs() > 0.1).any():
            yield _name(way.objective, parameter)


def _without_shift(piece: Tensor, dim: int) -> Tensor:
    """Directions `(directions, *own)` less what all numbers along a dimension have in common."""
    if piece.ndim > 1 and piece.shape[dim] > 1:
        piece = piece - piece.mean(dim, keepdim=True)
    return piece.reshape(len(piece), -1)


def _held_fields(objective: nn.Module) -> Iterator[str]:
    """The trainable fields with a value at the end of its band."""
    with torch.no_grad():
        for _, module, field in declared_params(objective):
            trainable = [p for p in field.parameters_of(module) if p.requires_grad and p.numel()]
            if trainable:
                known = needed_values(module, field.name)
                constraint = field.resolved_constraint(module, known)
                if _is_held(constraint, getattr(module, field.raw_name)).any():
                    yield _name(objective, trainable[0])


def _is_held(constraint: Constraint, raw: Tensor) -> Tensor:
    """Whether values are at an end of their band, or so near that going there changes nothing."""
    held = constraint.is_at_end(raw)
    value = constraint.forward(raw)
    for far in (-FAR, FAR):
        end = constraint.forward(raw + far)
        if constraint.event_dim or constraint.raw_event_dim:
            break
        is_near = (end - value).abs() <= 1e-6 * value.abs()
        held = held | (constraint.is_at_end(raw + far) & is_near)
    return held


def _name(objective: nn.Module, parameter: nn.Parameter) -> str:
    """The field of a parameter, without the class in front."""
    name, _ = field_of(objective, parameter)
    return name.partition(".")[2] or name

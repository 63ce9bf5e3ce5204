"""Fits of guides that end by themselves, and say how they ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from declarative_dist.errors import NonFiniteError
from declarative_dist.fields.sharding import is_shard
from declarative_dist.latents.weighted import WeightedDraws
from declarative_dist.posteriors.guides import MOST_TO_BEGIN, NormalGuide
from declarative_dist.posteriors.modes import RESTARTS, Modes
from declarative_dist.posteriors.sampling import MOST_OF_A_FACTOR
from declarative_dist.randomness import same_random_numbers

_DRAWS = 4000


@dataclass(frozen=True)
class GuideFit:
    """How the fit of a guide ended.

    Args:
        losses: minus the judged bound after each cycle.
        converged: whether a further cycle would gain nothing.
        verdict: what to make of it, in sentences.
        draws: the weighted draws that the verdict speaks of.
    """

    losses: list[float]
    converged: bool
    verdict: str
    draws: WeightedDraws


def can_fit_guide(objective: Any) -> bool:
    """Whether `fit_guide` fits all that trains in an objective.

    It does so for an automatic guide of a moderate size, where nothing is learned in the target.
    """
    guide = getattr(objective, "guide", None)
    if not isinstance(guide, NormalGuide):
        return False
    own = list(guide.parameters(recurse=False))
    trained = {id(p) for p in objective.parameters() if p.requires_grad}
    most = MOST_TO_BEGIN if guide.is_diagonal else MOST_OF_A_FACTOR
    is_whole = not any(p.is_meta or is_shard(p) for p in own)
    return trained == {id(p) for p in own} and is_whole and guide.flat.size <= most


def fit_guide(
    objective: Any,
    batch: tuple[Any, ...] = (),
    *,
    restarts: int | None = None,
    tolerance: float | None = None,
) -> GuideFit:
    """Fit an automatic guide to the end, from several starts, on whole data.

    Args:
        objective: a variational bound of an automatic guide; see `can_fit_guide`.
        batch: the data, as the objective's forward takes it.
        restarts: how many other starts to try; None for 9.
        tolerance: the search is over where a cycle gains fewer nats than this; None for 0.001.

    Raises:
        NonFiniteError: if the target has no finite density where the guide starts.
    """
    guide: NormalGuide = objective.guide
    objective.before_fit(*batch)
    log_joint = objective.log_joint_of(*batch)
    guide.initialize_(
        log_joint,
        restarts=RESTARTS if restarts is None else restarts,
        tolerance=1e-3 if tolerance is None else tolerance,
    )
    modes = guide.modes
    if modes is None:
        raise NonFiniteError(
            f"{type(objective).__name__}.log_joint",
            "a finite log density where the guide starts",
            "minus infinity or NaN",
            f"{objective.why_not_finite(*batch)} Declare other starting values.".strip(),
        )
    with same_random_numbers():
        torch.manual_seed(0)
        draws = guide.importance_sample(log_joint, _DRAWS)
        plain = guide.sample((_DRAWS,))
    converged = bool(modes.is_settled.all())
    cycles = len(modes.losses) - 1
    head = f"bound {-modes.losses[-1]:.6g}, {cycles} cycles"
    ended = f"settled: {head}" if converged else f"not settled: {head}. {_runaway(guide, modes)}"
    said = [
        f"{ended}.",
        f"Weighted draws: {draws.verdict}",
        f"Plain draws: {_compare(plain, draws)}",
    ]
    return GuideFit(modes.losses, converged, " ".join(said), draws)


def _runaway(guide: NormalGuide, modes: Modes) -> str:
    """Which sites grow wider without end."""
    widens = modes.is_running_away.reshape(-1, guide.flat.size).any(0)
    names = [s.name for s in guide.flat.slots if widens[s.offset : s.offset + s.count].any()]
    if not names:
        return "The bound still rises"
    are = f"{names[0]} runs away" if len(names) == 1 else f"{', '.join(names)} run away"
    return f"{are}: the posterior is flat there; a proper prior would end that"


def _compare(plain: dict[str, Tensor], draws: WeightedDraws) -> str:
    """How far plain draws of a guide are from weighted ones, for the worst of all numbers."""
    mean, std = draws.mean(), draws.std()
    worst = [(0.0, 0.0, "")]
    for name, value in plain.items():
        scale = std[name].double()
        moves = scale > 0
        shift = ((value.double().mean(0) - mean[name].double()).abs() / scale)[moves]
        ratio = (value.double().std(0) / scale - 1).abs()[moves]
        if shift.numel():
            worst.append((float(shift.max()), float(ratio.max()), name))
    shift, ratio, _ = (max(column) for column in zip(*worst, strict=True))
    close = "close to the weighted ones" if shift < 0.15 and ratio < 0.1 else "use weighted ones"
    return f"{close} (means off by up to {shift:.2g} sd, sds by {ratio:.0%})."

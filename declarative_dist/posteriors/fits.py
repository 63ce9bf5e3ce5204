"""Fits of guides that end by themselves, and say how they ended."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from declarative_dist.errors import NonFiniteError
from declarative_dist.fields.sharding import is_shard
from declarative_dist.latents.ladder import is_trusted, judge_plain
from declarative_dist.plain.batch import call_with
from declarative_dist.posteriors.diagnosis import compare
from declarative_dist.posteriors.guides import MOST_TO_BEGIN, NormalGuide
from declarative_dist.posteriors.modes import RESTARTS, Modes
from declarative_dist.posteriors.sampling import MOST_OF_A_FACTOR
from declarative_dist.randomness import same_random_numbers

_DRAWS = 4000
_RUNAWAY = 8.0


def guide_of(objective: Any) -> NormalGuide | None:
    """The automatic guide of a variational bound; None of any other objective."""
    guide = getattr(objective, "guide", None)
    is_bound = hasattr(objective, "log_joint_of")
    return guide if is_bound and isinstance(guide, NormalGuide) else None


def can_fit_guide(objective: Any, batch: tuple[Any, ...] = ()) -> bool:
    """Whether `fit_guide` fits all that trains in an objective.

    It does so for an automatic guide of a moderate size, where the target learns nothing. It may
    have parameters that it is not computed from, such as the latents' whose method it is.

    Args:
        objective: any objective.
        batch: the data, as the objective's forward takes it.
    """
    guide = guide_of(objective)
    if guide is None:
        return False
    own = list(guide.parameters(recurse=False))
    trained = [p for p in objective.parameters() if p.requires_grad]
    most = MOST_TO_BEGIN if guide.is_diagonal else MOST_OF_A_FACTOR
    if any(p.is_meta or is_shard(p) or not p.requires_grad for p in own) or guide.flat.size > most:
        return False
    others = [p for p in trained if all(p is not mine for mine in own)]
    return not others or not _depends_on(objective, batch, others)


def _depends_on(objective: Any, batch: tuple[Any, ...], parameters: list[Tensor]) -> bool:
    """Whether the target at a draw is computed from parameters."""
    with torch.enable_grad(), same_random_numbers():
        height = call_with(objective.log_joint_of, batch)(objective.guide.sample((1,))).sum()
        if not height.requires_grad:
            return False
        found = torch.autograd.grad(height, parameters, allow_unused=True)
    return any(slope is not None for slope in found)


def fit_guide(
    objective: Any,
    batch: tuple[Any, ...] = (),
    *,
    restarts: int | None = None,
    tolerance: float | None = None,
) -> tuple[list[float], bool, str]:
    """Fit an automatic guide to the end, from several starts, on whole data.

    Args:
        objective: a variational bound of an automatic guide; see `can_fit_guide`.
        batch: the data, as the objective's forward takes it.
        restarts: how many other starts to try, to which some far away are added; None for 8.
        tolerance: the search is over where a cycle gains fewer nats than this; None for 0.001.

    Returns:
        Minus the judged bound after each cycle; whether a further one would gain nothing, and
        weighted draws can be trusted; and what to make of it, in sentences.

    Raises:
        NonFiniteError: if the target has no finite density where the guide starts.
    """
    guide: NormalGuide = objective.guide
    log_joint = call_with(objective.log_joint_of, batch)
    guide.initialize_(
        log_joint,
        restarts=RESTARTS if restarts is None else restarts,
        tolerance=1e-3 if tolerance is None else tolerance,
    )
    modes, guide.is_searched = guide.modes, True
    if modes is None:
        raise NonFiniteError(
            f"{type(objective).__name__}.log_joint",
            "a finite log density where the guide starts",
            "minus infinity or NaN",
            f"{objective.why_not_finite(*batch)} Declare other starting values.".strip(),
        )
    cycles = len(modes.losses) - 1
    head = f"bound {-modes.losses[-1]:.6g}, {cycles} cycles"
    if not modes.is_settled.all():
        return modes.losses, False, f"not settled: {head}. {_describe_rise(guide, modes)}"
    return modes.losses, *judge_guide(objective, batch, head)


def judge_guide(objective: Any, batch: tuple[Any, ...], end: str) -> tuple[bool, str]:
    """Whether weighted draws of a settled guide can be trusted, and what to make of all draws.

    Args:
        objective: a variational bound of an automatic guide.
        batch: the data, all of them.
        end: how the fit ended.
    """
    guide: NormalGuide = objective.guide
    log_joint = call_with(objective.log_joint_of, batch)
    with same_random_numbers(seed=0), torch.no_grad():
        draws = guide.importance_sample(log_joint, _DRAWS)
        shift, stretch = compare(guide.sample((_DRAWS,)), draws)
    plain = judge_plain(shift, stretch, draws.verdict)
    settled = "settled" if is_trusted(draws.verdict) else "settled, not to be trusted"
    verdict = f"{settled}: {end}. Weighted draws: {draws.verdict} Plain draws: {plain}"
    return is_trusted(draws.verdict), verdict


def _describe_rise(guide: NormalGuide, modes: Modes) -> str:
    """Which sites grow wider without end, where the bound still rises."""
    unit = guide.flat.spread().double()
    widening = (modes.rows.deviations[0] / unit).log()
    widening = widening[~modes.is_settled].reshape(-1, guide.flat.size).amax(0)
    is_wide = (widening > _RUNAWAY) & (widening > widening.amax() / 2)
    names = [s.name for s in guide.flat.slots if is_wide[s.offset : s.offset + s.count].any()]
    if not names:
        return "The bound still rises."
    run = f"{names[0]} runs" if len(names) == 1 else f"{', '.join(names)} run"
    return f"{run} away: the posterior is flat there. Give a proper prior, or other coordinates."

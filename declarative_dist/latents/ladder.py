"""One ladder for draws, weighted or plain: good, usable or unreliable, by the same thresholds."""

from __future__ import annotations

import math

RUNGS = "good", "usable, not good", "unreliable"

Thresholds = tuple[float, float]
"""What a number has to be below to be good, and to be usable."""

K_HAT: Thresholds = 0.5, 0.6
"""Of the tail of weights. The second is a little below the 0.7 of the literature: a smooth weight
hides a missing part just below it."""

HEAVY = 0.55
"""Of the tail of weighted squares, from where on the standard error of an sd means nothing."""

ERROR: Thresholds = 0.025, 0.1
"""Standard errors: of a mean in units of its sd, of an sd relative to it."""

BIAS: Thresholds = 0.15, 0.4
"""What plain draws are off: their means in sds, their sds relative to the weighted ones."""

_FEW, _ALMOST_ALL = 0.1, 0.9
"""Shares of draws that count: below the first, weights may hide what they miss; above the second
all weights are alike, and the shape of their tail, which knows no scale, is no alarm."""


def rung_of(number: float, thresholds: Thresholds) -> int:
    """The place of a number on the ladder, 0 for good; NaN is unreliable."""
    return 2 - sum(number < one for one in thresholds)


def highest_k_hat(num_samples: int) -> float:
    """What k-hat has to be below with so many draws (Vehtari et al., 2024, section 3.2.4)."""
    return min(1 - 1 / math.log10(max(num_samples, 11)), K_HAT[1])


def rung_of_weights(k_hat: float, ess: float, num_samples: int) -> int:
    """The place of weights on the ladder; at 2 the draws miss part of the target."""
    if ess < _FEW * num_samples:
        return 2
    highest = highest_k_hat(num_samples)
    rung = rung_of(k_hat, (min(K_HAT[0], highest), highest))
    return min(rung, 1) if ess > _ALMOST_ALL * num_samples else rung


def is_trusted(verdict: str) -> bool:
    """Whether a verdict does not begin with the worst rung."""
    return not verdict.startswith(RUNGS[2])


def judge_plain(shift: float, stretch: float, weighted: str) -> str:
    """The verdict on plain draws, beside weighted ones.

    Args:
        shift: how far means of plain draws are from weighted ones, in sds.
        stretch: how far sds are, relative to the weighted ones.
        weighted: the verdict on the weighted ones.
    """
    rung = rung_of(max(shift, stretch), BIAS) if is_trusted(weighted) else 2
    off = f"{RUNGS[rung]}: means off by up to {shift:.2g} sd, sds by {stretch:.0%}"
    if not rung:
        return f"{off}."
    return f"{off}; {'use weighted ones' if is_trusted(weighted) else 'trust neither kind'}."

"""What data of truncated, censored and zero-inflated distributions say about what these wrap."""

from __future__ import annotations

from typing import Any

import torch

from declarative_dist.fitting.moments import Sample, Suggestion
from declarative_dist.wrappers.censored import Censored
from declarative_dist.wrappers.truncated import Truncated
from declarative_dist.wrappers.zero_inflated import ZeroInflated


def base_of(part: Any) -> Any:
    """What a distribution wraps; None for one that is not made of another."""
    return (
        part.base_distribution if isinstance(part, (Censored, Truncated, ZeroInflated)) else None
    )


def suggest_gate(sample: Sample, part: Any) -> Suggestion:
    """The share of zeros, as of a hurdle; where the base has zeros too, it is somewhat high."""
    if not isinstance(part, ZeroInflated):
        return {}
    return {"gate": sample.mean((sample.values == 0).double()).clamp(1e-3, 1 - 1e-3)}


def sample_of_base(sample: Sample, part: Any) -> Sample:
    """What data of a wrapper say about its base: those beyond an end lie at it."""
    if isinstance(part, ZeroInflated):
        weights = sample.weights * (sample.values != 0)
        return sample.with_values(torch.where(sample.values == 0, 1.0, sample.values), weights)
    if not part.event_shape:
        return sample
    lower, upper = sample.values.unbind(-1)
    ends = torch.where(lower.isfinite(), lower, upper), torch.where(upper.isfinite(), upper, lower)
    return sample.with_values((ends[0] + ends[1]) / 2, sample.weights, -1)

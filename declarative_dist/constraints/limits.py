"""Arguments that need a narrower range than the usual guard band, found by trying.

The densities of some families leave the dtype, or their samplers fail, at parameters that are
themselves fine numbers: `exp(loc)` of a log-normal overflows at 89 in float32. Where a constraint
is inferred for such an argument, it holds the value in the range given here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.distributions as dd
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.positive import Positive
from declarative_dist.constraints.real import Real
from declarative_dist.constraints.representable import Limits


def _per_dtype(double: float, single: float, bfloat: float, half: float) -> dict:
    return {
        torch.float64: double,
        torch.float32: single,
        torch.bfloat16: bfloat,
        torch.float16: half,
    }


INFERRED: Mapping[tuple[type[Distribution], str], Constraint] = {
    (dd.Uniform, "low"): Real(
        limits={torch.float64: (-1e150, 1e150), torch.float32: (-1e18, 1e18), torch.bfloat16: (-1e18, 1e18), torch.float16: (-1e4, 1e4)}
    ),
    (dd.StudentT, "df"): Positive(),
}
"""The constraint of an argument of a base, where torch's own says too little."""


def starting_value(argument: str) -> Callable[[torch.Size], Tensor] | None:
    """Where a parameter that nobody gave a value starts, if not at its constraint's default.

    A factor of zeros has no gradient: every direction out of it looks alike.
    """
    return _small if argument == "cov_factor" else None


def _small(shape: torch.Size) -> Tensor:
    return 0.1 * torch.randn(shape)

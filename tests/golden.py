"""What must hold through every change: names and shapes of states, and what codes mean.

`python -m tests.golden` writes `tests/golden.json`. A change of it is a line in the changelog.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributions as dd
from torch import Tensor, nn

from declarative_dist import (
    FullRankNormal,
    Joint,
    MeanFieldNormal,
    Param,
    Positive,
    site,
)
from declarative_dist.explain import meanings
from tests.cases import CASES, Densities, MixtureDensity, Policy, Shares, Weighed
from tests.test_given import Counts

STORED = Path(__file__).with_name("golden.json")


class Schools(Joint):
    tau = dd.HalfNormal(2.0)
    width = Param(1.0, Positive(), shape=("schools",))

    @site(event_dim=1)
    def theta(self, tau: Tensor, width: Tensor) -> dd.Distribution:
        return dd.Normal(torch.zeros(()), tau[..., None] * width)

    @site(event_dim=1)
    def y(self, theta: Tensor) -> dd.Distribution:
        return dd.Normal(theta, 1.0)


MODULES: dict[str, Callable[[], nn.Module]] = {
    **CASES,
    "policy": lambda: Policy(in_features=4, actions=2, network=nn.Linear(3, 4)),
    "policy without a layer": lambda: Policy(actions=2, network=nn.Linear(3, 2)),
    "mixture density": lambda: MixtureDensity(in_features=3, k=3),
    "densities": lambda: Densities(in_features=3, k=3),
    "counts": lambda: Counts(in_features=3, genes=2),
    "shares": lambda: Shares(in_features=3, k=3),
    "conditioned": lambda: Schools(schools=3).condition(y=torch.zeros(3)),
    "mean field of params": lambda: MeanFieldNormal(Weighed()),
    "full rank of params": lambda: FullRankNormal(Weighed()),
    "mean field of sites": lambda: MeanFieldNormal(Schools(schools=3).condition(y=torch.zeros(3))),
    "full rank of sites": lambda: FullRankNormal(Schools(schools=3).condition(y=torch.zeros(3))),
}


def states() -> dict[str, dict[str, list[int]]]:
    """The names and shapes in the state of every case."""
    return {
        name: {key: list(value.shape) for key, value in make().state_dict().items()}
        for name, make in MODULES.items()
    }


if __name__ == "__main__":
    STORED.write_text(json.dumps({"states": states(), "codes": meanings()}, indent=1) + "\n")

"""What policies and other predicted distributions cost beside the same in careful plain torch.

Acting is one draw for one observation without gradients, and its log density; updating is a
forward pass on 256, the log density of stored values, backward and a step of Adam. Both sides
have the same network with one linear layer behind it, and no validation; ours clips gradients and
numbers out of range besides. The rows "validated" are ours as it is by default.

    python benchmarks/policies.py [--blocks 1000] [--only squashed]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributions as dd
import torch.nn.functional as F
from paired import Ratio, compared, interleaved
from torch import Tensor, nn

from declarative_dist import Conditional, Exp, Head, Param, Positive

INPUTS, WIDTH, ACTIONS, PARTS, BATCH = 8, 64, 6, 5, 256


def trunk() -> nn.Module:
    """A network from observations to features."""
    layers = [nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh()]
    return nn.Sequential(*layers)


class FreeScale(Conditional):
    """The policy of PPO: a predicted mean, a free scale."""

    base = dd.Normal
    event_dim = 1
    validate_args = False
    loc = Head(shape=("actions",))
    scale = Param(0.7, Exp(), shape=("actions",))


class PredictedScale(FreeScale):
    """Mean and scale predicted."""

    scale: Any = Head(Exp(), shape=("actions",), init=0.7)


class Squashed(Conditional):
    """The policy of SAC: a normal through tanh."""

    base = dd.TransformedDistribution
    validate_args = False
    base_distribution = PredictedScale
    transforms = dd.TanhTransform(cache_size=1)


class Weights(Conditional):
    """The weights of a mixture."""

    base = dd.Categorical
    validate_args = False
    logits = Head(shape=("parts",))


class Components(Conditional):
    """Its components."""

    base = dd.Normal
    validate_args = False
    loc = Head(shape=("parts",), init=torch.randn)
    scale = Head(Exp(), shape=("parts",))


class MixtureDensity(Conditional):
    """A mixture density network as nested parts."""

    base = dd.MixtureSameFamily
    validate_args = False
    mixture_distribution = Weights
    component_distribution = Components


class FlatMixture(Conditional):
    """The same network with all heads in one class."""

    validate_args = False
    logits = Head(shape=("parts",))
    loc = Head(shape=("parts",), init=torch.randn)
    scale = Head(Exp(), shape=("parts",))

    def base(self, logits: Tensor, loc: Tensor, scale: Tensor) -> dd.Distribution:
        """The mixture over the last dimension."""
        parts = dd.Normal(loc, scale, validate_args=False)
        weights = dd.Categorical(logits=logits, validate_args=False)
        return dd.MixtureSameFamily(weights, parts, validate_args=False)


class Counts(Conditional):
    """A regression of counts."""

    base = dd.NegativeBinomial
    event_dim = 1
    validate_args = False
    total_count = Param(2.0, Positive(), shape=("actions",))
    logits = Head(shape=("actions",))


class ByHand(nn.Module):
    """A network, one layer for all numbers, and what makes a distribution of them."""

    def __init__(self, size: int, make: Callable[[Tensor], dd.Distribution]) -> None:
        super().__init__()
        self.network, self.layer, self.make = trunk(), nn.Linear(WIDTH, size), make

    def forward(self, x: Tensor) -> dd.Distribution:
        """The distribution for a context."""
        return self.make(self.layer(self.network(x)))


class ByHandWithFree(nn.Module):
    """The same with numbers that are learned beside the network."""

    def __init__(self, make: Callable[[Tensor, Tensor], dd.Distribution], start: float) -> None:
        super().__init__()
        self.network, self.layer, self.make = trunk(), nn.Linear(WIDTH, ACTIONS), make
        self.free = nn.Parameter(torch.full((ACTIONS,), start))

    def forward(self, x: Tensor) -> dd.Distribution:
        """The distribution for a context."""
        return self.make(self.layer(self.network(x)), self.free)


def gaussian(loc: Tensor, log_scale: Tensor) -> dd.Distribution:
    """The same as `FreeScale`."""
    return dd.Independent(
        dd.Normal(loc, log_scale.exp(), validate_args=False), 1, validate_args=False
    )


def gaussian_of_both(raw: Tensor) -> dd.Distribution:
    """The same as `PredictedScale`."""
    loc, log_scale = raw.chunk(2, -1)
    return gaussian(loc, log_scale.clamp(-41, 41))


def squashed(raw: Tensor) -> dd.Distribution:
    """The same as `Squashed`."""
    tanh = dd.TanhTransform(cache_size=1)
    return dd.TransformedDistribution(gaussian_of_both(raw), [tanh], validate_args=False)


def mixture(raw: Tensor) -> dd.Distribution:
    """The same as `MixtureDensity`."""
    logits, loc, log_scale = raw.chunk(3, -1)
    parts = dd.Normal(loc, log_scale.clamp(-41, 41).exp(), validate_args=False)
    weights = dd.Categorical(logits=logits, validate_args=False)
    return dd.MixtureSameFamily(weights, parts, validate_args=False)


def counts(logits: Tensor, raw: Tensor) -> dd.Distribution:
    """The same as `Counts`."""
    base = dd.NegativeBinomial(F.softplus(raw), logits=logits, validate_args=False)
    return dd.Independent(base, 1, validate_args=False)


@dataclass
class Problem:
    """One distribution, declared and by hand, with the bounds of its ratios."""

    name: str
    declared: Callable[[], nn.Module]
    by_hand: Callable[[], nn.Module]
    acting: float
    updating: float = 1.10


def nested_mixture() -> nn.Module:
    """The nested mixture, its parts fed by one network."""
    return MixtureDensity(WIDTH, parts=PARTS, network=trunk())


PROBLEMS = [
    Problem(
        "Gaussian, free scale",
        lambda: FreeScale(WIDTH, actions=ACTIONS, network=trunk()),
        lambda: ByHandWithFree(gaussian, math.log(0.7)),
        1.12,
    ),
    Problem(
        "Gaussian, predicted scale",
        lambda: PredictedScale(WIDTH, actions=ACTIONS, network=trunk()),
        lambda: ByHand(2 * ACTIONS, gaussian_of_both),
        1.12,
    ),
    Problem(
        "squashed",
        lambda: Squashed(WIDTH, actions=ACTIONS, network=trunk()),
        lambda: ByHand(2 * ACTIONS, squashed),
        1.25,
    ),
    Problem(
        "mixture density network",
        lambda: FlatMixture(WIDTH, parts=PARTS, network=trunk()),
        lambda: ByHand(3 * PARTS, mixture),
        1.12,
    ),
    Problem("nested mixture", nested_mixture, lambda: ByHand(3 * PARTS, mixture), 1.25),
    Problem(
        "negative binomial",
        lambda: Counts(WIDTH, actions=ACTIONS, network=trunk()),
        lambda: ByHandWithFree(counts, math.log(math.expm1(2.0))),
        1.12,
    ),
]


def act(policy: nn.Module) -> Callable[[], object]:
    """Draw for one observation, and score the draw."""
    x = torch.randn(1, INPUTS)

    def step() -> Tensor:
        with torch.no_grad():
            distribution = policy(x)
            score: Tensor = distribution.log_prob(distribution.sample())
            return score

    return step


def update(policy: nn.Module) -> Callable[[], object]:
    """One step of Adam on 256 stored values."""
    x = torch.randn(BATCH, INPUTS)
    with torch.no_grad():
        y = policy(x).sample()
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-5)

    def step() -> None:
        optimizer.zero_grad()
        loss = -policy(x).log_prob(y).mean()
        loss.backward()
        optimizer.step()

    return step


def validated(policy: nn.Module) -> nn.Module:
    """The same policy, which follows torch's default."""
    for part in policy.modules():
        if isinstance(part, Conditional):
            vars(part)["_validate_args"] = True
    return policy


def cases(blocks: int, only: str = "") -> Iterator[Ratio]:
    """All ratios of the problems whose names contain `only`."""
    for problem in PROBLEMS:
        if only in problem.name:
            for name, way, bound in (
                ("acting", act, problem.acting),
                ("updating", update, problem.updating),
            ):
                times = interleaved(
                    {
                        "declared": way(problem.declared()),
                        "by hand": way(problem.by_hand()),
                        "validated": way(validated(problem.declared())),
                    },
                    blocks,
                    repeats=5,  # short blocks, of which few are disturbed by others at work
                )
                case = f"{problem.name}, {name}"
                yield compared(case, times, "declared", "by hand", bound)
                yield compared(case, times, "validated", "by hand")


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=1000)
    parser.add_argument("--only", default="", help="problems whose names contain this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for r in cases(options.blocks, options.only):
        print(
            f"{r.case:38} {r.ours:10} {r.median:.3f}  {r.low:.3f}-{r.high:.3f}  "
            f"{r.at_most or '':>5}  {r.microseconds:.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""Score stored actions of a squashed normal policy, those at the edge of the action space too.

Two declared policies are the same distribution over actions between -1 and 1: a normal through
torch's `TanhTransform`, and through `Interval(-1, 1).as_transform(cache_size=1)`, which never
returns the boundary. Both give finite, exact log densities for their own draws with
`rsample_and_log_prob`. But a replay buffer keeps actions, not what was squashed: of 100,000 stored
float32 actions with 6 dimensions and scale 3, 1.6 % are at -1 or 1 with tanh, and no later
policy gives these a finite log density or gradient; with the interval none is, and all are finite.

    python examples/squashed_policy.py
"""

from __future__ import annotations

import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist import Exp, Interval, Param, Variational


class Gaussian(Variational):
    """One normal per action, scored together."""

    base = dd.Normal
    event_dim = 1
    loc = Param(0.0, shape=("actions",))
    scale = Param(1.0, Exp(), shape=("actions",))


class TanhPolicy(Variational):
    """Actions squashed by torch's hyperbolic tangent, which rounds to 1 above 9."""

    base = dd.TransformedDistribution
    base_distribution = Gaussian
    transforms = dd.TanhTransform(cache_size=1)


class SquashedPolicy(Variational):
    """The same actions: the interval's map is a sigmoid, and tanh(x) = 2 sigmoid(2 x) - 1."""

    base = dd.TransformedDistribution
    base_distribution = Gaussian
    transforms = (dd.AffineTransform(0.0, 2.0), Interval(-1.0, 1.0).as_transform(cache_size=1))


def policy(
    kind: type[Variational], scale: float, loc: float = 0.0, dtype: torch.dtype = torch.float32
) -> Variational:
    """A policy over 6 actions."""
    start = {"loc": torch.full((6,), loc), "scale": torch.full((6,), scale)}
    return kind(base_distribution=start, dtype=dtype)


def share(cases: Tensor) -> str:
    """How many of all cases are true."""
    return f"{cases.double().mean().item():.2%}"


def main() -> None:
    """Compare both policies on what they draw and on what they have stored."""
    kinds: tuple[type[Variational], ...] = (TanhPolicy, SquashedPolicy)
    for kind in kinds:
        torch.manual_seed(0)
        behaviour, later = policy(kind, scale=3.0), policy(kind, scale=1.0, loc=0.1)
        actions, own = behaviour.rsample_and_log_prob((100_000,))
        stored = actions.detach().clone()
        scores = later.log_prob(stored)
        scores.mean().backward()
        gradients = torch.cat([p.grad for p in later.parameters() if p.grad is not None])
        print(
            f"{kind.__name__}: {share(own.isfinite())} of its draws have a finite log density; "
            f"{share((stored.abs() == 1).any(-1))} of those stored are at the boundary, "
            f"{share(~scores.isfinite())} score no finite number later; their gradient is "
            f"{'finite' if gradients.isfinite().all() else 'not finite'}"
        )


if __name__ == "__main__":
    main()

"""Invert a function that has several inverses with a mixture density network.

Of x = y + 0.3 sin(2 pi y) and a little noise, y is to be predicted. Around x = 0.5 three values of
y are possible, which no single normal can say. Two declared families have the same network below:
a normal, whose mean and scale are predicted, and a mixture of five, which also predicts its
weights. On 2,000 new pairs the mean log likelihood is 0.72 for the normal and 1.55 for the
mixture; the density that made the pairs has 1.63. At x = 0.5 the mixture has the three values of
y and the gaps between them. The problem is from Bishop (1994), "Mixture density networks". With
`--smoke` it trains for 450 steps, not 750.

    python examples/mixture_density_network.py
"""

from __future__ import annotations

import math
import sys

import torch
import torch.distributions as dd
from torch import Tensor, nn

from declarative_dist import Conditional, Exp, Head, fit
from declarative_dist.objectives import NegativeLogLikelihood

NOISE, WIDTH = 0.03, 64


class Single(Conditional):
    """One normal whose mean and scale are predicted."""

    base = dd.Normal
    loc = Head(init=0.5)
    scale = Head(Exp(), init=0.3)


class MixtureDensity(Conditional):
    """A mixture of normals, of which weights, means and scales are predicted."""

    logits = Head(shape=("k",))
    loc = Head(shape=("k",), init=torch.rand)
    scale = Head(Exp(), shape=("k",), init=0.3)

    def base(self, logits: Tensor, loc: Tensor, scale: Tensor) -> dd.Distribution:
        """The mixture for these predictions."""
        return dd.MixtureSameFamily(dd.Categorical(logits=logits), dd.Normal(loc, scale))


def forwards(y: Tensor) -> Tensor:
    """The function to invert; up to three values of y give the same x."""
    return y + 0.3 * (2 * math.pi * y).sin()


def pairs(count: int) -> tuple[Tensor, Tensor]:
    """Observations x of shape `(count, 1)`, and what caused them, y, of shape `(count,)`."""
    y = torch.rand(count)
    return (forwards(y) + NOISE * torch.randn(count))[:, None], y


def network() -> nn.Module:
    """The same for both families."""
    return nn.Sequential(nn.Linear(1, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())


def train(q: Conditional, x: Tensor, y: Tensor, steps: int = 750) -> None:
    """Maximise the likelihood, at rates that fall."""
    for lr in (0.01, 0.003, 0.001):
        fit(NegativeLogLikelihood(q), (x, y), steps=steps // 3, lr=lr, progress=False)


def true_log_density(x: Tensor, y: Tensor) -> Tensor:
    """The log density of y given x, its normalising constant a sum over a fine grid."""
    grid = (torch.arange(2000) + 0.5) / 2000
    total = dd.Normal(forwards(grid), NOISE).log_prob(x).logsumexp(-1) - math.log(len(grid))
    density: Tensor = dd.Normal(forwards(y), NOISE).log_prob(x[:, 0]) - total
    return density


def tenths(log_density: Tensor) -> str:
    """What each tenth of an even grid over [0, 1] holds, in per cent."""
    return " ".join(f"{10 * part.mean():3.0f}" for part in log_density.exp().chunk(10))


def main(steps: int = 750) -> None:
    """Fit both families, score them on new pairs, and look at y where x is 0.5."""
    torch.manual_seed(0)
    seen, (x, y) = pairs(2000), pairs(2000)
    half, grid = torch.full((1, 1), 0.5), (torch.arange(2000) + 0.5) / 2000
    print("                nats per pair   per cent in each tenth of [0, 1] at x = 0.5")
    at_half = tenths(true_log_density(half, grid))
    print(f"the truth       {true_log_density(x, y).mean():7.2f}         {at_half}")
    for q in (Single(WIDTH, network=network()), MixtureDensity(WIDTH, k=5, network=network())):
        train(q, *seen, steps)
        with torch.no_grad():
            nats, at_half = q(x).log_prob(y).mean(), tenths(q(half).log_prob(grid))
            print(f"{type(q).__name__:14}  {nats:7.2f}         {at_half}")


if __name__ == "__main__":
    main(450 if "--smoke" in sys.argv else 750)

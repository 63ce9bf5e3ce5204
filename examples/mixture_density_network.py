"""Invert a function that has several inverses with a mixture density network.

Of x = y + 0.3 sin(2 pi y) and a little noise, y is to be predicted. Around x = 0.5 three values of
y are possible, which no single normal can say. Two declared families have the same network below:
a normal, whose mean and scale are predicted, and a mixture of five, which also predicts its
weights. On 2,000 new pairs the mean log likelihood is 0.7353 for the normal and 1.4916 for the
mixture; the density that made the pairs has 1.6308. The last lines show y at x = 0.5: the mixture
has the three values and the gaps between them. With `--smoke` it trains for 500 steps, not 1,000.

See Bishop (1994), "Mixture density networks", from where the problem is.

    python examples/mixture_density_network.py
"""

from __future__ import annotations

import argparse
import math

import torch
import torch.distributions as dd
from torch import Tensor, nn

from declarative_dist import Conditional, Exp, Head

NOISE = 0.03
WIDTH = 64


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


def fit(q: Conditional, x: Tensor, y: Tensor, steps: int) -> None:
    """Maximise the likelihood."""
    optimizer = torch.optim.Adam(q.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = -q(x).log_prob(y).mean()
        loss.backward()
        optimizer.step()
        schedule.step()


def true_log_density(x: Tensor, y: Tensor) -> Tensor:
    """The log density of y given x, its normalising constant a sum over a fine grid."""
    grid = (torch.arange(2000) + 0.5) / 2000
    total = dd.Normal(forwards(grid), NOISE).log_prob(x).logsumexp(-1) - math.log(len(grid))
    density: Tensor = dd.Normal(forwards(y), NOISE).log_prob(x[:, 0]) - total
    return density


def tenths(log_density: Tensor) -> str:
    """What each tenth of an even grid over [0, 1] holds, in per cent."""
    return " ".join(f"{10 * part.mean():3.0f}" for part in log_density.exp().chunk(10))


def main(steps: int = 1000) -> None:
    """Fit both families, and score them on new pairs."""
    torch.manual_seed(0)
    seen, new = pairs(2000), pairs(2000)
    print(f"the truth: {true_log_density(*new).mean():.4f} nats per new pair")
    single = Single(in_features=WIDTH, network=network())
    mixture = MixtureDensity(in_features=WIDTH, k=5, network=network())
    for q in (single, mixture):
        fit(q, *seen, steps)
        with torch.no_grad():
            print(f"{type(q).__name__}: {q(new[0]).log_prob(new[1]).mean():.4f}")

    print("y at x = 0.5, in tenths of [0, 1], in per cent:")
    x = torch.full((1, 1), 0.5)
    grid = (torch.arange(2000) + 0.5) / 2000
    with torch.no_grad():
        print(f"  the truth:      {tenths(true_log_density(x, grid))}")
        for q in (single, mixture):
            print(f"  {type(q).__name__ + ':':15} {tenths(q(x).log_prob(grid))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="500 steps instead of 1,000")
    main(500 if parser.parse_args().smoke else 1000)

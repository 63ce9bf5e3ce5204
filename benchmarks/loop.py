"""What a step of `fit` costs beside the loop written by hand, around the same objective.

A Normal and 1,000 numbers, its likelihood and its divergence from another, under Adam. Both sides
keep every loss as a number. By default `fit` makes Adam the fused one; with the same Adam on both
sides the ratio is what the checks, the last good state and the record cost. Paired ratios as in
`paired.py`.

    python benchmarks/loop.py [--blocks 40] [--steps 500] [--compile]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable

import torch
import torch.distributions as dd
from paired import ratios
from torch import Tensor, nn

from declarative_dist import fit, learnable

RATE = 1e-4


class Likelihood(nn.Module):
    """The mean negative log density of data."""

    def __init__(self) -> None:
        super().__init__()
        self.q = learnable(dd.Normal(0.0, 1.0))
        self.x = torch.randn(1000)

    def forward(self) -> Tensor:
        """The loss."""
        loss: Tensor = -self.q.log_prob(self.x).mean()
        return loss


class Divergence(Likelihood):
    """An estimate of the divergence from another distribution."""

    def forward(self) -> Tensor:
        """The loss."""
        x, log_q = self.q.rsample_and_log_prob((1000,))
        loss: Tensor = (log_q - dd.Normal(5.0, 5.0).log_prob(x)).mean()
        return loss


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
    """What people write."""
    return torch.optim.Adam(parameters, lr=RATE)


def by_hand(objective: nn.Module, steps: int) -> list[float]:
    """The loop as everyone writes it."""
    optimizer = adam(objective.parameters())
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = objective()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {options.blocks} paired blocks")
    for kind in (Likelihood, Divergence):
        for made, name in ((None, "default"), (adam, "same Adam")):
            mine, theirs = kind(), kind()

            def ours(
                objective: nn.Module = mine,
                made: Callable[..., torch.optim.Optimizer] | None = made,
            ) -> None:
                rate = RATE if made is None else None
                fit(
                    objective,
                    steps=options.steps,
                    optimizer=made,
                    lr=rate,
                    compile=options.compile,
                )

            def hand(objective: nn.Module = theirs) -> None:
                by_hand(objective, options.steps)

            r = ratios(ours, hand, options.blocks, 1)
            middle = f"{r[len(r) // 4]:.3f}-{r[3 * len(r) // 4]:.3f}"
            print(f"{kind.__name__:12}{name:12}{statistics.median(r):8.3f}{middle:>16}")


if __name__ == "__main__":
    main()

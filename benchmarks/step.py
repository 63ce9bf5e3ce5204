"""What a declared distribution costs beside the same thing written by hand.

Builds, and optimizer steps on a Gamma, as paired ratios: both sides run in turn in one process, in
blocks, and the ratio of every pair of blocks counts. Prints the median and the middle half.

    python benchmarks/step.py [--blocks 200]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.distributions as dd
import torch.nn.functional as F
from paired import ratios

from declarative_dist import Exp, Param, Positive, Variational

TARGET = dd.Gamma(5.0, 5.0)


class GammaFamily(Variational):
    """The family of the quickstart."""

    base = dd.Gamma
    concentration = Param(1.0, Positive())
    rate = Param(1.0, Exp())


def raw_parameters() -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    """The same parameters, kept by hand."""
    return torch.nn.Parameter(torch.tensor(0.5413)), torch.nn.Parameter(torch.tensor(0.0))


def by_hand(concentration: torch.Tensor, rate: torch.Tensor) -> dd.Gamma:
    """Build the Gamma with torch's default validation."""
    return dd.Gamma(F.softplus(concentration), rate.exp())


def hand_written_step(samples: int) -> Callable[[], None]:
    """Rebuild once per step, as careful users do."""
    raw = raw_parameters()
    optimizer = torch.optim.SGD(raw, lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        distribution = by_hand(*raw)
        x = distribution.rsample((samples,))
        (distribution.log_prob(x) - TARGET.log_prob(x)).mean().backward()
        optimizer.step()

    return step


def snapshot_step(samples: int) -> Callable[[], None]:
    """One snapshot per step."""
    q = GammaFamily()
    optimizer = torch.optim.SGD(q.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        distribution = q()
        x = distribution.rsample((samples,))
        (distribution.log_prob(x) - TARGET.log_prob(x)).mean().backward()
        optimizer.step()

    return step


def live_step(samples: int) -> Callable[[], None]:
    """The loop that refers to the distribution only."""
    q = GammaFamily()
    optimizer = torch.optim.SGD(q.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        x = q.rsample((samples,))
        (q.log_prob(x) - TARGET.log_prob(x)).mean().backward()
        optimizer.step()

    return step


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=200)
    blocks = parser.parse_args().blocks
    torch.set_num_threads(1)
    q, raw = GammaFamily(), raw_parameters()
    cases: dict[str, tuple[Callable[[], object], Callable[[], object], int, float]] = {
        "building q() / by hand": (q, lambda: by_hand(*raw), 50, 0.90),
        "snapshot step / hand-written, 1 sample": (
            snapshot_step(1),
            hand_written_step(1),
            20,
            1.02,
        ),
        "snapshot step / hand-written, 1000": (
            snapshot_step(1000),
            hand_written_step(1000),
            10,
            1.02,
        ),
        "live step / hand-written, 1 sample": (live_step(1), hand_written_step(1), 20, 1.15),
        "live step / hand-written, 1000": (live_step(1000), hand_written_step(1000), 10, 1.10),
    }
    print(f"torch {torch.__version__}, one thread, {blocks} paired blocks")
    print(f"{'case':42}{'median':>8}{'middle half':>16}{'at most':>9}")
    for name, (ours, theirs, repeats, most) in cases.items():
        r = ratios(ours, theirs, blocks, repeats)
        middle = f"{r[len(r) // 4]:.3f}-{r[3 * len(r) // 4]:.3f}"
        print(f"{name:42}{statistics.median(r):8.3f}{middle:>16}{most:9.2f}")


if __name__ == "__main__":
    main()

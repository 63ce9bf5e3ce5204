"""Building, and optimizer steps, of every problem beside every other way to write it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from paired import Ratio, compared, interleaved
from peers import LIBRARIES, Peer
from problems import Problem, problems

from declarative_dist import Variational

BOUNDS = {1: 1.15, 1_000: 1.10, 100_000: 1.02}
"""What a live step may cost over a hand-written one, by the number of samples."""

FASTER_THAN_PEERS = 1.0

UNCHECKED = ", not validated"
"""Like meets like: zuko switches the validation of values off, for the whole process."""


def stepped(problem: Problem, peer: Peer) -> Callable[[], None]:
    """One step of SGD; the distribution is asked for once."""
    parameters, build = peer
    optimizer, loss_of = torch.optim.SGD(parameters, lr=1e-6), problem.loss()

    def step() -> None:
        optimizer.zero_grad()
        loss_of(build()).backward()
        optimizer.step()

    return step


def _always(live: Variational) -> Peer:
    return list(live.parameters()), lambda: live


def measured(problem: Problem, peers: dict[str, Any], blocks: int) -> Iterator[Ratio]:
    """All ratios of one problem."""
    made = {name: peer(problem) for name, peer in peers.items()}
    others = {name: peer for name, peer in made.items() if peer is not None}
    steps = {name: stepped(problem, peer) for name, peer in others.items()}
    for ending, checks in (("", None), (UNCHECKED, False)):
        q, live = problem.declared(checks), problem.declared(checks)
        steps[f"a snapshot{ending}"] = stepped(problem, (list(q.parameters()), q))
        steps[f"live{ending}"] = stepped(problem, _always(live))
    times = interleaved(steps, blocks)
    yield compared(problem.name, times, "a snapshot", "by hand", 1.02)
    yield compared(problem.name, times, "live", "by hand", BOUNDS[problem.samples])
    for name in others:
        if name != "by hand":
            bound = FASTER_THAN_PEERS if name in LIBRARIES or name == "parametrize" else None
            ending = UNCHECKED if name in ("zuko", "by hand, not validated") else ""
            yield compared(problem.name, times, f"live{ending}", name, bound)
            yield compared(problem.name, times, f"a snapshot{ending}", name)
    if problem.samples == 1:
        builds: dict[str, Callable[[], object]] = {
            "q()": problem.declared(),
            "by hand": others["by hand"][1],
        }
        case = f"building a {problem.name.removesuffix(', 1 samples')}"
        yield compared(case, interleaved(builds, blocks), "q()", "by hand", 0.9)


def cases(peers: dict[str, Any], blocks: int, only: str) -> Iterator[Ratio]:
    """All ratios of all problems whose names contain a word."""
    for problem in problems():
        if only in problem.name:
            yield from measured(problem, peers, blocks)

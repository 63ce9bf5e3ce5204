"""A compiled step beside the same one in JAX, in processes of their own that take turns.

python benchmarks/jitted.py        prints the microseconds of one step of ours
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from compiled import Declared, compiled, unvalidated
from paired import Ratio, compared, seconds
from problems import problems

NAME = "Normal, 64 dims, 1000 samples"
HERE = Path(__file__).parent
ROUNDS = 7
STEPS, BEST_OF = 200, 10


def cases(jax: str | None, only: str) -> Iterator[Ratio]:
    """Our compiled step over that of JAX and of flowjax."""
    if jax is None or only not in NAME:
        return
    commands = {
        "compiled": [sys.executable, str(HERE / "jitted.py")],
        "JAX": [jax, str(HERE / "jax_step.py"), "jax"],
        "flowjax": [jax, str(HERE / "jax_step.py"), "flowjax"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
            times[name].append(1e-6 * float(done.stdout.splitlines()[-1]))
    for other, bound in (("JAX", 1.1), ("flowjax", None)):
        yield compared(NAME, times, "compiled", other, bound)


def main() -> None:
    """Time our step on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    problem = next(problem for problem in problems() if problem.name == NAME)
    step = compiled(Declared(unvalidated(problem)))
    seconds(step, 5)
    print(1e6 * min(seconds(step, STEPS) / STEPS for _ in range(BEST_OF)))


if __name__ == "__main__":
    main()

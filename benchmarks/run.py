"""Run the benchmarks and write `results.md` and `results.json` beside this file.

python benchmarks/run.py [--blocks 40] [--only Gamma] [--jax path/to/python]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import compiled
import families
import jitted
import peers
import policies
import scale
import torch
from paired import Ratio

HERE = Path(__file__).parent
LIBRARIES = ("torch", "pyro-ppl", "zuko", "gpytorch", "rs-distributions")


def machine() -> dict[str, Any]:
    """The processor, its cores, and the versions of everything that is compared."""
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = "missing"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def tabulated(results: Iterable[Ratio], facts: dict[str, Any]) -> Iterator[str]:
    """The lines of the table."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    yield "# Ratios\n"
    yield (
        "Our time over the other's: the median over paired, interleaved blocks, and the middle "
        "half of them. A bound that is missed is marked.\n"
    )
    yield (
        f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} thread; "
        f"Python {facts['python']}, {versions}.\n"
    )
    yield "| case | ours | over | median | middle half | at most | ours, µs |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for r in results:
        bound = "" if r.at_most is None else f"{r.at_most:g}"
        mark = " **missed**" if r.at_most is not None and r.median > r.at_most else ""
        yield (
            f"| {r.case} | {r.ours} | {r.other} | {r.median:.3f}{mark} | "
            f"{r.low:.3f}-{r.high:.3f} | {bound} | {r.microseconds:.1f} |"
        )


def main() -> None:
    """Run all, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--only", default="", help="problems whose names contain this")
    parser.add_argument("--jax", help="a Python with jax and flowjax")
    parser.add_argument("--output", type=Path, default=HERE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found, missing = peers.installed()
    facts = machine()
    results: list[Ratio] = []
    sources = [
        families.cases(found, options.blocks, options.only),
        scale.cases(options.blocks, options.only),
        policies.cases(options.blocks, options.only),
        compiled.cases(options.blocks, options.only),
        jitted.cases(options.jax, options.only),
    ]
    for source in sources:
        for ratio in source:
            results.append(ratio)
            print(f"{ratio.case}: {ratio.ours} / {ratio.other} = {ratio.median:.3f}", flush=True)
    for name in missing:
        print(f"{name} is not installed: pip install 'declarative-dist[bench]'")
    if options.jax is None:
        print("JAX and flowjax were left out: give --jax a Python that has them.")
    (options.output / "results.md").write_text("\n".join(tabulated(results, facts)) + "\n")
    data = {**facts, "missing": missing, "ratios": [ratio.to_dict() for ratio in results]}
    (options.output / "results.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()

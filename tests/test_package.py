"""What users of the package see: imports, the wheel and the commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import declarative_dist

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    return run(sys.executable, "-W", "error", "-c", code)


def test_every_public_name_exists() -> None:
    assert sorted(declarative_dist.__all__) == declarative_dist.__all__
    assert all(hasattr(declarative_dist, name) for name in declarative_dist.__all__)
    assert set(declarative_dist.__all__) <= set(dir(declarative_dist))  # what completion offers


def test_importing_changes_nothing_in_torch_and_imports_no_extra() -> None:
    code = """
import sys, torch
from torch.distributions import Distribution, constraint_registry, kl
before = (Distribution._validate_args, torch.get_default_dtype(),
          dict(constraint_registry.biject_to._registry), set(kl._KL_REGISTRY))
modules = set(sys.modules)
import declarative_dist
after = (Distribution._validate_args, torch.get_default_dtype(),
         dict(constraint_registry.biject_to._registry), set(kl._KL_REGISTRY))
assert before[:2] == after[:2]
assert all(each.__module__.startswith("declarative_dist") for each in after[2].keys() - before[2])
assert all(after[2][each] is map for each, map in before[2].items())
ours = (declarative_dist.Variational, declarative_dist.wrappers.Truncated)
assert all(any(kind in ours for kind in pair) for pair in after[3] - before[3])
new = {name.partition(".")[0] for name in set(sys.modules) - modules}
extras = {
    "numpy", "scipy", "sklearn", "safetensors", "tqdm", "matplotlib", "pyro", "arviz", "lightning",
    "geotorch", "tensordict", "torchrl", "zuko"
}
print(sorted(new & extras))
"""
    assert python(code).strip() == "[]"


def test_it_needs_no_family_that_older_versions_of_torch_lack() -> None:
    code = """
import torch.distributions as dd
del dd.GeneralizedPareto
import declarative_dist.objectives, declarative_dist.wrappers
print(declarative_dist.median(dd.Exponential(1.0)).item() > 0.69)
"""
    assert python(code) == "True\n"


def test_a_live_object_survives_a_spawned_process() -> None:
    code = """
import pickle, sys, subprocess, torch, torch.distributions as dd
from declarative_dist import learnable
q = learnable(dd.Gamma(2.0, 3.0))
child = ("import pickle, sys; q = pickle.load(sys.stdin.buffer);"
         "print(type(q).__name__, q.rate.item())")
out = subprocess.run([sys.executable, "-c", child], input=pickle.dumps(q), capture_output=True)
print(out.stdout.decode(), out.stderr.decode())
"""
    assert python(code).split() == ["LiveGamma", "3.0"]


def test_readme_names_the_commands() -> None:
    text = (ROOT / "README.md").read_text()
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for command in re.findall(r"make (\w+)", text):
        assert command in targets


def test_benchmark_runs() -> None:
    printed = run(sys.executable, ROOT / "benchmarks" / "step.py", "--blocks", "2")
    assert printed.count("/ hand-written") == 4

"""The benchmarks run, and report what they measured, on what, and what was missing.

What the documentation says of other libraries holds for those that are installed here.
"""

from __future__ import annotations

import importlib
import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.commands import ROOT, python

FOLDER = ROOT / "benchmarks"


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a script with arguments, in this process."""

    def run(script: str, *arguments: object) -> None:
        monkeypatch.syspath_prepend(FOLDER)
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(FOLDER / f"{script}.py"), run_name="__main__")

    return run


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("script", "said"), [("loop", "same Adam"), ("step", "/ hand-written")])
def test_paired_times_are_told(
    script: str, said: str, start: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    start(script, "--blocks", 2, *(["--steps", 5] if script == "loop" else []))
    assert capsys.readouterr().out.count(said) == {"loop": 2, "step": 4}[script]


def words_of(text: str) -> str:
    """A text in one line, without marks of code and emphasis."""
    return re.sub(r"[`*]", "", " ".join(text.split()))


def test_the_comparison_says_what_was_tried() -> None:
    page = words_of((ROOT / "docs" / "comparison.md").read_text()).lower()
    claims = re.findall(r'@claim\("\w+: (.+)"\)', (FOLDER / "claims.py").read_text())
    assert len(claims) > 10
    for claim in claims:
        assert words_of(claim).lower() in page


def test_claims_about_others_hold_and_problems_run_beside_them(tmp_path: Path) -> None:
    """In a process of its own, since some of them change torch when they are imported.

    By hand, declared and through the peers, the same numbers go in and come out.
    """
    code = """
import runpy, sys, torch
runpy.run_path("claims.py", run_name="__main__")
import peers, problems
found, _ = peers.installed()
for problem in problems.problems():
    if problem.samples > 1000 or "10000 dims" in problem.name:
        continue
    made = {name: peer(problem) for name, peer in found.items()}
    built = [("ours", problem.declared())]
    built += [(name, peer[1]()) for name, peer in made.items() if peer is not None]
    x = problem.make(**problem.values).sample((3,))
    expected = problem.make(**problem.values).log_prob(x)
    for name, distribution in built:
        torch.testing.assert_close(distribution.log_prob(x), expected, rtol=1e-4, atol=1e-4)
        assert problem.loss()(distribution).requires_grad, name
runpy.run_path("run.py", run_name="__main__")
"""
    only = ["--blocks", "3", "--only", "Normal, 1 dims, 1 samples", "--output", tmp_path]
    printed = python("-W", "ignore", "-c", code, *only, cwd=FOLDER)
    assert "NO LONGER HOLDS" not in printed
    holding = set(re.findall(r"^ *holds +(\w+):", printed, re.MULTILINE))
    assert holding >= {"torch", "parametrize", "pyro", "zuko"}
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["cores"] >= 1
    assert results["processor"]
    assert results["versions"]["torch"].startswith("2.")
    others = {ratio["other"] for ratio in results["ratios"]}
    for name in ("PyroModule", "zuko", "GPyTorch", "rs-distributions"):
        assert (name in others) != (name in results["missing"])
        assert (f"{name} is not installed" in printed) == (name in results["missing"])
    assert {"by hand", "by hand, not validated", "parametrize"} <= others
    for ratio in results["ratios"]:
        assert 0.0 < ratio["low"] <= ratio["median"] <= ratio["high"]
        assert ratio["microseconds"] > 0.0
    rows = [line for line in (tmp_path / "results.md").read_text().splitlines() if "|" in line]
    assert len(rows) == 2 + len(results["ratios"])


def test_policies_declared_and_by_hand_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights give the same densities, and gradients of them."""
    monkeypatch.syspath_prepend(FOLDER)
    policies = importlib.import_module("policies")
    x = torch.randn(5, policies.INPUTS)
    for problem in policies.PROBLEMS:
        ours, theirs = problem.declared(), problem.by_hand()
        theirs.network.load_state_dict(ours.network.state_dict())
        layers = [m for n, m in ours.named_modules() if n.endswith("projection")]
        with torch.no_grad():
            for name in ("weight", "bias"):
                joined = torch.cat([getattr(layer, name) for layer in layers])
                getattr(theirs.layer, name).copy_(joined)
        y = ours(x).sample()
        for policy in (ours, theirs):
            policy(x).log_prob(y).sum().backward()
        torch.testing.assert_close(ours(x).log_prob(y), theirs(x).log_prob(y))
        for one, other in zip(ours.network.parameters(), theirs.network.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("script", "table", "found"), [
    ("likelihood", "likelihood.md", ("Normal", "Gamma", "Poisson")),
    ("fit_posteriors", "posteriors.md", ("kidiq-kidscore_momiq", "arK-arK")),
])  # fmt: skip
def test_fits_end_at_the_answer(
    script: str,
    table: str,
    found: tuple[str, ...],
    start: Callable[..., None],
    tmp_path: Path,
) -> None:
    """At the maximum that SciPy finds, and within a tenth of a standard deviation."""
    start(script, "--smoke", "--output", tmp_path)
    text = (tmp_path / table).read_text()
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    for name in found:
        row = next(row for row in rows if len(row) > 2 and row[1] == name)
        if script == "likelihood":
            ours, peers = float(row[2]), float(row[3] or 0.0)
            assert ours >= max(peers - 1e-9, 0.0)
        else:
            assert float(row[3]) < 0.1
            assert abs(float(row[5]) - 1.0) < 0.06
        assert "settled" in row[-2]

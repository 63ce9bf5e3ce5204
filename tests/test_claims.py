"""What the documentation says of other libraries holds for those that are installed here."""

from __future__ import annotations

import re

from tests.commands import ROOT, python


def words_of(text: str) -> str:
    """A text in one line, without marks of code and emphasis."""
    return re.sub(r"[`*]", "", " ".join(text.split()))


def test_claims_about_others_hold() -> None:
    """In a process of its own, since Pyro and zuko change torch when they are imported."""
    printed = python("-W", "ignore", ROOT / "benchmarks" / "claims.py")
    lines = [line.strip() for line in printed.splitlines()]
    assert not [line for line in lines if line.startswith("NO LONGER")]
    holding = {line.split()[1] for line in lines if line.startswith("holds")}
    assert holding >= {"torch:", "parametrize:", "pyro:", "zuko:"}


def test_the_comparison_says_what_was_tried() -> None:
    page = words_of((ROOT / "docs" / "comparison.md").read_text()).lower()
    source = (ROOT / "benchmarks" / "claims.py").read_text()
    claims = re.findall(r'@claim\("\w+: (.+)"\)', source)
    assert len(claims) > 10
    for claim in claims:
        assert words_of(claim).lower() in page

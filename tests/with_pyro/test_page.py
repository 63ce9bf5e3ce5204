"""The page about other libraries, which imports Pyro, runs from top to bottom."""

from __future__ import annotations

import pytest

from docs.extensions.executing import ALONE, Page, blocks_of
from tests.commands import ROOT


@pytest.mark.filterwarnings("ignore")
def test_every_block_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    path = ROOT / "docs" / f"{ALONE}.md"
    page = Page(path)
    for block in blocks_of(path.read_text()):
        page.run(block)

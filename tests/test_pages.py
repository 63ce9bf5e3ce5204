"""Every Python block of the README runs as it stands; the pages of the site run in its build.

The page about other libraries runs with Pyro, in `tests/with_pyro`.
"""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.extensions.executing import ALONE, Block, Page, blocks_of
from tests import readme
from tests.commands import ROOT

WRITTEN = [
    ROOT / "README.md",
    *sorted((ROOT / "declarative_dist" / "explanations").glob("*.md")),
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "errors"),
]
EVERY = {path: list(blocks_of(path.read_text())) for path in WRITTEN}
INTEGRATIONS = ROOT / "docs" / f"{ALONE}.md"


@pytest.fixture(autouse=True)
def pictures_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MPLBACKEND", "agg")
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")


def test_the_readme_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Word for word, below a block or in a comment of it; numbers may differ as machines do."""
    monkeypatch.chdir(tmp_path)
    outputs = list(readme.outputs())
    assert len(outputs) > 3
    for block, printed in outputs:
        shown = block["shown"] or "\n".join(re.findall(r"^print.*  # (.*)$", block["code"], re.M))
        readme.assert_alike(shown, printed)


def test_the_table_of_libraries_names_extras_and_tests_that_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    _, _, *rows = (line for line in INTEGRATIONS.read_text().splitlines() if line.startswith("|"))
    assert len(rows) >= 10
    for row in rows:
        *_, extras, tests, _ = row.split("|")
        for extra in re.findall(r"`(\w+)`", extras):
            assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra
        (path,) = re.findall(r"`(tests/\S+)`", tests)
        assert (ROOT / path).is_file(), path


def test_no_block_is_overlooked() -> None:
    for path, blocks in EVERY.items():
        assert path.read_text().count("```python") == len(blocks), path


@pytest.mark.parametrize("info", ["draw a line", "raises", "draws", "prints all", "raises A b"])
def test_a_mark_that_means_nothing_is_refused(info: str) -> None:
    with pytest.raises(ValueError, match=f"'python {info}' means nothing"):
        list(blocks_of(f"```python {info}\n1\n```"))


def test_a_block_must_raise_what_it_says(tmp_path: Path) -> None:
    page = Page(tmp_path / "page.md")
    assert isinstance(page.run(Block("raises KeyError", "{}[0]", 0)), KeyError)
    with pytest.raises(ZeroDivisionError):
        page.run(Block("raises KeyError", "1 / 0", 0))
    with pytest.raises(AssertionError, match="no KeyError was raised"):
        page.run(Block("raises KeyError", "1", 0))
    assert page.run(Block("", "class A: pass\na = A()", 0)) is None
    assert pickle.loads(pickle.dumps(page.module.a)).__class__ is page.module.A

"""The quickstart as a notebook runs from top to bottom, and is stored with what it shows."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
import scipy.stats
from nbclient import NotebookClient
from sklearn.datasets import load_diabetes

from tests.readme import assert_alike

ROOT = Path(__file__).parent.parent
PATH = ROOT / "examples" / "quickstart.ipynb"
pytestmark = pytest.mark.xdist_group("notebook")  # it is run once


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """What each cell of code shows, run in a process of its own."""
    notebook = nbformat.read(PATH, as_version=4)
    place = str(tmp_path_factory.mktemp("notebook"))
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "IPYTHONDIR": place}
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": place}})
    client.execute(env=env)
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def printed(outputs: list[list[Any]]) -> str:
    streams = (output for cell in outputs for output in cell if output.output_type == "stream")
    assert all(stream.name == "stdout" for stream in streams), "nothing warns"
    return "".join(
        output.text for cell in outputs for output in cell if output.output_type == "stream"
    )


def shown(outputs: list[list[Any]], kind: str) -> list[str]:
    cells = (output.data for cell in outputs for output in cell if "data" in output)
    return [data[kind] for data in cells if kind in data]


def test_it_is_stored_with_what_it_shows(outputs: list[list[Any]]) -> None:
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    stored = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    for kind in ("image/png", "text/html"):
        assert len(shown(stored, kind)) == len(shown(outputs, kind))
    assert_alike(printed(stored), printed(outputs))


def test_it_prints_what_it_says(outputs: list[list[Any]]) -> None:
    text = printed(outputs)
    assert "Trying to backward through the graph a second time" in text
    assert float(re.search(r"divergence from the target: ([\d.]+)", text)[1]) < 0.02
    assert "GammaFamily.rate: expected a finite positive number, got -1.0." in text
    assert "declarative_dist.explain outside-constraint" in text


def test_it_finds_what_scipy_finds(outputs: list[list[Any]]) -> None:
    found = re.search(r"concentration ([\d.]+), rate ([\d.]+)", printed(outputs))
    shape, _, scale = scipy.stats.gamma.fit(load_diabetes().target / 100, floc=0)
    assert float(found[1]) == pytest.approx(shape, rel=1e-3)
    assert float(found[2]) == pytest.approx(1 / scale, rel=1e-3)


def test_it_shows_tables_and_pictures(outputs: list[list[Any]]) -> None:
    (table,) = shown(outputs, "text/html")
    assert "concentration" in table
    assert "GammaFamily" in shown(outputs, "text/plain")[0]
    assert len(shown(outputs, "image/png")) == 3


def test_paths_that_it_names_exist() -> None:
    for path in re.findall(r"`([\w/]+/[\w.]*)`", PATH.read_text()):
        assert (ROOT / path).exists(), path

"""The template of a package of constraints builds to a wheel, installs, and passes its tests."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from docs.extensions.executing import Page, blocks_of
from tests.commands import ROOT, python

TEMPLATE = ROOT / "templates" / "declarative-dist-constraints"
PACKAGE = "declarative_dist_constraints"
pytestmark = pytest.mark.xdist_group("template")  # it is built once


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the template outside of the checkout, without what others have left there."""
    ignore = shutil.ignore_patterns("__pycache__", ".pytest_cache", "dist")
    return Path(shutil.copytree(TEMPLATE, tmp_path_factory.mktemp("copy") / "mine", ignore=ignore))


@pytest.fixture(scope="module")
def installed(copied: Path) -> Path:
    """Where its wheel is installed."""
    pip = ("-m", "pip", "--quiet")
    wheels, site = copied.parent / "wheels", copied.parent / "site"
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir", wheels)
    python(*pip, "wheel", *options, copied, cwd=copied)
    (wheel,) = wheels.glob("*.whl")
    python(*pip, "install", "--no-deps", "--no-compile", "--target", site, wheel, cwd=copied)
    return site


def test_the_wheel_has_the_package_and_its_marker_of_types(installed: Path) -> None:
    found = sorted(path.name for path in (installed / PACKAGE).glob("*.*"))
    assert found == ["__init__.py", "correlation.py", "py.typed"]
    (metadata,) = installed.glob("*.dist-info/METADATA")
    assert "Requires-Dist: declarative-dist" in metadata.read_text()


def test_its_tests_pass_with_what_was_installed(copied: Path, installed: Path) -> None:
    code = f"""
import sys, pytest, {PACKAGE}
print({PACKAGE}.__file__)
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider"]))
"""
    path = f"{installed}{os.pathsep}{ROOT}"
    printed = python("-c", code, cwd=copied, PYTHONPATH=path)
    assert printed.startswith(str(installed))
    assert "4 passed" in printed


def test_its_readme_runs(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(installed)
    path = TEMPLATE / "README.md"
    page = Page(path)
    (block,) = blocks_of(path.read_text())
    try:
        page.run(block)
    finally:
        for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
            del sys.modules[name]

"""A release: the steps of `.github/workflows/release.yml`, run on a copy of the project."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import declarative_dist
from declarative_dist.explain import meanings
from tests import commands
from tests.commands import ROOT

VERSION = declarative_dist.__version__
FOLDERS = (
    "declarative_dist", "tests", "examples", "benchmarks", "docs", "templates", ".ci", ".github",
)  # fmt: skip
FILES = (
    "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md",
    "constraints.txt", "pyproject.toml", ".gitignore", ".pre-commit-config.yaml",
)  # fmt: skip
pytestmark = pytest.mark.xdist_group("release")  # it is built once
MADE = shutil.ignore_patterns("__pycache__", "_build", "errors", ".*_cache", "*.pyc")


def workflow(name: str) -> list[str]:
    """The commands of a workflow, in order."""
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text()
    (job,) = yaml.safe_load(text)["jobs"].values()
    return [step["run"] for step in job["steps"] if "run" in step]


def run(command: str, cwd: Path, tag: str = f"v{VERSION}") -> subprocess.CompletedProcess[str]:
    """A step as the shell of a workflow runs it, with this environment's Python, offline."""
    shell = ("/bin/bash", "-e", "-c", command)
    return commands.run(*shell, cwd=cwd, GITHUB_REF_NAME=tag, PIP_NO_INDEX="1")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, as a checkout has it."""
    place = tmp_path_factory.mktemp("release") / "project"
    place.mkdir()
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, place / folder, ignore=MADE)
    for file in FILES:
        shutil.copy(ROOT / file, place)
    return place


@pytest.fixture(scope="module")
def built(project: Path) -> Path:
    """Where the steps of a release put what they build."""
    steps = workflow("release")
    assert steps[0] == "python -m pip install build hatchling twine"
    for step in steps[1:]:
        done = run(step, project)
        assert done.returncode == 0, f"{step}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return project / "dist"


def test_a_release_is_one_wheel_and_one_sdist(built: Path) -> None:
    assert sorted(path.name for path in built.iterdir()) == [
        f"declarative_dist-{VERSION}-py3-none-any.whl",
        f"declarative_dist-{VERSION}.tar.gz",
    ]


def test_a_tag_of_another_version_is_refused(project: Path) -> None:
    check = workflow("release")[1]
    tags = (f"v{VERSION}", VERSION, f"v{VERSION}.1")
    assert [run(check, project, tag).returncode == 0 for tag in tags] == [True, False, False]


def test_make_release_takes_the_same_steps() -> None:
    recipe = re.search(
        r"^release:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    assert recipe is not None
    steps = [line.strip().removeprefix("$(BIN)/") for line in recipe[1].splitlines()]
    assert steps == ["rm -rf dist", *workflow("release")[2:]]


def test_twine_refuses_what_cannot_be_published(tmp_path: Path, built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    broken = tmp_path / "dist" / wheel.name
    broken.parent.mkdir()
    with zipfile.ZipFile(wheel) as before, zipfile.ZipFile(broken, "w") as after:
        for name in before.namelist():
            text = before.read(name)
            if name.endswith("/METADATA"):
                text = re.sub(rb"(?m)^(Name|Description-Content-Type): .*\n", b"", text)
            after.writestr(name, text)
    assert run(workflow("release")[-1], tmp_path).returncode != 0


def test_the_wheel_says_what_it_is(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        told: Any = email.message_from_bytes(archive.read(path))
        tops = {name.partition("/")[0] for name in archive.namelist()}
        explained = [name for name in archive.namelist() if "/explanations/" in name]
    assert told["Version"] == VERSION
    assert told["License-Expression"] == "MIT"
    assert told.get_all("Project-URL")
    needed = [line for line in told.get_all("Requires-Dist") if "extra ==" not in line]
    assert [re.split(r"[>=]", line)[0] for line in needed] == ["torch", "typing-extensions"]
    assert len(explained) == len(meanings())
    assert tops == {"declarative_dist", f"declarative_dist-{VERSION}.dist-info"}


def test_the_wheel_installs_and_works_outside_the_checkout(tmp_path: Path, built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "env", system_site_packages=False, with_pip=False)
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    install = "python -m pip -q install --no-deps --no-compile"
    done = run(f"{install} --target {site} {wheel}", tmp_path)
    assert done.returncode == 0, done.stderr
    # Torch comes from this environment; the package must come from the wheel.
    (site / "torch.pth").write_text(str(Path(sys.modules["torch"].__file__).parent.parent))
    code = (
        "import runpy, declarative_dist as d, torch.distributions as dd;"
        "q = d.learnable(dd.Gamma(2.0, 3.0)); q.rsample().backward();"
        "print(d.__file__); runpy.run_module('declarative_dist.explain', run_name='__main__')"
    )
    done = commands.run(tmp_path / "env/bin/python", "-I", "-c", code, "no-base", cwd=tmp_path)
    assert done.stdout.startswith(f"{site}/declarative_dist/__init__.py\n# no-base\n"), done.stderr
    assert (site / "declarative_dist" / "py.typed").exists()


def test_the_sdist_has_the_whole_project(project: Path, built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        str(path.relative_to(project))
        for path in project.rglob("*")
        if path.is_file() and built not in path.parents
    }
    assert wanted <= names
    assert names - wanted == {"PKG-INFO"}


def test_nothing_that_git_keeps_is_left_out() -> None:
    done = run("git ls-files", ROOT)
    if done.returncode:
        pytest.skip("this is no repository")
    tops = {path.partition("/")[0] for path in done.stdout.splitlines()}
    assert tops == {*FOLDERS, *FILES}

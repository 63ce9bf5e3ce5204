"""What contributors are told is so: commands, paths, hooks, forms and the citation."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import declarative_dist
from declarative_dist.explain import meanings
from tests.commands import ROOT, run

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def recipe(target: str) -> list[str]:
    """The commands of a target, without the folder of the tools and what it says meanwhile."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert found is not None
    lines = [line.strip().removeprefix("$(BIN)/") for line in found[1].splitlines()]
    return [line for line in lines if not line.startswith("@echo ")]


# --- make -----------------------------------------------------------------------------------


def test_help_has_a_line_for_every_target() -> None:
    lines = run("make", "--no-print-directory", "help").stdout.splitlines()
    told = dict(re.match(r"make ([a-z-]+) +(\S.*)", line).groups() for line in lines)
    assert list(told) == TARGETS
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony[1].split() == TARGETS


def test_help_is_what_make_does_when_nothing_is_asked() -> None:
    assert (
        run("make", "--no-print-directory").stdout
        == run("make", "--no-print-directory", "help").stdout
    )


# --- texts ----------------------------------------------------------------------------------

TEXTS = ["CONTRIBUTING.md", "CHANGELOG.md", "README.md", ".github/PULL_REQUEST_TEMPLATE.md"]


@pytest.mark.parametrize("name", TEXTS)
def test_commands_that_are_named_exist(name: str) -> None:
    named = re.findall(r"\bmake ([a-z-]+)\b(?=[^\w ]|  )", (ROOT / name).read_text())
    assert set(named) <= set(TARGETS)


@pytest.mark.parametrize("name", TEXTS)
def test_paths_that_are_named_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    named = re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[A-Z]+\.\w+)`", text)
    roots = (ROOT, ROOT / "declarative_dist")
    built = ("dist/", "docs/_build/")
    for path in set(named):
        assert path.startswith(built) or any((root / path).exists() for root in roots), path


def test_the_guide_names_every_layer() -> None:
    table = GUIDE[GUIDE.index("| Row |") : GUIDE.index("`declaration/README.md` says")]
    folders = [path.parent.name for path in (ROOT / "declarative_dist").glob("*/__init__.py")]
    for folder in folders:
        assert f"| `{folder}/` |" in table


def test_the_guide_asks_ten_questions() -> None:
    part = GUIDE[GUIDE.index("Ten questions") : GUIDE.index("## Add a constraint")]
    questions = re.findall(r"^(\d+)\. .*?\?$", part, re.MULTILINE | re.DOTALL)
    assert questions == [str(number) for number in range(1, 11)]


def test_the_changelog_begins_with_what_is_not_released() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert titles[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", title) for title in titles[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds


# --- citation -------------------------------------------------------------------------------


def test_the_citation_is_complete_and_current() -> None:
    told = loaded(ROOT / "CITATION.cff")
    assert set(told) >= {"cff-version", "message", "title", "authors"}  # what the format requires
    assert told["cff-version"] == "1.2.0"
    assert told["version"] == declarative_dist.__version__
    assert told["title"] == declarative_dist.__name__
    assert told["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n")
    assert all(set(author) == {"name"} for author in told["authors"])


# --- forms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_is_well_formed(path: Path) -> None:
    form = loaded(path)
    assert set(form) == {"name", "description", "title", "labels", "body"}
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids)) > 0
    for field in form["body"]:
        assert field["type"] == "textarea"
        assert field["attributes"]["label"]
        assert set(field) <= {"type", "id", "attributes", "validations"}
        assert field.get("validations", {"required": True}) == {"required": True}


def test_there_are_forms_for_bugs_ideas_and_questions() -> None:
    assert [path.stem for path in FORMS] == ["bug", "idea", "question"]


def test_the_versions_that_a_bug_report_asks_for_can_be_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (field,) = (field for field in loaded(FORMS[0])["body"] if field["id"] == "versions")
    exec(re.search(r'python -c "(.*)"', field["attributes"]["description"])[1], {})
    assert capsys.readouterr().out.startswith(f"{declarative_dist.__version__} ")


def test_the_pointer_that_a_bug_report_shows_is_one() -> None:
    text = FORMS[0].read_text()
    codes = re.findall(r"declarative_dist\.explain ([\w-]+)", text)
    assert codes
    assert set(codes) <= set(meanings())


# --- workflows and hooks --------------------------------------------------------------------


def test_pull_requests_are_tested_by_make_test() -> None:
    workflow = loaded(ROOT / ".github" / "workflows" / "test.yml")
    steps = workflow["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make test"]
    assert "pull_request" in workflow[True]  # YAML reads the word `on` so


def test_hooks_are_commands_of_make_check() -> None:
    (source,) = loaded(ROOT / ".pre-commit-config.yaml")["repos"]
    assert source["repo"] == "local"  # nothing is downloaded
    commands = [hook["entry"].removeprefix(".venv/bin/") for hook in source["hooks"]]
    assert commands == [line for line in recipe("check") if line != "pyright"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with our hooks, our tools and one file."""
    for name in (".pre-commit-config.yaml", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "benchmarks").mkdir()
    assert run("git", "init", "-q", cwd=tmp_path).returncode == 0
    return tmp_path


def hook(name: str, checkout: Path) -> subprocess.CompletedProcess[str]:
    """Run a hook as git would, with no way to the network and none of pre-commit's downloads."""
    assert run("git", "add", "--", "benchmarks", cwd=checkout).returncode == 0
    env = {"PRE_COMMIT_HOME": str(checkout / "cache"), "https_proxy": "http://127.0.0.1:1"}
    return run("pre-commit", "run", name, "--files", "benchmarks/told.py", cwd=checkout, **env)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("ruff-format", '"""Told."""\n\nx = 1\n', '"""Told."""\nx =   1\n'),
        ("ruff-check", '"""Told."""\n\nx = 1\n', '"""Told."""\n\nimport os\n'),
    ],
)
def test_hooks_accept_and_refuse(checkout: Path, name: str, good: str, bad: str) -> None:
    file = checkout / "benchmarks" / "told.py"
    file.write_text(good)
    done = hook(name, checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    file.write_text(bad)
    done = hook(name, checkout)
    assert done.returncode == 1
    assert "Failed" in done.stdout

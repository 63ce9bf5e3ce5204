"""The pages of errors: one for each code, each shown going wrong, printed by a command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from declarative_dist.explain import main, meanings, page

ROOT = Path(__file__).parent.parent
CLASSIC = (ROOT / "docs" / "errors.md").read_text()


@pytest.mark.parametrize("code", meanings())
def test_a_page_says_what_went_wrong_and_shows_it(code: str) -> None:
    text = page(code)
    assert text.startswith(f"# {code}\n\n{meanings()[code]}\n\n```python raises {code}\n")
    assert text.isascii()  # any terminal can print it
    assert max(map(len, text.splitlines())) <= 105
    assert len(text.split("```")[2].split()) >= 5  # the reason


def test_ten_classic_mistakes_are_taught() -> None:
    numbers = re.findall(r"^### (\d+)\. ", CLASSIC, re.MULTILINE)
    assert numbers == [str(number) for number in range(1, 11)]


def test_it_prints_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    """`test_release.py` does so with the package that a wheel installs."""
    assert main(["no-base"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(
        f"# no-base\n\n{meanings()['no-base']}\n\nThis goes wrong:\n\n```python\n"
    )
    assert "\nWrite `base = torch.distributions.Normal`" in printed.out
    assert printed.err == ""


def test_without_a_code_it_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line[0] != " "] == list(meanings())
    assert max(map(len, lines)) <= 80
    listed = " ".join(" ".join(lines).split())
    assert all(f"{code} {meaning}" in listed for code, meaning in meanings().items())


def test_an_unknown_code_has_neighbours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no_base"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(
        "There is no 'no_base'. Did you mean 'no-base'? Known here: bad-"
    )

"""The page of errors: an anchor per code, a code per anchor, each shown going wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from declarative_dist.errors import MEANINGS
from docs.extensions.executing import blocks_of

TEXT = (Path(__file__).parent.parent / "docs" / "errors.md").read_text()
CLASSIC, _, BY_CODE = TEXT.partition("\n## Every code\n")
SECTIONS = dict(re.findall(r"^### (.+)\n((?:(?!###).*\n?)*)", BY_CODE, re.MULTILINE))


def test_every_code_has_an_anchor_and_every_anchor_a_code() -> None:
    assert list(SECTIONS) == list(MEANINGS)


@pytest.mark.parametrize("code", MEANINGS)
def test_a_section_says_what_went_wrong_and_shows_it(code: str) -> None:
    assert SECTIONS[code].lstrip().startswith(MEANINGS[code])
    assert f"raises {code}" in [block.info for block in blocks_of(SECTIONS[code])]
    reason = SECTIONS[code].split("```")[2]
    assert len(reason.split()) >= 5


def test_ten_classic_mistakes_are_taught() -> None:
    numbers = re.findall(r"^### (\d+)\. ", CLASSIC, re.MULTILINE)
    assert numbers == [str(number) for number in range(1, 11)]

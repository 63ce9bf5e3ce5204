"""Pyro's distributions as bases, tested in a process of their own.

Importing pyro replaces `Transform.__getstate__`, `HalfCauchy.log_prob`, the check of correlation
factors and torch's divergence of two `Independent`s, for the whole process. The other tests are
about torch as it is.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.commands import python

FOLDER = Path(__file__).parent / "with_pyro"


def test_with_pyro() -> None:
    options = ("-q", "--tb=short", "-p", "no:cacheprovider")
    printed = python("-m", "pytest", *options, FOLDER, TESTS_WITH_PYRO="1")
    assert int(re.search(r"(\d+) passed", printed)[1]) > 100


def test_this_process_is_without_pyro() -> None:
    assert "pyro" not in sys.modules

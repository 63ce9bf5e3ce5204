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


def test_what_pyro_changes_in_torch() -> None:
    """If this list grows, there is more that the other tests must be kept from."""
    code = """
import torch, torch.distributions as dd
from torch.distributions import constraints

found = [getattr(dd, name) for name in dd.__all__] + [torch.Tensor]
found += [type(getattr(constraints, name)) for name in constraints.__all__]
kinds = {kind for kind in found if isinstance(kind, type)}
before = {kind: dict(vars(kind)) for kind in kinds}
state = dd.Distribution._validate_args, torch.get_default_dtype()
import pyro
assert state == (dd.Distribution._validate_args, torch.get_default_dtype())
for kind, members in before.items():
    for name, member in vars(kind).items():
        if members.get(name) is not member:
            print(f"{kind.__name__.strip('_')}.{name}")
"""
    assert sorted(python("-c", code).split()) == [
        "CorrCholesky.check",
        "HalfCauchy.log_prob",
        "Transform.__getstate__",
        "Transform.clear_cache",
        "TransformedDistribution.clear_cache",
    ]

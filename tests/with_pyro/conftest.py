"""Importing pyro replaces methods of torch's classes: these tests wait for a process of their own.

`tests/test_pyro.py` starts it; by hand it is `TESTS_WITH_PYRO=1 pytest tests/with_pyro`.
"""

from __future__ import annotations

import os

import torch
import torch.distributions as dd
from torch.distributions import constraints

KINDS = [getattr(dd, name) for name in dd.__all__] + [torch.Tensor]
KINDS += [type(getattr(constraints, name)) for name in constraints.__all__]
BEFORE = {kind: dict(vars(kind)) for kind in KINDS if isinstance(kind, type)}
"""The members of torch's classes before pyro is imported."""

collect_ignore_glob = [] if os.environ.get("TESTS_WITH_PYRO") else ["test_*.py"]

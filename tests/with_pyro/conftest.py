"""Importing pyro replaces methods of torch's classes: these tests wait for a process of their own.

`tests/test_pyro.py` starts it; by hand it is `TESTS_WITH_PYRO=1 pytest tests/with_pyro`.
"""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("TESTS_WITH_PYRO") else ["test_*.py"]

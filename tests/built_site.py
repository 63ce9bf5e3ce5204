"""The documentation, built once and looked at by several tests."""

from __future__ import annotations

import fcntl
from pathlib import Path

from tests.commands import ROOT, python

BUILT = ROOT / "docs" / "_build" / "html"


def build() -> Path:
    """The folder of the site; `make test` has built it before, else this takes minutes."""
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be building
        _build_if_stale()
    return BUILT


def _build_if_stale() -> None:
    if not _is_current():
        options = ("-q", "-W", "--keep-going", "-E", "-j", "2")
        python("-m", "sphinx", *options, ROOT / "docs", BUILT)


def _is_current() -> bool:
    sources = [
        path
        for kind in (
            "docs/**/*.md",
            "docs/**/*.py",
            "docs/_static/*",
            "declarative_dist/**/*.??",
            "examples/*.py",
        )
        for path in ROOT.glob(kind)
    ]
    index = BUILT / "objects.inv"
    return index.exists() and index.stat().st_mtime > max(p.stat().st_mtime for p in sources)

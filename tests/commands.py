"""Commands in a process of their own, as users type them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(
    *command: str | Path, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """What a command printed and how it ended; the tools of this environment come first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    settings = {"PATH": path, "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def python(*arguments: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """What Python prints, which must end without an error."""
    done = run(sys.executable, *arguments, cwd=cwd, **environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout

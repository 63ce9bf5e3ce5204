"""The files of `examples`, imported or run."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from unittest import mock

EXAMPLES = Path(__file__).parent.parent / "examples"


@cache
def example(name: str) -> ModuleType:
    """An example as a module, without running its `main`."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@cache
def printed_by(name: str) -> str:
    """What an example prints with `--smoke`; each is run once."""
    path = EXAMPLES / f"{name}.py"
    if name == "pyro_guide":  # Pyro changes torch for the whole process
        done = process(path, "--smoke")
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout
    printed = io.StringIO()
    arguments = mock.patch.object(sys, "argv", [str(path), "--smoke"])
    with arguments, contextlib.redirect_stdout(printed):
        runpy.run_path(str(path), run_name="__main__")
    return printed.getvalue()


def process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A Python process of its own that has `examples` on its path; warnings are errors."""
    path = [str(EXAMPLES), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)],
        cwd=EXAMPLES.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def numbers_in(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]

"""The files of `examples`, imported or run."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import runpy
import sys
from functools import cache
from types import ModuleType
from unittest import mock

from tests.commands import ROOT, python

EXAMPLES = ROOT / "examples"


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
        return python("-W", "error", path, "--smoke")
    printed = io.StringIO()
    arguments = mock.patch.object(sys, "argv", [str(path), "--smoke"])
    with arguments, contextlib.redirect_stdout(printed):
        runpy.run_path(str(path), run_name="__main__")
    return printed.getvalue()


def numbers_in(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]

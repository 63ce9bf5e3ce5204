"""A bar of progress, where there is a terminal to show it."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Literal

from declarative_dist.errors import ConstraintError, shorten


class Progress:
    """A bar with the loss, the steps per second and the time left, through tqdm.

    Args:
        shown: True for a bar if standard error is a terminal and tqdm is installed, "always" for
            one in any case, False for none.
        steps: the number of steps in all.

    Raises:
        ImportError: if it is "always" and tqdm is not installed.
    """

    def __init__(self, shown: bool | Literal["always"], steps: int) -> None:
        if shown not in (True, False, "always"):
            raise ConstraintError(
                "fit(progress=)",
                'True, False or "always"',
                shorten(shown),
                code="wrong-argument",
            )
        is_wanted = shown == "always" or (bool(shown) and _is_terminal())
        self._tqdm = _tqdm(is_required=shown == "always") if is_wanted else None
        self._steps = steps
        self._bar: Any = None

    def show(self, step: int, loss: float) -> None:
        """Show that a step is done."""
        if self._tqdm is None:
            return
        if self._bar is None:
            self._bar = self._tqdm(
                total=self._steps, initial=step - 1, unit="step", dynamic_ncols=True
            )
        self._bar.set_postfix_str(f"loss={loss:.4g}", refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # replaced, or closed
        return False


def _tqdm(*, is_required: bool) -> Any:
    try:
        return importlib.import_module("tqdm").tqdm
    except ImportError as error:
        if is_required:
            raise ImportError(
                'fit(progress="always") shows its bar with tqdm, which is not installed: '
                'pip install "declarative-dist[fit]"'
            ) from error
        return None

"""A bar of progress, where there is a terminal to show it."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Literal


class Progress:
    """A bar with the loss, the steps per second and the time left, through tqdm.

    Args:
        wanted: True for a bar if standard error is a terminal and tqdm is installed, "always" for
            one in any case, False for none.
        steps: the number of steps in all, if it is known.

    Raises:
        ImportError: if it is "always" and tqdm is not installed.
    """

    def __init__(self, wanted: bool | Literal["always"], steps: int | None) -> None:
        self._steps = steps
        self._bar: Any = None
        self._tqdm: Any = None
        is_terminal = getattr(sys.stderr, "isatty", bool)
        if wanted == "always" or (wanted and is_terminal()):
            try:
                self._tqdm = importlib.import_module("tqdm").tqdm
            except ImportError as error:
                if wanted == "always":
                    raise ImportError(
                        'fit(progress="always") shows its bar with tqdm, which is not installed: '
                        'pip install "declarative-dist[fit]"'
                    ) from error

    def __call__(self, step: int, loss: float, *_: object) -> None:
        """Show that a step is done."""
        if self._tqdm is None:
            return
        if self._bar is None:
            options = {"total": self._steps, "initial": step - 1, "unit": "step"}
            self._bar = self._tqdm(dynamic_ncols=True, **options)
        self._bar.set_postfix_str(f"loss={loss:.4g}", refresh=False)
        self._bar.update()

    def close(self, verdict: str = "") -> None:
        """Leave the bar as it is, with a last word."""
        if self._bar is not None:
            if verdict:
                self._bar.set_postfix_str(f"{self._bar.postfix}, {verdict}")
            self._bar.close()

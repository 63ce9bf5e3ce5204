"""What a batch is: arguments, and behind them a dict of keywords."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def call_with(function: Callable[..., Any], batch: tuple[Any, ...]) -> Any:
    """Call a function with a batch; a dict behind other items gives keywords.

    Example:
        >>> from declarative_dist.plain.batch import call_with
        >>> call_with(dict, ([("x", 1)], {"weights": 2})), call_with(dict, ({"site": 1},))
        ({'x': 1, 'weights': 2}, {'site': 1})
    """
    has_keywords = len(batch) > 1 and isinstance(batch[-1], Mapping)
    return function(*batch[:-1], **batch[-1]) if has_keywords else function(*batch)

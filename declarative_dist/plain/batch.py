"""What a batch is: arguments, and behind them a dict of keywords."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def split_keywords(batch: tuple[Any, ...]) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """The items of a batch and its keywords: a dict that stands behind other items."""
    if len(batch) > 1 and isinstance(batch[-1], Mapping):
        return batch[:-1], batch[-1]
    return batch, {}


def call_with(function: Callable[..., Any], batch: tuple[Any, ...]) -> Any:
    """Call a function with the items and the keywords of a batch."""
    items, keywords = split_keywords(batch)
    return function(*items, **keywords)

"""Dotted names of fields in nested parts, such as `component_distribution.scale`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from declarative_dist.errors import DeclarationError


def nested_values(values: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """Values by dotted name as dicts in dicts.

    Raises:
        DeclarationError: if a part is named both as a whole and by its fields.

    Example:
        >>> from declarative_dist.fields.dotted import nested_values
        >>> nested_values({"base.scale": 1.0, "base.loc": 0.0, "rate": 2.0}, "Family")
        {'rate': 2.0, 'base': {'scale': 1.0, 'loc': 0.0}}
    """
    nested: dict[str, Any] = {name: value for name, value in values.items() if "." not in name}
    for name, value in values.items():
        head, dot, rest = name.partition(".")
        if dot and head in values:
            raise DeclarationError(
                f"{subject}.{name}",
                "one value",
                f"one for {head} too",
                "Put it in there.",
                code="unused-argument",
            )
        if dot:
            nested.setdefault(head, {})[rest] = value
    deeper = {name.partition(".")[0] for name in values if "." in name}
    return {
        name: nested_values(value, f"{subject}.{name}") if name in deeper else value
        for name, value in nested.items()
    }

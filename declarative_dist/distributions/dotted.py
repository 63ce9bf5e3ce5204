"""Dotted names of fields in nested parts, such as `component_distribution.scale`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from declarative_dist.errors import DeclarationError, did_you_mean
from declarative_dist.fields.nested import Nested
from declarative_dist.fields.param import Param
from declarative_dist.fields.part import is_declarative


def nested_values(values: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """Values by dotted name as dicts in dicts.

    Raises:
        DeclarationError: if a part is named both as a whole and by its fields.

    Example:
        >>> from declarative_dist.distributions.dotted import nested_values
        >>> nested_values({"base.scale": 1.0, "base.loc": 0.0, "rate": 2.0}, "Family")
        {'rate': 2.0, 'base': {'scale': 1.0, 'loc': 0.0}}
    """
    nested: dict[str, Any] = {name: value for name, value in values.items() if "." not in name}
    for name, value in values.items():
        head, dot, rest = name.partition(".")
        if dot and head in values:
            raise DeclarationError(
                f"{subject}.{name}", "one value", f"one for {head} too", "Put it in there."
            )
        if dot:
            nested.setdefault(head, {})[rest] = value
    deeper = {name.partition(".")[0] for name in values if "." in name}
    return {
        name: nested_values(value, f"{subject}.{name}") if name in deeper else value
        for name, value in nested.items()
    }


def parameters_named(module: Any, name: str, path: str = "") -> list[nn.Parameter]:
    """The parameters behind the name of a field, dotted where it is one of a nested part.

    Args:
        module: a declarative module, or a foreign one inside it.
        name: the name of a parameter or a nested part.
        path: what led here, for errors.

    Raises:
        DeclarationError: if nothing trainable has this name.
    """
    head, _, rest = name.partition(".")
    subject = f"{path or type(module).__name__}.{head}"
    if is_declarative(module):
        known = {
            n: field
            for n, field in type(module).__declaration__.fields.items()
            if isinstance(field, (Param, Nested))
        }
        field = known.get(head)
        inner = field.module_of(module) if isinstance(field, Nested) else None
        found = None if field is None else field.parameters_of(module)
        if field is None and head in module._modules:  # no field, such as a given network
            inner = module._modules[head]
            found = None if inner is None else list(inner.parameters())
    else:
        known = {**dict(module.named_children()), **dict(module.named_parameters(recurse=False))}
        inner = module._modules.get(head)
        own = module._parameters.get(head)
        found = list(inner.parameters()) if inner is not None else None
        found = found if own is None else [own]
    if found is None or (rest and inner is None):
        raise DeclarationError(
            subject, "the name of a parameter", repr(name), did_you_mean(head, known)
        )
    return parameters_named(inner, rest, subject) if rest else found

"""How a declarative module looks in `repr`: a line for each field, in the style of `nn.Module`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from declarative_dist.constraints.constraint import Constraint


def render(module: Any) -> str:
    """The fields with their values, and what else is registered."""
    declaration = module.__declaration__
    lines = []
    for name, field in declaration.fields.items():
        try:
            text = field.render(module)
        except Exception as error:  # noqa: BLE001 - repr must not fail
            text = f"<{type(error).__name__}>{field.describe(module)}"
        lines.append(f"({name}): {text}")
    lines += [f"({name}): {part!r}" for name, part in _other_modules(module)]
    body = "".join("\n  " + line.replace("\n", "\n  ") for line in lines)
    return f"{type(module).__name__}({module.extra_repr()}{body}\n)"


def _other_modules(module: Any) -> Iterator[tuple[str, nn.Module]]:
    """The submodules that are no nested part, and no constraint or prior of a field."""
    declaration = module.__declaration__
    known = {*declaration.fields, *declaration.of_prior}
    for name, part in module.named_children():
        if name not in known and not isinstance(part, Constraint):
            yield name, part

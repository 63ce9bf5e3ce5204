"""Setting several fields of a module at once: all of them, or none if one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from declarative_dist.errors import DeclarationError, did_you_mean
from declarative_dist.fields.field import Field
from declarative_dist.fields.templates import nest_values
from declarative_dist.fields.walk import own_modules
from declarative_dist.plain.restoring import restoring

Change = tuple[nn.Module, Field, Any]
"""Whose field, which one, and what it is ready to commit."""


def assign(module: Any, values: Mapping[str, Any]) -> None:
    """Set fields of a declarative module, and of its parts.

    Raises:
        DeclarationError: for a name that is no field.
        ConstraintError: for a value that its field refuses, or a part that does not go with the
            others; nothing has changed then.
    """
    fields = module.__declaration__.fields
    names = {name.partition(".")[0] for name in values}.intersection(fields)
    # Parts, and constraints with tensors of their own, which may follow their values.
    writes_inside = any(
        fields[n].is_part or f"raw_{n}_constraint" in module._modules for n in names
    )
    with restoring(*(own_modules(module) if writes_inside else (module,)), recurse=False):
        changes = prepare(module, values)
        for owner, field, ready in changes:
            field.commit(owner, ready)
        if any(isinstance(ready, nn.Module) for _, _, ready in changes):
            module._check_parts()
        if not module.__declaration__.tied_names.isdisjoint(values):
            module._check_ties()


def prepare(module: Any, values: Mapping[str, Any]) -> list[Change]:
    """New values, checked and ready to be committed.

    Raises:
        DeclarationError: for a name that is no field.
        ConstraintError: for a value that its field refuses.
    """
    owner, fields = type(module).__name__, module.__declaration__.fields
    values = nest_values(values, owner)
    for name in values:
        if name not in fields:
            raise DeclarationError(
                f"{owner}.{name}",
                "the name of a field",
                repr(name),
                did_you_mean(name, fields),
                code="unknown-name",
            )
    changes: list[Change] = []

    def compute(field: Field, known: dict[str, Any]) -> Any:
        if field.name not in values:
            return field.value(module, known)
        ready = field.prepare(module, values[field.name], known)
        changes.append((module, field, ready))
        return field.read(module, ready, known) if field.name in needed else None

    declaration = module.__declaration__
    involved = {field for name in values for field in declaration.chains[name]}
    order = [field for field in declaration.order if field in involved]
    needed = {name for field in order for name in field.needs}
    with torch.no_grad():
        declaration.run(module, order, compute=compute)
    return changes

"""Setting several fields of a module at once: all of them, or none if one is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from declarative_dist.constraints.adapters import undone_on_error
from declarative_dist.errors import DeclarationError, did_you_mean
from declarative_dist.fields.dotted import nested_values
from declarative_dist.fields.field import Field

Change = tuple[nn.Module, Field, Any]
"""Whose field, which one, and what it is ready to commit."""


def assign(module: Any, changes: list[Change]) -> None:
    """Commit what is prepared for a declarative module, parts first."""
    parts = [f.name for owner, f, new in changes if owner is module and isinstance(new, nn.Module)]
    # New parts first: they may be refused still. The values are ready.
    with undone_if_refused(module, parts):
        for owner, field, ready in changes:
            if owner is module and field.name in parts:
                field.commit(owner, ready)
    for owner, field, ready in changes:
        if owner is not module or field.name not in parts:
            field.commit(owner, ready)


@contextmanager
def undone_if_refused(module: Any, names: list[str]) -> Iterator[None]:
    """Exchange parts; the old ones come back if the new ones do not go with the others."""
    before = {name: module._modules.get(name) for name in names}
    starts = {name: vars(module)["_starts"].get(name) for name in names}
    yield
    if all(module._modules[name] is part for name, part in before.items()):
        return
    try:
        with torch.no_grad():
            declaration = module.__declaration__
            module._check_build(declaration.run(module, declaration.order))
            module._check_whole()
    except Exception:
        module._modules.update(before)
        vars(module)["_starts"].update(starts)
        raise


def prepared(module: Any, values: Mapping[str, Any]) -> list[Change]:
    """New values, checked and ready to be committed.

    Raises:
        DeclarationError: for a name that is no field.
        ConstraintError: for a value that its field refuses.
    """
    owner, fields = type(module).__name__, module.__declaration__.fields
    values = nested_values(values, owner)
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

    def prepare(field: Field, known: dict[str, Any]) -> Any:
        if field.name not in values:
            return field.value(module, known)
        ready = field.prepare(module, values[field.name], known)
        changes.append((module, field, ready))
        return field.read(module, ready, known)

    declaration = module.__declaration__
    with torch.no_grad(), undone_on_error(module):
        declaration.run(module, declaration.order, compute=prepare)
    return changes

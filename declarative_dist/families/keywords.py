"""Telling values from sizes among the keywords of a constructor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from declarative_dist.declaration.record import Declaration
from declarative_dist.errors import (
    ConstraintError,
    DeclarationError,
    did_you_mean,
    is_count,
    shorten,
)
from declarative_dist.fields.blueprint import KEYWORDS, Blueprint
from declarative_dist.fields.storage import check_floating
from declarative_dist.fields.templates import nest_values


def blueprint_of(
    declaration: Declaration,
    keywords: Mapping[str, Any],
    batch_shape: int | Sequence[int],
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    others: tuple[str, ...] = (),
) -> Blueprint:
    """How to build the instance that a constructor's keywords ask for."""
    subject, fields = declaration.owner, declaration.fields
    keywords = nest_values(keywords, subject)
    given: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for name, value in keywords.items():
        if name not in fields:
            sizes[name] = _as_size(declaration, name, value, others)
        elif value is not None:
            given[name] = fields[name].as_source(value, f"{subject}.{name}")
    if dtype is not None:
        check_floating(dtype, f"{subject}(dtype=)")
    place = None if device is None else torch.device(device)
    copies: Any = batch_shape if isinstance(batch_shape, Sequence) else (batch_shape,)
    if not all(map(is_count, copies)):
        where, got = f"{subject}(batch_shape=)", shorten(batch_shape)
        raise ConstraintError(where, "sizes, ints 0 or above", got, code="wrong-argument")
    copies = torch.Size(map(int, copies))
    blueprint = Blueprint(subject, given, sizes, copies, place, dtype)
    if given:
        needed = {name for name, field in fields.items() if field.holds_value or field.is_part}
        blueprint.follow(keywords, is_whole=needed <= given.keys())
    blueprint.read_sizes(declaration.order)
    return blueprint


def _as_size(declaration: Declaration, name: str, size: Any, others: tuple[str, ...]) -> int:
    subject, known = f"{declaration.owner}({name}=)", declaration.size_names
    if name not in known:
        expected = "the name of a field or of a size"
        fix = did_you_mean(name, [*declaration.fields, *known, *others, *KEYWORDS])
        raise DeclarationError(subject, expected, repr(name), fix, code="unknown-name")
    if not is_count(size):
        raise ConstraintError(subject, "an int, 0 or above", shorten(size), code="wrong-argument")
    return int(size)

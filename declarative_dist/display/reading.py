"""The rows of a summary: one for each field and part of a module, read without a trace.

You read a stand-in for the module, without hooks and out of training mode, because methods and
parts that compute values must not count calls, draw dropout or move running means.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.display.rows import (
    Row,
    name_of_class,
    read_parameters,
    read_saturation,
    read_value,
)
from declarative_dist.fields.field import Field
from declarative_dist.fields.kinds import is_declarative
from declarative_dist.fields.param import Param
from declarative_dist.fields.prior import describe_prior
from declarative_dist.fields.walk import join
from declarative_dist.joints.conditioned import Conditioned
from declarative_dist.plain.tensors import copy_module
from declarative_dist.posteriors.guides import NormalGuide
from declarative_dist.randomness import same_random_numbers


def rows_of(module: nn.Module) -> tuple[Row, ...]:
    """All rows of a module; the rows of a part stand behind the part's own."""
    quiet = copy_module(module)
    for part in quiet.modules():
        vars(part).update(training=False, _forward_hooks={}, _forward_pre_hooks={})
    with torch.no_grad(), same_random_numbers():
        return tuple(_Reader().read(quiet, "", has_row=False))


class _Reader:
    """Remembers what it has read, so that what is shared has its rows once."""

    def __init__(self) -> None:
        self._modules: dict[nn.Module, str] = {}
        self._parameters: dict[int, str] = {}

    def read(self, module: Any, path: str, *, has_row: bool = True) -> Iterator[Row]:
        """Read a module, with a row for the module itself where it is a part of another."""
        if module in self._modules:
            yield Row(path, "module", shown=f"the same as {self._modules[module]}")
            return
        self._modules[module] = path or "the whole"
        if has_row and not _has_fields(module):
            text, known = repr(module), read_parameters(module.parameters())
            is_short = "\n" not in text and len(text) <= 50
            shown = text if is_short else type(module).__name__
            yield Row(path, "module", shown=shown, **known)
            return
        if has_row and "__recipe__" in vars(type(module)) and not _has_parameters(module):
            yield Row(path, "constant", shown=describe_prior(module), constraint="constant")
            return
        if has_row:
            yield Row(path, "part", shown=name_of_class(type(module)))
        if isinstance(module, Conditioned):
            yield from self._read_conditioned(module, path)
        elif is_declarative(module):
            yield from self._read_declared(module, path)
        else:
            yield from self._read_others(module, path, {"flat"})

    def _read_conditioned(self, module: Conditioned, path: str) -> Iterator[Row]:
        data = {join(path, name): value for name, value in module.observed.items()}
        for row in self.read(module.joint, path, has_row=False):
            is_data = row.name in data
            yield replace(row, kind="observed", **read_value(data[row.name])) if is_data else row

    def _read_declared(self, module: Any, path: str) -> Iterator[Row]:
        fields, of_prior = module.__declaration__.fields, module.__declaration__.of_prior
        for name, field in fields.items():
            part, here = module._modules.get(name), join(path, name)
            if field.is_learned:
                yield self._read_param(module, field, path)
            elif not field.is_part:
                kind, (known, _) = type(field).__name__.lower(), _evaluate(module, field)
                yield Row(here, kind, constraint=field.rule(module), **known)
            elif part is None:
                yield Row(here, "part", shown="none")
            else:
                is_list = isinstance(part, nn.ModuleList)
                yield from self._read_others(part, here) if is_list else self.read(part, here)
        still = [
            name
            for name, part in module._modules.items()
            if (name in of_prior or isinstance(part, Constraint)) and not _has_parameters(part)
        ]
        yield from self._read_others(module, path, {*fields, *still, "parametrizations"})

    def _read_param(self, module: Any, field: Param, path: str) -> Row:
        name, raw_name = join(path, field.name), join(path, field.raw_name)
        parameters = field.parameters_of(module)
        found = [self._parameters.setdefault(id(each), raw_name) for each in parameters]
        shown, values = _evaluate(module, field)
        prior = module._modules.get(field.prior_name)
        known = {
            **shown,
            **read_parameters(parameters),
            "raw_name": raw_name,
            "constraint": field.rule(module),
            "prior": "" if prior is None else describe_prior(prior),
        }
        if found and raw_name not in found:  # tied, and counted where the first one is
            known.update(parameters=0, trained=0, raw_name=f"{raw_name} (is {found[0]})")
        if values is not None:
            constraint = field.resolved_constraint(module, values)
            raw = getattr(module, field.raw_name).detach()
            known.update(read_saturation(constraint, raw, name, raw_name))
        return Row(name, "param", **known)

    def _read_others(
        self, module: nn.Module, path: str, skipped: Collection[str] = ()
    ) -> Iterator[Row]:
        """Parameters and parts that are no fields."""
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in self._parameters:
                known = {**read_value(parameter), **read_parameters([parameter])}
                yield Row(join(path, name), "parameter", **known)
        for name, child in module._modules.items():
            if child is not None and name not in skipped:
                yield from self.read(child, join(path, name))


def _evaluate(module: Any, field: Field) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What a row has of a field's value, and the values of all that it needs; None without."""
    declaration = module.__declaration__
    if field.needs_context:
        absent: Any = field
        return {"shown": absent.origin, "shape": absent.shape_of(module)}, None
    if field.is_drawn:
        return {"shown": "site"}, None
    chain = declaration.chains[field.name]
    if any(each.needs_context for each in chain):
        return {"shown": "needs a context"}, None
    try:
        values = declaration.run(module, chain)
    except Exception as error:  # noqa: BLE001 - a summary has the other rows all the same
        return {"shown": f"<{type(error).__name__}>"}, None
    return read_value(values[field.name]), values


def _has_fields(module: nn.Module) -> bool:
    kinds = (NormalGuide, Conditioned)
    return any(is_declarative(part) or isinstance(part, kinds) for part in module.modules())


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None

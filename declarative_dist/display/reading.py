"""The rows of a summary: one for each field and part of a module, read without a trace.

You read a stand-in for the module, without hooks and out of training mode, because methods and
parts that compute values must not count calls, draw dropout or move running means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from declarative_dist.display.rows import (
    Row,
    name_of_class,
    read_module,
    read_parameters,
    read_saturation,
    read_value,
)
from declarative_dist.fields.field import Field
from declarative_dist.fields.fixed import FixedTransform
from declarative_dist.fields.head import Head
from declarative_dist.fields.kinds import is_declarative
from declarative_dist.fields.param import Param
from declarative_dist.fields.parts import Nested
from declarative_dist.fields.prior import describe_prior
from declarative_dist.fields.site import Site
from declarative_dist.joints.conditioned import Conditioned
from declarative_dist.plain.tensors import copy_module
from declarative_dist.posteriors.guides import NormalGuide
from declarative_dist.randomness import same_random_numbers

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def rows_of(module: nn.Module) -> list[Row]:
    """All rows of a module; those of a part stand behind the row of the part itself."""
    quiet = copy_module(module)
    for part in quiet.modules():
        vars(part)["training"] = False
        for hooks in _HOOKS:
            if hooks in vars(part):
                vars(part)[hooks] = {}
    with torch.no_grad(), same_random_numbers():
        reader = _Reader()
        return list(reader.read(quiet, ""))


class _Values:
    """The values of a declared module's fields, as far as there is no context to wait for."""

    def __init__(self, module: Any) -> None:
        declaration = module.__declaration__
        self.module = module
        self.all: dict[str, Any] = {}
        self._reasons: dict[str, str] = {}
        wanted = {
            needed
            for name, field in declaration.fields.items()
            if not isinstance(field, (Nested, Site, Head))
            for needed in declaration.chains[name]
        }
        for field in declaration.order:
            if field in wanted and not isinstance(field, Head):
                self._compute(field)

    def _compute(self, field: Field) -> None:
        if any(name not in self.all for name in field.needs):
            self._reasons[field.name] = "needs a context"
            return
        try:
            self.all[field.name] = field.value(self.module, self.all)
        except Exception as error:  # noqa: BLE001 - a summary has the other rows all the same
            self._reasons[field.name] = f"<{type(error).__name__}>"

    def read(self, field: Field) -> dict[str, Any]:
        """What a row has of the value of a field."""
        if field.name in self.all:
            return read_value(self.all[field.name])
        if isinstance(field, Head):
            shape = tuple(vars(self.module)["_starts"][field.name].shape)
            return {"shown": "predicted", "shape": shape}
        return {"shown": "site" if isinstance(field, Site) else self._reasons.get(field.name, "")}


class _Reader:
    """Remembers what has been read already: what is shared has its rows once."""

    def __init__(self) -> None:
        self._modules: dict[nn.Module, str] = {}
        self._parameters: dict[int, str] = {}

    def read(self, module: Any, path: str) -> Iterator[Row]:
        if module in self._modules:
            yield Row(path, "part", shown=f"the same as {self._modules[module]}")
            return
        self._modules[module] = path or "the whole"
        if isinstance(module, NormalGuide):
            yield from self._read_guide(module, path)
        elif isinstance(module, Conditioned):
            yield from self._read_conditioned(module, path)
        elif is_declarative(module):
            yield from self._read_declared(module, path)
        else:
            yield from self._read_others(module, path, set())

    def _read_conditioned(self, module: Conditioned, path: str) -> Iterator[Row]:
        data = {_dotted(path, name): value for name, value in module.observed.items()}
        for row in self.read(module.joint, path):
            if row.name in data:
                row = replace(row, kind="observed", **read_value(data[row.name]))
            yield row

    def _read_declared(self, module: Any, path: str) -> Iterator[Row]:
        declaration = module.__declaration__
        values = _Values(module)
        skipped = {*declaration.fields, *declaration.of_prior, "parametrizations"}
        for name, field in declaration.fields.items():
            if isinstance(field, Nested):
                yield from self._read_nested(module, field, path)
            elif isinstance(field, Param):
                yield self._read_param(module, field, path, values)
            else:
                kind, rule = type(field).__name__.lower(), field.rule(module)
                yield Row(_dotted(path, name), kind, constraint=rule, **values.read(field))
            constraint = module._modules.get(f"raw_{name}_constraint")
            learns = constraint is not None and _has_parameters(constraint)
            skipped.update(
                [f"raw_{name}"] if learns else [f"raw_{name}", f"raw_{name}_constraint"]
            )
        for name in declaration.of_prior:
            prior = module._modules[name]
            if _has_parameters(prior):
                yield from self._read_part(prior, _dotted(path, name))
        yield from self._read_others(module, path, skipped)

    def _read_param(self, module: Any, field: Param, path: str, values: _Values) -> Row:
        name, raw_name = _dotted(path, field.name), _dotted(path, field.raw_name)
        raw = getattr(module, field.raw_name)
        rule = field.rule(module)
        first_name = self._parameters.setdefault(id(raw), raw_name)
        is_tied = first_name != raw_name
        prior = module._modules.get(field.prior_name)
        known = {
            **values.read(field),
            **read_parameters(field.parameters_of(module)),
            "raw_name": f"{raw_name} (is {first_name})" if is_tied else raw_name,
            "constraint": rule,
            "prior": "" if prior is None else describe_prior(prior),
        }
        if is_tied:
            known.update(parameters=0, trained=0)  # counted where the first one is
        try:
            constraint = field.constraint_of(module).resolved(values.all)
            known.update(read_saturation(constraint, raw.detach(), name, raw_name, rule))
        except (KeyError, RuntimeError):  # a bound that can't be computed now
            pass
        return Row(name, "param", **known)

    def _read_nested(self, module: Any, field: Nested, path: str) -> Iterator[Row]:
        part = module._modules.get(field.name)
        name = _dotted(path, field.name)
        if part is None:
            yield Row(name, "part", shown="none")
        elif isinstance(part, nn.ModuleList):
            for index, each in part.named_children():
                yield from self._read_part(each, f"{name}.{index}")
        else:
            yield from self._read_part(part, name)

    def _read_part(self, part: Any, name: str) -> Iterator[Row]:
        kind = "constant" if isinstance(part, FixedTransform) else "module"
        if part in self._modules:
            yield Row(name, kind, shown=f"the same as {self._modules[part]}")
        elif not _has_fields(part):
            self._modules[part] = name
            yield Row(name, kind, **read_module(part))
        elif "__recipe__" in vars(type(part)) and not _has_parameters(part):
            self._modules[part] = name
            yield Row(name, "constant", shown=describe_prior(part), constraint="constant")
        else:
            yield Row(name, "part", shown=_head_of(part))
            yield from self.read(part, name)

    def _read_others(self, module: nn.Module, path: str, skipped: set[str]) -> Iterator[Row]:
        """Parameters and parts that are no fields."""
        for name, parameter in module._parameters.items():
            if parameter is not None and name not in skipped:
                known = {**read_value(parameter), **read_parameters([parameter])}
                yield Row(_dotted(path, name), "parameter", **known)
        for name, child in module._modules.items():
            if child is not None and name not in skipped:
                yield from self._read_part(child, _dotted(path, name))

    def _read_guide(self, guide: NormalGuide, path: str) -> Iterator[Row]:
        """The sites at their median, and the parameters of the Gaussian."""
        try:
            median: Mapping[str, Any] = guide.median
            constraint_of = guide.flat.resolver(guide.batch_shape)
            loc = guide().loc
        except RuntimeError:  # sharded, or on the meta device
            yield from self._read_others(guide, path, {"flat"})
            return
        for slot in guide.flat.slots:
            constraint = constraint_of(slot, dict(median))
            raw = loc[..., slot.offset : slot.offset + slot.count]
            raw = raw.reshape((*guide.batch_shape, *slot.raw_shape))
            name, rule = _dotted(path, slot.name), constraint.describe()
            known = read_saturation(constraint, raw, name, "the guide", rule)
            yield Row(name, "site", **read_value(median[slot.name]), constraint=rule, **known)
        yield from self._read_others(guide, path, {"flat"})


def _head_of(part: Any) -> str:
    """A part with fields by its class, and by what that is made of where it is short."""
    name, base = name_of_class(type(part)), part.extra_repr()
    text = f"{name}({base})" if base and name == type(part).__name__ else name
    return text if len(text) < 60 else name


def _has_fields(module: nn.Module) -> bool:
    kinds = (NormalGuide, Conditioned)
    return any(is_declarative(part) or isinstance(part, kinds) for part in module.modules())


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _dotted(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name

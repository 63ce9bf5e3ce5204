"""Reading the fields of modules, one row each, without a trace.

What is read is a stand-in for the module, without hooks and out of training mode: values that are
computed by methods and parts must not count calls, draw dropout or move running means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import singledispatchmethod
from typing import Any

import torch
from torch import nn

from declarative_dist.display.rows import (
    Row,
    told_module,
    told_parameters,
    told_saturation,
    told_value,
)
from declarative_dist.fields.constant import Constant
from declarative_dist.fields.derived import Derived
from declarative_dist.fields.field import Field
from declarative_dist.fields.fixed import FixedTransform
from declarative_dist.fields.head import Head
from declarative_dist.fields.kinds import is_declarative
from declarative_dist.fields.param import Param
from declarative_dist.fields.parts import Nested
from declarative_dist.fields.prior import told
from declarative_dist.fields.site import Site
from declarative_dist.joints.conditioned import Conditioned
from declarative_dist.plain.tensors import copy_module
from declarative_dist.posteriors.guides import NormalGuide
from declarative_dist.randomness import same_random_numbers

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def rows_of(module: nn.Module) -> list[Row]:
    """All rows of a module, those of its parts behind that of the part."""
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
                self._compute(field, module)

    def _compute(self, field: Field, module: Any) -> None:
        if any(name not in self.all for name in field.needs):
            self._reasons[field.name] = "needs a context"
            return
        try:
            self.all[field.name] = field.value(module, self.all)
        except Exception as error:  # noqa: BLE001 - a summary tells what can be told
            self._reasons[field.name] = f"<{type(error).__name__}>"

    def told(self, field: Field) -> dict[str, Any]:
        """What a row says of the value of a field."""
        if field.name in self.all:
            return told_value(self.all[field.name])
        return {"shown": self._reasons.get(field.name, "")}


class _Reader:
    """Remembers what has been read already: what is shared is told once."""

    def __init__(self) -> None:
        self._modules: dict[nn.Module, str] = {}
        self._parameters: dict[int, str] = {}

    def read(self, module: Any, path: str) -> Iterator[Row]:
        if module in self._modules:
            yield Row(path, "part", shown=f"the same as {self._modules[module]}")
            return
        self._modules[module] = path or "the whole"
        if isinstance(module, NormalGuide):
            yield from self._guide(module, path)
        elif isinstance(module, Conditioned):
            data = {_dotted(path, name): value for name, value in module.observed.items()}
            for row in self.read(module.joint, path):
                if row.name in data:
                    row = replace(row, kind="observed", **told_value(data[row.name]))
                yield row
        elif is_declarative(module):
            yield from self._declared(module, path)
        else:
            yield from self._others(module, path, ())

    def _declared(self, module: Any, path: str) -> Iterator[Row]:
        declaration = module.__declaration__
        values = _Values(module)
        for field in declaration.fields.values():
            yield from self._field(field, module, path, values)
        for name in declaration.of_prior:
            prior = module._modules[name]
            if any(True for _ in prior.parameters()):
                yield from self._part(prior, _dotted(path, name))
        skipped = {*declaration.fields, *declaration.of_prior, "parametrizations"}
        for name in declaration.fields:
            constraint = module._modules.get(f"raw_{name}_constraint")
            learns = constraint is not None and any(True for _ in constraint.parameters())
            skipped.update(
                {f"raw_{name}"} if learns else {f"raw_{name}", f"raw_{name}_constraint"}
            )
        yield from self._others(module, path, skipped)

    @singledispatchmethod
    def _field(self, field: Field, module: Any, path: str, values: _Values) -> Iterator[Row]:
        yield Row(_dotted(path, field.name), type(field).__name__.lower(), **values.told(field))

    @_field.register
    def _param(self, field: Param, module: Any, path: str, values: _Values) -> Iterator[Row]:
        name, raw_name = _dotted(path, field.name), _dotted(path, field.raw_name)
        raw = getattr(module, field.raw_name)
        parameters = field.parameters_of(module)
        prior = module._modules.get(field.prior_name)
        constraint = field.constraint_of(module)
        known = dict(told_parameters(parameters))
        known["constraint"] = constraint.describe()
        tied = self._parameters.setdefault(id(raw), raw_name)
        known["raw_name"] = raw_name if tied == raw_name else f"{raw_name} (is {tied})"
        if tied != raw_name:
            known.update(parameters=0, trained=0)
        if prior is not None:
            known["prior"] = told(prior)
        try:
            constraint = constraint.resolved(values.all)
            words = known["constraint"]
            known.update(told_saturation(constraint, raw.detach(), name, raw_name, words))
        except (KeyError, RuntimeError):  # a bound that can't be computed now
            known.pop("saturated", None)
        yield Row(name, "param", **{**values.told(field), **known})

    @_field.register
    def _constant(self, field: Constant, module: Any, path: str, values: _Values) -> Iterator[Row]:
        name = _dotted(path, field.name)
        yield Row(name, "constant", constraint="constant", **values.told(field))

    @_field.register(Derived)
    def _derived(self, field: Any, module: Any, path: str, values: _Values) -> Iterator[Row]:
        rule = f"derived from {', '.join(field.needs)}" if field.needs else "derived"
        name = _dotted(path, field.name)
        yield Row(name, "derived", constraint=rule, **values.told(field))

    @_field.register
    def _head(self, field: Head, module: Any, path: str, values: _Values) -> Iterator[Row]:
        constraint = field.constraint_of(module)
        shape = tuple(vars(module)["_starts"][field.name].shape)
        name = _dotted(path, field.name)
        yield Row(name, "head", shown="predicted", constraint=constraint.describe(), shape=shape)

    @_field.register
    def _site(self, field: Site, module: Any, path: str, values: _Values) -> Iterator[Row]:
        rule = f"given {', '.join(field.needs)}" if field.needs else "given nothing"
        yield Row(_dotted(path, field.name), "site", shown="site", constraint=rule)

    @_field.register
    def _nested(self, field: Nested, module: Any, path: str, values: _Values) -> Iterator[Row]:
        part = module._modules.get(field.name)
        name = _dotted(path, field.name)
        if part is None:
            yield Row(name, "part", shown="none")
        elif isinstance(part, nn.ModuleList):
            for index, each in part.named_children():
                yield from self._part(each, f"{name}.{index}")
        else:
            yield from self._part(part, name)

    def _part(self, part: Any, name: str) -> Iterator[Row]:
        is_constant = not any(True for _ in part.parameters())
        if part in self._modules or not _has_fields(part):
            known = told_module(part) if part not in self._modules else {}
            known["shown"] = known.get("shown") or f"the same as {self._modules[part]}"
            self._modules.setdefault(part, name)
            kind = "constant" if isinstance(part, FixedTransform) else "module"
            yield Row(name, kind, **known)
        elif is_constant and "__recipe__" in vars(type(part)):
            self._modules[part] = name
            yield Row(name, "constant", shown=told(part), constraint="constant")
        else:
            yield Row(name, "part", shown=_headed(part))
            yield from self.read(part, name)

    def _others(self, module: nn.Module, path: str, skipped: Any) -> Iterator[Row]:
        """Parameters and parts that are no fields."""
        for name, parameter in module._parameters.items():
            if parameter is not None and name not in skipped:
                known = {**told_value(parameter), **told_parameters([parameter])}
                yield Row(_dotted(path, name), "parameter", **known)
        for name, child in module._modules.items():
            if child is not None and name not in skipped:
                yield from self._part(child, _dotted(path, name))

    def _guide(self, guide: NormalGuide, path: str) -> Iterator[Row]:
        """The sites at their median, and the parameters of the Gaussian."""
        try:
            median: Mapping[str, Any] = guide.median
            constraint_of = guide.flat.resolver(guide.batch_shape)
            loc = guide().loc
        except RuntimeError:  # sharded, or on the meta device
            yield from self._others(guide, path, {"flat"})
            return
        for slot in guide.flat.slots:
            constraint = constraint_of(slot, dict(median))
            raw = loc[..., slot.offset : slot.offset + slot.count]
            raw = raw.reshape((*guide.batch_shape, *slot.raw_shape))
            name = _dotted(path, slot.name)
            yield Row(
                name,
                "site",
                **told_value(median[slot.name]),
                constraint=constraint.describe(),
                **told_saturation(constraint, raw, name, "the guide"),
            )
        yield from self._others(guide, path, {"flat"})


def _headed(part: Any) -> str:
    """A part with fields by its class, and by what that is made of where it is short."""
    kind = type(part)
    if "__recipe__" in vars(kind):  # such as LiveNormal
        return f"learnable {kind.__declaration__.base.__name__}"
    base = part.extra_repr()
    whole = f"{kind.__name__}({base})" if base else kind.__name__
    return whole if len(whole) < 60 else kind.__name__


def _has_fields(module: nn.Module) -> bool:
    kinds = (NormalGuide, Conditioned)
    return any(is_declarative(part) or isinstance(part, kinds) for part in module.modules())


def _dotted(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name

"""The declared parameters inside an objective: what they are called, and their values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from declarative_dist.fields.field import Field, current_value
from declarative_dist.fields.kinds import is_declarative
from declarative_dist.fields.param import Param
from declarative_dist.fields.walk import walk
from declarative_dist.posteriors.guides import NormalGuide

LARGEST = 100
"""How many numbers a field may have for its values to be recorded."""


def declared_params(objective: nn.Module) -> Iterator[tuple[str, nn.Module, Param]]:
    """The `Param`s of all declarative modules in an objective, with the path of their module."""
    for path, module in walk(objective):
        for field in module.__declaration__.fields.values():
            if isinstance(field, Param):
                yield path, module, field


def declared_values(objective: nn.Module) -> Iterator[tuple[nn.Parameter, str, Tensor]]:
    """Of all these fields the first parameter, the name and the current constrained value."""
    for _, module, field in declared_params(objective):
        for parameter in field.parameters_of(module)[:1]:
            value: Tensor = current_value(module, field.name)
            yield parameter, field.name, value.detach()


def field_of(
    objective: nn.Module, parameter: nn.Parameter, index: tuple[int, ...] = ()
) -> tuple[str, str]:
    """The field that a parameter stands for, as `Class.field`, and the raw name to show.

    Nested parts are dotted from the outermost declarative class: `Mixture.components.scale`. A
    number of an automatic guide stands for its site. A parameter of another module is named by its
    path in the objective.
    """
    for _, guide in _guides(objective):
        if index and (parameter is guide.raw_loc or parameter is guide.raw_scale):
            raw = "raw_loc" if parameter is guide.raw_loc else "raw_scale"
            site = next(s.name for s in reversed(guide.flat.slots) if s.offset <= index[-1])
            return f"{type(guide).__name__}.{site}", raw
    for path, module, field in declared_params(objective):
        if any(parameter is mine for mine in field.parameters_of(module)):
            root, inside = _outermost(objective, path)
            return ".".join(filter(None, (root, inside, field.name))), field.raw_name
    names = [name for name, other in objective.named_parameters() if other is parameter]
    path, _, last = (names or ["parameter"])[0].rpartition(".")
    root, inside = _outermost(objective, path)
    return ".".join(filter(None, (root, inside, last))), last


def _outermost(objective: nn.Module, path: str) -> tuple[str, str]:
    """The class of the first declarative module along a path, and the rest of the path."""
    module, steps = objective, path.split(".") if path else []
    for done in range(len(steps) + 1):
        module = objective.get_submodule(".".join(steps[:done]))
        if is_declarative(module):
            return type(module).__name__, ".".join(steps[done:])
    return type(objective).__name__, path


def _guides(objective: nn.Module) -> Iterator[tuple[str, NormalGuide]]:
    """The automatic guides in an objective, with their paths."""
    for path, module in objective.named_modules():
        if isinstance(module, NormalGuide):
            yield path, module


class FieldValues:
    """Reads the constrained values of all trainable fields that are not too large.

    Of automatic guides it reads the values at the mean of the Gaussian, by site. Names are those
    of fields, dotted for nested parts; where two modules of an objective share a name, their paths
    stand in front.

    Args:
        objective: any module; the declarative ones and the guides in it are read.

    Example:
        >>> import torch.distributions as dd
        >>> from torch import nn
        >>> from declarative_dist import learnable
        >>> from declarative_dist.fitting.tracked import FieldValues
        >>> FieldValues(nn.ModuleDict({"q": learnable(dd.Normal(0.0, 1.0))})).read()
        {'loc': 0.0, 'scale': 1.0}
    """

    def __init__(self, objective: nn.Module) -> None:
        self._sources: list[tuple[str, nn.Module, tuple[Field, ...], list[str]]] = []
        self._guides = list(_guides(objective))
        found: dict[int, tuple[str, nn.Module, list[str]]] = {}
        for path, module, field in declared_params(objective):
            mine = field.parameters_of(module)
            is_small = sum(parameter.numel() for parameter in mine) <= LARGEST
            if is_small and any(parameter.requires_grad for parameter in mine):
                found.setdefault(id(module), (path, module, []))[2].append(field.name)
        for path, module, names in found.values():
            declaration: Any = type(module).__declaration__  # type: ignore[attr-defined]
            needed = {field.name for name in names for field in declaration.chains[name]}
            order = tuple(field for field in declaration.order if field.name in needed)
            self._sources.append((path, module, order, names))
        self._names = self._shortest(objective)

    def _shortest(self, objective: nn.Module) -> dict[tuple[str, str], str]:
        """By path and field the shortest name that no other field has."""
        short = {
            (path, name): _dotted(_outermost(objective, path)[1], name)
            for path, _, _, names in self._sources
            for name in names
        }
        short.update(
            {(path, slot.name): slot.name for path, g in self._guides for slot in g.flat.slots}
        )
        counts = Counter(short.values())
        return {key: name if counts[name] == 1 else _dotted(*key) for key, name in short.items()}

    def read(self) -> dict[str, Any]:
        """The values by name, as numbers and nested lists."""
        with torch.no_grad():
            return self._read()

    def _read(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for path, module, order, names in self._sources:
            declaration: Any = module.__declaration__
            known = declaration.run(module, order)
            for name in names:
                value: Tensor = known[name]
                values[self._names[path, name]] = value.tolist()
        for path, guide in self._guides:
            for name, median in guide.median.items():
                if median.numel() <= LARGEST:
                    values[self._names[path, name]] = median.tolist()
        return values


def _dotted(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name

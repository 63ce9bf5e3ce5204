"""The declared parameters inside an objective: what they are called, and their values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.fields.field import current_value, needed_values
from declarative_dist.fields.kinds import is_declarative
from declarative_dist.fields.param import Param
from declarative_dist.fields.walk import walk
from declarative_dist.posteriors.guides import NormalGuide

_FAR = 1e4
"""How far a raw number is from the end of any band."""

LARGEST = 100
"""How many numbers a field may have for its values to be recorded."""


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
            return _from_class(objective, path, field.name), field.raw_name
    names = [name for name, other in objective.named_parameters() if other is parameter]
    path, _, last = (names or ["parameter"])[0].rpartition(".")
    return _from_class(objective, path, last), last


def short_name(objective: nn.Module, parameter: nn.Parameter) -> str:
    """The field of a parameter, without the class in front."""
    name, _ = field_of(objective, parameter)
    return name.partition(".")[2] or name


def held_fields(objective: nn.Module) -> Iterator[str]:
    """The trainable fields with a value at the end of its band."""
    with torch.no_grad():
        for _, module, field in declared_params(objective):
            trainable = [p for p in field.parameters_of(module) if p.requires_grad and p.numel()]
            if trainable:
                known = needed_values(module, field.name)
                constraint = field.resolved_constraint(module, known)
                if _is_held(constraint, getattr(module, field.raw_name)).any():
                    yield short_name(objective, trainable[0])


def _is_held(constraint: Constraint, raw: Tensor) -> Tensor:
    """Whether values are at an end of their band, or so near that going there changes nothing."""
    held = constraint.is_at_end(raw)
    value = constraint.forward(raw)
    for far in (-_FAR, _FAR):
        end = constraint.forward(raw + far)
        if constraint.event_dim or constraint.raw_event_dim:
            break
        is_near = (end - value).abs() <= 1e-6 * value.abs()
        held = held | (constraint.is_at_end(raw + far) & is_near)
    return held


def singular_fields(objective: nn.Module) -> Iterator[str]:
    """The trainable fields whose value is a covariance, or a factor of one, without an inverse.

    A scale of its own for each dimension does not count.
    """
    with torch.no_grad():
        for _, module, field in declared_params(objective):
            value = current_value(module, field.name).detach()
            trainable = [p for p in field.parameters_of(module) if p.requires_grad and p.numel()]
            if not trainable or value.ndim < 2 or value.shape[-1] != value.shape[-2]:
                continue
            wide = value.double()
            wide = wide @ wide.mT if torch.equal(wide, wide.tril()) else wide
            size = wide.diagonal(dim1=-2, dim2=-1)
            if torch.equal(wide, wide.mT) and (size > 0).all():
                unit = size.rsqrt()
                lowest = torch.linalg.eigvalsh(wide * unit[..., None] * unit[..., None, :])
                if (lowest[..., 0] < 200 * torch.finfo(value.dtype).eps).any():
                    yield short_name(objective, trainable[0])


def declared_values(objective: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """Of all declared parameters `Class.field`, the field, and the current constrained value."""
    for path, module, field in declared_params(objective):
        value: Tensor = current_value(module, field.name)
        yield _from_class(objective, path, field.name), field.name, value.detach()


def declared_params(objective: nn.Module) -> Iterator[tuple[str, Any, Param]]:
    """The `Param`s of all declarative modules in an objective, with the path of their module."""
    for path, module in walk(objective):
        for field in module.__declaration__.fields.values():
            if field.is_learned:
                yield path, module, field


def _guides(objective: nn.Module) -> Iterator[tuple[str, NormalGuide]]:
    for path, module in objective.named_modules():
        if isinstance(module, NormalGuide):
            yield path, module


def _outermost(objective: nn.Module, path: str) -> tuple[str, str]:
    """The class of the first declarative module along a path, and the rest of the path."""
    steps = path.split(".") if path else []
    for count in range(len(steps) + 1):
        module = objective.get_submodule(".".join(steps[:count]))
        if is_declarative(module):
            return type(module).__name__, ".".join(steps[count:])
    return type(objective).__name__, path


def _from_class(objective: nn.Module, path: str, name: str) -> str:
    return _join(*_outermost(objective, path), name)


def _join(*names: str) -> str:
    return ".".join(filter(None, names))


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
        >>> from declarative_dist.fitting.parameters import FieldValues
        >>> FieldValues(nn.ModuleDict({"q": learnable(dd.Normal(0.0, 1.0))})).read()
        {'loc': 0.0, 'scale': 1.0}
    """

    def __init__(self, objective: nn.Module) -> None:
        self._guides = list(_guides(objective))
        self._fields: dict[str, tuple[Any, list[str]]] = {}
        for path, module, field in declared_params(objective):
            mine = field.parameters_of(module)
            is_small = sum(parameter.numel() for parameter in mine) <= LARGEST
            if is_small and any(parameter.requires_grad for parameter in mine):
                self._fields.setdefault(path, (module, []))[1].append(field.name)
        short = {
            (path, name): _join(_outermost(objective, path)[1], name)
            for path, (_, names) in self._fields.items()
            for name in names
        }
        short.update({(path, s.name): s.name for path, g in self._guides for s in g.flat.slots})
        counts = Counter(short.values())
        self._names = {
            key: name if counts[name] == 1 else _join(*key) for key, name in short.items()
        }
        self._orders = {path: _order_of(*field) for path, field in self._fields.items()}

    def read(self) -> dict[str, Any]:
        """The values by name, as numbers and nested lists."""
        values: dict[str, Any] = {}
        with torch.no_grad():
            for path, (module, names) in self._fields.items():
                known = module.__declaration__.run(module, self._orders[path])
                for name in names:
                    values[self._names[path, name]] = known[name].tolist()
            for path, guide in self._guides:
                for name, median in guide.median.items():
                    if median.numel() <= LARGEST:
                        values[self._names[path, name]] = median.tolist()
        return values


def _order_of(module: Any, names: list[str]) -> tuple[Any, ...]:
    """The fields that some fields need, themselves included, in the order of computation."""
    declaration = module.__declaration__
    needed = {field.name for name in names for field in declaration.chains[name]}
    return tuple(field for field in declaration.order if field.name in needed)

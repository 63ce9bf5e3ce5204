"""The declared parameters inside an objective: what they are called, and their values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from declarative_dist.fields.field import current_value, needed_values
from declarative_dist.fields.kinds import is_declarative
from declarative_dist.fields.walk import walk_params
from declarative_dist.posteriors.guides import NormalGuide

MOST_TO_WATCH = 100
"""How many numbers a field may have for its values to be recorded."""

STEP = 1 / 32
"""The share of the way back from the end of a band that is looked at."""


def trainable_of(objective: nn.Module) -> list[nn.Parameter]:
    """The parameters that a fit changes."""
    return [parameter for parameter in objective.parameters() if parameter.requires_grad]


def field_of(
    objective: nn.Module, parameter: Tensor, index: tuple[int, ...] = ()
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
    for path, module, field in walk_params(objective):
        if any(parameter is mine for mine in field.parameters_of(module)):
            return _subject_of(objective, path, field.name), field.raw_name
    names = (name for name, other in objective.named_parameters() if other is parameter)
    path, _, last = next(names, "parameter").rpartition(".")
    return _subject_of(objective, path, last), last


def short_name(objective: nn.Module, parameter: Tensor) -> str:
    """The field of a parameter, without the class in front."""
    return field_of(objective, parameter)[0].partition(".")[2]


def declared_values(objective: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """Of all declared parameters `Class.field`, the field, and the current constrained value."""
    for path, module, field in walk_params(objective):
        value: Tensor = current_value(module, field.name)
        yield _subject_of(objective, path, field.name), field.name, value.detach()


def _guides(objective: nn.Module) -> Iterator[tuple[str, NormalGuide]]:
    for path, module in objective.named_modules():
        if isinstance(module, NormalGuide):
            yield path, module


def _subject_of(objective: nn.Module, path: str, name: str) -> str:
    """The dotted name of a field, from the outermost declarative class on the path to it."""
    steps = path.split(".") if path else []
    for count in range(len(steps) + 1):
        module = objective.get_submodule(".".join(steps[:count]))
        if is_declarative(module):
            return ".".join([type(module).__name__, *steps[count:], name])
    return ".".join([type(objective).__name__, *steps, name])


class Saturated(NamedTuple):
    """A trainable field with a value at the end of its band, or as near as makes no odds.

    Attributes:
        name: its own, dotted.
        raw: its unconstrained numbers.
        back: where they were if those at the end went a little of the way back.
    """

    name: str
    raw: Tensor
    back: Tensor


def saturated_fields(objective: nn.Module) -> Iterator[Saturated]:
    """The trainable fields with a value at the end of its band."""
    for path, module, field in walk_params(objective):
        if not field.is_trained(module):
            continue
        constraint = field.resolved_constraint(module, needed_values(module, field.name))
        raw = getattr(module, field.raw_name)
        with torch.no_grad():
            ends = constraint.is_at_end(raw)
            if ends.any():
                nearest = constraint.inverse(constraint.forward(raw)).to(raw)
                name = _subject_of(objective, path, field.name).partition(".")[2]
                yield Saturated(name, raw, torch.where(ends, (1 - STEP) * nearest, raw))


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
        short = {(path, s.name): s.name for path, guide in self._guides for s in guide.flat.slots}
        members: dict[tuple[str, Any], list[str]] = {}
        for path, module, field in walk_params(objective):
            count = sum(parameter.numel() for parameter in field.parameters_of(module))
            if field.is_trained(module) and 0 < count <= MOST_TO_WATCH:
                subject = _subject_of(objective, path, field.name)
                short[path, field.name] = subject.partition(".")[2]
                members.setdefault((path, module), []).append(field.name)
        counts = Counter(short.values())
        self._names = {
            key: name if counts[name] == 1 else ".".join(filter(None, key))
            for key, name in short.items()
        }
        self._parts = [
            (module, module.__declaration__.chain_of(own), {n: self._names[path, n] for n in own})
            for (path, module), own in members.items()
        ]

    def read(self) -> dict[str, Any]:
        """The values by name, as numbers and nested lists."""
        values: dict[str, Any] = {}
        with torch.no_grad():
            for module, chain, names in self._parts:
                found = module.__declaration__.run(module, chain)
                for own, name in names.items():
                    values[name] = found[own].tolist()
            for path, guide in self._guides:
                for site, median in guide.median.items():
                    if median.numel() <= MOST_TO_WATCH:
                        values[self._names[path, site]] = median.tolist()
        return values

"""The log density of a module's parameters under the priors that were declared for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.errors import FieldError
from declarative_dist.fields.field import Field
from declarative_dist.fields.prior import describe_prior
from declarative_dist.fields.walk import join, walk
from declarative_dist.latents.flat_params import sites_of
from declarative_dist.latents.named import Reader
from declarative_dist.plain.tensors import is_same, typical_tensor

Raws = Mapping[str, Tensor]
"""Raw numbers in place of a module's own, by the names of its parameters."""


def log_prior_of(
    module: nn.Module,
    copies: torch.Size,
    unconstrained: bool,
    raws: Raws = MappingProxyType({}),
    sample: torch.Size = torch.Size(),
) -> Tensor:
    """The sum of the log densities of all parameters with a prior, in a module and its parts.

    Args:
        module: a declarative module, or any around some.
        copies: the independent copies that stay apart.
        unconstrained: whether it is the density of the unconstrained numbers.
        raws: other raw numbers `(*sample, *copies, *own)`, as `raws_at` gives them.
        sample: the shape in front of these.

    Returns:
        A tensor of shape `(*sample, *copies)`.

    Raises:
        FieldError: for fields that share their number, but not their prior.
    """
    total: Tensor | None = None
    seen: dict[Any, tuple[str, Any]] = {}
    for path, part in walk(module):
        lead = len(copies) if vars(part)["_copies"][: len(copies)] == copies else 0
        for param in part.__declaration__.of_prior.values():
            raw = part._parameters.get(param.raw_name)
            prior, name = part._modules[param.prior_name], join(path, param.name)
            first, known = seen.setdefault(name if raw is None else id(raw), (name, prior))
            if first != name:  # what two fields share, as tied parameters do, counts once
                if not is_same(known(), prior()):
                    expected = f"the prior of {first}, whose number it shares"
                    got, fix = describe_prior(prior), "Give both one prior, or only one of them."
                    raise FieldError(f"{type(module).__name__}.{name}", expected, got, fix)
                continue
            values = _values_of(part, path, part.__declaration__.chains[param.name], raws)
            density: Tensor = param.log_prior(part, values, len(sample) + lead, unconstrained)
            if copies and not lead and sample and density.ndim:  # the same for all copies
                density = density.reshape(density.shape + (1,) * len(copies))
            total = density if total is None else total + density
    if total is None:
        like = typical_tensor(module)
        total = torch.zeros((), dtype=like.dtype, device=like.device)
    return total if total.shape == sample + copies else total.expand(sample + copies)


def _values_of(part: Any, path: str, fields: Iterable[Field], raws: Raws) -> dict[str, Any]:
    """The values of fields of a part, each behind those that it needs, at other raw numbers."""
    names = [f"raw_{field.name}" for field in fields] if raws else []
    known = {name: raws[join(path, name)] for name in names if join(path, name) in raws}
    return part.__declaration__.run(part, fields, known)


def raws_at(module: nn.Module, values: Mapping[str, Any]) -> tuple[dict[str, Tensor], torch.Size]:
    """The raw numbers of other values of the trainable parameters, and the shape in front of them.

    Args:
        module: a declarative module.
        values: of shape `(*sample, *copies, *event)` by dotted name.

    Returns:
        Tensors by the names of parameters, tied ones under each of theirs, and the sample shape.

    Raises:
        ConstraintError: for names or shapes that do not fit, or values outside their constraint.
    """
    owner = type(module).__name__
    sites, copies = sites_of(module)
    reader = Reader(owner, values, sites, copies)
    is_checked = Distribution._validate_args is True
    raws: dict[str, Tensor] = {}
    for name, places in sites.items():
        path, part, field, raw = places[0]
        needed = _values_of(part, path, part.__declaration__.chains[field.name][:-1], raws)
        constraint: Constraint = field.resolved_constraint(part, needed)
        event = constraint.value_shape(raw.shape[len(copies) :])
        value = reader.read(name, event, raw.detach)
        if is_checked:
            constraint.check(value, f"{owner}.{name}")
        inverse = constraint.inverse(value)
        raws |= {join(path, field.raw_name): inverse for path, _, field, _ in places}
    return raws, reader.lead[: len(reader.lead) - len(copies)]

"""The log density of a module's parameters under the priors that were declared for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.fields.field import Field
from declarative_dist.fields.param import Param
from declarative_dist.fields.walk import walk
from declarative_dist.latents.flat_params import join, trainable
from declarative_dist.latents.named import as_value, check_names, check_shape, is_floating, lead_of


def log_prior_of(
    module: nn.Module,
    copies: torch.Size,
    unconstrained: bool,
    known: Mapping[str, Tensor] = MappingProxyType({}),
    sample: torch.Size = torch.Size(),
) -> Tensor:
    """The sum of the log densities of all parameters with a prior, in a module and its parts.

    Args:
        module: a declarative module, or any around some.
        copies: the independent copies that stay apart.
        unconstrained: whether it is the density of the unconstrained numbers.
        known: other values `(*sample, *copies, *own)` of parameters, by dotted name.
        sample: the shape in front of these.

    Returns:
        A tensor of shape `(*sample, *copies)`.
    """
    total: Tensor | None = None
    for path, part, params in _find_priors(module):
        lead = len(copies) if vars(part)["_copies"][: len(copies)] == copies else 0
        for param in params:
            chain = part.__declaration__.chains[param.name]
            values = _values_of(part, chain, path, known, unconstrained)
            density: Tensor = param.log_prior(part, values, len(sample) + lead, unconstrained)
            if copies and not lead and sample and density.ndim:  # the same for all copies
                density = density.reshape(density.shape + (1,) * len(copies))
            total = density if total is None else total + density
    if total is None:
        return _zeros_like(module, sample + copies)
    return total if total.shape == sample + copies else total.expand(sample + copies)


def _values_of(
    part: Any,
    fields: Iterable[Field],
    path: str,
    known: Mapping[str, Tensor],
    unconstrained: bool = False,
) -> dict[str, Any]:
    """The values of fields of a part, where those of some parameters are others.

    Args:
        part: the part.
        fields: which, each behind those that it needs.
        path: the dotted name of the part.
        known: the other values, by dotted name.
        unconstrained: whether the raw numbers of these are wanted too.
    """

    def compute(field: Field, values: dict[str, Any]) -> Any:
        value = known.get(f"{path}.{field.name}" if path else field.name)
        if value is None:
            return field.value(part, values)
        if unconstrained and isinstance(field, Param):
            constraint = field.resolved_constraint(part, values)
            values[field.raw_name] = constraint.inverse(value)
        return value

    values: dict[str, Any] = part.__declaration__.run(
        part, fields, compute=compute if known else None
    )
    return values


def _find_priors(module: nn.Module) -> Iterator[tuple[str, Any, list[Param]]]:
    """The parameters with a prior; what two fields share, as tied parameters do, counts once."""
    seen: set[int] = set()
    for path, part in walk(module):
        params = []
        for param in part.__declaration__.of_prior.values():
            raw = part._parameters.get(param.raw_name)
            if raw is None or id(raw) not in seen:
                params.append(param)
                seen.add(id(raw))
        if params:
            yield path, part, params


def log_prior_at(
    module: nn.Module, values: Mapping[str, Any], copies: torch.Size, unconstrained: bool
) -> Tensor:
    """`log_prior_of` at other values of the trainable parameters, such as draws of a guide.

    Args:
        module: a declarative module.
        values: of shape `(*sample, *copies, *event)` by dotted name.
        copies: the independent copies that stay apart.
        unconstrained: whether it is the density of the unconstrained numbers.

    Returns:
        A tensor of shape `(*sample, *copies)`.

    Raises:
        ConstraintError: for names or shapes that do not fit, or values outside their constraint.
    """
    known, _, sample = _read_values(module, values, copies)
    return log_prior_of(module, copies, unconstrained, known, sample)


def raws_at(module: nn.Module, values: Mapping[str, Any]) -> tuple[dict[str, Tensor], torch.Size]:
    """The raw numbers of other values of the trainable parameters, and the shape in front of them.

    Args:
        module: a declarative module.
        values: of shape `(*sample, *copies, *event)` by dotted name.

    Returns:
        Tensors by the names of parameters, of those that are tied the first, and the sample shape.

    Raises:
        ConstraintError: for names or shapes that do not fit, or values outside their constraint.
    """
    known, constraints, sample = _read_values(module, values, vars(module)["_copies"])
    raws = {}
    for name in values:
        path, _, own = name.rpartition(".")
        raws[join(path, f"raw_{own}")] = constraints[name].inverse(known[name])
    return raws, sample


def _read_values(
    module: nn.Module, values: Mapping[str, Any], copies: torch.Size
) -> tuple[dict[str, Tensor], dict[str, Constraint], torch.Size]:
    """Values by name as tensors, also of what is tied; their constraints; the shape in front."""
    owner = type(module).__name__
    found = [(join(p, f.name), p, part, f, raw) for p, part, f, raw in trainable(module)]
    first: dict[int, str] = {}
    for name, *_, raw in found:
        first.setdefault(id(raw), name)
    check_names(owner, values, first.values())
    # All copies are one problem where a part that was given has none.
    has_copies = all(raw.shape[: len(copies)] == copies for *_, raw in found)
    front = copies if has_copies else torch.Size()
    is_checked, lead = Distribution._validate_args is True, front
    known: dict[str, Tensor] = {}
    constraints: dict[str, Constraint] = {}
    for index, (name, path, part, field, raw) in enumerate(found):
        chain = part.__declaration__.chains[field.name][:-1]
        needed = _values_of(part, chain, path, known) if chain else {}
        constraint = constraints[name] = field.resolved_constraint(part, needed)
        owned = first[id(raw)]
        if owned != name:  # tied to another, perhaps under another constraint
            known[name] = constraint.forward(constraints[owned].inverse(known[owned]))
            continue
        subject, value = f"{owner}.{name}", values[name]
        if not is_floating(value):
            value = as_value(value, raw.dtype, raw.device, subject)
        event = constraint.value_shape(raw.shape[len(front) :])
        if not index:
            lead = lead_of(value, front, event, subject)
        check_shape(value, lead, event, subject)
        if is_checked:
            constraint.check(value, subject)
        known[name] = value
    return known, constraints, lead[: len(lead) - len(front)]


def _zeros_like(module: nn.Module, shape: torch.Size) -> Tensor:
    tensors = [*module.parameters(), *module.buffers()]
    like = next((t for t in tensors if t.is_floating_point()), torch.empty(()))
    return torch.zeros(shape, dtype=like.dtype, device=like.device)

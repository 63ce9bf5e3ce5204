"""The log density of a module's parameters under the priors that were declared for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from declarative_dist.fields.param import Param
from declarative_dist.fields.walk import walk
from declarative_dist.latents.flat_params import FlatParams


def log_prior_of(
    module: nn.Module,
    copies: torch.Size,
    unconstrained: bool,
    raws: Mapping[str, Tensor] = MappingProxyType({}),
    sample: torch.Size = torch.Size(),
) -> Tensor:
    """The sum of the log densities of all parameters with a prior, in a module and its parts.

    Args:
        module: a declarative module, or any around some.
        copies: the independent copies that stay apart.
        unconstrained: whether it is the density of the unconstrained numbers.
        raws: other unconstrained numbers `(*sample, *copies, *own)`, by names of parameters.
        sample: the shape in front of these.

    Returns:
        A tensor of shape `(*sample, *copies)`.
    """
    total: Tensor | None = None
    for path, part, params in _find_priors(module):
        lead = len(copies) if vars(part)["_copies"][: len(copies)] == copies else 0
        names = {name: name.rpartition(".") for name in raws}
        known = {own: raws[name] for name, (at, _, own) in names.items() if at == path}
        values = part.__declaration__.run(part, part.__declaration__.prior_order, known)
        for param in params:
            density: Tensor = param.log_prior(part, values, len(sample) + lead, unconstrained)
            if not lead and sample and density.ndim:  # the same for all copies
                density = density.reshape(density.shape + (1,) * len(copies))
            total = density if total is None else total + density
    if total is None:
        return _zeros_like(module, sample + copies)
    return total if total.shape == sample + copies else total.expand(sample + copies)


def _find_priors(module: nn.Module) -> Iterator[tuple[str, Any, list[Param]]]:
    """The parameters with a prior; what two fields share, as tied parameters do, counts once."""
    seen: set[int] = set()
    for path, part in walk(module):
        params = []
        for param in part.__declaration__.priors:
            raw = part._parameters.get(param.raw_name)
            if raw is None or id(raw) not in seen:
                params.append(param)
                seen.add(id(raw))
        if params:
            yield path, part, params


def log_prior_at(
    module: nn.Module, values: Mapping[str, Tensor], copies: torch.Size, unconstrained: bool
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
    flat = FlatParams(module)
    vector, _ = flat.unconstrain(values)
    sample = vector.shape[: vector.ndim - 1 - len(flat.batch_shape)]
    return log_prior_of(module, copies, unconstrained, flat.raws(vector), sample)


def _zeros_like(module: nn.Module, shape: torch.Size) -> Tensor:
    tensors = [*module.parameters(), *module.buffers()]
    like = next((t for t in tensors if t.is_floating_point()), torch.empty(()))
    return torch.zeros(shape, dtype=like.dtype, device=like.device)

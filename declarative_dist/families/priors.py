"""The log density of a module's parameters under the priors that were declared for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from declarative_dist.fields.param import Param
from declarative_dist.fields.walk import walk
from declarative_dist.latents.flat_params import FlatParams

Weighed = list[tuple[Any, list[Param]]]
"""Declared modules with those of their parameters that have a prior."""


def log_prior_of(
    module: nn.Module, copies: torch.Size, unconstrained: bool, weighed: Weighed | None = None
) -> Tensor:
    """The sum of the log densities of all parameters with a prior, in a module and its parts.

    Args:
        module: a declarative module, or any around some.
        copies: the independent copies that stay apart.
        unconstrained: whether it is the density of the unconstrained numbers.
        weighed: the parameters that count; None for all, each once.

    Returns:
        A tensor of shape `copies`.
    """
    total: Tensor | None = None
    for part, params in _weighed_in(module) if weighed is None else weighed:
        own: torch.Size = vars(part)["_copies"]
        lead = len(copies) if own[: len(copies)] == copies else 0
        values = part.__declaration__.run(part, part.__declaration__.prior_order)
        for param in params:
            density: Tensor = param.log_prior(part, values, lead, unconstrained)
            total = density if total is None else total + density
    if total is None:
        return _zeros_like(module, copies)
    return total if total.shape == copies else total.expand(copies)


def _weighed_in(module: nn.Module) -> Weighed:
    """The parameters with a prior; what two fields share, as tied parameters do, counts once."""
    seen: set[int] = set()
    found: Weighed = []
    for _, part in walk(module):
        params = []
        for param in part.__declaration__.priors:
            raw = part._parameters.get(param.raw_name)
            if raw is None or id(raw) not in seen:
                params.append(param)
                seen.add(id(raw))
        if params:
            found.append((part, params))
    return found


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
    raws = flat.raws(vector)
    held = _LogPrior(module, copies, unconstrained)

    def one(raws: dict[str, Tensor]) -> Tensor:
        named = {f"module.{name}": raw for name, raw in raws.items()}
        density: Tensor = functional_call(held, named, (), tie_weights=False)
        return density

    sample = vector.shape[: vector.ndim - 1 - len(flat.batch_shape)]
    if not sample:
        return one(raws)
    many = {name: raw.reshape((-1, *raw.shape[len(sample) :])) for name, raw in raws.items()}
    if not sample.numel():
        return vector.new_zeros((*sample, *copies))
    mapped: Tensor = vmap(one)(many)
    return mapped.reshape((*sample, *copies))


class _LogPrior(nn.Module):
    """The log prior of a module as a module, for a call with other parameters."""

    def __init__(self, module: nn.Module, copies: torch.Size, unconstrained: bool) -> None:
        super().__init__()
        self.module, self.copies, self.unconstrained = module, copies, unconstrained
        self._weighed = _weighed_in(module)  # before other tensors hide what is tied

    def forward(self) -> Tensor:
        return log_prior_of(self.module, self.copies, self.unconstrained, self._weighed)


def _zeros_like(module: nn.Module, shape: torch.Size) -> Tensor:
    tensors = [*module.parameters(), *module.buffers()]
    like = next((t for t in tensors if t.is_floating_point()), torch.empty(()))
    return torch.zeros(shape, dtype=like.dtype, device=like.device)

"""The log density of a module's parameters under the priors that were declared for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from declarative_dist.fields.field import evaluate
from declarative_dist.fields.part import is_declarative


def log_prior_of(module: nn.Module, copies: torch.Size, unconstrained: bool) -> Tensor:
    """The sum of the log densities of all parameters with a prior, in a module and its parts.

    Args:
        module: a declarative module, or any around some.
        copies: the independent copies that stay apart.
        unconstrained: whether it is the density of the unconstrained numbers.

    Returns:
        A tensor of shape `copies`.
    """
    total: Tensor | None = None
    for part in _weighed_parts(module):
        own: torch.Size = vars(part)["_copies"]
        lead = len(copies) if own[: len(copies)] == copies else 0
        values = evaluate(part, part.__declaration__.weighed)
        for param in part.__declaration__.priors:
            density: Tensor = param.log_prior(part, values, lead, unconstrained)
            total = density if total is None else total + density
    if total is None:
        return _zeros_like(module, copies)
    return total if total.shape == copies else total.expand(copies)


def _weighed_parts(module: nn.Module) -> Iterator[Any]:
    """The module itself and those in it, each once, where a parameter has a prior."""
    for part in module.modules():
        if is_declarative(part) and part.__declaration__.priors:  # type: ignore[union-attr]
            yield part


def _zeros_like(module: nn.Module, shape: torch.Size) -> Tensor:
    tensors = [*module.parameters(), *module.buffers()]
    like = next((t for t in tensors if t.is_floating_point()), torch.empty(()))
    return torch.zeros(shape, dtype=like.dtype, device=like.device)

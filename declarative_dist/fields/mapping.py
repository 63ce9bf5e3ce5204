"""Methods that are written for one draw, copy or context, and mapped over all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.fields.kinds import built_kind
from declarative_dist.plain.decompose import rebuild


def map_method(method: Callable[..., Any], ndims: Mapping[str, int], /, **arguments: Any) -> Any:
    """What a method that is written for one gives for everything that stands in front.

    A distribution cannot leave `torch.vmap`, but the tensors that it is made of can: it is taken
    apart inside and put together outside, so that it draws and scores as any other.

    Args:
        method: takes values of one draw, copy or context by name.
        ndims: by name how many dimensions of a value are its own; None stands in front of others.
        **arguments: tensors of shape `(*lead, *own)`, and whatever else the method takes.

    Returns:
        A tensor of shape `(*lead, *own)`, or a distribution whose batch shape begins with the
        lead.
    """
    leads = {
        name: value.shape[: value.ndim - ndims[name]]
        for name, value in arguments.items()
        if isinstance(value, Tensor) and value.ndim > ndims.get(name, value.ndim)
    }
    lead = torch.broadcast_shapes(*leads.values())
    if not lead:
        return method(**arguments)
    mapped, count = {}, lead.numel()  # in place of none, one stands in
    for name, own_lead in leads.items():
        value = arguments.pop(name)
        own = value.shape[len(own_lead) :]
        flat = value.expand(*lead, *own).reshape(-1, *own) if count else value.new_ones(1, *own)
        mapped[name] = flat
    templates: list[Distribution] = []

    def call_once(mapped: dict[str, Tensor]) -> Any:
        result = method(**arguments, **mapped)
        if isinstance(result, nn.Module) and built_kind(result) is not None:
            result = result()
        if not isinstance(result, Distribution):
            return result
        tensors, rank = [], len(result.batch_shape)

        def stand_in(tensor: Tensor, behind: int) -> Tensor:
            tensors.append(tensor[(None,) * (rank + behind - tensor.ndim)])
            ones = torch.ones(tensor.shape, dtype=tensor.dtype, device=tensor.device)
            is_square = behind > 1 and tensor.ndim > 1 and tensor.shape[-1] == tensor.shape[-2]
            return ones.tril().triu() if is_square else ones  # an identity has a factor

        templates.append(rebuild(result, stand_in))
        return tensors

    found = torch.vmap(call_once, randomness="different")(mapped)
    if not templates:
        return found[:count].reshape(*lead, *found.shape[1:])
    new = iter([t[:count].reshape(*lead, *t.shape[1:]) for t in found])
    return rebuild(templates[-1], lambda *_: next(new))

"""How plain objects become parts of a module: transforms and distributions that are not learned.

`as_module` is open for more kinds of objects; what is registered for a type is its module.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any, ClassVar

import torch
from torch import nn
from torch.distributions import Transform

from declarative_dist.constraints.inner_tensors import tensors_of, with_tensors


@singledispatch
def as_module(value: Any) -> nn.Module | None:
    """The module that stands for an object in another module; None where there is none.

    A module is itself. A plain transform or distribution becomes one whose tensors are buffers:
    they move, save and load, and are not trained.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist.fields.fixed import as_module
        >>> as_module(dd.TanhTransform())
        FixedTransform(TanhTransform())
        >>> as_module(3) is None
        True
    """
    return None


@as_module.register(nn.Module)
def _itself(value: nn.Module) -> nn.Module:
    return value


class FixedTransform(nn.Module):
    """A plain transform as a module: calling it gives the transform, with the current tensors.

    Args:
        transform: any `torch.distributions.Transform`; its tensors become buffers.

    Example:
        >>> import torch
        >>> from torch.distributions import AffineTransform
        >>> from declarative_dist.fields.fixed import FixedTransform
        >>> fixed = FixedTransform(AffineTransform(torch.tensor(1.0), 2.0)).double()
        >>> fixed()(torch.tensor(3.0, dtype=torch.float64))
        tensor(7., dtype=torch.float64)
    """

    __builds__: ClassVar[type] = Transform

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self._shown = repr(transform)
        placeholders = {}
        for name, tensor in tensors_of(transform):
            self.register_buffer(name, tensor.detach().clone())
            placeholders[name] = torch.empty(0)
        self._template = with_tensors(transform, placeholders)

    def forward(self) -> Transform:
        """The transform; a copy whose cache is empty."""
        transform: Transform = with_tensors(self._template, self._buffers)
        return transform

    def extra_repr(self) -> str:
        """The transform, as it was given."""
        return self._shown


as_module.register(Transform)(FixedTransform)

"""Stand-ins for modules whose tensors are exchanged for the length of one call.

`torch.func.functional_call` puts other tensors in place of parameters and takes them away again.
What is built within such a call and used after it must keep them: a flow that holds its network,
or a site that reads from its module.
"""

from __future__ import annotations

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def stand_in(module: M) -> M:
    """A light copy that keeps the tensors that the module holds now.

    Example:
        >>> import torch
        >>> from declarative_dist.fields.standin import stand_in
        >>> linear = torch.nn.Linear(1, 1)
        >>> stand_in(linear) is linear, stand_in(linear).weight is linear.weight
        (False, True)
    """
    return _copied(module, {})


def kept(module: M) -> M:
    """The module, or a stand-in where tensors that are no parameters stand in their place.

    Example:
        >>> import torch
        >>> from declarative_dist.fields.standin import kept
        >>> linear = torch.nn.Linear(1, 1)
        >>> kept(linear) is linear
        True
    """
    if all(isinstance(parameter, nn.Parameter) for parameter in module.parameters()):
        return module
    return stand_in(module)


def _copied(module: M, copies: dict[int, nn.Module]) -> M:
    known = copies.get(id(module))
    if known is not None:
        return known  # type: ignore[return-value]
    new: M = object.__new__(type(module))
    copies[id(module)] = new
    vars(new).update(vars(module))
    for store in ("_parameters", "_buffers"):
        vars(new)[store] = dict(vars(module)[store])
    vars(new)["_modules"] = {
        name: None if child is None else _copied(child, copies)
        for name, child in module._modules.items()
    }
    return new

"""States of modules, kept beside them and compared bit by bit."""

from __future__ import annotations

from torch import Tensor, equal, nn


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the state of a module."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_unchanged(module: nn.Module, before: dict[str, Tensor]) -> None:
    """The module has the state that it had, to the last bit."""
    now = module.state_dict()
    assert now.keys() == before.keys()
    for name, tensor in before.items():
        assert now[name].dtype == tensor.dtype, name
        assert equal(now[name], tensor), name

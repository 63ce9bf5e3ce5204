"""The one walk over the declared parts of a module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.plain.tensors import map_tensors

if TYPE_CHECKING:
    from declarative_dist.fields.param import Param


def walk(
    module: nn.Module, *, priors: bool = True, path: str = "", seen: set[nn.Module] | None = None
) -> Iterator[tuple[str, Any]]:
    """The declared modules in a module, itself included: each once, with its dotted name.

    Args:
        module: a declared module, or any around some.
        priors: whether to visit the priors of parameters, which are modules too.
        path: the dotted name of the module itself.
        seen: what was visited already.
    """
    seen = set() if seen is None else seen
    if module in seen:
        return
    seen.add(module)
    declaration: Any = getattr(type(module), "__declaration__", None)
    if declaration is not None:
        yield path, module
    skipped = () if priors or declaration is None else declaration.of_prior
    for name, child in module._modules.items():
        if child is not None and name not in skipped:
            yield from walk(child, priors=priors, path=join(path, name), seen=seen)


def join(path: str, name: str) -> str:
    """The dotted name of what a module at a path has under a name."""
    return f"{path}.{name}" if path else name


def walk_params(module: nn.Module, *, priors: bool = True) -> Iterator[tuple[str, Any, Param]]:
    """The parameters of the declared modules in a module: path of the part, the part, the field.

    Args:
        module: a declared module, or any around some.
        priors: whether to visit the priors of parameters too.
    """
    for path, part in walk(module, priors=priors):
        for field in part.__declaration__.order:
            if field.is_learned:
                yield path, part, field


def copy_frozen(module: Any) -> Any:
    """A light copy of a module that no step and no assignment changes; gradients flow through it.

    It shares what a network counts, such as running means.
    """
    parts = [part for _, part in walk(module)]
    own = {id(part._buffers.get(name)) for part in parts for name in part.__declaration__.fields}

    def freeze(_: str, tensor: Tensor) -> Tensor:
        return tensor.clone() if isinstance(tensor, nn.Parameter) or id(tensor) in own else tensor

    return map_tensors(module, freeze)


def own_modules(module: nn.Module) -> Iterator[nn.Module]:
    """The declared modules in a module, and the constraints that they hold: what they may write.

    Foreign networks are left out: they may be large, and no assignment changes them.
    """
    for _, part in walk(module):
        yield part
        for child in part._modules.values():
            if isinstance(child, Constraint):
                yield from child.modules()

"""The parameters behind the names of fields, also dotted ones of nested parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from declarative_dist.errors import DeclarationError, did_you_mean, shorten
from declarative_dist.fields.kinds import is_declarative
from declarative_dist.fields.param import Param
from declarative_dist.fields.parts import Nested


def find_parameters(module: Any, name: str, path: str = "") -> list[nn.Parameter]:
    """The parameters behind the name of a field, dotted where it is one of a nested part.

    Args:
        module: a declarative module, or a foreign one inside it.
        name: the name of a parameter or a nested part.
        path: the names that lead to the module, for errors.

    Raises:
        DeclarationError: if nothing trainable has this name.
    """
    head, _, rest = name.partition(".")
    subject = f"{path or type(module).__name__}.{head}"
    inner, known = module._modules.get(head), _find_trainable(module)
    if inner is None and (rest or head not in known):
        heads = type(module).__declaration__.heads if is_declarative(module) else ()
        is_head = any(field.name == head for field in heads)
        raise DeclarationError(
            subject,
            "the name of a parameter",
            f"{name!r}, which is predicted" if is_head else repr(name),
            "Its weights are in 'projection' and 'network'."
            if is_head
            else did_you_mean(head, known),
            code="unknown-name",
        )
    if rest:
        return find_parameters(inner, rest, subject)
    if head in known:
        return known[head]()
    return [] if inner is None else list(inner.parameters())


def _find_trainable(module: Any) -> dict[str, Callable[[], list[nn.Parameter]]]:
    """What can be trained in a module, by name: fields of a declarative one, or what it holds."""
    if is_declarative(module):
        fields = type(module).__declaration__.fields.items()
        kinds = (Param, Nested)
        return {n: partial(f.parameters_of, module) for n, f in fields if isinstance(f, kinds)}
    held = {n: [p] for n, p in module.named_parameters(recurse=False)}
    held.update({n: list(m.parameters()) for n, m in module.named_children()})
    return {name: held[name].copy for name in held}


def group_parameters(
    module: Any, options: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Groups of parameters for an optimizer, as `parameter_groups` returns them.

    Args:
        module: a declarative module.
        options: the optimizer's options by the name of a field or a nested part.
    """
    for name, given in options.items():
        if not isinstance(given, Mapping):
            raise DeclarationError(
                f"{type(module).__name__}.parameter_groups({name}=)",
                "a dict of an optimizer's options",
                shorten(given),
                f'Write {name}={{"lr": 1e-2}}.',
            )
    found = {name: find_parameters(module, name) for name in options}
    grouped: set[int] = set()
    members: dict[str, list[nn.Parameter]] = {}
    for name in sorted(found, key=lambda name: -name.count(".")):
        members[name] = [p for p in found[name] if id(p) not in grouped]
        grouped.update(map(id, members[name]))
    groups = [{"params": members[name], **options[name]} for name in options if members[name]]
    rest = [parameter for parameter in module.parameters() if id(parameter) not in grouped]
    return [*groups, {"params": rest}] if rest else groups

"""The parameters behind the names of fields, also dotted ones of nested parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from declarative_dist.errors import DeclarationError, did_you_mean, shorten
from declarative_dist.fields.kinds import is_declarative
from declarative_dist.fields.param import Param
from declarative_dist.fields.parts import Nested


def parameters_named(module: Any, name: str, path: str = "") -> list[nn.Parameter]:
    """The parameters behind the name of a field, dotted where it is one of a nested part.

    Args:
        module: a declarative module, or a foreign one inside it.
        name: the name of a parameter or a nested part.
        path: what led here, for errors.

    Raises:
        DeclarationError: if nothing trainable has this name.
    """
    head, _, rest = name.partition(".")
    subject = f"{path or type(module).__name__}.{head}"
    if is_declarative(module):
        known = {
            n: field
            for n, field in type(module).__declaration__.fields.items()
            if isinstance(field, (Param, Nested))
        }
        field = known.get(head)
        inner = field.module_of(module) if isinstance(field, Nested) else None
        found = None if field is None else field.parameters_of(module)
        if field is None and head in module._modules:  # no field, such as a given network
            inner = module._modules[head]
            found = None if inner is None else list(inner.parameters())
    else:
        known = {**dict(module.named_children()), **dict(module.named_parameters(recurse=False))}
        inner = module._modules.get(head)
        own = module._parameters.get(head)
        found = list(inner.parameters()) if inner is not None else None
        found = found if own is None else [own]
    if found is None or (rest and inner is None):
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
    return parameters_named(inner, rest, subject) if rest else found


def groups_of(module: Any, options: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
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
    found = {name: parameters_named(module, name) for name in options}
    grouped: set[int] = set()
    members: dict[str, list[nn.Parameter]] = {}
    for name in sorted(found, key=lambda name: -name.count(".")):
        members[name] = [p for p in found[name] if id(p) not in grouped]
        grouped.update(map(id, members[name]))
    groups = [{"params": members[name], **options[name]} for name in options if members[name]]
    rest = [parameter for parameter in module.parameters() if id(parameter) not in grouped]
    return [*groups, {"params": rest}] if rest else groups

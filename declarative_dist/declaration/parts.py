"""What a class body may not say of nested parts and sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.distributions import Distribution, Transform

from declarative_dist.errors import DeclarationError, shorten
from declarative_dist.fields.derived import Derived
from declarative_dist.fields.field import Field
from declarative_dist.fields.head import Head
from declarative_dist.fields.kinds import (
    built_kind,
    describe_kind,
    is_declarative_class,
    predicted_kind,
)
from declarative_dist.fields.param import Param
from declarative_dist.fields.parts import Nested
from declarative_dist.fields.site import Site
from declarative_dist.plain.arguments import Argument


def is_nestable(value: object) -> bool:
    """Whether a value in a class body is a nested part."""
    return isinstance(value, (nn.Module, Distribution, Transform)) or is_declarative_class(value)


class Body(dict[str, Any]):
    """The namespace of a class body, in which no two fields may have the same name.

    Args:
        owner: the name of the class.
    """

    def __init__(self, owner: str) -> None:
        super().__init__()
        self.owner = owner

    def __setitem__(self, name: str, value: Any) -> None:
        before = self.get(name)
        if _declares(value) and _declares(before):
            raise DeclarationError(
                f"{self.owner}.{name}",
                "one field of this name",
                f"two, {shorten(before)} and {shorten(value)}",
                "Rename one of them.",
                code="name-taken",
            )
        super().__setitem__(name, value)


def _declares(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(is_nestable, value))
    return isinstance(value, Field) or is_nestable(value)


def check_parts(
    owner: str, arguments: Mapping[str, Argument], fields: Mapping[str, Field]
) -> None:
    """Refuse a tensor where the base wants a part, and a part where it wants a tensor."""
    for name, field in fields.items():
        argument = arguments.get(name)
        if argument is None or isinstance(field, Derived):
            continue
        if argument.part is not None and not isinstance(field, Nested):
            part = describe_kind(argument.part)
            raise DeclarationError(
                f"{owner}.{name}",
                "a list of transforms" if argument.is_sequence else part,
                repr(field),
                f"Write {name} = a declared class, an instance, or a plain {_word(argument)}.",
                code="misplaced-field",
            )
        if argument.part is not None and argument.is_sequence is not getattr(
            field, "is_list", False
        ):
            raise DeclarationError(
                f"{owner}.{name}",
                f"one part, {describe_kind(argument.part)}",
                repr(field),
                code="misplaced-field",
            )
        if argument.torch_constraint is not None and isinstance(field, Nested):
            raise DeclarationError(
                f"{owner}.{name}",
                f"a tensor, {argument.torch_constraint}",
                repr(field),
                f"Write {name} = Param().",
                code="misplaced-field",
            )


def check_heads(owner: str, fields: Mapping[str, Field], is_conditional: bool) -> None:
    """Refuse predictions where there is no context, and a head in the network's place."""
    for name, field in fields.items():
        templates: list[Any] = []
        if isinstance(field, Nested):
            templates = list(field.templates or ())
        predicts = any(predicted_kind(template) is not None for template in templates)
        is_argument = isinstance(field, Nested) and field.part is not None
        if not is_conditional and (isinstance(field, Head) or (predicts and is_argument)):
            raise DeclarationError(
                f"{owner}.{name}",
                "a Conditional around what is predicted from a context",
                owner,
                f"Write class {owner}(Conditional).",
                code="misplaced-field",
            )
        if (
            is_conditional
            and name == "network"
            and not (isinstance(field, Nested) and not field.is_list)
        ):
            raise DeclarationError(
                f"{owner}.network",
                "a module",
                repr(field),
                "Choose another name.",
                code="name-taken",
            )


def is_site(field: Field | None) -> bool:
    """Whether a field of a joint distribution is one of its distributions."""
    if isinstance(field, Nested):
        return field.part is not None and issubclass(field.part, Distribution)
    return isinstance(field, Site)


def _word(argument: Argument) -> str:
    return "transform" if argument.part is Transform else "distribution"


def check_joint(owner: str, body: Mapping[str, Any], fields: Mapping[str, Field]) -> None:
    """Refuse what looks like a site of a joint distribution and is none."""
    for name in ("event_dim", "validate_args"):
        if body.get(name) is not None:
            raise DeclarationError(
                f"{owner}.{name}",
                f"{name} of single sites",
                f"{name} of a Joint",
                "Write @site(event_dim=...), or declare it in the class of a site.",
                code="misplaced-field",
            )
    for name, value in body.items():
        if isinstance(value, type) and issubclass(value, Distribution) and name not in fields:
            raise DeclarationError(
                f"{owner}.{name}",
                "a distribution or a declared class",
                f"the class {value.__name__}",
                f"Write {name} = {value.__name__}(...), or learnable({value.__name__}).",
                code="class-not-instance",
            )
    for name, field in fields.items():
        templates = field.templates or () if isinstance(field, Nested) else ()
        kinds = [kind for kind in map(built_kind, templates) if kind is not None]
        if not all(issubclass(kind, (Distribution, Transform)) for kind in kinds) or (
            isinstance(field, Nested) and field.is_list and Distribution in kinds
        ):
            raise DeclarationError(
                f"{owner}.{name}",
                "one distribution",
                repr(field),
                "Declare each site here.",
                code="misplaced-field",
            )


def check_sites(owner: str, fields: Mapping[str, Field], is_joint: bool) -> None:
    """Refuse sites outside a joint distribution, and those that come before what they need."""
    known: set[str] = set()
    for name, field in fields.items():
        if isinstance(field, Site) and not is_joint:
            raise DeclarationError(
                f"{owner}.{name}",
                "a Joint around a site",
                owner,
                f"Write class {owner}(Joint).",
                code="misplaced-field",
            )
        for needed in field.needs:
            if isinstance(field, Site) and is_site(fields[needed]) and needed not in known:
                raise DeclarationError(
                    f"{owner}.{name}",
                    "sites declared earlier",
                    f"{needed!r}, which comes later",
                    f"Move {needed} above {name}.",
                    code="field-order",
                )
            if not isinstance(field, Site):
                _check_has_value(f"{owner}.{name}", field, needed, fields[needed])
        known.add(name)


def _check_has_value(subject: str, field: Field, name: str, needed: Field) -> None:
    """Refuse derived fields that need a site, and bounds that are a site or a nested part."""
    if isinstance(needed, Site):
        raise DeclarationError(
            subject,
            "names of fields that have a value before anything is drawn",
            f"the site {name!r}",
            "Make it a site, or compute it in the sites that need it.",
            code="field-order",
        )
    if isinstance(field, Param) and isinstance(needed, Nested):
        raise DeclarationError(
            subject,
            "bounds that are numbers, tensors or names of such fields",
            f"{name!r}, {needed!r}",
            "Declare the bound as a field of its own.",
            code="field-order",
        )

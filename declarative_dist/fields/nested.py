"""Nested parts: modules in a class body, of which every instance owns copies."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributions import Distribution, Transform
from typing_extensions import Self

from declarative_dist.errors import ConstraintError, DeclarationError, FieldError, shorten
from declarative_dist.fields.assembly import as_owned, built, inside, replicate, sizes_told
from declarative_dist.fields.field import Field, declaration_of
from declarative_dist.fields.head import CONTEXT_SHAPE
from declarative_dist.fields.part import (
    as_given,
    built_by,
    check_part,
    described,
    is_declarative,
    is_declarative_class,
    predicts_of,
    value_of,
)
from declarative_dist.fields.sizes import Blueprint
from declarative_dist.fields.walk import own_modules, walk
from declarative_dist.plain.restoring import restoring

CONTEXT = "*context"
"""Under this name evaluation holds the arguments of the call, which nested predictions take."""


class Nested(Field):
    """A module held by every instance, under the field's own name.

    On an instance the field reads as the module, so that its own fields are at hand
    (`q.component_distribution.loc`). To the base it contributes what it stands for: a plain
    current distribution or transform, or, for other modules, itself.

    Args:
        template: a module, of which every instance gets a copy; a declarative class, of which it
            gets an instance; or None if every instance must be given one.
    """

    part: type[Distribution | Transform] | None = None
    """What the base takes under this name."""

    def __init__(self, template: nn.Module | type | None = None) -> None:
        self.template = template
        self.init: Any = inspect.Parameter.empty if template is None else template

    def accepting(self, part: type[Distribution | Transform] | None, subject: str) -> Self:
        """A copy for an argument of the base, once its template is found to fit.

        A part that is no argument stays what its template stands for.

        Raises:
            DeclarationError: if it does not.
        """
        field = copy.copy(self)
        field.part = part or _plain_kind(self.template)
        if self.template is not None:
            check_part(self.template, part, subject)
        return field

    @property
    def size_names(self) -> tuple[str, ...]:
        """The names of sizes that the part takes from the constructor of what holds it."""
        return _size_names(self.template)

    @property
    def declared_sizes(self) -> frozenset[str]:
        """Those of them that stand in a declared shape."""
        return _declared_sizes(self.template)

    def told(self, given: Any) -> Mapping[str, int]:
        """The sizes that the part knows already."""
        return sizes_told(self.template, given)

    def source(self, value: Any, subject: str) -> Any:
        return None if value is None else as_given(value, self.template, self.part, subject)

    def module_of(self, instance: nn.Module) -> nn.Module:
        """The module that an instance holds.

        Raises:
            FieldError: if it holds none.
        """
        declaration_of(instance, self.name)
        module = instance._modules.get(self.name)
        if module is None:
            raise FieldError(
                self.subject(instance), described(self.part), "none", code="missing-value"
            )
        return module

    def bind(self, module: nn.Module, blueprint: Blueprint, values: Mapping[str, Any]) -> None:
        given = blueprint.given.get(self.name)
        self._hold(module, self._built(given, blueprint, self.subject(module)))
        vars(module)["_starts"][self.name] = not isinstance(given, nn.Module)

    def _built(self, given: Any, blueprint: Blueprint, subject: str) -> nn.Module:
        return built(self.template, given, blueprint, subject)

    def _hold(self, module: nn.Module, part: nn.Module) -> None:
        # What add_module does; it refuses names that the class has, such as this descriptor's.
        module._modules[self.name] = part

    def value(self, module: nn.Module, values: Mapping[str, Any]) -> Any:
        return self._value_of(module, self.module_of(module), values)

    def _value_of(self, owner: nn.Module, part: Any, values: Mapping[str, Any]) -> Any:
        if predicts_of(part) is None or predicts_of(owner) is None:
            return value_of(part, self.part, self.subject(owner))
        context = values.get(CONTEXT)
        if context is None:
            return part.at_start(values.get(CONTEXT_SHAPE, torch.Size()))
        return part(*context[0], **context[1])

    def prepare(self, module: nn.Module, value: object, values: Mapping[str, Any]) -> Any:
        subject = self.subject(module)
        now = module._modules.get(self.name)
        given = as_given(value, now, self.part, subject)
        if isinstance(given, Mapping):
            return _prepared(self.module_of(module), given, subject)
        return _replacement(given, now, subject)

    def commit(self, module: nn.Module, prepared: Any) -> None:
        if isinstance(prepared, nn.Module):
            self._hold(module, prepared)
            vars(module)["_starts"][self.name] = False
            return
        for inner, field, ready in prepared:
            field.commit(inner, ready)

    def read(self, module: nn.Module, prepared: Any, values: Mapping[str, Any]) -> Any:
        return self.value(module, values)

    def reset(self, module: nn.Module, values: Mapping[str, Any]) -> None:
        is_copy = vars(module)["_starts"][self.name]
        _reset(self.module_of(module), self.template if is_copy else None)

    def kept(self, module: nn.Module, values: Mapping[str, Any]) -> Any:
        part: Any = self.module_of(module)
        return part.constrained_values() if is_declarative(part) else None

    def parameters_of(self, module: nn.Module) -> list[nn.Parameter]:
        return [*self.module_of(module).parameters()]

    def replicate(
        self, module: nn.Module, shape: torch.Size, at: int, lead: int, done: dict[int, Any]
    ) -> None:
        replicate(self.module_of(module), shape, at, done)

    def restart(self, module: nn.Module, *, is_new: bool = False) -> None:
        for _, part in walk(self.module_of(module)):
            part._restart()

    def shown(self, module: nn.Module) -> str:
        return repr(self.module_of(module))

    def __set__(self, instance: Any, value: Any) -> None:
        with restoring(*own_modules(instance), recurse=False):
            super().__set__(instance, value)
            instance._check_parts()

    def __get__(self, instance: nn.Module | None, owner: type) -> Any:
        return self if instance is None else self.module_of(instance)

    def __repr__(self) -> str:
        return f"Nested({_named(self.template)})"


class NestedList(Nested):
    """A list of modules held by every instance, such as the transforms of a distribution.

    Args:
        templates: for each item what `Nested` takes; None if every instance must be given a list.
    """

    def __init__(self, templates: Sequence[nn.Module | type] | None = None) -> None:
        super().__init__()
        self.templates = None if templates is None else list(templates)
        self.init = inspect.Parameter.empty if templates is None else templates

    def accepting(self, part: type[Distribution | Transform] | None, subject: str) -> Self:
        field = super().accepting(part, subject)
        for index, template in enumerate(self.templates or ()):
            check_part(template, part, f"{subject}[{index}]")
        return field

    @property
    def size_names(self) -> tuple[str, ...]:
        return tuple(name for template in self.templates or () for name in _size_names(template))

    @property
    def declared_sizes(self) -> frozenset[str]:
        return frozenset().union(*map(_declared_sizes, self.templates or ()))

    def told(self, given: Any) -> Mapping[str, int]:
        items = self._paired(given)
        return {
            name: size
            for template, item in items
            for name, size in sizes_told(template, item).items()
        }

    def _paired(self, given: Any) -> list[tuple[Any, Any]]:
        """Each template with what was given for it."""
        templates = self.templates or []
        if given is None:
            return [(template, None) for template in templates]
        padded: list[Any] = [*templates, *[None] * len(given)]
        return list(zip(padded, given, strict=False))

    def source(self, value: Any, subject: str) -> Any:
        if value is None:
            return None
        items = _as_items(value, len(self.templates or ()), subject)
        given = self._as_given(items, self.templates or (), subject)
        has_values = any(isinstance(item, Mapping) for item in given)
        if has_values and len(given) != len(self.templates or ()):
            raise DeclarationError(
                subject,
                f"{len(self.templates or ())} dicts of values, one for each part",
                f"{len(given)}",
                "Give an empty dict for a part that stays as it is.",
                code="wrong-part",
            )
        return given

    def _as_given(self, items: list[Any], templates: Iterable[Any], subject: str) -> list[Any]:
        padded = [*templates, *[None] * len(items)]
        return [
            as_given(item, template, self.part, f"{subject}[{index}]")
            for index, (item, template) in enumerate(zip(items, padded, strict=False))
        ]

    def bind(self, module: nn.Module, blueprint: Blueprint, values: Mapping[str, Any]) -> None:
        given = blueprint.given.get(self.name)
        subject = self.subject(module)
        if given is None and self.templates is None:
            raise ConstraintError(
                subject,
                "a list",
                "none",
                f"Write {type(module).__name__}({self.name}=[...]).",
                code="missing-value",
            )
        parts = [
            built(template, item, blueprint, f"{subject}[{index}]")
            for index, (template, item) in enumerate(self._paired(given))
        ]
        self._hold(module, nn.ModuleList(parts))
        is_shared = any(isinstance(item, nn.Module) for item in given or ())
        vars(module)["_starts"][self.name] = not is_shared

    def value(self, module: nn.Module, values: Mapping[str, Any]) -> Any:
        parts: Any = self.module_of(module)
        return [self._value_of(module, part, values) for part in parts]

    def prepare(self, module: nn.Module, value: object, values: Mapping[str, Any]) -> Any:
        subject = self.subject(module)
        now: Any = self.module_of(module)
        items = _as_items(value, len(now), subject)
        given = self._as_given(items, now, subject)
        if not any(isinstance(item, Mapping) for item in given):
            if isinstance(value, nn.ModuleList):
                return value
            return nn.ModuleList(
                _replacement(item, now, f"{subject}[{i}]") for i, item in enumerate(given)
            )
        if len(given) != len(now) or not all(isinstance(item, Mapping) for item in given):
            raise ConstraintError(
                subject,
                f"{len(now)} dicts of values, or modules only",
                shorten(value),
                code="wrong-part",
            )
        return [
            change
            for index, (part, item) in enumerate(zip(now, given, strict=True))
            for change in (_prepared(part, item, f"{subject}[{index}]") if item else ())
        ]

    def reset(self, module: nn.Module, values: Mapping[str, Any]) -> None:
        parts: Any = self.module_of(module)
        templates = list(self.templates or ()) if vars(module)["_starts"][self.name] else []
        for part, template in zip(parts, [*templates, *[None] * len(parts)], strict=False):
            _reset(part, template)

    def kept(self, module: nn.Module, values: Mapping[str, Any]) -> Any:
        parts: Any = self.module_of(module)
        kept = [p.constrained_values() if is_declarative(p) else {} for p in parts]
        return kept if any(kept) else None

    def __repr__(self) -> str:
        return f"NestedList({', '.join(map(_named, self.templates or ()))})"


def _plain_kind(template: object) -> type[Distribution | Transform] | None:
    builds = built_by(template)
    return builds if builds and issubclass(builds, (Distribution, Transform)) else None


def _as_items(value: Any, count: int, subject: str) -> list[Any]:
    """A list of parts, of one part alone, or of the values in a dict by index."""
    if isinstance(value, (list, tuple, nn.ModuleList)):
        return list(value)
    if not isinstance(value, Mapping):
        return [value]
    known = {str(index) for index in range(count)}
    by_index = {str(index): item for index, item in value.items()}
    for index in by_index:
        if index not in known:
            raise DeclarationError(
                f"{subject}.{index}",
                f"an index below {count}",
                repr(index),
                "Count from 0.",
                code="unknown-name",
            )
    return [by_index.get(str(index), {}) for index in range(count)]


def is_declared_part(field: Nested) -> bool:
    """Whether a nested part is a declared family, a transform or a list with one."""
    templates = field.templates or () if isinstance(field, NestedList) else (field.template,)
    return any(is_declarative(t) or is_declarative_class(t) for t in templates)


def _size_names(template: object) -> tuple[str, ...]:
    if not is_declarative_class(template):
        return ()
    names: tuple[str, ...] = template.__declaration__.size_names  # type: ignore[attr-defined]
    return names if predicts_of(template) is None else ("in_features", *names)


def _declared_sizes(template: Any) -> frozenset[str]:
    if not is_declarative_class(template) and not is_declarative(template):
        return frozenset()
    names: frozenset[str] = template.__declaration__.declared_sizes
    return names


def _named(template: object) -> str:
    return template.__name__ if isinstance(template, type) else type(template).__name__


def _prepared(part: Any, values: Mapping[str, Any], subject: str) -> Any:
    """A dict of values, checked and ready to be committed to a part."""
    if not values:
        return []
    with inside(subject):
        return part._prepare(values)


def _replacement(given: Any, now: nn.Module | None, subject: str) -> nn.Module:
    """What takes the place of a part: a module, or a plain object where the part was."""
    if isinstance(given, type):
        raise DeclarationError(
            subject,
            "an instance",
            f"the class {given.__name__}",
            f"Write {given.__name__}(...).",
            code="class-not-instance",
        )
    tensors = [] if now is None else [*now.parameters(), *now.buffers()]
    tensor = next((t for t in tensors if t.is_floating_point()), None)
    if tensor is None:
        return as_owned(given)
    return as_owned(given, tensor.device, tensor.dtype)


def _reset(part: nn.Module, template: Any) -> None:
    """Back to the start: a declared part to its own, a copy of a foreign one to its template's."""
    if is_declarative(part):
        part.reset_parameters()  # type: ignore[operator]
    elif isinstance(template, nn.Module) and _shapes(part) == _shapes(template):
        start = _tensors(template)
        with torch.no_grad():
            for name, tensor in _tensors(part).items():
                tensor.copy_(start[name])
    else:
        for module in part.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in _tensors(module).items()}

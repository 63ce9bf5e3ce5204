"""Nested parts: modules in a class body, of which every instance owns copies."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributions import Distribution, Transform
from typing_extensions import Self

from declarative_dist.errors import ConstraintError, DeclarationError, FieldError, shorten
from declarative_dist.fields import kinds, templates
from declarative_dist.fields.blueprint import Blueprint
from declarative_dist.fields.context import CONTEXT, CONTEXT_SHAPE, Call
from declarative_dist.fields.field import Field, declaration_of
from declarative_dist.fields.given import call_names
from declarative_dist.fields.kinds import as_module
from declarative_dist.fields.storage import copy_tensors
from declarative_dist.plain.tensors import copy_if_exchanged, floating_tensors, without_cache

if TYPE_CHECKING:
    from declarative_dist.declaration.record import Declaration


class Nested(Field):
    """A module, or a list of modules, that every instance holds under the field's own name.

    On an instance the field reads as the module, so that its own fields are at hand
    (`q.component_distribution.loc`), or as an `nn.ModuleList`, such as the transforms of a
    distribution. To the base it contributes what each module stands for: a plain current
    distribution or transform, or, for other modules, itself.

    Args:
        templates: the parts that the class body declares, a single part as a list of one. Each is
            a module, of which every instance gets a copy, or a declarative class, of which it
            gets an instance. None if every instance must be given its parts.
        is_list: whether instances hold a list.
    """

    is_part = True

    part: type[Distribution | Transform] | None = None
    """What the base takes under this name."""

    def __init__(
        self, templates: Sequence[nn.Module | type] | None = None, *, is_list: bool = False
    ) -> None:
        self.is_declared = templates is not None
        self.templates = list(templates or ())
        self.is_list = is_list

    @property
    def is_site(self) -> bool:  # type: ignore[override]
        return self.part is not None and issubclass(self.part, Distribution)

    @property
    def needs_context(self) -> bool:  # type: ignore[override]
        return any(map(kinds.predicted_kind, self.templates))

    def check_place(self, owner: Declaration) -> None:
        if any(map(kinds.is_declarative, self.templates)):
            self.check_use(owner)
        argument = owner.arguments.get(self.name)
        if argument is None:
            return
        expected, fix = f"one part, {kinds.describe_kind(argument.part)}", ""
        if argument.torch_constraint is not None:
            expected = f"a tensor, {argument.torch_constraint}"
            fix = f"Write {self.name} = Param()."
        elif argument.part is None or argument.is_sequence is self.is_list:
            return
        raise owner.error(self.name, expected, repr(self), fix, code="misplaced-field")

    def specialize(self, owner: Declaration) -> Self:
        """A copy for an argument of the base, once its templates are found to fit.

        A part that is no argument stays what its template stands for.
        """
        field, argument = copy.copy(self), owner.arguments.get(self.name)
        field.part = None if argument is None else argument.part
        for template in self.templates:
            kinds.check_kind(template, field.part, owner.subject(self.name))
        if field.part is None and not self.is_list:
            built = field._kinds_in(owner)
            field.part = next((k for k in built if issubclass(k, (Distribution, Transform))), None)
        return field

    def settle(self, owner: Declaration) -> None:
        super().settle(owner)
        if self.part is not None and self.needs_context:
            owner.require_conditional(self.name)
        built = self._kinds_in(owner)
        is_plain = all(issubclass(kind, (Distribution, Transform)) for kind in built)
        if owner.is_joint and (Distribution in built if self.is_list else not is_plain):
            fix, expected = "Declare each site here.", "one distribution"
            raise owner.error(self.name, expected, repr(self), fix, code="misplaced-field")

    def _kinds_in(self, owner: Declaration) -> list[type]:
        """What the templates stand for; in a joint, what they predict is a site."""
        found = list(map(kinds.built_kind, self.templates))
        if owner.is_joint:
            found += map(kinds.predicted_kind, self.templates)
        return list(filter(None, found))

    @property
    def size_names(self) -> tuple[str, ...]:
        return tuple(
            name for template in self.templates for name in templates.size_names(template)
        )

    def known_sizes(self, given: Any) -> Iterable[tuple[str, int]]:
        for template, item in self._with_given(given):
            if isinstance(item, Mapping) and kinds.is_declarative_class(template):
                fields = template.__declaration__.fields
                for name in fields.keys() & item.keys():
                    source = fields[name].as_source(item[name], f"{template.__name__}.{name}")
                    yield from fields[name].known_sizes(source)

    def built_sizes(self, given: Any) -> Iterable[tuple[str, int]]:
        """The sizes of parts that are built already, by name."""
        for template, item in self._with_given(given):
            part: Any = item if isinstance(item, nn.Module) else template
            if kinds.is_declarative(part) and not isinstance(part, type):
                known, sizes = part.__declaration__.declared_sizes, vars(part)["_sizes"]
                yield from ((name, size) for name, size in sizes.items() if name in known)

    def dims(self, module: nn.Module) -> tuple[str | None, ...]:
        """Those of a site's events, as an argument of the same shape names them."""
        part: Any = self.module_of(module)
        is_family = kinds.is_declarative(part) and kinds.built_kind(part) is Distribution
        if not is_family or part.__declaration__.make is None:
            return ()
        fields: list[Field] = [part.__declaration__.fields[n] for n in part.__declaration__.inputs]
        for dims, field in ((field.dims(part), field) for field in fields if not field.is_part):
            if dims and getattr(part, field.name).shape[-len(dims) :] == part.event_shape:
                return dims
        return ()

    def _with_given(self, given: list[Any] | None) -> Iterator[tuple[Any, Any]]:
        """Each template with what was given for it, or None."""
        if given is None:
            return zip(self.templates, repeat(None), strict=False)
        return zip(chain(self.templates, repeat(None)), given, strict=False)

    def as_source(self, value: Any, subject: str) -> list[Any] | None:
        if value is None:
            return None
        return self._check_items(value, self.templates, subject)

    def _check_items(self, value: Any, now: Sequence[Any], subject: str) -> list[Any]:
        """What was given for each part, refused if it cannot be one; dicts as nested ones.

        The names in a dict are checked by the part that takes them.
        """
        checked: list[Any] = []
        items = self._as_items(value, len(now), subject)
        if len(items) != len(now) and any(isinstance(item, Mapping) for item in items):
            expected = f"{len(now)} dicts of values, one for each part"
            fix = "Give an empty dict for a part that stays as it is."
            raise DeclarationError(subject, expected, f"{len(items)}", fix, code="wrong-part")
        for item, part in zip(items, chain(now, repeat(None)), strict=False):
            if isinstance(item, Mapping) and (kinds.is_declarative(part) or not item):
                values = {str(name): inner for name, inner in item.items()}
                checked.append(templates.nest_values(values, subject))
                continue
            module = item if kinds.is_declarative_class(item) else as_module(item)
            if module is None:
                what = "as an instance of a declared class or a dict of its values"
                expected = f"{kinds.describe_kind(self.part)}, {what}"
                raise DeclarationError(subject, expected, shorten(item), code="wrong-part")
            kinds.check_kind(module, self.part, subject)
            checked.append(item)
        return checked

    def _as_items(self, value: Any, size: int, subject: str) -> list[Any]:
        """A list of parts, of one part alone, or of the values in a dict by index."""
        if not self.is_list:
            return [value]
        if isinstance(value, (list, tuple, nn.ModuleList)):
            return list(value)
        if not isinstance(value, Mapping):
            return [value]
        by_index = {str(index): item for index, item in value.items()}
        items = [by_index.pop(str(index), {}) for index in range(size)]
        for index in by_index:
            where, expected = f"{subject}.{index}", f"an index below {size}"
            raise DeclarationError(where, expected, repr(index), code="unknown-name")
        return items

    def module_of(self, instance: nn.Module) -> nn.Module:
        """The module that an instance holds, or the list of them; refused if there is none."""
        module = instance._modules.get(self.name)
        if module is None:
            subject, expected = self.subject(instance), kinds.describe_kind(self.part)
            raise FieldError(subject, expected, "none", code="missing-value")
        return module

    def parts_of(self, instance: nn.Module) -> list[Any]:
        """The modules that an instance holds, one by one."""
        module: Any = self.module_of(instance)
        return list(module) if self.is_list else [module]

    def bind(self, module: nn.Module, blueprint: Blueprint, values: Mapping[str, Any]) -> None:
        given: list[Any] | None = blueprint.given.get(self.name)
        subject = self.subject(module)
        if given is None and not self.is_declared:
            expected, value = ("a list", "[...]") if self.is_list else ("an instance", "...")
            fix = f"Write {type(module).__name__}({self.name}={value})."
            raise ConstraintError(subject, expected, "none", fix, code="missing-value")
        sources = self._with_given(given)
        parts = [templates.make_part(*source, blueprint, subject) for source in sources]
        # What add_module does; it refuses names that the class has, such as this descriptor's.
        module._modules[self.name] = nn.ModuleList(parts) if self.is_list else parts[0]
        is_shared = any(isinstance(item, nn.Module) for item in given or ())
        vars(module)["_starts"][self.name] = not is_shared

    def value(self, module: nn.Module, values: Mapping[str, Any]) -> Any:
        if self.is_list:
            return [self._resolve(module, part, values) for part in self.parts_of(module)]
        return self._resolve(module, self.module_of(module), values)

    def _resolve(self, owner: nn.Module, part: Any, values: Mapping[str, Any]) -> Any:
        """What a part contributes: the plain object that it stands for, or itself."""
        if kinds.built_kind(part) is not None:
            return part()
        if kinds.predicted_kind(part) is not None and kinds.predicted_kind(owner) is not None:
            call: Call | None = values.get(CONTEXT)
            if call is None:
                return part.at_start(values.get(CONTEXT_SHAPE, torch.Size()))
            if call.outputs is None and not call.given:
                return part(*call.args, **call.keywords)
            given = {n: call.given[n] for n in call_names(part) if n in call.given}
            is_shared = self.name in vars(owner)["_sharers"]
            return call.predict(part, given, is_shared=is_shared)
        kind = self.part
        if kind is None:
            return copy_if_exchanged(part)
        module: Any = part
        if isinstance(part, kind):  # such as a transform that is a module, too
            return without_cache(copy_if_exchanged(module))
        try:
            value = part()
        except TypeError as error:
            value = error
        if not isinstance(value, kind):
            got = f"a {type(part).__name__} that gives {shorten(value)}"
            raise FieldError(self.subject(owner), kinds.describe_kind(kind), got)
        return value

    def prepare(self, module: nn.Module, value: object, values: Mapping[str, Any]) -> Any:
        subject = self.subject(module)
        now = [] if module._modules.get(self.name) is None else self.parts_of(module)
        given = self._check_items(value, now, subject)
        each = list(zip(given, chain(now, repeat(None)), strict=False))
        are_values = [isinstance(item, Mapping) for item in given]
        if not any(are_values):
            if self.is_list and isinstance(value, nn.ModuleList):
                return value
            new = [_as_new_part(*one, subject) for one in each]
            return nn.ModuleList(new) if self.is_list else new[0]
        if not all(are_values):
            expected = "dicts of values, or modules only"
            raise ConstraintError(subject, expected, shorten(value), code="wrong-part")
        with templates.inside(subject):
            return [change for item, part in each if item for change in part._prepare(item)]

    def commit(self, module: nn.Module, prepared: Any) -> None:
        if isinstance(prepared, nn.Module):
            module._modules[self.name] = prepared
            vars(module)["_starts"][self.name] = False
            return
        for inner, field, ready in prepared:
            field.commit(inner, ready)

    def reset(self, module: nn.Module, values: Mapping[str, Any]) -> None:
        starts = self.templates if vars(module)["_starts"][self.name] else ()
        parts = zip(self.parts_of(module), chain(starts, repeat(None)), strict=False)
        for part, template in parts:
            if kinds.is_declarative(part):
                part.reset_parameters()
            elif not isinstance(template, nn.Module) or not copy_tensors(template, part):
                for inner in part.modules():
                    reset: Any = getattr(inner, "reset_parameters", None)
                    if callable(reset):
                        reset()

    def export(self, module: nn.Module, values: Mapping[str, Any]) -> Any:
        parts = self.parts_of(module)
        exported = [p.constrained_values() if kinds.is_declarative(p) else None for p in parts]
        if not self.is_list:
            return exported[0]
        return [item or {} for item in exported] if any(exported) else None

    def parameters_of(self, module: nn.Module) -> list[nn.Parameter]:
        return list(self.module_of(module).parameters())

    def render(self, module: nn.Module) -> str:
        return repr(self.module_of(module))

    def __set__(self, instance: Any, value: Any) -> None:
        instance.assign(**{self.name: value})

    def __get__(self, instance: nn.Module | None, owner: type) -> Any:
        if instance is None:
            return self
        declaration_of(instance, self.name)
        return self.module_of(instance)

    def __repr__(self) -> str:
        classes = (t if isinstance(t, type) else type(t) for t in self.templates or (None,))
        names = ", ".join(kind.__name__ for kind in classes)
        return f"Nested([{names}])" if self.is_list else f"Nested({names})"


def _as_new_part(given: Any, now: nn.Module | None, subject: str) -> nn.Module:
    """What takes the place of a part: a module, or a plain object where the part was."""
    if isinstance(given, type):
        got, fix = f"the class {given.__name__}", f"Write {given.__name__}(...)."
        raise DeclarationError(subject, "an instance", got, fix, code="class-not-instance")
    like = None if now is None else next(floating_tensors(now), None)
    place = () if like is None else (like.device, like.dtype)
    return templates.as_part(given, *place)

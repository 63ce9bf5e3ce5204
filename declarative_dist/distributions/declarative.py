"""Modules with declared fields, in place of raw parameters, properties and setters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.representable import FLOATING
from declarative_dist.declaration.check import KEYWORDS
from declarative_dist.declaration.metaclass import DeclarativeMeta
from declarative_dist.declaration.record import Declaration
from declarative_dist.errors import (
    ConstraintError,
    DeclarationError,
    FieldError,
    StateMismatchError,
    did_you_mean,
    shortened,
)
from declarative_dist.fields.blueprint import Blueprint
from declarative_dist.fields.constant import Constant
from declarative_dist.fields.derived import Derived
from declarative_dist.fields.field import Field, evaluate
from declarative_dist.fields.param import Param
from declarative_dist.spelling import is_one_edit_from


class Declarative(nn.Module, metaclass=DeclarativeMeta):
    """A module whose constrained parameters are declared in its class body.

    Args:
        batch_shape: how many independent copies; prepended to the shape of every parameter.
        device: where to build it.
        dtype: the floating-point type of everything in it.
        **sizes_and_values: sizes by the names that shapes use, and values by field.

    Raises:
        DeclarationError: if a keyword is neither.
        ConstraintError: if a value is outside its constraint or a shape does not fit.

    Example:
        >>> from declarative_dist import Declarative, Exp, Param
        >>> class Kernel(Declarative):
        ...     lengthscale = Param(1.0, Exp(), shape=("d",))
        ...     variance = Param(1.0, Exp())
        >>> kernel = Kernel(d=2, variance=4.0)
        >>> kernel.lengthscale.shape, [name for name, _ in kernel.named_parameters()]
        (torch.Size([2]), ['raw_lengthscale', 'raw_variance'])
    """

    __framework__ = True
    __declaration__: ClassVar[Declaration]

    def __init__(
        self,
        *,
        batch_shape: int | Sequence[int] = (),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **sizes_and_values: Any,
    ) -> None:
        nn.Module.__init__(self)
        declaration = self.__declaration__
        vars(self)["_starts"] = {}
        blueprint = _read(declaration, sizes_and_values, batch_shape, device, dtype)
        values: dict[str, Any] = {}
        for field in declaration.order:
            field.bind(self, blueprint, values)
            evaluate(self, (field,), values)
        self._check_build(values)
        vars(self)["_is_built"] = True

    def _check_build(self, values: dict[str, Any]) -> None:
        """A chance to refuse values that do not go together."""

    def constrained_values(self) -> dict[str, Any]:
        """The values of all parameters and constants by name, detached.

        `new.assign(**old.constrained_values())` carries values over to another constraint.
        """
        values = evaluate(self, self.__declaration__.order)
        kept = {
            name: values[name]
            for name, field in self.__declaration__.fields.items()
            if not isinstance(field, Derived)
        }
        return {
            name: value.detach().clone() if isinstance(value, Tensor) else value
            for name, value in kept.items()
        }

    def assign(self, **values: Any) -> None:
        """Set several fields at once: all of them, or none if one is refused.

        Args:
            **values: constrained values by field; bounds that are fields themselves may be among
                them.

        Raises:
            DeclarationError: for a name that is no field.
            ConstraintError: for a value that its field refuses; nothing has changed then.
        """
        self._check_fields(values)
        known: dict[str, Any] = {}
        prepared: list[tuple[Field, Any]] = []
        with torch.no_grad():
            for field in self.__declaration__.order:
                if field.name in values:
                    ready = field.prepare(self, values[field.name], known)
                    prepared.append((field, ready))
                    known[field.name] = field.read(self, ready, known)
                else:
                    evaluate(self, (field,), known)
        for field, ready in prepared:
            field.commit(self, ready)

    def reset_parameters(self) -> None:
        """Go back to what this instance was built with, constants and bounds too.

        A callable starting value is drawn again. After `to_empty` this fills a module that was
        built on the meta device.
        """
        known: dict[str, Any] = {}
        with torch.no_grad():
            for field in self.__declaration__.order:
                field.reset(self, known)
                evaluate(self, (field,), known)

    def freeze(self, *names: str) -> None:
        """Take parameters out of training; without names, all of them."""
        self._require_grad(names, False)

    def unfreeze(self, *names: str) -> None:
        """Take parameters back into training; without names, all of them."""
        self._require_grad(names, True)

    def _require_grad(self, names: tuple[str, ...], requires_grad: bool) -> None:
        for param in self._params(names or self._param_names()):
            for parameter in self._parameters_of(param):
                parameter.requires_grad_(requires_grad)

    def _parameters_of(self, param: Param) -> list[nn.Parameter]:
        """The parameter of a field, or those behind a parametrization that has replaced it."""
        raw = self._parameters.get(param.raw_name)
        if raw is not None:
            return [raw]
        parametrizations: Any = self.parametrizations
        return list(parametrizations[param.raw_name].parameters())

    def parameter_groups(self, **options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Groups for an optimizer: one per field named, and one for all other parameters.

        Args:
            **options: for a field, the optimizer's options, such as `loc={"lr": 1e-2}`.

        Raises:
            DeclarationError: for a name that is no parameter.

        Example:
            >>> import torch
            >>> from declarative_dist import learnable
            >>> q = learnable(torch.distributions.Normal(0.0, 1.0))
            >>> groups = q.parameter_groups(loc={"lr": 0.1})
            >>> optimizer = torch.optim.SGD(groups, lr=0.01)
            >>> [group["lr"] for group in optimizer.param_groups]
            [0.1, 0.01]
        """
        groups: list[dict[str, Any]] = []
        grouped: set[int] = set()
        for param in self._params(tuple(options)):
            members = self._parameters_of(param)
            groups.append({"params": members, **options[param.name]})
            grouped.update(map(id, members))
        rest = [parameter for parameter in self.parameters() if id(parameter) not in grouped]
        return [*groups, {"params": rest}] if rest else groups

    def _param_names(self) -> tuple[str, ...]:
        return tuple(n for n, f in self.__declaration__.fields.items() if isinstance(f, Param))

    def _params(self, names: tuple[str, ...]) -> list[Param]:
        params = []
        for name in names:
            field = self.__declaration__.fields.get(name)
            if not isinstance(field, Param):
                raise DeclarationError(
                    f"{type(self).__name__}.{name}",
                    "the name of a parameter",
                    repr(name),
                    did_you_mean(name, self._param_names()),
                )
            params.append(field)
        return params

    def _check_fields(self, names: Mapping[str, Any]) -> None:
        for name in names:
            if name not in self.__declaration__.fields:
                raise DeclarationError(
                    f"{type(self).__name__}.{name}",
                    "the name of a field",
                    repr(name),
                    did_you_mean(name, self.__declaration__.fields),
                )

    def __setattr__(self, name: str, value: Any) -> None:
        fields = type(self).__declaration__.fields
        if name in fields:
            fields[name].__set__(self, value)
            return
        if "_is_built" in self.__dict__ and name not in self.__dict__:
            self._check_spelling(name, value, fields)
        super().__setattr__(name, value)

    def _check_spelling(self, name: str, value: Any, fields: Mapping[str, Field]) -> None:
        is_value = isinstance(value, (int, float, Tensor)) and not isinstance(value, bool)
        if name.startswith("_") or not is_value or hasattr(self, name):
            return
        near = [field for field in fields if is_one_edit_from(name, field)]
        if near:
            raise FieldError(
                f"{type(self).__name__}.{name}",
                "the name of a field",
                repr(name),
                f"Did you mean {near[0]!r}?",
            )

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        try:
            return super().__getattr__(name)
        except AttributeError:
            member = inspect.getattr_static(type(self), name, None)
            if not isinstance(member, property) or member.fget is None:
                self._suggest(name)
                raise
        # A property whose own code raised: nn.Module would report that there is no such name.
        try:
            value: Tensor = member.fget(self)
            return value
        except AttributeError as error:
            raise FieldError(
                f"{type(self).__name__}.{name}", "a value", f"AttributeError: {error}"
            ) from error

    def _suggest(self, name: str) -> None:
        near = [field for field in self.__declaration__.fields if is_one_edit_from(name, field)]
        if near:
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r}. Did you mean {near[0]!r}?",
                name=name,
                obj=self,
            ) from None

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        for field in self.__declaration__.fields.values():
            if isinstance(field, Param):
                raw = getattr(self, field.raw_name)
                moved = fn(torch.empty(0, dtype=raw.dtype, device=raw.device))
                if moved.dtype != raw.dtype:
                    subject = field.subject(self)
                    _check_floating(moved.dtype, subject)
                    field.constraint_of(self).check_dtype(moved.dtype, subject)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _signatures(self) -> dict[str, str]:
        """By field what a saved state must agree on: constraints, number bounds, counts."""
        signatures = {
            name: field.signature(self) for name, field in self.__declaration__.fields.items()
        }
        return {name: written for name, written in signatures.items() if written is not None}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", None)
        if metadata is not None:
            metadata.setdefault(prefix[:-1], {})["constraints"] = self._signatures()

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: Any, prefix: str, local_metadata: Any, *others: Any
    ) -> None:
        saved = local_metadata.get("constraints", {})
        for name, mine in self._signatures().items():
            if saved.get(name, mine) != mine:
                raise StateMismatchError(
                    f"{type(self).__name__}.{name}",
                    f"a state saved under {mine}",
                    f"one saved under {saved[name]}",
                    "Load it into the class that saved it and carry the values over: "
                    "new.assign(**old.constrained_values()).",
                )
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)

    def __repr__(self) -> str:
        lines = []
        for name, field in self.__declaration__.fields.items():
            try:
                value = shortened(getattr(self, name))
            except Exception as error:  # noqa: BLE001 - repr must not fail
                value = f"<{type(error).__name__}>"
            lines.append(f"({name}): {value}{field.describe(self)}")
        lines += [f"({name}): {module!r}" for name, module in self._own_modules()]
        body = "".join("\n  " + line.replace("\n", "\n  ") for line in lines)
        return f"{type(self).__name__}({self.extra_repr()}{body}\n)"

    def _own_modules(self) -> list[tuple[str, nn.Module]]:
        """The submodules that are no field's constraint."""
        return [(n, m) for n, m in self.named_children() if not isinstance(m, Constraint)]


def _read(
    declaration: Declaration,
    keywords: Mapping[str, Any],
    batch_shape: int | Sequence[int],
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> Blueprint:
    """Tell values from sizes among a constructor's keywords."""
    subject = declaration.owner
    fields = declaration.fields
    given = {
        name: fields[name].source(value, f"{subject}.{name}")
        for name, value in keywords.items()
        if name in fields and value is not None
    }
    sizes = {name: size for name, size in keywords.items() if name not in fields}
    known = declaration.size_names
    for name, size in sizes.items():
        if name not in known:
            raise DeclarationError(
                f"{subject}({name}=)",
                "the name of a field or of a size",
                repr(name),
                did_you_mean(name, [*fields, *known, *KEYWORDS]),
            )
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ConstraintError(f"{subject}({name}=)", "an int, 0 or above", shortened(size))
    if dtype is not None:
        _check_floating(dtype, f"{subject}(dtype=)")
    blueprint = Blueprint(
        subject,
        given,
        sizes,
        _as_batch_shape(batch_shape, subject),
        None if device is None else torch.device(device),
        dtype,
        aligns=declaration.make is not None,
    )
    blueprint.follow(keywords)
    blueprint.read_sizes(
        [f for f in declaration.order if isinstance(f, (Param, Constant)) and f.name]
    )
    return blueprint


def _check_floating(dtype: object, subject: str) -> None:
    if dtype not in FLOATING:
        raise ConstraintError(
            subject, "a floating-point type", repr(dtype), "Use float64, float32 or a half type."
        )


def _as_batch_shape(batch_shape: int | Sequence[int], subject: str) -> torch.Size:
    sizes: Any = batch_shape if isinstance(batch_shape, Sequence) else (batch_shape,)
    if not all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in sizes):
        raise ConstraintError(
            f"{subject}(batch_shape=)", "sizes, ints 0 or above", shortened(batch_shape)
        )
    return torch.Size(sizes)

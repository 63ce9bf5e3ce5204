"""The values of declared modules: read, set together, reset, frozen, and as one flat vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from declarative_dist.errors import ConstraintError, DeclarationError, did_you_mean, shorten
from declarative_dist.families.copies import measure
from declarative_dist.families.state import DeclaredState
from declarative_dist.fields.field import Field
from declarative_dist.fields.kinds import is_declarative
from declarative_dist.fields.storage import to_tensor
from declarative_dist.fields.templates import nest_values
from declarative_dist.fields.walk import own_modules
from declarative_dist.plain.restoring import restoring
from declarative_dist.plain.tracing import is_traced

Change = tuple[nn.Module, Field, Any]
"""Whose field, which one, and what it is ready to commit."""


class DeclaredValues(DeclaredState):
    """A module whose values are declared fields, by names that are dotted in nested parts."""

    def constrained_values(self) -> dict[str, Any]:
        """The values of all parameters and constants by name, detached.

        A nested part has a dict under its name, a list of parts a list of dicts.
        `new.assign(**old.constrained_values())` carries values over to another constraint.
        """
        declaration = self.__declaration__
        values = declaration.run(self, declaration.value_order)
        exported = {name: field.export(self, values) for name, field in declaration.fields.items()}
        return {name: value for name, value in exported.items() if value is not None}

    def assign(self, **values: Any) -> None:
        """Set several fields at once: all of them, or none if one is refused.

        Args:
            **values: constrained values by field; bounds that are fields themselves may be among
                them. For a nested part, a dict of values or a module; its fields may be given by
                dotted names too: `assign(**{"component_distribution.scale": 1.0})`.

        Raises:
            DeclarationError: for a name that is no field.
            ConstraintError: for a value that its field refuses; nothing has changed then.
        """
        with restoring(*own_modules(self), recurse=False):
            changes = self._prepare(values)
            for owner, field, ready in changes:
                field.commit(owner, ready)
            if any(isinstance(ready, nn.Module) for _, _, ready in changes):
                self._check_parts()
            if not self.__declaration__.tied_names.isdisjoint(values):
                self._check_ties()

    def _prepare(self, values: Mapping[str, Any]) -> list[Change]:
        """New values, checked and ready to be committed."""
        owner, declaration = type(self).__name__, self.__declaration__
        values = nest_values(values, owner)
        for name in values:
            if name not in declaration.fields:
                subject, expected = f"{owner}.{name}", "the name of a field"
                fix = did_you_mean(name, declaration.fields)
                raise DeclarationError(subject, expected, repr(name), fix, code="unknown-name")
        changes: list[Change] = []

        def compute(field: Field, known: dict[str, Any]) -> Any:
            if field.name not in values:
                return field.value(self, known)
            ready = field.prepare(self, values[field.name], known)
            changes.append((self, field, ready))
            if field.name not in needed:
                return None
            known[field.stored_name] = ready
            return ready if field.stored_name == field.name else field.value(self, known)

        involved = {field for name in values for field in declaration.chains[name]}
        order = [field for field in declaration.order if field in involved]
        needed = {name for field in order for name in field.needs}
        with torch.no_grad():
            declaration.run(self, order, compute=compute)
        return changes

    def _check_parts(self) -> None:
        """Refuse a new part that does not go with the other fields."""
        with torch.no_grad():
            measure(self)
            self._check_build(self.__declaration__.run(self, self.__declaration__.order))
            self._check_whole()

    def reset_parameters(self) -> None:
        """Go back to what this instance was built with, constants and bounds too.

        A callable starting value is drawn again. After `to_empty` this fills a module that was
        built on the meta device.
        """

        def reset(field: Field, values: dict[str, Any]) -> Any:
            field.reset(self, values)
            # Shards can be reset, but not mapped: only what others need is computed.
            return field.value(self, values) if field.name in needed else None

        declaration = self.__declaration__
        needed = {name for field in declaration.order for name in field.needs}
        with restoring(*own_modules(self), recurse=False), torch.no_grad():
            declaration.run(self, declaration.order, compute=reset)

    def freeze(self, *names: str) -> None:
        """Take parameters and nested parts out of training; without names, all of them."""
        self._require_grad(names, False)

    def unfreeze(self, *names: str) -> None:
        """Take parameters and nested parts back into training; without names, all of them."""
        self._require_grad(names, True)

    def _require_grad(self, names: tuple[str, ...], requires_grad: bool) -> None:
        found = [_find_parameters(self, name) for name in names] or [list(self.parameters())]
        for parameter in (parameter for parameters in found for parameter in parameters):
            parameter.requires_grad_(requires_grad)

    def parameter_groups(self, **options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Groups for an optimizer: one per field named, and one for all other parameters.

        Args:
            **options: for a field or a nested part, the optimizer's options, such as
                `loc={"lr": 1e-2}` or `**{"component_distribution.scale": {"lr": 1e-3}}`. A name
                inside a part comes before the part's own.

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
        for name, given in options.items():
            if not isinstance(given, Mapping):
                subject, got = f"{type(self).__name__}.parameter_groups({name}=)", shorten(given)
                expected = "a dict of an optimizer's options"
                raise DeclarationError(subject, expected, got, f'Write {name}={{"lr": 1e-2}}.')
        found = {name: _find_parameters(self, name) for name in options}
        grouped: set[int] = set()
        members: dict[str, list[nn.Parameter]] = {}
        for name in sorted(found, key=lambda name: -name.count(".")):
            members[name] = [p for p in found[name] if id(p) not in grouped]
            grouped.update(map(id, members[name]))
        groups = [{"params": members[name], **options[name]} for name in options if members[name]]
        rest = [parameter for parameter in self.parameters() if id(parameter) not in grouped]
        return [*groups, {"params": rest}] if rest else groups

    def to_vector(self) -> Tensor:
        """All trainable unconstrained numbers, in the order of `parameters()`, as a new vector.

        Weights of networks and learned priors count too, unlike in `unconstrained_log_density`.
        """
        flat = [p.detach().reshape(-1) for p in self.parameters() if p.requires_grad]
        return torch.cat(flat) if flat else torch.empty(0)

    def from_vector_(self, vector: Any) -> Self:
        """Write what `to_vector` gives back into the same parameters.

        Args:
            vector: a tensor, an array or a list of that many numbers, in any real dtype.

        Returns:
            The module itself.

        Raises:
            ConstraintError: for another number of them, or one that is not finite; nothing has
                changed then.
        """
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        sizes = [parameter.numel() for parameter in trained]
        subject = f"{type(self).__name__}.from_vector_"
        expected = f"a vector of {sum(sizes)} real numbers, one for each trainable one"
        whole = to_tensor(vector, subject, expected=expected)
        if whole.shape != (sum(sizes),) or whole.dtype == torch.bool:
            got = f"shape {tuple(whole.shape)} in {whole.dtype}"
            fix = "Nothing has changed. to_vector() gives one of that size."
            raise ConstraintError(subject, expected, got, fix, code="wrong-shape")
        pieces = zip(whole.split(sizes), trained, strict=True)
        new = [to_tensor(piece, subject, p.dtype, p.device, expected) for piece, p in pieces]
        if not is_traced(whole) and not all(numbers.isfinite().all() for numbers in new):
            expected = "finite numbers, also in the dtype of each parameter"
            raise ConstraintError(subject, expected, shorten(whole), code="not-finite")
        with torch.no_grad():
            for numbers, parameter in zip(new, trained, strict=True):
                parameter.copy_(numbers.reshape(parameter.shape))
        return self


def _find_parameters(module: nn.Module, name: str) -> list[nn.Parameter]:
    """The parameters behind a name, dotted where it is one of a nested part."""
    if not isinstance(name, str):
        expected = "the name of a parameter, in quotes"
        raise DeclarationError(type(module).__name__, expected, shorten(name), code="unknown-name")
    path, _, last = name.rpartition(".")
    try:
        part: Any = module.get_submodule(path)
    except AttributeError:
        part, last = module, name
    fields = part.__declaration__.fields if is_declarative(part) else {}
    field, inner = fields.get(last), part._modules.get(last)
    if field is not None and (field.is_learned or field.is_part):
        return field.parameters_of(part)
    if inner is not None:
        return list(inner.parameters())
    own = {} if fields else part._parameters
    if own.get(last) is not None:
        return [own[last]]
    got, known = repr(last), [n for n, f in fields.items() if f.is_learned or f.is_part]
    fix = did_you_mean(last, known or [*own, *part._modules])
    if field is not None and field.is_predicted:
        got, fix = f"{got}, which is predicted", "Its weights are in 'projection' and 'network'."
    subject = f"{type(module).__name__}.{name}"
    raise DeclarationError(subject, "the name of a parameter", got, fix, code="unknown-name")

"""Parameters: learned through an unconstrained number, read and written constrained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from typing_extensions import Self

from declarative_dist.constraints.adapters import FromModule
from declarative_dist.errors import ConstraintError, DeclarationError, shorten
from declarative_dist.fields.alignment import ndims_of
from declarative_dist.fields.blueprint import Blueprint, Start, call_with_shape
from declarative_dist.fields.field import Stored, current_value, needed_values
from declarative_dist.fields.prior import (
    as_prior,
    check_fits,
    describe_prior,
    log_density,
    restrict,
)
from declarative_dist.fields.sharding import is_shard
from declarative_dist.fields.storage import check_finite, expand_to_copies, to_tensor, write_tensor
from declarative_dist.fields.templates import copy_template
from declarative_dist.fields.value import Constrained, Init, as_source, to_raw
from declarative_dist.plain.draws import sum_rightmost
from declarative_dist.plain.tensors import are_finite
from declarative_dist.plain.tracing import is_traced

if TYPE_CHECKING:
    from declarative_dist.declaration.record import Declaration

MakePrior = Callable[[torch.Size], Distribution]
"""A prior whose size is the parameter's."""

SLACK = 64
"""How many roundings a value may be off when it is computed in another dtype."""


class Param(Constrained, Stored):
    """A learned, constrained attribute.

    On the class it reads as the `Param`; on an instance as a Tensor, the constrained value,
    computed afresh on every read. The unconstrained `nn.Parameter` is `raw_<name>`. Assigning
    checks the value and writes through the inverse into the same Parameter, so the state of an
    optimizer survives. Changing the tensor that was read (`q.scale[0] = 1.0`) cannot persist.

    Args:
        init: the starting value, constrained: a number, a nested list, a tensor, or a callable
            that takes the full shape, such as `torch.randn`. None for the constraint's default.
        constraint: anything that `as_constraint` takes; None to infer it from the argument of the
            base that bears the field's name.
        shape: sizes and names of sizes; a name becomes a keyword of the constructor. None for the
            shape of the value.
        trainable: False keeps the parameter out of training (`requires_grad` off), but saved and
            moved with the others.
        prior: a distribution over the value, on the set of its constraint. A plain one is held
            constant and moves with the module; a declared family or an instance of one is learned
            with the others. Its shapes broadcast to the parameter's. A callable from the
            shape of the parameter to a distribution serves where instances say the sizes:
            `prior=lambda shape: dd.Dirichlet(torch.ones(shape))`. On an instance it is
            `<name>_prior`, and `log_prior` adds up all of them.
        doc: what the parameter is for.

    Raises:
        DeclarationError: if an argument is of the wrong kind.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist import Exp, Param, Positive, Variational
        >>> class GammaFamily(Variational):
        ...     base = dd.Gamma
        ...     concentration = Param(1.0, Positive())
        ...     rate = Param(1.0, Exp())
        >>> q = GammaFamily(rate=2.0)
        >>> q.rate
        tensor(2., grad_fn=<ExpBackward0>)
        >>> GammaFamily.rate
        Param(1.0, Exp())
    """

    is_learned = True

    def __init__(
        self,
        init: Init | None = None,
        constraint: object = None,
        *,
        shape: int | str | Sequence[int | str] | None = None,
        trainable: bool = True,
        prior: Distribution | type[Distribution] | MakePrior | None = None,
        doc: str | None = None,
    ) -> None:
        super().__init__(init, constraint, shape)
        self.trainable = trainable
        kinds = (type, nn.Module, Transform)
        self.has_sized_prior = not isinstance(prior, kinds) and callable(prior)
        """Whether the prior is made for the shape of each instance."""
        is_known = prior is None or self.has_sized_prior
        self.prior = prior if is_known else as_prior(prior, "Param(prior=)")
        self.doc = doc
        if doc is not None:
            self.__doc__ = doc

    @property
    def prior_name(self) -> str:
        """The name of the prior on an instance."""
        return f"{self.name}_prior"

    def with_own_modules(self, copy_value: Callable[[Any], Any]) -> Self:
        if self.prior is None:
            return self
        field = copy.copy(self)
        field.prior = copy_value(self.prior)
        return field

    def settle(self, owner: Declaration) -> None:
        super().settle(owner)
        subject = owner.subject(self.name)
        for bound in owner.chains[self.name]:
            if bound.is_given or (bound.is_predicted and self.prior is not None):
                expected = "bounds that an instance has, also where there is no context"
                got = f"a bound that needs {bound.name!r}, {bound!r}"
                fix = "Declare a Head, or compute the value in a @derived method."
                code = "misplaced-field" if bound.is_given else "prior-mismatch"
                raise DeclarationError(subject, expected, got, fix, code=code)
        # There is no sized prior before there is an instance.
        if self.prior is not None and not self.has_sized_prior and not self.needs:
            self.prior = restrict(self.prior, self.constraint, subject, DeclarationError)

    def bind(self, module: nn.Module, blueprint: Blueprint, values: Mapping[str, Any]) -> None:
        raw = self.build_raw(module, blueprint, values)
        # What register_parameter does, without a look for attributes of this name.
        module._parameters[self.raw_name] = nn.Parameter(raw, requires_grad=self.trainable)
        if self.prior is not None:
            with torch.no_grad():
                module._modules[self.prior_name] = self._make_prior(module, blueprint, values)

    def _make_prior(
        self, module: nn.Module, blueprint: Blueprint, values: Mapping[str, Any]
    ) -> nn.Module:
        """The prior of a new instance; refused if it does not fit its shape, or its set."""
        copies, template, value = blueprint.batch_shape, self.prior, self.value(module, values)
        shape, subject = value.shape[len(copies) :], self.subject(module)
        if self.has_sized_prior:
            where = f"{subject}(prior=)"
            fix = "Write prior=lambda shape: dd.Dirichlet(torch.ones(shape)), for instance."
            template = as_prior(call_with_shape(template, shape, where, fix), where)
        is_learned = any(True for _ in template.parameters())
        prior = copy_template(template, blueprint, value.dtype, is_replicated=is_learned)
        check_fits(prior.to(value.device), shape, subject, copies)
        if self.has_sized_prior or self.needs:
            constraint = self.resolved_constraint(module, values)
            prior = restrict(prior, constraint, subject, has_names=bool(self.needs))
        return prior

    def log_prior(
        self, module: nn.Module, values: Mapping[str, Any], lead: int, unconstrained: bool
    ) -> Tensor:
        """The log density under the prior, summed over all but the first `lead` dimensions.

        Args:
            module: the instance.
            values: the field's own value, and the values of the fields that it needs.
            lead: how many dimensions of samples and independent copies stay.
            unconstrained: whether it is the density of the unconstrained numbers.

        Raises:
            ConstraintError: if a bound has moved out of the support of the prior.
            NotImplementedError: if the constraint does not define its Jacobian.
        """
        value = values[self.name]
        prior = module._modules[self.prior_name]
        try:
            own, copies = ndims_of(module)[self.name], vars(module)["_copies"]
            # Where its set is known, and stays as it was when it was checked.
            is_inside = not self.needs and not isinstance(self.constraint, FromModule)
            terms = [log_density(prior, value, copies, own, is_inside=is_inside)]
        except ValueError as error:
            expected = f"a value in the support of its prior, {describe_prior(prior)}"
            fix = "Where its bound is learned the set has moved: learn the distance to it instead."
            subject, got = self.subject(module), shorten(value)
            raise ConstraintError(subject, expected, got, fix, code="outside-support") from error
        if unconstrained:
            raw = values.get(self.raw_name)
            raw = getattr(module, self.raw_name) if raw is None else raw
            terms.append(self.resolved_constraint(module, values).log_volume(raw, value))
        sums = [sum_rightmost(term, term.ndim - lead) for term in terms]
        return sums[0] + sums[1] if unconstrained else sums[0]

    def value(self, module: nn.Module, values: Mapping[str, Any]) -> Tensor:
        raw = values.get(self.raw_name)
        if raw is None:
            raw = module._parameters.get(self.raw_name)
        if raw is None:  # a parametrization of torch has replaced it
            raw = getattr(module, self.raw_name)
        if self._forward is not None:  # the common case, without one more call
            return self._forward(raw)
        return self.resolved_constraint(module, values).forward(raw)

    def as_source(self, value: Any, subject: str) -> Any:
        return as_source(value, subject)

    def prepare(self, module: nn.Module, value: object, values: Mapping[str, Any]) -> Tensor:
        subject = self.subject(module)
        source = as_source(value, subject)
        with torch.no_grad():
            now = self.value(module, values)
            new = to_tensor(source, subject, now.dtype, now.device)
            fix = "A parameter keeps its shape: build a new object for another."
            new = expand_to_copies(new, now, ndims_of(module)[self.name], subject, fix)
            return to_raw(self.resolved_constraint(module, values), new, source, subject)

    def commit(self, module: nn.Module, prepared: Tensor) -> None:
        write_tensor(module, self.raw_name, prepared, self)

    @property
    def stored_name(self) -> str:
        return self.raw_name

    def check_stored(self, module: nn.Module, tensor: Tensor, now: Tensor | None = None) -> None:
        dtype, subject = tensor.dtype, self.subject(module)
        if dtype != self.place_of(module)[0]:
            self.check_dtype(module, dtype)
        if is_traced(tensor) or is_shard(tensor):
            return
        if now is not None:
            self._check_band(module, now, tensor)
        elif not (are_finite([tensor]) or tensor.isfinite().all()):
            expected, got = f"finite unconstrained numbers in {dtype}", shorten(tensor)
            raise ConstraintError(subject, expected, got, "Nothing changed.", code="not-finite")

    def _check_band(self, module: nn.Module, now: Tensor, moved: Tensor) -> None:
        """Refuse a narrower dtype in which the value would change by more than rounding."""
        if self.needs or torch.finfo(moved.dtype).max > torch.finfo(now.dtype).max:
            return
        with torch.no_grad():
            before, rounded, after = (
                self.value(module, {self.raw_name: raw}).double().cpu()
                for raw in (now, moved.to(now), moved)
            )
        # Rounding of the raw numbers is not at issue, but the band of the dtype.
        near = SLACK * max(torch.finfo(dtype).eps for dtype in (now.dtype, moved.dtype))
        whole = rounded.abs().max().item() if self.event_dim and rounded.numel() else 0.0
        subject = self.subject(module)
        check_finite(now, moved, before, subject)
        if not torch.allclose(after, rounded, near, near * whole):
            expected = f"a value within the band of {moved.dtype}"
            got = f"{shorten(before)}, which would become {shorten(after)}"
            fix = "Nothing changed. Keep a wider dtype, or give its constraint another guard."
            raise ConstraintError(subject, expected, got, fix, code="dtype-or-device")

    def reset(self, module: nn.Module, values: Mapping[str, Any]) -> None:
        super().reset(module, values)
        if self.prior is not None:
            module._modules[self.prior_name].reset_parameters()  # type: ignore[union-attr, operator]

    def parameters_of(self, module: nn.Module) -> list[nn.Parameter]:
        raw = module._parameters.get(self.raw_name)
        if raw is not None:
            return [raw]
        # Torch may have replaced it: by a parametrization, by pruning, or by a weight norm.
        names = [f"{self.raw_name}_{end}" for end in ("orig", "g", "v")]
        inside = f"parametrizations.{self.raw_name}."
        found = module.named_parameters(remove_duplicate=False)
        return [value for name, value in found if name in names or name.startswith(inside)]

    def is_trained(self, module: nn.Module) -> bool:
        """Whether steps of an optimizer change the value now."""
        return any(parameter.requires_grad for parameter in self.parameters_of(module))

    def replicate(self, module: nn.Module, copies: torch.Size, done: dict[int, Any]) -> None:
        """Give the numbers independent copies, which stand in front.

        What is tied stays tied: `done` maps the id of each parameter that has its copies to the
        parameter and its repetition.
        """
        start: Start = vars(module)["_starts"][self.name].repeat(copies)
        vars(module)["_starts"][self.name] = start
        raw: Any = module._parameters[self.raw_name]
        _, new = done.get(id(raw), (raw, None))
        if new is None:
            if callable(self.source_of(start)) and any(size != 1 for size in copies):
                numbers = self.rebuild(module, needed_values(module, self.name))
            else:
                numbers = raw.detach().expand(*copies, *raw.shape).clone()
            new = nn.Parameter(numbers, requires_grad=raw.requires_grad)
            done[id(raw)] = (raw, new)
        module._parameters[self.raw_name] = new

    def is_at_start(self, module: nn.Module, tensor: Tensor | None = None) -> bool:
        # Behind a base point that moves, raw numbers do not tell.
        return not isinstance(self.constraint, FromModule) and super().is_at_start(module, tensor)

    def describe(self, module: nn.Module) -> str:
        frozen = "" if self.is_trained(module) else ", frozen"
        prior = module._modules.get(self.prior_name)
        shown = "" if prior is None else f", prior={describe_prior(prior)}"
        return f"{self.constraint_of(module)!r}{shown}{frozen}"

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: nn.Module, owner: type) -> Tensor: ...
    def __get__(self, instance: nn.Module | None, owner: type) -> Self | Tensor:
        if instance is None:
            return self
        return current_value(instance, self.name)

    if TYPE_CHECKING:

        def __set__(self, instance: nn.Module, value: float | Sequence[Any] | Tensor) -> None: ...

    def __repr__(self) -> str:
        init = [] if self.init is None else [shorten(self.init)]
        shape = [] if self.shape is None else [f"shape={self.shape!r}"]
        trainable = [] if self.trainable else ["trainable=False"]
        prior = [] if self.prior is None else [f"prior={describe_prior(self.prior)}"]
        return f"Param({', '.join([*init, *self.shown_constraint, *shape, *trainable, *prior])})"

"""Modules with declared fields, in place of raw parameters, properties and setters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.declaration.metaclass import DeclarativeMeta
from declarative_dist.declaration.rules import check_setting, check_spelling
from declarative_dist.errors import DeclarationError, FieldError, shorten
from declarative_dist.families.copies import arrange, install_fields
from declarative_dist.families.keywords import blueprint_of
from declarative_dist.families.priors import log_prior_of, raws_at
from declarative_dist.families.values import DeclaredValues
from declarative_dist.fields.kinds import built_kind, predicted_kind
from declarative_dist.fields.sharding import register_forward_pre_hook
from declarative_dist.latents.density import UnconstrainedLogDensity
from declarative_dist.latents.flat_params import FlatParams
from declarative_dist.words import is_one_edit_from

_EXAMPLES: Mapping[type | None, str] = {Distribution: "Normal", Transform: "AffineTransform"}
"""A base for each kind of object that a class builds from one."""


def _explain_recursion(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A `forward` of a subclass that builds something, and does not call what calls it."""

    @wraps(forward)
    def explaining(self: Any, *arguments: Any, **keywords: Any) -> Any:
        subject = f"{type(self).__name__}.forward"
        expected = "a forward that returns a distribution"
        try:
            result = forward(self, *arguments, **keywords)
        except RecursionError as error:
            got = "one that calls itself, as through self.log_prob or self.mean"
            fix = "Start from distribution = super().forward(), and ask that one."
            raise FieldError(subject, expected, got, fix) from error
        builds = result is None or not (arguments or keywords)  # else it may be a loss of data
        if builds and isinstance(self, Distribution) and not isinstance(result, Distribution):
            fix = "Start from distribution = super().forward(), and return that one or another."
            raise FieldError(subject, expected, f"one that returns {shorten(result)}", fix)
        return result

    return explaining


class Declarative(DeclaredValues, metaclass=DeclarativeMeta):
    """A module whose constrained parameters are declared in its class body.

    Modules in the class body are nested parts: every instance owns copies, built with it. The
    constructor takes an instance for a part, which is then shared, or a dict of its values. Names
    of fields in parts are dotted: `q.freeze("component_distribution.scale")`.

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
    __builds__: ClassVar[type | None] = None
    """What calling an instance without arguments gives, where it stands for a plain object."""

    __keywords__: ClassVar[tuple[str, ...]] = ()
    """Keywords of the constructor beside the ones that every declarative class takes."""

    # Entries of `vars(self)`, whose names no field may take: docs/inside.md says what each holds.
    _starts: dict[str, Any]
    _biases: dict[str, Tensor]
    _constants: dict[str, Any]
    _kinds: dict[str, int]
    _sizes: Mapping[str, int]
    _copies: torch.Size
    _ndims: dict[str, int]
    _padding: int
    _alignment: Sequence[tuple[str, int, int]]
    _is_built: bool
    _is_whole: bool

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "forward" in vars(cls) and "__framework__" not in vars(cls):
            cls.forward = _explain_recursion(cls.forward)

    def __init__(
        self,
        *,
        batch_shape: int | Sequence[int] = (),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **sizes_and_values: Any,
    ) -> None:
        # A distribution's own __init__ stores shapes and checks arguments; both live in the base.
        nn.Module.__init__(self)
        self._check_class()
        declaration = self.__declaration__
        vars(self).update(_starts={}, _biases={}, _constants={}, _kinds={})
        others = () if predicted_kind(self) is None else self.__keywords__
        blueprint = blueprint_of(declaration, sizes_and_values, batch_shape, device, dtype, others)
        vars(self)["_sizes"] = blueprint.sizes
        values = install_fields(self, blueprint)
        self._check_build(values)
        vars(self)["_is_built"] = True

    def _check_class(self) -> None:
        """Refuse a class that was declared without what its instances build."""
        builds = self.__builds__ or predicted_kind(self)
        if builds in _EXAMPLES and self.__declaration__.base is None:
            subject = type(self).__name__
            fix = f"Write base = torch.distributions.{_EXAMPLES[builds]} in the class body."
            raise DeclarationError(subject, "a class with a base", "none", fix, code="no-base")

    def log_prior(
        self, values: Mapping[str, Tensor] | None = None, *, unconstrained: bool = False
    ) -> Tensor:
        """The log density of all parameters with a prior, also in nested parts, each part once.

        Args:
            values: None for the current values; for others, such as a guide's draws, the values of
                all trainable `Param`s, of shape `(*sample, *batch, *event)` by dotted name.
            unconstrained: False for the density of the values, which priors are stated for. True
                for the density of the unconstrained numbers behind them, with the log determinant
                of the Jacobian of each constraint, given its bounds: the density to sample from,
                or to climb, when a step changes those numbers.

        Returns:
            The sum over everything but the independent copies, of shape `batch_shape`, behind
            `(*sample)` with values; a part without copies of its own counts in each. Parameters
            without a prior add nothing: they are flat, in their values or in their unconstrained
            numbers. Frozen ones count as they are. Without any prior, zero.

        Raises:
            NotImplementedError: if a constraint does not define its Jacobian.
            ConstraintError: for `values` whose names, shapes or numbers do not fit.

        Example:
            >>> import torch
            >>> import torch.distributions as dd
            >>> from declarative_dist import Declarative, Exp, Param
            >>> class Kernel(Declarative):
            ...     lengthscale = Param(1.0, Exp(), prior=dd.LogNormal(0.0, 1.0))
            >>> kernel = Kernel(lengthscale=2.0)
            >>> kernel.log_prior(), kernel.log_prior(unconstrained=True).exp()
            (tensor(-1.8523, grad_fn=<AddBackward0>), tensor(0.3137, grad_fn=<ExpBackward0>))
            >>> kernel.log_prior({"lengthscale": torch.tensor([1.0, 2.0])})
            tensor([-0.9189, -1.8523])
        """
        copies: torch.Size = vars(self)["_copies"]
        if values is None:
            return log_prior_of(self, copies, unconstrained)
        raws, sample = raws_at(self, values)
        return log_prior_of(self, copies, unconstrained, raws, sample)

    def unconstrained_log_density(self, log_joint: object) -> UnconstrainedLogDensity:
        """A log density of unconstrained vectors, for outside samplers and optimisers.

        Args:
            log_joint: from values of the trainable `Param`s, a dict of tensors of shape
                `(*sample, *batch, *event)`, to log densities of shape `(*sample, *batch)`. Names
                in nested parts are dotted; weights of networks and learned priors are no sites.

        Returns:
            A callable from vectors `(*sample, *batch, size)` to log densities `(*sample, *batch)`,
            log of the volume change included; with `start()`, and with `constrain(vector)`, which
            makes dicts of values of a sampler's draws.

        Raises:
            DeclarationError: if nothing is trainable.
        """
        return UnconstrainedLogDensity(FlatParams(self), log_joint)

    def __setattr__(self, name: str, value: Any) -> None:
        fields = type(self).__declaration__.fields
        if name in fields and "_is_loading" not in vars(self):
            fields[name].__set__(self, value)
            return
        check_setting(self, name)
        if "_is_built" in self.__dict__ and name not in self.__dict__:
            check_spelling(self, name, value)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        field = type(self).__declaration__.fields.get(name)
        if field is None:
            super().__delattr__(name)
        else:
            field.__delete__(self)

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        try:
            return super().__getattr__(name)
        except AttributeError:
            member: Any = getattr(type(self), name, None)
            if not isinstance(member, property):
                said = self._hint(name)
                if not said:
                    raise
                said = f"{type(self).__name__}{said}"
                raise AttributeError(said, name=name, obj=self) from None
        # A property whose own code raised: nn.Module would report that there is no such name.
        try:
            return member.__get__(self)
        except AttributeError as error:
            raise FieldError(
                f"{type(self).__name__}.{name}", "a value", f"AttributeError: {error}"
            ) from error

    def _hint(self, name: str) -> str:
        """What an error says of a name that an instance has not, where there is more to say."""
        fields, base = self.__declaration__.fields, self.__declaration__.base
        if name in fields:
            return f".{name} has no value: it was deleted. Set it, or call reset_parameters()."
        near = [field for field in fields if is_one_edit_from(name, field)]
        if near:
            return f" has no attribute {name!r}. Did you mean {near[0]!r}?"
        predicted = predicted_kind(self)
        kind, call = predicted or built_kind(self), "q(context)" if predicted else "q()"
        kind = base if isinstance(base, type) else kind
        if kind is None or not hasattr(kind, name):
            return ""
        return f" has no field {name!r}. {kind.__name__} may compute it: read {call}.{name}."

    def _build_apart(self) -> Any:
        """The distribution that an instance stands for, with each copy or context for itself."""
        return None

    def _restart(self) -> None:
        """Make the current values those that `reset_parameters` goes back to."""
        for field in self.__declaration__.stored:
            field.restart(self)

    def _replicate(self, copies: torch.Size, done: dict[int, Any]) -> None:
        """Give independent copies to all parameters, in front of what there is."""
        vars(self)["_copies"] = torch.Size((*copies, *vars(self)["_copies"]))
        order: tuple[Any, ...] = self.__declaration__.order
        for field in order:
            if field.is_learned:
                field.replicate(self, copies, done)
        arrange(self, vars(self)["_padding"], is_owned=True)
        self._check_mixing()

    register_forward_pre_hook = register_forward_pre_hook

    def extra_repr(self) -> str:
        """The base's name, for `repr`."""
        base = self.__declaration__.base
        return base.__name__ if isinstance(base, type) else ""

    def __repr__(self) -> str:
        declaration = self.__declaration__
        lines = []
        for name, field in declaration.fields.items():
            try:
                text = field.render(self)
            except Exception as error:  # noqa: BLE001 - repr must not fail
                text = f"<{type(error).__name__}>, {field.describe(self)}"
            lines.append(f"({name}): {text}")
        known = {*declaration.fields, *declaration.of_prior}
        for name, part in self.named_children():
            if name not in known and not isinstance(part, Constraint):
                lines.append(f"({name}): {part!r}")
        body = "".join("\n  " + line.replace("\n", "\n  ") for line in lines)
        return f"{type(self).__name__}({self.extra_repr()}{body}\n)"

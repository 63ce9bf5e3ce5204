"""The arguments that the constructors of torch's distributions and transforms take."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch.distributions as dd
from torch.distributions import Distribution, Transform, constraints
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical
from torch.distributions.transforms import _InverseTransform

EXCLUSIVE = (
    ("logits", "probs"),
    ("gate_logits", "gate"),
    ("scale_tril", "covariance_matrix", "precision_matrix"),
)
"""Arguments that say the same thing in other words; the first is the preferred one."""

MATRIX = {
    "scale_tril": constraints.lower_cholesky,
    "covariance_matrix": constraints.positive_definite,
    "precision_matrix": constraints.positive_definite,
}

_UNSTATED: dict[type, Mapping[str, constraints.Constraint]] = {
    dd.LogisticNormal: {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    },
    dd.Uniform: {"low": constraints.real, "high": constraints.real},
    dd.Wishart: {"df": constraints.positive, **MATRIX},
    dd.LKJCholesky: {"dim": constraints.positive_integer},
    dd.Multinomial: {"total_count": constraints.nonnegative_integer},
    dd.RelaxedBernoulli: {"temperature": constraints.positive},
    dd.RelaxedOneHotCategorical: {"temperature": constraints.positive},
    LogitRelaxedBernoulli: {"temperature": constraints.positive},
    ExpRelaxedCategorical: {"temperature": constraints.positive},
    dd.AffineTransform: {"loc": constraints.real, "scale": constraints.positive},
    dd.PowerTransform: {"exponent": constraints.positive},
}
"""What torch's own `arg_constraints` leave out, say only of an instance, or say of single numbers
where events are vectors.

Transforms state nothing; a scale and an exponent keep their sign, or the map has no inverse.
"""

_PARTS: dict[type, Mapping[str, type[Distribution | Transform]]] = {
    dd.Independent: {"base_distribution": Distribution},
    dd.MixtureSameFamily: {
        "mixture_distribution": dd.Categorical,
        "component_distribution": Distribution,
    },
    dd.TransformedDistribution: {"base_distribution": Distribution, "transforms": Transform},
    dd.CatTransform: {"tseq": Transform},
    dd.ComposeTransform: {"parts": Transform},
    dd.CumulativeDistributionTransform: {"distribution": Distribution},
    dd.IndependentTransform: {"base_transform": Transform},
    dd.StackTransform: {"tseq": Transform},
    _InverseTransform: {"transform": Transform},
}
"""The arguments that are distributions or transforms themselves."""

_SEQUENCES = ("transforms", "parts", "tseq")
"""Arguments that take a list of transforms."""


class ExtendedReal(type(constraints.real)):  # type: ignore[misc]
    """All numbers, infinity among them: what the ends of an interval may be."""


def register_arguments(
    kind: type[Distribution],
    parts: Mapping[str, type[Distribution | Transform]],
    constants: tuple[str, ...] = (),
) -> None:
    """State what the arguments of a class are, where its `arg_constraints` do not.

    Args:
        kind: the class; its subclasses have them too.
        parts: the arguments that are distributions or transforms themselves.
        constants: those that are ends of an interval, which nobody learns unless they are
            declared.
    """
    _PARTS[kind] = parts
    _UNSTATED[kind] = dict.fromkeys(constants, ExtendedReal())


@dataclass(frozen=True)
class Argument:
    """One argument of the constructor of a distribution or a transform.

    Args:
        name: its name.
        required: whether it has no default.
        default: the default, or None.
        torch_constraint: what torch says that it must satisfy, or None.
        is_torchs: whether the class derives from one of torch's families, where events of all
            arguments have the same size, and of those that say the same you give one.
        part: what it must be an instance of, for an argument that is a distribution or a
            transform; else None.
    """

    name: str
    required: bool
    default: object
    torch_constraint: constraints.Constraint | None
    is_torchs: bool = True
    part: type[Distribution | Transform] | None = None

    @property
    def event_dim(self) -> int:
        """How many rightmost dimensions of the argument belong to one event."""
        return 0 if self.torch_constraint is None else self.torch_constraint.event_dim

    @property
    def is_learnable(self) -> bool:
        """Whether it is a continuous number, so that it can be a parameter."""
        if self.is_constant or self.torch_constraint is None:
            return False
        return not self.torch_constraint.is_discrete

    @property
    def is_constant(self) -> bool:
        """Whether it stays as it is unless a class body declares it."""
        return isinstance(self.torch_constraint, ExtendedReal)

    @property
    def is_count(self) -> bool:
        """Whether it is a whole number, or a switch, which no gradient reaches."""
        if self.torch_constraint is None:
            return self.default is not None
        return bool(self.torch_constraint.is_discrete)

    @property
    def is_sequence(self) -> bool:
        """Whether it takes a list of transforms."""
        return self.part is Transform and self.name in _SEQUENCES

    def event_names(self) -> tuple[str, ...]:
        """Names for the sizes of its event dimensions."""
        if not self.is_torchs:
            return tuple(f"{self.name}_size{i + 1}" for i in range(self.event_dim))
        if self.name == "cov_factor":
            return ("dim", "rank")
        return ("dim",) * self.event_dim


def arguments_of(base: type[Distribution | Transform]) -> dict[str, Argument]:
    """The constructor arguments of a distribution or transform class, in order.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist.plain.arguments import arguments_of
        >>> list(arguments_of(dd.StudentT))
        ['df', 'loc', 'scale']
    """
    stated = inspect.getattr_static(base, "arg_constraints", None)
    known = {**(stated if isinstance(stated, Mapping) else {}), **_known_of(_UNSTATED, base)}
    parts = _known_of(_PARTS, base)
    kinds = (k for k in base.__mro__ if k not in (Distribution, dd.ExponentialFamily))
    is_torch_family = any(k.__module__.startswith("torch.distributions") for k in kinds)
    arguments = {}
    for parameter in parameters_of(base.__init__):
        is_open = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if is_open or parameter.name == "validate_args":
            continue
        name = parameter.name
        required, constraint = parameter.default is parameter.empty, unwrap(known.get(name))
        arguments[name] = Argument(
            name,
            required=required,
            default=None if required else parameter.default,
            torch_constraint=None if constraints.is_dependent(constraint) else constraint,
            is_torchs=is_torch_family,
            part=parts.get(name),
        )
    return arguments


@lru_cache(maxsize=512)
def parameters_of(constructor: Any) -> tuple[inspect.Parameter, ...]:
    """The parameters of an `__init__` behind self."""
    return tuple(inspect.signature(constructor).parameters.values())[1:]


REGISTERED: set[type] = set()
"""The types of constraints that stand for themselves, for it is known what they mean."""


def unwrap(stated: Any) -> Any:
    """The constraint that an object of somebody else's class holds, if it holds just one.

    So classes say that an argument may be None: scVI has an `optional_constraint`.

    Example:
        >>> from torch.distributions import constraints
        >>> from declarative_dist.plain.arguments import unwrap
        >>> class Optional(constraints.Constraint):
        ...     def __init__(self, constraint):
        ...         self.constraint = constraint
        >>> unwrap(Optional(Optional(constraints.positive)))
        GreaterThan(lower_bound=0.0)
    """
    is_torchs = type(stated).__module__.startswith("torch.distributions")
    if is_torchs or not REGISTERED.isdisjoint(type(stated).__mro__):
        return stated
    entries = getattr(stated, "__dict__", {}).values()
    inner = [entry for entry in entries if isinstance(entry, constraints.Constraint)]
    return unwrap(inner[0]) if len(inner) == 1 else stated


def hides_arguments(base: Any) -> bool:
    """Whether a constructor takes values without names: as `*args`, `**kwargs`, or before `/`."""
    given = parameters_of(base.__init__)
    if any(p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL) for p in given):
        return True
    named = {p.name for p in given if p.kind is not p.VAR_KEYWORD}
    return len(named) < len(given) and named <= {"validate_args"}


def _known_of(table: Mapping[type, Mapping[str, Any]], base: type) -> dict[str, Any]:
    """What a table says of a class, its ancestors' entries behind its own."""
    known: dict[str, Any] = {}
    for ancestor in reversed(base.__mro__):
        known.update(table.get(ancestor, {}))
    return known


def look_up(table: Mapping[type, Any], kind: type, default: Any = None) -> Any:
    """What a table says of a class, or of the nearest one that it derives from."""
    return next((table[ancestor] for ancestor in kind.__mro__ if ancestor in table), default)


def alternatives(arguments: Mapping[str, Argument]) -> list[tuple[str, ...]]:
    """The groups of optional arguments of which a family of torch's takes exactly one.

    What a foreign class takes of such a group, it alone knows.
    """
    return [group for group in _synonyms(arguments) if arguments[group[0]].is_torchs]


def _synonyms(arguments: Mapping[str, Argument]) -> list[tuple[str, ...]]:
    """The groups of optional arguments that say the same in other words."""
    optional = {
        n for n, known in arguments.items() if not known.required and known.default is None
    }
    groups = [tuple(name for name in group if name in optional) for group in EXCLUSIVE]
    return [group for group in groups if len(group) > 1]


def choose_preferred(arguments: Mapping[str, Argument]) -> dict[str, Argument]:
    """The arguments that a base needs, one of those that say the same in other words.

    An argument whose default is None may be left out. Of a foreign base whose arguments all may,
    none is preferred: only you know which go together.
    """
    has_core = any(argument.required or argument.is_torchs for argument in arguments.values())
    first = {group[0] for group in _synonyms(arguments)} if has_core else set()
    return {
        name: argument
        for name, argument in arguments.items()
        if argument.required or argument.default is not None or name in first
    }


def depends_on_values(base: type) -> bool:
    """Whether what one argument may be depends on another, as for a uniform's ends."""
    stated = inspect.getattr_static(base, "arg_constraints", None)
    return isinstance(stated, property) and stated is not vars(Distribution)["arg_constraints"]

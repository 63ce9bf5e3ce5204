"""Live versions of plain distributions and transforms, and of all that these are made of.

A plain object is taken apart into its class and its constructor's arguments. Its class gets a
declared class, cached and made again when it is unpickled; arguments that are distributions or
transforms become live parts in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.distributions import AffineTransform, Distribution, PowerTransform, Transform

from declarative_dist.constraints.half_line import Negative, Real
from declarative_dist.declaration.collect import infer_fields
from declarative_dist.declaration.metaclass import DeclarativeMeta
from declarative_dist.errors import ConstraintError, DeclarationError, did_you_mean, shorten
from declarative_dist.families.transform import LearnableTransform
from declarative_dist.families.variational import Variational
from declarative_dist.fields.blueprint import Start
from declarative_dist.fields.constant import Constant
from declarative_dist.fields.kinds import FixedTransform, make_constant
from declarative_dist.fields.param import Param
from declarative_dist.fields.parts import Nested
from declarative_dist.plain.arguments import arguments_of, choose_preferred
from declarative_dist.plain.decompose import recover
from declarative_dist.plain.tensors import is_dense, tensors_of
from declarative_dist.plain.tracing import is_traced

D = TypeVar("D", bound=Distribution)
Names = tuple[str, ...]
Kinds = tuple[tuple[str, str], ...]

ALL = "*"
"""Stands for all names."""

WIDE = "wide"
"""The kind of an argument without the guard band of its constraint, for values outside of it."""

CONSTANT = "(constant)"
"""Stands for all names in a plain object that is a constant; live parts in it stay live."""


class Live(Variational, Generic[D]):
    """What `learnable` makes: a declared distribution over a base of type `D`.

    A plain distribution or transform that the constructor is given for a part becomes a live one.
    """

    __framework__ = True

    if TYPE_CHECKING:

        def __call__(self) -> D: ...
        def __getattr__(self, name: str) -> Tensor: ...


class LivePart(Nested):
    """A part, or a list of parts, of which plain ones become live where an instance is built."""

    def __init__(self, fixed: Names, *, is_list: bool) -> None:
        super().__init__(is_list=is_list)
        self.fixed = fixed

    def _with_given(self, given: list[Any] | None) -> Iterator[tuple[Any, Any]]:
        for index, (template, item) in enumerate(super()._with_given(given)):
            if isinstance(item, (Distribution, Transform)) and not isinstance(item, nn.Module):
                fixed = _names_in(self.fixed, str(index)) if self.is_list else self.fixed
                yield _as_part(item, fixed), None  # a template of this instance alone
            else:
                yield template, item


def _make_live(plain: Distribution | Transform, fixed: Names) -> Any:
    """A live instance of a plain distribution or transform, and of all that it is made of."""
    base: Any
    base, values = recover(plain)
    _check_names(base, fixed, values)
    given = {name: _as_part(value, _names_in(fixed, name)) for name, value in values.items()}
    kinds = {name: _kind_of(base, name, part, fixed) for name, part in given.items()}
    family = _make_live_class(base, tuple(kinds.items()), fixed)
    for name, field in family.__declaration__.fields.items():
        value = given[name]
        has_numbers = field.is_learned and is_dense(value) and not is_traced(value)
        if has_numbers and not field.constraint.resolved(given).contains(value).all():
            kinds[name] = WIDE
    made = _make_live_class(base, tuple(kinds.items()), fixed)(**given)
    if "_validate_args" in vars(plain):
        made._validate_args = vars(plain)["_validate_args"]
    for name, number in getattr(plain, "exact_numbers", {}).items():
        if (given[name] == torch.full_like(given[name], number)).all():
            vars(made)["_starts"][name] = Start(number, torch.Size())
    return made


@make_constant.register(Distribution)
def _hold(value: Distribution) -> nn.Module:
    """A plain distribution whose tensors move, save and load with a module, and do not learn."""
    return _make_live(value, (CONSTANT,))


def _as_part(value: Any, fixed: Names) -> Any:
    """An argument as a constructor takes it: live parts for plain ones, all else as it is."""
    if isinstance(value, nn.Module):
        if fixed and CONSTANT not in fixed:
            subject = "learnable(fixed=)"
            got = f"{', '.join(fixed)} in {type(value).__name__}, which is live already"
            raise DeclarationError(subject, "names in plain parts", got, "Call its freeze().")
        return value
    if isinstance(value, Transform):
        is_whole = all(name in (ALL, CONSTANT) for name in fixed)
        learns = not fixed and any(True for _ in tensors_of(value))
        return FixedTransform(value) if is_whole and not learns else _make_live(value, fixed)
    if isinstance(value, Distribution):
        return _make_live(value, fixed)
    if isinstance(value, list) and any(isinstance(item, Transform) for item in value):
        _check_names(list, fixed, map(str, range(len(value))))
        return [_as_part(item, _names_in(fixed, str(index))) for index, item in enumerate(value)]
    if any(name not in (ALL, CONSTANT) for name in fixed):
        got = f"{fixed[0]!r} inside {shorten(value)}"
        raise DeclarationError("learnable(fixed=)", "names of arguments", got, code="unknown-name")
    return value


def _names_in(fixed: Names, name: str) -> Names:
    """What is fixed inside an argument."""
    if CONSTANT in fixed:
        return (CONSTANT,)
    whole = (ALL,) if ALL in fixed or name in fixed else ()
    return (*whole, *(f.partition(".")[2] for f in fixed if f.startswith(f"{name}.")))


def _check_names(kind: type, fixed: Names, known: Iterable[str]) -> None:
    heads = list(known)
    for name in fixed:
        head = name.partition(".")[0]
        if name not in (ALL, CONSTANT) and head not in heads:
            subject, expected = f"learnable({kind.__name__}, fixed=)", "names of arguments"
            fix = did_you_mean(head, heads)
            raise DeclarationError(subject, expected, repr(name), fix, code="unknown-name")


_SIGNED: Mapping[type, Names] = {AffineTransform: ("scale",), PowerTransform: ("exponent",)}
"""Arguments of transforms that may be negative, but not zero."""


def _kind_of(base: type, name: str, value: Any, fixed: Names) -> str:
    """How an argument is declared; a word, so that classes can be cached."""
    if not {CONSTANT, ALL, name}.isdisjoint(fixed):
        return "constant"
    if isinstance(value, (list, nn.Module)):
        return "parts" if isinstance(value, list) else "part"
    is_learnable = isinstance(value, Tensor) and value.is_floating_point()
    if issubclass(base, Distribution):
        argument = arguments_of(base)[name]
        if is_learnable and not argument.is_constant and argument.torch_constraint is None:
            subject = f"learnable({base.__name__})"
            expected = f"what {name} must satisfy, in arg_constraints"
            fix = f"Declare a class with a constraint, or hold it: fixed=({name!r},)."
            raise DeclarationError(subject, expected, "nothing", fix, code="unknown-set")
        return "constant" if argument.is_constant else "argument"
    # Numbers shape a map; tensors are learned.
    if not is_learnable or name not in _SIGNED.get(base, ()):
        return "real" if is_learnable else "constant"
    if (value == 0).any():
        subject = f"learnable({base.__name__}).{name}"
        raise ConstraintError(subject, "no zero", shorten(value), "Give another.")
    # Signs that differ leave no half line to stay in.
    return "positive" if (value > 0).all() else "negative" if (value < 0).all() else "real"


@cache
def _make_live_class(base: Any, kinds: Kinds, fixed: Names) -> Any:
    """The class for a distribution or transform class.

    Args:
        base: the class.
        kinds: for each argument how it is declared.
        fixed: dotted names of arguments to hold constant.
    """
    arguments = arguments_of(base)
    inferred = infer_fields({name: arguments[name] for name, _ in kinds})
    fields = {name: _field_of(kind, inferred[name], fixed) for name, kind in kinds}
    wide = [name for name, kind in kinds if kind == WIDE]
    if wide:
        narrow = tuple((name, "argument" if kind == WIDE else kind) for name, kind in kinds)
        declared = _make_live_class(base, narrow, fixed).__declaration__.fields
        for name in wide:
            constraint = declared[name].constraint.without_guard()
            fields[name] = Param(constraint=constraint).with_name(name)
    body = {
        **fields,
        "base": base,
        "__module__": __name__,
        "__doc__": f"A learnable {base.__name__}.",
        "__recipe__": (_make_live_class, (base, kinds, fixed)),
    }
    parent = Live if issubclass(base, Distribution) else LearnableTransform
    return DeclarativeMeta(f"Live{base.__name__}", (parent,), body)


def _field_of(kind: str, field: Any, fixed: Names) -> Any:
    """A field of some kind in place of the one that a base infers."""
    new: Any = field
    if kind in ("part", "parts") or field.is_part:
        is_list = kind == "parts" or (field.is_part and field.is_list)
        new = LivePart(_names_in(fixed, field.name), is_list=is_list)
    elif kind == "constant":
        new = Constant(None if callable(field.init) else field.init)
    elif kind in ("real", "negative"):
        new = Param(constraint=Real() if kind == "real" else Negative())
    return new.with_name(field.name)


@overload
def learnable(x: type[D], *, fixed: Iterable[str] = ()) -> type[Live[D]]: ...
@overload
def learnable(x: D, *, fixed: Iterable[str] = ()) -> Live[D]: ...
def learnable(x: Any, *, fixed: Iterable[str] = ()) -> Any:
    """Make any torch distribution trainable.

    Args:
        x: a distribution class, for a declared class; or an instance, for a live instance with its
            values, in their dtype and shape, and so for all distributions and transforms that it
            is made of. In transforms tensors are learned and numbers are constant.
        fixed: arguments to hold constant, dotted in parts: `"component_distribution.scale"`,
            `"transforms.0.loc"`; the name of a part stands for all in it.

    Returns:
        A class or an instance whose fields are the constructor's arguments by name. Of arguments
        that exclude each other, a class has the preferred one (`logits`, `scale_tril`), an
        instance the one that it was given. The classes are cached and can be pickled.

    Raises:
        DeclarationError: if `x` is neither, or has no argument of a name in `fixed`.
        ConstraintError: if a value of the instance is at the edge of what its argument may be.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist import learnable
        >>> q = learnable(dd.Gamma(2.0, 3.0))
        >>> [name for name, _ in q.named_parameters()], q().rate.item()
        (['raw_concentration', 'raw_rate'], 3.0)
        >>> mixture = dd.MixtureSameFamily(
        ...     dd.Categorical(logits=dd.Normal(0.0, 1.0).sample((2,))),
        ...     dd.Gamma(dd.Exponential(1.0).sample((2,)), 1.0),
        ... )
        >>> q = learnable(mixture, fixed=("component_distribution.rate",))
        >>> for name, _ in q.named_parameters():
        ...     print(name)
        mixture_distribution.raw_logits
        component_distribution.raw_concentration
    """
    names = (fixed,) if isinstance(fixed, str) or not isinstance(fixed, Iterable) else tuple(fixed)
    if not all(isinstance(name, str) for name in names):
        expected, fix = "names of arguments", 'Write fixed=("scale",).'
        raise DeclarationError("learnable(fixed=)", expected, repr(fixed), fix)
    if isinstance(x, Variational) or (isinstance(x, type) and issubclass(x, Variational)):
        raise DeclarationError("learnable", "a plain one", shorten(x), "It is live already.")
    if isinstance(x, Distribution):
        return _make_live(x, names)
    if not (isinstance(x, type) and issubclass(x, Distribution)):
        raise DeclarationError("learnable", "a plain torch distribution or its class", shorten(x))
    base: Any = x
    chosen = choose_preferred(arguments_of(base))
    _check_names(base, names, chosen)
    for name, argument in chosen.items():
        if argument.part is None:
            _as_part(None, tuple(f for f in _names_in(names, name) if f != ALL))
    kinds = tuple((name, "constant" if name in names else "argument") for name in chosen)
    return _make_live_class(base, kinds, names)

"""Live versions of plain distributions and transforms, and of all that these are made of.

A plain object is taken apart into its class and its constructor's arguments. Its class gets a
declared class, cached and made again when it is unpickled; arguments that are distributions or
transforms become live parts in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, overload

from torch import Tensor, nn
from torch.distributions import AffineTransform, Distribution, PowerTransform, Transform

from declarative_dist.constraints.half_line import Negative, Real
from declarative_dist.declaration.collect import infer_fields
from declarative_dist.declaration.metaclass import DeclarativeMeta
from declarative_dist.errors import (
    ConstraintError,
    DeclarationError,
    did_you_mean,
    shorten,
)
from declarative_dist.families.keywords import as_batch_shape
from declarative_dist.families.transform import LearnableTransform
from declarative_dist.families.variational import Variational
from declarative_dist.fields.constant import Constant
from declarative_dist.fields.fixed import FixedTransform, make_constant
from declarative_dist.fields.param import Param
from declarative_dist.fields.parts import Nested
from declarative_dist.fields.templates import replicate
from declarative_dist.plain.arguments import arguments_of, choose_preferred
from declarative_dist.plain.decompose import recover
from declarative_dist.plain.tensors import tensors_of
from declarative_dist.plain.tracing import is_traced

D = TypeVar("D", bound=Distribution)
Names = tuple[str, ...]
Kinds = tuple[tuple[str, str], ...]

ALL = "*"
"""Stands for all names."""

CONSTANT = "(constant)"
"""Stands for all names in a plain object that is a constant; live parts in it stay live."""


class Live(Variational, Generic[D]):
    """What `learnable` makes: a declared distribution over a base of type `D`.

    A plain distribution or transform that the constructor is given for a part becomes a live one.
    """

    __framework__ = True
    __fixed__: ClassVar[Names] = ()

    if TYPE_CHECKING:

        def __call__(self) -> D: ...
        def __getattr__(self, name: str) -> Tensor: ...

    def __init__(self, **keywords: Any) -> None:
        parts = {
            name: _as_part(value, _names_in(self.__fixed__, name)) if _is_plain(value) else value
            for name, value in keywords.items()
        }
        copies = as_batch_shape(keywords.get("batch_shape", ()), type(self).__name__)
        given = set(_modules_in(keywords.values()))
        for module in _modules_in(parts.values()):
            if module not in given:  # it was made for a plain one, and belongs to this instance
                if copies:
                    replicate(module, copies, {})
                module.to(keywords.get("device"), keywords.get("dtype"))
        super().__init__(**parts)


def _is_plain(value: object) -> bool:
    """Whether an argument is a part that is not live yet."""
    if isinstance(value, list):
        return any(map(_is_plain, value))
    return isinstance(value, (Distribution, Transform)) and not isinstance(value, nn.Module)


def _modules_in(parts: Iterable[Any]) -> Iterator[nn.Module]:
    for part in parts:
        if isinstance(part, nn.Module):
            yield part
        elif isinstance(part, list):
            yield from _modules_in(part)


def _make_live(plain: Distribution | Transform, fixed: Names) -> Any:
    """A live instance of a plain distribution or transform, and of all that it is made of."""
    kind: Any
    kind, values = recover(plain)
    _check_names(kind, fixed, values)
    given = {name: _as_part(value, _names_in(fixed, name)) for name, value in values.items()}
    is_transform = isinstance(plain, Transform)
    kinds = tuple((n, _kind_of(kind, n, part, fixed, is_transform)) for n, part in given.items())
    family = _make_live_class(kind, kinds, fixed, ())
    declared = family.__declaration__.fields
    wide = tuple(name for name in given if _needs_more_room(declared[name], given))
    made = _make_live_class(kind, kinds, fixed, wide)(**given) if wide else family(**given)
    if "_validate_args" in vars(plain):
        made._validate_args = vars(plain)["_validate_args"]
    return made


@make_constant.register(Distribution)
def _hold(value: Distribution) -> nn.Module:
    """A plain distribution whose tensors move, save and load with a module, and do not learn."""
    module: nn.Module = _make_live(value, (CONSTANT,))
    return module


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


def _kind_of(base: type, name: str, value: Any, fixed: Names, is_transform: bool) -> str:
    """How an argument is declared; a word, so that classes can be cached."""
    if not {CONSTANT, ALL, name}.isdisjoint(fixed):
        return "constant"
    if isinstance(value, list):
        return "parts"
    if isinstance(value, nn.Module):
        return "part"
    if not is_transform:
        argument = arguments_of(base)[name]
        if argument.is_constant:
            return "constant"
        stated = argument.torch_constraint is not None
        if isinstance(value, Tensor) and value.is_floating_point() and not stated:
            subject = f"learnable({base.__name__})"
            expected = f"what {name} must satisfy, in arg_constraints"
            fix = f"Declare a class with a constraint, or hold it: fixed=({name!r},)."
            raise DeclarationError(subject, expected, "nothing", fix, code="unknown-set")
        return "argument"
    # Numbers shape a map; tensors are learned.
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return "constant"
    if name not in _SIGNED.get(base, ()):
        return "real"
    if (value == 0).any():
        subject = f"learnable({base.__name__}).{name}"
        raise ConstraintError(subject, "no zero", shorten(value), "Give another.")
    # Signs that differ leave no half line to stay in.
    return "positive" if (value > 0).all() else "negative" if (value < 0).all() else "real"


@cache
def _make_live_class(base: Any, kinds: Kinds, fixed: Names, wide: Names) -> Any:
    """The class for a base.

    Args:
        base: a distribution or transform class.
        kinds: for each argument how it is declared.
        fixed: dotted names of arguments to hold constant.
        wide: arguments that are declared without the guard band of their constraint.
    """
    arguments = arguments_of(base)
    inferred = infer_fields({name: arguments[name] for name, _ in kinds})
    fields: dict[str, Any] = {name: _field_of(kind, inferred[name]) for name, kind in kinds}
    for name in wide:
        narrow = _make_live_class(base, kinds, fixed, ()).__declaration__.fields[name]
        fields[name] = Param(constraint=narrow.constraint.without_guard()).with_name(name)
    parent = Live if issubclass(base, Distribution) else LearnableTransform
    body = {
        **fields,
        "base": base,
        "__module__": __name__,
        "__doc__": f"A learnable {base.__name__}.",
        "__recipe__": (_make_live_class, (base, kinds, fixed, wide)),
        "__fixed__": fixed,
    }
    return DeclarativeMeta(f"Live{base.__name__}", (parent,), body)


def _needs_more_room(field: Any, given: Mapping[str, Any]) -> bool:
    """Whether a value lies outside of the guard band of its constraint."""
    value = given[field.name]
    if not field.is_learned or not isinstance(value, Tensor) or is_traced(value):
        return False
    return field.constraint.widen_to(value, given) is not field.constraint


def _field_of(kind: str, field: Any) -> Any:
    """A field of some kind in place of the one that a base infers."""
    if kind == "constant" and not field.is_part:
        init = getattr(field, "init", None)
        return Constant(None if callable(init) else init).with_name(field.name)
    others: dict[str, Any] = {
        "part": Nested,
        "parts": partial(Nested, is_list=True),
        "real": lambda: Param(constraint=Real()),
        "negative": lambda: Param(constraint=Negative()),
    }
    return others[kind]().with_name(field.name) if kind in others else field


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
    for name in names:
        if not isinstance(name, str):
            raise DeclarationError(
                "learnable(fixed=)", "names of arguments", repr(name), 'Write fixed=("scale",).'
            )
    if isinstance(x, type) and issubclass(x, Distribution):
        if issubclass(x, Variational):
            raise DeclarationError("learnable", "a plain class", x.__name__, "It is live already.")
        base: Any = x
        chosen = choose_preferred(arguments_of(base))
        _check_names(base, names, chosen)
        for name, argument in chosen.items():
            if argument.part is None and not argument.is_sequence:
                _as_part(None, tuple(f for f in _names_in(names, name) if f != ALL))
        kinds = tuple((name, "constant" if name in names else "argument") for name in chosen)
        return _make_live_class(base, kinds, names, ())
    if not isinstance(x, Distribution) or isinstance(x, Variational):
        subject = "learnable"
        fix = "It is live already." if isinstance(x, Variational) else ""
        raise DeclarationError(subject, "a plain torch distribution or its class", shorten(x), fix)
    return _make_live(x, names)

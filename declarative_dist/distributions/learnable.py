"""A trainable version of any torch distribution, without a class body."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.distributions import AffineTransform, Distribution, PowerTransform, Transform

from declarative_dist.constraints.arguments import arguments_of, preferred
from declarative_dist.constraints.inequality import LessThan
from declarative_dist.constraints.inner_tensors import tensors_of
from declarative_dist.constraints.real import Real
from declarative_dist.declaration.collect import auto_declared
from declarative_dist.declaration.decompose import decompose
from declarative_dist.declaration.metaclass import DeclarativeMeta
from declarative_dist.distributions.declarative import Declarative
from declarative_dist.distributions.transform import LearnableTransform
from declarative_dist.distributions.variational import Variational
from declarative_dist.errors import DeclarationError, did_you_mean, shortened
from declarative_dist.fields.constant import Constant
from declarative_dist.fields.fixed import FixedTransform, held_fixed
from declarative_dist.fields.nested import Nested
from declarative_dist.fields.param import Param

D = TypeVar("D", bound=Distribution)


class Live(Variational, Generic[D]):
    """What `learnable` makes: a declared distribution over a base of type `D`."""

    __framework__ = True
    __fixed__: ClassVar[tuple[str, ...]] = ()

    if TYPE_CHECKING:

        def __call__(self) -> D: ...
        def __getattr__(self, name: str) -> Tensor: ...

    def __init__(self, **keywords: Any) -> None:
        fixed = {name: (ALL,) if name in self.__fixed__ else () for name in keywords}
        super().__init__(**{name: _part(value, fixed[name]) for name, value in keywords.items()})


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
    held = (fixed,) if isinstance(fixed, str) else tuple(fixed)
    if isinstance(x, type) and issubclass(x, Distribution):
        if issubclass(x, Variational):
            raise DeclarationError("learnable", "a plain class", x.__name__, "It is live already.")
        base: Any = x
        return _live_class(base, (), held)
    if not isinstance(x, Distribution) or isinstance(x, Variational):
        raise DeclarationError(
            "learnable",
            "a plain torch distribution or its class",
            shortened(x),
            "It is live already." if isinstance(x, Variational) else "",
        )
    return live(x, held)


def live(plain: Distribution | Transform, fixed: tuple[str, ...]) -> Any:
    """A live instance of a plain distribution or transform, and of all that it is made of.

    Args:
        plain: the distribution or transform.
        fixed: dotted names of arguments to hold constant; a `*` stands for all.
    """
    kind: Any
    kind, values = decompose(plain)
    _check_fixed(kind, fixed, values)
    given = {name: _part(value, _below(fixed, name)) for name, value in values.items()}
    held = tuple(n for n, v in values.items() if ALL in fixed or n in fixed or _is_set(plain, v))
    signs = tuple((n, _sign(v)) for n, v in values.items() if n in _SIGNED.get(kind, ()))
    return _live_class(kind, tuple(given), held, signs)(**given)


ALL = "*"
"""Stands for all names."""


@held_fixed.register(Distribution)
def _held(value: Distribution) -> nn.Module:
    """A plain distribution whose tensors move, save and load with a module, and do not learn."""
    module: nn.Module = live(value, (ALL,))
    return module


def _below(fixed: tuple[str, ...], name: str) -> tuple[str, ...]:
    """What is fixed inside an argument."""
    if ALL in fixed or name in fixed:
        return (ALL,)
    return tuple(f.partition(".")[2] for f in fixed if f.startswith(f"{name}."))


def _part(value: Any, fixed: tuple[str, ...]) -> Any:
    """An argument as a constructor takes it: live parts for plain ones, numbers as they are."""
    if isinstance(value, nn.Module):
        return value
    if isinstance(value, Transform):
        learns = ALL not in fixed and any(True for _ in tensors_of(value))
        return live(value, fixed) if learns else FixedTransform(value)
    if isinstance(value, Distribution):
        return live(value, fixed)
    if isinstance(value, list):
        return [_part(item, _below(fixed, str(index))) for index, item in enumerate(value)]
    return value


def _is_set(plain: object, value: object) -> bool:
    """Whether this argument of a transform is a number: those are not learned."""
    return isinstance(plain, Transform) and isinstance(value, (int, float))


_SIGNED: Mapping[type, tuple[str, ...]] = {
    AffineTransform: ("scale",),
    PowerTransform: ("exponent",),
}
"""Arguments of transforms that may be negative, but not zero."""


def _sign(value: Tensor | float) -> int:
    tensor = torch.as_tensor(value)
    return 1 if bool((tensor > 0).all()) else -1 if bool((tensor < 0).all()) else 0


def _check_fixed(kind: type, fixed: tuple[str, ...], known: Iterable[str]) -> None:
    for name in fixed:
        head = name.partition(".")[0]
        if name != ALL and head not in known:
            raise DeclarationError(
                f"learnable({kind.__name__}, fixed=)",
                "names of arguments",
                repr(name),
                did_you_mean(head, known),
            )


@cache
def _live_class(
    base: Any,
    given: tuple[str, ...],
    fixed: tuple[str, ...],
    signs: tuple[tuple[str, int], ...] = (),
) -> type[Declarative]:
    """The class for a base, the arguments it was given, and those held constant."""
    arguments = arguments_of(base)
    chosen = {g: arguments[g] for g in given} or preferred(arguments)
    _check_fixed(base, fixed, chosen)
    fields: dict[str, Any] = {
        name: _constant(field) if name in fixed else field
        for name, field in auto_declared(chosen).items()
    }
    for name, sign in signs:
        if name not in fixed and sign < 1:
            # Signs that differ leave no half line to stay in.
            fields[name] = Param(constraint=LessThan(0.0) if sign else Real()).named(name)
    is_distribution = issubclass(base, Distribution)
    body = {
        **fields,
        "base": base,
        "__module__": __name__,
        "__doc__": f"A learnable {base.__name__}.",
        "__recipe__": (_live_class, (base, given, fixed, signs)),
        "__fixed__": fixed,
    }
    made: type[Declarative] = DeclarativeMeta(  # type: ignore[assignment]
        f"Live{base.__name__}", (Live if is_distribution else LearnableTransform,), body
    )
    return made


def _constant(field: Any) -> Any:
    """A constant in place of a parameter; without a value, every instance must be given one."""
    if isinstance(field, Nested):
        return field
    init = field.init if isinstance(field, (Param, Constant)) else None
    return Constant(None if callable(init) else init).named(field.name)

"""A trainable version of any torch distribution, without a class body."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.constraints.arguments import arguments_of, preferred
from declarative_dist.declaration.collect import auto_declared
from declarative_dist.declaration.decompose import COMPOSITE, decompose
from declarative_dist.declaration.metaclass import DeclarativeMeta
from declarative_dist.distributions.variational import Variational
from declarative_dist.errors import DeclarationError, did_you_mean, shortened
from declarative_dist.fields.constant import Constant
from declarative_dist.fields.param import Param

D = TypeVar("D", bound=Distribution)


class Live(Variational, Generic[D]):
    """What `learnable` makes: a declared distribution over a base of type `D`."""

    __framework__ = True

    if TYPE_CHECKING:

        def __call__(self) -> D: ...
        def __getattr__(self, name: str) -> Tensor: ...


@overload
def learnable(x: type[D], *, fixed: Iterable[str] = ()) -> type[Live[D]]: ...
@overload
def learnable(x: D, *, fixed: Iterable[str] = ()) -> Live[D]: ...
def learnable(x: Any, *, fixed: Iterable[str] = ()) -> Any:
    """Make any torch distribution trainable.

    Args:
        x: a distribution class, for a declared class; or an instance, for a live instance with its
            values, in their dtype and shape.
        fixed: arguments to hold constant.

    Returns:
        A class or an instance whose fields are the constructor's arguments by name. Of arguments
        that exclude each other, a class has the preferred one (`logits`, `scale_tril`), an
        instance the one that it was given. The classes are cached and can be pickled.

    Raises:
        DeclarationError: if `x` is neither, is made of other distributions, or has no argument of
            a name in `fixed`.
        ConstraintError: if a value of the instance is at the edge of what its argument may be.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist import learnable
        >>> q = learnable(dd.Gamma(2.0, 3.0))
        >>> [name for name, _ in q.named_parameters()], q().rate.item()
        (['raw_concentration', 'raw_rate'], 3.0)
    """
    fixed = (fixed,) if isinstance(fixed, str) else tuple(fixed)
    if isinstance(x, type) and issubclass(x, Distribution):
        base: Any = x
        return _live_class(base, (), fixed)
    if not isinstance(x, Distribution) or isinstance(x, Variational):
        raise DeclarationError(
            "learnable",
            "a plain torch distribution or its class",
            shortened(x),
            "It is live already." if isinstance(x, Variational) else "",
        )
    kind: Any
    kind, values = decompose(x)
    return _live_class(kind, tuple(values), fixed)(**values)


@cache
def _live_class(base: Any, given: tuple[str, ...], fixed: tuple[str, ...]) -> type[Variational]:
    """The class for a base, the arguments it was given, and those held constant."""
    name = f"Live{base.__name__}"
    if base in COMPOSITE or issubclass(base, Variational):
        raise DeclarationError(
            f"learnable({base.__name__})",
            "a distribution that is not made of others",
            base.__name__,
            "Declare a class whose base method composes it.",
        )
    arguments = arguments_of(base)
    chosen = {g: arguments[g] for g in given} or preferred(arguments)
    for fixed_name in fixed:
        if fixed_name not in chosen:
            raise DeclarationError(
                f"learnable({base.__name__}, fixed=)",
                "names of arguments",
                repr(fixed_name),
                did_you_mean(fixed_name, chosen),
            )
    fields: dict[str, Any] = {
        field_name: _held(field) if field_name in fixed else field
        for field_name, field in auto_declared(chosen).items()
    }
    body = {
        **fields,
        "base": base,
        "__module__": __name__,
        "__doc__": f"A learnable {base.__name__}.",
        "__recipe__": (_live_class, (base, given, fixed)),
    }
    live: type[Variational] = DeclarativeMeta(name, (Live,), body)  # type: ignore[assignment]
    return live


def _held(field: Any) -> Constant:
    """A constant in place of a parameter; without a value, every instance must be given one."""
    init = field.init if isinstance(field, (Param, Constant)) else None
    return Constant(None if callable(init) else init)

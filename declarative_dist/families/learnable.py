"""A trainable version of any torch distribution, without a class body."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, overload

from torch.distributions import Distribution

from declarative_dist.errors import DeclarationError, shorten
from declarative_dist.families.live import Live, make_live, make_live_class
from declarative_dist.families.variational import Variational

__all__ = ["Live", "learnable"]

D = TypeVar("D", bound=Distribution)


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
    names = _as_names(fixed)
    if isinstance(x, type) and issubclass(x, Distribution):
        if issubclass(x, Variational):
            raise DeclarationError("learnable", "a plain class", x.__name__, "It is live already.")
        base: Any = x
        return make_live_class(base, (), names)
    if not isinstance(x, Distribution) or isinstance(x, Variational):
        raise DeclarationError(
            "learnable",
            "a plain torch distribution or its class",
            shorten(x),
            "It is live already." if isinstance(x, Variational) else "",
        )
    return make_live(x, names)


def _as_names(fixed: Any) -> tuple[str, ...]:
    names = (fixed,) if isinstance(fixed, str) or not isinstance(fixed, Iterable) else tuple(fixed)
    for name in names:
        if not isinstance(name, str):
            raise DeclarationError(
                "learnable(fixed=)", "names of arguments", repr(name), 'Write fixed=("scale",).'
            )
    return names

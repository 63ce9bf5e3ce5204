"""Taking a plain distribution apart: its class and its constructor's arguments by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.distributions as dd
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.constraints.arguments import alternatives, arguments_of
from declarative_dist.errors import DeclarationError

COMPOSITE = (dd.Independent, dd.MixtureSameFamily, dd.TransformedDistribution)
"""Distributions made of distributions."""

_HOLDERS: Mapping[type[Distribution], Callable[[Any], Any]] = {
    dd.OneHotCategorical: lambda d: d._categorical,
    dd.Multinomial: lambda d: d._categorical,
    dd.RelaxedBernoulli: lambda d: d.base_dist,
    dd.RelaxedOneHotCategorical: lambda d: d.base_dist._categorical,
}
"""Where distributions keep the parameter that they were given, if not on themselves."""


def decompose(distribution: Distribution) -> tuple[type[Distribution], dict[str, Any]]:
    """The class and the constructor arguments that make an equal distribution.

    Of arguments that exclude each other, the one that was given comes back. Broadcasting is as
    the distribution did it.

    Args:
        distribution: a distribution that is not made of others.

    Returns:
        The class, and the arguments by name; tensors as they are, with their graph.

    Raises:
        DeclarationError: if it is made of others, or does not keep an argument.

    Example:
        >>> from declarative_dist.declaration.decompose import decompose
        >>> import torch.distributions as dd
        >>> kind, arguments = decompose(dd.Chi2(3.0))
        >>> kind.__name__, arguments
        ('Chi2', {'df': tensor(3.)})
    """
    kind = type(distribution)
    if kind in COMPOSITE:
        raise DeclarationError(
            kind.__name__,
            "a distribution that is not made of others",
            repr(distribution),
            "Declare a class whose base method composes it.",
        )
    arguments = arguments_of(kind)
    excluded = {
        name
        for group in alternatives(arguments)
        for name in group
        if name != _given_among(distribution, group)
    }
    return kind, {name: _kept(distribution, name) for name in arguments if name not in excluded}


def _given_among(distribution: Distribution, group: tuple[str, ...]) -> str:
    """Which of the arguments that exclude each other the distribution was built with."""
    holder = _holder(distribution)
    kept = [name for name in group if name in vars(holder)]
    parameter = getattr(holder, "_param", None)
    same = [name for name in kept if vars(holder)[name] is parameter]
    return (same or kept or list(group))[0]


def _holder(distribution: Distribution) -> Any:
    for kind in type(distribution).__mro__:
        if kind in _HOLDERS:
            return _HOLDERS[kind](distribution)
    return distribution


def _kept(distribution: Distribution, name: str) -> Any:
    for attribute in (name, f"_{name}"):
        if hasattr(distribution, attribute):
            value = getattr(distribution, attribute)
            return value.contiguous() if isinstance(value, Tensor) else value
    raise DeclarationError(
        type(distribution).__name__,
        f"its argument {name!r} as an attribute",
        "none",
        "Declare a class with this base instead.",
    )

"""Taking a plain distribution or transform apart, and putting it together from other tensors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from types import MethodType
from typing import Any

import torch.distributions as dd
from torch import Tensor
from torch.distributions import Distribution, Transform
from torch.distributions.transforms import _InverseTransform

from declarative_dist.errors import DeclarationError
from declarative_dist.plain.arguments import Argument, alternatives, arguments_of, look_up
from declarative_dist.plain.build import builder_of
from declarative_dist.plain.tensors import is_dense, is_same, map_tensors

Map = Callable[[Tensor, int], Tensor]

_SLACK = 1e-3
"""How far numbers may differ that went through a constructor once more, as a share."""

_ATTRIBUTES: Mapping[type, Mapping[str, str]] = {
    dd.Independent: {"base_distribution": "base_dist"},
    dd.TransformedDistribution: {"base_distribution": "base_dist"},
    dd.CatTransform: {"tseq": "transforms"},
    dd.StackTransform: {"tseq": "transforms"},
    _InverseTransform: {"transform": "_inv"},
}
"""Attributes that keep an argument under another name."""

_HOLDERS: Mapping[type[Distribution], Callable[[Any], Any]] = {
    dd.OneHotCategorical: lambda d: d._categorical,
    dd.Multinomial: lambda d: d._categorical,
    dd.RelaxedBernoulli: lambda d: d.base_dist,
    dd.RelaxedOneHotCategorical: lambda d: d.base_dist._categorical,
}
"""Where distributions keep the parameter that they were given, if not on themselves."""


def decompose(plain: Distribution | Transform) -> tuple[type[Any], dict[str, Any]]:
    """The class and the constructor arguments that make an equal distribution or transform.

    Of arguments that exclude each other, the one that was given comes back. Broadcasting is as
    the distribution did it.

    Args:
        plain: a distribution or a transform; one made of others comes apart by one level.

    Returns:
        The class, and the arguments by name; tensors as they are, with their graph.

    Raises:
        DeclarationError: if it does not keep an argument.

    Example:
        >>> from declarative_dist.plain.decompose import decompose
        >>> import torch.distributions as dd
        >>> kind, arguments = decompose(dd.Chi2(3.0))
        >>> kind.__name__, arguments
        ('Chi2', {'df': tensor(3.)})
    """
    kind = type(plain)
    arguments = arguments_of(kind)
    for group in alternatives(arguments):
        given = _given_among(plain, group)
        arguments = {n: known for n, known in arguments.items() if n == given or n not in group}
    found = {name: _find(plain, known) for name, known in arguments.items()}
    return kind, {name: value for name, value in found.items() if value is not None}


def recover(plain: Distribution | Transform) -> tuple[type[Any], dict[str, Any]]:
    """Take a plain object apart as `decompose` does, and make sure that nothing is lost.

    What a class that is not torch's does with its arguments is its own affair: attributes may mean
    something else, and `**keywords` have no names. So the constructor is called again.

    Raises:
        DeclarationError: if it does not make an equal object of the arguments that were found.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist.plain.decompose import recover
        >>> recover(dd.Chi2(3.0))
        (<class 'torch.distributions.chi2.Chi2'>, {'df': tensor(3.)})
    """
    kept = {name.removeprefix("_") for name in vars(plain)}  # before others are computed
    kind, found = decompose(plain)
    if kind.__module__.startswith("torch.distributions"):
        return kind, found
    known = arguments_of(kind)
    optional = [n for n in found if not known[n].required and known[n].default is None]
    # Of arguments that say the same in other words a class may have all, and heed only one.
    optional.reverse()
    optional.sort(key=kept.__contains__)
    for count in reversed(range(len(optional) + 1)):
        for left_out in itertools.combinations(optional, count):
            arguments = {name: value for name, value in found.items() if name not in left_out}
            if _makes_the_same(kind, arguments, plain):
                return kind, arguments
    expected = f"a constructor that makes the same of {', '.join(found) or 'no arguments'}"
    got = "something else, as if it had taken others"
    fix = "Keep every argument as an attribute of its name, or declare a class with this base."
    raise DeclarationError(kind.__name__, expected, got, fix, code="unlearnable-argument")


def _makes_the_same(kind: type[Any], arguments: Mapping[str, Any], plain: Any) -> bool:
    make: Callable[..., Any] = kind
    if issubclass(kind, Distribution):
        make = partial(builder_of(kind), validate_args=False)
    try:
        return is_same(make(**arguments), plain, _SLACK)
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError, LookupError):
        return False


def _given_among(distribution: Any, group: tuple[str, ...]) -> str:
    """Which of the arguments that exclude each other the distribution was built with."""
    holder = look_up(_HOLDERS, type(distribution), lambda own: own)(distribution)
    present = [name for name in group if name in vars(holder)]
    parameter = getattr(holder, "_param", None)
    same = [name for name in present if vars(holder)[name] is parameter]
    return (same or present or list(group))[0]


def _find(plain: Any, argument: Argument) -> Any:
    name = look_up(_ATTRIBUTES, type(plain), {}).get(argument.name, argument.name)
    for attribute in (name, f"_{name}"):
        try:
            value = getattr(plain, attribute, None)
        except NotImplementedError:
            continue  # a mean, say, that torch asks for and the class does not have
        if isinstance(value, Tensor):
            return value.contiguous() if is_dense(value) else value
        if value is not None and not isinstance(value, MethodType):
            is_chain = isinstance(value, list) and any(isinstance(v, Transform) for v in value)
            return tuple(value) if isinstance(value, list) and value and not is_chain else value
    if not argument.required and argument.default is None:
        return None
    expected = f"its argument {argument.name!r} as an attribute"
    fix = "Declare a class with this base instead."
    name = type(plain).__name__
    raise DeclarationError(name, expected, "none", fix, code="unlearnable-argument")


def rebuild(plain: Distribution, change: Map, behind: int = 0) -> Distribution:
    """The same distribution made of other tensors, down to all of its parts.

    Args:
        plain: a plain distribution.
        change: from a tensor, and the number of its rightmost dimensions that stand behind the
            batch dimensions of `plain`, to the tensor in its place.
        behind: how many dimensions of all tensors stand there anyway.

    Returns:
        A distribution of the same class, which checks what it scores if `plain` does.

    Raises:
        DeclarationError: if it does not keep an argument.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist.plain.decompose import rebuild
        >>> plain = dd.Independent(dd.Normal(torch.zeros(2, 5), 1.0), 1)
        >>> rebuild(plain, lambda tensor, behind: tensor.unsqueeze(-1 - behind)).batch_shape
        torch.Size([2, 1])
    """
    kind, values = decompose(plain)
    known = arguments_of(kind)
    tensors = [n for n, value in values.items() if isinstance(value, Tensor)]
    optional = [n for n in tensors if not known[n].required and known[n].default is None]
    if len(optional) > 1:  # a class of others may keep all, and take one
        kind, values = recover(plain)
    new = dict(values)
    added = values["reinterpreted_batch_ndims"] if issubclass(kind, dd.Independent) else 0
    for name, value in values.items():
        if isinstance(value, Tensor):
            new[name] = change(value, behind + known[name].event_dim)
        elif isinstance(value, Distribution):
            # The components of a mixture lie along the last of their batch dimensions.
            is_component = name == "component_distribution"
            new[name] = rebuild(value, change, behind + added + is_component)
        elif name == "transforms":
            before, new[name] = behind + len(values["base_distribution"].event_shape), []
            for step in value:
                change_step: Any = lambda _, t, at=before: change(t, at)  # noqa: E731
                new[name].append(map_tensors(step, change_step))
                before += step.codomain.event_dim - step.domain.event_dim
    made: Distribution = builder_of(kind)(**new, validate_args=False)
    vars(made).pop("_validate_args", None)
    vars(made).update({n: v for n, v in vars(plain).items() if n == "_validate_args"})
    return made

"""Torch distributions built without argument checks, not even of their inner parts.

A few constructors of torch build inner distributions with torch's default validation, whatever
`validate_args` they were given. Checks of values that are valid by construction cost time and fail
under `vmap`; so for these classes the constructor's work is done here, as for the simplest ones,
which are built most often.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributions as dd
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical
from torch.distributions.utils import broadcast_all, clamp_probs

from declarative_dist.plain.arguments import parameters_of
from declarative_dist.plain.tracing import is_transforming

D = TypeVar("D", bound=Distribution)


def builder_of(base: type[D]) -> Callable[..., D]:
    """A callable that builds distributions of a class without any check.

    Args:
        base: a distribution class.

    Returns:
        It takes the arguments of the base by name, and `validate_args=False`.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist.plain.build import builder_of
        >>> build = builder_of(dd.OneHotCategorical)
        >>> build(probs=torch.tensor([0.25, 0.25]), validate_args=False).probs
        tensor([0.5000, 0.5000])
    """
    if base in _OF_TWO:
        return partial(_keep_two, base)
    for kind, fill in _FILLERS.items():
        if issubclass(base, kind) and base.__init__ is kind.__init__:
            return partial(_build_by, base, fill)
    if any(p.name == "validate_args" for p in parameters_of(base.__init__)):
        return base
    return partial(_without_switch, base)


def _build_by(base: Any, fill: Any, *, validate_args: bool, **arguments: Any) -> Any:
    distribution = object.__new__(base)
    fill(distribution, **arguments)
    return distribution


def _keep_two(base: Any, *, validate_args: bool, **arguments: Any) -> Any:
    """Build a class that keeps two arguments as they are, once they have the same shape."""
    distribution = object.__new__(base)
    (name, first), (other, second) = arguments.items()
    if is_transforming() or not (isinstance(first, Tensor) and isinstance(second, Tensor)):
        first, second = broadcast_all(first, second)  # comparing sizes would make guards of them
    elif first.shape != second.shape:
        if first.shape[first.ndim - second.ndim :] == second.shape:
            second = second.expand_as(first)
        else:
            first, second = torch.broadcast_tensors(first, second)
    own = vars(distribution)
    own[name], own[other] = first, second
    Distribution.__init__(distribution, first.shape, validate_args=False)
    return distribution


def _without_switch(base: type[D], *, validate_args: bool, **arguments: Any) -> D:
    """Build a class whose constructor knows nothing of validation."""
    return base(**arguments)


def _finish(
    distribution: Any, batch_shape: torch.Size, event_shape: torch.Size = torch.Size()
) -> None:
    Distribution.__init__(distribution, batch_shape, event_shape, validate_args=False)


def _student_t(
    new: Any, df: Tensor | float, loc: Tensor | float = 0.0, scale: Tensor | float = 1.0
) -> None:
    new.df, new.loc, new.scale = broadcast_all(df, loc, scale)
    new._chi2 = dd.Chi2(new.df, validate_args=False)
    _finish(new, new.df.size())


def _fisher_snedecor(new: Any, df1: Tensor | float, df2: Tensor | float) -> None:
    new.df1, new.df2 = broadcast_all(df1, df2)
    new._gamma1 = dd.Gamma(new.df1 * 0.5, new.df1, validate_args=False)
    new._gamma2 = dd.Gamma(new.df2 * 0.5, new.df2, validate_args=False)
    _finish(new, new.df1.size())


def _one_hot_categorical(new: Any, **parameter: Tensor) -> None:
    new._categorical = dd.Categorical(**parameter, validate_args=False)
    _finish(new, new._categorical.batch_shape, new._categorical.param_shape[-1:])


def _multinomial(new: Any, total_count: int = 1, **parameter: Tensor) -> None:
    if not isinstance(total_count, int):
        raise NotImplementedError("Multinomial takes one int total_count for the whole batch")
    new.total_count = total_count
    new._categorical = dd.Categorical(**parameter, validate_args=False)
    new._binomial = dd.Binomial(total_count, probs=new.probs, validate_args=False)
    _finish(new, new._categorical.batch_shape, new._categorical.param_shape[-1:])


def _relaxed_bernoulli(new: Any, temperature: Tensor, **parameter: Tensor) -> None:
    inner = LogitRelaxedBernoulli(temperature, **parameter, validate_args=False)
    dd.TransformedDistribution.__init__(new, inner, dd.SigmoidTransform(), validate_args=False)


def _relaxed_one_hot(new: Any, temperature: Tensor, **parameter: Tensor) -> None:
    inner: Any = object.__new__(ExpRelaxedCategorical)
    _one_hot_categorical(inner, **parameter)
    inner.temperature = temperature
    dd.TransformedDistribution.__init__(new, inner, dd.ExpTransform(), validate_args=False)


def _continuous_bernoulli(
    new: Any, lims: tuple[float, float] = (0.499, 0.501), **parameter: Tensor
) -> None:
    # With validate_args=False torch still checks probs: it asks only whether the flag was given.
    ((name, value),) = parameter.items()
    (value,) = broadcast_all(value)
    value = clamp_probs(value) if name == "probs" else value
    setattr(new, name, value)
    new._param = value
    new._lims = lims
    _finish(new, value.size())


def _lkj_cholesky(new: Any, dim: int, concentration: Tensor | float = 1.0) -> None:
    # The onion method draws each row's radius from a beta distribution of its own.
    (new.concentration,) = broadcast_all(concentration)
    new.dim = dim
    offset = torch.arange(-1, dim - 1).clamp_min(0).to(new.concentration)
    marginal = (new.concentration + 0.5 * (dim - 2)).unsqueeze(-1)
    new._beta = dd.Beta(offset + 0.5, marginal - 0.5 * offset, validate_args=False)
    _finish(new, new.concentration.size(), torch.Size((dim, dim)))


def _mixture(new: Any, mixture_distribution: Any, component_distribution: Distribution) -> None:
    # Torch broadcasts weights and components only where it scores, not where it draws.
    weights, components = mixture_distribution.batch_shape, component_distribution.batch_shape
    if components and weights != components[:-1]:
        batch_shape = torch.broadcast_shapes(weights, components[:-1])
        mixture_distribution = mixture_distribution.expand(batch_shape)
        component_distribution = component_distribution.expand((*batch_shape, components[-1]))
    dd.MixtureSameFamily.__init__(
        new, mixture_distribution, component_distribution, validate_args=False
    )


def _wishart(new: Any, df: Tensor, **parameter: Tensor) -> None:
    ((name, matrix),) = parameter.items()
    df = torch.as_tensor(df, dtype=matrix.dtype, device=matrix.device)
    batch_shape = torch.broadcast_shapes(matrix.shape[:-2], df.shape)
    new.df = df.expand(batch_shape)
    setattr(new, name, matrix.expand(*batch_shape, -1, -1))
    new._unbroadcasted_scale_tril = matrix
    if name != "scale_tril":
        zeros = matrix.new_zeros(matrix.shape[-1])
        factor = dd.MultivariateNormal(zeros, **parameter, validate_args=False)
        new._unbroadcasted_scale_tril = factor._unbroadcasted_scale_tril
    _finish(new, batch_shape, matrix.shape[-2:])
    new._batch_dims = [-(x + 1) for x in range(len(batch_shape))]
    rank = torch.arange(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    new._dist_chi2 = dd.Chi2(new.df.unsqueeze(-1) - rank, validate_args=False)


_OF_TWO = (dd.Cauchy, dd.Gamma, dd.Laplace, dd.Normal, dd.Uniform)
"""Classes whose constructors take longer to look at two tensors than to keep them."""

_FILLERS: Mapping[type[Distribution], Callable[..., None]] = {
    dd.ContinuousBernoulli: _continuous_bernoulli,
    dd.FisherSnedecor: _fisher_snedecor,
    dd.LKJCholesky: _lkj_cholesky,
    dd.MixtureSameFamily: _mixture,
    dd.Multinomial: _multinomial,
    dd.OneHotCategorical: _one_hot_categorical,
    dd.OneHotCategoricalStraightThrough: _one_hot_categorical,
    dd.RelaxedBernoulli: _relaxed_bernoulli,
    dd.RelaxedOneHotCategorical: _relaxed_one_hot,
    dd.StudentT: _student_t,
    dd.Wishart: _wishart,
}

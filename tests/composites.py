"""The dictionary of nests: distributions made of distributions and transforms, built lazily.

Every factory takes `t`, which it applies to each tensor that is to be learned, in the order of the
parameters' names. Numbers stay outside it: those are constants.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import torch
import torch.distributions as dd
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints, transforms

from declarative_dist import Interval, Simplex, Variational, learnable

Learned = Callable[[Tensor], Tensor]
Transformed = dd.TransformedDistribution


def spread(*shape: int, low: float = 0.5, high: float = 1.6) -> Tensor:
    """Unequal numbers between two ends, in the default dtype."""
    count = torch.Size(shape).numel()
    # Steps of the golden ratio: no two rows or columns are alike.
    steps = (torch.arange(1, count + 1) * 0.6180339887498949).frac()
    return (low + (high - low) * steps).reshape(shape)


def real(*shape: int) -> Tensor:
    return spread(*shape, low=-0.7, high=0.9)


def tril(*shape: int) -> Tensor:
    return real(*shape).tril(-1) + torch.diag_embed(spread(*shape[:-1]))


class Triangular(dd.Distribution):
    """A user's own family, reparametrised, with one argument."""

    arg_constraints: ClassVar = {"width": constraints.positive}
    has_rsample = True

    def __init__(self, width: Tensor, validate_args: bool | None = None) -> None:
        self.width = torch.as_tensor(width)
        super().__init__(self.width.shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        return constraints.interval(-self.width, self.width)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Triangular:
        return Triangular(self.width.expand(batch_shape), validate_args=self._validate_args)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return self.width * (torch.rand(shape) - torch.rand(shape))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return (1 - (value / self.width).abs()).log() - self.width.log()


class SinhArcsinh(transforms.Transform):
    """A user's own transform (Jones and Pewsey, 2009), with two arguments."""

    domain = codomain = constraints.real
    bijective = True
    sign = 1

    def __init__(self, skew: Any, tail: Any = 1.0, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.skew = skew
        self.tail = tail

    def _call(self, x: Tensor) -> Tensor:
        return ((x.asinh() + self.skew) * self.tail).sinh()

    def _inverse(self, y: Tensor) -> Tensor:
        return (y.asinh() / self.tail - self.skew).sinh()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        tail = torch.as_tensor(self.tail, dtype=x.dtype)
        return (1 + y * y).log() / 2 + tail.abs().log() - (1 + x * x).log() / 2


class Doubled(transforms.Transform):
    """A user's own transform without arguments, not even a cache."""

    domain = codomain = constraints.real
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return 2 * x

    def _inverse(self, y: Tensor) -> Tensor:
        return y / 2

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.full_like(x, 2.0).log()


class Skewed(dd.TransformedDistribution):
    """A user's own family over a transformed distribution."""

    arg_constraints: ClassVar = {"loc": constraints.real, "skew": constraints.real}

    def __init__(self, loc: Tensor, skew: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.skew = loc, skew
        base = dd.Normal(loc, torch.ones_like(loc), validate_args=validate_args)
        super().__init__(base, [SinhArcsinh(skew)], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Skewed:
        return super().expand(batch_shape, _instance=self._get_checked_instance(Skewed, _instance))


def same(tensor: Tensor) -> Tensor:
    return tensor


def normal(t: Learned, *shape: int) -> dd.Normal:
    return dd.Normal(t(real(*shape)), t(spread(*shape)))


def affine(t: Learned, *shape: int, event_dim: int = 0, sign: int = 1) -> dd.AffineTransform:
    return dd.AffineTransform(t(real(*shape)), t(sign * spread(*shape)), event_dim=event_dim)


def logits(t: Learned, *shape: int) -> dd.Categorical:
    weights = F.log_softmax(real(*shape), -1)
    return dd.Categorical(logits=t(weights))


INDEPENDENT: dict[str, Callable[[Learned], dd.Distribution]] = {
    "independent": lambda t: dd.Independent(normal(t, 3, 2), 1),
    "independent over two dims": lambda t: dd.Independent(normal(t, 3, 2), 2),
    "independent over none": lambda t: dd.Independent(normal(t, 3, 2), 0),
    "independent of a triangle": lambda t: dd.Independent(Triangular(t(spread(3))), 1),
    "independent of relaxed": lambda t: dd.Independent(
        dd.RelaxedBernoulli(t(torch.tensor(0.7)), logits=t(real(3))), 1
    ),
}

MIXTURES: dict[str, Callable[[Learned], dd.Distribution]] = {
    "mixture": lambda t: dd.MixtureSameFamily(logits(t, 3), normal(t, 3)),
    "mixture by probs": lambda t: dd.MixtureSameFamily(
        dd.Categorical(t(torch.tensor([0.2, 0.3, 0.5]))), dd.Gamma(t(spread(3)), t(spread(3)))
    ),
    "mixture in a batch": lambda t: dd.MixtureSameFamily(logits(t, 2, 3), normal(t, 2, 3)),
    "mixture of counts": lambda t: dd.MixtureSameFamily(logits(t, 3), dd.Poisson(t(spread(3)))),
    "mixture of vectors": lambda t: dd.MixtureSameFamily(
        logits(t, 3), dd.Independent(normal(t, 3, 2), 1)
    ),
    "mixture by covariances": lambda t: dd.MixtureSameFamily(
        logits(t, 2), dd.MultivariateNormal(t(real(2, 2)), t(tril(2, 2, 2) @ tril(2, 2, 2).mT))
    ),
    "mixture of Wishart": lambda t: dd.MixtureSameFamily(
        logits(t, 2), dd.Wishart(scale_tril=t(tril(2, 2, 2)), df=t(4 + spread(2)))
    ),
    "mixture of transformed vectors": lambda t: dd.MixtureSameFamily(
        logits(t, 3),
        Transformed(
            dd.Independent(normal(t, 3, 2), 1), [affine(t, 3, 2, event_dim=1), dd.ExpTransform()]
        ),
    ),
    "mixture of mixtures": lambda t: dd.MixtureSameFamily(
        logits(t, 3), dd.MixtureSameFamily(logits(t, 3, 2), normal(t, 3, 2))
    ),
}

TRANSFORMED: dict[str, Callable[[Learned], dd.Distribution]] = {
    "affine": lambda t: Transformed(normal(t, 3), affine(t, 3)),
    "affine, negative": lambda t: Transformed(normal(t, 3), affine(t, 3, sign=-1)),
    "affine, both signs": lambda t: Transformed(
        normal(t, 2), dd.AffineTransform(t(real(2)), t(torch.tensor([-1.5, 0.5])))
    ),
    "affine, numbers alone": lambda t: Transformed(normal(t, 3), dd.AffineTransform(1.5, -2)),
    "affine, cached": lambda t: Transformed(
        normal(t, 3), dd.AffineTransform(t(real(3)), t(spread(3)), cache_size=1)
    ),
    "inverse": lambda t: Transformed(normal(t, 3), affine(t, 3).inv),
    "power": lambda t: Transformed(
        dd.Gamma(t(spread(3)), t(spread(3))), dd.PowerTransform(t(spread(3)))
    ),
    "power, negative": lambda t: Transformed(
        dd.Gamma(t(spread(3)), t(spread(3))), dd.PowerTransform(t(-spread(3)))
    ),
    "absolute": lambda t: Transformed(normal(t, 3), dd.AbsTransform()),
    "softmax": lambda t: Transformed(normal(t, 2, 3), dd.SoftmaxTransform()),
    "correlation": lambda t: Transformed(normal(t, 2, 3), dd.CorrCholeskyTransform()),
    "positive definite": lambda t: Transformed(normal(t, 3, 3), dd.PositiveDefiniteTransform()),
    "composed": lambda t: Transformed(
        normal(t, 3),
        dd.ComposeTransform(
            [
                affine(t, 3),
                dd.ComposeTransform([dd.TanhTransform(), dd.AffineTransform(2.0, t(spread(3)))]),
            ]
        ),
    ),
    # The parts of the inverse, the exponential's first.
    "inverse of a composed": lambda t: Transformed(
        dd.Gamma(t(spread(3)), t(spread(3))),
        dd.ComposeTransform([affine(t, 3), dd.ExpTransform()]).inv,
    ),
    "inverse independent transform": lambda t: Transformed(
        normal(t, 2, 3), dd.IndependentTransform(affine(t, 2, 3), 2).inv
    ),
    "distribution function": lambda t: Transformed(
        normal(t, 3), dd.CumulativeDistributionTransform(normal(t, 3))
    ),
    "copula": lambda t: Transformed(
        dd.MultivariateNormal(t(real(2)), scale_tril=t(tril(2, 2))),
        [
            dd.IndependentTransform(dd.CumulativeDistributionTransform(normal(t, 2)), 1),
            dd.IndependentTransform(
                dd.CumulativeDistributionTransform(dd.Weibull(t(spread(2)), t(spread(2)))).inv, 1
            ),
        ],
    ),
    "reshaped": lambda t: Transformed(
        dd.MultivariateNormal(t(real(4)), scale_tril=t(tril(4, 4))),
        [dd.ReshapeTransform((4,), (2, 2)), affine(t, 2, 2, event_dim=2)],
    ),
    "side by side": lambda t: Transformed(
        dd.Independent(normal(t, 2, 5), 1),
        dd.CatTransform([dd.ExpTransform(), affine(t, 3)], dim=-1, lengths=[2, 3]),
    ),
    "stacked": lambda t: Transformed(
        dd.Independent(normal(t, 4, 2), 1), dd.StackTransform([affine(t), affine(t)], dim=-1)
    ),
    "no transforms": lambda t: Transformed(normal(t, 3), []),
    "identity": lambda t: Transformed(normal(t, 3), transforms.identity_transform),
    "own transform without arguments": lambda t: Transformed(normal(t, 3), [Doubled()] * 2),
    "own family": lambda t: Skewed(t(real(3)), t(spread(3))),
    "interval": lambda t: Transformed(normal(t, 3), Interval(-1.0, 1.0).as_transform(1)),
    # A bound of a constraint says which values are allowed; it is not learned.
    "interval of tensors": lambda t: Transformed(
        normal(t, 3), Interval(-spread(3), spread(3)).as_transform()
    ),
    "simplex": lambda t: Transformed(normal(t, 2, 3), Simplex().as_transform()),
}

DEEP: dict[str, Callable[[Learned], dd.Distribution]] = {
    "transformed mixture": lambda t: Transformed(
        dd.MixtureSameFamily(logits(t, 3), normal(t, 3)),
        [dd.ExpTransform(), dd.AffineTransform(t(torch.tensor(0.3)), t(torch.tensor(2.0)))],
    ),
    "transformed mixture of vectors": lambda t: Transformed(
        dd.MixtureSameFamily(logits(t, 3), dd.Independent(normal(t, 3, 2), 1)),
        [affine(t, 2, event_dim=1), dd.StickBreakingTransform()],
    ),
    "transformed twice": lambda t: Transformed(
        Transformed(normal(t, 3), affine(t, 3)), [dd.ExpTransform(), affine(t, 3)]
    ),
    "everything": lambda t: dd.Independent(
        Transformed(
            dd.MixtureSameFamily(
                logits(t, 4, 3),
                Transformed(
                    dd.Independent(normal(t, 4, 3, 2), 1), [affine(t, 2), dd.SoftplusTransform()]
                ),
            ),
            [dd.ComposeTransform([affine(t, 2, sign=-1)]), SinhArcsinh(t(real(2)))],
        ),
        1,
    ),
}

COMPOSITES = {**INDEPENDENT, **MIXTURES, **TRANSFORMED, **DEEP}
"""Nests of distributions and transforms."""

NO_DENSITY = ("absolute", "softmax", "positive definite", "stacked")
"""Cases without a log Jacobian in torch; that of a stack along an event is not summed over it."""


def plain(name: str) -> dd.Distribution:
    """The nest of plain torch objects."""
    return COMPOSITES[name](same)


@cache
def _first(name: str) -> Variational:
    return learnable(plain(name))


def live(name: str) -> Variational:
    """The nest made learnable: a copy of its own for everyone who asks."""
    return copy.deepcopy(_first(name))


def with_leaves(name: str) -> tuple[dd.Distribution, list[Tensor]]:
    """The nest over tensors that collect gradients, and these tensors."""
    leaves: list[Tensor] = []

    def leaf(tensor: Tensor) -> Tensor:
        leaves.append(tensor.detach().clone().requires_grad_())
        return leaves[-1]

    return COMPOSITES[name](leaf), leaves

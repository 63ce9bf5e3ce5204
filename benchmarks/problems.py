"""The distributions that are timed, told so that every library can be given them.

Every problem lists its parameters, each with the map that keeps it valid; a way to make a
distribution of the values; and a loss. Where samples carry gradients, the loss is an estimate of
the divergence from a target, else the likelihood of data.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributions as dd
import torch.nn.functional as F
from torch import Tensor

from declarative_dist import Exp, LowerCholesky, Param, Positive, Variational

Loss = Callable[[Any], Tensor]


def cholesky(raw: Tensor) -> Tensor:
    """A lower triangle with a positive diagonal."""
    return raw.tril(-1) + raw.diagonal(dim1=-2, dim2=-1).exp().diag_embed()


MAPS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "real": lambda raw: raw,
    "positive": F.softplus,
    "exp": torch.exp,
    "cholesky": cholesky,
}
"""The maps as everyone writes them."""

INVERSES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "real": lambda value: value,
    "positive": lambda value: value.expm1().log(),
    "exp": torch.log,
    "cholesky": lambda value: value.tril(-1) + value.diagonal().log().diag_embed(),
}


@dataclass(frozen=True)
class Problem:
    """What is timed.

    Args:
        name: the name of the case.
        family: the class that declares it.
        values: where its parameters start.
        maps: by parameter, the name of its map.
        make: from values, and perhaps `validate_args`, to the distribution.
        samples: how many draws a step takes, or how many data it sees.
        target: what the divergence is from, or None for a likelihood.
    """

    name: str
    family: type[Variational]
    values: Mapping[str, Tensor]
    maps: Mapping[str, str]
    make: Callable[..., dd.Distribution]
    samples: int
    target: dd.Distribution | None

    def declared(self, validate_args: bool | None = None) -> Variational:
        """A new instance of the family, perhaps one that does not look at what it scores."""
        values: dict[str, Any] = dict(self.values)
        if validate_args is None:
            return self.family(**values)
        body = {"validate_args": validate_args}
        kind = types.new_class(self.family.__name__, (self.family,), exec_body=body_of(body))
        built: Variational = kind(**values)
        return built

    def raw(self) -> dict[str, torch.nn.Parameter]:
        """The unconstrained parameters, by hand."""
        return {
            name: torch.nn.Parameter(INVERSES[self.maps[name]](value).clone())
            for name, value in self.values.items()
        }

    def loss(self) -> Loss:
        """The loss of a distribution."""
        target, shape = self.target, (self.samples,)
        if target is not None:

            def divergence(distribution: Any) -> Tensor:
                x = distribution.rsample(shape)
                loss: Tensor = (distribution.log_prob(x) - target.log_prob(x)).mean()
                return loss

            return divergence
        data = torch.randn(shape)

        def likelihood(distribution: Any) -> Tensor:
            loss: Tensor = -distribution.log_prob(data).mean()
            return loss

        return likelihood


def body_of(names: Mapping[str, Any]) -> Callable[[dict[str, Any]], None]:
    """What fills the body of a class."""
    return lambda space: space.update(names)


class Gamma(Variational):
    """The family of the quickstart."""

    base = dd.Gamma
    concentration = Param(1.0, Positive())
    rate = Param(1.0, Exp())


class Normal(Variational):
    """A scale learned through its logarithm."""

    base = dd.Normal
    loc = Param(0.0)
    scale = Param(1.0, Exp())


class FullRank(Variational):
    """A Normal with a full covariance."""

    base = dd.MultivariateNormal
    loc = Param(torch.zeros(64))
    scale_tril = Param(torch.eye(64), LowerCholesky())


def mixture(
    logits: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None
) -> dd.MixtureSameFamily:
    """A mixture of Normals."""
    return dd.MixtureSameFamily(
        dd.Categorical(logits=logits, validate_args=validate_args),
        dd.Normal(loc, scale, validate_args=validate_args),
        validate_args=validate_args,
    )


class Mixture(Variational):
    """The same, declared by a method."""

    logits = Param(torch.zeros(10))
    loc = Param(torch.linspace(-2.0, 2.0, 10))
    scale = Param(torch.ones(10), Positive())

    def base(self, logits: Tensor, loc: Tensor, scale: Tensor) -> dd.MixtureSameFamily:
        """The base that a user writes, whose arguments are checked as torch does."""
        return mixture(logits, loc, scale)


LARGEST = 10**6
"""How many numbers one draw of all samples may have; with more, only the arithmetic is timed."""


def problems() -> Iterator[Problem]:
    """All cases: every family, with numbers of samples and dimensions that are not too large."""
    for dims in (1, 64, 10_000):
        for samples in (1, 1_000, 100_000):
            if dims * samples > LARGEST:
                continue
            ones, zeros = torch.ones(dims), torch.zeros(dims)
            where = f"{dims} dims, {samples} samples"
            yield Problem(
                f"Gamma, {where}",
                Gamma,
                {"concentration": ones, "rate": ones},
                {"concentration": "positive", "rate": "exp"},
                dd.Gamma,
                samples,
                dd.Gamma(5 * ones, 5 * ones),
            )
            yield Problem(
                f"Normal, {where}",
                Normal,
                {"loc": zeros, "scale": ones},
                {"loc": "real", "scale": "exp"},
                dd.Normal,
                samples,
                dd.Normal(ones, 2 * ones),
            )
    for samples in (1, 1_000):
        yield Problem(
            f"MultivariateNormal(64), {samples} samples",
            FullRank,
            {"loc": torch.zeros(64), "scale_tril": torch.eye(64)},
            {"loc": "real", "scale_tril": "cholesky"},
            dd.MultivariateNormal,
            samples,
            dd.MultivariateNormal(torch.ones(64), scale_tril=2 * torch.eye(64)),
        )
    for samples in (1, 1_000, 100_000):
        yield Problem(
            f"mixture of 10, {samples} data",
            Mixture,
            {"logits": torch.zeros(10), "loc": torch.linspace(-2, 2, 10), "scale": torch.ones(10)},
            {"logits": "real", "loc": "real", "scale": "positive"},
            mixture,
            samples,
            None,
        )

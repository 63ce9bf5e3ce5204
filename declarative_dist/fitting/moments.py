"""What data suggest for the parameters of each family of torch: closed forms, moments, quantiles.

They are starts, not answers: the best that is known for a few passes over the data. All are
computed in float64, for many independent problems at once, and with weights.

General source: Johnson, Kotz and Balakrishnan, Continuous Univariate Distributions, volumes 1 and
2, and Johnson, Kemp and Kotz, Univariate Discrete Distributions; others stand beside the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist.plain.arguments import look_up
from declarative_dist.wrappers.zero_inflated import ZeroInflated

Suggestion = dict[str, Tensor]
"""Tensors of shape `(*batch, *own)` by the names of constructor arguments."""

_EULER = 0.5772156649015329
_LEAST = 1e-300


class Sample:
    """Data of shape `(n, *batch, *event)` in float64, with weights that add up to one.

    Args:
        values: the data.
        weights: of shape `(n, *batch)`, or one that broadcasts to it.
        event_dim: how many of the last dimensions belong to one datum.
        grain: how far from an end of the data to stay, relative to its size.
    """

    def __init__(
        self, values: Tensor, weights: Tensor, event_dim: int = 0, grain: float = 0.0
    ) -> None:
        self.values = values
        shares = weights / weights.amax(0).clamp_min(_LEAST)
        self.weights = shares / shares.sum(0).clamp_min(_LEAST)
        self.event_dim = event_dim
        self.grain = grain

    def first(self) -> Sample:
        """The first datum alone."""
        return Sample(self.values[:1], self.weights[:1], self.event_dim)

    def with_values(self, values: Tensor, weights: Tensor, added: int = 0) -> Sample:
        """Other data with other weights, of as many dimensions of an event or more."""
        return Sample(values, weights, self.event_dim + added, self.grain)

    def mean(self, values: Tensor | None = None) -> Tensor:
        """The weighted mean of the data, or of other numbers for each datum."""
        values = self.values if values is None else values
        extra = values.ndim - self.weights.ndim
        return (self.weights.reshape(*self.weights.shape, *(1,) * extra) * values).sum(0)

    def var(self, values: Tensor | None = None) -> Tensor:
        """The weighted variance, by default of the data."""
        values = self.values if values is None else values
        return self.mean((values - self.mean(values)) ** 2)

    def quantile(self, share: float) -> Tensor:
        """The midpoint of the two values around a quantile."""
        shape = torch.broadcast_shapes(self.values.shape, self.weights.shape)
        values, order = self.values.expand(shape).sort(0)
        below = self.weights.expand(shape).gather(0, order).cumsum(0)
        last = len(values) - 1
        ends = [
            values.gather(0, (below < share + slack).sum(0, keepdim=True).clamp_max(last))
            for slack in (-1e-9, 1e-9)
        ]
        return (ends[0] + ends[1]).squeeze(0) / 2

    def ends(self) -> tuple[Tensor, Tensor]:
        """The smallest and the largest datum with a weight."""
        low = high = self.values
        lacks = self.weights == 0
        if lacks.any():
            low, high = low.masked_fill(lacks, torch.inf), high.masked_fill(lacks, -torch.inf)
        return low.amin(0), high.amax(0)

    def beyond(self) -> tuple[Tensor, Tensor]:
        """Just below the smallest and just above the largest datum with a weight."""
        low, high = self.ends()
        # Zero has no size of its own, and a value is below its high end.
        size = torch.where(high == 0, torch.where(low == 0, 1.0, low), high)
        return low - self.grain * low.abs(), high + self.grain * size.abs()


def _binary(probs: Tensor) -> Suggestion:
    return {"probs": probs, "logits": probs.clamp(1e-6, 1 - 1e-6).logit()}


def _shares(probs: Tensor) -> Suggestion:
    probs = (probs + 1e-9) / (1 + 1e-9 * probs.shape[-1])
    return {"probs": probs, "logits": probs.log()}


def _normal(sample: Sample, values: Tensor | None = None) -> Suggestion:
    return {"loc": sample.mean(values), "scale": sample.var(values).sqrt()}


def _laplace(sample: Sample, part: Any) -> Suggestion:
    loc = sample.quantile(0.5)  # the maximum of the likelihood is there
    return {"loc": loc, "scale": sample.mean((sample.values - loc).abs())}


def _cauchy(sample: Sample, part: Any) -> Suggestion:
    spread = sample.quantile(0.75) - sample.quantile(0.25)
    return {"loc": sample.quantile(0.5), "scale": spread / 2}


def _student_t(sample: Sample, part: Any) -> Suggestion:
    loc = sample.quantile(0.5)
    spread = (sample.quantile(0.75) - sample.quantile(0.25)) / 1.45  # between df 3 and 10
    moved = (sample.values - loc) / spread.clamp_min(_LEAST)
    # The share beyond three scales: 0.058 at df 3, 0.0027 for a normal distribution.
    far = sample.mean((moved.abs() > 3).double())
    return {"loc": loc, "scale": spread, "df": (0.2 / far.clamp_min(1e-3)).clamp(1.0, 30.0)}


def _gumbel(sample: Sample, part: Any) -> Suggestion:
    scale = sample.var().sqrt() * math.sqrt(6) / math.pi
    return {"loc": sample.mean() - _EULER * scale, "scale": scale}


def _gamma(sample: Sample, part: Any) -> Suggestion:
    mean, mean_log = sample.mean(), sample.mean(sample.values.log())
    gap = (mean.log() - mean_log).clamp_min(1e-12)
    shape = (3 - gap + ((gap - 3) ** 2 + 24 * gap).sqrt()) / (12 * gap)
    for _ in range(4):  # Minka, Estimating a Gamma distribution, 2002
        slope = shape.log() - shape.digamma() - gap
        better = 1 / (1 / shape + slope / (shape - shape**2 * torch.polygamma(1, shape)))
        shape = torch.where(gap > 1e-6, better, shape)  # below, the first one is exact enough
    return {"concentration": shape, "rate": shape / mean}


def _invert_digamma(mean_log: Tensor) -> Tensor:
    """After Minka, Estimating a Dirichlet distribution, 2000."""
    shape = torch.where(mean_log >= -2.22, mean_log.exp() + 0.5, -1 / (mean_log + _EULER))
    for _ in range(4):
        shape = shape - (shape.digamma() - mean_log) / torch.polygamma(1, shape)
    return shape


def _weibull(sample: Sample, part: Any) -> Suggestion:
    logs = sample.values.log()
    shape = math.pi / (6 * sample.var(logs)).sqrt()
    return {"scale": (sample.mean(logs) + _EULER / shape).exp(), "concentration": shape}


def _beta(sample: Sample, part: Any) -> Suggestion:
    shares = torch.stack([sample.values, 1 - sample.values], -1)
    pair = _dirichlet(sample.with_values(shares, sample.weights, 1), part)["concentration"]
    return {"concentration1": pair[..., 0], "concentration0": pair[..., 1]}


def _kumaraswamy(sample: Sample, part: Any) -> Suggestion:
    first = _beta(sample, part)["concentration1"]  # close to a beta distribution's
    second = -1 / sample.mean(torch.log1p(-(sample.values**first)).clamp_max(-_LEAST))
    return {"concentration1": first, "concentration0": second}


def _dirichlet(sample: Sample, part: Any) -> Suggestion:
    mean, var, mean_log = sample.mean(), sample.var(), sample.mean(sample.values.log())
    sizes = (mean * (1 - mean) / var - 1).clamp_min(1e-2)
    shape = mean * sizes.log().mean(-1, keepdim=True).exp()  # Ronning, 1989
    for _ in range(8):  # Newton's method (Minka, Estimating a Dirichlet distribution, 2000)
        whole = shape.sum(-1, keepdim=True)
        slope, bend = whole.digamma() - shape.digamma() + mean_log, -torch.polygamma(1, shape)
        shared = 1 / torch.polygamma(1, whole) + (1 / bend).sum(-1, keepdim=True)
        better = shape - (slope - (slope / bend).sum(-1, keepdim=True) / shared) / bend
        shape = torch.where((better > 0) & better.isfinite(), better, shape / 2)
    return {"concentration": shape}


def _pareto(sample: Sample, part: Any) -> Suggestion:
    low, _ = sample.beyond()  # the maximum of the likelihood is there
    return {"scale": low, "alpha": 1 / sample.mean((sample.values / low).log())}


def _generalized_pareto(sample: Sample, part: Any) -> Suggestion:
    low, _ = sample.beyond()
    mean, var = sample.mean() - low, sample.var()
    ratio = mean**2 / var  # Hosking and Wallis, 1987
    return {
        "loc": low,
        "scale": mean * (ratio + 1) / 2,
        "concentration": ((1 - ratio) / 2).clamp(-0.4, 0.45),
    }


def _von_mises(sample: Sample, part: Any) -> Suggestion:
    sine, cosine = sample.mean(sample.values.sin()), sample.mean(sample.values.cos())
    length = (sine**2 + cosine**2).sqrt().clamp(1e-3, 1 - 1e-9)
    # Banerjee, Dhillon, Ghosh and Sra, Clustering on the unit hypersphere, JMLR 6, 2005.
    concentration = length * (2 - length**2) / (1 - length**2)
    return {"loc": torch.atan2(sine, cosine), "concentration": concentration}


def _negative_binomial(sample: Sample, part: Any) -> Suggestion:
    mean, var = sample.mean(), sample.var()
    probs = (1 - mean / var).clamp(1e-6, 1 - 1e-6)  # close to a Poisson where var <= mean
    return {"total_count": mean * (1 - probs) / probs, **_binary(probs)}


def _categorical(sample: Sample, part: Any) -> Suggestion:
    if sample.event_dim:  # the shares of a mixture
        return _shares(sample.mean())
    count = part.probs.shape[-1]
    values = sample.values.long().clamp(0, count - 1)
    return _shares(sample.mean(torch.nn.functional.one_hot(values, count).double()))


def _covariance(sample: Sample) -> Tensor:
    centred = sample.values - sample.mean()
    products = sample.mean(centred[..., :, None] * centred[..., None, :])
    size = products.diagonal(dim1=-2, dim2=-1)
    return products + torch.diag_embed(1e-9 * size + _LEAST)


def _factors(covariance: Tensor) -> Suggestion:
    factor, _ = torch.linalg.cholesky_ex(covariance)
    precision = torch.cholesky_inverse(factor)
    return {
        "scale_tril": factor,
        "covariance_matrix": covariance,
        "precision_matrix": (precision + precision.mT) / 2,
    }


def _low_rank_normal(sample: Sample, part: Any) -> Suggestion:
    """Principal components (Tipping and Bishop, Probabilistic principal component analysis)."""
    covariance, rank = _covariance(sample), part.cov_factor.shape[-1]
    values, vectors = torch.linalg.eigh(covariance)
    rest = values[..., : values.shape[-1] - rank]
    noise = rest.mean(-1, keepdim=True) if rest.shape[-1] else values[..., :1] / 2
    top = (values[..., -rank:] - noise).clamp_min(0.0).sqrt()
    factor = vectors[..., -rank:] * top[..., None, :]
    size = covariance.diagonal(dim1=-2, dim2=-1)
    diagonal = torch.maximum(size - (factor**2).sum(-1), 1e-3 * size)
    return {"loc": sample.mean(), "cov_factor": factor, "cov_diag": diagonal}


TABLE: Mapping[type[Any], Callable[[Sample, Any], Suggestion]] = {
    dd.Bernoulli: lambda data, _: _binary(data.mean()),
    dd.Beta: _beta,
    dd.Binomial: lambda data, part: _binary(
        data.mean() / part.total_count.double().clamp_min(1.0)
    ),
    dd.Categorical: _categorical,
    dd.Cauchy: _cauchy,
    dd.Chi2: lambda data, _: {
        "df": 2 * _invert_digamma(data.mean(data.values.log()) - math.log(2))
    },
    dd.ContinuousBernoulli: lambda data, _: _binary(data.mean()),
    dd.Dirichlet: _dirichlet,
    dd.Exponential: lambda data, _: {"rate": 1 / data.mean()},
    dd.Gamma: _gamma,
    dd.Geometric: lambda data, _: _binary(1 / (1 + data.mean())),
    dd.Gumbel: _gumbel,
    dd.HalfCauchy: lambda data, _: {"scale": data.quantile(0.5)},
    dd.HalfNormal: lambda data, _: {"scale": data.mean(data.values**2).sqrt()},
    dd.InverseGamma: lambda data, part: _gamma(
        data.with_values(1 / data.values, data.weights), part
    ),
    dd.Kumaraswamy: _kumaraswamy,
    dd.Laplace: _laplace,
    dd.LogNormal: lambda data, _: _normal(data, data.values.log()),
    dd.LogisticNormal: lambda data, _: _normal(data, dd.StickBreakingTransform().inv(data.values)),
    dd.LowRankMultivariateNormal: _low_rank_normal,
    dd.Multinomial: lambda data, part: _shares(data.mean() / max(part.total_count, 1)),
    dd.MultivariateNormal: lambda data, _: {"loc": data.mean(), **_factors(_covariance(data))},
    dd.NegativeBinomial: _negative_binomial,
    dd.Normal: lambda data, _: _normal(data),
    dd.OneHotCategorical: lambda data, _: _shares(data.mean()),
    dd.Pareto: _pareto,
    dd.Poisson: lambda data, _: {"rate": data.mean()},
    dd.StudentT: _student_t,
    dd.Uniform: lambda data, _: dict(zip(("low", "high"), data.beyond(), strict=True)),
    dd.VonMises: _von_mises,
    dd.Weibull: _weibull,
    # The share of zeros, as of a hurdle; where the base has zeros too, it is somewhat high.
    ZeroInflated: lambda data, _: {
        "gate": data.mean((data.values == 0).double()).clamp(1e-3, 1 - 1e-3)
    },
}
"""By family, what data suggest for its arguments, in every parametrisation."""

if hasattr(dd, "GeneralizedPareto"):
    TABLE = {**TABLE, dd.GeneralizedPareto: _generalized_pareto}


def suggest(sample: Sample, part: Any) -> Suggestion:
    """What data suggest for the arguments of a distribution that is not made of others.

    Args:
        sample: the data.
        part: the distribution as it is now, for its sizes and constants.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist.fitting.moments import Sample, suggest
        >>> data = torch.tensor([1.0, 3.0], dtype=torch.float64)
        >>> suggest(Sample(data, torch.ones(2).double()), dd.Normal(0.0, 1.0))["loc"].item()
        2.0
    """
    formula = look_up(TABLE, type(part))
    return {} if formula is None else formula(sample, part)

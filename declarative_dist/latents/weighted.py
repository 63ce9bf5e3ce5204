"""Draws with weights: what they say of a posterior, and how far that can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from declarative_dist.errors import ConstraintError, NonFiniteError, check_count, shorten
from declarative_dist.latents.named import Values, check_shape
from declarative_dist.latents.pareto import smooth, tail_shape
from declarative_dist.plain.tensors import as_tensor

UNSETTLED = "The search for the best guide did not settle."
"""A doubt that leaves no trust in draws, whatever their weights are."""

_FEWEST = 2
_GOOD_SHAPE = 0.5
_BAD_SHAPE = 0.6
"""A little below the 0.7 of the literature: a smooth weight hides a missing part just below it."""

_HEAVY_SQUARES = 0.6
_SURE = 0.025
"""A standard error, of a mean in units of its sd or of an sd relative to it, to be called good."""

_ROUGH = 0.1
_FEW = 0.1
"""The share of draws that few is: below it their weights may hide what they miss."""


class WeightedDraws:
    """Draws from a distribution near the target, and the weights that make up for the difference.

    Weights are Pareto smoothed (Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed
    importance sampling", JMLR 25, 2024, https://arxiv.org/abs/1507.02646) and add up to one. All
    results are of the target: `mean()` is the weighted mean, and so on. No weight sees a part of
    the target where there is no draw; `verdict` says how far the rest goes.

    Args:
        values: draws by site, of shape `(num_samples, *batch, *event)`.
        log_weights: the log of target density over density of the draws, but for a constant, of
            shape `(num_samples, *batch)`; minus infinity for a weight of zero.
        doubts: what stands against the draws whatever their weights are, in sentences.
        notes: what else the verdict should say, in sentences.
        dims: by site the names of its last dimensions, None for those without.

    Attributes:
        values: the draws, as given.
        weights: the smoothed weights, of shape `(num_samples, *batch)`.
        log_weights: the log ratios, as given.
        k_hat: the shape of the tail of the weights; of independent copies the largest. Below 0.6
            weighted means can be trusted, above it they may be biased.
        ess: how many draws from the target the weighted ones are worth; of copies the smallest.

    Raises:
        ConstraintError: if shapes do not fit.
        NonFiniteError: if a draw is NaN, a weight is NaN or infinite, or all weights are zero.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import WeightedDraws
        >>> x = dd.Normal(0.0, 2.0).sample((4000,))
        >>> ratio = dd.Normal(1.0, 1.0).log_prob(x) - dd.Normal(0.0, 2.0).log_prob(x)
        >>> draws = WeightedDraws({"x": x}, ratio)
        >>> bool((draws.mean()["x"] - 1.0).abs() < 0.15), draws.resample(5)["x"].shape
        (True, torch.Size([5]))
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        log_weights: Tensor,
        *,
        doubts: Sequence[str] = (),
        notes: Sequence[str] = (),
        dims: Mapping[str, Sequence[str | None]] | None = None,
    ) -> None:
        log_weights = _as_tensor(log_weights, "WeightedDraws.log_weights")
        if log_weights.ndim == 0 or len(log_weights) < _FEWEST:
            expected, got = f"the weights of {_FEWEST} draws or more", shorten(log_weights)
            raise ConstraintError("WeightedDraws.log_weights", expected, got, code="wrong-shape")
        self.values: Values = {}
        for name, value in values.items():
            subject = f"WeightedDraws.{name}"
            tensor = self.values[name] = _as_tensor(value, subject)
            check_shape(tensor, log_weights.shape, tensor.shape[log_weights.ndim :], subject)
            _check_draws(tensor, subject)
        _check_weights(log_weights)
        self.log_weights = log_weights
        self.doubts, self.notes = tuple(doubts), tuple(notes)
        self.dims = dict(dims or {})
        smoothed, shapes = smooth(log_weights.detach())
        self.weights = smoothed.exp()
        self.k_hat = float(shapes.max())
        self.ess = float(1 / self.weights.square().sum(0).max())

    @property
    def num_samples(self) -> int:
        """How many draws there are."""
        return len(self.weights)

    def mean(self) -> Values:
        """The mean by site, of shape `(*batch, *event)`."""
        return {n: self._sum(v.double()).to(v.dtype) for n, v in self._floating()}

    def std(self) -> Values:
        """The standard deviation by site, of shape `(*batch, *event)`."""
        return {n: self._variance(v.double()).sqrt().to(v.dtype) for n, v in self._floating()}

    def quantile(self, probability: float | Sequence[float] | Tensor) -> Values:
        """Quantiles by site.

        Args:
            probability: one between 0 and 1, or several.

        Returns:
            By site `(*batch, *event)`, with the shape of the probabilities in front.
        """
        ranks = _as_tensor(probability, "WeightedDraws.quantile").double()
        if not ((ranks >= 0) & (ranks <= 1)).all():
            raise ConstraintError(
                "WeightedDraws.quantile", "probabilities from 0 to 1", shorten(probability),
                code="wrong-argument",
            )  # fmt: skip
        return {n: self._quantile(v, ranks.to(v.device)) for n, v in self._floating()}

    def resample(self, num_samples: int) -> Values:
        """Draws of equal weight, by site of shape `(num_samples, *batch, *event)`.

        Stratified, in random order: a draw comes about as often as its weight asks for.
        """
        count = check_count("WeightedDraws.resample(num_samples)", num_samples)
        edges = self.weights.movedim(0, -1).cumsum(-1)
        lead = (*edges.shape[:-1], count)
        places = (torch.arange(count) + torch.rand(lead, dtype=torch.float64)) / count
        places = places[..., torch.randperm(count)].to(edges)
        index = torch.searchsorted(edges, places * edges[..., -1:]).movedim(-1, 0)
        index = index.clamp_max(self.num_samples - 1)
        return {n: v.gather(0, self._like(index, v).expand(count, *v.shape[1:])) for n, v in
                self.values.items()}  # fmt: skip

    def transform(self, /, **functions: Callable[[Values], Tensor]) -> Self:
        """These draws with derived quantities beside the sites.

        Args:
            **functions: by name, from the dict of draws to a tensor `(num_samples, *batch, *own)`;
                in order, so that each finds those before it in the dict.

        Raises:
            ConstraintError: if a name is taken, or a result has another shape.
            NonFiniteError: if a result is NaN somewhere.

        Example:
            >>> import torch
            >>> from declarative_dist import WeightedDraws
            >>> draws = WeightedDraws({"rate": torch.rand(100) + 1.0}, torch.zeros(100))
            >>> sorted(draws.transform(period=lambda values: 1 / values["rate"]).mean())
            ['period', 'rate']
        """
        values = dict(self.values)
        for name, function in functions.items():
            subject, expected = f"WeightedDraws.transform({name}=)", "a function of the draws"
            if name in values:
                fix = "Choose another name."
                raise ConstraintError(subject, "a new name", f"{name!r}", fix, code="name-taken")
            if not callable(function):
                fix = 'Write transform(period=lambda values: 1 / values["rate"]).'
                raise ConstraintError(
                    subject, expected, shorten(function), fix, code="wrong-argument"
                )
            values[name] = function(dict(values))
        said = {"doubts": self.doubts, "notes": self.notes}
        return type(self)(values, self.log_weights, dims=self.dims, **said)

    @cached_property
    def verdict(self) -> str:
        """How far the weighted draws can be trusted, in sentences.

        It begins with "good" where k-hat is below 0.5, that of the squares of every quantity below
        0.6, and all means and standard deviations are known to 2.5 %; with "usable, not good"; or
        with "unreliable", where k-hat is above 0.6, an error above 10 %, few draws count, or the
        search for a guide has not settled.
        """
        shapes, means, sds = self._worst_tail(), self._worst_error(1), self._worst_error(2)
        figures = (
            f"k-hat {self.k_hat:.2f}, worth {self.ess:.0f} of {self.num_samples} draws, means to "
            f"{means[0]:.2g} sd, sds to {sds[0]:.1%}"
        )
        limit = min(1 - 1 / math.log10(max(self.num_samples, 11)), _BAD_SHAPE)
        rough = max(means[0], sds[0])
        said = list(self.doubts)
        misses = self.k_hat >= limit or self.ess < _FEW * self.num_samples
        is_bad = misses or not rough < _ROUGH or UNSETTLED in self.doubts
        if shapes[0] >= _HEAVY_SQUARES and self.k_hat < limit:
            rest = "." if is_bad else ": trust its quantiles, not its mean and sd."
            tail = f"a heavy tail (k-hat {shapes[0]:.2f} of its squares)"
            said.append(f"The spread of {shapes[1]} has {tail}{rest}")
        if is_bad:
            word = "unreliable"
            if misses or UNSETTLED not in self.doubts:
                said.append(
                    "The draws miss part of the target: use other coordinates, more draws, or a "
                    "sampler."
                )
        elif self.k_hat < _GOOD_SHAPE and rough <= _SURE and not said:
            word = "good"
        else:
            word = "usable, not good"
            if rough > _SURE:
                worst = means[1] if means[0] > sds[0] else sds[1]
                said.append(f"{worst} is known least: make more draws.")
        return " ".join([f"{word}: {figures}.", *said, *self.notes])

    def __len__(self) -> int:
        return self.num_samples

    def __repr__(self) -> str:
        sites = ", ".join(
            f"{name} {tuple(value.shape[self.weights.ndim :])}"
            for name, value in self.values.items()
        )
        return f"WeightedDraws({self.num_samples} of {sites}; {self.verdict})"

    def _floating(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in self.values.items():
            yield name, value if value.is_floating_point() else value.double()

    def _like(self, weights: Tensor, value: Tensor) -> Tensor:
        """Weights with the dimensions of a value's event behind them."""
        extra = value.ndim - weights.ndim
        return weights.to(value.device)[(..., *(None,) * extra)]

    def _sum(self, value: Tensor) -> Tensor:
        return (self._like(self.weights, value) * value).sum(0)

    def _variance(self, value: Tensor) -> Tensor:
        share = 1 - self._like(self.weights.square().sum(0)[None], value)[0]
        centred = value - self._sum(value)
        return self._sum(centred.square()) / share.clamp_min(1e-12)

    def _quantile(self, value: Tensor, ranks: Tensor) -> Tensor:
        ordered, order = value.sort(0)
        weights = self._like(self.weights, value).expand_as(value).gather(0, order)
        middles = (weights.cumsum(0) - weights / 2).movedim(0, -1).contiguous()
        lead = middles.shape[:-1]
        asked = ranks.reshape(-1).expand(*lead, ranks.numel()).contiguous()
        # Draws of weight zero are no part of the target, at either end.
        has_weight = weights.movedim(0, -1) > 0
        lowest = middles.masked_fill(~has_weight, torch.inf).amin(-1, keepdim=True)
        highest = middles.masked_fill(~has_weight, -torch.inf).amax(-1, keepdim=True)
        asked = asked.clamp(lowest, highest).contiguous()
        upper = torch.searchsorted(middles, asked).clamp(1, self.num_samples - 1)
        ends = middles.gather(-1, upper - 1), middles.gather(-1, upper)
        share = ((asked - ends[0]) / (ends[1] - ends[0])).nan_to_num(0.5).clamp(0.0, 1.0)
        ordered = ordered.movedim(0, -1)
        low, high = ordered.gather(-1, upper - 1), ordered.gather(-1, upper)
        found = torch.lerp(low.double(), high.double(), share).to(value.dtype)
        return found.movedim(-1, 0).reshape((*ranks.shape, *lead))

    def _squares(self) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
        """By site: draws less their mean, with one dimension of entries; variance; who moves."""
        for name, value in self._floating():
            wide = value.detach().double()
            centred = (wide - self._sum(wide)).reshape(*self.weights.shape, -1)
            variance = (self.weights[..., None] * centred.square()).sum(0)
            scale = wide.abs().amax(0).reshape(variance.shape)
            yield name, centred, variance, variance.sqrt() > 1e-12 * scale

    def _worst_tail(self) -> tuple[float, str]:
        """The largest shape of the tails of squares, and whose it is.

        Of weighted ones, whose tail is heavy where draws are too narrow, and of as many draws of
        equal weight, whose tail is heavy where the target's is.
        """
        found = [(0.0, "")]
        edges = self.weights.movedim(0, -1).cumsum(-1).contiguous()
        places = ((torch.arange(self.num_samples).to(edges) + 0.5) / self.num_samples).expand(
            edges.shape
        )
        index = torch.searchsorted(edges, places.contiguous()).movedim(-1, 0)
        index = index.clamp_max(self.num_samples - 1)[..., None]
        for name, centred, variance, moves in self._squares():
            squares = centred.square().log()
            equal = squares.gather(0, index.to(squares.device).expand_as(squares))
            logs = torch.stack([self.weights.log()[..., None] + squares, equal], 1)
            shapes = tail_shape(logs.nan_to_num(-math.inf)).amax(0).masked_fill(~moves, -math.inf)
            found.append(self._largest(name, shapes.reshape(variance.shape)))
        return max(found)

    def _worst_error(self, power: int) -> tuple[float, str]:
        """The largest standard error of means (power 1) or sds (2), in sds, and whose it is."""
        found = [(0.0, "")]
        for name, centred, variance, moves in self._squares():
            excess = centred if power == 1 else centred.square() - variance
            error = (self.weights.square()[..., None] * excess.square()).sum(0).sqrt()
            relative = error / variance.sqrt() if power == 1 else error / (2 * variance)
            found.append(self._largest(name, relative.masked_fill(~moves, 0.0)))
        return max(found)

    def _largest(self, name: str, entries: Tensor) -> tuple[float, str]:
        if not entries.numel():
            return (0.0, "")
        value, at = entries.flatten().max(0)
        event = self.values[name].shape[1:]
        index = [int(i) for i in torch.unravel_index(at, event)] if event else []
        return float(value), f"{name}{index}" if index else name


def _as_tensor(value: Any, subject: str) -> Tensor:
    try:
        return as_tensor(value)
    except (TypeError, ValueError) as error:
        expected, fix = "a tensor, or numbers", f"It says: {error}."
        raise ConstraintError(
            subject, expected, shorten(value), fix, code="wrong-argument"
        ) from error


def _check_draws(value: Tensor, subject: str) -> None:
    """Refuse draws that are no numbers, with or without a weight.

    Raises:
        NonFiniteError: saying how many.
    """
    impossible = int(value.isnan().sum())
    if impossible:
        got = f"NaN at {impossible} of {value.numel()} numbers"
        raise NonFiniteError(subject, "draws that are numbers", got, "Look at the values.")


def _check_weights(log_weights: Tensor) -> None:
    """Refuse weights that are no numbers, or all zero.

    Raises:
        NonFiniteError: saying how many.
    """
    impossible = int((log_weights.isnan() | (log_weights == math.inf)).sum())
    if impossible:
        raise NonFiniteError(
            "WeightedDraws", "finite log densities",
            f"NaN or infinity at {impossible} of {log_weights.numel()} draws",
            "Look at log_joint(guide.sample((1000,))).",
        )  # fmt: skip
    if log_weights.isinf().all(0).any():
        raise NonFiniteError(
            "WeightedDraws", "a target with mass where the draws are",
            "minus infinity at every draw",
            "The target's support excludes the draws: compare their constraints.",
            code="guide-mismatch",
        )  # fmt: skip

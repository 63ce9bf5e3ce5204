"""Draws with weights: what they say of a posterior, and how far that can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import Self

from declarative_dist.errors import ConstraintError, NonFiniteError, check_count, shorten
from declarative_dist.latents.ladder import ERROR, HEAVY, RUNGS, rung_of, rung_of_weights
from declarative_dist.latents.named import Values, as_value, check_lead
from declarative_dist.latents.pareto import smooth, tail_shape

UNSETTLED = "The search for the best guide did not settle."
TOO_COARSE = "is too coarse there: use a wider one, or other units."
"""Ends of doubts that leave no trust in draws, whatever their weights are."""

_FEWEST = 2


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
        log_weights = _as_numbers(log_weights, "WeightedDraws.log_weights")
        if log_weights.ndim == 0 or len(log_weights) < _FEWEST:
            expected, got = f"the weights of {_FEWEST} draws or more", shorten(log_weights)
            raise ConstraintError("WeightedDraws.log_weights", expected, got, code="wrong-shape")
        self.values: Values = {}
        for name, value in values.items():
            subject = f"WeightedDraws.{name}"
            tensor = self.values[name] = _as_numbers(value, subject)
            check_lead(tensor, log_weights.shape, tensor.shape[log_weights.ndim :], subject)
            said = "draws that are numbers", "NaN", "Look at the values."
            _check_numbers(tensor.isnan(), subject, *said)
        _check_numbers(
            log_weights.isnan() | (log_weights == math.inf), "WeightedDraws",
            "finite log densities", "NaN or infinity", "Look at log_joint(guide.sample((1000,))).",
        )  # fmt: skip
        _check_numbers(
            log_weights.isinf() & log_weights.isinf().all(0), "WeightedDraws",
            "a target with mass where the draws are", "NaN or minus infinity",
            "The target's support excludes the draws: compare their constraints.",
        )  # fmt: skip
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
        found: Values = {}
        for name, value in self._floating():
            centred, unit = self._centre(value.double())
            left = 1 - self._like(self.weights.square().sum(0)[None], value)[0]
            variance = self._sum(centred.square()) / left.clamp_min(1e-12)
            found[name] = (unit * variance.sqrt()).to(value.dtype)
        return found

    def quantile(self, probability: float | Sequence[float] | Tensor) -> Values:
        """Quantiles by site.

        Args:
            probability: one between 0 and 1, or several.

        Returns:
            By site `(*batch, *event)`, with the shape of the probabilities in front.
        """
        ranks = _as_numbers(probability, "WeightedDraws.quantile").double()
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
        lead = (*self.weights.shape[1:], count)
        places = (torch.arange(count) + torch.rand(lead, dtype=torch.float64)) / count
        index = self._draw_at(places[..., torch.randperm(count)])
        return {
            name: value.gather(0, self._like(index, value).expand(count, *value.shape[1:]))
            for name, value in self.values.items()
        }

    def _draw_at(self, ranks: Tensor) -> Tensor:
        """The draws where sums of weights reach ranks `(*batch, count)`: `(count, *batch)`."""
        return _places(self.weights.movedim(0, -1), ranks.to(self.weights)).movedim(-1, 0)

    def transform(self, /, **functions: Callable[[Values], Tensor]) -> Self:
        """These draws with derived quantities beside the sites.

        Args:
            **functions: by name, from the dict of draws to a tensor `(num_samples, *batch, *own)`;
                in order, so that each finds those before it in the dict.

        Raises:
            ConstraintError: if a name is taken, or a result has another shape, or for no function.
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
            if name in values:
                subject, expected = f"WeightedDraws.transform({name}=)", "a new name"
                raise ConstraintError(subject, expected, repr(name), code="name-taken")
            if not callable(function):
                subject, expected = f"WeightedDraws.transform({name}=)", "a function of the draws"
                fix = f"Write {name}=lambda values: ..., where values is the dict of draws."
                raise ConstraintError(
                    subject, expected, shorten(function), fix, code="wrong-argument"
                )
            values[name] = function(dict(values))
        said = {"doubts": self.doubts, "notes": self.notes}
        return type(self)(values, self.log_weights, dims=self.dims, **said)

    @cached_property
    def verdict(self) -> str:
        """How far the weighted draws can be trusted, in sentences.

        It begins with "good" where k-hat is below 0.5, and below 0.55 for the squares of every
        quantity, and all means and standard deviations are known to 2.5 %; with "usable, not
        good"; or with "unreliable", where k-hat is above 0.6, an error above 10 %, few draws
        count, a quantity is infinite, the search for a guide has not settled, or the dtype is too
        coarse.
        """
        tail, mean, sd = self._worst()
        of_weights = rung_of_weights(self.k_hat, self.ess, self.num_samples)
        of_errors = rung_of(max(mean[0], sd[0]), ERROR)
        said, worst = list(self.doubts), max(mean, sd)[1]
        is_hopeless = any(doubt.endswith((UNSETTLED, TOO_COARSE)) for doubt in said)
        rung = 2 if is_hopeless else max(of_weights, of_errors, int(bool(said)))
        if of_weights > 1:
            said.append(
                "The draws miss part of the target: use other coordinates, more draws, or a "
                "sampler."
            )
        elif max(mean[0], sd[0]) == math.inf:
            said.append(f"{worst} has no finite mean and sd: trust its quantiles.")
        elif tail[0] >= HEAVY:
            rung = max(rung, 1)
            said.append(
                f"The spread of {tail[1]} has a heavy tail (k-hat {tail[0]:.2f} of its squares): "
                "trust its quantiles, not its mean and sd."
            )
        elif of_errors:
            said.append(f"{worst} is known least: make more draws.")
        figures = (
            f"k-hat {self.k_hat:.2f}, worth {self.ess:.0f} of {self.num_samples} draws; standard "
            f"errors: of means {mean[0]:.2g} sd, of sds {sd[0]:.1%}"
        )
        return " ".join([f"{RUNGS[rung]}: {figures}.", *said, *self.notes])

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

    def _centre(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """How far draws of any weight are from the mean, and in which unit: the largest is one.

        So the squares of very large and very small numbers are numbers, too.
        """
        centred = (value - self._sum(value)).where(self._like(self.weights, value) > 0, 0.0)
        unit = centred.abs().amax(0)
        return centred / unit.where(unit > 0, 1.0), unit

    def _quantile(self, value: Tensor, ranks: Tensor) -> Tensor:
        ordered, order = value.sort(0)
        weights = self._like(self.weights, value).expand_as(value).gather(0, order).movedim(0, -1)
        asked = ranks.reshape(-1).expand(*weights.shape[:-1], ranks.numel())
        found = ordered.movedim(0, -1).gather(-1, _places(weights, asked))
        return found.movedim(-1, 0).reshape((*ranks.shape, *weights.shape[:-1]))

    def _worst(self) -> list[tuple[float, str]]:
        """The heaviest tail of squares, the largest errors of mean and sd, and whose they are.

        Weighted squares have heavy tails where draws are too narrow, and squares of as many draws
        of equal weight where the target has. Errors are in sds, and relative to them; of a
        quantity that is infinite somewhere they are infinite.
        """
        found = [[(0.0, "")], [(0.0, "")], [(0.0, "")]]
        count = self.num_samples
        middles = (torch.arange(count) + 0.5).expand(*self.weights.shape[1:], count) / count
        index = self._draw_at(middles)[..., None]
        for name, value in self._floating():
            if not value.numel():
                continue
            wide = value.detach().double().reshape(*self.weights.shape, -1)
            centred, unit = self._centre(wide)
            weights, squares = self.weights[..., None].to(wide), centred.square()
            variance = (weights * squares).sum(0)
            equal = squares.gather(0, index.to(wide.device).expand_as(squares))
            logs = torch.stack([(weights * squares).log(), equal.log()], 1)
            error = (weights * centred).square().sum(0).sqrt() / variance.sqrt()
            error_of_sd = (weights * (squares - variance)).square().sum(0).sqrt() / (2 * variance)
            moves = unit * variance.sqrt() > 1e-12 * self._sum(wide.abs())
            is_known = variance.isfinite()
            shape = tail_shape(logs).amax(0).where(is_known & moves, 0.0)
            errors = [
                each.where(moves, 0.0).where(is_known, torch.inf) for each in (error, error_of_sd)
            ]
            event = value.shape[1:]
            for best, each in zip(found, (shape, *errors), strict=True):
                size, at = each.flatten().max(0)
                place = [int(i) for i in torch.unravel_index(torch.as_tensor(at), event)]
                best.append((float(size), f"{name}{place}" if place else name))
        return [max(each) for each in found]


def _places(weights: Tensor, ranks: Tensor) -> Tensor:
    """Where sums of weights `(*batch, draws)` reach ranks `(*batch, count)`, never at a zero."""
    sums = weights.double().cumsum(-1).contiguous()
    asked = (ranks.double() * sums[..., -1:]).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.searchsorted(sums, asked.contiguous()).clamp_max(sums.shape[-1] - 1)


def _as_numbers(value: object, subject: str) -> Tensor:
    """The numbers of draws or weights as a tensor, in the dtype that they have."""
    tensor = as_value(value, None, None, subject)
    if tensor.is_meta:
        expected, got = "numbers", f"{shorten(tensor)}, without values on the meta device"
        raise ConstraintError(subject, expected, got, code="wrong-argument")
    return tensor


def _check_numbers(is_bad: Tensor, subject: str, expected: str, what: str, fix: str) -> None:
    """Refuse draws or weights that are no numbers, with or without a weight."""
    if is_bad.any():
        got = f"{what} at {int(is_bad.sum())} of {is_bad.numel()}"
        raise NonFiniteError(subject, expected, got, fix)

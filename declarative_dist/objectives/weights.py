"""Weights of data: masks, frequencies and importance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.distributions import Distribution

from declarative_dist.errors import ConstraintError, shorten
from declarative_dist.latents.named import as_value
from declarative_dist.plain.draws import sum_rightmost
from declarative_dist.plain.indexing import choose
from declarative_dist.plain.tensors import typical_tensor
from declarative_dist.plain.tracing import is_traced


class Weights:
    """How much each datum counts in a mean.

    A datum of zero weight is never scored: the one with the most weight stands in its place, so
    that whatever it holds, NaN too, reaches neither the loss nor a gradient.

    Args:
        weights: of shape `(*data)`, or `(*data, *copies)` where copies weigh them apart.
        data: the shape of the data; None for the weights' own.
        copies: the shape of independent copies.
        module: whose data they weigh.
        subject: whom an error is about.

    Raises:
        ConstraintError: for another shape, weights that are negative or not finite, and weights
            that are zero throughout.
    """

    def __init__(
        self,
        weights: Any,
        data: torch.Size | None,
        copies: torch.Size,
        module: nn.Module,
        subject: str,
    ) -> None:
        like = typical_tensor(module)
        found = as_value(weights, like.dtype, like.device, subject)
        data = found.shape[:1] if data is None else data
        # One comparison at a time: under dynamo, sizes are symbols.
        if found.shape != data and found.shape != data + copies:
            shapes = dict.fromkeys(map(str, (tuple(data), tuple(data + copies))))
            raise ConstraintError(
                subject,
                f"one weight for each datum, of shape {' or '.join(shapes)}",
                f"shape {tuple(found.shape)}",
                "Give weights the first dimensions of the data, (n,) or (n, *copies).",
                code="wrong-shape",
            )
        self._data = data
        self.flat = found.reshape(-1, *found.shape[len(data) :])
        self._is_positive = False
        if not is_traced(found):
            is_sound = ((found >= 0) & found.isfinite()).all() and self.flat.sum(0).all()
            if not is_sound:
                expected = "weights that are finite, zero or above, and not all zero in a copy"
                raise ConstraintError(subject, expected, shorten(found), code="wrong-data")
            self._is_positive = bool((found > 0).all())
        self.flat = self.flat / self.flat.amax(0)  # or their sum may be beyond the dtype

    def replace(self, value: Tensor) -> Tensor:
        """A value `(*data, *batch, *event)` in which nothing of zero weight is left."""
        if self._is_positive:
            return value
        rows = _stand_ins(self.flat)
        flat = value.reshape(len(rows), *value.shape[len(self._data) :])
        index = rows.reshape(*rows.shape, *(1 for _ in flat.shape[rows.ndim :]))
        found = flat.take_along_dim(index, 0)
        return found.reshape(*self._data, *found.shape[1:])

    def replace_rows(self, item: Any) -> Any:
        """An argument of a batch, or a dict of some, without rows of which no copy sees any."""
        if isinstance(item, Mapping):
            return {name: self.replace_rows(value) for name, value in item.items()}
        if self._is_positive or not isinstance(item, Tensor) or item.shape[:1] != self._data:
            return item
        return item[_stand_ins(self.flat.flatten(1).sum(1) if self.flat.ndim > 1 else self.flat)]

    def replace_predictions(self, predicted: Distribution, own: int) -> Distribution:
        """Distributions `(*data, *own)` of a batch of contexts, each with the row that it scores.

        A graph cannot take them apart, and validates nothing.
        """
        if self._is_positive or len(predicted.batch_shape) == own or is_compiling():
            return predicted
        rows = _stand_ins(self.flat).reshape(self._data)
        return choose(predicted, torch.unravel_index(rows, self._data))

    def mean(self, scores: Tensor) -> Tensor:
        """The weighted mean over data of scores `(*data, *copies)`, of shape `(*copies)`."""
        scores = scores.reshape(-1, *scores.shape[len(self._data) :])
        missing = (1 for _ in scores.shape[self.flat.ndim :])
        weights = self.flat.reshape(*self.flat.shape, *missing)
        # What some copies see and others do not is scored for all.
        return (weights * scores.where(weights > 0, 0.0)).sum(0) / weights.sum(0)


def _stand_ins(weights: Tensor) -> Tensor:
    """The row to score in place of each: its own, or the row of most weight."""
    count = torch.arange(len(weights), device=weights.device)
    own = count.reshape(-1, *(1 for _ in weights.shape[1:]))
    return torch.where(weights > 0, own, weights.argmax(0))


def check_contexts(contexts: Iterable[Any], subject: str) -> None:
    """Refuse NaN in contexts: a network may mix what it is given.

    Raises:
        ConstraintError: naming the first one.
    """
    for context in contexts:
        is_known = isinstance(context, Tensor) and not is_traced(context)
        if is_known and context.isnan().any():
            expected, got = "contexts without NaN, also where the weight is zero", shorten(context)
            fix = "Replace them, by zeros or by means: a network sees all contexts."
            raise ConstraintError(subject, expected, got, fix, code="wrong-data")


@dataclass(frozen=True)
class Scores:
    """A number for each datum.

    Args:
        numbers: of shape `(*data, *copies, *problems)`.
        problems: how many dimensions problems of their own have, copies included.
        copies: how many of them stay.
        weights: how much each datum counts.
    """

    numbers: Tensor
    problems: int
    copies: int = 0
    weights: Weights | None = None

    def by_datum(self) -> Tensor:
        """The sum over problems but those that stay apart, of shape `(*data, *copies)`."""
        return sum_rightmost(self.numbers, self.problems - self.copies)

    def mean(self) -> Tensor:
        """The mean over data, of shape `(*copies)`."""
        scores = self.by_datum()
        if self.weights is not None:
            return self.weights.mean(scores)
        if not self.copies:
            return scores.mean()
        return scores.reshape(-1, *scores.shape[-self.copies :]).mean(0)

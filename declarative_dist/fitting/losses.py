"""The losses of the independent problems of an objective, on whole data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from declarative_dist.families.variational import Variational
from declarative_dist.fitting.evaluation import Backward, loss_of
from declarative_dist.plain.batch import split_keywords
from declarative_dist.plain.supports import has_learned_ends


class Losses:
    """Gives the losses at the current numbers, of shape `(*copies,)`.

    Args:
        objective: whose losses they are: it gives them by its method `losses`, or has one loss.
        batch: the data.

    Attributes:
        module: whose parameters they depend on, where the objective tells.
        copies: the shape of the independent problems.
        backward: what computes the one loss and leaves gradients, where these are one graph.
    """

    def __init__(self, objective: nn.Module, batch: tuple[Any, ...]) -> None:
        self._objective: Any = objective
        self.batch = batch
        self.module: Any = None
        self.copies = torch.Size()
        if callable(getattr(objective, "losses", None)):
            self.module = self._objective.module
            self.copies = vars(self.module)["_copies"]
        self.backward: Backward | None = None
        self._known: tuple[list[int], Tensor] | None = None
        self._ends: list[tuple[Any, Tensor]] | None = None

    def __call__(self) -> Tensor:
        """The losses now; where no number has changed, those of the last call."""
        if self.backward is not None:
            return self.backward(self.batch)
        objective = self._objective
        versions = [t._version for t in (*objective.parameters(), *objective.buffers())]
        if self._known is not None and self._known[0] == versions:
            losses = self._known[1]
            if losses.requires_grad or not torch.is_grad_enabled():
                return losses
        is_one = self.module is None
        losses = loss_of(objective, objective if is_one else objective.losses, self.batch, is_one)
        self._known = versions, losses
        return losses

    def find_refused(self, margin: float = 0.0) -> Tensor | None:
        """Which copies have data outside of a support with learned ends, of shape `(*copies)`.

        Args:
            margin: how much further out the data are taken to reach, relative to their size.

        Returns:
            None if there are no such ends.
        """
        if self._ends is None:
            with torch.enable_grad():
                self._ends = list(self._find_ends())
        refused = None
        for module, ends in self._ends:
            plain: Any = module()
            wider = ends + margin * torch.stack([-ends[0].abs(), ends[1].abs()])
            inside: Tensor = plain.support.check(wider).all(0).expand(plain.batch_shape)
            outside = ~inside.reshape(*self.copies, -1).all(-1)
            refused = outside if refused is None else refused | outside
        return refused

    def _find_ends(self) -> Iterator[tuple[Any, Tensor]]:
        """Distributions with such ends, each with the smallest and the largest of its data."""
        (value, *_), given = split_keywords(self.batch or (None,))
        pairs = [(self.module, value)]
        if isinstance(value, Mapping) and isinstance(self.module, nn.Module):
            pairs = [(self.module._modules.get(name), data) for name, data in value.items()]
        for module, data in pairs:
            if isinstance(module, Variational) and isinstance(data, Tensor):
                plain: Any = module()
                if has_learned_ends(plain):
                    lead = data.ndim - len(plain.batch_shape) - len(plain.event_shape)
                    data = data.flatten(0, lead - 1)
                    low = high = data
                    if given.get("weights") is not None:
                        weights = torch.as_tensor(given["weights"], device=data.device)
                        more = (1,) * (data.ndim - weights.ndim)
                        counts = weights.reshape(weights.shape + more).expand(data.shape) > 0
                        low = data.masked_fill(~counts, torch.inf)
                        high = data.masked_fill(~counts, -torch.inf)
                    yield module, torch.stack([low.amin(0), high.amax(0)])

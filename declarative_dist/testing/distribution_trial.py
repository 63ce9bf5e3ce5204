"""What the checks of a family share: the module, its context, and draws of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.testing.promise import BrokenPromiseError

Values = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class FamilyTrial:
    """A family on trial, which is never changed: checks work on copies."""

    family: nn.Module
    context: tuple[Any, ...]
    skip: frozenset[str]

    @property
    def name(self) -> str:
        return type(self.family).__name__

    def copy(self) -> Any:
        """A copy that a check may change."""
        return copy.deepcopy(self.family)

    def snapshot(self, family: Any) -> Any:
        """The plain distribution that the family is now."""
        return family(*self.context)

    def draws(self, family: Any, count: int = 4) -> Values:
        """Draws, always from the same random numbers."""
        torch.manual_seed(1)
        values: Values = self.snapshot(family).sample((count,))
        return values

    def scores(self, family: Any, values: Values) -> Tensor:
        """The log densities of values, by the family itself where it has them."""
        scored: Tensor = self.snapshot(family).log_prob(values)
        return scored

    def loss(self, family: Any) -> Tensor:
        """A scalar through which every parameter has a gradient."""
        loss = -self.scores(family, self.draws(family)).mean()
        if self.is_pathwise(family):
            drawn = by_site(self.snapshot(family).rsample((4,))).values()
            loss = loss + torch.stack([value.square().mean() for value in drawn]).sum()
        return loss

    def is_pathwise(self, family: Any) -> bool:
        """Whether gradients are promised to flow through draws."""
        return "rsample" not in self.skip and bool(self.snapshot(family).has_rsample)

    def broken(self, member: str, expected: str, got: str, fix: str = "") -> BrokenPromiseError:
        """What is wrong with a member of the class."""
        return BrokenPromiseError(f"{self.name}.{member}", expected, got, fix)


def by_site(values: Values) -> Mapping[str, Tensor]:
    """Draws as a dict, also those of a single distribution."""
    return values if isinstance(values, dict) else {"": values}


def perturbed(family: nn.Module) -> nn.Module:
    """The same module, every parameter moved, each entry by its own amount."""
    with torch.no_grad():
        for parameter in family.parameters():
            step = torch.linspace(0.05, 0.15, parameter.numel(), dtype=parameter.dtype)
            parameter.sub_(step.to(parameter.device).reshape(parameter.shape))
    return family


def is_plain(snapshot: object) -> bool:
    """Whether a snapshot is a plain torch distribution."""
    return isinstance(snapshot, Distribution) and not isinstance(snapshot, nn.Module)

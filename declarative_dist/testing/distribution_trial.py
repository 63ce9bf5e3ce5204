"""What the promises of a family share: the family on trial, and draws and copies of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.testing.promise import Trial

Values = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class FamilyTrial(Trial):
    """A family on trial, and what a call of it is given."""

    context: tuple[Any, ...]
    skip: frozenset[str]

    def build(self, family: Any) -> Any:
        """The plain distribution that the family is now."""
        return family(*self.context)

    def draw(self, family: Any, count: int = 4) -> Values:
        """Draws, always from the same random numbers."""
        torch.manual_seed(1)
        values: Values = self.build(family).sample((count,))
        return values

    def score(self, family: Any, values: Values) -> Tensor:
        """The log densities of values."""
        scores: Tensor = self.build(family).log_prob(values)
        return scores

    def differentiate(self, family: Any) -> None:
        """Leave a gradient on every parameter that log densities, or draws, depend on."""
        loss = -self.score(family, self.draw(family)).mean()
        if self.is_pathwise(family):
            draws = by_site(self.build(family).rsample((4,))).values()
            loss = loss + torch.stack([draw.square().mean() for draw in draws]).sum()
        if loss.requires_grad:
            loss.backward()

    def is_pathwise(self, family: Any) -> bool:
        """Whether gradients are promised to flow through draws."""
        return "rsample" not in self.skip and bool(self.build(family).has_rsample)

    def expect_scores(self, member: str, got: Tensor, wanted: Tensor, tolerance: float) -> None:
        """Refuse a member that gives other log densities."""
        self.expect_close(member, "log densities of {}", got, wanted, tolerance)


def by_site(values: Values) -> Mapping[str, Tensor]:
    """Draws as a dict, also those of a single distribution."""
    return values if isinstance(values, dict) else {"": values}


def perturb(family: nn.Module) -> nn.Module:
    """Move every parameter of a family, each entry by its own amount."""
    with torch.no_grad():
        for parameter in family.parameters():
            step = torch.linspace(0.05, 0.15, parameter.numel(), dtype=parameter.dtype)
            parameter.sub_(step.to(parameter.device).reshape(parameter.shape))
    return family


def is_plain(distribution: object) -> bool:
    """Whether this is one of torch's own objects, not a module."""
    return isinstance(distribution, Distribution) and not isinstance(distribution, nn.Module)


def tensors_in(family: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of a family, by name."""
    yield from family.named_parameters()
    yield from family.named_buffers()


def learned_in(family: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are not frozen, by name."""
    return {name: p for name, p in family.named_parameters() if p.requires_grad}

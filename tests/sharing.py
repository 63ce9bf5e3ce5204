"""What is trained in one process and in several: the objectives, and the loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributions as dd
from torch import Tensor, nn

from declarative_dist import (
    Conditional,
    GreaterThan,
    Head,
    LogInterval,
    Param,
    Positive,
    Simplex,
    Variational,
    derived,
    learnable,
)
from declarative_dist.objectives import NegativeELBO, NegativeLogLikelihood
from tests.cases import GammaFamily

ROWS = 32


class Weights(Variational):
    base = dd.Categorical
    probs = Param(constraint=Simplex(), shape=("k",))


class Components(Variational):
    base = dd.MultivariateNormal
    loc = Param(
        lambda shape: torch.linspace(-1.0, 1.0, shape.numel()).view(shape), shape=("k", "d")
    )
    scale_tril = Param(shape=("k", "d", "d"))


class Mixture(Variational):
    base = dd.MixtureSameFamily
    mixture_distribution = Weights
    component_distribution = Components


class Between(Variational):
    """A named bound, a constant, a derived value, and a frozen parameter."""

    base = dd.Beta
    low = Param(0.5, Positive(), shape=("n",))
    high = Param(2.0, GreaterThan("low"), shape=("n",))
    shift = Param(0.1, Positive(), shape=("n",), trainable=False)
    offset = torch.tensor([1.0, 2.0, 3.0])

    @derived
    def concentration1(self, low: Tensor, offset: Tensor, shift: Tensor) -> Tensor:
        return low + offset + shift

    @derived
    def concentration0(self, high: Tensor) -> Tensor:
        return high


class Policy(Conditional):
    base = dd.Normal
    event_dim = 1
    loc = Head(shape=("actions",))
    scale = Param(1.0, LogInterval(1e-3, 10.0), shape=("actions",))


class Encoder(Conditional):
    base = dd.Normal
    event_dim = 1
    loc = Head(shape=(2,))
    scale = Head(Positive(), shape=(2,))


class Decoder(nn.Module):
    """A log joint density of codes and pixels, with a learned prior."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(2, 3, dtype=torch.float64)
        self.prior = learnable(dd.Normal(torch.zeros(2).double(), torch.ones(2).double()))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.prior.log_prob(z).sum(-1) + dd.Normal(self.decoder(z), 1.0).log_prob(x).sum(-1)


def gamma(shape: Any = ()) -> nn.Module:
    start = torch.ones(shape, dtype=torch.float64)
    return NegativeLogLikelihood(GammaFamily(concentration=start, rate=start))


def mixture() -> nn.Module:
    return NegativeLogLikelihood(Mixture(k=3, d=2, dtype=torch.float64))


def between() -> nn.Module:
    return NegativeLogLikelihood(Between(n=3, dtype=torch.float64))


def policy() -> nn.Module:
    torch.manual_seed(5)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double()
    return NegativeLogLikelihood(Policy(in_features=4, actions=2, network=network))


def amortised() -> nn.Module:
    torch.manual_seed(6)
    encoder = Encoder(in_features=3, dtype=torch.float64)
    return NegativeELBO(Decoder(), encoder, num_samples=4)


def without_data() -> nn.Module:
    guide = learnable(dd.Normal(torch.zeros(3).double(), torch.ones(3).double()))
    target = dd.Normal(torch.arange(3.0).double(), torch.tensor(0.5).double())
    return NegativeELBO(target.log_prob, guide, num_samples=4)


OBJECTIVES: dict[str, Callable[[], nn.Module]] = {
    "gamma": lambda: gamma((1,)),
    "mixture": mixture,
    "between": between,
    "policy": policy,
    "amortised": amortised,
    "without_data": without_data,
}
"""Objectives in float64, always started alike."""


def rows_for(name: str) -> tuple[Tensor, ...]:
    """The data of an objective, always the same: `ROWS` rows, or none."""
    generator = torch.Generator().manual_seed(3)
    width = {"gamma": 1, "mixture": 2, "between": 3, "policy": 5, "amortised": 3}.get(name, 0)
    x = torch.rand(ROWS, width, generator=generator, dtype=torch.float64) * 0.98 + 0.01
    return {"policy": (x[:, :3], x[:, 3:]), "without_data": ()}.get(name, (x,))


def part_of(rows: tuple[Tensor, ...], rank: int, count: int) -> tuple[Tensor, ...]:
    """The rows of one process."""
    return tuple(tensor.chunk(count)[rank] for tensor in rows)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be spread over processes, as a copy."""
    spread: Any = tensor
    gathered: Tensor = spread.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return gathered.detach().clone()


def adam(objective: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(objective.parameters(), lr=0.05)


def train(
    call: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: tuple[Tensor, ...],
    steps: range,
    ranks: tuple[int, ...],
    count: int,
) -> dict[str, Tensor]:
    """A loop by hand over the parts of some processes; the gradients of the last step by name.

    The draws of a step and a process come from a seed of their own, so that one process can play
    several: `ranks` are those that this one plays.
    """
    for step in steps:
        optimizer.zero_grad()
        for rank in ranks:
            torch.manual_seed(1000 * step + rank)
            (call(*part_of(rows, rank, count)) / len(ranks)).backward()
        gradients = {
            name.removeprefix("module.") if is_wrapped(call) else name: whole(parameter.grad)
            for name, parameter in call.named_parameters()
            if parameter.grad is not None
        }
        optimizer.step()
    return gradients


def is_wrapped(call: nn.Module) -> bool:
    return isinstance(call, nn.parallel.DistributedDataParallel)


def values_of(objective: nn.Module) -> dict[str, Tensor]:
    """The whole state of an objective."""
    return {name: whole(tensor) for name, tensor in objective.state_dict().items()}


def alone(name: str, steps: int, count: int = 2) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of the last step and final state of one process that has all of the data."""
    objective = OBJECTIVES[name]()
    ranks = tuple(range(count))
    gradients = train(objective, adam(objective), rows_for(name), range(steps), ranks, count)
    return gradients, values_of(objective)

"""Where the components of a mixture may start: weights of data that lie together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from declarative_dist.fitting.moments import Sample

SHELLS = 1
"""The seed of shells around the median, where the others are centres."""

ROUNDS = 10
"""How often k-means moves its centres."""


def cluster(sample: Sample, batch: torch.Size, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """The shares `(n, *batch, count)` of data in components that lie apart, and their weights.

    Centres as in k-means++ (Arthur and Vassilvitskii, 2007), then k-means (Lloyd, 1982); of one
    seed shells around the median, for components that differ in scale alone.
    """
    values, weights = sample.values, sample.weights
    values = (
        values.flatten(values.ndim - sample.event_dim) if sample.event_dim else values[..., None]
    )
    values = values.expand(len(values), *batch, values.shape[-1])
    weights = weights.expand(len(values), *batch)
    scale = Sample(values, weights).var().sqrt().clamp_min(1e-300)
    values = values / scale
    if seed == SHELLS:
        distance = (values - values.median(0).values).square().sum(-1)
        shell = distance.argsort(0).argsort(0) * count // len(values)
        return _soften(nn.functional.one_hot(shell, count)), weights
    generator = torch.Generator().manual_seed(seed)
    centers: list[Tensor] = []
    nearest = torch.ones_like(weights)
    for _ in range(count):
        chance = (weights * nearest + 1e-300).log()
        noise = torch.rand(chance.shape, generator=generator, dtype=torch.float64).to(chance)
        row = (chance - (-noise.clamp(1e-12, 1 - 1e-12).log()).log()).argmax(0)
        index = row[None, ..., None].expand(1, *values.shape[1:])
        centers.append(values.gather(0, index).squeeze(0))
        distance = ((values - centers[-1]) ** 2).sum(-1)
        nearest = distance if len(centers) == 1 else torch.minimum(nearest, distance)
    center, member = torch.stack(centers, -2), weights[..., None]
    for _ in range(ROUNDS):
        distance = ((values.unsqueeze(-2) - center) ** 2).sum(-1)
        member = nn.functional.one_hot(distance.argmin(-1), count)
        counts = member * weights[..., None]
        total = counts.sum(0)[..., None]
        moved = torch.einsum("n...k,n...d->...kd", counts, values) / total.clamp_min(1e-300)
        center = torch.where(total > 0, moved, center)
    return _soften(member), weights


def _soften(member: Tensor) -> Tensor:
    """Memberships, zeros and ones, with a trace of each datum in every component."""
    return (member + 1e-3 / member.shape[-1]) / (1 + 1e-3)

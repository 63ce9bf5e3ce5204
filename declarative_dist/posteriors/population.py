"""Mixtures that are fitted to weighted draws: population Monte Carlo.

Cappe, Douc, Guillin, Marin and Robert, "Adaptive importance sampling in general mixture classes",
Statistics and Computing 18, 2008, https://arxiv.org/abs/0710.4242, for multivariate t components.
"""

from __future__ import annotations

import torch
from torch import Tensor

from declarative_dist.posteriors.gaussian import DEGREES, Gaussian

_MOST = 6
_PER_NUMBER = 20
_ROUNDS = 6
_POWERS = (1.0, 0.8, 0.6, 0.45, 0.3, 0.2, 0.1, 0.05)


def fit_mixture(
    vectors: Tensor, log_weights: Tensor, guide: Gaussian
) -> tuple[Gaussian, list[float]]:
    """Components that together have the shape of weighted draws, and their shares.

    There are as many as the draws are worth; where few draws carry most of the weight, weights are
    tempered first, and covariances lean on that of the guide.

    Args:
        vectors: draws, of shape `(num_samples, *copies, size)`.
        log_weights: their normalised log weights, of shape `(num_samples, *copies)`.
        guide: the guide's Gaussian, of shape `(*copies, size)`, with a matrix for a factor.

    Returns:
        Gaussians of shape `(count, *copies, size)`, and shares that add up to one.
    """
    size = vectors.shape[-1]
    weights, worth = _temper(log_weights, 10 * size)
    noise = guide.whiten(vectors)  # in units of the guide nothing is too large or too flat
    unit = torch.eye(size).to(noise)
    whole = _moments(noise, weights[None], weights[None], unit)
    count = int(max(1, min(_MOST, worth / (_PER_NUMBER * size))))
    rows, shares = whole, torch.ones_like(whole.loc[..., 0])
    if count > 1:
        rows = Gaussian(
            _spread_out(noise, weights, count), whole.scale.expand(count, *whole.scale.shape[1:])
        )
        shares = torch.full((count, *weights.shape[1:]), 1 / count).to(weights)
        covariance = 0.6 * whole.scale[0] @ whole.scale[0].mT
        for _ in range(_ROUNDS):
            scores, pulls = _responsibilities(rows, noise, shares)
            parts = scores * weights
            rows = _moments(noise, parts, parts * pulls, covariance)
            shares = parts.sum(1).clamp_min(1e-3)
            shares = shares / shares.sum(0)
    held = shares.reshape(count, -1).mean(1)
    return Gaussian(guide.move(rows.loc), guide.scale @ rows.scale), (held / held.sum()).tolist()


def _spread_out(vectors: Tensor, weights: Tensor, count: int) -> Tensor:
    """A few of the draws, as their weights ask for: `(count, *copies, size)`."""
    places = (torch.arange(count).to(weights) + 0.5) / count
    edges = weights.movedim(0, -1).cumsum(-1).contiguous()
    at = torch.searchsorted(edges, places.expand(*edges.shape[:-1], count).contiguous())
    at = at.clamp_max(len(vectors) - 1).movedim(-1, 0)[..., None]
    return vectors.gather(0, at.expand(-1, *vectors.shape[1:]))


def _responsibilities(rows: Gaussian, vectors: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Whose draw each is, and how much a far one counts: both `(count, num_samples, *copies)`."""
    scores, pulls = [], []
    for k, share in enumerate(shares):
        row = Gaussian(rows.loc[k], rows.scale[k])
        noise = row.whiten(vectors)
        scores.append(row.log_prob_of_twin(noise) + share.log())
        pulls.append((DEGREES + noise.shape[-1]) / (DEGREES + noise.square().sum(-1)))
    return torch.stack(scores).softmax(0), torch.stack(pulls)


def _moments(vectors: Tensor, parts: Tensor, pulled: Tensor, prior: Tensor) -> Gaussian:
    """Centres and factors of parts `(count, num_samples, *copies)` of the draws."""
    centre = torch.einsum("ks...,s...i->k...i", pulled, vectors)
    held = parts.sum(1).clamp_min(1e-12)
    loc = centre / pulled.sum(1).clamp_min(1e-12)[..., None]
    factors = []
    for k in range(len(parts)):
        centred = vectors - loc[k]
        square = torch.einsum("s...,s...i,s...j->...ij", pulled[k], centred, centred)
        # A covariance from few draws leans on what is known before.
        worth = held[k].square() / parts[k].square().sum(0).clamp_min(1e-24)
        lean = (vectors.shape[-1] / worth)[..., None, None]
        mean = (square / held[k][..., None, None] + lean * prior) / (1 + lean)
        factors.append(torch.linalg.cholesky(mean))
    return Gaussian(loc, torch.stack(factors))


def _temper(log_weights: Tensor, least: float) -> tuple[Tensor, float]:
    """Weights to a power that leaves enough draws to count, and how many these are worth."""
    weights, worth = log_weights.exp(), 0.0
    for power in _POWERS:
        weights = (power * log_weights).softmax(0)
        worth = float(1 / weights.square().sum(0).max())
        if worth >= min(least, len(log_weights) / 4):
            break
    return weights, worth

"""Importance sampling from a mixture of Gaussians and their heavier twins."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from declarative_dist.latents.pareto import smooth
from declarative_dist.posteriors.gaussian import DEGREES, Gaussian, stack
from declarative_dist.posteriors.modes import Modes
from declarative_dist.posteriors.noise import sobol_normal
from declarative_dist.posteriors.population import fit_mixture
from declarative_dist.posteriors.search import Density, choose, score

_ROUNDS = 5
_HEAVY = 0.4
_SHARE = 0.7
_KEPT = 0.3

MOST_OF_A_FACTOR = 400
"""Above so many numbers Gaussians have no correlations."""

UNSEEN = "No weight sees a mode that no draw has visited."
"""What every verdict on weights leaves open."""


@dataclass(frozen=True)
class Components:
    """What weighted draws are made from, and what is known of other modes.

    Args:
        rows: Gaussians, of shape `(count, *copies, size)`.
        shares: how much of the draws each gets.
        doubts: what stands against the draws whatever their weights are.
        notes: what else is to be said.
    """

    rows: Gaussian
    shares: tuple[float, ...]
    doubts: tuple[str, ...]
    notes: tuple[str, ...]


def components_of(guide: Gaussian, bound: Tensor, modes: Modes | None) -> Components:
    """A guide, and the modes of its target that may hold much.

    Args:
        guide: the guide's Gaussian, of shape `(*copies, size)`.
        bound: its judged bound, of shape `(1, *copies)`.
        modes: what a search has found; None if nobody has looked.
    """
    guide = Gaussian(guide.loc[None].double(), guide.scale[None].double())
    if modes is None or not modes.bounds[0].isfinite().all():
        doubt = "No other start was tried."
        return Components(guide, (1.0,), (doubt,), (UNSEEN,))
    notes, doubts = [modes.describe(), UNSEEN], []
    is_near = modes.is_near
    which = is_near.reshape(len(is_near), -1).any(1)
    if int(which.sum()) > 1:
        doubts.append("Several modes hold mass: there may be more.")
    if not modes.is_settled.all():
        doubts.append("The search for the best guide did not settle.")
    behind = float((modes.bounds[0] - bound[0]).max())
    if modes.is_of(bound):
        which[0] = False  # the guide itself
    else:
        notes.insert(
            0, f"The guide is {behind:.3g} nats below the best bound found: fit it again."
        )
    # A copy without a further mode draws from its best one in its place.
    best = Gaussian(modes.rows.loc[:1], modes.rows.scale[:1])
    rows = choose(is_near, modes.rows, best)
    if rows.is_diagonal and not guide.is_diagonal:
        rows = Gaussian(rows.loc, rows.scale.diag_embed())
    bounds = modes.bounds.masked_fill(~is_near, -torch.inf)
    rows = stack([guide, Gaussian(rows.loc[which], rows.scale[which])])
    bounds = torch.cat([bound, bounds[which]])
    held = bounds.softmax(0).reshape(len(bounds), -1).mean(1)
    shares = 0.8 * held + 0.2 / len(held)
    return Components(rows, tuple(shares.tolist()), tuple(doubts), tuple(notes))


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians, each with a multivariate t distribution of half its weight.

    The tails of a Gaussian alone are too light for most posteriors: the weights of far draws would
    have no variance.

    Args:
        rows: the Gaussians, of shape `(count, *copies, size)`.
        shares: the weights of the rows, which add up to one.
    """

    rows: Gaussian
    shares: tuple[float, ...]

    def draw(self, num_samples: int, seed: int) -> Tensor:
        """Vectors `(num_samples, *copies, size)`; of each component a fixed number."""
        shape = self.rows.loc.shape[1:]
        edges = [round(num_samples * sum(self.shares[:k])) for k in range(len(self.shares) + 1)]
        parts = []
        for k, (low, high) in enumerate(pairwise(edges)):
            copies = shape[:-1].numel()
            noise = sobol_normal(high - low, copies * (shape[-1] + DEGREES), seed + k)
            noise = noise.reshape(high - low, *shape[:-1], -1).to(self.rows.loc)
            normal, extra = noise.split([shape[-1], DEGREES], -1)
            shrink = (extra.square().mean(-1, keepdim=True)).sqrt()
            # Not by turns: every other Sobol point is in one half of the space.
            is_twin = torch.arange(high - low, device=shrink.device) >= (high - low) // 2
            is_twin = is_twin.reshape(-1, *[1] * len(shape))
            row = Gaussian(self.rows.loc[k], self.rows.scale[k])
            parts.append(row.move(torch.where(is_twin, normal / shrink, normal)))
        return torch.cat(parts)

    def log_prob(self, vectors: Tensor) -> Tensor:
        """The log density of vectors, whichever component they were drawn from."""
        parts = []
        for k, share in enumerate(self.shares):
            row = Gaussian(self.rows.loc[k], self.rows.scale[k])
            noise = row.whiten(vectors)
            both = torch.logaddexp(row.log_prob_of_noise(noise), row.log_prob_of_twin(noise))
            parts.append(both + torch.tensor(share / 2, dtype=both.dtype).log())
        return torch.stack(parts).logsumexp(0)


def weigh(
    density: Density, components: Components, num_samples: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Draws near a log density, and their log weights.

    Weights are those of the whole mixture (Owen and Zhou, "Safe and effective importance
    sampling", JASA 95, 2000). While their tail is heavy, or many draws are wasted, components that
    are fitted to the weighted draws take most of the share, and all is drawn anew.

    Args:
        density: the log density.
        components: Gaussians near its modes.
        num_samples: how many draws to make.
        seed: of the draws.

    Returns:
        Vectors `(num_samples, *copies, size)`, and log weights `(num_samples, *copies)`.
    """
    rows, shares = components.rows, components.shares
    can_adapt = rows.loc.shape[-1] <= MOST_OF_A_FACTOR
    if rows.is_diagonal and can_adapt:
        rows = Gaussian(rows.loc, rows.scale.diag_embed())
    mixture, found = Mixture(rows, shares), []
    with torch.no_grad():
        for number in range(_ROUNDS):
            vectors = mixture.draw(num_samples, seed + 1000 * number)
            log_weights = score(density, vectors)[0] - mixture.log_prob(vectors)
            if log_weights.isinf().all(0).any() or not can_adapt:
                return vectors, log_weights
            smoothed, k_hat = smooth(log_weights)
            worth = float((-(2 * smoothed).logsumexp(0)).exp().min())
            found.append((worth, vectors, log_weights))
            if float(k_hat.max()) <= _HEAVY and worth > _SHARE * num_samples:
                break
            fitted, held = fit_mixture(vectors, smoothed, Gaussian(rows.loc[0], rows.scale[0]))
            mixture = Mixture(
                stack([rows, fitted]),
                (*(_KEPT * share for share in shares), *((1 - _KEPT) * share for share in held)),
            )
    return max(found, key=lambda each: each[0])[1:]

"""Importance sampling from a mixture of Gaussians and their heavier twins."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from declarative_dist.latents.named import Values
from declarative_dist.latents.weighted import TOO_COARSE, UNSETTLED, WeightedDraws
from declarative_dist.posteriors.gaussian import DEGREES, Gaussian, pick_where, stack
from declarative_dist.posteriors.modes import SAME, UNTRIED, Modes
from declarative_dist.posteriors.nested import nested_laplace, rank_numbers
from declarative_dist.posteriors.noise import sobol_normal
from declarative_dist.posteriors.search import Density, score

_GOOD = (0.7, 0.45), (0.35, 0.7)
"""The least share of draws that count, and the largest k-hat: of a guide alone, and of a grid."""

_ALONE = 0.8
"""A guide alone that is not good enough has to be better than a grid by so much."""

_KEPT = 0.3
"""The share of draws that the guide and other modes keep beside a grid."""

_RIM = 0.05
_FEWEST = 1000
"""Fewer draws cannot tell whether a mixture is good."""

_MOST_OF_A_GRID = 100
"""Above so many numbers a grid has one leading number."""

MOST_OF_A_FACTOR = 400
"""Above so many numbers Gaussians have no correlations."""

_ROUNDED, _CRUDE, _AT_END, _WITHOUT = 0.05, 0.2, 0.005, 0.02
"""The most weight on draws of one number, where means still hold and where they don't, the most on
the last number of a dtype, and the largest share of draws at which a log density is NaN."""

_COARSE = TOO_COARSE.replace("too ", "")

UNSEEN = "A mode that no draw and no start has visited would not show."
"""What every verdict on draws leaves open."""


def components_of(
    guide: Gaussian, bound: Tensor, modes: Modes | None
) -> tuple[Mixture, list[str], list[str]]:
    """A mixture of a guide and the modes of its target that may hold much.

    Args:
        guide: the guide's Gaussian, of shape `(*copies, size)`.
        bound: its judged bound, of shape `(*copies)`.
        modes: what a search has found; None if nobody has looked.

    Returns:
        The mixture, what stands against its draws whatever their weights are, and what else is to
        be said.
    """
    if modes is None or not modes.bounds[0].isfinite().all():
        return Mixture(guide[None], (1.0,)), [UNTRIED], [UNSEEN]
    notes, doubts = [modes.describe(), UNSEEN], []
    if not modes.starts:
        doubts.append(notes.pop(0))
    if int(_any_copy(modes.is_near).sum()) > 1:
        doubts.append("Several modes hold mass: there may be more.")
    if not modes.is_settled.all():
        doubts.append(UNSETTLED)
    if (behind := modes.lead_of(bound)) >= SAME:
        notes.insert(
            0, f"The guide is {behind:.3g} nats below the best bound found: fit it again."
        )
    is_other = modes.is_sampled & ~modes.is_like(guide, bound)
    which = _any_copy(is_other)
    # A copy without a further mode draws from its guide in its place.
    rows = modes.rows if guide.is_diagonal else modes.rows.full()
    rows = stack([guide[None], pick_where(is_other, rows, guide[None])[which]])
    bounds = torch.cat([bound[None], modes.bounds.masked_fill(~is_other, -torch.inf)[which]])
    held = bounds.softmax(0).reshape(len(bounds), -1).mean(1)
    shares = 0.8 * held + 0.2 / len(held)
    return Mixture(rows, tuple(shares.tolist())), doubts, notes


def _any_copy(mask: Tensor) -> Tensor:
    """Which rows of a mask `(count, *copies)` hold for some copy."""
    return mask.reshape(len(mask), -1).any(1)


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
            if low == high:  # a share that rounds to no draw
                continue
            copies = shape[:-1].numel()
            noise = sobol_normal(high - low, copies * (shape[-1] + DEGREES), seed + k)
            noise = noise.reshape(high - low, *shape[:-1], -1).to(self.rows.loc)
            normal, extra = noise.split([shape[-1], DEGREES], -1)
            shrink = (extra.square().mean(-1, keepdim=True)).sqrt()
            # Not by turns: every other Sobol point is in one half of the space.
            is_twin = torch.arange(high - low, device=shrink.device) >= (high - low) // 2
            is_twin = is_twin.reshape(-1, *[1] * len(shape))
            row = self.rows[k]
            parts.append(row.move(torch.where(is_twin, normal / shrink, normal)))
        return torch.cat(parts)

    def weigh(self, density: Density, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
        """Draws, and their log weights for a log density, of shape `(num_samples, *copies)`.

        Weights are over the whole mixture (Owen and Zhou, "Safe and effective importance
        sampling", JASA 95, 2000).
        """
        vectors = self.draw(num_samples, seed)
        return vectors, score(density, vectors)[0] - self.log_prob(vectors)

    def log_prob(self, vectors: Tensor) -> Tensor:
        """The log density of vectors, whichever component they were drawn from."""
        parts = []
        for k, share in enumerate(self.shares):
            row = self.rows[k]
            noise = row.whiten(vectors)
            both = torch.logaddexp(row.log_prob_of_noise(noise), row.log_prob_of_twin(noise))
            parts.append(both + torch.tensor(share / 2, dtype=both.dtype).log())
        return torch.stack(parts).logsumexp(0)


def describe_losses(
    density: Density, vectors: Tensor, values: Values, log_weights: Tensor
) -> list[str]:
    """Where a dtype or a density has no numbers for what may hold much, in sentences.

    Draws differ. Where their values don't, they are rounded to one number, or held at the last
    one, beyond which nobody knows how much there is.

    Args:
        density: the log density of vectors.
        vectors: draws, of shape `(num_samples, *copies, size)`.
        values: the same by site, of shape `(num_samples, *copies, *event)`.
        log_weights: of shape `(num_samples, *copies)`.
    """
    said, shares = [], log_weights.softmax(0)[..., None]
    for name, value in values.items():
        ordered, order = value.reshape(*log_weights.shape, -1).sort(0)
        held = shares.expand_as(ordered).gather(0, order)
        is_new = torch.ones_like(ordered, dtype=torch.bool)
        is_new[1:] = ordered[1:] != ordered[:-1]
        group = is_new.cumsum(0) - 1
        count = torch.zeros_like(held).scatter_add_(0, group, torch.ones_like(held))
        tied = torch.zeros_like(held).scatter_add_(0, group, held).where(count > 1, 0.0)
        # Some entries never move, such as the diagonal of a correlation matrix.
        tied = tied.where(group[-1:] > 0, 0.0)
        ends = [tied[0], tied.gather(0, group[-1:])[0]]
        inside = tied.scatter(0, group[-1:], 0.0)[1:]
        at_ends, within = (float(each.max()) for each in (ends[0] + ends[1], inside))
        if within > _ROUNDED:
            what = f"{within:.0%} of the weight has {name} at one number: {value.dtype}"
            said.append(f"{what} {TOO_COARSE if within > _CRUDE else _COARSE}")
        elif at_ends > _AT_END:
            what = f"{at_ends:.1%} of the weight has {name} at the last number"
            said.append(f"{what} of {value.dtype}: what lies beyond is lost.")
    missing = vectors[log_weights.isinf().reshape(len(vectors), -1).any(1)]
    if len(missing):
        is_nan = score(lambda each: density(each).isnan().double(), missing)[0] > 0
        if (lost := float(is_nan.sum(0).max()) / len(vectors)) > _WITHOUT:
            said.append(f"The log density is NaN at {lost:.0%} of the draws: it is lost there.")
    return said


def weigh(
    density: Density, mixture: Mixture, num_samples: int, seed: int
) -> tuple[Tensor, Tensor, Mixture]:
    """Draws near a log density, and their log weights.

    While the tail of the weights is heavy, or many draws are wasted, Gaussians on a grid of the
    numbers that shape the others take most of the share, and all is drawn anew.

    Args:
        density: the log density.
        mixture: Gaussians near its modes.
        num_samples: how many draws to make.
        seed: of the draws.

    Returns:
        Vectors `(num_samples, *copies, size)`, log weights `(num_samples, *copies)`, and the
        mixture that they were drawn from.
    """
    rows, shares, size = mixture.rows, mixture.shares, mixture.rows.loc.shape[-1]
    if size > MOST_OF_A_FACTOR:
        return *mixture.weigh(density, num_samples, seed), mixture
    rows, order, rim = rows.full(), list[int](), 0.0
    mixture, found = Mixture(rows, shares), list[tuple[float, Tensor, Tensor, Mixture]]()
    for leading in (1, 2, 0):
        count = max(num_samples, _FEWEST)
        vectors, log_weights = mixture.weigh(density, count, seed + len(found))
        draws = WeightedDraws({"": vectors}, log_weights)
        tail, share = max(draws.k_hat, 0.0), draws.ess / count
        # A target that does not end where the grid does looks well covered, but is not.
        quality = share / (1 + tail) ** 2 if rim < _RIM else 0.0
        least, most = _GOOD[min(len(found), 1)]
        quality *= 1.0 if found else _ALONE
        found.append((quality, vectors, log_weights, mixture))
        is_fine = quality and share > least and tail <= most
        is_costly = leading > 1 and size > _MOST_OF_A_GRID
        if is_fine or not leading or is_costly:
            break
        order = order or rank_numbers(density, rows[0]).tolist()
        # Few draws with a weight are too narrow a cloud to put a grid around.
        deviation = torch.maximum(draws.std()[""], rows.deviations[0] / 2)
        led = order[: min(leading, max(size - 1, 1))]
        grid, held, rim = nested_laplace(density, led, rows[0], draws.mean()[""], deviation)
        if not len(grid):
            break
        kept = [_KEPT * share for share in shares]
        mixture = Mixture(stack([rows, grid]), (*kept, *((1 - _KEPT) * held).tolist()))
    _, vectors, log_weights, mixture = max(found, key=lambda each: each[0])
    if num_samples < _FEWEST:
        vectors, log_weights = mixture.weigh(density, num_samples, seed)
    return vectors, log_weights, mixture

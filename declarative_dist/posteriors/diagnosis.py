"""Whether a guide can be trusted: plain draws from it, and weighted ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from declarative_dist.errors import DeclarationError, check_count, shorten
from declarative_dist.latents.density import as_log_joint, check_density
from declarative_dist.latents.ladder import highest_k_hat, is_trusted, judge_plain
from declarative_dist.latents.pareto import FEWEST
from declarative_dist.latents.weighted import WeightedDraws
from declarative_dist.plain.draws import sample_and_score
from declarative_dist.posteriors.guides import NormalGuide
from declarative_dist.posteriors.sampling import UNSEEN


@dataclass(frozen=True)
class Diagnosis:
    """How near a guide is to its target.

    Args:
        khat: the shape of the tail of the importance ratios of plain draws, 0 where all are equal;
            of independent copies the largest.
        threshold: what `khat` has to be below, with so many draws, to weight plain draws by hand.
        effective_sample_size: how many draws from the target plain ones with these ratios for
            weights are worth; of independent copies the smallest.
        num_samples: how many draws were made.
        shift: how far the means of plain draws are from the weighted ones, in sds, at worst.
        stretch: the same of their standard deviations, relative to the weighted ones.
        weighted: the verdict on weighted draws: those that an automatic guide makes by
            `importance_sample`, else the plain ones with their ratios for weights.
    """

    khat: float
    threshold: float
    effective_sample_size: float
    num_samples: int
    shift: float = math.nan
    stretch: float = math.nan
    weighted: str = ""

    @property
    def is_reliable(self) -> bool:
        """Whether plain draws agree with weighted ones, and these can be trusted."""
        return is_trusted(self.verdict)

    @property
    def verdict(self) -> str:
        """What to make of plain draws, and of weighted ones, in words."""
        plain = judge_plain(self.shift, self.stretch, self.weighted)
        return f"{plain} Weighted draws: {self.weighted}"

    def __str__(self) -> str:
        return f"Plain draws: {self.verdict}"


def diagnose(guide: Any, log_joint: object, num_samples: int = 1000) -> Diagnosis:
    """Judge a guide: its plain draws, and weighted ones.

    What the draws have not visited, nobody knows. So this compares plain draws of an automatic
    guide with those of `guide.importance_sample`, which reaches further, and into other modes.
    Plain draws of anything else are compared with the same ones weighted by the ratios
    `p(z, data) / q(z)`, whose tail is heavy where the guide is too narrow: a generalised Pareto
    distribution is fitted to it, and its shape k-hat says how many moments the ratios have
    (Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling", JMLR 25, 2024,
    https://arxiv.org/abs/1507.02646; for guides: Yao, Vehtari, Simpson and Gelman, "Yes, but did
    it work?", ICML 2018, https://arxiv.org/abs/1802.02538).

    Both kinds are "good", "usable, not good" or "unreliable", by the limits of
    `WeightedDraws.verdict`; plain ones are good where their means are off by less than 0.15 sds
    and their sds by less than 15 %, and usable up to 0.4 and 40 %.

    Args:
        guide: what is drawn from and scored: a guide, or a live or plain distribution.
        log_joint: from draws of shape `(*sample, *batch, *event)`, for a guide a dict of them, to
            log densities of shape `(*sample, *batch)`; a constant factor does not matter.
        num_samples: how many draws to make, 25 or more.

    Returns:
        A record with `khat`, its `threshold`, the `effective_sample_size` and a `verdict`.

    Raises:
        NonFiniteError: if a density is NaN, or no draw has a finite one.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist import Declarative, MeanFieldNormal, Param, diagnose
        >>> class Latents(Declarative):
        ...     x = Param(0.0)
        >>> guide = MeanFieldNormal(Latents(), init_scale=1.0)
        >>> diagnose(guide, lambda z: dd.Normal(0.0, 0.9).log_prob(z["x"])).is_reliable
        True
    """
    count = check_count("diagnose(num_samples=)", num_samples, FEWEST)
    score = as_log_joint(log_joint, "diagnose(log_joint)")
    with torch.no_grad():
        draws, log_q = _draw(guide, count)
        log_p = check_density(score(draws), log_q.shape)
    named = draws if isinstance(draws, Mapping) else {"x": draws}
    plain = WeightedDraws(named, (log_p - log_q).double(), notes=[UNSEEN])
    others = plain
    if isinstance(guide, NormalGuide):
        others = guide.importance_sample(log_joint, count)
    shift, stretch = compare(named, others)
    threshold = highest_k_hat(count)
    return Diagnosis(plain.k_hat, threshold, plain.ess, count, shift, stretch, others.verdict)


def compare(plain: Mapping[str, Tensor], draws: WeightedDraws) -> tuple[float, float]:
    """How far the means of plain draws are from weighted ones, in sds, and how far the sds."""
    mean, std = draws.mean(), draws.std()
    off = torch.zeros(2, 1, dtype=torch.float64)
    for name, value in plain.items():
        scale, wide = std[name].double(), value.double()
        both = torch.stack([wide.mean(0) - mean[name], wide.std(0) - scale]).abs() / scale
        off = torch.cat([off, both[:, scale != 0].nan_to_num(torch.inf).to(off)], 1)
    shift, stretch = off.amax(1).tolist()
    return shift, stretch


def _draw(guide: Any, num_samples: int) -> tuple[Any, Tensor]:
    """Draws and their log densities, the exact ones where the guide gives both at once."""
    if not (hasattr(guide, "sample") and hasattr(guide, "log_prob")):
        raise DeclarationError(
            "diagnose(guide)", "a guide or a distribution, with sample and log_prob",
            shorten(guide), "Write MeanFieldNormal(latents), for instance.",
        )  # fmt: skip
    shape = torch.Size((num_samples,))
    if hasattr(guide, "rsample_and_log_prob") and guide.has_rsample:
        return guide.rsample_and_log_prob(shape)
    return sample_and_score(guide, shape)

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
from declarative_dist.latents.pareto import FEWEST
from declarative_dist.latents.weighted import WeightedDraws
from declarative_dist.plain.draws import sample_and_score
from declarative_dist.posteriors.guides import NormalGuide
from declarative_dist.posteriors.sampling import UNSEEN

CLOSE = 0.15
"""What the mean of plain draws may be off, in sds, or their sd, to be called close."""

_FAR = 0.5
_MANY = 0.7
_EQUAL = 0.9
"""Draws worth this part of as many from the target: k-hat, which knows no scale, is no alarm."""


@dataclass(frozen=True)
class Diagnosis:
    """How near a guide is to its target.

    Args:
        khat: the shape of the tail of the importance ratios of plain draws, 0 where all are equal;
            of independent copies the largest.
        threshold: what `khat` should stay below with so many draws.
        effective_sample_size: how many draws from the target the plain ones are worth; of
            independent copies the smallest.
        num_samples: how many draws were made.
        shift: how far the means of plain draws are from the weighted ones, in sds, at worst; NaN
            where there are no other draws to compare them with.
        stretch: the same of their standard deviations, relative to the weighted ones.
        weighted: the verdict on weighted draws of an automatic guide.
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
        """Whether plain draws can be trusted, by k-hat and by what weighted ones say."""
        return self.khat < self.threshold and not max(self.shift, self.stretch) > _FAR

    @property
    def verdict(self) -> str:
        """What that means for plain draws, and for weighted ones, in words."""
        weighted = f"Weighted draws: {self.weighted}" if self.weighted else UNSEEN
        return f"{self._judge()}. {weighted}"

    def _judge(self) -> str:
        off = f"means are off by up to {self.shift:.2g} sd, sds by {self.stretch:.0%}"
        share = self.effective_sample_size / self.num_samples
        if self.shift > _FAR or self.stretch > _FAR:
            return (
                f"wrong: the guide is in another place than the target, or of other width; {off}"
            )
        if self.shift > CLOSE or self.stretch > CLOSE:
            return f"rough: {off}; use weighted draws"
        if self.khat < min(0.5, self.threshold) and share > 0.5:
            return "good: the guide is near the target, and weighted means converge fast"
        if self.khat < self.threshold or (share > _EQUAL and self.khat >= _MANY):
            return "usable: means are roughly right; weighting the draws improves them"
        if self.khat < _MANY:
            return "too few draws to tell: make more"
        return (
            f"{'unreliable' if self.khat < 1 else 'wrong'}: the guide misses part of the target, "
            "and means may be biased; use a richer guide, other coordinates, or a sampler"
        )

    def __str__(self) -> str:
        return (
            f"Pareto k-hat {self.khat:.2f} (below {self.threshold:.2f} is reliable with "
            f"{self.num_samples} draws), worth {self.effective_sample_size:.0f} draws from the "
            f"target. {self.verdict[0].upper()}{self.verdict[1:].removesuffix('.')}."
        )


def diagnose(guide: Any, log_joint: object, num_samples: int = 1000) -> Diagnosis:
    """Judge a guide: its plain draws, and weighted ones.

    The ratios `p(z, data) / q(z)` of plain draws have a heavy tail where the guide is too narrow.
    A generalised Pareto distribution is fitted to it; its shape k-hat says how many moments the
    ratios have. With S draws it should stay below `min(1 - 1 / log10(S), 0.7)`
    (Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling", JMLR 25, 2024,
    https://arxiv.org/abs/1507.02646; for guides: Yao, Vehtari, Simpson and Gelman, "Yes, but did
    it work?", ICML 2018, https://arxiv.org/abs/1802.02538).

    What the draws have not visited, ratios do not know. So this compares plain draws of an
    automatic guide with `guide.importance_sample`, which reaches further, and into other modes.

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
    plain = WeightedDraws(named, (log_p - log_q).double())
    shift = stretch = math.nan
    weighted = ""
    if isinstance(guide, NormalGuide):
        others = guide.importance_sample(log_joint, count)
        shift, stretch = compare(named, others)
        weighted = others.verdict
    threshold = min(1 - 1 / math.log10(count), _MANY)
    return Diagnosis(plain.k_hat, threshold, plain.ess, count, shift, stretch, weighted)


def compare(plain: Mapping[str, Tensor], draws: WeightedDraws) -> tuple[float, float]:
    """How far the means of plain draws are from weighted ones, in sds, and how far the sds."""
    mean, std = draws.mean(), draws.std()
    shifts, stretches = [0.0], [0.0]
    for name, value in plain.items():
        scale, wide = std[name].double(), value.double()
        moves = scale > 0
        shifts += ((wide.mean(0) - mean[name]).abs() / scale)[moves].tolist()
        stretches += (wide.std(0) / scale - 1).abs()[moves].tolist()
    return max(shifts), max(stretches)


def _draw(guide: Any, num_samples: int) -> tuple[Any, Tensor]:
    """Draws and their log densities, the exact ones where the guide gives both at once."""
    if not (hasattr(guide, "sample") and hasattr(guide, "log_prob")):
        raise DeclarationError(
            "diagnose(guide)", "a guide or a distribution, with sample and log_prob",
            shorten(guide), "Write MeanFieldNormal(latents), for instance.",
        )  # fmt: skip
    shape = torch.Size((num_samples,))
    if hasattr(guide, "rsample_and_log_prob") and guide.has_rsample:
        scored: tuple[Any, Tensor] = guide.rsample_and_log_prob(shape)
        return scored
    return sample_and_score(guide, shape)

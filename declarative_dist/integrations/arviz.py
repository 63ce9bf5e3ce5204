"""ArviZ: whether a guide can be trusted, and draws in its format.

ArviZ comes with the extra `diagnose`; it is imported when a function here is called.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from declarative_dist.errors import (
    ConstraintError,
    DeclarationError,
    NonFiniteError,
    check_count,
    shorten,
)
from declarative_dist.latents.density import as_log_joint, log_joint_at

_FEWEST = 25
"""With fewer draws there are less than five in the tail to which a distribution is fitted."""

_EQUAL = 0.9
"""Draws worth this part of as many from the target: k-hat, which knows no scale, is no alarm."""

_ROUNDING = 1e-3
"""Log ratios within this of each other are taken for equal."""


def _arviz() -> Any:
    try:
        return importlib.import_module("arviz")
    except ImportError as error:
        raise ImportError(
            'ArviZ is needed here: pip install "declarative-dist[diagnose]"'
        ) from error


@dataclass(frozen=True)
class Diagnosis:
    """How near a guide is to its target, told by the weights that draws from it would need.

    Args:
        khat: the shape of the tail of the importance ratios, 0 where all are equal; of independent
            copies the largest.
        threshold: what `khat` should stay below with so many draws.
        effective_sample_size: how many draws from the target the weighted ones are worth; of
            independent copies the smallest.
        num_samples: how many draws were made.
    """

    khat: float
    threshold: float
    effective_sample_size: float
    num_samples: int

    @property
    def is_reliable(self) -> bool:
        """Whether means under the guide, and weighted ones, are to be trusted by k-hat alone."""
        return self.khat < self.threshold

    @property
    def verdict(self) -> str:
        """What that means, in words."""
        if self.khat < min(0.5, self.threshold):
            return "good: the guide is near the target, and weighted means converge fast"
        if self.khat < self.threshold:
            return "usable: means are practically right; weighting the draws improves them"
        if self.khat < 0.7:
            return "too few draws to tell: make more"
        if self.effective_sample_size > _EQUAL * self.num_samples:
            return (
                "usable: the guide's tails are too light, but the weights of these draws are so "
                "equal that means are practically right"
            )
        if self.khat < 1:
            return (
                "unreliable: the guide misses part of the target, and means may be biased; use a "
                "richer guide, other coordinates, or a sampler"
            )
        return (
            "wrong: the weights have no mean, and the guide misses much of the target; use a "
            "richer guide, other coordinates, or a sampler"
        )

    def __str__(self) -> str:
        return (
            f"Pareto k-hat {self.khat:.2f} (below {self.threshold:.2f} is reliable with "
            f"{self.num_samples} draws), worth {self.effective_sample_size:.0f} draws from the "
            f"target. {self.verdict[0].upper()}{self.verdict[1:]}."
        )


def diagnose(guide: Any, log_joint: object, num_samples: int = 1000) -> Diagnosis:
    """Judge a guide by the Pareto shape of its importance ratios.

    The ratios `p(z, data) / q(z)` of draws from the guide have a heavy tail where the guide is
    too narrow. A generalised Pareto distribution is fitted to it; its shape k-hat says how many
    moments the ratios have. With S draws it should stay below `min(1 - 1 / log10(S), 0.7)`
    (Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling", JMLR 25, 2024,
    https://arxiv.org/abs/1507.02646; for guides: Yao, Vehtari, Simpson and Gelman, "Yes, but did
    it work?", ICML 2018, https://arxiv.org/abs/1802.02538).

    Args:
        guide: what is drawn from and scored: a guide, or a live or plain distribution.
        log_joint: from draws of shape `(*sample, *batch, *event)`, for a guide a dict of them, to
            log densities of shape `(*sample, *batch)`; a constant factor does not matter.
        num_samples: how many draws to make, 25 or more.

    Returns:
        A record with `khat`, its `threshold`, the `effective_sample_size` and a `verdict`.

    Raises:
        ImportError: without ArviZ: `pip install "declarative-dist[diagnose]"`.
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
    num_samples = check_count("diagnose(num_samples=)", num_samples, _FEWEST)
    arviz = _arviz()
    score = as_log_joint(log_joint, "diagnose(log_joint)")
    with torch.no_grad():
        draws, log_q = _draw(guide, num_samples)
        log_p = log_joint_at(score, draws, log_q.shape)
    weights = (log_p - log_q).double().cpu()
    _check_weights(weights)
    by_copy = weights.reshape(num_samples, -1).T
    smoothed, shapes = arviz.psislw(by_copy.numpy())
    # Ratios that differ by rounding alone have no tail to fit.
    is_flat = by_copy.amax(-1) - by_copy.amin(-1) < _ROUNDING
    khats = torch.as_tensor(shapes).reshape(-1).masked_fill(is_flat, 0.0)
    normalised = torch.as_tensor(smoothed).log_softmax(-1)
    sizes = (-(2 * normalised).logsumexp(-1)).exp()
    return Diagnosis(
        khat=float(khats.max()),
        threshold=min(1 - 1 / math.log10(num_samples), 0.7),
        effective_sample_size=float(sizes.min()),
        num_samples=num_samples,
    )


def _draw(guide: Any, num_samples: int) -> tuple[Any, Tensor]:
    """Draws and their log densities, the exact ones where the guide gives both at once."""
    shape = torch.Size((num_samples,))
    at_once = getattr(guide, "rsample_and_log_prob", None)
    if at_once is not None and getattr(guide, "has_rsample", False):
        scored: tuple[Any, Tensor] = at_once(shape)
        return scored
    if not (hasattr(guide, "sample") and hasattr(guide, "log_prob")):
        raise DeclarationError(
            "diagnose(guide)", "a guide or a distribution, with sample and log_prob",
            shorten(guide), "Write MeanFieldNormal(latents), for instance.",
        )  # fmt: skip
    draws = guide.sample(shape)
    return draws, guide.log_prob(draws)


def _check_weights(weights: Tensor) -> None:
    impossible = int((weights.isnan() | (weights == math.inf)).sum())
    if impossible:
        got = f"NaN or infinity at {impossible} of {weights.numel()} draws"
        fix = "Look at log_joint(guide.sample((1000,)))."
        raise NonFiniteError("diagnose", "finite log densities", got, fix)
    if weights.isinf().all(0).any():
        expected, got = "a target with mass where the guide has it", "minus infinity at every draw"
        fix = "The target's support excludes the guide: compare their constraints."
        raise NonFiniteError("diagnose", expected, got, fix, code="guide-mismatch")


def to_inference_data(
    draws: Any, num_samples: int = 1000, *, num_chains: int = 1, has_chains: bool = False
) -> Any:
    """Draws as ArviZ InferenceData, for its tables and plots.

    Args:
        draws: a guide to draw from, or a dict of draws by site, of shape `(draw, *event)`.
        num_samples: how many draws to make of a guide, in each chain.
        num_chains: in how many chains, for comparison with a sampler's.
        has_chains: whether a dict's draws have shape `(chain, draw, *event)`.

    Returns:
        An `arviz.InferenceData` whose group `posterior` has dimensions `(chain, draw, *event)`.

    Raises:
        ImportError: without ArviZ: `pip install "declarative-dist[diagnose]"`.
        ConstraintError: for draws that have no such shape.

    Example:
        >>> from declarative_dist import Declarative, MeanFieldNormal, Param, Positive
        >>> from declarative_dist.integrations.arviz import to_inference_data
        >>> class Latents(Declarative):
        ...     scale = Param([1.0, 2.0], Positive())
        >>> data = to_inference_data(MeanFieldNormal(Latents()), 50, num_chains=2)
        >>> data.posterior["scale"].shape
        (2, 50, 2)
    """
    arviz = _arviz()
    if not isinstance(draws, Mapping):
        if not hasattr(draws, "sample"):
            expected = "a guide, or a dict of draws by site"
            raise DeclarationError("to_inference_data(draws)", expected, shorten(draws))
        check_count("to_inference_data(num_samples=)", num_samples)
        check_count("to_inference_data(num_chains=)", num_chains)
        draws, has_chains = draws.sample((num_chains, num_samples)), True
        draws = draws if isinstance(draws, Mapping) else {"x": draws}
    tensors = {name: torch.as_tensor(value).detach().cpu() for name, value in draws.items()}
    lead = 2 if has_chains else 1
    counts = next(iter(tensors.values())).shape[:lead] if tensors else torch.Size()
    for name, tensor in tensors.items():
        if tensor.ndim < lead or tensor.shape[:lead] != counts:
            shape = "(chain, draw, *event)" if has_chains else "(draw, *event)"
            expected = f"shape {shape}, with as many draws as every site"
            subject = f"to_inference_data.{name}"
            raise ConstraintError(subject, expected, shorten(tensor), code="wrong-shape")
    return arviz.from_dict(
        posterior={
            str(name): _as_array(tensor if has_chains else tensor[None])
            for name, tensor in tensors.items()
        }
    )


def _as_array(tensor: Tensor) -> Any:
    is_half = tensor.dtype in (torch.bfloat16, torch.float16)
    return (tensor.float() if is_half else tensor).contiguous().numpy()

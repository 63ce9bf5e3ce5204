"""ArviZ: draws in its format.

ArviZ comes with the extra `diagnose`; it is imported when a function here is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from declarative_dist.errors import (
    ConstraintError,
    DeclarationError,
    check_count,
    shorten,
)
from declarative_dist.posteriors.diagnosis import Diagnosis, diagnose

__all__ = ["Diagnosis", "diagnose", "to_inference_data"]


def _arviz() -> Any:
    try:
        return importlib.import_module("arviz")
    except ImportError as error:
        raise ImportError(
            'ArviZ is needed here: pip install "declarative-dist[diagnose]"'
        ) from error


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

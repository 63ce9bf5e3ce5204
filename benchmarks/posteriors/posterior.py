"""A posterior: what is unknown in it, its log density, and what is known of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Values = dict[str, Tensor]
"""Values of shape `(*sample, *event)` by name."""

Moments = dict[str, tuple[float, float]]
"""Means and standard deviations by name, as in `beta[1]`."""

_SOURCE: dict[str, Any] = json.loads((Path(__file__).parent / "data.json").read_text())


def data_of(name: str) -> dict[str, Any]:
    """The data of a posterior of posteriordb: tensors for lists, numbers as they are."""
    found: dict[str, Any] = _SOURCE[name]["data"]
    return {
        key: torch.tensor(value, dtype=torch.float64) if isinstance(value, list) else value
        for key, value in found.items()
    }


def reference_of(name: str) -> Moments:
    """Mean and standard deviation of every quantity over posteriordb's reference draws."""
    return {key: (mean, sd) for key, (mean, sd) in _SOURCE[name]["reference"].items()}


def _as_they_are(values: Values) -> Values:
    return values


@dataclass(frozen=True)
class Posterior:
    """A posterior that can be fitted and compared with what is known of it.

    Args:
        name: what to call it.
        latents: a `Declarative`, whose parameters are unknown, or a conditioned `Joint`.
        log_joint: from values by name, of shape `(*sample, *event)`, to log densities `(*sample)`.
        reference: mean and standard deviation of every quantity.
        derive: from values by name to the quantities that the reference speaks of.
    """

    name: str
    latents: Any
    log_joint: Callable[[Values], Tensor]
    reference: Moments
    derive: Callable[[Values], Values] = _as_they_are

    def quantities(self, values: Values) -> Values:
        """The reference's quantities at draws `(count, *event)`: of shape `(count,)` by name."""
        found: Values = {}
        for name, value in self.derive(values).items():
            if value.ndim == 1:
                found[name] = value
            else:
                found.update({f"{name}[{i + 1}]": v for i, v in enumerate(value.unbind(-1))})
        return {name: found[name] for name in self.reference}

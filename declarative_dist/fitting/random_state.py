"""The state of all generators of random numbers that a step may draw from."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from typing import Any

import torch


def captured(generators: Iterable[torch.Generator] = ()) -> dict[str, Any]:
    """The states of torch (of the CPU, and of CUDA once it is in use), Python and NumPy.

    Args:
        generators: more of torch's generators, such as that of a DataLoader.
    """
    numpy = sys.modules.get("numpy")
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": random.getstate(),
        "numpy": None if numpy is None else numpy.random.get_state(),
        "generators": [generator.get_state() for generator in generators],
    }


def storable(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """The same states without an array, for a file that holds tensors and numbers only."""
    if state is None:
        return None
    numpy = state["numpy"]
    if numpy is not None:
        kind, keys, *rest = numpy
        numpy = [str(kind), [int(key) for key in keys], *rest]
    return {**state, "numpy": numpy}


def restore(state: dict[str, Any], generators: Iterable[torch.Generator] = ()) -> None:
    """Set all generators to states that were captured, as they came or from a file."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        for device, one in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(one, device)
    random.setstate(state["python"])
    numpy = sys.modules.get("numpy")
    if numpy is not None and state["numpy"] is not None:
        numpy.random.set_state(tuple(state["numpy"]))
    for generator, one in zip(generators, state["generators"], strict=False):
        generator.set_state(one)

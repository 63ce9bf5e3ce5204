"""The random numbers of a process: their state, and drawing without a trace."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def same_random_numbers(seed: int | None = None) -> Iterator[None]:
    """Draw, and leave the random numbers of everybody else as they were.

    Args:
        seed: where to begin, on devices in use; None for where the random numbers are.

    Example:
        >>> import torch
        >>> from declarative_dist.randomness import same_random_numbers
        >>> before = torch.get_rng_state()
        >>> with same_random_numbers():
        ...     _ = torch.randn(3)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        if seed is not None:  # torch.manual_seed would seed devices that nobody uses yet, too
            torch.default_generator.manual_seed(seed)
            for device in devices:
                torch.cuda.default_generators[device].manual_seed(seed)
        yield


def random_state() -> dict[str, Any]:
    """The states of torch's generators (CUDA's once it is in use), Python's and NumPy's."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        kind, keys, *rest = numpy.random.get_state()
        numpy = [str(kind), keys.tolist(), *rest]
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": random.getstate(),
        "numpy": numpy,
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go back to a state of all generators."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        for device, one in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(one, device)
    random.setstate(state["python"])
    numpy = sys.modules.get("numpy")
    if numpy is not None and state["numpy"] is not None:
        numpy.random.set_state(tuple(state["numpy"]))


def draws_random_numbers(function: Callable[[], object]) -> bool:
    """Whether calling a function draws random numbers; afterwards these are as before.

    Example:
        >>> import torch
        >>> from declarative_dist.randomness import draws_random_numbers
        >>> draws_random_numbers(lambda: torch.randn(3)), draws_random_numbers(lambda: 1 + 1)
        (True, False)
    """
    before = random_state()
    try:
        function()
        after = random_state()
    finally:
        set_random_state(before)
    tensors = ([state["torch"], *state["cuda"]] for state in (before, after))
    is_same = all(map(torch.equal, *tensors))
    return not is_same or any(before[name] != after[name] for name in ("python", "numpy"))

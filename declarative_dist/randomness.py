"""Drawing without a trace: for checks and starts that nobody asked to draw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Draw, and leave the random numbers of everybody else as they were.

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
        yield

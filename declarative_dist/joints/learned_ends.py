"""Which distributions have supports that move with what is learned.

The identity behind the score function and behind sticking the landing, that the gradient of a log
density has mean zero, takes the gradient of an integral for the integral of a gradient. Where the
ends of the support move and the density is not zero there, the two differ by what crosses the ends
(Leibniz's rule), and estimates that rest on it are biased.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.compiler import is_compiling
from torch.distributions import Distribution

from declarative_dist.joints.distribution import JointDistribution
from declarative_dist.plain.supports import has_learned_ends
from declarative_dist.randomness import same_random_numbers


def learned_ends(current: Any) -> str:
    """The distribution whose support moves with what is learned, in words; "" if there is none.

    Args:
        current: a plain distribution or a joint; of anything else nothing is known.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist.joints.learned_ends import learned_ends
        >>> learned_ends(dd.Uniform(0.0, torch.ones((), requires_grad=True)))
        'Uniform'
        >>> learned_ends(dd.Gamma(2.0, torch.ones((), requires_grad=True)))
        ''
    """
    if is_compiling() or not torch.is_grad_enabled():
        return ""
    for name, distribution in _parts(current):
        if has_learned_ends(distribution):
            kind = type(distribution).__name__
            return f"{kind} of site {name}" if name else kind
    return ""


def _parts(current: Any) -> Iterator[tuple[str, Distribution]]:
    if isinstance(current, JointDistribution):
        with same_random_numbers():
            drawn = current.legal_draw()
        yield from ((name, distribution) for name, distribution, _ in drawn)
    elif isinstance(current, Distribution):
        yield "", current

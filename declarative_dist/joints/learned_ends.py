"""Supports whose ends move with what is learned, in a distribution or in one of its sites."""

from __future__ import annotations

from typing import Any

import torch
from torch.compiler import is_compiling
from torch.distributions import Distribution

from declarative_dist.joints.distribution import JointDistribution
from declarative_dist.plain.supports import has_learned_ends
from declarative_dist.randomness import same_random_numbers


def describe_learned_ends(current: Any) -> str:
    """Whose support moves with what is learned, or may do so, in words; "" if nobody's does.

    The identity behind the score function and behind sticking the landing, that the gradient of a
    log density has mean zero, takes the gradient of an integral for the integral of a gradient.
    Where the ends of the support move and the density is not zero there, the two differ by what
    crosses the ends (Leibniz's rule), and estimates that rest on it are biased.

    Args:
        current: a plain distribution or a joint; of anything else nothing is known.
    """
    if is_compiling() or not torch.is_grad_enabled():
        return ""
    parts = [("", current)] if isinstance(current, Distribution) else []
    if isinstance(current, JointDistribution):
        with same_random_numbers():
            parts = [(name, part) for name, (part, _) in current.legal_draw().items()]
    for name, distribution in parts:
        has_ends = has_learned_ends(distribution)
        kind = f"{type(distribution).__name__}{f' of site {name}' if name else ''}"
        if has_ends:
            return f"the support of {kind} moves as it learns"
        if has_ends is None:
            return f"the class {kind} states no `support`, so that it may move as it learns"
    return ""

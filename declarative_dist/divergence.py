"""Divergence, entropy and scored samples, for live and plain distributions alike.

Importing this file registers declared and truncated distributions with torch's `kl_divergence`; it
changes nothing else in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, overload

import torch
import torch.distributions as dd
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from torch.distributions.kl import _KL_REGISTRY, register_kl

from declarative_dist.errors import ConstraintError, check_count
from declarative_dist.families.building import require_rsample
from declarative_dist.families.variational import Variational
from declarative_dist.joints.distribution import JointDistribution
from declarative_dist.joints.joint import Joint
from declarative_dist.joints.learned_ends import describe_learned_ends
from declarative_dist.plain.draws import (
    center_leave_one_out,
    is_reparametrised,
    rsample_and_score,
    sample_and_score,
    sum_rightmost,
)
from declarative_dist.plain.nests import innermost, is_nest
from declarative_dist.plain.supports import find_outside
from declarative_dist.plain.tensors import is_same, tensors_of
from declarative_dist.randomness import same_random_numbers
from declarative_dist.snapshots import current_of, snapshot
from declarative_dist.wrappers.truncated import SMOOTH, Truncated, divergence_of

AnyDistribution = Distribution | Joint | JointDistribution
KINDS = (Distribution, JointDistribution, nn.Module)  # guides of your own, too


@register_kl(Variational, Variational)
@register_kl(Variational, Distribution)
@register_kl(Distribution, Variational)
def _kl_of_snapshots(p: Distribution, q: Distribution) -> Tensor:
    return _exact_kl(snapshot(p), snapshot(q))


for _kind in SMOOTH:
    register_kl(_kind, Truncated)(divergence_of)
    register_kl(Truncated, _kind)(divergence_of)
register_kl(Truncated, Truncated)(divergence_of)


def kl_divergence(
    p: AnyDistribution | nn.Module, q: AnyDistribution | nn.Module, num_samples: int | None = None
) -> Tensor:
    """The Kullback-Leibler divergence of q from p, in nats.

    Exact where torch knows the pair, and for joints of independent sites, as the sum over sites of
    the same name. Where torch does not know it, and only if you give `num_samples`, the Monte
    Carlo mean of `log p(x) - log q(x)` over draws from p, which is unbiased; it is infinite where
    a draw is outside of q's support. Its gradient is unbiased too: it is pathwise where p has a
    reparametrised sampler, and otherwise the score function's, in which every draw is
    weighed against the mean of the others (Kool, van Hoof and Welling, 2019,
    https://openreview.net/forum?id=r1lgTGL5DE; a single draw has none).

    Args:
        p: a live or plain distribution, a joint, or an automatic guide.
        q: another on the same space, which may be a joint for a guide of the same sites.
        num_samples: how many draws an estimate may take, 1 or more.

    Returns:
        A tensor of shape `(*batch)`.

    Raises:
        NotImplementedError: if torch does not know the pair and `num_samples` is None.
        ConstraintError: if their sites or the shapes of their events differ, or the gradient of
            the estimate would be biased.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist import kl_divergence, learnable
        >>> kl_divergence(learnable(dd.Normal(0.0, 1.0)), dd.Normal(0.0, 1.0)).item()
        0.0
    """
    one, other = (current_of(each, "kl_divergence", KINDS) for each in (p, q))
    if getattr(one, "event_shape", 1) == getattr(other, "event_shape", 2):
        _shape_together("kl_divergence", one, other)
    try:
        return _exact_kl(one, other)
    except NotImplementedError as error:
        count = _count_draws("kl_divergence", num_samples, error, one, other)
    if isinstance(one, Distribution) and isinstance(other, Distribution):
        shape = _shape_together("kl_divergence", one, other)
        one = one if shape == one.batch_shape else one.expand(shape)
    return _mean_under(one, count, lambda x, log_p: log_p - log_prob_anywhere(other, x))


def _count_draws(subject: str, num_samples: Any, error: Exception, *distributions: Any) -> int:
    """How many draws to take where torch has no formula, if you ask for an estimate."""
    if num_samples is not None:
        return check_count("num_samples", num_samples)
    names = " and ".join(getattr(d, "owner", type(d).__name__) for d in distributions)
    why = f", because {str(error).partition('. ')[0].rstrip('.')}" if str(error) else ""
    said = f"{subject}: torch has no exact formula for {names}{why}."
    raise NotImplementedError(f"{said} Pass num_samples= for a Monte Carlo estimate.") from error


def _exact_kl(p: Any, q: Any) -> Tensor:
    if not isinstance(p, JointDistribution) and not isinstance(q, JointDistribution):
        return _kl_through_nests(p, q)
    if isinstance(p, nn.Module) or isinstance(q, nn.Module):
        raise NotImplementedError  # a guide whose sites are known by its draws alone
    mine, theirs = (getattr(d, "sites", {}) for d in (p, q))
    if set(mine) != set(theirs):
        expected = f"the sites of {p!r}, {', '.join(mine) or 'none'}"
        got, fix = f"{', '.join(theirs) or 'none'} in {q!r}", "Give both the same sites."
        raise ConstraintError("kl_divergence", expected, got, fix, code="guide-mismatch")
    if not (p.is_independent and q.is_independent):
        raise NotImplementedError
    for name in mine:
        _shape_together(f"kl_divergence.{name}", mine[name], theirs[name])
    total: Any = sum(_kl_through_nests(mine[name], theirs[name]) for name in mine)
    return total.expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))


def _shape_together(subject: str, one: Any, other: Any) -> torch.Size:
    """The batch shape of two distributions over events of one shape."""
    with suppress(RuntimeError):
        if one.event_shape == other.event_shape:
            return torch.broadcast_shapes(one.batch_shape, other.batch_shape)
    event, batch = tuple(one.event_shape), tuple(one.batch_shape)
    expected = f"events of shape {event} and batch shapes that broadcast with {batch}"
    got = f"events {tuple(other.event_shape)} and a batch {tuple(other.batch_shape)}"
    fix = "Give both the same event shape and the same batch shape."
    raise ConstraintError(subject, expected, got, fix, code="wrong-shape")


def _kl_through_nests(p: Any, q: Any) -> Tensor:
    """Nests are taken apart here, because torch compares transforms by value or by identity."""
    if getattr(p, "event_shape", ()) != getattr(q, "event_shape", ()):
        raise NotImplementedError("their event shapes differ")
    if is_nest(p, dd.TransformedDistribution) and is_nest(q, dd.TransformedDistribution):
        _check_same_map(p.transforms, q.transforms)
        return _kl_through_nests(p.base_dist, q.base_dist)
    if isinstance(p, dd.Independent) and isinstance(q, dd.Independent):
        count = p.reinterpreted_batch_ndims
        if count != q.reinterpreted_batch_ndims:
            raise NotImplementedError("their events have different dimensions")
        return sum_rightmost(_kl_through_nests(p.base_dist, q.base_dist), count)
    for one in (p, q):
        if not any(type(one) in pair for pair in _KL_REGISTRY):
            _check_formula(one)
    return dd.kl_divergence(p, q)


def _check_formula(distribution: Distribution) -> None:
    """Refuse formulas of torch's class for a class with a density of its own."""
    kind = type(distribution)
    torchs: Any = next(k for k in kind.__mro__ if k.__module__.startswith("torch.distributions"))
    if kind.log_prob is not torchs.log_prob and torchs.log_prob is not Distribution.log_prob:
        raise NotImplementedError(f"{kind.__name__} has another log_prob than {torchs.__name__}")


def _check_same_map(mine: list[Transform], theirs: list[Transform]) -> None:
    """Refuse chains that are not one map, now and after any step of an optimizer.

    What learned ones contribute is zero while they are equal, and its gradient is not.
    """
    if len(mine) != len(theirs) or not all(map(is_same, mine, theirs)):
        raise NotImplementedError("their transforms differ")
    pairs = zip(mine, theirs, strict=True)
    apart = [tensors_of(part) for pair in pairs if pair[0] is not pair[1] for part in pair]
    if torch.is_grad_enabled() and any(t.requires_grad for part in apart for _, t in part):
        raise NotImplementedError("their transforms are learned, maybe apart: freeze them")


def entropy(q: AnyDistribution | nn.Module, num_samples: int | None = None) -> Tensor:
    """The entropy of a distribution, in nats.

    Exact where torch knows it; otherwise, and only if `num_samples` is given, the Monte Carlo mean
    of `-log q(x)`, with gradients as for `kl_divergence`.

    Args:
        q: a live or plain distribution.
        num_samples: how many draws an estimate may take, 1 or more.

    Returns:
        A tensor of shape `(*batch)`.

    Raises:
        NotImplementedError: if torch does not know it and `num_samples` is None.
        ConstraintError: if the gradient of the estimate would be biased.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist import entropy, learnable
        >>> round(entropy(learnable(dd.Exponential(1.0))).item(), 4)
        1.0
    """
    current = current_of(q, "entropy", KINDS)
    try:
        if not hasattr(type(current), "entropy"):
            raise NotImplementedError
        leaf = innermost(current) if isinstance(current, Distribution) else None
        if leaf is not None and "entropy" not in vars(type(leaf)):
            _check_formula(leaf)
        return current.entropy()
    except NotImplementedError as error:
        count = _count_draws("entropy", num_samples, error, current)
    return _mean_under(current, count, lambda _, log_q: -log_q)


@overload
def rsample_and_log_prob(
    distribution: Distribution, sample_shape: Any = ...
) -> tuple[Tensor, Tensor]: ...
@overload
def rsample_and_log_prob(
    distribution: Joint | JointDistribution, sample_shape: Any = ...
) -> tuple[dict[str, Tensor], Tensor]: ...
def rsample_and_log_prob(
    distribution: AnyDistribution, sample_shape: Any = torch.Size()
) -> tuple[Any, Tensor]:
    """Reparametrised samples and their log densities, from one snapshot.

    Args:
        distribution: a live or plain distribution.
        sample_shape: the shape in front.

    Returns:
        Samples of shape `(*sample, *batch, *event)`, for a joint a dict of them, and densities of
        shape `(*sample, *batch)`.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist import learnable, rsample_and_log_prob
        >>> x, log_prob = rsample_and_log_prob(learnable(dd.Normal(0.0, 1.0)), (3,))
        >>> x.shape, log_prob.shape
        (torch.Size([3]), torch.Size([3]))
    """
    if isinstance(distribution, (Variational, Joint, JointDistribution)):
        return distribution.rsample_and_log_prob(sample_shape)
    subject = "rsample_and_log_prob"
    current = require_rsample(current_of(distribution, subject, KINDS), subject)
    return rsample_and_score(current, torch.Size(sample_shape))


def _mean_under(p: Any, count: int, statistic: Callable[[Any, Tensor], Tensor]) -> Tensor:
    """The mean of a statistic of draws and their log densities, with an unbiased gradient."""
    if is_reparametrised(p):
        return statistic(*rsample_and_log_prob(p, (count,))).mean(0)
    moving = describe_learned_ends(p)
    if moving:
        expected = "a support that does not move with parameters, for the gradient to be unbiased"
        got = f"draws without gradients, while {moving}"
        fix = "Freeze the ends, or call it under torch.no_grad() for the value alone."
        raise ConstraintError("num_samples", expected, got, fix, code="biased-gradient")
    x, log_p = sample_and_score(p, torch.Size((count,)))
    fixed = log_p.detach()
    weight: Tensor = statistic(x, fixed)
    # The second term is zero; its gradient is the one that sampling from p hides.
    finite = weight.detach().where(weight.isfinite(), torch.zeros_like(fixed))
    return (weight + center_leave_one_out(finite) * (log_p - fixed)).mean(0)


def log_prob_anywhere(q: Any, value: Any) -> Tensor:
    """Log densities of a plain distribution or a guide, and minus infinity where it has none."""
    outside = find_outside(q, value) if isinstance(q, Distribution) else None
    if outside is None:
        return q.log_prob(value)
    with torch.no_grad(), same_random_numbers():
        inside = q.sample().expand_as(value).to(value)
    whole = outside[(..., *(None,) * len(q.event_shape))]
    log_prob = q.log_prob(torch.where(whole, inside, value))
    return torch.where(outside, torch.full_like(log_prob, -torch.inf), log_prob)

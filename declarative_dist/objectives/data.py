"""Data and their log densities: what likelihoods take, check and refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.errors import ConstraintError, first_line, shorten
from declarative_dist.families.probe import evaluating
from declarative_dist.joints.distribution import JointDistribution
from declarative_dist.joints.joint import Joint
from declarative_dist.latents.named import as_value, check_names
from declarative_dist.objectives.weights import (
    Scores,
    Weights,
    check_contexts,
    floating_tensors,
    typical_tensor,
)
from declarative_dist.plain.supports import first_outside


def score_contexts(
    joint: Joint, batch: tuple[Any, ...], weights: Any, given: Mapping[str, Any], subject: str
) -> Scores:
    """The log densities of data by site, for each context.

    Args:
        joint: a joint of a context.
        batch: the context, and behind it the data, a dict by site; or the context alone.
        weights: how much each context counts.
        given: keywords of the context, and data by site if the batch has none.
        subject: whom an error is about.
    """
    sites = [name for name, field in joint.__declaration__.fields.items() if field.is_site]
    data = {name: value for name, value in given.items() if name in sites}
    keywords = {name: value for name, value in given.items() if name not in sites}
    if batch and isinstance(batch[-1], Mapping):
        *batch, data = *batch[:-1], {**batch[-1], **data}  # type: ignore[assignment]
    if weights is not None:
        check_contexts((*batch, *keywords.values()), subject)
    snapshot = joint(*batch, **keywords)
    shared = [name for name in snapshot.sites if name not in snapshot.local]
    if shared:
        expected, got = "sites that all follow from the context", f"also {', '.join(shared)}"
        fix = "Make them Params, or fit them with NegativeELBO(log_joint, guide, total_size=...)."
        raise ConstraintError(subject, expected, got, fix, code="wrong-data")
    scores = score_by_site(joint, data, weights, subject, snapshot)
    if scores.numbers.shape != snapshot.batch_shape:
        expected = f"a value for each context, {tuple(snapshot.batch_shape)} of them"
        got, fix = f"{tuple(scores.numbers.shape)}", "Give both the same batch dimensions."
        raise ConstraintError(subject, expected, got, fix, code="wrong-shape")
    return Scores(scores.numbers, 0, 0, scores.weights)


def score_by_site(
    joint: Joint,
    data: Any,
    weights: Any,
    subject: str,
    snapshot: JointDistribution | None = None,
) -> Scores:
    """The log densities of data by site; those of a context under its own snapshot."""
    if not isinstance(data, Mapping):
        raise ConstraintError(subject, "a dict of data by site", shorten(data), code="wrong-data")
    values = dict(data)
    for site, value in data.items():
        where = f"{subject}.{site}"
        if isinstance(value, Tensor):
            _check_tensor(value, joint, where)
        elif weights is not None:
            values[site] = as_data(value, joint, where)
    copies = torch.Size() if snapshot is not None else vars(joint)["_copies"]
    snapshot = joint() if snapshot is None else snapshot
    if weights is not None:
        check_names(snapshot.owner, values, snapshot.sites)
        name = next(iter(snapshot.sites))  # which depends on no other
        own = len(copies + snapshot.distribution_of(name, {}).event_shape)
        first = values[name]
        weights = Weights(
            weights, first.shape[: first.ndim - own], copies, joint, f"{subject}(weights=)"
        )
        values = {name: weights.replace(value) for name, value in values.items()}
    scores = snapshot.log_prob(values)
    if scores.numel() == 0:
        raise ConstraintError(subject, "one datum or more", "none", code="wrong-data")
    return Scores(scores, len(copies), len(copies), weights)


def score_data(distribution: Distribution, value: Tensor, subject: str) -> Tensor:
    """Log densities of data in the support of a distribution.

    Raises:
        ConstraintError: naming the first datum outside.
    """
    try:
        return distribution.log_prob(value)
    except ValueError as error:
        said = first_outside(distribution, value) or first_line(error)
        raise ConstraintError(
            subject,
            f"data in the support of the distribution, {shorten(distribution.support)}",
            said,
            "Remove such data, or choose a distribution that has a density there.",
            code="outside-support",
        ) from error


def as_data(value: object, module: nn.Module, subject: str) -> Tensor:
    """Data in the dtype of the module; counts and labels are numbers like others.

    Raises:
        ConstraintError: if it is no numbers, empty, or in another dtype or on another device.
    """
    like = typical_tensor(module)
    if not (isinstance(value, Tensor) and value.layout is torch.strided):
        value = as_value(value, like.dtype, like.device, subject, code="wrong-data")
    _check_tensor(value, module, subject)
    is_exact = like.dtype in (torch.float32, torch.float64)
    return value.to(like.dtype) if is_exact and not value.is_floating_point() else value


def _check_tensor(value: Tensor, module: nn.Module, subject: str) -> None:
    """Refuse no data, and data in a dtype or on a device that no tensor of the module has."""
    if value.numel() == 0:
        raise ConstraintError(subject, "one datum or more", shorten(value), code="wrong-data")
    like = next(floating_tensors(module), value)
    if value.dtype == like.dtype and value.device == like.device:
        return
    tensors = list(floating_tensors(module))
    if all(value.device != tensor.device for tensor in tensors):
        raise ConstraintError(
            subject,
            f"data on {like.device}",
            f"data on {value.device}",
            f"Write data.to({str(like.device)!r}), or move the module.",
            code="dtype-or-device",
        )
    if value.is_complex() or (
        value.is_floating_point() and all(value.dtype != tensor.dtype for tensor in tensors)
    ):
        raise ConstraintError(
            subject,
            f"data in {like.dtype}",
            f"data in {value.dtype}",
            f"Write data.to({like.dtype}), or module.to({value.dtype}).",
            code="dtype-or-device",
        )


def check_data(value: Tensor, distribution: Distribution, subject: str) -> None:
    """Refuse data that would broadcast over independent problems, or the other way round."""
    batch, event = distribution.batch_shape, distribution.event_shape
    whole = (*batch, *event)
    lead = value.ndim - len(whole)
    fits = lead >= (1 if batch else 0) and value.shape[value.ndim - len(event) :] == event
    given = value.shape[lead : lead + len(batch)] if fits else ()
    if not fits or any(size not in (1, own) for size, own in zip(given, batch, strict=True)):
        shapes = ", ".join(("n", *map(str, whole)))
        everyone = ", ".join(("n", *("1" for _ in batch), *map(str, event)))
        also = f", or ({everyone}) for data that all independent problems see" if batch else ""
        raise ConstraintError(
            subject,
            f"data of shape (n, *batch, *event) = ({shapes}){also}",
            f"shape {tuple(value.shape)}",
            "Give the data these dimensions.",
            code="wrong-shape",
        )


def check_order(
    module: Any, batch: tuple[Any, ...], given: Mapping[str, Any], subject: str, error: Exception
) -> None:
    """Say of a context that a `Conditional` refuses where the value would be one.

    Raises:
        ConstraintError: if both arguments fit the other way round.
    """
    if len(batch) != 2 or not all(isinstance(each, Tensor) for each in batch):
        return
    context, value = batch[1], batch[0]
    try:
        with torch.no_grad(), evaluating(module):
            predicted = module(context, **given)
        whole = (*predicted.batch_shape, *predicted.event_shape)
    except (RuntimeError, ValueError):
        return
    if value.shape == whole:
        expected, got = "the context first, then the value", "them the other way round"
        got = f"{got}, of shapes {tuple(value.shape)} and {tuple(context.shape)}"
        fix = "Write objective(context, value)."
        raise ConstraintError(subject, expected, got, fix, code="wrong-shape") from error


def check_predicted(value: Tensor, distribution: Distribution, own: int, subject: str) -> None:
    """Refuse values that are not one for each context."""
    batch = distribution.batch_shape
    whole = torch.Size((*batch, *distribution.event_shape))
    is_shared = len(batch) == own  # no context has a batch of its own
    if value.shape != whole and not (
        is_shared and value.shape[max(value.ndim - len(whole), 0) :] == whole
    ):
        fix = "Give both the same batch dimensions, and declare event_dim for those of one value."
        if whole == (*value.shape, 1):
            fix = (
                "Of (n, 1) for a scalar head the 1 is a batch dimension: let the network, or what "
            )
            fix += "is given, end in squeeze(-1), or write in_features= for a layer."
        raise ConstraintError(
            subject,
            f"a value for each context, of shape (*batch, *event) = {tuple(whole)}",
            f"shape {tuple(value.shape)}",
            fix,
            code="wrong-shape",
        )


def check_scores(
    scores: Any, batch: tuple[Any, ...], copies: torch.Size, is_whole: bool, subject: str
) -> None:
    """Refuse what a `log_likelihood` returned, where it is not one number per datum, or in all.

    Raises:
        ConstraintError: naming the shape that it should have.
    """
    lead = () if is_whole else ("n",)
    shape = ", ".join((*lead, *map(str, copies)))
    what = "for all data, as total_size=None says" if is_whole else "per datum"
    expected = f"a floating-point tensor of shape ({shape}), a log likelihood {what}"
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        dtype = f" of {scores.dtype}" if isinstance(scores, Tensor) else ""
        raise ConstraintError(subject, expected, f"{shorten(scores)}{dtype}", code="failed-method")
    # A list, because to hash a size is to fix it in a compiled graph.
    tensors = () if is_whole else batch
    counts = [data.shape[0] for data in tensors if isinstance(data, Tensor) and data.ndim]
    fits = scores.ndim == len(lead) + len(copies) and scores.shape[len(lead) :] == copies
    if not fits or (counts and scores.shape[0] not in counts):
        sizes = f" for data of {' or '.join(map(str, sorted(set(counts))))}" if counts else ""
        raise ConstraintError(
            subject,
            expected,
            f"shape {tuple(scores.shape)}{sizes}",
            "Sum over all data, or say how many there are with total_size=."
            if is_whole
            else "Sum over what belongs to one datum; the mean over data is the objective's.",
            code="wrong-shape",
        )
    if scores.numel() == 0:
        raise ConstraintError(subject, "one datum or more", "none", code="wrong-data")

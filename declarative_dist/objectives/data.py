"""Data and their log densities: what likelihoods take, check and refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.errors import ConstraintError, shorten
from declarative_dist.fields.kinds import predicted_kind
from declarative_dist.joints.joint import Joint
from declarative_dist.latents.named import Reader, as_value
from declarative_dist.objectives.weights import Scores, Weights, check_contexts
from declarative_dist.plain.tensors import floating_tensors, is_dense, typical_tensor


def score_joint(
    joint: Joint, batch: tuple[Any, ...], weights: Any, given: Mapping[str, Any], subject: str
) -> Scores:
    """The log densities of data by site: of independent copies, or for each context.

    Args:
        joint: a joint, of a context or of none.
        batch: the context, if any, and behind it the data, a dict by site.
        weights: how much each datum, or context, counts.
        given: keywords of the context, and data by site if the batch has none.
        subject: whom an error is about.
    """
    has_context, fields = predicted_kind(joint) is not None, joint.__declaration__.fields
    context: tuple[Any, ...] = batch
    data: dict[str, Any] = {}
    if batch and isinstance(batch[-1], Mapping):
        context, data = batch[:-1], dict(batch[-1])
    if has_context:
        sites = {name for name, field in fields.items() if field.is_site}
        data |= {name: given[name] for name in given if name in sites}
        given = {name: given[name] for name in given if name not in sites}
    if not data:
        expected = f"{'the context, and behind it ' * has_context}a dict of data by site"
        got = shorten(batch[-1]) if batch else "none"
        raise ConstraintError(subject, expected, got, code="wrong-data")
    if weights is not None:
        check_contexts((*context, *given.values()), subject)
    current = joint(*context, **given)
    if has_context and len(current.local) < len(current.sites):
        shared = ", ".join(name for name in current.sites if name not in current.local)
        expected, got = "sites that all follow from the context", f"also {shared}"
        fix = "Make them Params, or fit them with NegativeELBO(log_joint, guide, total_size=...)."
        raise ConstraintError(subject, expected, got, fix, code="wrong-data")
    for site, value in data.items():
        if is_dense(value):
            _check_tensor(value, joint, f"{subject}.{site}")
        elif weights is not None:
            data[site] = as_data(value, joint, f"{subject}.{site}")
    copies = torch.Size() if has_context else vars(joint)["_copies"]
    if weights is not None:
        reader = Reader(current.owner, data, current.sites, copies)
        first = next(iter(current.sites))  # which depends on no other
        reader.read(first, current.distribution_of(first, {}).event_shape, lambda: data[first])
        shape = reader.lead[: len(reader.lead) - len(copies)]
        weights = Weights(weights, shape, copies, joint, f"{subject}(weights=)")
        data = {name: weights.replace(value) for name, value in data.items()}
    scores = current.log_prob(data)
    if scores.numel() == 0:
        raise ConstraintError(subject, "one datum or more", "none", code="wrong-data")
    if has_context and scores.shape != current.batch_shape:
        expected = f"a value for each context, {tuple(current.batch_shape)} of them"
        got, fix = f"{tuple(scores.shape)}", "Give both the same batch dimensions."
        raise ConstraintError(subject, expected, got, fix, code="wrong-shape")
    return Scores(scores, len(copies), len(copies), weights)


def as_data(value: object, module: nn.Module, subject: str) -> Tensor:
    """Data in the dtype of the module; counts and labels are numbers like others.

    Raises:
        ConstraintError: if it is no numbers, empty, or in another dtype or on another device.
    """
    like = typical_tensor(module)
    if not is_dense(value):
        value = as_value(value, like.dtype, like.device, subject, code="wrong-data")
    _check_tensor(value, module, subject)
    is_exact = like.dtype in (torch.float32, torch.float64)
    return value.to(like.dtype) if is_exact and not value.is_floating_point() else value


def _check_tensor(value: Tensor, module: nn.Module, subject: str) -> None:
    """Refuse no data, and data in a dtype or on a device that no tensor of the module has."""
    if value.numel() == 0:
        raise ConstraintError(subject, "one datum or more", shorten(value), code="wrong-data")
    is_exact = not (value.is_floating_point() or value.is_complex())
    for tensor in floating_tensors(module):
        if value.device == tensor.device and (is_exact or value.dtype == tensor.dtype):
            return
    like = next(floating_tensors(module), None)
    if like is None:
        return
    raise ConstraintError(
        subject,
        f"data in {like.dtype} on {like.device}",
        f"data in {value.dtype} on {value.device}",
        f"Write data.to({like.dtype}) and data.to({str(like.device)!r}), or move the module.",
        code="dtype-or-device",
    )


def check_values(
    value: Tensor, distribution: Distribution, own: int, is_predicted: bool, subject: str
) -> None:
    """Refuse data that would broadcast over independent problems or contexts, or they over it.

    Args:
        value: the data.
        distribution: what scores it.
        own: how many batch dimensions one prediction of a `Conditional` has.
        is_predicted: whether a `Conditional` predicted the distribution.
        subject: whom an error is about.
    """
    batch, event = distribution.batch_shape, distribution.event_shape
    whole = batch + event
    lead = value.ndim - len(whole)
    if is_predicted and len(batch) > own:
        fits = value.shape == whole
        expected = f"a value for each context, of shape (*batch, *event) = {tuple(whole)}"
        fix = (
            "Declare dimensions of one value with event_dim. Where a scalar head predicts (n, 1), "
            "let the network, or what is given, end in squeeze(-1), or write in_features=."
        )
    else:
        tail = value.shape[max(lead, 0) :]
        fits = lead >= bool(batch and not is_predicted) and tail[len(batch) :] == event
        sizes = zip(tail, batch, strict=False)
        fits = fits and all(size == 1 or size == full for size, full in sizes)
        expected = f"data of shape (n, *batch, *event) = ({', '.join(('n', *map(str, whole)))})"
        fix = "With 1 in place of batch, all independent problems see the data." * bool(batch)
    if not fits:
        got = f"shape {tuple(value.shape)}"
        raise ConstraintError(subject, expected, got, fix, code="wrong-shape")


def check_scores(
    scores: Any, batch: tuple[Any, ...], copies: torch.Size, is_whole: bool, subject: str
) -> None:
    """Refuse what a `log_likelihood` returned, where it is not one number per datum, or in all.

    Raises:
        ConstraintError: naming the shape that it should have.
    """
    # A list, because to hash a size is to fix it in a compiled graph.
    counts = [len(each) for each in batch if isinstance(each, Tensor) and each.ndim]
    is_number = isinstance(scores, Tensor) and scores.is_floating_point() and scores.numel()
    shape = tuple(scores.shape) if isinstance(scores, Tensor) else ()
    lead = shape[: 0 if is_whole else 1]
    is_counted = is_whole or not counts or shape[:1] in [(count,) for count in counts]
    if is_number and is_counted and shape == (*lead, *copies) and len(lead) == (not is_whole):
        return
    wanted = [] if is_whole else [" or ".join(map(str, sorted(set(counts)))) or "n"]
    what = "for all data, as total_size=None says" if is_whole else "per datum"
    raise ConstraintError(
        subject,
        f"real numbers of shape ({', '.join([*wanted, *map(str, copies)])}), a log likelihood "
        f"{what}",
        f"{shorten(scores)}{f' of {scores.dtype}' if isinstance(scores, Tensor) else ''}",
        "Sum over all data, or say how many there are with total_size=."
        if is_whole
        else "Sum over what belongs to one datum; the mean over data is the objective's.",
        code="wrong-shape",
    )

"""Numbers that are not finite: where the first one is, and whose."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from declarative_dist.errors import ExplainedError, NonFiniteError, first_line, shorten
from declarative_dist.fitting.parameters import declared_values, field_of, held_fields
from declarative_dist.plain.batch import call_with

FEW = 8
"""Up to how many tensors it is cheaper to look at one after another."""


def are_finite(tensors: list[Tensor]) -> bool:
    """Whether sums of the tensors are finite, as they are of finite numbers but for overflow."""
    if len(tensors) <= FEW and tensors[0].is_cpu:
        sums = [tensor.sum() if tensor.ndim else tensor for tensor in tensors]
        return all(math.isfinite(abs(one.item())) for one in sums)
    norms = torch._foreach_norm(tensors, 1)  # pyright: ignore[reportPrivateImportUsage]
    place = norms[0].device
    total = torch.stack([norm.to(place, torch.float32) for norm in norms]).sum()
    return math.isfinite(total.item())


def first_bad(tensor: Tensor) -> tuple[tuple[int, ...], float] | None:
    """The first index at which a tensor is infinite or NaN, and the number there.

    Example:
        >>> import torch
        >>> from declarative_dist.fitting.finite import first_bad
        >>> first_bad(torch.tensor([[0.0, 1.0], [float("inf"), 0.0]]))
        ((1, 0), inf)
    """
    is_bad = ~tensor.isfinite()
    if not is_bad.any():
        return None
    index = tuple(is_bad.nonzero()[0].tolist())
    return index, tensor[index].item()


def bad_data(batch: tuple[Any, ...]) -> str:
    """The first number of a batch that is not finite, as `data[0][3] = nan`, or nothing."""
    for name, tensor in tensors_in(batch):
        found = None if tensor.is_meta else first_bad(tensor.detach())
        if found is not None:
            return f"data{name}{_subscript(found[0])} = {found[1]}"
    return ""


def tensors_in(batch: tuple[Any, ...]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a batch, also those in dicts, with their index or name in brackets."""
    for at, item in enumerate(batch):
        named = item.items() if isinstance(item, Mapping) else [(at, item)]
        for name, value in named:
            if isinstance(value, Tensor):
                yield f"[{name!r}]", value


def check_parameters(
    objective: nn.Module, when: str, state: Mapping[str, Any] | None = None
) -> None:
    """Refuse trainable parameters that are not finite.

    Args:
        objective: whose parameters they are.
        when: when it was, for the message.
        state: a state of the objective, to look at instead of its own numbers.

    Raises:
        NonFiniteError: naming the field and the index.
    """
    named = ((name, p) for name, p in objective.named_parameters() if p.requires_grad)
    pairs = ((p, p.detach() if state is None else state[name]) for name, p in named)
    error = _first_error(objective, pairs, when, expected="finite numbers to start from")
    if error is not None:
        raise error


def error_of_step(
    objective: nn.Module, step: int, loss: float, batch: tuple[Any, ...]
) -> NonFiniteError | None:
    """What went bad in a step, the first of: parameters, gradients, constrained values, the loss.

    Returns:
        An error that names the field and the index; None if all is finite and only a sum of large
        numbers was not.
    """
    bad = bad_data(batch)
    collapsed = ", ".join(held_fields(objective))
    hint = "Check the data and try a smaller lr."
    if bad:
        hint = f"The batch has {bad}."
    elif collapsed:
        hint = (
            f"{collapsed} is at the end of its band, as where a component has collapsed onto one "
            "datum: give it a prior, or a floor."
        )
    fix = f"{hint} Everything is as it was before this step."
    when = f"at step {step}"
    parameters = [p for p in objective.parameters() if p.requires_grad]
    gradients = [(p, p.grad.detach()) for p in parameters if p.grad is not None]
    error = (
        _first_error(objective, ((p, p.detach()) for p in parameters), when, fix)
        or _first_error(objective, gradients, when, fix, what="the gradient of ")
        or _error_of_value(objective, when, fix)
    )
    if error is not None or math.isfinite(loss):
        return error
    largest = max(parameters, key=lambda p: p.detach().abs().amax() if p.numel() else 0)
    subject, raw = field_of(objective, largest)
    fix = f"The largest number is in {raw} of {subject}: {shorten(largest)}. {fix}"
    return NonFiniteError(type(objective).__name__, "a finite loss", f"{loss} {when}", fix)


def reason_of(objective: nn.Module, batch: tuple[Any, ...]) -> str:
    """What the objective itself, if it has a `why_not_finite`, says of its loss of a batch."""
    ask = getattr(objective, "why_not_finite", None)
    if not callable(ask):
        return ""
    try:
        with torch.no_grad():
            return str(call_with(ask, batch))
    except ExplainedError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - anything may fail in it; the loss is the matter
        return f"{type(objective).__name__}.why_not_finite failed: {first_line(error)}."


def _first_error(
    objective: nn.Module,
    pairs: Iterable[tuple[nn.Parameter, Tensor]],
    when: str,
    fix: str = "",
    *,
    what: str = "",
    expected: str = "finite numbers",
) -> NonFiniteError | None:
    """The error about the first tensor, of these of parameters, that is not finite."""
    for parameter, tensor in pairs:
        found = first_bad(tensor)
        if found is not None:
            index, value = found
            subject, raw = field_of(objective, parameter, index)
            got = f"{what}{raw}{_subscript(index)} = {value} {when}"
            return NonFiniteError(subject, expected, got, fix)
    return None


def _error_of_value(objective: nn.Module, when: str, fix: str) -> NonFiniteError | None:
    """The error about the first constrained value that is not finite."""
    for subject, name, value in declared_values(objective):
        found = first_bad(value)
        if found is not None:
            got = f"{name}{_subscript(found[0])} = {found[1]} {when}"
            return NonFiniteError(subject, "finite numbers", got, fix)
    return None


def _subscript(index: tuple[int, ...]) -> str:
    """An index as it stands behind a name: `[1, 0]`, or nothing."""
    return f"{list(index)}" if index else ""

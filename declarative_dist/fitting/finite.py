"""Numbers that are not finite: where the first one is, and whose."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from declarative_dist.errors import NonFiniteError, first_line
from declarative_dist.fitting.parameters import (
    declared_values,
    field_of,
    saturated_fields,
    trainable_of,
)
from declarative_dist.optimization.rows import NO_LOSS
from declarative_dist.plain.batch import call_with


def find_bad(tensor: Tensor) -> tuple[tuple[int, ...], str] | None:
    """The first index at which a tensor is infinite or NaN, and what stands there, in words.

    Example:
        >>> import torch
        >>> from declarative_dist.fitting.finite import find_bad
        >>> find_bad(torch.tensor([[0.0, 1.0], [float("inf"), 0.0]]))
        ((1, 0), '[1, 0] = inf')
    """
    is_bad = ~tensor.detach().isfinite()
    if tensor.is_meta or not is_bad.any():
        return None
    index = tuple(is_bad.nonzero()[0].tolist())
    return index, f"{list(index) if index else ''} = {tensor[index].item()}"


def bad_data(batch: tuple[Any, ...]) -> str:
    """The first number of a batch that is not finite, as `data[0][3] = nan`, or nothing."""
    found = ((name, find_bad(tensor)) for name, tensor in tensors_in(batch))
    return next((f"data[{name!r}]{bad[1]}" for name, bad in found if bad), "")


def tensors_in(batch: tuple[Any, ...]) -> Iterator[tuple[object, Tensor]]:
    """The tensors of a batch, also those in dicts, with their index or name."""
    for at, item in enumerate(batch):
        for name, value in item.items() if isinstance(item, Mapping) else [(at, item)]:
            if isinstance(value, Tensor):
                yield name, value


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
    for name, parameter in objective.named_parameters():
        bad = parameter.requires_grad and find_bad(parameter if state is None else state[name])
        if bad:
            subject, raw = field_of(objective, parameter, bad[0])
            raise NonFiniteError(subject, "finite numbers to start from", f"{raw}{bad[1]} {when}")


ADVICE = "Check the data and try a smaller lr."
"""What to do about a loss that is not finite, where nothing more is known."""


def error_of_step(
    objective: nn.Module, step: int, loss: float, batch: tuple[Any, ...]
) -> NonFiniteError | None:
    """What went bad in a step, the first of: parameters and gradients, values, the loss.

    Returns:
        An error that names the field and the index; None if all is finite and only a sum of large
        numbers was not.
    """
    bad = bad_data(batch)
    collapsed = ", ".join(field.name for field in saturated_fields(objective))
    hint = ADVICE
    if bad:
        hint = f"The batch has {bad}."
    elif collapsed:
        hint = (
            f"{collapsed} is at the end of its band, as where a component has collapsed onto one "
            "datum: give it a prior, or a floor."
        )
    fix = f"{hint} Everything is as it was before this step."

    def error(subject: str, got: str, expected: str = "finite numbers") -> NonFiniteError:
        return NonFiniteError(subject, expected, f"{got} at step {step}", fix)

    for parameter in trainable_of(objective):
        for what, tensor in (("", parameter), ("the gradient of ", parameter.grad)):
            found = None if tensor is None else find_bad(tensor)
            if found:
                subject, raw = field_of(objective, parameter, found[0])
                return error(subject, f"{what}{raw}{found[1]}")
    for subject, name, value in declared_values(objective):
        found = find_bad(value)
        if found:
            return error(subject, f"{name}{found[1]}")
    if math.isfinite(loss):
        return None
    return error(type(objective).__name__, f"{loss}", "a finite loss")


def reason_of(objective: nn.Module, batch: tuple[Any, ...]) -> str:
    """What the objective itself, if it has a `why_not_finite`, says of its loss of a batch."""
    ask = getattr(objective, "why_not_finite", None)
    try:
        with torch.no_grad():
            return str(call_with(ask, batch)) if callable(ask) else ""
    except NO_LOSS as error:
        return f"{first_line(error).rstrip('.')}."

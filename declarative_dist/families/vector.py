"""All trainable numbers of a module as one vector, for optimizers and samplers outside torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from declarative_dist.errors import ConstraintError, shorten
from declarative_dist.fields.storage import to_tensor
from declarative_dist.plain.tracing import is_traced

_UNCHANGED = "Nothing has changed."


def to_vector(module: nn.Module) -> Tensor:
    """The trainable parameters in the order of `parameters()`, flattened, as a copy.

    Example:
        >>> import torch
        >>> from declarative_dist.families.vector import from_vector, to_vector
        >>> linear = torch.nn.Linear(2, 1)
        >>> from_vector(linear, [1.0, 2.0, 3.0])
        >>> linear.weight.detach(), to_vector(linear)
        (tensor([[1., 2.]]), tensor([1., 2., 3.]))
    """
    flat = [parameter.detach().reshape(-1) for parameter in _trainable(module)]
    return torch.cat(flat) if flat else torch.empty(0)


def from_vector(module: nn.Module, vector: Any) -> None:
    """Write a vector into the trainable parameters: all of it, or nothing if it is refused.

    Args:
        module: the module.
        vector: as many real numbers as `to_vector` gives: a tensor, an array or a list.

    Raises:
        ConstraintError: if it is something else, or a number is not finite in the dtype of its
            parameter.
    """
    parameters = _trainable(module)
    sizes = [parameter.numel() for parameter in parameters]
    subject = f"{type(module).__name__}.from_vector_"
    whole = _as_vector(vector, sum(sizes), subject)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    pieces = []
    for piece, parameter in zip(whole.split(sizes), parameters, strict=True):
        numbers = to_tensor(piece, subject, parameter.dtype, parameter.device, "real numbers")
        numbers = numbers.reshape(parameter.shape)
        if not is_traced(numbers) and not numbers.isfinite().all():
            raise ConstraintError(
                subject,
                f"finite numbers in {parameter.dtype}",
                f"{shorten(numbers)} for {names[id(parameter)]}",
                _UNCHANGED,
                code="not-finite",
            )
        pieces.append(numbers)
    with torch.no_grad():
        for numbers, parameter in zip(pieces, parameters, strict=True):
            parameter.copy_(numbers)


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _as_vector(vector: Any, size: int, subject: str) -> Tensor:
    expected = f"a vector of {size} real numbers, one for each trainable one"
    tensor = to_tensor(vector, subject, expected=expected)
    if tensor.shape != (size,) or tensor.dtype == torch.bool:
        raise ConstraintError(
            subject,
            expected,
            f"shape {tuple(tensor.shape)} in {tensor.dtype}",
            f"{_UNCHANGED} to_vector() gives one of that size.",
            code="wrong-shape",
        )
    return tensor

"""All trainable numbers of a module as one vector, for optimizers and samplers outside torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from declarative_dist.errors import ConstraintError, shorten
from declarative_dist.plain.tracing import is_traced


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
    pieces = [
        piece.to(parameter.device, parameter.dtype).reshape(parameter.shape)
        for piece, parameter in zip(whole.split(sizes), parameters, strict=True)
    ]
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    for piece, parameter in zip(pieces, parameters, strict=True):
        if not is_traced(piece) and not piece.isfinite().all():
            raise ConstraintError(
                subject,
                f"finite numbers in {parameter.dtype}",
                f"{shorten(piece)} for {names[id(parameter)]}",
                "Nothing has changed.",
                code="not-finite",
            )
    with torch.no_grad():
        for piece, parameter in zip(pieces, parameters, strict=True):
            parameter.copy_(piece)


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _as_vector(vector: Any, size: int, subject: str) -> Tensor:
    given = vector
    try:
        if hasattr(vector, "__array__") and not isinstance(vector, Tensor):
            given = vector.copy()  # torch takes no array that is read-only or runs backwards
        tensor = torch.as_tensor(given).detach()
    except (AttributeError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ConstraintError(
            subject,
            f"a vector of {size} numbers",
            shorten(vector),
            "Nothing has changed.",
            code="wrong-argument",
        ) from error
    is_real = not tensor.is_complex() and tensor.dtype != torch.bool
    if tensor.shape != (size,) or not is_real:
        raise ConstraintError(
            subject,
            f"a vector of {size} real numbers, one for each trainable one",
            f"shape {tuple(tensor.shape)} in {tensor.dtype}",
            "Nothing has changed; to_vector() gives one of that size.",
            code="wrong-shape",
        )
    return tensor

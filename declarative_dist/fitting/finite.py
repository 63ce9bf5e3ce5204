"""Numbers that are not finite: where the first one is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


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


def bracketed(index: tuple[int, ...]) -> str:
    """An index as it stands behind a name: `[1, 0]`, or nothing."""
    return f"{list(index)}" if index else ""


def bad_data(batch: tuple[Any, ...]) -> str:
    """The first number of a batch that is not finite, as `data[0][3] = nan`, or nothing."""
    for name, tensor in tensors_in(batch):
        found = None if tensor.is_meta else first_bad(tensor.detach())
        if found is not None:
            return f"data{name}{bracketed(found[0])} = {found[1]}"
    return ""


def tensors_in(batch: tuple[Any, ...]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a batch, also those in dicts, with their index or name in brackets."""
    for at, item in enumerate(batch):
        named = item.items() if isinstance(item, Mapping) else [(at, item)]
        for name, value in named:
            if isinstance(value, Tensor):
                yield f"[{name!r}]", value

"""Numbers and names in words: few digits, never more than a line, and the name that was meant."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

MOST = 6
"""How many numbers of a tensor stand there one by one; of a matrix three rows of three."""


def format_numbers(nested: Any, digits: int = 4) -> str:
    """A number, or nested lists of such, with few significant digits.

    Example:
        >>> from declarative_dist.words import format_numbers
        >>> format_numbers(0.09999999), format_numbers([[1.0, 0.3333333], [2, 3]])
        ('0.1', '[[1.0, 0.3333], [2, 3]]')
    """
    if isinstance(nested, list):
        return f"[{', '.join(format_numbers(part, digits) for part in nested)}]"
    # An int may be a bool, too.
    return str(nested) if isinstance(nested, int) else repr(float(f"{nested:.{digits}g}"))


def format_value(value: Any, *, with_shape: bool = True) -> str:
    """A tensor by its numbers, of many by the middle and the ends; anything else by `repr`.

    Args:
        value: the tensor, or anything else.
        with_shape: whether to add the shape of a tensor of many numbers.

    Example:
        >>> import torch
        >>> from declarative_dist.words import format_value
        >>> format_value(torch.tensor([0.1, 2.0])), format_value(torch.arange(101.0))
        ('[0.1, 2.0]', 'shape (101,), min 0.0, median 50.0, max 100.0')
    """
    if not isinstance(value, Tensor):
        text = format_numbers(value) if isinstance(value, (int, float)) else repr(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    data = as_data(value)
    if data is None:
        return describe_absence(value) or str(value.dtype).removeprefix("torch.")
    if not isinstance(data, dict):
        text = format_numbers(data)
        if value.ndim == 2 or len(text) <= 48:
            return text
        data = _spread(value)
    shape = f"shape {tuple(value.shape)}, " if with_shape else ""
    if len(data) == 3 and data["min"] == data["max"]:
        return f"{shape}all {format_numbers(data['min'])}"
    return shape + ", ".join(f"{name} {format_numbers(number)}" for name, number in data.items())


def as_data(value: Any) -> Any:
    """A tensor as data: a number or nested lists; of many numbers a dict of middle and ends.

    Numbers that are NaN or infinite are counted there. None where there are no numbers to read.

    Example:
        >>> import torch
        >>> from declarative_dist.words import as_data
        >>> as_data(torch.zeros(10))
        {'min': 0.0, 'median': 0.0, 'max': 0.0}
        >>> as_data(torch.zeros(10, device="meta")) is None
        True
    """
    if not isinstance(value, Tensor):
        return value if isinstance(value, (int, float, str)) or value is None else repr(value)
    if describe_absence(value) or value.is_complex():
        return None
    is_small = value.numel() <= MOST or (value.ndim == 2 and max(value.shape) <= 3)
    try:
        return value.tolist() if is_small else _spread(value)
    except RuntimeError:  # torch can't read or order numbers of this dtype, or inside of vmap
        return None


def _spread(value: Tensor) -> dict[str, float]:
    """The smallest, the median and the largest number, and how many are not finite."""
    flat = value.detach().cpu().double().flatten()
    finite = flat[flat.isfinite()]
    found: dict[str, float] = {}
    if finite.numel():
        low, high = finite.aminmax()
        found = {"min": low.item(), "median": finite.median().item(), "max": high.item()}
    missing = flat.numel() - finite.numel()
    return {**found, "not finite": missing} if missing else found


def describe_absence(value: Tensor) -> str:
    """Why a tensor has no numbers to read; "" if it has.

    Example:
        >>> import torch
        >>> from declarative_dist.words import describe_absence
        >>> describe_absence(torch.empty(0)), describe_absence(torch.empty(1))
        ('no numbers', '')
    """
    if is_lazy(value):
        return "not initialized yet"
    if value.is_meta:
        return "on the meta device"
    if hasattr(value, "full_tensor"):
        return "sharded over processes"
    if type(value).__name__ in ("FakeTensor", "FunctionalTensor"):
        return "not computed"
    if value.layout != torch.strided:
        return str(value.layout).removeprefix("torch.")
    if value.numel() == 0:
        return "no numbers"
    try:
        is_freed = not value.untyped_storage().size()
    except RuntimeError:  # inside of a transform of torch.func
        return ""
    return "freed" if is_freed else ""  # FSDP frees gathered parameters, whose shape stays


def name_entry(index: tuple[int, ...]) -> str:
    """An index as it stands behind a name, "[1, 0]"; "" where there is only one number."""
    return f"[{', '.join(map(str, index))}]" if index else ""


def spell_constraint(constraint: object) -> str:
    """A constraint by its class and its bounds, in one line.

    Example:
        >>> from declarative_dist import Interval
        >>> from declarative_dist.words import spell_constraint
        >>> spell_constraint(Interval(0.0, 1.5))
        'Interval(0, 1.5)'
    """
    text = re.sub(r"\b(low|high)=|\.0\b(?=[,)])", "", " ".join(repr(constraint).split()))
    return text.replace("( ", "(").replace(" )", ")")


def is_one_edit_from(name: str, other: str) -> bool:
    """Whether inserting, deleting, replacing or swapping one letter makes one name the other.

    Example:
        >>> from declarative_dist.words import is_one_edit_from
        >>> is_one_edit_from("rte", "rate"), is_one_edit_from("rate", "ratio")
        (True, False)
    """
    longer, shorter = (name, other) if len(name) >= len(other) else (other, name)
    if len(longer) > len(shorter) + 1:
        return False
    pairs = enumerate(zip(longer, shorter, strict=False))
    start = next((index for index, (one, two) in pairs if one != two), len(shorter))
    rest, other_rest = longer[start:], shorter[start:]
    is_swap = rest[:2] == other_rest[1::-1] and rest[2:] == other_rest[2:]
    return name != other and (is_swap or rest[1:] in (other_rest, other_rest[1:]))

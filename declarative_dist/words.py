"""Numbers and names in words: few digits, never more than a line, and the name that was meant."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

SHOWN = 6
"""How many numbers of a tensor are shown one by one."""

WIDEST = 48
"""How many letters they may take."""


def numeral(number: float) -> str:
    """A number with four significant digits.

    Example:
        >>> from declarative_dist.words import numeral
        >>> numeral(0.09999999), numeral(1234.5678), numeral(2), numeral(1e-18)
        ('0.1', '1235.0', '2', '1e-18')
    """
    if isinstance(number, int):  # bool, too
        return str(number)
    return repr(float(f"{number:.4g}"))


def numerals(value: Any, *, with_shape: bool = True) -> str:
    """A tensor by its numbers, or if there are many by their middle and ends; others by `repr`.

    Args:
        value: the tensor, or anything else.
        with_shape: whether to tell the shape where it does not show.

    Example:
        >>> import torch
        >>> from declarative_dist.words import numerals
        >>> numerals(torch.tensor([0.1, 2.0])), numerals(torch.arange(101.0))
        ('[0.1, 2.0]', 'shape (101,), min 0.0, median 50.0, max 100.0')
    """
    if not isinstance(value, Tensor):
        text = numeral(value) if isinstance(value, (int, float)) else repr(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    reason = absent(value)
    if reason:
        return reason
    known = figures(value)
    text = "" if isinstance(known, dict) else _listed(known)
    if text and len(text) <= WIDEST:
        return text
    shape = f"shape {tuple(value.shape)}, " if with_shape else ""
    return shape + _ends(known if isinstance(known, dict) else _spread(value))


def figures(value: Any) -> Any:
    """A tensor as data: a number or nested lists; of many numbers a dict of middle and ends.

    Numbers that are NaN or infinite are counted there. None where there are no numbers to read.

    Example:
        >>> import torch
        >>> from declarative_dist.words import figures
        >>> figures(torch.zeros(10))
        {'min': 0.0, 'median': 0.0, 'max': 0.0}
        >>> figures(torch.zeros(10, device="meta")) is None
        True
    """
    if not isinstance(value, Tensor):
        return value if isinstance(value, (int, float, str)) or value is None else repr(value)
    if absent(value):
        return None
    value = value.detach()
    if value.is_complex():
        return repr(value)
    if value.numel() <= SHOWN:
        return value.tolist()
    return _spread(value)


def _spread(value: Tensor) -> dict[str, float]:
    flat = value.detach().flatten()
    if not flat.is_floating_point():
        low, high = flat.aminmax()
        return {"min": low.item(), "max": high.item()}
    finite = flat[flat.isfinite()].float() if flat.dtype != torch.float64 else flat
    finite = finite[finite.isfinite()]
    found: dict[str, float] = {}
    if finite.numel():
        low, high = finite.aminmax()
        found = {"min": low.item(), "median": finite.median().item(), "max": high.item()}
    missing = flat.numel() - finite.numel()
    return {**found, "not finite": missing} if missing else found


def absent(value: Tensor) -> str:
    """Why a tensor has no numbers to read; "" if it has.

    Example:
        >>> import torch
        >>> from declarative_dist.words import absent
        >>> absent(torch.empty(0)), absent(torch.empty(1))
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
    # FSDP frees gathered parameters, whose shape stays.
    return "" if value.untyped_storage().size() else "freed"


def _ends(known: dict[str, float]) -> str:
    if len(known) == 3 and known["min"] == known["max"]:
        return f"all {numeral(known['min'])}"
    return ", ".join(f"{name} {numeral(number)}" for name, number in known.items())


def _listed(known: Any) -> str:
    if isinstance(known, list):
        return f"[{', '.join(map(_listed, known))}]"
    return known if isinstance(known, str) else numeral(known)


def is_one_edit_from(name: str, other: str) -> bool:
    """Whether inserting, deleting, replacing or swapping one letter makes one name the other.

    Example:
        >>> from declarative_dist.words import is_one_edit_from
        >>> is_one_edit_from("rte", "rate"), is_one_edit_from("rate", "ratio")
        (True, False)
    """
    if name == other or abs(len(name) - len(other)) > 1:
        return False
    start = 0
    while start < min(len(name), len(other)) and name[start] == other[start]:
        start += 1
    rest, other_rest = name[start:], other[start:]
    return (
        rest[1:] == other_rest
        or rest == other_rest[1:]
        or rest[1:] == other_rest[1:]
        or (rest[:2] == other_rest[:2][::-1] and rest[2:] == other_rest[2:])
    )

"""Numbers become tensors of the dtype they are used in, digit for digit."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributions as dd

import declarative_dist as dist
from declarative_dist.errors import is_count
from declarative_dist.plain.tensors import as_tensor

DIGITS = 1609459230.123456
WHOLE = 2**53 + 1
WAYS: dict[str, Any] = {
    "number": DIGITS,
    "list": [DIGITS, 1],
    "tuple of lists": ([DIGITS, 0.1], [1.0, 2]),
    "numpy scalar": np.float64(DIGITS),
    "numpy 0-d": np.array(DIGITS),
    "numpy": np.array([DIGITS, 0.1]),
    "backwards": np.array([0.1, DIGITS])[::-1],
    "read-only": np.broadcast_to(np.array(DIGITS), (3,)),
    "big-endian": np.array([DIGITS], dtype=">f8"),
    "series": pd.Series([DIGITS, 0.1]),
    "frame": pd.DataFrame({"a": [DIGITS, 0.1], "b": [1, 2]}),
    "tensor": torch.tensor([DIGITS], dtype=torch.float64),
    "list of tensors": [torch.tensor(DIGITS, dtype=torch.float64), 0.1, 3],
    "list of arrays": [np.array([DIGITS, 0.1]), [1, 2]],
    "decimal": Decimal("1609459230.123456"),
    "list of decimals": [Decimal("1609459230.123456"), 1.0],
    "series of decimals": pd.Series([Decimal("1609459230.123456"), Decimal("0.1")]),
    "array of objects": np.array([Fraction(1609459230123456, 10**6), 1], dtype=object),
    "nothing masked": np.ma.array([DIGITS, 0.1]),
    "list of numpy scalars": [np.float64(DIGITS), np.float32(1.0), np.int64(3)],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("default", [torch.float32, torch.float16])
def test_no_digit_is_lost_on_the_way_to_float64(way: str, default: torch.dtype) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        tensor = as_tensor(WAYS[way], torch.float64)
    finally:
        torch.set_default_dtype(before)
    assert tensor.dtype == torch.float64
    assert (tensor == DIGITS).any()


@pytest.mark.parametrize("way", WAYS)
def test_without_a_dtype_nothing_is_lost_either(way: str) -> None:
    assert (as_tensor(WAYS[way]).to(torch.float64) == DIGITS).any()


@pytest.mark.parametrize(
    "value",
    [WHOLE, [WHOLE, 1], np.int64(WHOLE), np.array([WHOLE]), [np.int64(WHOLE), 2],
     torch.tensor(WHOLE)],
)  # fmt: skip
def test_integers_stay_exact(value: Any) -> None:
    assert (as_tensor(value, torch.int64) == WHOLE).any()
    assert (as_tensor(value) == WHOLE).any()


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(True, torch.bool), (3, torch.int64), ([], torch.float64), (np.float32(0.5), torch.float64),
     (Fraction(1, 4), torch.float64), (2**70, torch.float64), ([True, 2], torch.int64),
     (np.array([1], dtype=np.uint8), torch.uint8), ([torch.tensor(1.0), 2.0], torch.float64)],
)  # fmt: skip
def test_the_dtype_that_loses_nothing(value: Any, dtype: torch.dtype) -> None:
    assert as_tensor(value).dtype == dtype


@pytest.mark.parametrize(
    ("value", "error"),
    [("1", TypeError), (None, TypeError), ({"a": 1}, TypeError), (object(), TypeError),
     (["a"], TypeError), (np.array(["a"]), TypeError), (np.array([None]), TypeError),
     (1 + 2j, ValueError),
     ([1 + 2j], ValueError), (np.complex64(1), ValueError), (torch.tensor(1j), ValueError),
     ([[1.0], [1.0, 2.0]], ValueError), ([1.0, [2.0]], ValueError),
     (np.ma.array([1.0, 2.0], mask=[False, True]), ValueError), (np.ma.masked, ValueError),
     (pd.Series([True, None], dtype="boolean"), TypeError),
     (torch.eye(2).to_sparse(), ValueError)],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)  # fmt: skip
def test_what_is_no_real_number_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        as_tensor(value, torch.float32)


def test_values_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="meta"):
        as_tensor(torch.empty(2, device="meta"), torch.float64, "cpu")


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(1.5, torch.int64), (300, torch.uint8), (2, torch.bool), (2**70, torch.int64),
     (float("nan"), torch.int64)],
)  # fmt: skip
def test_a_dtype_of_integers_takes_no_other_numbers(value: Any, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=re.escape(str(dtype))):
        as_tensor(value, dtype)


def test_numbers_are_made_on_the_device_that_is_asked_for() -> None:
    with torch.device("meta"):
        assert as_tensor(1.0).device.type == "cpu"
        assert as_tensor([1.0], torch.float32, "meta").is_meta


def test_a_tensor_keeps_its_graph() -> None:
    leaf = torch.ones((), requires_grad=True)
    as_tensor([leaf, 2.0], torch.float64).sum().backward()
    assert leaf.grad == 1.0
    assert as_tensor(leaf) is leaf


@pytest.mark.parametrize("size", [3, np.int64(3), np.uint8(3)])
def test_integers_of_numpy_are_sizes_and_counts(size: Any) -> None:
    class Family(dist.Variational):
        base = dd.Normal
        event_dim = size
        loc = dist.Param(0.0, shape=(size, "rows", 2))
        scale = dist.Param(1.0)

    q = Family(rows=size, batch_shape=(size, 1))
    assert q.loc.shape == (3, 1, 3, 3, 2)
    assert Family(rows=size, batch_shape=size).batch_shape == (3,)
    assert q.event_shape == (3, 3, 2)
    counts = dist.learnable(dd.Multinomial)(total_count=size, dim=2)
    assert counts.sample().sum() == 3
    assert dist.entropy(counts, num_samples=size).shape == ()
    assert is_count(size)
    one = dist.site(event_dim=size)(lambda self: None)
    assert type(Family.__declaration__.event_dim) is type(one.event_dim) is int


@pytest.mark.parametrize("size", [True, np.bool_(True), 1.0, np.float64(1.0), -1, "1", None])
def test_other_numbers_are_no_counts(size: Any) -> None:
    assert not is_count(size)

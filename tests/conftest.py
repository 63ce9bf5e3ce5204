"""Every test starts from the same random numbers and torch's own validation default."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch.distributions import Distribution

from tests.other_torch import ELSEWHERE, reason_to_skip

collect_ignore = ELSEWHERE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        reason = reason_to_skip(item.nodeid)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def reproducible() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def torch_default_validation() -> Iterator[None]:
    """The first `torch.compile` of a process switches validation off; no test may see that."""
    Distribution.set_default_validate_args(True)
    yield
    Distribution.set_default_validate_args(True)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors: threads of several workers would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Nothing compiled yet, and torch's validation off, as its first compilation leaves it."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    Distribution.set_default_validate_args(False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield
    torch._dynamo.reset()

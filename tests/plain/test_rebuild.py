"""A distribution can be built again from other tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.plain.decompose import rebuild
from tests import composites
from tests.cases import PLAIN

pytestmark = pytest.mark.filterwarnings("ignore:Singular sample")

ALL: dict[str, Callable[[], Distribution]] = {
    **PLAIN,
    **{name: partial(composites.plain, name) for name in composites.COMPOSITES},
}
# Its constructor's arguments are no attributes, or it has no density.
for left_out in ("own family", *composites.NO_DENSITY):
    del ALL[left_out]


def insert(tensor: Tensor, behind: int) -> Tensor:
    return tensor.unsqueeze(-1 - behind) if tensor.ndim > behind else tensor


@pytest.mark.parametrize("name", ALL)
def test_a_dimension_goes_behind_the_batch_dimensions_of_all_parts(name: str) -> None:
    plain = ALL[name]()
    plain = plain.expand((2, *plain.batch_shape))
    again = rebuild(plain, insert)
    assert type(again) is type(plain)
    assert again._validate_args == plain._validate_args
    assert again.batch_shape == (*plain.batch_shape, 1)
    assert again.event_shape == plain.event_shape
    value = plain.sample((3,))
    at = value.ndim - len(plain.event_shape)
    log_prob = again.log_prob(value.unsqueeze(at))
    torch.testing.assert_close(log_prob.squeeze(-1), plain.log_prob(value))


def test_switched_off_checks_stay_off() -> None:
    plain = dd.Independent(dd.Gamma(torch.ones(2), 1.0, validate_args=False), 1)
    again: Any = rebuild(plain, insert)
    assert again.base_dist._validate_args is False

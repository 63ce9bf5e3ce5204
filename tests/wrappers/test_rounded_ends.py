"""Ends and values in different precision, and upper tails of classes of your own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import scipy.stats as st
import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist import ConstraintError, Variational, learnable
from declarative_dist.wrappers import Censored, Truncated

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
AT = 0.1
"""An end that is another number in each dtype."""


class Shown(Variational):
    base = Censored
    base_distribution = learnable(dd.Normal(0.0, 1.0))
    high = AT


def _load(dtype: torch.dtype) -> Shown:
    shown = Shown(dtype=dtype)
    shown.load_state_dict(Shown().state_dict())
    return shown


def _plain(dtype: torch.dtype) -> Censored:
    return Censored(dd.Normal(torch.zeros((), dtype=dtype), 1.0), high=AT)


WAYS: dict[str, Callable[[torch.dtype], Any]] = {
    "plain": _plain,
    "an instance": lambda dtype: learnable(_plain(torch.float32)).to(dtype),
    "a class": lambda dtype: Shown().to(dtype),
    "in its dtype": lambda dtype: Shown(dtype=dtype),
    "loaded": _load,
    "there and back": lambda dtype: Shown().half().to(dtype),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", WAYS)
def test_a_value_at_the_end_is_there_in_every_precision(way: str, dtype: torch.dtype) -> None:
    made, expected = WAYS[way](dtype), st.norm.logsf(AT)
    for own in DTYPES:
        value = torch.tensor([AT, 0.0], dtype=own)
        if way == "plain" or own == dtype:
            found = made.log_prob(value).double().tolist()
            least = 1e-3 if way == "there and back" else 1e-9  # half rounded the scale
            slack = max(torch.finfo(own).eps, torch.finfo(dtype).eps, least)
            assert found == pytest.approx([expected, st.norm.logpdf(0.0)], rel=2 * slack)


def test_an_end_that_was_set_is_not_the_number_that_was_declared() -> None:
    shown = Shown()
    shown.high = 0.25
    assert shown.double().high.item() == 0.25
    plain = _plain(torch.float32)
    plain.high = torch.tensor(0.5)
    assert learnable(plain).double().high.item() == 0.5


def test_other_values_keep_their_place() -> None:
    plain = _plain(torch.float32)
    near = torch.tensor(AT - 1e-6, dtype=torch.float64)
    assert plain.log_prob(near).item() == pytest.approx(st.norm.logpdf(AT), rel=1e-6)
    assert plain.cdf(torch.tensor(AT, dtype=torch.float64)).item() == 1.0
    inside = Truncated(plain, low=-1.0).log_prob(torch.tensor(AT, dtype=torch.float64)).exp()
    assert inside.item() == pytest.approx(st.norm.sf(AT) / st.norm.sf(-1.0), rel=1e-6)


class Own(dd.Distribution):
    """A logistic distribution of your own."""

    arg_constraints: Any = {}  # noqa: RUF012 - as torch has it
    support = dd.constraints.real

    def __init__(self, validate_args: bool | None = None) -> None:
        super().__init__(validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        return -value - 2 * torch.nn.functional.softplus(-value)

    def cdf(self, value: Tensor) -> Tensor:
        return value.sigmoid()


class WithTail(Own):
    def log_survival_function(self, value: Tensor) -> Tensor:
        return -torch.nn.functional.softplus(value)


def test_upper_tails_of_your_own() -> None:
    for make in (lambda at: Truncated(Own(), low=at), lambda at: Censored(Own(), high=at)):
        with pytest.raises(ConstraintError, match=r"Define log_survival_function\(value\)"):
            make(40.0)
        make(10.0)
    far = torch.tensor(40.5, dtype=torch.float64)
    assert Truncated(Own(), high=40.0).log_prob(far - 40.5).item() == pytest.approx(math.log(0.25))
    cut = Truncated(WithTail(), low=40.0).log_prob(far).item()
    assert cut == pytest.approx(st.logistic.logpdf(40.5) - st.logistic.logsf(40.0), rel=1e-12)
    pair = Censored(WithTail()).log_prob(torch.tensor([40.0, torch.inf]).double()).item()
    assert pair == pytest.approx(st.logistic.logsf(40.0), rel=1e-12)

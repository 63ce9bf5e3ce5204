"""The main job against the loop written by hand: same seed, same trajectory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions as dd
import torch.nn.functional as F
from torch import nn

from tests.cases import GammaFamily


def losses_of(build: Callable[[], dd.Distribution], parameters: Any) -> list[float]:
    target = dd.Gamma(5.0, 5.0)
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        q = build()
        x = q.rsample((100,))
        loss = -(target.log_prob(x) - q.log_prob(x)).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_gamma_trajectory() -> None:
    q = GammaFamily(dtype=torch.float64)
    shape = nn.Parameter(torch.tensor(1.0, dtype=torch.float64).expm1().log())
    log_rate = nn.Parameter(torch.tensor(0.0, dtype=torch.float64))
    by_hand = losses_of(lambda: dd.Gamma(F.softplus(shape), log_rate.exp()), [shape, log_rate])
    assert losses_of(lambda: q, q.parameters()) == pytest.approx(by_hand, rel=1e-9)
    torch.testing.assert_close(q.raw_rate, log_rate)


def test_plain_torch_fails_where_this_does_not() -> None:
    log_rate = nn.Parameter(torch.zeros(()))
    for q, times in ((GammaFamily(), 3), (dd.Gamma(1.0, log_rate.exp()), 1)):
        for _ in range(times):
            q.log_prob(torch.tensor(1.0)).backward()
    with pytest.raises(RuntimeError, match="second time"):
        q.log_prob(torch.tensor(1.0)).backward()

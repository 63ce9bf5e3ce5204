"""The main job against the loop written by hand: same seed, same trajectory."""

from __future__ import annotations

import pytest
import torch
import torch.distributions as dd
import torch.nn.functional as F
from torch import Tensor, nn

from declarative_dist import Exp, Param, Variational
from tests.cases import GammaFamily


class NormalFamily(Variational):
    base = dd.Normal
    loc = Param(0.0)
    scale = Param(1.0, Exp())


def losses_of_declared(q: Variational, target: dd.Distribution, steps: int) -> list[float]:
    """The loop that refers to the distribution only."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(q.parameters(), lr=0.05)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        x = q.rsample((100,))
        loss = -(target.log_prob(x) - q.log_prob(x)).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def losses_by_hand(make, raws: list[Tensor], target: dd.Distribution, steps: int) -> list[float]:
    """The loop that rebuilds the distribution in every step."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(raws, lr=0.05)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        distribution = make(*raws)
        x = distribution.rsample((100,))
        loss = -(target.log_prob(x) - distribution.log_prob(x)).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_gamma_trajectory() -> None:
    target = dd.Gamma(5.0, 5.0)
    q = GammaFamily(dtype=torch.float64)
    raws = [
        nn.Parameter(torch.tensor(1.0, dtype=torch.float64).expm1().log()),
        nn.Parameter(torch.tensor(0.0, dtype=torch.float64)),
    ]
    by_hand = losses_by_hand(lambda c, r: dd.Gamma(F.softplus(c), r.exp()), raws, target, 200)
    assert losses_of_declared(q, target, 200) == pytest.approx(by_hand, rel=1e-9)
    torch.testing.assert_close(q.raw_rate, raws[1])


def test_the_silent_variant_is_visible() -> None:
    q = NormalFamily()
    before = q.log_prob(torch.tensor(0.0)).item()
    nn.init.constant_(q.loc, 3.0)
    assert q.mean.item() == 3.0
    assert q.log_prob(torch.tensor(0.0)).item() != before


def test_plain_torch_fails_where_this_does_not() -> None:
    log_scale = torch.zeros((), requires_grad=True)
    frozen = dd.Normal(0.0, log_scale.exp())
    frozen.log_prob(torch.tensor(1.0)).backward()
    with pytest.raises(RuntimeError, match="second time"):
        frozen.log_prob(torch.tensor(1.0)).backward()
    q = NormalFamily()
    for _ in range(3):
        q.log_prob(torch.tensor(1.0)).backward()
    assert q.raw_scale.grad.item() == 0.0  # (x**2 - 1) at x = 1

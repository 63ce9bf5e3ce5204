"""Medians: half of the mass lies below, by the distribution's own function or by draws."""

from __future__ import annotations

import pytest
import torch
import torch.distributions as dd

from declarative_dist import LearnableTransform, Param, Positive, Variational, learnable, median
from tests.cases import PLAIN

UNKNOWN = {
    "Categorical", "Dirichlet", "LKJCholesky", "LogisticNormal", "Mixture", "Multinomial",
    "OneHot", "RelaxedBernoulli", "RelaxedOneHot", "VonMises", "Wishart",
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_half_of_the_draws_lie_below(name: str) -> None:
    plain = PLAIN[name]()
    if name.startswith(tuple(UNKNOWN)):
        with pytest.raises(NotImplementedError, match=r"median: none is known .* Take it from"):
            median(plain)
        return
    torch.manual_seed(0)
    exact = median(learnable(plain))
    assert exact.shape == plain.batch_shape + plain.event_shape
    draws = plain.sample((40_000,))
    below, above = ((d <= 0).double().mean(0) for d in (draws - exact, exact - draws))
    assert min(below.min(), above.min()) > 0.4875  # five standard deviations


def test_the_deterministic_action_of_a_squashed_policy() -> None:
    loc = torch.tensor([[0.3, -2.0], [0.0, 4.0]])
    base = dd.Independent(dd.Normal(loc, torch.full((2, 2), 3.0)), 1)
    bounds = dd.AffineTransform(torch.tensor([0.0, 1.0]), torch.tensor([2.0, -5.0]), event_dim=1)
    squashed = dd.TransformedDistribution(base, [dd.TanhTransform(), bounds])
    by_hand = torch.tensor([0.0, 1.0]) + torch.tensor([2.0, -5.0]) * loc.tanh()
    torch.testing.assert_close(median(squashed), by_hand)


def test_a_learned_transform() -> None:
    class Scale(LearnableTransform):
        base = dd.AffineTransform
        loc = Param(1.0)
        scale = Param(2.0, Positive())

    class Moved(Variational):
        base = dd.TransformedDistribution
        base_distribution = learnable(dd.Normal(3.0, 1.0))
        transforms = [Scale]  # noqa: RUF012

    q = Moved()
    exact = median(q)
    torch.testing.assert_close(exact, torch.tensor(7.0))
    exact.backward()
    assert all(p.grad is not None for p in q.transforms.parameters())


def test_a_map_of_whole_events_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="StickBreaking"):
        median(dd.LogisticNormal(torch.zeros(2), torch.ones(2)))

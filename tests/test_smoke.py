"""The first example runs, and each kind of class builds, draws, scores, learns and loads."""

from __future__ import annotations

import pytest
import torch
import torch.distributions as dd

from declarative_dist import FullRankNormal, fit, learnable, rsample_and_log_prob, summary
from declarative_dist.objectives import NegativeELBO, NegativeLogLikelihood
from tests.cases import GammaFamily, Hierarchy, MixtureDensity, NestedMixture, Policy, Squashed


def test_the_first_example_runs() -> None:
    q = GammaFamily()
    optimizer = torch.optim.SGD(q.parameters(), lr=0.01)
    target = dd.Gamma(5.0, 5.0)
    for _ in range(3):
        optimizer.zero_grad()
        x = q.rsample((100,))
        (q.log_prob(x) - target.log_prob(x)).mean().backward()
        optimizer.step()
    assert q.rate != 1.0


@pytest.mark.parametrize(
    "make", [lambda: NestedMixture(k=3, batch_shape=(2,)), Squashed, Hierarchy]
)
def test_kinds_of_classes_draw_score_and_load(make) -> None:
    q = make()
    assert q.log_prob(q.sample((2,))).shape[0] == 2
    make().load_state_dict(q.state_dict())
    assert summary(q)


@pytest.mark.parametrize("kind", [Policy, MixtureDensity])
def test_conditionals_predict(kind) -> None:
    sizes = {"actions": 2} if kind is Policy else {"k": 2}
    model = kind(in_features=3, **sizes)
    x = torch.randn(5, 3)
    assert model(x).log_prob(model(x).sample()).shape == (5,)


def test_fits_and_guides() -> None:
    q = learnable(dd.Normal(0.0, 1.0))
    fit(NegativeLogLikelihood(q), torch.randn(50) + 1.0, steps=5, progress=False)
    conditioned = Hierarchy().condition(theta=torch.zeros(3), y=torch.tensor(1.0))
    guide = FullRankNormal(conditioned)
    fit(NegativeELBO(conditioned, guide), steps=3, progress=False)
    x, log_prob = rsample_and_log_prob(dd.Gamma(2.0, 3.0), (4,))
    assert log_prob.shape == x.shape

"""Pyro's NUTS on the unconstrained log density of declared latents recovers known posteriors."""

from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
import torch.distributions as dd
from pyro.infer.mcmc import MCMC, NUTS
from torch import Tensor

from declarative_dist import Declarative, Joint, Param, Positive, Simplex, site
from declarative_dist.latents.density import UnconstrainedLogDensity


def drawn(density: UnconstrainedLogDensity, count: int = 250, warmup: int = 100) -> Any:
    """Draws of a sampler that knows nothing of constraints, mapped back."""
    pyro.set_rng_seed(1)
    kernel = NUTS(potential_fn=lambda z: -density(z["vector"]))
    mcmc = MCMC(
        kernel,
        num_samples=count,
        warmup_steps=warmup,
        initial_params={"vector": density.start()},
        disable_progbar=True,
    )
    mcmc.run()
    return density.constrain(mcmc.get_samples()["vector"])


def check(draws: Tensor, mean: Tensor, deviation: Tensor) -> None:
    assert ((draws.mean(0) - mean).abs() / deviation).max() < 0.15
    assert (draws.std(0) / deviation - 1).abs().max() < 0.15


@pytest.mark.filterwarnings("ignore")
def test_a_gamma_and_a_dirichlet() -> None:
    counts, data = torch.tensor([20.0, 5.0, 12.0]), dd.Poisson(30.0).sample((20,))

    class Latents(Declarative):
        rate = Param(1.0, Positive())
        shares = Param([1 / 3] * 3, Simplex())

    def log_joint(values: dict[str, Tensor]) -> Tensor:
        prior = dd.Gamma(2.0, 0.1).log_prob(values["rate"])
        likelihood = dd.Poisson(values["rate"][..., None]).log_prob(data).sum(-1)
        return prior + likelihood + (counts * values["shares"].log()).sum(-1)

    draws = drawn(Latents(dtype=torch.float64).unconstrained_log_density(log_joint))
    rate = dd.Gamma(2.0 + data.sum(), 0.1 + len(data))
    shares = dd.Dirichlet(1.0 + counts)
    check(draws["rate"], rate.mean, rate.stddev)
    check(draws["shares"], shares.mean, shares.stddev)


class Mean(Joint):
    mu = dd.Normal(torch.tensor(0.0, dtype=torch.float64), 10.0)
    precision = dd.Gamma(torch.tensor(2.0, dtype=torch.float64), 2.0)

    @site(event_dim=1)
    def y(self, mu: Tensor, precision: Tensor) -> dd.Normal:
        deviation = precision.rsqrt()[..., None]
        return dd.Normal(mu[..., None].expand(*mu.shape, 30), deviation)


@pytest.mark.filterwarnings("ignore")
def test_a_conditioned_joint() -> None:
    torch.manual_seed(2)
    data = (3.0 + 2.0 * torch.randn(30)).double()
    draws = drawn(Mean().condition(y=data).unconstrained_log_density())
    # By quadrature over the precision: given it, the mean is normal.
    grid = torch.linspace(1e-3, 2.0, 4000, dtype=torch.float64)
    total = 1 / 100 + 30 * grid
    mean, variance = grid * data.sum() / total, 1 / total
    weight = dd.Gamma(2.0, 2.0).log_prob(grid) + 15 * grid.log() - 0.5 * total.log()
    weight = weight - 0.5 * (grid * data.square().sum() - total * mean.square())
    weight = weight.softmax(0)
    mu = (weight * mean).sum()
    spread = (weight * (variance + mean.square())).sum() - mu.square()
    check(draws["mu"], mu, spread.sqrt())
    precision = (weight * grid).sum()
    check(draws["precision"], precision, ((weight * grid.square()).sum() - precision**2).sqrt())

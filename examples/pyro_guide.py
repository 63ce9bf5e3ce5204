"""Use declared families in a guide of Pyro.

A family whose base is one of Pyro's distributions gives, called, what `pyro.sample` takes, and
`pyro.module` registers its unconstrained parameters, the only entries of Pyro's store. A shop
counts visitors per hour, and those who buy; the priors are conjugate, so the posterior is known.
After 600 steps the rate of visitors has mean 10.74 and standard deviation 1.14, exactly 10.73 and
1.14; the share of buyers 0.294 and 0.048, exactly 0.295 and 0.048.

    python examples/pyro_guide.py
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ClippedAdam
from torch import Tensor

from declarative_dist import Exp, Param, UnitInterval, Variational, derived

VISITORS = torch.tensor([12.0, 7.0, 15.0, 9.0, 11.0, 14.0, 8.0, 10.0])
BUYERS = torch.tensor([3.0, 2.0, 6.0, 2.0, 4.0, 3.0, 1.0, 4.0])
STEPS = 600


class Rate(Variational):
    """How many visitors come per hour: a gamma, by its mean."""

    base = dist.Gamma
    concentration = Param(1.0, Exp())
    location = Param(1.0, Exp())

    @derived
    def rate(self, concentration: Tensor, location: Tensor) -> Tensor:
        """The inverse scale."""
        return concentration / location


class Share(Variational):
    """The share of visitors who buy: a beta, by its mean and what it counts in all."""

    base = dist.Beta
    total = Param(2.0, Exp())
    location = Param(0.5, UnitInterval())

    @derived
    def concentration1(self, total: Tensor, location: Tensor) -> Tensor:
        """What speaks for buying."""
        return total * location

    @derived
    def concentration0(self, total: Tensor, location: Tensor) -> Tensor:
        """What speaks against it."""
        return total * (1 - location)


def model(visitors: Tensor, buyers: Tensor) -> None:
    """Visitors come at a rate, and each of them buys with a probability."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.2))
    share = pyro.sample("share", dist.Beta(1.0, 1.0))
    with pyro.plate("hours", len(visitors)):
        pyro.sample("visitors", dist.Poisson(rate), obs=visitors)
        pyro.sample("buyers", dist.Binomial(visitors, share), obs=buyers)


def main() -> None:
    """Fit the guide and print it beside the known posterior."""
    torch.manual_seed(0)
    rate, share = Rate(), Share()

    def guide(visitors: Tensor, buyers: Tensor) -> None:
        pyro.module("rate", rate)
        pyro.module("share", share)
        pyro.sample("rate", rate())
        pyro.sample("share", share())

    optimizer = ClippedAdam({"lr": 0.2, "lrd": 0.01 ** (1 / STEPS)})
    elbo = Trace_ELBO(num_particles=64, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, optimizer, elbo)
    for _ in range(STEPS):
        svi.step(VISITORS, BUYERS)

    visitors, buyers = VISITORS.sum(), BUYERS.sum()
    exact_rate = dist.Gamma(2.0 + visitors, 0.2 + len(VISITORS))
    exact_share = dist.Beta(1.0 + buyers, 1.0 + visitors - buyers)
    for name, q, exact in (("rate", rate, exact_rate), ("share", share, exact_share)):
        print(f"{name}: mean {q.mean:.4f}, standard deviation {q.stddev:.4f}")
        print(f"  exact: {exact.mean:.4f}, {exact.stddev:.4f}")
    print("Pyro's store:", ", ".join(pyro.get_param_store()))


if __name__ == "__main__":
    main()

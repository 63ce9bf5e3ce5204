"""Eight schools, a hierarchical model as one declared joint distribution.

Each site is a distribution, or a method from the values of earlier sites to one. Drawing is
ancestral, the log density is the sum over sites, and `condition(y=...)` leaves a log density of
the other sites. Here that weights draws from the prior: with 400,000 of them, the posterior means
are 4.4 for the mean effect, 3.6 for the spread between schools, and about 6 (A) and 4 (E) for
schools whose effects alone would be 28 and -1.

The data are those of Rubin (1981), "Estimation in parallel randomized experiments", Journal of
Educational Statistics 6, 377-401.

    python examples/eight_schools.py
"""

from __future__ import annotations

import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist import Joint, site

EFFECTS = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
ERRORS = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]


class Effects(Joint):
    """What is believed of the effects of coaching before any school is seen."""

    mu = dd.Normal(0.0, 5.0)
    tau = dd.HalfCauchy(5.0)

    @site(event_dim=1)
    def theta(self, mu: Tensor, tau: Tensor) -> dd.Normal:
        """The effect in each of eight schools."""
        return dd.Normal(mu[..., None].expand(*mu.shape, 8), tau[..., None])


class Schools(Effects):
    """The same, and what each school measured, with a known standard error."""

    error = torch.tensor(ERRORS)

    @site(event_dim=1)
    def y(self, theta: Tensor, error: Tensor) -> dd.Normal:
        """The measured effects."""
        return dd.Normal(theta, error)


def posterior_means(count: int) -> dict[str, Tensor]:
    """The posterior mean of every site, from draws of the prior weighted by their likelihood."""
    prior = Effects(dtype=torch.float64)
    log_joint = Schools(dtype=torch.float64).condition(y=EFFECTS)
    draws = prior.sample((count,))
    weights = (log_joint(draws) - prior.log_prob(draws)).softmax(0)
    return {name: torch.tensordot(weights, value, 1) for name, value in draws.items()}


def main() -> None:
    """Draw, score, condition."""
    torch.manual_seed(0)
    schools = Schools()
    print("Ancestral draws:")
    for name, value in schools.sample((3,)).items():
        print(f"  {name}: shape {tuple(value.shape)}")
    draw = schools.sample((3,))
    print(f"Log densities: {[round(value, 3) for value in schools.log_prob(draw).tolist()]}")

    print("Posterior means, given what the schools measured:")
    means = posterior_means(400_000)
    print(f"  mu {means['mu']:.2f}, tau {means['tau']:.2f}")
    for name, effect, error, mean in zip("ABCDEFGH", EFFECTS, ERRORS, means["theta"], strict=True):
        print(f"  school {name}: {mean:5.2f}, measured {effect:3.0f} +- {error:.0f}")


if __name__ == "__main__":
    main()

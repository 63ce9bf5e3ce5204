"""Differential equations with unknown coefficients, solved with steps of a fixed size."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist import Declarative, Joint, Param, Positive, site
from posteriors.posterior import Posterior, Values, data_of, reference_of


def solve(
    slope: Callable[[float, Tensor], Tensor], state: Tensor, step: float, between: int, count: int
) -> Tensor:
    """Solutions by the classical method of Runge and Kutta.

    Args:
        slope: the derivative of a state `(*sample, *state)` at a time.
        state: where it starts, at time 0.
        step: the size of a step.
        between: how many steps there are from one time to the next.
        count: at how many times to look.

    Returns:
        The states at these times, of shape `(count, *sample, *state)`.
    """
    states = []
    for number in range(between * count):
        time = number * step
        a = slope(time, state)
        b = slope(time + step / 2, state + step / 2 * a)
        c = slope(time + step / 2, state + step / 2 * b)
        d = slope(time + step, state + step * c)
        state = state + step / 6 * (a + 2 * (b + c) + d)
        if (number + 1) % between == 0:
            states.append(state)
    return torch.stack(states)


PELTS = data_of("hudson_lynx_hare-lotka_volterra")


class LynxAndHare(Declarative):
    """Pelts of lynx and hare over twenty years: predators and prey."""

    y_init, y = PELTS["y_init"], PELTS["y"]
    theta = Param([1.0, 0.05, 1.0, 0.05], Positive())
    z_init = Param(
        [10.0, 10.0], Positive(), prior=dd.LogNormal(torch.log(torch.tensor(10.0)), 1.0)
    )
    sigma = Param([1.0, 1.0], Positive(), prior=dd.LogNormal(-1.0, 1.0))

    def log_joint(self, values: Values) -> Tensor:
        """The log posterior density of values, of shape `(*sample)`."""
        theta, z_init, sigma = values["theta"], values["z_init"], values["sigma"]
        spread = torch.tensor([0.5, 0.05, 0.5, 0.05]).to(theta)
        centre = torch.tensor([1.0, 0.05, 1.0, 0.05]).to(theta)
        prior = dd.Normal(centre, spread).log_prob(theta).sum(-1)
        # Of logarithms the derivative is simple: own rate plus the effect of the other.
        rates = theta[..., 0::2] * torch.tensor([1.0, -1.0]).to(theta)
        effects = theta[..., 1::2] * torch.tensor([-1.0, 1.0]).to(theta)
        start = z_init.log()
        states = solve(
            lambda _, z: torch.addcmul(rates, effects, z.exp().flip(-1)),
            start,
            0.2,
            5,
            len(self.y),
        )
        log_z = torch.cat([start[None], states]).movedim(0, -2)
        seen = torch.cat([self.y_init[None], self.y])
        likelihood = dd.LogNormal(log_z, sigma[..., None, :]).log_prob(seen).sum((-2, -1))
        return self.log_prior(values) + prior + likelihood


DRUG = data_of("one_comp_mm_elim_abs-one_comp_mm_elim_abs")


class Compartment(Joint):
    """The concentration of a drug that is absorbed at a rate and eliminated with saturation."""

    k_a = dd.HalfCauchy(1.0)
    K_m = dd.HalfCauchy(1.0)
    V_m = dd.HalfCauchy(1.0)
    sigma = dd.HalfCauchy(1.0)

    @site(event_dim=1)
    def C_hat(self, k_a: Tensor, K_m: Tensor, V_m: Tensor, sigma: Tensor) -> dd.LogNormal:  # noqa: N802, N803 - Stan's names
        """The measured concentrations."""
        dose, volume = DRUG["D"] / DRUG["V"], DRUG["V"]

        def slope(time: float, amount: Tensor) -> Tensor:
            absorbed = dose * k_a * (-k_a * time).exp()
            return absorbed - V_m / volume * amount / (K_m + amount)

        amounts = solve(slope, torch.zeros_like(k_a), 0.1, 5, DRUG["N_t"]).movedim(0, -1)
        return dd.LogNormal(amounts.log(), sigma[..., None])


def dynamics() -> list[Posterior]:
    """The posteriors of this file."""
    animals, pelts = LynxAndHare(dtype=torch.float64), "hudson_lynx_hare-lotka_volterra"
    drug, name = (
        Compartment(dtype=torch.float64).condition(C_hat=DRUG["C_hat"]),
        "one_comp_mm_elim_abs-one_comp_mm_elim_abs",
    )
    return [
        Posterior(pelts, animals, animals.log_joint, reference_of(pelts)),
        Posterior(name, drug, drug, reference_of(name)),
    ]

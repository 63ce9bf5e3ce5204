"""Series in time: an autoregression, a hidden Markov model, and changing volatility."""

from __future__ import annotations

import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist import (
    Declarative,
    Interval,
    Joint,
    Param,
    Positive,
    PositiveOrdered,
    Simplex,
    UnitInterval,
    derived,
    site,
)
from posteriors.posterior import Posterior, Values, data_of, reference_of

AR = data_of("arK-arK")


class Autoregression(Joint):
    """A value given the five before it."""

    lags = AR["y"].unfold(0, AR["K"], 1)[:-1].flip(-1)  # the latest first
    alpha = dd.Normal(0.0, 10.0)
    beta = dd.Independent(dd.Normal(torch.zeros(AR["K"]), 10.0), 1)
    sigma = dd.HalfCauchy(2.5)

    @site(event_dim=1)
    def y(self, alpha: Tensor, beta: Tensor, sigma: Tensor, lags: Tensor) -> dd.Normal:
        """The values behind the first five."""
        return dd.Normal(alpha[..., None] + beta @ lags.mT, sigma[..., None])


DRIVES = data_of("bball_drive_event_0-hmm_drive_0")


class Drives(Declarative):
    """A hidden Markov model of two states of play, by speed and distance to the hoop.

    The starting state is flat. Rows of the transition matrix are `theta1` and `theta2`.
    """

    u, v = DRIVES["u"], DRIVES["v"]
    theta1 = Param(constraint=Simplex(), shape=2, prior=dd.Dirichlet(DRIVES["alpha"][0]))
    theta2 = Param(constraint=Simplex(), shape=2, prior=dd.Dirichlet(DRIVES["alpha"][1]))
    phi = Param(constraint=PositiveOrdered(), shape=2)
    rate = Param(constraint=PositiveOrdered(), shape=2)

    def log_joint(self, values: Values) -> Tensor:
        """The log posterior density of values, of shape `(*sample)`."""
        phi, rate = values["phi"], values["rate"]
        prior = dd.Normal(torch.tensor([0.0, 3.0]).to(phi), 1.0)
        emitted = dd.Exponential(phi[..., None, :]).log_prob(self.u[:, None])
        emitted = emitted + dd.Exponential(rate[..., None, :]).log_prob(self.v[:, None])
        moves = torch.stack([values["theta1"], values["theta2"]], -2).log()
        likelihood = log_forward(emitted, moves)
        priors = prior.log_prob(phi).sum(-1) + prior.log_prob(rate).sum(-1)
        return self.log_prior(values) + priors + likelihood


def log_forward(emitted: Tensor, moves: Tensor) -> Tensor:
    """The log likelihood of a hidden Markov model whose starting state is flat.

    Steps are matrices, whose product is taken two by two (Särkkä and García-Fernández, 2021,
    https://arxiv.org/abs/1905.13002): as many operations as the logarithm of the length.

    Args:
        emitted: the log density of each observation in each state, `(*sample, length, states)`.
        moves: log probabilities from each state to each, `(*sample, states, states)`.

    Returns:
        A tensor of shape `(*sample)`.
    """
    first = emitted[..., 0, :]
    steps = moves[..., None, :, :] + emitted[..., 1:, None, :]
    while (length := steps.shape[-3]) > 1:
        left, right = steps[..., 0 : length - 1 : 2, :, :], steps[..., 1::2, :, :]
        product = (left[..., :, :, None] + right[..., None, :, :]).logsumexp(-2)
        rest = steps[..., length - length % 2 :, :, :]
        steps = torch.cat([product, rest], -3)
    return (first[..., :, None] + steps[..., 0, :, :]).logsumexp((-2, -1))


RETURNS = data_of("garch-garch11")


class Garch(Declarative):
    """Volatility that follows the last return and the last volatility; all priors are flat."""

    y = RETURNS["y"]
    mu = Param(0.0)
    alpha0 = Param(1.0, Positive())
    alpha1 = Param(0.5, UnitInterval())
    beta1 = Param(0.25, Interval(0.0, "room"))

    @derived
    def room(self, alpha1: Tensor) -> Tensor:
        """What is left for `beta1`: the process is stationary."""
        return 1.0 - alpha1

    def log_joint(self, values: Values) -> Tensor:
        """The log posterior density of values, of shape `(*sample)`."""
        mu, alpha0, alpha1, beta1 = (values[n] for n in ("mu", "alpha0", "alpha1", "beta1"))
        shocks = alpha0[..., None] + alpha1[..., None] * (self.y[:-1] - mu[..., None]).square()
        variance = [torch.full_like(mu, RETURNS["sigma1"] ** 2)]
        for shock in shocks.unbind(-1):
            variance.append(torch.addcmul(shock, beta1, variance[-1]))
        scale = torch.stack(variance, -1).sqrt()
        return dd.Normal(mu[..., None], scale).log_prob(self.y).sum(-1)


def _name_rates(values: Values) -> Values:
    return {**values, "lambda": values["rate"]}  # a reserved word


def series() -> list[Posterior]:
    """The posteriors of this file."""
    y = AR["y"][AR["K"] :]
    autoregression = Autoregression(dtype=torch.float64).condition(y=y)
    drives, garch = Drives(dtype=torch.float64), Garch(dtype=torch.float64)
    name = "bball_drive_event_0-hmm_drive_0"
    return [
        Posterior("arK-arK", autoregression, autoregression, reference_of("arK-arK")),
        Posterior(name, drives, drives.log_joint, reference_of(name), _name_rates),
        Posterior("garch-garch11", garch, garch.log_joint, reference_of("garch-garch11")),
    ]

"""Gaussian processes, with normal and with Poisson noise."""

from __future__ import annotations

import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist import Joint, site
from posteriors.posterior import Posterior, Values, data_of, reference_of

DATA = data_of("gp_pois_regr-gp_regr")
EYE = torch.eye(DATA["N"], dtype=torch.float64)


def kernel(x: Tensor, rho: Tensor, alpha: Tensor) -> Tensor:
    """The squared exponential kernel of the points, of shape `(*sample, n, n)`."""
    distance = (x[:, None] - x) / rho[..., None, None]
    return alpha[..., None, None].square() * (-0.5 * distance.square()).exp()


class Counts(Joint):
    """Counts with a rate whose logarithm is a Gaussian process, from standard normal numbers."""

    x = DATA["x"]
    rho = dd.Gamma(25.0, 4.0)
    alpha = dd.HalfNormal(2.0)
    f_tilde = dd.Independent(dd.Normal(torch.zeros(DATA["N"]), 1.0), 1)

    @site(event_dim=1)
    def k(self, rho: Tensor, alpha: Tensor, f_tilde: Tensor, x: Tensor) -> dd.Poisson:
        """The counts."""
        return dd.Poisson(latent(x, rho, alpha, f_tilde).exp())


def latent(x: Tensor, rho: Tensor, alpha: Tensor, f_tilde: Tensor) -> Tensor:
    """The Gaussian process at the points, of shape `(*sample, n)`."""
    factor = torch.linalg.cholesky(kernel(x, rho, alpha) + 1e-10 * EYE)
    return (factor @ f_tilde[..., None])[..., 0]


class Measurements(Joint):
    """Noisy measurements of a Gaussian process, which is integrated out."""

    x = DATA["x"]
    rho = dd.Gamma(25.0, 4.0)
    alpha = dd.HalfNormal(2.0)
    sigma = dd.HalfNormal(1.0)

    @site
    def y(self, rho: Tensor, alpha: Tensor, sigma: Tensor, x: Tensor) -> dd.MultivariateNormal:
        """The measurements; `sigma` is their variance."""
        covariance = kernel(x, rho, alpha) + sigma[..., None, None] * EYE
        return dd.MultivariateNormal(torch.zeros_like(x), covariance)


def _with_latent(values: Values) -> Values:
    f = latent(DATA["x"], values["rho"], values["alpha"], values["f_tilde"])
    return {**values, "f": f}


def processes() -> list[Posterior]:
    """The posteriors of this file."""
    counts = Counts(dtype=torch.float64).condition(k=DATA["k"])
    measured = Measurements(dtype=torch.float64).condition(y=DATA["y"])
    reference = reference_of("gp_pois_regr-gp_pois_regr")
    return [
        Posterior("gp_pois_regr-gp_pois_regr", counts, counts, reference, _with_latent),
        Posterior(
            "gp_pois_regr-gp_regr", measured, measured, reference_of("gp_pois_regr-gp_regr")
        ),
    ]

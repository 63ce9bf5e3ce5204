"""Fit a mixture of two normals with full covariances to the eruptions of Old Faithful.

A mixture is a class whose parts are other declared classes, its weights and its components; their
sizes `k` and `d` become keywords of the mixture. On 272 eruptions (`examples/data/README.md` names
their source) `fit` finds a start of its own and the maximum of the likelihood, -1130.264, as does
scikit-learn's expectation maximisation, at the same place: 64.4 % of the eruptions last 4.3
minutes, followed by a wait of 80, and the others 2.0 minutes, followed by one of 54.

    python examples/old_faithful.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.distributions as dd
from sklearn.mixture import GaussianMixture
from torch import Tensor

from declarative_dist import LowerCholesky, Param, Variational, fit
from declarative_dist.objectives import NegativeLogLikelihood

DATA = Path(__file__).parent / "data" / "old_faithful.csv"


class Weights(Variational):
    """How often each component occurs."""

    base = dd.Categorical
    logits = Param(0.0, shape=("k",))


class Components(Variational):
    """Normals with full covariances, kept positive definite through their Cholesky factors."""

    base = dd.MultivariateNormal
    loc = Param(torch.randn, shape=("k", "d"))
    scale_tril = Param(constraint=LowerCholesky(), shape=("k", "d", "d"))


class Mixture(Variational):
    """A mixture of both."""

    base = dd.MixtureSameFamily
    mixture_distribution = Weights
    component_distribution = Components


def old_faithful() -> Tensor:
    """Duration of 272 eruptions and the wait until the next, in minutes, of shape `(272, 2)`."""
    return torch.from_numpy(np.loadtxt(DATA, delimiter=",", skiprows=1))


def fit_mixture(data: Tensor, k: int = 2) -> Mixture:
    """A mixture of k components at the maximum of the likelihood of data."""
    q = Mixture(k=k, d=data.shape[-1], dtype=data.dtype)
    fit(NegativeLogLikelihood(q), data, progress=False)
    return q


def show(weights: Tensor, means: Tensor, covariances: Tensor) -> None:
    """Print the components, the most frequent first."""
    for index in weights.argsort(descending=True):
        values = (weights[index].item(), means[index].tolist(), covariances[index].tolist())
        weight, (duration, wait), ((a, b), (_, c)) = values
        print(
            f"  weight {weight:.4f}, mean {duration:.4f} {wait:.3f}, "
            f"covariance {a:.5f} {b:.4f} {c:.3f}"
        )


def main() -> None:
    """Fit the mixture, and scikit-learn's beside it."""
    data = old_faithful()
    q = fit_mixture(data)
    print(f"declared: log likelihood {q.log_prob(data).sum().item():.3f}")
    weights, components = q.constrained_values().values()
    tril = components["scale_tril"]
    show(weights["logits"].softmax(-1), components["loc"], tril @ tril.mT)

    other = GaussianMixture(2, n_init=10, tol=1e-6, max_iter=1000, random_state=0).fit(data)
    print(f"scikit-learn: log likelihood {other.score(data) * len(data):.3f}")
    show(*map(torch.from_numpy, (other.weights_, other.means_, other.covariances_)))


if __name__ == "__main__":
    main()

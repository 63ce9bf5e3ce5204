"""A declared family as an estimator of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributions as dd
from sklearn.base import BaseEstimator, DensityMixin, clone
from sklearn.datasets import make_blobs
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.validation import check_is_fitted, validate_data

from declarative_dist import Param, Positive, Variational, fit
from declarative_dist.objectives import NegativeLogLikelihood


class Weights(Variational):
    base = dd.Categorical
    logits = Param(0.0, shape=("k",))


class Components(Variational):
    base = dd.Normal
    event_dim = 1
    loc = Param(0.0, shape=("k", "d"))
    scale = Param(1.0, Positive(floor=1e-3), shape=("k", "d"))


class Mixture(Variational):
    base = dd.MixtureSameFamily
    mixture_distribution = Weights
    component_distribution = Components


class MixtureEstimator(DensityMixin, BaseEstimator):
    """A mixture of normals with diagonal covariances."""

    def __init__(self, n_components: int = 1, *, steps: int = 200, random_state: int = 0) -> None:
        self.n_components = n_components
        self.steps = steps
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> MixtureEstimator:
        X = torch.tensor(validate_data(self, X, dtype=np.float64, ensure_min_samples=2))
        generator = torch.Generator().manual_seed(self.random_state)
        rows = torch.randperm(len(X), generator=generator)[: self.n_components]
        start = {"loc": X[rows], "scale": (X.std(0) + 0.1).expand(len(rows), -1)}
        self.distribution_ = Mixture(component_distribution=start)
        objective = NegativeLogLikelihood(self.distribution_)
        self.history_ = fit(objective, X, steps=self.steps, lr=0.05, progress=False)
        return self

    def score_samples(self, X: Any) -> Any:
        check_is_fitted(self)
        X = torch.tensor(validate_data(self, X, dtype=np.float64, reset=False))
        with torch.no_grad():
            return self.distribution_.log_prob(X).numpy()

    def score(self, X: Any, y: Any = None) -> float:
        return float(self.score_samples(X).mean())


@pytest.fixture(scope="module")
def blobs() -> Any:
    centers = [[-3.0, 0.0], [3.0, 0.0], [0.0, 4.0]]
    return make_blobs(300, centers=centers, cluster_std=0.7, random_state=0)[0]


CHECKS = list(estimator_checks_generator(MixtureEstimator(steps=3), mark="skip"))


@pytest.mark.filterwarnings("ignore:Skipping check")
@pytest.mark.parametrize(
    ("estimator", "check"), CHECKS, ids=[check.func.__name__ for _, check in CHECKS]
)
def test_the_checks_of_sklearn(estimator: Any, check: Any) -> None:
    check(estimator)


def test_it_finds_what_sklearns_own_finds(blobs: Any) -> None:
    own = MixtureEstimator(3, random_state=1).fit(blobs)
    other = GaussianMixture(3, covariance_type="diag", random_state=0).fit(blobs)
    assert own.score(blobs) == pytest.approx(other.score(blobs), abs=0.01)


def test_a_clone_is_not_fitted_and_fits_alike(blobs: Any) -> None:
    estimator = MixtureEstimator(2, steps=5).fit(blobs)
    copy = clone(estimator)
    assert copy.get_params() == {"n_components": 2, "steps": 5, "random_state": 0}
    assert not hasattr(copy, "distribution_")
    assert copy.fit(blobs).score(blobs) == estimator.score(blobs)


def test_a_grid_search_finds_the_number_of_components(blobs: Any) -> None:
    search = GridSearchCV(
        MixtureEstimator(steps=100, random_state=1), {"n_components": [1, 2, 3]}, cv=3
    ).fit(blobs)
    assert search.best_params_ == {"n_components": 3}
    assert search.score_samples(blobs).shape == (300,)

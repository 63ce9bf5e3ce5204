"""The example of survival times reaches the maximum of a likelihood by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from tests.running_examples import example

module = example("survival")


def test_left_and_interval_censoring_reach_the_maximum_by_hand() -> None:
    features, pairs = module.released_prisoners()
    known = module.asked_each_quarter(pairs)
    kinds = {(low == -np.inf, high == np.inf) for low, high in known.tolist()}
    assert kinds == {(True, False), (False, False), (False, True)}
    _, log_likelihood = module.maximum_likelihood(features, known)
    standard = ((features - features.mean(0)) / features.std(0)).numpy()
    design = np.column_stack([np.ones(len(known)), standard])
    low, high = known.clamp(0.0).numpy().T

    def loss(numbers: np.ndarray) -> float:
        scale, shape = np.exp(design @ numbers[1:]), np.exp(numbers[0])
        masses = np.exp(-((low / scale) ** shape)) - np.exp(-((high / scale) ** shape))
        return -float(np.log(masses).sum())

    start = np.array([0.3, 4.0, *np.zeros(7)])
    with np.errstate(divide="ignore"):
        by_hand = minimize(loss, start, method="BFGS")
    assert log_likelihood == pytest.approx(-by_hand.fun, abs=1e-5)

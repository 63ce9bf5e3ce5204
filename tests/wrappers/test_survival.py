"""The example of survival times: lifelines' numbers, and those of a likelihood by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from tests.running_examples import EXAMPLES, example

module = example("survival")


def test_right_censoring_reaches_what_lifelines_publishes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    module.main(smoke=True)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "In weeks: log likelihood -679.917, log shape 0.339"
    found = [float(line.split(": ")[1].split()[0]) for line in printed[1:]]
    # The coefficients of lifelines' WeibullAFTFitter, in the order of the columns.
    np.testing.assert_allclose(found, [0.272, 0.041, -0.225, 0.107, 0.311, 0.059, -0.066], 0, 6e-4)


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


def test_the_example_says_how_to_run_it_and_is_short() -> None:
    text = (EXAMPLES / "survival.py").read_text()
    assert "    python examples/survival.py\n" in text
    assert text.count("\n") < 100

"""Simulation-based calibration: ranks are uniform for a right posterior, and only for that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from declarative_dist import FullRankNormal, MeanFieldNormal
from tests.running_examples import example

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("kind", "is_right"), [(FullRankNormal, True), (MeanFieldNormal, False)])
def test_ranks_of_a_conjugate_model(kind: Any, is_right: bool) -> None:
    """A guide of a conditioned joint begins as the Gaussian nearest to it, here exact."""
    calibration = example("calibration")
    torch.manual_seed(5)
    truth = calibration.Line().sample((300,))
    guide = kind(calibration.Line(batch_shape=300).condition(y=truth["y"]))
    draws = guide.sample((calibration.DRAWS,))
    for name in ("intercept", "slope"):
        counts = calibration.count_ranks(draws, truth, name)
        assert counts.sum() == 300
        p = chisquare(counts).pvalue
        assert p > 0.005 if is_right else p < 1e-20

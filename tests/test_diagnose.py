"""Whether a guide is any good: Pareto k-hat against known tails, exports, bad input."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import arviz
import numpy as np
import pytest
import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist import (
    ConstraintError,
    DeclarationError,
    Declarative,
    MeanFieldNormal,
    NonFiniteError,
    Param,
    Positive,
    diagnose,
    learnable,
)
from declarative_dist.integrations.arviz import to_inference_data
from declarative_dist.latents.ladder import rung_of_weights
from declarative_dist.posteriors.diagnosis import Diagnosis


class Line(Declarative):
    x = Param(0.0)


def gaussian(deviation: float) -> Callable[[dict[str, Tensor]], Tensor]:
    return lambda values: dd.Normal(0.0, deviation).log_prob(values["x"])


@pytest.fixture
def guide() -> MeanFieldNormal:
    return MeanFieldNormal(Line(), init_scale=1.0)


def test_an_exact_guide(guide: MeanFieldNormal) -> None:
    found = diagnose(guide, lambda values: gaussian(1.0)(values) + 7.0, 1000)
    assert found.khat < 0.1
    assert found.effective_sample_size == pytest.approx(1000.0, rel=1e-3)
    assert found.is_reliable
    assert found.threshold == 0.6
    assert diagnose(guide, gaussian(1.0), 100).threshold == pytest.approx(0.5)
    assert found.verdict.startswith("good: means off by up to ")
    assert "Weighted draws: " in found.verdict
    assert "A mode that no draw and no start has visited would not show." in found.verdict


@pytest.mark.parametrize("deviation", [1.2, 2.0, 10.0])
def test_the_shape_of_known_tails(guide: MeanFieldNormal, deviation: float) -> None:
    """The ratio of normals of deviations s and 1 has tail index 1 - 1 / s**2."""
    found = diagnose(guide, gaussian(deviation), 20_000)
    assert found.khat == pytest.approx(1 - deviation**-2, abs=0.15)
    assert found.is_reliable == (deviation < 1.5)


def test_a_guide_that_misses_the_target(guide: MeanFieldNormal) -> None:
    found = diagnose(guide, lambda v: dd.StudentT(1.0, 40.0, 1.0).log_prob(v["x"] * 10), 2000)
    assert not found.is_reliable or found.effective_sample_size < 500
    far = diagnose(guide, lambda v: dd.Normal(8.0, 1.0).log_prob(v["x"]), 2000)
    assert far.effective_sample_size < 20


@pytest.mark.parametrize(
    ("shift", "stretch", "weighted", "said"),
    [
        (0.1, 0.05, "good: so.", "good: means off by up to 0.1 sd, sds by 5%."),
        (0.3, 0.05, "good: so.", "usable, not good: means off by up to 0.3 sd, sds by 5%; use w"),
        (0.0, 0.35, "good: so.", "usable, not good: means off by up to 0 sd, sds by 35%; use we"),
        (12.0, 0.9, "usable, not good: so.", "unreliable: means off by up to 12 sd, sds by 90%; "),
        (0.0, 0.0, "unreliable: so.", "unreliable: means off by up to 0 sd, sds by 0%; trust nei"),
        (math.nan, 0.0, "good: so.", "unreliable: means off by up to nan sd"),
        (math.inf, 0.0, "good: so.", "unreliable: means off by up to inf sd"),
    ],
)
def test_plain_draws_are_judged_beside_weighted_ones(
    shift: float, stretch: float, weighted: str, said: str
) -> None:
    found = Diagnosis(0.1, 0.6, 4000.0, 4000, shift, stretch, weighted)
    assert found.verdict.startswith(said)
    assert found.verdict.endswith(f" Weighted draws: {weighted}")
    assert str(found) == f"Plain draws: {found.verdict}"
    assert found.is_reliable is not said.startswith("unreliable")


@pytest.mark.parametrize(
    ("k_hat", "share", "count", "step"),
    [(0.1, 0.8, 1000, 0), (0.1, 0.05, 1000, 2), (0.55, 0.8, 1000, 1), (0.65, 0.5, 1000, 2),
     (0.4, 0.5, 30, 2), (0.8, 0.95, 4000, 1), (math.nan, 0.5, 4000, 2)],
)  # fmt: skip
def test_one_ladder_for_weights(k_hat: float, share: float, count: int, step: int) -> None:
    """The shape of a tail knows no scale, so of ratios that are almost equal it is no alarm."""
    assert rung_of_weights(k_hat, share * count, count) == step


@pytest.mark.parametrize("deviation", [1.0, 1.25, 1.4, 3.0])
def test_both_verdicts_stand_on_one_ladder(guide: MeanFieldNormal, deviation: float) -> None:
    """Of a distribution of any kind, too; its own weighted draws are all there is to compare."""
    target = dd.Normal(0.0, deviation)
    found = diagnose(dd.Normal(0.0, 1.0), target, 20_000)
    off = 1 - 1 / deviation  # of the deviation, in closed form
    expected = "good" if off < 0.15 else "usable, not good"
    expected = "unreliable" if off > 0.4 else expected
    assert found.verdict.startswith(expected)
    assert diagnose(guide, gaussian(deviation), 20_000).verdict.startswith(expected)


def test_it_agrees_with_arviz_by_hand(guide: MeanFieldNormal) -> None:
    torch.manual_seed(3)
    found = diagnose(guide, gaussian(1.5), 500)
    torch.manual_seed(3)
    x = torch.randn(500, 1)[:, 0]
    ratio = dd.Normal(0.0, 1.5).log_prob(x) - dd.Normal(0.0, 1.0).log_prob(x)
    smoothed, khat = arviz.psislw(ratio.double().numpy())
    assert found.khat == pytest.approx(float(khat), rel=1e-3)
    weights = np.exp(smoothed) / np.exp(smoothed).sum()
    assert found.effective_sample_size == pytest.approx(1 / (weights**2).sum(), rel=1e-3)


def test_the_worst_of_independent_copies() -> None:
    guide = MeanFieldNormal(Line(batch_shape=(2,)), init_scale=1.0)
    found = diagnose(
        guide, lambda v: dd.Normal(0.0, torch.tensor([1.0, 3.0])).log_prob(v["x"]), 5000
    )
    assert found.khat == pytest.approx(1 - 1 / 9, abs=0.15)


def test_live_and_plain_distributions() -> None:
    target = dd.Gamma(3.0, 2.0)
    assert diagnose(learnable(dd.Gamma(3.0, 2.0)), target).khat < 0.1
    assert diagnose(dd.Gamma(3.0, 2.0), target.log_prob).khat < 0.1


def test_draws_that_are_no_numbers(guide: MeanFieldNormal) -> None:
    with pytest.raises(NonFiniteError, match="NaN or infinity at .* of 100"):
        diagnose(guide, lambda v: v["x"].log(), 100)
    with pytest.raises(NonFiniteError, match="The target's support excludes the draws"):
        diagnose(guide, lambda v: torch.full_like(v["x"], -math.inf), 100)
    half = diagnose(guide, lambda v: torch.where(v["x"] > 0, 0.0, -math.inf), 400)
    assert half.effective_sample_size < 250


@pytest.mark.parametrize("count", [0, 24, -1, 100.0, True, None])
def test_bad_counts(guide: MeanFieldNormal, count: Any) -> None:
    with pytest.raises(ConstraintError, match=r"diagnose\(num_samples=\): expected an int, 25"):
        diagnose(guide, gaussian(1.0), count)


def test_bad_arguments(guide: MeanFieldNormal) -> None:
    with pytest.raises(DeclarationError, match=r"diagnose\(guide\)"):
        diagnose(Line(), gaussian(1.0))
    with pytest.raises(DeclarationError, match=r"diagnose\(log_joint\)"):
        diagnose(guide, 3.0)
    with pytest.raises(ConstraintError, match="log_joint: expected log densities of shape"):
        diagnose(guide, lambda v: gaussian(1.0)(v).sum())


def test_export() -> None:
    class Latents(Declarative):
        scale = Param([1.0, 2.0, 3.0], Positive())
        loc = Param(0.0, trainable=True)

    data = to_inference_data(MeanFieldNormal(Latents()), 40, num_chains=2)
    assert data.posterior["scale"].dims[:2] == ("chain", "draw")
    assert data.posterior["scale"].shape == (2, 40, 3)
    draws = {"loc": torch.randn(2, 40, requires_grad=True), "m": torch.zeros(2, 40, 2, 2)}
    data = to_inference_data(draws, has_chains=True)
    assert np.array_equal(data.posterior["loc"].values, draws["loc"].detach().numpy())
    assert to_inference_data({"loc": torch.zeros(40).bfloat16()}).posterior["loc"].shape == (1, 40)
    assert arviz.summary(data, var_names=["loc"], kind="stats")["mean"].iloc[0] == pytest.approx(
        draws["loc"].mean().item(), abs=0.01
    )


def test_lists_keep_their_digits() -> None:
    seconds = [1609459230.0, 1609459231.0]
    assert to_inference_data({"t": seconds}).posterior["t"].values.tolist() == [seconds]


def test_bad_exports() -> None:
    with pytest.raises(ConstraintError, match=r"to_inference_data.b: expected shape \(draw,"):
        to_inference_data({"a": torch.zeros(3), "b": torch.zeros(4)})
    with pytest.raises(ConstraintError, match=r"\(chain, draw, \*event\)"):
        to_inference_data({"a": torch.zeros(3)}, has_chains=True)
    with pytest.raises(DeclarationError, match="a guide, weighted draws, or a dict of draws"):
        to_inference_data(3.0)


def test_without_arviz(guide: MeanFieldNormal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError) as caught:
        to_inference_data(guide)
    assert str(caught.value) == 'ArviZ is needed here: pip install "declarative-dist[diagnose]"'


@pytest.mark.parametrize("given", [{"num_samples": 0}, {"num_samples": 5, "num_chains": -1}])
def test_counts_of_draws_are_checked(given: dict[str, int]) -> None:
    class One(Declarative):
        x = Param(0.5)

    with pytest.raises(ConstraintError, match=r"to_inference_data\(num_\w+=\): expected an int"):
        to_inference_data(MeanFieldNormal(One()), **given)

"""What plain torch builds and scores at any scale, `learnable` takes and scores the same."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist import ConstraintError, Param, Positive, Variational, learnable
from declarative_dist.plain.decompose import recover
from tests.cases import PLAIN

SCALES = {
    torch.float32: [10.0**power for power in (-30, -20, -12, *range(-6, 7), 12, 20, 30)],
    torch.float64: [10.0**power for power in (-300, -160, -40, *range(-8, 9, 2), 40, 160, 300)],
}
MATRICES = ("scale_tril", "covariance_matrix", "precision_matrix")
SKIPPED = ("Independent", "MixtureSameFamily", "TransformedDistribution", "VonMises")
"""Parts are tried by themselves; torch's sampler of VonMises does not end at large scales."""


def scaled(name: str, dtype: torch.dtype) -> Iterator[tuple[str, float, dd.Distribution, Tensor]]:
    """A distribution with one argument times each scale, and data of its own that it can score."""
    kind, plain = recover(PLAIN[name]())
    values = {
        key: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for key, value in plain.items()
    }
    for key, value in values.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        for scale in SCALES[dtype]:
            try:
                built = kind(**{**values, key: value * scale}, validate_args=True)
                data = built.sample((7,))
                is_scored = built.log_prob(data).isfinite().all()
            except (ValueError, RuntimeError):  # torch's own refusal
                continue
            if is_scored:
                yield key, scale, built, data


def is_at_edge(key: str, built: dd.Distribution) -> bool:
    """Whether a probability has been rounded to 0 or 1, which no map of raw numbers reaches."""
    value = getattr(built, key)
    return key == "probs" and bool(((value <= 0) | (value >= 1)).any())


@pytest.mark.parametrize("dtype", SCALES, ids=str)
@pytest.mark.parametrize("name", [name for name in PLAIN if name not in SKIPPED])
def test_what_torch_scores_is_learnable_at_every_scale(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", "Singular sample")
    eps = torch.finfo(dtype).eps
    count = 0
    for key, scale, built, data in scaled(name, dtype):
        if is_at_edge(key, built):
            continue
        live = learnable(built)
        value, own = getattr(built, key), getattr(live, key)
        size = value.abs().amax() if key in MATRICES else value.abs()
        assert ((own - value).abs() <= 1e3 * eps * size).all(), (key, scale, own, value)
        wanted, found = built.log_prob(data), live.log_prob(data)
        assert found.isfinite().all()
        if not (key == "total_count" or key.startswith("cov_")):  # terms that cancel
            error = (found - wanted).abs() / (1 + wanted.abs())
            assert (error < 1e5 * eps).all(), (key, scale, wanted, found)
        count += 1
    assert count >= 5 or name == "GeneralizedPareto"  # torch refuses float64 there


@pytest.mark.parametrize("dtype", SCALES, ids=str)
@pytest.mark.parametrize(
    "make",
    [
        lambda dtype: dd.InverseGamma(*torch.tensor([0.001, 0.001], dtype=dtype)),
        lambda dtype: dd.Weibull(*torch.tensor([1, 0.15], dtype=dtype)),
        lambda dtype: dd.Pareto(*torch.tensor([5e7, 1.2], dtype=dtype)),
        lambda dtype: dd.LogNormal(*torch.tensor([0.0, 9.0], dtype=dtype)),
        lambda dtype: dd.LogNormal(*torch.tensor([60.0, 1e-9], dtype=dtype)),
        lambda dtype: dd.StudentT(torch.tensor(0.15, dtype=dtype)),
        lambda dtype: dd.Kumaraswamy(*torch.tensor([0.3, 0.2], dtype=dtype)),
        lambda dtype: dd.LKJCholesky(3, torch.tensor(0.05, dtype=dtype)),
        lambda dtype: dd.Uniform(*torch.tensor([1000.0, 1000.001], dtype=dtype)),
        lambda dtype: dd.MultivariateNormal(
            torch.zeros(2, dtype=dtype),
            scale_tril=torch.tensor([[1.0, 0.0], [1.0, 1e-4]], dtype=dtype),
        ),
    ],
)
def test_vague_and_heavy_families_are_in_the_general_band(make: Any, dtype: torch.dtype) -> None:
    plain = make(dtype)
    kind, values = recover(plain)
    constants = {name: v for name, v in values.items() if not isinstance(v, Tensor)}
    fields = {name: Param(v) for name, v in values.items() if isinstance(v, Tensor)}
    declared = type("Declared", (Variational,), {"base": kind, **constants, **fields})()
    torch.manual_seed(0)
    point = plain.sample()
    for live in (learnable(plain), declared):
        torch.testing.assert_close(
            live.log_prob(point), plain.log_prob(point), rtol=1e-3, atol=1e-3
        )


def test_a_bare_number_outside_of_the_band_is_refused_with_the_band() -> None:
    class Family(Variational):
        base = dd.Gamma
        concentration = Param(1.0)
        rate = Param(1.0, Positive())

    for name in ("concentration", "rate"):
        with pytest.raises(ConstraintError, match=r"in \[1e-18, 1e\+18\]; guard=False widens"):
            Family(**{name: 1e-30})
    live = learnable(dd.Gamma(1e-30, 1.0))
    assert live.concentration.item() == pytest.approx(1e-30)
    live.concentration = 1e-33
    assert type(live) is type(learnable(dd.Gamma(1e-25, 1.0)))
    assert repr(type(learnable(dd.Gamma(1.0, 1.0))).concentration) == "Param(Positive())"

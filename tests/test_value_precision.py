"""Numbers that you give by name or as data keep every digit of the dtype where they are used."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributions as dd
from torch import Tensor, nn

from declarative_dist import (
    Conditional,
    ConstraintError,
    DeclarationError,
    Declarative,
    FullRankNormal,
    GreaterThan,
    Head,
    Interval,
    Joint,
    LessThan,
    LogInterval,
    MeanFieldNormal,
    Param,
    Positive,
    Variational,
    site,
)
from declarative_dist.objectives import NegativeLogLikelihood

NUMBERS = [1609459230.0625, 0.1, 123456789.123]
EXACT = torch.tensor(NUMBERS, dtype=torch.float64)


class Family(Variational):
    base = dd.Normal
    loc = Param(0.3)
    scale = Param(1e8, Positive())


class Times(Joint):
    shift = Family
    counts = dd.Independent(dd.Poisson(torch.full((3,), 1e9)), 1)

    @site(event_dim=1)
    def y(self, shift: Tensor) -> dd.Distribution:
        return dd.Normal(shift[..., None], torch.full((3,), 1e8, dtype=shift.dtype))


class Latents(Declarative):
    times = Param([0.5, 1.0, 2.0], prior=dd.Independent(dd.Normal(torch.zeros(3), 1e8), 1))


class Predicted(Conditional):
    base = dd.Normal
    loc = Head()
    scale = Param(1e8, Positive())


def _posterior() -> Any:
    return Times(dtype=torch.float64).condition(counts=[1, 2, 3], shift=0.25)


def _log_prob_of_a_joint(y: Any) -> Tensor:
    joint = Times(dtype=torch.float64)
    return joint.log_prob({"shift": y[0], "counts": [3, 2, 1], "y": y})


def _loss_of_a_joint(y: Any) -> Tensor:
    joint = Times(dtype=torch.float64)
    return NegativeLogLikelihood(joint)({"shift": y[0], "counts": [3, 2, 1], "y": y})


def _between(constraint: Interval) -> Tensor:
    class Between(Declarative):
        value = Param(
            EXACT / 2 if isinstance(constraint, LogInterval) else EXACT * 1.5, constraint
        )

    return Between(dtype=torch.float64).value


WAYS: dict[str, Callable[[Any], Tensor]] = {
    "condition": lambda y: Times(dtype=torch.float64).condition(y=y).observed["y"],
    "conditioned": lambda y: _posterior()({"y": y}),
    "joint": _log_prob_of_a_joint,
    "snapshot of a joint": lambda y: Times(dtype=torch.float64)().log_prob(
        {"shift": y[0], "counts": [3, 2, 1], "y": y}
    ),
    "unconstrain": lambda y: _posterior().unconstrained_log_density().unconstrain({"y": y}),
    "mean-field guide": lambda y: MeanFieldNormal(Latents().double()).log_prob({"times": y}),
    "full-rank guide": lambda y: FullRankNormal(Latents(), dtype=torch.float64).log_prob(
        {"times": y}
    ),
    "guide of a joint": lambda y: MeanFieldNormal(_posterior(), init_scale=0.1).log_prob({"y": y}),
    "guide in another dtype": lambda y: MeanFieldNormal(Latents()).double().log_prob({"times": y}),
    "bounds": lambda y: _between(Interval(y, 2 * EXACT)),
    "other bounds": lambda y: _between(LogInterval(EXACT / 3, y)),
    "log_prior": lambda y: Latents(dtype=torch.float64).log_prior({"times": y}),
    "likelihood": lambda y: NegativeLogLikelihood(Family(dtype=torch.float64))(y),
    "likelihood of a joint": _loss_of_a_joint,
    "likelihood of a conditional": lambda y: NegativeLogLikelihood(
        _zeroed(Predicted(in_features=1, dtype=torch.float64))
    )(torch.ones(3, 1, dtype=torch.float64), y),
}

KINDS: dict[str, Callable[[list[float]], Any]] = {
    "list": list,
    "NumPy scalars": lambda numbers: [np.float64(number) for number in numbers],
    "array": np.array,
    "series": pd.Series,
    "decimals": lambda numbers: [Decimal(repr(number)) for number in numbers],
    "tensors": lambda numbers: [torch.tensor(n, dtype=torch.float64) for n in numbers],
}


def _zeroed(module: Predicted) -> Predicted:
    for parameter in module.projection.parameters():
        nn.init.zeros_(parameter)
    return module


@pytest.mark.parametrize(
    ("constraint", "start"),
    [
        (Interval(0.1, 0.3), 0.2),
        (GreaterThan(0.1), 1.1),
        (LessThan(0.1), -0.9),
        (LogInterval(0.1, 0.3), math.sqrt(0.03)),
        (Positive(floor=0.1), 1.1),
        (dd.AffineTransform(0.1, 1.0), 0.1),
    ],
    ids=str,
)
def test_a_default_start_has_all_digits(constraint: Any, start: float) -> None:
    class Started(Declarative):
        value = Param(constraint=constraint)

    assert math.isclose(Started(dtype=torch.float64).value.item(), start, rel_tol=1e-15)


@pytest.mark.parametrize(
    ("way", "kind"),
    [(w, kind) for w in WAYS for kind in ("list", "series")] + [("joint", kind) for kind in KINDS],
)
def test_no_digit_is_lost(way: str, kind: str) -> None:
    torch.manual_seed(0)
    found = WAYS[way](KINDS[kind](NUMBERS)).detach()
    torch.manual_seed(0)
    expected = WAYS[way](EXACT).detach()
    assert found.dtype == torch.float64
    assert torch.equal(found, expected)


def test_counts_and_labels_are_like_draws() -> None:
    class Labelled(Joint):
        table = torch.tensor([0.0, 5.0])
        label = dd.Categorical(torch.tensor([0.5, 0.5]))
        flag = dd.Bernoulli(torch.tensor(0.5))
        count = dd.Poisson(torch.tensor(1e9))

        @site
        def y(self, label: Tensor, table: Tensor) -> dd.Distribution:
            return dd.Normal(table[label], 1.0)

    joint = Labelled(dtype=torch.float64)
    exact = dd.Poisson(torch.tensor(1e9, dtype=torch.float64))
    for flag in (True, [True][0], torch.tensor(True), 1):
        for count in (10**9, np.int64(10**9), torch.tensor(10**9)):
            values = {"label": 1, "flag": flag, "count": count, "y": 5.0}
            expected = exact.log_prob(torch.tensor(1e9, dtype=torch.float64))
            rest = joint.log_prob({**values, "count": 0}) - exact.log_prob(torch.tensor(0.0))
            torch.testing.assert_close(joint.log_prob(values), rest + expected, rtol=1e-6, atol=0)
    assert joint.condition(label=1).observed["label"].dtype == torch.int64
    data = {"label": [0, 1], "flag": [0, 1], "count": [1, 2], "y": [0.0, 5.0]}
    tensors = {name: torch.tensor(values) for name, values in data.items()}
    tensors["y"] = tensors["y"].double()
    one, other = (NegativeLogLikelihood(joint)(each) for each in (data, tensors))
    assert torch.equal(one, other)


@pytest.mark.parametrize("value", ["text", None, 1j, [1.0, [2.0]], torch.ones(2).to_sparse()])
def test_what_is_no_number_is_refused_by_name(value: Any) -> None:
    joint, guide = Times(), MeanFieldNormal(Latents())
    with pytest.raises(ConstraintError, match=r"Times.condition\(shift=\): expected numbers"):
        joint.condition(shift=value)
    with pytest.raises(ConstraintError, match=r"Times.shift: expected numbers"):
        joint.log_prob({"shift": value, "counts": [1, 2, 3], "y": NUMBERS})
    with pytest.raises(ConstraintError, match=r"Latents.times: expected numbers"):
        guide.log_prob({"times": value})
    with pytest.raises(ConstraintError, match=r"\(Family\): expected "):
        NegativeLogLikelihood(Family())(value)


@pytest.mark.parametrize("value", [["a"], [1j, 2.0], np.ma.array([1.0, 2.0], mask=True)])
def test_bounds_that_are_no_numbers_are_refused_by_name(value: Any) -> None:
    with pytest.raises(DeclarationError, match=r"Interval\(low=\): expected real numbers"):
        Interval(value, 3.0)


def test_a_label_is_no_fraction() -> None:
    class Labelled(Joint):
        label = dd.Categorical(torch.ones(2))

    with pytest.raises(ConstraintError, match=r"condition\(label=\): .*int64"):
        Labelled().condition(label=0.5)

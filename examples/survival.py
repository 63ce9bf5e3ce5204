"""When are released prisoners arrested again? Weibull regression with censored times.

432 men were watched for a year after their release (`examples/data/README.md` names the source).
114 were arrested, in a week that is known; of the others one knows only that it was not within 52
weeks. Each datum is a pair (lower, upper) of what is known: (20, 20) an arrest in week 20,
(52, inf) none until week 52. The scale of a Weibull distribution is predicted from seven features,
its shape is the same for all.

Maximum likelihood reaches -679.917, with a log shape of 0.339, as lifelines' `WeibullAFTFitter`
does. If you had asked at the end of each quarter only, you would have intervals: up to week 13,
between 13 and 26, and so on. The same model learns from these too, and loses little. With
`--smoke` it stops after the first fit.

    python examples/survival.py
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist import Conditional, Exp, Head, Param, fit
from declarative_dist.objectives import NegativeLogLikelihood
from declarative_dist.wrappers import Censored

DATA = Path(__file__).parent / "data" / "rossi.csv"
FEATURES = ("financial aid", "age", "race", "work", "married", "parole", "convictions")


class Lifetime(Conditional):
    """The time until an event, faster or slower by what is known of a person."""

    base = dd.Weibull
    scale = Head(Exp())
    concentration = Param(1.0, Exp())


class Observed(Conditional):
    """What is known of that time: pairs of a lower and an upper end."""

    base = Censored
    base_distribution = Lifetime


def released_prisoners() -> tuple[Tensor, Tensor]:
    """Features, of shape `(432, 7)`, and pairs of weeks, of shape `(432, 2)`."""
    with DATA.open() as file:
        rows = [[float(number) for number in row] for row in list(csv.reader(file))[1:]]
    table = torch.tensor(rows, dtype=torch.float64)
    week, is_arrested = table[:, 0], table[:, 1] == 1
    return table[:, 2:], torch.stack([week, week.where(is_arrested, torch.inf)], -1)


def asked_each_quarter(pairs: Tensor) -> Tensor:
    """The intervals that are left of pairs if you ask at the end of each quarter only."""
    lower, upper = pairs.unbind(-1)
    end = (lower / 13).ceil() * 13
    start = (end - 13).where(end > 13, -torch.inf)
    is_seen = lower == upper
    return torch.stack([start.where(is_seen, lower), end.where(is_seen, upper)], -1)


def maximum_likelihood(features: Tensor, pairs: Tensor) -> tuple[Observed, float]:
    """The fitted model, and the log likelihood of all data."""
    torch.manual_seed(0)
    model = Observed(in_features=features.shape[1], dtype=torch.float64)
    history = fit(NegativeLogLikelihood(model), (features, pairs), progress=False)
    return model, -history.losses[-1] * len(pairs)


def main(smoke: bool = False) -> None:
    """Fit arrests in weeks, and arrests in quarters."""
    features, pairs = released_prisoners()
    asked = {"weeks": pairs} if smoke else {"weeks": pairs, "quarters": asked_each_quarter(pairs)}
    for name, known in asked.items():
        model, log_likelihood = maximum_likelihood(features, known)
        lifetime: Any = model.base_distribution
        shape = lifetime.concentration.log().item()
        print(f"In {name}: log likelihood {log_likelihood:.3f}, log shape {shape:.3f}")
        for feature, weight in zip(FEATURES, lifetime.projection.weight[0].tolist(), strict=True):
            print(f"  one more of {feature}: {weight:+.3f} in log time")


if __name__ == "__main__":
    main("--smoke" in sys.argv)

"""The record of a fit: what it keeps, how long, and under which names."""

from __future__ import annotations

import io
import json

import pytest
import torch
import torch.distributions as dd
from torch import nn

from declarative_dist import (
    Declarative,
    Exp,
    GreaterThan,
    MeanFieldNormal,
    NonFiniteError,
    Param,
    Positive,
    fit,
)
from declarative_dist.fitting import History
from declarative_dist.objectives import NegativeELBO
from tests.cases import GammaFamily


class Pair(Declarative):
    low = Param(1.0, Exp())
    high = Param(2.0, GreaterThan("low"))
    weights = Param(torch.zeros(2, 3))
    large = Param(torch.zeros(101))
    frozen = Param(1.0, trainable=False)
    part = GammaFamily(rate=3.0)

    def forward(self):
        tensors = (self.low, self.high, self.weights, self.large, self.part.mean)
        return sum((tensor**2).sum() for tensor in tensors)


def test_values_are_those_after_each_step_under_dotted_names() -> None:
    seen = []

    def look(step, loss, module):
        kept = module.constrained_values()
        rate = kept["part"]["rate"]
        seen.append((kept["high"].item(), kept["weights"].tolist(), rate.item()))

    history = fit(Pair(), steps=5, callbacks=look)
    assert history.steps == [1, 2, 3, 4, 5]
    assert list(history.values) == ["low", "high", "weights", "part.concentration", "part.rate"]
    values = history.values
    assert seen == list(zip(values["high"], values["weights"], values["part.rate"], strict=True))


def test_names_begin_with_the_path_in_the_objective() -> None:
    class Objective(nn.Module):
        def __init__(self):
            super().__init__()
            self.guides = nn.ModuleList([GammaFamily(), GammaFamily()])
            self.net = nn.Linear(1, 1)

        def forward(self):
            return sum(guide.mean for guide in self.guides) + self.net.weight.sum() ** 2

    history = fit(Objective(), steps=2)
    fields = ("concentration", "rate")
    assert list(history.values) == [f"guides.{n}.{field}" for n in (0, 1) for field in fields]


def test_a_long_record_is_thinned_the_same_way_for_any_length() -> None:
    history = History()
    for step in range(1, 100_001):
        due = history.is_due(step)
        history.add(float(step), {"x": step} if due else None)
    assert len(history.losses) == 100_000
    assert history.values["x"] == history.steps
    spaces = [range(first, 2 * first, first // 16) for first in (32 << n for n in range(12))]
    every = [*range(1, 32), *(step for steps in spaces for step in steps)]
    assert history.steps == [step for step in every if step <= 100_000]
    assert len(history.steps) < 250


def test_a_step_that_was_not_finished_leaves_nothing() -> None:
    history = History()
    history.add(1.0, {"x": 1})
    history._records[2] = {"x": 2}  # the interruption comes here
    assert history.steps == [1]
    assert history.values == {"x": [1]}
    history.add(0.5, {"x": 3})
    assert history.steps == [1, 2]
    assert history.values == {"x": [1, 3]}


def test_to_dict_is_json() -> None:
    told = fit(Off(), steps=3).to_dict()
    assert json.loads(json.dumps(told)) == told
    names = "losses steps values interrupted stopped converged verdict"
    assert set(told) == set(names.split())


def test_state_survives_a_file_exactly() -> None:
    history = History()
    for step in range(1, 3001):
        due = history.is_due(step)
        history.add(1.0 / step, {"x": [step / 3, 0.1]} if due else None)
    buffer = io.BytesIO()
    torch.save(history.state_dict(), buffer)
    buffer.seek(0)
    loaded = History()
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    for step in range(3001, 5001):
        for one in (history, loaded):
            due = one.is_due(step)
            one.add(1.0 / step, {"x": [step / 3, 0.1]} if due else None)
    assert loaded.to_dict() == history.to_dict()


class Off(nn.Module):
    def __init__(self):
        super().__init__()
        self.q = GammaFamily()

    def forward(self):
        return (self.q.mean - 2.0) ** 2


@pytest.mark.parametrize("end", ["interrupted", "stopped", "rate"])
def test_repr_is_short(end: str) -> None:
    history = fit(Off(), steps=2)
    history.interrupted, history.stopped = end == "interrupted", end == "stopped"
    assert repr(history).startswith("History(2 steps, loss 1 to ")
    assert repr(history).endswith(f"{end}): 2 steps, too few to tell")
    assert repr(History()) == "History(0 steps)"
    assert repr(fit(Off(), steps=1)).endswith("): 1 step, too few to tell")


@pytest.mark.parametrize("steps", [3, 201])
def test_the_last_value_is_that_of_the_module(steps: int) -> None:
    objective = Off()
    history = fit(objective, steps=steps)
    assert history.steps[-1] == steps
    assert history.values["rate"][-1] == objective.q.rate.item()
    assert len(history.steps) == len(set(history.steps)) <= 102


class Latents(Declarative):
    slope = Param(torch.zeros(2))
    spread = Param(1.0, Positive())
    weights = Param(torch.zeros(101))


def log_joint(draw: dict[str, torch.Tensor]) -> torch.Tensor:
    slope = dd.Normal(3.0, 0.1).log_prob(draw["slope"]).sum(-1)
    rest = dd.Normal(0.0, 1.0).log_prob(draw["weights"]).sum(-1)
    return slope + rest + dd.Gamma(2.0, 2.0).log_prob(draw["spread"])


def test_values_of_a_guide_are_its_medians_by_site() -> None:
    objective = NegativeELBO(log_joint, MeanFieldNormal(Latents()))
    history = fit(objective, steps=20, lr=0.05)
    assert list(history.values) == ["slope", "spread"]
    medians = objective.guide.median
    assert history.values["slope"][-1] == medians["slope"].tolist()
    assert history.values["spread"][-1] == medians["spread"].item()
    assert len(history.values["spread"]) == 20


@pytest.mark.parametrize(("raw", "at"), [("raw_loc", 2), ("raw_scale", 1)])
def test_a_bad_number_of_a_guide_names_its_site(raw: str, at: int) -> None:
    objective = NegativeELBO(log_joint, MeanFieldNormal(Latents()))
    with torch.no_grad():
        getattr(objective.guide, raw)[at] = torch.nan
    site = "spread" if at == 2 else "slope"
    with pytest.raises(NonFiniteError, match=rf"MeanFieldNormal\.{site}: .*{raw}\[{at}\] = nan"):
        fit(objective, steps=3)

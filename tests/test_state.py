"""Saved states: what they carry, and what refuses to be loaded."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.distributions as dd
from torch import nn

from declarative_dist import (
    Exp,
    GreaterThan,
    Interval,
    Param,
    Positive,
    StateMismatchError,
    Variational,
    learnable,
)
from tests.cases import GammaFamily


class OtherMap(Variational):
    base = dd.Gamma
    concentration = Param(1.0, Positive())
    rate = Param(1.0, Positive())


class Between(Variational):
    base = dd.Normal
    loc = Param(0.5, Interval(torch.tensor(0.0), torch.tensor(1.0)))
    scale = Param(2.0, GreaterThan(1.0))


class BetweenOthers(Variational):
    base = dd.Normal
    loc = Param(0.5, Interval(torch.tensor(0.0), torch.tensor(1.0)))
    scale = Param(2.0, GreaterThan(0.5))


def test_names_are_raw_names() -> None:
    assert list(GammaFamily().state_dict()) == ["raw_concentration", "raw_rate"]
    assert sorted(Between().state_dict()) == [
        "raw_loc",
        "raw_loc_constraint.high",
        "raw_loc_constraint.low",
        "raw_scale",
    ]


def test_another_constraint_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(GammaFamily(rate=3.0).state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    other = OtherMap(rate=7.0)
    with pytest.raises(StateMismatchError) as caught:
        other.load_state_dict(state)
    assert caught.value.sentence == (
        "OtherMap.rate: expected a state saved under Positive(), got one saved under Exp(). "
        "Load it into the class that saved it and carry the values over: "
        "new.assign(**old.constrained_values())."
    )
    assert other.rate.item() == pytest.approx(7.0)
    old = GammaFamily()
    old.load_state_dict(state)
    other.assign(**old.constrained_values())
    assert other.rate.item() == pytest.approx(3.0)


def test_another_number_bound_is_refused() -> None:
    with pytest.raises(StateMismatchError, match="BetweenOthers.scale"):
        BetweenOthers().load_state_dict(Between().state_dict())


def test_metadata_survives_nesting_and_its_loss_is_tolerated() -> None:
    model = nn.Sequential(nn.ModuleDict({"q": GammaFamily()}))
    other = nn.Sequential(nn.ModuleDict({"q": OtherMap()}))
    with pytest.raises(StateMismatchError, match="OtherMap.rate"):
        other.load_state_dict(copy.deepcopy(model.state_dict()))
    other.load_state_dict(dict(model.state_dict()))  # without metadata: as safetensors saves it


def test_metadata_holds_no_class_paths() -> None:
    metadata = Between().state_dict()._metadata[""]["constraints"]
    assert metadata["scale"] == "GreaterThan(low=1.0)"
    assert not any("declarative_dist" in text for text in metadata.values())


def test_missing_and_foreign_keys_as_in_torch() -> None:
    q = GammaFamily()
    with pytest.raises(RuntimeError, match='Missing key.*"raw_rate"'):
        q.load_state_dict({"raw_concentration": torch.tensor(0.0)})
    with pytest.raises(RuntimeError, match='Unexpected key.*"foreign"'):
        q.load_state_dict({**q.state_dict(), "foreign": torch.tensor(0.0)})
    with pytest.raises(RuntimeError, match="size mismatch for raw_rate"):
        q.load_state_dict({**q.state_dict(), "raw_rate": torch.zeros(2)})


def test_tensor_bounds_are_loaded() -> None:
    old, new = Between(), Between()
    old.raw_loc_constraint.high.fill_(2.0)
    new.load_state_dict(old.state_dict())
    assert new.loc.item() == pytest.approx(1.0)


def test_instances_share_nothing() -> None:
    one, two = Between(), Between()
    one.raw_loc_constraint.high.fill_(2.0)
    one.loc = 1.5
    assert two.loc.item() == pytest.approx(0.5)


def test_optimizer_state_resumes_the_same_trajectory() -> None:
    def run(q: Variational, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            (-q.log_prob(torch.tensor([1.0, 2.0]))).mean().backward()
            optimizer.step()

    q = GammaFamily()
    optimizer = torch.optim.Adam(q.parameters(), lr=0.1)
    run(q, optimizer, 5)
    other = GammaFamily()
    other_optimizer = torch.optim.Adam(other.parameters(), lr=0.1)
    other.load_state_dict(q.state_dict())
    other_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(q, optimizer, 5)
    run(other, other_optimizer, 5)
    assert torch.equal(q.rate, other.rate)


def test_learnable_classes_are_cached_and_importable() -> None:
    assert learnable(dd.Gamma) is learnable(dd.Gamma)
    assert type(learnable(dd.Gamma(1.0, 2.0))) is type(learnable(dd.Gamma(3.0, 4.0)))


def test_a_state_saved_under_exp_with_another_floor_is_refused() -> None:
    class Floored(Variational):
        base = dd.Gamma
        concentration = Param(1.0, Positive())
        rate = Param(1.0, Exp(floor=0.5))

    with pytest.raises(StateMismatchError, match=r"Exp\(floor=0.5\)"):
        Floored().load_state_dict(GammaFamily().state_dict())

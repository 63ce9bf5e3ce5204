"""States keep their names and shapes, and codes their meaning, through every change inside."""

from __future__ import annotations

import json

import pytest
import torch

from declarative_dist.explain import meanings
from tests.golden import MODULES, STORED, states

GOLDEN = json.loads(STORED.read_text())


def test_states_have_the_names_and_shapes_that_they_had() -> None:
    assert states() == GOLDEN["states"]


@pytest.mark.parametrize("name", GOLDEN["states"])
def test_a_state_of_these_names_and_shapes_loads(name: str) -> None:
    module = MODULES[name]()
    state = module.state_dict()
    for key, shape in GOLDEN["states"][name].items():
        if key.rpartition(".")[2].startswith("raw_"):
            state[key] = torch.zeros(shape, dtype=state[key].dtype)
    module.load_state_dict(state)


def test_codes_mean_what_they_meant() -> None:
    assert meanings() == GOLDEN["codes"]

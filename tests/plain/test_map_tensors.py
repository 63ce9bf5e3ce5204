"""Copies with other tensors hold these and nothing else of the original's tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor, nn

from declarative_dist.plain.tensors import is_same, map_tensors, tensors_of


class Shift(dd.Transform):
    """A transform with a module, as flows have."""

    domain = codomain = dd.constraints.real
    bijective = True

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def _call(self, x: Tensor) -> Tensor:
        return x + self.layer(torch.ones(1))


AFFINE = dd.AffineTransform(torch.tensor(1.0), torch.tensor(2.0))
MADE: dict[str, Any] = {
    "affine": AFFINE,
    "inverse": AFFINE.inv,
    "chain": dd.ComposeTransform([dd.ExpTransform(), dd.IndependentTransform(AFFINE, 0)]),
    "cdf": dd.CumulativeDistributionTransform(dd.Normal(torch.tensor(0.5), torch.tensor(2.0))),
    "module": Shift(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))),
    "normal": dd.Normal(torch.tensor(0.5), torch.tensor(2.0)),
    "read": dd.Bernoulli(logits=torch.tensor(0.5)),
    "squashed": dd.TransformedDistribution(dd.Normal(torch.tensor(0.5), 1.0), [AFFINE]),
}
_ = MADE["read"].probs  # which the distribution remembers


@pytest.mark.parametrize("name", MADE)
def test_all_tensors_are_exchanged_under_the_names_they_are_listed_by(name: str) -> None:
    part = MADE[name]
    before = {key: tensor.clone() for key, tensor in tensors_of(part)}
    asked: dict[str, Tensor] = {}
    new = map_tensors(part, lambda key, tensor: asked.setdefault(key, tensor.detach() + 1))
    assert list(asked) == list(before)
    assert isinstance(new, type(part))
    for key, tensor in tensors_of(new):
        assert tensor is asked[key]
    assert all(torch.equal(tensor, before[key]) for key, tensor in tensors_of(part))


def test_what_a_copy_computes_is_of_its_own_tensors() -> None:
    doubled = map_tensors(MADE["chain"], lambda _, tensor: 2 * tensor)
    assert doubled(torch.tensor(0.0)) == 2 + 4
    detached = map_tensors(dd.Normal(torch.ones(2).requires_grad_(), 1.0), lambda _, t: t.detach())
    assert not detached.log_prob(torch.zeros(2)).requires_grad


def test_a_module_in_two_places_stays_one_also_in_a_circle() -> None:
    outer = nn.Module()
    outer.one = outer.other = nn.Linear(1, 1)
    outer.one.back = outer
    copied = map_tensors(outer, lambda _, tensor: tensor)
    assert copied is not outer
    assert copied.one is copied.other
    assert copied.one is not outer.one
    assert copied.one.back is copied
    assert copied.one.weight is outer.one.weight


class Onto(dd.Transform):
    """A map onto the numbers between zero and an end, which only its codomain says."""

    domain = dd.constraints.real

    def __init__(self, high: float) -> None:
        super().__init__()
        self.codomain = dd.constraints.independent(dd.constraints.interval(0.0, high), 1)


@pytest.mark.parametrize("high", [1.0, 2.0])
def test_maps_onto_other_sets_are_others(high: float) -> None:
    assert is_same(Onto(1.0), Onto(high)) is (high == 1.0)

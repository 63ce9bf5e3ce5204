"""The flat view of a module's trainable numbers, for optimizers outside torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributions as dd
from torch import nn, tensor

from declarative_dist import (
    ConstraintError,
    Declarative,
    Exp,
    Param,
    Simplex,
    learnable,
)
from tests.cases import Policy


class Model(Declarative):
    weights = Param(None, Simplex(), shape=3)
    scale = Param(2.0, Exp())
    fixed = Param(5.0, trainable=False)
    part = learnable(dd.Normal(torch.zeros(2), torch.ones(2)))
    again = part


def test_the_order_is_that_of_the_parameters_without_frozen_ones() -> None:
    q = Model()
    vector = q.to_vector()
    trainable = [p for p in q.parameters() if p.requires_grad]
    assert vector.shape == (2 + 1 + 2 + 2,)
    assert not vector.requires_grad
    assert torch.equal(vector, nn.utils.parameters_to_vector(trainable))
    q.freeze("weights")
    assert q.to_vector().shape == (5,)
    q.unfreeze("fixed")
    assert q.to_vector().shape == (6,)


@pytest.mark.parametrize("make", [
    lambda v: v, lambda v: v.double(), lambda v: v.numpy(), lambda v: v.double().numpy(),
    lambda v: v.numpy().astype(np.float16), lambda v: v.tolist(),
    lambda v: v.numpy()[::-1].copy()[::-1], lambda v: v.clone().requires_grad_(),
])  # fmt: skip
def test_a_vector_is_written_into_the_same_parameters(make: Any) -> None:
    q = Model()
    before = {name: (p, p.data_ptr()) for name, p in q.named_parameters()}
    vector = torch.arange(7.0) / 8 - 0.25
    assert q.from_vector_(make(vector)) is q
    assert torch.equal(q.to_vector(), vector)
    for name, p in q.named_parameters():
        assert before[name] == (p, p.data_ptr())
        assert p.grad_fn is None
    assert torch.equal(q.again.raw_loc, vector[3:5])
    torch.testing.assert_close(q.scale.detach(), vector[2].exp())
    assert q.fixed == 5.0


def test_it_is_a_copy_and_read_only_arrays_are_taken() -> None:
    q = learnable(dd.Normal(0.0, 1.0))
    q.to_vector().fill_(9.0)
    assert q.loc == 0.0
    array = np.array([1.0, 2.0])
    array.flags.writeable = False
    q.from_vector_(array)
    array = np.array([3.0, 4.0])
    q.from_vector_(array)
    array[0] = 8.0
    assert q.loc == 3.0


@pytest.mark.parametrize(("vector", "said"), [
    (torch.zeros(6), r"a vector of 7 real numbers, .*, got shape \(6,\)"),
    (torch.zeros(7, 1), r"shape \(7, 1\)"),
    (tensor(1.0), r"got shape \(\)"),
    (torch.zeros(7, dtype=torch.complex64), "complex numbers"),
    (["a"] * 7, r"a vector of 7 real numbers"),
    (None, r"got None"),
    (torch.full((7,), torch.nan), r"finite numbers"),
    (tensor([0.0] * 6 + [torch.inf]), r"finite numbers"),
    (tensor([0.0] * 6 + [1e300], dtype=torch.float64), r"finite numbers, also in the dtype"),
])  # fmt: skip
def test_another_vector_is_refused_and_changes_nothing(vector: Any, said: str) -> None:
    q = Model()
    before = q.to_vector()
    with pytest.raises(ConstraintError, match=rf"Model\.from_vector_: .*{said}"):
        q.from_vector_(vector)
    assert torch.equal(q.to_vector(), before)


def test_nothing_trainable_is_an_empty_vector() -> None:
    q = Model()
    q.freeze()
    assert q.to_vector().shape == (0,)
    assert q.from_vector_([]) is q


def test_networks_copies_and_dtypes() -> None:
    policy = Policy(in_features=4, actions=1, network=nn.Linear(3, 4))
    assert policy.to_vector().numel() == 1 + 16 + 5
    q = learnable(dd.Gamma)(batch_shape=(2, 3), dtype=torch.float64)
    assert q.to_vector().dtype == torch.float64
    vector = torch.linspace(-1, 1, 12, dtype=torch.float64)
    assert torch.equal(q.from_vector_(vector).raw_rate.flatten(), vector[6:])
    with torch.device("meta"):
        assert learnable(dd.Gamma)().to_vector().is_meta


def test_a_vector_without_numbers_is_refused():
    q = learnable(dd.Normal(0.0, 1.0))
    with pytest.raises(ConstraintError, match="from_vector_"):
        q.from_vector_(torch.empty(2, device="meta"))

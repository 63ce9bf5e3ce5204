"""Choosing among copies and contexts of a joint: what is left is as it was beside the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist import (
    Conditional,
    ConstraintError,
    Exp,
    Given,
    Head,
    Joint,
    LearnableTransform,
    Param,
    Positive,
    derived,
    learnable,
    select,
    site,
)


class Shift(LearnableTransform):
    base = dd.AffineTransform
    loc = Param(0.0)
    scale = Param(1.0, Exp())


class Copies(Joint):
    m = learnable(dd.Normal(0.0, 1.0))
    spread = Param(1.0, Exp())
    weights = Param([1.0, 2.0])
    c = dd.Normal(0.0, 1.0)
    shift = Shift

    @derived
    def total(self, weights: Tensor) -> Tensor:
        return weights.sum(-1)

    @site
    def y(self, m: Tensor, c: Tensor, total: Tensor) -> dd.Distribution:
        return dd.Normal(m + c * total, self.spread)  # read from self

    @site
    def z(self, y: Tensor, shift: Any) -> dd.Distribution:
        return dd.TransformedDistribution(dd.Normal(y, 1.0), [shift])

    @site(event_dim=1, vectorize=True)
    def u(self, y: Tensor, weights: Tensor) -> dd.Distribution:
        return dd.Normal(y + weights.cumsum(0), 1.0)

    @site(shape=(3,))
    def s(self, z: Tensor, spread: Tensor) -> dd.Distribution:
        return dd.Normal(z, spread)


class Speed(Conditional):
    base = dd.Normal
    loc = Head()
    scale = Param(1.0, Exp())


class Contexts(Joint):
    a = Speed
    h = Head(shape=(2,))
    size = Given(Positive())
    bias = Param([0.5, 1.5])

    @derived
    def loc(self, h: Tensor, bias: Tensor) -> Tensor:
        return h + bias

    @site(event_dim=1)
    def y(self, a: Tensor, loc: Tensor, size: Tensor) -> dd.Distribution:
        return dd.Normal(a[..., None] + loc, size[..., None])


MASK = torch.tensor([True, False, True, False])
INDICES: list[tuple[tuple[int, ...], Any]] = [
    ((4,), slice(1, 3)), ((4,), [2, 0, 1, 3]), ((4,), MASK), ((4,), 2), ((4,), -1), ((4,), ...),
    ((2, 3), 1), ((2, 3), (slice(None), [2, 0])), ((2, 3), (1, 2)), ((2, 3), (..., 0)),
    ((2, 3), torch.ones(2, 3).tril() > 0),
]  # fmt: skip


def joints(batch: tuple[int, ...]) -> list[Any]:
    """A live one with copies, and a snapshot of a batch of contexts, with differing numbers."""
    torch.manual_seed(0)
    copies, contexts = Copies(batch_shape=batch), Contexts(in_features=3)
    with torch.no_grad():
        for parameter in copies.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return [copies, contexts(torch.randn(*batch, 3), size=0.5 + torch.rand(batch))]


@pytest.mark.parametrize(("batch", "index"), INDICES)
def test_densities_and_draws_of_what_is_chosen(batch: tuple[int, ...], index: Any) -> None:
    parts = index if isinstance(index, tuple) else (index,)
    for joint in joints(batch):
        values = joint.sample((5,))
        expected = joint.log_prob(values)[(slice(None), *parts)]
        events = {name: value.ndim - 1 - len(batch) for name, value in values.items()}
        for chosen in (select(joint, index), joint[index]):
            assert chosen.batch_shape == expected.shape[1:]
            picked = {
                name: value[(slice(None), *parts, *(slice(None),) * events[name])]
                for name, value in values.items()
            }
            torch.testing.assert_close(chosen.log_prob(picked), expected)
            draws = chosen.rsample((7,))
            for name, draw in draws.items():
                own = values[name].shape[1 + len(batch) :]
                assert draw.shape == (7, *chosen.batch_shape, *own)
                assert draw.requires_grad is (name != "c")


def test_a_given_that_all_contexts_share() -> None:
    joint = Contexts(in_features=3)(torch.randn(4, 3), size=2.0)
    values = joint.sample()
    chosen = joint[1:3].log_prob({name: value[1:3] for name, value in values.items()})
    torch.testing.assert_close(chosen, joint.log_prob(values)[1:3])


def test_a_snapshot_that_is_older_than_an_update() -> None:
    joint = joints((4,))[0]
    snapshot = joint()
    values = snapshot.sample()
    joint.spread = 3.0
    found = snapshot[2].log_prob({name: value[2] for name, value in values.items()})
    torch.testing.assert_close(found, snapshot.log_prob(values)[2])


def test_gradients_reach_what_was_chosen() -> None:
    joint = joints((4,))[0]
    select(joint, 1).rsample()["z"].backward()
    gradient = joint.raw_weights.grad
    assert gradient is not None
    assert gradient[1].abs().min() > 0
    assert (gradient[[0, 2, 3]] == 0).all()


def test_what_cannot_be_chosen() -> None:
    class Shared(Joint):
        mu = learnable(dd.Normal(0.0, 1.0))
        a = Speed

    shared = Shared(in_features=3)(torch.randn(6, 3))
    for ask in (lambda: shared[1:3], lambda: select(shared, 0)):
        with pytest.raises(ConstraintError, match=r"Shared\[\.\.\.\]: .*got mu, drawn once"):
            ask()
    with pytest.raises(ConstraintError, match=r"Copies\[\.\.\.\]: expected an index of .*\(4,\)"):
        joints((4,))[0][7]
    with pytest.raises(TypeError, match="not iterable"):
        iter(shared)

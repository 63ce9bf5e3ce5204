"""Choosing from a batch: every family, scored as the whole is; and an Independent with a face."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import nn

from declarative_dist import ConstraintError, Param, Positive, Variational, learnable, select
from declarative_dist.plain.indexing import Independent
from tests.cases import PLAIN

INDICES: dict[str, Any] = {
    "number": (slice(None), 1),
    "slice": (slice(None), slice(1, None)),
    "mask": (slice(None), torch.tensor([True, False, True])),
    "indices": (slice(None), torch.tensor([2, 0, 0, 1])),
    "pair": (torch.tensor([1, 0]), torch.tensor([2, 1])),
    "new": (None, 0),
    "first": 1,
    "rows": torch.tensor([[True, False, True], [False, True, True]]),
}


@pytest.mark.filterwarnings("ignore:Singular sample detected")  # torch's, of any Wishart
@pytest.mark.parametrize("name", PLAIN)
def test_scores_of_the_chosen_are_the_chosen_scores(name: str) -> None:
    one = PLAIN[name]()
    torch.manual_seed(0)
    plain = one.expand((2, 3, *one.batch_shape))
    x = one.sample((2, 3))
    whole = plain.log_prob(x)
    for index in INDICES.values():
        chosen = select(plain, index)
        assert (chosen.batch_shape, chosen.event_shape) == (whole[index].shape, plain.event_shape)
        torch.testing.assert_close(chosen.log_prob(x[index]), whole[index])
    last = select(plain, (..., -1))
    torch.testing.assert_close(last.log_prob(x.select(whole.ndim - 1, -1)), whole[..., -1])


def test_arguments_of_other_shapes_and_their_gradients() -> None:
    loc, scale = torch.tensor([[1.0], [2.0]], requires_grad=True), torch.arange(1.0, 4.0)
    chosen = select(dd.Normal(loc, scale), (0, torch.tensor([2])))
    assert (chosen.mean.item(), chosen.stddev.item()) == (1.0, 3.0)
    chosen.mean.sum().backward()
    assert loc.grad.tolist() == [[1.0], [0.0]]


class Diagonal(Variational):
    base = dd.Normal
    event_dim = 1
    loc = Param(torch.randn, shape=("n", "d"))
    scale = Param(1.0, Positive(), shape=("d",))


def test_live_objects_are_chosen_from() -> None:
    q = Diagonal(n=4, d=2)
    x = torch.randn(4, 2)
    mask = torch.tensor([True, False, False, True])
    torch.testing.assert_close(q[mask].log_prob(x[mask]), q.log_prob(x)[mask])
    torch.testing.assert_close(q()[mask].loc, q.loc[mask])
    torch.testing.assert_close(select(q, 2).log_prob(x[2]), q.log_prob(x)[2])
    for thing in (q, q()):
        with pytest.raises(TypeError, match="not iterable"):
            list(thing)


@pytest.mark.parametrize("index", [4, (0, 0), "one", torch.ones(3, dtype=torch.bool), 1.5])
def test_a_wrong_index(index: Any) -> None:
    with pytest.raises(ConstraintError, match=r"an index of its batch shape, \(4,\)"):
        select(Diagonal(n=4, d=2), index)


class Tagged(dd.Normal):
    def own(self) -> str:
        return "own"


def test_an_independent_reads_through() -> None:
    class Own(Variational):
        base = Tagged
        event_dim = 1
        loc = Param(0.0, shape=("d",))
        scale = Param(1.0, Positive(), shape=("d",))

    plain: Any = Own(d=3)()
    assert isinstance(plain, dd.Independent)
    assert plain.own() == "own"
    assert plain.loc is plain.base_dist.loc
    for twin in (copy.copy(plain), copy.deepcopy(Own(d=3).detach()), plain.expand((2,))):
        assert twin.scale.shape[-1] == 3
        assert isinstance(twin, Independent)
    with pytest.raises(AttributeError, match="probs"):
        _ = plain.probs
    other = dd.Independent(dd.Normal(torch.ones(3), 1.0), 1)
    torch.testing.assert_close(dd.kl_divergence(plain, other), torch.tensor(1.5))


def test_it_pickles() -> None:
    plain = Independent(dd.Normal(torch.zeros(3), 1.0), 1)
    file = io.BytesIO()
    torch.save(plain, file)
    file.seek(0)
    assert torch.load(file, weights_only=False).loc.shape == (3,)


def test_it_is_read_through_in_one_graph() -> None:
    q = Diagonal(n=4, d=2)

    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = q

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            plain: Any = self.q()
            return ((x - plain.loc) ** 2).sum() - plain.log_prob(x).sum()

    compiled = torch.compile(Squares(), fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 2)
    torch.testing.assert_close(compiled(x), Squares()(x))


def test_a_learnable_of_one_is_learnable() -> None:
    q = learnable(Independent(dd.Gamma(torch.ones(3), 2.0), 1))
    torch.testing.assert_close(q.log_prob(torch.ones(3)), 3 * (torch.tensor(2.0).log() - 2))

"""What grows and what does not: memory, copies, and what a class keeps of its starts."""

from __future__ import annotations

import copy
import gc
import time
from contextlib import suppress

import pytest
import torch
import torch.distributions as dd
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from declarative_dist import ConstraintError, Exp, Param, Positive, Variational
from tests.cases import GammaFamily

pytestmark = pytest.mark.usefixtures("one_thread")


def tensors() -> dict[int, int]:
    """The bytes of all tensors alive, by where they are."""
    gc.collect()
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor) and type(thing) in (Tensor, torch.nn.Parameter):
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is None or tensor.device.type != "cpu":
                    continue
                with suppress(NotImplementedError):  # what vmap left behind has no storage
                    storage = tensor.untyped_storage()
                    found[storage.data_ptr()] = storage.nbytes()
    return found


def test_a_million_numbers_are_kept_as_raw_ones_gradients_and_the_state_of_adam() -> None:
    before = tensors()
    count = 500_000
    q = GammaFamily(batch_shape=(count,))
    optimizer = torch.optim.Adam(q.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        x = torch.full((4, 1), 0.5)
        (-q.log_prob(x)).mean(0).sum().backward()
        optimizer.step()
    after = {place: size for place, size in tensors().items() if place not in before}
    large = [size for size in after.values() if size > 1000]
    assert sorted(large) == [4 * count] * 8  # of two fields


def test_steps_leave_nothing_behind() -> None:
    q = GammaFamily()
    optimizer = torch.optim.SGD(q.parameters(), lr=1e-6)

    def steps(count: int) -> int:
        for _ in range(count):
            optimizer.zero_grad()
            x = q.rsample((4,))
            q.log_prob(x).mean().backward()
            optimizer.step()
        gc.collect()
        return len(gc.get_objects())

    steps(50)  # the rest of other tests may go meanwhile, once
    assert any(abs(steps(550) - steps(50)) < 12 for _ in range(3))


def test_a_thousand_copies_take_less_than_a_twentieth_of_a_loop() -> None:
    together, apart = GammaFamily(batch_shape=(1000,)), [GammaFamily() for _ in range(1000)]
    data = dd.Gamma(2.0, 3.0).sample((10, 1000))

    def one() -> None:
        (-together.log_prob(data)).mean(0).sum().backward()

    def many() -> None:
        for at, q in enumerate(apart):
            (-q.log_prob(data[:, at])).mean().backward()

    one()
    start = time.process_time()
    together.zero_grad()
    one()
    middle = time.process_time()
    many()
    assert (middle - start) < 0.05 * (time.process_time() - middle)
    expected = torch.stack([q.raw_rate.grad for q in apart])
    torch.testing.assert_close(together.raw_rate.grad, expected, rtol=1e-4, atol=1e-5)


# A class keeps its small starts as unconstrained numbers.


class Kept(Variational):
    base = dd.Gamma
    concentration = Param(torch.tensor([1.0, 2.0]), Positive())
    rate = Param(3.0, Exp())


def test_instances_do_not_share_what_the_class_keeps() -> None:
    first = Kept()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.fill_(9.0)
    second = Kept()
    torch.testing.assert_close(second.concentration, torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(second.rate, torch.tensor(3.0))
    first.reset_parameters()
    torch.testing.assert_close(first.concentration, torch.tensor([1.0, 2.0]))


def test_every_dtype_has_starts_of_its_own() -> None:
    Kept()
    exact = torch.tensor([1.0, 2.0], dtype=torch.float64).expm1().log()
    torch.testing.assert_close(Kept(dtype=torch.float64).raw_concentration, exact)
    assert Kept().raw_rate.dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert Kept().raw_rate.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_numbers_without_values_are_not_kept() -> None:
    class Own(Variational):
        base = dd.Normal
        loc = Param(1.0)
        scale = Param(2.0, Exp())

    assert Own(device="meta").raw_scale.is_meta
    with FakeTensorMode():
        Own()
    q = Own()
    assert type(q.raw_scale.data) is Tensor
    torch.testing.assert_close(q.scale, torch.tensor(2.0))
    with FakeTensorMode():
        assert type(Own().raw_scale.data) is not Tensor
    assert Own(device="meta").raw_scale.is_meta


def test_copies_and_given_values_come_before_what_the_class_keeps() -> None:
    Kept()
    assert Kept(batch_shape=(3,)).concentration.shape == (3, 2)
    torch.testing.assert_close(Kept(rate=5.0).rate, torch.tensor(5.0))
    torch.testing.assert_close(copy.deepcopy(Kept()).rate, torch.tensor(3.0))
    with pytest.raises(ConstraintError):
        Kept(rate=-1.0)

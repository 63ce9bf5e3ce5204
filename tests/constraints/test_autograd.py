"""What autograd saves is what the map computed: gradients are finite however it saves it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from declarative_dist import Constraint
from tests.constraints.cases import CASES, DTYPES, GUARANTEED

RAW = (1e30, 1000.0, 90.0, 1.0, -1.0, -90.0, -1000.0, -1e30)


def copying() -> AbstractContextManager[object]:
    return saved_tensors_hooks(lambda saved: saved.clone(), lambda copy: copy)


def recomputed(constraint: Constraint, raw: Tensor) -> Tensor:
    value: Tensor = checkpoint(constraint, raw, use_reentrant=False)
    return value


WAYS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "plain": nullcontext,
    "copies": copying,
    "on the cpu": save_on_cpu,
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", GUARANTEED)
def test_gradients_are_the_same_and_finite_however_autograd_saves(
    name: str, dtype: torch.dtype
) -> None:
    case = CASES[name]
    constraint = case.built(dtype)
    top = torch.finfo(dtype).max
    for number in RAW:
        raw = torch.full(case.raw_shape, min(max(number, -top), top), dtype=dtype)
        found = []
        for way in (*WAYS, "recomputed"):
            x = raw.clone().requires_grad_()
            with WAYS.get(way, nullcontext)():
                value = recomputed(constraint, x) if way == "recomputed" else constraint(x)
            weights = torch.linspace(0.25, 1.0, value.numel()).reshape(value.shape).to(dtype)
            found.append(torch.autograd.grad(value, x, weights)[0])
            assert constraint.contains(value).all()
        mapped, pull = torch.func.vjp(constraint, raw)
        torch.testing.assert_close(mapped, value)
        torch.testing.assert_close(pull(weights)[0], found[0])
        assert all(torch.equal(gradient, found[0]) for gradient in found)
        assert found[0].isfinite().all()


@pytest.mark.parametrize("name", ["positive", "exp", "exp-floor", "exp-unguarded"])
@pytest.mark.parametrize("number", RAW)
def test_gradients_pass_where_values_are_held(name: str, number: float) -> None:
    raw = torch.tensor([number, 0.5], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(CASES[name].built()(raw).sum(), raw)
    assert gradient[0] > 0 or (name.startswith("positive") and number < -700)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    case = CASES[name]
    constraint = case.built()
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(2, *case.raw_shape, generator=generator, dtype=torch.float64)
    raw.requires_grad_()
    assert torch.autograd.gradcheck(constraint, raw, check_undefined_grad=True)
    assert torch.autograd.gradgradcheck(constraint, raw, check_undefined_grad=True)

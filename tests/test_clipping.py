"""Gradients on their way back: unchanged while optimizers can take them, and finite always."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, vmap

from declarative_dist.families.clipping import LARGEST, clip_gradient

INCOMING = [0.0, 1.0, -3.5, 1e11, 1e13, -1e30, math.inf, -math.inf, math.nan]


def expected(dtype: torch.dtype) -> Tensor:
    """What goes back, entry by entry, in Python's own numbers."""
    largest = LARGEST[dtype]
    kept = [0.0 if math.isnan(g) else min(max(g, -largest), largest) for g in INCOMING]
    return torch.tensor(kept, dtype=dtype)


@pytest.mark.parametrize("dtype", LARGEST, ids=str)
@pytest.mark.parametrize("is_leaf", [True, False])
def test_what_goes_back(dtype: torch.dtype, is_leaf: bool) -> None:
    x = torch.zeros(len(INCOMING), dtype=dtype, requires_grad=True)
    source = x if is_leaf else x * 1
    through = clip_gradient(source)
    assert torch.equal(through, x)
    through.backward(torch.tensor(INCOMING, dtype=dtype))
    assert torch.equal(x.grad, expected(dtype))
    assert source.requires_grad


@pytest.mark.parametrize("is_leaf", [True, False])
def test_an_undefined_gradient_stays_undefined(is_leaf: bool) -> None:
    x = torch.zeros(2, requires_grad=True)
    through = clip_gradient(x if is_leaf else x * 1)
    undefined = torch._C._functions.UndefinedGrad()(through * 1)
    (gradient,) = torch.autograd.grad(undefined.sum(), x, allow_unused=True)
    assert gradient is None


def test_a_parameter_keeps_one_hook_and_its_copies_get_theirs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    for each in (parameter, copy.deepcopy(parameter)):
        for _ in range(3):
            assert clip_gradient(each) is each
        assert len(each._backward_hooks) == 1
        (each * torch.tensor([math.nan, 2.0])).sum().backward()
        assert each.grad.tolist() == [0.0, 2.0]


@pytest.mark.parametrize("dtype", LARGEST, ids=str)
def test_squares_of_sums_of_the_largest_are_finite(dtype: torch.dtype) -> None:
    total = torch.full((1000,), LARGEST[dtype], dtype=dtype).sum()
    assert total.square().isfinite()


def test_where_nothing_changes() -> None:
    half = torch.zeros(2, dtype=torch.float16, requires_grad=True)
    assert clip_gradient(half) is half  # loss scaling looks for overflow
    plain = torch.zeros(2)
    assert clip_gradient(plain) is plain
    with torch.no_grad():
        x = torch.zeros(2, requires_grad=True)
        assert clip_gradient(x) is x


def far_from_a_tiny_scale(raw: Tensor) -> Tensor:
    """Zero times infinity: the density of a distant point, on the scale of the density."""
    return torch.distributions.Normal(0.0, raw.exp(), validate_args=False).log_prob(
        torch.tensor(1.0)
    ).exp()  # fmt: skip


@pytest.mark.parametrize("kind", ["eager", "func", "compiled", "vmap"])
def test_a_density_far_from_a_tiny_scale(kind: str) -> None:
    raw = torch.tensor([-40.0, -0.5])
    bare = torch.autograd.functional.jacobian(lambda r: far_from_a_tiny_scale(r).sum(), raw)
    assert bare[0].isnan()

    def loss(raw: Tensor) -> Tensor:
        return far_from_a_tiny_scale(clip_gradient(raw)).sum()

    if kind == "func":
        got = grad(loss)(raw)
    elif kind == "vmap":
        got = vmap(grad(loss))(raw)
    else:
        run = (
            torch.compile(loss, fullgraph=True, backend="aot_eager")
            if kind == "compiled"
            else loss
        )
        x = raw.clone().requires_grad_()
        (got,) = torch.autograd.grad(run(x), x)
    torch.testing.assert_close(got, torch.tensor([0.0, bare[1]]))


def test_higher_and_forward_derivatives() -> None:
    x = torch.tensor([0.3, -1.2], dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        return (clip_gradient(x).exp() * x).sum()

    torch.testing.assert_close(jacfwd(loss)(x), x.exp() * (1 + x))
    torch.testing.assert_close(hessian(loss)(x), torch.diag(x.exp() * (2 + x)))
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    torch.testing.assert_close(second, x.exp() * (2 + x))

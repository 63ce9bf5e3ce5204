from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist import (
    Constraint,
    CorrCholesky,
    Interval,
    PositiveDefinite,
    Simplex,
)
from tests.constraints.cases import CASES, Case, edges

pytestmark = pytest.mark.filterwarnings(
    # Raised by a module of torch that inductor imports.
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
)
HALF = [("exp", torch.bfloat16), ("interval", torch.float16), ("ordered", torch.bfloat16)]
ALL = [
    (name, torch.float32)
    for name in (
        "positive", "positive-floor", "exp", "exp-unguarded", "above-1000", "above-0.1",
        "above-tensor", "below-tensor", "interval", "interval-tensors", "log-interval",
        "simplex", "ordered", "positive-ordered", "lower-cholesky", "lower-cholesky-conditioned",
        "positive-definite", "corr-cholesky",
    )
]  # fmt: skip
"""Every map; cases that differ in a number are tried in eager mode."""


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """The first compilation of a process switches torch's validation off for good."""
    before = Distribution._validate_args
    torch._dynamo.reset()
    yield
    Distribution.set_default_validate_args(before)


def moderate(case: Case, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(16, *case.raw_shape, generator=generator, dtype=torch.float64)
    return (3 * raw).to(dtype)


def extreme(case: Case, dtype: torch.dtype) -> Tensor:
    """Edges in all entries, edges mixed at random, and random numbers at many scales."""
    generator = torch.Generator().manual_seed(1)
    known = torch.tensor(edges(dtype), dtype=torch.float64)
    same = known.reshape(-1, *(1 for _ in case.raw_shape)).expand(-1, *case.raw_shape)
    mixed = known[torch.randint(len(known), (64, *case.raw_shape), generator=generator)]
    powers = 10.0 ** torch.arange(-12, 16, dtype=torch.float64).reshape(-1, 1)
    scaled = powers * torch.randn(28, same.shape[1], generator=generator, dtype=torch.float64)
    top = torch.finfo(dtype).max
    return torch.cat([same, mixed, scaled]).clamp(-top, top).to(dtype)


def assert_close_to(eager: Tensor, compiled: Tensor) -> None:
    eps = torch.finfo(eager.dtype).eps
    torch.testing.assert_close(compiled, eager, rtol=32 * eps, atol=8 * eps)


@pytest.mark.parametrize(("name", "dtype"), ALL + HALF, ids=str)
def test_compiled_with_inductor(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    constraint = case.built(dtype)
    near = moderate(case, dtype)
    far = extreme(case, dtype) if case.guaranteed else near
    raw = torch.cat([near, far]).requires_grad_()
    assert raw.isfinite().all()
    value = torch.compile(constraint, fullgraph=True)(raw)
    weight = torch.linspace(0.25, 1.0, value[0].numel()).reshape(value[0].shape).to(dtype)
    (gradient,) = torch.autograd.grad(value, raw, weight.expand_as(value))

    assert value.dtype == dtype
    assert constraint.contains(value).all(), raw[~constraint.contains(value)]
    for row in value.detach().double():
        assert case.is_inside(row, torch.finfo(dtype).eps), row
    assert gradient.isfinite().all(), raw[~gradient.isfinite()]

    again = near.clone().requires_grad_()
    expected = constraint(again)
    (reference,) = torch.autograd.grad(expected, again, weight.expand_as(expected))
    assert_close_to(expected, value[: len(near)])
    assert_close_to(reference, gradient[: len(near)])


@pytest.mark.parametrize("constraint", [PositiveDefinite(), CorrCholesky(), Simplex()], ids=repr)
def test_compiled_for_events_of_two_sizes(constraint: Constraint) -> None:
    compiled = torch.compile(constraint, fullgraph=True, backend="aot_eager")
    for size in (3, 4, 5):  # the second time with dynamic shapes
        shape = torch.Size((size,) * constraint.event_dim)
        raw = torch.randn(constraint.raw_shape(shape))
        torch.testing.assert_close(compiled(raw), constraint(raw))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_compiled_above_1000_is_strict_in_half_precision(dtype: torch.dtype) -> None:
    constraint = CASES["above-1000"].built(dtype)
    raw = torch.tensor([-torch.finfo(dtype).max, -1e4, -20.0, -5.0], dtype=dtype)
    value = torch.compile(constraint, fullgraph=True)(raw)
    assert (value.double() >= (1004.0 if dtype is torch.bfloat16 else 1000.5)).all()


def test_right_inverse_compiles_and_skips_its_check() -> None:
    constraint = CASES["interval"].built(torch.float32)
    compiled = torch.compile(constraint.right_inverse, fullgraph=True, backend="aot_eager")
    inside = torch.tensor([-0.5, 0.25])
    torch.testing.assert_close(compiled(inside), constraint.right_inverse(inside))
    assert compiled(torch.tensor([2.0, 0.0])).isnan()[0]


def test_bounds_from_two_other_fields_compile() -> None:
    constraint = Interval("low", "high")

    def build(raw: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return constraint.resolved({"low": low, "high": high}).forward(raw)

    raw = torch.tensor([-1e4, 0.0, 1e4])
    low = torch.tensor([1000.0, -3.0, 0.1])
    value = torch.compile(build, fullgraph=True)(raw, low, low + 1)
    assert ((value > low) & (value < low + 1)).all()
    torch.testing.assert_close(value, build(raw, low, low + 1))

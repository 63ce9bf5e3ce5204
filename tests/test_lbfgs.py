"""L-BFGS in a batch of rows: known minima, rows alone and together, points without a value."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from declarative_dist.optimization.lbfgs import Descent, Function


def differentiate(function: Callable[[Tensor], Tensor]) -> Function:
    def evaluate(point: Tensor) -> tuple[Tensor, Tensor]:
        here = point.detach().requires_grad_()
        value = function(here)
        return value.detach(), torch.autograd.grad(value.sum(), here)[0]

    return evaluate


def valley(x: Tensor) -> Tensor:
    return (100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2 + (1 - x[..., :-1]) ** 2).sum(-1)


def minimize(
    function: Callable[[Tensor], Tensor], start: Tensor, evaluations: int = 1000, **options: float
) -> Descent:
    descent = Descent(differentiate(function), start, **options)
    descent.run(evaluations)
    return descent


def minimum_of(start: Tensor) -> Descent:
    return minimize(valley, start)


def test_rows_find_a_minimum_each() -> None:
    starts = 2 * torch.randn(6, 2, dtype=torch.float64)
    found = minimum_of(starts)
    assert not found.is_active.any()
    torch.testing.assert_close(found.point, torch.ones_like(starts), atol=1e-7, rtol=0.0)
    torch.testing.assert_close(found.gradient.abs().amax(-1) < 1e-7, torch.ones(6).bool())


def test_a_row_alone_is_the_row_among_others() -> None:
    starts = 2 * torch.randn(2, 3, 10, dtype=torch.float64)
    found = minimum_of(starts)
    alone = minimum_of(starts[1, 2])
    torch.testing.assert_close(found.value[1, 2], alone.value)
    torch.testing.assert_close(found.point[1, 2], alone.point)
    assert alone.evaluations <= found.evaluations < 400


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_point_without_a_value_is_a_step_too_far(dtype: torch.dtype) -> None:
    start = torch.tensor([[40.0, 0.01], [3.0, 2.0], [-1.0, 1.0]], dtype=dtype)
    found = minimize(lambda x: (x - x.log()).sum(-1), start)
    torch.testing.assert_close(found.point[:2], torch.ones(2, 2, dtype=dtype), atol=1e-3, rtol=0.0)
    assert found.value[2] == torch.inf
    assert torch.equal(found.point[2], start[2])


def test_units_that_differ_and_a_value_that_drowns_the_gain() -> None:
    scale = torch.logspace(-2, 2, 5, dtype=torch.float64)
    start = torch.zeros_like(scale)
    found = minimize(lambda x: 1e6 + ((x - 3.0) / scale).square().sum(-1), start, tolerance=1e-12)
    torch.testing.assert_close(found.point / scale, 3 / scale, atol=1e-3, rtol=0.0)


def test_evaluations_are_counted_and_limited() -> None:
    calls = []

    def counted(x: Tensor) -> Tensor:
        calls.append(x)
        return valley(x)

    found = minimize(counted, torch.full((2, 10), 3.0), evaluations=7)
    assert found.evaluations == len(calls) == 7
    assert found.is_active.all()
    assert (found.value < valley(torch.full((2, 10), 3.0))).all()


def test_a_large_sum_of_many_numbers_goes_on_while_a_step_promises_something() -> None:
    """Beside a loss of 1e4 a gradient of 0.01 is small; times 200 numbers it is not."""
    curvature = torch.linspace(1e-4, 1.0, 200, dtype=torch.float64)

    def bowl(x: Tensor) -> Tensor:
        return 1e4 + (curvature * (x - 3) ** 2).sum(-1)

    start = torch.zeros(200, dtype=torch.float64)
    early = minimize(bowl, start, tolerance=1e-5)
    late = minimize(bowl, start, tolerance=1e-5, least=1e-9)
    assert not (early.is_active | late.is_active)
    assert early.value - 1e4 > 1e-2
    assert late.value - 1e4 < 2e-3

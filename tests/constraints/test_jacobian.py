from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, TransformedDistribution, constraints

from declarative_dist import (
    Constraint,
    ConstraintError,
    CorrCholesky,
    Declarative,
    GreaterThan,
    Interval,
    LowerCholesky,
    MeanFieldNormal,
    Ordered,
    Param,
    PositiveDefinite,
    Simplex,
)
from tests.constraints.cases import CASES, Case, Doubled

KNOWN = [name for name, case in CASES.items() if case.has_jacobian]


def free_coordinates(case: Case, value: Tensor) -> Tensor:
    return value if case.free is None else case.free(value)


def matrix_of_derivatives(case: Case, raw: Tensor) -> Tensor:
    constraint = case.built()

    def coordinates(numbers: Tensor) -> Tensor:
        return free_coordinates(case, constraint(numbers))

    jacobian: Tensor = torch.func.jacrev(coordinates)(raw)
    return jacobian


def raw_points(case: Case, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(count, *case.raw_shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 2, 4, 5])
@pytest.mark.parametrize(
    ("constraint", "name"),
    [
        (Simplex(), "simplex"),
        (Ordered(), "ordered"),
        (LowerCholesky(), "lower-cholesky"),
        (LowerCholesky(conditioned=True), "lower-cholesky-conditioned"),
        (PositiveDefinite(), "positive-definite"),
        (CorrCholesky(), "corr-cholesky"),
    ],
    ids=str,
)
def test_structured_of_any_size(constraint: Constraint, name: str, size: int) -> None:
    shape = torch.Size((size,) * constraint.event_dim)
    raw = torch.randn(constraint.raw_shape(shape), dtype=torch.float64)

    def coordinates(numbers: Tensor) -> Tensor:
        return free_coordinates(CASES[name], constraint(numbers))

    expected = torch.linalg.slogdet(torch.func.jacrev(coordinates)(raw)).logabsdet
    log_det = constraint.log_abs_det_jacobian(raw, constraint(raw))
    torch.testing.assert_close(log_det, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", KNOWN)
def test_as_transform_is_the_same_map(name: str) -> None:
    case = CASES[name]
    constraint = case.built()
    transform = constraint.as_transform()
    raw = raw_points(case)
    value = transform(raw)
    assert torch.equal(value, constraint(raw))
    assert torch.equal(transform.inv(value), constraint.inverse(value))
    log_det = transform.log_abs_det_jacobian(raw, value)
    assert torch.equal(log_det, constraint.log_abs_det_jacobian(raw, value))
    assert transform.bijective
    assert transform.domain.event_dim == constraint.raw_event_dim
    assert transform.codomain.event_dim == constraint.event_dim
    assert transform.forward_shape(raw.shape) == value.shape
    assert transform.inverse_shape(value.shape) == raw.shape
    inverse_log_det = transform.inv.log_abs_det_jacobian(value, raw)
    assert torch.equal(inverse_log_det, -log_det)


@pytest.mark.parametrize("name", KNOWN)
def test_in_a_transformed_distribution(name: str) -> None:
    case = CASES[name]
    base = Normal(
        torch.zeros(4, *case.raw_shape, dtype=torch.float64),
        torch.ones(4, *case.raw_shape, dtype=torch.float64),
    )
    transform = case.built().as_transform()
    pushed = TransformedDistribution(base, [transform], validate_args=False)
    torch.manual_seed(0)
    value = pushed.rsample((2,))
    torch.manual_seed(0)
    raw = base.rsample((2,))
    assert value.shape == (2, 4, *case.shape)
    torch.testing.assert_close(value, case.built()(raw))
    log_prob = pushed.log_prob(value)
    for index in ((0, 0), (1, 3)):
        density = -0.5 * raw[index].square() - 0.5 * math.log(2 * math.pi)
        jacobian = matrix_of_derivatives(case, raw[index])
        if case.is_elementwise:
            expected = density - jacobian.diagonal().abs().log()
        else:
            expected = density.sum() - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(log_prob[index], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", KNOWN)
def test_a_cache_remembers_the_exact_inverse(name: str) -> None:
    case = CASES[name]
    raw = raw_points(case)
    cached = case.built().as_transform(cache_size=1)
    assert cached.inv(cached(raw)) is raw
    plain = case.built().as_transform()
    value = plain(raw)
    if value is not raw:
        assert plain.inv(value) is not raw


def test_with_cache_keeps_the_map() -> None:
    constraint = GreaterThan(2.0)
    plain = constraint.as_transform()
    cached = plain.with_cache(1)
    raw = torch.tensor([0.0, 1.0])
    assert cached.inv(cached(raw)) is raw
    assert cached == plain
    assert plain != GreaterThan(2.0).as_transform()
    assert torch.equal(cached(raw), plain(raw))


def test_a_cached_sample_has_the_density_of_its_raw_number() -> None:
    base = Normal(torch.tensor(40.0), 1.0)
    transform = Interval(0.0, 1.0).as_transform(cache_size=1)
    pushed = TransformedDistribution(base, [transform], validate_args=False)
    value = pushed.rsample()
    raw = transform.inv(value)
    expected = base.log_prob(raw) - transform.log_abs_det_jacobian(raw, value)
    assert raw > 30
    torch.testing.assert_close(pushed.log_prob(value), expected)


def test_support_of_a_transformed_distribution_is_the_constraints_own() -> None:
    base = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    pushed = TransformedDistribution(base, [Simplex().as_transform()])
    assert pushed.support is constraints.simplex
    assert pushed.event_shape == (4,)
    assert constraints.simplex.check(pushed.sample((10,))).all()


def test_of_a_constraint_without_one_says_what_to_define() -> None:
    with pytest.raises(NotImplementedError, match=r"^Doubled\.log_abs_det_jacobian is not def"):
        Doubled().log_abs_det_jacobian(torch.zeros(1), torch.ones(1))


class Twice(Constraint):
    """Each entry by itself, with a Jacobian of any shape."""

    support = constraints.real

    def __init__(self, log_det: Any, event_dim: int) -> None:
        super().__init__()
        self.log_det = log_det
        if event_dim:
            self.support = constraints.independent(constraints.real, event_dim)

    def forward(self, raw: Tensor) -> Tensor:
        return 2 * raw

    def inverse(self, value: Tensor) -> Tensor:
        return value / 2

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Any:
        return self.log_det(raw, value)


LOG_2 = math.log(2.0)
JACOBIANS: dict[str, tuple[int, Any]] = {
    "number": (0, lambda raw, value: LOG_2),
    "scalar": (0, lambda raw, value: torch.tensor(LOG_2)),
    "sum": (0, lambda raw, value: torch.full_like(raw, LOG_2).sum(-1)),
    "per entry of an event": (1, lambda raw, value: torch.full_like(raw, LOG_2)),
    "scalar of an event": (1, lambda raw, value: 3 * torch.tensor(LOG_2)),
    "right": (0, lambda raw, value: torch.full_like(raw, LOG_2)),
    "right for an event": (1, lambda raw, value: torch.full_like(raw, LOG_2).sum(-1)),
}


@pytest.mark.parametrize("name", JACOBIANS)
def test_a_jacobian_counts_the_same_everywhere_or_is_refused(name: str) -> None:
    event_dim, log_det = JACOBIANS[name]

    class Model(Declarative):
        x = Param(torch.zeros(2, 3), Twice(log_det, event_dim), prior=Normal(0.0, 1.0))

    model = Model()
    score = Normal(0.0, 1.0).log_prob(torch.zeros(())).item()
    base = Normal(torch.zeros(2, 3), 1.0)
    ways = {
        "prior": (lambda: model.log_prior(unconstrained=True), 6 * (score + LOG_2)),
        "guide": (lambda: MeanFieldNormal(model).log_prob({"x": torch.zeros(2, 3)}).sum(), None),
        "transform": (
            lambda: (
                TransformedDistribution(base, [Twice(log_det, event_dim).as_transform()])
                .log_prob(torch.zeros(2, 3))
                .sum()
            ),
            6 * (score - LOG_2),
        ),
    }
    for way, wanted in ways.values():
        if name.startswith("right"):
            found = way()
            assert wanted is None or found.item() == pytest.approx(wanted)
        else:
            with pytest.raises(ConstraintError, match="log_abs_det_jacobian: expected one number"):
                way()

"""Which support lies inside which."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch.distributions import constraints

from declarative_dist.plain.supports import lies_within, support_of

PAIRS: dict[str, tuple[Any, Any, bool]] = {
    "the boundary has no mass": (constraints.nonnegative, constraints.positive, True),
    "an interval": (constraints.interval(0.1, 0.9), constraints.unit_interval, True),
    "a larger interval": (constraints.interval(0.0, 1.1), constraints.unit_interval, False),
    "one entry of a larger one": (
        constraints.interval(torch.zeros(2), torch.tensor([1.0, 1.1])),
        constraints.unit_interval, False),
    "single precision": (
        constraints.interval(torch.tensor(0.1), torch.tensor(0.7)),
        constraints.interval(0.1, 0.7), True),
    "shapes that do not go together": (
        constraints.interval(torch.zeros(2), 1.0),
        constraints.interval(torch.zeros(3), 0.5), False),
    "events of a half line": (
        constraints.independent(constraints.positive, 1),
        constraints.independent(constraints.greater_than(1.0), 1), False),
    "a simplex around a cube": (
        constraints.independent(constraints.unit_interval, 1), constraints.simplex, False),
    "a simplex in a cube": (constraints.simplex, constraints.unit_interval, True),
    "correlations are factors": (constraints.corr_cholesky, constraints.lower_cholesky, True),
    "factors are no correlations": (constraints.lower_cholesky, constraints.corr_cholesky, False),
    "definite": (constraints.positive_definite, constraints.positive_semidefinite, True),
    "a coin among counts": (constraints.boolean, constraints.nonnegative_integer, True),
    "counts on a coin": (constraints.integer_interval(0, 4), constraints.boolean, False),
    "a choice": (constraints.one_hot, constraints.multinomial(1), True),
    "shares of counts": (constraints.multinomial(3), constraints.nonnegative_integer, True),
    "counts of a density": (constraints.nonnegative_integer, constraints.nonnegative, False),
    "unknown": (constraints.positive, constraints.dependent, True),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_inclusion(name: str) -> None:
    own, wanted, is_inside = PAIRS[name]
    assert lies_within(own, wanted) is is_inside


def test_a_mixture_covers_its_components_in_each_entry_of_a_batch() -> None:
    lows = torch.tensor([[0.0, 1.0], [5.0, 6.0]])
    components = dd.Uniform(lows, lows + 2.0)
    mixture = support_of(dd.MixtureSameFamily(dd.Categorical(torch.ones(2, 2)), components))
    low, high = torch.tensor([0.0, 5.0]), torch.tensor([3.0, 8.0])
    assert lies_within(mixture, constraints.interval(low, high))
    assert not lies_within(mixture, constraints.interval(low + 0.1, high))
    assert not lies_within(mixture, constraints.interval(low, high - 0.1))


def test_a_mixture_of_events_has_its_components_before_them() -> None:
    lows = torch.tensor([[0.0, 5.0], [1.0, 4.0]])  # two components over two entries
    components = dd.Independent(dd.Uniform(lows, lows + 2.0), 1)
    mixture = support_of(dd.MixtureSameFamily(dd.Categorical(torch.ones(2)), components))
    low, high = torch.tensor([0.0, 4.0]), torch.tensor([3.0, 7.0])
    assert lies_within(mixture, constraints.interval(low, high))
    assert not lies_within(mixture, constraints.interval(low, high - 0.1))


def test_a_moved_half_line_has_moved_ends() -> None:
    moved = dd.TransformedDistribution(dd.HalfNormal(1.0), dd.AffineTransform(2.0, -1.0))
    assert lies_within(support_of(moved), constraints.less_than(2.0))
    assert not lies_within(support_of(moved), constraints.less_than(1.9))


def test_angles_in_an_event_stay_on_the_circle() -> None:
    angles = dd.Independent(dd.VonMises(torch.zeros(2), torch.ones(2)), 1)
    support = support_of(angles)
    assert support.event_dim == 1
    assert lies_within(support, constraints.interval(-3.2, 3.2))
    assert not lies_within(constraints.real, support)


def test_an_end_that_is_no_number_is_still_an_end() -> None:
    support = support_of(dd.Uniform(torch.tensor(math.nan), 1.0, validate_args=False))
    assert math.isnan(support.lower_bound)

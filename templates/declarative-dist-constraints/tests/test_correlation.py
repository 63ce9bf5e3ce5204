from __future__ import annotations

import pytest
import torch
import torch.distributions as dd
from declarative_dist_constraints import Correlation, correlation
from torch import Tensor

from declarative_dist import ConstraintError, Param, Variational, as_constraint
from declarative_dist.testing import check_constraint, check_distribution


class Pair(dd.MultivariateNormal):
    """A family that knows nothing of declarative_dist, but for the set of its argument."""

    arg_constraints = {"correlation": correlation}

    def __init__(self, correlation: Tensor, validate_args: bool | None = None) -> None:
        self.correlation = correlation
        one = torch.ones_like(correlation)
        matrix = torch.stack([one, correlation, correlation, one], -1).unflatten(-1, (2, 2))
        loc = correlation.new_zeros(2)
        super().__init__(loc, matrix, validate_args=validate_args)


class Pairs(Variational):
    def base(self, correlation: Tensor) -> Pair:
        return Pair(correlation)

    correlation = Param(0.5, Correlation())


def test_it_keeps_what_constraints_promise() -> None:
    check_constraint(Correlation())


def test_a_family_with_it_keeps_what_families_promise() -> None:
    check_distribution(Pairs)


def test_values() -> None:
    assert Correlation()(torch.tensor(0.75)).item() == pytest.approx(0.6)
    with pytest.raises(ConstraintError, match="a correlation, strictly between -1 and 1, got 1.0"):
        Correlation().right_inverse(torch.tensor(1.0))


def test_it_is_inferred_for_its_set() -> None:
    assert isinstance(as_constraint(correlation), Correlation)

    class Inferred(Variational):
        base = Pair
        correlation = Param(0.25)

    assert isinstance(Inferred.correlation.constraint, Correlation)
    assert Inferred().correlation.item() == pytest.approx(0.25)

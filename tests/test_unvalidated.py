"""Distributions built without checks are the ones that torch's own constructors build."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from declarative_dist.plain.build import builder_of
from declarative_dist.plain.decompose import decompose
from tests.cases import PLAIN


def same(mine: Any, theirs: Any) -> bool:
    """Whether two attributes are equal, distributions by their attributes."""
    if isinstance(theirs, Distribution):
        return (
            type(mine) is type(theirs)
            and set(vars(mine)) - {"_validate_args"} == set(vars(theirs)) - {"_validate_args"}
            and all(
                same(vars(mine)[name], value)
                for name, value in vars(theirs).items()
                if name != "_validate_args"
            )
        )
    if isinstance(theirs, Tensor):
        return torch.equal(mine, theirs)
    if isinstance(theirs, list):
        return len(mine) == len(theirs)
    return bool(mine == theirs)


@pytest.mark.parametrize("name", PLAIN)
def test_attributes_are_those_of_torch(name: str) -> None:
    kind, arguments = decompose(PLAIN[name]())
    mine = builder_of(kind)(**arguments, validate_args=False)
    theirs = kind(**arguments, validate_args=False)
    assert same(mine, theirs)


def inner_distributions(distribution: Distribution) -> list[Distribution]:
    found = [v for v in vars(distribution).values() if isinstance(v, Distribution)]
    return [*found, *(inner for d in found for inner in inner_distributions(d))]


GIVEN_PARTS = ("Independent", "MixtureSameFamily", "TransformedDistribution")
"""Cases whose inner distributions are arguments, built by whoever passes them."""


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in GIVEN_PARTS])
def test_no_inner_distribution_checks_anything(name: str) -> None:
    kind, arguments = decompose(PLAIN[name]())
    mine = builder_of(kind)(**arguments, validate_args=False)
    for distribution in (mine, *inner_distributions(mine)):
        if isinstance(distribution, Independent):  # which has no arguments to check
            continue
        assert distribution._validate_args is False, type(distribution).__name__

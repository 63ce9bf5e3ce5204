"""Distributions built without checks are the ones that torch's own constructors build."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor, tensor
from torch.distributions import Distribution, Independent

from declarative_dist import (
    Conditional,
    Declarative,
    Head,
    Joint,
    Param,
    Positive,
    Variational,
    derived,
    site,
)
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


def classes_that_return(plain: dd.Distribution) -> dict[str, Callable[[], object]]:
    """By the place where a class body hands out an object of yours, what uses it there."""

    class Base(Variational):
        a = Param(1.0)
        validate_args = False

        def base(self, a: Tensor) -> dd.Distribution:
            return plain

    class Forward(Variational):
        base = dd.Normal

        def forward(self) -> dd.Distribution:
            return plain

    class Derived(Variational):
        base = dd.Normal
        mu = Param(0.0)
        scale = 1.0

        @derived
        def known(self) -> dd.Distribution:
            return plain

        @derived
        def loc(self, mu: Tensor, known: dd.Distribution) -> Tensor:
            return mu + known.sample((2,)).sum() * 0

    class Predicted(Conditional):
        h = Head()

        def base(self, h: Tensor) -> dd.Distribution:
            return plain.expand(h.shape) if h.ndim else plain

    class Sites(Joint):
        x = dd.Normal(0.0, 1.0)

        @site
        def y(self, x: Tensor) -> dd.Distribution:
            return plain

    class Prior(Declarative):
        s = Param(1.0, Positive(), prior=Forward())

    return {
        "base": lambda: Base().log_prob(tensor(1.0)),
        "forward": lambda: Forward().rsample_and_log_prob(),
        "derived": lambda: Derived(batch_shape=(2,))(),
        "predicted": lambda: Predicted(in_features=2)(torch.zeros(2)).log_prob(tensor(1.0)),
        "site": lambda: Sites().log_prob(Sites().sample()),
        "prior": lambda: Prior().log_prior(unconstrained=True),
    }


@pytest.mark.parametrize("where", list(classes_that_return(dd.Gamma(1.0, 1.0))))
def test_an_object_that_a_class_hands_out_stays_as_it_was(where: str) -> None:
    plain = dd.Gamma(2.0, 1.0, validate_args=True)
    before = dict(vars(plain))
    classes_that_return(plain)[where]()
    assert before.keys() <= vars(plain).keys()
    assert all(vars(plain)[name] is value for name, value in before.items())
    with pytest.raises(ValueError, match="within the support"):
        plain.log_prob(tensor(-1.0))

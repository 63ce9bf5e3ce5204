"""Constraints as parametrizations of torch, on modules that know nothing of this library."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributions as dd
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal, weight_norm

from declarative_dist import (
    Conditional,
    ConstraintError,
    CorrCholesky,
    Declarative,
    Head,
    Interval,
    Param,
    Positive,
)
from declarative_dist.testing import check_distribution
from tests.cases import GammaFamily
from tests.constraints.cases import CASES, Case

KINDS = ("exp-floor", "interval-tensors", "simplex", "lower-cholesky", "positive-definite")


def holder(case: Case) -> nn.Module:
    """A module with a weight that is constrained, and starts at the constraint's default."""
    constraint = case.built()
    module = nn.Module()
    start = case.default.double()
    module.weight = nn.Parameter(start.clone())
    parametrize.register_parametrization(module, "weight", constraint)
    torch.testing.assert_close(module.weight, start)
    return module


@pytest.mark.parametrize("name", KINDS)
def test_state_copies_and_removal(name: str) -> None:
    module = holder(CASES[name])
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.25)
    other = holder(CASES[name])
    other.load_state_dict(module.state_dict())
    for same in (other, copy.deepcopy(module)):
        assert torch.equal(same.weight, module.weight)
    value = module.weight.detach().clone()
    parametrize.remove_parametrizations(module, "weight")
    assert type(module.weight) is nn.Parameter
    assert torch.equal(module.weight, value)


@pytest.mark.parametrize("copies", [(), (3,)])
def test_a_parametrized_distribution_goes_into_torchs_wrappers(copies: tuple[int, ...]) -> None:
    q = GammaFamily(batch_shape=copies)
    parametrize.register_parametrization(q, "raw_concentration", Positive())
    view, wrapped = q.expand((2, *copies)), dd.TransformedDistribution(q, [dd.ExpTransform()])
    assert view.batch_shape == (2, *copies)
    q.concentration = 3.0
    assert (view().concentration == 3.0).all()
    value = torch.full(copies, 2.0)
    expected = dd.Gamma(3.0, q.rate).log_prob(value.log()) - value.log()
    torch.testing.assert_close(wrapped.log_prob(value), expected)


def test_a_layer_with_positive_weights() -> None:
    layer = parametrize.register_parametrization(nn.Linear(3, 2), "bias", Interval(-1.0, 1.0))
    layer.weight = nn.Parameter(layer.weight.abs() + 0.1)
    parametrize.register_parametrization(layer, "weight", Positive())
    assert (layer.weight > 0).all()
    layer.bias = torch.tensor([0.5, -0.5])
    torch.testing.assert_close(layer.bias.detach(), torch.tensor([0.5, -0.5]))
    with pytest.raises(ConstraintError, match=r"^Interval: .* got 2\.0 at \[0\]"):
        layer.bias = torch.tensor([2.0, 0.0])


def test_a_cached_value_is_computed_once() -> None:
    module = holder(CASES["corr-cholesky"])
    with parametrize.cached():
        assert module.weight is module.weight
    assert module.weight is not module.weight
    assert isinstance(module.parametrizations.weight[0], CorrCholesky)


class Gaussian(Conditional):
    base = dd.Normal
    loc = Head()
    scale = Head(Positive())


def test_parametrized_networks_in_a_conditional() -> None:
    network = nn.Sequential(
        orthogonal(nn.Linear(4, 4)), nn.Tanh(), weight_norm(nn.Linear(4, 3)), nn.Tanh()
    )
    policy = Gaussian(in_features=3, network=network)
    # A layer drawn anew has no say over what torch's parametrizations keep beside it.
    check_distribution(policy, torch.randn(5, 4), skip=["meta", "pickle"])


def test_a_module_of_torchs_as_a_constraint() -> None:
    class Rotated(Declarative):
        axes = Param(torch.eye(3), orthogonal(nn.Linear(3, 3)).parametrizations.weight[0])

    module = Rotated()
    torch.testing.assert_close(module.axes, torch.eye(3))
    (module.axes * torch.arange(9.0).view(3, 3)).sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    assert not torch.allclose(module.axes, torch.eye(3))
    torch.testing.assert_close(module.axes @ module.axes.mT, torch.eye(3), atol=1e-5, rtol=0)

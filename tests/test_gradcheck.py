"""Gradients of every declared module are those of finite differences, undefined ones included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from declarative_dist import Conditional
from tests.cases import CASES, MixtureDensity, Policy
from tests.limits import NOT_DIFFERENTIABLE

CONDITIONAL = {
    "policy": lambda: Policy(in_features=4, actions=2, network=nn.Linear(3, 4)),
    "raw numbers from a network": lambda: Policy(actions=2, network=nn.Linear(3, 2)),
    "mixture density": lambda: MixtureDensity(in_features=3, k=3),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:Singular sample")
def test_densities(name: str) -> None:
    torch.manual_seed(0)
    module = CASES[name]().double()
    value = module.sample((2,))
    names, raws = zip(*module.named_parameters(), strict=True)

    def score(*numbers: Tensor) -> Tensor:
        snapshot = functional_call(module, dict(zip(names, numbers, strict=True)), ())
        log_prob: Tensor = snapshot.log_prob(value)
        return log_prob

    starts = [raw.detach().clone().requires_grad_() for raw in raws]
    if name in NOT_DIFFERENTIABLE:
        with pytest.raises((RuntimeError, ValueError)):
            torch.autograd.gradcheck(score, starts, check_undefined_grad=True)
        return
    assert torch.autograd.gradcheck(score, starts, check_undefined_grad=True)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_densities_for_contexts(name: str) -> None:
    """With the module's own parameters, which keep the hooks of eager mode."""
    torch.manual_seed(0)
    module: Conditional = CONDITIONAL[name]().double()
    contexts = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    value = module(contexts).sample()

    def score(contexts: Tensor, *_: Tensor) -> Tensor:
        return module(contexts).log_prob(value)

    inputs = (contexts, *module.parameters())
    assert torch.autograd.gradcheck(score, inputs, check_undefined_grad=True)

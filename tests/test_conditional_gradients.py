"""What goes back through conditionals is finite: eager, compiled, and under torch.func."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd, stack_module_state, vmap

from declarative_dist import Conditional, Exp, Head, Param, Variational


class Policy(Conditional):
    base = dd.Normal
    loc = Head()
    scale = Param(1.0, Exp())


X = torch.linspace(-1.0, 1.0, 15).reshape(5, 3)
Y = torch.linspace(-0.5, 1.5, 5)


def score(policy: Conditional, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    return functional_call(policy, parameters, (x,)).log_prob(y).sum()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_compiled_transforms_equal_eager_ones() -> None:
    """Gradients per context, and those of forward mode."""
    torch._dynamo.reset()
    policy = Policy(in_features=3)
    of_one = partial(score, policy)
    maps = vmap(grad(of_one), in_dims=(None, 0, 0)), jacfwd(of_one)

    def run(*arguments: Any) -> list[Any]:
        return [mapped(*arguments) for mapped in maps]

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    parameters = dict(policy.named_parameters())
    torch.testing.assert_close(compiled(parameters, X, Y), run(parameters, X, Y))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_compiled_for_any_batch_size() -> None:
    torch._dynamo.reset()
    policy = Policy(in_features=3)

    def loss(x: Tensor) -> Tensor:
        return policy(x).log_prob(x.sum(-1)).mean()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for count in (4, 7):
        x = torch.randn(count, 3)
        expected = torch.autograd.grad(loss(x), [*policy.parameters()])
        for got, wanted in zip(
            torch.autograd.grad(compiled(x), [*policy.parameters()]), expected, strict=True
        ):
            torch.testing.assert_close(got, wanted)


def test_an_ensemble_whose_gradients_are_taken_outside() -> None:
    policies = [Policy(in_features=3) for _ in range(3)]
    parameters, _ = stack_module_state(policies)

    def predicted(p: dict[str, Tensor]) -> Tensor:
        d = functional_call(policies[0], p, (X,))
        return d.loc * torch.nan + d.scale * torch.inf

    vmap(predicted)(parameters).sum().backward()
    for parameter in parameters.values():
        assert parameter.grad.isfinite().all()


def test_an_ensemble_survives_actions_far_from_a_tiny_scale() -> None:
    policies = [Policy(in_features=3, scale=scale) for scale in (1e-12, 1e-9, 1.0)]
    parameters, _ = stack_module_state(policies)
    optimizer = torch.optim.Adam(parameters.values(), lr=10.0)
    actions = Y.clone()

    def gain(p: dict[str, Tensor]) -> Tensor:
        new = functional_call(policies[0], p, (X,)).log_prob(actions)
        return (new.exp() * (Y - Y.mean())).mean()

    for _ in range(20):
        optimizer.zero_grad()
        (-vmap(gain)(parameters).sum()).backward()
        optimizer.step()
        assert all(p.isfinite().all() for p in parameters.values())


@pytest.mark.parametrize("has_network", [False, True])
def test_every_copy_is_protected(has_network: bool) -> None:
    network = nn.Linear(3, 3) if has_network else None
    policy = Policy(in_features=3, network=network)
    moved = Policy(in_features=3, network=network).to("meta").to_empty(device="cpu")
    moved.reset_parameters()
    loaded = Policy(in_features=3, network=network)
    loaded.load_state_dict(policy.state_dict(), assign=True)
    for each in (policy, copy.deepcopy(policy), moved, loaded):
        d = each(X)
        (d.loc * torch.nan + d.scale * torch.inf).sum().backward()
        for parameter in each.parameters():
            assert parameter.grad.isfinite().all()
        assert each.raw_scale.grad > 1e9


def test_what_functional_call_is_given_stays_as_it_is() -> None:
    policy, x = Policy(in_features=3), torch.zeros((), requires_grad=True)
    raw = x * 1.0
    functional_call(policy, {"raw_scale": raw}, (X,))
    (raw * torch.inf).backward()
    assert x.grad.isinf()


def test_finite_gradients_are_those_by_hand() -> None:
    policy = Policy(in_features=3)
    linear = copy.deepcopy(policy.projection)
    raw = policy.raw_scale.detach().clone().requires_grad_()
    policy(X).log_prob(Y).sum().backward()
    dd.Normal(linear(X)[:, 0], raw.exp()).log_prob(Y).sum().backward()
    torch.testing.assert_close(policy.projection.weight.grad, linear.weight.grad)
    torch.testing.assert_close(policy.raw_scale.grad, raw.grad)


def test_a_free_covariance_under_autocast_is_the_one_without() -> None:
    class Free(Variational):
        base = dd.MultivariateNormal
        loc = Param(torch.zeros(3))
        covariance_matrix = Param(torch.eye(3) + 0.3)

    free = Free()
    with torch.autocast("cpu", torch.bfloat16):
        under = free.covariance_matrix
    assert torch.equal(under, free.covariance_matrix)

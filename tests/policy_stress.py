"""Policies trained on rewards for known actions, at rates that break a bare exponential."""

from __future__ import annotations

import torch
import torch.distributions as dd
from torch import Tensor, nn

from tests.running_examples import example


class ByHand(nn.Module):
    """A policy in plain torch, its scale a bare exponential."""

    def __init__(self) -> None:
        super().__init__()
        self.network = example("policy_gradient").trunk(3)
        self.loc = nn.Linear(64, 2)
        self.log_scale = nn.Parameter(torch.full((2,), 0.7).log())

    def forward(self, states: Tensor) -> dd.Distribution:
        loc = self.loc(self.network(states))
        return dd.Independent(dd.Normal(loc, self.log_scale.exp()), 1)


def declared() -> nn.Module:
    """The policy of the example, over two actions."""
    module = example("policy_gradient")
    policy: nn.Module = module.Policy(in_features=64, actions=2, network=module.trunk(3))
    return policy


def stress(policy: nn.Module, rate: float, passes: int, steps: int) -> tuple[int, float, float]:
    """Train on rewards for known actions in random states, at any learning rate.

    Args:
        policy: a policy over two actions, for states of three numbers.
        rate: the learning rate of Adam.
        passes: how many steps take the same stored actions; 1 for the plain policy gradient.
        steps: how many steps to try.

    Returns:
        How many steps went well, and the smallest and the largest scale.
    """
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(policy.parameters(), lr=rate)
    scales = [policy(torch.zeros(1, 3)).stddev.detach()]
    for step in range(steps):
        try:
            if step % passes == 0:
                states = torch.randn(256, 3)
                actions = policy(states).sample()
                old = policy(states).log_prob(actions).detach()
                rewards = (-(actions - states[:, :2].tanh()).square().sum(-1)).exp()
                advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
            new = policy(states)
            ratio = (new.log_prob(actions) - old).exp()
            gain = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
            optimizer.zero_grad()
            (-(gain + 0.01 * new.entropy()).mean()).backward()
            optimizer.step()
            scale = policy(states).stddev.detach()
        except ValueError:
            break
        if not (scale > 0).all() or not all(p.isfinite().all() for p in policy.parameters()):
            break
        scales.append(scale)
    extremes = torch.cat([torch.stack([s.min(), s.max()]) for s in scales])
    return len(scales) - 1, extremes.min().item(), extremes.max().item()

"""tensordict's and torchrl's probabilistic modules around declared families, and their losses."""

from __future__ import annotations

import pytest
import torch
import torch.distributions as dd
from tensordict import TensorDict
from tensordict.nn import (
    InteractionType,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    set_interaction_type,
)
from torch import Tensor, nn
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from declarative_dist import Param, Variational
from tests.sharing import Policy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Gamma(Variational):
    base = dd.Gamma
    concentration = Param(2.0)
    rate = Param(1.0)


def observations(*batch: int) -> TensorDict:
    return TensorDict(observation=torch.randn(*batch, 4), batch_size=batch)


def with_network() -> ProbabilisticTensorDictSequential:
    """A policy with a network of its own, whose argument is called `input`."""
    network = nn.Sequential(nn.Linear(4, 16), nn.Tanh())
    module = ProbabilisticTensorDictModule(
        in_keys={"input": "observation"},
        out_keys=["action"],
        distribution_class=Policy(in_features=16, actions=2, network=network),
        default_interaction_type=InteractionType.RANDOM,
        return_log_prob=True,
    )
    return ProbabilisticTensorDictSequential(module)


def behind_a_network() -> ProbabilisticActor:
    """A policy over features that another module of a tensordict makes."""
    network = nn.Sequential(nn.Linear(4, 16), nn.Tanh())
    return ProbabilisticActor(
        TensorDictModule(network, in_keys=["observation"], out_keys=["features"]),
        in_keys=["features"],
        distribution_class=Policy(in_features=16, actions=2),
        default_interaction_type=InteractionType.RANDOM,
        return_log_prob=True,
    )


ACTORS = [with_network, behind_a_network]


def policy_of(actor: nn.Module) -> Policy:
    (policy,) = (part for part in actor.modules() if isinstance(part, Policy))
    return policy


@pytest.mark.parametrize("make", ACTORS)
def test_actions_and_densities_are_those_of_the_policy(make) -> None:
    actor = make()
    data = actor(observations(5))
    assert data["action"].shape == (5, 2)
    distribution = actor.get_dist(data)
    assert isinstance(distribution, dd.Independent)
    torch.testing.assert_close(data["action_log_prob"], distribution.log_prob(data["action"]))
    names = {name.rpartition(".")[2] for name, _ in actor.named_parameters()}
    assert "raw_scale" in names
    with set_interaction_type(InteractionType.DETERMINISTIC):
        torch.testing.assert_close(actor(data)["action"], distribution.mean)


@pytest.mark.parametrize("make", ACTORS)
def test_proximal_policy_optimisation_raises_the_reward(make) -> None:
    actor = make()
    critic = ValueOperator(nn.Linear(4, 1), in_keys=["observation"])
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.0)
    advantage = GAE(gamma=0.0, lmbda=0.0, value_network=critic)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.02)
    policy, target = policy_of(actor), torch.tensor([1.0, -1.0])
    before = policy.scale.detach().clone()
    rewards = []
    for _ in range(15):
        data = observations(64, 2)
        with torch.no_grad():
            actor(data)
        reward = -(data["action"] - target).square().sum(-1, keepdim=True)
        ends = torch.ones(64, 2, 1, dtype=torch.bool)
        data["next"] = observations(64, 2).update({"reward": reward, "done": ends})
        data["next", "terminated"] = ends
        advantage(data)
        for _ in range(4):
            losses = loss(data)
            optimizer.zero_grad()
            (losses["loss_objective"] + losses["loss_critic"]).backward()
            optimizer.step()
        rewards.append(reward.mean().item())
    assert all(p.grad is not None for p in policy.parameters())
    assert rewards[-1] > rewards[0] + 0.5
    assert (policy.scale < before).all()


def test_a_family_without_a_context() -> None:
    family = Gamma()
    module = ProbabilisticTensorDictModule(
        in_keys=[],
        out_keys=["z"],
        distribution_class=family,
        default_interaction_type=InteractionType.RANDOM,
        return_log_prob=True,
    )
    for rate in (1.0, 5.0):
        family.rate = rate
        data = module(TensorDict())
        torch.testing.assert_close(data["z_log_prob"], family.log_prob(data["z"]))
    data["z"].backward()
    assert [name for name, p in module.named_parameters() if p.grad is not None] == [
        "distribution_class.raw_concentration",
        "distribution_class.raw_rate",
    ]


def test_an_ensemble_of_parameters_in_a_tensordict() -> None:
    members = [Gamma(rate=float(rate)) for rate in (1, 2, 3)]
    parameters = TensorDict.from_modules(*members)
    x = torch.rand(5)

    def score(parameters: TensorDict) -> Tensor:
        with parameters.to_module(members[0]):
            return members[0].log_prob(x)

    together = torch.vmap(score)(parameters)
    torch.testing.assert_close(together, torch.stack([member.log_prob(x) for member in members]))

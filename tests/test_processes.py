"""Beyond one process: DDP, FSDP2 and distributed checkpoints, in gloo jobs on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch.distributions as dd
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from declarative_dist import Declarative, Exp, FullRankNormal, Joint, LearnableTransform, Param
from declarative_dist.errors import first_line
from tests.cases import GammaFamily
from tests.commands import python
from tests.processes import in_processes
from tests.running_examples import EXAMPLES, example, numbers_in, printed_by
from tests.sharing import (
    OBJECTIVES,
    Mixture,
    NegativeLogLikelihood,
    Policy,
    adam,
    alone,
    gamma,
    rows_for,
    train,
    values_of,
    whole,
)

pytestmark = [
    # One process alone is one of the cases.
    pytest.mark.filterwarnings(
        "ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning"
    ),
    pytest.mark.xdist_group("processes"),  # the job of two processes is run once
]

STEPS = 4
NAMES = tuple(OBJECTIVES)


class Shift(LearnableTransform):
    base = dd.AffineTransform
    loc = Param(0.0, shape=(2,))
    scale = Param(1.0, shape=(2,))


class Pair(Joint):
    first = GammaFamily
    second = GammaFamily


class Kernel(Declarative):
    lengthscale = Param(1.0, Exp(), shape=(2,))


class Line(Kernel):
    """An objective of its own, for it has a `forward`."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.lengthscale * x).square().mean()


class Loss(nn.Module):
    """A loss by hand."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return -self.module(x).log_prob(y).mean()


REFUSED: dict[str, Callable[[], nn.Module]] = {
    "GammaFamily": lambda: gamma((1,)).module,  # type: ignore[return-value]
    "Mixture": lambda: Mixture(k=3, d=2),
    "Policy": lambda: Policy(in_features=3, actions=2),
    "Pair": lambda: Pair(batch_shape=(1,)),
    "Shift": Shift,
    "Kernel": Kernel,
    "FullRankNormal": lambda: FullRankNormal(Kernel()),
}


def error_of(call: Callable[[], object]) -> str:
    """What a call raises, with its type."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return ""


# What the two processes do


def wrapped(objective: nn.Module, how: str) -> nn.Module:
    if how == "ddp":
        return DistributedDataParallel(objective)
    sharded: nn.Module = fully_shard(objective)
    return sharded


def trained(rank: int, how: str) -> dict[str, Any]:
    found = {}
    for name in (*NAMES, "scalars") if how == "ddp" else NAMES:
        objective = gamma() if name == "scalars" else OBJECTIVES[name]()
        rows = (rows_for("gamma")[0][:, 0],) if name == "scalars" else rows_for(name)
        call = wrapped(objective, how)
        gradients = train(call, adam(objective), rows, range(STEPS), (rank,), 2)
        found[name] = gradients, values_of(objective)
    return found


def refusals() -> dict[str, Any]:
    """What sharding a family says, whose parameters stay whole."""
    found = {}
    for name, build in REFUSED.items():
        said = []
        for wrap in (lambda q: q, lambda q: [nn.Linear(2, 2), q]):
            q = build()
            kinds = [type(p) for p in q.parameters()]
            said.append(error_of(lambda q=q, wrap=wrap: fully_shard(wrap(q))))
            assert [type(p) for p in q.parameters()] == kinds
        found[name] = said
    return {"errors": found, "scalars": error_of(lambda: fully_shard(gamma()))}


def uses_outside() -> dict[str, Any]:
    """A family whose objective is sharded, used without it."""
    x = rows_for("gamma")[0]
    objective = fully_shard(OBJECTIVES["gamma"]())
    q = objective.module
    found: dict[str, Any] = {"rate": whole(q.rate)}
    q.rate = 3.0
    objective.unshard()
    found["unsharded"] = q.log_prob(x).detach(), q.rate.detach()
    torch.manual_seed(0)
    found["draws"] = q.rsample((3,)).detach()
    objective.reshard()
    q.reset_parameters()
    found["reset"] = whole(q.rate)
    line = fully_shard(Line())
    line(torch.ones(4, 2)).backward()
    found["line"] = whole(line.raw_lengthscale.grad)
    return found


def from_meta() -> dict[str, Tensor]:
    """Shards that are made before there is memory for the whole, then filled."""
    with torch.device("meta"):
        objective = NegativeLogLikelihood(Mixture(k=3, d=2, dtype=torch.float64))
    fully_shard(objective)
    objective.to_empty(device="cpu")
    objective.module.reset_parameters()
    with torch.device("meta"):
        other = NegativeLogLikelihood(Policy(in_features=3, actions=2))
    fully_shard(other)
    other.to_empty(device="cpu")
    other.module.reset_parameters()
    bias = whole(other.module.projection.bias)
    return {**values_of(objective), "bias": bias}


def network_alone(rank: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Layers inside a conditional, each sharded for itself, as large networks are."""
    objective = OBJECTIVES["policy"]()
    for layer in (objective.module.network[0], objective.module.projection, objective):
        fully_shard(layer)
    optimizer = adam(objective)
    gradients = train(objective, optimizer, rows_for("policy"), range(STEPS), (rank,), 2)
    assert isinstance(objective.module.projection, FSDPModule)
    return gradients, values_of(objective)


def policy_alone(rank: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A conditional under DDP itself, which returns distributions."""
    policy = OBJECTIVES["policy"]().module
    call = Loss(DistributedDataParallel(policy))
    gradients = train(call, adam(call), rows_for("policy"), range(STEPS), (rank,), 2)
    return (
        {name.replace("module.module.", "module."): g for name, g in gradients.items()},
        {f"module.{name}": whole(tensor) for name, tensor in policy.state_dict().items()},
    )


def saved(folder: Path, name: str, how: str, call: nn.Module, optimizer: Any) -> None:
    model, state = get_state_dict(call, optimizer)
    dcp.save({"model": model, "optimizer": state}, checkpoint_id=folder / f"{how}_{name}")


def loaded(folder: Path, title: str, call: nn.Module, optimizer: Any) -> None:
    model, state = get_state_dict(call, optimizer)
    stored = {"model": model, "optimizer": state}
    dcp.load(stored, checkpoint_id=folder / title)
    set_state_dict(
        call, optimizer, model_state_dict=stored["model"], optim_state_dict=stored["optimizer"]
    )


def checkpoints(rank: int, folder: Path) -> dict[str, Any]:
    """Go on where one process stopped; stop where one process will go on."""
    found: dict[str, Any] = {}
    for name in ("mixture", "policy", "between"):
        for how in ("ddp", "fsdp"):
            objective = OBJECTIVES[name]()
            call, optimizer = wrapped(objective, how), adam(objective)
            loaded(folder, f"one_{name}", call, optimizer)
            train(call, optimizer, rows_for(name), range(2, STEPS), (rank,), 2)
            found[f"{how}_{name}"] = values_of(objective)

            objective = OBJECTIVES[name]()
            call, optimizer = wrapped(objective, how), adam(objective)
            train(call, optimizer, rows_for(name), range(2), (rank,), 2)
            saved(folder, name, how, call, optimizer)
    return found


def job(rank: int, folder: Path) -> dict[str, Any]:
    return {
        "ddp": trained(rank, "ddp"),
        "fsdp": trained(rank, "fsdp"),
        "refusals": refusals(),
        "outside": uses_outside(),
        "meta": from_meta(),
        "network": network_alone(rank),
        "policy": policy_alone(rank),
        "checkpoints": checkpoints(rank, folder),
    }


# What came of it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Any]]:
    for name in ("mixture", "policy", "between"):
        objective = OBJECTIVES[name]()
        optimizer = adam(objective)
        train(objective, optimizer, rows_for(name), range(2), (0, 1), 2)
        saved(folder, name, "one", objective, optimizer)
    return in_processes(job, folder)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_as_one_that_has_all_data(
    results: list[dict[str, Any]], how: str, name: str
) -> None:
    gradients, values = alone(name, STEPS)
    start = values_of(OBJECTIVES[name]())
    assert gradients
    assert all(not torch.equal(values[k], start[k]) for k in gradients)
    for rank in (0, 1):
        assert_equal(results[rank][how][name][0], gradients)
        assert_equal(results[rank][how][name][1], values)


def test_numbers_without_dimensions_train_under_ddp(results: list[dict[str, Any]]) -> None:
    gradients, values = alone("gamma", STEPS)
    found, state = results[1]["ddp"]["scalars"]
    assert_equal({name: tensor[None] for name, tensor in found.items()}, gradients)
    assert_equal({name: tensor[None] for name, tensor in state.items()}, values)


@pytest.mark.parametrize("what", ["network", "policy"])
def test_a_part_of_an_objective_may_be_wrapped(results: list[dict[str, Any]], what: str) -> None:
    """Layers one by one under FSDP2, and a conditional under DDP."""
    gradients, values = alone("policy", STEPS)
    for rank in (0, 1):
        assert_equal(results[rank][what][0], gradients)
        assert_equal(results[rank][what][1], values)


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_is_not_sharded(results: list[dict[str, Any]], name: str) -> None:
    for said in results[0]["refusals"]["errors"][name]:
        assert said == (
            f"FieldError: {name}: expected an objective to be sharded, a module that returns "
            "tensors, got a family, whose distribution would outlive its gathered parameters. "
            "Shard what calls it: fully_shard(objective)."
        )


def test_numbers_without_dimensions_are_refused_by_name(results: list[dict[str, Any]]) -> None:
    said = results[0]["refusals"]["scalars"]
    assert said.startswith("ValueError: fully_shard doesn't support scalar parameters.")
    assert "raw_concentration" in said


def test_what_a_sharded_objective_still_allows(results: list[dict[str, Any]]) -> None:
    x = rows_for("gamma")[0]
    three = torch.full((1,), 3.0, dtype=torch.float64)
    expected = dd.Gamma(torch.ones_like(three), three)
    for rank in (0, 1):
        found = results[rank]["outside"]
        assert found["rate"].tolist() == [1.0]
        torch.testing.assert_close(found["unsharded"][0], expected.log_prob(x))
        torch.testing.assert_close(found["unsharded"][1], three)
        torch.manual_seed(0)
        torch.testing.assert_close(found["draws"], expected.rsample((3,)))
        assert found["reset"].tolist() == [1.0]
        assert found["line"].tolist() == [1.0, 1.0]


def test_shards_can_be_made_without_memory_for_the_whole(results: list[dict[str, Any]]) -> None:
    expected = values_of(OBJECTIVES["mixture"]())
    for rank in (0, 1):
        found = dict(results[rank]["meta"])
        assert found.pop("bias").tolist() == [0.0, 0.0]
        assert_equal(found, expected)


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", ["mixture", "policy", "between"])
def test_checkpoints_do_not_depend_on_how_many_processes_wrote_them(
    results: list[dict[str, Any]], folder: Path, name: str, how: str
) -> None:
    _, expected = alone(name, STEPS)
    for rank in (0, 1):
        assert_equal(results[rank]["checkpoints"][f"{how}_{name}"], expected)
    objective = OBJECTIVES[name]()
    optimizer = adam(objective)
    loaded(folder, f"{how}_{name}", objective, optimizer)
    train(objective, optimizer, rows_for(name), range(2, STEPS), (0, 1), 2)
    assert_equal(values_of(objective), expected)


# The example


def nats_by_hand(epochs: int) -> float:
    """The held-out log likelihood after a loop of plain torch, from the same start."""
    module = example("many_processes")
    images, labels = module.digits()
    digit = module.start().module
    network = nn.Sequential(*digit.network, digit.projection)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    shuffled = torch.Generator().manual_seed(1)
    for _ in range(epochs):
        order = torch.randperm(1438, generator=shuffled)
        for batch in order[:1408].split(64):
            optimizer.zero_grad()
            rows = batch + 359
            nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        return -nn.functional.cross_entropy(network(images[:359]), labels[:359]).item()


def torchrun(*arguments: str | Path) -> str:
    start = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return python("-W", "error", *start, *arguments)


@pytest.mark.usefixtures("one_thread")
def test_the_example_scores_alike_in_any_number_of_processes() -> None:
    path = EXAMPLES / "many_processes.py"
    runs = {
        "2 under FSDP2": torchrun(path, "--smoke", "--shard"),
        "1 under DDP": printed_by("many_processes"),
    }
    expected = nats_by_hand(3)
    for how, printed in runs.items():
        assert printed.startswith(f"{how}: ")
        nats, right = numbers_in(printed)
        assert nats == pytest.approx(expected, abs=1e-8)
        assert 80 < right < 95

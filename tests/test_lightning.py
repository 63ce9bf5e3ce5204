"""Objectives under Lightning's Trainer, in one process and in two."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch.distributions as dd
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from declarative_dist import Declarative, FullRankNormal, Joint, Param, Variational, learnable
from declarative_dist.errors import StateMismatchError, first_line
from declarative_dist.integrations.lightning import ObjectiveModule
from declarative_dist.objectives import NegativeELBO
from tests.processes import in_processes
from tests.sharing import OBJECTIVES, NegativeLogLikelihood, gamma, rows_for, values_of
from tests.states import assert_unchanged

pytestmark = [
    # One process alone is one of the cases.
    pytest.mark.filterwarnings(
        "ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning"
    ),
    pytest.mark.xdist_group("lightning"),  # the job of two processes is run once
]

EPOCHS = 2


def trainer(**options: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    options = {"enable_checkpointing": "callbacks" in options, **quiet, **options}
    return Trainer(accelerator="cpu", **options)


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def lbfgs(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    # After more iterations a search branches on the last digits of sums.
    return torch.optim.LBFGS(parameters, max_iter=5, line_search_fn="strong_wolfe")


def loader(name: str, batch_size: int = 8) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*rows_for(name)), batch_size)


def every_second(name: str, rank: int) -> DataLoader[Any]:
    """The rows of one of two processes, in order: the Trainer's own sampler would shuffle them."""
    rows = TensorDataset(*rows_for(name))
    return DataLoader(rows, 8, sampler=DistributedSampler(rows, 2, rank, shuffle=False))


def by_hand(
    name: str, batch_size: int, clip: float | None = None, epochs: int = EPOCHS
) -> dict[str, Tensor]:
    """The state after a loop of gradient descent that knows no Lightning."""
    objective = OBJECTIVES[name]()
    optimizer = sgd(list(objective.parameters()))
    for _ in range(epochs):
        for batch in zip(*(rows.split(batch_size) for rows in rows_for(name)), strict=True):
            optimizer.zero_grad()
            objective(*batch).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(objective.parameters(), clip)
            optimizer.step()
    return values_of(objective)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-12)


# One process


@pytest.mark.parametrize(("name", "clip"), [("gamma", None), ("mixture", None), ("policy", 0.05)])
def test_the_trainer_does_what_a_loop_does(name: str, clip: float | None) -> None:
    objective = OBJECTIVES[name]()
    run = trainer(max_epochs=EPOCHS, gradient_clip_val=clip)
    run.fit(ObjectiveModule(objective, sgd), loader(name))
    assert_equal(values_of(objective), by_hand(name, 8, clip))


def test_frozen_parameters_are_not_given_to_the_optimizer() -> None:
    seen: list[int] = []

    def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        seen.extend(map(id, parameters))
        return torch.optim.SGD(parameters, lr=0.1, weight_decay=0.5)

    objective = OBJECTIVES["between"]()
    frozen = objective.module.raw_shift.detach().clone()
    trainer(max_epochs=1).fit(ObjectiveModule(objective, optimizer), loader("between"))
    assert seen == [id(p) for p in objective.parameters() if p.requires_grad]
    assert torch.equal(objective.module.raw_shift, frozen)


def test_an_optimizer_may_be_given_itself_and_groups_work() -> None:
    objective = OBJECTIVES["mixture"]()
    loc = objective.module.component_distribution.loc.detach().clone()
    groups = objective.module.parameter_groups(mixture_distribution={"lr": 0.0})
    start = objective.module.mixture_distribution.probs.detach().clone()
    module = ObjectiveModule(objective, torch.optim.SGD(groups, lr=0.1))
    trainer(max_epochs=1).fit(module, loader("mixture"))
    assert torch.equal(objective.module.mixture_distribution.probs, start)
    assert not torch.equal(objective.module.component_distribution.loc, loc)


def test_a_schedule_comes_with_its_optimizer() -> None:
    rates: list[float] = []

    def scheduled(parameters: list[nn.Parameter]) -> dict[str, Any]:
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda epoch: rates.append(0.1 * 0.5**epoch) or 0.5**epoch
        )
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    module = ObjectiveModule(OBJECTIVES["gamma"](), scheduled)
    run = trainer(max_epochs=3)
    run.fit(module, loader("gamma"))
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**3)


def test_lbfgs_solves_a_normal_in_three_steps() -> None:
    x = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 2
    q = learnable(dd.Normal(torch.zeros((), dtype=torch.float64), 1.0))
    module = ObjectiveModule(NegativeLogLikelihood(q), lbfgs)
    trainer(max_epochs=3).fit(module, DataLoader(x, 50))  # type: ignore[arg-type]
    assert q.loc.item() == pytest.approx(x.mean().item(), abs=1e-4)
    assert q.scale.item() == pytest.approx(x.std(correction=0).item(), abs=1e-4)


class Divergence(nn.Module):
    def __init__(self, q: Variational) -> None:
        super().__init__()
        self.q = q
        self.calls = 0

    def forward(self) -> Tensor:
        self.calls += 1
        return dd.kl_divergence(self.q, dd.Normal(3.0, 2.0))


def test_an_objective_without_data_needs_no_loader() -> None:
    objective = Divergence(learnable(dd.Normal(0.0, 1.0)))
    run = trainer(max_epochs=2)
    run.fit(ObjectiveModule(objective, sgd, steps_per_epoch=7))
    assert objective.calls == run.global_step == 14
    by_step = Divergence(learnable(dd.Normal(0.0, 1.0)))
    trainer(max_steps=20).fit(ObjectiveModule(by_step))
    assert by_step.calls == 20


class Place(Declarative):
    x = Param([0.0])


def test_a_guide_finds_its_start_on_the_first_batch() -> None:
    batches = [torch.tensor([3000.0]), torch.tensor([-8.0])]
    seen: list[float] = []

    def log_joint(values: dict[str, Tensor], x: Tensor) -> Tensor:
        seen.append(x.item())
        return dd.Normal(values["x"], 0.1).log_prob(x).sum(-1)

    guide = FullRankNormal(Place())
    objective = NegativeELBO(log_joint, guide)
    trainer(max_epochs=2).fit(ObjectiveModule(objective), DataLoader(batches, batch_size=None))
    torch.testing.assert_close(guide.center, batches[0], rtol=1e-4, atol=0.0)
    assert seen[-4:] == [3000.0, -8.0, 3000.0, -8.0]
    assert set(seen[:-4]) == {3000.0}


class Pair(Joint):
    height = learnable(dd.Normal(0.0, 1.0))
    weight = learnable(dd.Normal(0.0, 1.0))


@pytest.mark.parametrize(("kind", "batches"), [
    ("a tensor", torch.arange(6.0)),
    ("a list", TensorDataset(torch.arange(6.0))),
    ("a dict", [{"height": torch.tensor(1.0 * i), "weight": torch.tensor(2.0)} for i in range(6)]),
])  # fmt: skip
def test_batches_of_any_form_and_means_over_all_rows(kind: str, batches: Any) -> None:
    q: Any = Pair() if kind == "a dict" else learnable(dd.Normal(0.0, 1.0))
    objective = NegativeLogLikelihood(q)
    run = trainer(max_epochs=1)
    module = ObjectiveModule(objective, lambda p: torch.optim.SGD(p, lr=0.0))
    run.fit(module, DataLoader(batches, 4), DataLoader(batches, 4))
    mean_square = (torch.arange(6.0) ** 2).mean().item()
    expected = 0.5 * mean_square + 0.918939
    if kind == "a dict":
        expected += 0.5 * 4 + 0.918939
    assert run.callback_metrics["val_loss"].item() == pytest.approx(expected, rel=1e-5)
    (tested,) = run.test(module, DataLoader(batches, 4), verbose=False)
    assert tested["test_loss"] == pytest.approx(expected, rel=1e-5)


def test_losses_can_be_watched(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, monitor="val_loss", save_last=True)
    stop = EarlyStopping("loss", patience=1, min_delta=10.0)
    run = trainer(max_epochs=9, callbacks=[best, stop])
    run.fit(ObjectiveModule(OBJECTIVES["gamma"](), sgd), loader("gamma"), loader("gamma", 5))
    assert run.current_epoch == 2
    assert best.best_model_score is not None
    assert best.best_model_score.item() == pytest.approx(run.callback_metrics["val_loss"].item())
    assert run.progress_bar_metrics.keys() == {"loss", "val_loss"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    run = trainer(max_epochs=EPOCHS)
    run.fit(ObjectiveModule(OBJECTIVES["mixture"](), torch.optim.Adam), loader("mixture"))
    run.save_checkpoint(tmp_path / "half.ckpt")
    return tmp_path / "half.ckpt"


def test_a_run_goes_on_from_a_checkpoint_as_if_undisturbed(checkpoint: Path) -> None:
    resumed, undisturbed = OBJECTIVES["mixture"](), OBJECTIVES["mixture"]()
    run = trainer(max_epochs=2 * EPOCHS)
    run.fit(
        ObjectiveModule(resumed, torch.optim.Adam), loader("mixture"), ckpt_path=str(checkpoint)
    )
    other = trainer(max_epochs=2 * EPOCHS)
    other.fit(ObjectiveModule(undisturbed, torch.optim.Adam), loader("mixture"))
    assert run.global_step == other.global_step
    assert_unchanged(resumed, undisturbed.state_dict())


def test_a_checkpoint_is_the_state_of_the_objective(checkpoint: Path) -> None:
    objective = OBJECTIVES["mixture"]()
    module = ObjectiveModule.load_from_checkpoint(checkpoint, objective=objective)
    assert module.objective is objective
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert saved.keys() == {f"objective.{name}" for name in objective.state_dict()}
    assert_equal({f"objective.{n}": t for n, t in values_of(objective).items()}, dict(saved))


def test_a_checkpoint_under_another_constraint_is_refused(tmp_path: Path) -> None:
    kept = ModelCheckpoint(tmp_path, save_last=True)
    run = trainer(max_epochs=1, callbacks=[kept])
    run.fit(ObjectiveModule(OBJECTIVES["gamma"](), sgd), loader("gamma"))

    other = learnable(dd.Gamma)(batch_shape=1)
    with pytest.raises(StateMismatchError, match="Gamma.rate: expected a state saved under"):
        ObjectiveModule.load_from_checkpoint(
            kept.last_model_path, objective=NegativeLogLikelihood(other)
        )


@pytest.mark.parametrize(("make", "message"), [
    (lambda: ObjectiveModule(3),
        ("ObjectiveModule(objective=): expected an objective: a module whose forward is a "
         "loss, got 3. Use one of declarative_dist.objectives: ")),
    (lambda: ObjectiveModule(gamma(), 0.1).configure_optimizers(),
        ("ObjectiveModule(optimizer=): expected an optimizer, or a callable from parameters to "
         "one, got 0.1. Write lambda parameters: torch.optim.SGD(parameters, lr=0.1).")),
    (lambda: ObjectiveModule(gamma(), steps_per_epoch=0),
        "ObjectiveModule(steps_per_epoch=): expected an int, 1 or more, got 0."),
    (lambda: ObjectiveModule(nn.Linear(2, 3)).training_step(torch.zeros(4, 2), 0),
        ("Linear.forward: expected a loss, a real tensor of shape () that depends on the "
         "parameters, got one of shape (4, 3)")),
])  # fmt: skip
def test_mistakes_are_told(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as seen:
        make()
    assert str(seen.value).startswith(message)


def test_without_lightning_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "declarative_dist.integrations.lightning"
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"pip install 'declarative-dist\[lightning\]'"):
        importlib.import_module(name)


# Two processes


def sharded() -> ModelParallelStrategy:
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)


def refusal_of(strategy: Any, objective: nn.Module, optimizer: Any) -> str:
    try:
        run = trainer(max_epochs=1, devices=2, strategy=strategy)
        run.fit(ObjectiveModule(objective, optimizer), loader("gamma"))
    except (TypeError, ValueError) as error:
        return first_line(error)
    return ""


def refusals() -> dict[str, str]:
    held = OBJECTIVES["gamma"]()
    return {
        "tensors": refusal_of(ModelParallelStrategy(), OBJECTIVES["gamma"](), sgd),
        "lbfgs": refusal_of(sharded(), OBJECTIVES["gamma"](), lbfgs),
        "early": refusal_of(sharded(), held, sgd(list(held.parameters()))),
    }


RUNS = [
    ("ddp", "policy", sgd),
    ("ddp", "mixture", lbfgs),
    ("fsdp", "mixture", sgd),
    ("fsdp", "policy", sgd),
]


def job(rank: int, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"refusals": refusals()}
    for how, name, optimizer in RUNS:
        objective = OBJECTIVES[name]()
        path = folder / how / name
        run = trainer(
            max_epochs=EPOCHS,
            devices=2,
            strategy="ddp" if how == "ddp" else sharded(),
            gradient_clip_val=0.05 if optimizer is sgd else None,
            callbacks=[ModelCheckpoint(path, filename="end", every_n_epochs=EPOCHS)],
        )
        seen, held_out = every_second(name, rank), loader(name)
        run.fit(ObjectiveModule(objective, optimizer), seen, held_out)
        losses = {key: value.item() for key, value in run.callback_metrics.items()}
        found[f"{how}_{name}"] = values_of(objective), losses
    for how in ("ddp", "fsdp"):
        objective = OBJECTIVES["without_data"]()
        run = trainer(max_epochs=EPOCHS, devices=2, strategy="ddp" if how == "ddp" else sharded())
        torch.manual_seed(rank)
        run.fit(ObjectiveModule(objective, sgd, steps_per_epoch=3))
        found[f"{how}_without_data"] = values_of(objective), run.global_step
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trainers")


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Any]]:
    return in_processes(job, folder)


@pytest.mark.parametrize(("how", "name"), [run[:2] for run in RUNS if run[2] is sgd])
def test_two_processes_descend_as_one(results: list[dict[str, Any]], how: str, name: str) -> None:
    expected = by_hand(name, 16, 0.05)
    objective = OBJECTIVES[name]()
    objective.load_state_dict(expected)
    rows = rows_for(name)
    whole = objective(*rows).item()
    for rank in (0, 1):
        found, losses = results[rank][f"{how}_{name}"]
        assert_equal(found, expected)
        assert losses["val_loss"] == pytest.approx(whole, rel=1e-6)
    assert results[0][f"{how}_{name}"][1] == results[1][f"{how}_{name}"][1]


def test_line_searches_of_two_processes_agree_with_those_of_one(
    results: list[dict[str, Any]],
) -> None:
    objective = OBJECTIVES["mixture"]()
    trainer(max_epochs=EPOCHS).fit(ObjectiveModule(objective, lbfgs), loader("mixture", 16))
    first, second = (found["ddp_mixture"] for found in results)
    assert first[1] == second[1]
    for key, value in values_of(objective).items():
        torch.testing.assert_close(first[0][key], value, rtol=1e-9, atol=1e-9)
        assert torch.equal(second[0][key], first[0][key])


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_draws_of_two_processes_are_averaged(results: list[dict[str, Any]], how: str) -> None:
    objective = OBJECTIVES["without_data"]()
    optimizer = sgd(list(objective.parameters()))
    states = []
    for rank in (0, 1):
        torch.manual_seed(rank)
        states.append(torch.get_rng_state())
    for _ in range(2 * 3):
        optimizer.zero_grad()
        for rank in (0, 1):
            torch.set_rng_state(states[rank])
            (objective() / 2).backward()
            states[rank] = torch.get_rng_state()
        optimizer.step()
    for rank in (0, 1):
        found, steps = results[rank][f"{how}_without_data"]
        assert steps == 6
        assert_equal(found, values_of(objective))


@pytest.mark.usefixtures("results")
def test_one_process_reads_the_checkpoints_of_two(folder: Path) -> None:
    expected = by_hand("policy", 16, 0.05)
    module = ObjectiveModule.load_from_checkpoint(
        folder / "ddp" / "policy" / "end.ckpt", objective=OBJECTIVES["policy"]()
    )
    assert_equal(values_of(module.objective), expected)
    other = ObjectiveModule(OBJECTIVES["policy"]())
    stored = {"state_dict": other.state_dict()}
    dcp.load(stored, checkpoint_id=folder / "fsdp" / "policy" / "end.ckpt")
    other.load_state_dict(stored["state_dict"])
    assert_equal(values_of(other.objective), expected)


REFUSALS = {
    "tensors": ": expected processes that each have their own part of the data, got 2 that share "
    "tensors. Write ModelParallelStrategy(data_parallel_size=n, tensor_parallel_size=1).",
    "lbfgs": "(optimizer=): expected an optimizer that treats parameters one by one, for they are "
    'sharded, got LBFGS. Train with Trainer(strategy="ddp").',
    "early": "(optimizer=): expected an optimizer of the parameters of "
    "FSDPNegativeLogLikelihood, got one that also has a tensor of shape (1,) with values "
    "[0.5413248546129181]. Make it from objective.parameters(), or give a callable: sharding "
    "replaces them.",
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_sharded_is_told(results: list[dict[str, Any]], case: str) -> None:
    said = f"ObjectiveModule{REFUSALS[case]}"
    assert [found["refusals"][case] for found in results] == [said, said]

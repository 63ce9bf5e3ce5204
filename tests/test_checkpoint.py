"""Checkpoints: what is resumed is what was never interrupted, and nothing else is taken."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributions as dd
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from declarative_dist import (
    ConstraintError,
    Exp,
    NonFiniteError,
    Param,
    Positive,
    StateMismatchError,
    fit,
)
from declarative_dist.fitting import checkpoint
from declarative_dist.fitting.checkpoint import read_state
from tests.cases import GammaFamily
from tests.states import assert_unchanged, state_of
from tests.test_fit import OPTIMIZERS

X = dd.Gamma(2.0, 3.0).sample((10,))


class Family(GammaFamily):
    concentration = Param(1.0, Positive(), shape=("d",))


class Likelihood(nn.Module):
    """With all that a state can hold: buffers, dropout, and random numbers of three kinds."""

    def __init__(self, d: int = 1):
        super().__init__()
        self.q = Family(d=d)
        self.norm = nn.BatchNorm1d(1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x=X):
        noise = torch.rand(()) + random.random() + np.random.rand()
        normed = self.norm(x[:, None] * 1.5 + noise)
        return -self.q.log_prob(x[:, None]).mean() + self.dropout(normed**2).mean()


def seed() -> None:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)


def loader(**options):
    return DataLoader(TensorDataset(X), 4, shuffle=True, **options)


DATA = {
    "none": dict,
    "whole": lambda: {"data": X},
    "mini-batches": lambda: {"data": X, "batch_size": 4},
    "dict": lambda: {"data": {"x": X}, "batch_size": 6},
    "loader": lambda: {"data": loader()},
    "seeded loader": lambda: {"data": loader(generator=torch.Generator().manual_seed(5))},
    "list": lambda: {"data": [X[:4], X[4:]]},
}


class Named(Likelihood):
    def forward(self, batch):
        return super().forward(batch["x"])


def state(objective, history):
    return [history.losses, history.values, history.steps], objective.state_dict()


def assert_same(mine, theirs) -> None:
    assert mine[0] == theirs[0]
    assert mine[1].keys() == theirs[1].keys()
    for name, tensor in mine[1].items():
        assert torch.equal(tensor, theirs[1][name]), name


def trained(objective, path, data=lambda: {"data": X}, optimizer="Adam", **options):
    """The objective and its history, from what the checkpoint has on."""
    make = OPTIMIZERS.get(optimizer, optimizer)
    settings = {"optimizer": make, "checkpoint": path, "resume": True}
    return objective, fit(objective, **{**settings, **data(), **options})


def undisturbed(kind, data, steps, optimizer="Adam"):
    seed()
    objective = kind()
    history = fit(objective, **data(), steps=steps, optimizer=OPTIMIZERS[optimizer])
    return state(objective, history), torch.rand(3), random.random(), np.random.rand(3)


@pytest.mark.parametrize(
    ("name", "cut"), [*((name, 7) for name in DATA), ("list", 6), ("seeded loader", 6)]
)
def test_more_steps_are_as_if_never_ended(name: str, cut: int, tmp_path: Path) -> None:
    kind = Named if name == "dict" else Likelihood
    expected, *numbers = undisturbed(kind, DATA[name], 11)
    seed()
    trained(kind(), tmp_path / "a", DATA[name], steps=cut)
    torch.rand(7), random.random(), np.random.rand()
    assert_same(state(*trained(kind(), tmp_path / "a", DATA[name], steps=11)), expected)
    assert torch.equal(torch.rand(3), numbers[0])
    assert random.random() == numbers[1]
    assert (np.random.rand(3) == numbers[2]).all()


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [("whole", "LBFGS"), ("mini-batches", "Adam"), ("mini-batches", "AdamW"), ("loader", "SGD")],
)
def test_ctrl_c_in_any_step_and_resume(name: str, optimizer: str, tmp_path: Path) -> None:
    expected, *_ = undisturbed(Likelihood, DATA[name], 9, optimizer)
    path = tmp_path / "fit.pt"
    seed()

    class Interrupted(Likelihood):
        calls = 0

        def forward(self, x):
            self.calls += 1
            loss = super().forward(x)  # the random numbers of the step are drawn
            if self.calls == (14 if optimizer == "LBFGS" else 6):  # behind the first epoch
                raise KeyboardInterrupt
            return loss

    Interrupted.__qualname__ = Likelihood.__qualname__
    for turn in range(20):
        objective, history = trained(Interrupted(), path, DATA[name], optimizer, steps=9)
        if not history.interrupted:
            break
        torch.rand(turn), random.random()
    assert turn > 0
    assert_same(state(objective, history), expected)


def test_ctrl_c_in_a_callback_or_a_write_saves_the_step(tmp_path: Path, monkeypatch) -> None:
    expected, *_ = undisturbed(Likelihood, DATA["mini-batches"], 9)

    def stop(step, loss, module):
        if step == 4:
            raise KeyboardInterrupt

    def go(callbacks=()):
        options = {"steps": 9, "every": 2, "callbacks": callbacks}
        return trained(Likelihood(), tmp_path / "a", DATA["mini-batches"], **options)

    seed()
    assert go(stop)[1].step == 4
    write, calls = checkpoint.write_state, []

    def interrupted(path, state):
        calls.append(state)
        if len(calls) == 1:
            raise KeyboardInterrupt
        write(path, state)

    monkeypatch.setattr(checkpoint, "write_state", interrupted)
    history = go()[1]
    assert (history.step, history.interrupted) == (6, True)
    assert_same(state(*go()), expected)


@pytest.mark.parametrize("steps", [3, 2])
def test_a_finished_fit_gives_its_history_and_its_state(steps: int, tmp_path: Path) -> None:
    first = Likelihood()
    done = fit(first, X, steps=3, checkpoint=tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    second = Likelihood()
    again = fit(
        second,
        X,
        steps=steps,
        checkpoint=tmp_path / "a",
        resume=True,
        callbacks=lambda *_: pytest.fail("no step is left"),
    )
    assert_same(state(second, again), state(first, done))
    assert (tmp_path / "a").read_bytes() == before


def test_a_file_of_an_earlier_fit_is_replaced_only_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "a"
    fit(Likelihood(), X, steps=5, checkpoint=path)
    written = path.read_bytes()
    text = "expected a new file, got .*a, which has 5 steps of a fit. Write resume=True"
    with pytest.raises(ConstraintError, match=text):
        fit(Likelihood(), X, steps=2, checkpoint=path)
    assert path.read_bytes() == written
    with pytest.raises(ConstraintError, match=r"fit\(overwrite=\): .* got resume=True too"):
        fit(Likelihood(), X, steps=2, checkpoint=path, resume=True, overwrite=True)
    fit(Likelihood(), X, steps=2, checkpoint=path, overwrite=True)
    assert fit(Likelihood(), X, steps=2, checkpoint=path, resume=True).step == 2
    path.write_text("something else")
    fit(Likelihood(), X, steps=2, checkpoint=path, overwrite=True)
    assert len(read_state(path)["history"]["losses"]) == 2


def test_an_existing_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a"
    fit(Likelihood(), X, steps=1, checkpoint=path)
    path.chmod(0o640)
    fit(Likelihood(), X, steps=2, checkpoint=path, resume=True)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(("name", "every", "last"), [
    ("whole", 3, 8), ("loader", None, 6), ("loader", 2, 6),
])  # fmt: skip
def test_it_is_written_every_so_many_steps_or_at_the_end_of_an_epoch(
    name: str, every: int | None, last: int, tmp_path: Path
) -> None:
    path, steps = tmp_path / "a", []

    def look(*_):
        found = read_state(path)
        steps.append(0 if found is None else len(found["history"]["losses"]))

    fit(Likelihood(), **DATA[name](), steps=8, checkpoint=path, every=every, callbacks=look)
    assert steps == [0, 0, 0, 3, 3, 3, 6, 6]
    look()
    assert steps[-1] == last
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


def test_a_fit_that_ends_in_its_first_epoch_says_that_it_wrote_nothing(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="has written nothing: .* at the end of an epoch"):
        fit(Likelihood(), loader(), steps=2, checkpoint=tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_has_what_a_callback_changed(tmp_path: Path) -> None:
    def go(steps, resume):
        objective = Likelihood()
        optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)

        def halve(step, loss, module):
            optimizer.param_groups[0]["lr"] /= 2

        options = {"steps": steps, "resume": resume, "callbacks": halve}
        trained(objective, tmp_path / "a", **options, optimizer=optimizer)
        return optimizer.param_groups[0]["lr"]

    go(2, resume=False)
    assert go(3, resume=True) == 0.1 / 8


def test_a_stopped_fit_goes_on(tmp_path: Path) -> None:
    history = fit(
        Likelihood(), X, steps=5, checkpoint=tmp_path / "a", callbacks=lambda step, *_: step == 2
    )
    assert (history.step, history.stopped) == (2, True)
    history = fit(Likelihood(), X, steps=5, checkpoint=tmp_path / "a", resume=True)
    assert (history.step, history.stopped) == (5, False)


# What is refused


class Other(Likelihood):
    pass


class OtherFamily(Family):
    concentration = Param(1.0, Exp(), shape=("d",))


def with_family(family: nn.Module) -> nn.Module:
    objective = Likelihood()
    objective.q = family
    return objective


OtherFamily.__qualname__ = Family.__qualname__
MISMATCHES = {
    "class": (Other, {}, "the objective: expected Other, got a checkpoint of Likelihood."),
    "inner class":
        (lambda: with_family(nn.Linear(1, 1)), {}, "q: expected Linear, got a checkpoint of Fa"),
    "shape": (lambda: Likelihood(3), {},
        "Likelihood.q.raw_concentration: expected a tensor of shape (3,) and torch.float32, got"),
    "dtype": (lambda: Likelihood().double(), {}, "and torch.float64"),
    "constraint": (lambda: with_family(OtherFamily(d=1)), {}, "saved under"),
    "optimizer": (Likelihood, {"optimizer": OPTIMIZERS["SGD"]},
        "(optimizer): expected SGD for groups of [4] parameters, got a checkpoint of Adam"),
    "groups": (Likelihood, {"optimizer": lambda ps: torch.optim.Adam([{"params": p} for p in ps])},
        "(optimizer): expected Adam for groups of [1, 1, 1, 1] parameters, got a checkpoint of"),
    "batch_size": (Likelihood, {"batch_size": 5}, "batch_size=5 of 10 rows, got a checkpoint of"),
    "rows": (Likelihood, {"data": X[:8]}, "got a checkpoint of batch_size=4 of 10 rows."),
    "loader": (Likelihood, {"data": loader(), "batch_size": None}, "expected a DataLoader with 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISMATCHES)
def test_a_checkpoint_of_something_else_is_refused_and_kept(name: str, tmp_path: Path) -> None:
    make, options, text = MISMATCHES[name]
    path = tmp_path / "fit.pt"
    common = {"data": X, "batch_size": 4, "steps": 3, "checkpoint": path}
    fit(Likelihood(), **common)
    written = path.read_bytes()
    objective = make()
    before, random_numbers = state_of(objective), torch.get_rng_state()
    with pytest.raises(StateMismatchError) as caught:
        fit(objective, **{**common, "steps": 5, "resume": True, **options})
    assert text in str(caught.value)
    assert path.read_bytes() == written
    assert torch.equal(torch.get_rng_state(), random_numbers)
    assert_unchanged(objective, before)


def whole(path: Path) -> bytes:
    fit(Likelihood(), X, steps=2, checkpoint=path, overwrite=True)
    return path.read_bytes()


def other_file(path: Path) -> bytes:
    torch.save({"state": torch.ones(3)}, path)
    return path.read_bytes()


def saved_again(path: Path) -> bytes:
    """By hand, and so without a digest, as files of earlier versions are."""
    whole(path)
    torch.save(torch.load(path, weights_only=True), path)
    return path.read_bytes()


FOREIGN = {
    "truncated": lambda path: whole(path)[:-500],
    "empty": lambda path: b"",
    "text": lambda path: b"name,value\n1,2\n" * 50,
    "other file of torch": other_file,
    "whole module": lambda path: (torch.save(Likelihood(), path), path.read_bytes())[1],
    "saved again": saved_again,
}


@pytest.mark.parametrize(
    ("name", "resume"), [*((name, True) for name in FOREIGN), ("truncated", False)]
)
def test_a_foreign_file_is_refused_and_kept(name: str, resume: bool, tmp_path: Path) -> None:
    path = tmp_path / "fit.pt"
    content = FOREIGN[name](path)
    path.write_bytes(content)
    objective = Likelihood()
    with pytest.raises(StateMismatchError, match="expected a checkpoint of fit .* not touched"):
        fit(objective, X, steps=3, checkpoint=path, resume=resume)
    assert path.read_bytes() == content
    assert_same(([], objective.state_dict()), ([], Likelihood().state_dict()))
    assert [one.name for one in tmp_path.iterdir()] == ["fit.pt"]


def test_a_link_stays_a_link_and_a_path_may_be_a_string(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    fit(Likelihood(), X, steps=2, checkpoint=str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert read_state(tmp_path / "real") is not None


def test_a_flipped_byte_anywhere_is_noticed_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "fit.pt"
    written = whole(path)
    objective = Likelihood()
    before, numbers = state_of(objective), torch.get_rng_state()
    for at in range(0, len(written), max(1, len(written) // 50)):
        path.write_bytes(written[:at] + bytes([written[at] ^ 1]) + written[at + 1 :])
        with pytest.raises(StateMismatchError, match="got a file that is damaged"):
            fit(objective, X, steps=5, checkpoint=path, resume=True)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert_unchanged(objective, before)


def test_a_checkpoint_of_numbers_that_are_not_finite_changes_nothing(tmp_path: Path) -> None:
    def spoil(step, loss, module):
        module.q.raw_rate.data.fill_(torch.nan)

    fit(Likelihood(), X, steps=1, checkpoint=tmp_path / "a", callbacks=spoil)
    objective, numbers = Likelihood(), torch.get_rng_state()
    objective.norm.running_mean += 1.0
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.5)
    options = {"steps": 5, "checkpoint": tmp_path / "a", "resume": True, "optimizer": optimizer}
    with pytest.raises(NonFiniteError, match="Family.rate: .* raw_rate = nan in the checkpoint"):
        fit(objective, X, **options)
    assert objective.q.rate == 1.0
    assert objective.norm.running_mean == 1.0
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert not optimizer.state
    assert torch.equal(torch.get_rng_state(), numbers)


def test_two_processes_write_beside_each_other(tmp_path: Path) -> None:
    running = tmp_path / f".a.{os.getppid()}.partial"
    running.touch()
    (tmp_path / ".a.999999999.partial").touch()  # of a process that was killed
    fit(Likelihood(), X, steps=1, checkpoint=tmp_path / "a")
    assert sorted(one.name for one in tmp_path.iterdir()) == [running.name, "a"]


def test_a_state_that_nobody_could_read_again_is_refused_when_written(tmp_path: Path) -> None:
    class Odd(Likelihood):
        def get_extra_state(self):
            return {"date": Path()}

        def set_extra_state(self, state):
            pass

    with pytest.raises(StateMismatchError, match="got pathlib.PosixPath. Have state_dict"):
        fit(Odd(), X, steps=2, checkpoint=tmp_path / "a")
    assert not list(tmp_path.iterdir())


EMPTIED = {
    "optimizer": (lambda state: state["optimizer"]["state"].clear(), r"\(optimizer state\)"),
    "an entry": (lambda state: state["optimizer"]["state"][0].clear(), r"\(optimizer state\)"),
}


@pytest.mark.parametrize("name", EMPTIED)
def test_a_checkpoint_that_lacks_something_is_told(name: str, tmp_path: Path) -> None:
    spoil, text = EMPTIED[name]
    whole(tmp_path / "a")
    state = read_state(tmp_path / "a")
    spoil(state)
    checkpoint.write_state(tmp_path / "a", state)
    objective = Likelihood()
    with pytest.raises(StateMismatchError, match=text):
        fit(objective, X, steps=5, checkpoint=tmp_path / "a", resume=True)
    assert_same(([], objective.state_dict()), ([], Likelihood().state_dict()))

"""Faults from outside: killed processes, Ctrl-C from a terminal, full disks, closed folders."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributions as dd
from torch import nn

from declarative_dist import ConstraintError, fit, learnable
from declarative_dist.fitting.checkpoint import read_state
from tests.commands import ROOT, python

# The import of torch is what takes long: one process has it, and forks those that are killed.
KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
import torch._dynamo  # which an optimizer imports at its first step
from torch import nn
from declarative_dist import Exp, Param, Variational, fit
from declarative_dist.fitting.checkpoint import read_state

folder, kills = Path(sys.argv[1]), 5
random.seed(0)
quick = os.fsync
os.fsync = lambda descriptor: (time.sleep(0.005), quick(descriptor))  # a slow disk
path = folder / "fit.pt"


class Objective(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(200_000))

    def forward(self, x):
        return ((x.mean() - self.weights[:10]) ** 2).sum() + torch.rand(()) * self.weights.sum()


def train(name):
    torch.manual_seed(0)
    objective, x = Objective(), torch.arange(30.0)
    history = fit(objective, x, steps=80, batch_size=4, checkpoint=folder / name, every=1,
                  resume=True)
    told = {"losses": history.losses, "weights": objective.weights[::1000].tolist()}
    (folder / f"{name}.json").write_text(json.dumps(told))


def forked(name):
    child = os.fork()
    if child == 0:
        try:
            train(name)
        finally:
            os._exit(0)
    return child


def stamp():
    return path.stat().st_mtime_ns if path.exists() else 0


os.waitpid(forked("undisturbed"), 0)
during = 0
reached = []
while during < kills and len(reached) < 4 * kills:  # a busy machine misses some
    child = forked("fit.pt")
    beside = folder / f".fit.pt.{child}.partial"
    end = time.monotonic() + 10
    for write in range(random.randint(0, 4)):  # those that it may finish
        before = stamp()
        while stamp() == before and time.monotonic() < end:
            time.sleep(0.001)
    while not beside.exists() and time.monotonic() < end:
        pass
    time.sleep(random.uniform(0.0, 0.003))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    during += beside.exists()
    state = read_state(path)  # raises for anything but a whole one
    reached.append(0 if state is None else len(state["history"]["losses"]))
os.waitpid(forked("fit.pt"), 0)
same = (folder / "fit.pt.json").read_text() == (folder / "undisturbed.json").read_text()
print(json.dumps({"during": during, "reached": reached, "same": same,
                  "files": sorted(one.name for one in folder.iterdir())}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_five_times_while_it_writes(tmp_path: Path) -> None:
    told = json.loads(python("-c", KILLED, tmp_path))
    assert told["same"]
    assert told["during"] == 5
    assert told["reached"] == sorted(told["reached"])
    assert 0 < told["reached"][-1] < 80
    names = ["fit.pt", "fit.pt.json", "undisturbed", "undisturbed.json"]
    assert told["files"] == names


INTERRUPTED = """
import json, signal, sys, time
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from declarative_dist import fit


class Slow(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        time.sleep(0.002)
        return torch.tensor(float(index))


class Objective(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return ((x.mean() - self.weight) ** 2)


def main():
    objective = Objective()
    workers = int(sys.argv[1])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    # Python drops an interruption that meets a fork, so the workers are forked once.
    data = DataLoader(Slow(), batch_size=4, num_workers=workers, persistent_workers=workers > 0)
    def tell(step, loss, module):
        if step == 5:
            print("running", flush=True)
    history = fit(objective, data, steps=100_000, checkpoint=sys.argv[2], callbacks=tell)
    print(json.dumps([history.interrupted, history.losses]), flush=True)


main()
"""


def test_ctrl_c_of_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "fit.pt"
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, "2", path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "running\n"
    time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    interrupted, losses = json.loads(out)
    assert interrupted
    assert len(losses) >= 5
    written = read_state(path)["history"]["losses"].tolist()
    assert written == losses[: len(written)]
    behind = len(losses) - len(written)  # in the epoch, and a file that was being written
    assert len(written) % 3 == 0
    assert behind <= 5


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.q = learnable(dd.Normal(0.0, 1.0))
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x):
        return self.norm((x - self.q.rsample((len(x),)))[:, None]).exp().mean()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer of the system")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file left open
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.LBFGS])
def test_interrupted_anywhere_at_all(optimizer: type, tmp_path: Path) -> None:
    steps = 120 if optimizer is torch.optim.Adam else 30
    options = {"data": torch.arange(50.0), "batch_size": 8, "steps": steps, "optimizer": optimizer}
    torch.manual_seed(1)
    expected = Noisy()
    reference = fit(expected, **options)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    chance, turns, history = random.Random(0), 0, None
    torch.manual_seed(1)
    start = torch.get_rng_state()
    try:
        while history is None or history.interrupted:
            turns += 1
            objective = Noisy()
            if not (tmp_path / "a").exists():
                torch.set_rng_state(start)
            try:
                # Later and later, so that it comes to an end on any machine.
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.001, 0.01 + turns / 2000))
                history = fit(objective, **options, checkpoint=tmp_path / "a", resume=True)
            except KeyboardInterrupt:  # before or behind the loop
                history = None
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert torch.is_grad_enabled()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert turns > 3
    assert history.losses == reference.losses
    assert history.values == reference.values
    for name, tensor in objective.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[name]), name


class Objective(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(200_000))

    def forward(self):
        return ((self.weight[:5] - 1) ** 2).sum()


@pytest.fixture
def small_disk(tmp_path: Path):
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if not done or done.returncode:
        pytest.skip("needs the right to mount")
    yield place
    subprocess.run([shutil.which("umount"), str(place)], check=True)


def test_a_full_disk_leaves_the_old_checkpoint(small_disk: Path) -> None:
    path = small_disk / "fit.pt"
    fit(Objective(), steps=1, checkpoint=path)  # weights and two averages: 2.4 MB
    written = path.read_bytes()
    objective = Objective()
    with pytest.raises(OSError, match="No space left") as caught:
        fit(objective, steps=5, checkpoint=path, every=3, resume=True)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.history.step == 3
    assert path.read_bytes() == written
    assert os.listdir(small_disk) == ["fit.pt"]  # noqa: PTH208
    # The steps are not lost: the module has them.
    theirs = Objective()
    fit(theirs, steps=3)
    assert torch.equal(objective.weight, theirs.weight)


def below_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("mine")
    return tmp_path / "file" / "fit.pt"


PLACES = {
    "below a file": (below_a_file, ConstraintError),
    "no such folder": (lambda tmp_path: tmp_path / "none" / "fit.pt", ConstraintError),
    "a system of the kernel": (lambda tmp_path: Path("/proc/fit.pt"), OSError),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_place_that_cannot_be_written_is_refused_before_the_first_step(
    name: str, tmp_path: Path
) -> None:
    make, kind = PLACES[name]
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    objective = Objective()
    with pytest.raises(kind, match=r"fit\.pt"):
        fit(objective, steps=2, checkpoint=path)
    assert not objective.weight.any()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        fit(Objective(), steps=2, checkpoint=tmp_path)


def test_an_error_in_a_step_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "fit.pt"

    def fail(step, loss, module):
        if step == 5:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(Objective(), steps=9, checkpoint=path, every=2, callbacks=fail)
    assert len(read_state(path)["history"]["losses"]) == 4

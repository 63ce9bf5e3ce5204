"""The loop: against the loop written by hand, its data, callbacks, bar, and bad arguments."""

from __future__ import annotations

import functools
import io
import itertools
import sys
import warnings

import numpy as np
import pytest
import torch
import torch.distributions as dd
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.distributions import Distribution
from torch.utils.data import DataLoader, TensorDataset

from declarative_dist import (
    Constraint,
    Declarative,
    Exp,
    MeanFieldNormal,
    Param,
    Positive,
    Variational,
    fit,
    learnable,
)
from declarative_dist.errors import (
    ConstraintError,
    DeclarationError,
    NonFiniteError,
)
from declarative_dist.fitting import History
from tests.cases import GammaFamily


class Likelihood(nn.Module):
    def __init__(self, q=None):
        super().__init__()
        self.q = GammaFamily() if q is None else q

    def forward(self, x):
        return -self.q.log_prob(x).mean()


class Reverse(nn.Module):
    """A loss that draws random numbers."""

    def __init__(self, q=None):
        super().__init__()
        self.q = GammaFamily() if q is None else q
        self.target = dd.Gamma(5.0, 5.0)

    def forward(self):
        x, log_q = self.q.rsample_and_log_prob((20,))
        return (log_q - self.target.log_prob(x)).mean()


def by_hand(objective, optimizer, batches, steps) -> list[float]:
    losses = []
    for _ in range(steps):
        batch = next(batches)

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = objective(*batch)
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).item())
    return losses


def always(*batch):
    while True:
        yield batch


def drawn(tensors, size):
    while True:
        order = torch.randperm(len(tensors[0]))
        for start in range(0, len(order), size):
            yield tuple(tensor[order[start : start + size]] for tensor in tensors)


def through(loader):
    while True:
        yield from map(tuple, loader)


def assert_same(mine: nn.Module, theirs: nn.Module) -> None:
    mine, theirs = mine.state_dict(), theirs.state_dict()
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert torch.equal(mine[name], theirs[name]), name


OPTIMIZERS = {
    "Adam": functools.partial(torch.optim.Adam, lr=0.05),
    "SGD": functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    "LBFGS": functools.partial(torch.optim.LBFGS, lr=0.5, max_iter=4),
    "AdamW": functools.partial(torch.optim.AdamW, lr=0.05, amsgrad=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_whole_data_against_the_loop_by_hand(name: str) -> None:
    x = dd.Gamma(2.0, 3.0).sample((50,))
    mine, theirs = Likelihood(), Likelihood()
    history = fit(mine, x, steps=30, optimizer=OPTIMIZERS[name])
    losses = by_hand(theirs, OPTIMIZERS[name](theirs.parameters()), always(x), 30)
    assert history.losses == losses
    assert_same(mine, theirs)


@pytest.mark.parametrize(("make", "lr"), [
    (torch.optim.SGD, 0.3), (lambda p, **o: torch.optim.SGD(p, **o), 0.3),
    (OPTIMIZERS["Adam"], None), (OPTIMIZERS["LBFGS"], None),
], ids=["class", "function", "Adam", "LBFGS"])  # fmt: skip
def test_a_random_loss_against_the_loop_by_hand(make, lr) -> None:
    """An optimizer that fit makes takes the rate, and one that is made has its own."""
    mine, theirs = Reverse(), Reverse()
    torch.manual_seed(1)
    given = {"lr": lr, "optimizer": make} if lr else {"optimizer": make(mine.parameters())}
    history = fit(mine, steps=10, **given)
    torch.manual_seed(1)
    optimizer = make(theirs.parameters(), **({"lr": lr} if lr else {}))
    assert history.losses == by_hand(theirs, optimizer, always(), 10)
    assert_same(mine, theirs)


def test_mini_batches_against_the_loop_by_hand() -> None:
    x, weight = dd.Gamma(2.0, 3.0).sample((10,)), torch.rand(10)

    class Weighted(Likelihood):
        def forward(self, x, weight):
            return -(weight * self.q.log_prob(x)).mean()

    mine, theirs = Weighted(), Weighted()
    torch.manual_seed(1)
    history = fit(mine, (x, weight), steps=23, lr=0.1, batch_size=4)
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.1, fused=True)
    assert history.losses == by_hand(theirs, optimizer, drawn((x, weight), 4), 23)
    assert_same(mine, theirs)


def test_an_epoch_has_every_row_once() -> None:
    rows = []

    class Recorder(Likelihood):
        def forward(self, x):
            rows.append(x.tolist())
            return super().forward(x)

    fit(Recorder(), torch.arange(1.0, 8.0), steps=6, batch_size=3)
    for epoch in (rows[:3], rows[3:]):
        assert [len(batch) for batch in epoch] == [3, 3, 1]
        assert sorted(itertools.chain(*epoch)) == [1, 2, 3, 4, 5, 6, 7]
    assert rows[:3] != rows[3:]


def test_a_loader_against_the_loop_by_hand() -> None:
    x = dd.Gamma(2.0, 3.0).sample((10,))

    def loader():
        return DataLoader(TensorDataset(x), 4, shuffle=True)

    mine, theirs = Likelihood(), Likelihood()
    torch.manual_seed(1)
    history = fit(mine, loader(), steps=7, lr=0.1)
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.1)
    assert history.losses == by_hand(theirs, optimizer, through(loader()), 7)
    assert_same(mine, theirs)


def test_kinds_of_data_give_the_same_batches() -> None:
    x = dd.Gamma(2.0, 3.0).sample((10,))

    class Named(Likelihood):
        def forward(self, batch):
            return super().forward(batch["x"])

    expected = fit(Likelihood(), x, steps=3).losses
    assert fit(Likelihood(), (x,), steps=3).losses == expected
    assert fit(Likelihood(), [x], steps=3).losses == expected
    assert fit(Likelihood(), [(x,), [x]], steps=3).losses == expected
    assert fit(Likelihood(), iter([x, x, x]), steps=3).losses == expected
    assert fit(Named(), {"x": x}, steps=3).losses == expected
    assert fit(Named(), [{"x": x}], steps=3).losses == expected
    torch.manual_seed(0)
    drawn_losses = fit(Likelihood(), x, steps=5, batch_size=4).losses
    torch.manual_seed(0)
    assert fit(Named(), {"x": x}, steps=5, batch_size=4).losses == drawn_losses


def test_only_what_is_trainable_is_trained() -> None:
    q = GammaFamily(concentration=2.0)
    q.freeze("concentration")
    before = q.raw_concentration.clone()
    held = []

    def make(parameters):
        held.extend(parameters)
        return torch.optim.SGD(parameters, lr=0.1, weight_decay=0.1)

    history = fit(Likelihood(q), torch.ones(3), steps=3, optimizer=make)
    assert torch.equal(q.raw_concentration, before)
    assert len(held) == 1
    assert held[0] is q.raw_rate
    assert list(history.values) == ["rate"]


def test_it_runs_under_no_grad() -> None:
    with torch.no_grad():
        history = fit(Likelihood(), torch.ones(3), steps=3)
    assert history.losses[2] < history.losses[0]


# Callbacks


def test_callbacks_see_every_step() -> None:
    objective, seen, others = Likelihood(), [], []
    history = fit(
        objective,
        torch.ones(3),
        steps=4,
        callbacks=[lambda *call: seen.append(call), lambda step, *_: others.append(step)],
    )
    assert [step for step, _, _ in seen] == others == [1, 2, 3, 4]
    assert [loss for _, loss, _ in seen] == history.losses
    assert all(module is objective for _, _, module in seen)


@pytest.mark.parametrize("true", [True, np.True_, torch.tensor(True)])
def test_true_from_a_callback_stops(true: object) -> None:
    after = []
    history = fit(
        Likelihood(),
        torch.ones(3),
        steps=9,
        callbacks=[lambda step, *_: true if step == 3 else None, lambda step, *_: after.append(0)],
    )
    assert (history.step, history.stopped, history.interrupted) == (3, True, False)
    assert len(after) == 3


@pytest.mark.parametrize("answer", [None, False, 1.5, 1, "yes", torch.ones(())])
def test_other_answers_do_not_stop(answer: object) -> None:
    history = fit(Likelihood(), torch.ones(3), steps=3, callbacks=lambda *_: answer)
    assert (history.step, history.stopped) == (3, False)


def test_an_error_in_a_callback_has_the_record_and_leaves_the_step_done() -> None:
    class Own(Exception):
        pass

    def fail(step, loss, module):
        if step == 3:
            raise Own

    mine, theirs = Likelihood(), Likelihood()
    with pytest.raises(Own) as caught:
        fit(mine, torch.ones(3), steps=9, callbacks=fail)
    history = fit(theirs, torch.ones(3), steps=3)
    assert caught.value.history.losses == history.losses
    assert_same(mine, theirs)


# compile


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> CompileCounter:
    torch._dynamo.reset()
    counter = CompileCounter()
    compile_ = functools.partial(torch.compile, backend=counter)
    monkeypatch.setattr(torch, "compile", compile_)
    return counter


def test_validation_is_back_after_an_error_while_compiled(counted) -> None:
    with pytest.raises(NonFiniteError):
        fit(Likelihood(), [torch.ones(3), torch.full((3,), torch.nan)], steps=3, compile=True)
    assert Distribution._validate_args


# The bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_bar_without_a_terminal(monkeypatch, capsys) -> None:
    fit(Likelihood(), torch.ones(3), steps=3)
    fit(Likelihood(), torch.ones(3), steps=3, progress=False)
    assert capsys.readouterr() == ("", "")
    fit(Likelihood(), torch.ones(3), steps=3, progress="always")
    assert "3/3" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stderr", None)
    fit(Likelihood(), torch.ones(3), steps=3)


def test_a_bar_on_a_terminal_has_loss_and_rate(monkeypatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    history = fit(Likelihood(), torch.ones(3), steps=7)
    last = screen.getvalue().split("\r")[-1]
    assert "7/7" in last
    assert "step/s" in last or "s/step" in last
    assert f"loss={history.losses[-1]:.4g}" in last


def test_without_tqdm_there_is_no_bar_and_an_error_only_when_asked(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert fit(Likelihood(), torch.ones(3), steps=3).step == 3
    assert screen.getvalue() == ""
    objective = Likelihood()
    with pytest.raises(ImportError, match=r"pip install \"declarative-dist\[fit\]\""):
        fit(objective, torch.ones(3), steps=3, progress="always")
    assert_same(objective, Likelihood())


# Bad arguments


THREE = TensorDataset(torch.ones(3))
ELSEWHERE = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
BAD = {
    ConstraintError: [
        ({"steps": 0}, "fit(steps=): expected an int, 1 or more, got 0."),
        ({"steps": True}, "got True"),
        ({"steps": 1.5}, "got 1.5"),
        ({"lr": -1.0}, "fit(lr=): expected a positive, finite number"),
        ({"lr": float("nan")}, "got nan"),
        ({"lr": "fast"}, "got 'fast'"),
        ({"lr": torch.ones((), device="meta")}, "fit(lr=)"),
        ({"lr": -1.0, "optimizer": torch.optim.SGD}, "got -1"),
        ({"lr": 0.1, "optimizer": ELSEWHERE},
            "fit(lr=): expected no rate beside an optimizer that has one, got lr=0.1. Give a cl"),
        ({"batch_size": 0}, "an int from 1 to 3"),
        ({"batch_size": 4}, "got 4"),
        ({"data": (torch.ones(3), torch.ones(4)), "batch_size": 1},
            "as many rows each, to draw batches of them, got shapes (3,), (4,)"),
        ({"data": torch.ones(()), "batch_size": 1}, "got shapes ()"),
        ({"data": torch.ones(0)}, "shape (0,)"),
        ({"data": {}}, "got an empty dict. Leave it out where forward"),
        ({"data": []}, "at least one batch, got none in an epoch"),
        ({"data": DataLoader(THREE, batch_size=4, drop_last=True)},
            "fit(data=): expected at least one batch, got none in an epoch. Is the DataLoader em"),
        ({"every": 3}, "fit(every=): expected a checkpoint too"),
        ({"overwrite": True}, "fit(overwrite=): expected a checkpoint too"),
        ({"resume": True}, "fit(resume=): expected a checkpoint too"),
        *(({"every": n, "checkpoint": "none/a"}, "fit(every=)") for n in (0, -1, 1.5)),
    ],
    DeclarationError: [
        ({"data": DataLoader(THREE), "batch_size": 1},
            "fit(batch_size=): expected tensors to draw batches from, got a DataLoader"),
        ({"data": None, "batch_size": 1}, "a NoneType"),
        ({"data": np.ones(3)}, "Write torch.as_tensor(...)"),
        ({"data": (np.ones(3),)}, "torch.as_tensor"),
        ({"data": 3.0}, "fit(data=)"),
        ({"data": 3j}, "fit(data=)"),
        ({"optimizer": "adam"}, "got 'adam'"),
        ({"optimizer": ELSEWHERE},
            "an optimizer of the parameters of Likelihood, got one that also has a tensor of sha"),
        ({"optimizer": nn.Linear(1, 1)}, "got Linear(in_features=1"),
        ({"callbacks": [3]}, "fit(callbacks=)"),
    ],
    TypeError: [
        ({"data": None}, "missing 1 required positional argument: 'x'"),
        ({"optimizer": lambda: None}, "takes 0 positional arg"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "given", "text"), [(kind, *call) for kind, calls in BAD.items() for call in calls]
)
def test_bad_arguments_are_refused_in_words(kind: type, given: dict, text: str) -> None:
    objective = Likelihood()
    with pytest.raises(kind) as caught:
        fit(objective, **{"data": torch.ones(3), "steps": 2, **given})
    assert text in str(caught.value)
    assert_same(objective, Likelihood())


class Latents(Declarative):
    noise = Param(1.0, Positive(), prior=dd.HalfNormal(1.0))


class Returns(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.make = make

    def forward(self):
        return self.make(self.weight)


OBJECTIVES = {
    "vector": (Returns(lambda w: w * 2), DeclarationError, "shape (3,)"),
    "one in a vector": (Returns(lambda w: w[:1]), DeclarationError, "shape (1,)"),
    "number": (Returns(lambda w: 3.0), DeclarationError, "got a float"),
    "nothing": (Returns(lambda w: None), DeclarationError, "got a NoneType"),
    "integer": (Returns(lambda w: w.sum().long()), DeclarationError, "torch.int64"),
    "detached": (Returns(lambda w: w.sum().detach()), DeclarationError, "without a gradient"),
    "distribution": (GammaFamily(), DeclarationError, "got GammaFamily("),
    "guide": (MeanFieldNormal(GammaFamily()), DeclarationError, "NegativeELBO(log_joint, guide)"),
    "latents": (Latents(), DeclarationError, "got Latents("),
    "no module": (lambda x: x, DeclarationError, "expected an objective"),
    "a class": (Likelihood, DeclarationError, "expected an objective"),
    "no parameters": (nn.ReLU(), DeclarationError, "fit(ReLU): expected an objective with"),
    "frozen": (
        Likelihood(GammaFamily()).requires_grad_(False),
        DeclarationError,
        "only frozen ones",
    ),
    "meta": (Returns(lambda w: w.sum().to("meta")), DeclarationError, "on meta"),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_no_objective_is_refused_in_words(name: str) -> None:
    objective, kind, text = OBJECTIVES[name]
    with pytest.raises(kind) as caught:
        fit(objective, steps=2)
    assert text in str(caught.value)


def test_an_optimizer_of_frozen_parameters_is_refused() -> None:
    q = GammaFamily()
    q.freeze("rate")
    optimizer = torch.optim.SGD([q.raw_rate], lr=0.1)
    with pytest.raises(DeclarationError, match="one of frozen parameters only"):
        fit(Likelihood(q), torch.ones(3), steps=2, optimizer=optimizer)


@pytest.mark.parametrize("kind", [RuntimeError, type("Own", (RuntimeError,), {})])
@pytest.mark.parametrize("x", [torch.ones(3), torch.ones(3).double()])
def test_an_error_of_the_objective_itself_comes_through(kind, x) -> None:
    class Fails(Likelihood):
        def forward(self, x):
            raise kind("mine")

    with pytest.raises(kind, match="^mine$") as caught:
        fit(Fails(), x, steps=2)
    assert type(caught.value) is kind


def test_an_iterator_that_ends_is_told() -> None:
    objective = Likelihood()
    with pytest.raises(
        ConstraintError,
        match="expected at least one batch, got none in an epoch. .* an iterator that",
    ) as caught:
        fit(objective, (torch.ones(3) for _ in range(2)), steps=5)
    theirs = Likelihood()
    assert caught.value.history.losses == fit(theirs, torch.ones(3), steps=2).losses
    assert_same(objective, theirs)


def test_an_optimizer_without_a_closure_is_told() -> None:
    class Lazy(torch.optim.SGD):
        def step(self, closure=None):
            return None

    with pytest.raises(DeclarationError, match="a Lazy that did not"):
        fit(
            Likelihood(),
            torch.ones(3),
            steps=2,
            optimizer=lambda parameters: Lazy(parameters, 0.1),
        )


# Numbers that go bad


class Table(Variational):
    base = dd.Exponential
    rate = Param(1.0, Exp(), shape=(2, 8))


@pytest.mark.parametrize("name", ["Adam", "LBFGS"])
def test_a_bad_datum_names_field_index_and_step_and_the_state_before_is_back(name: str) -> None:
    class Total(Likelihood):
        def forward(self, x):
            with warnings.catch_warnings():
                return -self.q().log_prob(x).sum()

    class Unchecked(Table):
        validate_args = False

    good = [torch.rand(2, 8) for _ in range(12)]
    bad = good[11].clone()
    bad[0, 5] = torch.nan
    make = OPTIMIZERS[name]
    Distribution.set_default_validate_args(False)
    objective, theirs = Total(Unchecked()), Total(Unchecked())
    with pytest.raises(NonFiniteError) as caught:
        fit(objective, [*good[:11], bad, good[0]], steps=13, optimizer=make)
    error = caught.value
    optimizer = make(theirs.parameters())
    losses = by_hand(theirs, optimizer, iter([(x,) for x in good]), 11)
    assert error.history.losses == losses
    assert_same(objective, theirs)
    assert error.subject == "Unchecked.rate"
    where = "" if name == "LBFGS" else "raw_rate[0, 5] = nan at step 12"
    assert where in str(error)
    assert "at step 12" in str(error)
    assert "The batch has data[0][0, 5] = nan." in str(error)


def test_the_optimizer_is_back_too() -> None:
    objective, theirs = Likelihood(), Likelihood()
    Distribution.set_default_validate_args(False)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.1)
    data = [torch.ones(3), torch.ones(3) * 2, torch.full((3,), torch.nan)]
    with pytest.raises(NonFiniteError):
        fit(objective, data, steps=3, optimizer=optimizer)
    reference = torch.optim.Adam(theirs.parameters(), lr=0.1)
    by_hand(theirs, reference, iter([(data[0],), (data[1],)]), 2)
    mine, expected = optimizer.state_dict()["state"], reference.state_dict()["state"]
    assert mine == expected  # zero-dimensional tensors compare as numbers
    assert all(parameter.grad is None for parameter in objective.parameters())
    # And the training can go on as if nothing had happened.
    history = fit(objective, torch.ones(3), steps=3, optimizer=optimizer)
    assert history.losses == by_hand(theirs, reference, always(torch.ones(3)), 3)


def test_a_rate_that_changes_late_is_back_too() -> None:
    class Late(torch.optim.SGD):
        """Halves its rate from the fourth step on."""

        count = 0

        def step(self, closure=None):
            loss = super().step(closure)
            self.count += 1
            if self.count > 3:
                self.param_groups[0]["lr"] /= 2
            return loss

    objective = Likelihood()
    optimizer = Late(objective.parameters(), lr=0.8, momentum=0.5)
    data = [*[torch.ones(3)] * 5, torch.full((3,), torch.nan)]
    Distribution.set_default_validate_args(False)
    with pytest.raises(NonFiniteError, match="at step 6"):
        fit(objective, data, steps=6, optimizer=optimizer)
    assert (optimizer.count, optimizer.param_groups[0]["lr"]) == (6, 0.2)


def test_the_groups_of_the_optimizer_are_back_too() -> None:
    class Adapting(torch.optim.SGD):
        """Changes its options in place, as optimizers that find their own rate do."""

        def step(self, closure=None):
            loss = super().step(closure)
            self.param_groups[0]["lr"] *= 2
            self.param_groups[0]["scale"].mul_(3)
            self.param_groups[0]["seen"].append(loss.item())
            return loss

    objective = Likelihood()
    optimizer = Adapting(objective.parameters(), lr=0.1)
    group = optimizer.param_groups[0]
    group.update(scale=torch.ones(()), seen=[])
    data = [torch.ones(3), torch.full((3,), torch.nan)]
    Distribution.set_default_validate_args(False)

    def add_a_group(step, loss, module):
        optimizer.param_groups.append({**group, "params": [], "lr": 7.0})

    with pytest.raises(NonFiniteError):
        fit(objective, data, steps=2, optimizer=optimizer, callbacks=add_a_group)
    assert optimizer.param_groups[0] is group
    assert [one["lr"] for one in optimizer.param_groups] == [0.2, 7.0]
    assert (group["scale"], len(group["seen"])) == (3.0, 1)
    assert len(group["params"]) == 2


def test_a_bad_datum_that_torch_refuses_is_named() -> None:
    objective, x = Likelihood(), torch.ones(3, 2)
    x[1, 0] = torch.nan
    with pytest.raises(NonFiniteError) as caught:
        fit(objective, [torch.ones(3, 2), x], steps=3)
    text = "fit(data=): expected finite numbers, got data[0][1, 0] = nan. Likelihood refused it: "
    assert str(caught.value).startswith(text)
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.history.step == 1


def test_a_bad_gradient_under_a_finite_loss() -> None:
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = Table()

        def forward(self):
            x = self.q.raw_rate
            return torch.where(x == x, x * 0 + 1, (x[1, 3] * 0).sqrt()).mean()

    objective = Hidden()
    with pytest.raises(NonFiniteError) as caught:
        fit(objective, steps=3)
    assert "Table.rate" in str(caught.value)
    assert "raw_rate[1, 3] = nan at step 1" in str(caught.value)
    assert caught.value.history.losses == []
    assert_same(objective, Hidden())


def test_an_update_that_overflows() -> None:
    objective = Returns(lambda w: (w * torch.tensor([1.0, 1e30, 1.0])).sum())
    with pytest.raises(NonFiniteError, match=r"weight\[1\] = -inf at step 1") as caught:
        fit(objective, steps=3, optimizer=functools.partial(torch.optim.SGD, lr=1e30))
    assert caught.value.subject == "Returns.weight"
    assert torch.equal(objective.weight, torch.ones(3))


def test_an_infinite_loss_names_the_objective_and_large_numbers_are_fine() -> None:
    objective = Returns(lambda w: w.sum() + torch.inf)
    text = "Returns: expected a finite loss, got inf at step 1. Check the data"
    with pytest.raises(NonFiniteError, match=text):
        fit(objective, steps=3)
    assert torch.equal(objective.weight, torch.ones(3))
    large = Returns(lambda w: (w * 1e-38).sum())
    with torch.no_grad():
        large.weight.fill_(3e38)  # the sum of the numbers overflows, not they
    assert fit(large, steps=2).step == 2


def test_a_value_that_a_constraint_of_ones_own_lets_overflow_is_named() -> None:
    class Careless(Constraint):
        support = dd.constraints.positive

        def forward(self, raw):
            return raw.exp()

        def inverse(self, value):
            return value.log()

    class Own(Declarative):
        rate = Param(torch.ones(2, 3), Careless())

        def forward(self):
            return -self.rate.sum() * 0.1

    objective = Own()
    with pytest.raises(NonFiniteError) as caught:
        fit(objective, steps=9, optimizer=functools.partial(torch.optim.SGD, lr=1e3))
    assert caught.value.subject == "Own.rate"
    assert " = inf at step" in str(caught.value)
    assert objective.raw_rate.isfinite().all()


def test_numbers_in_the_keywords_of_a_batch_are_for_all_rows() -> None:
    seen = []

    class Scaled(Likelihood):
        def forward(self, x, n, m):
            seen.append((len(x), n, m.item()))
            return super().forward(x) * n

    data = (torch.ones(5), {"n": 3.0, "m": torch.tensor(2)})
    fit(Scaled(), data, steps=1)
    fit(Scaled(), data, steps=2, batch_size=4)
    assert seen == [(5, 3.0, 2), (4, 3.0, 2), (1, 3.0, 2)]


def test_many_parameters_are_watched_too() -> None:
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([GammaFamily() for _ in range(5)])

        def forward(self):
            loss = sum(part.mean for part in self.parts)
            return loss + (self.parts[3].raw_rate * 0).sqrt()

    with pytest.raises(NonFiniteError, match="GammaFamily.rate: .* raw_rate = nan at step 1"):
        fit(Many(), steps=3)


def test_a_field_of_a_nested_part_is_dotted() -> None:
    q = learnable(dd.Independent(dd.Normal(torch.zeros(3), torch.ones(3)), 1))
    Distribution.set_default_validate_args(False)
    x = torch.zeros(4, 3)
    x[2, 1] = torch.inf
    with pytest.raises(NonFiniteError) as caught:
        fit(Likelihood(q), x, steps=3)
    assert caught.value.subject == f"{type(q).__name__}.base_distribution.loc"
    assert "raw_loc[1] = " in str(caught.value)


def test_parameters_that_are_bad_from_the_start() -> None:
    objective = Likelihood(GammaFamily())
    with torch.no_grad():
        objective.q.raw_rate.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="GammaFamily.rate: .* raw_rate = nan at step 0"):
        fit(objective, torch.ones(3), steps=2)


# Interruptions


def test_ctrl_c_in_the_loss_in_the_data_and_in_a_callback() -> None:
    def interrupt(*_):
        raise KeyboardInterrupt

    class InLoss(Likelihood):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return interrupt() if self.calls == 4 else super().forward(x)

    class Data(list):
        def __iter__(self):
            yield from super().__iter__()
            interrupt()

    x, expected = torch.ones(3), Likelihood()
    reference = fit(expected, x, steps=3)
    for objective, data, callback in (
        (InLoss(), x, ()),
        (Likelihood(), Data([x, x, x]), ()),
        (Likelihood(), x, lambda step, *_: interrupt() if step == 3 else None),
    ):
        history = fit(objective, data, steps=9, callbacks=callback)
        assert isinstance(history, History)
        assert history.interrupted
        assert history.losses == reference.losses
        assert history.values == reference.values
        assert_same(objective, expected)


@pytest.mark.parametrize("name", ["Adam", "LBFGS"])
def test_ctrl_c_in_the_middle_of_an_update(name: str) -> None:
    kind = OPTIMIZERS[name]

    class Interrupted(kind.func):
        left = 4

        def step(self, closure=None):
            loss = super().step(closure)
            self.left -= 1
            if not self.left:
                with torch.no_grad():
                    self.param_groups[0]["params"][0].add_(1.0)
                raise KeyboardInterrupt
            return loss

    mine, theirs = Likelihood(), Likelihood()
    history = fit(
        mine, torch.ones(3), steps=9, optimizer=lambda p: Interrupted(p, **kind.keywords)
    )
    assert history.losses == fit(theirs, torch.ones(3), steps=3, optimizer=kind).losses
    assert_same(mine, theirs)


class Counts(Variational):
    """A declared objective with a buffer of its own, which every evaluation changes."""

    base = dd.Normal
    loc = Param(0.0)
    scale = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, *batch):
        if not batch:
            return super().forward()
        self.seen += 1
        return -self().log_prob(*batch).mean() / (self.seen != 4)


def test_buffers_of_a_declared_objective_are_back_too() -> None:
    objective = Counts()
    with pytest.raises(NonFiniteError):
        fit(objective, torch.ones(5), steps=10)
    assert objective.seen == 3

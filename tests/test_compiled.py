"""Compiled objectives: one graph for a whole run, counted over steps, rates and batch sizes."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch.distributions import constraints
from torch.testing import assert_close

from declarative_dist import (
    Constraint,
    DeclarationError,
    Declarative,
    Joint,
    Param,
    Variational,
    fit,
    learnable,
)
from declarative_dist import compiled as dist_compiled
from declarative_dist.fitting import arguments, compiled
from declarative_dist.objectives import (
    ImportanceWeightedELBO,
    NegativeELBO,
    NegativeLogLikelihood,
    NegativeLogPosterior,
)
from tests import test_semi_amortised as semi
from tests.cases import DECLARED, JOINTS, LIVE, FullRank, GammaFamily, Policy, Weighed
from tests.constraints.cases import CASES as CONSTRAINTS

pytestmark = [
    pytest.mark.filterwarnings("ignore:Singular sample:UserWarning"),
    pytest.mark.usefixtures("fresh_compiler", "one_thread"),
]
STEPS = 12
"""Half at one rate, half at another: a guard that fails does so at the second step, or there."""

FREE = {name: make for name, make in JOINTS.items() if "contexts" not in name}
"""Joints without a context."""

OURS = ("bounds", "squashed", "conditional mixture", "hierarchy")
"""One for each way to compute fields; `test_promises.py` compiles others."""


class Run:
    """An objective, compiled, and how often it was."""

    def __init__(self, objective: nn.Module, backend: str = "eager") -> None:
        self.objective = objective
        self._counter = CompileCounterWithBackend(backend)
        self._forward = torch.compile(objective, fullgraph=True, backend=self._counter)
        self._optimizer = torch.optim.SGD(objective.parameters(), lr=1e-3)

    @property
    def graphs(self) -> int:
        assert not counters["graph_break"]
        return self._counter.frame_count

    def step(self, *batch: Any) -> float:
        self._optimizer.zero_grad()
        loss: Tensor = self._forward(*batch)
        loss.backward()
        self._optimizer.step()
        return loss.item()

    def steps(self, *batch: Any) -> list[float]:
        """Some steps, half of them at another rate, and a rate that falls in each."""
        schedule = torch.optim.lr_scheduler.ExponentialLR(self._optimizer, 0.999)
        losses = []
        for step in range(STEPS):
            if step == STEPS // 2:
                self._optimizer.param_groups[0]["lr"] = 1e-4
            losses.append(self.step(*batch))
            schedule.step()
        return losses


def drawn(q: Variational | Joint, count: int) -> Any:
    torch.manual_seed(1)
    return q.sample((count,))


@pytest.mark.parametrize("name", OURS)
def test_a_likelihood_compiles_once_and_once_more_for_all_batch_sizes(name: str) -> None:
    q = {**DECLARED, **FREE}[name]()
    run = Run(NegativeLogLikelihood(q))
    batches = [drawn(q, count) for count in (4, 6, 7, 40)]
    run.steps(batches[0])
    assert run.graphs == 1
    before = [parameter.detach().clone() for parameter in q.parameters()]
    for batch in batches[1:]:
        plain = run.objective(batch)
        gradients = torch.autograd.grad(plain, [*q.parameters()])
        assert run.step(batch) == pytest.approx(plain.item(), rel=1e-4, abs=1e-5)
        for parameter, gradient in zip(q.parameters(), gradients, strict=True):
            assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4)
    assert run.graphs <= 2
    changed = [not torch.equal(a, b) for a, b in zip(before, q.parameters(), strict=True)]
    assert any(changed)


def square(z: Tensor) -> Tensor:
    """An unnormalised density of any draws, also of counts and indices."""
    squares = -z.to(torch.get_default_dtype()).square()
    return squares.sum(-1) if z.ndim > 1 else squares


@pytest.mark.parametrize("name", ["nested mixture", "squashed"])
def test_an_elbo_compiles_once(name: str) -> None:
    q = LIVE[name]()
    run = Run(NegativeELBO(square, q, num_samples=4))
    losses = run.steps()
    assert run.graphs == 1
    assert run.objective.estimator == ("pathwise" if q.has_rsample else "score")
    if q.has_rsample:
        assert len(set(losses)) > 1  # every step draws anew


def test_a_guide_of_contexts_compiles_once() -> None:
    y = semi.data()
    objective = NegativeELBO(semi.log_joint, semi.exact(y), total_size=100, estimator="stl")
    run = Run(objective)
    run.steps(y)
    assert run.graphs == 1


def squares(module: Any, x: Tensor) -> Tensor:
    return -(x[:, None] - module.value.flatten()).square().sum(-1)


@pytest.mark.parametrize("name", ["interval-tensors", "ordered", "users-own"])
def test_a_constraint_compiles_once(name: str) -> None:
    case = CONSTRAINTS[name]

    class Bounded(Declarative):
        value = Param(case.default, case.make())

    run = Run(NegativeLogPosterior(Bounded(), total_size=4, log_likelihood=squares))
    run.steps(torch.randn(4))
    assert run.graphs == 1
    for count in (6, 7, 40):
        run.step(torch.randn(count))
    assert run.graphs <= 2


def test_priors_compile_once() -> None:
    q = Weighed(batch_shape=(2,))
    run = Run(NegativeLogPosterior(q, total_size=4, unconstrained=True))
    run.steps(drawn(q, 4))
    assert run.graphs == 1


class Decoder(nn.Module):
    """The log density of latents and of what they predict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return -z.square().sum(-1) - (self.layer(z) - x).square().sum(-1)


@pytest.mark.parametrize(
    ("bound", "estimator"),
    [(NegativeELBO, "pathwise"), (NegativeELBO, "score"), (ImportanceWeightedELBO, "stl")],
)
def test_an_amortised_bound_compiles_twice_for_batches_of_all_sizes(
    bound: Any, estimator: str
) -> None:
    guide = Policy(in_features=3, actions=2)
    run = Run(bound(Decoder(), guide, num_samples=4, estimator=estimator))
    run.steps(torch.randn(5, 3))
    assert run.graphs == 1
    for count in (6, 7, 40):
        run.step(torch.randn(count, 3))
    assert run.graphs <= 2


def test_new_values_between_steps_compile_nothing() -> None:
    q = GammaFamily()
    run = Run(NegativeLogLikelihood(q))
    x = drawn(q, 4)
    run.step(x)
    q.rate = 3.0
    run.step(x)
    q.load_state_dict(GammaFamily(rate=2.0).state_dict())
    run.step(x)
    q.from_vector_(torch.zeros(2))
    run.step(x)
    q.reset_parameters()
    loss = run.step(x)
    assert run.graphs == 1
    assert loss == pytest.approx(-GammaFamily().log_prob(x).mean().item())


def test_other_instances_of_a_family_do_not_compile_the_first_again() -> None:
    runs = [Run(NegativeLogLikelihood(GammaFamily(rate=rate))) for rate in (1.0, 2.0)]
    x = torch.tensor([0.5, 1.0])
    for _ in range(3):
        for run in runs:
            run.step(x)
    assert [run.graphs for run in runs] == [1, 1]


def test_inductor_gives_the_losses_of_plain_steps() -> None:
    q, twin = LIVE["nested mixture"](), LIVE["nested mixture"]()
    twin.load_state_dict(q.state_dict())
    x = drawn(q, 16)
    run = Run(NegativeLogLikelihood(q), "inductor")
    losses = run.steps(x)
    assert run.graphs == 1
    expected = []
    optimizer = torch.optim.SGD(twin.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.999)
    for step in range(STEPS):
        if step == STEPS // 2:
            optimizer.param_groups[0]["lr"] = 1e-4
        optimizer.zero_grad()
        loss = -twin().log_prob(x).mean(0).sum()
        loss.backward()
        optimizer.step()
        schedule.step()
        expected.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("dtype", "is_compiled"), [(torch.float32, False), (torch.float64, True)])
def test_the_default_adam_is_fused_and_the_same_as_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, is_compiled: bool
) -> None:
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: plain(f, backend="eager"))
    made: list[torch.optim.Adam] = []
    adam = torch.optim.Adam

    def noted(*args: Any, **options: Any) -> torch.optim.Adam:
        made.append(adam(*args, **options))
        return made[-1]

    monkeypatch.setattr(arguments, "Adam", noted)
    q, twin = GammaFamily(dtype=dtype), GammaFamily(dtype=dtype)
    x = drawn(q, 10)
    history = fit(NegativeLogLikelihood(q), x, steps=20, compile=is_compiled)
    assert made[0].param_groups[0]["fused"]
    by_hand = fit(NegativeLogLikelihood(twin), x, steps=20, optimizer=lambda p: adam(p, lr=1e-2))
    assert history.losses == pytest.approx(by_hand.losses, rel=1e-5)


class Gaps(nn.Module):
    """Every other row of a matrix is trained: a strided parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.arange(12.0).view(6, 2)[::2])

    def forward(self) -> Tensor:
        """The distance from 1."""
        return (self.rows - 1.0).square().sum()


def test_parameters_with_gaps_in_memory_are_updated_right() -> None:
    """The fused kernel would take the gaps for numbers."""
    objective, twin = Gaps(), Gaps()
    history = fit(objective, steps=20, lr=0.1)
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = twin()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert history.losses == pytest.approx(losses, rel=1e-6)
    assert_close(objective.rows, twin.rows)


class Everything(nn.Module):
    """Running averages, a gradient without strides, one that is never there, a frozen number."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, affine=False)
        self.summed, self.matrix = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(2, 3))
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        spread = (self.norm(x) @ self.matrix.mT).square().mean() + (
            self.matrix.mT - 2
        ).sum().square()
        return self.summed.sum().square() + spread + self.frozen.sum()


OBJECTIVES: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "a policy": lambda: (
        NegativeLogLikelihood(Policy(in_features=3, actions=2)),
        (torch.randn(12, 3), torch.randn(12, 2)),
    ),
    "a module": lambda: (Everything(), torch.randn(12, 3)),
    "an amortised bound": lambda: (
        NegativeELBO(Decoder(), Policy(in_features=3, actions=2)),
        torch.randn(12, 3),
    ),
    "a bound": lambda: (NegativeELBO(lambda z: -(z**2).sum(-1), FullRank(d=3)), None),
}


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> CompileCounterWithBackend:
    counter = CompileCounterWithBackend("aot_eager")
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", functools.partial(plain, backend=counter))
    return counter


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [*((name, None) for name in OBJECTIVES), ("an amortised bound", torch.optim.LBFGS)],
)
def test_a_compiled_fit_is_the_plain_one(
    name: str, optimizer: Any, counter: CompileCounterWithBackend
) -> None:
    torch.manual_seed(0)
    objective, data = OBJECTIVES[name]()
    twin = copy.deepcopy(objective)
    torch.manual_seed(1)
    mine = fit(objective, data, steps=6, optimizer=optimizer, compile=True)
    torch.manual_seed(1)
    theirs = fit(twin, data, steps=6, optimizer=optimizer)
    assert counter.frame_count == 1
    assert mine.losses == pytest.approx(theirs.losses, rel=1e-4, abs=1e-5)
    for (path, one), other in zip(
        objective.state_dict().items(), twin.state_dict().values(), strict=True
    ):
        assert_close(one, other, rtol=1e-3, atol=1e-4, msg=path)
    given = [parameter.grad is None for parameter in objective.parameters()]
    assert given == [parameter.grad is None for parameter in twin.parameters()]


def test_a_compiled_fit_follows_what_is_frozen(counter: CompileCounterWithBackend) -> None:
    def change(step: int, loss: float, module: Any) -> None:
        if step == 3:
            module.module.freeze("rate")
        if step == 6:
            module.module.unfreeze("rate")

    x = torch.rand(12) + 0.5
    one, other = (NegativeLogLikelihood(GammaFamily()) for _ in range(2))
    mine = fit(one, x, steps=9, compile=True, callbacks=change)
    theirs = fit(other, x, steps=9, callbacks=change)
    assert mine.losses == pytest.approx(theirs.losses, rel=1e-5)
    assert mine.values["rate"] == pytest.approx(theirs.values["rate"], rel=1e-5)


class Stretched(Constraint):
    """A map with a number that somebody changes in training."""

    support = constraints.positive
    rate = 1.0

    def forward(self, raw: Tensor) -> Tensor:
        return (self.rate * raw).exp()

    def inverse(self, value: Tensor) -> Tensor:
        return value.log() / self.rate


def test_a_compiled_fit_follows_a_constraint_that_changes(
    counter: CompileCounterWithBackend,
) -> None:
    stretched = Stretched()

    class Annealed(Variational):
        base = dd.Normal
        loc = 0.0
        scale = Param(2.0, stretched)

    def change(step: int, loss: float, module: Any) -> None:
        stretched.rate = 1.0 if step < 4 else 2.0

    x = torch.randn(12)
    mine = fit(NegativeLogLikelihood(Annealed()), x, steps=8, compile=True, callbacks=change)
    stretched.rate = 1.0
    theirs = fit(NegativeLogLikelihood(Annealed()), x, steps=8, callbacks=change)
    assert mine.losses == pytest.approx(theirs.losses, rel=1e-5)
    assert counter.frame_count > 1


def test_many_objectives_compile_in_one_process(counter: CompileCounterWithBackend) -> None:
    """Dynamo gives one code up after so many compilations."""
    x = torch.rand(12) + 0.5
    with torch._dynamo.config.patch(recompile_limit=2):
        for _ in range(3):
            fit(NegativeLogLikelihood(GammaFamily()), x, steps=2, compile=True)
    assert counter.frame_count == 3
    assert not torch._dynamo.config.trace_autograd_ops


@pytest.mark.usefixtures("counter")
def test_hooks_of_heads_do_not_part_a_compiled_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads keep a hook on a layer that was evaluated plainly; in a graph they need none."""
    objective, data = OBJECTIVES["a policy"]()
    fit(objective, data, steps=1)
    kinds: list[bool] = []
    plain = compiled.loss_of

    def counted(*arguments: Any) -> Tensor:
        kinds.append(True)  # where the backward pass is no part of the graph
        return plain(*arguments)

    monkeypatch.setattr(compiled, "loss_of", counted)
    fit(objective, data, steps=2, compile=True)
    assert not kinds


class Pair(nn.Module):
    """Two numbers, whose gradients are each other."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(2.0))
        self.b = nn.Parameter(torch.tensor(3.0))

    def forward(self) -> Tensor:
        return self.a * self.b


def test_gradients_have_memory_of_their_own() -> None:
    def end(*, compiles: bool) -> list[float]:
        module = Pair()

        def are_apart(step: int, loss: float, module: nn.Module) -> None:
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            assert len({tensor.data_ptr() for tensor in (*module.parameters(), *gradients)}) == 4

        fit(
            module,
            steps=3,
            progress=False,
            compile=compiles,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
            callbacks=are_apart,
        )
        return [module.a.item(), module.b.item()]

    # The gradient of a product, times a seed known to be one, was the other number itself.
    assert_close(end(compiles=True), end(compiles=False))


@pytest.mark.usefixtures("counter")
def test_a_compiled_fit_follows_a_hook_of_a_callback() -> None:
    def losses(*, compiles: bool) -> list[float]:
        def hooks(step: int, loss: float, module: nn.Module) -> None:
            if step == 1:
                module.get_parameter("a").register_hook(lambda gradient: 2 * gradient)

        return fit(Pair(), steps=3, progress=False, compile=compiles, callbacks=hooks).losses

    assert_close(losses(compiles=True), losses(compiles=False))


class Wrong(nn.Module):
    def __init__(self, loss_of: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.p, self.loss_of = nn.Parameter(torch.ones(3)), loss_of

    def forward(self) -> Any:
        return self.loss_of(self.p)


@pytest.mark.parametrize("loss_of", [lambda p: p.sum()[None], lambda p: p.detach().sum()])
@pytest.mark.usefixtures("counter")
def test_what_is_no_loss_is_said_as_by_a_plain_fit(loss_of: Callable[[Tensor], Any]) -> None:
    with pytest.raises(DeclarationError) as plain:
        fit(Wrong(loss_of), steps=2)
    with pytest.raises(DeclarationError) as from_graph:
        fit(Wrong(loss_of), steps=2, compile=True)
    assert str(from_graph.value) == str(plain.value)


def test_a_loop_of_ones_own_compiles_once_and_moves_as_a_plain_one(
    counter: CompileCounterWithBackend,
) -> None:
    q, twin = LIVE["nested mixture"](), LIVE["nested mixture"]()
    twin.load_state_dict(q.state_dict())
    x = drawn(q, 16)
    step, objective = dist_compiled(NegativeLogLikelihood(q)), NegativeLogLikelihood(twin)
    optimizers = [torch.optim.Adam(p.parameters(), lr=1e-2, fused=p is q) for p in (q, twin)]
    for count in range(STEPS):
        if count == STEPS // 2:
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = 1e-3
        expected = objective(x)
        objective.zero_grad()
        expected.backward()
        assert_close(step(x), expected.detach(), rtol=1e-4, atol=1e-5)
        for optimizer in optimizers:
            optimizer.step()
        assert counter.frame_count == 1
    for mine, theirs in zip(q.parameters(), twin.parameters(), strict=True):
        assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("counter")
def test_a_loop_of_ones_own_is_the_plain_one() -> None:
    """Loss and gradients are those of autograd, at every step, with keywords and hooks too."""
    torch.manual_seed(0)
    x, weights = torch.randn(20), torch.rand(20)
    for hooks in (False, True):
        q, twin = learnable(dd.Normal(1.0, 2.0)), learnable(dd.Normal(1.0, 2.0))
        if hooks:
            q.raw_loc.register_hook(lambda gradient: 2.0 * gradient)
        validates = dd.Distribution._validate_args
        step, objective = dist_compiled(NegativeLogLikelihood(q)), NegativeLogLikelihood(twin)
        for _ in range(3):
            loss, expected = step(x, weights=weights), objective(x, weights=weights)
            torch.testing.assert_close(loss, expected.detach())
            assert not loss.requires_grad
            objective.zero_grad()
            expected.backward()
            torch.testing.assert_close(q.raw_loc.grad, (1 + hooks) * twin.raw_loc.grad)
            torch.testing.assert_close(q.raw_scale.grad, twin.raw_scale.grad)
        assert dd.Distribution._validate_args is validates
    with pytest.raises(DeclarationError, match=r"compiled\(objective\)"):
        dist_compiled(lambda x: x)  # type: ignore[arg-type]

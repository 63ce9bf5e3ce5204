"""Mistakes that once passed without a word: each is refused now, or its answer is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from declarative_dist import (
    Conditional,
    Constant,
    ConstraintError,
    DeclarationError,
    Declarative,
    Exp,
    FieldError,
    FullRankNormal,
    Head,
    Interval,
    Joint,
    MeanFieldNormal,
    Param,
    Positive,
    Variational,
    compiled,
    derived,
    fit,
    learnable,
    site,
)
from declarative_dist.objectives import NegativeELBO, NegativeLogLikelihood, NegativeLogPosterior
from declarative_dist.wrappers import Censored
from tests.cases import Count, Counted, Numbers


@pytest.mark.parametrize("unit", [1e-5, 2e-4, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_learned_ends_in_float32_are_the_data_s_own(seed: int, unit: float) -> None:
    torch.manual_seed(seed)
    x = dd.Uniform(unit, 2.5 * unit).sample((300,))
    q = learnable(dd.Uniform(0.0, 1.0))
    fit(NegativeLogLikelihood(q), x)
    width = float(x.max() - x.min())
    found = float(NegativeLogLikelihood(q)(x).detach())
    assert math.log(width) - 1e-6 <= found <= math.log(width) + 1e-4


class Waited(Conditional):
    mean = Head(Exp())
    shape = Param(1.0, Exp())

    def base(self, mean: Tensor, shape: Tensor) -> dd.Distribution:
        return dd.Gamma(shape, shape / mean)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", [Counted, Waited])
def test_a_context_in_dollars_seconds_and_metres_is_no_obstacle(
    family: type[Conditional], dtype: torch.dtype
) -> None:
    """The same maximum as of the standardised context, where Newton's steps by hand end."""
    torch.manual_seed(0)
    z = torch.randn(400, 3, dtype=torch.float64)
    x = torch.tensor([5e4, 1.7e9, 2e-6]) + torch.tensor([2e4, 3e7, 5e-7]) * z
    mean = (0.3 + z @ torch.tensor([0.5, -0.4, 0.8], dtype=torch.float64)).exp()
    y = torch.poisson(mean) if family is Counted else dd.Gamma(3.0, 3.0 / mean).sample()
    rows = torch.cat([torch.ones_like(z[:, :1]), z], 1)
    weights = torch.zeros(4, dtype=torch.float64)
    for _ in range(30):  # of both families' score in the weights, up to the shape
        fitted = (rows @ weights).exp()
        share = fitted if family is Counted else y / fitted
        gap = y - fitted if family is Counted else y / fitted - 1
        weights += torch.linalg.solve(rows.T @ (share[:, None] * rows), rows.T @ gap)
    q = family(in_features=3, dtype=dtype)
    history = fit(NegativeLogLikelihood(q), (x.to(dtype), y.to(dtype)))
    assert history.converged, history.verdict
    found = q.double()(x).mean.log()
    torch.testing.assert_close(found, rows @ weights, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", [dd.Gamma, dd.Weibull, dd.Beta])
def test_a_rate_of_your_own_settles_on_whole_data(kind: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    x = kind(2.0, 3.0).sample((200,))
    history = fit(NegativeLogLikelihood(learnable(kind(1.0, 1.0))), x, lr=0.05)
    assert history.converged, history.verdict


def test_compiled_trains_the_parameters_that_a_state_has_brought() -> None:
    q, x = learnable(dd.Normal(0.0, 1.0)), torch.full((8,), 5.0)
    objective = NegativeLogLikelihood(q)
    loss = compiled(objective)
    loss(x)
    objective.load_state_dict(
        {name: value.clone() for name, value in objective.state_dict().items()}, assign=True
    )
    loss(x)
    gradients = [parameter.grad for parameter in objective.parameters()]
    by_hand = torch.autograd.grad(objective(x), list(objective.parameters()))
    torch.testing.assert_close(gradients, list(by_hand))


class Between(Declarative):
    share = Param(None, Interval(torch.tensor(0.0), torch.tensor(1.0)))


class Window(Variational):
    base = dd.Uniform
    low = 0.0
    high = 1.0
    part = nn.Linear(1, 1)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize(("kind", "name"), [
    (Between, "raw_share_constraint.low"), (Window, "low"),
])  # fmt: skip
def test_bounds_that_cross_are_refused_inside_a_plain_module(
    kind: Any, name: str, assign: bool
) -> None:
    around = nn.ModuleDict({"inner": kind()})
    state = {key: value.clone() for key, value in around.state_dict().items()}
    around.load_state_dict(state, assign=assign)
    state[f"inner.{name}"] = torch.tensor(5.0)
    with pytest.raises(ConstraintError, match=kind.__name__):
        around.load_state_dict(state, assign=assign)


@pytest.mark.parametrize("guide", [MeanFieldNormal, FullRankNormal])
@pytest.mark.parametrize("density", [
    lambda v: -(v["x"] ** 2).sum(-1) * len(v["x"]),
    lambda v: -((v["x"] - v["x"].mean(0)) ** 2).sum(-1) - 0.01 * (v["x"] ** 2).sum(-1),
])  # fmt: skip
def test_a_target_that_mixes_draws_is_not_sampled(guide: Any, density: Any) -> None:
    named = rf"^{guide.__name__}\.log_joint: .*draws beside it"
    with pytest.raises(ConstraintError, match=named):
        guide(Numbers(size=2)).importance_sample(density, 100)
    with pytest.raises(ConstraintError, match=named):
        fit(NegativeELBO(density, guide(Numbers(size=2))), progress=False)


def test_no_other_start_is_tried_where_a_fit_was_told_so() -> None:
    def log_joint(values: dict[str, Tensor]) -> Tensor:
        calls.append(len(values["x"]))
        return dd.Normal(2.0, 1.0).log_prob(values["x"]).sum(-1)

    calls: list[int] = []
    guide = FullRankNormal(Numbers(size=2))
    history = fit(NegativeELBO(log_joint, guide), restarts=0, progress=False)
    assert "No other start was tried." in history.verdict
    calls.clear()
    assert "No other start was tried." in guide.importance_sample(log_joint, 1000).verdict
    assert sum(calls) < 3000


@pytest.mark.parametrize(("base", "name", "value"), [
    (dd.Dirichlet, "concentration", 2.0),
    (dd.Categorical, "logits", 0.0),
    (dd.Categorical, "probs", 1 / 3),
])  # fmt: skip
def test_a_number_fills_the_vector_of_an_event(base: Any, name: str, value: float) -> None:
    body = {"base": base, name: Constant(value, shape=("k",))}
    make: Any = type(Variational)
    made = make("Made", (Variational,), body)
    whole = torch.full((3,), value)
    torch.testing.assert_close(getattr(made(k=3), name), whole)
    torch.testing.assert_close(getattr(made(k=3, batch_shape=(2,)), name).expand(2, 3)[1], whole)
    with pytest.raises(ConstraintError, match=rf"Made\.{name}"):
        made(k=3, **{name: math.nan})
    q = made(k=3)
    for wrong in (math.nan, torch.tensor(math.nan)):
        with pytest.raises(ConstraintError, match=rf"Made\.{name}"):
            setattr(q, name, wrong)
    torch.testing.assert_close(getattr(q, name), whole)


def test_a_list_of_numbers_is_no_list_of_batches() -> None:
    q = learnable(dd.Normal(0.0, 1.0))
    with pytest.raises(DeclarationError, match=r"torch\.as_tensor\(data\)"):
        fit(NegativeLogLikelihood(q), [1.0, 2.0, 3.0])
    assert float(q.loc.detach()) == 0.0


@pytest.mark.parametrize("count", [2, 150])
def test_numbers_that_a_callback_moves_are_where_the_next_step_begins(count: int) -> None:
    """By Newton's method, and by L-BFGS for many numbers."""

    class Far(Declarative):
        z = Param(torch.linspace(1.0, 2.0, count))

    far, begun = Far(), []

    def move(step: int, loss: float, module: nn.Module) -> None:
        begun.append(loss)
        if step == 1:
            far.raw_z.data.fill_(3.0)  # behind autograd's back

    weights = torch.linspace(1.0, 1000.0, count)
    posterior = NegativeLogPosterior(
        far, total_size=None, log_likelihood=lambda m: -(weights * m.z**4).sum()
    )
    fit(posterior, callbacks=move)
    assert begun[1] == pytest.approx(3.0**4 * float(weights.sum()), rel=1e-5)


class Rate(Declarative):
    rate = Param(1.0, Exp(), prior=dd.Gamma(2.0, 1.0))


def test_a_number_with_two_priors_is_refused_by_both_names() -> None:
    class Scale(Declarative):
        scale = Param(1.0, Exp(), prior=dd.LogNormal(0.0, 1.0))

    class Tied(Declarative):
        one, same, other = Rate, Rate, Scale

    tied = Tied()
    tied.same.raw_rate = tied.one.raw_rate
    expected = dd.Gamma(2.0, 1.0).log_prob(torch.tensor(1.0))
    expected = expected + dd.LogNormal(0.0, 1.0).log_prob(torch.tensor(1.0))
    torch.testing.assert_close(tied.log_prior(), expected)  # what is shared counts once
    tied.other.raw_scale = tied.one.raw_rate
    with pytest.raises(FieldError, match=r"Tied\.other\.scale: expected the prior of one\.rate"):
        tied.log_prior()


@pytest.mark.parametrize("reach", [prune.identity, parametrize.register_parametrization])
def test_parts_of_one_class_each_count_their_prior(reach: Callable[..., Any]) -> None:
    class Both(Declarative):
        one, other = Rate, Rate

    both, rates = Both(), torch.tensor([1.0, 3.0])
    both.one.rate, both.other.rate = rates
    for part in (both.one, both.other):
        reach(part, "raw_rate", *([nn.Identity()] if reach is not prune.identity else []))
    torch.testing.assert_close(both.log_prior(), dd.Gamma(2.0, 1.0).log_prob(rates).sum())


class AsksItself(Variational):
    base = dd.Normal
    loc = Param(0.0)

    @derived
    def scale(self, loc: Tensor) -> Tensor:
        return self.stddev + loc


class CallsItself(Conditional):
    base = dd.Normal
    loc = Head()
    scale = 1.0

    def forward(self, x: Tensor) -> dd.Distribution:
        return self(x)  # type: ignore[no-any-return]


class GivesANumber(Variational):
    base = dd.Normal
    loc, scale = 0.0, Param(1.0)

    def forward(self) -> Any:
        return super().forward().mean


class Normalised(Conditional):
    base = dd.Normal
    event_dim = 1
    h = Head(shape=(3,))
    scale = 1.0
    net = nn.BatchNorm1d(3)

    @derived
    def loc(self, h: Tensor, net: nn.Module) -> Tensor:
        return net(h)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("act", "match"), [
    (AsksItself, r"AsksItself\.scale: expected a value, got RecursionError.*helps to build"),
    (lambda: CallsItself(in_features=2)(torch.zeros(2)), r"CallsItself\.forward: .* calls itself"),
    (lambda: GivesANumber().sample(), r"GivesANumber\.forward: expected a forward that returns"),
    (lambda: Normalised(in_features=2), r"Normalised\.loc: expected a method that takes"),
    (lambda: type(Declarative)("Model", (Declarative,), {"training": 1}),
        r"Model\.training: expected a name that is free"),
    (lambda: type(Declarative)("Model", (Declarative,), {"half": [1.0]}),
        r"Model\.half: expected a name that is free"),
])  # fmt: skip
def test_what_asks_itself_or_takes_a_name_of_modules_is_refused(
    act: Callable[[], Any], match: str
) -> None:
    with pytest.raises((ConstraintError, DeclarationError, FieldError), match=match):
        act()


class Lag(Joint):
    a = learnable(dd.Normal(0.0, 1.0))

    @site
    def y(self, a: torch.Tensor) -> dd.Distribution:
        return dd.Normal(a, 1.0)


@pytest.mark.parametrize(
    "value", [1e39, [0.0, -1e39], torch.zeros(2, device="meta"), torch.zeros(2).to_sparse()]
)
def test_values_that_a_dtype_or_a_device_cannot_hold_are_no_numbers(value: Any) -> None:
    """Wherever values are given by name: to a joint, a prior, a guide, and to a likelihood."""

    class Latents(Declarative):
        level = Param(0.0, prior=dd.Normal(0.0, 1.0))

    guide = MeanFieldNormal(Latents())
    takes: list[Callable[[], Any]] = [
        lambda: Lag().log_prob({"a": value, "y": value}),
        lambda: Lag().predict({"a": value}),
        lambda: Lag().condition(y=value),
        lambda: Latents().log_prior({"level": value}),
        lambda: guide.log_prob({"level": value}),
        lambda: NegativeLogLikelihood(Lag())({"a": value, "y": value}),
        lambda: NegativeLogLikelihood(learnable(dd.Normal(0.0, 1.0)))(value),
    ]
    for take in takes:
        with pytest.raises(ConstraintError, match=r"expected (numbers|data in|shape)"):
            take()
    assert Lag().condition(y=math.inf).observed["y"] == math.inf  # as you wrote it


@pytest.mark.parametrize("through", ["to_empty", "meta", "assign", "double"])
def test_data_of_a_conditioned_joint_outlive_what_empties_its_state(through: str) -> None:
    posterior = Lag().condition(y=0.1)
    if through == "double":
        posterior.double()
    else:
        saved = Lag().condition(y=5.0).state_dict()
        posterior.to_empty(device="cpu" if through == "to_empty" else "meta")
        if through == "meta":
            posterior.to_empty(device="cpu")
        posterior.load_state_dict(saved, assign=through == "assign")
    dtype = torch.float64 if through == "double" else torch.float32
    expected = dd.Normal(torch.zeros((), dtype=dtype), 1.0).log_prob(
        torch.tensor([0.2, -0.1]).to(dtype)
    )
    got = posterior({"a": torch.tensor(0.2, dtype=dtype)})
    torch.testing.assert_close(posterior.observed["y"], torch.tensor(0.1, dtype=dtype))
    torch.testing.assert_close(got, expected.sum())


class Moving(Joint):
    high = Head(Positive())

    @site
    def u(self, high: Tensor) -> dd.Uniform:
        return dd.Uniform(torch.zeros_like(high), high)


class Wrapped(nn.Module):
    """Whose sites show only when it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.guide = Moving(in_features=1)

    def forward(self, x: Tensor) -> Any:
        return self.guide(x)


@pytest.mark.parametrize("estimator", ["stl", "score"])
def test_a_biased_estimator_is_refused_where_a_guide_shows_at_its_call(estimator: Any) -> None:
    objective = NegativeELBO(
        lambda z, x: -z["u"].square(), Wrapped(), num_samples=2, estimator=estimator
    )
    with pytest.raises(ConstraintError, match="moves as it learns"):
        objective(torch.ones(3, 1))


def test_a_count_that_became_a_tensor_moves_and_loads() -> None:
    coins, other = Count(), Count()
    coins.total_count = torch.tensor(5.0)
    saved = coins.double().state_dict()
    assert coins.total_count.item() == 5.0
    other.total_count = torch.tensor(3.0)
    other.load_state_dict(saved)
    assert other.total_count.item() == 5.0


def test_censored_draws_lie_at_the_cut_also_outside_of_the_support() -> None:
    uniform = dd.Uniform(0.0, 1.0)
    assert Censored(uniform, 2.0, 3.0, validate_args=False).sample().item() == 2.0
    assert Censored(uniform, 1.5, validate_args=False).sample().item() == 1.5


def test_sizes_and_counts_are_no_mixing() -> None:
    class Sized(Declarative):
        loc = Param(0.0, shape=("k",))

        @derived
        def size(self, loc: Tensor) -> tuple[torch.Size, int, int]:
            return loc.shape, loc.ndim, 10**400

    assert Sized(k=3, batch_shape=(2,)).size[0] == (2, 3)


def test_a_part_that_is_not_there_and_bounds_of_another_shape_are_told() -> None:
    class Pair(Variational):
        base = dd.Independent
        base_distribution = learnable(dd.Normal(torch.zeros(2), 1.0))
        reinterpreted_batch_ndims = 1

    class Bounded(Declarative):
        x = Param(constraint=Interval(torch.zeros(3), torch.ones(3)), shape=(2,))

    pair = Pair()
    pair._modules["base_distribution"] = None
    with pytest.raises(FieldError, match="Pair.base_distribution: expected a distribution"):
        _ = pair.base_distribution
    with pytest.raises(ConstraintError, match=r"Bounded.x: expected bounds that broadcast"):
        Bounded()
    with pytest.raises(ConstraintError, match="expected one of torch.float64.*got torch.int64"):
        Positive().contains(torch.tensor(1))


def test_a_loss_whose_state_changes_by_call_is_looked_at_in_one_state() -> None:
    class Annealed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Parameter(torch.tensor(3.0))
            self.norm, self.calls = nn.BatchNorm1d(1), 0

        def forward(self) -> Tensor:
            self.calls += 1
            return self.x.square() * (1 + 1 / self.calls) + 0 * self.norm(torch.ones(2, 1)).sum()

    objective = Annealed()
    history = fit(objective)
    assert history.converged
    assert len(history.losses) < 50

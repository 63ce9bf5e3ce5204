"""Weights of data: masks, frequencies and importance, in every likelihood."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor, nn, tensor

from declarative_dist import (
    Conditional,
    ConstraintError,
    Declarative,
    Head,
    Joint,
    Param,
    Positive,
    Variational,
    fit,
    learnable,
    site,
)
from declarative_dist.objectives import NegativeLogLikelihood, NegativeLogPosterior


class Gaussian(Variational):
    base = dd.Normal
    loc = Param(torch.randn, prior=dd.Normal(0.0, 2.0))
    scale = Param(1.5, Positive())


class Uniform(Conditional):
    """What one context allows another does not."""

    low = Head()
    width = Head(Positive())

    def base(self, low: Tensor, width: Tensor) -> dd.Distribution:
        return dd.Uniform(low, low + width)


class Trials(Conditional):
    """A network that normalises sees every context."""

    base = dd.NegativeBinomial
    total_count = Param(3.0, Positive(), shape=2)
    logits = Head(shape=2)


class Chain(Joint):
    a = Gaussian
    label = dd.Categorical(torch.ones(3))

    @site(event_dim=1)
    def b(self, a: Tensor, label: Tensor) -> dd.Distribution:
        return dd.Normal(a[..., None] + torch.arange(3.0)[label][..., None], torch.ones(2))


def line(module: Any, x: Tensor, y: Tensor) -> Tensor:
    if module.loc.ndim:
        x, y = x[:, None], y[:, None]
    return dd.Normal(module.loc * x, module.scale).log_prob(y)


N = 6
X = torch.linspace(-1.0, 2.0, N)
WEIGHTS = tensor([1.0, 0.0, 2.0, 0.5, 0.0, 3.0])
KEPT = WEIGHTS > 0


def problems() -> dict[str, tuple[nn.Module, tuple[Any, ...]]]:
    """Objectives with a batch of N data."""
    torch.manual_seed(0)
    uniform = Uniform(in_features=2)
    context = torch.randn(N, 2)
    inside = uniform(context).sample()
    chain = Chain()
    counts = torch.arange(2.0 * N).reshape(N, 2)
    prior = NegativeLogPosterior(Gaussian(), total_size=9)
    return {
        "variational": (NegativeLogLikelihood(Gaussian()), (X,)),
        "posterior": (prior, (X,)),
        "events": (NegativeLogLikelihood(learnable(dd.Independent(
            dd.Normal(torch.zeros(2), 1.0), 1))), (torch.randn(N, 2),)),
        "dimensions of its own": (
            NegativeLogLikelihood(learnable(dd.Normal(torch.zeros(2), torch.ones(2)))),
            (torch.randn(N, 2),)),
        "mixture": (NegativeLogLikelihood(learnable(dd.MixtureSameFamily(
            dd.Categorical(torch.ones(2)), dd.Normal(tensor([-1.0, 1.0]), 1.0)))), (X,)),
        "a support by context": (NegativeLogLikelihood(uniform), (context, inside)),
        "own dimensions by context": (
            NegativeLogLikelihood(Trials(in_features=2)), (context, counts)),
        "joint": (NegativeLogLikelihood(chain), (chain.sample((N,)),)),
        "any declarative": (
            NegativeLogPosterior(Gaussian(), total_size=9, log_likelihood=line), (X, X**2)),
    }  # fmt: skip


def spoil(batch: tuple[Any, ...], contexts: bool) -> tuple[Any, ...]:
    """NaN, or a label of nothing, in every value of zero weight."""

    def one(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: one(each) for name, each in value.items()}
        value = value.clone()
        value[~KEPT] = math.nan if value.is_floating_point() else 99
        return value

    return tuple(
        item if contexts and at < len(batch) - 1 else one(item) for at, item in enumerate(batch)
    )


def rows(batch: tuple[Any, ...], index: Any) -> tuple[Any, ...]:
    return tuple(
        {name: v[index] for name, v in item.items()} if isinstance(item, dict) else item[index]
        for item in batch
    )


def gradients(objective: nn.Module, loss: Tensor) -> list[Tensor]:
    objective.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in objective.parameters()]


@pytest.mark.parametrize("name", problems())
def test_a_weighted_loss_is_the_weighted_mean_of_single_losses(name: str) -> None:
    """Whatever data of zero weight hold: it is as if they were not there."""
    objective, batch = problems()[name]
    share = WEIGHTS / WEIGHTS.sum()
    singles = [objective(*rows(batch, slice(i, i + 1))) for i in range(N) if KEPT[i]]
    expected = (torch.stack(singles) * share[KEPT]).sum()
    is_conditional = isinstance(objective.module, Conditional)
    for given in (batch, spoil(batch, is_conditional)):
        loss = objective(*given, weights=WEIGHTS)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(
            gradients(objective, loss), gradients(objective, objective(*batch, weights=WEIGHTS))
        )
        assert all(g.isfinite().all() for g in gradients(objective, objective(
            *given, weights=WEIGHTS)))  # fmt: skip
    torch.testing.assert_close(objective(*batch, weights=[2] * N), objective(*batch))
    # Frequencies are repetitions.
    times = [1, 0, 2, 3, 0, 1]
    repeated = torch.arange(N).repeat_interleave(tensor(times))
    torch.testing.assert_close(objective(*batch, weights=times), objective(*rows(batch, repeated)))


def test_copies_may_weigh_data_apart() -> None:
    weights = torch.stack([WEIGHTS, WEIGHTS.flip(0)], -1)
    for data in (X[:, None], torch.randn(N, 2)):
        copies = Gaussian(batch_shape=2)
        spoiled = data.expand(N, 2).clone()
        spoiled[weights == 0] = math.nan
        expected = []
        for i in range(2):
            one = Gaussian(loc=copies.loc[i].item(), scale=copies.scale[i].item())
            expected.append(
                NegativeLogLikelihood(one)(data.expand(N, 2)[:, i], weights=weights[:, i])
            )
        for given in (data, spoiled):
            losses = NegativeLogLikelihood(copies).losses(given, weights=weights)
            torch.testing.assert_close(losses, torch.stack(expected))
            assert losses.sum().isfinite()
        shared = NegativeLogLikelihood(copies).losses(data, weights=WEIGHTS)
        torch.testing.assert_close(shared[0], expected[0])
    both = NegativeLogPosterior(copies, total_size=9, log_likelihood=line)
    weights = torch.stack([WEIGHTS, (WEIGHTS > 0).float()], -1)
    spoiled = X.where(KEPT, math.nan)
    torch.testing.assert_close(
        both.losses(spoiled, spoiled, weights=weights), both.losses(X, X, weights=weights)
    )


def test_data_of_several_dimensions_have_such_weights() -> None:
    q = NegativeLogLikelihood(learnable(dd.Normal(0.0, 1.0)))
    x, weights = torch.randn(2, 3), torch.rand(2, 3)
    torch.testing.assert_close(q(x, weights=weights), q(x.flatten(), weights=weights.flatten()))
    padded = NegativeLogLikelihood(Trials(in_features=2))
    contexts, counts = torch.randn(2, 3, 2), torch.ones(2, 3, 2)
    mask = tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    counts[mask == 0] = math.nan
    kept = mask.bool()
    torch.testing.assert_close(
        padded(contexts, counts, weights=mask), padded(contexts[kept], counts[kept])
    )


def test_a_fit_takes_them_as_keywords() -> None:
    """A batch that ends in a dict gives keywords, whole or in rows."""
    q, twin = learnable(dd.Normal(0.0, 1.0)), learnable(dd.Normal(0.0, 1.0))
    spoiled = X.where(KEPT, math.nan)
    fit(NegativeLogLikelihood(q), (spoiled, {"weights": WEIGHTS}), steps=5, progress=False)
    repeated = X.repeat_interleave((2 * WEIGHTS).int())
    fit(NegativeLogLikelihood(twin), repeated, steps=5, progress=False)
    torch.testing.assert_close(q.loc, twin.loc)
    for compiled in (False, True):
        history = fit(
            NegativeLogLikelihood(q), (X, {"weights": WEIGHTS + 1}),
            steps=4, batch_size=3, progress=False, compile=compiled,
        )  # fmt: skip
        assert len(history.losses) == 4


def test_a_fit_to_the_end_is_at_the_weighted_maximum() -> None:
    q = learnable(dd.Normal)(dtype=torch.float64)
    x, weights = X.double(), WEIGHTS.double()
    spoiled = x.where(KEPT, math.nan)
    history = fit(NegativeLogLikelihood(q), (spoiled, {"weights": weights}), progress=False)
    assert history.converged
    mean = (weights * x).sum() / weights.sum()
    variance = (weights * (x - mean).square()).sum() / weights.sum()
    torch.testing.assert_close(q.loc.detach(), mean)
    torch.testing.assert_close(q.scale.detach(), variance.sqrt())


def test_it_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dd.Distribution, "_validate_args", False)  # as torch.compile leaves it
    for name in ("own dimensions by context", "joint"):
        objective, batch = problems()[name]
        given = spoil(batch, isinstance(objective.module, Conditional))
        compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(
            compiled(*given, weights=WEIGHTS), objective(*batch, weights=WEIGHTS)
        )


@pytest.mark.parametrize(("weights", "said"), [
    (-WEIGHTS, r"\(weights=\): expected weights that are finite, zero or above"),
    (WEIGHTS * math.nan, "are finite.* NaN or infinite"),
    (WEIGHTS * 0.0, "all zero"),
    (WEIGHTS[:4], r"of shape \(6,\), got shape \(4,\)"),
    (torch.ones(N, 2), r"got shape \(6, 2\)"),
    (3.0, r"got shape \(\)"),
    ("all", "expected numbers"),
    ([1j] * N, "expected numbers"),
])  # fmt: skip
def test_weights_that_make_no_sense_are_refused(weights: Any, said: str) -> None:
    for name in ("variational", "joint", "a support by context"):
        objective, batch = problems()[name]
        with pytest.raises(ConstraintError, match=said):
            objective(*batch, weights=weights)


def test_one_copy_without_weights_is_refused() -> None:
    objective = NegativeLogLikelihood(Gaussian(batch_shape=2))
    with pytest.raises(ConstraintError, match="all zero"):
        objective(X[:, None], weights=torch.stack([WEIGHTS, 0 * WEIGHTS], -1))
    with pytest.raises(ConstraintError, match=r"of shape \(6,\) or \(6, 2\)"):
        objective(X[:, None], weights=torch.ones(N, 3))


def test_nan_in_a_context_is_refused() -> None:
    objective, (context, value) = problems()["a support by context"]
    context[1] = math.nan
    with pytest.raises(ConstraintError, match=r"contexts without NaN.*shape \(6, 2\)"):
        objective(context, value, weights=WEIGHTS)


def test_one_number_for_all_data_has_no_weights() -> None:
    class Level(Declarative):
        loc = Param(0.0, prior=dd.Normal(0.0, 1.0))

    whole = NegativeLogPosterior(
        Level(), total_size=None,
        log_likelihood=lambda q, x: dd.Normal(q.loc, 1.0).log_prob(x).sum(),
    )  # fmt: skip
    expected = -dd.Normal(0.0, 1.0).log_prob(X).sum() - dd.Normal(0.0, 1.0).log_prob(tensor(0.0))
    torch.testing.assert_close(whole(X), expected)
    with pytest.raises(ConstraintError, match=r"\(weights=\): expected none"):
        whole(X, weights=WEIGHTS)
    each = NegativeLogPosterior(
        Level(), total_size=None, log_likelihood=lambda q, x: dd.Normal(q.loc, 1.0).log_prob(x)
    )
    with pytest.raises(ConstraintError, match=r"for all data, as total_size=None says"):
        each(X)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("end", ["max", "tiny"])
def test_weights_whose_sum_is_beyond_the_dtype(dtype: torch.dtype, end: str) -> None:
    x = tensor([1.0, 2.0, 4.0, 8.0, 3.0], dtype=dtype)
    shares = tensor([1.0, 0.5, 0.0, 1.0, 0.25], dtype=torch.float64)
    weights = (getattr(torch.finfo(dtype), end) * shares).to(dtype)
    shares = weights.double() / weights.double().max()
    shares = shares / shares.sum()
    objective = NegativeLogLikelihood(learnable(dd.Normal(tensor(0.0, dtype=dtype), 1.0)))
    expected = -(shares * dd.Normal(0.0, 1.0).log_prob(x.double())).sum()
    close = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 0.0}
    torch.testing.assert_close(objective(x, weights=weights).double(), expected, **close)
    fit(objective, (x, {"weights": weights}), progress=False)
    found = next(iter(objective.parameters()))
    torch.testing.assert_close(found.double(), (shares * x.double()).sum(), **close)

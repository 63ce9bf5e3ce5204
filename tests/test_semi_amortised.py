"""Guides of global and local latents, in mini-batches of contexts, and likelihoods of contexts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor, nn

from declarative_dist import (
    Conditional,
    ConstraintError,
    DeclarationError,
    Exp,
    Given,
    Head,
    Joint,
    Param,
    Positive,
    derived,
    fit,
    learnable,
    site,
)
from declarative_dist.objectives import ImportanceWeightedELBO, NegativeELBO, NegativeLogLikelihood
from tests.cases import Policy, Speed

PRIOR, NOISE, N = 3.0, 0.8, 12
NOISES = torch.full((N,), NOISE).double()


class Narrow(Conditional):
    """Draws that are almost where they are predicted, all of the same density."""

    base = dd.Uniform
    low = Head()

    @derived
    def high(self, low: Tensor) -> Tensor:
        return low + 1e-5


class NarrowGuide(Joint):
    mu = learnable(dd.Normal(0.3, 0.5))
    theta = Narrow


class Model(Joint):
    """A hierarchy, whose local level is that of a given value."""

    mu = dd.Normal(0.0, PRIOR)
    noise = Given(Positive())

    @site
    def theta(self, mu: Tensor, noise: Tensor) -> dd.Normal:
        return dd.Normal(mu, torch.ones_like(noise))

    @site
    def y(self, theta: Tensor, noise: Tensor) -> dd.Normal:
        return dd.Normal(theta, noise)


def log_joint(values: dict[str, Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
    mu, theta = values["mu"], values["theta"]
    each = dd.Normal(mu[:, None], 1.0).log_prob(theta)
    return dd.Normal(0.0, PRIOR).log_prob(mu), each + dd.Normal(theta, NOISE).log_prob(y[:, 0])


def data() -> Tensor:
    torch.manual_seed(0)
    return (1.0 + torch.randn(N, 1) * math.hypot(1.0, NOISE)).double()


def by_function(guide: Joint, **options: Any) -> Callable[[Tensor], Tensor]:
    return NegativeELBO(log_joint, guide, **options)


def by_joint(guide: Joint, **options: Any) -> Callable[[Tensor], Tensor]:
    objective = NegativeELBO(Model().double(), guide, **options)
    return lambda y: objective(y, y=y[:, 0], noise=torch.full((len(y),), NOISE).double())


@pytest.mark.parametrize("estimator", ["pathwise", "score"])
@pytest.mark.parametrize("build", [by_function, by_joint])
def test_the_mean_over_mini_batches_is_the_loss_of_all(build: Any, estimator: str) -> None:
    guide, y = NarrowGuide(in_features=1).double(), data()
    loss = build(guide, total_size=N, num_samples=2, estimator=estimator)

    @torch.no_grad()  # there the score takes guides whose ends are learned
    def at(batch: Tensor) -> float:
        torch.manual_seed(1)  # the same draws of what contexts share, which come first
        return loss(batch).item()  # type: ignore[no-any-return]

    parts = y.split([2, 4, 6])
    mean = sum(len(part) / N * at(part) for part in parts)
    assert mean == pytest.approx(at(y), rel=1e-3)
    torch.manual_seed(1)
    with torch.no_grad():  # without total_size these are all of them
        whole = build(guide, num_samples=2, estimator=estimator)(y)
    assert whole.item() == pytest.approx(at(y))
    # By hand: what contexts share once, the rest twelve halves of a batch of two.
    torch.manual_seed(1)
    mu = 0.3 + 0.5 * torch.randn(2).double() if estimator == "pathwise" else None
    if mu is not None:
        theta = guide.theta.projection(parts[0])[:, 0].expand(2, 2)
        once, each = log_joint({"mu": mu, "theta": theta}, parts[0])
        q = dd.Normal(0.3, 0.5).log_prob(mu) + N * math.log(1e5)
        expected = (q - once - N / 2 * each.sum(-1)).mean()
        assert at(parts[0]) == pytest.approx(expected.item(), rel=1e-3)


class Exact(Joint):
    """The posterior: a local latent follows from the global one and its datum."""

    mu = learnable(dd.Normal(0.0, 1.0))
    shift = Head()
    gain = Param(0.5)
    scale = Param(1.0, Exp())

    @site
    def theta(self, mu: Tensor, shift: Tensor, gain: Tensor, scale: Tensor) -> dd.Normal:
        return dd.Normal(shift + gain * mu, scale)


def exact(y: Tensor) -> Exact:
    total = 1.0 + NOISE**2
    variance = 1.0 / (1.0 / PRIOR**2 + N / total)
    mean = variance * y.sum().item() / total
    guide = Exact(
        in_features=1, gain=NOISE**2 / total, scale=NOISE / total**0.5,
        mu={"loc": mean, "scale": variance**0.5}, dtype=torch.float64,
    )  # fmt: skip
    with torch.no_grad():
        guide.projection.weight.fill_(1.0 / total)
        guide.projection.bias.zero_()
    return guide


def log_evidence(y: Tensor) -> Tensor:
    covariance = torch.eye(N) * (1.0 + NOISE**2) + PRIOR**2
    return dd.MultivariateNormal(torch.zeros(N).double(), covariance.double()).log_prob(y[:, 0])


@pytest.mark.parametrize("kind", [NegativeELBO, ImportanceWeightedELBO])
def test_the_exact_posterior_gives_the_evidence_and_no_gradient(kind: Any) -> None:
    y = data()
    guide = exact(y)
    loss = kind(log_joint, guide, num_samples=3, estimator="stl")(y)
    torch.testing.assert_close(loss, -log_evidence(y))
    loss.backward()
    assert all(p.grad.abs().max() < 1e-9 for p in guide.parameters())


def test_gradients_of_the_score_are_those_of_paths() -> None:
    y = data()[:3]
    found = {}
    for estimator in ("pathwise", "score"):
        torch.manual_seed(2)
        guide = exact(data())
        guide.mu.loc, guide.scale = 0.0, 1.0
        loss = NegativeELBO(
            log_joint, guide, num_samples=100_000, estimator=estimator, total_size=N
        )(y)
        loss.backward()
        found[estimator] = torch.cat([p.grad.flatten() for p in guide.parameters()])
    torch.testing.assert_close(found["score"], found["pathwise"], rtol=0.05, atol=0.4)


def without_dots(values: dict[str, Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
    return log_joint(values, y)[0], dd.Normal(values["mu"], 1.0).log_prob(values["theta"])


def target(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return z.sum((-1, -2)), z.sum(-1)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "one term": (
        lambda: NegativeELBO(lambda v, y: log_joint(v, y)[1], exact(data()), total_size=N)(data()),
        r"expected two tensors: what counts once, of shape \(\*sample\) = \(1,\)"),
    "a term by datum and dimension": (
        lambda: NegativeELBO(
            lambda v, y: (log_joint(v, y)[0], log_joint(v, y)[1][..., None]), exact(data())
        )(data()),
        r"got 2 of shape \(1,\), \(1, 12, 1\)",
    ),
    "a guide without global sites": (
        lambda: NegativeELBO(target, Policy(in_features=1, actions=2), total_size=N),
        r"NegativeELBO\(total_size=\): expected a Joint with a context for a guide.*a Policy"),
    "terms for such a guide": (
        lambda: NegativeELBO(target, Policy(in_features=1, actions=2))(data().float()),
        r"expected one tensor of log densities, got 2 terms"),
    "draws that meet contexts": (
        lambda: NegativeELBO(without_dots, exact(data()), total_size=N, num_samples=7)(data()),
        r"got ValueError for \{'mu': \(7,\), 'theta': \(7, 12\)\}.*mu\[\.\.\., None\]"),
    "as many draws as contexts": (
        lambda: NegativeELBO(without_dots, exact(data()), total_size=N, num_samples=N)(data()),
        r"got ValueError for .*'theta': \(3, 12\)\}.*mu\[\.\.\., None\]"),
    "two draws of two contexts": (
        lambda: ImportanceWeightedELBO(without_dots, exact(data()[:2]), num_samples=2)(data()[:2]),
        r"mu\[\.\.\., None\]"),
    "three draws of three contexts": (
        lambda: NegativeELBO(without_dots, exact(data()[:3]), total_size=N, num_samples=3)(
            data()[:3]
        ),
        r"mu\[\.\.\., None\]",
    ),
    "batches of nobody says how many": (
        lambda: fit(
            NegativeELBO(log_joint, exact(data())), data(), batch_size=4, steps=1, progress=False
        ),
        r"NegativeELBO\(total_size=\): expected the number of contexts.*Write .*total_size=12\)",
    ),
    "batches of a list without their number": (
        lambda: fit(NegativeELBO(log_joint, exact(data())), [*data().split(4)], steps=1),
        r"NegativeELBO\(total_size=\): expected the number .*Write .*total_size=len\(dataset\)\)"),
    "fewer in all than in a batch": (
        lambda: NegativeELBO(log_joint, exact(data()), total_size=3)(data()),
        r"NegativeELBO\(total_size=\): expected 12 or more.*got 3"),
    "no count": (lambda: NegativeELBO(log_joint, exact(data()), total_size=0),
        r"NegativeELBO\(total_size=\)"),
    "data of no site": (
        lambda: NegativeELBO(Model().double(), exact(data()))(
            data(), y=data()[:, 0], z=1.0, noise=NOISES
        ),
        r"Model\.z: expected the name of a site",
    ),
    "a likelihood of shared sites": (
        lambda: NegativeLogLikelihood(NarrowGuide(in_features=1))(
            torch.zeros(3, 1), {"mu": 0.0, "theta": torch.zeros(3)}
        ),
        r"expected sites that all follow from the context, got also mu",
    ),
    "data of other contexts": (
        lambda: NegativeLogLikelihood(Pair(in_features=2))(torch.zeros(3, 2), speed=1.0, way=0.0),
        r"Pair.*expected"),
}  # fmt: skip


class Pair(Joint):
    speed = Speed
    bias = Head()

    @site
    def way(self, speed: Tensor, bias: Tensor) -> dd.Normal:
        return dd.Normal(bias + speed, 1.0)


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    make, said = REFUSED[name]
    with pytest.raises((ConstraintError, DeclarationError), match=said):
        make()


def test_as_many_draws_as_contexts_change_no_random_number_of_a_target_that_keeps_them() -> None:
    y = data()
    losses = []
    for is_known in (True, False):
        objective = NegativeELBO(log_joint, exact(y), total_size=N, num_samples=N)
        if is_known:
            objective(y)
        torch.manual_seed(3)
        losses.append(objective(y))
    assert losses[0] == losses[1]
    fit(NegativeELBO(log_joint, exact(y)), [y], steps=2)  # a list of one batch has all contexts


class Counted(nn.Linear):
    """A layer that counts how often it runs."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Networked(Joint):
    mu = learnable(dd.Normal(0.3, 0.5))
    theta = Speed


def test_a_target_is_tried_once_and_the_network_then_runs_once_in_a_step() -> None:
    network, x = Counted(3, 4), torch.rand(5, 3)
    guide = Networked(in_features=4, network=network)

    def log_joint(values: dict[str, Tensor], _: Tensor) -> tuple[Tensor, Tensor]:
        theta = dd.Exponential(1.0).log_prob(values["theta"])
        return dd.Normal(0.0, 1.0).log_prob(values["mu"]), theta

    objective = NegativeELBO(log_joint, guide, total_size=50, num_samples=5)
    objective(x)
    network.calls = 0
    for _ in range(3):
        objective(x).backward()
    assert network.calls == 3


def test_likelihoods_of_contexts() -> None:
    torch.manual_seed(0)
    pair, x = Pair(in_features=2), torch.randn(30, 2)
    values = {name: value.detach() for name, value in pair(x).sample().items()}
    loss = NegativeLogLikelihood(pair)
    by_context = pair(x).log_prob(values)
    torch.testing.assert_close(loss(x, values), -by_context.mean())
    torch.testing.assert_close(loss(x, **values), -by_context.mean())
    weights = torch.arange(30.0)
    holes = {**values, "way": values["way"].clone()}
    holes["way"][0] = torch.nan
    expected = -(weights * by_context).sum() / weights.sum()
    torch.testing.assert_close(loss(x, weights=weights, **holes), expected)
    before = loss(x, values).item()
    fit(loss, (x, values), batch_size=10, steps=60, lr=0.03, progress=False)
    assert loss(x, values).item() < before
    fit(loss, (x, values), progress=False, steps=20)
    assert isinstance(pair.projection, nn.Linear)

"""Losses of maximum likelihood and maximum a posteriori, and log likelihoods of each datum."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions as dd
from scipy import stats
from torch import Tensor, nn, tensor

from declarative_dist import (
    Conditional,
    ConstraintError,
    DeclarationError,
    Declarative,
    Exp,
    Head,
    Interval,
    Joint,
    Param,
    Positive,
    Variational,
    learnable,
    site,
)
from declarative_dist.objectives import NegativeELBO, NegativeLogLikelihood, NegativeLogPosterior
from tests.test_joint import EFFECT, ERROR, Correlated, Schools


class Gaussian(Variational):
    base = dd.Normal
    loc = Param(0.5, prior=dd.Normal(0.0, 2.0))
    scale = Param(1.5, Positive(), prior=dd.Gamma(2.0, 3.0))


class Vector(Variational):
    base = dd.Normal
    event_dim = 1
    loc = Param(torch.zeros(3))
    scale = Param(1.5, Positive())


class Regression(Conditional):
    base = dd.Normal
    loc = Head()
    scale = Param(0.5, Positive(), prior=dd.HalfNormal(1.0))


class Pair(Joint):
    mu = Gaussian
    noise = Param(0.7, Exp())

    @site
    def y(self, mu: Tensor, noise: Tensor) -> dd.Distribution:
        return dd.Normal(mu, noise, validate_args=False)


X = tensor([0.2, -1.0, 3.0, 0.4, 1.0])


# Maximum likelihood.


def test_it_is_the_mean_that_scipy_finds_and_has_its_gradient() -> None:
    q = Gaussian()
    loss = NegativeLogLikelihood(q)(X)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(-stats.norm(0.5, 1.5).logpdf(X.numpy()).mean(), rel=1e-5)
    loss.backward()
    assert q.raw_loc.grad.item() == pytest.approx(-(X.mean().item() - 0.5) / 1.5**2, rel=1e-5)


def test_events_belong_to_one_datum() -> None:
    x = torch.randn(7, 3)
    loss = NegativeLogLikelihood(Vector())(x)
    assert loss.item() == pytest.approx(
        -stats.norm(0.0, 1.5).logpdf(x.numpy()).sum(-1).mean(), rel=1e-5
    )


def test_copies_are_independent_problems() -> None:
    x = torch.randn(6, 4)
    loc = torch.randn(4)
    q = Gaussian(batch_shape=4, loc=loc)
    loss = NegativeLogLikelihood(q)(x)
    loss.backward()
    ones = [Gaussian(loc=value) for value in loc]
    losses = [NegativeLogLikelihood(one)(x[:, i]) for i, one in enumerate(ones)]
    torch.testing.assert_close(loss, torch.stack(losses).sum())
    torch.testing.assert_close(NegativeLogLikelihood(q).losses(x), torch.stack(losses))
    for i, one in enumerate(ones):
        losses[i].backward()
        torch.testing.assert_close(q.raw_loc.grad[i], one.raw_loc.grad)
    # Data that all copies see.
    every = NegativeLogLikelihood(q)(x[:, :1])
    torch.testing.assert_close(every, NegativeLogLikelihood(q)(x[:, :1].expand(6, 4)))


def test_losses_come_copy_by_copy_from_every_kind_of_module() -> None:
    x, y = torch.randn(5, 2), torch.randn(5, 2)
    q, pair = Gaussian(batch_shape=2, loc=tensor([0.0, 2.0])), Pair(batch_shape=2)
    for objective, batch in (
        (NegativeLogPosterior(q, total_size=9), (x,)),
        (NegativeLogPosterior(pair, total_size=9), ({"mu": x, "y": y},)),
        (NegativeLogPosterior(q, total_size=9, log_likelihood=lambda q, x: q.log_prob(x)), (x,)),
        (NegativeLogLikelihood(pair), ({"mu": x, "y": y},)),
    ):
        losses = objective.losses(*batch)
        assert losses.shape == (2,)
        torch.testing.assert_close(losses.sum(), objective(*batch))
        objective.zero_grad()
        losses[0].backward()  # the other copy has no part in it
        assert all(p.grad[0] != 0 and p.grad[1] == 0 for p in objective.parameters())
    conditional = NegativeLogLikelihood(Regression(in_features=2))
    assert conditional.losses(x, y[:, 0]).shape == ()
    columns = learnable(dd.Normal(torch.zeros(2), 1.0))  # no copies, but two dimensions of a batch
    assert NegativeLogLikelihood(columns).losses(x).shape == ()


def test_data_may_have_several_dimensions() -> None:
    x = torch.randn(2, 3, 3)
    flat = NegativeLogLikelihood(Vector())(x.reshape(6, 3))
    torch.testing.assert_close(NegativeLogLikelihood(Vector())(x), flat)
    torch.testing.assert_close(NegativeLogLikelihood(Gaussian())(X[0]), -Gaussian().log_prob(X[0]))


def test_counts_labels_and_flags_are_data() -> None:
    labels = tensor([0, 1, 1, 0])
    q = learnable(dd.Bernoulli(probs=tensor(0.3)))
    expected = -dd.Bernoulli(0.3).log_prob(labels.float()).mean()
    for data in (labels, labels.bool(), labels.float()):
        torch.testing.assert_close(NegativeLogLikelihood(q)(data), expected)
    q = learnable(dd.Categorical(logits=tensor([0.1, 0.2, 0.7])))
    torch.testing.assert_close(NegativeLogLikelihood(q)(labels), -q.log_prob(labels).mean())


def test_a_conditional_takes_its_context_first() -> None:
    torch.manual_seed(0)
    q = Regression(in_features=2)
    context, value = torch.randn(5, 2), torch.randn(5)
    loss = NegativeLogLikelihood(q)(context, value)
    d = q(context)
    expected = -stats.norm(d.loc.detach(), d.scale.detach()).logpdf(value).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    one = NegativeLogLikelihood(q)(context[0], value[0])
    torch.testing.assert_close(one, -q(context[0]).log_prob(value[0]))


class Plain(Conditional):
    base = dd.Normal
    loc = Head(shape=(3,))
    scale = Param(0.7, Positive(), shape=(3,))


class Events(Plain):
    event_dim = 1


class ByMethod(Conditional):
    loc = Head(shape=(3,))
    scale = Param(0.7, Positive(), shape=(3,))

    def base(self, loc: Tensor, scale: Tensor) -> dd.Distribution:
        return dd.Normal(loc, scale)


class NeedsABatch(ByMethod):
    def base(self, loc: Tensor, scale: Tensor) -> dd.Distribution:
        return dd.Normal(torch.stack(loc.unbind(-2), -2), scale)


class NeedsMore(ByMethod):
    def base(self, loc: Tensor, scale: Tensor) -> dd.Distribution:
        return dd.Normal(torch.stack(loc.unbind(-4), -4), scale)


class MakesEvents(ByMethod):
    def forward(self, *args: Any, **kwargs: Any) -> dd.Distribution:
        return dd.Independent(super().forward(*args, **kwargs), 1)


@pytest.mark.parametrize("kind", [Plain, Events, ByMethod, NeedsABatch, MakesEvents])
def test_dimensions_of_a_prediction_sum_whether_events_or_not(kind: type[Conditional]) -> None:
    twin, q = Plain(in_features=2), kind(in_features=2)
    q.load_state_dict(twin.state_dict())
    x, y = torch.randn(5, 2), torch.randn(5, 3)
    expected = -twin(x).log_prob(y).sum(-1).mean()
    torch.testing.assert_close(NegativeLogLikelihood(q)(x, y), expected)
    dims = (-1,) * (kind in (Events, MakesEvents))

    def target(z: Tensor, x: Tensor) -> Tensor:
        return -z.square().sum(dims) if dims else -z.square()

    torch.manual_seed(0)
    z = twin(x).rsample((1,))
    torch.manual_seed(0)
    bound = (twin(x).log_prob(z) + z.square()).sum(-1).mean()
    torch.testing.assert_close(NegativeELBO(target, q)(x), bound)


def test_a_prediction_that_follows_no_context_keeps_its_dimensions() -> None:
    class Free(Conditional):
        base = dd.Normal
        loc = Param(0.5, shape=(3,))
        scale = 1.0

    x, y = torch.randn(5, 2), torch.randn(5, 3)
    expected = -dd.Normal(0.5, 1.0).log_prob(y).sum(-1).mean()
    torch.testing.assert_close(NegativeLogLikelihood(Free())(x, y), expected)


def test_a_joint_takes_a_dict_by_site() -> None:
    q = Pair(batch_shape=2)
    x = {"mu": torch.randn(5, 2), "y": torch.randn(5, 2)}
    loss = NegativeLogLikelihood(q)(x)
    expected = stats.norm(0.5, 1.5).logpdf(x["mu"]) + stats.norm(x["mu"], 0.7).logpdf(x["y"])
    assert loss.item() == pytest.approx(-expected.mean(0).sum(), rel=1e-5)


# Maximum a posteriori.


@pytest.mark.parametrize("unconstrained", [False, True])
def test_the_posterior_adds_the_share_of_the_log_prior(unconstrained: bool) -> None:
    q = Gaussian(batch_shape=2)
    x = torch.randn(5, 2)
    loss = NegativeLogPosterior(q, total_size=50, unconstrained=unconstrained)(x)
    prior = dd.Normal(0.0, 2.0).log_prob(q.loc) + dd.Gamma(2.0, 3.0).log_prob(q.scale)
    if unconstrained:
        prior = prior + q.raw_scale.sigmoid().log()
    expected = NegativeLogLikelihood(q)(x) - prior.sum() / 50
    torch.testing.assert_close(loss, expected)


def test_a_log_likelihood_of_a_plain_declarative() -> None:
    class Line(Declarative):
        slope = Param(0.3, prior=dd.Normal(0.0, 1.0))

    def log_likelihood(line: Line, x: Tensor, y: Tensor) -> Tensor:
        return dd.Normal(line.slope * x[..., None] if line.slope.ndim else line.slope * x,
                         1.0).log_prob(y[..., None] if line.slope.ndim else y)  # fmt: skip

    x, y = torch.randn(5), torch.randn(5)
    loss = NegativeLogPosterior(Line(), total_size=20, log_likelihood=log_likelihood)(x, y)
    expected = stats.norm(0.3 * x, 1.0).logpdf(y).mean() + stats.norm.logpdf(0.3) / 20
    assert loss.item() == pytest.approx(-expected, rel=1e-5)
    copies = Line(batch_shape=3)
    many = NegativeLogPosterior(copies, total_size=20, log_likelihood=log_likelihood)(x, y)
    torch.testing.assert_close(many, 3 * loss)


def test_a_log_likelihood_that_is_a_module_is_trained_too() -> None:
    class Likelihood(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.noise = Gaussian(scale=2.0)

        def forward(self, q: Declarative, x: Tensor) -> Tensor:
            return self.noise.log_prob(x - q.loc)

    q, likelihood = Gaussian(), Likelihood()
    objective = NegativeLogPosterior(q, total_size=5, log_likelihood=likelihood)
    loss = objective(X)
    log_prior = q.log_prior() + likelihood.noise.log_prior()
    torch.testing.assert_close(loss, -likelihood(q, X).mean() - log_prior / 5)
    loss.backward()
    assert len(list(objective.parameters())) == 4
    assert all(p.grad is not None for p in objective.parameters())


# Bad input.


NO_DATA = type(Declarative)("Plain", (Declarative,), {"loc": Param(0.0)})
OTHERS = (dd.Normal(0.0, 1.0), Gaussian, nn.Linear(1, 1), None, Pair().condition(y=1.0))
NO_COUNTS = (0, -3, 2.0, True, None, "5")
REFUSED: list[tuple[Callable[..., Any], type[Exception], str]] = [
    *((lambda m=m: NegativeLogLikelihood(m), DeclarationError,
       "expected a Variational, a Joint or a Cond") for m in OTHERS),
    *((lambda m=m: NegativeLogPosterior(m, total_size=1), DeclarationError,
       "expected a Variational, a Joint or a Cond") for m in OTHERS),
    *((lambda n=n: NegativeLogPosterior(Gaussian(), total_size=n), ConstraintError,
       r"NegativeLogPosterior\(total_size=\): .*int, 1") for n in NO_COUNTS),
    (lambda: NegativeLogPosterior(NO_DATA(), total_size=1), DeclarationError,
     r"log_likelihood=\.\.\."),
    (lambda: NegativeLogPosterior(NO_DATA(), total_size=1, log_likelihood=3), DeclarationError,
     r"\(log_likelihood=\): expected a callable"),
    (lambda: NegativeLogPosterior(nn.Linear(1, 1), total_size=1, log_likelihood=len),
     DeclarationError, "a declarative module"),
    (lambda: NegativeLogLikelihood(NeedsMore(in_features=2)), ConstraintError,
     r"NeedsMore\.base: expected a method that takes"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "said"), REFUSED)
def test_what_has_no_likelihood_is_refused(
    make: Callable[[], Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        make()


@pytest.mark.parametrize(("q", "batch", "said"), [
    (Gaussian(), (), r"\(Gaussian\): expected the data, one argument, got 0 arguments"),
    (Gaussian(), (X, X), "got 2 arguments"),
    (Gaussian(), (["1.0"],), r"expected numbers: one, a list, an array or a tensor"),
    (Gaussian(), (torch.empty(0),), "expected one datum or more"),
    (Gaussian(), (X.double(),), r"data in torch\.float32.*, got data in torch\.float64"),
    (Gaussian(), (X + 0j,), r"complex64"),
    (Gaussian(), (X.to("meta"),), r"on cpu, got data .*on meta"),
    (Gaussian(batch_shape=5), (X,), r"\(n, 5\), .*With 1 in place of batch"),
    (Gaussian(batch_shape=4), (torch.randn(6, 3),), r"shape \(6, 3\)"),
    (Vector(), (torch.randn(5, 1),), r"\(n, \*batch, \*event\) = \(n, 3\)"),
    (learnable(dd.Gamma(1.0, 1.0)), (-X.abs(),), r"value in the support"),
    (Regression(in_features=2), (X,), "a context and a value, got 1 arguments"),
    (Regression(in_features=2), (torch.randn(5, 2), torch.randn(5, 1)), r"\(\*batch, \*event\)"),
    (Regression(in_features=2), (torch.randn(5, 2), torch.randn(1)), r"= \(5,\), got shape \(1,"),
    (Regression(in_features=2), (torch.randn(5, 2), X.double()), "float64"),
    (Regression(in_features=2), (X, torch.randn(5, 2)), "if this is the context and no value"),
    (Pair(), (X,), "a dict of data by site"),
    (Pair(), ({"mu": X},), "Pair"),
    (Pair(), ({"mu": X, "y": X.double()},), r"\(Pair\)\.y: expected data in torch\.float32"),
])  # fmt: skip
def test_data_that_does_not_fit_is_refused(q: Any, batch: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ConstraintError, match=said):
        NegativeLogLikelihood(q)(*batch)


@pytest.mark.parametrize(("q", "batch", "said"), [
    (learnable(dd.Gamma(1.0, 1.0)), (torch.tensor([1.0, 2.0, -3.0, -4.0]),), "-3.0 at index 2."),
    (Gaussian(), (torch.tensor([1.0, math.nan, math.nan]),), "nan at index 1."),
    (Gaussian(batch_shape=2), (torch.tensor([[1.0, 2.0], [3.0, math.nan]]),), "at index 1, 1."),
    (Vector(), (torch.tensor([[1.0, 2.0, 3.0], [math.nan, 2.0, 3.0]]),), "3.0] at index 1."),
    (learnable(dd.Uniform(torch.zeros(2), torch.tensor([1.0, 9.0]))), (torch.full((3, 1), 5.0),),
     "5.0 at index 0, 0."),
    (Regression(in_features=2), (torch.ones(2, 2), torch.tensor([1.0, math.nan])), "index 1."),
    (Pair(), ({"mu": torch.tensor([1.0, math.nan]), "y": torch.ones(2)},), "nan at index 1."),
])  # fmt: skip
def test_the_first_bad_datum_is_named(q: Any, batch: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ConstraintError) as caught:
        NegativeLogLikelihood(q)(*batch)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("score", "said"), [
    (lambda q, x: q.log_prob(x).sum(), r"got -\d.* of torch.float32"),
    (lambda q, x: q.log_prob(x)[:, None], r"shape \(5, 1\)"),
    (lambda q, x: q.log_prob(x)[:2], r"shape \(2,\)"),
    (lambda q, x: 1.0, "got 1.0"),
    (lambda q, x: x.long(), "int64"),
])  # fmt: skip
def test_a_log_likelihood_of_another_shape_is_refused(score: Any, said: str) -> None:
    objective = NegativeLogPosterior(Gaussian(), total_size=5, log_likelihood=score)
    with pytest.raises(ConstraintError, match=rf"\(log_likelihood=\): expected .*\(5\).*{said}"):
        objective(X)


# Log likelihoods of each datum.


def test_the_entries_of_an_event_are_one_datum_each() -> None:
    posterior = Schools().condition(y=EFFECT)
    draws = {n: v for n, v in Schools().sample((2, 3)).items() if n != "y"}
    found = posterior.log_lik(draws)
    assert found.keys() == {"y"}
    expected = dd.Normal(draws["theta"], ERROR).log_prob(tensor(EFFECT))
    assert expected.shape == (2, 3, 8)
    torch.testing.assert_close(found["y"], expected)
    one = {name: value[0, 0] for name, value in draws.items()}
    torch.testing.assert_close(posterior.log_lik(one)["y"], expected[0, 0])


def test_an_event_that_is_correlated_is_one_datum() -> None:
    joint = Correlated()
    draws = joint.sample((3,))
    x = draws.pop("x")[0]
    scale = draws["tau"][..., None] * draws["chol"]
    expected = dd.MultivariateNormal(torch.zeros(2), scale_tril=scale).log_prob(x)
    torch.testing.assert_close(joint.condition(x=x).log_lik(draws)["x"], expected)


def test_several_sites_and_copies() -> None:
    class Group(Joint):
        mu = learnable(dd.Normal(0.0, 1.0))

        @site(event_dim=1)
        def y(self, mu: Tensor) -> dd.Normal:
            return dd.Normal(mu[..., None].expand(*mu.shape, 3), 2.0)

        @site
        def z(self, mu: Tensor) -> dd.Normal:
            return dd.Normal(mu, 1.0)

    mu, y, z = torch.randn(2, 2), torch.randn(2, 3), torch.randn(2)
    found = Group(batch_shape=2).condition(y=y, z=z).log_lik({"mu": mu})
    torch.testing.assert_close(found["y"], dd.Normal(mu[..., None], 2.0).log_prob(y))
    torch.testing.assert_close(found["z"], dd.Normal(mu, 1.0).log_prob(z))
    every = Group().condition(mu=0.0, z=1.0, y=[1.0, 2.0, 3.0]).log_lik({})
    assert {name: value.shape for name, value in every.items()} == {"mu": (), "z": (), "y": (3,)}


class Line(Declarative):
    low = Param(0.0)
    slope = Param(1.0, Interval("low", 5.0))


def posterior_of(module: Any, **keywords: Any) -> NegativeLogPosterior:
    return NegativeLogPosterior(module, total_size=len(X), **keywords)


def test_of_families_and_of_copies() -> None:
    z = {"loc": torch.randn(3, 2, 5).double(), "scale": torch.rand(3, 2, 5).double() + 0.1}
    expected = dd.Normal(z["loc"][..., None, :], z["scale"][..., None, :])
    copies = posterior_of(Gaussian(batch_shape=5, dtype=torch.float64))
    data = torch.randn(4, 5).double()
    torch.testing.assert_close(copies.log_lik(z, data), expected.log_prob(data))
    one = {name: value[..., 0] for name, value in z.items()}
    found = posterior_of(Gaussian(dtype=torch.float64)).log_lik(one, data)
    torch.testing.assert_close(
        found, dd.Normal(one["loc"][..., None, None], one["scale"][..., None, None]).log_prob(data)
    )
    rows, loc, scale = torch.randn(4, 3), torch.randn(7, 3), torch.rand(7) + 0.1
    found = posterior_of(Vector()).log_lik({"loc": loc, "scale": scale}, rows)
    by_hand = dd.Normal(loc[:, None], scale[:, None, None])
    torch.testing.assert_close(found, by_hand.log_prob(rows).sum(-1))


def test_of_a_likelihood_of_ones_own_and_of_predictions() -> None:
    def score(line: Line, x: Tensor, y: Tensor) -> Tensor:
        return dd.Normal(line.slope * x + line.low, 1.0).log_prob(y)

    z = {"low": torch.zeros(3), "slope": tensor([1.0, 2.0, 3.0])}
    found = posterior_of(Line(), log_likelihood=score).log_lik(z, X, X)
    expected = dd.Normal(z["slope"][:, None] * X, 1.0).log_prob(X)
    torch.testing.assert_close(found, expected)
    regression = Regression(in_features=2, network=nn.Identity())
    x, y, scale = torch.randn(4, 2), torch.randn(4), tensor([0.5, 2.0])
    found = posterior_of(regression).log_lik({"scale": scale}, x, y)
    loc = regression(x).loc
    torch.testing.assert_close(found, dd.Normal(loc, scale[:, None]).log_prob(y))


def test_of_a_joint_with_data_of_all_sites() -> None:
    z = {name: torch.rand(3) + 0.1 for name in ("mu.loc", "mu.scale", "noise")}
    found = posterior_of(Pair()).log_lik(z, {"mu": X, "y": X + 1})
    expected = dd.Normal(z["mu.loc"][:, None], z["mu.scale"][:, None]).log_prob(X)
    expected = expected + dd.Normal(X, z["noise"][:, None]).log_prob(X + 1)
    torch.testing.assert_close(found, expected)


def test_what_has_no_log_likelihood_of_each() -> None:
    whole = NegativeLogPosterior(
        Line(), total_size=None, log_likelihood=lambda line: -line.slope.square()
    )
    z = {"low": torch.zeros(3), "slope": torch.ones(3)}
    with pytest.raises(ConstraintError, match=r"log_lik: expected a log_likelihood of each datum"):
        whole.log_lik(z)
    gaussian = posterior_of(Gaussian())
    good = {"loc": torch.zeros(3), "scale": torch.ones(3)}
    for values, batch, keywords, message in (
        ({"loc": torch.zeros(3)}, (X,), {}, r"Gaussian\.scale"),
        (good, (X.double(),), {}, r"expected data in torch\.float32"),
        (good, (X,), {"weights": torch.ones(5)}, "no keywords"),
        ({**good, "scale": -torch.ones(3)}, (X,), {}, r"Gaussian\.scale"),
    ):
        with pytest.raises(ConstraintError, match=message):
            gaussian.log_lik(values, *batch, **keywords)
    with pytest.raises(ConstraintError, match=r"Schools\.tau: expected a value for every site"):
        Schools().condition(y=EFFECT).log_lik({"mu": torch.zeros(3)})

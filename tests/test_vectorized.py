"""Methods that are written for one draw, copy or context, and sites of copies in one event."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any, ClassVar

import pytest
import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist import (
    Conditional,
    ConstraintError,
    Exp,
    Head,
    Joint,
    Param,
    Variational,
    derived,
    site,
)

CLOSE = {"rtol": 1e-4, "atol": 1e-3}


class Centred(Variational):
    """Its mean is written for one copy, with sizes equal to those of the copies."""

    base = dd.Normal
    knots = Param(torch.randn, shape=(3,))
    factor = Param(torch.randn, shape=(3, 3))
    scale = Param(1.0, Exp())

    @derived(vectorize=True)
    def loc(self, knots: Tensor, factor: Tensor, scale: Tensor) -> Tensor:
        return knots @ factor @ knots + scale * knots[0]


class Mixed(Conditional):
    """A derived distribution, from what is predicted and what is free."""

    base = dd.MixtureSameFamily
    logits = Head(shape=("k",))
    loc = Param(torch.randn, shape=("k",))

    @derived(vectorize=True)
    def mixture_distribution(self, logits: Tensor) -> dd.Distribution:
        return dd.Categorical(logits=logits - logits.mean())

    @derived(vectorize=True)
    def component_distribution(self, loc: Tensor, logits: Tensor) -> dd.Distribution:
        return dd.Normal(loc + logits[0], 1.0)


class Schools(Joint):
    """The eight schools, the sites for one draw; one is a transformed mixture of vectors."""

    mu = dd.Normal(0.0, 5.0)
    tau = dd.HalfNormal(5.0)
    slope = Param(torch.randn, shape=(8,))

    @site(shape=("school",))
    def theta(self, mu: Tensor, tau: Tensor) -> dd.Distribution:
        return dd.Normal(mu, tau)

    @site(event_dim=1, vectorize=True)
    def y(self, theta: Tensor, slope: Tensor) -> dd.Distribution:
        inner = dd.Normal(theta @ slope + slope, theta.exp().mean())
        return dd.TransformedDistribution(inner, [dd.AffineTransform(theta[0], 2.0)])

    @site(vectorize=True)
    def z(self, theta: Tensor, mu: Tensor) -> dd.Distribution:
        return dd.MultivariateNormal(theta[:2], mu.exp() * torch.eye(2), validate_args=False)


def by_hand(values: dict[str, Tensor], slope: Tensor) -> Tensor:
    """The density of one draw of `Schools`, in plain torch."""
    mu, tau, theta = values["mu"], values["tau"], values["theta"]
    total = dd.Normal(0.0, 5.0).log_prob(mu) + dd.HalfNormal(5.0).log_prob(tau)
    total = total + dd.Normal(mu, tau).log_prob(theta).sum()
    loc = theta[0] + 2.0 * (theta @ slope + slope)
    total = total + dd.Normal(loc, 2.0 * theta.exp().mean()).log_prob(values["y"]).sum()
    covariance = mu.exp() * torch.eye(2)
    return total + dd.MultivariateNormal(theta[:2], covariance).log_prob(values["z"])


@pytest.mark.parametrize("copies", [(), (3,), (0,), (2, 3)])
def test_copies_are_those_apart(copies: tuple[int, ...]) -> None:
    q = Centred(batch_shape=copies)
    assert q.batch_shape == copies
    for at in itertools.product(*map(range, copies)):
        knots = q.knots[at]
        want = knots @ q.factor[at] @ knots + q.scale[at] * knots[0]
        torch.testing.assert_close(q().loc[at], want)
    if q.batch_shape.numel():
        q.rsample().sum().backward()
        assert q.raw_knots.grad.shape == (*copies, 3)


def test_distributions_are_put_together_outside() -> None:
    torch.manual_seed(0)
    mixed, x = Mixed(in_features=3, k=3), torch.randn(3, 3)
    d = mixed(x)
    assert type(d.component_distribution) is dd.Normal
    logits = mixed.projection(x)
    want = dd.MixtureSameFamily(
        dd.Categorical(logits=logits), dd.Normal(mixed.loc + logits[:, :1], 1.0)
    )
    y = d.sample((5,))
    torch.testing.assert_close(d.log_prob(y), want.log_prob(y))
    d.log_prob(y).sum().backward()
    assert mixed.raw_loc.grad.abs().min() > 0


@pytest.mark.parametrize("sample", [(), (8,), (2, 8)])
def test_sites_for_one_draw_score_all(sample: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    joint = Schools(school=8)
    draws = joint.sample(sample)
    assert draws["theta"].shape == (*sample, 8)
    scores = joint.log_prob(draws)
    assert scores.shape == sample
    for at in [()] if not sample else [(i,) * len(sample) for i in range(min(sample))]:
        one = {name: value[at] for name, value in draws.items()}
        torch.testing.assert_close(scores[at], by_hand(one, joint.slope), **CLOSE)


def test_copies_of_a_joint_and_of_it() -> None:
    joint = Schools(school=8, batch_shape=(8,))
    draws = joint.sample((3,))
    scores = joint.log_prob(draws)
    for i in range(8):
        one = {name: value[1, i] for name, value in draws.items()}
        torch.testing.assert_close(scores[1, i], by_hand(one, joint.slope[i]), **CLOSE)
    for other in (copy.deepcopy(joint), pickle.loads(pickle.dumps(joint))):
        torch.testing.assert_close(other.log_prob(draws), scores)


def test_sizes_of_sites_are_keywords() -> None:
    with pytest.raises(ConstraintError, match=r"Schools\.theta.*Schools\(school=\.\.\.\)"):
        Schools()

    class Pairs(Joint):
        rate = dd.Gamma(2.0, 1.0)

        @site(shape=("rows", 2), event_dim=1)
        def weight(self, rate: Tensor) -> dd.Distribution:
            return dd.Exponential(rate[..., None].expand(*rate.shape, 4))

    draws = Pairs(rows=3).sample((5,))
    assert draws["weight"].shape == (5, 3, 2, 4)
    want = dd.Gamma(2.0, 1.0).log_prob(draws["rate"]) + dd.Exponential(
        draws["rate"][:, None, None, None]
    ).log_prob(draws["weight"]).sum((1, 2, 3))
    torch.testing.assert_close(Pairs(rows=3).log_prob(draws), want)


def wrong(kind: str) -> Any:
    """A method that means one, written where it gets many."""

    class Family(Variational):
        a = Param(torch.randn, shape=(4,))
        b = Param(torch.randn, shape=(4, 4))
        if kind == "derived":
            base = dd.Normal
            scale = 1.0

            @derived
            def loc(self, a: Tensor, b: Tensor) -> Tensor:
                return a @ (b @ a)
        else:

            def base(self, a: Tensor, b: Tensor) -> dd.Distribution:
                return dd.Normal(a @ (b @ a), 1.0)

    class Together(Joint):
        a = dd.Independent(dd.Normal(torch.zeros(4), 1.0), 1)

        @site
        def y(self, a: Tensor) -> dd.Distribution:
            return dd.Normal(a @ torch.ones(4, 4) @ a, 1.0)

    return Together().sample((3,)) if kind == "site" else Family(batch_shape=(3,))


@pytest.mark.parametrize("kind", ["derived", "base", "site"])
def test_an_error_about_sizes_shows_them_and_both_ways_out(kind: str) -> None:
    field = {"derived": "loc", "base": "base", "site": "y"}[kind]
    with pytest.raises(ConstraintError) as caught:
        wrong(kind)
    said = str(caught.value)
    assert f".{field}: " in said
    assert f"'a': ({2 if kind == 'base' else 3}, 4)" in said
    assert "[..., None]" in said
    assert "(vectorize=True)" in said


def scaled(of: Any, *copies: int) -> Any:
    """A normal whose scale a mapped method returns."""

    class Scaled(Variational):
        base = dd.Normal
        loc = Param(0.5)

        @derived(vectorize=True)
        def scale(self, loc: Tensor) -> Any:
            return of(loc)

    return Scaled(batch_shape=copies)


def test_a_choice_by_numbers_cannot_be_mapped() -> None:
    with pytest.raises(ConstraintError, match="mapped"):
        scaled(lambda loc: loc if loc > 1 else -loc, 2)


class Optional(dd.Distribution):
    """A class whose arguments are all optional, as those with several parametrisations are."""

    arg_constraints: ClassVar[Any] = {"mu": dd.constraints.real, "theta": dd.constraints.positive}
    support = dd.constraints.real

    def __init__(self, mu: Any = None, theta: Any = None, validate_args: Any = None) -> None:
        self.mu, self.theta = torch.broadcast_tensors(mu, theta)
        super().__init__(self.mu.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Optional:
        return Optional(self.mu.expand(batch_shape), self.theta.expand(batch_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return self.mu + self.theta * torch.randn(shape, dtype=self.mu.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        return dd.Normal(self.mu, self.theta).log_prob(value)


def test_a_class_with_optional_arguments_is_put_together_outside() -> None:
    class Sites(Joint):
        z = dd.Normal(0.0, 1.0)

        @site(event_dim=1, vectorize=True)
        def y(self, z: Tensor) -> dd.Distribution:
            return Optional(mu=z.expand(3), theta=z.exp() * torch.ones(3))

    joint: Any = Sites()
    draw = joint.sample((4,))
    z = draw["z"][:, None]
    by_hand = dd.Normal(z, z.exp()).log_prob(draw["y"]).sum(-1)
    expected = by_hand + dd.Normal(0.0, 1.0).log_prob(draw["z"])
    torch.testing.assert_close(joint.log_prob(draw), expected)


@pytest.mark.parametrize("copies", [(), (2,)])
def test_what_a_mapped_method_may_return(copies: tuple[int, ...]) -> None:
    number = scaled(lambda loc: 3.0, *copies).scale
    assert number.tolist() == (3.0 if copies == () else [3.0, 3.0])
    for bad, got in ((None, "None"), ((1.0, 2.0), "a tuple")):
        with pytest.raises(ConstraintError, match=rf"Scaled\.scale: expected a tensor.*got {got}"):
            scaled(lambda loc, bad=bad: bad, *copies)

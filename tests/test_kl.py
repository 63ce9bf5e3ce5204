"""Divergence and entropy, live and plain, through nests too, exact and estimated."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions as dd
from scipy import integrate
from torch import Tensor

from declarative_dist import (
    Exp,
    Interval,
    Joint,
    LearnableTransform,
    Positive,
    Simplex,
    Variational,
    entropy,
    kl_divergence,
    learnable,
    rsample_and_log_prob,
)
from declarative_dist.errors import ConstraintError, DeclarationError
from tests.cases import Mixture
from tests.composites import SinhArcsinh, affine, logits, normal, real, same, spread, tril
from tests.test_elbo import ByHand

PAIRS = {
    "Normal": (lambda: dd.Normal(0.5, 2.0), lambda: dd.Normal(0.0, 1.0)),
    "Gamma": (lambda: dd.Gamma(2.0, 3.0), lambda: dd.Gamma(1.0, 1.0)),
    "Beta": (lambda: dd.Beta(2.0, 3.0), lambda: dd.Beta(1.0, 1.0)),
    "Gamma-Exponential": (lambda: dd.Gamma(2.0, 3.0), lambda: dd.Exponential(1.0)),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("live", [(True, False), (False, True)])
def test_exact_both_ways_without_warnings(name: str, live: tuple[bool, bool]) -> None:
    p, q = (make() for make in PAIRS[name])
    expected = dd.kl_divergence(p, q)
    left = learnable(p) if live[0] else p
    right = learnable(q) if live[1] else q
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(dd.kl_divergence(left, right), expected)
        found = kl_divergence(left, right)
    torch.testing.assert_close(found, expected)
    found.backward()
    module = left if live[0] else right
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert entropy(learnable(p), num_samples=1) == p.entropy()


def test_no_estimate_unless_asked() -> None:
    p, q = learnable(dd.Laplace(0.0, 1.0)), dd.StudentT(3.0)
    with pytest.raises(NotImplementedError, match="Laplace and StudentT.*num_samples="):
        kl_divergence(p, q)
    with pytest.raises(NotImplementedError, match="num_samples="):
        entropy(Mixture(k=2))
    for count in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="an int, 1 or more"):
            kl_divergence(p, q, num_samples=count)


def test_gradient_without_reparametrisation_is_unbiased() -> None:
    q = learnable(dd.Poisson(3.0))
    p = dd.NegativeBinomial(5.0, 0.4)
    estimate = kl_divergence(q, p, num_samples=400_000)
    (gradient,) = torch.autograd.grad(estimate, q.raw_rate)
    k = torch.arange(60.0)
    rate = q.rate.detach().requires_grad_()
    log_q = dd.Poisson(rate).log_prob(k)
    exact = (log_q.exp() * (log_q - p.log_prob(k))).sum()
    (by_rate,) = torch.autograd.grad(exact, rate)
    assert estimate.item() == pytest.approx(exact.item(), abs=0.01)
    assert gradient.item() == pytest.approx((by_rate * q.raw_rate.sigmoid()).item(), abs=0.02)


def pair(*locs: float) -> dd.MixtureSameFamily:
    weights = dd.Categorical(torch.tensor([0.3, 0.7]))
    return dd.MixtureSameFamily(weights, dd.Normal(torch.tensor(locs), 0.8))


UNKNOWN: dict[str, tuple[Callable[[], dd.Distribution], Callable[[], dd.Distribution]]] = {
    "mixture and normal": (lambda: pair(-1.0, 2.0), lambda: dd.Normal(0.0, 2.0)),
    "normal and mixture": (lambda: dd.Normal(0.5, 1.2), lambda: pair(-1.0, 2.0)),
    "gamma and log-normal": (lambda: dd.Gamma(3.0, 2.0), lambda: dd.LogNormal(0.2, 0.7)),
    "squashed and uniform": (
        lambda: dd.TransformedDistribution(dd.Normal(0.2, 0.9), dd.SigmoidTransform()),
        lambda: dd.Beta(1.5, 1.5),
    ),
    "StudentT and StudentT": (lambda: dd.StudentT(5.0, 0.3), lambda: dd.StudentT(3.0)),
}


def by_quadrature(p: dd.Distribution, q: dd.Distribution) -> float:
    def integrand(x: float) -> float:
        at = torch.tensor(x)
        log_p = p.log_prob(at)
        return (log_p.exp() * (log_p - q.log_prob(at))).item()

    is_bounded = p.support.check(torch.tensor(-0.5)).logical_not().item()
    is_unit = is_bounded and p.support.check(torch.tensor(1.5)).logical_not().item()
    low, high = (1e-7 if is_bounded else -25.0), (1 - 1e-6 if is_unit else 25.0)
    return integrate.quad(integrand, low, high, limit=200, epsabs=1e-5)[0]


@pytest.mark.parametrize("name", UNKNOWN)
def test_pairs_that_torch_lacks_against_quadrature(name: str) -> None:
    p, q = (make() for make in UNKNOWN[name])
    with pytest.raises(NotImplementedError, match="num_samples="):
        kl_divergence(p, q)
    count = 100_000
    x = p.sample((count,))
    error = (p.log_prob(x) - q.log_prob(x)).std().item() / count**0.5
    for one in (p, learnable(p)):
        estimate = kl_divergence(one, learnable(q), num_samples=count).item()
        assert abs(estimate - by_quadrature(p, q)) < 4 * error + 1e-4


COPIES = 20_000


@pytest.mark.parametrize("count", [1, 3])
def test_gradients_of_a_mixture_are_unbiased(count: int) -> None:
    """Of both sides, in as many independent estimates as there are copies."""
    q = Mixture(k=2, batch_shape=(COPIES,), loc=[-1.0, 1.5], logits=[0.3, -0.2])
    target = learnable(dd.Normal(torch.full((COPIES,), 0.4), 1.5))
    kl_divergence(q, target, num_samples=count).sum().backward()
    one = Mixture(k=2, loc=[-1.0, 1.5], logits=[0.3, -0.2], dtype=torch.float64)
    other = learnable(dd.Normal(torch.tensor(0.4, dtype=torch.float64), 1.5))
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    log_q = one.log_prob(x)
    torch.trapezoid(log_q.exp() * (log_q - other.log_prob(x)), x).backward()
    expected = {**dict(one.named_parameters()), "target": other.raw_loc}
    for name, parameter in {**dict(q.named_parameters()), "target": target.raw_loc}.items():
        assert parameter.grad is not None
        deviation, mean = torch.std_mean(parameter.grad, 0)
        error = deviation / COPIES**0.5
        assert ((mean - expected[name].grad).abs() < 4 * error).all(), name


def test_the_gradient_vanishes_where_both_agree() -> None:
    """Every draw weighs as much as the others: the score function has no variance there."""
    q = learnable(pair(-1.0, 2.0))
    kl_divergence(q, pair(-1.0, 2.0), num_samples=10).backward()
    for parameter in q.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() < 1e-6


def test_gradient_of_an_estimated_entropy() -> None:
    q = Mixture(k=2, batch_shape=(COPIES,), loc=[-1.0, 1.5])
    entropy(q, num_samples=2).sum().backward()
    one = Mixture(k=2, loc=[-1.0, 1.5], dtype=torch.float64)
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    log_q = one.log_prob(x)
    torch.trapezoid(-log_q.exp() * log_q, x).backward()
    deviation, mean = torch.std_mean(q.raw_loc.grad, 0)
    assert ((mean - one.raw_loc.grad).abs() < 4 * deviation / COPIES**0.5).all()


def test_batch_shapes_broadcast_in_estimates() -> None:
    p = dd.MixtureSameFamily(
        dd.Categorical(torch.ones(3, 1, 2)), dd.Normal(torch.arange(6.0).reshape(3, 1, 2), 1.0)
    )
    q = dd.Normal(torch.tensor([0.0, 2.0, 4.0, 6.0]), 2.0)
    for one, other in ((p, q), (q, p)):
        estimate = kl_divergence(one, other, num_samples=20_000)
        assert estimate.shape == (3, 4)
        for i in range(3):
            narrow = dd.MixtureSameFamily(
                dd.Categorical(torch.ones(2)), dd.Normal(torch.arange(6.0).reshape(3, 2)[i], 1.0)
            )
            normal = dd.Normal(q.loc[1], 2.0)
            pair = (narrow, normal) if one is p else (normal, narrow)
            assert estimate[i, 1].item() == pytest.approx(by_quadrature(*pair), abs=0.08)


def test_shapes_that_differ_are_refused() -> None:
    """Events would broadcast where the number of draws is the size of one."""
    p, q = dd.Normal(0.0, 1.0), dd.MultivariateNormal(torch.zeros(3), torch.eye(3))
    mixture = dd.MixtureSameFamily(
        dd.Categorical(torch.ones(2)), dd.Independent(dd.Normal(torch.zeros(2, 3), 1.0), 1)
    )
    for one, other in ((p, mixture), (mixture, p), (p, q)):
        with pytest.raises(ConstraintError, match="Give both the same event shape"):
            kl_divergence(one, other, num_samples=3)
    two, three = dd.Normal(torch.zeros(2), 1.0), dd.Normal(torch.zeros(3), 1.0)
    with pytest.raises(ConstraintError, match=r"kl_divergence: .*broadcast with \(2,\)"):
        kl_divergence(learnable(two), three)


class Prior(Joint):
    mu = dd.Normal(0.0, 2.0)
    tau = dd.LogNormal(0.0, 1.0)


def test_guides_with_draws_by_site() -> None:
    """A log-normal is a normal at the logarithm, so there is a closed form."""
    guide = ByHand()
    normals = [dd.Normal(0.0, 2.0), dd.Normal(0.0, 1.0)]
    exact: Tensor = sum(
        dd.kl_divergence(dd.Normal(guide.loc[i], guide.log_scale[i].exp()), normal)
        for i, normal in enumerate(normals)
    )  # type: ignore[assignment]
    with pytest.raises(NotImplementedError, match="ByHand and Prior.*num_samples="):
        kl_divergence(guide, Prior())
    estimate = kl_divergence(guide, Prior(), num_samples=200_000)
    assert estimate.item() == pytest.approx(exact.item(), abs=0.01)
    found = torch.autograd.grad(estimate, list(guide.parameters()))
    expected = torch.autograd.grad(exact, list(guide.parameters()))
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)
    back = kl_divergence(Prior(), guide, num_samples=200_000)
    reverse = sum(
        dd.kl_divergence(normal, dd.Normal(guide.loc[i], guide.log_scale[i].exp())).item()
        for i, normal in enumerate(normals)
    )
    assert back.item() == pytest.approx(reverse, rel=0.02)
    with pytest.raises(NotImplementedError, match="entropy.*ByHand.*num_samples="):
        entropy(guide)
    own = guide.flat().entropy().sum() + guide.loc[1]
    assert entropy(guide, num_samples=100_000).item() == pytest.approx(own.item(), abs=0.02)


@pytest.mark.parametrize("ask", [entropy, rsample_and_log_prob, lambda d: kl_divergence(d, d)])
@pytest.mark.parametrize("given", [3, None, torch.ones(2), dd.Normal])
def test_what_is_no_distribution_is_refused(
    ask: Callable[[object], object], given: object
) -> None:
    with pytest.raises(DeclarationError, match="expected a distribution, plain or live, got"):
        ask(given)


# Through nests.

Transformed = dd.TransformedDistribution
Make = Callable[[], dd.Distribution]


def first(*shape: int) -> dd.Normal:
    return dd.Normal(real(*shape), spread(*shape))


def second(*shape: int) -> dd.Normal:
    return dd.Normal(0.5 - real(*shape), 1.5 * spread(*shape))


def with_sources(build: Callable[[dd.Distribution], dd.Distribution], *shape: int) -> Any:
    return lambda: build(first(*shape)), lambda: build(second(*shape))


def gammas(build: Callable[[dd.Distribution], dd.Distribution]) -> Any:
    return (
        lambda: build(dd.Gamma(spread(3), 1 + spread(3))),
        lambda: build(dd.Gamma(2 * spread(3), spread(3))),
    )


def full_ranks(build: Callable[[dd.Distribution], dd.Distribution]) -> Any:
    return (
        lambda: build(dd.MultivariateNormal(real(2, 3), scale_tril=tril(2, 3, 3))),
        lambda: build(dd.MultivariateNormal(real(3), scale_tril=2 * torch.eye(3))),
    )


NUMBERS = dd.AffineTransform(1.5, -2.0)
BOUNDS = Interval(-1.0, 1.0)

NESTS: dict[str, tuple[Make, Make]] = {
    "independent": with_sources(lambda d: dd.Independent(d, 1), 3),
    "independent over two dims": with_sources(lambda d: dd.Independent(d, 2), 4, 3),
    "independent over none": with_sources(lambda d: dd.Independent(d, 0), 3),
    "log-normal": (
        lambda: dd.LogNormal(real(3), spread(3)),
        lambda: dd.LogNormal(real(3) / 2, 2 * spread(3)),
    ),
    "chain": with_sources(
        lambda d: Transformed(d, [dd.AffineTransform(0.5, 2.0), dd.TanhTransform(), NUMBERS]), 3
    ),
    "composed": with_sources(
        lambda d: Transformed(d, dd.ComposeTransform([NUMBERS, dd.SoftplusTransform()])), 3
    ),
    "inverse of a composed": gammas(
        lambda d: Transformed(d, dd.ComposeTransform([NUMBERS, dd.ExpTransform()]).inv)
    ),
    "stick breaking": with_sources(lambda d: Transformed(d, dd.StickBreakingTransform()), 2, 3),
    "full rank": full_ranks(lambda d: Transformed(d, dd.ExpTransform())),
    "transformed independent": with_sources(
        lambda d: Transformed(dd.Independent(d, 1), dd.ExpTransform()), 4, 3
    ),
    "transformed twice": with_sources(
        lambda d: Transformed(Transformed(d, dd.ExpTransform()), NUMBERS), 3
    ),
    "everything": with_sources(
        lambda d: dd.Independent(
            Transformed(
                dd.Independent(Transformed(d, dd.TanhTransform()), 1), [NUMBERS, dd.ExpTransform()]
            ),
            1,
        ),
        5,
        4,
        3,
    ),
    "interval built anew": with_sources(
        lambda d: Transformed(d, Interval(-1.0, 1.0).as_transform()), 3
    ),
    "interval of tensors": with_sources(
        lambda d: Transformed(d, Interval(-spread(3), spread(3)).as_transform()), 3
    ),
    "simplex": with_sources(lambda d: Transformed(d, Simplex().as_transform()), 2, 3),
}


@pytest.mark.parametrize(
    "q",
    [
        Transformed(dd.Uniform(0.0, 1.0), NUMBERS),
        Transformed(dd.Gamma(2.0, 1.0), NUMBERS),
        dd.VonMises(0.0, 1.0),
    ],
    ids=["interval", "half line", "circle"],
)
def test_an_estimate_is_infinite_outside_of_a_support_that_torch_states_too_large(
    q: dd.Distribution,
) -> None:
    assert kl_divergence(dd.Normal(0.0, 5.0), q, num_samples=1000) == torch.inf


SIDES = [(True, False), (False, True), (True, True)]


def as_asked(make: Make, is_live: bool) -> dd.Distribution:
    return learnable(make()) if is_live else make()


def of_plain(p: Any, q: Any) -> Tensor:
    """Torch's own formula; where it takes two equal constraints for two maps, by hand."""
    try:
        return dd.kl_divergence(p, q)
    except NotImplementedError:
        assert [repr(t) for t in p.transforms] == [repr(t) for t in q.transforms]
        return of_plain(p.base_dist, q.base_dist)


@pytest.mark.parametrize("live", SIDES)
@pytest.mark.parametrize("name", NESTS)
def test_both_ways_with_plain_torch(name: str, live: tuple[bool, bool]) -> None:
    expected = of_plain(*(make() for make in NESTS[name]))
    assert expected.shape == NESTS[name][0]().batch_shape
    assert (expected > 0).all()
    p, q = (as_asked(make, is_live) for make, is_live in zip(NESTS[name], live, strict=True))
    for divergence in (dd.kl_divergence, kl_divergence):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.testing.assert_close(divergence(p, q), expected)
    # Draws that are allowed are not taken where there is a formula.
    torch.testing.assert_close(kl_divergence(p, q, num_samples=1), expected)


BY_IDENTITY = {
    "independent": dd.IndependentTransform(dd.TanhTransform(), 1),
    "reshaping": dd.ReshapeTransform((3,), (3, 1)),
    "cat": dd.CatTransform([dd.ExpTransform(), dd.TanhTransform()], -1, [1, 2]),
    "correlation": dd.CorrCholeskyTransform(),
    "own": SinhArcsinh(0.5, 2.0),
}


@pytest.mark.parametrize("name", BY_IDENTITY)
def test_one_transform_that_is_equal_only_to_itself(name: str) -> None:
    """Torch compares few transforms by value; one object in both is the same for all of them."""
    transform = BY_IDENTITY[name]
    p, q = Transformed(first(3), transform), Transformed(second(3), transform)
    expected = dd.kl_divergence(p, q)
    for live in SIDES:
        left, right = (learnable(d) if x else d for d, x in zip((p, q), live, strict=True))
        torch.testing.assert_close(kl_divergence(left, right), expected)
        torch.testing.assert_close(dd.kl_divergence(left, right), expected)


def test_gradient_against_a_closed_form() -> None:
    p = learnable(Transformed(dd.Normal(torch.tensor(0.5), torch.tensor(2.0)), BOUNDS_T))
    kl_divergence(p, Transformed(dd.Normal(0.0, 1.0), BOUNDS_T)).backward()
    # The transform drops out: what is left is log(1/s) + (s^2 + m^2 - 1) / 2.
    assert p.base_distribution.raw_loc.grad.item() == pytest.approx(0.5)
    slope = p.base_distribution.raw_scale.detach().sigmoid().item()
    by_raw = (2.0 - 1 / 2.0) * slope
    assert p.base_distribution.raw_scale.grad.item() == pytest.approx(by_raw)


BOUNDS_T = BOUNDS.as_transform(cache_size=1)


# Plain wrappers around live distributions.


def test_plain_wrappers_around_live_ones() -> None:
    expected = dd.kl_divergence(first(3), second(3))
    for wrap in (
        lambda d: dd.Independent(d, 1),
        lambda d: Transformed(d, BOUNDS_T),
        lambda d: dd.Independent(Transformed(d, [NUMBERS, dd.TanhTransform()]), 1),
        lambda d: Transformed(dd.Independent(d, 1), dd.ExpTransform()),
    ):
        total = expected if wrap(second(3)).batch_shape else expected.sum()
        for live in SIDES:
            p, o = as_asked(lambda: first(3), live[0]), as_asked(lambda: second(3), live[1])
            torch.testing.assert_close(kl_divergence(wrap(p), wrap(o)), total)
            torch.testing.assert_close(dd.kl_divergence(wrap(p), wrap(o)), total)
            torch.testing.assert_close(kl_divergence(learnable(wrap(p)), wrap(o)), total)


def test_mixed_with_a_declared_class() -> None:
    class Policy(Variational):
        base = Transformed
        event_dim = 1
        base_distribution = first(3)
        transforms = [Interval(-1.0, 1.0).as_transform()]  # noqa: RUF012

    plain = dd.Independent(Transformed(second(3), Interval(-1.0, 1.0).as_transform(1)), 1)
    expected = dd.kl_divergence(first(3), second(3)).sum()
    torch.testing.assert_close(kl_divergence(Policy(), plain), expected)
    torch.testing.assert_close(kl_divergence(Policy(), learnable(plain)), expected)
    torch.testing.assert_close(kl_divergence(Policy(), Policy()), torch.tensor(0.0))


@pytest.mark.parametrize(
    "transform",
    [
        affine(same, 3),
        affine(same, 3, sign=-1),
        dd.ComposeTransform([affine(same, 3), dd.TanhTransform()]),
        affine(same, 3).inv,
        dd.AffineTransform(1.0, spread(3)),
    ],
    ids=["affine", "negative", "composed", "inverse", "of a number"],
)
def test_transforms_with_tensors_held_constant(transform: Any) -> None:
    p, o = Transformed(first(3), transform), Transformed(second(3), transform)
    expected = dd.kl_divergence(p, o)
    torch.testing.assert_close(expected, dd.kl_divergence(first(3), second(3)))
    live = learnable(p, fixed="transforms")
    torch.testing.assert_close(kl_divergence(live, o), expected)
    torch.testing.assert_close(kl_divergence(o, live), dd.kl_divergence(o, p))
    torch.testing.assert_close(kl_divergence(live, learnable(o, fixed="transforms")), expected)


@pytest.mark.parametrize("live", SIDES)
def test_learned_transforms_that_happen_to_be_equal(live: tuple[bool, bool]) -> None:
    """Dropping them would hide their gradient: one moves without the other."""

    def shifted(loc: float) -> dd.Distribution:
        shift = dd.AffineTransform(torch.tensor(0.0), torch.tensor(1.0))
        return Transformed(dd.Normal(torch.tensor(loc), torch.tensor(1.0)), shift)

    p, q = as_asked(lambda: shifted(2.0), live[0]), as_asked(lambda: shifted(0.0), live[1])
    with pytest.raises(NotImplementedError, match="are learned"):
        kl_divergence(p, q)
    with torch.no_grad():
        assert kl_divergence(p, q) == 2.0


def test_a_declared_transform_with_events_is_the_same_as_itself() -> None:
    class Squash(LearnableTransform):
        base = dd.TanhTransform
        event_dim = 1

    family = learnable(Transformed)
    p = family(base_distribution=first(3), transforms=[Squash()])
    q = family(base_distribution=second(3), transforms=p.transforms)
    torch.testing.assert_close(kl_divergence(p, p), torch.tensor(0.0))
    expected = dd.kl_divergence(first(3), second(3)).sum()
    torch.testing.assert_close(kl_divergence(p, q), expected)


# What is refused.

DIFFERENT: dict[str, tuple[Any, Any]] = {
    "numbers": (dd.AffineTransform(1.0, 2.0), dd.AffineTransform(1.0, 3.0)),
    "kinds": (dd.ExpTransform(), dd.SoftplusTransform()),
    "lengths": ([dd.TanhTransform()], [dd.TanhTransform(), dd.ExpTransform()]),
    "order": ([NUMBERS, dd.TanhTransform()], [dd.TanhTransform(), NUMBERS]),
    "bounds": (Interval(-1.0, 1.0).as_transform(), Interval(-1.0, 2.0).as_transform()),
    "bounds in tensors": (Interval(-spread(3), spread(3)).as_transform(),
        Interval(-spread(3), 2 * spread(3)).as_transform()),
    "bounds in tensors of other shapes": (Interval(-spread(3), spread(3)).as_transform(),
        Interval(torch.tensor(-1.0), torch.tensor(1.0)).as_transform()),
    "constraints": (Positive().as_transform(), Exp().as_transform()),
    "floors": (Positive().as_transform(), Positive(floor=0.5).as_transform()),
    "a constraint and torch's": (Exp().as_transform(), dd.ExpTransform()),
    "tensors": (affine(same, 3), dd.AffineTransform(real(3), 2 * spread(3))),
    "signs": (affine(same, 3), affine(same, 3, sign=-1)),
}  # fmt: skip


@pytest.mark.parametrize("live", [(True, True), (False, False)])
@pytest.mark.parametrize("name", DIFFERENT)
def test_different_transforms_are_refused(name: str, live: tuple[bool, bool]) -> None:
    one, other = DIFFERENT[name]
    p = as_asked(lambda: Transformed(first(3), one), live[0])
    q = as_asked(lambda: Transformed(second(3), other), live[1])
    with pytest.raises(NotImplementedError, match=r"transforms.*num_samples="):
        kl_divergence(p, q)
    with pytest.raises(NotImplementedError):
        dd.kl_divergence(p, q)


MIXTURE = dd.MixtureSameFamily(logits(same, 3), normal(same, 3))
NO_FORMULA: dict[str, tuple[Callable[[], Any], str]] = {
    "mixtures": (lambda: kl_divergence(learnable(MIXTURE), MIXTURE), "MixtureSameFamily.*"),
    "a mixture": (lambda: kl_divergence(dd.Normal(0.0, 1.0), learnable(MIXTURE)), ""),
    "an entropy": (lambda: entropy(learnable(Transformed(first(3), BOUNDS_T))), ""),
    **{
        f"event dims, {live}": (
            lambda live=live: kl_divergence(
                as_asked(lambda: dd.Independent(first(4, 3), 1), live[0]),
                as_asked(lambda: dd.Independent(second(4, 3), 2), live[1]),
            ),
            "",
        )
        for live in SIDES
    },
}


@pytest.mark.parametrize("name", NO_FORMULA)
def test_no_formula_is_known(name: str) -> None:
    ask, said = NO_FORMULA[name]
    with pytest.raises(NotImplementedError, match=f"{said}num_samples="):
        ask()


# Batch shapes.


def test_batch_shapes_of_nests_broadcast() -> None:
    shapes = [(), (3,), (4, 1), (4, 3), (2, 1, 3)]
    for left, right in itertools.product(shapes, shapes):
        p, q = Transformed(first(*left), NUMBERS), Transformed(second(*right), NUMBERS)
        expected = dd.kl_divergence(first(*left), second(*right))
        assert expected.shape == torch.broadcast_shapes(left, right)
        torch.testing.assert_close(kl_divergence(learnable(p), q), expected)
        torch.testing.assert_close(kl_divergence(p, learnable(q)), expected)


def test_expanded_views() -> None:
    q = learnable(dd.Independent(Transformed(first(4, 3), BOUNDS_T), 1))
    other = dd.Independent(Transformed(second(4, 3), BOUNDS_T), 1)
    there = dd.kl_divergence(first(4, 3), second(4, 3)).sum(-1).expand(5, 4)
    back = dd.kl_divergence(second(4, 3), first(4, 3)).sum(-1).expand(5, 4)
    view = q.expand((5, 4))
    torch.testing.assert_close(kl_divergence(view, other), there)
    torch.testing.assert_close(kl_divergence(view, other.expand((5, 4))), there)
    torch.testing.assert_close(kl_divergence(other, view), back)
    with torch.no_grad():
        q.base_distribution.base_distribution.raw_loc.zero_()
    moved = dd.kl_divergence(dd.Normal(torch.zeros(4, 3), spread(4, 3)), second(4, 3)).sum(-1)
    torch.testing.assert_close(kl_divergence(view, other), moved.expand(5, 4))


# Estimates.


def test_estimates_at_saturation() -> None:
    """A draw rounded onto the edge has its density from the point before, here too."""
    p = learnable(
        Transformed(dd.Normal(torch.tensor(12.0), torch.tensor(1.0)), dd.TanhTransform())
    )
    torch.manual_seed(1)
    _, log_p = p.rsample_and_log_prob((1000,))
    torch.manual_seed(1)
    estimate = entropy(p, num_samples=1000)
    torch.testing.assert_close(estimate, -log_p.mean(0))
    estimate.backward()
    assert all(parameter.grad.isfinite().all() for parameter in p.parameters())


# Entropy.


def test_entropy_of_independent_is_exact() -> None:
    q = learnable(dd.Independent(first(4, 3), 1))
    torch.testing.assert_close(entropy(q), first(4, 3).entropy().sum(-1))
    torch.testing.assert_close(q.entropy(), first(4, 3).entropy().sum(-1))


@pytest.mark.parametrize(
    "family", [dd.Gumbel, dd.LogNormal, dd.HalfNormal, dd.Pareto, dd.Kumaraswamy, dd.Weibull]
)
def test_families_that_torch_builds_from_transforms_keep_torchs_formulas(family: Any) -> None:
    arguments = [torch.tensor(1.5), torch.tensor(2.5)]
    count = 1 if family is dd.HalfNormal else 2
    p, q = family(*arguments[:count]), family(*reversed(arguments[:count]))
    try:
        expected = dd.kl_divergence(p, q)
    except NotImplementedError:
        with pytest.raises(NotImplementedError, match="num_samples="):
            kl_divergence(learnable(p), learnable(q))
        return
    torch.testing.assert_close(kl_divergence(learnable(p), learnable(q)), expected)

"""Priors of parameters: what they may be, how they live, and their density in both spaces."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions as dd
from scipy import integrate, stats
from torch import Tensor, nn, tensor
from torch.distributions import constraints
from torch.func import functional_call, stack_module_state, vmap

from declarative_dist import (
    Conditional,
    Constraint,
    ConstraintError,
    CorrCholesky,
    DeclarationError,
    Declarative,
    Exp,
    FieldError,
    GreaterThan,
    Head,
    Interval,
    Joint,
    LearnableTransform,
    LessThan,
    LogInterval,
    LowerCholesky,
    MeanFieldNormal,
    Ordered,
    Param,
    Positive,
    PositiveDefinite,
    Real,
    Simplex,
    UnitInterval,
    Variational,
    derived,
    fields_of,
    learnable,
)

# torch warns at the first draw of every Wishart, singular or not.
pytestmark = pytest.mark.filterwarnings("ignore:Singular sample:UserWarning")


def declared(*arguments: Any, **options: Any) -> type[Declarative]:
    """A class with one parameter, `theta`."""
    return type(Declarative)("Model", (Declarative,), {"theta": Param(*arguments, **options)})  # type: ignore[return-value]


class Kernel(Declarative):
    lengthscale = Param(0.7, Exp(), shape=("d",), prior=dd.LogNormal(0.0, 1.0))
    variance = Param(2.0, Positive(), prior=dd.Gamma(2.0, 3.0))
    offset = Param(0.3)


class Spread(Variational):
    """A family that is learned as a prior."""

    base = dd.Normal
    loc = Param(0.5)
    scale = Param(2.0, Positive())


class Effects(Declarative):
    effect = Param(tensor([0.1, -0.4, 2.0]), prior=Spread())


def reference_kernel(q: Kernel) -> float:
    lengthscale, variance = (v.detach().double().numpy() for v in (q.lengthscale, q.variance))
    return float(
        stats.lognorm(1.0).logpdf(lengthscale).sum()
        + stats.gamma(2.0, scale=1 / 3.0).logpdf(variance).sum()
    )


# The density in the constrained space.


def test_the_log_prior_is_the_sum_over_entries_as_scipy_has_it() -> None:
    q = Kernel(d=4, lengthscale=tensor([0.2, 1.0, 3.0, 0.5]), dtype=torch.float64)
    log_prior = q.log_prior()
    assert log_prior.shape == ()
    assert log_prior.dtype == torch.float64
    assert log_prior.item() == pytest.approx(reference_kernel(q), rel=1e-6)


@pytest.mark.parametrize(("shape", "prior"), [
    ((3,), dd.MultivariateNormal(torch.zeros(3), 2 * torch.eye(3))),
    ((2, 3), dd.MultivariateNormal(torch.zeros(3), 2 * torch.eye(3))),
    ((2, 3), dd.Normal(tensor([0.0, 1.0, 2.0]), 1.0)),
    ((2, 3), dd.Normal(torch.zeros(2, 1), tensor([1.0, 2.0, 3.0]))),
    ((2, 3), dd.Independent(dd.Normal(torch.zeros(2, 3), 1.0), 2)),
    ((2, 3), dd.MixtureSameFamily(dd.Categorical(torch.ones(2)), dd.Normal(torch.zeros(2), 1.0))),
])  # fmt: skip
def test_events_and_batches_of_a_prior_sum(shape: tuple[int, ...], prior: dd.Distribution) -> None:
    value = torch.randn(shape)
    q = declared(0.0, shape=shape, prior=prior)(theta=value)
    torch.testing.assert_close(q.log_prior(), prior.log_prob(value).sum())
    torch.testing.assert_close(q.log_prior(unconstrained=True), q.log_prior())


def test_a_moved_prior_over_a_vector_is_on_the_moved_set() -> None:
    prior = dd.TransformedDistribution(
        dd.Independent(dd.Gamma(torch.ones(2), 1.0), 1),
        dd.AffineTransform(tensor([1.0, 2.0]), 1.0, event_dim=1),
    )
    q = declared(tensor([3.0, 3.0]), GreaterThan(tensor([1.0, 2.0])), prior=prior)()
    torch.testing.assert_close(q.log_prior(), tensor(-3.0))
    with pytest.raises(DeclarationError, match=r"Model\.theta"):
        declared(tensor([3.0, 3.0]), Positive(), prior=prior)


def test_without_priors_it_is_zero_in_the_dtype_of_the_module() -> None:
    assert torch.equal(declared(1.0, Positive())().log_prior(), torch.zeros(()))
    wide = declared(1.0, Positive())(batch_shape=(2, 3), dtype=torch.float64)
    found = wide.log_prior(unconstrained=True)
    assert torch.equal(found, torch.zeros(2, 3, dtype=torch.float64))
    assert torch.equal(
        type(Declarative)("Empty", (Declarative,), {})().log_prior(), torch.zeros(())
    )
    assert torch.equal(learnable(dd.Gamma(2.0, 3.0)).log_prior(), torch.zeros(()))


def test_frozen_parameters_count_as_they_are() -> None:
    q = declared(2.0, Exp(), trainable=False, prior=dd.LogNormal(0.0, 1.0))()
    expected = dd.LogNormal(0.0, 1.0).log_prob(tensor(2.0))
    torch.testing.assert_close(q.log_prior(), expected)
    assert not q.log_prior().requires_grad


# The density in the unconstrained space.

LINE: dict[str, tuple[Any, dd.Distribution]] = {
    "Real": (Real(), dd.StudentT(4.0, 1.0, 2.0)),
    "Positive": (Positive(), dd.Gamma(2.0, 3.0)),
    "Exp": (Exp(), dd.LogNormal(0.3, 0.6)),
    "Positive, floor": (Positive(floor=1e-3), dd.LogNormal(0.0, 1.0)),
    "Interval, inexact": (Interval(1000.1, 1000.7), dd.Uniform(1000.1, 1000.7)),
    "LessThan": (LessThan(2.0),
        dd.TransformedDistribution(dd.HalfNormal(1.0), dd.AffineTransform(2.0, -1.0))),
    "GreaterThan, moved": (GreaterThan(1.0),
        dd.TransformedDistribution(dd.Gamma(2.0, 3.0), dd.AffineTransform(1.0, 1.0))),
    "Interval, angle": (Interval(-math.pi, math.pi), dd.VonMises(0.5, 2.0)),
    "UnitInterval": (UnitInterval(), dd.Beta(2.0, 3.0)),
    "LogInterval": (LogInterval(0.1, 10.0), dd.Uniform(0.1, 10.0)),
    "Positive, mixture": (Positive(),
        dd.MixtureSameFamily(dd.Categorical(torch.ones(2)), dd.Gamma(tensor([1.0, 3.0]), 2.0))),
    "transforms": (dd.ComposeTransform([dd.ExpTransform(), dd.AffineTransform(2.0, 1.0)]),
        dd.TransformedDistribution(dd.Gamma(2.0, 3.0), dd.AffineTransform(2.0, 1.0))),
}  # fmt: skip


def at_raw(q: Declarative, raw: Tensor) -> Tensor:
    with torch.no_grad():
        q.raw_theta.copy_(raw)
        return q.log_prior(unconstrained=True)


@pytest.mark.parametrize("name", LINE)
def test_the_density_of_the_raw_number_integrates_to_one(name: str) -> None:
    constraint, prior = LINE[name]
    q = declared(None, constraint, prior=prior)(dtype=torch.float64)

    def density(raw: float) -> float:
        return at_raw(q, tensor(raw, dtype=torch.float64)).exp().item()

    total = sum(
        integrate.quad(density, *ends, limit=200)[0]
        for ends in ((-math.inf, -20.0), (-20.0, 0.0), (0.0, 20.0), (20.0, math.inf))
    )
    assert total == pytest.approx(1.0, abs=1e-4)


def lower(matrix: Tensor, offset: int = 0) -> Tensor:
    rows, columns = torch.tril_indices(*matrix.shape, offset)
    return matrix[rows, columns]


SHAPED: dict[str, tuple[Any, dd.Distribution, tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "Simplex": (Simplex(), dd.Dirichlet(tensor([2.0, 3.0, 1.5])), (3,), lambda v: v[:-1]),
    "CorrCholesky": (CorrCholesky(), dd.LKJCholesky(3, 1.5), (3, 3), lambda v: lower(v, -1)),
    "PositiveDefinite": (
        PositiveDefinite(), dd.Wishart(tensor(5.0), torch.eye(3)), (3, 3), lower,
    ),
    "Ordered": (
        Ordered(),
        dd.TransformedDistribution(
            dd.Independent(dd.Normal(torch.zeros(3), 1.0), 1), Ordered().as_transform()
        ),
        (3,),
        lambda v: v,
    ),
    "LowerCholesky": (
        LowerCholesky(),
        dd.TransformedDistribution(
            dd.Independent(dd.Normal(torch.zeros(6), 1.0), 1), LowerCholesky().as_transform()
        ),
        (3, 3),
        lower,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPED)
def test_the_jacobian_of_events_is_that_of_their_free_entries(name: str) -> None:
    constraint, prior, shape, free = SHAPED[name]
    q = declared(None, constraint, shape=shape, prior=prior)(dtype=torch.float64)
    raw = torch.randn(q.raw_theta.shape, dtype=torch.float64) / 2
    jacobian = torch.autograd.functional.jacobian(lambda r: free(constraint(r)), raw)
    found = at_raw(q, raw)
    expected = q.log_prior() + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    if name in ("Ordered", "LowerCholesky"):  # a normal again, where it came from
        torch.testing.assert_close(found, dd.Normal(0.0, 1.0).log_prob(raw).sum())


def test_the_jacobian_of_named_bounds_is_given_the_bounds() -> None:
    class Window(Declarative):
        low = 1.0
        high = Param(3.0, GreaterThan("low"), prior=dd.Pareto(1.0, 2.0))
        inside = Param(2.0, Interval("low", "top"), prior=dd.Uniform(1.0, 4.0))
        top = Param(4.0, trainable=False)

    q = Window(dtype=torch.float64)
    raw_high, raw_inside = q.raw_high.detach(), q.raw_inside.detach()
    expected = (
        dd.Pareto(1.0, 2.0).log_prob(q.high)
        + dd.Uniform(1.0, 4.0).log_prob(q.inside)
        + raw_high.sigmoid().log()
        + (3.0 * raw_inside.sigmoid() * (1 - raw_inside.sigmoid())).log()
    )
    torch.testing.assert_close(q.log_prior(unconstrained=True), expected)


def test_a_constraint_without_a_jacobian_says_so() -> None:
    class Shifted(nn.Module):
        def forward(self, raw: Tensor) -> Tensor:
            return raw + 1

        def right_inverse(self, value: Tensor) -> Tensor:
            return value - 1

    q = declared(2.0, Shifted(), prior=dd.Normal(0.0, 1.0))()
    torch.testing.assert_close(q.log_prior(), dd.Normal(0.0, 1.0).log_prob(tensor(2.0)))
    with pytest.raises(NotImplementedError, match=r"FromModule\.log_abs_det"):
        q.log_prior(unconstrained=True)


# Copies and parts.


def drawn(module: Declarative, *sample: int) -> dict[str, Tensor]:
    """Draws of a guide that is wide enough to move every value."""
    torch.manual_seed(0)
    return MeanFieldNormal(module, init_scale=0.7).sample(sample)


class Bounded(Declarative):
    """Bounds that are named, events, a frozen parameter, and one without a prior."""

    low = Param(0.5, prior=dd.Normal(0.0, 1.0))
    high = Param(2.0, GreaterThan("low"))
    weights = Param([0.2, 0.3, 0.5], Simplex(), prior=dd.Dirichlet(tensor([2.0, 3.0, 4.0])))
    width = Param(0.7, Positive(), prior=dd.Gamma(2.0, 1.0), trainable=False)


class Learned(Declarative):
    """A prior with parameters of its own, which are latent with the others; and a part."""

    effects = Param(0.0, shape=(3,), prior=Spread)
    kernel = Kernel


class Inner(Declarative):
    width = Param(torch.ones(2), Positive(), prior=dd.Gamma(2.0, 1.0))


class Layered(Declarative):
    """Priors of every rank: learned, with a batch of their own, of a part, beyond a bound."""

    low = Param(-1.0, prior=dd.Normal(0.0, 5.0))
    high = Param(torch.full((2, 3), 9.0), GreaterThan("low"))
    effect = Param(torch.zeros(2, 3), prior=Spread())
    rows = Param(torch.zeros(2, 3), prior=dd.Normal(torch.zeros(3), tensor([1.0, 2.0, 3.0])))
    event = Param(torch.zeros(3), prior=dd.MultivariateNormal(torch.zeros(3), torch.eye(3)))
    inner = Inner


@pytest.mark.parametrize(("name", "batch_shape"), [
    ("Kernel", (2, 1)), ("Bounded", (2,)), ("Learned", ()), ("Layered", ()), ("Layered", (2, 3)),
])  # fmt: skip
@pytest.mark.parametrize("unconstrained", [False, True])
def test_priors_at_draws_are_those_of_modules_with_these_values(
    name: str, batch_shape: tuple[int, ...], unconstrained: bool
) -> None:
    family, sizes = {"Kernel": (Kernel, {"d": 2}), "Bounded": (Bounded, {}),
                     "Learned": (Learned, {"d": 2}), "Layered": (Layered, {})}[name]  # fmt: skip
    module = family(batch_shape=batch_shape, dtype=torch.float64, **sizes)
    before = module.log_prior()
    draws = drawn(module, 3, 2)
    found = module.log_prior(draws, unconstrained=unconstrained)
    assert found.shape == (3, 2, *batch_shape)
    for at in itertools.product(range(3), range(2)):
        twin = copy.deepcopy(module)
        for site, value in draws.items():  # a prior is no field, which assign would take
            part, _, field = site.rpartition(".")
            setattr(twin.get_submodule(part), field, value[at])
        expected = twin.log_prior(unconstrained=unconstrained)
        torch.testing.assert_close(found[at], expected)
    one = {site: value[0, 0] for site, value in draws.items()}
    torch.testing.assert_close(module.log_prior(one, unconstrained=unconstrained), found[0, 0])
    assert torch.equal(module.log_prior(), before)
    assert module.log_prior({n: v[:0] for n, v in draws.items()}).shape == (0, 2, *batch_shape)


def test_priors_at_draws_pass_gradients_to_the_draws_alone() -> None:
    kernel = Kernel(d=2, dtype=torch.float64)
    draws = {n: v.requires_grad_() for n, v in drawn(kernel, 4).items()}
    kernel.log_prior(draws).sum().backward()
    assert all(parameter.grad is None for parameter in kernel.parameters())
    for name, prior in (("lengthscale", dd.LogNormal(0.0, 1.0)), ("variance", dd.Gamma(2.0, 3.0))):
        value = draws[name].detach().requires_grad_()
        (expected,) = torch.autograd.grad(prior.log_prob(value).sum(), value)
        torch.testing.assert_close(draws[name].grad, expected)
    assert draws["offset"].grad is None  # it has no prior


def test_priors_at_draws_see_a_parameter_that_two_parts_share() -> None:
    class Pair(Declarative):
        one = Kernel
        other = Kernel

    pair = Pair(d=2)
    pair.other.raw_variance = pair.one.raw_variance
    draws = drawn(pair, 5)
    assert "other.variance" not in draws
    expected = dd.Gamma(2.0, 3.0).log_prob(draws["one.variance"])
    for name in ("one", "other"):
        lengths = draws[f"{name}.lengthscale"]
        expected = expected + dd.LogNormal(0.0, 1.0).log_prob(lengths).sum(-1)
    torch.testing.assert_close(pair.log_prior(draws), expected)


def test_priors_at_draws_compile_and_agree_with_eager() -> None:
    kernel = Kernel(d=2)
    draws = drawn(kernel, 4)
    expected = kernel.log_prior(draws)
    compiled = torch.compile(lambda v: kernel.log_prior(v), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(draws), expected)


def test_values_for_a_prior_that_do_not_fit_are_told_by_name() -> None:
    kernel = Kernel(d=2)
    draws = drawn(kernel, 4)
    for wrong, text in (
        ({**draws, "lengthscale": -draws["lengthscale"]}, "Kernel.lengthscale: expected a finite"),
        ({**draws, "variance": draws["variance"][:3]}, "Kernel.variance: expected shape"),
        ({n: v for n, v in draws.items() if n != "offset"}, "Kernel.offset: expected a value"),
        ({**draws, "ofset": draws["offset"]}, "Did you mean 'offset'?"),
        ([1.0], "Kernel: expected a dict of values by site"),
    ):
        with pytest.raises(ConstraintError) as caught:
            kernel.log_prior(wrong)
        assert text in str(caught.value)


class Nest(Declarative):
    kernel = Kernel(d=2)
    effects = Effects()
    again = kernel
    hyper = Param(1.0, Positive(), prior=dd.HalfCauchy(2.0))


def test_parts_count_once_each_and_copies_of_them_apart() -> None:
    variance = torch.rand(3) + 0.1
    q = Nest(batch_shape=3, kernel={"variance": variance})
    assert q.kernel is q.again
    kernels = [Kernel(d=2, variance=v) for v in variance]
    hyper = dd.HalfCauchy(2.0).log_prob(tensor(1.0))
    parts = [k.log_prior() + Effects().log_prior() + hyper for k in kernels]
    torch.testing.assert_close(q.log_prior(), torch.stack(parts))
    # A part that was given has no copies: it counts in each.
    shared = Nest(batch_shape=3, kernel=kernels[0], again=kernels[0])
    torch.testing.assert_close(shared.log_prior(), parts[0].expand(3))


class Nested(Variational):
    base = dd.TransformedDistribution
    base_distribution = learnable(dd.Normal(0.0, 1.0))

    class Shift(LearnableTransform):
        base = dd.AffineTransform
        loc = Param(0.5, prior=dd.Normal(0.0, 2.0))
        scale = Param(0.3, Positive(), prior=dd.LogNormal(0.0, 1.0))

    transforms = (Shift,)


def test_priors_in_transforms_lists_and_foreign_modules_count() -> None:
    shift = dd.Normal(0.0, 2.0).log_prob(tensor(0.5)) + dd.LogNormal(0.0, 1.0).log_prob(
        tensor(0.3)
    )
    torch.testing.assert_close(Nested().log_prior(), shift)
    torch.testing.assert_close(Nested(batch_shape=2).log_prior(), shift.expand(2))

    class Around(Declarative):
        network = nn.Sequential(nn.Linear(1, 1), Nested())

    torch.testing.assert_close(Around().log_prior(), shift)


def test_a_conditional_and_a_joint_have_priors_of_their_parameters() -> None:
    spread = Param(1.0, Positive(), prior=dd.HalfNormal(1.0))
    policy = {"base": dd.Normal, "loc": Head(), "scale": spread}
    expected = dd.HalfNormal(1.0).log_prob(tensor(1.0))
    for kind, body in ((Conditional, policy), (Joint, {"spread": spread, "mu": Spread})):
        model = type(kind)("Model", (kind,), body)
        module = model(in_features=2) if kind is Conditional else model()
        torch.testing.assert_close(module.log_prior(), expected)


# Learned priors.


def test_a_declared_family_as_a_prior_is_learned() -> None:
    q = Effects()
    assert [name for name, _ in q.named_parameters()] == [
        "raw_effect", "effect_prior.raw_loc", "effect_prior.raw_scale",
    ]  # fmt: skip
    q.log_prior().backward()
    assert q.effect_prior.raw_scale.grad is not None


def test_a_prior_with_a_prior_and_a_prior_that_is_shared() -> None:
    class Scale(Variational):
        base = dd.HalfNormal
        scale = Param(2.0, Positive(), prior=dd.Gamma(1.0, 1.0))

    tied = Scale()

    class Model(Declarative):
        first = Param(1.0, Positive(), prior=tied)
        second = Param(3.0, Positive(), prior=tied)
        top = tied

    q = Model()
    assert q.first_prior is q.second_prior is q.top
    assert q.first_prior is not tied
    assert Model().first_prior is not q.first_prior
    expected = dd.HalfNormal(2.0).log_prob(tensor([1.0, 3.0])).sum()
    expected = expected + dd.Gamma(1.0, 1.0).log_prob(tensor(2.0))
    torch.testing.assert_close(q.log_prior(), expected)
    assert Model(batch_shape=4).log_prior().shape == (4,)
    torch.testing.assert_close(Model(batch_shape=4).log_prior()[3], expected)


# A prior lives with its module.


def test_a_state_without_priors_loads_into_a_class_with_one_but_for_the_prior() -> None:
    class Plain(Declarative):
        lengthscale = Param(1.0, Exp(), shape=("d",))
        variance = Param(1.0, Positive())
        offset = Param(0.0)

    q = Kernel(d=2)
    keys = q.load_state_dict(Plain(d=2).state_dict(), strict=False)
    assert all("_prior." in key for key in keys.missing_keys)
    assert not keys.unexpected_keys
    torch.testing.assert_close(q.variance.detach(), tensor(1.0))
    assert q.lengthscale_prior.scale == 1.0


def test_what_the_class_was_given_may_change_later() -> None:
    loc = torch.zeros(())
    prior, family = dd.Normal(loc, 1.0), Spread()
    one, other = declared(0.0, prior=prior), declared(0.0, prior=family)
    before = one().log_prior(), other().log_prior()
    loc.fill_(5.0)
    family.loc = 9.0
    torch.testing.assert_close((one().log_prior(), other().log_prior()), before)


def test_func_transforms() -> None:
    torch.manual_seed(0)
    kernels = [Kernel(d=2, lengthscale=torch.rand(2) + 0.2) for _ in range(3)]

    class Objective(nn.Module):
        def __init__(self, q: Declarative, unconstrained: bool) -> None:
            super().__init__()
            self.q, self.unconstrained = q, unconstrained

        def forward(self) -> Tensor:
            return self.q.log_prior(unconstrained=self.unconstrained)

    for unconstrained in (False, True):
        models = [Objective(kernel, unconstrained) for kernel in kernels]
        expected = torch.stack([model() for model in models])
        parameters, buffers = stack_module_state(models)

        def call(parameters: Any, buffers: Any, model: nn.Module = models[0]) -> Tensor:
            return functional_call(model, (parameters, buffers), ())

        torch.testing.assert_close(vmap(call)(parameters, buffers), expected)


def test_gradients_are_those_of_the_unconstrained_density() -> None:
    q = declared(1.3, Positive(), prior=dd.Gamma(2.0, 3.0))(dtype=torch.float64)
    q.log_prior(unconstrained=True).backward()
    raw = q.raw_theta.item()

    def density(raw: float) -> float:
        value = math.log1p(math.exp(raw))
        return stats.gamma(2.0, scale=1 / 3).logpdf(value) - math.log1p(math.exp(-raw))

    slope = (density(raw + 1e-5) - density(raw - 1e-5)) / 2e-5
    assert q.raw_theta.grad.item() == pytest.approx(slope, rel=1e-6)


# Inheritance, and what is shown.


def test_priors_are_inherited_and_overridden_with_their_fields() -> None:
    class Longer(Kernel):
        extra = Param(0.0, prior=dd.Normal(0.0, 1.0))

    class Other(Kernel):
        lengthscale = Param(1.0, Exp(), shape=("d",), prior=dd.Gamma(1.0, 1.0))
        variance = Param(2.0, Positive())

    longer = Longer(d=1).log_prior()
    torch.testing.assert_close(
        longer, Kernel(d=1).log_prior() + dd.Normal(0.0, 1.0).log_prob(tensor(0.0))
    )
    torch.testing.assert_close(Other(d=1).log_prior(), dd.Gamma(1.0, 1.0).log_prob(tensor(1.0)))
    assert not hasattr(Other(d=1), "variance_prior")


def test_the_prior_is_shown() -> None:
    assert repr(Kernel.variance) == (
        "Param(2.0, Positive(), prior=Gamma(concentration=2.0, rate=3.0))"
    )
    assert repr(Kernel(d=1)) == (
        "Kernel(\n"
        "  (lengthscale): [0.7], Exp(), prior=LogNormal(loc=0.0, scale=1.0)\n"
        "  (variance): 2.0, Positive(), prior=Gamma(concentration=2.0, rate=3.0)\n"
        "  (offset): 0.3, Real()\n"
        ")"
    )
    assert "(effect_prior)" not in repr(Effects())
    assert "prior=Spread(loc=0.5, scale=2.0)" in repr(Effects())
    moved = dd.TransformedDistribution(dd.Gamma(2.0, 3.0), dd.AffineTransform(1.0, 1.0))
    assert repr(Param(2.0, GreaterThan(1.0), prior=moved)) == (
        "Param(2.0, GreaterThan(low=1.0), prior=TransformedDistribution("
        "Gamma(concentration=2.0, rate=3.0), [AffineTransform()]))"
    )
    assert fields_of(Kernel)["variance"].prior is not None


def test_the_distribution_itself_does_not_know_its_priors() -> None:
    class WithPrior(Variational):
        base = dd.Normal
        loc = Param(0.0, prior=dd.Normal(0.0, 1.0))
        scale = Param(1.0, prior=dd.HalfNormal(1.0))

    x = tensor([0.3, 1.0])
    torch.testing.assert_close(WithPrior().log_prob(x), dd.Normal(0.0, 1.0).log_prob(x))
    view = WithPrior(batch_shape=2).expand((3, 2))
    assert view.log_prior().shape == (2,)


# What is refused.

REFUSED: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "without a cdf": ((0.5, Interval(-1.0, 1.0)), {"prior": dd.VonMises(0.0, 1.0)},
        r"is not known\. Or leave"),
    "events that have no cdf": ((torch.ones(2), Positive()),
        {"prior": dd.MultivariateNormal(torch.zeros(2), torch.eye(2))}, r"how much mass a Multi"),
    "narrower": ((1.0,), {"prior": dd.LogNormal(0.0, 1.0)}, r"a finite number"),
    "bounded": ((1.0, Positive()), {"prior": dd.Beta(1.0, 1.0)}, r"Model\.theta"),
    "an end that is nearly the same": ((500.0, Interval(0.0, 1000.0)),
        {"prior": dd.Uniform(0.5, 1000.0)}, r"Uniform"),
    "a half line that starts later": ((2.0, GreaterThan(1.0)), {"prior": dd.Pareto(1.0005, 1.0)},
        r"Pareto"),
    "sign": ((-1.0, LessThan(0.0)), {"prior": dd.HalfNormal(1.0)}, r"LessThan"),
    "angle": ((0.0,), {"prior": dd.VonMises(0.0, 1.0)}, r"Interval"),
    "a half line that was moved": ((1.0, Positive()),
        {"prior": dd.TransformedDistribution(dd.Gamma(1.0, 1.0), dd.ExpTransform())},
        r"lower_bound=1\.0"),
    "entries of a simplex": ((None, Simplex()), {"shape": 3, "prior": dd.Beta(1.0, 1.0)},
        r"Simplex"),
    "simplex for entries": ((0.5, UnitInterval()),
        {"shape": 3, "prior": dd.Dirichlet(torch.ones(3))}, r"UnitInterval"),
    "normal for a matrix": ((None, PositiveDefinite()),
        {"shape": (2, 2), "prior": dd.Normal(0.0, 1.0)}, r"Definite"),
    "unordered": ((None, Ordered()),
        {"shape": 3, "prior": dd.MultivariateNormal(torch.zeros(3), torch.eye(3))}, r"Ordered"),
    "correlations": ((None, LowerCholesky()), {"shape": (3, 3), "prior": dd.LKJCholesky(3)},
        r"LowerCholesky"),
    "discrete": ((1.0, Positive()), {"prior": dd.Poisson(1.0)}, r"discrete"),
    "discrete events": ((None, Simplex()),
        {"shape": 2, "prior": dd.OneHotCategorical(torch.ones(2))}, r"discrete"),
    "a batch that enlarges": ((0.0,), {"prior": dd.Normal(torch.zeros(3), 1.0)}, r"shape=\(3,\)"),
    "another size": ((torch.zeros(2),), {"prior": dd.Normal(torch.zeros(3), 1.0)},
        r"shape \(2,\)"),
    "events of another size": ((torch.zeros(2),),
        {"prior": dd.MultivariateNormal(torch.zeros(3), torch.eye(3))}, r"event_shape \(3,\)"),
    "events that would repeat": ((torch.zeros(3),),
        {"prior": dd.MultivariateNormal(torch.zeros(1), torch.eye(1))}, r"event_shape \(1,\)"),
}  # fmt: skip


MIXTURE = dd.MixtureSameFamily(dd.Categorical(torch.ones(2)), dd.Normal(tensor([-1.0, 2.0]), 1.0))
LARGER: dict[str, tuple[Constraint, dd.Distribution, float]] = {
    "Stan's half normal": (Positive(), dd.Normal(0.0, 2.0), 0.5),
    "half of a t": (Exp(), dd.StudentT(3.0, 0.5, 2.0), stats.t(3, 0.5, 2).sf(0)),
    "shifted": (GreaterThan(1.0), dd.Gamma(1.5, 1.0), stats.gamma(1.5).sf(1)),
    "a floor": (Positive(floor=0.5), dd.Gamma(0.7, 1.0), stats.gamma(0.7).sf(0.5)),
    "two ends": (Interval(-1.0, 2.0), dd.Uniform(-2.0, 4.0), 0.5),
    "a tail": (GreaterThan(9.0), dd.Normal(0.0, 1.0), stats.norm.sf(9)),
    "below": (LessThan(1.0), dd.Gumbel(0.0, 1.0), stats.gumbel_r.cdf(1)),
    "a smaller interval": (UnitInterval(), dd.Uniform(-1.0, 3.0), 0.25),
    "a mixture": (Positive(), MIXTURE, (stats.norm.sf(1) + stats.norm.sf(-2)) / 2),
}


@pytest.mark.parametrize("name", LARGER)
def test_a_prior_on_a_larger_set_is_truncated(name: str) -> None:
    constraint, prior, mass = LARGER[name]
    q = declared(constraint=constraint, prior=prior)(dtype=torch.float64)
    expected = prior.log_prob(q.theta).item() - math.log(mass)
    assert q.log_prior().item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    raw = q.raw_theta.detach().clone().requires_grad_()
    slope = torch.autograd.functional.jacobian(constraint.forward, raw)
    in_raw = q.log_prior(unconstrained=True)
    torch.testing.assert_close(in_raw, q.log_prior() + slope.abs().log())


def test_truncated_priors_keep_events_copies_and_what_is_learned() -> None:
    prior = dd.Independent(dd.Normal(torch.zeros(2), 2.0), 1)
    events = declared(tensor([1.0, 2.0]), Positive(), prior=prior)()
    half = dd.HalfNormal(2.0).log_prob(tensor([1.0, 2.0]))
    torch.testing.assert_close(events.log_prior(), half.sum())
    bounds = tensor([0.0, 1.0, 2.0])
    lows = declared(torch.full((3,), 3.0), GreaterThan(bounds), prior=dd.Normal(0.0, 1.0))
    known = stats.norm.logpdf(3.0) * 3 - stats.norm.logsf(bounds.numpy()).sum()
    assert lows(batch_shape=2).log_prior().tolist() == pytest.approx([known] * 2, rel=1e-5)
    learned = declared(torch.ones(3), Positive(), prior=Spread())(batch_shape=2)
    known = 3 * stats.truncnorm(-0.25, math.inf, 0.5, 2.0).logpdf(1.0)
    assert learned.log_prior().tolist() == pytest.approx([known] * 2, rel=1e-5)
    learned.log_prior().sum().backward()
    assert learned.theta_prior.base_distribution.raw_scale.grad.all()
    again = declared(torch.ones(3), Positive(), prior=Spread())(batch_shape=2)
    again.load_state_dict(learned.state_dict())
    assert "prior=Independent(Truncated(Normal(loc=[0.0, 0.0]" in repr(events)


def test_a_prior_between_other_fields_is_not_truncated() -> None:
    class Ends(Declarative):
        low = Param(0.0)
        high = Param(1.0, GreaterThan("low"), prior=dd.Normal(0.0, 1.0))

    with pytest.raises(ConstraintError, match=r"Ends\.high: .* the ends are other fields"):
        Ends()


@pytest.mark.parametrize("name", REFUSED)
def test_a_prior_on_another_set_is_refused_with_the_class(name: str) -> None:
    arguments, options, said = REFUSED[name]
    with pytest.raises((ConstraintError, DeclarationError), match=said) as raised:
        declared(*arguments, **options)()
    assert str(raised.value).startswith("Model.theta: expected a prior")
    assert raised.value.fix


@pytest.mark.parametrize("prior", [
    1.0, "normal", dd.Normal, [dd.Normal(0.0, 1.0)], nn.Linear(1, 1), dd.ExpTransform(),
    Kernel, Positive(),
])  # fmt: skip
def test_what_is_no_distribution_is_refused(prior: Any) -> None:
    with pytest.raises(DeclarationError, match=r"Param\(prior=\): expected a torch distribution"):
        Param(0.0, prior=prior)


@pytest.mark.parametrize(("make", "said"), [
    (lambda s: dd.Normal(0.0, s.exp()), "a plain Normal, got a scale that is computed from"),
    (lambda s: dd.Normal(s, 1.0), "got a loc that is a parameter. A plain prior keeps"),
    (lambda s: dd.Independent(dd.Normal(s.expand(2), 1.0), 1), "got a loc that is computed"),
    (lambda s: dd.LogNormal(s, 1.0), "got a loc that is a parameter"),
])  # fmt: skip
def test_a_prior_of_parameters_is_not_silently_held(make: Any, said: str) -> None:
    prior = make(nn.Parameter(torch.tensor(0.5)))
    constraint = Positive() if isinstance(prior, dd.LogNormal) else None
    with pytest.raises(DeclarationError, match=said):
        Param(1.0, constraint, prior=prior)


def test_a_joint_and_a_conditional_are_no_prior() -> None:
    class Model(Joint):
        mu = dd.Normal(0.0, 1.0)

    with pytest.raises(DeclarationError, match="declared family"):
        Param(0.0, prior=Model())  # type: ignore[arg-type]


class Window(Declarative):
    low = Param(0.0)
    high = Param(2.0, GreaterThan("low"), prior=dd.HalfNormal(1.0))


def test_a_prior_that_does_not_fit_an_instance_is_refused_by_it() -> None:
    family = declared(torch.zeros, shape=("d",), prior=dd.Normal(torch.zeros(3), 1.0))
    assert family(d=3).log_prior().shape == ()
    assert family(d=3, batch_shape=2).log_prior().shape == (2,)
    with pytest.raises(ConstraintError, match=r"Model\.theta: .* shape \(2,\), got Normal"):
        family(d=2)
    with pytest.raises(ConstraintError, match=r"Model\.theta"):
        family(d=2, batch_shape=3)
    assert Window().log_prior().shape == ()
    with pytest.raises(ConstraintError, match=r"Window\.high: expected a prior on the set"):
        Window(low=1.0)


def test_an_instance_keeps_the_prior_of_its_class() -> None:
    q = Kernel(d=2)
    for prior in (dd.HalfCauchy(2.0), Spread()):
        with pytest.raises(FieldError, match=r"Kernel\.variance_prior: .*class Other\(Kernel\)"):
            q.variance_prior = prior
    assert "prior=Gamma(" in repr(q)


def test_names_of_priors_are_reserved() -> None:
    rate = Param(1.0, prior=dd.Normal(0.0, 1.0))
    for other in (Param(1.0), lambda self: 1.0):
        with pytest.raises(DeclarationError, match=r"Model\.rate_prior: expected a name that is"):
            type(Declarative)("Model", (Declarative,), {"rate": rate, "rate_prior": other})

    class Free(Declarative):
        rate = Param(1.0)
        rate_prior = Param(1.0)

    assert Free().rate_prior == 1.0


def test_a_bound_that_is_predicted_has_no_prior_on_it() -> None:
    def body(bound: str) -> dict[str, Any]:
        high = Param(3.0, GreaterThan(bound), prior=dd.HalfNormal(1.0))
        return {"base": dd.Uniform, "low": Head(), "high": high}

    middle = derived(lambda self, low: low + 1)
    for made, said in (
        (body("low"), "expected bounds"),
        ({**body("middle"), "middle": middle}, ".* a bound that needs 'low'"),
    ):
        with pytest.raises(DeclarationError, match=rf"Predicted\.high: {said}"):
            type(Conditional)("Predicted", (Conditional,), made)


def test_a_bound_that_moves_out_of_the_support_is_told() -> None:
    q = Window()
    q.low = -5.0  # raw_high stays: the value moves along
    with pytest.raises(
        ConstraintError, match=r"Window\.high: .* HalfNormal\(scale=1\.0\), got -3"
    ):
        q.log_prior()


def test_a_prior_on_a_value_of_a_custom_set() -> None:
    class Even(constraints.Constraint):
        def check(self, value: Tensor) -> Tensor:
            return value.abs() > 1

    class Outside(Constraint):
        support = Even()

        def forward(self, raw: Tensor) -> Tensor:
            return raw + raw.sign() + (raw == 0)

        def inverse(self, value: Tensor) -> Tensor:
            return value - value.sign()

        def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
            return torch.zeros_like(raw)

    state = torch.get_rng_state()
    with pytest.raises(DeclarationError, match=r"Model\.theta"):
        declared(2.0, Outside(), prior=dd.Normal(0.0, 1.0))
    assert torch.equal(torch.get_rng_state(), state)


def twos(shape: torch.Size) -> dd.Distribution:
    return dd.Dirichlet(torch.full(shape, 2.0))


def ones(shape: torch.Size) -> dd.Distribution:
    return learnable(dd.Gamma(torch.ones(shape), 1.0))


class Shared(Declarative):
    """Priors of the size of their parameter."""

    weights = Param(constraint=Simplex(), shape=("k",), prior=twos)
    scale = Param(1.0, Positive(), shape=("k",), prior=ones)


def test_a_prior_of_the_size_of_its_parameter() -> None:
    shared = Shared(k=3, dtype=torch.float64)
    by_hand = stats.dirichlet([2.0] * 3).logpdf([1 / 3] * 3) + 3 * stats.gamma(1.0).logpdf(1.0)
    assert abs(shared.log_prior().item() - by_hand) < 1e-9
    copies = Shared(k=2, batch_shape=3, weights=[[0.5, 0.5], [0.1, 0.9], [0.7, 0.3]])
    apart = [Shared(k=2, weights=w).log_prior() for w in copies.weights]
    torch.testing.assert_close(copies.log_prior(), torch.stack(apart))
    copies.load_state_dict(copy.deepcopy(copies).state_dict())
    assert "prior=Dirichlet(concentration=[2.0, 2.0, 2.0])" in repr(shared)
    for prior, said in (
        (lambda shape: dd.Normal(torch.zeros(shape), 1.0), r": expected a prior on the set"),
        (lambda shape: dd.Dirichlet(torch.ones(7)), r": expected a prior for a parameter of"),
        (lambda shape: 3.0, r"\(prior=\): expected a torch distribution"),
    ):
        with pytest.raises((ConstraintError, DeclarationError), match=rf"Model\.theta{said}"):
            declared(constraint=Simplex(), shape=("k",), prior=prior)(k=2)

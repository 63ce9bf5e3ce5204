"""The flat map: exact volumes against autograd, round trips, outside optimisers, torch.func."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import torch.distributions as dd
from scipy import stats
from torch import Tensor, nn
from torch.distributions import constraints
from torch.func import hessian, jacrev, vmap

from declarative_dist import (
    Constraint,
    ConstraintError,
    CorrCholesky,
    DeclarationError,
    Declarative,
    Exp,
    GreaterThan,
    Interval,
    Joint,
    LessThan,
    LogInterval,
    LowerCholesky,
    Ordered,
    Param,
    Positive,
    PositiveDefinite,
    Real,
    Simplex,
    UnitInterval,
    derived,
    learnable,
    register_constraint,
    site,
)
from declarative_dist.joints.flat_sites import FlatSites
from declarative_dist.latents.flat import FlatMap
from declarative_dist.latents.flat_params import FlatParams

pytestmark = pytest.mark.usefixtures("one_thread")


class Doubled(Constraint):
    """A user's own."""

    support = constraints.positive

    def forward(self, raw: Tensor) -> Tensor:
        return 2 * raw.exp()

    def inverse(self, value: Tensor) -> Tensor:
        return (value / 2).log()

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return value.log()


class Everything(Declarative):
    real = Param([0.5, -1.0], Real())
    positive = Param([0.5, 2.0], Positive())
    exp = Param(3.0, Exp())
    above = Param(3.0, GreaterThan(torch.tensor(1.0)))
    below = Param(-3.0, LessThan(1.0))
    between = Param([[0.1, 0.2]], Interval(0.0, 4.0))
    unit = Param(0.3, UnitInterval())
    log = Param(0.3, LogInterval(1e-3, 10.0))
    simplex = Param([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]], Simplex())
    ordered = Param([-1.0, 0.0, 2.0], Ordered())
    factor = Param([[1.0, 0.0], [0.5, 2.0]], LowerCholesky())
    matrix = Param([[2.0, 0.3], [0.3, 1.0]], PositiveDefinite())
    corr = Param([[1.0, 0.0], [0.6, 0.8]], CorrCholesky())
    own = Param(1.5, Doubled())


class Bounds(Declarative):
    """Named bounds of several kinds, declared before what they need, and values of three."""

    x = Param([1.0, 2.0, 3.0], Interval("low", "top"))
    low = Param(0.0)
    width = Param(4.0, Positive())
    gap = 0.5
    limit = Param(2.0, trainable=False)
    y = Param(3.0, GreaterThan("limit"))

    @derived
    def top(self, low: Tensor, width: Tensor) -> Tensor:
        return low + width + self.gap


def triangle(value: Tensor) -> Tensor:
    rows, columns = torch.tril_indices(value.shape[-1], value.shape[-1])
    return value[..., rows, columns]


FREE = {
    "simplex": lambda v: v[..., :-1], "factor": triangle, "matrix": triangle,
    "corr": lambda v: v[..., 1:, :1],
}  # fmt: skip


def coordinates(flat: FlatMap, vector: Tensor) -> Tensor:
    """As many free coordinates of the values as the vector has numbers."""
    values = flat(vector)
    parts = [FREE.get(name, lambda v: v)(value) for name, value in values.items()]
    return torch.cat([part.reshape(-1) for part in parts])


def check_volume_and_way_back(flat: FlatMap) -> None:
    for vector in 1.5 * torch.randn(2, flat.size, dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(
            lambda v: coordinates(flat, v), vector, vectorize=False
        )
        expected = torch.linalg.slogdet(jacobian).logabsdet
        values, log_det = flat.constrain(vector)
        torch.testing.assert_close(log_det, expected, rtol=1e-8, atol=1e-8)
        back, again = flat.unconstrain(values)
        torch.testing.assert_close(back, vector, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(again, log_det, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", [Everything, Bounds])
def test_the_volume_is_that_of_autograd(kind: type[Declarative]) -> None:
    check_volume_and_way_back(FlatParams(kind(dtype=torch.float64)))


@pytest.mark.parametrize("kind", [Everything, Bounds])
def test_the_start_is_the_declared_values(kind: type[Declarative]) -> None:
    latents = kind()
    flat = FlatParams(latents)
    values = flat(flat.start())
    assert list(values) == flat.names
    for name, value in values.items():
        assert torch.equal(value, getattr(latents, name)), name


@pytest.mark.parametrize("kind", [Everything, Bounds])
def test_samples_are_mapped_one_by_one(kind: type[Declarative]) -> None:
    flat = FlatParams(kind(dtype=torch.float64))
    vectors = torch.randn(2, 3, flat.size, dtype=torch.float64)
    values, log_det = flat.constrain(vectors)
    assert log_det.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            one, volume = flat.constrain(vectors[i, j])
            torch.testing.assert_close(volume, log_det[i, j])
            for name, value in one.items():
                torch.testing.assert_close(value, values[name][i, j])


class Inner(Declarative):
    scale = Param(2.0, Exp())


class Outer(Declarative):
    part = Inner
    loc = Param([1.0, 2.0])
    again = Inner


def test_nested_parts_have_dotted_names_and_shared_ones_count_once() -> None:
    inner = Inner()
    latents = Outer(part=inner, again=inner)
    density = latents.unconstrained_log_density(lambda v: -v["part.scale"] * v["loc"].sum(-1))
    values = density.constrain(torch.tensor([3.0, 4.0, 0.0]))
    assert values == {"loc": pytest.approx([3.0, 4.0]), "part.scale": 1.0}
    latents.assign(**values)
    assert latents.part.scale.item() == 1.0
    assert [n for n, _ in latents.named_parameters()] == ["raw_loc", "part.raw_scale"]


def test_frozen_parameters_are_no_sites() -> None:
    latents = Bounds()
    assert FlatParams(latents).names == ["low", "width", "x", "y"]
    latents.freeze("width", "y")
    assert FlatParams(latents).names == ["low", "x"]
    latents.freeze()
    with pytest.raises(DeclarationError, match="Bounds: expected a module with trainable Params"):
        FlatParams(latents)


class Learned(Declarative):
    scales = Param([1.0, 2.0], Positive(), prior=learnable(dd.LogNormal(0.5, 1.0)))
    loc = Param(0.0, prior=dd.Normal(0.0, 1.0))


def test_what_a_learned_prior_is_computed_from_is_no_site() -> None:
    latents = Learned()
    assert FlatParams(latents).names == ["scales", "loc"]
    assert latents.to_vector().numel() == 5
    values = {"scales": torch.tensor([[1.0, 2.0], [0.5, 3.0]]), "loc": torch.tensor([0.1, 0.2])}
    expected = dd.LogNormal(0.5, 1.0).log_prob(values["scales"]).sum(-1) + dd.Normal(
        0.0, 1.0
    ).log_prob(values["loc"])
    found = latents.log_prior(values)
    torch.testing.assert_close(found, expected)
    found.sum().backward()  # the prior itself is learned by what its values are
    gradient = latents.scales_prior.raw_loc.grad
    assert gradient.item() == pytest.approx((values["scales"].log() - 0.5).sum().item(), rel=1e-5)


def test_a_prior_that_is_a_part_too_is_one_of_the_latents() -> None:
    shared = learnable(dd.LogNormal(0.0, 1.0))

    class Both(Declarative):
        scale = Param(1.0, Positive(), prior=shared)
        family = shared

    assert FlatParams(Both()).names == ["scale", "family.loc", "family.scale"]


def test_copies_stand_in_front() -> None:
    class Latents(Declarative):
        rate = Param(2.0, Positive())
        weights = Param([0.2, 0.3, 0.5], Simplex())

    flat = FlatParams(Latents(batch_shape=(4,)))
    assert (flat.size, flat.start().shape) == (3, (4, 3))
    values, log_det = flat.constrain(torch.randn(5, 4, 3))
    assert (values["rate"].shape, values["weights"].shape) == ((5, 4), (5, 4, 3))
    assert log_det.shape == (5, 4)
    with pytest.raises(ConstraintError, match=r"\(\*batch, size\) = \(4, 3\)"):
        flat.constrain(torch.randn(5, 3))


# --- joints -----------------------------------------------------------------------------------


class Supports(Joint):
    """A site of every support in torch's families."""

    real = dd.Normal(0.0, 1.0)
    positive = dd.Gamma(2.0, 3.0)
    above = dd.Pareto(2.0, 3.0)
    between = dd.Independent(dd.Uniform(torch.tensor([-1.0, 2.0]), torch.tensor([1.0, 5.0])), 1)
    unit = dd.Beta(2.0, 3.0)
    simplex = dd.Dirichlet(torch.ones(3))
    vector = dd.MultivariateNormal(torch.zeros(2), torch.eye(2))
    corr = dd.LKJCholesky(2, 1.0)
    matrix = dd.Wishart(4.0, torch.eye(2))
    mixed = dd.MixtureSameFamily(dd.Categorical(torch.ones(2)), dd.Gamma(torch.ones(2), 1.0))
    moved = dd.TransformedDistribution(dd.Normal(0.0, 1.0), [dd.SigmoidTransform()])


class Moving(Joint):
    """Supports that depend on the values of other sites."""

    width = dd.Gamma(2.0, 1.0)

    @site
    def place(self, width: Tensor) -> dd.Uniform:
        return dd.Uniform(-width, width)

    @site(event_dim=1)
    def income(self, place: Tensor, width: Tensor) -> dd.Pareto:
        return dd.Pareto(width[..., None].expand(*width.shape, 2), 3.0)

    @site
    def y(self, place: Tensor) -> dd.Normal:
        return dd.Normal(place, 1.0)


# Torch warns at the first draw of every Wishart, singular or not.
@pytest.mark.filterwarnings("ignore:Singular sample:UserWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: Supports(dtype=torch.float64).condition(),
        lambda: Moving(dtype=torch.float64).condition(y=0.3),
    ],
    ids=["fixed", "moving"],
)
def test_the_volume_of_sites(make: Any) -> None:
    posterior = make()
    flat = FlatSites(posterior)
    check_volume_and_way_back(flat)
    values = flat(3 * torch.randn(50, flat.size, dtype=torch.float64))
    assert posterior(values).isfinite().all()


def test_a_support_follows_a_parameter_in_training() -> None:
    class Wide(Joint):
        place = learnable(dd.Uniform(0.0, 2.0))

        @site
        def y(self, place: Tensor) -> dd.Normal:
            return dd.Normal(place, 1.0)

    posterior = Wide().condition(y=0.3)
    density = posterior.unconstrained_log_density()
    before = density.constrain(torch.zeros(1))["place"]
    with torch.no_grad():
        posterior.joint.place.high = 4.0
    after = density.constrain(torch.zeros(1))["place"]
    assert (before.item(), after.item()) == (pytest.approx(1.0), pytest.approx(2.0))
    after.backward()
    assert posterior.joint.place.raw_high.grad.item() > 0


class Even(constraints.Constraint):
    def check(self, value: Tensor) -> Tensor:
        return (value > 0) & (value < 100)


class Percent(dd.Distribution):
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = Even()
    has_rsample = True

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return 100 * torch.rand(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.zeros_like(value)


class OfUser(Joint):
    @site
    def share(self) -> dd.Distribution:
        return Percent(validate_args=False)


def test_a_registered_support() -> None:
    posterior = OfUser().condition()
    with pytest.raises(DeclarationError, match="OfUser.share: expected a torch constraint"):
        posterior.unconstrained_log_density()
    register_constraint(Even, lambda _: Interval(0.0, 100.0))
    density = posterior.unconstrained_log_density()
    assert density.constrain(torch.zeros(1))["share"].item() == 50.0


def test_a_discrete_site_is_refused() -> None:
    class Coin(Joint):
        p = dd.Beta(1.0, 1.0)

        @site
        def heads(self, p: Tensor) -> dd.Bernoulli:
            return dd.Bernoulli(p)

    message = "Coin.heads: expected a continuous site.*got a discrete one, Bernoulli.*Sum it out"
    with pytest.raises(DeclarationError, match=message):
        Coin().condition().unconstrained_log_density()
    assert Coin().condition(heads=1.0).unconstrained_log_density().size == 1


def test_a_joint_alone_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"Write Moving\(\).condition\(y=data\)"):
        Moving().unconstrained_log_density()
    with pytest.raises(DeclarationError, match="sites that are not observed"):
        OfUser().condition(share=3.0).unconstrained_log_density()


def test_finding_the_start_draws_nothing_from_the_user() -> None:
    posterior = Moving().condition(y=0.3)
    torch.manual_seed(7)
    expected = torch.randn(3)
    torch.manual_seed(7)
    density = posterior.unconstrained_log_density()
    assert torch.equal(torch.randn(3), expected)
    assert density(density.start()).isfinite()


# --- densities --------------------------------------------------------------------------------


class Coin(Declarative):
    bias = Param(0.5, UnitInterval())


def coin(values: dict[str, Tensor]) -> Tensor:
    return dd.Beta(2.0, 2.0).log_prob(values["bias"]) + dd.Binomial(10, values["bias"]).log_prob(
        torch.tensor(7.0)
    )


def test_it_integrates_to_the_evidence() -> None:
    grid = torch.linspace(-15, 15, 20001, dtype=torch.float64)
    density = Coin(dtype=torch.float64).unconstrained_log_density(coin)
    total = torch.trapezoid(density(grid[:, None]).exp(), grid)
    evidence = stats.betabinom(10, 2, 2).pmf(7)
    assert total.item() == pytest.approx(evidence, rel=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Coin().unconstrained_log_density(coin),
        lambda: Moving().condition(y=0.3).unconstrained_log_density(),
    ],
    ids=["coin", "moving"],
)
def test_transforms_of_torch_func(make: Any) -> None:
    density = make()
    # In double precision: forward mode through some of torch's operators ends there anyway.
    vectors = torch.randn(4, density.size, dtype=torch.float64)
    torch.testing.assert_close(vmap(density)(vectors), density(vectors), rtol=1e-4, atol=1e-4)
    point = vectors[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(density(point), point, create_graph=True)
    torch.testing.assert_close(jacrev(density)(vectors[0]), expected, rtol=1e-3, atol=1e-4)
    rows = [torch.autograd.grad(g, point, retain_graph=True)[0] for g in expected]
    torch.testing.assert_close(
        hessian(density)(vectors[0]), torch.stack(rows), rtol=1e-2, atol=1e-3
    )


def test_it_compiles_whole() -> None:
    density = Bounds().unconstrained_log_density(lambda v: -v["x"].square().sum(-1) - v["y"])
    compiled = torch.compile(density, fullgraph=True, backend="aot_eager")
    vectors = torch.randn(3, density.size)
    torch.testing.assert_close(compiled(vectors), density(vectors))
    torch._dynamo.reset()


def test_it_can_be_pickled() -> None:
    density = Moving().condition(y=0.3).unconstrained_log_density()
    vector = torch.randn(density.size)
    assert torch.equal(pickle.loads(pickle.dumps(density))(vector), density(vector))


def test_a_module_keeps_its_parameters() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, values: dict[str, Tensor]) -> Tensor:
            return -self.scale * values["bias"]

    density = Coin().unconstrained_log_density(Model())
    density(torch.zeros(1)).backward()
    assert density.log_joint.scale.grad.item() == -0.5


@pytest.mark.parametrize(("log_joint", "got"), [
    (lambda v: v["bias"][..., None].expand(*v["bias"].shape, 2), r"shape \(3, 2\)"),
    (lambda v: v["bias"].sum(), r"got shape \(\)"), (lambda v: 1.0, "got 1.0"),
])  # fmt: skip
def test_a_wrong_shape_is_refused(log_joint: Any, got: str) -> None:
    density = Coin().unconstrained_log_density(log_joint)
    with pytest.raises(ConstraintError, match=rf"\(\*sample, \*batch\) = \(3,\), .*{got}"):
        density(torch.zeros(3, 1))


@pytest.mark.parametrize(("vector", "said"), [
    (torch.zeros(2), r"shape \(2,\)"), (torch.zeros(1, dtype=torch.long), "torch.int64"),
    ([0.0], r"\[0.0\]"), (torch.tensor(0.0), "0.0"),
])  # fmt: skip
def test_bad_vectors(vector: Any, said: str) -> None:
    with pytest.raises(ConstraintError, match=rf"Coin.unconstrained: .*{said}"):
        Coin().unconstrained_log_density(coin)(vector)


@pytest.mark.parametrize(("values", "said"), [
    ({"bias": torch.tensor(1.5)}, "Coin.bias: .*strictly between 0.0 and 1.0"),
    ({}, "Add 'bias' to the dict"),
    ({"bias": torch.tensor(0.5), "bia": torch.tensor(0.5)}, "Coin.bia: .*the name of a site"),
])  # fmt: skip
def test_bad_values(values: dict[str, Tensor], said: str) -> None:
    with pytest.raises(ConstraintError, match=said):
        Coin().unconstrained_log_density(coin).unconstrain(values)


def test_what_is_no_log_joint_is_refused() -> None:
    with pytest.raises(DeclarationError, match="a function from a dict"):
        Coin().unconstrained_log_density(3)


class SilentSimplex(Simplex):
    log_abs_det_jacobian = Constraint.log_abs_det_jacobian


class SilentExp(Exp):
    log_abs_det_jacobian = Constraint.log_abs_det_jacobian


@pytest.mark.parametrize("silent", [SilentSimplex, SilentExp])
def test_a_constraint_without_a_volume_is_refused(silent: type[Constraint]) -> None:
    class Latents(Declarative):
        weights = Param([0.5, 0.5], silent())

    with pytest.raises(
        ConstraintError, match=f"Define log_abs_det_jacobian.* in {silent.__name__}"
    ):
        Latents().unconstrained_log_density(lambda v: v["weights"].sum(-1))


class Tied(Declarative):
    a = Param(1.0, Positive())
    b = Param(1.0, GreaterThan(0.5))
    c = Param(5.0, GreaterThan("b"), shape=(2,))


@pytest.mark.parametrize("batch_shape", [(), (2,)])
def test_a_tied_number_is_one_site_wherever_it_is_used(batch_shape: tuple[int, ...]) -> None:
    latents = Tied(batch_shape=batch_shape)
    latents.raw_b = latents.raw_a
    flat = FlatParams(latents)
    vector = torch.randn(*batch_shape, 3)
    values = flat(vector)
    assert list(values) == ["a", "c"]
    with torch.no_grad():
        latents.raw_a.copy_(vector[..., 0])
        latents.raw_c.copy_(vector[..., 1:])
    for name, value in values.items():
        torch.testing.assert_close(value, getattr(latents, name))
    back, _ = flat.unconstrain(values)
    torch.testing.assert_close(back, vector, rtol=1e-4, atol=1e-5)

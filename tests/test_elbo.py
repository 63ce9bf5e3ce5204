"""The variational objectives: what they take, what they return, and what they refuse."""

from __future__ import annotations

import copy
import re
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
    Declarative,
    Exp,
    FieldError,
    Head,
    Joint,
    Param,
    Positive,
    Variational,
    fit,
    learnable,
    site,
)
from declarative_dist.objectives import ImportanceWeightedELBO, NegativeELBO
from tests.cases import FullRank, GammaFamily, Mixture
from tests.sharing import Encoder

BOUNDS = [NegativeELBO, ImportanceWeightedELBO]
ESTIMATORS = ["pathwise", "stl", "score"]


class NormalFamily(Variational):
    base = dd.Normal
    loc = Param(0.3)
    scale = Param(0.8, Exp())


class FirstOnly(Encoder):
    def forward(self, x: Tensor, y: Tensor) -> dd.Distribution:
        return super().forward(x)


class Regression(Joint):
    mu = dd.Normal(0.0, 2.0)
    tau = dd.HalfNormal(1.0)

    @site
    def y(self, mu: Tensor, tau: Tensor) -> dd.Distribution:
        return dd.Normal(mu, tau)


class MeanField(Joint):
    mu = learnable(dd.Normal(0.2, 1.0))
    tau = learnable(dd.LogNormal(0.1, 0.5))


class ByHand(nn.Module):
    """A stand-in for an automatic guide: draws are dicts by site."""

    has_rsample = True
    batch_shape = torch.Size()

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([0.2, 0.1]))
        self.log_scale = nn.Parameter(torch.tensor([0.0, -0.7]))

    def flat(self) -> dd.Normal:
        return dd.Normal(self.loc, self.log_scale.exp())

    def sample(self, shape: Any = ()) -> dict[str, Tensor]:
        with torch.no_grad():
            return self.rsample(shape)

    def rsample(self, shape: Any = ()) -> dict[str, Tensor]:
        return self.rsample_and_log_prob(shape)[0]

    def rsample_and_log_prob(self, shape: Any = ()) -> tuple[dict[str, Tensor], Tensor]:
        z = self.flat().rsample(torch.Size(shape))
        values = {"mu": z[..., 0], "tau": z[..., 1].exp()}
        return values, self.flat().log_prob(z).sum(-1) - z[..., 1]

    def log_prob(self, values: dict[str, Tensor]) -> Tensor:
        u = values["tau"].log()
        return self.flat().log_prob(torch.stack([values["mu"], u], -1)).sum(-1) - u

    def detach(self) -> ByHand:
        return copy.deepcopy(self).requires_grad_(False)


class Model(nn.Module):
    """A decoder with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(2, 3)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        prior = dd.Normal(0.0, 1.0).log_prob(z).sum(-1)
        return prior + dd.Normal(self.decoder(z), 1.0).log_prob(x).sum(-1)


def quadratic(z: Tensor) -> Tensor:
    return -((z - 1.0) ** 2)


CASES: dict[str, Callable[[], tuple[Any, Any, tuple[Tensor, ...]]]] = {
    "plain": lambda: (dd.Gamma(5.0, 5.0), GammaFamily(), ()),
    "live": lambda: (NormalFamily(), NormalFamily(loc=1.0), ()),
    "function": lambda: (quadratic, NormalFamily(), ()),
    "copies": lambda: (dd.Normal(1.0, 2.0), NormalFamily(batch_shape=(3,)), ()),
    "events": lambda: (dd.MultivariateNormal(torch.ones(3), torch.eye(3)), FullRank(d=3), ()),
    "conditioned": lambda: (Regression().condition(y=1.0), MeanField(), ()),
    "dicts": lambda: (Regression().condition(y=1.0), ByHand(), ()),
    "joint": lambda: (
        Regression(),
        type("Whole", (MeanField,), {"y": learnable(dd.Normal(0.0, 1.0))})(),
        (),
    ),
    "encoder": lambda: (Model(), Encoder(in_features=3), (torch.linspace(-1, 1, 12).view(4, 3),)),
    "squashed": lambda: (
        lambda x: -x.square(),
        learnable(dd.TransformedDistribution(dd.Normal(0.0, 1.0), dd.TanhTransform())),
        (),
    ),
    "mixture": lambda: (dd.Normal(1.0, 2.0), Mixture(k=2), ()),
    "wrapped": lambda: (
        lambda x: -x.square().sum(-1),
        dd.Independent(learnable(dd.Normal(torch.zeros(3), 1.0)), 1),
        (),
    ),
}


def by_hand(bound: Any, target: Any, guide: Any, batch: tuple[Tensor, ...], count: int) -> Tensor:
    """The loss of reparametrised draws, written as a loop over them would be."""
    per_batch = isinstance(guide, Conditional)
    q = guide(*batch) if per_batch else guide
    draws = q.rsample((count,)) if getattr(q, "has_rsample", True) else q.sample((count,))
    density = target if not hasattr(target, "log_prob") else target.log_prob
    ratio = density(draws, *batch) - q.log_prob(draws)
    value = ratio.mean(0) if bound is NegativeELBO else ratio.exp().mean(0).log()
    return -(value.mean() if per_batch else value.sum())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bound", BOUNDS)
def test_value_and_gradient_against_the_loop(name: str, bound: Any) -> None:
    torch.manual_seed(0)
    target, guide, batch = CASES[name]()
    objective = bound(target, guide, num_samples=4)
    torch.manual_seed(3)
    loss = objective(*batch)
    assert loss.shape == ()
    torch.manual_seed(3)
    expected = by_hand(bound, target, guide, batch, 4)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    if objective.estimator == "score":
        assert name == "mixture"
        return
    parameters = list(objective.parameters())
    assert parameters
    found = torch.autograd.grad(loss, parameters)
    loop = torch.autograd.grad(expected, parameters)
    torch.testing.assert_close(found, loop, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["events", "joint", "encoder", "copies", "mixture"])
@pytest.mark.parametrize("bound", BOUNDS)
def test_estimators_and_vectorize_change_no_value(name: str, bound: Any) -> None:
    torch.manual_seed(0)
    target, guide, batch = CASES[name]()
    for estimator in ESTIMATORS if name != "mixture" else ["score"]:
        losses, gradients = [], []
        for vectorize in (False, True):
            objective = bound(
                target, guide, num_samples=3, estimator=estimator, vectorize=vectorize
            )
            torch.manual_seed(3)
            losses.append(objective(*batch))
            parameters = [p for p in objective.parameters() if p.requires_grad]
            gradients.append(torch.autograd.grad(losses[-1], parameters))
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
        torch.manual_seed(3)
        plain = by_hand(bound, target, guide, batch, 3)
        torch.testing.assert_close(losses[0], plain, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_targets_and_guides() -> None:
    target, guide, _ = CASES["conditioned"]()
    objective = NegativeELBO(target, guide, num_samples=3, estimator="stl")
    compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")
    results = []
    for call in (objective, compiled):
        objective.zero_grad()
        torch.manual_seed(3)
        loss = call()
        loss.backward()
        results.append([loss, *(p.grad for p in objective.parameters())])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("bound", "estimator"), [(NegativeELBO, "stl"), (ImportanceWeightedELBO, "score")]
)
def test_dimensions_of_a_prediction_sum_whether_events_or_not(bound: Any, estimator: str) -> None:
    class Heads(Conditional):
        base = dd.Normal
        loc = Head(shape=(2,))
        scale = Head(Positive(), shape=(2,))

    class One(Conditional):
        base = dd.Normal
        loc = Head()
        scale = Head(Positive())

    def target(z: Tensor, x: Tensor) -> Tensor:
        return dd.Normal(1.0, 2.0).log_prob(z)

    both, x = Heads(in_features=3), torch.linspace(-1, 1, 15).view(5, 3)
    alone = [One(in_features=3), One(in_features=3)]
    for column, one in enumerate(alone):
        with torch.no_grad():
            one.projection.weight.copy_(both.projection.weight[column::2])
            one.projection.bias.copy_(both.projection.bias[column::2])
    noise = torch.randn(4, 5, 2)
    drawn = iter([noise, noise[..., 0], noise[..., 1]])

    def standard(shape: Any, *args: Any, **kwargs: Any) -> Tensor:
        return next(drawn)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("torch.distributions.normal._standard_normal", standard)
        patched.setattr("torch.normal", lambda loc, scale: loc + scale * next(drawn))
        losses = [
            bound(target, guide, num_samples=4, estimator=estimator)(x) for guide in (both, *alone)
        ]
    torch.testing.assert_close(losses[0], losses[1] + losses[2])


def test_a_function_sees_single_draws_under_vectorize() -> None:
    seen = []

    def log_joint(z: Tensor, weights: Tensor) -> Tensor:
        seen.append((z.shape, weights.shape))
        return -((weights @ z) ** 2)

    guide = FullRank(d=3)
    NegativeELBO(log_joint, guide, num_samples=5, vectorize=True)(torch.ones(3)).backward()
    assert seen == [((3,), (3,))]


def test_random_numbers_of_a_vectorized_target_differ() -> None:
    torch.manual_seed(0)
    guide = NormalFamily(scale=1e-6)
    objective = NegativeELBO(
        lambda z: -((z - torch.rand(())) ** 2), guide, num_samples=20_000, vectorize=True
    )
    exact = (0.3**3 + 0.7**3) / 3
    assert (objective() + guide.entropy()).item() == pytest.approx(exact, abs=0.01)


def test_a_method_of_a_module_brings_its_parameters() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.center = nn.Parameter(torch.tensor(1.0))

        def log_joint(self, z: Tensor) -> Tensor:
            return -((z - self.center) ** 2)

    own = Own()
    objective = copy.deepcopy(NegativeELBO(own.log_joint, NormalFamily()))
    assert "model.center" in dict(objective.named_parameters())
    objective().backward()
    assert objective.model.center.grad is not None
    assert own.center.grad is None
    assert objective.double()().dtype == torch.float64


def test_plain_targets_are_constants_that_move() -> None:
    objective = NegativeELBO(dd.Normal(torch.tensor(1.0), 2.0), NormalFamily())
    names = [name for name, _ in objective.named_parameters()]
    assert names == ["guide.raw_loc", "guide.raw_scale"]
    assert "log_joint.loc" in objective.state_dict()
    assert objective.double().log_joint().loc.dtype == torch.float64


def test_a_network_with_dropout_runs_once() -> None:
    """Also where its parameters are held: draws and densities come from one pass."""
    calls = []

    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(x)
            return nn.functional.dropout(x, 0.5)

    encoder = Encoder(in_features=3, network=Noisy())
    objective = NegativeELBO(Model(), encoder, num_samples=3, estimator="stl")
    objective(torch.ones(4, 3))
    assert len(calls) == 1


def test_a_guide_that_looks_at_a_part_of_the_batch() -> None:
    def log_joint(z: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return dd.Normal(z[..., 0], 1.0).log_prob(y) - z.square().sum(-1) - x.sum(-1)

    class First(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x

    batch = torch.ones(4, 3), torch.zeros(4)
    objective = NegativeELBO(log_joint, FirstOnly(in_features=3), num_samples=2)
    other = NegativeELBO(log_joint, Encoder(in_features=3, network=First()), num_samples=2)
    other.load_state_dict(objective.state_dict())
    torch.manual_seed(0)
    expected = objective(*batch)
    torch.manual_seed(0)
    torch.testing.assert_close(other(*batch), expected)


def test_a_foreign_module_may_be_the_guide() -> None:
    class Foreign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> dd.Distribution:
            return dd.Independent(dd.Normal(self.layer(x), 1.0), 1)

    objective = NegativeELBO(Model(), Foreign(), num_samples=2)
    assert objective.estimator is None
    objective(torch.ones(4, 3)).backward()
    assert objective.guide.layer.weight.grad is not None


class Wrong(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Latents(Declarative):
    mu = Param(0.0)


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "unknown estimator": (lambda: NegativeELBO(quadratic, NormalFamily(), estimator="pathwize"),
        ConstraintError, r"NegativeELBO\(estimator=\).*Did you mean 'pathwise'"),
    "no rsample": (lambda: NegativeELBO(quadratic, Mixture(k=2), estimator="pathwise"),
        ConstraintError, "'score', since the guide has no reparametrised sampler, got 'pathwise'"),
    "stl without rsample": (
        lambda: ImportanceWeightedELBO(quadratic, Mixture(k=2), num_samples=2, estimator="stl"),
        ConstraintError, r"ImportanceWeightedELBO\(estimator=\): expected 'score'"),
    "no draws": (lambda: NegativeELBO(quadratic, NormalFamily(), num_samples=0), ConstraintError,
        r"NegativeELBO\(num_samples=\): expected an int, 1 or more, got 0"),
    "half a draw": (
        lambda: NegativeELBO(quadratic, NormalFamily(), num_samples=2.5),  # type: ignore[arg-type]
        ConstraintError,
        "an int, 1 or more, got 2.5",
    ),
    "true draws": (lambda: NegativeELBO(quadratic, NormalFamily(), num_samples=True),
        ConstraintError, "an int, 1 or more, got True"),
    "support": (lambda: NegativeELBO(dd.Gamma(2.0, 2.0), NormalFamily()), ConstraintError,
        r"inside the target's, GreaterThanEq\(lower_bound=0.0\), got one with Real\(\)"),
    "support of a site": (
        lambda: NegativeELBO(
            Regression().condition(y=1.0),
            type("Loose", (MeanField,), {"tau": learnable(dd.Normal(0.0, 1.0))})(),
        ),
        ConstraintError,
        r"NegativeELBO\(guide=\).tau: expected a guide with a support inside",
    ),
    "support of an encoder": (
        lambda: NegativeELBO(dd.Dirichlet(torch.ones(2)), Encoder(in_features=3)), ConstraintError,
        "inside the target's, Simplex"),
    "a discrete guide": (lambda: NegativeELBO(dd.Normal(0.0, 1.0), learnable(dd.Poisson(2.0))),
        ConstraintError, "support inside the target's"),
    "a site too few": (lambda: NegativeELBO(Regression(), MeanField()), ConstraintError,
        r"draws that are dicts of mu, tau, y, got one with .* of mu, tau\."),
    "a site too many": (lambda: NegativeELBO(Regression().condition(y=1.0, tau=1.0), MeanField()),
        ConstraintError, "dicts of mu, got one with draws that are dicts of mu, tau"),
    "a tensor for a joint": (lambda: NegativeELBO(Regression().condition(y=1.0), NormalFamily()),
        ConstraintError, "draws that are dicts of mu, tau, got one with draws that are a tensor"),
    "a dict for a distribution": (lambda: NegativeELBO(dd.Normal(0.0, 1.0), MeanField()),
        ConstraintError, "draws that are a tensor, got one with draws that are dicts of mu, tau"),
    "events": (lambda: NegativeELBO(dd.Dirichlet(torch.ones(3)), NormalFamily()), ConstraintError,
        r"events of shape \(3,\) in a batch \(\), .*, got one with events of shape \(\)"),
    "a batch of targets": (
        lambda: NegativeELBO(dd.Normal(torch.zeros(3), 1.0), NormalFamily()),
        ConstraintError,
        r"in a batch \(3,\), as the target has, got one with events of shape \(\) in a batch \(\)",
    ),
    "a class for a target": (lambda: NegativeELBO(dd.Gamma, NormalFamily()), DeclarationError,
        r"the class Gamma. Build one: Gamma\(...\)"),
    "no target": (lambda: NegativeELBO(None, NormalFamily()), DeclarationError,
        r"NegativeELBO\(log_joint=\): expected a distribution, a joint, a module"),
    "a snapshot for a target": (lambda: NegativeELBO(Regression()(), MeanField()),
        DeclarationError, "Pass the Regression itself, without calling it"),
    "a snapshot of parameters": (lambda: NegativeELBO(NormalFamily()(), NormalFamily()),
        DeclarationError, "a loc that is a parameter"),
    "a guide of one step": (lambda: NegativeELBO(quadratic, NormalFamily()()), DeclarationError,
        r"NegativeELBO\(guide=\): expected constants in a plain Normal"),
    "a class for a guide": (lambda: NegativeELBO(quadratic, NormalFamily), DeclarationError,
        r"Build one: NormalFamily\(...\)"),
    "latents for a guide": (lambda: NegativeELBO(quadratic, Latents()), DeclarationError,
        r"NegativeELBO\(guide=\).*a Latents. Latents have no distribution of their own"),
    "a target for a guide": (lambda: NegativeELBO(quadratic, Regression().condition(y=1.0)),
        DeclarationError, "a joint with data is a log_joint"),
    "a guide that returns a tensor": (lambda: NegativeELBO(Model(), Wrong())(torch.ones(4, 3)),
        FieldError, r"a distribution from Wrong\(\*batch\)"),
    "data for a distribution": (
        lambda: NegativeELBO(dd.Normal(0.0, 1.0), NormalFamily())(torch.ones(3)), ConstraintError,
        "none, since LiveNormal is a density of the draws alone, got 1 arguments"),
    "too few dimensions": (
        lambda: NegativeELBO(lambda z: quadratic(z).sum(), NormalFamily(), num_samples=5)(),
        ConstraintError,
        r"NegativeELBO.log_joint: expected log dens.* = \(5,\), got shape \(\). .*vectorize=True"),
    "too many dimensions": (lambda: NegativeELBO(quadratic, FullRank(d=3), num_samples=5)(),
        ConstraintError, r"= \(5,\), got shape \(5, 3\). Sum over the last dimensions only"),
    "no tensor": (lambda: NegativeELBO(lambda z: 1.0, NormalFamily())(), ConstraintError,
        r"got 1.0. Sum"),
    "data of another dtype": (
        lambda: NegativeELBO(Model(), Encoder(in_features=3))(torch.ones(4, 3).double()),
        ConstraintError, "features of torch.float32.*torch.float64"),
    "an empty batch": (lambda: NegativeELBO(Model(), Encoder(in_features=3))(torch.ones(0, 3)),
        ConstraintError, "one context or more"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        make()


ALLOWED: dict[str, Callable[[], Any]] = {
    "inside a wider support": lambda: NegativeELBO(dd.Normal(0.0, 1.0), GammaFamily()),
    "the same interval": lambda: NegativeELBO(
        dd.Uniform(-0.1, 0.2), learnable(dd.Uniform(-0.1, 0.2)), num_samples=50
    ),
    "a coin": lambda: NegativeELBO(dd.Bernoulli(0.3), learnable(dd.Bernoulli(0.5))),
    "counts": lambda: NegativeELBO(dd.Poisson(3.0), learnable(dd.Binomial(4, 0.5))),
    "simplexes": lambda: NegativeELBO(
        dd.Dirichlet(torch.ones(5)), learnable(dd.Dirichlet(torch.ones(5)))
    ),
    "more draws of the positive": lambda: ImportanceWeightedELBO(
        dd.Weibull(1.0, 2.0), learnable(dd.Gamma(2.0, 1.0)), num_samples=3
    ),
    "positive events": lambda: NegativeELBO(
        dd.Independent(dd.LogNormal(torch.zeros(2), 1.0), 1),
        learnable(dd.Independent(dd.Weibull(torch.ones(2), 1.0), 1)),
    ),
    "positive mixtures": lambda: NegativeELBO(positive_mixture(), learnable(positive_mixture())),
    "a positive site": lambda: NegativeELBO(Scaled().condition(), Scaled()),
    "a share": lambda: NegativeELBO(
        dd.Independent(dd.Beta(torch.ones(3), 1.0), 1), learnable(dd.Dirichlet(torch.ones(3)))
    ),
    "a choice": lambda: NegativeELBO(
        dd.Multinomial(1, torch.ones(3)), learnable(dd.OneHotCategorical(torch.ones(3)))
    ),
}


def positive_mixture() -> dd.Distribution:
    components = dd.LogNormal(torch.zeros(2), torch.ones(2))
    return dd.MixtureSameFamily(dd.Categorical(torch.ones(2)), components)


class Scaled(Joint):
    scale = learnable(dd.LogNormal(0.0, 1.0))


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(name: str) -> None:
    assert ALLOWED[name]()().isfinite()


def test_a_refusal_draws_no_random_numbers() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    NegativeELBO(Regression().condition(y=1.0), MeanField())
    with pytest.raises(ConstraintError):
        NegativeELBO(Regression(), MeanField())
    assert torch.equal(torch.rand(2), expected)


def test_a_user_names_the_support_that_draws_leave() -> None:
    """What cannot be known beforehand is told by the distribution."""
    guide = learnable(dd.Uniform(0.2, 0.8))
    objective = NegativeELBO(dd.Uniform(0.0, 1.0), guide, num_samples=100)
    guide.high = 3.0
    with pytest.raises(ValueError, match="within the support"):
        objective()


def test_a_function_that_validates_is_told_in_one_line() -> None:
    objective = NegativeELBO(
        lambda z: dd.Gamma(2.0, 1.0).log_prob(z), NormalFamily(), num_samples=30
    )
    with pytest.raises(ConstraintError) as caught:
        objective()
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith("NegativeELBO.log_joint: expected a log density at every draw")
    assert "within the support (GreaterThanEq(lower_bound=0.0)) of the distribution Gamma" in said


def test_an_error_of_a_target_itself_keeps_its_words() -> None:
    def target(z: Tensor) -> Tensor:
        raise ConstraintError("Model.rate", "a positive number", "-1.0")

    with pytest.raises(ConstraintError, match=r"^Model.rate: expected a positive number"):
        NegativeELBO(target, NormalFamily())()


@pytest.mark.parametrize("bound", BOUNDS)
def test_why_a_loss_was_not_finite(bound: Any) -> None:
    def target(z: dict[str, Tensor]) -> Tensor:
        share = dd.Uniform(0.0, 1.0, validate_args=False).log_prob(z["mu"])
        return share + dd.Normal(0.0, 1.0).log_prob(z["tau"])

    objective = bound(target, MeanField(), num_samples=2)
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    said = objective.why_not_finite()
    assert torch.equal(torch.rand(2), expected)
    share = re.fullmatch(
        r"The target has no finite log density at (\d+) of 100 draws of the guide\.", said
    )
    outside = 1 - dd.Normal(0.2, 1.0).cdf(torch.tensor([0.0, 1.0])).diff().item()
    assert share is not None
    assert int(share[1]) == pytest.approx(100 * outside, abs=20)
    assert bound(lambda z: -z["mu"], MeanField(), num_samples=2).why_not_finite() == ""


def test_why_a_loss_of_a_batch_was_not_finite() -> None:
    objective = NegativeELBO(lambda z, x: (z.sum(-1) - 1e3).log(), Encoder(in_features=3))
    assert "at 100 of 100 draws of the guide." in objective.why_not_finite(torch.ones(4, 3))


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_target_that_sums_over_draws_is_refused_by_fit(bound: type[nn.Module]) -> None:
    def over_all_draws(z: Tensor) -> Tensor:
        return dd.Normal(0.0, 1.0).log_prob(z[..., 0]) - (z**2).sum()

    objective = bound(over_all_draws, FullRank(d=3, batch_shape=(2,)), num_samples=2)
    before = copy.deepcopy(objective.state_dict())
    state = torch.get_rng_state()
    with pytest.raises(ConstraintError, match=r"does not depend on the draws beside it") as caught:
        fit(objective, steps=3)
    assert caught.value.subject == f"{bound.__name__}.log_joint"
    assert ".sum(-1)" in caught.value.fix
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())


@pytest.mark.parametrize(("target", "options"), [
    (lambda z: -((z - torch.randn_like(z)) ** 2).sum(-1), {}),
    (lambda z: -(z**2).sum(), {"vectorize": True}),  # of one draw
    (lambda z: -(z**2).sum(-1), {}),
    (lambda z: (z > 0).sum(-1), {}),  # of whole numbers, which have no eps
])  # fmt: skip
def test_targets_that_keep_draws_apart_are_not(target: Any, options: dict[str, bool]) -> None:
    fit(NegativeELBO(target, FullRank(d=3), num_samples=2, **options), steps=2)


def test_a_decoder_with_dropout_or_batch_norm_is_tried_without_them() -> None:
    class Normed(Model):
        def __init__(self) -> None:
            super().__init__()
            self.noise, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(2)

        def forward(self, z: Tensor, x: Tensor) -> Tensor:
            flat = self.norm(self.noise(z.reshape(-1, 2))).reshape(z.shape)
            return super().forward(flat, x)

    model = Normed()
    objective = NegativeELBO(model, Encoder(in_features=3), num_samples=2)
    before = model.norm.running_mean.clone()
    objective.before_fit(torch.randn(5, 3))
    assert torch.equal(model.norm.running_mean, before)
    assert model.norm.training
    fit(objective, torch.randn(5, 3), steps=2)


def test_bounds_tighten_with_draws_and_meet_the_evidence() -> None:
    evidence = 1.7
    posterior = dd.Normal(1.0, 2.0)

    def log_joint(z: Tensor) -> Tensor:
        return posterior.log_prob(z) + evidence

    torch.manual_seed(0)
    guide = NormalFamily(batch_shape=(20_000,), loc=0.0, scale=1.5)
    means = [
        -ImportanceWeightedELBO(log_joint, guide, num_samples=count)().item() / 20_000
        for count in (1, 2, 8, 32)
    ]
    assert means == sorted(means)
    kl = dd.kl_divergence(dd.Normal(0.0, 1.5), posterior).item()
    assert means[0] == pytest.approx(evidence - kl, abs=0.02)
    assert evidence - kl + 0.03 < means[1] < means[-1] < evidence + 0.005
    exact = NormalFamily(loc=1.0, scale=2.0)
    for count in (1, 5):
        for bound in BOUNDS:
            loss = bound(log_joint, exact, num_samples=count)()
            assert loss.item() == pytest.approx(-evidence, abs=1e-5)


def test_mini_batches_are_unbiased() -> None:
    data = torch.tensor([0.5, -1.0, 2.0, 0.1])

    def log_joint(z: Tensor, x: Tensor) -> Tensor:
        likelihood = dd.Normal(z[..., None], 1.0).log_prob(x).sum(-1)
        return dd.Normal(0.0, 1.0).log_prob(z) + likelihood * (len(data) / len(x))

    objective = NegativeELBO(log_joint, NormalFamily(), num_samples=3, estimator="stl")

    def gradient(x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return torch.autograd.grad(objective(x), objective.guide.raw_loc)[0]

    parts = torch.stack([gradient(part) for part in data.split(2)])
    torch.testing.assert_close(parts.mean(0), gradient(data))

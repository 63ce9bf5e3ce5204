"""Every Pyro distribution that torch has too, as the base of a live one."""

from __future__ import annotations

import copy
import pickle
from typing import Any, ClassVar

import pyro
import pyro.distributions as pd
import pytest
import torch
import torch.distributions as dd
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from declarative_dist import (
    DeclarationError,
    Exp,
    Interval,
    LearnableTransform,
    Param,
    Positive,
    Variational,
    kl_divergence,
    learnable,
)
from declarative_dist.plain.decompose import decompose
from declarative_dist.testing import check_distribution
from tests.cases import PLAIN
from tests.composites import real, spread
from tests.test_promises import EDGES
from tests.with_pyro.conftest import BEFORE

# torch warns at the first draw of every Wishart, singular or not.
pytestmark = pytest.mark.filterwarnings("ignore:Singular sample:UserWarning")

COMPOSED = ("Independent", "MixtureSameFamily", "TransformedDistribution")
TWINS = [
    name
    for name, make in PLAIN.items()
    if name not in COMPOSED and hasattr(pd, type(make()).__name__)
]
SOME = (
    "Bernoulli-logits", "Beta", "Binomial-probs", "Dirichlet", "LKJCholesky",
    "MultivariateNormal-covariance", "Normal", "OneHotCategorical-logits", "StudentT",
    "Wishart-covariance",
)  # fmt: skip
"""One for each way to build an inner distribution, or a shape."""


def twin(name: str) -> Any:
    kind, arguments = decompose(PLAIN[name]())
    return getattr(pd, kind.__name__)(**arguments)


def drawn(distribution: dd.Distribution, *sample_shape: int) -> Tensor:
    torch.manual_seed(1)
    return distribution.sample(sample_shape)


def names_of(q: torch.nn.Module) -> list[str]:
    return [name for name, _ in q.named_parameters()]


@pytest.fixture(autouse=True)
def empty_param_store() -> None:
    pyro.clear_param_store()


def test_what_pyro_changes_in_torch() -> None:
    """If this list grows, there is more that the other tests must be kept from."""
    changed = [
        f"{kind.__name__.strip('_')}.{name}"
        for kind, members in BEFORE.items()
        for name, member in vars(kind).items()
        if members.get(name) is not member
    ]
    assert sorted(changed) == [
        "CorrCholesky.check",
        "HalfCauchy.log_prob",
        "Transform.__getstate__",
        "Transform.clear_cache",
        "TransformedDistribution.clear_cache",
    ]
    assert torch.get_default_dtype() == torch.float32


def test_no_torch_family_is_left_out() -> None:
    missing = {type(make()).__name__ for make in PLAIN.values()} - set(dir(pd))
    assert missing == set()


@pytest.mark.parametrize("name", TWINS)
def test_it_agrees_with_pyro_and_torch(name: str) -> None:
    q, theirs, plain = learnable(twin(name)), twin(name), PLAIN[name]()
    assert type(q()) is type(theirs)
    assert isinstance(q(), TorchDistributionMixin)
    assert (q.batch_shape, q.event_shape) == (theirs.batch_shape, theirs.event_shape)
    x = drawn(q, 4)
    torch.testing.assert_close(x, drawn(theirs, 4), rtol=1e-4, atol=1e-5)
    if name in EDGES:
        return
    x = drawn(theirs, 4)
    for other in (theirs, plain):
        torch.testing.assert_close(q.log_prob(x), other.log_prob(x), rtol=1e-4, atol=1e-4)


def assert_is_a_site(q: Any, tolerance: float = 1e-5) -> None:
    trace = poutine.trace(lambda: pyro.sample("x", q())).get_trace()
    score, x = trace.log_prob_sum(), trace.nodes["x"]["value"]
    torch.testing.assert_close(score, q.log_prob(x).sum(), rtol=tolerance, atol=tolerance)
    score.backward()
    assert all(parameter.grad is not None for parameter in q.parameters())


@pytest.mark.parametrize("name", SOME)
def test_it_is_a_site_and_keeps_its_class(name: str) -> None:
    q = learnable(twin(name))
    assert names_of(q) == names_of(learnable(PLAIN[name]()))
    q.log_prob(drawn(q, 4)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in q.parameters())
    assert_is_a_site(q)
    x = drawn(q, 3)
    for other in (copy.deepcopy(q), pickle.loads(pickle.dumps(q))):
        assert type(other()) is type(q())
        assert torch.equal(other.log_prob(x), q.log_prob(x))
    view = q.expand((5, *q.batch_shape))
    with torch.no_grad():
        next(q.parameters()).add_(0.1)
    assert type(view()) is type(q())
    x = drawn(q, 3)
    expected = q.log_prob(x)[:, None].expand(-1, 5, *q.batch_shape)
    torch.testing.assert_close(view.log_prob(x[:, None]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in SOME if PLAIN[n]().batch_shape])
def test_event_dim_keeps_it_a_site(name: str) -> None:
    theirs = twin(name)
    kind, arguments = decompose(theirs)
    total = len(theirs.batch_shape) + len(theirs.event_shape)
    tensors = {key: value for key, value in arguments.items() if isinstance(value, Tensor)}
    numbers = {k: v for k, v in arguments.items() if k in ("dim", "total_count")}
    fields = {**{key: Param() for key in tensors}, **numbers}
    body = {"base": kind, "event_dim": total, "__module__": __name__, **fields}
    q = type("Family", (Variational,), body)(**{k: v for k, v in tensors.items() if k in fields})
    assert isinstance(q(), pd.Independent)
    assert isinstance(q(), TorchDistributionMixin)
    assert (q.batch_shape, len(q.event_shape)) == ((), total)
    torch.manual_seed(1)
    assert_is_a_site(q)
    x = drawn(q)
    expected = theirs.to_event(len(theirs.batch_shape)).log_prob(x)
    torch.testing.assert_close(q.log_prob(x), expected, rtol=1e-4, atol=1e-4)


def test_a_switch_of_the_base_in_a_class_body() -> None:
    assert learnable(pd.Poisson(spread(3), is_sparse=True))().is_sparse

    class Sparse(Variational):
        base = pd.Poisson
        rate = Param(spread(3))
        is_sparse = True

    assert Sparse()().is_sparse


def test_a_class_of_pyros_in_a_class_and_by_learnable() -> None:
    q = learnable(pd.Gamma)(concentration=2.0, rate=3.0)
    assert type(q()) is pd.Gamma
    assert learnable(pd.Gamma) is not learnable(dd.Gamma)

    class Family(Variational):
        base = pd.Gamma
        concentration = Param(1.0, Positive())
        rate = Param(1.0, Exp())

    assert type(Family()()) is pd.Gamma
    assert names_of(Family()) == ["raw_concentration", "raw_rate"]


def test_a_method_as_base_with_events() -> None:
    class Family(Variational):
        event_dim = 1
        loc = Param(torch.zeros(3))

        def base(self, loc: Tensor) -> Any:
            return pd.Normal(loc, 1.0)

    assert isinstance(Family()(), pd.Independent)
    assert pyro.sample("x", Family()()).shape == (3,)


# Pyro's own families, which torch does not have.

OWN = {
    "BetaBinomial": lambda: pd.BetaBinomial(spread(3), spread(3), 10),
    "GammaPoisson": lambda: pd.GammaPoisson(spread(3), spread(3)),
    "AsymmetricLaplace": lambda: pd.AsymmetricLaplace(real(3), spread(3), spread(3)),
    "SoftLaplace": lambda: pd.SoftLaplace(real(3), spread(3)),
    "Logistic": lambda: pd.Logistic(real(3), spread(3)),
    "SkewLogistic": lambda: pd.SkewLogistic(real(3), spread(3), spread(3)),
    "ProjectedNormal": lambda: pd.ProjectedNormal(real(3)),
}


@pytest.mark.parametrize("name", OWN)
def test_pyros_own_families(name: str) -> None:
    q = learnable(OWN[name]())
    x = drawn(OWN[name](), 4)
    torch.testing.assert_close(q.log_prob(x), OWN[name]().log_prob(x), rtol=1e-4, atol=1e-4)
    q.log_prob(x).sum().backward()
    assert names_of(q)
    assert all(parameter.grad.abs().sum() > 0 for parameter in q.parameters())
    check_distribution(q)


def test_zero_inflation_in_the_parametrisation_that_was_given() -> None:
    for arguments in ({"gate": spread(3) / 2}, {"gate_logits": real(3)}):
        plain = pd.ZeroInflatedPoisson(spread(3), **arguments)
        q = learnable(plain)
        assert sorted(names_of(q)) == sorted(["raw_rate", *(f"raw_{key}" for key in arguments)])
        x = torch.tensor([0.0, 1.0, 2.0])
        torch.testing.assert_close(q.log_prob(x), plain.log_prob(x))


def test_what_cannot_be_taken_apart_says_so() -> None:
    with pytest.raises(DeclarationError, match="Delta"):
        learnable(pd.Delta(real(3)))


# Parts.


def weights() -> Any:
    return pd.Categorical(logits=real(3))


def normals(*shape: int) -> Any:
    return pd.Normal(real(*shape), spread(*shape))


NESTS = {
    "independent": lambda: normals(4, 3).to_event(1),
    "mixture of vectors": lambda: pd.MixtureSameFamily(weights(), normals(3, 2).to_event(1)),
    "mixture with torch's weights": lambda: pd.MixtureSameFamily(
        dd.Categorical(logits=real(3)), normals(3)
    ),
    "transformed": lambda: pd.TransformedDistribution(
        normals(3), [dd.AffineTransform(real(3), spread(3)), dd.TanhTransform()]
    ),
    "transformed by a constraint": lambda: pd.TransformedDistribution(
        normals(3).to_event(1), [Interval(-1.0, 1.0).as_transform(cache_size=1)]
    ),
    "everything": lambda: pd.TransformedDistribution(
        pd.MixtureSameFamily(
            weights(),
            pd.TransformedDistribution(
                normals(3, 2).to_event(1), [dd.AffineTransform(real(2), spread(2), event_dim=1)]
            ),
        ),
        [dd.SoftplusTransform()],
    ).expand_by([4]),
}


@pytest.mark.parametrize("name", NESTS)
def test_nests(name: str) -> None:
    q, theirs = learnable(NESTS[name]()), NESTS[name]()
    assert type(q()) is type(theirs)
    assert (q.batch_shape, q.event_shape) == (theirs.batch_shape, theirs.event_shape)
    x = drawn(theirs, 4)
    torch.testing.assert_close(drawn(q, 4), x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(q.log_prob(x), theirs.log_prob(x), rtol=1e-4, atol=1e-4)
    q.log_prob(x).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in q.parameters())
    assert_is_a_site(q, 1e-4)
    again = pickle.loads(pickle.dumps(copy.deepcopy(q)))
    assert torch.equal(again.log_prob(x), q.log_prob(x))


def test_parts_are_pyros_too() -> None:
    q = learnable(NESTS["mixture of vectors"]())
    assert type(q().mixture_distribution) is pd.Categorical
    assert type(q().component_distribution) is pd.Independent
    assert type(q().component_distribution.base_dist) is pd.Normal


def test_nested_parts_in_a_class_body() -> None:
    class Shift(LearnableTransform):
        base = dd.AffineTransform
        loc = Param(torch.zeros(2))
        scale = 2.0

    class Flow(Variational):
        base = pd.TransformedDistribution
        event_dim = 1
        base_distribution = learnable(normals(2))
        transforms: ClassVar = [Shift, dd.TanhTransform()]

    class Family(Variational):
        base = pd.MixtureSameFamily
        mixture_distribution = learnable(weights())
        component_distribution = learnable(normals(3, 2).to_event(1))

    flow, family = Flow(), Family()
    assert isinstance(flow(), pd.Independent)
    assert type(family()) is pd.MixtureSameFamily
    expected = pd.TransformedDistribution(
        normals(2), [dd.AffineTransform(0.0, 2.0), dd.TanhTransform()]
    ).to_event(1)
    x = drawn(expected, 4)
    torch.testing.assert_close(flow.log_prob(x), expected.log_prob(x), rtol=1e-4, atol=1e-4)
    for q in (flow, family):
        assert q.event_shape == (2,)
        assert_is_a_site(q)


def test_fixed_names_in_pyros_nests() -> None:
    q = learnable(
        NESTS["mixture of vectors"](), fixed=("component_distribution.base_distribution.scale",)
    )
    assert names_of(q) == [
        "mixture_distribution.raw_logits",
        "component_distribution.base_distribution.raw_loc",
    ]


def test_transforms_of_pyros_that_are_modules_train() -> None:
    transform = pd.transforms.Spline(3)
    flow = pd.TransformedDistribution(normals(3).to_event(1), [transform])
    q = learnable(flow)
    x = drawn(flow, 4)
    torch.testing.assert_close(q.log_prob(x), flow.log_prob(x), rtol=1e-4, atol=1e-4)
    before = q.log_prob(x)
    before.sum().backward()
    assert len(names_of(q)) == 2 + len(list(transform.parameters()))
    for key, parameter in q.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key
    with torch.no_grad():
        for key, parameter in q.named_parameters():
            if "transforms" in key:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    assert not torch.allclose(q.log_prob(x), before)


def test_divergences() -> None:
    p, q = normals(4, 3).to_event(1), pd.Normal(torch.zeros(4, 3), 2.0).to_event(1)
    expected = dd.kl_divergence(dd.Normal(real(4, 3), spread(4, 3)), dd.Normal(0.0, 2.0)).sum(-1)
    for left, right in ((learnable(p), q), (p, learnable(q)), (learnable(p), learnable(q))):
        torch.testing.assert_close(kl_divergence(left, right), expected)
        torch.testing.assert_close(dd.kl_divergence(left, right), expected)
    plain = dd.Independent(dd.Normal(torch.zeros(4, 3), 2.0), 1)
    torch.testing.assert_close(kl_divergence(learnable(p), plain), expected)


def test_draws_and_scores() -> None:
    policy = pd.TransformedDistribution(pd.Normal(torch.full((3,), 20.0), 1.0), dd.TanhTransform())
    q = learnable(policy.to_event(1))
    x, log_prob = q.rsample_and_log_prob((5,))
    assert x.abs().max() == 1.0
    assert log_prob.shape == (5,)
    assert log_prob.isfinite().all()
    log_prob.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in q.parameters())

"""The promises of every declarative module, one body each, over the dictionary of cases."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributions as dd
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call, jacrev, stack_module_state, vmap
from torch.optim.swa_utils import AveragedModel

from declarative_dist import Joint, Variational
from declarative_dist.testing import check_distribution
from declarative_dist.testing.distribution_promises import Values, by_site, perturb
from tests.cases import CASES, DECLARED, JOINTS, LIVE, PLAIN
from tests.limits import COMPILE_SAMPLE, LIMITS, NO_PATHWISE_BACKWARD, VMAP_LOG_PROB, VMAP_SAMPLE

# torch warns at the first draw of every Wishart, singular or not.
WISHART_WARNS = pytest.mark.filterwarnings("ignore:Singular sample:UserWarning")
pytestmark = [
    WISHART_WARNS,
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
]


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def q(name: str) -> Variational | Joint:
    return CASES[name]()


def values_of(q: Distribution | Joint, count: int = 4) -> Values:
    torch.manual_seed(1)
    return q.sample((count,))


def has_rsample(q: Variational | Joint) -> bool:
    return q().has_rsample


def loss_of(q: Variational | Joint, name: str) -> Tensor:
    """A scalar through which every parameter has a gradient."""
    x = values_of(q)
    loss = -q.log_prob(x).mean()
    if has_rsample(q) and name not in NO_PATHWISE_BACKWARD:
        loss = loss + sum(x.square().mean() for x in by_site(q.rsample((4,))).values())
    return loss


EDGES = ("GeneralizedPareto", "Pareto", "Uniform")
"""Cases whose support starts at a parameter, so that a rounded draw may lie outside."""


CONTEXTS = ("joint of contexts", "joint of contexts that share a site")

BUILDS_ITSELF = ("method", "tied", "shared", "network", "hierarchy", *CONTEXTS)
"""Cases with a method that builds distributions."""

OURS = {**DECLARED, **JOINTS}
"""One case or more for every kind of field; families of torch differ only in their arguments."""

STORED = ("declared", "nested batch", "squashed", "tied", "shared", "conditional", "hierarchy")
VIEWED = (
    "method", "bounds", "constant", "nested batch", "squashed", "priors batch", "shared",
    "conditional", "Dirichlet",
)  # fmt: skip
"""Every way to compute arguments."""

FLAT_IN_VALUE = (
    "Uniform",
    "bounds",
    "OneHotCategoricalStraightThrough",
    "OneHotCategoricalStraightThrough-probs",
)
"""Cases whose log_prob has no gradient with respect to the value."""


# The live object.


@pytest.mark.parametrize("name", PLAIN)
def test_it_agrees_with_plain_torch(name: str) -> None:
    plain, q = PLAIN[name](), LIVE[name]()
    assert isinstance(q, nn.Module)
    assert isinstance(q, Distribution)
    assert type(q()) is type(plain)
    assert (q.batch_shape, q.event_shape) == (plain.batch_shape, plain.event_shape)
    assert q.has_rsample == plain.has_rsample
    assert q.has_enumerate_support == plain.has_enumerate_support
    assert type(q.support) is type(plain.support)
    torch.testing.assert_close(values_of(q), values_of(plain), rtol=1e-4, atol=1e-5)
    x = values_of(plain) if name not in EDGES else values_of(q)
    torch.testing.assert_close(q.log_prob(x), plain.log_prob(x), rtol=1e-4, atol=1e-5)


MEMBERS = ("mean", "mode", "variance", "stddev")
METHODS: dict[str, Callable[[Distribution], tuple[Tensor, ...]]] = {
    "cdf": lambda plain: (values_of(plain),),
    "icdf": lambda plain: (torch.full((3, 1), 0.3),),
    "entropy": lambda plain: (),
    "perplexity": lambda plain: (),
    "enumerate_support": lambda plain: (),
}


@pytest.mark.parametrize("name", PLAIN)
def test_members_agree_with_plain_torch(name: str) -> None:
    plain, q = PLAIN[name](), LIVE[name]()
    for member in (*MEMBERS, *METHODS):

        def ask(distribution: Distribution, member: str = member) -> Tensor:
            found: Any = getattr(distribution, member)
            return found(*METHODS[member](plain)) if member in METHODS else found

        try:
            expected = ask(plain)
        except (NotImplementedError, RuntimeError, ValueError) as error:
            with pytest.raises(type(error)):
                ask(q)
            continue
        torch.testing.assert_close(ask(q), expected, rtol=1e-3, atol=1e-4, equal_nan=True)


def test_rsample_and_log_prob(q: Variational | Joint, name: str) -> None:
    if not has_rsample(q):
        if isinstance(q, Joint):
            with pytest.raises(NotImplementedError, match=f"{type(q).__name__}.y.rsample: Bern"):
                q.rsample_and_log_prob()
            return
        with pytest.raises(NotImplementedError, match=f"{type(q()).__name__} has no repara"):
            q.rsample_and_log_prob()
        with pytest.raises(NotImplementedError, match=r"Use sample\(\)"):
            q.rsample()
        return
    x, log_prob = q.rsample_and_log_prob((3,))
    assert any(value.requires_grad for value in by_site(x).values())
    torch.testing.assert_close(log_prob, q().log_prob(x), rtol=1e-4, atol=1e-4)


def test_detach_stops_gradients_to_parameters(q: Variational, name: str) -> None:
    x = values_of(q)
    assert not q.detach().log_prob(x).requires_grad
    torch.testing.assert_close(q.detach().log_prob(x), q.log_prob(x).detach())
    if has_rsample(q) and name not in FLAT_IN_VALUE:
        for value in by_site(x).values():
            value.requires_grad_()
        assert q.detach().log_prob(x).requires_grad


@pytest.mark.parametrize("name", VIEWED)
def test_every_promise_holds_for_a_view(q: Variational, name: str) -> None:
    perturb(q)
    x = values_of(q)
    view = q.expand((7, *q.batch_shape))
    expected = q.log_prob(x)[:, None].expand(-1, 7, *q.batch_shape)
    torch.testing.assert_close(view.log_prob(x[:, None]), expected)
    limits = [promise for promise in LIMITS if name in LIMITS[promise]]
    check_distribution(view, skip=[*dict.fromkeys(["score", *limits])])
    assert [id(p) for p in view.parameters()] == [id(p) for p in q.parameters()]
    q.double()
    assert all(p.dtype == torch.float64 for p in view.parameters())


def test_it_survives_in_plain_wrappers() -> None:
    q = LIVE["Normal"]()
    wrapped = dd.TransformedDistribution(
        dd.Independent(q, 1), [dd.ExpTransform(), dd.AffineTransform(torch.zeros(3, 2), 2.0)]
    )
    for _ in range(3):
        wrapped.log_prob(wrapped.rsample()).sum().backward()
    assert q.raw_loc.grad is not None


@pytest.mark.parametrize("name", OURS)
def test_repr_shows_values(q: Variational) -> None:
    text = repr(q)
    assert text.startswith(type(q).__name__)
    for field in q.__declaration__.fields:
        assert f"({field}): " in text


# State.


@pytest.mark.parametrize("name", OURS)
def test_instances_share_nothing(q: Variational, name: str) -> None:
    mine, others = (
        {tensor.data_ptr() for tensor in module.state_dict().values()}
        for module in (q, CASES[name]())
    )
    assert mine.isdisjoint(others)


@pytest.mark.parametrize("name", STORED)
def test_safetensors_round_trip(q: Variational, name: str, tmp_path: Path) -> None:
    with torch.no_grad():
        for parameter in q.parameters():
            parameter.add_(0.25)
    safetensors.torch.save_model(q, tmp_path / "state.safetensors")
    other = CASES[name]()
    safetensors.torch.load_model(other, tmp_path / "state.safetensors")
    x = values_of(q)
    assert torch.equal(other.log_prob(x), q.log_prob(x))


@pytest.mark.parametrize("name", STORED)
def test_averaged_model(q: Variational, name: str) -> None:
    average = AveragedModel(q)
    loss_of(q, name).backward()
    start = {key: p.detach().clone() for key, p in q.named_parameters()}
    average.update_parameters(q)
    with torch.no_grad():
        for parameter in q.parameters():
            parameter.add_(1.0)
    average.update_parameters(q)
    for key, parameter in average.module.named_parameters():
        torch.testing.assert_close(parameter, start[key] + 0.5)


# Transforms of functions.


@pytest.mark.parametrize("name", OURS)
def test_jacrev_agrees_with_backward(q: Variational, name: str) -> None:
    x = values_of(q)
    parameters = dict(q.named_parameters())

    def score(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(q, parameters, ()).log_prob(x).sum()

    if name in VMAP_LOG_PROB:
        jacobians = torch.func.grad(score)(parameters)
    else:
        jacobians = jacrev(score)(parameters)
    q.log_prob(x).sum().backward()
    for key, parameter in parameters.items():
        torch.testing.assert_close(jacobians[key], parameter.grad, rtol=1e-3, atol=1e-4)


def test_ensemble_by_stack_module_state(q: Variational, name: str) -> None:
    members = [CASES[name]() for _ in range(3)]
    for shift, member in enumerate(members):
        for _ in range(shift):
            perturb(member)
    Distribution.set_default_validate_args(False)  # some values leave a member's support
    parameters, buffers = stack_module_state(members)
    x = values_of(q)

    def score(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return functional_call(q, (parameters, buffers), ()).log_prob(x)

    if name in VMAP_LOG_PROB:
        with pytest.raises(RuntimeError, match="vmap"):
            vmap(score)(parameters, buffers)
        return
    together = vmap(score)(parameters, buffers)
    apart = torch.stack([member.log_prob(x) for member in members])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OURS)
def test_sampling_an_ensemble_under_vmap(q: Variational, name: str) -> None:
    parameters, buffers = stack_module_state([CASES[name]() for _ in range(3)])

    def draw(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return functional_call(q, (parameters, buffers), ()).sample((8,))

    together = vmap(draw, randomness="different")
    if name in VMAP_SAMPLE:
        with pytest.raises(RuntimeError, match=r"vmap|functorch"):
            together(parameters, buffers)
        return
    one = by_site(q.sample())
    for key, value in by_site(together(parameters, buffers)).items():
        assert value.shape == (3, 8, *one[key].shape)
        assert not torch.equal(value[0], value[1])


# Compilation.


@pytest.fixture
def _fresh_compiler(name: str) -> Iterator[None]:
    torch._dynamo.reset()
    if name in BUILDS_ITSELF:  # with torch's default
        Distribution.set_default_validate_args(False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield
    torch._dynamo.reset()


COMPILED = {
    name: (name,)
    for name in (
        "derived", "method", "named shapes", "constant", "nested batch", "tied", "shared",
        "conditional without a layer", "joint batch", "joint of contexts that share a site",
        "Censored pairs",
    )
} | {
    "families": (
        "Binomial-logits", "ContinuousBernoulli-logits", "Dirichlet", "FisherSnedecor",
        "LKJCholesky", "LowRankMultivariateNormal", "Multinomial-logits",
        "NegativeBinomial-logits", "OneHotCategorical-logits", "RelaxedBernoulli-logits",
        "RelaxedOneHotCategorical", "StudentT", "Wishart-scale_tril", "hurdle",
    )
}  # fmt: skip
"""Every kind of field, and in one graph every family that is built in a way of its own.

Likelihoods of four others are compiled and compared in `test_compiled.py`.
"""

DRAWN = (
    "bounds", "method", "nested batch", "squashed", "tied", "conditional mixture", "joint batch",
    "hierarchy", "joint of contexts that share a site",
)  # fmt: skip
EXPORTED = ("constant", "shared", "conditional mixture", "hierarchy")
GENERATED = ("conditional mixture", "hierarchy")
"""Mixtures are in `test_compiled.py`, and constraints in `tests/constraints/test_compiled.py`."""


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_log_prob(name: str) -> None:
    together = nn.ModuleDict({part: CASES[part]() for part in COMPILED[name]})
    data = [values_of(q) for q in together.values()]

    def losses(data: list[Values]) -> list[Tensor]:
        return [-q.log_prob(x).mean() for q, x in zip(together.values(), data, strict=True)]

    backend = "eager" if name == "families" else "aot_eager"
    values = torch.compile(losses, fullgraph=True, backend=backend)(data)
    torch.testing.assert_close(values, losses(data), rtol=1e-4, atol=1e-5)
    sum(values).backward()
    gradients = {key: p.grad.clone() for key, p in together.named_parameters()}
    together.zero_grad()
    sum(losses(data)).backward()
    for key, parameter in together.named_parameters():
        torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [*DRAWN, *COMPILE_SAMPLE])
@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_sample(q: Variational, name: str) -> None:
    def draw() -> Tensor:
        x = by_site(q.rsample((4,)) if is_pathwise else q.sample((4,)))
        return torch.cat([value.float().mean(0).flatten() for value in x.values()])

    is_pathwise = has_rsample(q)

    compiled = torch.compile(draw, fullgraph=True, backend="aot_eager")
    if name in COMPILE_SAMPLE:
        with pytest.raises(torch._dynamo.exc.TorchDynamoException):
            compiled()
        return
    torch.manual_seed(3)
    value = compiled()
    torch.manual_seed(3)
    torch.testing.assert_close(value, draw(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EXPORTED)
@pytest.mark.usefixtures("_fresh_compiler")
def test_export(q: Variational, name: str) -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = q

        def forward(self, x: Tensor) -> Tensor:
            return self.q.log_prob(x)

    x = values_of(q)
    program = torch.export.export(Scores(), (x,), strict=False)
    torch.testing.assert_close(program.module()(x), q.log_prob(x), rtol=1e-4, atol=1e-5)
    assert set(program.state_dict) == {f"q.{key}" for key in q.state_dict()}


@pytest.mark.parametrize("name", GENERATED)
@pytest.mark.usefixtures("_fresh_compiler")
def test_inductor(q: Variational, name: str) -> None:
    x = values_of(q)
    compiled = torch.compile(lambda x: -q.log_prob(x).mean(), fullgraph=True)
    torch.testing.assert_close(compiled(x), -q.log_prob(x).mean(), rtol=1e-4, atol=1e-5)

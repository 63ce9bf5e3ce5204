"""The examples of composition, against references that do not know this library."""

from __future__ import annotations

import ast
import copy
import math
import re
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
import torch.distributions as dd
import torch.nn.functional as F
from sklearn.datasets import make_moons
from sklearn.mixture import GaussianMixture
from torch import Tensor

from declarative_dist import fit
from declarative_dist.objectives import NegativeLogLikelihood
from tests.running_examples import EXAMPLES, example, numbers_in, process

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.xdist_group("composed examples"),  # each is fitted once
]

NAMES = (
    "old_faithful",
    "squashed_policy",
    "eight_schools",
    "tied_parts",
    "many_mixtures",
    "pyro_guide",
    "zuko_flow",
)


def printed_by(code: str) -> str:
    """What a process of its own prints that has `examples` on its path."""
    done = process("-c", code)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_docstring_says_how_to_run_it(name: str) -> None:
    text = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text()))
    assert text is not None
    assert text.endswith(f"\n\n    python examples/{name}.py")


# Old Faithful


@pytest.fixture(scope="module")
def fitted() -> tuple[Any, Tensor, float]:
    module = example("old_faithful")
    data = module.old_faithful()
    q = module.fit_mixture(data)
    return q, data, q.log_prob(data).sum().item()


def components_of(q: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and covariances, the most frequent first, as torch computes them."""
    with torch.no_grad():
        plain = q()
        weights = plain.mixture_distribution.probs
        order = weights.argsort(descending=True)
        parts = plain.component_distribution
        return weights[order], parts.mean[order], parts.covariance_matrix[order]


def by_sklearn(data: Tensor, **options: Any) -> tuple[float, list[Tensor]]:
    other = GaussianMixture(2, n_init=10, random_state=0, **options).fit(data.numpy())
    order = (-other.weights_).argsort()
    values = [v[order] for v in (other.weights_, other.means_, other.covariances_)]
    return other.score(data.numpy()) * len(data), [torch.from_numpy(v) for v in values]


def test_old_faithful_has_the_published_means_and_deviations() -> None:
    # As R prints them for `faithful`: 272 rows, 3.487783 (1.141371) and 70.89706 (13.59497).
    data = example("old_faithful").old_faithful()
    assert data.shape == (272, 2)
    assert data.mean(0).tolist() == pytest.approx([3.487783, 70.89706], abs=1e-5)
    assert data.std(0).tolist() == pytest.approx([1.141371, 13.59497], abs=1e-5)


def test_old_faithful_is_where_expectation_maximisation_ends(fitted: Any) -> None:
    q, data, reached = fitted
    expected, values = by_sklearn(data, tol=1e-10, max_iter=5000, reg_covar=1e-9)
    assert reached == pytest.approx(expected, abs=1e-6)
    for mine, theirs in zip(components_of(q), values, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=0.0)


# A squashed policy


def exact_log_prob(z: Tensor, loc: float, scale: float) -> Tensor:
    """The log density of tanh(z) for normal z, in float64, by the change of variables."""
    z = z.double()
    normal = -0.5 * ((z - loc) / scale) ** 2 - np.log(scale * np.sqrt(2 * np.pi))
    return (normal - 2 * (np.log(2.0) - z - F.softplus(-2 * z))).sum(-1)


@pytest.mark.parametrize("kind", ["TanhPolicy", "SquashedPolicy"])
@pytest.mark.parametrize("scale", [0.5, 3.0, 30.0])
def test_squashed_draws_have_their_exact_log_density(kind: str, scale: float) -> None:
    module = example("squashed_policy")
    q = module.policy(getattr(module, kind), scale)
    torch.manual_seed(1)
    actions, log_prob = q.rsample_and_log_prob((20_000,))
    torch.manual_seed(1)
    z = dd.Normal(0.0, scale).sample((20_000, 6))
    assert log_prob.isfinite().all()
    torch.testing.assert_close(actions.double(), z.double().tanh(), rtol=0.0, atol=3e-7)
    expected = exact_log_prob(z, 0.0, scale)
    torch.testing.assert_close(log_prob.double(), expected, rtol=2e-6, atol=1e-4)
    assert bool((actions.double().abs() > 1 - 2e-7).any()) == (scale > 1.0)
    log_prob.sum().backward()
    assert all(p.grad.isfinite().all() for p in q.parameters())


def check_later_policies(kind: str, dtype: torch.dtype, count: int) -> None:
    """Stored actions are inside, and every later policy scores them, with gradients."""
    module = example("squashed_policy")
    family = getattr(module, kind)
    stored = module.policy(family, 3.0, dtype=dtype).sample((count,))
    assert stored.dtype == dtype
    assert (stored.abs() < 1).all()
    for scale, loc in ((1.0, 0.1), (0.3, -0.5), (5.0, 2.0)):
        later = module.policy(family, scale, loc, dtype=dtype)
        scores = later.log_prob(stored)
        assert scores.isfinite().all()
        scores.mean().backward()
        assert all(p.grad.isfinite().all() for p in later.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_no_stored_action_is_lost_with_an_interval(dtype: torch.dtype) -> None:
    check_later_policies("SquashedPolicy", dtype, 50_000)


def test_stored_actions_score_as_the_inverse_in_double_precision_says() -> None:
    module = example("squashed_policy")
    stored = module.policy(module.SquashedPolicy, 3.0).sample((50_000,))
    assert (stored.double().abs() > 1 - 2e-7).any()
    scores = module.policy(module.SquashedPolicy, 1.0, 0.1).log_prob(stored)
    expected = exact_log_prob(stored.double().atanh(), 0.1, 1.0)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-4)


def test_the_squashed_policies_print_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    module = example("squashed_policy")
    module.main()
    tanh, interval = capsys.readouterr().out.splitlines()
    assert re.findall(r"[\d.]+%", interval) == ["100.00%", "0.00%", "0.00%"]
    own, boundary, lost = re.findall(r"[\d.]+%", tanh)
    assert own == "100.00%"
    assert boundary == lost
    said = float(re.findall(r"([\d.]+) %", module.__doc__)[0])
    assert float(lost.rstrip("%")) == pytest.approx(said, abs=0.2)


# Eight schools


def sum_by_hand(values: dict[str, Tensor]) -> np.ndarray:
    """The log joint density of the eight schools as scipy computes its terms."""
    mu, tau, theta, y = (values[name].double().numpy() for name in ("mu", "tau", "theta", "y"))
    norm = scipy.stats.norm
    return (
        norm(0, 5).logpdf(mu)
        + scipy.stats.halfcauchy(scale=5).logpdf(tau)
        + norm(mu[..., None], tau[..., None]).logpdf(theta).sum(-1)
        + norm(theta, example("eight_schools").ERRORS).logpdf(y).sum(-1)
    )


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_schools_score_as_the_hand_written_sum(shape: tuple[int, ...]) -> None:
    schools = example("eight_schools").Schools(dtype=torch.float64)
    draws = schools.sample(shape)
    log_prob = schools.log_prob(draws)
    assert log_prob.shape == shape
    np.testing.assert_allclose(log_prob.numpy(), sum_by_hand(draws), rtol=1e-10)


def moments_by_scipy() -> dict[str, tuple[float, float]]:
    """Adaptive quadrature over log tau, where mu and the effects are integrated out by hand."""
    module = example("eight_schools")
    y, s = np.array(module.EFFECTS), np.array(module.ERRORS)

    def terms(t: float) -> tuple[float, float, float]:
        """The density of log tau, and mean and variance of mu there."""
        variance = s**2 + math.exp(2 * t)
        precision = (1 / variance).sum() + 1 / 25
        mean = (y / variance).sum() / precision
        log_p = -0.5 * (np.log(variance).sum() + (y**2 / variance).sum() + math.log(precision))
        log_p += 0.5 * mean**2 * precision + scipy.stats.halfcauchy(scale=5).logpdf(math.exp(t))
        return math.exp(log_p + t + 20), mean, 1 / precision

    def integral(f: Any) -> float:
        return float(scipy.integrate.quad(lambda t: f(t, *terms(t)), -15, 10, limit=400)[0])

    mass = integral(lambda t, p, m, v: p)
    mu = integral(lambda t, p, m, v: p * m) / mass
    tau = integral(lambda t, p, m, v: p * math.exp(t)) / mass
    mu_2 = integral(lambda t, p, m, v: p * (m**2 + v)) / mass
    tau_2 = integral(lambda t, p, m, v: p * math.exp(2 * t)) / mass
    return {"mu": (mu, (mu_2 - mu**2) ** 0.5), "tau": (tau, (tau_2 - tau**2) ** 0.5)}


def effects_on_a_grid(effects: list[float], errors: list[float]) -> tuple[Any, Any]:
    """Means and deviations of effects by quadrature; given mu and tau they are Gaussian."""
    mu = np.linspace(-30.0, 40.0, 351)[:, None, None]
    # Midpoints of equal shares of the half Cauchy distribution.
    tau = 5 * np.tan(np.pi / 2 * (np.arange(1000) + 0.5) / 1000)[None, :, None]
    y, s = np.array(effects), np.array(errors)
    variance = s**2 + tau**2
    weight = scipy.stats.norm(mu, np.sqrt(variance)).pdf(y).prod(-1, keepdims=True)
    weight *= scipy.stats.norm(0, 5).pdf(mu)
    weight /= weight.sum()
    mean = (y * tau**2 + mu * s**2) / variance
    first = (weight * mean).sum((0, 1))
    return first, np.sqrt((weight * (mean**2 + (tau * s) ** 2 / variance)).sum((0, 1)) - first**2)


def test_schools_have_the_moments_of_quadrature_and_say_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = example("eight_schools")
    module.main()
    printed = capsys.readouterr().out
    assert "; good: k-hat" in printed
    table = {line.split()[0]: numbers_in(line) for line in printed.splitlines()[6:16]}
    exact = moments_by_scipy()
    assert exact["mu"] == pytest.approx((4.40, 3.32), abs=0.005)
    assert exact["tau"] == pytest.approx((3.60, 3.22), abs=0.005)
    mean, deviation = effects_on_a_grid(module.EFFECTS, module.ERRORS)
    exact |= {f"theta[{i}]": (mean[i], deviation[i]) for i in range(8)}
    assert table.keys() == exact.keys()
    for name, (expected, spread) in exact.items():
        assert table[name][0] == pytest.approx(expected, abs=0.1 * spread), name
        assert table[name][1] == pytest.approx(spread, rel=0.1), name


# Tied parts


def em_with_one_width(columns: list[np.ndarray], steps: int = 3000) -> tuple[Any, Any, float]:
    """Maximum likelihood of mixtures of two normals, with common weights for all columns.

    Returns:
        The weights, by column the two locations and the width, and the mean log likelihood.
    """
    weights = np.array([0.5, 0.5])
    states = [(np.quantile(x, [0.2, 0.8]), x.std() / 3) for x in columns]
    for _ in range(steps):
        shares, log_likelihood, new = [], 0.0, []
        for x, (loc, width) in zip(columns, states, strict=True):
            joint = weights * scipy.stats.norm.pdf(x[:, None], loc, width)
            log_likelihood += np.log(joint.sum(-1)).mean()
            share = joint / joint.sum(-1, keepdims=True)
            loc = (share * x[:, None]).sum(0) / share.sum(0)
            new.append((loc, np.sqrt((share * (x[:, None] - loc) ** 2).sum() / len(x))))
            shares.append(share.mean(0))
        weights, states = np.mean(shares, axis=0), new
    return weights, states, log_likelihood


def values_of(mixture: Any) -> tuple[list[float], list[float], float]:
    """Weights, locations and width of a fitted mixture."""
    plain = mixture()
    scale = plain.component_distribution.scale
    assert torch.equal(scale[0], scale[1])
    weights, loc = plain.mixture_distribution.probs, plain.component_distribution.loc
    return weights.tolist(), loc.tolist(), scale[0].item()


@pytest.mark.parametrize("tied", [True, False])
def test_tied_parts_are_where_expectation_maximisation_ends(tied: bool) -> None:
    module = example("tied_parts")
    data = module.old_faithful()
    joint = module.Eruptions(dtype=torch.float64)
    if not tied:
        joint.wait = module.ShortOrLong(**joint.wait.constrained_values())
    reached = -fit(NegativeLogLikelihood(joint), data, progress=False).losses[-1]
    columns = [data["duration"].numpy(), data["wait"].numpy()]
    ends = [em_with_one_width(columns)] if tied else [em_with_one_width([x]) for x in columns]
    assert reached == pytest.approx(sum(end[2] for end in ends), abs=1e-9)
    expected = [(end[0], *state) for end in ends for state in end[1]]
    for mixture, (weights, loc, width) in zip((joint.duration, joint.wait), expected, strict=True):
        found = values_of(mixture)
        assert found[0] == pytest.approx(weights, rel=1e-4)
        assert found[1] == pytest.approx(loc, rel=1e-4)
        assert found[2] == pytest.approx(width, rel=1e-4)


def test_tied_parts_are_one_module_in_every_copy() -> None:
    module = example("tied_parts")
    first, second = module.Eruptions(), module.Eruptions()
    part = first.duration.mixture_distribution
    assert part is not second.duration.mixture_distribution
    assert part is not module.either
    assert sum(p.numel() for p in first.parameters()) == 8
    several = module.Eruptions(batch_shape=3)
    assert several.wait.batch_shape == (3,)
    for joint in (first, second, several, copy.deepcopy(first)):
        assert joint.duration.mixture_distribution is joint.wait.mixture_distribution
        assert len(list(joint.parameters())) == 7
    part.logits = [2.0, -1.0]
    share = torch.tensor([2.0, -1.0]).softmax(-1)
    normal = dd.Normal(torch.tensor([55.0, 80.0]), 6.0)
    x = torch.tensor(60.0)
    expected = (share * normal.log_prob(x).exp()).sum().log()
    torch.testing.assert_close(first.wait.log_prob(x), expected, rtol=1e-4, atol=0.0)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second.wait.log_prob(x), expected, rtol=1e-4, atol=0.0)


def test_a_shared_part_has_the_gradients_of_both_parents() -> None:
    module = example("tied_parts")
    data = module.old_faithful()

    def gradient(*names: str) -> Tensor:
        joint = module.Eruptions(dtype=torch.float64)
        terms = [getattr(joint, name).log_prob(data[name]).mean() for name in names]
        torch.stack(terms).sum().backward()
        found: Tensor = joint.wait.mixture_distribution.raw_logits.grad
        return found

    whole = gradient("duration", "wait")
    torch.testing.assert_close(whole, gradient("duration") + gradient("wait"))
    assert not torch.allclose(whole, gradient("wait"))


def test_tied_parts_find_the_share_that_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    module = example("tied_parts")
    module.main()
    duration, wait, alone, other = re.findall(r"short ones ([\d.]+)", capsys.readouterr().out)
    assert duration == wait
    assert float(alone) < float(duration) < float(other)
    for share in (duration, alone, other):
        assert share in module.__doc__


# Many mixtures


@pytest.fixture(scope="module")
def many() -> tuple[Any, Any, Tensor]:
    module = example("many_mixtures")
    torch.manual_seed(0)
    truth = module.truths(1000)
    data = truth.sample((200,))
    q = module.started(data)
    assert fit(NegativeLogLikelihood(q), data, progress=False).converged
    return truth, q, data


def mixtures_of(q: Any) -> dict[str, Tensor]:
    """Weights, locations and scales, each of shape `(*batch, 2)`."""
    with torch.no_grad():
        plain = q()
        normal = plain.component_distribution
        return {
            "weight": plain.mixture_distribution.probs,
            "loc": normal.loc,
            "scale": normal.scale,
        }


def test_each_of_many_mixtures_finds_its_own_truth(many: Any) -> None:
    truth, q, data = many
    true, found = mixtures_of(truth), mixtures_of(q)
    assert found["loc"].shape == (1000, 2)
    count = len(data) * true["weight"]
    # Standard errors of well-separated components, that of a scale to first order.
    errors = {
        "loc": true["scale"] / count.sqrt(),
        "scale": true["scale"] / (2 * count).sqrt(),
        "weight": (true["weight"] * (1 - true["weight"]) / len(data)).sqrt(),
    }
    for name, error in errors.items():
        off = ((found[name] - true[name]) / error).abs()
        assert off.max() < 5.0, name
        assert 0.92 < (off < 2).double().mean() < 0.97, name
    # Another's truth is not within reach.
    shifted = true["loc"].roll(1, 0)
    assert ((found["loc"] - shifted) / errors["loc"]).abs().median() > 10


def test_many_mixtures_are_where_expectation_maximisation_ends(many: Any) -> None:
    _, q, data = many
    x = data.numpy()[..., None]
    weight = np.full((1000, 2), 0.5)
    loc = np.quantile(x[..., 0], [0.15, 0.85], axis=0).T
    scale = np.repeat((loc[:, 1:] - loc[:, :1]) / 4, 2, axis=1)
    for _ in range(100):
        joint = weight * np.exp(-0.5 * ((x - loc) / scale) ** 2) / scale
        share = joint / joint.sum(-1, keepdims=True)
        count = share.sum(0)
        weight, loc = count / len(x), (share * x).sum(0) / count
        scale = np.sqrt((share * (x - loc) ** 2).sum(0) / count)
    for name, expected in (("weight", weight), ("loc", loc), ("scale", scale)):
        found = mixtures_of(q)[name].numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


# Pyro


def test_a_pyro_guide_finds_the_posterior() -> None:
    """And Pyro's store holds its parameters, the same tensors, and nothing else."""
    code = """
import pyro, pyro_guide, torch
store = pyro.get_param_store()
q = pyro_guide.Rate()
assert isinstance(q(), pyro.distributions.Gamma)
q().rsample()
assert not list(store)
with pyro.poutine.trace() as trace:
    pyro.module("q", q)
    value = pyro.sample("x", q())
assert [n for n, s in trace.trace.nodes.items() if s["type"] == "param"] == list(store)
assert list(store) == ["q$$$raw_concentration", "q$$$raw_location"]
assert store["q$$$raw_location"] is q.raw_location
trace.trace.compute_log_prob()
assert torch.equal(trace.trace.nodes["x"]["log_prob"], q.log_prob(value))
store.clear()
pyro_guide.main()
"""
    lines = printed_by(code).splitlines()
    found = dict(zip(("rate", "share"), (lines[0], lines[2]), strict=True))
    written = dict(zip(("rate", "share"), (lines[1], lines[3]), strict=True))
    visitors, buyers = 12 + 7 + 15 + 9 + 11 + 14 + 8 + 10, 3 + 2 + 6 + 2 + 4 + 3 + 1 + 4
    exact = {
        "rate": scipy.stats.gamma(2 + visitors, scale=1 / 8.2),
        "share": scipy.stats.beta(1 + buyers, 1 + visitors - buyers),
    }
    for name, posterior in exact.items():
        expected = [posterior.mean(), posterior.std()]
        assert found[name].startswith(name)
        assert numbers_in(written[name]) == pytest.approx(expected, abs=1e-4)
        assert numbers_in(found[name]) == pytest.approx(expected, rel=0.02)
    (store,) = lines[4:]
    names = ("rate$$$raw_concentration", "rate$$$raw_location")
    assert store == f"Pyro's store: {', '.join(names)}, share$$$raw_total, share$$$raw_location"


# zuko


def moons(seed: int) -> np.ndarray:
    points, _ = make_moons(1000, noise=0.1, random_state=seed)
    return points.astype(np.float32)


def log_density_of_moons(points: np.ndarray) -> np.ndarray:
    """The log density that the moons are drawn from: normals along two half circles."""
    angles = np.linspace(0.0, np.pi, 500)
    upper = np.stack([np.cos(angles), np.sin(angles)], -1)
    lower = np.stack([1 - np.cos(angles), 0.5 - np.sin(angles)], -1)
    centres = np.concatenate([upper, lower])
    squares = ((points[:, None, :].astype(float) - centres) ** 2).sum(-1)
    return np.log(np.exp(-squares / 0.02).mean(-1) / (2 * np.pi * 0.01))


def test_a_zuko_flow_is_trained_as_without_a_family() -> None:
    """And it comes near the true density of new points, where a normal is far away."""
    code = """
import torch, zuko, zuko_flow
assert not torch.distributions.Distribution._validate_args
zuko_flow.main()
family = zuko_flow.Flow()
assert family.flow is not zuko_flow.Flow().flow
assert type(family()) is zuko.distributions.NormalizingFlow
torch.manual_seed(0)
flow = zuko.flows.NSF(2, transforms=2, hidden_features=(32, 32))
seen, new = zuko_flow.moons(1000, seed=0), zuko_flow.moons(1000, seed=1)
assert torch.equal(flow().log_prob(new), family.log_prob(new))
optimizer = torch.optim.Adam(flow.parameters(), lr=0.02)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
for _ in range(200):
    optimizer.zero_grad()
    loss = -flow().log_prob(seen).mean()
    loss.backward()
    optimizer.step()
    schedule.step()
print(f"{flow().log_prob(new).mean():.4f} {flow().log_prob(seen).mean():.4f}")
"""
    normal, flow, by_hand = (numbers_in(line) for line in printed_by(code).splitlines())
    assert flow == by_hand
    seen, new = moons(0), moons(1)
    best = scipy.stats.multivariate_normal(seen.mean(0), np.cov(seen.T, bias=True))
    assert normal == pytest.approx([best.logpdf(x).mean() for x in (new, seen)], abs=2e-3)
    truth = log_density_of_moons(new).mean()
    assert normal[0] < truth - 0.8
    assert truth - 0.15 < flow[0] < truth

"""What examples declare, against ports of the models that do not know this library."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributions as dd
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from declarative_dist import median
from declarative_dist.objectives import NegativeELBO, NegativeLogLikelihood
from tests.policy_stress import ByHand, declared, stress
from tests.running_examples import example

pytestmark = pytest.mark.usefixtures("one_thread")


def perturbed(module: Any) -> Any:
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def log_zero_inflated(x: Tensor, mu: Tensor, theta: Tensor, pi: Tensor) -> Tensor:
    """The mass of a zero-inflated negative binomial of mean mu, 1 / theta its dispersion."""
    log_share = theta.log() - (theta + mu).log()
    zero = torch.logaddexp((1 - pi).log() + theta * log_share, pi.log())
    binomial = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    others = (1 - pi).log() + theta * log_share + x * (mu.log() - (theta + mu).log()) + binomial
    return torch.where(x == 0, zero, others)


def test_the_bound_of_cells_is_that_of_a_port() -> None:
    module = example("cell_counts")
    network = nn.Sequential(nn.Linear(module.GENES, 32), nn.ReLU())
    encoder = perturbed(module.Encoder(in_features=32, network=network)).double()
    model = perturbed(module.Model()).double()
    decoder, trunk = model.decoder, model.decoder.network
    counts = dd.Poisson(torch.rand(6, module.GENES, dtype=torch.float64) * 4).sample()
    size, lab = counts.sum(-1), torch.tensor([0, 1, 0, 1, 1, 0])

    def share(features: Tensor, layer: nn.Linear) -> list[Tensor]:
        return list((features @ layer.weight.T + layer.bias).chunk(2, -1))

    torch.manual_seed(0)
    got = NegativeELBO(model, encoder, num_samples=3)(counts, size=size, lab=lab)
    torch.manual_seed(0)
    features = network((1e3 * counts / size[:, None]).log1p())
    loc, raw = share(features, encoder.projection)
    guide = dd.Normal(loc, F.softplus(raw))
    z = guide.rsample(torch.Size((3,)))
    raw, missed = share(trunk(z), decoder.projection)
    mu = F.softmax(raw + decoder.shift[lab], -1) * size[:, None]
    log_p = log_zero_inflated(counts, mu, decoder.dispersion, missed.sigmoid()).sum(-1)
    prior = dd.Normal(0.0, 1.0).log_prob(z).sum(-1)
    expected = (guide.log_prob(z).sum(-1) - prior - log_p).mean()
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=0.0)


def negative_binomial(y: Tensor, level: Tensor, concentration: Tensor, size: Tensor) -> Tensor:
    mean, alpha = F.softplus(level) * size, 1 / F.softplus(concentration)
    return log_zero_inflated(y, mean, 1 / alpha, torch.zeros_like(mean))


def student(y: Tensor, df: Tensor, level: Tensor, spread: Tensor, size: Tensor) -> Tensor:
    df, scale = 2 + F.softplus(df), F.softplus(spread) * size
    u = (y - level * size) / scale
    constant = torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2) - 0.5 * (df * torch.pi).log()
    return constant - scale.log() - (df + 1) / 2 * torch.log1p(u**2 / df)


@pytest.mark.parametrize(
    ("kind", "score"), [("Counted", negative_binomial), ("Measured", student)]
)
def test_the_losses_and_draws_of_shops_are_those_of_a_port(kind: str, score: Any) -> None:
    module = example("forecast")
    lstm = module.Features(8, 5, batch_first=True)
    head = perturbed(getattr(module, kind)(in_features=5, network=lstm)).double()
    sales = dd.Poisson(torch.full((4, 9), 6.0, dtype=torch.float64)).sample()
    size, mask = sales.mean(1, keepdim=True), torch.ones(4, 8, dtype=torch.float64)
    mask[1, 5:] = mask[3, 2:] = 0.0
    days = F.one_hot(torch.arange(9) % 7, 7).expand(4, 9, 7)
    x = torch.cat([(sales / size)[..., None], days], -1)
    torch.testing.assert_close(module.inputs_of(sales, size), x)

    y = sales[:, 1:].masked_fill(mask == 0, torch.nan)
    got = NegativeLogLikelihood(head)(x[:, :-1], y, size=size, weights=mask)
    features, _ = nn.LSTM.forward(lstm, x[:, :-1])
    raws = head.projection(features).unbind(-1)
    losses = -score(sales[:, 1:], *raws, size)
    torch.testing.assert_close(got, (losses * mask).sum() / mask.sum(), rtol=1e-9, atol=0.0)

    torch.manual_seed(0)
    draws = module.draw(head, lstm, sales, size)
    torch.manual_seed(0)
    path = sales
    for _ in range(module.AHEAD):  # the whole path again for every day
        week = F.one_hot(torch.arange(path.shape[1]) % 7, 7).expand(4, -1, 7)
        features, _ = nn.LSTM.forward(lstm, torch.cat([(path / size)[..., None], week], -1))
        path = torch.cat([path, head.from_features(features[:, -1:], size=size).sample()], 1)
    torch.testing.assert_close(draws, path[:, 9:])


def test_marks_and_times_are_what_plain_torch_makes_of_them() -> None:
    module = example("marks_and_times")
    torch.manual_seed(0)
    gap, kind, best = module.sequences(50, 20)
    network = module.History()
    model = module.Next(in_features=16, kinds=2, network=network)
    seen = torch.stack([gap.log(), 1.0 - kind, kind.float()], -1)[:, :-1]
    features = network.lstm(seen)[0]
    loc, log_scale = model.gap.projection(features).unbind(-1)
    logits, slope = model.projection(features).split([2, 2], -1)
    new_gap, new_kind = gap[:, 1:], kind[:, 1:]
    kinds = log_softmax(logits + slope * new_gap.log()[..., None], -1)
    expected = dd.Normal(loc, log_scale.exp()).log_prob(new_gap.log()) - new_gap.log()
    expected = expected + kinds.gather(-1, new_kind[..., None])[..., 0]
    context = module.encode(gap, kind)[:, :-1]
    loss = NegativeLogLikelihood(model)(context, gap=new_gap, kind=new_kind)
    torch.testing.assert_close(loss, -expected.mean())
    assert loss > best
    assert module.simulate(model, 3, 5)["kind"].shape == (3, 5)


def test_one_image_scores_as_in_double_precision_by_hand() -> None:
    module = example("digits_vae")
    model = module.Autoencoder().double()
    image = module.digits()[0][:3].double()
    q = model.encoder(image)
    torch.manual_seed(5)
    found = model(image)
    torch.manual_seed(5)
    z = q.mean + q.stddev * torch.randn(3, module.LATENTS, dtype=torch.float64)
    black = model.decoder.network(z).sigmoid()
    likelihood = (image * black.log() + (1 - image) * (1 - black).log()).sum((1, 2, 3))
    log_ratio = dd.kl_divergence(dd.Normal(q.mean, q.stddev), dd.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(found, (log_ratio - likelihood).mean(), rtol=1e-10, atol=0.0)


def test_advantages_are_sums_of_discounted_errors() -> None:
    module = example("policy_gradient")
    rewards, values = torch.randn(6, 2), torch.randn(7, 2)
    errors = rewards + module.DISCOUNT * values[1:] - values[:-1]
    decay = (module.DISCOUNT * module.TRACE) ** torch.arange(6.0)
    expected = torch.stack([(decay[: 6 - t, None] * errors[t:]).sum(0) for t in range(6)])
    torch.testing.assert_close(module.advantages_of(rewards, values), expected)


@pytest.mark.parametrize("passes", [1, 10])
def test_no_learning_rate_breaks_the_scale_as_it_breaks_a_bare_exponential(passes: int) -> None:
    count, low, high = stress(declared(), 10.0, passes, steps=150)
    assert count == 150
    assert 1e-18 <= low <= high <= 1e18
    count, _, _ = stress(ByHand(), 10.0, passes, steps=150)
    assert count < 150


def test_an_actor_stays_in_its_bounds_copied_and_in_double_precision() -> None:
    module = example("sac_actor")
    actor = module.make_actor(4, module.LOW, module.HIGH)
    states = torch.randn(1000, 4)
    for each in (actor, pickle.loads(pickle.dumps(actor)), copy.deepcopy(actor).double()):
        policy = each(states.to(each.base_distribution.projection.weight.dtype))
        actions, scores = policy.rsample(), policy.log_prob(policy.sample())
        assert scores.shape == (1000,)
        assert ((actions >= module.LOW) & (actions <= module.HIGH)).all()
        torch.testing.assert_close(
            median(policy).float(), median(actor(states)), rtol=1e-4, atol=1e-4
        )
    assert {"transforms.1.loc", "transforms.1.scale"} <= actor.state_dict().keys()


def exact_log_prob(z: Tensor, loc: float, scale: float) -> Tensor:
    """The log density of tanh(z) for normal z, in float64, by the change of variables."""
    z = z.double()
    normal = -0.5 * ((z - loc) / scale) ** 2 - np.log(scale * np.sqrt(2 * np.pi))
    return (normal - 2 * (np.log(2.0) - z - F.softplus(-2 * z))).sum(-1)


@pytest.mark.parametrize("kind", ["TanhPolicy", "SquashedPolicy"])
@pytest.mark.parametrize("scale", [0.5, 30.0])
def test_squashed_draws_have_their_exact_log_density(kind: str, scale: float) -> None:
    module = example("squashed_policy")
    q = module.policy(getattr(module, kind), scale)
    torch.manual_seed(1)
    actions, log_prob = q.rsample_and_log_prob((5_000,))
    torch.manual_seed(1)
    z = dd.Normal(0.0, scale).sample((5_000, 6))
    assert log_prob.isfinite().all()
    torch.testing.assert_close(actions.double(), z.double().tanh(), rtol=0.0, atol=3e-7)
    expected = exact_log_prob(z, 0.0, scale)
    torch.testing.assert_close(log_prob.double(), expected, rtol=2e-6, atol=1e-4)
    assert bool((actions.double().abs() > 1 - 2e-7).any()) == (scale > 1.0)
    log_prob.sum().backward()
    assert all(p.grad.isfinite().all() for p in q.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_no_stored_action_is_lost_with_an_interval(dtype: torch.dtype) -> None:
    """And every later policy scores it, with gradients."""
    module = example("squashed_policy")
    stored = module.policy(module.SquashedPolicy, 3.0, dtype=dtype).sample((5_000,))
    assert stored.dtype == dtype
    assert (stored.abs() < 1).all()
    for scale, loc in ((0.3, -0.5), (5.0, 2.0)):
        later = module.policy(module.SquashedPolicy, scale, loc, dtype=dtype)
        scores = later.log_prob(stored)
        assert scores.isfinite().all()
        scores.mean().backward()
        assert all(p.grad.isfinite().all() for p in later.parameters())


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

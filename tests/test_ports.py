"""Three programs that others wrote in plain torch, declared: the same losses and gradients."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributions as dd
import torch.nn.functional as F
from torch import Tensor, nn

from declarative_dist import Conditional, Exp, Head, Param, derived
from declarative_dist.objectives import NegativeLogLikelihood


def assert_same(one: Tensor, other: Tensor, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Losses, and what goes back from each to the same weights, agree to rounding."""
    torch.testing.assert_close(one, other)
    left, right = zip(*pairs, strict=True)
    for got, want in zip(
        torch.autograd.grad(one, left), torch.autograd.grad(other, right), strict=True
    ):
        torch.testing.assert_close(got, want.reshape(got.shape), rtol=1e-4, atol=1e-4)


class Latent(Conditional):
    base = dd.Normal
    event_dim = 1
    loc = Head(shape=("latents",))
    scale = Head(Exp(), shape=("latents",))


class Pixels(Conditional):
    base = dd.Bernoulli
    event_dim = 1
    logits = Head(shape=("pixels",))


def test_the_autoencoder_of_the_examples_of_pytorch() -> None:
    """A sum of cross-entropy and divergence, with log variances and noise by hand."""
    torch.manual_seed(0)
    encoder = Latent(40, latents=5, network=nn.Sequential(nn.Linear(78, 40), nn.ReLU()))
    decoder = Pixels(40, pixels=78, network=nn.Sequential(nn.Linear(5, 40), nn.ReLU()))
    x, noise = torch.rand(16, 78).round(), torch.randn(16, 5)

    q = encoder(x)
    latents = q.loc + q.scale * noise
    prior = dd.Independent(dd.Normal(torch.zeros(5), 1.0), 1)
    declared = dd.kl_divergence(q, prior).sum() - decoder(latents).log_prob(x).sum()

    hidden = F.relu(encoder.network[0](x))
    weight, bias = encoder.projection.weight, encoder.projection.bias
    mean = F.linear(hidden, weight[:5], bias[:5])
    log_variance = 2 * F.linear(hidden, weight[5:], bias[5:])
    z = mean + noise * (0.5 * log_variance).exp()
    seen = torch.sigmoid(decoder.projection(F.relu(decoder.network[0](z))))
    by_hand = (
        F.binary_cross_entropy(seen, x, reduction="sum")
        - 0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
    )
    weights = [*encoder.parameters(), *decoder.parameters()]
    assert_same(declared, by_hand, zip(weights, weights, strict=True))


class Mixture(Conditional):
    logits = Head(shape=("parts",))
    loc = Head(shape=("parts",), init=torch.randn)
    scale = Head(Exp(), shape=("parts",))

    def base(self, logits: Tensor, loc: Tensor, scale: Tensor) -> dd.Distribution:
        return dd.MixtureSameFamily(dd.Categorical(logits=logits), dd.Normal(loc, scale))


def test_a_mixture_density_network() -> None:
    """Weights by softmax, scales by exp, and the log of a sum (Bishop, 1994)."""
    torch.manual_seed(0)
    model = Mixture(12, parts=4, network=nn.Sequential(nn.Linear(1, 12), nn.Tanh()))
    x, y = torch.randn(50, 1), torch.randn(50)
    logits, loc, log_scale = model.projection(model.network(x)).chunk(3, -1)
    z = (y[:, None] - loc) / log_scale.exp()
    parts = -0.5 * z.square() - log_scale - 0.5 * torch.log(torch.tensor(2 * torch.pi))
    by_hand = -torch.logsumexp(logits.log_softmax(-1) + parts, -1).mean()
    weights = [*model.parameters()]
    declared = NegativeLogLikelihood(model)(x, y)
    assert_same(declared, by_hand, zip(weights, weights, strict=True))


class Lifetime(Conditional):
    """Accelerated failure times: the log of a time is linear, with noise of a free width."""

    base = dd.Weibull
    log_time = Head()
    width = Param(1.0, Exp())

    @derived
    def scale(self, log_time: Tensor) -> Tensor:
        return log_time.exp()

    @derived
    def concentration(self, width: Tensor, log_time: Tensor) -> Tensor:
        return (1 / width).expand(log_time.shape)


def test_accelerated_failure_times() -> None:
    """Log times around a linear predictor with Gumbel noise; those still alive by survival."""
    torch.manual_seed(0)
    model = Lifetime(3, width=0.7)
    x, times, died = torch.randn(60, 3), torch.rand(60) * 3 + 0.1, torch.rand(60) < 0.6
    d = model(x)
    declared = -torch.where(died, d.log_prob(times), torch.log1p(-d.cdf(times))).mean()

    weight = model.projection.weight.detach().clone().requires_grad_()
    bias = model.projection.bias.detach().clone().requires_grad_()
    log_width = model.raw_width.detach().clone().requires_grad_()
    w = (times.log() - x @ weight[0] - bias) / log_width.exp()
    density = w - w.exp() - log_width - times.log()
    by_hand = -torch.where(died, density, -w.exp()).mean()
    pairs = [
        (model.projection.weight, weight), (model.projection.bias, bias),
        (model.raw_width, log_width),
    ]  # fmt: skip
    assert_same(declared, by_hand, pairs)

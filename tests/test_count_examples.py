"""The examples of counts, against ports of the models that do not know this library."""

from __future__ import annotations

import ast
from typing import Any

import pytest
import torch
import torch.distributions as dd
import torch.nn.functional as F
from torch import Tensor, nn

from declarative_dist.objectives import NegativeELBO, NegativeLogLikelihood
from tests.running_examples import EXAMPLES, example, numbers_in

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["cell_counts", "forecast"])
def test_docstring_says_how_to_run_it(name: str) -> None:
    text = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text()))
    assert text is not None
    assert text.endswith(f"\n\n    python examples/{name}.py")
    assert "`--smoke`" in text


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


@pytest.mark.parametrize(("name", "sizes"), [("cell_counts", (30,)), ("forecast", (5, 4))])
def test_a_run_ends_with_shares(
    name: str, sizes: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    shares = []
    for _ in range(2):
        example(name).main(*sizes)
        shares.append([numbers_in(line)[0] for line in capsys.readouterr().out.splitlines()])
    assert shares[0] == shares[1]
    assert all(20.0 < share < 100.0 for share in shares[0])

"""Forecast the sales of shops, large and small, day by day with one recurrent network.

The network is like DeepAR's (Salinas et al., 2020, https://arxiv.org/abs/1704.04110). How
large a shop is comes with it, as a `Given`, so that one network serves small and large ones.
`weights=` leaves out the padding of short series, and `from_features` draws day by day.

Of 14 days behind the simulated sales of 60 shops 82.4 % are inside of the central 80 % of draws by
a negative binomial, 76.5 % by a Student's t. With `--smoke` there are 10 shops and 30 steps.

    python examples/forecast.py
"""

from __future__ import annotations

import sys

import torch
import torch.distributions as dd
from torch import Tensor, nn

from declarative_dist import Conditional, Given, GreaterThan, Head, Positive, fit
from declarative_dist.objectives import NegativeLogLikelihood

DAYS, AHEAD, WIDTH = 70, 14, 24


class Counted(Conditional):
    """Sales as counts."""

    level = Head(Positive())
    concentration = Head(Positive())
    size = Given(Positive())

    def base(self, level: Tensor, concentration: Tensor, size: Tensor) -> dd.Distribution:
        """A negative binomial of this mean."""
        return dd.NegativeBinomial(concentration, logits=(level * size / concentration).log())


class Measured(Conditional):
    """Sales as real numbers, with outliers."""

    df = Head(GreaterThan(2.0))
    level = Head(init=1.0)
    spread = Head(Positive(), init=0.5)
    size = Given(Positive())

    def base(self, df: Tensor, level: Tensor, spread: Tensor, size: Tensor) -> dd.Distribution:
        """A Student's t around this level."""
        return dd.StudentT(df, level * size, spread * size)


class Features(nn.LSTM):
    """A recurrent network without its state."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """The features of all days."""
        return super().forward(x)[0]


def inputs_of(sales: Tensor, size: Tensor, first: int = 0) -> Tensor:
    """What the network sees of sales `(shops, days)` from a day on."""
    week = nn.functional.one_hot(torch.arange(first, first + sales.shape[1]) % 7, 7)
    return torch.cat([(sales / size)[..., None], week.expand(len(sales), -1, 7)], -1)


def draw(head: Conditional, lstm: nn.LSTM, seen: Tensor, size: Tensor) -> Tensor:
    """Draws of the days behind those that were seen `(draws, days)`, one after the other."""
    drawn, state = [seen], None
    for day in (0, *range(seen.shape[1], seen.shape[1] + AHEAD - 1)):
        features, state = nn.LSTM.forward(lstm, inputs_of(drawn[-1], size, day), state)
        drawn.append(head.from_features(features[:, -1:], size=size).sample())
    return torch.cat(drawn[1:], 1)


def main(steps: int = 300, shops: int = 60) -> None:
    """Train both heads on what was seen, and compare their draws with the days behind."""
    torch.manual_seed(0)
    days, lengths = torch.arange(DAYS + AHEAD), torch.randint(40, DAYS + 1, (shops,))
    week = 1 + 0.5 * torch.sin(2 * torch.pi * (days + torch.randint(7, (shops, 1))) / 7)
    mean = 2 * week * 1000 ** torch.rand(shops, 1)
    sales = dd.NegativeBinomial(8.0, logits=(mean / 8).log()).sample()
    mask = (days < lengths[:, None]).float()[:, :DAYS]
    known = sales[:, :DAYS] * mask
    size = known.sum(1, keepdim=True) / lengths[:, None] + 0.1
    data = (inputs_of(known, size)[:, :-1], known[:, 1:], {"size": size, "weights": mask[:, 1:]})
    for kind in (Counted, Measured):
        head = kind(in_features=WIDTH, network=(lstm := Features(8, WIDTH, batch_first=True)))
        fit(NegativeLogLikelihood(head), data, steps=steps, lr=0.01, progress=False)
        found = torch.zeros(2)
        for i, seen in enumerate(lengths.tolist()):
            draws = draw(head, lstm, sales[i, :seen].expand(200, -1), size[i].expand(200, 1))
            low, middle, high = draws.quantile(torch.tensor([0.1, 0.5, 0.9]), 0)
            future = sales[i, seen : seen + AHEAD]
            inside, off = (low <= future) & (future <= high), (middle - future).abs() / size[i]
            found += torch.stack([inside.float().mean(), off.mean()]) / shops
        print(f"{kind.__name__}: {100 * found[0]:.1f} % inside, {found[1]:.3f} off")


if __name__ == "__main__":
    main(*((30, 10) if "--smoke" in sys.argv else ()))

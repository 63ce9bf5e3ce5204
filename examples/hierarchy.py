"""A hierarchy of 100,000 groups, in mini-batches: global latents are free, local ones predicted.

Each group has an effect theta, which a measurement y with a known error shows; effects scatter by
tau around mu. A guide with numbers of its own for every group would have 200,000. Here mu and tau
have free posteriors, and a small network says how far to distrust a measurement of this error.
Both are one `Joint` with a context; `total_size` weighs what a batch adds, so that every step has
an unbiased gradient of the bound of all groups.

In 40 s, mu is 0.9949 with a standard deviation of 0.0028; a grid with all effects integrated out
says 0.9953 and 0.0025. tau is 0.4984 with 0.0026, on the grid 0.4981 and 0.0025. `--smoke` has
1,000 groups in batches of 100: 0.9977 and 0.0267, on the grid 0.9980 and 0.0243.

    python examples/hierarchy.py
"""

import sys

import torch
import torch.distributions as dd
from torch import Tensor, nn

from declarative_dist import Exp, Given, Head, Joint, Positive, fit, learnable, site
from declarative_dist.objectives import NegativeELBO


class Groups(Joint):
    """The model. What takes the error, which comes with each group, is local."""

    mu = dd.Normal(torch.tensor(0.0), 10.0)
    tau = dd.LogNormal(torch.tensor(0.0), 1.0)
    error = Given(Positive())

    @site
    def theta(self, mu: Tensor, tau: Tensor, error: Tensor) -> dd.Distribution:
        """The effect of a group."""
        return dd.Normal(mu, tau * torch.ones_like(error))

    @site
    def y(self, theta: Tensor, error: Tensor) -> dd.Distribution:
        """Its measurement."""
        return dd.Normal(theta, error)


class Guide(Joint):
    """Posteriors of mu and tau, free, and of theta, whose distrust of y is predicted."""

    mu = learnable(dd.Normal(torch.tensor(0.0), 0.1))
    tau = learnable(dd.LogNormal(torch.tensor(0.0), 0.1))
    y = Given()
    noise = Head(Exp())

    @site
    def theta(self, mu: Tensor, tau: Tensor, noise: Tensor, y: Tensor) -> dd.Distribution:
        """An effect on the way from mu to its measurement."""
        share = tau.square() / (tau.square() + noise.square())
        return dd.Normal(mu + share * (y - mu), noise * share.sqrt())


def measure(count: int) -> tuple[Tensor, Tensor]:
    """Measurements of groups, and their errors."""
    error = torch.rand(count) + 0.2
    return 1.0 + 0.5 * torch.randn(count) + error * torch.randn(count), error


def integrate(y: Tensor, error: Tensor, points: int = 81) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of mu and tau on a grid, with all effects integrated out."""
    width = 4 * (y.std() / len(y) ** 0.5).item()
    mu = (y.mean().item() + torch.linspace(-width, width, points).double())[:, None]
    tau = (0.5 + torch.linspace(-3 * width, 3 * width, points).double()).clamp(min=1e-3)
    total = dd.Normal(0.0, 10.0).log_prob(mu) + dd.LogNormal(0.0, 1.0).log_prob(tau)
    for part, of in zip(y.double().split(500), error.double().split(500), strict=True):
        spread = (tau[..., None].square() + of.square()).sqrt()
        total = total + dd.Normal(mu[..., None], spread).log_prob(part).sum(-1)
    weights = total.flatten().softmax(0).reshape(total.shape)
    means = {"mu": (weights * mu).sum(), "tau": (weights * tau).sum()}
    squares = {"mu": (weights * mu.square()).sum(), "tau": (weights * tau.square()).sum()}
    return {n: (m.item(), (squares[n] - m.square()).sqrt().item()) for n, m in means.items()}


def main(count: int = 100_000, batch_size: int = 1000, steps: int = 2400) -> None:
    """Fit the guide in mini-batches, and compare its globals with the grid."""
    torch.manual_seed(0)
    y, error = measure(count)
    network = nn.Sequential(nn.Linear(1, 16), nn.Tanh())
    guide = Guide(in_features=16, network=network)
    objective = NegativeELBO(Groups(), guide, total_size=count, num_samples=4, estimator="stl")
    batches = (error.log()[:, None], {"y": y, "error": error})
    for lr in (0.1, 0.02, 0.002, 0.0002):
        fit(objective, batches, batch_size=batch_size, steps=steps // 4, lr=lr, progress=False)
    exact = integrate(y, error)
    for name, found in (("mu", guide.mu), ("tau", guide.tau)):
        print(f"{name}: {found.mean.item():.4f}, standard deviation {found.stddev.item():.4f};")
        print("    on the grid {:.4f}, {:.4f}".format(*exact[name]))


if __name__ == "__main__":
    main(*(1000, 100, 320) if "--smoke" in sys.argv else ())

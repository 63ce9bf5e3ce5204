"""Fit declared distributions with a loop that refers to the distribution only.

Three parts: one loop for two families; what happens with the plain torch object; and maximum
likelihood on real data, beside scipy's own fit.

    python examples/quickstart.py
"""

from __future__ import annotations

from collections.abc import Callable

import scipy.stats
import torch
import torch.distributions as dd
from sklearn.datasets import load_diabetes
from torch import Tensor

from declarative_dist import Exp, Param, Positive, Variational


class NormalFamily(Variational):
    """A normal whose scale is learned through its logarithm."""

    base = dd.Normal
    loc = Param(0.0)
    scale = Param(1.0, Exp())


class GammaFamily(Variational):
    """A gamma whose rate is learned through its logarithm."""

    base = dd.Gamma
    concentration = Param(1.0, Positive())
    rate = Param(1.0, Exp())


def fit(q: Variational, target: dd.Distribution, steps: int = 1500) -> None:
    """Minimise the Kullback-Leibler divergence from q to the target by sampling.

    The loss is the mean over samples, not their sum. A sum grows with the number of samples, and
    so do its gradients: with `.sum()` over 1,000 samples and a learning rate of 0.01, the first
    two steps of gradient descent take the normal's log scale from 0 to 10 to -9e7, of which a bare
    `exp` is zero.
    """
    optimizer = torch.optim.Adam(q.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        x = q.rsample((256,))
        loss = (q.log_prob(x) - target.log_prob(x)).mean()
        loss.backward()
        optimizer.step()
        schedule.step()


def second_backward_of_plain_torch() -> str:
    """What torch says when a distribution is built once, outside the loop."""
    log_scale = torch.zeros((), requires_grad=True)
    frozen = dd.Normal(0.0, log_scale.exp())
    try:
        for _ in range(2):
            frozen.log_prob(torch.tensor(1.0)).backward()
    except RuntimeError as error:
        return str(error).split(".")[0]
    return "no error"


def maximum_likelihood(q: Variational, data: Tensor) -> None:
    """Fit q to data with L-BFGS."""
    optimizer = torch.optim.LBFGS(
        q.parameters(),
        max_iter=200,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-12,
        tolerance_change=1e-15,
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -q.log_prob(data).mean()
        loss.backward()
        return loss

    step: Callable[..., object] = optimizer.step
    step(closure)


def main() -> None:
    """Run the three parts and print what they find."""
    torch.manual_seed(0)

    print("One loop, two families:")
    for q, target in (
        (NormalFamily(), dd.Normal(5.0, 5.0)),
        (GammaFamily(), dd.Gamma(5.0, 5.0)),
    ):
        fit(q, target)
        values = {name: round(v.item(), 2) for name, v in q.constrained_values().items()}
        print(f"  {target} -> {values}")

    print("The same loop around a plain torch object:")
    print(f"  RuntimeError: {second_backward_of_plain_torch()}")

    print("Maximum likelihood on 442 diabetes progression scores:")
    scores = load_diabetes().target
    shape, _, scale = scipy.stats.gamma.fit(scores, floc=0)
    family = GammaFamily(dtype=torch.float64)
    maximum_likelihood(family, torch.as_tensor(scores))
    print(
        f"  declared: concentration {family.concentration.item():.6g}, "
        f"rate {family.rate.item():.6g}"
    )
    print(f"  scipy:    concentration {shape:.6g}, rate {1 / scale:.6g}")


if __name__ == "__main__":
    main()

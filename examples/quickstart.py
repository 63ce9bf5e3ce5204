"""Fit declared distributions with a loop that refers to the distribution only, and to data.

One loop brings two families to their targets, to two digits: a normal to a mean of 5 and a scale
of 5, a gamma to a concentration and a rate of 5. Around a plain torch object that was built once,
the same loop fails in its second step. Then `fit` finds the maximum likelihood of 442 scores of
how diabetes progressed, a concentration of 3.644 and a rate of 0.02395, as scipy does.

    python examples/quickstart.py
"""

from __future__ import annotations

import scipy.stats
import torch
import torch.distributions as dd
from sklearn.datasets import load_diabetes

from declarative_dist import Exp, Param, Positive, Variational, fit
from declarative_dist.objectives import NegativeLogLikelihood


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


def approach(q: Variational, target: dd.Distribution, steps: int = 600) -> None:
    """Minimise the Kullback-Leibler divergence from q to the target, by draws of q."""
    optimizer = torch.optim.Adam(q.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        x = q.rsample((100,))
        loss = (q.detach().log_prob(x) - target.log_prob(x)).mean()
        loss.backward()
        optimizer.step()


def approach_with_plain_torch() -> str:
    """What torch says when a distribution is built once, outside the loop."""
    log_scale = torch.zeros((), requires_grad=True)
    frozen = dd.Normal(0.0, log_scale.exp())
    try:
        for _ in range(2):
            frozen.log_prob(torch.tensor(1.0)).backward()
    except RuntimeError as error:
        return str(error).split(".")[0]
    return "no error"


def main() -> None:
    """Run the three parts and print what they find."""
    torch.manual_seed(0)

    print("One loop, two families:")
    for q, target in ((NormalFamily(), dd.Normal(5.0, 5.0)), (GammaFamily(), dd.Gamma(5.0, 5.0))):
        approach(q, target)
        values = {name: round(v.item(), 2) for name, v in q.constrained_values().items()}
        print(f"  {target} -> {values}")

    print("The same loop around a plain torch object:")
    print(f"  RuntimeError: {approach_with_plain_torch()}")

    print("Maximum likelihood on 442 diabetes progression scores:")
    scores = load_diabetes().target
    q = GammaFamily(dtype=torch.float64)
    history = fit(NegativeLogLikelihood(q), torch.as_tensor(scores), progress=False)
    print(f"  {history.verdict}")
    print(f"  declared: concentration {q.concentration.item():.6g}, rate {q.rate.item():.6g}")
    shape, _, scale = scipy.stats.gamma.fit(scores, floc=0)
    print(f"  scipy:    concentration {shape:.6g}, rate {1 / scale:.6g}")


if __name__ == "__main__":
    main()

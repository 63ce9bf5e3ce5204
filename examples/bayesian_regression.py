"""A Bayesian regression with unknown noise: the mode and the posterior from one declaration.

The progression of diabetes in 442 patients is regressed on 10 features, all standardised. Priors
stand beside the parameters. `NegativeLogPosterior` is the loss whose minimum is the mode, and the
target of a guide, whose weighted draws are the posterior.

The mode of the noise is 0.694, its mean 0.704 with a standard deviation of 0.024. A body mass
index one standard deviation higher goes with 0.322 (0.041) more of progression. The verdict is
"good", with means known to 0.012 standard deviations.

    python examples/bayesian_regression.py
"""

from __future__ import annotations

import torch
import torch.distributions as dd
from sklearn.datasets import load_diabetes
from torch import Tensor

from declarative_dist import Declarative, Exp, FullRankNormal, Param, WeightedDraws, fit
from declarative_dist.objectives import NegativeELBO, NegativeLogPosterior


class Regression(Declarative):
    """What is learned, with what you believe of it beforehand."""

    weights = Param(0.0, shape=("features",), prior=dd.Normal(0.0, 0.5))
    noise = Param(1.0, Exp(), prior=dd.HalfNormal(1.0))


def log_likelihood(regression: Regression, x: Tensor, y: Tensor) -> Tensor:
    """One number per patient."""
    scores: Tensor = dd.Normal(x @ regression.weights, regression.noise).log_prob(y)
    return scores


def patients() -> tuple[Tensor, Tensor, list[str]]:
    """Features `(442, 10)` and progressions `(442,)`, standardised, and the features' names."""
    data = load_diabetes()
    x, y = (torch.from_numpy((a - a.mean(0)) / a.std(0)) for a in (data.data, data.target))
    return x, y, list(data.feature_names)


def regress(x: Tensor, y: Tensor) -> tuple[Regression, WeightedDraws]:
    """The most probable values, and weighted draws of the posterior."""
    regression = Regression(features=x.shape[1], dtype=x.dtype)
    posterior = NegativeLogPosterior(regression, total_size=len(y), log_likelihood=log_likelihood)
    fit(posterior, (x, y), progress=False)
    guide = FullRankNormal(regression)
    fit(NegativeELBO(posterior, guide), (x, y), progress=False)
    draws = guide.importance_sample(lambda values: posterior.log_joint(values, x, y), 8000)
    return regression, draws


def main() -> None:
    """Print the verdict, then the mode beside means and standard deviations."""
    torch.manual_seed(0)
    x, y, names = patients()
    regression, draws = regress(x, y)
    mean, sd = draws.mean(), draws.std()
    print(draws.verdict)
    print("        most probable    mean     sd")
    for i, name in enumerate(names):
        weights = (each["weights"][i] for each in (regression.constrained_values(), mean, sd))
        print("{:7} {:13.3f} {:7.3f}  {:.3f}".format(name, *weights))
    noise = (each["noise"] for each in (regression.constrained_values(), mean, sd))
    print("noise   {:13.3f} {:7.3f}  {:.3f}".format(*noise))


if __name__ == "__main__":
    main()

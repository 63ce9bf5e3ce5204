"""A Bayesian logistic regression in mini-batches, stopped half-way and resumed.

Benign tumours are told from malignant ones by 30 features of 569 patients, of whom 455 are seen.
The weights have a normal prior of scale 1, scikit-learn's penalty at C=1, and the mode found by
`fit` with L-BFGS is scikit-learn's to 1e-6. A full-rank Gaussian guide is then fitted in
mini-batches of 65: the target scales the likelihood of a batch by 455 over its own size, so that
any batch gives an unbiased estimate. The size divides 455 because each row of a small last batch
counts for many: with batches of 64, where 7 rows are left, errors are three times as large.
After 2,000 steps means are within 0.06 standard deviations of those of a guide fitted to all data
in every step. Half-way the fit is taken up again from its checkpoint by new objects, and ends at
the same numbers, bit for bit. Of 114 new patients the guide's predictions get 97 % right at
-0.089 nats each, scikit-learn's 97 % at -0.088. With `--smoke` there are 200 steps.

    python examples/logistic_regression.py
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
import torch.distributions as dd
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from declarative_dist import Declarative, FullRankNormal, Param, fit
from declarative_dist.objectives import NegativeELBO, NegativeLogPosterior

SEEN, BATCH = 455, 65

Values = dict[str, Tensor]


class Logistic(Declarative):
    """What is learned; the intercept has no prior, which is a flat one."""

    weights = Param(0.0, shape=("d",), prior=dd.Normal(0.0, 1.0))
    intercept = Param(0.0)


def log_likelihood(weights: Tensor, intercept: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """One number per draw and patient: `(*sample, n)` for weights `(*sample, d)`."""
    logits = weights @ features.T + intercept[..., None]
    return dd.Bernoulli(logits=logits).log_prob(labels)


def patients() -> tuple[Tensor, Tensor]:
    """Standardised features `(569, 30)` and labels `(569,)`, in random order."""
    data = load_breast_cancer()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    features = torch.from_numpy((data.data - data.data.mean(0)) / data.data.std(0))
    return features[order], torch.from_numpy(data.target).double()[order]


class Posterior:
    """The log joint density of weights and all patients, estimated from some of them."""

    def __init__(self, logistic: Logistic) -> None:
        self.logistic = logistic

    def __call__(self, values: Values, features: Tensor, labels: Tensor) -> Tensor:
        """The log density of values `(*sample, *event)`, of shape `(*sample)`."""
        scores = log_likelihood(**values, features=features, labels=labels)
        return self.logistic.log_prior(values) + SEEN * scores.mean(-1)


def mode(features: Tensor, labels: Tensor) -> Logistic:
    """The most probable weights, by L-BFGS."""
    logistic = Logistic(d=features.shape[1], dtype=torch.float64)
    objective = NegativeLogPosterior(
        logistic,
        total_size=len(labels),
        log_likelihood=lambda q, x, y: log_likelihood(q.weights, q.intercept, x, y),
    )
    fit(
        objective,
        (features, labels),
        steps=20,
        optimizer=lambda p: torch.optim.LBFGS(
            p, line_search_fn="strong_wolfe", tolerance_grad=1e-10, tolerance_change=1e-14
        ),
    )
    return logistic


def guide_of(
    features: Tensor,
    labels: Tensor,
    *,
    steps: int,
    batch_size: int | None = BATCH,
    num_samples: int = 4,
    until: int | None = None,
    checkpoint: Path | None = None,
) -> FullRankNormal:
    """A Gaussian over weights and intercept, fitted to the posterior.

    Args:
        features: of all patients that are seen.
        labels: theirs.
        steps: over how many steps the rate falls to zero.
        batch_size: how many patients count in a step; None for all.
        num_samples: how many draws of the guide a step takes.
        until: after how many steps to end; None for all of them.
        checkpoint: a file to continue from, if it is there, and to save to.
    """
    posterior = Posterior(Logistic(d=features.shape[1], dtype=torch.float64))
    guide = FullRankNormal(posterior.logistic)
    guide.initialize_(lambda values: posterior(values, features[:BATCH], labels[:BATCH]))
    objective = NegativeELBO(posterior, guide, num_samples=num_samples, estimator="stl")
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.1)

    def slow_down(step: int, loss: float, module: nn.Module) -> None:
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps)

    fit(
        objective,
        (features, labels),
        steps=until or steps,
        optimizer=optimizer,
        batch_size=batch_size,
        callbacks=slow_down,
        checkpoint=checkpoint,
        resume=checkpoint is not None,
    )
    return guide


def moments_of(guide: FullRankNormal, count: int = 40_000) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of the weights, then of the intercept, from draws."""
    draws = guide.sample((count,))
    flat = torch.cat([draws["weights"], draws["intercept"][:, None]], 1)
    return flat.mean(0), flat.std(0)


def score(probabilities: Tensor, labels: Tensor) -> str:
    """How many labels are right, and the mean log probability of a label in nats."""
    right = ((probabilities > 0.5) == labels.bool()).double().mean()
    nats = dd.Bernoulli(probabilities).log_prob(labels).mean()
    return f"{100 * right:.1f} % right, {nats:.4f} nats each"


def main(steps: int = 2000) -> None:
    """The mode, the posterior in mini-batches, and predictions for new patients."""
    features, labels = patients()
    seen, new = (features[:SEEN], labels[:SEEN]), (features[SEEN:], labels[SEEN:])
    sklearn = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)
    sklearn.fit(seen[0].numpy(), seen[1].numpy())
    apart = mode(*seen).weights.detach() - torch.from_numpy(sklearn.coef_[0])
    print(f"Weights by fit and by scikit-learn differ by {apart.abs().max():.1e}.")

    torch.manual_seed(0)
    guide = guide_of(*seen, steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "fit.pt"
        torch.manual_seed(0)
        guide_of(*seen, steps=steps, until=steps // 2, checkpoint=checkpoint)
        torch.manual_seed(1)  # whatever happens in between
        resumed = guide_of(*seen, steps=steps, checkpoint=checkpoint)
    same = all(map(torch.equal, guide.state_dict().values(), resumed.state_dict().values()))
    print(f"Stopped and resumed, the fit ends at the same numbers: {same}.")

    whole = guide_of(*seen, steps=steps, batch_size=None, num_samples=16)
    (mean, sd), (full_mean, full_sd) = moments_of(guide), moments_of(whole)
    off, ratio = (mean - full_mean).abs() / full_sd, (sd / full_sd - 1).abs()
    print(
        f"Mini-batches beside all data: means off by {off.max():.3f} sd, sds by {ratio.max():.1%}"
    )

    draws = guide.sample((4000,))
    logits = draws["weights"] @ new[0].T + draws["intercept"][:, None]
    print("Of 114 new patients:")
    print(f"  guide         {score(logits.sigmoid().mean(0), new[1])}")
    plugged = torch.from_numpy(sklearn.predict_proba(new[0].numpy())[:, 1])
    print(f"  scikit-learn  {score(plugged, new[1])}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps")
    if parser.parse_args().smoke:
        main(steps=200)
    else:
        main()

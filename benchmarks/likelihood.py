"""Maximum likelihood of torch's families beside `scipy.stats`: the maximum reached, and the time.

Ours is `fit` at its defaults from the starting values of the library, as `learnable(dd.Gamma)()`
has them. Log likelihoods are means over the data, as differences from that of the truth, which a
maximum is never below. Then 1,000 fits at once, `batch_shape=1000`, over a loop of SciPy's, timed
on a part of them: of five rounds in turn the one whose ratio of times is the middle one. Times are
those for which the process had a processor.

    python benchmarks/likelihood.py [--only Gamma] [--smoke] [--output DIR]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributions as dd
from scipy import stats
from torch.distributions import Distribution

from declarative_dist import fit, learnable
from declarative_dist.objectives import NegativeLogLikelihood

COUNT, SMALL, FITS, LOOPED, ROUNDS = 2000, 300, 1000, 50, 5

Peer = tuple[Any, Mapping[str, float]]
"""A family of SciPy, and what its fit holds."""


def truths() -> dict[str, tuple[Distribution, Peer | None]]:
    """Distributions to draw data from, with SciPy's family where it fits one."""
    half = torch.tensor(0.5, dtype=torch.float64)
    one, two, three = 2 * half, 4 * half, 6 * half
    at_zero = {"floc": 0.0}
    return {
        "Normal": (dd.Normal(170.0 * one, 9.0 * one), (stats.norm, {})),
        "Normal, tiny": (dd.Normal(one, 1e-6 * one), (stats.norm, {})),
        "Normal, large": (dd.Normal(-3e6 * one, 1e6 * one), (stats.norm, {})),
        "Laplace": (dd.Laplace(three, two), (stats.laplace, {})),
        "Cauchy": (dd.Cauchy(three, two), (stats.cauchy, {})),
        "Gumbel": (dd.Gumbel(three, two), (stats.gumbel_r, {})),
        "StudentT": (dd.StudentT(three, two, half), (stats.t, {})),
        "Exponential": (dd.Exponential(1e4 * one), (stats.expon, at_zero)),
        "Gamma": (dd.Gamma(two, 1e-3 * one), (stats.gamma, at_zero)),
        "InverseGamma": (dd.InverseGamma(three, two), (stats.invgamma, at_zero)),
        "LogNormal": (dd.LogNormal(three, half), (stats.lognorm, at_zero)),
        "Weibull": (dd.Weibull(3e4 * one, half), (stats.weibull_min, at_zero)),
        "HalfNormal": (dd.HalfNormal(two), (stats.halfnorm, at_zero)),
        "HalfCauchy": (dd.HalfCauchy(two), (stats.halfcauchy, at_zero)),
        "Uniform": (dd.Uniform(two, 5 * one), (stats.uniform, {})),
        "Pareto": (dd.Pareto(2e4 * one, three), (stats.pareto, at_zero)),
        "Beta": (dd.Beta(two, half), (stats.beta, {"floc": 0.0, "fscale": 1.0})),
        "Chi2": (dd.Chi2(three), (stats.chi2, {"floc": 0.0, "fscale": 1.0})),
        "VonMises": (dd.VonMises(one, two), (stats.vonmises, {"fscale": 1.0})),
        "FisherSnedecor": (dd.FisherSnedecor(three, 5 * two), (stats.f, {"floc": 0, "fscale": 1})),
        "Kumaraswamy": (dd.Kumaraswamy(two, half), None),
        "Poisson": (dd.Poisson(three), None),
        "Geometric": (dd.Geometric(half / 2), None),
        "Bernoulli": (dd.Bernoulli(half / 2), None),
        "NegativeBinomial": (dd.NegativeBinomial(three, half), None),
        "Categorical": (dd.Categorical(torch.tensor([0.2, 0.5, 0.3]).double()), None),
        "Dirichlet": (dd.Dirichlet(torch.tensor([0.5, 2.0, 3.0]).double()), None),
        "MultivariateNormal": (
            dd.MultivariateNormal(
                torch.tensor([1.0, 50.0]).double(), torch.tensor([[2.0, 1.0], [1.0, 3.0]]).double()
            ),
            None,
        ),
    }


class Row(NamedTuple):
    """What one family gives; log likelihoods as differences from that of the truth."""

    family: str
    ours: float
    scipys: float | None
    seconds: float
    scipys_seconds: float | None
    many: float | None = None
    scipys_many: float | None = None
    verdict: str = ""


def started(truth: Distribution, **copies: Any) -> Any:
    """The family of a truth at the starting values of the library."""
    kind: Any = type(truth)
    sizes: dict[str, Any] = {}
    if truth.event_shape:
        size = truth.event_shape[-1]
        ones = torch.ones(size, dtype=torch.float64)
        if isinstance(truth, dd.MultivariateNormal):
            return learnable(dd.MultivariateNormal(0 * ones, scale_tril=torch.eye(size).double()))
        return learnable(kind(ones))
    if isinstance(truth, dd.Categorical):
        return learnable(dd.Categorical(torch.ones(3).double()))
    if isinstance(truth, dd.NegativeBinomial):
        sizes["total_count"] = 3.0
    return learnable(kind)(dtype=torch.float64, **sizes, **copies)


def fitted(truth: Distribution, x: torch.Tensor, **copies: Any) -> tuple[Any, Any, float]:
    """The family fitted to data, the record, and the seconds."""
    q = started(truth, **copies)
    before = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the verdict says the same
        history = fit(NegativeLogLikelihood(q), x, progress=False)
    return q, history, time.process_time() - before


def compare(name: str, truth: Distribution, peer: Peer | None, *, many: bool) -> Row:
    """One family on 2,000 data, and on 1,000 sets of 300."""
    torch.manual_seed(0)
    x = truth.sample((COUNT,))
    exact = float(truth.log_prob(x).mean())
    q, history, seconds = fitted(truth, x)
    ours = float(q.log_prob(x).mean().detach()) - exact
    if peer is None:
        return Row(name, ours, None, seconds, None, verdict=str(history.verdict))
    family, held = peer
    data = x.numpy()
    before = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = family.fit(data, **held)
    scipys_seconds = time.process_time() - before
    scipys = float(np.mean(family.logpdf(data, *found))) - exact
    row = Row(name, ours, scipys, seconds, scipys_seconds, verdict=str(history.verdict))
    if not many:
        return row
    sets = truth.sample((SMALL, FITS))
    rounds = sorted(
        (one_round(truth, sets, peer) for _ in range(ROUNDS)), key=lambda r: r[1] / r[0]
    )
    ours_many, scipys_many = rounds[ROUNDS // 2]
    return row._replace(many=ours_many, scipys_many=scipys_many)


def one_round(truth: Distribution, sets: torch.Tensor, peer: Peer) -> tuple[float, float]:
    """The seconds of all fits at once, and of a loop of SciPy's, in turn."""
    family, held = peer
    *_, at_once = fitted(truth, sets, batch_shape=FITS)
    before = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for column in sets[:, :LOOPED].T.numpy():
            family.fit(column, **held)
    return at_once, (time.process_time() - before) * FITS / LOOPED


def tabulated(rows: list[Row]) -> Iterator[str]:
    """The lines of the table, and the sum over families."""
    yield "# Maximum likelihood\n"
    yield (
        f"Mean log likelihood over that of the truth, {COUNT} data, and {FITS} fits of {SMALL} at "
        "once beside SciPy's in a loop.\n"
    )
    yield "| family | ours | SciPy's | s | SciPy, s | 1,000, s | SciPy, s | times | verdict |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        many = row.many and row.scipys_many
        cells = (
            row.family,
            f"{row.ours:.3e}",
            "" if row.scipys is None else f"{row.scipys:.3e}",
            f"{row.seconds:.3f}",
            "" if row.scipys_seconds is None else f"{row.scipys_seconds:.3f}",
            f"{row.many:.2f}" if many else "",
            f"{row.scipys_many:.2f}" if many else "",
            f"{(row.scipys_many or 0.0) / (row.many or 1.0):.1f}" if many else "",
            row.verdict.replace("|", "/"),
        )
        yield f"| {' | '.join(cells)} |"
    both = [row for row in rows if row.many and row.scipys_many]
    if both:
        total, peers = sum(r.many or 0.0 for r in both), sum(r.scipys_many or 0.0 for r in both)
        share = peers / total
        yield f"\nAll of 1,000 at once: {total:.1f} s, SciPy {peers:.1f} s, {share:.1f} times."


def main() -> None:
    """Fit all, show each as it comes, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="families whose names contain this")
    parser.add_argument("--smoke", action="store_true", help="three families, one fit of each")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    fitted(dd.Normal(0.0, 1.0), torch.randn(10).double())  # imports, once
    rows: list[Row] = []
    for name, (truth, peer) in truths().items():
        is_small = name in ("Normal", "Gamma", "Poisson")
        if arguments.only in name and (is_small or not arguments.smoke):
            rows.append(compare(name, truth, peer, many=not arguments.smoke))
            print(list(tabulated(rows[-1:]))[4], flush=True)
    (arguments.output / "likelihood.md").write_text("\n".join(tabulated(rows)) + "\n")


if __name__ == "__main__":
    main()

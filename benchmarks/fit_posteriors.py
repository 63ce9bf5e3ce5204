"""Guides fitted to posteriors, beside reference draws and beside Pyro's automatic guides.

Everything at its defaults: `fit` without steps, then weighted draws. An error is that of a mean,
in standard deviations of the reference; a ratio is that of standard deviations. Of both the
table shows the worst quantity. Pyro's guides get the same unconstrained density, Adam at 0.01, and
2,000 steps or as many as `--seconds` allow, with one draw in each, as its tutorials have it.

    python benchmarks/fit_posteriors.py [--only eight_schools] [--peers] [--smoke] [--output DIR]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from posteriors.gallery import gallery
from posteriors.posterior import Posterior, Values
from torch import Tensor

from declarative_dist import FullRankNormal, fit
from declarative_dist.objectives import NegativeELBO

DRAWS = 4000
STEPS = 2000
SMOKE = ("kidiq-kidscore_momiq", "arK-arK")
LIMITS = (0.05, 0.03), (0.1, 0.06)
"""The largest error and the largest deviation of a ratio from one: close, and near."""


class Worst(NamedTuple):
    """The worst quantity of a posterior, by its mean and by its standard deviation."""

    error: float
    ratio: float
    where: str

    def is_within(self, limits: tuple[float, float]) -> bool:
        """Whether error and ratio are inside."""
        return self.error <= limits[0] and abs(self.ratio - 1.0) <= limits[1]


class Row(NamedTuple):
    """What one way of fitting a posterior gives."""

    posterior: str
    way: str
    worst: Worst
    k_hat: float | None
    seconds: float
    verdict: str = ""


def worst_of(posterior: Posterior, values: Values, weights: Tensor) -> Worst:
    """The worst quantity of draws `(count, *event)` with weights that add up to one."""
    errors, ratios = {}, {}
    for name, draws in posterior.quantities(values).items():
        mean, sd = posterior.reference[name]
        own = (weights * draws).sum()
        spread = (weights * (draws - own).square()).sum().sqrt()
        errors[name], ratios[name] = abs(float(own) - mean) / sd, float(spread) / sd
    where = max(errors, key=lambda name: errors[name])
    return Worst(errors[where], max(ratios.values(), key=lambda ratio: abs(ratio - 1.0)), where)


def ours(posterior: Posterior) -> Iterator[Row]:
    """A guide with weighted draws, and its plain draws."""
    torch.manual_seed(0)
    guide = FullRankNormal(posterior.latents)
    before = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the verdict says the same
        history = fit(NegativeELBO(posterior.log_joint, guide), progress=False)
        draws: Any = guide.importance_sample(posterior.log_joint, DRAWS)
    seconds = time.perf_counter() - before
    worst = worst_of(posterior, draws.values, draws.weights)
    verdict = str(history.verdict)
    yield Row(posterior.name, "weighted draws", worst, draws.k_hat, seconds, verdict)
    plain = worst_of(posterior, guide.sample((DRAWS,)), torch.full((DRAWS,), 1.0 / DRAWS))
    yield Row(posterior.name, "plain draws", plain, None, seconds)


def pyros(posterior: Posterior, seconds: float) -> Iterator[Row]:
    """Pyro's guides on the unconstrained density."""
    import pyro
    import pyro.distributions as pd
    from pyro.infer import SVI, Trace_ELBO, autoguide

    is_joint = posterior.latents is posterior.log_joint
    density = posterior.latents.unconstrained_log_density(
        *(() if is_joint else (posterior.log_joint,))
    )
    start = density.start()

    def model() -> None:
        flat = pd.ImproperUniform(torch.distributions.constraints.real, (), start.shape)
        pyro.factor("density", density(pyro.sample("raw", flat.to_event(0))))

    for name in ("AutoNormal", "AutoMultivariateNormal"):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        init = autoguide.initialization.init_to_value(values={"raw": start})
        guide = getattr(autoguide, name)(model, init_loc_fn=init)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        before, steps = time.perf_counter(), 0
        try:
            while steps < STEPS and time.perf_counter() - before < seconds:
                svi.step()
                steps += 1
        except (ValueError, RuntimeError) as error:
            failed = Worst(float("inf"), float("nan"), "")
            yield Row(posterior.name, f"Pyro, {name}", failed, None, 0.0, f"failed: {error}"[:80])
            continue
        taken = time.perf_counter() - before
        with torch.no_grad():
            raws = torch.stack([guide()["raw"] for _ in range(DRAWS)])
            values = density.constrain(raws)
        worst = worst_of(posterior, values, torch.full((DRAWS,), 1.0 / DRAWS))
        yield Row(posterior.name, f"Pyro, {name}", worst, None, taken, f"{steps} steps")


def tabulated(rows: list[Row]) -> Iterator[str]:
    """The lines of the table, and how many posteriors are close."""
    yield "# Posteriors\n"
    yield (
        "Worst error of a mean, in standard deviations of the reference, and worst ratio of "
        "standard deviations, of guides at their defaults.\n"
    )
    yield "| posterior | by | error, sd | of | sd ratio | k-hat | seconds | verdict |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        k_hat = "" if row.k_hat is None else f"{row.k_hat:.2f}"
        verdict = row.verdict.replace("|", "/").replace("\n", " ")
        yield (
            f"| {row.posterior} | {row.way} | {row.worst.error:.3f} | {row.worst.where} | "
            f"{row.worst.ratio:.3f} | {k_hat} | {row.seconds:.1f} | {verdict} |"
        )
    yield ""
    for way in dict.fromkeys(row.way for row in rows):
        found = [row.worst for row in rows if row.way == way]
        counts = [sum(worst.is_within(limits) for worst in found) for limits in LIMITS]
        yield (
            f"{way}: {counts[0]} of {len(found)} within {LIMITS[0][0]} sd and "
            f"{LIMITS[0][1]:.0%}, {counts[1]} within {LIMITS[1][0]} sd and {LIMITS[1][1]:.0%}.  "
        )


def main() -> None:
    """Fit all, show each as it comes, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="posteriors whose names contain this")
    parser.add_argument("--peers", action="store_true", help="Pyro's guides, too")
    parser.add_argument("--seconds", type=float, default=60.0, help="at most, for a guide of Pyro")
    parser.add_argument("--smoke", action="store_true", help="two small ones alone")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name, posterior in gallery().items():
        if arguments.only not in name or (arguments.smoke and name not in SMOKE):
            continue
        ways: list[Callable[[], Iterator[Row]]] = [lambda p=posterior: ours(p)]  # type: ignore[misc]
        if arguments.peers:
            ways.append(lambda p=posterior: pyros(p, arguments.seconds))  # type: ignore[misc]
        for way in ways:
            for row in way():
                rows.append(row)
                print(list(tabulated([row]))[4], flush=True)
    (arguments.output / "posteriors.md").write_text("\n".join(tabulated(rows)) + "\n")


if __name__ == "__main__":
    main()

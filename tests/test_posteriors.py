"""The benchmark's posteriors have the densities that their models state, and are fitted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
from posteriors.gallery import gallery
from posteriors.hierarchies import group_data
from posteriors.posterior import Posterior, data_of

Value = dict[str, Any]
normal, half_cauchy = stats.norm.logpdf, stats.halfcauchy.logpdf


def read(name: str) -> dict[str, Any]:
    """The data of a posterior, as NumPy's arrays."""
    return {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in data_of(name).items()}


def regress(v: Value, y: Any, *columns: Any) -> float:
    mean = v["beta"][0] + sum(b * c for b, c in zip(v["beta"][1:], columns, strict=True))
    return normal(y, mean, v["sigma"]).sum()


def arma(v: Value, d: Value) -> float:
    total = normal(v["alpha"], 0, 10) + normal(v["beta"], 0, 10).sum()
    total += half_cauchy(v["sigma"], scale=2.5)
    for t in range(d["K"], d["T"]):
        mean = v["alpha"] + sum(v["beta"][k] * d["y"][t - k - 1] for k in range(d["K"]))
        total += normal(d["y"][t], mean, v["sigma"])
    return total


def hidden_markov(v: Value, d: Value) -> float:
    theta = np.stack([v["theta1"], v["theta2"]])
    total = sum(stats.dirichlet.logpdf(theta[k], d["alpha"][k]) for k in range(2))
    total += normal(v["phi"], [0, 3], 1).sum() + normal(v["rate"], [0, 3], 1).sum()
    forward = np.ones(2)
    for t in range(d["N"]):
        emitted = stats.expon.pdf(d["u"][t], scale=1 / v["phi"])
        emitted = emitted * stats.expon.pdf(d["v"][t], scale=1 / v["rate"])
        forward = (forward if t == 0 else forward @ theta) * emitted
        total += np.log(forward.sum())
        forward = forward / forward.sum()
    return total


def schools(v: Value, d: Value) -> float:
    theta = v["mu"] + v["tau"] * v["theta_trans"]
    total = normal(v["theta_trans"]).sum() + normal(v["mu"], 0, 5)
    return total + half_cauchy(v["tau"], scale=5) + normal(d["y"], theta, d["sigma"]).sum()


def garch(v: Value, d: Value) -> float:
    variance, total = d["sigma1"] ** 2, 0.0
    for t in range(d["T"]):
        if t:
            shock = v["alpha1"] * (d["y"][t - 1] - v["mu"]) ** 2
            variance = v["alpha0"] + shock + v["beta1"] * variance
        total += normal(d["y"][t], v["mu"], variance**0.5)
    return total


def covariance(v: Value, d: Value) -> Any:
    return v["alpha"] ** 2 * np.exp(-0.5 * (d["x"][:, None] - d["x"]) ** 2 / v["rho"] ** 2)


def counts(v: Value, d: Value) -> float:
    factor = np.linalg.cholesky(covariance(v, d) + 1e-10 * np.eye(d["N"]))
    total = stats.gamma.logpdf(v["rho"], 25, scale=1 / 4) + normal(v["alpha"], 0, 2)
    total += normal(v["f_tilde"]).sum()
    return total + stats.poisson.logpmf(d["k"], np.exp(factor @ v["f_tilde"])).sum()


def measurements(v: Value, d: Value) -> float:
    total = stats.gamma.logpdf(v["rho"], 25, scale=1 / 4) + normal(v["alpha"], 0, 2)
    total += normal(v["sigma"])
    whole = covariance(v, d) + v["sigma"] * np.eye(d["N"])
    return total + stats.multivariate_normal.logpdf(d["y"], np.zeros(d["N"]), whole)


def lynx_and_hare(v: Value, d: Value) -> float:
    t = v["theta"]
    solved = integrate.solve_ivp(
        lambda _, z: [(t[0] - t[1] * z[1]) * z[0], (-t[2] + t[3] * z[0]) * z[1]],
        (0, 20), v["z_init"], t_eval=d["ts"], rtol=1e-9, atol=1e-9,
    )  # fmt: skip
    total = normal(t, [1, 0.05, 1, 0.05], [0.5, 0.05, 0.5, 0.05]).sum()
    total += stats.lognorm.logpdf(v["sigma"], 1, scale=np.exp(-1)).sum()
    total += stats.lognorm.logpdf(v["z_init"], 1, scale=10).sum()
    total += stats.lognorm.logpdf(d["y_init"], v["sigma"], scale=v["z_init"]).sum()
    return total + stats.lognorm.logpdf(d["y"], v["sigma"], scale=solved.y.T).sum()


def compartment(v: Value, d: Value) -> float:
    def slope(time: float, amount: Any) -> Any:
        absorbed = v["k_a"] * d["D"] * np.exp(-v["k_a"] * time) / d["V"]
        return absorbed - v["V_m"] / d["V"] * amount / (v["K_m"] + amount)

    solved = integrate.solve_ivp(
        slope, (0, 10.0), [0.0], t_eval=d["times"], rtol=1e-9, atol=1e-9, method="LSODA"
    )
    total = sum(half_cauchy(v[name]) for name in ("k_a", "K_m", "V_m", "sigma"))
    return total + stats.lognorm.logpdf(d["C_hat"], v["sigma"], scale=solved.y[0]).sum()


def mixture(v: Value, d: Value) -> float:
    parts = stats.norm.pdf(d["y"][:, None], v["mu"], v["sigma"])
    total = normal(v["mu"], 0, 2).sum() + normal(v["sigma"], 0, 2).sum()
    total += stats.beta.logpdf(v["theta"], 5, 5)
    return total + np.log(parts @ [v["theta"], 1 - v["theta"]]).sum()


def plane(v: Value, d: Value) -> float:
    total = normal(v["beta"], 0, 10).sum() + normal(v["sigma"], 0, 10)
    return total + normal(d["y"], d["X"] @ v["beta"], v["sigma"]).sum()


def summer(v: Value, d: Value) -> float:
    total = normal(v["alpha"], d["pmualpha"], d["psalpha"])
    total += normal(v["beta"], d["pmubeta"], d["psbeta"])
    return total + normal(d["y"], v["alpha"] + v["beta"] * d["x"], v["sigma"]).sum()


def election(v: Value, d: Value) -> float:
    ages = [d["age_discrete"] == age for age in (2, 3, 4)]
    others = (d[name] for name in ("educ1", "gender", "income"))
    return regress(v, d["partyid7"], d["real_ideo"], d["race_adj"], *ages, *others)


BUSHES = ("diam1", "diam2", "canopy_height", "total_height", "density", "group")
STATED: dict[str, Callable[[Value, Value], float]] = {
    "arK-arK": arma,
    "bball_drive_event_0-hmm_drive_0": hidden_markov,
    "earnings-logearn_interaction": lambda v, d: regress(
        v, np.log(d["earn"]), d["height"], d["male"], d["height"] * d["male"]
    ),
    "eight_schools-eight_schools_noncentered": schools,
    "garch-garch11": garch,
    "gp_pois_regr-gp_pois_regr": counts,
    "gp_pois_regr-gp_regr": measurements,
    "hudson_lynx_hare-lotka_volterra": lynx_and_hare,
    "kidiq-kidscore_momiq": lambda v, d: (
        regress(v, d["kid_score"], d["mom_iq"]) + half_cauchy(v["sigma"], scale=2.5)
    ),
    "kilpisjarvi_mod-kilpisjarvi": summer,
    "low_dim_gauss_mix-low_dim_gauss_mix": mixture,
    "mesquite-mesquite": lambda v, d: regress(v, d["weight"], *(d[name] for name in BUSHES)),
    "nes2000-nes": election,
    "one_comp_mm_elim_abs-one_comp_mm_elim_abs": compartment,
    "sblri-blr": plane,
}
"""The log densities of the models as posteriordb states them, up to a constant."""

POSTERIORS = gallery()


def some_values(posterior: Posterior, count: int) -> dict[str, torch.Tensor]:
    """Values around the reference's mean, or around the start for what it does not list."""
    is_joint = posterior.latents is posterior.log_joint
    density = posterior.latents.unconstrained_log_density(
        *(() if is_joint else (posterior.log_joint,))
    )
    known = density.constrain(density.start())
    for name, value in known.items():
        listed = {"rate": "lambda"}.get(name, name)
        entries = [listed] if value.ndim == 0 else [
            f"{listed}[{i + 1}]" for i in range(value.numel())
        ]  # fmt: skip
        if entries[0] in posterior.reference:
            means = torch.tensor([posterior.reference[e][0] for e in entries]).to(value)
            means = means / means.sum() if name in ("theta1", "theta2") else means
            known[name] = means.reshape(value.shape)
    centre = density.unconstrain(known)
    noise = torch.randn(count, density.size, dtype=centre.dtype)
    return density.constrain(centre + 0.02 * (1.0 + centre.abs()) * noise)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", STATED)
def test_a_model_has_the_density_that_posteriordb_states(name: str) -> None:
    torch.manual_seed(0)
    posterior, data = POSTERIORS[name], read(name)
    values = some_values(posterior, 6)
    ours = posterior.log_joint(values).numpy()
    singles = [{n: v[i].numpy() for n, v in values.items()} for i in range(6)]
    stated = np.array([STATED[name](single, data) for single in singles])
    tolerance = 1e-3 if name.startswith(("hudson", "one_comp")) else 1e-8
    differences = ours - stated
    np.testing.assert_allclose(differences - differences[0], 0.0, atol=tolerance * np.ptp(stated))
    assert np.ptp(stated) > 0.01
    assert list(posterior.quantities(values)) == list(posterior.reference)


def test_moments_of_a_hierarchy_are_those_of_its_density() -> None:
    """The quadrature over both scales agrees with the density of the joint."""
    posterior = POSTERIORS["20 groups, centred, joint"]
    other = POSTERIORS["20 groups, centred, parameters"]
    values = some_values(posterior, 5)
    torch.testing.assert_close(posterior.log_joint(values), other.log_joint(values))
    mean, sd = posterior.reference["tau"]
    assert mean == pytest.approx(2.0, abs=3 * sd)
    # By plain importance sampling from the prior of mu and tau, with theta integrated out.
    torch.manual_seed(0)
    mu = 5.0 * torch.randn(400_000, dtype=torch.float64)
    tau = torch.distributions.HalfCauchy(5.0).sample((400_000,)).double()
    scale = (tau.square() + 1.0).sqrt()
    log_w = sum(torch.distributions.Normal(mu, scale).log_prob(one) for one in group_data(20))
    weight = log_w.softmax(0)
    for name, value in (("mu", mu), ("tau", tau)):
        first = (weight * value).sum()
        second = ((weight * value.square()).sum() - first.square()).sqrt()
        expected = posterior.reference[name]
        assert first.item() == pytest.approx(expected[0], abs=0.03 * expected[1])
        assert second.item() == pytest.approx(expected[1], rel=0.05)

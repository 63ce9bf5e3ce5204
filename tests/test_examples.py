"""Each example runs once, and prints what references find that do not know this library."""

from __future__ import annotations

import ast
import itertools
import math
import re

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
from sklearn.datasets import load_breast_cancer, load_diabetes, make_moons
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture

from tests.running_examples import EXAMPLES, example, numbers_in, printed_by

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.xdist_group("examples"),  # each is run once
]
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


def doc_of(name: str) -> str:
    return ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text())) or ""


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_says_how_to_run_it(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert text.count("\n") <= 100
    assert f"    python examples/{name}.py" in doc_of(name)
    assert ("--smoke`" in doc_of(name)) == ('"--smoke" in sys.argv' in text)


def rows_of(printed: str) -> dict[str, list[float]]:
    """The numbers of each line, by its first word."""
    lines = (line for line in printed.splitlines() if numbers_in(line))
    return {line.split()[0].strip(":"): numbers_in(line) for line in lines}


def diabetes() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_diabetes(return_X_y=True)
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()


# Values at a maximum


def test_quickstart_finds_its_targets_and_what_scipy_finds() -> None:
    printed = printed_by("quickstart")
    assert re.findall(r"'\w+': ([\d.]+)", printed) == ["5.0"] * 4
    assert "backward through the graph a second time" in printed
    shape, _, scale = scipy.stats.gamma.fit(load_diabetes().target, floc=0)
    assert rows_of(printed)["declared"] == pytest.approx([shape, 1 / scale], rel=1e-4)


def test_old_faithful_is_where_expectation_maximisation_ends() -> None:
    # As R prints them for `faithful`: 272 rows, 3.487783 (1.141371) and 70.89706 (13.59497).
    data = example("old_faithful").old_faithful().numpy()
    assert data.mean(0) == pytest.approx([3.487783, 70.89706], abs=1e-5)
    assert data.std(0, ddof=1) == pytest.approx([1.141371, 13.59497], abs=1e-5)
    other = GaussianMixture(2, n_init=5, tol=1e-10, max_iter=5000, reg_covar=1e-9, random_state=0)
    order = (-other.fit(data).weights_).argsort()
    expected = [[other.weights_[i], *other.means_[i], *other.covariances_[i].flat[[0, 1, 3]]]
                for i in order]  # fmt: skip
    lines = printed_by("old_faithful").splitlines()
    assert numbers_in(lines[0])[0] == pytest.approx(other.score(data) * 272, abs=2e-3)
    found = [numbers_in(line) for line in lines[1:3]]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_tied_parts_are_where_expectation_maximisation_ends() -> None:
    def maximise(columns: list[np.ndarray]) -> list[list[float]]:
        """For each column two locations, a width, and a share that is common to all."""
        weights = np.array([0.5, 0.5])
        states = [(np.quantile(x, [0.2, 0.8]), x.std() / 3) for x in columns]
        for _ in range(1000):
            shares, new = [], []
            for x, (loc, width) in zip(columns, states, strict=True):
                joint = weights * scipy.stats.norm.pdf(x[:, None], loc, width)
                share = joint / joint.sum(-1, keepdims=True)
                loc = (share * x[:, None]).sum(0) / share.sum(0)
                new.append((loc, np.sqrt((share * (x[:, None] - loc) ** 2).sum() / len(x))))
                shares.append(share.mean(0))
            weights, states = np.mean(shares, axis=0), new
        return [[*loc, width, weights[0]] for loc, width in states]

    both = [x.numpy() for x in example("tied_parts").old_faithful().values()]
    expected = [*maximise(both), *maximise(both[:1]), *maximise(both[1:])]
    printed = printed_by("tied_parts")
    found = [numbers_in(line) for line in printed.splitlines() if "share" in line]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    for row in (0, 2, 3):
        assert f"{found[row][3]:.4f}" in doc_of("tied_parts")


def test_many_mixtures_are_as_far_off_as_theory_says() -> None:
    share, farthest = numbers_in(printed_by("many_mixtures"))
    assert 93.0 < share < 97.0
    assert farthest < 4.5


def test_heteroscedastic_regression_is_least_squares_and_better() -> None:
    x, y = diabetes()
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    squares = -0.5 * math.log(2 * math.pi * math.e * (residual**2).mean())
    constant, first, predicted, second = map(
        numbers_in, printed_by("heteroscedastic_regression").splitlines()
    )
    assert constant == pytest.approx([squares], abs=1e-5)
    assert predicted[0] > constant[0] + 0.03
    said = numbers_in(doc_of("heteroscedastic_regression"))
    assert said == pytest.approx([*constant, *predicted, *first[:2], *second[:2]], abs=1e-3)
    assert sum(p > c for c, p in zip(first[2:], second[2:], strict=True)) == 3


def test_a_mixture_density_network_finds_three_inverses_and_the_gaps() -> None:
    printed = printed_by("mixture_density_network").splitlines()[1:]
    nats = [numbers_in(line)[0] for line in printed]
    assert nats[1] + 0.5 < nats[2] < nats[0]
    tenths = np.array([[float(word) for word in line.split()[-10:]] for line in printed])

    def joint(y: float) -> float:
        z = (0.5 - y - 0.3 * math.sin(2 * math.pi * y)) / 0.03
        return math.exp(-0.5 * z**2)

    cuts = np.linspace(0, 1, 11)
    masses = np.array([scipy.integrate.quad(joint, a, b)[0] for a, b in itertools.pairwise(cuts)])
    assert tenths[0] == pytest.approx(100 * masses / masses.sum(), abs=1.0)
    assert abs(tenths[2] - tenths[0]).max() <= 8
    assert abs(tenths[1] - tenths[0]).max() > 8


def test_forecasts_cover_and_marks_and_times_are_learned() -> None:
    shares = [numbers_in(line)[0] for line in printed_by("forecast").splitlines()]
    assert all(20.0 < share < 100.0 for share in shares)
    (loss, truth), (second, in_truth) = map(numbers_in, printed_by("marks_and_times").splitlines())
    assert truth < loss < truth + 0.15
    assert second == pytest.approx(in_truth, abs=0.2)


# Posteriors


def moments_of_regression() -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of weights and noise, by Simpson's rule over the noise."""
    x, y = diabetes()
    grid, zero = np.linspace(0.5, 1.0, 201), np.zeros(10)
    means, seconds, logs = [], [], []
    for noise in grid:
        covariance = np.linalg.inv(x.T @ x / noise**2 + np.eye(10) / 0.5**2)
        mean = covariance @ x.T @ y / noise**2
        # The evidence is likelihood times prior over posterior, at weights of zero.
        log = scipy.stats.norm.logpdf(y, 0, noise).sum() + scipy.stats.halfnorm.logpdf(noise)
        logs.append(log - scipy.stats.multivariate_normal.logpdf(zero, mean, covariance))
        means.append([*mean, noise])
        seconds.append([*(np.diag(covariance) + mean**2), noise**2])
    density = np.exp(np.array(logs) - max(logs))
    mean, second = (
        scipy.integrate.simpson(density[:, None] * np.array(values), x=grid, axis=0)
        / scipy.integrate.simpson(density, x=grid)
        for values in (means, seconds)
    )
    return mean, np.sqrt(second - mean**2)


def test_bayesian_regression_has_the_moments_of_quadrature() -> None:
    rows = rows_of(printed_by("bayesian_regression"))
    mode, mean, sd = np.array([rows[name] for name in [*load_diabetes().feature_names, "noise"]]).T
    exact_mean, exact_sd = moments_of_regression()
    assert (abs(mean - exact_mean) < 0.03 * exact_sd + 5e-4).all()
    assert sd == pytest.approx(exact_sd, rel=0.03)
    x, y = diabetes()

    def ridge(noise: float) -> np.ndarray:
        return np.linalg.solve(x.T @ x + 4 * noise**2 * np.eye(10), x.T @ y)

    def loss(noise: float) -> float:
        likelihood = scipy.stats.norm.logpdf(y, x @ ridge(noise), noise).sum()
        prior = scipy.stats.norm.logpdf(ridge(noise), 0, 0.5).sum()
        return -(likelihood + prior + scipy.stats.halfnorm.logpdf(noise))

    best = scipy.optimize.minimize_scalar(loss, bounds=(0.3, 1.5), options={"xatol": 1e-10}).x
    assert mode == pytest.approx([*ridge(best), best], abs=6e-4)


def test_logistic_regression_is_near_its_posterior() -> None:
    """By importance sampling from a t distribution that was fitted to nothing but its mode."""
    features, labels = (x.numpy() for x in example("logistic_regression").patients())
    assert sorted(features[:, 0]) == pytest.approx(
        sorted(scipy.stats.zscore(load_breast_cancer().data[:, 0]))
    )
    design, new = np.split(np.hstack([features, np.ones((569, 1))]), [455])
    mode = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(design[:, :30], labels[:455])
    center = np.append(mode.coef_[0], mode.intercept_)
    right = 1 / (1 + np.exp(-design @ center))
    curvature = design.T @ (design * (right * (1 - right))[:, None])
    curvature += np.diag([1.0] * 30 + [0.0])
    proposal = scipy.stats.multivariate_t(center, 1.2 * np.linalg.inv(curvature), df=20, seed=2)
    draws = proposal.rvs(40_000)
    logits = draws @ design.T
    logs = (labels[:455] * logits - np.logaddexp(0, logits)).sum(1) - proposal.logpdf(draws)
    logs += scipy.stats.norm.logpdf(draws[:, :30]).sum(1)
    weights = np.exp(logs - logs.max())
    predicted = weights / weights.sum() @ (1 / (1 + np.exp(-draws @ new.T)))
    rows = printed_by("logistic_regression").splitlines()
    for row, p in zip(rows[1:], (predicted, mode.predict_proba(new[:, :30])[:, 1]), strict=True):
        nats = np.log(np.where(labels[455:] == 1, p, 1 - p)).mean()
        assert numbers_in(row)[0] == pytest.approx(
            100 * ((p > 0.5) == labels[455:]).mean(), abs=1.0
        )
        assert numbers_in(row)[1] == pytest.approx(nats, abs=2e-3)


def moments_of_schools() -> dict[str, tuple[float, float]]:
    """By quadrature over mu and tau, given which effects are Gaussian."""
    y, s = np.array(example("eight_schools").EFFECTS), np.array(example("eight_schools").ERRORS)
    mu = np.linspace(-30.0, 40.0, 351)[:, None, None]
    # Midpoints of equal shares of the half Cauchy distribution.
    tau = 5 * np.tan(np.pi / 2 * (np.arange(2000) + 0.5) / 2000)[None, :, None]
    variance = s**2 + tau**2
    weight = scipy.stats.norm(mu, np.sqrt(variance)).pdf(y).prod(-1, keepdims=True)
    weight *= scipy.stats.norm(0, 5).pdf(mu)
    weight /= weight.sum()
    mean = (y * tau**2 + mu * s**2) / variance
    second = mean**2 + (tau * s) ** 2 / variance
    firsts = [(weight * v).sum() for v in (mu, tau)] + [*(weight * mean).sum((0, 1))]
    squares = [(weight * v**2).sum() for v in (mu, tau)] + [*(weight * second).sum((0, 1))]
    names = ["mu", "tau", *(f"theta[{i}]" for i in range(8))]
    return {n: (m, (q - m**2) ** 0.5) for n, m, q in zip(names, firsts, squares, strict=True)}


def test_eight_schools_have_the_moments_of_quadrature_and_say_so() -> None:
    printed = printed_by("eight_schools")
    assert "; good: k-hat" in printed
    exact, rows = moments_of_schools(), rows_of(printed)
    assert exact["mu"] == pytest.approx((4.40, 3.32), abs=0.02)
    for name, (mean, sd) in exact.items():
        assert rows[name][0] == pytest.approx(mean, abs=0.1 * sd), name
        assert rows[name][1] == pytest.approx(sd, rel=0.1), name


def test_a_hierarchy_in_mini_batches_has_the_globals_of_a_grid() -> None:
    mu, sd_mu, on_mu, on_sd_mu, tau, sd_tau, on_tau, on_sd_tau = numbers_in(
        printed_by("hierarchy")
    )
    assert abs(mu - on_mu) < 0.1 * on_sd_mu
    assert abs(tau - on_tau) < 0.1 * on_sd_tau
    assert [sd_mu, sd_tau] == pytest.approx([on_sd_mu, on_sd_tau], rel=0.15)


def test_calibration_tells_three_posteriors_apart() -> None:
    rows = [line for line in printed_by("calibration").splitlines() if "p = " in line]
    assert len(rows) == 6
    for row in rows:
        p = float(row.split("p = ")[1])
        assert p < 0.01 if "mean field  " in row else p > 0.01


def test_a_pyro_guide_finds_the_posterior() -> None:
    lines = printed_by("pyro_guide").splitlines()
    visitors, buyers = 12 + 7 + 15 + 9 + 11 + 14 + 8 + 10, 3 + 2 + 6 + 2 + 4 + 3 + 1 + 4
    exact = (
        scipy.stats.gamma(2 + visitors, scale=1 / 8.2),
        scipy.stats.beta(1 + buyers, 1 + visitors - buyers),
    )
    for found, written, posterior in zip(lines[:3:2], lines[1:4:2], exact, strict=True):
        expected = [posterior.mean(), posterior.std()]
        assert numbers_in(written) == pytest.approx(expected, abs=1e-4)
        assert numbers_in(found) == pytest.approx(expected, rel=0.02)
    names = "rate$$$raw_concentration, rate$$$raw_location, share$$$raw_total"
    assert lines[4] == f"Pyro's store: {names}, share$$$raw_location"


# Flows, counts, images, policies


def test_a_zuko_flow_comes_near_the_density_of_moons() -> None:
    seen, new = (make_moons(1000, noise=0.1, random_state=seed)[0] for seed in (0, 1))
    angles = np.linspace(0.0, np.pi, 500)
    upper = np.stack([np.cos(angles), np.sin(angles)], -1)
    centres = np.concatenate([upper, [1.0, 0.5] - upper])
    squares = ((new[:, None, :] - centres) ** 2).sum(-1)
    truth = np.log(np.exp(-squares / 0.02).mean(-1) / (2 * np.pi * 0.01)).mean()
    rows = rows_of(printed_by("zuko_flow"))
    best = scipy.stats.multivariate_normal(seen.mean(0), np.cov(seen.T, bias=True))
    assert rows["Normal"] == pytest.approx([best.logpdf(x).mean() for x in (new, seen)], abs=2e-3)
    assert truth - 0.15 < rows["Flow"][0] < truth


def test_latent_vectors_tell_cells_apart() -> None:
    by_counts, by_latents = numbers_in(printed_by("cell_counts"))
    assert by_latents > by_counts + 10


def test_an_autoencoder_gains_and_policies_learn() -> None:
    # Above the cross-entropy of half-grey images, and below what 60 epochs reach.
    (bound,) = numbers_in(printed_by("digits_vae"))
    assert -64 * math.log(2) < bound < -24.6
    ((before, after),) = re.findall(r"seed 0: (-\d+) to (-\d+)", printed_by("policy_gradient"))
    assert int(before) < int(after) < 0
    first, last = numbers_in(printed_by("sac_actor"))
    assert last > max(first / 2, -0.5)


def test_squashed_policies_print_what_they_say() -> None:
    tanh, interval = printed_by("squashed_policy").splitlines()
    assert re.findall(r"[\d.]+%", interval) == ["100.00%", "0.00%", "0.00%"]
    own, boundary, lost = re.findall(r"[\d.]+%", tanh)
    assert own == "100.00%"
    assert boundary == lost
    said = float(re.findall(r"([\d.]+) %", doc_of("squashed_policy"))[0])
    assert float(lost.rstrip("%")) == pytest.approx(said, abs=0.2)


def test_survival_reaches_what_lifelines_publishes() -> None:
    first, *weights = printed_by("survival").splitlines()
    assert first == "In weeks: log likelihood -679.917, log shape 0.339"
    found = [numbers_in(line)[0] for line in weights]
    # The coefficients of lifelines' WeibullAFTFitter, in the order of the columns.
    np.testing.assert_allclose(found, [0.272, 0.041, -0.225, 0.107, 0.311, 0.059, -0.066], 0, 6e-4)

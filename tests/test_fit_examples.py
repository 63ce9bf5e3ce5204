"""The examples of fits to real data, against references that do not know this library."""

from __future__ import annotations

import ast
import re
from functools import cache

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from tests.running_examples import EXAMPLES, example, numbers_in, process

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("bayesian_regression", "logistic_regression")


@cache
def smoke(name: str) -> str:
    """What an example prints with `--smoke`."""
    done = process(EXAMPLES / f"{name}.py", "--smoke")
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_docstring_says_how_to_run_it(name: str) -> None:
    text = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text()))
    assert text is not None
    assert text.endswith(f"\n\n    python examples/{name}.py")
    assert "`--smoke`" in text


# A regression with unknown noise


def diabetes() -> tuple[np.ndarray, np.ndarray]:
    data = load_diabetes()
    return (
        (data.data - data.data.mean(0)) / data.data.std(0),
        (data.target - data.target.mean()) / data.target.std(),
    )


def given_noise(noise: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean and covariance of the weights at a noise, and the log density of noise and data.

    The evidence is likelihood times prior over posterior, at weights of zero.
    """
    x, y = diabetes()
    covariance = np.linalg.inv(x.T @ x / noise**2 + np.eye(10) / 0.5**2)
    mean = covariance @ x.T @ y / noise**2
    zero = np.zeros(10)
    log_evidence = (
        scipy.stats.norm.logpdf(y, 0, noise).sum()
        + scipy.stats.norm.logpdf(zero, 0, 0.5).sum()
        - scipy.stats.multivariate_normal.logpdf(zero, mean, covariance)
    )
    return mean, covariance, log_evidence + scipy.stats.halfnorm.logpdf(noise)


@cache
def posterior_moments() -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of weights and noise, by Simpson's rule over the noise."""
    grid = np.linspace(0.5, 1.0, 201)
    means, covariances, logs = zip(*map(given_noise, grid), strict=True)
    density = np.exp(np.array(logs) - max(logs))

    def expected(values: np.ndarray) -> np.ndarray:
        weights = density.reshape(-1, *(1,) * (values.ndim - 1))
        above = scipy.integrate.simpson(weights * values, x=grid, axis=0)
        return above / scipy.integrate.simpson(density, x=grid)

    mean, noise = expected(np.array(means)), expected(grid)
    second = expected(
        np.array([np.diag(c) + m**2 for m, c in zip(means, covariances, strict=True)])
    )
    spread = np.append(second - mean**2, expected(grid**2) - noise**2)
    return np.append(mean, noise), np.sqrt(spread)


def test_the_exact_posterior_is_that_of_another_quadrature() -> None:
    x, y = diabetes()
    found = example("bayesian_regression").exact(x, y)
    mean, sd = posterior_moments()
    assert found.mean == pytest.approx(mean, abs=1e-6)
    assert found.sd == pytest.approx(sd, rel=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_guide_has_the_moments_of_the_posterior(seed: int) -> None:
    module = example("bayesian_regression")
    torch.manual_seed(seed)
    features, targets, _ = module.patients()
    regression = module.Regression(d=10, dtype=torch.float64)
    guide = module.guide_of(regression, module.Posterior(regression, features, targets), 300)
    found = module.moments_of(guide)
    mean, sd = posterior_moments()
    assert (abs(found.mean - mean) < 0.15 * sd).all()
    assert found.sd == pytest.approx(sd, rel=0.15)
    assert torch.equal(regression.weights, torch.zeros(10, dtype=torch.float64))


def test_the_log_joint_density_is_the_one_of_scipy() -> None:
    module = example("bayesian_regression")
    features, targets, _ = module.patients()
    posterior = module.Posterior(module.Regression(d=10, dtype=torch.float64), features, targets)
    weights = torch.randn(3, 2, 10, dtype=torch.float64)
    noise = torch.rand(3, 2, dtype=torch.float64) + 0.5
    found = posterior({"weights": weights, "noise": noise})
    x, y = diabetes()
    for at in np.ndindex(3, 2):
        w, s = weights[at].numpy(), noise[at].item()
        expected = (
            scipy.stats.norm.logpdf(y, x @ w, s).sum()
            + scipy.stats.norm.logpdf(w, 0, 0.5).sum()
            + scipy.stats.halfnorm.logpdf(s)
        )
        assert found[at].item() == pytest.approx(expected, rel=1e-10)


def test_both_modes_are_the_ridge_regression_at_the_best_noise() -> None:
    x, y = diabetes()

    def loss(log_noise: float) -> float:
        """The negative log density at the best weights, of the logarithm of the noise."""
        noise = np.exp(log_noise)
        w = np.linalg.solve(x.T @ x + 4 * noise**2 * np.eye(10), x.T @ y)
        likelihood = scipy.stats.norm.logpdf(y, x @ w, noise).sum()
        prior = scipy.stats.norm.logpdf(w, 0, 0.5).sum() + scipy.stats.halfnorm.logpdf(noise)
        return -(likelihood + prior + log_noise)

    best = scipy.optimize.minimize_scalar(loss, bounds=(-1.0, 0.0), options={"xatol": 1e-10}).x
    ridge = np.linalg.solve(x.T @ x + 4 * np.exp(best) ** 2 * np.eye(10), x.T @ y)
    module = example("bayesian_regression")
    features, targets, _ = module.patients()
    by_fit = module.mode_by_fit(features, targets)
    fresh = module.Regression(d=10, dtype=torch.float64)
    by_scipy = module.mode_by_scipy(fresh, module.Posterior(fresh, features, targets))
    for found in (by_fit, by_scipy):
        assert found.weights.detach().numpy() == pytest.approx(ridge, abs=1e-5)
        assert found.noise.item() == pytest.approx(np.exp(best), abs=1e-6)


def test_the_regression_says_what_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    module = example("bayesian_regression")
    module.main()
    printed = capsys.readouterr().out
    mean_off, sd_off = re.findall(r"at most ([\d.]+)", printed)
    said = re.search(r"at most ([\d.]+) standard deviations.*?at most ([\d.]+) %", doc(module))
    assert said is not None
    assert float(mean_off) <= float(said[1])
    assert float(sd_off) <= float(said[2])
    assert "Good: the guide is near the target" in printed
    rows = np.array([numbers_in(line)[-4:] for line in printed.splitlines()[2:13]])
    mean, sd = posterior_moments()
    assert rows[:, 0] == pytest.approx(mean, abs=1e-4)
    assert rows[:, 1] == pytest.approx(sd, abs=1e-4)


def doc(module: object) -> str:
    return " ".join((module.__doc__ or "").split())


# A logistic regression in mini-batches


@cache
def tumours() -> tuple[Tensor, Tensor]:
    features, labels = example("logistic_regression").patients()
    return features[:455], labels[:455]


def test_patients_are_all_of_them_standardised() -> None:
    data = load_breast_cancer()
    features, labels = example("logistic_regression").patients()
    expected = (data.data - data.data.mean(0)) / data.data.std(0)
    order = np.lexsort(expected.T)
    mine = np.lexsort(features.numpy().T)
    assert features.numpy()[mine] == pytest.approx(expected[order])
    assert (labels.numpy()[mine] == data.target[order]).all()


def test_the_mode_is_the_one_of_scikit_learn() -> None:
    features, labels = tumours()
    found = example("logistic_regression").mode(features, labels)
    expected = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)
    expected.fit(features.numpy(), labels.numpy())
    assert found.weights.detach().numpy() == pytest.approx(expected.coef_[0], abs=1e-4)
    assert found.intercept.item() == pytest.approx(expected.intercept_[0], abs=1e-4)


def by_hand(weights: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """The log joint density of draws `(s, 30)` and `(s,)`, with all patients that are seen."""
    features, labels = (tensor.numpy() for tensor in tumours())
    logits = weights @ features.T + intercept[:, None]
    likelihood = (labels * logits - np.logaddexp(0, logits)).sum(1)
    return likelihood + scipy.stats.norm.logpdf(weights).sum(1)


def test_batches_of_any_size_estimate_the_density_of_all() -> None:
    module = example("logistic_regression")
    features, labels = tumours()
    posterior = module.Posterior(module.Logistic(d=30, dtype=torch.float64))
    torch.manual_seed(0)
    draws = {
        "weights": torch.randn(5, 30, dtype=torch.float64),
        "intercept": torch.randn(5, dtype=torch.float64),
    }
    expected = by_hand(draws["weights"].numpy(), draws["intercept"].numpy())
    assert posterior(draws, features, labels).numpy() == pytest.approx(expected, rel=1e-10)
    for size in (65, 7, 1):  # those that an epoch of batches of 64 would end with, too
        estimates = [
            posterior(draws, features[at : at + size], labels[at : at + size]).numpy()
            for at in range(0, 455, size)
        ]
        assert np.mean(estimates, 0) == pytest.approx(expected, rel=1e-10)


@cache
def fitted(batch_size: int | None) -> tuple[np.ndarray, np.ndarray]:
    module = example("logistic_regression")
    torch.manual_seed(3)
    whole = {"num_samples": 16, "steps": 1000} if batch_size is None else {"steps": 2000}
    guide = module.guide_of(*tumours(), batch_size=batch_size, **whole)
    mean, sd = module.moments_of(guide)
    return mean.numpy(), sd.numpy()


def test_mini_batches_end_where_all_data_do() -> None:
    (mean, sd), (full_mean, full_sd) = fitted(65), fitted(None)
    assert (abs(mean - full_mean) < 0.15 * full_sd).all()
    assert sd == pytest.approx(full_sd, rel=0.15)


def test_that_is_near_the_posterior() -> None:
    """By importance sampling from a t distribution that was fitted to nothing but its mode."""
    features, labels = (tensor.numpy() for tensor in tumours())
    design = np.hstack([features, np.ones((455, 1))])
    mode = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(features, labels)
    center = np.append(mode.coef_[0], mode.intercept_)
    right = 1 / (1 + np.exp(-design @ center))
    curvature = design.T @ (design * (right * (1 - right))[:, None])
    curvature += np.diag([1.0] * 30 + [0.0])
    proposal = scipy.stats.multivariate_t(center, 1.2 * np.linalg.inv(curvature), df=20, seed=0)
    draws = proposal.rvs(200_000)
    logs = by_hand(draws[:, :30], draws[:, 30]) - proposal.logpdf(draws)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    assert 1 / (weights**2).sum() > 1000
    mean = weights @ draws
    sd = np.sqrt(weights @ (draws - mean) ** 2)
    found_mean, found_sd = fitted(65)
    assert (abs(found_mean - mean) < 0.15 * sd).all()
    assert found_sd == pytest.approx(sd, rel=0.15)


def test_the_logistic_regression_resumes_bit_for_bit_and_predicts() -> None:
    lines = smoke("logistic_regression").splitlines()
    assert float(lines[0].split()[-1].rstrip(".")) < 1e-4
    assert lines[1].endswith("ends at the same numbers: True.")
    for line in lines[4:]:
        right, nats = numbers_in(line)
        assert right > 94
        assert -0.12 < nats < -0.05

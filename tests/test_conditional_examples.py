"""The examples of prediction from a context, against references that do not know this library."""

from __future__ import annotations

import ast
import copy
import math
import pickle
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.integrate
import torch
import torch.distributions as dd
from sklearn.datasets import load_diabetes

from declarative_dist import median
from tests.policy_stress import ByHand, declared, stress
from tests.running_examples import EXAMPLES, example, numbers_in, process

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.xdist_group("conditional examples"),  # each is run once
]

NAMES = (
    "heteroscedastic_regression",
    "mixture_density_network",
    "digits_vae",
    "policy_gradient",
    "sac_actor",
)


@cache
def smoke(name: str, *flags: str | Path) -> str:
    """What an example prints with `--smoke`."""
    done = process(EXAMPLES / f"{name}.py", "--smoke", *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_docstring_says_how_to_run_it(name: str) -> None:
    text = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text()))
    assert text is not None
    assert text.endswith(f"\n\n    python examples/{name}.py")
    assert "`--smoke`" in text


# Heteroscedastic regression


def least_squares() -> float:
    """The log likelihood per row at the least squares of all patients, by the normal equations."""
    data = load_diabetes()
    design = np.concatenate([np.ones((442, 1)), data.data], 1)
    target = (data.target - data.target.mean()) / data.target.std()
    residual = target - design @ np.linalg.solve(design.T @ design, design.T @ target)
    return -0.5 * math.log(2 * math.pi * (residual**2).mean()) - 0.5


def test_constant_noise_reaches_least_squares_and_predicted_noise_passes_it() -> None:
    lines = smoke("heteroscedastic_regression").splitlines()
    (sklearn,), (constant,), (predicted,) = (numbers_in(line) for line in lines[1:4])
    assert sklearn == pytest.approx(least_squares(), abs=2e-5)
    assert constant == pytest.approx(least_squares(), abs=0.01)
    assert predicted > constant + 0.03
    for line, reference in zip(lines[5:], (constant, predicted), strict=True):
        seen, new, first = numbers_in(line)
        assert seen == pytest.approx(reference, abs=0.05)
        assert new == pytest.approx(first, abs=1e-3)
        assert new < seen


def test_constant_noise_is_where_the_normal_equations_end() -> None:
    module = example("heteroscedastic_regression")
    features, targets = module.patients()
    q = module.regress(module.ConstantNoise, features, targets)
    assert module.per_row(q, features, targets) == pytest.approx(least_squares(), abs=1e-8)
    expected = torch.linalg.lstsq(features, targets[:, None]).solution[:, 0]
    torch.testing.assert_close(q.projection.weight[0].detach(), expected, rtol=0.0, atol=1e-5)
    assert [name for name, _ in q.named_parameters()] == [
        "raw_scale",
        "projection.weight",
        "projection.bias",
    ]


def test_regression_says_what_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    module = example("heteroscedastic_regression")
    module.main()
    lines = capsys.readouterr().out.splitlines()
    said = numbers_in(module.__doc__)
    whole = [numbers_in(line)[0] for line in lines[2:4]]
    parts = [number for line in lines[5:] for number in numbers_in(line)[:2]]
    assert said == pytest.approx([*whole, *parts], abs=1e-3)
    constant, predicted = (numbers_in(line)[2:] for line in lines[5:])
    assert sum(p > c for c, p in zip(constant, predicted, strict=True)) == 3


# A mixture density network


def test_a_mixture_is_half_a_nat_above_one_normal() -> None:
    truth, single, mixture = (
        numbers_in(line)[0] for line in smoke("mixture_density_network").splitlines()[:3]
    )
    assert single + 0.5 < mixture < truth


def test_the_true_density_is_that_of_bayes() -> None:
    module = example("mixture_density_network")

    def joint(y: float, x: float) -> float:
        z = (x - y - 0.3 * math.sin(2 * math.pi * y)) / 0.03
        return math.exp(-0.5 * z**2) / (0.03 * math.sqrt(2 * math.pi))

    for x, y in ((0.5, 0.22), (0.5, 0.35), (0.1, 0.03), (0.9, 0.95)):
        total, _ = scipy.integrate.quad(joint, 0, 1, args=(x,), limit=500)
        found = module.true_log_density(torch.tensor([[x]]), torch.tensor([y]))
        assert found.item() == pytest.approx(math.log(joint(y, x) / total), abs=1e-3)


def test_the_mixture_finds_the_three_inverses_and_the_gaps() -> None:
    truth, single, mixture = (
        np.array([float(n) for n in line.split()[-10:]])
        for line in smoke("mixture_density_network").splitlines()[4:]
    )
    assert truth.sum() == pytest.approx(100, abs=5)
    assert abs(mixture - truth).max() <= 8
    assert abs(single - truth).max() > 8


# A variational autoencoder


def test_the_declared_autoencoder_is_the_one_by_hand(tmp_path: Path) -> None:
    declared, by_hand = numbers_in(smoke("digits_vae", "--picture", tmp_path / "digits.png"))
    assert declared == pytest.approx(by_hand, abs=0.01)
    # Above the cross-entropy of half-grey images, and below what 60 epochs reach.
    assert -64 * math.log(2) < declared < -24.7
    header = (tmp_path / "digits.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(header[16:20], "big") == 4 * int.from_bytes(header[20:24], "big")


def test_no_picture_without_matplotlib_says_which_extra() -> None:
    code = """
import sys
sys.modules["matplotlib"] = None
import digits_vae
from pathlib import Path
seen, _ = digits_vae.digits()
digits_vae.save_picture(digits_vae.Declared(), seen[:2], Path("never.png"))
"""
    done = process("-c", code)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last == "ImportError: A picture needs: pip install 'declarative-dist[plot]'"


def test_one_image_scores_as_in_double_precision_by_hand() -> None:
    module = example("digits_vae")
    model = module.Declared().double()
    image = module.digits()[0][:3].double()
    q = model.encoder(image)
    torch.manual_seed(5)
    found = model(image)
    torch.manual_seed(5)
    z = q.mean + q.stddev * torch.randn(3, module.LATENTS, dtype=torch.float64)
    black = model.decoder.network(z).sigmoid()
    likelihood = (image * black.log() + (1 - image) * (1 - black).log()).sum((1, 2, 3))
    log_ratio = dd.kl_divergence(dd.Normal(q.mean, q.stddev), dd.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(found, likelihood - log_ratio, rtol=1e-10, atol=0.0)


def test_a_decoder_keeps_the_shape_of_its_images_and_takes_grey() -> None:
    module = example("digits_vae")
    decoder = module.Decoder(network=module.upwards())
    assert decoder.projection is None
    images = decoder(torch.zeros(5, module.LATENTS))
    assert (images.batch_shape, images.event_shape) == ((5,), (1, 8, 8))
    grey = torch.full((5, 1, 8, 8), 0.5)
    assert images.log_prob(grey).isfinite().all()

    class Strict(module.Decoder):  # type: ignore[name-defined,misc]
        validate_args = True

    with pytest.raises(ValueError, match="support"):
        Strict(network=module.upwards())(torch.zeros(5, module.LATENTS)).log_prob(grey)


# A policy


def test_the_policy_prints_returns() -> None:
    (returns,) = re.findall(r"seed 0: (-\d+) to (-\d+)", smoke("policy_gradient"))
    assert int(returns[0]) < int(returns[1]) < 0


@pytest.mark.parametrize("seed", [0, 1])
def test_the_policy_learns(seed: int) -> None:
    history, scale = example("policy_gradient").learn(seed, iterations=20)
    assert history[0] < -1000
    assert np.mean(history[-3:]) > history[0] + 700
    assert 0.0 < scale < 0.65


@pytest.mark.parametrize("rate", [0.05, 1.0, 10.0])
@pytest.mark.parametrize("passes", [1, 10])
def test_no_learning_rate_breaks_the_scale(passes: int, rate: float) -> None:
    count, low, high = stress(declared(), rate, passes, steps=1000)
    assert count == 1000
    assert 1e-18 <= low <= high <= 1e18


@pytest.mark.parametrize("passes", [1, 10])
def test_a_bare_exponential_breaks(passes: int) -> None:
    count, _, _ = stress(ByHand(), 10.0, passes, steps=1000)
    assert count < 500


def test_advantages_are_sums_of_discounted_errors() -> None:
    module = example("policy_gradient")
    rewards, values = torch.randn(6, 2), torch.randn(7, 2)
    errors = rewards + module.DISCOUNT * values[1:] - values[:-1]
    decay = (module.DISCOUNT * module.TRACE) ** torch.arange(6.0)
    expected = torch.stack([(decay[: 6 - t, None] * errors[t:]).sum(0) for t in range(6)])
    torch.testing.assert_close(module.advantages_of(rewards, values), expected)


# An actor with the bounds of an action space


def test_the_actor_stays_in_its_bounds_and_learns() -> None:
    module = example("sac_actor")
    before, after = module.main(steps=50)
    assert after > max(before / 2, -0.5)
    actor = module.make_actor(4, module.LOW, module.HIGH)
    states = torch.randn(1000, 4)
    for each in (actor, pickle.loads(pickle.dumps(actor)), copy.deepcopy(actor).double()):
        policy = each(states.to(each.base_distribution.projection.weight.dtype))
        actions, scores = policy.rsample(), policy.log_prob(policy.sample())
        assert scores.shape == (1000,)
        assert ((actions >= module.LOW) & (actions <= module.HIGH)).all()
        torch.testing.assert_close(
            median(policy).float(), median(actor(states)), rtol=1e-4, atol=1e-4
        )
    assert {"transforms.1.loc", "transforms.1.scale"} <= actor.state_dict().keys()

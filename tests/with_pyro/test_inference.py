"""Live distributions in Pyro's inference: plates, traces, the store of parameters, SVI."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as pd
import pytest
import torch
import torch.distributions as dd
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from declarative_dist import Exp, Param, Positive, Variational, learnable
from tests.composites import real, spread


@pytest.fixture(autouse=True)
def empty_param_store() -> None:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


class Gaussian(Variational):
    base = pd.Normal
    loc = Param(0.0)
    scale = Param(1.0, Exp())


class Diagonal(Variational):
    base = pd.Normal
    event_dim = 1
    loc = Param(torch.zeros(2))
    scale = Param(torch.ones(2))


class Chance(Variational):
    base = pd.Beta
    concentration1 = Param(1.0, Positive())
    concentration0 = Param(1.0, Positive())


def fitted(model: Any, guide: Any, steps: int, loss: Any, lr: float, decay: float) -> None:
    optimizer = pyro.optim.ClippedAdam({"lr": lr, "lrd": decay ** (1 / steps)})
    svi = SVI(model, guide, optimizer, loss)
    for _ in range(steps):
        svi.step()


def test_a_normal_posterior() -> None:
    y = torch.tensor([1.0, 2.5, 0.5, 2.0])
    q = Gaussian()

    def model() -> None:
        theta = pyro.sample("theta", pd.Normal(0.0, 2.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", pd.Normal(theta, 1.0), obs=y)

    def guide() -> None:
        pyro.module("q", q)
        pyro.sample("theta", q())

    loss = Trace_ELBO(num_particles=8, vectorize_particles=True)
    fitted(model, guide, 250, loss, lr=0.05, decay=0.03)
    precision = 1 / 4 + len(y)
    assert q.loc.item() == pytest.approx(y.sum().item() / precision, abs=0.05)
    assert q.scale.item() == pytest.approx(precision**-0.5, abs=0.04)
    assert set(pyro.get_param_store()) == {"q$$$raw_loc", "q$$$raw_scale"}
    stored = pyro.get_param_store()["q$$$raw_loc"]
    assert torch.equal(stored, q.raw_loc)


def test_a_beta_posterior_with_an_exact_divergence() -> None:
    heads, tails = 7, 3
    q = Chance()

    def model() -> None:
        p = pyro.sample("p", pd.Beta(2.0, 2.0))
        pyro.sample("heads", pd.Binomial(heads + tails, p), obs=torch.tensor(float(heads)))

    def guide() -> None:
        pyro.module("q", q)
        pyro.sample("p", q())

    loss = TraceMeanField_ELBO(num_particles=64, vectorize_particles=True)
    fitted(model, guide, 250, loss, lr=0.3, decay=0.3)
    posterior = dd.Beta(2.0 + heads, 2.0 + tails)
    assert q.mean.item() == pytest.approx(posterior.mean.item(), abs=0.02)
    assert q.stddev.item() == pytest.approx(posterior.stddev.item(), abs=0.02)


def test_a_nested_guide_holds_all_its_names() -> None:
    q = learnable(
        pd.MixtureSameFamily(
            pd.Categorical(logits=torch.zeros(2)),
            pd.TransformedDistribution(
                pd.Normal(torch.zeros(2), torch.ones(2)), [dd.AffineTransform(real(2), 2.0)]
            ),
        )
    )
    pyro.module("nest", q)
    assert set(pyro.get_param_store()) == {f"nest$$${name}" for name, _ in q.named_parameters()}
    assert len(pyro.get_param_store()) == 4
    pyro.sample("x", q())
    q.log_prob(torch.tensor(0.3)).backward()
    assert len(pyro.get_param_store()) == 4


def test_frozen_parameters_and_constants_stay_out_of_the_store() -> None:
    q = learnable(pd.Normal(torch.zeros(2), torch.ones(2)), fixed=("scale",))
    pyro.module("q", q)
    assert set(pyro.get_param_store()) == {"q$$$raw_loc"}


def test_saved_parameters_come_back() -> None:
    q, other = Gaussian(), Gaussian()
    pyro.module("q", q)
    with torch.no_grad():
        q.raw_loc.fill_(3.0)
    pyro.module("q", other, update_module_params=True)
    assert other.loc.item() == 3.0


@pytest.mark.parametrize("size", [1, 5])
def test_plates_broadcast_it(size: int) -> None:
    q = Diagonal()

    def model() -> Tensor:
        with pyro.plate("rows", size):
            return pyro.sample("x", q())

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    x = trace.nodes["x"]["value"]
    assert x.shape == (size, 2)
    assert trace.nodes["x"]["log_prob"].shape == (size,)
    torch.testing.assert_close(trace.log_prob_sum(), q.log_prob(x).sum())


def test_live_expand() -> None:
    q = Diagonal()
    view = q.expand((4,))
    assert isinstance(view(), pd.Independent)
    with torch.no_grad():
        q.raw_loc.fill_(7.0)
    with pyro.plate("rows", 4):
        x = pyro.sample("x", view())
    assert x.shape == (4, 2)
    assert x.mean().item() == pytest.approx(7.0, abs=2.0)
    expected = pd.Normal(torch.full((4, 2), 7.0), 1.0).to_event(1).log_prob(x)
    torch.testing.assert_close(view.log_prob(x), expected)


def test_conditioning_and_replaying() -> None:
    q = Diagonal()

    def guide() -> Tensor:
        return pyro.sample("x", q())

    value = torch.tensor([0.3, -0.4])
    conditioned = poutine.trace(poutine.condition(guide, data={"x": value})).get_trace()
    torch.testing.assert_close(conditioned.log_prob_sum(), q.log_prob(value))
    trace = poutine.trace(guide).get_trace()
    again = poutine.trace(poutine.replay(guide, trace=trace)).get_trace()
    assert torch.equal(again.nodes["x"]["value"], trace.nodes["x"]["value"])
    scaled = poutine.trace(poutine.scale(poutine.condition(guide, data={"x": value}), scale=3.0))
    torch.testing.assert_close(scaled.get_trace().log_prob_sum(), 3 * q.log_prob(value))


def test_to_event_mask_and_has_rsample() -> None:
    q = learnable(pd.Normal(real(3), spread(3)))
    x = torch.zeros(3)
    torch.testing.assert_close(q().to_event(1).log_prob(x), q.log_prob(x).sum())
    mask = torch.tensor([True, False, True])
    torch.testing.assert_close(q().mask(mask).log_prob(x), q.log_prob(x) * mask)
    assert q().has_rsample_(False).has_rsample is False
    assert q().has_rsample


def test_enumeration() -> None:
    q = learnable(pd.Categorical(logits=real(3)))

    def model() -> None:
        z = pyro.sample("z", q(), infer={"enumerate": "parallel"})
        pyro.sample("y", pd.Normal(real(3)[z], 1.0), obs=torch.tensor(0.5))

    elbo = pyro.infer.TraceEnum_ELBO(max_plate_nesting=0)
    loss = elbo.differentiable_loss(model, lambda: None)
    mixture = pd.MixtureSameFamily(pd.Categorical(logits=real(3)), pd.Normal(real(3), 1.0))
    torch.testing.assert_close(loss, -mixture.log_prob(torch.tensor(0.5)))
    loss.backward()
    assert q.raw_logits.grad.abs().sum() > 0

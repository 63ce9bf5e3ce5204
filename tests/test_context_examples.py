"""The examples of joints of a context, against references that do not know this library."""

from __future__ import annotations

import ast

import pytest
import torch
import torch.distributions as dd
from torch.nn.functional import log_softmax

from declarative_dist.objectives import NegativeLogLikelihood
from tests.running_examples import EXAMPLES, example, numbers_in

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["hierarchy", "marks_and_times"])
def test_docstring_says_how_to_run_it(name: str) -> None:
    source = (EXAMPLES / f"{name}.py").read_text()
    text = ast.get_docstring(ast.parse(source))
    assert text is not None
    assert text.endswith(f"\n\n    python examples/{name}.py")
    assert "`--smoke`" in text
    assert source.count("\n") <= 100


def test_globals_of_a_hierarchy_in_mini_batches(capsys: pytest.CaptureFixture[str]) -> None:
    example("hierarchy").main(1000, 100, 320)
    mu, sd_mu, on_mu, on_sd_mu, tau, sd_tau, on_tau, on_sd_tau = numbers_in(
        capsys.readouterr().out
    )
    assert abs(mu - on_mu) < 0.1 * on_sd_mu
    assert abs(tau - on_tau) < 0.1 * on_sd_tau
    assert sd_mu == pytest.approx(on_sd_mu, rel=0.15)
    assert sd_tau == pytest.approx(on_sd_tau, rel=0.15)


def test_marks_and_times_are_what_plain_torch_makes_of_them() -> None:
    module = example("marks_and_times")
    torch.manual_seed(0)
    gap, kind, best = module.sequences(50, 20)
    network = module.History()
    model = module.Next(in_features=16, kinds=2, network=network)
    seen = torch.stack([gap.log(), 1.0 - kind, kind.float()], -1)[:, :-1]
    features = network.lstm(seen)[0]
    loc, log_scale = model.gap.projection(features).unbind(-1)
    logits, slope = model.projection(features).split([2, 2], -1)
    new_gap, new_kind = gap[:, 1:], kind[:, 1:]
    kinds = log_softmax(logits + slope * new_gap.log()[..., None], -1)
    expected = dd.Normal(loc, log_scale.exp()).log_prob(new_gap.log()) - new_gap.log()
    expected = expected + kinds.gather(-1, new_kind[..., None])[..., 0]
    context = module.encode(gap, kind)[:, :-1]
    loss = NegativeLogLikelihood(model)(context, gap=new_gap, kind=new_kind)
    torch.testing.assert_close(loss, -expected.mean())
    assert loss > best
    assert module.simulate(model, 3, 5)["kind"].shape == (3, 5)

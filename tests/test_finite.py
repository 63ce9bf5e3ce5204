"""One level above constraints: finite densities and gradients at every finite raw number.

For every base and any finite raw parameters, the log density of its own sample and its gradients
are finite. Where torch's draws leave the dtype, or its density fails at draws of extreme
parameters, the base is listed in `tests/limits.py` with the reason: no guard narrows the model for
that.
"""

from __future__ import annotations

import zlib

import pytest
import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist import Variational, learnable
from tests.cases import DECLARED, PLAIN
from tests.limits import EXTREME, SOLVED

DRAWS = 40
EXTREMES = (
    0.0, 1.0, -1.0, 5.0, -5.0, 17.0, -17.0, 40.0, -40.0, 89.0, -104.0, 700.0, -700.0, 1e3, -1e3,
    1e4, -1e4,
)  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore:Singular sample:UserWarning")


def extreme_raws(shape: torch.Size, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Every entry one of the extremes, now and then all of them the same one."""
    info = torch.finfo(dtype)
    ends = [info.max, info.min, info.tiny, info.smallest_normal / 4, info.eps]
    values = torch.tensor([*EXTREMES, *ends], dtype=torch.float64)
    choice = torch.randint(len(values), shape, generator=generator)
    if torch.rand((), generator=generator) < 0.3:
        choice = torch.full_like(choice, int(torch.randint(len(values), (), generator=generator)))
    return values[choice].to(dtype)


def not_finite(q: Variational, dtype: torch.dtype, seed: int) -> list[str]:
    """What was not finite in some draws at extreme raw numbers."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(DRAWS):
        with torch.no_grad():
            for parameter in q.parameters():
                parameter.copy_(extreme_raws(parameter.shape, dtype, generator))
        x = q.rsample((3,)) if q.has_rsample else q.sample((3,))
        for value in (x, x.detach()):
            q.zero_grad()
            log_prob = q.log_prob(value)
            log_prob.sum().backward(retain_graph=True)
            if not log_prob.isfinite().all():
                found.append(f"log_prob at {q.constrained_values()}")
            found += [
                f"gradient of {name} at {q.constrained_values()}"
                for name, parameter in q.named_parameters()
                if parameter.grad is not None and not parameter.grad.isfinite().all()
            ]
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", [*PLAIN, "declared", "bounds", "event_dim", "constant"])
def test_density_and_gradients_are_finite(name: str, dtype: torch.dtype) -> None:
    q = (learnable(PLAIN[name]()) if name in PLAIN else DECLARED[name]()).to(dtype)
    seed = zlib.crc32(name.encode())
    if name in EXTREME and dtype in EXTREME[name][0]:
        with pytest.raises((ValueError, RuntimeError, AssertionError)):
            assert not_finite(q, dtype, seed) == []
        return
    assert not_finite(q, dtype, seed) == []


@pytest.mark.parametrize(
    "name", ["Normal", "Laplace", "Exponential", "Bernoulli-logits", "Gumbel", "Cauchy"]
)
def test_bfloat16_where_torch_samples_in_it(name: str) -> None:
    q = learnable(PLAIN[name]()).to(torch.bfloat16)
    assert not_finite(q, torch.bfloat16, 0) == []


def test_float16_is_too_narrow_for_squares_of_its_own_band() -> None:
    """The reason why float16 is no part of this promise: 1 / 1e-3**2 is not finite in it."""
    assert (torch.tensor(1e-3, dtype=torch.float16) ** -2).isinf()
    q = learnable(PLAIN["Normal"]()).half()
    assert not_finite(q, torch.float16, 0) != []


MATRICES = {
    "scale_tril": lambda n: dd.MultivariateNormal(torch.zeros(n), scale_tril=torch.eye(n)),
    "covariance": lambda n: dd.MultivariateNormal(torch.zeros(n), torch.eye(n)),
    "low rank": lambda n: dd.LowRankMultivariateNormal(
        torch.zeros(n), torch.ones(n, 2), torch.ones(n)
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(
    ("kind", "size"), [("scale_tril", 8), ("covariance", 16), ("low rank", 16)]
)
def test_larger_normals(kind: str, size: int, dtype: torch.dtype) -> None:
    found = not_finite(learnable(MATRICES[kind](size)).to(dtype), dtype, 1)
    assert bool(found) == (kind == "scale_tril" and dtype is torch.float32), SOLVED


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_sixteen_rows_of_extreme_factors_are_too_many(dtype: torch.dtype) -> None:
    """Forward substitution multiplies the ratios of all rows; a covariance matrix stays finite."""
    assert not_finite(learnable(MATRICES["scale_tril"](16)).to(dtype), dtype, 1) != []

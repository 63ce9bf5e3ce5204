"""Unconstrained densities of single sites integrate to one, whatever their support."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributions as dd
from torch import Tensor, tensor

from declarative_dist import Joint, site
from tests.cases import PLAIN


def _scalar(make: Callable[[], dd.Distribution]) -> bool:
    distribution = make()
    is_continuous = not distribution.support.is_discrete
    return is_continuous and not distribution.event_shape and distribution.batch_shape == (2,)


_NO_FLOAT64 = ("GeneralizedPareto",)  # torch scores it in float32 alone

SITES: dict[str, Callable[[], dd.Distribution]] = {
    **{name: make for name, make in PLAIN.items() if _scalar(make) and name not in _NO_FLOAT64},
    "circle, shifted": lambda: dd.TransformedDistribution(
        dd.VonMises(tensor([0.5, 3.0]), tensor([1.0, 4.0])), dd.AffineTransform(1.0, -2.0)
    ),
    "circles, mixed": lambda: dd.MixtureSameFamily(
        dd.Categorical(tensor([[0.3, 0.7], [0.5, 0.5]])),
        dd.VonMises(tensor([[0.5, 3.0], [0.1, 0.2]]), tensor(2.0)),
    ),
    "half line, moved": lambda: dd.TransformedDistribution(
        dd.HalfNormal(tensor([1.0, 2.0])), dd.AffineTransform(tensor([3.0, -3.0]), 2.0)
    ),
    "half line, turned": lambda: dd.TransformedDistribution(
        dd.Exponential(tensor([1.0, 2.0])), dd.AffineTransform(tensor([3.0, -3.0]), -2.0)
    ),
    "interval, moved": lambda: dd.TransformedDistribution(
        dd.Beta(tensor([1.0, 2.0]), tensor([3.0, 2.0])), dd.AffineTransform(-1.0, 2.0)
    ),
}


MOVED = ("Gamma", "Normal", "VonMises", "circles, mixed", "half line, turned", "interval, moved")
"""Every kind of support: the line, half a line up and down, between two ends, a circle."""


@pytest.mark.parametrize(
    ("name", "moves"), [*((name, False) for name in SITES), *((name, True) for name in MOVED)]
)
def test_a_density_of_a_site_integrates_to_one(name: str, moves: bool) -> None:
    given = SITES[name]()

    class Fixed(Joint):
        x = dd.Independent(given, 1)

    class Moving(Joint):
        origin = dd.Normal(tensor(0.0), tensor(1.0))

        @site(event_dim=1)
        def x(self, origin: Tensor) -> dd.Distribution:
            moved = dd.AffineTransform(origin[..., None], 1.0)
            return dd.TransformedDistribution(given, moved)

    joint = (Moving if moves else Fixed)(dtype=torch.float64)
    density = joint.condition(**({"origin": 0.25} if moves else {})).unconstrained_log_density()
    t = torch.linspace(-14.0, 14.0, 401, dtype=torch.float64)
    t1, t2 = torch.meshgrid(t, t, indexing="ij")
    log_volume = t1.cosh().log() + t2.cosh().log()
    height = (density(torch.stack([t1, t2], -1).sinh()) + log_volume).exp()
    # Torch's inverse gamma is NaN at the smallest numbers, where it has no mass.
    mass = torch.trapezoid(torch.trapezoid(height.nan_to_num(0.0), t), t)
    prior = dd.Normal(0.0, 1.0).log_prob(tensor(0.25)).exp() if moves else tensor(1.0)
    torch.testing.assert_close(mass, prior.double(), rtol=0.01, atol=0)


def test_moving_supports_are_the_same_under_vmap_and_when_compiled() -> None:
    class Moving(Joint):
        origin = dd.Normal(tensor(0.0), tensor(1.0))

        @site
        def x(self, origin: Tensor) -> dd.Distribution:
            half = dd.HalfNormal(torch.ones_like(origin), validate_args=False)
            moved = dd.AffineTransform(origin, 2.0)
            return dd.TransformedDistribution(half, moved, validate_args=False)

        @site
        def angle(self, origin: Tensor) -> dd.Distribution:
            turned = dd.AffineTransform(origin, -1.0)
            circle = dd.VonMises(torch.zeros_like(origin), tensor(2.0), validate_args=False)
            return dd.TransformedDistribution(circle, turned, validate_args=False)

    density = Moving().condition().unconstrained_log_density()
    vectors = torch.randn(5, 3)
    torch.testing.assert_close(torch.func.vmap(density)(vectors), density(vectors))
    compiled = torch.compile(density, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(vectors), density(vectors))

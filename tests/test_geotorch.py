"""geotorch's manifolds as constraints: orthonormal columns, low ranks, spheres."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import geotorch
import pytest
import torch
import torch.distributions as dd
import torch.nn.functional as F
from torch import Tensor, nn

from declarative_dist import (
    ConstraintError,
    DeclarationError,
    Declarative,
    Exp,
    MeanFieldNormal,
    Param,
    Variational,
    derived,
)
from declarative_dist.testing import check_distribution


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rotation(seed: int, size: int = 4) -> Tensor:
    """An orthogonal matrix of determinant one."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(size, size, generator=generator))
    q[:, 0] *= torch.det(q).sign()
    return q


def low_rank() -> Tensor:
    return drawn(5, 2) @ torch.arange(8.0).reshape(2, 4).cos()


def is_orthogonal(value: Tensor) -> bool:
    return torch.allclose(value.mT @ value, torch.eye(value.shape[-1]), atol=1e-4)


def has_rank_two(value: Tensor) -> bool:
    return torch.linalg.matrix_rank(value, rtol=1e-4).item() == 2


def is_positive(value: Tensor) -> bool:
    return bool((torch.linalg.eigvalsh(value) > -1e-5).all())


def is_skew(value: Tensor) -> bool:
    return torch.equal(value, -value.mT)


def is_one(measure: Callable[[Tensor], Tensor]) -> Callable[[Tensor], bool]:
    return lambda value: measure(value).item() == pytest.approx(1.0, abs=1e-5)


MANIFOLDS: dict[str, tuple[Callable[[], nn.Module], Tensor, Callable[[Tensor], bool]]] = {
    "Sphere": (lambda: geotorch.Sphere((5,)), F.normalize(drawn(5), dim=0), is_one(Tensor.norm)),
    "SO": (lambda: geotorch.SO((4, 4)), rotation(0), is_orthogonal),
    "Stiefel": (lambda: geotorch.Stiefel((5, 3)), rotation(0, 5)[:, :3], is_orthogonal),
    "Grassmannian": (lambda: geotorch.Grassmannian((5, 3)), rotation(0, 5)[:, :3], is_orthogonal),
    "AlmostOrthogonal": (
        lambda: geotorch.AlmostOrthogonal((4, 4), lam=0.3), rotation(0),
        lambda x: bool((torch.linalg.svdvals(x) - 1).abs().max() < 0.31)),
    "Skew": (lambda: geotorch.Skew((4, 4)), drawn(4, 4) - drawn(4, 4).mT, is_skew),
    "PSD": (lambda: geotorch.PSD((4, 4)), torch.eye(4) + 0.1, is_positive),
    "PSSDLowRank": (
        lambda: geotorch.PSSDLowRank((5, 5), rank=2), drawn(5, 2) @ drawn(5, 2).mT,
        lambda x: has_rank_two(x) and is_positive(x)),
    "LowRank": (lambda: geotorch.LowRank((5, 4), rank=2), low_rank(), has_rank_two),
    "FixedRank": (lambda: geotorch.FixedRank((5, 4), rank=2), low_rank(), has_rank_two),
    "SL": (lambda: geotorch.SL((4, 4)), rotation(0), is_one(Tensor.det)),
}  # fmt: skip


@pytest.mark.parametrize("name", MANIFOLDS)
def test_a_parameter_moves_on_its_manifold(name: str) -> None:
    make, start, is_on = MANIFOLDS[name]

    class Holder(Declarative):
        x = Param(start, make())

    module = Holder()
    torch.testing.assert_close(module.x, start, atol=1e-5, rtol=1e-5)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    direction = drawn(*start.shape, seed=2)
    for _ in range(5):
        optimizer.zero_grad()
        (module.x * direction).sum().backward()
        optimizer.step()
    assert not torch.allclose(module.x, start, atol=1e-3)
    assert is_on(module.x.detach())
    again = Holder()
    again.load_state_dict(module.state_dict())
    for other in (again, copy.deepcopy(module)):
        torch.testing.assert_close(other.x, module.x)
    moved = module.x.detach().clone()
    module.reset_parameters()
    torch.testing.assert_close(module.x, start, atol=1e-5, rtol=1e-5)
    module.x = moved
    torch.testing.assert_close(module.x, moved, atol=1e-4, rtol=1e-4)


class Axes(Declarative):
    """A manifold whose inverse moves a base point that it keeps."""

    axes = Param(rotation(0), geotorch.SO((4, 4)))
    scale = Param(1.0, Exp())


@pytest.fixture
def trained() -> Axes:
    """An instance that is away from the base point."""
    module = Axes()
    with torch.no_grad():
        module.raw_axes.copy_(0.1 * drawn(4, 4))
    return module


def test_a_refused_value_leaves_the_base_point(trained: Axes) -> None:
    before = trained.axes.detach().clone()
    with pytest.raises(ConstraintError, match=r"^Axes\.axes: expected a value that SO maps onto"):
        trained.axes = 2 * torch.eye(4)
    assert torch.equal(trained.axes, before)
    with pytest.raises(ConstraintError, match=r"^Axes\.scale"):
        trained.assign(axes=rotation(1), scale=-1.0)
    assert torch.equal(trained.axes, before)
    assert not trained.raw_axes_constraint.contains(2 * torch.eye(4)).any()
    assert trained.raw_axes_constraint.contains(rotation(1)).all()
    assert torch.equal(trained.axes, before)
    trained.assign(axes=rotation(1), scale=3.0)
    torch.testing.assert_close(trained.axes, rotation(1))


def test_instances_have_base_points_of_their_own(trained: Axes) -> None:
    before = trained.axes.detach().clone()
    other = Axes(axes=rotation(1))
    torch.testing.assert_close(other.axes, rotation(1))
    torch.testing.assert_close(Axes().axes, rotation(0))
    other.reset_parameters()
    torch.testing.assert_close(other.axes, rotation(1))
    assert torch.equal(trained.axes, before)
    assert torch.equal(pickle.loads(pickle.dumps(trained)).axes, before)


def test_an_instance_in_a_class_body_keeps_its_value(trained: Axes) -> None:
    before = trained.axes.detach().clone()

    class Outer(Declarative):
        part = trained

    outer = Outer()
    torch.testing.assert_close(outer.part.axes, before)
    assert torch.equal(trained.axes, before)
    outer.part.axes = rotation(1)
    outer.reset_parameters()
    torch.testing.assert_close(outer.part.axes, before)
    # Moved through its base point alone: the raw numbers are those of the start.
    trained.axes = rotation(2)

    class Again(Declarative):
        part = trained

    again = Again()
    again.part.axes = rotation(0)
    again.reset_parameters()
    torch.testing.assert_close(again.part.axes, rotation(2))


class Oriented(Variational):
    """A normal by its axes and the scales along them."""

    base = dd.MultivariateNormal
    loc = Param(torch.zeros(4))
    axes = Param(rotation(0), geotorch.SO((4, 4)))
    scales = Param(torch.tensor([1.0, 2.0, 3.0, 4.0]), Exp())

    @derived
    def covariance_matrix(self, axes: Tensor, scales: Tensor) -> Tensor:
        return axes * scales.square() @ axes.mT


def test_a_family_with_learned_axes() -> None:
    check_distribution(Oriented)
    data = Oriented().sample((4000,)) @ rotation(1)
    q = Oriented()
    optimizer = torch.optim.Adam(q.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        (-q.log_prob(data).mean()).backward()
        optimizer.step()
    expected = torch.cov(data.T)
    torch.testing.assert_close(q().covariance_matrix, expected, atol=0.5, rtol=0.1)


def test_what_manifolds_do_not_have_is_told() -> None:
    with pytest.raises(ConstraintError, match=r"^Oriented\.axes: .* whose log \|det J\| is known"):
        MeanFieldNormal(Oriented())
    with pytest.raises(DeclarationError, match="a module with right_inverse, got Symmetric"):

        class _(Declarative):
            x = Param(torch.eye(3), geotorch.Symmetric((3, 3)))

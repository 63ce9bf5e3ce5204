"""Where parts meet: who owns them, and what is refused when they do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor, nn

from declarative_dist import (
    ConstraintError,
    DeclarationError,
    Exp,
    Joint,
    LearnableTransform,
    Param,
    Variational,
    entropy,
    kl_divergence,
    learnable,
    site,
)
from tests.nests import Weights


class Rows(Variational):
    """Components with a batch dimension of their own in front."""

    base = dd.Normal
    loc = Param(torch.randn, shape=("m", "k"))
    scale = Param(1.0, Exp())


class Mixture(Variational):
    base = dd.MixtureSameFamily
    mixture_distribution = Weights
    component_distribution = Rows


def test_a_given_part_stays_as_it_was() -> None:
    weights = Weights(k=2, batch_shape=(3,))
    before = weights.raw_logits
    # Its copies would meet rows: it belongs to others too, so it is not lined up.
    with pytest.raises(ConstraintError, match="Mixture"):
        Mixture(mixture_distribution=weights, m=1, k=2, batch_shape=(3,))
    q = Mixture(mixture_distribution=weights, m=1, k=2)
    assert weights.raw_logits is before
    assert q.mixture_distribution is weights
    assert weights.log_prob(torch.zeros(3)).shape == (3,)


def test_assigning_a_part_leaves_the_others_as_they_were() -> None:
    q = Mixture(m=4, k=2, batch_shape=(3,))
    before = q.mixture_distribution.raw_logits
    q.component_distribution = Rows(m=4, k=2, batch_shape=(3,))
    assert q.mixture_distribution.raw_logits is before
    assert q.batch_shape == (3, 4)
    with pytest.raises(ConstraintError, match="Mixture"):
        q.component_distribution = Rows(m=4, k=5, batch_shape=(3,))
    assert q.mixture_distribution.raw_logits is before
    assert before.shape == (3, 2)


# Divergence through transforms that are learned.


def squashed(loc: float) -> Variational:
    base = dd.Normal(torch.full((2,), loc), 1.0)
    affine = dd.AffineTransform(torch.tensor(1.0), torch.tensor(2.0))
    nest = dd.TransformedDistribution(base, [affine, dd.TanhTransform()])
    return learnable(dd.Independent(nest, 1))


class Site(Joint):
    a = squashed(0.0)


def test_learned_transforms_have_no_formula_at_any_depth() -> None:
    p, q = squashed(0.0), squashed(1.0)
    for pair in ((p, q), (p, p), (Site(), Site(a=q))):
        with pytest.raises(NotImplementedError, match="learned, maybe apart"):
            kl_divergence(*pair)
    with torch.no_grad():
        torch.testing.assert_close(kl_divergence(p, q), torch.tensor(1.0))


# Joints.


class Density(dd.Distribution):
    """A likelihood that nobody can draw from."""

    arg_constraints = {"loc": dd.constraints.real}  # noqa: RUF012
    support = dd.constraints.real

    def __init__(self, loc: Tensor, validate_args: bool | None = None) -> None:
        self.loc = loc
        super().__init__(loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Density:
        return Density(self.loc.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return -(value - self.loc).abs()


class Observed(Joint):
    mu = dd.Normal(0.0, 1.0)

    @site
    def y(self, mu: Tensor) -> Density:
        return Density(mu)


def test_a_likelihood_without_a_sampler_is_scored_and_conditioned() -> None:
    joint = Observed()
    mu = torch.tensor([0.5, -1.0])
    expected = dd.Normal(0.0, 1.0).log_prob(mu) - (2.0 - mu).abs()
    torch.testing.assert_close(joint.condition(y=2.0)({"mu": mu}), expected)
    assert set(joint.condition(y=2.0).supports) == {"mu"}
    with pytest.raises(NotImplementedError, match=r"Observed\.y: Density has no sampler"):
        joint.sample()


def test_what_a_subclass_adds_in_its_constructor_is_there_when_a_joint_is_tried() -> None:
    class Decoder(Joint):
        z = dd.Independent(dd.Normal(torch.zeros(2), 1.0), 1)

        def __init__(self, width: int, **keywords: Any) -> None:
            super().__init__(**keywords)
            self.net = nn.Linear(2, width)

        @site(event_dim=1)
        def y(self, z: Tensor) -> dd.Normal:
            return dd.Normal(self.net(z), 1.0)

    joint = Decoder(5)
    assert joint.sample((3,))["y"].shape == (3, 5)
    assert len(list(joint.parameters())) == 2


def test_errors_that_are_not_about_arguments_pass() -> None:
    class Full(Joint):
        mu = dd.Normal(0.0, 1.0)

        @site
        def y(self, mu: Tensor) -> dd.Normal:
            raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        Full()


def test_sites_that_depend_on_no_other_are_independent() -> None:
    class Free(Joint):
        loc = Param(2.0)
        b = dd.Normal(0.0, 1.0)

        @site
        def a(self, loc: Tensor) -> dd.Normal:
            return dd.Normal(loc, 1.0)

    one, other = Free(), Free(loc=0.0)
    torch.testing.assert_close(kl_divergence(one, other), torch.tensor(2.0))
    expected = 2 * dd.Normal(0.0, 1.0).entropy()
    torch.testing.assert_close(entropy(one), expected)


class Wait(Joint):
    a = dd.Normal(0.0, 1.0)
    y = dd.Exponential(1.0)


@pytest.mark.parametrize(("data", "said"), [(-1.0, "in its support"), (float("nan"), "numbers")])
def test_impossible_data_is_refused_at_once(data: float, said: str) -> None:
    with pytest.raises(ConstraintError, match=rf"Wait\.condition\(y=\): expected.*{said}"):
        Wait().condition(y=data)


def test_a_value_outside_names_its_site() -> None:
    with pytest.raises(ConstraintError, match=r"Wait\.y: expected a value in the support"):
        Wait().log_prob({"a": torch.tensor(0.0), "y": torch.tensor(-1.0)})


# Parts that nothing uses.


def test_a_class_that_stands_in_the_body_for_another_field_is_no_field() -> None:
    class Moved(Variational):
        class Shift(LearnableTransform):
            base = dd.AffineTransform
            loc = Param(0.5)
            scale = Param(2.0)

        base = dd.TransformedDistribution
        base_distribution = dd.Normal(0.0, 1.0)
        transforms = (Shift,)

    names = [name for name, _ in Moved().named_parameters()]
    assert names == ["transforms.0.raw_loc", "transforms.0.raw_scale"]


def test_a_part_that_nothing_uses_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"Idle\.weights: expected an argument of Normal"):

        class Idle(Variational):
            base = dd.Normal
            loc = Param(0.0)
            scale = Param(1.0)
            weights = Weights(k=2)

"""What else torch users do to a module: hooks, wrappers, parametrizations, fresh processes."""

from __future__ import annotations

import pytest
import torch
import torch.distributed
import torch.distributions as dd

from declarative_dist import (
    ConstraintError,
    DeclarationError,
    Interval,
    Param,
    Positive,
    Variational,
    learnable,
)
from tests.cases import GammaFamily
from tests.states import assert_unchanged, state_of


def test_every_member_goes_through_the_hooks() -> None:
    q = GammaFamily()
    calls = []
    q.register_forward_hook(lambda module, args, output: calls.append(type(output)))
    members = [
        q.mean, q.variance, q.batch_shape, q.log_prob(torch.tensor(1.0)), q.rsample(), q.sample(),
        q.entropy(), q.support, q.rsample_and_log_prob(),
    ]  # fmt: skip
    assert calls == [dd.Gamma] * len(members)


def test_a_hook_may_replace_the_distribution() -> None:
    q = GammaFamily()
    q.register_forward_hook(lambda module, args, output: dd.Independent(output.expand((3,)), 1))
    assert q.event_shape == (3,)
    assert q.sample().shape == (3,)


def test_a_view_of_what_is_compiled_in_place() -> None:
    q = GammaFamily()
    q.compile(backend="eager")
    assert q.expand((3,))().batch_shape == (3,)


def test_nothing_is_cached_on_the_instance() -> None:
    q = GammaFamily()
    before = dict(vars(q))
    q.rsample_and_log_prob((3,))[1].sum().backward()
    q.mean, q.rate, q.entropy()
    assert {k: v for k, v in vars(q).items() if not k.startswith("_parameters")} == {
        k: v for k, v in before.items() if not k.startswith("_parameters")
    }


def test_options_of_a_group_are_a_dict() -> None:
    with pytest.raises(DeclarationError, match=r'parameter_groups\(loc=\).*Write loc=\{"lr"'):
        learnable(dd.Normal(0.0, 1.0)).parameter_groups(loc=0.1)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_a_view_of_a_shape_that_does_not_fit(shape: tuple[int, ...]) -> None:
    q = learnable(dd.Normal(torch.zeros(3, 2), 1.0))
    with pytest.raises(ConstraintError, match=r"expand: expected a shape that \(3, 2\)"):
        q.expand(shape)


def test_what_only_the_base_has_is_on_the_snapshot() -> None:
    q = learnable(dd.Categorical(logits=torch.zeros(3)))
    with pytest.raises(AttributeError, match=r"no field 'probs'.*read q\(\)\.probs"):
        _ = q.probs
    assert not hasattr(q, "probs")
    torch.testing.assert_close(q().probs, torch.full((3,), 1 / 3))


def test_what_torch_leaves_unsaid_is_said() -> None:
    q = learnable(dd.TransformedDistribution(dd.Normal(0.0, 1.0), dd.TanhTransform()))
    with pytest.raises(NotImplementedError, match=r"\.mean: torch has none for Transformed"):
        _ = q.mean
    with pytest.raises(NotImplementedError, match=r"entropy\(q, num_samples="):
        q.entropy()


class Narrow(Variational):
    base = dd.Normal
    loc = Param(1000.5, Interval(1000.0, 1001.0))
    scale = Param(1.0, Positive(floor=0.25))


def test_a_dtype_without_room_is_refused_and_nothing_moves() -> None:
    with pytest.raises(ConstraintError, match=r"Narrow\.loc: expected bounds.*bfloat16"):
        Narrow(dtype=torch.bfloat16)
    q = Narrow()
    before = state_of(q)
    with pytest.raises(ConstraintError, match=r"Narrow\.loc"):
        q.to(torch.bfloat16)
    assert_unchanged(q, before)
    assert q.double().loc.dtype == torch.float64

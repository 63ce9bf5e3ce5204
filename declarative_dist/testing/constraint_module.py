"""What a constraint promises as a module: state, copies, and the company of torch's own tools."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal, TransformedDistribution
from torch.nn.utils import parametrize

from declarative_dist.testing.constraint_trial import ConstraintTrial
from declarative_dist.testing.promise import call_compiled, show


def transform(trial: ConstraintTrial) -> None:
    """The same map as a torch.distributions.Transform."""
    constraint, raw = trial.build(), trial.moderate()
    found: Any = constraint.as_transform()
    value = found(raw)
    expected = "the same values through as_transform{}, {{}}"
    trial.expect_rows(expected.format("()"), value, constraint(raw))
    trial.expect_rows(expected.format("().inv"), found.inv(value), constraint.inverse(value))
    if trial.jacobian(raw, value) is not None:
        base = Normal(torch.zeros_like(raw), torch.ones_like(raw))
        pushed = TransformedDistribution(base, [found], validate_args=False)
        scored = pushed.log_prob(value)
        is_finite = scored.shape == pushed.batch_shape and scored.isfinite().all()
        expected = f"finite log densities of shape {tuple(pushed.batch_shape)}"
        trial.expect(is_finite, "log_abs_det_jacobian", expected, show(scored))


def parametrization(trial: ConstraintTrial) -> None:
    """A parametrization for torch.nn.utils.parametrize."""
    start, other = trial.build()(trial.moderate(count=2)).detach()
    module: Any = nn.Module()
    module.register_parameter("weight", nn.Parameter(start.clone()))
    parametrize.register_parametrization(module, "weight", trial.build())
    expected = "the value that was {}, {{}}, as a parametrization"
    text = expected.format("there")
    trial.expect_close("right_inverse", text, module.weight, start, 1e-6)
    module.weight.sum().backward()
    module.weight = other
    text = expected.format("assigned")
    trial.expect_close("right_inverse", text, module.weight, other, 1e-6)


def state(trial: ConstraintTrial) -> None:
    """Tensors that move with it, and shapes on the meta device."""
    fix = "Write self.register_buffer({name!r}, ...) in __init__."
    trial.expect_registered("constraint", fix)
    raw = torch.empty(2, *trial.raw_shape, device="meta", dtype=torch.float64)
    value, wanted = trial.build().to("meta")(raw), (2, *trial.shape)
    expected = f"a meta tensor of shape {wanted} for a meta tensor"
    is_meta = value.is_meta and value.shape == wanted
    trial.expect(is_meta, "forward", expected, f"{tuple(value.shape)} on {value.device}")


def copies(trial: ConstraintTrial) -> None:
    """The same map from copy.deepcopy and pickle."""
    constraint, raw = trial.build(), trial.moderate()
    other, expected = copy.deepcopy(constraint), "the same values through {}, {{}}"
    trial.expect_rows(expected.format("copy.deepcopy"), other(raw), constraint(raw))
    other = trial.unpickle(constraint, "constraint")
    trial.expect_rows(expected.format("pickle"), other(raw), constraint(raw))


def vmap(trial: ConstraintTrial) -> None:
    """The same values under torch.func.vmap and torch.func.grad."""
    constraint, raw = trial.build(), trial.moderate()
    trial.expect_rows("{} under vmap too", torch.func.vmap(constraint)(raw), constraint(raw), 1e-9)

    def total(numbers: Tensor) -> Tensor:
        return constraint(numbers).square().sum()

    numbers = raw.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(total(numbers), numbers)
    found = torch.func.vmap(torch.func.grad(total))(raw)
    trial.expect_rows("the gradient {} under torch.func.grad too", found, wanted, 1e-7)


def compiled(trial: ConstraintTrial) -> None:
    """The same values from torch.compile(fullgraph=True)."""
    dtype = torch.float32 if torch.float32 in trial.dtypes else trial.dtypes[0]
    constraint, ordinary = trial.build(dtype), trial.moderate(dtype)
    raw = torch.cat([ordinary, trial.extreme(dtype)])
    found = call_compiled(constraint, raw)
    expected = f"{constraint.describe()} under torch.compile too"
    trial.expect_all(constraint.contains(found), "forward", expected, raw, found, "")
    value = constraint(ordinary)
    trial.expect_rows("{} under torch.compile too", found[: len(value)], value, 1e-5)


MODULE: Mapping[str, Callable[[ConstraintTrial], None]] = {
    "transform": transform,
    "parametrization": parametrization,
    "state": state,
    "copies": copies,
    "vmap": vmap,
}
"""The promises of a module."""

COMPILED: Mapping[str, Callable[[ConstraintTrial], None]] = {"compile": compiled}
"""Those that take seconds."""

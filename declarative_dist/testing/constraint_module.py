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
from declarative_dist.testing.promise import (
    compiling,
    is_close,
    show,
)


def state(trial: ConstraintTrial) -> None:
    """Tensors that move with it, and shapes on the meta device."""
    fix = "Write self.register_buffer({name!r}, ...) in __init__."
    trial.check_registered(trial.constraint, "constraint", fix)
    moved = trial.build().to("meta")
    value = moved(torch.empty(2, *trial.raw_shape, device="meta", dtype=torch.float64))
    if not value.is_meta or value.shape != (2, *trial.shape):
        expected = f"a meta tensor of shape {(2, *trial.shape)} for a meta tensor"
        raise trial.broken("forward", expected, f"{tuple(value.shape)} on {value.device}")


def copies(trial: ConstraintTrial) -> None:
    """The same map from copy.deepcopy and pickle."""
    constraint, raw = trial.build(), trial.moderate()
    _expect_same(trial, "copy.deepcopy", copy.deepcopy(constraint)(raw), constraint(raw))
    again = trial.unpickle(constraint, "constraint")
    _expect_same(trial, "pickle", again(raw), constraint(raw))


def _expect_same(trial: ConstraintTrial, through: str, got: Tensor, wanted: Tensor) -> None:
    if not torch.equal(got, wanted):
        expected = f"the same values through {through}, {show(wanted[0])}"
        raise trial.broken("forward", expected, show(got[0]))


def transform(trial: ConstraintTrial) -> None:
    """The same map as a torch.distributions.Transform."""
    constraint = trial.build()
    raw = trial.moderate()
    found: Any = constraint.as_transform()
    value = found(raw)
    _expect_same(trial, "as_transform", value, constraint(raw))
    _expect_same(trial, "as_transform().inv", found.inv(value), constraint.inverse(value))
    base = Normal(torch.zeros_like(raw), torch.ones_like(raw))
    pushed = TransformedDistribution(base, [found], validate_args=False)
    try:
        scored = pushed.log_prob(value)
    except NotImplementedError:
        return
    if scored.shape != pushed.batch_shape or not scored.isfinite().all():
        expected = f"finite log densities of shape {tuple(pushed.batch_shape)}"
        raise trial.broken("log_abs_det_jacobian", expected, show(scored))


def parametrization(trial: ConstraintTrial) -> None:
    """A parametrization for torch.nn.utils.parametrize."""
    constraint = trial.build()
    module: Any = nn.Module()
    start = constraint(trial.moderate(count=1)[0]).detach()
    module.register_parameter("weight", nn.Parameter(start.clone()))
    parametrize.register_parametrization(module, "weight", constraint)
    _expect_close(trial, "the value that was there", module.weight, start)
    module.weight.sum().backward()
    other = constraint(trial.moderate(count=2)[1]).detach()
    module.weight = other
    _expect_close(trial, "the value that was assigned", module.weight, other)


def _expect_close(trial: ConstraintTrial, what: str, got: Tensor, wanted: Tensor) -> None:
    if not is_close(got.detach(), wanted, 1e-6):
        expected = f"{what}, {show(wanted)}, as a parametrization"
        raise trial.broken("right_inverse", expected, show(got))


def vmap(trial: ConstraintTrial) -> None:
    """The same values under torch.func.vmap and torch.func.grad."""
    constraint, raw = trial.build(), trial.moderate()
    mapped, value = torch.func.vmap(constraint)(raw), constraint(raw)
    if not is_close(mapped, value, 1e-9):
        raise trial.broken("forward", f"{show(value[0])} under vmap too", show(mapped[0]))

    def total(numbers: Tensor) -> Tensor:
        return constraint(numbers).square().sum()

    numbers = raw.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(total(numbers), numbers)
    found = torch.func.vmap(torch.func.grad(total))(raw)
    if not is_close(found, wanted, 1e-7):
        expected = f"the gradient {show(wanted[0])} under torch.func.grad too"
        raise trial.broken("forward", expected, show(found[0]))


def compiled(trial: ConstraintTrial) -> None:
    """The same values from torch.compile(fullgraph=True)."""
    dtype = torch.float32 if torch.float32 in trial.dtypes else trial.dtypes[0]
    constraint = trial.build(dtype)
    ordinary = trial.moderate(dtype)
    raw = torch.cat([ordinary, trial.extreme(dtype)])
    with compiling():
        found = torch.compile(constraint, fullgraph=True)(raw)
    expected = f"{constraint.describe()} under torch.compile too"
    trial.demand(constraint.contains(found), "forward", expected, raw, found, "")
    value = constraint(ordinary)
    if not is_close(found[: len(value)], value, 1e-5):
        expected = f"{show(value[0])} under torch.compile too"
        raise trial.broken("forward", expected, show(found[0]))


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

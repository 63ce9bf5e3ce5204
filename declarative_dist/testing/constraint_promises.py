"""What a constraint promises: of its values, of the map both ways, and of its life as a module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian as differentiate
from torch.autograd.graph import saved_tensors_hooks
from torch.distributions import Normal, TransformedDistribution
from torch.nn.utils import parametrize

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.testing.constraint_trial import (
    ConstraintTrial,
    ends_of,
    first_coordinates,
    numbers_of,
)
from declarative_dist.testing.promise import call_compiled, show

ORDINARY = 1.0
"""Raw numbers at which no rounding explains anything."""


def support(trial: ConstraintTrial) -> None:
    """A support of as many event dimensions."""
    wanted, got = trial.subject.support.event_dim, trial.subject.event_dim
    fix = "Let the support say it: constraints.independent(..., event_dim)."
    trial.expect(got == wanted, "event_dim", f"{wanted}, as of its support", repr(got), fix)


def words(trial: ConstraintTrial) -> None:
    """What it expects, in words."""
    text: object = trial.subject.describe()
    is_text = isinstance(text, str) and text.strip()
    trial.expect(is_text, "describe", "a text for messages", repr(text), "Return some words.")


def shapes(trial: ConstraintTrial) -> None:
    """Raw shapes and value shapes that fit each other."""
    constraint = trial.build()
    event = trial.shape[len(trial.shape) - constraint.event_dim :]
    found = constraint.raw_event_dim
    wanted = found if trial.is_elementwise else len(constraint.raw_shape(event))
    expected = f"{wanted}, the dimensions of raw_shape({tuple(event)})"
    fix = "Write raw_event_dim = 1 where the numbers of a matrix are packed, for instance."
    trial.expect(found == wanted, "raw_event_dim", expected, repr(found), fix)
    for batch in ((), (5,), (2, 5)):
        shape, raw_shape = (torch.Size((*batch, *own)) for own in (trial.shape, trial.raw_shape))
        trial.expect_shape("raw_shape", constraint.raw_shape(shape), raw_shape, shape)
        trial.expect_shape("value_shape", constraint.value_shape(raw_shape), shape, raw_shape)
        value = constraint(trial.moderate()[0].expand(raw_shape))
        trial.expect_shape("forward", value.shape, shape, raw_shape)
        trial.expect_shape("inverse", constraint.inverse(value).shape, raw_shape, shape)
        outer = shape[: len(shape) - constraint.event_dim]
        trial.expect_shape("contains", constraint.contains(value).shape, outer, shape)
    raw = trial.moderate(count=4)
    got, alone = constraint(raw)[2], constraint(raw[2])
    fix = "Reduce over the last dimensions only, with dim=-1."
    trial.expect_close("forward", "each row of a batch as it is alone, {}", got, alone, 1e-9, fix)


def pure(trial: ConstraintTrial) -> None:
    """The same value for the same raw number, which stays as it is."""
    constraint, raw = trial.build(), trial.moderate()
    before = raw.clone()
    once, twice = constraint(raw), constraint(raw)
    is_left = torch.equal(raw, before)
    trial.expect(is_left, "forward", "raw numbers left as they are", "changed ones")
    trial.expect(torch.equal(once, twice), "forward", "the same values twice", "different ones")


def inside(trial: ConstraintTrial) -> None:
    """A value strictly inside for every finite raw number."""
    for dtype in trial.dtypes:
        constraint, raw = trial.build(dtype), trial.extreme(dtype)
        value = constraint(raw)
        fix = "Compute in the dtype of the raw number: no torch.tensor(...) without dtype=."
        is_same = value.dtype == dtype
        trial.expect(is_same, "forward", f"values of {dtype}", f"{value.dtype}", fix)
        expected = f"{constraint.describe()} for every finite raw number"
        fix = f"Clamp the raw number before it overflows, or {trial.less}"
        trial.expect_all(value.isfinite(), "forward", expected, raw, value, fix)
        is_in = constraint.contains(value)
        for end, bound in ends_of(constraint).items():  # strictly between them, judged apart
            beyond = value.double() - bound
            is_in = is_in & (beyond > 0 if end == "lower_bound" else beyond < 0)
        fix = "Make forward, support and contains speak of one set."
        if (raw[~is_in].double().abs() > ORDINARY).all():
            fix = "Rounding has reached the end: hold the value at the next number of its dtype, "
            fix += f"or {trial.less}"
        trial.expect_all(is_in, "forward", expected, raw, value, fix)
    for dtype in trial.wide:
        constraint, raw = trial.build(dtype), trial.moderate(dtype)
        value = constraint(raw)
        expected = f"values that its support {constraint.support} accepts"
        fix = "Name the support that the map lands in."
        trial.expect_all(constraint.support.check(value), "support", expected, raw, value, fix)


def gradient(trial: ConstraintTrial) -> None:
    """A finite gradient for every finite raw number."""
    for dtype in trial.dtypes:
        raw = trial.extreme(dtype)
        found = _gradient_of(trial, raw)
        expected = "a finite gradient for every finite raw number"
        fix = f"Clamp before exp, log and division, not behind them, or {trial.less}"
        trial.expect_all(found.isfinite(), "forward", expected, raw, found, fix)


def alive(trial: ConstraintTrial) -> None:
    """An effect of every raw number."""
    dead = (_gradient_of(trial, trial.moderate()) == 0).all(0)
    if dead.any():
        first = dead.nonzero()[0].tolist()
        where = f"no effect of the raw number at {first}" if first else "no effect"
        fix = "Leave it out in raw_shape, or use it in forward."
        raise trial.broken("forward", "an effect of every raw number on the value", where, fix)


def _gradient_of(trial: ConstraintTrial, raw: Tensor) -> Tensor:
    raw = raw.detach().clone().requires_grad_()
    # With copies of what autograd saves, where numbers changed behind its back do not count.
    with saved_tensors_hooks(torch.clone, lambda copy: copy):
        value = trial.build(raw.dtype)(raw)
    fix = "Keep to torch's operations, without detach, item, data or numpy."
    is_there = value.requires_grad
    trial.expect(is_there, "forward", "a value with a gradient", "a detached one", fix)
    count = max(trial.shape.numel(), 1)
    weights = torch.linspace(0.25, 1.0, count).reshape(trial.shape).to(value.dtype)
    (found,) = torch.autograd.grad(value, raw, weights.expand_as(value))
    return found


def refusal(trial: ConstraintTrial) -> None:
    """Values refused that are not finite, or at an end of the support."""
    bad = {"nan": torch.nan, "inf": torch.inf, "-inf": -torch.inf}
    for end, bound in ends_of(trial.subject).items():
        if isinstance(bound, (int, float)):
            bad[f"{bound}, the {end.replace('_', ' ')} of its support,"] = bound
    for dtype in trial.dtypes:
        constraint = trial.build(dtype)
        value = constraint(trial.moderate(dtype, count=2)).detach()
        for text, number in bad.items():
            candidate = value.clone(memory_format=torch.contiguous_format)
            candidate.view(-1)[-1] = number
            verdict = constraint.contains(candidate).flatten()[-1]
            refused = verdict.dtype == torch.bool and not verdict
            expected, got = f"{text} refused in {dtype}", f"{verdict.item()}"
            fix = "Return value.isfinite() & (value > low) & (value < high), for instance."
            trial.expect(refused, "contains", expected, got, fix)


def default(trial: ConstraintTrial) -> None:
    """A starting value inside, of the shape asked for."""
    constraint = trial.subject
    for batch in ((), (2,)):
        shape = torch.Size((*batch, *trial.shape))
        value = constraint.default(shape)
        trial.expect_shape("default", value.shape, shape, shape)
        is_in, fix = constraint.contains(value).all(), "Start inside the set."
        trial.expect(is_in, "default", constraint.describe(), show(value), fix)


def round_trip(trial: ConstraintTrial) -> None:
    """Values and raw numbers that come back."""
    for dtype in trial.dtypes if trial.is_elementwise else trial.wide:
        constraint = trial.build(dtype)
        for spread in (0.1, 1.0, 4.0):
            value = constraint(trial.moderate(dtype, spread=spread)).detach()
            raw = constraint.inverse(value)
            is_same = raw.dtype == dtype
            trial.expect(is_same, "inverse", f"raw numbers of {dtype}", f"{raw.dtype}")
            _expect_return(trial, constraint, value, raw)
    raw, constraint = trial.moderate(), trial.build()
    value = constraint(raw)
    if trial.jacobian(raw, value) is not None:
        again = constraint.inverse(value)
        close = torch.isclose(again, raw, rtol=1e-7, atol=1e-7)
        expected = "inverse(forward(raw)) to be the raw number"
        trial.expect_all(close, "inverse", expected, raw, again, "Make the map one to one.")


def _expect_return(
    trial: ConstraintTrial, constraint: Constraint, value: Tensor, raw: Tensor
) -> None:
    """Refuse an error that a rounded raw number does not explain: relative to value and bounds."""
    eps = torch.finfo(value.dtype).eps
    size, steps = value.double().abs(), 2 + raw.double().abs()
    if not trial.is_elementwise:
        steps = steps.flatten(1).amax(1) if raw[0].numel() else steps.new_full((len(raw),), 2.0)
        steps = 4 * steps.reshape(-1, *(1 for _ in value.shape[1:]))
        size = size.flatten(1).amax(1).reshape(steps.shape)
    for bound in ends_of(constraint).values():
        size = size.maximum(torch.as_tensor(bound).double().abs())
    again = constraint(raw)
    error = (again.double() - value.double()).abs()
    close = error <= trial.round_trip * steps * eps * size
    first = trial.find_broken(close, raw)
    if first is not None:
        times = "" if trial.round_trip == 1 else f"{trial.round_trip:g} * "
        bound = f"to a relative error of {times}(2 + |raw|) * eps"
        expected = f"forward(inverse(value)) to be {show(value[first])}, {bound}"
        fix = "invert with log1p, expm1 and a wider dtype where digits cancel."
        fix = f"That is off by {error[first].amax():.2g}: {fix}"
        trial.expect_all(close, "inverse", expected, raw, again, fix)


def jacobian(trial: ConstraintTrial) -> None:
    """The log of the volume change that autograd finds."""
    constraint = trial.build()
    for raw in trial.moderate(count=6):
        given = trial.jacobian(raw, constraint(raw))
        if given is None:
            return
        wanted = _log_det(trial, constraint, raw)
        trial.expect_shape("log_abs_det_jacobian", given.shape, wanted.shape, raw.shape)
        first = trial.find_broken(torch.isclose(given, wanted, rtol=1e-7, atol=1e-7), raw)
        if first is not None:
            expected = f"{show(wanted[first])}, the log of the volume change that autograd finds"
            got = f"{show(given[first])} at {numbers_of(raw[first])}"
            fix = "Differentiate forward: log |d value / d raw|, summed over an event."
            raise trial.broken("log_abs_det_jacobian", expected, got, fix)


def _log_det(trial: ConstraintTrial, constraint: Constraint, raw: Tensor) -> Tensor:
    chosen = trial.coordinates if trial.coordinates and not trial.is_elementwise else Tensor.clone
    by_raw: Any = differentiate(lambda raw: chosen(constraint(raw)), raw)
    matrix: Tensor = by_raw.reshape(-1, raw.numel())
    if trial.is_elementwise:
        diagonal = matrix.diagonal()
        expected = "every entry of a value to depend on its own raw number alone"
        fix = "Give the support as many event dimensions as one value spans."
        is_apart = torch.equal(matrix, diagonal.diag())
        trial.expect(is_apart, "event_dim", expected, "entries that depend on others", fix)
        return diagonal.abs().log().reshape(raw.shape)
    if trial.coordinates is None:
        matrix = first_coordinates(matrix)
    rows, columns = matrix.shape
    expected = "a map that is one to one, to have a density"
    got = f"{columns} raw numbers for {rows} coordinates of a value"
    fix = "Define no log_abs_det_jacobian, or drop the raw numbers that are too many."
    trial.expect(rows == columns, "log_abs_det_jacobian", expected, got, fix)
    log_det: Tensor = torch.linalg.slogdet(matrix).logabsdet
    return log_det


def transform(trial: ConstraintTrial) -> None:
    """The same map as a torch.distributions.Transform."""
    constraint, raw = trial.build(), trial.moderate()
    found: Any = constraint.as_transform()
    value = found(raw)
    trial.expect_rows("the same values through as_transform(), {}", value, constraint(raw))
    expected = "the same values through as_transform().inv, {}"
    trial.expect_rows(expected, found.inv(value), constraint.inverse(value))
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
    expected = "the value that was there, {}, as a parametrization"
    trial.expect_close("right_inverse", expected, module.weight, start, 1e-6)
    module.weight.sum().backward()
    module.weight = other
    expected = "the value that was assigned, {}, as a parametrization"
    trial.expect_close("right_inverse", expected, module.weight, other, 1e-6)


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
    found = copy.deepcopy(constraint)(raw)
    trial.expect_rows("the same values through copy.deepcopy, {}", found, constraint(raw))
    found = trial.unpickle(constraint, "constraint")(raw)
    trial.expect_rows("the same values through pickle, {}", found, constraint(raw))


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
    trial.expect_all(constraint.contains(found), "forward", expected, raw, found)
    value = constraint(ordinary)
    trial.expect_rows("{} under torch.compile too", found[: len(value)], value, 1e-5)


PROMISES: Mapping[str, Callable[[ConstraintTrial], None]] = {
    promise.__name__.replace("_", " "): promise
    for promise in (
        support, words, pure, shapes, inside, gradient, alive, refusal, default, round_trip,
        jacobian, transform, parametrization, state, copies, vmap,
    )
}  # fmt: skip
"""The promises by name, in the order in which they build on each other."""

SLOW: Mapping[str, Callable[[ConstraintTrial], None]] = {"compile": compiled}
"""The promises that take seconds to check."""

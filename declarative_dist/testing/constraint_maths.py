"""What a constraint promises of its values: where they lie, and how the map goes both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.testing.constraint_trial import (
    ConstraintTrial,
    derivatives,
    first_coordinates,
)
from declarative_dist.testing.promise import is_close, show

ORDINARY = 1.0
"""Raw numbers at which no rounding explains anything."""

ENDS = ("lower_bound", "upper_bound")


def support(trial: ConstraintTrial) -> None:
    """A support of as many event dimensions."""
    constraint = trial.constraint
    if constraint.event_dim != constraint.support.event_dim:
        raise trial.broken(
            "event_dim",
            f"{constraint.support.event_dim}, as of its support",
            repr(constraint.event_dim),
            "Let the support say it: constraints.independent(..., event_dim).",
        )


def words(trial: ConstraintTrial) -> None:
    """What it expects, in words."""
    text: object = trial.constraint.describe()
    if not isinstance(text, str) or not text.strip():
        raise trial.broken("describe", "a text for messages", repr(text), "Return some words.")


def shapes(trial: ConstraintTrial) -> None:
    """Raw shapes and value shapes that fit each other."""
    constraint = trial.build()
    event = trial.shape[len(trial.shape) - constraint.event_dim :]
    if not trial.is_elementwise and len(constraint.raw_shape(event)) != constraint.raw_event_dim:
        raise trial.broken(
            "raw_event_dim",
            f"{len(constraint.raw_shape(event))}, the dimensions of raw_shape({tuple(event)})",
            repr(constraint.raw_event_dim),
            "Write raw_event_dim = 1 where the numbers of a matrix are packed, for instance.",
        )
    for batch in ((), (5,), (2, 5)):
        shape = torch.Size((*batch, *trial.shape))
        raw_shape = constraint.raw_shape(shape)
        _expect_shape(trial, "raw_shape", raw_shape, (*batch, *trial.raw_shape), shape)
        _expect_shape(trial, "value_shape", constraint.value_shape(raw_shape), shape, raw_shape)
        raw = trial.moderate()[0].expand(*batch, *trial.raw_shape)
        value = constraint(raw)
        _expect_shape(trial, "forward", value.shape, shape, raw_shape)
        _expect_shape(trial, "inverse", constraint.inverse(value).shape, raw_shape, shape)
        inside = constraint.contains(value)
        wanted = shape[: len(shape) - constraint.event_dim]
        _expect_shape(trial, "contains", inside.shape, wanted, shape)
    raw = trial.moderate(count=4)
    if not is_close(constraint(raw)[2], constraint(raw[2]), 1e-9):
        raise trial.broken(
            "forward",
            f"each row of a batch as it is alone, {show(constraint(raw[2]))}",
            show(constraint(raw)[2]),
            "Reduce over the last dimensions only, with dim=-1.",
        )


def _expect_shape(
    trial: ConstraintTrial, member: str, got: object, wanted: tuple[int, ...], of: torch.Size
) -> None:
    if not isinstance(got, tuple) or tuple(got) != tuple(wanted):
        came = tuple(got) if isinstance(got, tuple) else repr(got)
        raise trial.broken(
            member,
            f"the shape {tuple(wanted)} for {tuple(of)}",
            str(came),
            "Batch dimensions come first; raw_shape, value_shape and the support's event_dim "
            "must say what forward does.",
        )


def pure(trial: ConstraintTrial) -> None:
    """The same value for the same raw number, which stays as it is."""
    constraint, raw = trial.build(), trial.moderate()
    before = raw.clone()
    once, twice = constraint(raw), constraint(raw)
    if not torch.equal(raw, before):
        raise trial.broken("forward", "raw numbers left as they are", "changed ones")
    if not torch.equal(once, twice):
        raise trial.broken("forward", "the same values twice", "different ones")


def inside(trial: ConstraintTrial) -> None:
    """A value strictly inside for every finite raw number."""
    for dtype in trial.dtypes:
        constraint, raw = trial.build(dtype), trial.extreme(dtype)
        value = constraint(raw)
        if value.dtype != dtype:
            fix = "Compute in the dtype of the raw number: no torch.tensor(...) without dtype=."
            raise trial.broken("forward", f"values of {dtype}", f"{value.dtype}", fix)
        expected = f"{constraint.describe()} for every finite raw number"
        finite = _all_of_event(value.isfinite(), constraint)
        overflow = f"Clamp the raw number before it overflows, or {_moderate(trial)}"
        trial.demand(finite, "forward", expected, raw, value, overflow)
        is_in = constraint.contains(value) & _within_ends(constraint, value)
        trial.demand(is_in, "forward", expected, raw, value, _way_inside(trial, is_in, raw))
    for dtype in trial.wide:
        constraint, raw = trial.build(dtype), trial.moderate(dtype)
        value = constraint(raw)
        expected = f"values that its support {constraint.support} accepts"
        fix = "Name the support that the map lands in."
        trial.demand(constraint.support.check(value), "support", expected, raw, value, fix)


def _moderate(trial: ConstraintTrial) -> str:
    """How to ask for less."""
    if trial.raw_limit == float("inf"):
        return "check with raw_limit= if it is meant for moderate ones."
    return "check with a smaller raw_limit= or fewer dtypes=."


def _way_inside(trial: ConstraintTrial, is_in: Tensor, raw: Tensor) -> str:
    """What to do about values outside: at extreme numbers another thing than at ordinary ones."""
    if is_in.all() or (raw[~is_in].double().abs() <= ORDINARY).any():
        return "Make forward, support and contains speak of one set."
    rounded = "Rounding has reached the end: hold the value at the next number of its dtype, "
    return f"{rounded}or {_moderate(trial)}"


def _all_of_event(entries: Tensor, constraint: Constraint) -> Tensor:
    return entries.flatten(-constraint.event_dim).all(-1) if constraint.event_dim else entries


def _within_ends(constraint: Constraint, value: Tensor) -> Tensor:
    """Whether values are strictly between the numbers that the support names, judged apart."""
    wide = value.double()
    entries = torch.ones_like(value, dtype=torch.bool)
    for end, sign in zip(ENDS, (1.0, -1.0), strict=True):
        bound: Any = getattr(constraint.support, end, None)
        if bound is not None:
            entries = entries & (sign * (wide - bound) > 0)
    return _all_of_event(entries, constraint)


def gradient(trial: ConstraintTrial) -> None:
    """A finite gradient for every finite raw number."""
    for dtype in trial.dtypes:
        constraint, raw = trial.build(dtype), trial.extreme(dtype)
        found = _gradient_of(trial, constraint, raw)
        finite = found.isfinite()
        if constraint.raw_event_dim:
            finite = finite.flatten(-constraint.raw_event_dim).all(-1)
        expected = "a finite gradient for every finite raw number"
        fix = f"Clamp before exp, log and division, not behind them, or {_moderate(trial)}"
        trial.demand(finite, "forward", expected, raw, found, fix)


def alive(trial: ConstraintTrial) -> None:
    """An effect of every raw number."""
    found = _gradient_of(trial, trial.build(), trial.moderate())
    dead = (found == 0).all(0)
    if dead.any():
        first = dead.nonzero()[0].tolist()
        where = f"no effect of the raw number at {first}" if first else "no effect"
        fix = "Leave it out in raw_shape, or use it in forward."
        raise trial.broken("forward", "an effect of every raw number on the value", where, fix)


def _gradient_of(trial: ConstraintTrial, constraint: Constraint, raw: Tensor) -> Tensor:
    raw = raw.detach().clone().requires_grad_()
    # With copies of what autograd saves, where numbers changed behind its back do not count.
    with saved_tensors_hooks(torch.clone, lambda copy: copy):
        value = constraint(raw)
    if not value.requires_grad:
        fix = "Keep to torch's operations, without detach, item, data or numpy."
        raise trial.broken("forward", "a value with a gradient", "a detached one", fix)
    count = max(trial.shape.numel(), 1)
    weights = torch.linspace(0.25, 1.0, count).reshape(trial.shape).to(value.dtype)
    (found,) = torch.autograd.grad(value, raw, weights.expand_as(value))
    return found


def refusal(trial: ConstraintTrial) -> None:
    """Values refused that are not finite, or at an end of the support."""
    for dtype in trial.dtypes:
        constraint = trial.build(dtype)
        value = constraint(trial.moderate(dtype, count=2)).detach()
        bad = {"nan": torch.nan, "inf": torch.inf, "-inf": -torch.inf}
        for end in ENDS:
            bound: Any = getattr(constraint.support, end, None)
            if isinstance(bound, (int, float)) and not constraint.event_dim:
                bad[f"{bound}, the {end.replace('_', ' ')} of its support,"] = bound
        for text, number in bad.items():
            candidate = value.clone(memory_format=torch.contiguous_format)
            candidate.view(-1)[-1] = number
            verdict = constraint.contains(candidate)
            if verdict.dtype != torch.bool or verdict.flatten()[-1]:
                raise trial.broken(
                    "contains",
                    f"{text} refused in {dtype}",
                    str(verdict.flatten()[-1].item()),
                    "Return value.isfinite() & (value > low) & (value < high), for instance.",
                )


def round_trip(trial: ConstraintTrial) -> None:
    """Values and raw numbers that come back."""
    for dtype in trial.dtypes if trial.is_elementwise else trial.wide:
        constraint = trial.build(dtype)
        for spread in (0.1, 1.0, 4.0):
            value = constraint(trial.moderate(dtype, spread=spread)).detach()
            raw = constraint.inverse(value)
            if raw.dtype != dtype:
                raise trial.broken("inverse", f"raw numbers of {dtype}", f"{raw.dtype}")
            again = constraint(raw)
            error = (again.double() - value.double()).abs()
            allowed = trial.round_trip * _allowed(constraint, value, raw)
            _expect_return(trial, constraint, value, raw, again, error <= allowed)
    raw, constraint = trial.moderate(), trial.build()
    value = constraint(raw)
    try:
        constraint.log_abs_det_jacobian(raw, value)
    except NotImplementedError:  # several raw numbers may give one value
        return
    again = constraint.inverse(value)
    close = torch.isclose(again, raw, rtol=1e-7, atol=1e-7)
    if constraint.raw_event_dim:
        close = close.flatten(-constraint.raw_event_dim).all(-1)
    expected = "inverse(forward(raw)) to be the raw number"
    trial.demand(close, "inverse", expected, raw, again, "Make the map one to one.")


def _expect_return(
    trial: ConstraintTrial,
    constraint: Constraint,
    value: Tensor,
    raw: Tensor,
    again: Tensor,
    close: Tensor,
) -> None:
    kept = _all_of_event(close, constraint)
    if kept.all():
        return
    first = tuple((~kept).nonzero()[0].tolist())
    error = (again[first].double() - value[first].double()).abs().amax()
    times = "" if trial.round_trip == 1 else f"{trial.round_trip:g} * "
    trial.demand(
        kept,
        "inverse",
        f"forward(inverse(value)) to be {show(value[first])}, "
        f"to a relative error of {times}(2 + |raw|) * eps",
        raw,
        again,
        f"That is off by {error:.2g}: invert with log1p, expm1 and a wider dtype where digits "
        "cancel.",
    )


def _allowed(constraint: Constraint, value: Tensor, raw: Tensor) -> Tensor:
    """The error that a rounded raw number explains: relative to the value and its bounds."""
    eps = torch.finfo(value.dtype).eps
    size, steps = value.double().abs(), 2 + raw.double().abs()
    if constraint.event_dim or constraint.raw_event_dim:
        steps = steps.flatten(1).amax(1) if raw[0].numel() else steps.new_full((len(raw),), 2.0)
        steps = 4 * steps.reshape(-1, *(1 for _ in value.shape[1:]))
        size = size.flatten(1).amax(1).reshape(steps.shape)
    for end in ENDS:
        bound: Any = getattr(constraint.support, end, None)
        if bound is not None:
            size = size.maximum(torch.as_tensor(bound).double().abs())
    return steps * eps * size


def default(trial: ConstraintTrial) -> None:
    """A starting value inside, of the shape asked for."""
    constraint = trial.constraint
    for batch in ((), (2,)):
        shape = torch.Size((*batch, *trial.shape))
        value = constraint.default(shape)
        _expect_shape(trial, "default", value.shape, shape, shape)
        if not constraint.contains(value).all():
            expected = constraint.describe()
            raise trial.broken("default", expected, show(value), "Start inside the set.")


def jacobian(trial: ConstraintTrial) -> None:
    """The log of the volume change that autograd finds."""
    constraint = trial.build()
    for raw in trial.moderate(count=6):
        value = constraint(raw)
        try:
            given = constraint.log_abs_det_jacobian(raw, value)
        except NotImplementedError:
            return
        matrix = derivatives(constraint, raw)
        wanted = _log_det(trial, matrix, constraint, raw)
        _expect_shape(trial, "log_abs_det_jacobian", given.shape, wanted.shape, raw.shape)
        kept = torch.isclose(given, wanted, rtol=1e-7, atol=1e-7)
        if not kept.all():
            index = tuple((~kept).nonzero()[0].tolist())
            at = f"at the raw number{'s' if raw[index].ndim else ''} {show(raw[index])}"
            raise trial.broken(
                "log_abs_det_jacobian",
                f"{show(wanted[index])}, the log of the volume change that autograd finds",
                f"{show(given[index])} {at}",
                "Differentiate forward: log |d value / d raw|, summed over an event.",
            )


def _log_det(
    trial: ConstraintTrial, matrix: Tensor, constraint: Constraint, raw: Tensor
) -> Tensor:
    if trial.is_elementwise:
        if not torch.equal(matrix, matrix.diagonal().diag()):
            expected = "every entry of a value to depend on its own raw number alone"
            fix = "Give the support as many event dimensions as one value spans."
            raise trial.broken("event_dim", expected, "entries that depend on others", fix)
        return matrix.diagonal().abs().log().reshape(raw.shape)
    if trial.coordinates is not None:
        chosen = trial.coordinates
        matrix = derivatives(lambda numbers: chosen(constraint(numbers)), raw)
    else:
        matrix = first_coordinates(matrix)
    if matrix.shape[0] != matrix.shape[1]:
        raise trial.broken(
            "log_abs_det_jacobian",
            "a map that is one to one, to have a density",
            f"{matrix.shape[1]} raw numbers for {matrix.shape[0]} coordinates of a value",
            "Define no log_abs_det_jacobian, or drop the raw numbers that are too many.",
        )
    log_det: Tensor = torch.linalg.slogdet(matrix).logabsdet
    return log_det


MATHS: Mapping[str, Callable[[ConstraintTrial], None]] = {
    "support": support,
    "words": words,
    "pure": pure,
    "shapes": shapes,
    "inside": inside,
    "gradient": gradient,
    "alive": alive,
    "refusal": refusal,
    "default": default,
    "round trip": round_trip,
    "jacobian": jacobian,
}
"""The promises about values, in the order in which they build on each other."""

"""What a constraint promises: of its values, of the map both ways, and of its life as a module."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.functional import jacobian as differentiate
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import normalize

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.plain.supports import bounds_of
from declarative_dist.testing.promise import Trial, call_compiled, show

LESS = "or check with raw_limit= if it is meant for moderate ones."


@dataclass(frozen=True)
class ConstraintTrial(Trial):
    """A constraint on trial; its arguments are as in `check_constraint`."""

    subject: Constraint
    shape: torch.Size
    dtypes: tuple[torch.dtype, ...]
    raw_limit: float

    @property
    def is_elementwise(self) -> bool:
        return not (self.subject.event_dim or self.subject.raw_event_dim)

    @property
    def raw_shape(self) -> torch.Size:
        """The shape of the raw numbers of one value."""
        return torch.Size(self.subject.raw_shape(self.shape))

    @property
    def wide(self) -> tuple[torch.dtype, ...]:
        """The dtypes in which matrices and sums can be judged."""
        return tuple(dtype for dtype in self.dtypes if torch.finfo(dtype).bits >= 32)

    def build(self, dtype: torch.dtype = torch.float64) -> Constraint:
        """A copy in a dtype, on the CPU."""
        return self.copy().to("cpu", dtype)

    def extreme(self, dtype: torch.dtype) -> Tensor:
        """Raw numbers at which careless maps break, of shape `(count, *raw_shape)`.

        Edges in all entries, edges mixed at random, and random numbers of every size.
        """
        shape, generator = self.raw_shape, torch.Generator().manual_seed(0)
        info = torch.finfo(dtype)
        top = min(self.raw_limit, info.max)
        sizes = [0.0, info.smallest_normal * info.eps, info.tiny, info.eps, 0.5, 1.0, 4.0, 10.0]
        sizes += [12.0, 17.0, 20.0, 37.0, 50.0, 89.0, 104.0, 710.0, 746.0, 1e4]
        sizes += [info.max / 4, info.max / 3, info.max / 2, info.max, top]
        signed = [sign * size for size in sizes if size <= top for sign in (1.0, -1.0)]
        known = torch.tensor(signed).double()
        same = known.reshape(-1, *(1 for _ in shape)).expand(-1, *shape)
        mixed = known[torch.randint(len(known), (200, *shape), generator=generator)]
        drawn = torch.randn(28, 8, *shape, generator=generator, dtype=torch.float64)
        powers = 10.0 ** torch.arange(-12, 16, dtype=torch.float64)
        scaled = (drawn * powers.reshape(-1, 1, *(1 for _ in shape))).flatten(0, 1)
        return torch.cat([same, mixed, scaled]).clamp(-top, top).to(dtype)

    def moderate(
        self, dtype: torch.dtype = torch.float64, count: int = 20, spread: float = 1.0
    ) -> Tensor:
        """Normal raw numbers, as training has them, of shape `(count, *raw_shape)`."""
        generator = torch.Generator().manual_seed(1)
        shape = (count, *self.raw_shape)
        drawn = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
        return drawn.clamp(-self.raw_limit, self.raw_limit).to(dtype)

    def jacobian(self, raw: Tensor, value: Tensor) -> Tensor | None:
        """What `log_abs_det_jacobian` gives, or None where it is not defined."""
        try:
            return self.build().log_abs_det_jacobian(raw, value)
        except NotImplementedError:  # several raw numbers may give one value
            return None

    def expect_all(
        self, kept: Tensor, member: str, expected: str, raw: Tensor, got: Tensor, fix: str = ""
    ) -> None:
        """Refuse a member for the first of `raw` for which not all of `kept` is true.

        Here `raw` is `(*batch, *raw_event)`, and both `kept` and `got` are `(*batch, ...)`.
        """
        batch = raw.shape[: raw.ndim - self.subject.raw_event_dim]
        broken = ~kept.reshape(*batch, -1).all(-1)
        if broken.any():
            first = tuple(broken.nonzero()[0].tolist())
            numbers = f"the raw number{'s' if raw[first].ndim else ''} {show(raw[first])}"
            found = f"{show(got[first])} for {numbers} in {raw.dtype}"
            raise self.broken(member, expected, found, fix)


def first_coordinates(matrix: Tensor) -> Tensor:
    """The rows that are independent of those above them: the coordinates that determine a value.

    For a simplex these are all entries but the last, for a triangular or symmetric matrix its
    lower triangle, for a correlation factor what is below the diagonal. There are at most as
    many as the matrix, with a row of derivatives for each number of a value, has columns.
    """
    chosen = matrix[:0]
    for row in matrix:
        more = torch.cat([chosen, row[None]])
        if torch.linalg.matrix_rank(normalize(more), rtol=1e-9) == len(more):
            chosen = more
    return chosen


def shapes(trial: ConstraintTrial) -> None:
    """Raw shapes and value shapes that fit each other."""
    constraint = trial.build()
    wanted, found = constraint.support.event_dim, constraint.event_dim
    trial.expect(found == wanted, "event_dim", f"{wanted}, as of its support", repr(found))
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


def inside(trial: ConstraintTrial) -> None:
    """A value strictly inside for every finite raw number."""
    for dtype in trial.dtypes:
        constraint, raw = trial.build(dtype), trial.extreme(dtype)
        value, expected = constraint(raw), f"{constraint.describe()} for every finite raw number"
        trial.expect_dtype("forward", value, dtype)
        is_in = value.isfinite().reshape(*constraint.contains(value).shape, -1).all(-1)
        is_in = is_in & constraint.contains(value)
        if ends := bounds_of(constraint.support):  # strictly between them, judged apart
            is_in = is_in & (value.double() > ends[0]) & (value.double() < ends[1])
        fix = "Clamp the raw number before it overflows, hold a value that rounding brings to an "
        fix += f"end at the next number inside, {LESS}"
        trial.expect_all(is_in, "forward", expected, raw, value, fix)
        if dtype in trial.wide:  # a support of torch's judges sums in half precision too strictly
            raw = trial.moderate(dtype)
            value = constraint(raw)
            expected = f"values that its support {constraint.support} accepts"
            trial.expect_all(constraint.support.check(value), "support", expected, raw, value)


def gradient(trial: ConstraintTrial) -> None:
    """A finite gradient for every finite raw number, and an effect of each."""
    for dtype in trial.dtypes:
        raw = trial.extreme(dtype)
        found = _gradient_of(trial, raw)
        expected = "a finite gradient for every finite raw number"
        fix = f"Clamp before exp, log and division, not behind them, {LESS}"
        trial.expect_all(found.isfinite(), "forward", expected, raw, found, fix)
    dead = (_gradient_of(trial, trial.moderate()) == 0).all(0)
    where = f"none of the raw number at {dead.nonzero()[:1].flatten().tolist()}"
    fix = "Leave it out in raw_shape, or use it in forward."
    trial.expect(not dead.any(), "forward", "an effect of every raw number", where, fix)


def _gradient_of(trial: ConstraintTrial, raw: Tensor) -> Tensor:
    raw = raw.detach().clone().requires_grad_()
    # With copies of what autograd saves, where numbers changed behind its back do not count.
    with saved_tensors_hooks(torch.clone, lambda copy: copy):
        value = trial.build(raw.dtype)(raw)
    fix = "Keep to torch's operations, without detach, item, data or numpy."
    trial.expect(value.requires_grad, "forward", "a value with a gradient", "a detached one", fix)
    weights = torch.linspace(0.25, 1.0, trial.shape.numel()).reshape(trial.shape).to(value.dtype)
    return torch.autograd.grad(value, raw, weights.expand_as(value))[0]


def refusal(trial: ConstraintTrial) -> None:
    """Values refused that are not finite, or at an end of the support."""
    ends = [e for e in bounds_of(trial.subject.support) or () if not isinstance(e, Tensor)]
    for dtype in trial.dtypes:
        constraint = trial.build(dtype)
        value = constraint(trial.moderate(dtype, count=2)).detach()
        for number in (torch.nan, torch.inf, -torch.inf, *ends):
            candidate = value.clone(memory_format=torch.contiguous_format)
            candidate.view(-1)[-1] = number
            verdict = constraint.contains(candidate).flatten()[-1]
            refused = verdict.dtype == torch.bool and not verdict
            expected = f"{number} refused in {dtype}"
            fix = "Return value.isfinite() & (value > low) & (value < high), for instance."
            trial.expect(refused, "contains", expected, f"{verdict.item()}", fix)


def default(trial: ConstraintTrial) -> None:
    """A starting value inside, of the shape asked for."""
    constraint, shape = trial.subject, torch.Size((2, *trial.shape))
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
            trial.expect_dtype("inverse", raw, dtype)
            # Rounded raw numbers explain an error relative to the value and the bounds.
            size, steps = value.double().abs(), 2 + raw.double().abs()
            if not trial.is_elementwise:
                steps = (
                    steps.flatten(1).amax(1)
                    if raw[0].numel()
                    else steps.new_full((len(raw),), 2.0)
                )
                steps = 4 * steps.reshape(-1, *(1 for _ in value.shape[1:]))
                size = size.flatten(1).amax(1).reshape(steps.shape)
            for end in bounds_of(constraint.support) or ():
                size = size.maximum(torch.as_tensor(end).double().abs().nan_to_num(posinf=0.0))
            again = constraint(raw)
            error = (again.double() - value.double()).abs()
            close = error <= steps * torch.finfo(value.dtype).eps * size
            expected = "values back to a relative error of (2 + |raw|) * eps"
            fix = "Invert with log1p, expm1 and a wider dtype where digits cancel."
            trial.expect_all(close, "inverse", expected, raw, again, fix)
    raw, constraint = trial.moderate(), trial.build()
    value = constraint(raw)
    if trial.jacobian(raw, value) is not None:
        again = constraint.inverse(value)
        close = torch.isclose(again, raw, rtol=1e-7, atol=1e-7)
        expected = "inverse(forward(raw)) to be the raw number"
        trial.expect_all(close, "inverse", expected, raw, again, "Make the map one to one.")


def jacobian(trial: ConstraintTrial) -> None:
    """The log of the volume change that autograd finds."""
    constraint = trial.build()
    for raw in trial.moderate(count=6):
        given = trial.jacobian(raw, constraint(raw))
        if given is None:
            return
        wanted = _log_det(trial, constraint, raw)
        trial.expect_shape("log_abs_det_jacobian", given.shape, wanted.shape, raw.shape)
        close = torch.isclose(given, wanted, rtol=1e-7, atol=1e-7)
        expected = f"{show(wanted)}, the log of the volume change that autograd finds"
        fix = "Differentiate forward: log |d value / d raw|, summed over an event."
        trial.expect_all(close, "log_abs_det_jacobian", expected, raw, given, fix)


def _log_det(trial: ConstraintTrial, constraint: Constraint, raw: Tensor) -> Tensor:
    by_raw: Any = differentiate(constraint, raw)
    matrix: Tensor = by_raw.reshape(-1, raw.numel())
    if trial.is_elementwise:
        diagonal = matrix.diagonal()
        expected = "every entry of a value to depend on its own raw number alone"
        fix = "Give the support as many event dimensions as one value spans."
        is_apart, got = torch.equal(matrix, diagonal.diag()), "entries that depend on others"
        trial.expect(is_apart, "event_dim", expected, got, fix)
        return diagonal.abs().log().reshape(raw.shape)
    matrix = first_coordinates(matrix)
    rows, columns = matrix.shape
    expected = "a map that is one to one, to have a density"
    got = f"{columns} raw numbers for {rows} coordinates of a value"
    fix = "Define no log_abs_det_jacobian, or drop the raw numbers that are too many."
    trial.expect(rows == columns, "log_abs_det_jacobian", expected, got, fix)
    return matrix.det().abs().log()


def state(trial: ConstraintTrial) -> None:
    """Tensors that move with it, to the meta device too."""
    trial.expect_registered("constraint", "Write self.register_buffer(...) in __init__.")
    raw = torch.empty(2, *trial.raw_shape, device="meta", dtype=torch.float64)
    value = trial.build().to("meta")(raw)
    trial.expect(value.is_meta, "forward", "a meta tensor for one", f"one on {value.device}")


def copies(trial: ConstraintTrial) -> None:
    """The same map from copy.deepcopy and pickle."""
    raw, wanted = trial.moderate(), trial.build()(trial.moderate())
    pickled = pickle.loads(pickle.dumps(trial.build()))  # noqa: S301 - what was just dumped
    for way, found in {"copy.deepcopy": copy.deepcopy(trial.build()), "pickle": pickled}.items():
        trial.expect_close("forward", f"{{}} from {way} too", found(raw), wanted)


def vmap(trial: ConstraintTrial) -> None:
    """The same values under torch.func.vmap and torch.func.grad."""
    constraint, raw = trial.build(), trial.moderate()
    found = torch.func.vmap(constraint)(raw)
    trial.expect_close("forward", "{} under vmap too", found, constraint(raw), 1e-9)

    def total(numbers: Tensor) -> Tensor:
        return constraint(numbers).square().sum()

    numbers = raw.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(total(numbers), numbers)
    found = torch.func.vmap(torch.func.grad(total))(raw)
    trial.expect_close("forward", "the gradient {} under torch.func too", found, wanted, 1e-7)


def compiled(trial: ConstraintTrial) -> None:
    """The same values from torch.compile(fullgraph=True)."""
    dtype = torch.float32 if torch.float32 in trial.dtypes else trial.dtypes[0]
    constraint, ordinary = trial.build(dtype), trial.moderate(dtype)
    raw = torch.cat([ordinary, trial.extreme(dtype)])
    found = call_compiled(constraint, raw)
    expected = f"{constraint.describe()} under torch.compile too"
    trial.expect_all(constraint.contains(found), "forward", expected, raw, found)
    value = constraint(ordinary)
    trial.expect_close("forward", "{} under torch.compile too", found[: len(value)], value, 1e-5)


PROMISES: Mapping[str, Callable[[ConstraintTrial], None]] = {
    promise.__name__.replace("_", " ").replace("compiled", "compile"): promise
    for promise in (
        shapes, inside, gradient, refusal, default, round_trip, jacobian, state, copies, vmap,
        compiled,
    )
}  # fmt: skip
"""The promises by name, in the order in which they build on each other."""

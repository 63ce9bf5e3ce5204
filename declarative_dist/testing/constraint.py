"""Checks of a constraint: its values, shapes, inverse, Jacobian, and its life as a module."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn

from declarative_dist.constraints.adapters import as_constraint
from declarative_dist.errors import DeclarationError
from declarative_dist.randomness import same_random_numbers
from declarative_dist.testing.constraint_promises import PROMISES, SLOW
from declarative_dist.testing.constraint_trial import ConstraintTrial
from declarative_dist.testing.promise import check_promises

ALL = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_constraint(
    constraint: object,
    *,
    shape: Sequence[int] | None = None,
    dtypes: Sequence[torch.dtype] = ALL,
    raw_limit: float = float("inf"),
    round_trip: float = 1.0,
    coordinates: Callable[[Tensor], Tensor] | None = None,
    compile: bool = False,  # noqa: A002 - what torch calls it
    skip: Collection[str] = (),
) -> None:
    """Check that a constraint keeps what every constraint promises.

    Those are, by the names that `skip` takes:

    * `support`, `words`: its support has its event dimensions, and it says what it expects;
    * `shapes`: raw shapes and value shapes fit each other, for one value and for batches;
    * `inside`, `gradient`: every finite raw number gives a value strictly inside, in the same
      dtype, with a finite gradient;
    * `alive`: every raw number has an effect;
    * `pure`: the same raw number gives the same value, and stays as it is;
    * `refusal`: `contains` refuses NaN, infinities and the ends of the support;
    * `round trip`: `forward(inverse(value))` gives the value back, to a relative error of
      `(2 + |raw|) * eps`, and where there is a Jacobian `inverse(forward(raw))` the raw number;
    * `default`: the starting value has the shape asked for and is inside;
    * `jacobian`: `log_abs_det_jacobian`, where it is defined, is what autograd finds;
    * `transform`: it works as a `torch.distributions.Transform`;
    * `parametrization`: it works with `torch.nn.utils.parametrize`;
    * `state`: its tensors move with it, and it works on the meta device;
    * `copies`: `copy.deepcopy` and `pickle` give the same map;
    * `vmap`: it works under `torch.func.vmap` and `torch.func.grad`;
    * `compile`: if asked for, `torch.compile(fullgraph=True)` gives the same values.

    Random numbers of torch, and its switches, are left as they were.

    Args:
        constraint: a `Constraint`, or anything that `as_constraint` takes.
        shape: the shape of a value to try; None for 3 along every dimension of an event.
        dtypes: the dtypes that it works in.
        raw_limit: the largest raw number that it is meant for, where it promises less than every
            finite one.
        round_trip: how many times the error above a round trip may have, for maps of a worse
            condition.
        coordinates: picks the numbers of a value in which its density is meant; None for the
            first ones that determine it.
        compile: whether to compile it too, which takes seconds.
        skip: names of promises that it does not make.

    Raises:
        BrokenPromiseError: an AssertionError that says which promise is broken, for which number.
        DeclarationError: for what is no constraint, or a name in `skip` that is no promise.

    Example:
        >>> from torch.distributions import constraints
        >>> from declarative_dist import Constraint
        >>> from declarative_dist.testing import check_constraint
        >>> class Squared(Constraint):
        ...     support = constraints.positive
        ...     def forward(self, raw):
        ...         return raw.exp().square()
        ...     def inverse(self, value):
        ...         return value.sqrt().log()
        >>> check_constraint(Squared())
        Traceback (most recent call last):
        ...
        declarative_dist.testing.promise.BrokenPromiseError: 'inside' is broken. Squared.forward: \
expected a value in GreaterThan(lower_bound=0.0) for every finite raw number, got inf for the \
raw number 710.0 in torch.float64. Clamp the raw number before it overflows, or check with \
raw_limit= if it is meant for moderate ones. (python -m declarative_dist.explain broken-promise)
    """
    __tracebackhide__ = True
    found = as_constraint(constraint, "check_constraint")
    if found.names:
        expected = "a constraint whose bounds are known"
        fix = f"Give them: constraint.resolved({{{found.names[0]!r}: ...}})."
        raise DeclarationError(
            "check_constraint", expected, repr(found), fix, code="missing-value"
        )
    tried = _shape_of(found, shape)
    trial = ConstraintTrial(found, tried, tuple(dtypes), raw_limit, round_trip, coordinates)
    with same_random_numbers():
        promises = {**PROMISES, **SLOW} if compile else PROMISES
        check_promises(promises, trial, skip, "check_constraint")


def _shape_of(constraint: nn.Module, shape: Sequence[int] | None) -> torch.Size:
    """The shape of one value: the shape of tensor bounds, where there are some."""
    if shape is not None:
        return torch.Size(shape)
    event_dim: int = constraint.event_dim  # type: ignore[assignment]
    if event_dim:
        return torch.Size((3,) * event_dim)
    bounds = [bound.shape for bound in constraint.buffers()]
    return torch.broadcast_shapes(*bounds) if any(bounds) else torch.Size((3,))

"""The two checks: of a constraint and of a family of distributions, yours or ours."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributions import Distribution

from declarative_dist.constraints.adapters import as_constraint
from declarative_dist.constraints.constraint import Constraint
from declarative_dist.errors import DeclarationError, shorten
from declarative_dist.families.learnable import learnable
from declarative_dist.randomness import same_random_numbers
from declarative_dist.testing import constraint_promises, distribution_promises
from declarative_dist.testing.promise import check_promises

ALL = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_constraint(
    constraint: object,
    *,
    shape: Sequence[int] | None = None,
    dtypes: Sequence[torch.dtype] = ALL,
    raw_limit: float = float("inf"),
    compile: bool = False,  # noqa: A002 - what torch calls it
    skip: Collection[str] = (),
) -> None:
    """Check that a constraint keeps what every constraint promises.

    Those are, by the names that `skip` takes:

    * `shapes`: raw shapes, value shapes and the support fit each other, for one value and batches;
    * `inside`, `gradient`: every finite raw number gives a value strictly inside, in the same
      dtype, with a finite gradient, and has an effect;
    * `refusal`: `contains` refuses NaN, infinities and the ends of the support;
    * `round trip`: `forward(inverse(value))` gives the value back, to a relative error of
      `(2 + |raw|) * eps`, and where there is a Jacobian `inverse(forward(raw))` the raw number;
    * `default`: the starting value has the shape asked for and is inside;
    * `jacobian`: `log_abs_det_jacobian`, where it is defined, is what autograd finds for the first
      numbers of a value that determine it;
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
raw number 710.0 in torch.float64. Clamp the raw number before it overflows, hold a value that \
rounding brings to an end at the next number inside, or check with raw_limit= if it is meant for \
moderate ones. (python -m declarative_dist.explain broken-promise)
    """
    __tracebackhide__ = True
    found = as_constraint(constraint, "check_constraint")
    tried = _shape_of(found) if shape is None else torch.Size(shape)
    trial = constraint_promises.ConstraintTrial(found, tried, tuple(dtypes), raw_limit)
    with same_random_numbers():
        check_promises(constraint_promises.PROMISES, trial, skip, "check_constraint", compile)


def _shape_of(constraint: Constraint) -> torch.Size:
    """The shape of one value: the shape of tensor bounds, where there are some."""
    bounds = [bound.shape for bound in constraint.buffers()]
    if constraint.event_dim or not any(bounds):
        return torch.Size((3,) * max(constraint.event_dim, 1))
    return torch.Size(torch.broadcast_shapes(*bounds))


def check_distribution(
    family: object,
    *context: Any,
    compile: bool = False,  # noqa: A002 - what torch calls it
    skip: Collection[str] = (),
    **given: Any,
) -> None:
    """Check that a family of distributions keeps what every declared one promises.

    The promises, by the names that `skip` takes:

    * `copies`: `copy.deepcopy` gives an independent copy;
    * `parameters`: all of them exist from the start;
    * `shapes`: a call gives a plain distribution, draws are `(*sample, *batch, *event)`, and log
      densities `(*sample, *batch)`;
    * `support`: draws are in the support, and their log densities finite;
    * `score`: draws and densities belong together: the mean gradient of the log density over
      draws is zero (a support that depends on the parameters is the exception);
    * `rsample`: where there is a reparametrised sampler, gradients flow through it;
    * `gradient`: a finite gradient reaches every parameter, as it is and a little further; one
      of the two is not zero;
    * `step`: a second `backward` works, and a step of an optimizer changes the log density;
    * `state`: a `state_dict` that was saved holds all there is, and loads;
    * `pickle`: it pickles after a `backward`;
    * `dtype`: everything moves to float64;
    * `mass`: where events are single numbers, the density has the probability, between two ends
      of its draws, that they have there: it is normalised, to 2 %. Of longer events, and of a
      `Joint`, this is not seen: any constant factor of their density passes. Nor is it in
      float32, if you skip `dtype`;
    * `meta`: everything moves to the meta device, and `reset_parameters` brings it all back;
    * `functional_call`, `vmap`: it works with the transforms of `torch.func`;
    * `compile`: if asked for, `torch.compile(fullgraph=True)` gives the same densities.

    Torch's random numbers and switches, and the family that you give, stay as they were.

    Args:
        family: an instance, or a class that needs no arguments, of `Variational`, `Joint`,
            `Conditional` or any module whose call gives a distribution. A plain distribution is
            made learnable first.
        *context: what a `Conditional` is called with.
        compile: whether to compile it too, which takes seconds.
        skip: names of promises that it does not make.
        **given: what a `Conditional` is given with the context.

    Raises:
        BrokenPromiseError: an AssertionError that says which promise is broken, by which
            parameter or value.
        DeclarationError: if it is no family, or a name in `skip` is no promise.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import Param, Positive, Variational, derived
        >>> from declarative_dist.testing import check_distribution
        >>> class Stuck(Variational):
        ...     base = dd.Gamma
        ...     concentration = Param(2.0)
        ...     location = Param(4.0, Positive())
        ...     @derived
        ...     def rate(self, concentration, location):
        ...         return concentration / location.detach()
        >>> check_distribution(Stuck)
        Traceback (most recent call last):
        ...
        declarative_dist.testing.promise.BrokenPromiseError: 'gradient' is broken. \
Stuck.raw_location: expected a gradient from the log density, got none. Use it in the \
distribution without detach, item, data or numpy, or freeze it. \
(python -m declarative_dist.explain broken-promise)
    """
    __tracebackhide__ = True
    if isinstance(family, type) and issubclass(family, nn.Module):
        family = family()
    elif isinstance(family, Distribution) and not isinstance(family, nn.Module):
        family = learnable(family)
    if not isinstance(family, nn.Module):
        expected = "a module whose call gives a distribution"
        raise DeclarationError("check_distribution", expected, shorten(family))
    with same_random_numbers():
        trial = distribution_promises.FamilyTrial(family, context, given, frozenset(skip))
        check_promises(distribution_promises.PROMISES, trial, skip, "check_distribution", compile)

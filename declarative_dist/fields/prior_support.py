"""Whether a prior lives on the set of its parameter.

Both must be the same but for the boundary, which has no mass: a density on a larger set would not
be one on the smaller set, and where it is smaller it would be zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from declarative_dist.constraints.adapters import FromModule, FromTransform
from declarative_dist.constraints.constraint import Constraint
from declarative_dist.errors import ConstraintError, DeclarationError
from declarative_dist.fields.prior import describe_prior
from declarative_dist.plain.supports import (
    are_near,
    ends_of,
    entries_of,
    is_whole,
    push_support,
    shape_of,
    support_of,
)
from declarative_dist.plain.tracing import is_traced
from declarative_dist.randomness import same_random_numbers

_EXAMPLES = {
    type(constraints.simplex): "dd.Dirichlet(...)",
    type(constraints.corr_cholesky): "dd.LKJCholesky(dim)",
    type(constraints.positive_definite): "dd.Wishart(df, covariance)",
}
"""Plain distributions on them."""


def check_support(
    prior: Any,
    constraint: Constraint,
    subject: str,
    error: type[ConstraintError | DeclarationError] = ConstraintError,
) -> None:
    """Refuse a prior whose support is another set than that of the constraint.

    Args:
        prior: the module that holds it.
        constraint: that of the parameter, without names in it.
        subject: the class and field that an error names.
        error: the kind of error to raise.

    Raises:
        ConstraintError: or another kind, if the sets differ by more than their boundary.
    """
    distribution: Distribution = prior()
    try:
        support = support_of(distribution)
    except NotImplementedError:
        support = None
    if support is None or support.is_discrete:
        got = "which does not state its support" if support is None else "which is discrete"
        expected = "a prior with a density, on a stated support"
        fix = f"Write prior={_example(constraint.support)}, for instance."
        raise error(
            subject, expected, f"{describe_prior(prior)}, {got}", fix, code="prior-mismatch"
        )
    if isinstance(constraint, FromModule):
        return  # only the module knows its set
    if not _agree(distribution, support, constraint):
        raise error(
            subject,
            f"a prior on the set of {constraint!r}, {constraint.describe()}",
            f"{describe_prior(prior)}, whose support is {support}",
            f"Write prior={_example(constraint.support)}, for instance, or give the parameter the "
            f"constraint of the prior. A prior is not cut off at a bound: move one there with "
            f"dd.TransformedDistribution.",
            code="prior-mismatch",
        )


def is_settled(constraint: Constraint) -> bool:
    """Whether the set of a constraint is known and stays as it was when it was checked."""
    return not constraint.names and not isinstance(constraint, FromModule)


def _agree(distribution: Distribution, support: Any, constraint: Constraint) -> bool:
    own = constraint.support
    if isinstance(constraint, FromTransform):
        own = push_support(constraints.real, constraint.current())
    mine, theirs = entries_of(own), entries_of(support)
    ends, others = ends_of(mine), ends_of(theirs)
    if ends is not None and others is not None:
        return are_near(ends, others)
    shaped = [kind for kind in (mine, theirs) if is_whole(kind)]
    if len(shaped) == 2:
        return shape_of(mine) is shape_of(theirs)
    if len(shaped) == 1 and (ends or others):
        return False
    return _agree_at_draws(distribution, support, constraint)


def _agree_at_draws(distribution: Distribution, support: Any, constraint: Constraint) -> bool:
    """Whether draws of the prior are inside the constraint, and its values inside the support.

    For sets that nothing else is known about. The state of the random numbers stays as it was.
    """
    with torch.no_grad(), same_random_numbers():
        try:
            torch.manual_seed(0)
            draws = distribution.sample(torch.Size((64,)))
            if is_traced(draws):
                return True
            values = constraint.forward(torch.randn(constraint.raw_shape(draws.shape)).to(draws))
            inside = constraint.contains(draws).all() & support.check(values).all()
        except NotImplementedError:  # no sampler
            return True
        except (RuntimeError, ValueError, IndexError):  # events of other shapes
            return False
    return bool(inside)


def _example(support: constraints.Constraint) -> str:
    inner = entries_of(support)
    low, high = getattr(inner, "lower_bound", None), getattr(inner, "upper_bound", None)
    if type(inner) in _EXAMPLES:
        return _EXAMPLES[type(inner)]
    if is_whole(inner):
        return "dd.TransformedDistribution(dd.Normal(...), constraint.as_transform())"
    if low is not None and high is not None:
        is_unit = not isinstance(low, Tensor) and (low, high) == (0.0, 1.0)
        return "dd.Beta(2.0, 2.0)" if is_unit else "dd.Uniform(low, high)"
    if isinstance(low, (int, float)) and low == 0:
        return "dd.LogNormal(0.0, 1.0)"
    if low is None and high is None:
        return "dd.Normal(0.0, 1.0)"
    sign = "" if low is not None else "-"
    return f"dd.TransformedDistribution(dd.HalfNormal(1.0), dd.AffineTransform(bound, {sign}1.0))"

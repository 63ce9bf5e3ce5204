"""Priors of parameters: what may be one, how an instance holds it, and its density.

A plain distribution is held as a module whose tensors are constants. A declared family learns its
own parameters with the others (empirical Bayes: Robbins, "An empirical Bayes approach to
statistics", Proceedings of the Third Berkeley Symposium, 1956).

A prior and its parameter live on the same set, but for the boundary, which has no mass. A prior of
single numbers on a larger set is truncated, where the ends are constants and the mass between them
is known. Where its set is smaller, its density would be zero.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints

from declarative_dist.constraints.adapters import FromModule, FromTransform
from declarative_dist.constraints.constraint import Constraint
from declarative_dist.errors import ConstraintError, DeclarationError, shorten
from declarative_dist.fields.alignment import has_copies
from declarative_dist.fields.kinds import (
    FixedTransform,
    as_constant,
    as_module,
    built_kind,
    is_declarative,
    is_declarative_class,
)
from declarative_dist.plain import supports
from declarative_dist.plain.tensors import is_same, with_checks
from declarative_dist.words import format_value
from declarative_dist.wrappers.cdfs import has_atoms
from declarative_dist.wrappers.truncated import Truncated

Refusal = type[ConstraintError | DeclarationError]
"""The kind of error: of a class body, or of an instance."""

_LEARNED = (
    "A plain prior keeps its numbers. One that is learned is prior=learnable(...), or a declared "
    "family; for constants, write .detach()."
)


def as_prior(prior: Any, subject: str) -> Any:
    """The module that a parameter holds as its prior.

    Args:
        prior: a plain distribution of constants, a declared family or an instance of one.
        subject: the class and field that an error names.
    """
    if built_kind(prior) is Distribution:
        if is_declarative_class(prior):
            return prior()
        if is_declarative(prior):
            return prior
    if isinstance(prior, Distribution) and not isinstance(prior, nn.Module):
        return as_constant(prior, subject, _LEARNED)
    fix = "Write prior=torch.distributions.LogNormal(0.0, 1.0), for instance."
    expected = "a torch distribution or a declared family"
    raise DeclarationError(subject, expected, shorten(prior), fix)


def log_density(
    prior: Any, value: Tensor, copies: torch.Size, own: int, *, is_inside: bool
) -> Tensor:
    """The log density of each entry, of shape `(*sample, *copies, *batch)` for one with events.

    Args:
        prior: a module that stands for a distribution.
        value: of shape `(*sample, *copies, *batch, *event)`.
        copies: the independent copies of whose parameters the value is one.
        own: how many dimensions of it belong to one copy.
        is_inside: whether the value is known to be in the support, so that nothing checks it:
            torch refuses some values that are, at the edge and in lower precision.
    """
    distribution: Distribution = prior()
    if is_inside:
        distribution = with_checks(distribution, False)
    lead = value.ndim - own
    added = own + len(copies) - len(distribution.batch_shape) - len(distribution.event_shape)
    if not copies or not added or not has_copies(prior, copies):
        return distribution.log_prob(value)
    # The prior's dimensions stand behind the copies': what it lacks goes in front.
    front, behind = tuple(range(added)), tuple(range(lead, lead + added))
    return distribution.log_prob(value.movedim(behind, front)).movedim(front, behind)


def check_fits(prior: Any, shape: torch.Size, subject: str, copies: torch.Size) -> None:
    """Refuse a prior whose events or batch do not fit into a shape.

    Args:
        prior: the module that holds it.
        shape: the shape of the parameter, of one copy.
        subject: the class and field that an error names.
        copies: the independent copies of the parameter.
    """
    distribution: Distribution = prior()
    event, batch = distribution.event_shape, distribution.batch_shape
    if copies and has_copies(prior, copies):
        batch = batch[len(copies) :]
    whole, lead = (*batch, *event), len(shape) - len(event)
    if lead >= 0 and shape[lead:] == event:
        with suppress(RuntimeError):  # of shapes that do not broadcast
            if torch.broadcast_shapes(shape[:lead], batch) == shape[:lead]:
                return
    expected = f"a prior for a parameter of shape {tuple(shape)}"
    got = f"{describe_prior(prior)} of batch_shape {tuple(batch)} and event_shape {tuple(event)}"
    fix = f"Give a prior over one entry, or over events of shape {tuple(shape)}."
    if len(whole) > len(shape):
        fix = f"Write shape={whole}, or give a prior over one entry."
    raise ConstraintError(subject, expected, got, fix, code="prior-mismatch")


def restrict(
    prior: Any,
    constraint: Constraint,
    subject: str,
    error: Refusal = ConstraintError,
    *,
    has_names: bool = False,
) -> Any:
    """The prior on the set of a constraint: as it is, or truncated if its own set is larger.

    Args:
        prior: the module that holds it.
        constraint: the parameter's, without names in it.
        subject: the class and field that an error names.
        error: the kind of error to raise if neither has a known density there.
        has_names: whether its ends are other fields, on which the mass between them depends.
    """
    distribution: Distribution = prior()
    try:
        support = supports.support_of(distribution)
    except NotImplementedError:
        support = None
    if support is None or support.is_discrete or has_atoms(distribution):
        got = "which is discrete, or has values with a probability of their own"
        got = "which does not state its support" if support is None else got
        got = f"{describe_prior(prior)}, {got}"
        expected, fix = "a prior with a density, on a stated support", "Give one that has both."
        raise error(subject, expected, got, fix, code="prior-mismatch")
    own = _support_of(constraint)
    mine, theirs = supports.entries_of(own), supports.entries_of(support)
    ends, others = supports.ends_of(mine), supports.ends_of(theirs)
    if ends is not None and others is not None:
        agrees, is_larger = supports.are_near(ends, others), supports.lies_within(own, support)
    else:
        is_kind = supports.shape_of(mine) is supports.shape_of(theirs)
        agrees = is_kind and (supports.is_whole(mine) or is_same(mine, theirs))
        is_larger = False
    if agrees or isinstance(constraint, FromModule):  # only the module knows its set
        return prior
    truncated, why = _truncate(prior, distribution, own) if is_larger else (None, "")
    if truncated is not None and not has_names:
        return truncated
    expected = f"a prior on the set of {constraint!r}, {constraint.describe()}"
    got = f"{describe_prior(prior)}, whose support is {support}"
    fix = "Write a prior on that set, or give the parameter the constraint of the prior."
    if is_larger:
        why = why or "the ends are other fields, and so is the mass between them"
        fix += f" It is not truncated, because {why}."
    fix += " Or leave it out, and write a log joint: NegativeELBO(log_joint, guide)."
    raise error(subject, expected, got, fix, code="prior-mismatch")


def _truncate(prior: Any, distribution: Distribution, support: Any) -> tuple[Any, str]:
    """The prior between the ends of a support, or None and why that has no known density."""
    entries = supports.entries_of(support)
    ends = getattr(entries, "lower_bound", None), getattr(entries, "upper_bound", None)
    is_learned = any(True for _ in prior.parameters())
    inside: Any = prior if is_learned else distribution
    event_dim = 0
    if isinstance(inside, Independent):
        inside, event_dim = inside.base_dist, inside.reinterpreted_batch_ndims
    try:
        truncated: Distribution = Truncated(inside, *ends, validate_args=True)
    except ConstraintError:
        return None, f"how much mass a {type(distribution).__name__} has there is not known"
    if event_dim:
        truncated = Independent(truncated, event_dim, validate_args=False)
    return as_module(truncated), ""


def _support_of(constraint: Constraint) -> Any:
    if isinstance(constraint, FromTransform):
        return supports.push_support(constraints.real, constraint.current())
    return constraint.support


def describe_prior(prior: Any) -> str:
    """A prior in words, with its current values: `Gamma(concentration=2.0, rate=3.0)`."""
    if isinstance(prior, FixedTransform):
        return prior.extra_repr()
    if not is_declarative(prior):
        return getattr(prior, "__name__", str(prior).partition("\n")[0])
    declaration, shown = type(prior).__declaration__, []
    for name, field in declaration.fields.items():
        if field.is_part:
            inner = [describe_prior(part) for part in field.parts_of(prior)]
            shown.append(f"[{', '.join(inner)}]" if field.is_list else inner[0])
        elif field.holds_value:
            value = getattr(prior, name)
            shown.append(f"{name}=" * isinstance(value, Tensor) + format_value(value))
    kind = declaration.base if "__recipe__" in vars(type(prior)) else type(prior)
    return f"{kind.__name__}({', '.join(shown)})"

"""Priors of parameters: what may be one, how an instance holds it, and its density.

A plain distribution is held as a module whose tensors are constants. A declared family learns its
own parameters with the others (empirical Bayes: Robbins, "An empirical Bayes approach to
statistics", Proceedings of the Third Berkeley Symposium, 1956).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.errors import ConstraintError, DeclarationError, shorten
from declarative_dist.fields.fixed import FixedTransform, as_constant
from declarative_dist.fields.kinds import built_kind, is_declarative, is_declarative_class
from declarative_dist.fields.sizes import Blueprint
from declarative_dist.fields.templates import replicate
from declarative_dist.fields.walk import convert
from declarative_dist.words import format_value

_LEARNED = (
    "A plain prior keeps its numbers. One that is learned is prior=learnable(...), or a declared "
    "family; for constants, write .detach()."
)


def as_prior(prior: Any, subject: str) -> Any:
    """The module that a parameter holds as its prior.

    Args:
        prior: a plain distribution, a declared family or an instance of one.
        subject: the class and field that an error names.

    Raises:
        DeclarationError: if it is no distribution, or a plain one with parameters in it.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist.fields.prior import as_prior, describe_prior
        >>> describe_prior(as_prior(dd.Gamma(2.0, 3.0), "Param(prior=)"))
        'Gamma(concentration=2.0, rate=3.0)'
    """
    builds = built_kind(prior)
    if is_declarative_class(prior) and builds is Distribution:
        return prior()
    if is_declarative(prior) and builds is Distribution:
        return prior
    if isinstance(prior, Distribution) and not isinstance(prior, nn.Module):
        return as_constant(prior, subject, _LEARNED)
    is_class = isinstance(prior, type) and issubclass(prior, Distribution)
    raise DeclarationError(
        subject,
        "a torch distribution or a declared family",
        f"the class {prior.__name__}" if isinstance(prior, type) else shorten(prior),
        f"Write prior={prior.__name__}(...)."
        if is_class
        else "Write prior=torch.distributions.LogNormal(0.0, 1.0), for instance.",
    )


def copy_prior(
    template: nn.Module, blueprint: Blueprint, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """The prior of one instance: a copy, of which independent copies have parameters of their own.

    The same template twice in a class body is one module twice in its instances.
    """
    prior = convert(copy.deepcopy(template, blueprint.copies), dtype)
    if blueprint.batch_shape and any(True for _ in prior.parameters()):
        replicate(prior, blueprint.batch_shape, blueprint.replicated)
    return prior.to(device=device)


def log_density(
    prior: Any, value: Tensor, copies: torch.Size, own: int, *, is_inside: bool
) -> Tensor:
    """The log density of each entry, of shape `(*sample, *copies, *batch)` for one with events.

    Args:
        prior: a module that stands for a distribution.
        value: of shape `(*sample, *copies, *batch, *event)`.
        own: how many dimensions of it are those of one copy.
        copies: the independent copies of whose parameters the value is one.
        is_inside: whether the value is known to be in the support, so that nothing checks it:
            torch refuses some values that are, at the edge and in lower precision.
    """
    distribution: Distribution = prior()
    if is_inside:
        distribution._validate_args = False
    lead = value.ndim - own
    added = own + len(copies) - len(distribution.batch_shape) - len(distribution.event_shape)
    if not copies or not added or not has_copies(prior, copies):
        return distribution.log_prob(value)
    # The prior's dimensions stand behind those of the copies: what it lacks goes in front.
    front, behind = tuple(range(added)), tuple(range(lead, lead + added))
    return distribution.log_prob(value.movedim(behind, front)).movedim(front, behind)


def has_copies(prior: nn.Module, copies: torch.Size) -> bool:
    """Whether a prior has the dimensions of independent copies in front of its own."""
    own: torch.Size = vars(prior)["_copies"]
    return own[: len(copies)] == copies


def check_fits(
    prior: Any,
    shape: torch.Size,
    subject: str,
    copies: torch.Size = torch.Size(),
    error: type[ConstraintError | DeclarationError] = ConstraintError,
) -> None:
    """Refuse a prior for values of another shape.

    Args:
        prior: the module that holds it.
        shape: the shape of the parameter, of one copy.
        subject: the class and field that an error names.
        copies: the independent copies of the parameter.
        error: the kind of error to raise.

    Raises:
        ConstraintError: or another kind, if the prior's events or batch do not fit into the shape.
    """
    distribution: Distribution = prior()
    event, batch = distribution.event_shape, distribution.batch_shape
    if copies and has_copies(prior, copies):
        batch = batch[len(copies) :]
    lead = len(shape) - len(event)
    if lead >= 0 and shape[lead:] == event:
        try:
            if torch.broadcast_shapes(shape[:lead], batch) == shape[:lead]:
                return
        except RuntimeError:  # the two do not broadcast
            pass
    whole = (*batch, *event)
    raise error(
        subject,
        f"a prior for a parameter of shape {tuple(shape)}",
        f"{describe_prior(prior)} of batch_shape {tuple(batch)} and event_shape {tuple(event)}",
        f"Write shape={whole}, or give a prior over one entry."
        if len(whole) > len(shape)
        else f"Give a prior over one entry, or over events of shape {tuple(shape)}.",
        code="prior-mismatch",
    )


def describe_prior(prior: Any) -> str:
    """A prior in words, with its current values.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist import learnable
        >>> from declarative_dist.fields.prior import describe_prior
        >>> describe_prior(learnable(dd.Independent(dd.Normal(0.0, 1.0).expand((2,)), 1)))
        'Independent(Normal(loc=[0.0, 0.0], scale=[1.0, 1.0]), 1)'
    """
    if isinstance(prior, FixedTransform):
        return prior.extra_repr()
    if not is_declarative(prior):
        return str(prior).partition("\n")[0]
    declaration = type(prior).__declaration__
    is_plain = "__recipe__" in vars(type(prior))
    name = declaration.base.__name__ if is_plain else type(prior).__name__
    shown = []
    for field_name, field in declaration.fields.items():
        if field.is_part and is_plain:
            part: Any = field.module_of(prior)
            is_list = isinstance(part, nn.ModuleList)
            shown.append(
                f"[{', '.join(map(describe_prior, part))}]" if is_list else describe_prior(part)
            )
        elif field.holds_value:
            value = getattr(prior, field_name)
            is_number = not isinstance(value, Tensor)
            prefix = "" if is_plain and is_number else f"{field_name}="
            shown.append(f"{prefix}{format_value(value)}")
    return f"{name}({', '.join(shown)})"

"""What an objective may be given: targets with a log density, and guides to draw from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.errors import (
    ConstraintError,
    DeclarationError,
    ExplainedError,
    FieldError,
    first_line,
    shorten,
)
from declarative_dist.families.conditional import Conditional
from declarative_dist.families.declarative import Declarative
from declarative_dist.families.variational import Variational
from declarative_dist.fields.fixed import as_constant
from declarative_dist.fields.kinds import lacks_forward
from declarative_dist.joints.conditioned import Conditioned
from declarative_dist.joints.distribution import JointDistribution
from declarative_dist.joints.joint import Joint

_TARGETS = "a distribution, a joint, a module, or a function of (sample, *batch)"
_LIVE = (
    "A plain distribution keeps the values of one step: declare a Variational, or write "
    "learnable(...)."
)
_GUIDES = "a Variational, a Joint, a Conditional or an automatic guide"


def as_target(log_joint: Any, subject: str) -> Any:
    """A target as an objective holds it: a module, or a function.

    Args:
        log_joint: a distribution, which is a constant if it is plain, a joint distribution, any
            module, or a function.
        subject: whom an error is about.

    Raises:
        DeclarationError: if it is none of these.
    """
    if isinstance(log_joint, type):
        fix = f"Build one: {log_joint.__name__}(...)."
        raise DeclarationError(
            subject, _TARGETS, f"the class {log_joint.__name__}", fix, code="class-not-instance"
        )
    if isinstance(log_joint, JointDistribution):
        raise _snapshot(log_joint, _TARGETS, subject)
    if isinstance(log_joint, Distribution):
        return as_constant(log_joint, subject, _LIVE)
    if lacks_forward(log_joint):
        name = type(log_joint).__name__
        fix = (
            "Write def log_joint(values, *batch): return latents.log_prior(values) + ..., the log "
            "likelihood of the batch at these values."
        )
        raise DeclarationError(
            subject, _TARGETS, f"a {name}, which has no forward", fix, code="not-a-density"
        )
    if not callable(log_joint):
        raise DeclarationError(subject, _TARGETS, shorten(log_joint), code="not-a-density")
    return log_joint


def owner_of(log_joint: Any) -> nn.Module | None:
    """The module whose method a function is: its parameters are those of the target."""
    owner = getattr(log_joint, "__self__", None)
    is_method = not isinstance(log_joint, nn.Module) and isinstance(owner, nn.Module)
    return owner if is_method else None


def as_guide(guide: Any, subject: str) -> nn.Module:
    """A guide as an objective holds it.

    Raises:
        DeclarationError: if nothing can be drawn from it.
    """
    if isinstance(guide, JointDistribution):
        raise _snapshot(guide, _GUIDES, subject)
    if isinstance(guide, Distribution):
        held: nn.Module = as_constant(guide, subject, _LIVE)
        return held
    fix = ""
    if isinstance(guide, type):
        fix = f"Build one: {guide.__name__}(...)."
    elif isinstance(guide, Conditioned):
        fix = "A joint with data is a target: log_joint=."
    elif isinstance(guide, Declarative) and not isinstance(guide, (Joint, Conditional)):
        fix = "It has no distribution of its own."
    elif isinstance(guide, nn.Module):
        return guide
    got = f"the class {guide.__name__}" if isinstance(guide, type) else _named(guide)
    raise DeclarationError(subject, _GUIDES, got, fix, code="not-a-density")


def takes_batch(guide: nn.Module) -> bool:
    """Whether a guide gives a distribution for each batch."""
    if isinstance(guide, (Variational, Joint)):
        return False
    has_draws = hasattr(type(guide), "sample") and hasattr(type(guide), "log_prob")
    return isinstance(guide, Conditional) or not has_draws


def current_of(guide: Any, batch: tuple[Any, ...] | None = None) -> Any:
    """What draws and densities of one step come from.

    Args:
        guide: the guide.
        batch: what it is called with; None for a guide that takes no batch.

    Raises:
        FieldError: if a module that is called with the batch returns no distribution.
    """
    if batch is None:
        return guide() if isinstance(guide, (Variational, Joint)) else guide
    current = guide(*batch)
    if not isinstance(current, Distribution):
        name = type(guide).__name__
        raise FieldError(
            name, f"a distribution from {name}(*batch)", shorten(current), f"Give {_GUIDES}."
        )
    return current


def holds_its_data(target: Any) -> bool:
    """Whether a target is a density of the draws alone."""
    return isinstance(target, (Variational, Joint, Conditioned))


def as_density(target: Any, draws: Any, log_q: Tensor, owner: str) -> Callable[..., Tensor]:
    """The function that gives the log density of draws under a target.

    Raises:
        ConstraintError: if the target is a distribution of other events or of a larger batch.
    """
    density: Callable[..., Tensor] = target
    if isinstance(target, Variational):
        distribution = target()
        events = draws.shape[log_q.ndim :]
        if distribution.event_shape != events or distribution.batch_shape:
            check_shapes(distribution, log_q.shape[1:], events, f"{owner}.log_joint")
        density = distribution.log_prob
    elif isinstance(target, Joint):
        density = target.log_prob
    return density


def over_draws(density: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A density of one draw as one of many, each with random numbers of its own."""

    def one(draws: Any, *batch: Any) -> Tensor:  # vmap would write out a module at every call
        return density(draws, *batch)

    def many(draws: Any, *batch: Any) -> Tensor:
        dims = (0, *(None for _ in batch))
        mapped: Callable[..., Tensor] = torch.func.vmap(one, dims, randomness="different")
        return mapped(draws, *batch)

    return many


def explained(error: ValueError, owner: str) -> ValueError:
    """What a target that validates its arguments says of the guide's draws, in one line."""
    if isinstance(error, ExplainedError):
        return error
    said = first_line(error).removesuffix(", but found invalid values:")
    return ConstraintError(
        f"{owner}.log_joint",
        "a log density at every draw of the guide",
        f"{type(error).__name__}: {said}",
        "Choose a guide whose draws lie inside the support, or a target that covers them.",
        code="guide-mismatch",
    )


def site_without_density(density: Callable[[Any], Tensor], draws: Any) -> str:
    """Where a target is infinite or NaN at draws, in words; "" where it is finite at all.

    The site to blame is one that alone, put in place of that of a draw with a density, has none.

    Args:
        density: the target, as a function of draws.
        draws: of shape `(count, *batch, *event)`, or a dict of them by site.
    """
    log_p = density(draws)
    is_bad = log_p.isfinite().logical_not().reshape(len(log_p), -1).any(1)
    if not is_bad.any():
        return ""
    share = f"{int(is_bad.sum())} of {len(is_bad)} draws"
    if is_bad.all() or isinstance(draws, Tensor):
        return share
    bad, good = is_bad.nonzero()[0], is_bad.logical_not().nonzero()[0]
    sound = {name: value[good].expand_as(value) for name, value in draws.items()}
    blamed = []
    for name, value in draws.items():
        scores = density({**sound, name: value[bad].expand_as(value)})
        if not scores.isfinite().all():
            blamed.append(name)
    return f"{share}, by the values of {', '.join(blamed)}" if blamed else share


def check_shapes(
    target: Distribution, batch: torch.Size, events: torch.Size, subject: str
) -> None:
    """Refuse events of another shape, and a target of more batch dimensions than the guide's.

    Raises:
        ConstraintError: naming both shapes.
    """
    if target.event_shape != events:
        raise ConstraintError(
            subject,
            f"events of shape {tuple(events)}, as the guide draws",
            f"{tuple(target.event_shape)} in a {type(target).__name__}",
            "Declare dimensions of the event with event_dim, or torch.distributions.Independent.",
            code="wrong-shape",
        )
    own = target.batch_shape
    sizes = zip(reversed(own), reversed(batch), strict=False)
    if len(own) > len(batch) or not all(size == 1 or size == whole for size, whole in sizes):
        raise ConstraintError(
            subject,
            f"a batch shape that broadcasts to {tuple(batch)}, that of the guide",
            f"{tuple(own)} in a {type(target).__name__}",
            "Give the guide as many independent copies, or declare dimensions of the event.",
            code="wrong-shape",
        )


def _snapshot(joint: JointDistribution, expected: str, subject: str) -> DeclarationError:
    fix = f"Pass the {joint.owner} itself, without calling it."
    return DeclarationError(
        subject, expected, f"a snapshot of {joint.owner}", fix, code="captured-parameter"
    )


def _named(value: object) -> str:
    return f"a {type(value).__name__}" if isinstance(value, nn.Module) else shorten(value)


def check_density(log_p: Any, log_q: Tensor, vectorize: bool, owner: str) -> None:
    """Refuse what a target returned, where it is not one number per draw and datum.

    Raises:
        ConstraintError: naming the shape that it should have, and what may be wrong.
    """
    if isinstance(log_p, Tensor) and log_p.shape == log_q.shape:
        return
    subject, shape = f"{owner}.log_joint", tuple(log_q.shape)
    expected = f"a tensor of log densities of shape (*sample, *batch) = {shape}"
    if not isinstance(log_p, Tensor):
        raise ConstraintError(
            subject, expected, shorten(log_p), "Return a tensor.", code="failed-method"
        )
    if vectorize:
        fix = f"For one draw it must return shape (*batch) = {shape[1:]}."
    elif log_p.ndim > log_q.ndim:
        fix = "Sum over the dimensions of the event, .sum(-1), or declare them with event_dim."
    else:
        fix = (
            "Sum over the dimensions of the event only, .sum(-1) and not .sum(); or, if it is "
            "written for one draw, set vectorize=True."
        )
    raise ConstraintError(
        subject, expected, f"shape {tuple(log_p.shape)}", fix, code="wrong-shape"
    )

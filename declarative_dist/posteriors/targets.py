"""What an objective may be given: targets with a log density, guides to draw from, and pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from declarative_dist.errors import (
    ConstraintError,
    DeclarationError,
    ExplainedError,
    FieldError,
    did_you_mean,
    first_line,
    shorten,
)
from declarative_dist.families.conditional import Conditional
from declarative_dist.families.declarative import Declarative
from declarative_dist.families.probe import evaluating
from declarative_dist.families.variational import Variational
from declarative_dist.fields.fixed import as_constant
from declarative_dist.fields.kinds import lacks_forward, predicted_kind
from declarative_dist.joints.conditioned import Conditioned
from declarative_dist.joints.distribution import JointDistribution
from declarative_dist.joints.joint import Joint
from declarative_dist.plain.supports import lies_within, support_of
from declarative_dist.posteriors.guides import NormalGuide
from declarative_dist.randomness import same_random_numbers

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
        raise _snapshot_error(log_joint, _TARGETS, subject)
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
        raise _snapshot_error(guide, _GUIDES, subject)
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
    got = f"the class {guide.__name__}" if isinstance(guide, type) else _describe(guide)
    raise DeclarationError(subject, _GUIDES, got, fix, code="not-a-density")


def takes_batch(guide: nn.Module) -> bool:
    """Whether a guide gives a distribution for each batch."""
    if predicted_kind(guide) is not None:
        return True
    if isinstance(guide, (Variational, Joint)):
        return False
    has_draws = hasattr(type(guide), "sample") and hasattr(type(guide), "log_prob")
    return not has_draws


def current_of(
    guide: Any, batch: tuple[Any, ...] | None = None, given: Mapping[str, Any] | None = None
) -> Any:
    """What draws and densities of one step come from.

    Args:
        guide: the guide.
        batch: what it is called with; None for a guide that takes no batch.
        given: what it takes by keyword.

    Raises:
        FieldError: if a module that is called with the batch returns no distribution.
    """
    if batch is None:
        return guide() if isinstance(guide, (Variational, Joint)) else guide
    current = guide(*batch, **(given or {}))
    if not isinstance(current, (Distribution, JointDistribution)):
        name = type(guide).__name__
        raise FieldError(
            name, f"a distribution from {name}(*batch)", shorten(current), f"Give {_GUIDES}."
        )
    return current


def holds_its_data(target: Any) -> bool:
    """Whether a target is a density of the draws alone."""
    kinds = (Variational, Joint, Conditioned)
    return isinstance(target, kinds) and predicted_kind(target) is None


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


def explain(error: ValueError, owner: str) -> ValueError:
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


def _snapshot_error(joint: JointDistribution, expected: str, subject: str) -> DeclarationError:
    fix = f"Pass the {joint.owner} itself, without calling it."
    return DeclarationError(
        subject, expected, f"a snapshot of {joint.owner}", fix, code="captured-parameter"
    )


def _describe(value: object) -> str:
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


def check_match(target: Any, current: Any, guide: nn.Module, subject: str) -> None:
    """Refuse a guide with draws that a target has no density for.

    Args:
        target: what stands for the target; of functions and other modules nothing is known.
        current: the guide's distribution.
        guide: the guide.
        subject: whom an error is about.

    Raises:
        ConstraintError: if sites, event shapes or supports differ.
    """
    if isinstance(target, Variational):
        _check_kind(isinstance(current, Distribution), "a tensor", type(guide).__name__, subject)
        _check_distributions(target(), current, subject)
    elif isinstance(target, (Joint, Conditioned)) and predicted_kind(target) is None:
        _check_kind(
            not isinstance(current, Distribution),
            "a dict of tensors by site",
            type(guide).__name__,
            subject,
        )
        _check_sites(target, current, guide, subject)


def _check_kind(is_right: bool, wanted: str, name: str, subject: str) -> None:
    if not is_right:
        other = "a tensor" if "dict" in wanted else "a dict of tensors by site"
        fix = "Declare the guide as a Joint." if "dict" in wanted else ""
        raise ConstraintError(
            subject,
            f"a guide whose draws are {wanted}",
            f"{name}, whose are {other}",
            fix,
            code="guide-mismatch",
        )


def _check_distributions(target: Distribution, guide: Distribution, subject: str) -> None:
    if target.event_shape != guide.event_shape:
        check_shapes(target, guide.batch_shape, guide.event_shape, subject)
    _check_supports(_support(guide), _support(target), subject)


def _check_sites(target: Any, current: Any, guide: nn.Module, subject: str) -> None:
    try:
        conditioned = target if isinstance(target, Conditioned) else target.condition()
        sites = conditioned.one_draw().items()
        supports = {n: _support(d) for n, (d, _) in sites if n not in conditioned.observed}
        with torch.no_grad(), same_random_numbers(), evaluating(guide):
            draws = current.sample()
    except NotImplementedError:
        return  # a site without a sampler
    listed = ", ".join(supports)
    for wanted, given, expected, got in (
        (supports, draws, f"every site of the target ({listed})", ", ".join(draws) or "none"),
        (draws, supports, f"the sites of the target alone ({listed})", "{name} too"),
    ):
        for name in wanted:
            if name not in given:
                raise ConstraintError(
                    f"{subject}.{name}",
                    f"a guide for {expected}",
                    f"one for {got.format(name=name)}",
                    did_you_mean(name, given) if given is draws else "Leave it out.",
                    code="guide-mismatch",
                )
    parts = current.sites if isinstance(current, JointDistribution) else {}
    own = {n: _support(site) for n, site in parts.items() if isinstance(site, Distribution)}
    if isinstance(guide, NormalGuide):
        own = guide.supports
    for name, support in own.items():
        _check_supports(support, supports[name], f"{subject}.{name}")


def _support(distribution: Distribution) -> constraints.Constraint | None:
    try:
        support: Any = support_of(distribution)
    except NotImplementedError:
        return None
    return support if isinstance(support, constraints.Constraint) else None


def _check_supports(own: Any, wanted: Any, subject: str) -> None:
    if own is not None and wanted is not None and not lies_within(own, wanted):
        raise ConstraintError(
            subject,
            f"a guide inside the target's support, {wanted}",
            f"one whose support is {own}",
            "Choose a family with that support, or transform it: "
            "torch.distributions.TransformedDistribution.",
            code="guide-mismatch",
        )

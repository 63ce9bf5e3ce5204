"""What an objective may be given: targets with a log density, guides to draw from, and pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.errors import Code, ConstraintError, DeclarationError, FieldError, shorten
from declarative_dist.families.conditional import Conditional
from declarative_dist.families.declarative import Declarative
from declarative_dist.families.variational import Variational
from declarative_dist.fields.kinds import as_constant, lacks_forward, predicted_kind
from declarative_dist.joints.conditioned import Conditioned
from declarative_dist.joints.distribution import JointDistribution
from declarative_dist.joints.joint import Joint
from declarative_dist.latents.named import NamedModule
from declarative_dist.plain.supports import lies_within, support_of
from declarative_dist.posteriors.pushed import PushedNormal

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
    if isinstance(log_joint, Distribution):
        return as_constant(log_joint, subject, _LIVE)
    is_snapshot = isinstance(log_joint, (type, JointDistribution))
    if callable(log_joint) and not is_snapshot and not lacks_forward(log_joint):
        return log_joint
    fix = (
        "Write def log_joint(values, *batch): return latents.log_prior(values) + ..., the log "
        "likelihood of the batch at these values."
    )
    raise _refusal(log_joint, _TARGETS, fix, subject)


def as_guide(guide: Any, subject: str) -> nn.Module:
    """A guide as an objective holds it.

    Raises:
        DeclarationError: if nothing can be drawn from it.
    """
    if isinstance(guide, Distribution):
        return as_constant(guide, subject, _LIVE)
    has_draws = isinstance(guide, (Joint, Conditional)) or not isinstance(guide, Declarative)
    if isinstance(guide, nn.Module) and has_draws and not isinstance(guide, Conditioned):
        return guide
    fix = "Latents have no distribution of their own, and a joint with data is a log_joint."
    raise _refusal(guide, _GUIDES, fix, subject)


def _refusal(value: Any, expected: str, fix: str, subject: str) -> DeclarationError:
    code: Code = "not-a-density"
    got = f"a {type(value).__name__}" if isinstance(value, nn.Module) else shorten(value)
    if isinstance(value, type):
        got, code = f"the class {value.__name__}", "class-not-instance"
        fix = f"Build one: {value.__name__}(...)."
    elif isinstance(value, JointDistribution):
        got, code = f"a snapshot of {value.owner}", "captured-parameter"
        fix = f"Pass the {value.owner} itself, without calling it."
    return DeclarationError(subject, expected, got, fix, code=code)


def takes_batch(guide: nn.Module) -> bool:
    """Whether a guide gives a distribution for each batch."""
    has_draws = hasattr(type(guide), "sample") and hasattr(type(guide), "log_prob")
    return predicted_kind(guide) is not None or not has_draws


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
        return guide() if isinstance(guide, (Variational, NamedModule)) else guide
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


def over_draws(density: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A density of one draw as one of many, each with random numbers of its own."""

    def many(draws: Any, *batch: Any) -> Tensor:
        def one(draw: Any) -> Tensor:
            return density(draw, *batch)

        mapped: Callable[[Any], Tensor] = torch.func.vmap(one, randomness="different")
        return mapped(draws)

    return many


def check_match(target: Any, current: Any, subject: str) -> None:
    """Refuse a guide with draws that a target has no density for.

    Args:
        target: the target; of functions and other modules nothing is known.
        current: the guide's distribution.
        subject: whom an error is about.

    Raises:
        ConstraintError: if sites, shapes or supports differ.
    """
    if isinstance(target, (Variational, Joint)) and predicted_kind(target) is None:
        target = target() if isinstance(target, Variational) else target.condition()
    try:
        wanted, own = _supports_of(target), _supports_of(current)
    except NotImplementedError:
        return  # a support that nobody states, or a site without a sampler
    if wanted is None or own is None:
        return
    expected = got = fix = ""
    if wanted.keys() != own.keys():
        expected, got = (
            "draws that are " + ("a tensor" if "" in each else f"dicts of {', '.join(each)}")
            for each in (wanted, own)
        )
        fix = "Declare the guide as a Joint of just these sites." * ("" not in wanted)
    elif isinstance(target, Distribution) and not _fits(target, current):
        expected, got = (
            f"events of shape {tuple(each.event_shape)} in a batch {tuple(each.batch_shape)}"
            for each in (target, current)
        )
        expected += ", as the target has"
        fix = "Declare dimensions of the event with event_dim; others are independent copies."
    for name, support in () if expected else wanted.items():
        if own[name] is not None and not lies_within(own[name], support):
            subject = f"{subject}.{name}" if name else subject
            expected, got = f"a support inside the target's, {support}", f"{own[name]}"
            fix = "Choose a family with that support, or transform it: "
            fix += "torch.distributions.TransformedDistribution."
            break
    if expected:
        expected = f"a guide with {expected}"
        raise ConstraintError(subject, expected, f"one with {got}", fix, code="guide-mismatch")


def _fits(target: Distribution, current: Any) -> bool:
    """Whether a target has one density for every draw of a guide."""
    try:
        both = torch.broadcast_shapes(target.batch_shape, current.batch_shape)
    except RuntimeError:
        return False
    return bool(both == current.batch_shape and target.event_shape == current.event_shape)


def _supports_of(source: Any) -> dict[str, Any] | None:
    """The support of every site, "" for draws without names; None where no site is known.

    What follows from other sites of a guide has a support of its own at every draw.
    """
    if isinstance(source, Distribution):
        return {"": support_of(source)}
    if isinstance(source, (PushedNormal, Conditioned)):
        return dict(source.supports)
    if not isinstance(source, JointDistribution):
        return None
    sites = source.sites.items()
    return {n: support_of(s) if isinstance(s, Distribution) else None for n, s in sites}

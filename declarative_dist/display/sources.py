"""What can be drawn: distributions, joint ones, guides, and draws of such."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.distributions as dd
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.constraints.band import HALF
from declarative_dist.display.rows import name_of_class
from declarative_dist.display.series import Site, is_discrete
from declarative_dist.errors import DeclarationError, first_line, shorten
from declarative_dist.families.conditional import Conditional
from declarative_dist.families.probe import evaluating
from declarative_dist.fields.kinds import built_kind
from declarative_dist.joints.conditioned import Conditioned
from declarative_dist.joints.distribution import JointDistribution
from declarative_dist.plain.tensors import as_tensor
from declarative_dist.posteriors.pushed import PushedNormal
from declarative_dist.randomness import same_random_numbers
from declarative_dist.words import describe_absence

DRAWS = 10_000

LARGEST = 20_000
"""How many numbers one draw may have."""

_KINDS = (Distribution, JointDistribution, PushedNormal)


class Source(NamedTuple):
    """What a picture is of: its name, and its sites by theirs; a distribution is the site ""."""

    name: str
    sites: Mapping[str, Site]

    @property
    def is_joint(self) -> bool:
        """Whether its sites have names."""
        return "" not in self.sites


def source_of(given: Any, subject: str) -> Source:
    """Find out what is to be drawn of an object.

    Args:
        given: a distribution, a joint, a guide, or draws: a tensor, or a dict of tensors by site.
        subject: which argument an error is about.

    Raises:
        DeclarationError: if it is nothing that can be drawn.
    """
    if _are_numbers(given):
        return Source("data" if subject != "plot" else "draws", {"": _site_of_draws(given)})
    if isinstance(given, Mapping) and given and all(map(_are_numbers, given.values())):
        return Source("draws", {str(name): _site_of_draws(draws) for name, draws in given.items()})
    if can_be_drawn(given) and not isinstance(given, type):
        module: Any = _in_single_precision(given)
        with torch.no_grad(), evaluating(module):
            return Source(_name_of(given), _sites_of(module(), _name_of(given)))
    if isinstance(given, _KINDS):
        return Source(_name_of(given), _sites_of(given, _name_of(given)))
    raise _refusal(given, subject)


def _sites_of(built: Any, name: str) -> dict[str, Site]:
    """The sites of what a module built, or of a plain object."""
    if isinstance(built, JointDistribution):
        sites = _in_joint(built)
        size = sum(value.numel() for _, value in built.one_draw().values())
        draws = _draw(lambda shape: {n: x for n, _, x in built.legal_draw(shape)}, size, name)
    elif isinstance(built, PushedNormal):
        sites = _in_guide(built)
        draws = _draw(built.sample, built.loc.numel(), name)
    else:
        if isinstance(built, dd.OneHotCategorical):
            built = dd.Categorical(logits=built.logits)
        sites = {"": Site(built, len(built.event_shape), is_discrete(built))}
        draws = _draw(lambda shape: {"": built.sample(shape)}, sites[""].shape.numel(), name)
    for site, drawn in draws.items():
        _check_readable(drawn, site or name)
    return {site: replace(known, draws=draws.get(site)) for site, known in sites.items()}


def _in_joint(joint: JointDistribution) -> dict[str, Site]:
    sites = {}
    for name, (distribution, _) in joint.one_draw().items():
        own = joint.sites[name]
        known = own if isinstance(own, Distribution) else None
        if known is not None and known.batch_shape != joint.batch_shape:
            known = known.expand(joint.batch_shape)
        sites[name] = Site(known, len(distribution.event_shape), is_discrete(distribution))
    return sites


def _in_guide(guide: PushedNormal) -> dict[str, Site]:
    """The densities of sites whose numbers are mapped one by one, whatever the others are."""
    scale = guide.scale if guide.scale.ndim == guide.loc.ndim else guide.scale.norm(dim=-1)
    constraint_of = guide.flat.resolver(guide.batch_shape)
    median = guide.median
    sites = {}
    for slot in guide.flat.slots:
        constraint = constraint_of(slot, median)
        is_fixed = constraint is constraint_of(slot, median)
        known: Distribution | None = None
        if is_fixed and constraint.event_dim == constraint.raw_event_dim == 0:
            at = slice(slot.offset, slot.offset + slot.count)
            shape = (*guide.batch_shape, *slot.raw_shape)
            normal = dd.Normal(guide.loc[..., at].reshape(shape), scale[..., at].reshape(shape))
            mapped = dd.TransformedDistribution(normal, constraint.as_transform())
            known = dd.Independent(mapped, len(slot.raw_shape))
        sites[slot.name] = Site(known, len(slot.event_shape), is_discrete=False)
    return sites


def _draw(sample: Callable[[torch.Size], Any], size: int, name: str) -> dict[str, Tensor]:
    """The same draws every time, which leave everybody's random numbers as they were.

    Args:
        sample: gives draws by site, of a shape that it is given.
        size: how many numbers one draw has.
        name: what is drawn from.

    Returns:
        What `sample` returns; nothing if it is not implemented.
    """
    if size > LARGEST:
        expected, got = f"a distribution of at most {LARGEST} numbers", f"{name} of {size}"
        fix = "Plot a part of it; summary(q) reads many numbers."
        raise DeclarationError("plot", expected, got, fix, code="wrong-shape")
    count = max(min(DRAWS, 4_000_000 // max(size, 1)), 200)
    with torch.no_grad(), same_random_numbers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a sampler's, about draws that nobody else sees
        # torch.manual_seed would seed the devices that nobody uses yet.
        torch.default_generator.manual_seed(0)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(0)
        try:
            return sample(torch.Size((count,)))  # type: ignore[no-any-return]
        except NotImplementedError:
            return {}


def _in_single_precision(module: Any) -> nn.Module:
    """The module, or where it is in half precision a wider copy: torch lacks samplers for it."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    is_half = any(tensor.dtype in HALF and not tensor.is_meta for tensor in tensors)
    single: nn.Module = copy.deepcopy(module).float() if is_half else module
    return single


def _are_numbers(given: object) -> bool:
    """Whether these are draws or data: a tensor, an array or a list of numbers."""
    if isinstance(given, (list, tuple)):
        return bool(given) and all(isinstance(each, (int, float, list, tuple)) for each in given)
    return isinstance(given, Tensor) or hasattr(given, "__array__")


def _site_of_draws(numbers: Any) -> Site:
    """Draws `(n, *shape)` of something else, or data."""
    try:
        draws = torch.atleast_1d(as_tensor(numbers).detach())
    except (TypeError, ValueError) as error:
        raise DeclarationError("plot", "numbers to draw", f"draws, {first_line(error)}") from error
    if not len(draws):
        raise DeclarationError("plot", "numbers to draw", "none", code="wrong-shape")
    _check_readable(draws, "draws")
    return Site(None, draws.ndim - 1, not draws.is_floating_point(), draws)


def _check_readable(draws: Tensor, name: str) -> None:
    """Refuse draws whose numbers can't be read, such as those on the meta device."""
    if draws.numel() and (reason := describe_absence(draws)):
        raise DeclarationError("plot", "values to draw", f"{name}, {reason}")


def _name_of(given: Any) -> str:
    """What it is called: by its class, by its base where that was made by `learnable`."""
    if isinstance(given, JointDistribution):
        return given.owner
    return "guide" if isinstance(given, PushedNormal) else name_of_class(type(given))


def _refusal(given: Any, subject: str) -> DeclarationError:
    """What to say of an object that has no density of its own, and what to plot instead."""
    expected = "a distribution, a joint, a guide, draws, or the History of a fit"
    if isinstance(given, type):
        got, fix = f"the class {given.__name__}", f"Give an instance: {given.__name__}(...)."
        return DeclarationError(subject, expected, got, fix, code="class-not-instance")
    if isinstance(given, Conditional):
        got, fix = f"{type(given).__name__} without a context", "Give it one: plot(q(context))."
        return DeclarationError(subject, expected, got, fix, code="no-context")
    got, fix = shorten(given), ""
    if isinstance(given, Conditioned):
        got = "a conditioned joint, whose density is known but for a constant"
        fix = "Fit a guide to it, and plot that: plot(FullRankNormal(posterior))."
    elif isinstance(given, nn.Module):
        got = f"a {type(given).__name__}"
        inner = [name for name, part in given.named_children() if can_be_drawn(part)]
        fix = f"Plot what is in it: {', '.join(inner)}." if inner else "summary(q) has its values."
    return DeclarationError(subject, expected, got, fix)


def can_be_drawn(module: object) -> bool:
    """Whether a module stands for a distribution."""
    builds = built_kind(module)
    return builds is not None and issubclass(builds, _KINDS)

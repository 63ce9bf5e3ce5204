"""What can be drawn: distributions, joint ones, guides, and draws of such."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributions as dd
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.display.rows import name_of_class
from declarative_dist.divergence import log_prob_anywhere
from declarative_dist.errors import DeclarationError, first_line, shorten
from declarative_dist.families.conditional import Conditional
from declarative_dist.fields.kinds import built_kind
from declarative_dist.joints.conditioned import Conditioned
from declarative_dist.joints.distribution import JointDistribution
from declarative_dist.latents.weighted import WeightedDraws
from declarative_dist.plain.indexing import choose
from declarative_dist.plain.restoring import evaluating
from declarative_dist.plain.supports import is_whole, support_of
from declarative_dist.plain.tensors import as_tensor
from declarative_dist.posteriors.pushed import PushedNormal
from declarative_dist.randomness import same_random_numbers
from declarative_dist.words import describe_absence

DRAWS = 10_000

MOST_TO_SHOW = 20_000
"""How many numbers one draw may have."""

_KINDS = (Distribution, JointDistribution, PushedNormal)

_FIXES: tuple[tuple[type, str, str], ...] = (
    (type, "class-not-instance", "Give an instance of it."),
    (Conditional, "no-context", "Give it a context: plot(q(context))."),
    (Conditioned, "wrong-argument", "Fit a guide to it: plot(FullRankNormal(posterior))."),
    (nn.Module, "wrong-argument", "Plot a distribution in it, or print(summary(q))."),
)


@dataclass(frozen=True)
class Marginal:
    """Draws of a distribution, and its density where that is known.

    Args:
        draws: of shape `(n, *batch, *event)`.
        event_dim: how many dimensions belong to one event.
        is_discrete: whether values have masses.
        density: the distribution; None where it depends on other sites.
    """

    draws: Tensor
    event_dim: int
    is_discrete: bool
    density: Distribution | None = None

    @property
    def shape(self) -> torch.Size:
        """The shape `(*batch, *event)` of one draw."""
        return self.draws.shape[1:]

    @property
    def batch(self) -> torch.Size:
        """The shape of independent copies."""
        return self.shape[: len(self.shape) - self.event_dim]

    @property
    def event(self) -> torch.Size:
        """The shape of one event."""
        return self.shape[len(self.shape) - self.event_dim :]

    @property
    def is_pair(self) -> bool:
        """Whether events are pairs, with a density over the plane where one is known."""
        is_plane = self.event == (2,) and not self.is_discrete
        return is_plane and not (self.density and is_whole(_support_of(self.density)))

    def pick(self, index: tuple[int, ...]) -> Marginal:
        """One number, or one event of the batch, with the density of it alone if that is known."""
        at: Any = (slice(None), *index)
        draws = self.draws[at]
        is_number = draws.ndim == 1
        density: Any = _marginals_of(self.density) if is_number else self.density
        if density is not None and density.event_shape.numel() != draws[0].numel():
            density = None
        if density is not None and density.batch_shape:
            try:
                density = choose(density, index[: len(density.batch_shape)])
            except DeclarationError:  # it doesn't keep its arguments
                density = None
        return Marginal(draws, draws.ndim - 1, self.is_discrete, density)

    def column(self, *index: int) -> Tensor:
        """The draws of one number that are finite, in float64."""
        at: Any = (slice(None), *index)
        column = self.draws[at].detach().cpu().double()
        return column[column.isfinite()]

    def score(self, points: Tensor) -> Tensor | None:
        """Log densities or masses `(m,)` of events `(m, *event)`, in float64; None if not known.

        Outside of the support they are minus infinity.
        """
        density = self.density
        if density is None:
            return None
        like = self.draws if self.draws.is_floating_point() else self.draws.float()
        values = points.to(like).reshape(len(points), *density.event_shape)
        try:
            with torch.no_grad():
                return log_prob_anywhere(density, values).cpu().double()
        except (NotImplementedError, ValueError):  # it has no density, or a narrower support
            return None


def source_of(given: Any, subject: str) -> tuple[str, dict[str, Marginal]]:
    """Find out what is to be drawn of an object.

    Args:
        given: a distribution, a joint, a guide, or draws: a tensor, a dict of tensors by site, or
            `WeightedDraws`, which are resampled.
        subject: which argument an error is about.

    Returns:
        Its name, and its sites by theirs; a distribution is the site "".

    Raises:
        DeclarationError: if it is nothing that can be drawn.
    """
    if _are_numbers(given):
        return "data" if subject != "plot" else "draws", {"": _site_of_draws(given)}
    if isinstance(given, Mapping) and given and all(map(_are_numbers, given.values())):
        return "draws", {str(name): _site_of_draws(draws) for name, draws in given.items()}
    if isinstance(given, WeightedDraws):
        return "draws", _sites_of_weighted(given)
    name = given.owner if isinstance(given, JointDistribution) else name_of_class(type(given))
    builds = built_kind(given)
    if builds is not None and issubclass(builds, _KINDS) and not isinstance(given, type):
        module: Any = given
        with torch.no_grad(), evaluating(module):
            return name, _draw(module(), name)
    if isinstance(given, _KINDS):
        return name, _draw(given, name)
    fixes = (fix for kind, *fix in _FIXES if isinstance(given, kind))
    code, fix = next(fixes, ("wrong-argument", ""))
    expected = "a distribution, a joint, a guide, draws, or the History of a fit"
    raise DeclarationError(subject, expected, shorten(given), fix, code=code)


def _draw(built: Any, name: str) -> dict[str, Marginal]:
    """The sites of what a module built, or of a plain object, with the same draws every time."""
    make = _draw_guide if isinstance(built, PushedNormal) else _draw_sites
    with torch.no_grad(), same_random_numbers(seed=0), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a sampler's, about draws that nobody else sees
        size = sum(site.shape.numel() for site in make(built, torch.Size((1,))).values())
        if size > MOST_TO_SHOW:
            expected, got = (
                f"a distribution of at most {MOST_TO_SHOW} numbers",
                f"{name} of {size}",
            )
            fix = "Plot a part of it; summary(q) reads many numbers."
            raise DeclarationError("plot", expected, got, fix, code="wrong-shape")
        sites = make(built, torch.Size((min(DRAWS, 4_000_000 // max(size, 1)),)))
    for site in sites.values():
        _check_readable(site.draws, name)
    return sites


def _draw_sites(built: Any, shape: torch.Size) -> dict[str, Marginal]:
    """The sites of a joint; a distribution is one site."""
    if isinstance(built, dd.OneHotCategorical):
        built = dd.Categorical(logits=built.logits)
    is_joint = isinstance(built, JointDistribution)
    drawn = built.legal_draw(shape) if is_joint else {"": (built, built.sample(shape))}
    sites = {}
    for name, (distribution, draws) in drawn.items():
        known = built.sites[name] if is_joint else built
        if not isinstance(known, Distribution):
            known = None
        elif known.batch_shape != built.batch_shape:
            known = known.expand(built.batch_shape)
        support = _support_of(distribution)  # one that does not say has densities
        is_discrete = support is not None and bool(support.is_discrete)
        sites[name] = Marginal(draws, len(distribution.event_shape), is_discrete, known)
    return sites


def _draw_guide(guide: PushedNormal, shape: torch.Size) -> dict[str, Marginal]:
    """Sites with the densities of numbers that are mapped one by one, whatever the others are."""
    draws, median = guide.sample(shape), guide.median
    constraint_of = guide.flat.resolver(guide.batch_shape)
    sites = {}
    for slot in guide.flat.slots:
        constraint = constraint_of(slot, median)
        is_fixed = constraint is constraint_of(slot, median)
        known: Distribution | None = None
        if is_fixed and constraint.event_dim == constraint.raw_event_dim == 0:
            own = (*guide.batch_shape, *slot.raw_shape)
            at = slice(slot.offset, slot.offset + slot.count)
            loc, scale = guide.loc[..., at], guide.gaussian.deviations[..., at]
            normal = dd.Normal(loc.reshape(own), scale.reshape(own))
            known = dd.TransformedDistribution(normal, constraint.as_transform())
        dims = len(slot.event_shape)
        sites[slot.name] = Marginal(draws[slot.name], dims, is_discrete=False, density=known)
    return sites


def _sites_of_weighted(draws: WeightedDraws) -> dict[str, Marginal]:
    """As many draws of equal weight as a picture needs, the same every time."""
    size = sum(value[0].numel() for value in draws.values.values())
    with same_random_numbers(seed=0):
        equal = draws.resample(min(DRAWS, max(4_000_000 // size, 100)))
    copies = draws.weights.ndim
    sites = {name: _site_of_draws(value) for name, value in equal.items()}
    return {name: replace(s, event_dim=s.draws.ndim - copies) for name, s in sites.items()}


def _marginals_of(distribution: Any) -> Any:
    """The distributions of the entries of an event, as a batch, where there is a closed form."""
    if isinstance(distribution, dd.Independent):
        return _marginals_of(distribution.base_dist)
    if isinstance(distribution, (dd.MultivariateNormal, dd.LowRankMultivariateNormal)):
        return dd.Normal(distribution.mean, distribution.stddev)
    if isinstance(distribution, dd.Dirichlet):
        share = distribution.concentration
        return dd.Beta(share, share.sum(-1, keepdim=True) - share)
    return distribution


def _support_of(distribution: Distribution) -> Any:
    """Its support; None where it states none."""
    try:
        return support_of(distribution)
    except NotImplementedError:
        return None


def _are_numbers(given: object) -> bool:
    """Whether these are draws or data: a tensor, an array or a list of numbers."""
    if isinstance(given, (list, tuple)):
        return bool(given) and all(isinstance(each, (int, float, list, tuple)) for each in given)
    return isinstance(given, Tensor) or hasattr(given, "__array__")


def _site_of_draws(numbers: Any) -> Marginal:
    """Draws `(n, *event)` of something else, or data."""
    try:
        draws = torch.atleast_1d(as_tensor(numbers).detach())
    except (TypeError, ValueError) as error:
        raise DeclarationError("plot", "numbers to draw", f"draws, {first_line(error)}") from error
    _check_readable(draws, "draws")
    return Marginal(draws, draws.ndim - 1, not draws.is_floating_point())


def _check_readable(draws: Tensor, name: str) -> None:
    """Refuse draws without numbers that can be read, such as those on the meta device."""
    if reason := describe_absence(draws):
        raise DeclarationError("plot", "numbers to draw", f"{name}, {reason}", code="wrong-shape")

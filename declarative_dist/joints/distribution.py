"""Joint distributions as plain objects: named sites, drawn one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from declarative_dist.errors import ConstraintError, first_line
from declarative_dist.families.building import require_rsample, with_event_dim
from declarative_dist.joints import draws
from declarative_dist.joints.choosing import choose_joint
from declarative_dist.joints.conditioned import Conditioned
from declarative_dist.joints.rule import Rule
from declarative_dist.latents.named import NamedDistribution, Reader, Values, score_in_support
from declarative_dist.plain.draws import (
    Scorer,
    is_reparametrised,
    rsample_and_score,
    rsample_and_score_detached,
)
from declarative_dist.plain.refusals import BROADCAST, is_about_sizes
from declarative_dist.randomness import same_random_numbers

Draw = Callable[[str, Distribution, torch.Size], Tensor]
Drawn = dict[str, tuple[Distribution, Tensor]]
TRIES = 50
"""How often values are drawn again that a later site does not take."""


class JointDistribution(NamedDistribution):
    """What calling a `Joint` gives: its sites with the values that they had at that moment.

    Draws are dicts of tensors of shape `(*sample, *batch, *event)` by site; densities have shape
    `(*sample, *batch)`. What a site's method reads from `self` is of that moment, too.

    For a context, the batch is the contexts', and each has draws of its own. Only sites that do
    not depend on it are drawn once for all: then contexts are not independent, and all of them
    are one event. There is no batch, draws of the other sites have shape
    `(*sample, *contexts, *event)`, and `log_prob` adds up all contexts, to shape `(*sample)`.

    Args:
        owner: the name of the class, for errors.
        sites: by name a plain distribution, or the rule that makes one, in the order of drawing.
        values: the values of other fields that rules take.
        batch_shape: the shape of independent copies, or of contexts.
        local: of contexts, the names of the sites that each has of its own; None for copies.
        weight: how often each context counts; None for once.
    """

    def __init__(
        self,
        owner: str,
        sites: Mapping[str, Distribution | Rule],
        values: Mapping[str, Any],
        batch_shape: torch.Size,
        local: frozenset[str] | None = None,
        weight: float | None = None,
    ) -> None:
        self.owner = owner
        self.sites = dict(sites)
        self._again = partial(JointDistribution, owner, sites, values, batch_shape)
        self.local = local or frozenset()
        is_one = local is not None and (weight is not None or len(local) < len(sites))
        self.batch_shape = torch.Size() if is_one else batch_shape
        self.contexts = batch_shape if is_one else torch.Size()
        self.weight = 1.0 if weight is None else weight
        self.values = dict(values)
        for name, site in sites.items():
            if isinstance(site, Distribution):
                self.sites[name] = self._as_one_event(name, site)
            elif not any(needed in sites for needed in site.field.names):
                self.sites[name] = self.distribution_of(name, {})

    def weigh(self, total_size: int) -> JointDistribution:
        """The same for a batch out of `total_size` contexts, as an estimate for all of them.

        All contexts are one event, and what they add to a density is multiplied by `total_size`
        over their number; sites that do not depend on them count once.
        """
        contexts = self.contexts or self.batch_shape
        return self._again(self.local, total_size / max(contexts.numel(), 1))

    def split(self) -> JointDistribution:
        """The same with all contexts apart, so that each has draws of all sites."""
        return self._again()

    def condition(self, **data: Any) -> Conditioned:
        """As `Joint.condition`, of this snapshot."""
        return Conditioned(self, data)

    predict = draws.predict

    __iter__ = None  # Python would index without end

    __getitem__ = choose_joint

    @property
    def is_independent(self) -> bool:
        """Whether no site depends on another."""
        return all(isinstance(site, Distribution) for site in self.sites.values())

    def parents_of(self, name: str) -> list[str]:
        """The sites that the distribution of this one follows from."""
        site = self.sites[name]
        return [n for n in site.field.names if n in self.sites] if isinstance(site, Rule) else []

    @property
    def has_rsample(self) -> bool:
        return all(is_reparametrised(d) for d, _ in self.one_draw().values())

    def entropy(self) -> Tensor:
        if not self.is_independent:
            return super().entropy()
        sites: dict[str, Any] = self.sites
        total = self._total({name: site.entropy() for name, site in sites.items()})
        return total.expand(self.batch_shape)

    def __repr__(self) -> str:
        return f"{self.owner}({', '.join(self.sites)})"

    def sample(self, sample_shape: Any = torch.Size()) -> Values:
        with torch.no_grad():
            return _values_of(self.draw_in_order(sample_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Values:
        def draw(name: str, distribution: Distribution, shape: torch.Size) -> Tensor:
            return require_rsample(distribution, f"{self.owner}.{name}").rsample(shape)

        return _values_of(self.draw_in_order(sample_shape, draw))

    def rsample_and_log_prob(self, sample_shape: Any = torch.Size()) -> tuple[Values, Tensor]:
        return self._draw_and_score(sample_shape, rsample_and_score)

    def rsample_and_score_detached(self, sample_shape: Any) -> tuple[Values, Tensor]:
        """Draws with gradients, and their log densities with detached parameters."""
        if self.is_independent:
            return self._draw_and_score(sample_shape, rsample_and_score_detached)
        values, log_prob = self.rsample_and_log_prob(sample_shape)
        fixed = self.log_prob({name: value.detach() for name, value in values.items()})
        return values, log_prob - (fixed - fixed.detach())

    def _draw_and_score(self, sample_shape: Any, rule: Scorer) -> tuple[Values, Tensor]:
        """Draws and their log densities, by a rule that gives both for one distribution."""
        scores: dict[str, Tensor] = {}

        def draw(name: str, distribution: Distribution, shape: torch.Size) -> Tensor:
            require_rsample(distribution, f"{self.owner}.{name}")
            value, scores[name] = rule(distribution, shape)
            return value

        return _values_of(self.draw_in_order(sample_shape, draw)), self._total(scores)

    def sample_and_score(self, sample_shape: Any) -> tuple[Values, Tensor]:
        """Draws without gradients, and their log densities, whose gradient is the score's.

        Contexts that count more than once do so in the number: the score is the draws' own.
        """
        values = self.sample(sample_shape)
        scores = self.scores(values, {})
        plain: Any = sum(scores.values())
        return values, self._total(scores).detach() + (plain - plain.detach())

    def log_prob(
        self, values: Mapping[str, Any], observed: Mapping[str, Tensor] = MappingProxyType({})
    ) -> Tensor:
        return self._total(self.scores(values, observed))

    def _total(self, scores: Mapping[str, Tensor]) -> Tensor:
        """What all sites add up to, each context as often as it counts."""
        if self.weight != 1.0:
            local, weight = self.local, self.weight
            scores = {n: weight * s if n in local else s for n, s in scores.items()}
        return sum(scores.values())  # type: ignore[return-value]

    def scores(
        self,
        values: Mapping[str, Any],
        observed: Mapping[str, Tensor],
        *,
        is_by_datum: bool = False,
    ) -> dict[str, Tensor]:
        """The log density of each site, given those above it.

        Args:
            values: numbers of shape `(*sample, *batch, *event)` by site.
            observed: data of all other sites, without sample dimensions; repeated along them.
            is_by_datum: whether each independent entry of an event is scored apart, in dimensions
                behind.

        Raises:
            ConstraintError: for a missing or unknown site, or a shape that does not fit.
        """
        names = [name for name in self.sites if name not in observed]
        reader = Reader(self.owner, values, names, self.batch_shape)
        known: dict[str, Tensor] = {}
        scores: dict[str, Tensor] = {}
        for name, site in self.sites.items():
            before = reader.lead
            distribution = self.distribution_of(name, known, before)
            event_shape = distribution.event_shape
            if name in observed:
                value = observed[name].expand(torch.Size((*before, *event_shape)))
            else:
                like = partial(draws.draw_like, distribution, values[name])
                value = reader.read(name, event_shape, like)
                if reader.lead != before:  # data above the first draw are repeated
                    rank = len(before)
                    known = {
                        n: v.expand((*reader.lead, *v.shape[rank:])) for n, v in known.items()
                    }
            lead = self.batch_shape if isinstance(site, Distribution) else reader.lead
            self._check_batch(name, distribution, lead)
            known[name] = value
            while is_by_datum and isinstance(distribution, Independent):
                distribution = distribution.base_dist
            scores[name] = score_in_support(distribution, value, f"{self.owner}.{name}")
        return scores

    def one_draw(self, sample_shape: Any = torch.Size(), draw: Draw | None = None) -> Drawn:
        """As `legal_draw`, without gradients; random numbers stay as they were."""
        with torch.no_grad(), same_random_numbers():
            return self.legal_draw(sample_shape, draw)

    def legal_draw(self, sample_shape: Any = torch.Size(), draw: Draw | None = None) -> Drawn:
        """As `draw_in_order`, and again where a later site does not take a value.

        So it is with a scale below zero.
        """
        for _ in range(TRIES - 1):
            try:
                return self.draw_in_order(sample_shape, draw)
            except ConstraintError as error:
                if not isinstance(error.__cause__, ValueError):
                    raise
        return self.draw_in_order(sample_shape, draw)

    def draw_in_order(self, sample_shape: Any = torch.Size(), draw: Draw | None = None) -> Drawn:
        """Draw the sites in order: the distribution and the value of each, by name.

        Args:
            sample_shape: the shape in front.
            draw: takes a name, a distribution and a sample shape, and returns a draw; by default
                one without gradients.
        """
        sample_shape = torch.Size(sample_shape)
        lead = torch.Size((*sample_shape, *self.batch_shape))
        known: dict[str, Tensor] = {}
        drawn: Drawn = {}
        for name, site in self.sites.items():
            distribution = self.distribution_of(name, known, lead)
            is_first = isinstance(site, Distribution)
            target = self.batch_shape if is_first else lead
            self._check_batch(name, distribution, target)
            if distribution.batch_shape != target:
                distribution = distribution.expand(target)
            shape = sample_shape if is_first else torch.Size()
            try:
                known[name] = (draw or _sample)(name, distribution, shape)
            except NotImplementedError as error:
                said = str(error) or f"{type(distribution).__name__} has no sampler"
                where = f"{self.owner}.{name}"
                told = said if said.startswith(where) else f"{where}: {said}"
                raise NotImplementedError(told) from error
            except (RuntimeError, ValueError, IndexError) as error:
                if not (type(error) is ValueError or is_about_sizes(error)):
                    raise
                subject, expected = f"{self.owner}.{name}", "a distribution that can be drawn from"
                got = f"{type(error).__name__} of {distribution}: {first_line(error)}"
                raise ConstraintError(subject, expected, got, code="refused-by-torch") from error
            drawn[name] = distribution, known[name]
        return drawn

    def distribution_of(
        self, name: str, known: Mapping[str, Tensor], lead: torch.Size = torch.Size()
    ) -> Distribution:
        """The distribution of a site, given the values of earlier ones with a lead in front."""
        site = self.sites[name]
        if isinstance(site, Distribution):
            return site
        arguments = {n: known[n] if n in known else self.values[n] for n in site.field.names}
        ranks = {n: len(lead) for n in site.field.names if n in known}
        if self.contexts and name in self.local:
            ranks = dict.fromkeys(ranks, len(lead) + len(self.contexts))
            ones = (1,) * len(self.contexts)
            for n in ranks.keys() - self.local:  # what all contexts share
                own = known[n].shape[len(lead) :]
                value = known[n].reshape((*lead, *ones, *own))
                arguments[n] = value.expand((*lead, *self.contexts, *own))
        subject = f"{self.owner}.{name}"
        events = {n: arguments[n].ndim - rank for n, rank in ranks.items()}
        return self._as_one_event(name, site.build(arguments, subject, events), lead)

    def _as_one_event(
        self, name: str, distribution: Distribution, lead: torch.Size = torch.Size()
    ) -> Distribution:
        """The distribution of a site for all contexts together, where they have some of it."""
        if not self.contexts or name not in self.local:
            return distribution
        whole = torch.Size((*lead, *self.contexts))
        self._check_batch(name, distribution, whole)
        if distribution.batch_shape != whole:
            distribution = distribution.expand(whole)
        count = len(distribution.event_shape) + len(self.contexts)
        return with_event_dim(distribution, count, f"{self.owner}.{name}")

    def _check_batch(self, name: str, distribution: Distribution, lead: torch.Size) -> None:
        """Refuse a distribution whose log_prob would have dimensions that are not the joint's."""
        own = distribution.batch_shape
        extra = len(own) - len(lead)
        sizes = zip(reversed(own), reversed(lead), strict=False)
        # One comparison at a time: under dynamo, sizes are symbols.
        if extra <= 0 and all(size == 1 or size == whole for size, whole in sizes):
            return
        events = len(distribution.event_shape) + max(extra, 1)
        fix = BROADCAST
        if extra > 0:
            fix = (
                f"If they belong to one event, write @site(event_dim={events}), or event_dim = "
                f"{events} in its class, or torch.distributions.Independent(..., {extra})."
            )
        raise ConstraintError(
            f"{self.owner}.{name}",
            f"a batch shape that broadcasts to (*sample, *batch) = {tuple(lead)}, as the draws "
            "of the other sites have, without adding dimensions",
            f"{tuple(own)}",
            fix,
            code="wrong-shape",
        )


def _values_of(drawn: Drawn) -> Values:
    return {name: value for name, (_, value) in drawn.items()}


def _sample(name: str, distribution: Distribution, shape: torch.Size) -> Tensor:
    return distribution.sample(shape)

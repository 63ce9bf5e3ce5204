"""Joint distributions as plain objects: named sites, drawn one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from declarative_dist.errors import ConstraintError, first_line
from declarative_dist.families.building import require_rsample, with_event_dim
from declarative_dist.joints.conditioned import Conditioned
from declarative_dist.joints.draws import like_draws_of, predict
from declarative_dist.joints.rule import BROADCAST, Rule, is_about_arguments
from declarative_dist.latents.named import (
    NamedDistribution,
    Values,
    check_names,
    check_shape,
    lead_of,
    score_in_support,
)
from declarative_dist.latents.weighted import WeightedDraws
from declarative_dist.plain.draws import is_reparametrised, rsample_and_score
from declarative_dist.randomness import same_random_numbers

Draw = Callable[[str, Distribution, torch.Size], Tensor]
Scorer = Callable[[Distribution, torch.Size], tuple[Tensor, Tensor]]
TRIES = 50
"""How often values are drawn again that a later site does not take."""


class JointDistribution(NamedDistribution):
    """What calling a `Joint` gives: its sites with the values that they had at that moment.

    Draws are dicts of tensors of shape `(*sample, *batch, *event)` by site; densities have shape
    `(*sample, *batch)`. What a site's method reads from `self` is read when it is drawn.

    For a context, the batch is that of contexts, and each has draws of its own. Only sites that do
    not depend on it are drawn once for all: then contexts are not independent, and all of them
    are one event. There is no batch, draws of the other sites have shape
    `(*sample, *contexts, *event)`, and `log_prob` adds up all contexts, to shape `(*sample)`.

    Args:
        owner: the name of the class, for errors.
        sites: by name a plain distribution, or the rule that makes one, in the order of drawing.
        values: the values of other fields that rules take.
        batch_shape: the shape of independent copies, or that of contexts.
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
        self._local = self.local if is_one else frozenset()
        self.weight = 1.0 if weight is None else weight
        self._values = dict(values)
        self._methods = {name for name, site in sites.items() if isinstance(site, Rule)}
        for name, site in sites.items():
            if isinstance(site, Distribution):
                self.sites[name] = self._as_one_event(name, site)
            elif not any(needed in sites for needed in site.names):
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
        """Hold sites at data: what is left is a log density of the other sites.

        Args:
            **data: by site a value of shape `(*batch, *event)`, or `(*event)` for all of a batch.

        Returns:
            A callable module that holds this snapshot and the data.

        Raises:
            ConstraintError: for a name that is no site, or data of another shape.
        """
        return Conditioned(self, data)

    @property
    def is_independent(self) -> bool:
        """Whether no site depends on another."""
        return all(isinstance(site, Distribution) for site in self.sites.values())

    def parents_of(self, name: str) -> list[str]:
        """The sites that the distribution of this one follows from."""
        site = self.sites[name]
        return [n for n in site.names if n in self.sites] if isinstance(site, Rule) else []

    @property
    def has_rsample(self) -> bool:
        return all(is_reparametrised(d) for d, _ in self.one_draw().values())

    def entropy(self) -> Tensor:
        if not self.is_independent:
            raise NotImplementedError
        sites: dict[str, Any] = self.sites
        total = self._total({name: site.entropy() for name, site in sites.items()})
        return total.expand(self.batch_shape)

    def __repr__(self) -> str:
        return f"{self.owner}({', '.join(self.sites)})"

    def sample(self, sample_shape: Any = torch.Size()) -> Values:
        with torch.no_grad():
            return {name: value for name, _, value in self.draw_in_order(sample_shape)}

    def rsample(self, sample_shape: Any = torch.Size()) -> Values:
        def draw(name: str, distribution: Distribution, shape: torch.Size) -> Tensor:
            return require_rsample(distribution, f"{self.owner}.{name}").rsample(shape)

        return {name: value for name, _, value in self.draw_in_order(sample_shape, draw)}

    def rsample_and_log_prob(self, sample_shape: Any = torch.Size()) -> tuple[Values, Tensor]:
        return self.draw_and_score(sample_shape, rsample_and_score)

    def draw_and_score(self, sample_shape: Any, rule: Scorer) -> tuple[Values, Tensor]:
        """Draws and their log densities, by a rule that gives both for one distribution.

        Raises:
            NotImplementedError: if a site has no reparametrised sampler.
        """
        scores: dict[str, Tensor] = {}

        def draw(name: str, distribution: Distribution, shape: torch.Size) -> Tensor:
            require_rsample(distribution, f"{self.owner}.{name}")
            value, scores[name] = rule(distribution, shape)
            return value

        values = {name: value for name, _, value in self.draw_in_order(sample_shape, draw)}
        return values, self._total(scores)

    def sample_and_score(self, sample_shape: Any) -> tuple[Values, Tensor]:
        """Draws without gradients, and their log densities, whose gradient is that of the score.

        Contexts that count more than once do so in the number: the score is that of the draws.
        """
        values = self.sample(sample_shape)
        scores = self.scores(values, {})
        plain: Any = sum(scores.values())
        return values, self._total(scores).detach() + (plain - plain.detach())

    def log_prob(self, values: Mapping[str, Any]) -> Tensor:
        return self.score(values, {})

    def score(self, values: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """The joint log density where some sites are held at data.

        Args:
            values: tensors of shape `(*sample, *batch, *event)` for all other sites.
            observed: tensors without sample dimensions, which are repeated along them.

        Raises:
            ConstraintError: for a missing or unknown site, or a shape that does not fit.
        """
        return self._total(self.scores(values, observed))

    def _total(self, scores: Mapping[str, Tensor]) -> Tensor:
        """What all sites add up to, each context as often as it counts."""
        if self.weight != 1.0:
            local, weight = self._local, self.weight
            scores = {n: weight * s if n in local else s for n, s in scores.items()}
        total: Any = sum(scores.values())
        return total  # type: ignore[no-any-return]

    def scores(
        self,
        values: Mapping[str, Any],
        observed: Mapping[str, Tensor],
        *,
        is_by_datum: bool = False,
    ) -> dict[str, Tensor]:
        """The log density of each site, given those above it; otherwise as `score`.

        With `is_by_datum` that of each independent entry of an event, in dimensions behind.
        """
        check_names(self.owner, values, [name for name in self.sites if name not in observed])
        known: dict[str, Tensor] = {}
        scores: dict[str, Tensor] = {}
        lead: torch.Size | None = None
        for name, site in self.sites.items():
            subject = f"{self.owner}.{name}"
            distribution = self.distribution_of(name, known, lead or self.batch_shape)
            event_shape = distribution.event_shape
            if name in observed:
                shape = torch.Size((*(lead or self.batch_shape), *event_shape))
                value = observed[name].expand(shape)
            else:
                value = like_draws_of(distribution, values[name], subject)
                if lead is None:
                    lead = lead_of(value, self.batch_shape, event_shape, subject)
                    known = self._repeat(known, lead)  # data that came before any draw
                check_shape(value, lead, event_shape, subject)
            is_first = isinstance(site, Distribution) or lead is None
            self._check_batch(name, distribution, self.batch_shape if is_first else lead)
            known[name] = value
            scores[name] = self._score(name, distribution, value, is_by_datum)
        return scores

    def predict(
        self,
        draws: Mapping[str, Any] | WeightedDraws,
        observed: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Values:
        """Draw what is not given, from its distribution at draws of the sites above it.

        Args:
            draws: by site numbers of shape `(*sample, *batch, *event)`, with every site that a
                given one depends on; `WeightedDraws` are resampled, to as many.
            observed: data of other sites, of shape `(*batch, *event)` or `(*event)`: they stay
                where a given site depends on them, and are drawn anew elsewhere.

        Returns:
            Draws of shape `(*sample, *batch, *event)` of the other sites, without gradients.

        Raises:
            ConstraintError: without draws, for an unknown site or a missing one, for a shape that
                does not fit, and for values outside their support.
        """
        return predict(self, draws, observed)

    def _repeat(self, known: Mapping[str, Tensor], lead: torch.Size) -> dict[str, Tensor]:
        """Values of one draw as those of many."""
        copies = len(self.batch_shape)
        return {n: v.expand(torch.Size((*lead, *v.shape[copies:]))) for n, v in known.items()}

    def _score(
        self, name: str, distribution: Distribution, value: Tensor, is_by_datum: bool
    ) -> Tensor:
        while is_by_datum and isinstance(distribution, Independent):
            distribution = distribution.base_dist
        return score_in_support(distribution, value, f"{self.owner}.{name}")

    def one_draw(self, draw: Draw | None = None) -> dict[str, tuple[Distribution, Tensor]]:
        """Distribution and value of each site at one draw; random numbers stay as they were.

        Draws that a later site does not take, such as a scale below zero, are made again.
        """
        with torch.no_grad(), same_random_numbers():
            return {name: (d, value) for name, d, value in self.legal_draw(draw=draw)}

    def legal_draw(
        self, sample_shape: Any = torch.Size(), draw: Draw | None = None
    ) -> list[tuple[str, Distribution, Tensor]]:
        """As `draw_in_order`, and again where a value is not what a later site takes."""
        for _ in range(TRIES - 1):
            try:
                return list(self.draw_in_order(sample_shape, draw))
            except ConstraintError as error:
                if not isinstance(error.__cause__, ValueError):
                    raise
        return list(self.draw_in_order(sample_shape, draw))

    def draw_in_order(
        self, sample_shape: Any = torch.Size(), draw: Draw | None = None
    ) -> Iterator[tuple[str, Distribution, Tensor]]:
        """Draw the sites in order: name, distribution and value of each.

        Args:
            sample_shape: the shape in front.
            draw: takes a name, a distribution and a sample shape, and returns a draw; by default
                one without gradients.
        """
        sample_shape = torch.Size(sample_shape)
        lead = torch.Size((*sample_shape, *self.batch_shape))
        known: dict[str, Tensor] = {}
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
                if not is_about_arguments(error):
                    raise
                subject, expected = f"{self.owner}.{name}", "a distribution that can be drawn from"
                got = f"{type(error).__name__} of {distribution}: {first_line(error)}"
                raise ConstraintError(subject, expected, got, code="refused-by-torch") from error
            yield name, distribution, known[name]

    def distribution_of(
        self, name: str, known: Mapping[str, Tensor], lead: torch.Size = torch.Size()
    ) -> Distribution:
        """The distribution of a site, given the values of earlier ones with a lead in front."""
        site = self.sites[name]
        if isinstance(site, Distribution):
            return site
        arguments = {n: known[n] if n in known else self._values[n] for n in site.names}
        ranks = {n: len(lead) for n in site.names if n in known}
        if name in self._local:
            ranks = dict.fromkeys(ranks, len(lead) + len(self.contexts))
            shared = [n for n in site.names if n in known and n not in self._local]
            arguments |= {n: self._for_each_context(known[n], lead) for n in shared}
        subject = f"{self.owner}.{name}"
        events = {n: arguments[n].ndim - rank for n, rank in ranks.items()}
        return self._as_one_event(name, site.build(arguments, subject, events), lead)

    def _for_each_context(self, value: Tensor, lead: torch.Size) -> Tensor:
        """A value that all contexts share, `(*lead, *event)`, as `(*lead, *contexts, *event)`."""
        contexts, own = self.contexts, value.shape[len(lead) :]
        value = value.reshape((*lead, *(1,) * len(contexts), *own))
        return value.expand((*lead, *contexts, *own))

    def _as_one_event(
        self, name: str, distribution: Distribution, lead: torch.Size = torch.Size()
    ) -> Distribution:
        """The distribution of a site for all contexts together, where they have some of it."""
        if name not in self._local:
            return distribution
        whole = torch.Size((*lead, *self.contexts))
        self._check_batch(name, distribution, whole)
        if distribution.batch_shape != whole:
            distribution = distribution.expand(whole)
        count = len(distribution.event_shape) + len(self.contexts)
        return with_event_dim(distribution, count, f"{self.owner}.{name}")

    def _check_batch(self, name: str, distribution: Distribution, lead: torch.Size | None) -> None:
        """Refuse a distribution whose log_prob would have dimensions that are not the joint's."""
        own, lead = distribution.batch_shape, lead or torch.Size()
        extra = len(own) - len(lead)
        sizes = zip(reversed(own), reversed(lead), strict=False)
        # One comparison at a time: under dynamo, sizes are symbols.
        if extra <= 0 and all(size == 1 or size == whole for size, whole in sizes):
            return
        events = len(distribution.event_shape) + max(extra, 1)
        fix = BROADCAST
        if extra > 0 and name in self._methods:
            fix = f"Write @site(event_dim={events}) if they belong to one event."
        elif extra > 0:
            fix = (
                f"Write event_dim = {events} in its class, or torch.distributions.Independent("
                f"..., {extra}), if they belong to one event."
            )
        raise ConstraintError(
            f"{self.owner}.{name}",
            f"a batch shape that broadcasts to (*sample, *batch) = {tuple(lead)} without adding "
            "dimensions",
            f"{tuple(own)}",
            fix,
            code="wrong-shape",
        )


def _sample(name: str, distribution: Distribution, shape: torch.Size) -> Tensor:
    return distribution.sample(shape)

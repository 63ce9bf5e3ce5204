"""Joint distributions as plain objects: named sites, drawn one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.distributions.building import called, reparametrised, with_event_dim
from declarative_dist.distributions.scored import rsample_and_score
from declarative_dist.errors import ConstraintError, did_you_mean, shortened


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Draw, and leave the random numbers of everybody else as they were."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        yield


@dataclass(frozen=True)
class Rule:
    """How the distribution of a site follows from the values of earlier ones.

    Args:
        method: takes the values by name.
        names: the names that it takes.
        event_dim: the total number of event dimensions, or None for the distribution's own.
    """

    method: Callable[..., Distribution]
    names: tuple[str, ...]
    event_dim: int | None


class JointDistribution:
    """What calling a `Joint` gives: its sites with the values that they had at that moment.

    Draws are dicts of tensors of shape `(*sample, *batch, *event)` by site; densities have shape
    `(*sample, *batch)`. What a site's method reads from `self` is read when it is drawn.

    Args:
        owner: the name of the class, for errors.
        sites: by name a plain distribution, or the rule that makes one, in the order of drawing.
        values: the values of other fields that rules take.
        batch_shape: the shape of independent copies; None for that of the sites, where they agree.
    """

    def __init__(
        self,
        owner: str,
        sites: Mapping[str, Distribution | Rule],
        values: Mapping[str, Any],
        batch_shape: torch.Size | None = None,
    ) -> None:
        self.owner = owner
        self.sites = dict(sites)
        self._values = dict(values)
        own = {d.batch_shape for d in self.sites.values() if isinstance(d, Distribution)}
        self.batch_shape = batch_shape or (own.pop() if len(own) == 1 else torch.Size())

    @property
    def is_independent(self) -> bool:
        """Whether no site depends on another."""
        return all(isinstance(site, Distribution) for site in self.sites.values())

    @property
    def has_rsample(self) -> bool:
        """Whether all sites have a reparametrised sampler, asked of one draw."""
        return all(distribution.has_rsample for distribution, _ in self.one_draw().values())

    def one_draw(self) -> dict[str, tuple[Distribution, Tensor]]:
        """Distribution and value of each site at one draw; random numbers stay as they were."""
        with torch.no_grad(), same_random_numbers():
            return {name: (distribution, value) for name, distribution, value in self.drawn()}

    def entropy(self) -> Tensor:
        """The entropy, of shape `(*batch)`, in nats, where no site depends on another.

        Raises:
            NotImplementedError: if one does, or torch does not know the entropy of one.
        """
        if not self.is_independent:
            raise NotImplementedError
        sites: dict[str, Any] = self.sites
        total: Any = sum(distribution.entropy() for distribution in sites.values())
        return total.expand(self.batch_shape)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"{self.owner}({', '.join(self.sites)})"

    def sample(self, sample_shape: Any = torch.Size()) -> dict[str, Tensor]:
        """Draw all sites, without gradients; of shape `(*sample, *batch, *event)` by site."""
        with torch.no_grad():
            return {name: value for name, _, value in self.drawn(sample_shape)}

    def rsample(self, sample_shape: Any = torch.Size()) -> dict[str, Tensor]:
        """Draw all sites with gradients; of shape `(*sample, *batch, *event)` by site.

        Raises:
            NotImplementedError: if a site has no reparametrised sampler.
        """

        def draw(name: str, distribution: Distribution, shape: torch.Size) -> Tensor:
            return reparametrised(distribution, f"{self.owner}.{name}").rsample(shape)

        return {name: value for name, _, value in self.drawn(sample_shape, draw)}

    def rsample_and_log_prob(
        self, sample_shape: Any = torch.Size()
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Draws with gradients, and their joint log density, of shape `(*sample, *batch)`."""
        total: Any = 0.0

        def draw(name: str, distribution: Distribution, shape: torch.Size) -> Tensor:
            nonlocal total
            reparametrised(distribution, f"{self.owner}.{name}")
            value, log_prob = rsample_and_score(distribution, shape)
            total = total + log_prob
            return value

        values = {name: value for name, _, value in self.drawn(sample_shape, draw)}
        return values, total

    def log_prob(self, values: Mapping[str, Tensor]) -> Tensor:
        """The joint log density at a dict of values, of shape `(*sample, *batch)`.

        Args:
            values: for every site a tensor of shape `(*sample, *batch, *event)`, with the same
                sample shape for all.

        Raises:
            ConstraintError: for a missing or unknown site, or a shape that does not fit.
        """
        return self.score(values, {})

    def score(self, values: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """The joint log density where some sites are held at data.

        Args:
            values: tensors of shape `(*sample, *batch, *event)` for all other sites.
            observed: tensors without sample dimensions, which are repeated along them.

        Raises:
            ConstraintError: for a missing or unknown site, or a shape that does not fit.
        """
        self._check_names(values, [name for name in self.sites if name not in observed])
        known: dict[str, Tensor] = {}
        lead: torch.Size | None = None
        total: Any = 0.0
        for name in self.sites:
            distribution = self._distribution(name, known)
            event_shape = distribution.event_shape
            if name in observed:
                value = observed[name]
                known[name] = value.expand(*(lead or self.batch_shape), *event_shape)
            else:
                value = self._as_tensor(name, values[name])
                if lead is None:
                    lead = self._lead_of(name, value, event_shape)
                    for other in known:  # data that came before any draw
                        own = known[other].shape[len(self.batch_shape) :]
                        known[other] = known[other].expand(*lead, *own)
                if value.shape != torch.Size((*lead, *event_shape)):
                    self._refuse_shape(name, value, torch.Size((*lead, *event_shape)))
                known[name] = value
            self._check_batch(name, distribution, lead or self.batch_shape)
            total = total + distribution.log_prob(known[name])
        return total.expand(lead or self.batch_shape)  # type: ignore[no-any-return]

    def drawn(
        self,
        sample_shape: Any = torch.Size(),
        draw: Callable[[str, Distribution, torch.Size], Tensor] | None = None,
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
            distribution = self._distribution(name, known)
            is_first = isinstance(site, Distribution)
            target = self.batch_shape if is_first else lead
            self._check_batch(name, distribution, target)
            if distribution.batch_shape != target:
                distribution = distribution.expand(target)
            shape = sample_shape if is_first else torch.Size()
            known[name] = (
                distribution.sample(shape) if draw is None else draw(name, distribution, shape)
            )
            yield name, distribution, known[name]

    def _distribution(self, name: str, known: Mapping[str, Tensor]) -> Distribution:
        """The distribution of a site, given the values of earlier ones.

        Raises:
            ConstraintError: if its method fails on them.
        """
        site = self.sites[name]
        if isinstance(site, Distribution):
            return site
        arguments = {n: known[n] if n in known else self._values[n] for n in site.names}
        subject = f"{self.owner}.{name}"
        try:
            distribution = called(site.method, arguments, Distribution, subject)
        except ConstraintError:
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            if "to satisfy the constraint" in str(error):
                raise  # torch says it all: a value outside
            shapes = {n: tuple(a.shape) for n, a in arguments.items() if isinstance(a, Tensor)}
            raise ConstraintError(
                subject,
                "a method that takes values of shape (*sample, *batch, *event)",
                f"{type(error).__name__} for {shapes}: {str(error).splitlines()[0]}",
                "Let values broadcast over what stands in front: mu[..., None], not mu.",
            ) from error
        if site.event_dim is None:
            return distribution
        return with_event_dim(distribution, site.event_dim, f"{subject}(event_dim=)")

    def _check_batch(self, name: str, distribution: Distribution, lead: torch.Size) -> None:
        """Refuse a distribution whose log_prob would have dimensions that are not the joint's."""
        own = distribution.batch_shape
        extra = len(own) - len(lead)
        sizes = zip(reversed(own), reversed(lead), strict=False)
        if extra <= 0 and all(size in (1, whole) for size, whole in sizes):
            return
        events = len(distribution.event_shape) + max(extra, 1)
        fix = "Let values broadcast over what stands in front: mu[..., None], not mu."
        if extra > 0 and isinstance(self.sites[name], Rule):
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
        )

    def _check_names(self, values: Mapping[str, Tensor], wanted: list[str]) -> None:
        if not isinstance(values, Mapping):
            raise ConstraintError(
                self.owner, f"a dict of {', '.join(wanted)}", shortened(values), "Pass one value."
            )
        for name in wanted:
            if name not in values:
                raise ConstraintError(
                    f"{self.owner}.{name}",
                    f"a value for every site ({', '.join(wanted)})",
                    f"none among {', '.join(map(str, values)) or 'none at all'}",
                    f"Add {name}=...",
                )
        for name in values:
            if name not in wanted:
                raise ConstraintError(
                    f"{self.owner}.{name}",
                    "the name of a site",
                    repr(name),
                    did_you_mean(str(name), wanted),
                )

    def _as_tensor(self, name: str, value: object) -> Tensor:
        if not isinstance(value, (Tensor, int, float)):
            raise ConstraintError(f"{self.owner}.{name}", "a tensor", shortened(value))
        return torch.as_tensor(value)

    def _lead_of(self, name: str, value: Tensor, event_shape: torch.Size) -> torch.Size:
        """The sample and batch shape that a value has in front of its event."""
        own = torch.Size((*self.batch_shape, *event_shape))
        if value.shape[max(value.ndim - len(own), 0) :] != own:
            self._refuse_shape(name, value, own)
        return value.shape[: value.ndim - len(event_shape)]

    def _refuse_shape(self, name: str, value: Tensor, shape: torch.Size) -> None:
        raise ConstraintError(
            f"{self.owner}.{name}",
            f"shape (*sample, *batch, *event), here {tuple(shape)}"
            if value.ndim == len(shape)
            else f"shape {tuple(shape)}, behind the same sample shape for all sites",
            shortened(value),
            "Give every site the same sample shape in front.",
        )

"""What bounds of the log evidence share: a target, a guide, draws of it, and what fits ask."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.distributions import Distribution

from declarative_dist.errors import ConstraintError, check_count, did_you_mean, shorten
from declarative_dist.families.comparison import COUNT, Index
from declarative_dist.families.conditional import Conditional
from declarative_dist.families.probe import check_target
from declarative_dist.families.state import AtomicState
from declarative_dist.fields.given import call_names
from declarative_dist.fields.kinds import predicted_kind
from declarative_dist.fields.sharding import is_shard
from declarative_dist.joints.joint import Joint
from declarative_dist.joints.learned_ends import describe_learned_ends
from declarative_dist.objectives.estimators import ESTIMATORS, Pathwise, Score
from declarative_dist.objectives.likelihood import dims_of_one
from declarative_dist.objectives.posterior import NegativeLogPosterior
from declarative_dist.objectives.terms import add_terms, density_of_contexts
from declarative_dist.objectives.weights import Scores
from declarative_dist.plain.draws import is_reparametrised
from declarative_dist.plain.restoring import restoring
from declarative_dist.posteriors.guides import NormalGuide
from declarative_dist.posteriors.targets import (
    as_density,
    as_guide,
    as_target,
    check_density,
    check_match,
    current_of,
    explain,
    holds_its_data,
    over_draws,
    owner_of,
    site_without_density,
    takes_batch,
)
from declarative_dist.randomness import same_random_numbers


class VariationalBound(AtomicState, ABC):
    """What the variational objectives share: a target, a guide, and how draws are made.

    Args:
        log_joint: the target.
        guide: what is fitted to it.
        num_samples: how many draws of the guide one call takes.
        estimator: the name of an estimator, or None.
        vectorize: whether the target is written for a single draw.
    """

    total_size: int | None = None
    """How many contexts there are in all, of which a batch has some; None if these are all."""

    def __init__(
        self,
        log_joint: Any,
        guide: Any,
        *,
        num_samples: int = 1,
        estimator: str | None = None,
        vectorize: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        num_samples = check_count(f"{name}(num_samples=)", num_samples)
        if estimator is not None and estimator not in ESTIMATORS:
            raise ConstraintError(
                f"{name}(estimator=)",
                "the name of an estimator",
                shorten(estimator),
                did_you_mean(str(estimator), ESTIMATORS),
                code="unknown-name",
            )
        if isinstance(log_joint, NegativeLogPosterior):
            log_joint = log_joint.log_joint
        target = as_target(log_joint, f"{name}(log_joint=)")
        self.num_samples = num_samples
        self.vectorize = vectorize
        self.guide = as_guide(guide, f"{name}(guide=)")
        self.log_joint = target
        owner = owner_of(target)
        if owner is not None:
            self.model = owner
        self._takes_batch = takes_batch(self.guide)
        self._has_open_ends = self._takes_batch  # until a context says whether they are learned
        self._dims = dims_of_one(self.guide)
        current = self._at_start()
        if current is not None:
            check_match(target, current, self.guide, f"{name}(guide=)")
            estimator = self._choose(estimator, current).name
        self.estimator = estimator

    def _at_start(self) -> Any:
        """The guide's distribution, as far as it is known before there is a batch."""
        if not self._takes_batch:
            return current_of(self.guide)
        guide: Any = self.guide
        is_known = isinstance(guide, Joint) or (
            isinstance(guide, Conditional) and isinstance(guide.__declaration__.base, type)
        )
        if not is_known:
            return None
        with torch.no_grad():
            return guide.at_start()

    def _choose(self, name: str | None, current: Any) -> Pathwise | Score:
        """The estimator of a name, or the one that suits a distribution."""
        if name is None and isinstance(current, NormalGuide):
            return ESTIMATORS["stl"]
        if name is None:
            name = "pathwise" if is_reparametrised(current) else "score"
        estimator = ESTIMATORS[name]
        if estimator.needs_rsample and not is_reparametrised(current):
            raise ConstraintError(
                f"{type(self).__name__}(estimator=)",
                "'score', since the guide has no reparametrised sampler",
                repr(name),
                "Leave it out, or choose a guide whose draws carry gradients.",
                code="biased-gradient",
            )
        moving = "" if name == "pathwise" else describe_learned_ends(current)
        if moving:
            raise ConstraintError(
                f"{type(self).__name__}(estimator=)",
                f"'pathwise', since the support of the guide's {moving} moves with its parameters",
                f"{name!r}, whose gradient would be biased",
                "Or freeze the ends of the support.",
                code="biased-gradient",
            )
        return estimator

    def _draw(self, current: Any) -> tuple[Pathwise | Score, Any, Tensor]:
        """The estimator, draws of the guide's distribution, and their log densities."""
        is_open = self._has_open_ends and not is_compiling()
        if self.estimator is None or isinstance(current, Distribution) or is_open:
            estimator = self._choose(self.estimator, current)
            if is_open and torch.is_grad_enabled():  # without gradients nothing is learned
                self._has_open_ends = False
        else:
            estimator = ESTIMATORS[self.estimator]
        draws, log_q = estimator.draws(current, self.guide, self.num_samples)
        if self._takes_batch and log_q.numel() == 0:
            shape = tuple(log_q.shape[1:])
            subject = f"{type(self).__name__}(batch)"
            raise ConstraintError(
                subject, "one context or more", f"a batch of shape {shape}", code="wrong-data"
            )
        return estimator, draws, log_q

    def forward(self, *batch: Any, **given: Any) -> Tensor:
        """The loss, a scalar.

        Args:
            *batch: what the target takes behind the draws, and what a `Conditional` guide takes.
            **given: what the target takes by keyword, such as `weights` of a likelihood. What
                comes with the context of a guide (its `Given`s) goes to the guide, and to the
                target too if that names it.
        """
        current = self._current(batch, given)
        estimator, draws, log_q = self._draw(current)
        density = self._density(batch, given, log_q, current)
        losses = self._losses(estimator, density, draws, log_q)
        return Scores(losses, self._problems(draws, log_q)).mean()

    @abstractmethod
    def _losses(self, estimator: Any, density: Any, draws: Any, log_q: Tensor) -> Tensor:
        """The losses of draws, of shape `(count, *batch)`, or already their means `(*batch)`."""

    def _current(self, batch: tuple[Any, ...], given: Mapping[str, Any]) -> Any:
        """The guide's distribution for a batch, and for what is given with it."""
        own = {name: value for name, value in given.items() if name in self._names_of_guide()}
        current = current_of(self.guide, batch if self._takes_batch else None, own)
        return current if self.total_size is None else current.weigh(self.total_size)

    def _names_of_guide(self) -> frozenset[str]:
        return frozenset() if predicted_kind(self.guide) is None else call_names(self.guide)

    def _keywords_of_target(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the target takes by keyword: all but what only the guide asks for."""
        names = self._names_of_guide().intersection(given)
        if not names:
            return given
        target = self.log_joint
        if self._is_of_contexts:
            names -= call_names(target) | target.__declaration__.fields.keys()
            return {name: value for name, value in given.items() if name not in names}
        takes = inspect.signature(getattr(target, "forward", target)).parameters
        return {n: value for n, value in given.items() if n in takes or n not in names}

    @property
    def _is_of_contexts(self) -> bool:
        """Whether the target is a joint of a context."""
        return isinstance(self.log_joint, Joint) and predicted_kind(self.log_joint) is not None

    def _problems(self, draws: Any, log_q: Tensor) -> int:
        """How many of the last dimensions of densities belong to problems of their own."""
        if not self._takes_batch:
            return log_q.ndim - 1
        if isinstance(draws, Mapping):
            return 0  # sites of a context have no batch of their own
        event_dim: int = draws.ndim - log_q.ndim
        return max(self._dims - event_dim, 0)

    def _density(
        self, batch: tuple[Any, ...], given: Mapping[str, Any], log_q: Tensor, current: Any = None
    ) -> Callable[[Any], Tensor]:
        """The target as a function of draws, found to have the shape of the guide's density."""
        log_joint = self.log_joint
        if (batch or given) and holds_its_data(log_joint):
            self._check_batch(batch)
            batch, given = (), {}
        name = type(self).__name__
        keywords = self._keywords_of_target(given)

        def density(draws: Any) -> Tensor:
            target: Callable[..., Any] = as_density(log_joint, draws, log_q, name)
            if self._is_of_contexts:
                target = density_of_contexts(log_joint, self.total_size)
            target = partial(target, **keywords) if keywords else target
            target = over_draws(target) if self.vectorize else target
            try:
                log_p = target(draws, *batch)
            except ValueError as error:
                raise explain(error, name) from error
            if self.total_size is not None and not self._is_of_contexts:
                log_p = log_p if isinstance(log_p, tuple) else (log_p,)
            if isinstance(log_p, tuple):
                log_p = add_terms(log_p, current, log_q, name)
            check_density(log_p, log_q, self.vectorize, name)
            return log_p

        return density

    def before_fit(self, *batch: Any, **given: Any) -> None:
        """What `fit` calls once, before the first step: an automatic guide finds its start.

        Of a guide that is new, this is `guide.initialize_` with the log density of the target;
        where somebody chose or trained it, it stays as it is. Random numbers stay as they were.

        Args:
            *batch: the first batch.
            **given: its keywords.

        Raises:
            ConstraintError: if the target mixes draws, as one with `.sum()` over all dimensions.
        """
        guide = self.guide
        is_whole = not any(map(is_shard, self.parameters()))  # shards build no distribution
        if is_whole and not self.vectorize and not holds_its_data(self.log_joint):
            with torch.no_grad(), same_random_numbers(), restoring(self, always=True):
                current = self._current(batch, given)
                draws, log_q = ESTIMATORS["score"].draws(current, guide, COUNT)

                def density_at(index: Index) -> dict[str, Tensor]:
                    at = index[0]
                    rows = [at] if isinstance(at, int) else at
                    is_one = isinstance(draws, Tensor)
                    picked = draws[rows] if is_one else {n: v[rows] for n, v in draws.items()}
                    log_p = self._density(batch, given, log_q[rows], current)(picked)
                    return {"log_joint": log_p[0] if isinstance(at, int) else log_p}

                check_target(density_at, self)
        if isinstance(guide, NormalGuide) and guide.awaits_density:
            guide.initialize_(self.log_joint_of(*batch, **given))

    def log_joint_of(self, *batch: Any, **given: Any) -> Callable[[Any], Tensor]:
        """The target of an automatic guide as a function of its draws alone.

        Args:
            *batch: what the target takes behind the draws.
            **given: what it takes by keyword.

        Returns:
            A function from a dict of values `(*sample, *batch, *event)` to log densities of shape
            `(*sample, *batch)`, as `guide.importance_sample` takes it.
        """
        guide: Any = self.guide
        first = guide.flat.slots[0]
        own = len(guide.batch_shape) + len(first.event_shape)

        def log_joint(draws: Any) -> Tensor:
            if draws[first.name].ndim == own:  # targets are called with many draws
                return log_joint({name: value[None] for name, value in draws.items()})[0]
            value = draws[first.name]
            like = value.new_empty(value.shape[: value.ndim - len(first.event_shape)])
            return self._density(batch, given, like)(draws)

        return log_joint

    def why_not_finite(self, *batch: Any, **given: Any) -> str:
        """Why a loss may have been infinite or NaN: a target without a density at some draws.

        For what looks into a loss that was not finite, such as `fit`: it draws anew, in place of
        being asked at every step. Random numbers stay as they were.

        Args:
            *batch: the batch of that loss.
            **given: its keywords.

        Returns:
            A sentence; "" where the target is finite at all new draws.

        Example:
            >>> import torch, torch.distributions as dd
            >>> from declarative_dist import learnable
            >>> from declarative_dist.objectives import NegativeELBO
            >>> objective = NegativeELBO(lambda z: (z - 9.0).log(), learnable(dd.Normal(0.0, 1.0)))
            >>> objective.why_not_finite()
            'The target has no finite log density at 100 of 100 draws of the guide.'
        """
        guide = self.guide
        with torch.no_grad(), same_random_numbers():
            current = self._current(batch, given)
            draws, log_q = ESTIMATORS["score"].draws(current, guide, 100)
            density = self._density(batch, given, log_q, current)
            found = site_without_density(density, draws)
        share, by, sites = found.partition(", by the values of ")
        told = f"The target has no finite log density at {share} of the guide{by}{sites}."
        return told if found else ""

    def _check_batch(self, batch: tuple[Any, ...]) -> None:
        if not self._takes_batch:
            raise ConstraintError(
                f"{type(self).__name__}(batch)",
                f"none, since {type(self.log_joint).__name__} is a density of the draws alone",
                f"{len(batch)} arguments",
                "Hold data with joint.condition(...), or give a function of (sample, *batch).",
                code="unused-argument",
            )

    def extra_repr(self) -> str:
        """How draws are made, and a target that is no module."""
        parts = [f"num_samples={self.num_samples}", f"estimator={self.estimator!r}"]
        if not isinstance(self.log_joint, nn.Module):
            parts.insert(0, f"log_joint={getattr(self.log_joint, '__name__', 'function')}")
        return ", ".join(parts)

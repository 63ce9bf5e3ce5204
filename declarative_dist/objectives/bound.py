"""What bounds of the log evidence share: a target, a guide, draws of it, and what fits ask."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.distributions import Distribution

from declarative_dist.errors import (
    ConstraintError,
    ExplainedError,
    check_count,
    did_you_mean,
    first_line,
    shorten,
)
from declarative_dist.families.comparison import COUNT
from declarative_dist.families.conditional import Conditional
from declarative_dist.families.probe import check_target
from declarative_dist.families.state import AtomicState
from declarative_dist.families.variational import Variational
from declarative_dist.fields.given import call_names
from declarative_dist.fields.kinds import predicted_kind
from declarative_dist.fields.sharding import is_shard
from declarative_dist.joints.joint import Joint
from declarative_dist.joints.learned_ends import describe_learned_ends
from declarative_dist.latents.density import check_density
from declarative_dist.objectives.estimators import (
    ESTIMATORS,
    Density,
    Pathwise,
    Score,
    map_draws,
    one_of,
)
from declarative_dist.objectives.likelihood import dims_of_one
from declarative_dist.objectives.posterior import NegativeLogPosterior
from declarative_dist.objectives.terms import add_terms, density_of_contexts
from declarative_dist.objectives.weights import Scores
from declarative_dist.plain.draws import is_reparametrised, sample_and_score
from declarative_dist.plain.refusals import BROADCAST
from declarative_dist.plain.restoring import restoring
from declarative_dist.posteriors.guides import NormalGuide
from declarative_dist.posteriors.pushed import PushedNormal
from declarative_dist.posteriors.targets import (
    as_guide,
    as_target,
    check_match,
    current_of,
    holds_its_data,
    over_draws,
    takes_batch,
)
from declarative_dist.randomness import same_random_numbers


class VariationalBound(AtomicState):
    """What the variational objectives share: a target, a guide, and how draws are made.

    Args:
        log_joint: the target.
        guide: what is fitted to it.
        num_samples: how many draws of the guide one call takes.
        estimator: the name of an estimator, or None.
        vectorize: whether the target is written for a single draw.
    """

    _is_weighted = False
    """Whether draws are weighed, and their mean is inside of the logarithm."""

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
        owner = getattr(target, "__self__", None)
        if isinstance(owner, nn.Module) and not isinstance(target, nn.Module):
            self.model = owner  # whose method the target is: its parameters are the target's
        self._takes_batch = takes_batch(self.guide)
        self._dims = dims_of_one(self.guide)
        is_predicted = predicted_kind(self.guide) is not None
        self._guide_takes = call_names(self.guide) if is_predicted else frozenset[str]()
        self._is_of_contexts = isinstance(target, Joint) and predicted_kind(target) is not None
        current = self._at_start()
        self._is_known = current is not None
        if self._is_known:
            check_match(target, current, f"{name}(guide=)")
            estimator = self._choose(estimator, current).name
        self.estimator = estimator
        self._checked: set[torch.Size] = set()

    def _at_start(self) -> Any:
        """The guide's distribution, as far as it is known before there is a batch."""
        guide: Any = self.guide
        if not self._takes_batch:
            return current_of(guide)
        has_class = isinstance(guide, Conditional) and isinstance(guide.__declaration__.base, type)
        return guide.at_start() if has_class or isinstance(guide, Joint) else None

    def _choose(self, name: str | None, current: Any) -> Pathwise | Score:
        """The estimator of a name, or the one that suits a distribution."""
        if name is None and isinstance(current, PushedNormal):
            return ESTIMATORS["stl"]
        if name is None:
            name = "pathwise" if is_reparametrised(current) else "score"
        estimator, wanted = ESTIMATORS[name], ""
        moving = "" if name == "pathwise" else describe_learned_ends(current)
        if estimator.needs_rsample and not is_reparametrised(current):
            wanted = "'score', since the guide has no reparametrised sampler"
        elif moving:
            wanted = f"'pathwise', since {moving}"
        if wanted:
            raise ConstraintError(
                f"{type(self).__name__}(estimator=)",
                wanted,
                f"{name!r}, whose gradient would be biased",
                "Leave it out, freeze the ends of the support, or state a support that is fixed.",
                code="biased-gradient",
            )
        return estimator

    def forward(self, *batch: Any, **given: Any) -> Tensor:
        """The loss, a scalar.

        Args:
            *batch: what the target takes behind the draws, and what a `Conditional` guide takes.
            **given: what the target takes by keyword, such as `weights` of a likelihood. What
                comes with the context of a guide (its `Given`s) goes to the guide, and to the
                target too if that names it.
        """
        current = self._current(batch, given)
        if self.estimator is None or not self._is_known or isinstance(current, Distribution):
            estimator = self._choose(self.estimator, current)
        else:
            estimator = ESTIMATORS[self.estimator]
        contexts = getattr(current, "contexts", ())  # those that share a site
        is_new = self.num_samples in contexts and contexts not in self._checked
        if is_new and not is_dynamo_compiling():
            self._check_target(batch, given)
        draws, log_q = estimator.draw(current, torch.Size((self.num_samples,)))
        if self._takes_batch and log_q.numel() == 0:
            expected, got = "one context or more", f"a batch of shape {tuple(log_q.shape[1:])}"
            raise ConstraintError(
                f"{type(self).__name__}(batch)", expected, got, code="wrong-data"
            )
        event_dim = one_of(draws).ndim - log_q.ndim
        density = self._density(batch, given, event_dim, current)
        problems = log_q.ndim - 1
        if self._takes_batch:  # sites of a context have no batch of their own
            problems = 0 if isinstance(draws, Mapping) else max(self._dims - event_dim, 0)
        if self._is_weighted:
            losses = -estimator.bound(density, draws, log_q)
        else:
            losses = estimator.losses(density, draws, log_q)
        return Scores(losses, problems).mean()

    def _current(self, batch: tuple[Any, ...], given: Mapping[str, Any]) -> Any:
        """The guide's distribution for a batch, and for what is given with it."""
        own = {name: value for name, value in given.items() if name in self._guide_takes}
        current = current_of(self.guide, batch if self._takes_batch else None, own)
        if self.total_size is None:
            return current
        count = (current.contexts or current.batch_shape).numel()
        if count > self.total_size:
            subject = f"{type(self).__name__}(total_size=)"
            expected = f"{count} or more, for a batch has as many contexts"
            raise ConstraintError(subject, expected, str(self.total_size), code="wrong-argument")
        return current.weigh(self.total_size)

    def _keywords_of_target(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the target takes by keyword: all but what only the guide asks for."""
        names = self._guide_takes.intersection(given)
        if not names:
            return given
        target = self.log_joint
        if self._is_of_contexts:
            takes = call_names(target) | target.__declaration__.fields.keys()
        else:
            takes = inspect.signature(getattr(target, "forward", target)).parameters.keys()
        return {n: value for n, value in given.items() if n in takes or n not in names}

    def _density(
        self, batch: tuple[Any, ...], given: Mapping[str, Any], event_dim: int, current: Any = None
    ) -> Density:
        """The target as a function of draws, whose shape is checked.

        Args:
            batch: what it takes behind the draws.
            given: what it takes by keyword.
            event_dim: how many dimensions of its event the first tensor of a draw has.
            current: the guide's distribution, where the target may give terms for its contexts.
        """
        log_joint, name = self.log_joint, type(self).__name__
        if (batch or given) and holds_its_data(log_joint):
            if not self._takes_batch:
                raise ConstraintError(
                    f"{name}(batch)",
                    f"none, since {type(log_joint).__name__} is a density of the draws alone",
                    f"{len(batch)} arguments",
                    "Hold data with joint.condition(...), or give a function of (sample, *batch).",
                    code="unused-argument",
                )
            batch, given = (), {}
        target: Callable[..., Any] = log_joint
        if self._is_of_contexts:
            target = density_of_contexts(log_joint, self.total_size)
        elif isinstance(log_joint, (Variational, Joint)):
            target = log_joint.log_prob
        keywords = self._keywords_of_target(given)
        target = partial(target, **keywords) if keywords else target
        target = over_draws(target) if self.vectorize else target

        def density(draws: Any) -> Tensor:
            first = one_of(draws)
            shape = first.shape[: first.ndim - event_dim]
            try:
                log_p = target(draws, *batch)
            except ValueError as error:
                if isinstance(error, ExplainedError):
                    raise
                raise _refused(error, draws, f"{name}.log_joint") from error
            if self.total_size is not None and not self._is_of_contexts:
                log_p = log_p if isinstance(log_p, tuple) else (log_p,)
            if isinstance(log_p, tuple):
                log_p = add_terms(log_p, current, shape, name)
            return check_density(log_p, shape, f"{name}.log_joint")

        return density

    def _try(
        self, batch: tuple[Any, ...], given: Mapping[str, Any], count: int
    ) -> tuple[Any, Density]:
        """Draws of the guide, without gradients, and the target as a function of them."""
        current = self._current(batch, given)
        draws, log_q = sample_and_score(current, torch.Size((count,)))
        return draws, self._density(batch, given, one_of(draws).ndim - log_q.ndim, current)

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
        if isinstance(guide, NormalGuide) and guide.awaits_density:
            guide.initialize_(self.log_joint_of(*batch, **given))  # looks at the target by itself
            return
        self._check_target(batch, given)

    def _check_total_size(self, rows: int, has_more: Callable[[], bool]) -> None:
        """What `fit` calls with its first batch, which may stand for all contexts.

        Args:
            rows: how many there are in all; 0 if nobody knows.
            has_more: whether there are more than in the batch.

        Raises:
            ConstraintError: if contexts share a site, and no `total_size` says how many there are.
        """
        guide = self.guide
        if self.total_size is not None or not isinstance(guide, Joint) or not self._takes_batch:
            return
        if guide.at_start((1,)).contexts and has_more():
            subject = f"{type(self).__name__}(total_size=)"
            expected = "the number of contexts in all, for batches of them, which share a site"
            fix = f"Write NegativeELBO(..., total_size={rows or 'len(dataset)'})."
            raise ConstraintError(subject, expected, "none", fix, code="missing-value")

    def _check_target(self, batch: tuple[Any, ...], given: Mapping[str, Any]) -> None:
        """Refuse a target that mixes draws, or takes them for contexts, of which are as many.

        Once for all batches of as many contexts; nothing of it stays, as statistics of a network.
        """
        is_sharded = any(map(is_shard, self.parameters()))  # shards build no distribution
        if is_sharded or self.vectorize or holds_its_data(self.log_joint):
            return
        with torch.no_grad(), same_random_numbers(), restoring(self, always=True):
            contexts = getattr(self._current(batch, given), "contexts", torch.Size())

        def begin() -> Callable[[Any], Tensor]:
            draws, density = self._try(batch, given, COUNT)
            return lambda rows: density(map_draws(draws, lambda value: value[rows]))

        may_hide = self.num_samples in contexts
        check_target(begin, self, type(self).__name__, may_hide=may_hide)
        self._checked.add(contexts)

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
        return self._density(batch, given, len(guide.flat.slots[0].event_shape))

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
        with torch.no_grad(), same_random_numbers():
            draws, density = self._try(batch, given, 100)
            log_p = density(draws)
        count = int(log_p.isfinite().logical_not().reshape(100, -1).any(1).sum())
        where = f"{count} of 100 draws of the guide"
        return f"The target has no finite log density at {where}." if count else ""

    def extra_repr(self) -> str:
        """How draws are made, and a target that is no module."""
        parts = [f"num_samples={self.num_samples}", f"estimator={self.estimator!r}"]
        if not isinstance(self.log_joint, nn.Module):
            parts.insert(0, f"log_joint={getattr(self.log_joint, '__name__', 'function')}")
        return ", ".join(parts)


def _refused(error: ValueError, draws: Any, subject: str) -> ConstraintError:
    """Our error for torch's about draws that a target does not take."""
    said, expected = first_line(error), "a log density at every draw of the guide"
    if "broadcast" not in said:
        fix = "Choose a guide whose draws lie inside the support of the target."
        got = said.removesuffix(", but found invalid values:")
        return ConstraintError(subject, expected, got, fix, code="guide-mismatch")
    named = draws if isinstance(draws, Mapping) else {"draws": draws}
    shapes = {name: tuple(value.shape) for name, value in named.items()}
    got = f"{type(error).__name__} for {shapes}: {said.rstrip('.')}"
    return ConstraintError(subject, expected, got, BROADCAST, code="wrong-shape")

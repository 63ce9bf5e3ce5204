"""Losses of maximum likelihood and maximum a posteriori.

A loss is a mean over data and a sum over `batch_shape`, whose entries are independent problems:
the gradient of each is what it would be alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.errors import (
    ConstraintError,
    DeclarationError,
    ExplainedError,
    FieldError,
    first_line,
    is_count,
    shorten,
)
from declarative_dist.families.conditional import Conditional
from declarative_dist.families.declarative import Declarative
from declarative_dist.families.priors import log_prior_of, raws_at
from declarative_dist.families.state import AtomicState
from declarative_dist.families.variational import Variational
from declarative_dist.joints.joint import Joint
from declarative_dist.objectives.data import (
    as_data,
    check_data,
    check_predicted,
    check_scores,
    score_by_site,
    score_data,
)
from declarative_dist.objectives.weights import Weights, check_contexts, mean_over_data
from declarative_dist.randomness import same_random_numbers

LogLikelihood = Callable[..., Tensor]
"""From a module and a batch to one log likelihood per datum, of shape `(n, *batch_shape)`."""


class DataLoss(AtomicState, ABC):
    """What losses of data share: a loss for each independent copy, and their sum.

    Args:
        module: what is held and trained.
        dims: how many dimensions one prediction of a `Conditional` has.
    """

    if TYPE_CHECKING:

        def __call__(self, *batch: Any, weights: Any = None, **given: Any) -> Tensor: ...

    def __init__(self, module: Any, dims: int) -> None:
        super().__init__()
        self.module = module
        self._dims = dims

    @abstractmethod
    def losses(self, *batch: Any, weights: Any = None, **given: Any) -> Tensor:
        """The loss of each independent copy, a mean over data, of shape `(*copies)`."""

    def forward(self, *batch: Any, weights: Any = None, **given: Any) -> Tensor:
        """The loss of a batch, a scalar: the sum of the `losses` of all copies.

        Args:
            *batch: the arguments.
            weights: how much each datum counts; None for all alike.
            **given: what a `Conditional` or a `log_likelihood` takes by keyword.

        Raises:
            ConstraintError: as `losses`.
        """
        return self.losses(*batch, weights=weights, **given).sum()

    def _mean_score(self, batch: tuple[Any, ...], weights: Any, given: dict[str, Any]) -> Tensor:
        """The mean log likelihood of each copy, of shape `(*copies)`."""
        module = self.module
        is_conditional = isinstance(module, Conditional)
        copies: torch.Size = vars(module)["_copies"]
        name = f"{type(self).__name__}({type(module).__name__})"
        if len(batch) < 2 if is_conditional else len(batch) != 1:
            wanted = "a context and a value" if is_conditional else "the data, one argument"
            raise ConstraintError(name, wanted, f"{len(batch)} arguments", code="wrong-data")
        if given and not is_conditional:
            got = ", ".join(given)
            raise ConstraintError(
                name, "no keywords without a context", got, code="unused-argument"
            )
        if isinstance(module, Joint):
            return score_by_site(module, batch[0], weights, name)
        if is_conditional and weights is not None:
            check_contexts((*batch[:-1], *given.values()), name)
        distribution = module(*batch[:-1], **given)
        value = as_data(batch[-1], module, name)
        problems = len(distribution.batch_shape)
        if is_conditional:
            # An overridden forward may have made events of dimensions of a prediction.
            problems = max(self._dims - len(distribution.event_shape), 0)
            check_predicted(value, distribution, problems, name)
        else:
            check_data(value, distribution, name)
        # An overridden forward may have made one event of all copies.
        copies = copies if problems else torch.Size()
        if weights is not None:
            data = value.shape[: value.ndim - problems - len(distribution.event_shape)]
            weights = Weights(weights, data, copies, module, f"{name}(weights=)")
            value = weights.replace(value)
            if is_conditional:
                distribution = weights.replace_predictions(distribution, problems)
        scores = score_data(distribution, value, name)
        return mean_over_data(scores, problems, len(copies), weights)


class NegativeLogLikelihood(DataLoss):
    """The mean negative log likelihood of data.

    `forward` takes data of shape `(n, *batch, *event)` for a `Variational`, where `(n, 1, *event)`
    is seen by all independent problems; a dict of such by site for a `Joint`; and for a
    `Conditional` what it is called with, then the values: `forward(context, value)`.

    With `weights=`, masks, frequencies or importance of shape `(n,)` or `(n, *copies)`, it is the
    sum of weight times loss over the sum of weights. Data of zero weight are replaced before they
    are scored, so that they may hold anything, NaN too; a context may not.

    Args:
        module: the distribution, held and trained.

    Raises:
        DeclarationError: if it is of another kind.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import learnable
        >>> from declarative_dist.objectives import NegativeLogLikelihood
        >>> loss = NegativeLogLikelihood(learnable(dd.Normal(0.0, 1.0)))
        >>> loss(torch.tensor([-1.0, 1.0]))
        tensor(1.4189, grad_fn=<SumBackward0>)
        >>> loss(torch.tensor([-1.0, 1.0, torch.nan]), weights=[1.0, 1.0, 0.0])
        tensor(1.4189, grad_fn=<SumBackward0>)
    """

    def __init__(self, module: Variational | Joint | Conditional) -> None:
        super().__init__(_distribution(module, type(self).__name__), dims_of_one(module))

    def losses(self, *batch: Any, weights: Any = None, **given: Any) -> Tensor:
        """The loss of each independent copy, of shape `(*copies)`; `forward` is their sum.

        Args:
            *batch: what `forward` takes.
            weights: how much each datum counts, of shape `(n,)` or `(n, *copies)`.
            **given: what a `Conditional` takes by keyword.

        Raises:
            ConstraintError: for data of another shape, dtype or device, or outside the support;
                for weights that are negative, not finite, or all zero.

        Example:
            >>> import torch
            >>> from declarative_dist import Param, Positive, Variational
            >>> from declarative_dist.objectives import NegativeLogLikelihood
            >>> class Rate(Variational):
            ...     base = torch.distributions.Exponential
            ...     rate = Param(1.0, Positive())
            >>> objective = NegativeLogLikelihood(Rate(batch_shape=2))
            >>> objective.losses(torch.tensor([[1.0, 3.0], [2.0, 3.0]]))
            tensor([1.5000, 3.0000], grad_fn=<NegBackward0>)
        """
        return -self._mean_score(batch, weights, given)


class NegativeLogPosterior(DataLoss):
    """The mean negative log likelihood, less the log prior's share for one datum.

    `forward(*batch)` is `mean(-log p(datum | parameters)) - log_prior / total_size`: over all
    data, the negative log posterior density divided by `total_size`, up to a constant; over a
    mini-batch an unbiased estimate of it. `forward` takes what that of `NegativeLogLikelihood`
    takes; with `log_likelihood`, what that takes behind the module.

    Args:
        module: a distribution, or any declarative module with a `log_likelihood`.
        total_size: how many data there are in all; None where the `log_likelihood` is that of all
            data, one number.
        log_likelihood: from the module and a batch to one number per datum, of shape
            `(n, *copies)`, or to one in all, of shape `(*copies)`. A module is held, trained with
            the other, and its priors count.
        unconstrained: False for the mode of the values, which does not depend on their
            constraints' maps; True for that of the unconstrained numbers behind them, where a
            Laplace approximation or a sampler starts. `log_prior` tells the two apart.

    Raises:
        DeclarationError: if the module is of another kind.
        ConstraintError: if `total_size` is no count, 1 or above.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import Declarative, Param
        >>> from declarative_dist.objectives import NegativeLogPosterior
        >>> class Line(Declarative):
        ...     slope = Param(0.0, prior=dd.Normal(0.0, 1.0))
        >>> def log_likelihood(line, x, y):
        ...     return dd.Normal(line.slope * x, 1.0).log_prob(y)
        >>> loss = NegativeLogPosterior(Line(), total_size=2, log_likelihood=log_likelihood)
        >>> loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]))
        tensor(2.6284, grad_fn=<SumBackward0>)
    """

    def __init__(
        self,
        module: Declarative,
        *,
        total_size: int | None,
        log_likelihood: LogLikelihood | None = None,
        unconstrained: bool = False,
    ) -> None:
        name = type(self).__name__
        is_whole = total_size is None and log_likelihood is not None
        if not is_whole and not is_count(total_size, 1):
            raise ConstraintError(
                f"{name}(total_size=)",
                "how many data there are in all, an int, 1 or above",
                shorten(total_size),
                "Only a log_likelihood of all data, one number, goes without."
                * (total_size is None),
                code="wrong-argument",
            )
        if log_likelihood is not None and not callable(log_likelihood):
            raise DeclarationError(
                f"{name}(log_likelihood=)",
                "a callable from the module and a batch to one number per datum",
                shorten(log_likelihood),
            )
        is_any = log_likelihood is not None
        dims = 0 if is_any else dims_of_one(module)
        super().__init__(_distribution(module, name, is_any=is_any), dims)
        self.total_size = None if total_size is None else int(total_size)
        self.log_likelihood = log_likelihood
        self.unconstrained = unconstrained

    def losses(self, *batch: Any, weights: Any = None, **given: Any) -> Tensor:
        """The loss of each independent copy, of shape `(*copies)`; `forward` is their sum.

        Args:
            *batch: what `forward` takes.
            weights: how much each datum counts, of shape `(n,)` or `(n, *copies)`.
            **given: what a `Conditional` or the `log_likelihood` takes by keyword.

        Raises:
            ConstraintError: for data of another shape, dtype or device, or outside the support;
                for weights that are negative, not finite, or all zero; and for a
                `log_likelihood` that does not return one number per datum.
        """
        return self._losses(batch, weights, given, self.unconstrained)

    def _losses(
        self, batch: tuple[Any, ...], weights: Any, given: dict[str, Any], unconstrained: bool
    ) -> Tensor:
        mean = self._mean_score(batch, weights, given)
        log_prior = log_prior_of(self, vars(self.module)["_copies"], unconstrained)
        return -mean - log_prior / (self.total_size or 1)

    def log_joint(self, values: Mapping[str, Any], *batch: Any, **given: Any) -> Tensor:
        """The log posterior density of other values than the current ones, up to a constant.

        It is minus the loss, times `total_size`, with the trainable `Param`s of the module at
        these values, such as draws of a guide: write `NegativeELBO(posterior, guide)`, or
        `guide.importance_sample(lambda values: posterior.log_joint(values, x, y), 1000)`. The
        density is that of the values, whatever `unconstrained` says of the mode.

        Args:
            values: of shape `(*sample, *copies, *event)` by dotted name.
            *batch: what `forward` takes.
            **given: its keywords, `weights` too.

        Returns:
            A tensor of shape `(*sample, *copies)`.

        Raises:
            ConstraintError: for names or shapes that do not fit, values outside their constraint,
                and what `losses` refuses.

        Example:
            >>> import torch, torch.distributions as dd
            >>> from declarative_dist import Param, Variational
            >>> from declarative_dist.objectives import NegativeLogPosterior
            >>> class Level(Variational):
            ...     base = dd.Normal
            ...     loc = Param(0.0, prior=dd.Normal(0.0, 1.0))
            ...     scale = 1.0
            >>> posterior = NegativeLogPosterior(Level(), total_size=2)
            >>> posterior.log_joint({"loc": [0.0, 1.0]}, torch.tensor([1.0, 3.0]))
            tensor([-7.7568, -5.2568])
        """
        raws, sample = raws_at(self.module, values)
        at = _At(self)

        def one(raws: dict[str, Tensor]) -> Tensor:
            named = {f"posterior.module.{name}": raw for name, raw in raws.items()}
            losses: Tensor = torch.func.functional_call(at, named, batch, given)
            return losses

        mapped = one
        for _ in sample:
            mapped = torch.func.vmap(mapped)
        return -(self.total_size or 1) * mapped(raws)

    def _mean_score(self, batch: tuple[Any, ...], weights: Any, given: dict[str, Any]) -> Tensor:
        if self.log_likelihood is None:
            return super()._mean_score(batch, weights, given)
        name = f"{type(self).__name__}(log_likelihood=)"
        copies: torch.Size = vars(self.module)["_copies"]
        is_whole = self.total_size is None
        if weights is not None and is_whole:
            raise ConstraintError(
                f"{type(self).__name__}(weights=)",
                "none, since the log_likelihood is one number, that of all data",
                shorten(weights),
                "Return one number per datum, and say how many there are with total_size=.",
                code="unused-argument",
            )
        counted = batch
        if weights is not None:
            where = f"{type(self).__name__}(weights=)"
            weights = Weights(weights, None, copies, self.module, where)
            counted, batch = (weights.flat,), tuple(map(weights.replace_rows, batch))
        scores = self.log_likelihood(self.module, *batch, **given)
        check_scores(scores, counted, copies, is_whole, name)
        return scores if is_whole else mean_over_data(scores, len(copies), len(copies), weights)

    def extra_repr(self) -> str:
        """How many data there are, and which mode is looked for."""
        shown = ", unconstrained=True" if self.unconstrained else ""
        return f"total_size={self.total_size}{shown}"


class _At(nn.Module):
    """The losses of a posterior's values, for a call with other parameters."""

    def __init__(self, posterior: NegativeLogPosterior) -> None:
        super().__init__()
        self.posterior = posterior

    def forward(self, *batch: Any, **given: Any) -> Tensor:
        weights = given.pop("weights", None)
        return self.posterior._losses(batch, weights, given, unconstrained=False)


def _distribution(module: Any, subject: str, *, is_any: bool = False) -> Any:
    """The module, if it is of a kind that has a likelihood."""
    wanted = Declarative if is_any else (Variational, Joint, Conditional)
    if isinstance(module, wanted):
        return module
    got = f"the class {module.__name__}" if isinstance(module, type) else shorten(module)
    fix = ""
    if isinstance(module, Distribution):
        fix = "It has no parameters to learn: write learnable(...) around it."
    elif isinstance(module, Declarative):
        got = f"a {type(module).__name__}, which is no distribution"
        fix = "Write NegativeLogPosterior(module, total_size=..., log_likelihood=...)."
    elif isinstance(module, type):
        fix = f"Write {module.__name__}()."
    kinds = "a declarative module" if is_any else "a Variational, a Joint or a Conditional"
    raise DeclarationError(subject, kinds, got, fix, code="not-a-density")


def dims_of_one(module: Any) -> int:
    """How many dimensions one prediction of a `Conditional` has, those of the event included.

    Found by trying batches of contexts of two sizes: what does not follow them is its own.

    Raises:
        FieldError: if no distribution can be built for them.
    """
    if not isinstance(module, Conditional):
        return 0
    try:
        with torch.no_grad(), same_random_numbers():
            two, three = (module.at_start((count,)) for count in (2, 3))
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, ExplainedError):
            raise
        is_meta = any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))
        raise FieldError(
            type(module).__name__,
            "a distribution for a batch of contexts",
            f"{type(error).__name__}: {first_line(error)}",
            "Leave the meta device first, with to_empty and reset_parameters."
            if is_meta
            else "Index values from the right, as in loc[..., None].",
        ) from error
    return len(two.batch_shape + two.event_shape) - (two.batch_shape != three.batch_shape)

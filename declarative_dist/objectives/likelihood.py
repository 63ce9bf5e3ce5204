"""Losses of data, and maximum likelihood.

A loss is a mean over data and a sum over `batch_shape`, whose entries are independent problems:
the gradient of each is what it would be alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from declarative_dist.errors import ConstraintError, DeclarationError, shorten
from declarative_dist.families.conditional import Conditional
from declarative_dist.families.declarative import Declarative
from declarative_dist.families.state import AtomicState
from declarative_dist.families.variational import Variational
from declarative_dist.joints.joint import Joint
from declarative_dist.latents.named import score_in_support
from declarative_dist.objectives.data import as_data, check_values, score_joint
from declarative_dist.objectives.weights import Scores, Weights, check_contexts
from declarative_dist.randomness import same_random_numbers


class DataLoss(AtomicState):
    """What losses of data share: a loss for each independent copy, and their sum.

    Args:
        module: what is held and trained.
        is_any: whether any declared module will do, for it is scored by a function.

    Raises:
        DeclarationError: if it is of another kind.
    """

    if TYPE_CHECKING:

        def __call__(self, *batch: Any, weights: Any = None, **given: Any) -> Tensor: ...

    def __init__(self, module: Any, *, is_any: bool = False) -> None:
        super().__init__()
        if not isinstance(module, Declarative if is_any else (Variational, Joint, Conditional)):
            kinds = "a declarative module" if is_any else "a Variational, a Joint or a Conditional"
            is_declared = isinstance(module, Declarative)
            got = f"a {type(module).__name__}" if is_declared else shorten(module)
            fix = (
                "Build a class with (), write learnable(...) around a plain distribution, and for "
                "other modules NegativeLogPosterior(module, total_size=..., log_likelihood=...)."
            )
            subject = type(self).__name__
            raise DeclarationError(subject, kinds, got, fix, code="not-a-density")
        self.module = module
        self._dims = 0 if is_any else dims_of_one(module)

    def losses(self, *batch: Any, weights: Any = None, **given: Any) -> Tensor:
        """The loss of each independent copy, of shape `(*copies)`; `forward` is their sum.

        Args:
            *batch: what `forward` takes.
            weights: how much each datum counts, of shape `(n,)` or `(n, *copies)`.
            **given: what a `Conditional` or a `log_likelihood` takes by keyword.

        Raises:
            ConstraintError: for data of another shape, dtype or device, or outside the support;
                for weights that are negative, not finite, or all zero; and for a
                `log_likelihood` that does not return one number per datum.

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
        return -self._scores(batch, weights, given).mean()

    def forward(self, *batch: Any, weights: Any = None, **given: Any) -> Tensor:
        """The loss of a batch, a scalar: the sum of the `losses` of all copies; see there."""
        return self.losses(*batch, weights=weights, **given).sum()

    def why_not_finite(self, *batch: Any, weights: Any = None, **given: Any) -> str:
        """Why a loss was infinite or NaN: the first datum without a finite log density.

        Args:
            *batch: the batch of that loss.
            weights: its weights.
            **given: its keywords.

        Returns:
            A sentence; "" where all data have one.
        """
        scores = self._scores(batch, weights, given).by_datum()
        bad = scores.isfinite().logical_not().nonzero().tolist()
        if not bad:
            return ""
        index = tuple(bad[0])
        where = f"at index {', '.join(map(str, index))} of the data" if index else "of all data"
        said = f"The log density is {scores[index].item()} {where}"
        return f"{said}, one of {len(bad)} such: at an end of the support, say."

    def _scores(self, batch: tuple[Any, ...], weights: Any, given: dict[str, Any]) -> Scores:
        """The log likelihood of each datum."""
        module = self.module
        is_conditional = isinstance(module, Conditional)
        copies: torch.Size = vars(module)["_copies"]
        name = f"{type(self).__name__}({type(module).__name__})"
        if isinstance(module, Joint):
            return score_joint(module, batch, weights, given, name)
        # A context may be all by name.
        least = 1 if given else 2
        if len(batch) < least if is_conditional else len(batch) != 1 or given:
            alone = "the data, one argument" + (" and no keywords" if given else "")
            wanted = "a context and a value" if is_conditional else alone
            got = ", ".join([f"{len(batch)} arguments", *given])
            raise ConstraintError(name, wanted, got, code="wrong-data")
        if is_conditional and weights is not None:
            check_contexts((*batch[:-1], *given.values()), name)
        distribution = module(*batch[:-1], **given)
        value = as_data(batch[-1], module, name)
        problems = len(distribution.batch_shape)
        if is_conditional:
            # An overridden forward may have made events of dimensions of a prediction.
            problems = max(self._dims - len(distribution.event_shape), 0)
        check_values(value, distribution, problems, is_conditional, name)
        # An overridden forward may have made one event of all copies.
        copies = copies if problems else torch.Size()
        if weights is not None:
            data = value.shape[: value.ndim - problems - len(distribution.event_shape)]
            weights = Weights(weights, data, copies, module, f"{name}(weights=)")
            value = weights.replace(value)
            if is_conditional:
                distribution = weights.replace_predictions(distribution, problems)
        return Scores(score_in_support(distribution, value, name), problems, len(copies), weights)


class NegativeLogLikelihood(DataLoss):
    """The mean negative log likelihood of data.

    `forward` takes data of shape `(n, *batch, *event)` for a `Variational`, where `(n, 1, *event)`
    is seen by all independent problems; a dict of such by site for a `Joint`; and for a
    `Conditional` what it is called with, then the values: `forward(context, value)`. A `Joint`
    with a context takes both: `forward(context, {"speed": s, "angle": a})`, or the data of its
    sites by keyword, as `fit` gives it.

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
        super().__init__(module)


def dims_of_one(module: Any) -> int:
    """How many dimensions one prediction of a `Conditional` has, with the event's.

    Found by trying batches of contexts of two sizes: what does not follow them is its own.
    """
    if not isinstance(module, Conditional):
        return 0
    with torch.no_grad(), same_random_numbers():
        two, three = (module.at_start((count,)) for count in (2, 3))
    return len(two.batch_shape + two.event_shape) - (two.batch_shape != three.batch_shape)

"""Losses of maximum likelihood and maximum a posteriori.

A loss is a mean over data and a sum over `batch_shape`, whose entries are independent problems:
the gradient of each is what it would be alone.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
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
from declarative_dist.families.priors import log_prior_of
from declarative_dist.families.state import AtomicState
from declarative_dist.families.variational import Variational
from declarative_dist.joints.joint import Joint
from declarative_dist.latents.named import as_value
from declarative_dist.plain.supports import first_outside
from declarative_dist.randomness import same_random_numbers

LogLikelihood = Callable[..., Tensor]
"""From a module and a batch to one log likelihood per datum, of shape `(n, *batch_shape)`."""


class DataLoss(AtomicState, ABC):
    """What losses of data share: they are given for each independent copy, and as one sum."""

    if TYPE_CHECKING:

        def __call__(self, *batch: Any, **given: Any) -> Tensor: ...

    @abstractmethod
    def losses(self, *batch: Any, **given: Any) -> Tensor:
        """The loss of each independent copy, a mean over data, of shape `(*copies)`."""

    def forward(self, *batch: Any, **given: Any) -> Tensor:
        """The loss of a batch, the sum of the losses of all copies.

        Args:
            *batch: the arguments.
            **given: what a `Conditional` takes by keyword.

        Raises:
            ConstraintError: for a batch that `losses` refuses.
        """
        return self.losses(*batch, **given).sum()


class NegativeLogLikelihood(DataLoss):
    """The mean negative log likelihood of data.

    `forward` takes data of shape `(n, *batch, *event)` for a `Variational`, where `(n, 1, *event)`
    is seen by all independent problems; a dict of such by site for a `Joint`; and for a
    `Conditional` what it is called with, then the values: `forward(context, value)`.

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
        tensor(1.4189, grad_fn=<NegBackward0>)
    """

    def __init__(self, module: Variational | Joint | Conditional) -> None:
        super().__init__()
        self.module = _distribution(module, type(self).__name__)
        self._dims = dims_of_one(module)

    def losses(self, *batch: Any, **given: Any) -> Tensor:
        """The loss of each independent copy, of shape `(*copies)`; `forward` is their sum.

        Args:
            *batch: what `forward` takes.
            **given: what a `Conditional` takes by keyword.

        Raises:
            ConstraintError: for data of another shape, dtype or device, or outside the support.

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
        return -_log_likelihood(self.module, batch, given, self._dims, type(self).__name__)


class NegativeLogPosterior(DataLoss):
    """The mean negative log likelihood, less the log prior's share for one datum.

    `forward(*batch)` is `mean(-log p(datum | parameters)) - log_prior / total_size`: over all
    data, the negative log posterior density divided by `total_size`, up to a constant; over a
    mini-batch an unbiased estimate of it. `forward` takes what that of `NegativeLogLikelihood`
    takes; with `log_likelihood`, what that takes behind the module.

    Args:
        module: a distribution, or any declarative module with a `log_likelihood`.
        total_size: how many data there are in all.
        log_likelihood: from the module and a batch to one number per datum, of shape
            `(n, *batch_shape)`. A module is held, trained with the other, and its priors count.
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
        tensor(2.6284, grad_fn=<SubBackward0>)
    """

    def __init__(
        self,
        module: Declarative,
        *,
        total_size: int,
        log_likelihood: LogLikelihood | None = None,
        unconstrained: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not is_count(total_size, 1):
            raise ConstraintError(
                f"{name}(total_size=)",
                "how many data there are in all, an int, 1 or above",
                shorten(total_size),
                code="wrong-argument",
            )
        if log_likelihood is not None and not callable(log_likelihood):
            raise DeclarationError(
                f"{name}(log_likelihood=)",
                "a callable from the module and a batch to one number per datum",
                shorten(log_likelihood),
            )
        self.module = _distribution(module, name, is_any=log_likelihood is not None)
        self._dims = dims_of_one(module) if log_likelihood is None else 0
        self.total_size = int(total_size)
        self.log_likelihood = log_likelihood
        self.unconstrained = unconstrained

    def losses(self, *batch: Any, **given: Any) -> Tensor:
        """The loss of each independent copy, of shape `(*copies)`; `forward` is their sum.

        Args:
            *batch: what `forward` takes.
            **given: what a `Conditional` or the `log_likelihood` takes by keyword.

        Raises:
            ConstraintError: for data of another shape, dtype or device, or outside the support,
                and for a `log_likelihood` that does not return one number per datum.
        """
        name = type(self).__name__
        copies: torch.Size = vars(self.module)["_copies"]
        if self.log_likelihood is None:
            mean = _log_likelihood(self.module, batch, given, self._dims, name)
        else:
            scores = self.log_likelihood(self.module, *batch, **given)
            _check_scores(scores, batch, copies, f"{name}(log_likelihood=)")
            mean = mean_over_data(scores, len(copies), len(copies))
        log_prior = log_prior_of(self, copies, self.unconstrained)
        return -mean - log_prior / self.total_size

    def extra_repr(self) -> str:
        """How many data there are, and which mode is looked for."""
        shown = ", unconstrained=True" if self.unconstrained else ""
        return f"total_size={self.total_size}{shown}"


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


def _log_likelihood(
    module: Any, batch: tuple[Any, ...], given: dict[str, Any], dims: int, subject: str
) -> Tensor:
    """The mean log likelihood of each copy, of shape `(*copies)`."""
    is_conditional = isinstance(module, Conditional)
    copies = len(vars(module)["_copies"])
    name = f"{subject}({type(module).__name__})"
    if len(batch) < 2 if is_conditional else len(batch) != 1:
        wanted = "a context and a value" if is_conditional else "the data, one argument"
        raise ConstraintError(name, wanted, f"{len(batch)} arguments", code="wrong-data")
    if given and not is_conditional:
        got = ", ".join(given)
        raise ConstraintError(
            name, "no keywords without a context", got, "Leave them out.", code="unused-argument"
        )
    if isinstance(module, Joint):
        return mean_over_data(_score_by_site(module, batch[0], name), copies, copies)
    distribution = module(*batch[:-1], **given)
    value = _as_data(batch[-1], module, name)
    problems = len(distribution.batch_shape)
    if is_conditional:
        # An overridden forward may have made events of dimensions of a prediction.
        problems = max(dims - len(distribution.event_shape), 0)
        _check_predicted(value, distribution, problems, name)
    else:
        _check_data(value, distribution, name)
    # An overridden forward may have made one event of all copies.
    return mean_over_data(_score(distribution, value, name), problems, min(copies, problems))


def _score_by_site(joint: Joint, data: Any, subject: str) -> Tensor:
    """Log densities of data by site, of shape `(n, *batch)`."""
    if not isinstance(data, Mapping):
        raise ConstraintError(subject, "a dict of data by site", shorten(data), code="wrong-data")
    for site, value in data.items():
        if isinstance(value, Tensor):
            _check_tensor(value, joint, f"{subject}.{site}")
    scores = joint.log_prob(data)
    if scores.numel() == 0:
        raise ConstraintError(subject, "one datum or more", "none", code="wrong-data")
    return scores


def _score(distribution: Distribution, value: Tensor, subject: str) -> Tensor:
    try:
        return distribution.log_prob(value)
    except ValueError as error:
        said = first_outside(distribution, value) or first_line(error)
        raise ConstraintError(
            subject,
            f"data in the support of the distribution, {shorten(distribution.support)}",
            said,
            "Remove such data, or choose a distribution that has a density there.",
            code="outside-support",
        ) from error


def mean_over_data(scores: Tensor, problems: int, copies: int = 0) -> Tensor:
    """The mean over data of scores, summed over problems but those that stay apart.

    Args:
        scores: of shape `(*data, *copies, *problems)`.
        problems: how many dimensions problems of their own have, those of copies included.
        copies: how many of them stay.

    Returns:
        A tensor of shape `(*copies)`.
    """
    if problems > copies:
        scores = scores.flatten(copies - problems).sum(-1)
    if not copies:
        return scores.mean()
    return scores.reshape(-1, *scores.shape[-copies:]).mean(0)


def _as_data(value: object, module: nn.Module, subject: str) -> Tensor:
    """Data in the dtype of the module; counts and labels are numbers like others.

    Raises:
        ConstraintError: if it is no numbers, empty, or in another dtype or on another device.
    """
    like = next(_floating_tensors(module), torch.zeros(()))
    if not (isinstance(value, Tensor) and value.layout is torch.strided):
        value = as_value(value, like.dtype, like.device, subject, code="wrong-data")
    _check_tensor(value, module, subject)
    is_exact = like.dtype in (torch.float32, torch.float64)
    return value.to(like.dtype) if is_exact and not value.is_floating_point() else value


def _floating_tensors(module: nn.Module) -> Iterator[Tensor]:
    every = itertools.chain(module.parameters(), module.buffers())
    return (tensor for tensor in every if tensor.is_floating_point())


def _check_tensor(value: Tensor, module: nn.Module, subject: str) -> None:
    """Refuse no data, and data in a dtype or on a device that no tensor of the module has."""
    if value.numel() == 0:
        raise ConstraintError(subject, "one datum or more", shorten(value), code="wrong-data")
    like = next(_floating_tensors(module), value)
    if value.dtype == like.dtype and value.device == like.device:
        return
    tensors = list(_floating_tensors(module))
    if all(value.device != tensor.device for tensor in tensors):
        raise ConstraintError(
            subject,
            f"data on {like.device}",
            f"data on {value.device}",
            f"Write data.to({str(like.device)!r}), or move the module.",
            code="dtype-or-device",
        )
    if value.is_complex() or (
        value.is_floating_point() and all(value.dtype != tensor.dtype for tensor in tensors)
    ):
        raise ConstraintError(
            subject,
            f"data in {like.dtype}",
            f"data in {value.dtype}",
            f"Write data.to({like.dtype}), or module.to({value.dtype}).",
            code="dtype-or-device",
        )


def _check_data(value: Tensor, distribution: Distribution, subject: str) -> None:
    """Refuse data that would broadcast over independent problems, or the other way round."""
    batch, event = distribution.batch_shape, distribution.event_shape
    whole = (*batch, *event)
    lead = value.ndim - len(whole)
    fits = lead >= (1 if batch else 0) and value.shape[value.ndim - len(event) :] == event
    given = value.shape[lead : lead + len(batch)] if fits else ()
    if not fits or any(size not in (1, own) for size, own in zip(given, batch, strict=True)):
        shapes = ", ".join(("n", *map(str, whole)))
        everyone = ", ".join(("n", *("1" for _ in batch), *map(str, event)))
        also = f", or ({everyone}) for data that all independent problems see" if batch else ""
        raise ConstraintError(
            subject,
            f"data of shape (n, *batch, *event) = ({shapes}){also}",
            f"shape {tuple(value.shape)}",
            "Give the data these dimensions.",
            code="wrong-shape",
        )


def _check_predicted(value: Tensor, distribution: Distribution, own: int, subject: str) -> None:
    """Refuse values that are not one for each context."""
    batch = distribution.batch_shape
    whole = torch.Size((*batch, *distribution.event_shape))
    is_shared = len(batch) == own  # no context has a batch of its own
    if value.shape != whole and not (
        is_shared and value.shape[max(value.ndim - len(whole), 0) :] == whole
    ):
        raise ConstraintError(
            subject,
            f"a value for each context, of shape (*batch, *event) = {tuple(whole)}",
            f"shape {tuple(value.shape)}",
            "Give both the same batch dimensions, and declare event_dim for dimensions of one "
            "value.",
            code="wrong-shape",
        )


def _check_scores(scores: Any, batch: tuple[Any, ...], copies: torch.Size, subject: str) -> None:
    shape = ", ".join(("n", *map(str, copies)))
    expected = f"a floating-point tensor of shape ({shape}), a log likelihood per datum"
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        dtype = f" of {scores.dtype}" if isinstance(scores, Tensor) else ""
        raise ConstraintError(subject, expected, f"{shorten(scores)}{dtype}", code="failed-method")
    # A list, because to hash a size is to fix it in a compiled graph.
    counts = [data.shape[0] for data in batch if isinstance(data, Tensor) and data.ndim]
    fits = scores.ndim == 1 + len(copies) and scores.shape[1:] == copies
    if not fits or (counts and scores.shape[0] not in counts):
        sizes = f" for data of {' or '.join(map(str, sorted(set(counts))))}" if counts else ""
        raise ConstraintError(
            subject,
            expected,
            f"shape {tuple(scores.shape)}{sizes}",
            "Sum over what belongs to one datum, and leave the mean over data to the objective.",
            code="wrong-shape",
        )
    if scores.shape[0] == 0:
        raise ConstraintError(subject, "one datum or more", "none", code="wrong-data")

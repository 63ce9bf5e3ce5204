"""The loss of maximum a posteriori, and the log posterior density behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from declarative_dist.errors import ConstraintError, DeclarationError, is_count, shorten
from declarative_dist.families.declarative import Declarative
from declarative_dist.families.priors import log_prior_of, raws_at
from declarative_dist.objectives.data import check_scores
from declarative_dist.objectives.likelihood import DataLoss
from declarative_dist.objectives.weights import Scores, Weights

LogLikelihood = Callable[..., Tensor]
"""From a module and a batch to one log likelihood per datum, of shape `(n, *batch_shape)`."""


_BY_DATUM = "Return one number per datum, and say how many there are with total_size=."


class NegativeLogPosterior(DataLoss):
    """The mean negative log likelihood, less the log prior's share for one datum.

    `forward(*batch)` is `mean(-log p(datum | parameters)) - log_prior / total_size`: over all
    data, the negative log posterior density divided by `total_size`, up to a constant; over a
    mini-batch an unbiased estimate of it. `forward` takes what the one of `NegativeLogLikelihood`
    takes; with `log_likelihood`, what that takes behind the module.

    Args:
        module: a distribution, or any declarative module with a `log_likelihood`.
        total_size: how many data there are in all; None where the `log_likelihood` is of all
            data, one number.
        log_likelihood: from the module and a batch to one number per datum, of shape
            `(n, *copies)`, or to one in all, of shape `(*copies)`. A module is held, trained with
            the other, and its priors count.
        unconstrained: False for the mode of the values, which does not depend on their
            constraints' maps; True for the mode of the unconstrained numbers behind them, where a
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
        if not is_count(total_size, 1) and (total_size is not None or log_likelihood is None):
            raise ConstraintError(
                f"{name}(total_size=)",
                "how many data there are in all, an int, 1 or above",
                shorten(total_size),
                "Only a log_likelihood of all data, one number, goes with None.",
                code="wrong-argument",
            )
        if log_likelihood is not None and not callable(log_likelihood):
            expected = "a callable from the module and a batch to one number per datum"
            raise DeclarationError(f"{name}(log_likelihood=)", expected, shorten(log_likelihood))
        super().__init__(module, is_any=log_likelihood is not None)
        self.total_size = None if total_size is None else int(total_size)
        self.log_likelihood = log_likelihood
        self.unconstrained = unconstrained

    def losses(self, *batch: Any, weights: Any = None, **given: Any) -> Tensor:
        share = self._log_prior(self.unconstrained) / (self.total_size or 1)
        return super().losses(*batch, weights=weights, **given) - share

    def _log_prior(self, unconstrained: bool) -> Tensor:
        return log_prior_of(self, vars(self.module)["_copies"], unconstrained)

    def log_joint(self, values: Mapping[str, Any], *batch: Any, **given: Any) -> Tensor:
        """The log posterior density of other values than the current ones, up to a constant.

        It is minus the loss, times `total_size`, with the trainable `Param`s of the module at
        these values, such as draws of a guide: write `NegativeELBO(posterior, guide)`, or
        `guide.importance_sample(lambda values: posterior.log_joint(values, x, y), 1000)`. The
        density is always of the values, whatever `unconstrained` says of the mode.

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
        return self._at(values, self._log_joint, batch, given)

    def _log_joint(self, *batch: Any, weights: Any = None, **given: Any) -> Tensor:
        mean = self._scores(batch, weights, given).mean()
        return (self.total_size or 1) * mean + self._log_prior(unconstrained=False)

    def log_lik(self, values: Mapping[str, Any], *batch: Any, **given: Any) -> Tensor:
        """The log likelihood of each datum, for leave-one-out cross-validation and the like.

        Args:
            values: of the trainable `Param`s, of shape `(*sample, *copies, *event)` by dotted
                name, such as draws of a guide.
            *batch: what `forward` takes.
            **given: its keywords, but for `weights`.

        Returns:
            A tensor of shape `(*sample, *data, *copies)`, in nats.

        Raises:
            ConstraintError: where the `log_likelihood` is one number in all, for names or shapes
                that do not fit, values outside their constraint, and what `losses` refuses.

        Example:
            >>> import torch, torch.distributions as dd
            >>> from declarative_dist import Param, Variational
            >>> from declarative_dist.objectives import NegativeLogPosterior
            >>> class Level(Variational):
            ...     base = dd.Normal
            ...     loc = Param(0.0, prior=dd.Normal(0.0, 1.0))
            ...     scale = 1.0
            >>> posterior = NegativeLogPosterior(Level(), total_size=2)
            >>> posterior.log_lik({"loc": [0.0, 1.0]}, torch.tensor([1.0, 3.0]))
            tensor([[-1.4189, -5.4189],
                    [-0.9189, -2.9189]])
        """
        if self.total_size is None:
            subject, got = f"{type(self).__name__}.log_lik", "one number for all data"
            expected = "a log_likelihood of each datum"
            raise ConstraintError(subject, expected, got, _BY_DATUM, code="not-a-density")
        return self._at(values, self._by_datum, batch, given)

    def _by_datum(self, *batch: Any, **given: Any) -> Tensor:
        return self._scores(batch, None, given).by_datum()

    def _at(
        self,
        values: Mapping[str, Any],
        function: Callable[..., Tensor],
        batch: tuple[Any, ...],
        given: dict[str, Any],
    ) -> Tensor:
        """What a function gives where the trainable `Param`s have other values."""
        raws, sample = raws_at(self.module, values)
        names = {id(raw): name for name, raw in reversed([*raws.items()])}  # tied ones once
        at = _At(self, function)

        def one(raws: dict[str, Tensor]) -> Tensor:
            named = {f"posterior.module.{name}": raw for name, raw in raws.items()}
            return torch.func.functional_call(at, named, batch, given)

        mapped = one
        for _ in sample:
            mapped = torch.func.vmap(mapped)
        return mapped({name: raws[name] for name in names.values()})

    def _scores(self, batch: tuple[Any, ...], weights: Any, given: dict[str, Any]) -> Scores:
        if self.log_likelihood is None:
            return super()._scores(batch, weights, given)
        copies: torch.Size = vars(self.module)["_copies"]
        is_whole, name = self.total_size is None, type(self).__name__
        counted = batch
        if weights is not None:
            subject = f"{name}(weights=)"
            if is_whole:
                expected = "none, since the log_likelihood is one number for all data"
                got = shorten(weights)
                raise ConstraintError(subject, expected, got, _BY_DATUM, code="unused-argument")
            weights = Weights(weights, None, copies, self.module, subject)
            counted, batch = (weights.flat,), tuple(map(weights.replace_rows, batch))
        scores = self.log_likelihood(self.module, *batch, **given)
        check_scores(scores, counted, copies, is_whole, f"{name}(log_likelihood=)")
        numbers = scores[None] if is_whole else scores
        return Scores(numbers, len(copies), len(copies), weights)

    def extra_repr(self) -> str:
        """How many data there are, and which mode is looked for."""
        shown = ", unconstrained=True" if self.unconstrained else ""
        return f"total_size={self.total_size}{shown}"


class _At(nn.Module):
    """A function of a posterior, for a call with other parameters."""

    def __init__(self, posterior: NegativeLogPosterior, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.posterior = posterior
        self.function = function

    def forward(self, *batch: Any, **given: Any) -> Tensor:
        return self.function(*batch, **given)

"""Distributions that depend on a context, declared as classes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from torch.distributions import Distribution

from declarative_dist.errors import ConstraintError, FieldError
from declarative_dist.families.building import distribution_of, refused_by_torch
from declarative_dist.families.contextual import Contextual
from declarative_dist.families.probe import check_copies
from declarative_dist.fields.given import try_kinds
from declarative_dist.plain.refusals import REFUSALS


class Conditional(Contextual):
    """A map from a context to a distribution, declared as a class.

    The class body has a `base`, as in a `Variational`, and fields, any of which may be a
    `Head`: predicted from the context. The others stay what they are, so that a policy with a
    predicted mean and a free scale is one declaration.

    A nested `Conditional` receives the same context, or what this one's `network` makes of it: a
    trunk that several parts share is `network=` of the class around them, and runs once.

    Calling an instance gives a plain torch distribution. The arguments of the call go unchanged to
    `network`; one linear layer maps its output, or the context itself, to the unconstrained
    numbers of all heads, which are split, reshaped and constrained. Without a network you pass the
    context as the only argument. The bias of that layer starts at the heads' `init`, its weights
    small. Whatever the numbers are, infinities included, the parameters are valid; only NaN passes
    through.

    What goes back to the unconstrained numbers is finite too, so that no learning rate breaks
    them: NaN, which a density far from a tiny scale makes of zero times infinity, counts as zero,
    and gradients are clipped at 1e15 in float32 (1e120 in float64; not at all in float16, where
    loss scaling looks for overflow).

    Args:
        in_features: how many features the linear layer sees: the width of the network's output, or
            of the context without a network. None: the network itself returns the unconstrained
            numbers, a tensor of shape `(*batch, *raw)` for one head, a dict by name for several.
            A head without a shape takes `(*batch)`: of `(n, 1)` the 1 is one more batch dimension.
        network: any module, held and trained with the instance.
        device: where to build it; None for where the network is.
        dtype: the floating-point type of everything in it; None for the network's own.
        **sizes_and_values: sizes by the names that shapes use, and values by field.

    Raises:
        DeclarationError: if a keyword is neither, or the class has no base.
        ConstraintError: if a value is outside its constraint, shapes do not fit, or there is
            nothing to predict from.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import Conditional, Head, LogInterval, Param
        >>> class Policy(Conditional):
        ...     base = dd.Normal
        ...     event_dim = 1
        ...     loc = Head(shape=("actions",))
        ...     scale = Param(1.0, LogInterval(1e-3, 10.0), shape=("actions",))
        >>> policy = Policy(in_features=64, actions=6, network=torch.nn.Linear(8, 64))
        >>> policy(torch.zeros(5, 8)).rsample().shape
        torch.Size([5, 6])
    """

    __framework__ = True
    __predicts__: ClassVar[type | None] = Distribution

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> Distribution: ...
        def forward(self, *args: Any, **kwargs: Any) -> Distribution: ...
        def from_features(self, features: Any, /, **given: Any) -> Distribution: ...
        def at_start(self, shape: Any = ...) -> Distribution: ...
        def detach(self, *args: Any, **kwargs: Any) -> Distribution: ...

    def _predict(self, known: dict[str, Any]) -> Distribution:
        return distribution_of(self, self.__declaration__.base_values(self, known))

    def _check_build(self, values: dict[str, Any]) -> None:
        is_class = isinstance(self.__declaration__.base, type)
        is_open = any(not field.has_map for field in self.__declaration__.givens)
        if not (is_class or is_open):
            return
        try:
            with torch.no_grad():
                try_kinds(self, partial(self.at_start, (2,) if is_open else ()))
        except REFUSALS as error:
            if not is_class:
                return  # a method may need a batch
            if isinstance(error, ConstraintError):
                raise
            check_copies(self)  # what mixes contexts may fail on one
            raise refused_by_torch(self, values, error) from error

    def _before_context(self, *args: Any, **kwargs: Any) -> NoReturn:
        fix = "Call it with one, then the distribution: q(context).log_prob(value)."
        raise FieldError(type(self).__name__, "a context first", "none", fix, code="no-context")

    log_prob = rsample = sample = rsample_and_log_prob = entropy = cdf = icdf = _before_context

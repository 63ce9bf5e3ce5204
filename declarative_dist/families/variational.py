"""Declared distributions: a module and a live torch distribution in one object."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from operator import attrgetter, methodcaller
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, overload

import torch
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import Self

from declarative_dist.errors import ConstraintError, FieldError
from declarative_dist.families.building import (
    call_detached,
    distribution_of,
    refused_by_torch,
    require_rsample,
)
from declarative_dist.families.copies import all_lack
from declarative_dist.families.declarative import Declarative
from declarative_dist.plain.arguments import depends_on_values
from declarative_dist.plain.draws import is_reparametrised, rsample_and_score
from declarative_dist.plain.indexing import choose
from declarative_dist.plain.refusals import REFUSALS
from declarative_dist.plain.tensors import without_cache
from declarative_dist.plain.tracing import is_traced

D_co = TypeVar("D_co", bound=Distribution, covariant=True)


class HasBase(Protocol[D_co]):
    """A class whose base, a distribution class or a method, makes a `D_co`."""

    @property
    def base(self) -> Callable[..., D_co]:
        """What makes the distribution."""
        ...


def _ask(q: Variational, name: str, compute: Callable[[Distribution], Any], fix: str = "") -> Any:
    """What the current distribution says, or why torch leaves it unsaid."""
    distribution, subject = q(), f"{type(q).__name__}.{name}"
    try:
        return compute(distribution)
    except NotImplementedError as error:
        said = str(error) or f"torch has none for {type(distribution).__name__}."
        raise NotImplementedError(f"{subject}: {said} {fix}".rstrip()) from error


def _delegate(name: str) -> Any:
    """A property of the current distribution."""

    def read(self: Variational) -> Any:
        return _ask(self, name, attrgetter(name))

    return property(read, doc=getattr(Distribution, name).__doc__)


class Variational(Declarative, Distribution):
    """A distribution declared as a class: its base, and a field per argument.

    The class body has a `base`, which is a `torch.distributions` class or a method from field
    values to a distribution, and fields: `Param`, constants, `@derived`, nested modules. Without
    any field, all arguments of a class base are declared in its preferred parametrisation.
    `event_dim` is the total number of event dimensions; batch dimensions are reinterpreted until
    it holds. `validate_args = False` switches off the validation of values given to `log_prob`.
    A base that is made of distributions validates if all of them do.

    An instance is an `nn.Module` and a `torch.distributions.Distribution`. Calling it gives a
    plain, current distribution, a snapshot for a whole step; every member of a distribution
    delegates to a fresh one. Nothing is cached, so no value is ever stale.

    Samples have shape `(*sample, *batch, *event)`.

    Args:
        batch_shape: how many independent copies; prepended to the shape of every parameter.
        device: where to build it.
        dtype: the floating-point type of everything in it.
        **sizes_and_values: sizes by the names that shapes use, and values by field.

    Raises:
        DeclarationError: if a keyword is neither, or the class has no base.
        ConstraintError: if a value is outside its constraint or shapes do not fit.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import Exp, Param, Positive, Variational
        >>> class GammaFamily(Variational):
        ...     base = dd.Gamma
        ...     concentration = Param(1.0, Positive())
        ...     rate = Param(1.0, Exp())
        >>> q = GammaFamily()
        >>> optimizer = torch.optim.SGD(q.parameters(), lr=0.01)
        >>> target = dd.Gamma(5.0, 5.0)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     x = q.rsample((1000,))
        ...     loss = (q.log_prob(x) - target.log_prob(x)).mean()
        ...     loss.backward()
        ...     optimizer.step()
    """

    __framework__ = True
    _live_shape: torch.Size
    _is_view: bool
    __builds__: ClassVar[type | None] = Distribution

    if TYPE_CHECKING:

        @overload
        def __call__(self: HasBase[D_co]) -> D_co: ...
        @overload
        def __call__(self) -> Distribution: ...
        def __call__(self) -> Distribution: ...

    def forward(self) -> Distribution:
        """Build the current distribution from the current values."""
        declaration = self.__declaration__
        distribution = distribution_of(self, declaration.base_values(self))
        shape = self.__dict__.get("_live_shape")
        return distribution if shape is None else distribution.expand(shape)

    def _check_build(self, values: dict[str, Any]) -> None:
        declaration = self.__declaration__
        copies: torch.Size = vars(self)["_copies"]
        is_new = bool(copies) and "_is_built" not in vars(self)
        if not isinstance(declaration.base, type):
            if is_new:
                self._expand_to(copies)
            return
        arguments = {name: values[name] for name in declaration.inputs}
        try:
            with torch.no_grad():
                if is_new:
                    self._expand_to(copies)
                    arguments = declaration.base_values(self)
                distribution = distribution_of(self, arguments)
                if "_live_shape" in vars(self):
                    distribution.expand(vars(self)["_live_shape"])
                if depends_on_values(declaration.base) and not is_traced(*arguments.values()):
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # of a class that states no constraints
                        declaration.base(**arguments)  # which torch checks only as a whole
        except ConstraintError:
            raise
        except REFUSALS as error:
            raise refused_by_torch(self, arguments, error) from error

    def _build_apart(self) -> Distribution:
        return self.forward()

    def _expand_to(self, copies: torch.Size) -> None:
        """Put the independent copies in front of a distribution of which nothing has them."""
        declaration = self.__declaration__
        if all_lack(self, copies, declaration.run(self, declaration.build)):
            vars(self)["_live_shape"] = torch.Size((*copies, *self().batch_shape))

    def _check_whole(self) -> None:
        """Refuse copies that got lost on the way to the distribution."""
        copies: torch.Size = vars(self)["_copies"]
        if not copies:
            return
        super()._check_whole()
        with torch.no_grad():
            batch_shape = self.forward().batch_shape
        if batch_shape[: len(copies)] != copies:
            expected = f"a batch shape that starts with batch_shape={tuple(copies)}"
            got = f"{tuple(batch_shape)}"
            fix = "Leave the dimensions in front of every value where they are."
            raise ConstraintError(type(self).__name__, expected, got, fix, code="mixed-draws")

    def _replicate(self, copies: torch.Size, done: dict[int, Any]) -> None:
        live = vars(self).get("_live_shape")
        super()._replicate(copies, done)
        if live is not None:
            vars(self)["_live_shape"] = torch.Size((*copies, *live))
        else:
            self._expand_to(copies)

    def detach(self) -> Distribution:
        """A snapshot with detached parameters: gradients flow to values, not to parameters.

        The density of "Sticking the landing" (Roeder, Wu and Duvenaud, 2017,
        https://arxiv.org/abs/1703.09194).

        Example:
            >>> import torch
            >>> from declarative_dist import learnable
            >>> q = learnable(torch.distributions.Normal(0.0, 1.0))
            >>> q.detach().log_prob(q.rsample()).requires_grad
            True
        """
        return call_detached(self)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draw samples of shape `(*sample, *batch, *event)`, without gradients."""
        return self().sample(sample_shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draw samples of shape `(*sample, *batch, *event)` that carry gradients.

        Raises:
            NotImplementedError: if the base has no reparametrised sampler.
        """
        distribution = self()
        if not distribution.has_rsample:
            require_rsample(distribution, type(self).__name__)
        return distribution.rsample(sample_shape)

    __iter__ = None  # Python would index without end

    def __getitem__(self, index: Any) -> Distribution:
        """The distributions of the batch that an index chooses, as a plain one: see `select`."""
        return choose(self(), index)

    def rsample_and_log_prob(self, sample_shape: Any = torch.Size()) -> tuple[Tensor, Tensor]:
        """Samples and their log densities from one snapshot, exact at the edge of a transform.

        The density of a transformed draw comes from the point that was drawn, so it is finite and
        exact where the draw was rounded onto the edge of the support.

        Returns:
            Samples, `(*sample, *batch, *event)`, and their log densities, `(*sample, *batch)`.
        """
        distribution = require_rsample(self(), type(self).__name__)
        return rsample_and_score(distribution, torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density or mass at values of shape `(*sample, *batch, *event)`."""
        return self().log_prob(value)

    def cdf(self, value: Tensor) -> Tensor:
        """The cumulative distribution function at values of shape `(*sample, *batch)`."""
        return self().cdf(value)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile function at probabilities of shape `(*sample, *batch)`."""
        return self().icdf(value)

    def entropy(self) -> Tensor:
        """The entropy, of shape `(*batch)`, in nats.

        Raises:
            NotImplementedError: if torch does not know it; `declarative_dist.entropy` estimates.
        """
        fix = "Estimate it: declarative_dist.entropy(q, num_samples=...)."
        return _ask(self, "entropy", methodcaller("entropy"), fix)

    def perplexity(self) -> Tensor:
        """The exponential of the entropy, of shape `(*batch)`."""
        return self().perplexity()

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All values of a discrete distribution, of shape `(cardinality, *batch, *event)`."""
        return self().enumerate_support(expand)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """A live view with another batch shape, which shares all parameters.

        Plain torch wrappers (`Independent`, `TransformedDistribution`) expand what they wrap, so
        they stay live around a declared distribution.
        """
        shape = torch.Size(batch_shape)
        with torch.no_grad():
            current = self()
        try:
            current.expand(shape)
        except RuntimeError as error:
            subject = f"{type(self).__name__}.expand"
            if isinstance(error, NotImplementedError):
                expected, fix = "a base that defines expand", "Define expand in its class."
                got = type(current).__name__
                raise FieldError(subject, expected, got, fix, code="refused-by-torch") from error
            expected = f"a shape that {tuple(current.batch_shape)} broadcasts to"
            raise ConstraintError(
                subject, expected, f"{tuple(shape)}", code="wrong-shape"
            ) from error
        view: Self = without_cache(self)  # torch's parametrize lets nobody call copy.copy
        vars(view)["_live_shape"], vars(view)["_is_view"] = shape, True
        return view

    if not TYPE_CHECKING:  # checkers know these from Distribution

        @property
        def has_rsample(self) -> bool:
            """Whether `rsample` gives draws with gradients."""
            return is_reparametrised(self())

        mean = _delegate("mean")
        mode = _delegate("mode")
        variance = _delegate("variance")
        stddev = _delegate("stddev")
        support = _delegate("support")
        batch_shape = _delegate("batch_shape")
        event_shape = _delegate("event_shape")
        _batch_shape = _delegate("batch_shape")
        _event_shape = _delegate("event_shape")
        has_enumerate_support = _delegate("has_enumerate_support")
        arg_constraints = _delegate("arg_constraints")

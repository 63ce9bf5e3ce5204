"""What distributions that wrap another one share: its checks, ends, shapes and messages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from typing_extensions import Self

from declarative_dist.errors import ConstraintError, DeclarationError, first_line, shorten
from declarative_dist.plain.arguments import register_arguments
from declarative_dist.plain.supports import between, first_outside
from declarative_dist.plain.tensors import as_tensor
from declarative_dist.plain.tracing import is_traced
from declarative_dist.words import format_value
from declarative_dist.wrappers.cdfs import (
    Point,
    Univariate,
    family_of,
    larger,
    like_of,
    loses_tail,
    smaller,
    tails_of,
    univariate,
)
from declarative_dist.wrappers.quantiles import icdf

End = float | Tensor | None
Ends = tuple[Point, Point]


class Wrapper(Distribution):
    """A distribution of single numbers made of another one, which computes in float64.

    Args:
        base_distribution: the other one, plain or live.
        tensors: what else it is made of by name: numbers and tensors, whose shapes broadcast with
            the batch shape. They are held in the dtype of the other one.
        validate_args: whether to check arguments and values; None to follow torch.
    """

    base_distribution: Distribution
    has_atoms = True
    """Whether single values, among others with a density, have a probability of their own."""

    def __init__(
        self,
        base_distribution: Distribution,
        tensors: dict[str, Any],
        validate_args: bool | None = None,
        event_shape: torch.Size = torch.Size(),
    ) -> None:
        kind = type(self).__name__
        if not isinstance(base_distribution, Distribution):
            subject, got = f"{kind}(base_distribution=)", shorten(base_distribution)
            raise DeclarationError(subject, "a distribution", got, code="wrong-part")
        shape, dtype = base_distribution.batch_shape, like_of(base_distribution).dtype
        self.exact_numbers: dict[str, float] = {}  # with the digits that a wider dtype has
        for name, value in tensors.items():
            try:
                number = as_tensor(value, dtype)
                shape = torch.broadcast_shapes(shape, number.shape)
            except (TypeError, ValueError, RuntimeError) as error:
                expected = f"a number or a tensor that broadcasts with {tuple(shape)}"
                got = f"{tuple(value.shape)}" if isinstance(value, Tensor) else shorten(value)
                subject = f"{kind}({name}=)"
                raise ConstraintError(subject, expected, got, code="wrong-argument") from error
            setattr(self, name, number)
            if isinstance(value, float):
                self.exact_numbers[name] = value
        is_wide = shape == base_distribution.batch_shape
        self.base_distribution = base_distribution if is_wide else base_distribution.expand(shape)
        self._batch_shape, self._event_shape = torch.Size(shape), event_shape
        if validate_args is not None:
            self._validate_args = validate_args
        if self._validate_args:
            try:
                self._check_arguments()
            except ConstraintError as error:
                if error.code == "no-cdf":
                    error.subject = f"{kind}(base_distribution=)"
                raise

    def _check_arguments(self) -> None:
        """Refuse a base, or other arguments, that mean nothing."""
        raise NotImplementedError

    def _base(self) -> Univariate:
        """The other distribution, to compute with."""
        return univariate(self.base_distribution)

    def _hull(self, base: Univariate) -> Ends:
        """The least and the greatest value that there can be."""
        raise NotImplementedError

    @constraints.dependent_property(event_dim=0)
    def support(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The numbers, or whole numbers, from the least value that there can be to the last."""
        return self._support(self._base())

    def _support(self, base: Univariate) -> Any:
        low, high = (e.to(base.dtype) if isinstance(e, Tensor) else e for e in self._hull(base))
        if base.is_discrete:
            return constraints.integer_interval(low, high)
        return between(low, high)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """The same with another batch shape."""
        new: Any = object.__new__(type(self)) if _instance is None else _instance
        shape = torch.Size(batch_shape)
        for name, value in vars(self).items():
            is_wide = isinstance(value, (Tensor, Distribution))
            vars(new)[name] = value.expand(shape) if is_wide else value
        new._batch_shape = shape
        return new

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draw samples of shape `(*sample, *batch, *event)`, without gradients."""
        with torch.no_grad():
            return self._draw(torch.Size(sample_shape))

    def _draw(self, sample_shape: torch.Size) -> Tensor:
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density or probability at values of shape `(*sample, *batch, *event)`."""
        base = self._base()
        x, is_inside = self._check_value(base, value)
        result = self._score(base, x, is_inside)
        return result.to(value.dtype if value.is_floating_point() else base.dtype)

    def _contains(self, base: Univariate, x: Tensor) -> Tensor:
        """Whether values are in the support, of shape `(*sample, *batch)`."""
        first, last = self._hull(base)
        is_inside = (x >= first) & (x <= last)
        return is_inside & (x == x.floor()) if base.is_discrete else is_inside

    def _score(self, base: Univariate, x: Tensor, is_inside: Tensor) -> Tensor:
        """The log density, -inf where a value is not inside the support."""
        raise NotImplementedError

    def cdf(self, value: Tensor) -> Tensor:
        """The cumulative distribution function at values of shape `(*sample, *batch)`."""
        return tails_of(self, value).log_cdf.exp()

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile function at probabilities of shape `(*sample, *batch)`."""
        return icdf(self, value)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draw samples of shape `(*sample, *batch)` that carry gradients.

        Raises:
            NotImplementedError: if values have a probability.
        """
        if self.has_rsample:
            return self._draw(torch.Size(sample_shape))
        said = "counts, and values that have a probability, carry no gradients. Use sample()."
        raise NotImplementedError(f"{type(self).__name__}.rsample: {said}")

    def entropy(self) -> Tensor:
        """The entropy, where it is known in closed form."""
        raise self._unknown("entropy")

    def _check_value(self, base: Univariate, value: Tensor) -> tuple[Tensor, Tensor]:
        """Values to compute with, and which are in the support: all, where they are checked."""
        try:
            if not isinstance(value, Tensor):
                raise TypeError("it is no tensor")
            x = base.place(value, *(() if self.event_shape else self._hull(base)))
            is_inside = self._contains(base, x)
            if is_inside.shape != self.batch_shape:
                torch.broadcast_shapes(is_inside.shape, self.batch_shape)
        except (RuntimeError, TypeError) as error:
            said = f"{shorten(value)} ({first_line(error)})"
        else:
            if not self._validate_args or is_traced(is_inside) or is_inside.all():
                return x, is_inside
            said = first_outside(self, value)
        subject, expected = f"{type(self).__name__}.log_prob", f"values in {self._support(base)}"
        raise ConstraintError(subject, expected, said, code="outside-support")

    def _unknown(self, member: str) -> NotImplementedError:
        kind, base = type(self).__name__, type(self._base().plain).__name__
        pair = {"entropy": "q", "kl_divergence": "p, q"}.get(member)
        fix = f"Estimate it: {member}({pair}, num_samples=...)." if pair else "Take it from draws."
        return NotImplementedError(
            f"{kind}: no {member} is known in closed form of a {base}. {fix}"
        )

    def __repr__(self) -> str:
        shown = [f"{name}={format_value(vars(self)[name])}" for name in self.arg_constraints]
        return f"{type(self).__name__}({', '.join([repr(self.base_distribution), *shown])})"


class BetweenEnds(Wrapper):
    """A wrapper with a lower and an upper end, numbers or tensors, of which each may be None."""

    low: End
    high: End
    _shape_without_ends = torch.Size()
    _round_low = staticmethod(torch.ceil)
    _tail_at = 1
    """Beyond which of the ends, 0 for `low`, the mass counts for itself."""

    def __init__(
        self,
        base_distribution: Distribution,
        low: End = None,
        high: End = None,
        validate_args: bool | None = None,
    ) -> None:
        self.low = self.high = None
        ends = {n: end for n, end in (("low", low), ("high", high)) if end is not None}
        event_shape = torch.Size() if ends else self._shape_without_ends
        super().__init__(base_distribution, ends, validate_args, event_shape)

    @property
    def arg_constraints(self) -> dict[str, Any]:
        """What ends may be."""
        return {n: constraints.real for n in ("low", "high") if vars(self)[n] is not None}

    def _ends(self, base: Univariate) -> Ends:
        """The ends, infinite for none; whole numbers for counts."""
        low = -torch.inf if self.low is None else base.to_tensor(self.low)
        high = torch.inf if self.high is None else base.to_tensor(self.high)
        if base.is_discrete:
            low = self._round_low(low) if isinstance(low, Tensor) else low
            high = high.floor() if isinstance(high, Tensor) else high
        return low, high

    def _hull(self, base: Univariate) -> Ends:
        low, high = self._ends(base)
        return larger(base.first, low), smaller(base.last, high)

    def _check_arguments(self) -> None:
        kind = type(self).__name__
        base = self._base()
        family_of(base.plain)
        low, high = self._ends(base)
        if is_traced(low, high, base.first):
            return
        with torch.no_grad():
            mass, is_lost = base.log_mass(low, high), loses_tail(base, (low, high)[self._tail_at])
        if is_lost:
            expected = f"a {type(base.plain).__name__} whose upper tail is known beyond the ends"
            got = "1 - cdf(value), which has no digits left there"
            fix = "Define log_survival_function(value) in its class."
            raise ConstraintError(f"{kind}(base_distribution=)", expected, got, fix, code="no-cdf")
        if not (mass > -torch.inf).all():
            got = ", ".join(f"{name}={shorten(vars(self)[name])}" for name in self.arg_constraints)
            name = type(base.plain).__name__
            expected = f"ends that leave mass of a {name} between them, the lower first"
            raise ConstraintError(f"{kind}(low=, high=)", expected, got, code="bad-bounds")


register_arguments(BetweenEnds, {"base_distribution": Distribution}, constants=("low", "high"))

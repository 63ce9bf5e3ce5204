"""What distributions that wrap another one share: its checks, ends, shapes and messages."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from typing_extensions import Self

from declarative_dist.errors import ConstraintError, DeclarationError, first_line, shorten
from declarative_dist.plain.arguments import register_arguments
from declarative_dist.plain.supports import entries_of, first_outside, support_of
from declarative_dist.plain.tensors import as_tensor, tensors_of
from declarative_dist.plain.tracing import is_traced
from declarative_dist.wrappers.cdfs import HALVES, bounds_of, family_of, log_mass, plain_of

End = float | Tensor | None
_COUNTS: Any = type(constraints.nonnegative_integer)


class Wrapper(Distribution):
    """A distribution of single numbers made of another one.

    Args:
        base_distribution: the other one, plain or live.
        tensors: what else it is made of by name: numbers stay numbers, and the batch shapes of
            tensors broadcast.
        validate_args: whether to check arguments and values; None to follow torch.
    """

    base_distribution: Distribution

    def __init__(
        self,
        base_distribution: Distribution,
        tensors: dict[str, Any],
        validate_args: bool | None = None,
        event_shape: torch.Size = torch.Size(),
    ) -> None:
        if not isinstance(base_distribution, Distribution):
            subject, expected = f"{type(self).__name__}(base_distribution=)", "a distribution"
            raise DeclarationError(
                subject, expected, shorten(base_distribution), code="wrong-part"
            )
        shape = base_distribution.batch_shape
        for name, value in tensors.items():
            number = self._as_number(name, value, base_distribution)
            setattr(self, name, number)
            shape = self._broadcast(shape, name, number)
        is_wide = shape == base_distribution.batch_shape
        self.base_distribution = base_distribution if is_wide else base_distribution.expand(shape)
        super().__init__(shape, event_shape, validate_args=False)
        if validate_args is not None:
            self._validate_args = validate_args
        else:
            del self._validate_args
        if self._validate_args:
            self._check_arguments()

    def _as_number(self, name: str, value: Any, base: Distribution) -> float | Tensor:
        if isinstance(value, Tensor):
            return value
        if isinstance(value, Real):
            return float(value)
        try:
            return as_tensor(value, like_of(plain_of(base)).dtype)
        except (TypeError, ValueError) as error:
            subject = f"{type(self).__name__}({name}=)"
            expected, got = "a number or a tensor", shorten(value)
            raise ConstraintError(subject, expected, got, code="wrong-argument") from error

    def _broadcast(self, shape: torch.Size, name: str, number: float | Tensor) -> torch.Size:
        if not isinstance(number, Tensor):
            return shape
        try:
            return torch.Size(torch.broadcast_shapes(shape, number.shape))
        except RuntimeError as error:
            subject = f"{type(self).__name__}({name}=)"
            expected, got = (
                f"a shape that broadcasts with {tuple(shape)}",
                str(tuple(number.shape)),
            )
            raise ConstraintError(subject, expected, got, code="wrong-shape") from error

    def _check_arguments(self) -> None:
        """Refuse a base, or other arguments, that mean nothing."""
        subject = f"{type(self).__name__}(base_distribution=)"
        try:
            family_of(self._plain)
        except ConstraintError as error:
            parts = (error.expected, error.got, error.fix)
            raise ConstraintError(subject, *parts, code=error.code) from error

    @property
    def _plain(self) -> Any:
        """The base to compute with."""
        return plain_of(self.base_distribution)

    @property
    def _is_discrete(self) -> bool:
        return bool(self._plain.support.is_discrete)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """The same with another batch shape."""
        new: Any = object.__new__(type(self)) if _instance is None else _instance
        shape = torch.Size(batch_shape)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                value = value.expand(shape)
            vars(new)[name] = value.expand(shape) if isinstance(value, Distribution) else value
        new._batch_shape = shape
        return new  # type: ignore[no-any-return]

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draw samples of shape `(*sample, *batch, *event)`, without gradients."""
        with torch.no_grad():
            return self._draw(torch.Size(sample_shape))

    def _draw(self, sample_shape: torch.Size) -> Tensor:
        raise NotImplementedError

    def _validate_sample(self, value: Tensor) -> None:
        try:
            super()._validate_sample(value)
        except ValueError as error:
            subject, expected = f"{type(self).__name__}.log_prob", f"values in {self.support}"
            said = first_outside(self, value) or first_line(error)
            raise ConstraintError(subject, expected, said, code="outside-support") from error

    def _unknown(self, member: str) -> NotImplementedError:
        kind, base = type(self).__name__, type(self._plain).__name__
        fix = f"Take it from draws: .sample((1001,)).{member}(0)."
        if member not in ("mean", "var"):
            fix = "Estimate it: declarative_dist.entropy(q, num_samples=...)."
        return NotImplementedError(
            f"{kind}: no {member} is known in closed form of a {base}. {fix}"
        )

    def __repr__(self) -> str:
        ends = [f"{n}={shorten(v)}" for n, v in vars(self).items() if n in ("low", "high", "gate")]
        ends = [end for end in ends if not end.endswith("=None")]
        return f"{type(self).__name__}({', '.join([repr(self.base_distribution), *ends])})"


class BetweenEnds(Wrapper):
    """A wrapper with a lower and an upper end, numbers or tensors, of which each may be None."""

    low: End
    high: End

    def __init__(
        self,
        base_distribution: Distribution,
        low: End = None,
        high: End = None,
        validate_args: bool | None = None,
        event_shape: torch.Size = torch.Size(),
    ) -> None:
        self.low = self.high = None
        ends = {n: end for n, end in (("low", low), ("high", high)) if end is not None}
        super().__init__(base_distribution, ends, validate_args, event_shape)

    @property
    def arg_constraints(self) -> dict[str, Any]:
        """What ends may be."""
        return {n: constraints.real for n in ("low", "high") if isinstance(vars(self)[n], Tensor)}

    def _ends(self, plain: Distribution) -> tuple[Tensor | None, Tensor | None]:
        """The ends in the dtype of the computation."""
        like = like_of(plain)
        return tuple(  # type: ignore[return-value]
            None if end is None else as_tensor(end, like.dtype, like.device)
            for end in (self.low, self.high)
        )

    def _check_arguments(self) -> None:
        super()._check_arguments()
        plain = self._plain
        low, high = self._ends(plain)
        if is_traced(low, high, *_floating(plain)):
            return
        kind = type(self).__name__
        ends = [f"{n}={shorten(vars(self)[n])}" for n in ("low", "high")]
        subject, got = f"{kind}(low=, high=)", ", ".join(e for e in ends if e[-4:] != "None")
        is_number = all(end is None or not end.isnan().any() for end in (low, high))
        if not is_number or (low is not None and high is not None and (low >= high).any()):
            expected = "numbers of which the lower one comes first"
            raise ConstraintError(subject, expected, got, code="bad-bounds")
        with torch.no_grad():
            mass = log_mass(plain, low, high)
        if (mass == -torch.inf).any():
            expected = f"ends that leave mass of a {type(plain).__name__} between them"
            raise ConstraintError(subject, expected, got, code="bad-bounds")


register_arguments(BetweenEnds, {"base_distribution": Distribution}, constants=("low", "high"))


def _floating(plain: Distribution) -> Iterator[Tensor]:
    return (tensor for _, tensor in tensors_of(plain) if tensor.is_floating_point())


def like_of(plain: Distribution) -> Tensor:
    """A tensor in whose dtype and on whose device a distribution computes."""
    return next(_floating(plain), torch.empty(()))


def narrow_support(plain: Distribution, low: End, high: End, *, is_open: bool) -> Any:
    """The set of what is between two ends and in the support of a distribution.

    Args:
        plain: the distribution.
        low: the lower end, or None.
        high: the upper end, or None.
        is_open: whether a count at the lower end is outside.
    """
    entries = entries_of(support_of(plain))
    own_low: Any = getattr(entries, "lower_bound", None)
    own_high: Any = getattr(entries, "upper_bound", None)
    if isinstance(entries, (constraints.MixtureSameFamilyConstraint, type(constraints.boolean))):
        ends = bounds_of(plain, like_of(plain))
        own_low, own_high = (None if not is_traced(e) and e.isinf().all() else e for e in ends)
    if entries.is_discrete:
        low = None if low is None else _floor(low) + is_open if is_open else -_floor(-low)
        high = None if high is None else _floor(high)
    low, high = _tighter(own_low, low, 1), _tighter(own_high, high, -1)
    if entries.is_discrete:
        return _COUNTS(low) if high is None else constraints.integer_interval(low, high)
    if high is None:
        return constraints.real if low is None else constraints.greater_than_eq(low)
    # Torch has a set below an end without that end, which is where what is censored lies.
    return constraints.interval(-torch.inf if low is None else low, high)


def _floor(end: Any) -> Any:
    return end.floor() if isinstance(end, Tensor) else float(end // 1)


def _tighter(own: Any, end: Any, sign: int) -> Any:
    """The one of two ends that leaves less, numbers where both are."""
    if own is None or end is None:
        return end if own is None else own
    if isinstance(own, Tensor) and own.ndim == 0 and not isinstance(end, Tensor):
        own = own.item() if not is_traced(own) else own
    if isinstance(own, Tensor) or isinstance(end, Tensor):
        like = own if isinstance(own, Tensor) and not isinstance(end, Tensor) else end
        own, end = (as_tensor(e, like.dtype, like.device) for e in (own, end))
        return torch.maximum(own, end) if sign > 0 else torch.minimum(own, end)
    return max(own, end) if sign > 0 else min(own, end)


def widen_value(value: Tensor, plain: Distribution) -> Tensor:
    """Values in the dtype of the computation; counts are numbers like others."""
    if value.dtype in HALVES or not value.is_floating_point():
        return value.to(like_of(plain).dtype)
    return value

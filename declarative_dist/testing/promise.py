"""What a promise is: a function that returns where it is kept, and tells how it was broken."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.errors import (
    DeclarationError,
    ExplainedError,
    did_you_mean,
    first_line,
    shorten,
)


class BrokenPromiseError(ExplainedError, AssertionError):
    """A class that does not do what others rely on.

    Args:
        subject: the class, and the member that is to blame.
        expected: what was promised.
        got: what came instead, and from what.
        fix: what to do about it.

    Example:
        >>> from declarative_dist.testing import BrokenPromiseError
        >>> raise BrokenPromiseError("Half.inverse", "2.0", "1.0 for 1.0", "Multiply by 2.")
        Traceback (most recent call last):
        ...
        declarative_dist.testing.promise.BrokenPromiseError: Half.inverse: expected 2.0, \
got 1.0 for 1.0. Multiply by 2. (docs/errors.md#broken-promise)
    """

    usual_code = "broken-promise"

    promise: str = ""
    """Its name among those that `skip=` takes."""

    @property
    def sentence(self) -> str:
        name = f"{self.promise!r} is broken. " if self.promise else ""
        return f"{name}{super().sentence}"


class Named(Protocol):
    """What is on trial."""

    @property
    def name(self) -> str:
        """The name of the class."""
        ...


def check_promises(
    promises: Mapping[str, Callable[[Any], None]], trial: Named, skip: Collection[str], owner: str
) -> None:
    """Try every promise in turn, and stop at the first that is broken.

    Args:
        promises: functions of the trial, by name; their docstrings say what is promised.
        trial: what is on trial.
        skip: names of promises that were not made.
        owner: whom a mistake in `skip` is about.

    Raises:
        BrokenPromiseError: for the first that is not kept, also by an exception of any kind.
        DeclarationError: for a name in `skip` that is no promise.
    """
    __tracebackhide__ = True  # pytest shows the line of the test, and the message
    for name in skip:
        if name not in promises:
            fix = did_you_mean(name, promises)
            raise DeclarationError(
                f"{owner}(skip=)", "names of promises", repr(name), fix, code="unknown-name"
            )
    for name, promise in promises.items():
        if name in skip:
            continue
        try:
            promise(trial)
        except BrokenPromiseError as error:
            error.promise = name
            raise error.with_traceback(None) from error.__cause__
        except Exception as error:
            broken = BrokenPromiseError(trial.name, _promise_of(promise), describe_error(error))
            broken.promise = name
            raise broken from error


def _promise_of(promise: Callable[[Any], None]) -> str:
    """What the docstring of a promise says, to go on with in a sentence."""
    sentence = (promise.__doc__ or "").rstrip(".")
    return sentence[:1].lower() + sentence[1:]


def describe_error(error: Exception) -> str:
    """An exception in one line.

    Example:
        >>> from declarative_dist.testing.promise import describe_error
        >>> describe_error(KeyError("rate"))
        "KeyError: 'rate'"
    """
    return f"{type(error).__name__}: {first_line(error).rstrip('.')}"


def show(tensor: Tensor) -> str:
    """A small tensor by its numbers, and a large one by its range.

    Example:
        >>> import torch
        >>> from declarative_dist.testing.promise import show
        >>> show(torch.tensor([1.0, 0.1])), show(torch.tensor(2.0))
        ('[1.0, 0.1]', '2.0')
    """
    tensor = tensor.detach()
    if tensor.numel() > 6:
        return shorten(tensor)
    digits = tensor.dtype.is_floating_point
    return _numbers(tensor.tolist(), digits)


def _numbers(value: Any, is_floating: bool) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_numbers(part, is_floating) for part in value)}]"
    return repr(float(f"{value:.7g}")) if is_floating else repr(value)


def find_unregistered(module: nn.Module) -> str | None:
    """The dotted name of a tensor that does not move, save and load with its module."""
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor):
                return f"{path}.{name}".lstrip(".")
    return None


@contextmanager
def compiling() -> Iterator[None]:
    """Compile, and leave torch's switch for the validation of distributions as it was.

    The first compilation of a process switches it off; checks of values break graphs.
    """
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def is_close(left: Tensor, right: Tensor, tolerance: float) -> bool:
    """Whether two tensors are the same up to rounding, NaN beside NaN included."""
    return left.shape == right.shape and torch.allclose(
        left.double(), right.double(), rtol=tolerance, atol=tolerance, equal_nan=True
    )

"""Promises: functions that return where a promise is kept, and raise where it is broken."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

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
from declarative_dist.words import format_numbers


class BrokenPromiseError(ExplainedError, AssertionError):
    """A class that does not do what others rely on.

    Args:
        subject: the class, and the member that is to blame.
        expected: what was promised.
        got: what was found instead, and where.
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
    """The name of the promise, as `skip=` takes it."""

    @property
    def sentence(self) -> str:
        name = f"{self.promise!r} is broken. " if self.promise else ""
        return f"{name}{super().sentence}"


class Trial:
    """A constraint or a family on trial, and the words for what it does not keep."""

    @property
    def name(self) -> str:
        """The name of its class."""
        raise NotImplementedError

    def broken(self, member: str, expected: str, got: str, fix: str = "") -> BrokenPromiseError:
        """The error that names a member of the class."""
        return BrokenPromiseError(f"{self.name}.{member}", expected, got, fix)

    def expect(self, holds: object, member: str, expected: str, got: str, fix: str = "") -> None:
        """Refuse a member of the class unless something holds."""
        if not holds:
            raise self.broken(member, expected, got, fix)

    def check_registered(self, module: nn.Module, kind: str, fix: str) -> None:
        """Refuse tensors that do not move, save and load with their module.

        Args:
            module: what is on trial.
            kind: what it is, in the message.
            fix: what to do; `{name}` stands for the name of the tensor.
        """
        for path, part in module.named_modules():
            for name, value in vars(part).items():
                if isinstance(value, Tensor):
                    where = f"{path}.{name}".lstrip(".")
                    expected = f"a buffer, which moves, saves and loads with the {kind}"
                    got = "a tensor as a plain attribute"
                    raise self.broken(where, expected, got, fix.format(name=name))

    def unpickle(self, module: nn.Module, kind: str) -> Any:
        """The module again, from its pickle."""
        try:
            return pickle.loads(pickle.dumps(module))  # noqa: S301 - what was just dumped
        except Exception as error:
            fix = "Define its class at the top of a module, and hold no lambda in it."
            expected = f"a {kind} that pickles"
            raise self.broken("__reduce__", expected, describe_error(error), fix) from error


def check_promises(
    promises: Mapping[str, Callable[[Any], None]],
    trial: Trial,
    skip: Collection[str],
    caller: str,
) -> None:
    """Try every promise in turn, and stop at the first that is broken.

    Args:
        promises: functions of the trial, by name; their docstrings say what is promised.
        trial: what is on trial.
        skip: names of promises that were not made.
        caller: the function whose `skip=` it is, for messages.

    Raises:
        BrokenPromiseError: for the first that is not kept, also by an exception of any kind.
        DeclarationError: for a name in `skip` that is no promise.
    """
    __tracebackhide__ = True  # pytest shows the line of the test, and the message
    for name in skip:
        if name not in promises:
            fix = did_you_mean(name, promises)
            raise DeclarationError(
                f"{caller}(skip=)", "names of promises", repr(name), fix, code="unknown-name"
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
            wanted = (promise.__doc__ or "").rstrip(".")
            wanted = wanted[:1].lower() + wanted[1:]
            broken = BrokenPromiseError(trial.name, wanted, describe_error(error))
            broken.promise = name
            raise broken from error


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
    if tensor.numel() > 6 or tensor.is_meta:
        return shorten(tensor)
    return format_numbers(tensor.detach().tolist(), digits=7)


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

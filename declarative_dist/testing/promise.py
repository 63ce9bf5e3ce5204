"""Promises: functions that return where a promise is kept, and raise where it is broken."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from declarative_dist.errors import (
    DeclarationError,
    ExplainedError,
    did_you_mean,
    first_line,
    shorten,
)
from declarative_dist.plain.restoring import without_validation
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
got 1.0 for 1.0. Multiply by 2. (python -m declarative_dist.explain broken-promise)
    """

    usual_code = "broken-promise"

    promise: str = ""
    """The name of the promise, as `skip=` takes it."""

    @property
    def sentence(self) -> str:
        name = f"{self.promise!r} is broken. " if self.promise else ""
        return f"{name}{super().sentence}"


@dataclass(frozen=True)
class Trial:
    """A module on trial, which is never changed, and the words for what it does not keep."""

    subject: nn.Module

    def copy(self) -> Any:
        """A copy that a promise may change."""
        return copy.deepcopy(self.subject)

    def broken(self, member: str, expected: str, got: str, fix: str = "") -> BrokenPromiseError:
        """The error that names a member of the class."""
        return BrokenPromiseError(f"{type(self.subject).__name__}.{member}", expected, got, fix)

    def expect(self, holds: object, member: str, expected: str, got: str, fix: str = "") -> None:
        """Refuse a member of the class unless something holds."""
        if not holds:
            raise self.broken(member, expected, got, fix)

    def expect_close(
        self, member: str, expected: str, got: Tensor, wanted: Tensor, tolerance: float = 0.0,
        fix: str = "",
    ) -> None:  # fmt: skip
        """Refuse a member that gives other numbers than those `wanted`, `{}` in `expected`.

        The tolerance is a share, and a number; NaN beside NaN is the same.
        """
        bounds: Any = {"rtol": tolerance, "atol": tolerance, "equal_nan": True}
        same = got.shape == wanted.shape and got.double().allclose(wanted.double(), **bounds)
        self.expect(same, member, expected.format(show(wanted)), show(got), fix)

    def expect_shape(self, member: str, got: object, wanted: Sequence[int], of: object) -> None:
        """Refuse a member that gives another shape, or none, for something."""
        came = tuple(got) if isinstance(got, tuple) else repr(got)
        of = tuple(of) if isinstance(of, tuple) else of
        expected = f"the shape {tuple(wanted)} for {of}"
        fix = "Batch dimensions come first; the shapes it declares must say what it does."
        self.expect(came == tuple(wanted), member, expected, f"{came}", fix)

    def expect_dtype(self, member: str, got: Tensor, wanted: torch.dtype, fix: str = "") -> None:
        """Refuse a member that gives floating-point numbers of another dtype."""
        is_same = got.dtype == wanted or not got.is_floating_point()
        self.expect(is_same, member, f"numbers of {wanted}", f"{got.dtype}", fix)

    def expect_registered(self, kind: str, fix: str) -> None:
        """Refuse tensors that do not move, save and load with their module."""
        expected = f"a buffer, which moves, saves and loads with the {kind}"
        for path, part in self.subject.named_modules():
            for name, value in vars(part).items():
                where, got = f"{path}.{name}".lstrip("."), "a tensor as a plain attribute"
                self.expect(not isinstance(value, Tensor), where, expected, got, fix)


def check_promises(
    promises: Mapping[str, Callable[[Any], None]],
    trial: Trial,
    skip: Collection[str],
    caller: str,
    compile: bool,  # noqa: A002 - as the callers call it
) -> None:
    """Try every promise but those in `skip`, in turn, and stop at the first that is broken.

    Promises are functions of the trial; their docstrings say what is promised.
    """
    __tracebackhide__ = True  # pytest shows the line of the test, and the message
    for name in skip:
        if name not in promises:
            subject, fix = f"{caller}(skip=)", did_you_mean(name, promises)
            expected = "names of promises"
            raise DeclarationError(subject, expected, repr(name), fix, code="unknown-name")
    skip = skip if compile else (*skip, "compile")
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
            got = f"{type(error).__name__}: {first_line(error).rstrip('.')}"
            broken = BrokenPromiseError(type(trial.subject).__name__, wanted, got)
            broken.promise = name
            raise broken from error


def show(tensor: Tensor) -> str:
    """A small tensor by its numbers, and a large one by its range."""
    if tensor.numel() > 6 or tensor.is_meta:
        return shorten(tensor)
    return format_numbers(tensor.detach().tolist(), digits=7)


def call_compiled(function: Callable[[Any], Tensor], argument: Any) -> Tensor:
    """What a function returns when compiled whole."""
    with without_validation():
        return torch.compile(function, fullgraph=True)(argument)

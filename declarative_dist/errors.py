"""The errors of the library: what was expected, what you gave, and what to do about it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from contextlib import suppress
from numbers import Integral, Real
from typing import Any, ClassVar, TypeGuard

import torch
from torch import Tensor

from declarative_dist.words import describe_absence

Code = str
"""A kind of mistake: a file in `declarative_dist/explanations`."""


class ExplainedError(Exception):
    """A mistake, explained in one sentence.

    Args:
        subject: where it happened, usually `"Class.field"`.
        expected: what was expected, in words.
        got: what you gave, or what was found, instead.
        fix: what to do about it.
        code: the kind of mistake, which `python -m declarative_dist.explain CODE` explains; None
            for the usual one of the class.

    Example:
        >>> from declarative_dist import ConstraintError
        >>> raise ConstraintError("Gamma.rate", "a positive number", "-1.0", "Give it above 0.")
        Traceback (most recent call last):
        ...
        declarative_dist.errors.ConstraintError: Gamma.rate: expected a positive number, \
got -1.0. Give it above 0. (python -m declarative_dist.explain outside-constraint)
    """

    usual_code: ClassVar[Code] = "wrong-argument"

    def __init__(
        self, subject: str, expected: str, got: str, fix: str = "", *, code: Code | None = None
    ) -> None:
        super().__init__(subject, expected, got, fix)
        self.subject = subject
        self.expected = expected
        self.got = got
        self.fix = fix
        self.code: Code = code or self.usual_code

    @property
    def sentence(self) -> str:
        """What happened and what to do, without the command that explains more."""
        sentence = f"{self.subject}: expected {self.expected}, got {self.got}."
        return f"{sentence} {self.fix}" if self.fix else sentence

    def __str__(self) -> str:
        return f"{self.sentence} (python -m declarative_dist.explain {self.code})"


class DeclarationError(ExplainedError, TypeError):
    """A class body, or a call of a declared class, that cannot mean anything."""


class ConstraintError(ExplainedError, ValueError):
    """A value outside its constraint, not finite, or of the wrong shape."""

    usual_code = "outside-constraint"


class FieldError(ExplainedError, RuntimeError):
    """A field that could not be computed, or was used in a way that it does not allow."""

    usual_code = "failed-method"


class StateMismatchError(ExplainedError, RuntimeError):
    """A saved state whose numbers mean something else in this class."""

    usual_code = "state-mismatch"


class NonFiniteError(ExplainedError, ArithmeticError):
    """A number that went to infinity or NaN where a finite one is needed."""

    usual_code = "not-finite"


def first_line(error: Exception) -> str:
    r"""The first line of an error's message, to quote in another one.

    Example:
        >>> from declarative_dist.errors import first_line
        >>> first_line(ValueError("It is too long.\nBy far."))
        'It is too long.'
    """
    message = error.sentence if isinstance(error, ExplainedError) else str(error)
    return message.partition("\n")[0]


def is_count(value: object, least: int = 0) -> TypeGuard[int]:
    """Whether a value is a whole number that is large enough; NumPy's integers are, too.

    Example:
        >>> from declarative_dist.errors import is_count
        >>> is_count(3), is_count(True), is_count(3.0), is_count(-1)
        (True, False, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def check_count(subject: str, count: object, least: int = 1) -> int:
    """Refuse all but a whole number that is large enough.

    Args:
        subject: which argument it is, for messages.
        count: the number.
        least: the smallest that makes sense.

    Returns:
        The number, as Python's int.

    Raises:
        ConstraintError: if it is anything else.

    Example:
        >>> from declarative_dist.errors import check_count
        >>> check_count("fit(steps=)", 3)
        3
    """
    if is_count(count, least):
        return int(count)
    expected = f"an int, {least} or more"
    raise ConstraintError(subject, expected, shorten(count), code="wrong-argument")


def check_positive(subject: str, number: Any) -> float:
    """Refuse what is not a positive, finite number, of Python, NumPy or a tensor.

    Args:
        subject: whom an error is about.
        number: what was given.

    Returns:
        It as a float.

    Raises:
        ConstraintError: if it is none.
    """
    is_number = isinstance(number, Real) and not isinstance(number, bool)
    is_scalar = isinstance(number, Tensor) and number.numel() == 1 and not number.is_meta
    if is_number or is_scalar:
        with suppress(OverflowError):  # an int beyond all floats
            found = float(number)
            if 0 < found < math.inf:
                return found
    expected = "a positive, finite number"
    raise ConstraintError(subject, expected, shorten(number), code="wrong-argument")


def shorten(value: object) -> str:
    """Describe a value in at most a line: a number as itself, an array by shape and values.

    Example:
        >>> import torch
        >>> from declarative_dist.errors import shorten
        >>> shorten(torch.zeros(2, 3))
        'a tensor of shape (2, 3) with values from 0.0 to 0.0'
    """
    if not isinstance(value, Tensor):
        array: Any = value
        if hasattr(value, "__array__") and hasattr(value, "shape"):
            with suppress(TypeError, ValueError):  # of text, or of Python objects
                return _shorten(torch.as_tensor(array.__array__()), "an array")
        text = " ".join(repr(value).split())
        return text if len(text) <= 80 else f"{text[:77]}..."
    return _shorten(value, "a tensor")


def _shorten(value: Tensor, noun: str) -> str:
    shape = noun
    try:
        shape = f"{noun} of shape {tuple(value.shape)}"
        if describe_absence(value):
            return shape
        if value.ndim == 0:
            return repr(value.item())
        if value.numel() <= 4:
            return f"{shape} with values {value.tolist()}"
        known = value.detach()[value.isfinite()]
        if not len(known):
            return f"{shape} with values that are all NaN or infinite"
        rest = value.numel() - len(known)
        others = f", and {rest} that are NaN or infinite" if rest else ""
        return f"{shape} with values from {known.min().item()} to {known.max().item()}{others}"
    except RuntimeError:  # what torch can't read or order: complex numbers, nested tensors
        return shape


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Propose the valid name nearest to one that is not, and list them all.

    Example:
        >>> from declarative_dist.errors import did_you_mean
        >>> did_you_mean("rte", ["rate", "concentration"])
        "Did you mean 'rate'? Known here: rate, concentration."
    """
    names = list(candidates)
    near = difflib.get_close_matches(name, names, n=1)
    listing = f"Known here: {', '.join(names)}." if names else "Nothing is known here."
    return f"Did you mean {near[0]!r}? {listing}" if near else listing

"""The errors of the library: what was expected, what came, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral
from typing import ClassVar, TypeGuard

import torch
from torch import Tensor

from declarative_dist.error_codes import Code


class ExplainedError(Exception):
    """A mistake told in one sentence.

    Args:
        subject: where it happened, usually `"Class.field"`.
        expected: what was expected, in words.
        got: what came instead.
        fix: what to do about it.
        code: the kind of mistake, an anchor in `docs/errors.md`; the usual one of the class if
            not given.

    Example:
        >>> from declarative_dist import ConstraintError
        >>> raise ConstraintError("Gamma.rate", "a positive number", "-1.0", "Give it above 0.")
        Traceback (most recent call last):
        ...
        declarative_dist.errors.ConstraintError: Gamma.rate: expected a positive number, \
got -1.0. Give it above 0. (docs/errors.md#outside-constraint)
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
        """What happened and what to do, without the pointer to the documentation."""
        sentence = f"{self.subject}: expected {self.expected}, got {self.got}."
        return f"{sentence} {self.fix}" if self.fix else sentence

    def __str__(self) -> str:
        return f"{self.sentence} (docs/errors.md#{self.code})"


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
    r"""What an error says in one line, to be told inside another.

    Example:
        >>> from declarative_dist.errors import first_line
        >>> first_line(ValueError("It is too long.\nBy far."))
        'It is too long.'
    """
    said = error.sentence if isinstance(error, ExplainedError) else str(error)
    return said.partition("\n")[0]


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

    Returns:
        The number, as Python's int.

    Raises:
        ConstraintError: if it is anything else.

    Example:
        >>> from declarative_dist.errors import check_count
        >>> check_count("fit(steps=)", 3)
        3
    """
    if not is_count(count, least):
        raise ConstraintError(
            subject, f"an int, {least} or more", shorten(count), code="wrong-argument"
        )
    return int(count)


def shorten(value: object) -> str:
    """Describe a value in at most a line: a number as itself, a tensor by shape and values.

    Example:
        >>> import torch
        >>> from declarative_dist.errors import shorten
        >>> shorten(torch.zeros(2, 3))
        'a tensor of shape (2, 3) with values from 0.0 to 0.0'
    """
    if not isinstance(value, Tensor):
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:77]}..."
    if value.is_meta or value.numel() == 0:
        return f"a tensor of shape {tuple(value.shape)}"
    if value.ndim == 0:
        return repr(value.item())
    shape = f"a tensor of shape {tuple(value.shape)}"
    if value.numel() <= 4:
        return f"{shape} with values {value.detach().tolist()}"
    if not value.isfinite().all():
        return f"{shape} with NaN or infinite values"
    low, high = torch.aminmax(value.detach())
    return f"{shape} with values from {low.item()} to {high.item()}"


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Propose the candidate nearest to a name that is not known, and list them all.

    Example:
        >>> from declarative_dist.errors import did_you_mean
        >>> did_you_mean("rte", ["rate", "concentration"])
        "Did you mean 'rate'? Known here: rate, concentration."
    """
    known = list(candidates)
    near = difflib.get_close_matches(name, known, n=1)
    listing = f"Known here: {', '.join(known)}." if known else "Nothing is known here."
    return f"Did you mean {near[0]!r}? {listing}" if near else listing

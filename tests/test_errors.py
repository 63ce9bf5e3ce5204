"""Errors say what kind of mistake they are about, and where it is explained."""

from __future__ import annotations

import ast
import copy
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import declarative_dist
from declarative_dist import Param, Positive, Variational
from declarative_dist.errors import (
    ConstraintError,
    DeclarationError,
    ExplainedError,
    FieldError,
    NonFiniteError,
    StateMismatchError,
    check_count,
    first_line,
    shorten,
)
from declarative_dist.explain import meanings
from declarative_dist.testing import BrokenPromiseError
from declarative_dist.words import format_value

PACKAGE = Path(declarative_dist.__file__).parent
KINDS = (
    BrokenPromiseError, ConstraintError, DeclarationError, FieldError, NonFiniteError,
    StateMismatchError,
)  # fmt: skip
CODES = list(meanings())


class Sized(Variational):
    base = torch.distributions.HalfNormal
    scale = Param(1.0, Positive(), shape="k")


def codes_given(tree: ast.AST) -> list[str]:
    """The codes written in calls, also where one of several is chosen."""
    keywords = (node for node in ast.walk(tree) if isinstance(node, ast.keyword))
    values = [keyword.value for keyword in keywords if keyword.arg == "code"]
    parts = itertools.chain.from_iterable(map(ast.walk, values))
    return [part.value for part in parts if isinstance(part, ast.Constant)]


def codes_in_use() -> set[str]:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")]
    return {kind.usual_code for kind in KINDS}.union(*map(codes_given, trees))


def test_every_code_has_a_meaning() -> None:
    assert sorted(CODES) == CODES
    for meaning in meanings().values():
        assert meaning[0].isupper()
        assert meaning.endswith(".")
        assert "\n" not in meaning


def test_every_code_is_in_use_and_every_code_in_use_is_known() -> None:
    assert codes_in_use() == set(CODES)


def test_a_code_that_is_chosen_is_found() -> None:
    chosen = 'raise E("a", "b", "c", code="one" if x == y else "two")'
    assert codes_given(ast.parse(chosen)) == ["one", "two"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_that_explains_it_ends_the_message(kind: type[ExplainedError]) -> None:
    usual, told = kind("A.b", "one", "two"), kind("A.b", "one", "two", "Do.", code="no-base")
    explain = "python -m declarative_dist.explain"
    assert str(usual) == f"A.b: expected one, got two. ({explain} {kind.usual_code})"
    assert str(told) == f"A.b: expected one, got two. Do. ({explain} no-base)"
    assert told.sentence == first_line(told) == "A.b: expected one, got two. Do."


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
def test_errors_survive_a_trip_between_processes(kind: type[ExplainedError], again) -> None:
    error = kind("A.b", "one", "two", "Do.", code="wrong-shape")
    found = again(error)
    assert type(found) is kind
    assert vars(found) == vars(error)
    assert str(found) == str(error)


def test_first_lines_of_other_errors() -> None:
    assert first_line(ValueError("It is too long.\nBy far.")) == "It is too long."


DTYPES = sorted({each for each in vars(torch).values() if isinstance(each, torch.dtype)}, key=str)


def test_arrays_are_described_as_tensors_are() -> None:
    table = np.arange(12).reshape(3, 4)
    assert shorten(table) == "an array of shape (3, 4) with values from 0 to 11"
    assert shorten(np.array([1.5, np.nan])) == "an array of shape (2,) with values [1.5, nan]"
    assert shorten(np.float32(2.0)) == "2.0"
    assert shorten(np.array(["a"])).startswith("array(['a']")


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
@pytest.mark.filterwarnings("ignore:BComplex32 support is experimental:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (2,), (8,)])
def test_numbers_of_every_dtype_have_words(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    for value in (torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype, device="meta")):
        assert format_value(value)
        assert shorten(value)


def sparse(value: Tensor) -> None:
    shorten(value.to_sparse())
    format_value(value.to_sparse())


def batched(value: Tensor) -> None:
    torch.func.vmap(lambda row: (shorten(row), format_value(row), row)[-1])(value)


def differentiated(value: Tensor) -> None:
    torch.func.grad(lambda x: (shorten(x), format_value(x), x.sum())[-1])(value)


def fake(value: Tensor) -> None:
    with FakeTensorMode():
        shorten(torch.empty(value.shape))
        format_value(torch.empty(value.shape))


@pytest.mark.parametrize("look", [sparse, batched, differentiated, fake])
@pytest.mark.parametrize("shape", [(2,), (2, 8)])
def test_numbers_in_every_wrapper_have_words(
    look: Callable[[Tensor], None], shape: tuple[int, ...]
) -> None:
    look(torch.ones(shape))


def test_whole_numbers_are_pythons_or_numpys() -> None:
    assert type(check_count("n", np.int64(3))) is int
    for wrong in (True, 3.0, "3", None, 0, np.bool_(True), np.float64(3.0)):
        with pytest.raises(ConstraintError, match=r"^n: expected an int, 1 or more, got "):
            check_count("n", wrong)


def test_a_part_keeps_the_code_of_its_error() -> None:
    class Outer(Variational):
        base = torch.distributions.Independent
        base_distribution = Sized
        reinterpreted_batch_ndims = 1

    with pytest.raises(
        ConstraintError, match=r"^Outer\.base_distribution \(Sized\.scale\): "
    ) as caught:
        Outer()
    assert caught.value.code == "missing-value"


def test_a_class_body_keeps_the_code_of_what_it_refuses() -> None:
    with pytest.raises(DeclarationError) as caught:
        type("Wrong", (Variational,), {"base": torch.distributions.StudentT, "df": -1.0})
    assert caught.value.code == "outside-constraint"

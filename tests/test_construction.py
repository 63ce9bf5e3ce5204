"""What the constructor of a declared class takes, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.distributions as dd

from declarative_dist import (
    ConstraintError,
    CorrCholesky,
    DeclarationError,
    Declarative,
    Exp,
    GreaterThan,
    LessThan,
    LowerCholesky,
    Param,
    Positive,
    PositiveDefinite,
    Simplex,
    Variational,
    learnable,
)
from declarative_dist.errors import first_line
from tests.cases import Box, FixedTail, GammaFamily, Gaussian, Mixture


class Diagonal(Variational):
    base = dd.Normal
    event_dim = 1
    loc = Param(0.0, shape=("d",))
    scale = Param(1.0, Exp(), shape=("d",))


class Cloud(Variational):
    base = dd.MultivariateNormal


class Shares(Variational):
    base = dd.Dirichlet


class Table(Declarative):
    weight = Param(0.0, shape=("rows", "columns"))
    shift = Param(0.0, shape=("rows",))


class Fixed(Declarative):
    x = Param(0.0, shape=(3,))


def refused(cls, error=ConstraintError, **keywords):
    with pytest.raises(error) as caught:
        cls(**keywords)
    return first_line(caught.value)


# --- values ---------------------------------------------------------------------------------


def test_bare_parameters_start_at_the_default_of_their_constraint():
    class Bare(Variational):
        base = dd.Beta
        concentration1 = Param()
        concentration0 = Param(3.0)

    q = Bare()
    assert q.concentration1.item() == pytest.approx(1.0)
    assert q.concentration0.item() == pytest.approx(3.0)


def test_values_of_another_shape_than_the_class_body():
    class Model(Declarative):
        x = Param(torch.zeros(2))

    assert Model(x=torch.ones(5)).x.shape == (5,)
    assert Model(x=1.0).x.numel() == 1


def test_callable_gets_the_shape():
    shapes = []

    def start(shape):
        shapes.append(shape)
        return torch.full(shape, 3.0)

    q = Diagonal(loc=start, d=4)
    assert shapes == [torch.Size([4])]
    assert q.loc.tolist() == [3.0] * 4


# --- dtype and device -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype(dtype):
    q = FixedTail(dtype=dtype, scale=2)
    assert {tensor.dtype for tensor in q.state_dict().values()} == {dtype}
    assert (q.scale.dtype, q().scale.dtype, q.mean.dtype) == (dtype,) * 3
    assert q().df.item() == 4.0


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_dtype_of_the_values_given_unless_the_keyword_says_another(dtype):
    q = GammaFamily(rate=torch.ones(2, dtype=torch.float64), dtype=dtype)
    assert q.raw_rate.dtype == q.raw_concentration.dtype == (dtype or torch.float64)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, "float32", float])
def test_dtype_that_is_not_floating(dtype):
    text = refused(GammaFamily, dtype=dtype)
    assert text.startswith("GammaFamily(dtype=): expected a floating-point type")


@pytest.mark.usefixtures("float64")
def test_default_dtype_of_torch():
    assert {tensor.dtype for tensor in FixedTail().state_dict().values()} == {torch.float64}


@pytest.mark.parametrize("device", ["meta", torch.device("meta")])
def test_meta_device(device):
    q = FixedTail(device=device, loc=[1.0, 2.0])
    assert all(tensor.is_meta for tensor in q.state_dict().values())
    assert q.loc.shape == (2,)
    q.to_empty(device="cpu")
    q.reset_parameters()
    torch.testing.assert_close(q().loc, torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(q().scale, torch.ones(2))
    torch.testing.assert_close(q().df, torch.full((2,), 4.0))


def test_default_device():
    with torch.device("meta"):
        q, other = FixedTail(), FixedTail(device="cpu")
    assert all(tensor.is_meta for tensor in q.state_dict().values())
    assert {tensor.device.type for tensor in other.state_dict().values()} == {"cpu"}
    q.to_empty(device="cpu")
    q.reset_parameters()
    assert q().df.item() == other().df.item() == 4.0


def test_tensors_take_the_others_to_their_device():
    with torch.device("meta"):
        q = Gaussian(loc=torch.ones(2, device="cpu"))
    assert {tensor.device.type for tensor in q.state_dict().values()} == {"cpu"}


# --- sizes ----------------------------------------------------------------------------------


LowRank = learnable(dd.LowRankMultivariateNormal)
SIZES = [
    (Diagonal, {"d": 5}, {"loc": (5,), "scale": (5,)}),
    (Diagonal, {"d": 0}, {"loc": (0,), "scale": (0,)}),
    (Diagonal, {"loc": torch.arange(3.0)}, {"loc": (3,), "scale": (3,)}),
    (Diagonal, {"loc": torch.arange(3.0), "d": 3}, {"loc": (3,), "scale": (3,)}),
    (Diagonal, {"scale": [1.0, 2.0]}, {"loc": (2,), "scale": (2,)}),
    (Diagonal, {"d": 3, "batch_shape": (4, 2)}, {"loc": (4, 2, 3), "scale": (4, 2, 3)}),
    (Table, {"rows": 2, "columns": 3}, {"weight": (2, 3), "shift": (2,)}),
    (Table, {"weight": torch.zeros(4, 5)}, {"weight": (4, 5), "shift": (4,)}),
    (Table, {"shift": torch.zeros(4), "columns": 1}, {"weight": (4, 1), "shift": (4,)}),
    (
        Table,
        {"rows": 2, "columns": 3, "batch_shape": (7,)},
        {"weight": (7, 2, 3), "shift": (7, 2)},
    ),
    (Mixture, {"k": 3}, {"logits": (3,), "loc": (3,), "scale": (3,)}),
    (Mixture, {"loc": [0.0, 1.0]}, {"logits": (2,), "loc": (2,)}),
    (Cloud, {"dim": 3}, {"loc": (3,), "scale_tril": (3, 3)}),
    (Cloud, {"loc": torch.zeros(4)}, {"scale_tril": (4, 4)}),
    (Cloud, {"scale_tril": torch.eye(2)}, {"loc": (2,)}),
    (Cloud, {"dim": 2, "batch_shape": (5,)}, {"loc": (5, 2), "scale_tril": (5, 2, 2)}),
    (Shares, {"dim": 3}, {"concentration": (3,)}),
    (LowRank, {"dim": 4, "rank": 2}, {"loc": (4,), "cov_factor": (4, 2)}),
    *(
        (GammaFamily, {"batch_shape": copies}, {"rate": (4,), "concentration": (4,)})
        for copies in ((4,), [4], torch.Size([4]))
    ),
    (Gaussian, {"loc": torch.zeros(3), "batch_shape": (10,)}, {"loc": (10, 3), "scale": (10,)}),
]


@pytest.mark.parametrize(("cls", "keywords", "shapes"), SIZES)
def test_sizes(cls, keywords, shapes):
    q = cls(**keywords)
    assert {name: getattr(q, name).shape for name in shapes} == shapes
    copies = tuple(keywords.get("batch_shape", ()))
    if isinstance(q, Variational):
        beside = (3,) if cls is Gaussian else ()
        assert q().batch_shape == (*copies, *beside)


@pytest.mark.parametrize(("cls", "keywords", "text"), [
    (Diagonal, {}, "loc: expected a size for 'd', got none. Write Diagonal(d=...), or give a"),
    (Table, {"rows": 2}, "weight: expected a size for 'columns', got none. Write Table(columns="),
    (Cloud, {}, "loc: expected a size for 'dim', got none. Write Cloud(dim=...)"),
    (Diagonal, {"d": 3, "scale": torch.ones(5)},
        "scale: expected size d=3, as the keyword says, got d=5. Give sizes that agree."),
    (Diagonal, {"loc": torch.zeros(2), "scale": torch.ones(3)},
        "scale: expected size d=2, as loc says, got d=3. Give sizes that agree."),
    (Shares, {"dim": 3, "concentration": torch.ones(4)},
        "concentration: expected size dim=3, as the keyword says, got dim=4."),
    (Cloud, {"loc": torch.zeros(3), "scale_tril": torch.eye(4)},
        "scale_tril: expected size dim=3, as loc says, got dim=4."),
    (Diagonal, {"loc": torch.zeros(2, 3), "d": 3},
        "loc: expected shape (3,), got a tensor of shape (2, 3)"),
    (Fixed, {"x": torch.zeros(4)}, "x: expected shape (3,), got a tensor of shape (4,)"),
    (Diagonal, {"loc": lambda shape: torch.zeros(7), "d": 4},
        "loc: expected shape (4,), got a tensor of shape (7,)"),
    (Diagonal, {"scale": torch.zeros, "d": 4}, "scale: expected a finite positive"),
    (Diagonal, {"batch_shape": (10,), "d": 3, "loc": torch.zeros(4, 3)},
        "loc: expected shape (3,), or (10, 3) with the batch in front, got a tensor of shape (4,"),
])  # fmt: skip
def test_refused_sizes(cls, keywords, text):
    assert refused(cls, **keywords).startswith(f"{cls.__name__}.{text}")


@pytest.mark.parametrize("size", [-1, 2.5, True, "three", torch.tensor(3), None])
def test_size_that_is_none(size):
    text = refused(Diagonal, d=size)
    assert text.startswith("Diagonal(d=): expected an int, 0 or above, got ")


# --- batch shape ----------------------------------------------------------------------------


def test_value_of_the_shape_of_the_class_body_is_for_one_copy():
    class Pair(Variational):
        base = dd.Normal
        loc = Param(torch.zeros(2))
        scale = Param(1.0)

    q = Pair(batch_shape=(2,), loc=[3.0, 4.0])
    assert q.loc.tolist() == [[3.0, 4.0], [3.0, 4.0]]


def test_callables_make_copies_that_differ():
    torch.manual_seed(0)
    q = Mixture(k=3, batch_shape=(5,))
    assert q.loc.shape == (5, 3)
    assert q.loc.unique().numel() == 15
    torch.manual_seed(0)
    torch.testing.assert_close(q.loc.detach(), torch.randn(5, 3))


@pytest.mark.parametrize("batch_shape", [(-1,), (2.5,), ("d",)])
def test_bad_batch_shape(batch_shape):
    text = refused(GammaFamily, (ConstraintError, DeclarationError), batch_shape=batch_shape)
    assert "batch_shape" in text
    assert "GammaFamily" in text


# --- refusals -------------------------------------------------------------------------------


def test_unknown_keyword():
    with pytest.raises(DeclarationError) as caught:
        GammaFamily(rte=2.0)
    assert caught.value.sentence == (
        "GammaFamily(rte=): expected the name of a field or of a size, got 'rte'. "
        "Did you mean 'rate'? Known here: concentration, rate, batch_shape, device, dtype."
    )
    assert isinstance(caught.value, TypeError)


def test_raw_values_are_no_keywords():
    assert "Did you mean 'rate'?" in refused(GammaFamily, DeclarationError, raw_rate=0.0)


def test_a_constructor_of_ones_own_may_take_positions():
    class Sized(GammaFamily):
        def __init__(self, rate):
            super().__init__(rate=rate)

    assert torch.isclose(Sized(2.0).rate, torch.tensor(2.0))


def test_outside_a_named_bound():
    assert refused(Box, low=2.0, high=1.0).startswith("Box.high: expected a finite number above")
    assert refused(Box, low=1.0, high=1.0).startswith("Box.high")
    assert refused(Box, low=1.0).startswith("Box.high")
    assert Box(low=1.0, high=1.5).high.item() == pytest.approx(1.5)


def test_start_of_the_class_body_outside_its_constraint():
    class Wrong(Declarative):
        x = Param(-1.0, Positive())

    assert refused(Wrong).startswith("Wrong.x: expected a finite positive number, got -1.0")
    assert Wrong(x=2.0).x.item() == pytest.approx(2.0)


def test_arguments_that_do_not_broadcast():
    text = refused(Gaussian, loc=torch.zeros(2), scale=torch.ones(3))
    said = "Gaussian: expected arguments that Normal takes together, got loc (2,), scale (3,). "
    assert text.startswith(f"{said}It says: ")
    text = refused(FixedTail, df=torch.ones(2), loc=torch.zeros(3))
    assert text.startswith("FixedTail: expected arguments that StudentT takes together")
    assert "df (2,)" in text


@pytest.mark.parametrize(("dims", "loc", "most"), [(2, torch.zeros(3), 1), (1, 0.0, 0)])
def test_event_dim_too_large(dims, loc, most):
    class Deep(Gaussian):
        event_dim = dims

    text = refused(Deep, loc=loc)
    assert text == (
        f"Deep.event_dim: expected event_dim between 0 (the base's own) and {most} (with its "
        f"batch shape), got {dims}. Give the parameters more dimensions."
    )
    q = Deep(loc=torch.zeros(5, 3))
    assert (len(q().batch_shape), len(q().event_shape)) == (2 - dims, dims)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "constraint",
    [GreaterThan(1000.0), LessThan(-1000.0), Positive(floor=5000.0), Simplex()],
    ids=repr,
)
def test_defaults_are_inside_in_every_dtype(constraint, dtype):
    class Model(Declarative):
        x = Param(None, constraint, shape=(3,))

    x = Model(dtype=dtype).x
    assert constraint.contains(x).all()


def test_lists_keep_their_precision_until_the_dtype_is_known():
    class Model(Variational):
        base = dd.Categorical
        probs = Param([0.3, 0.3, 0.4])

    q = Model(dtype=torch.float64)
    expected = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    torch.testing.assert_close(q.probs, expected, rtol=1e-15, atol=0)
    q.probs = [0.1, 0.2, 0.7]
    assert Model().probs.dtype == torch.float32
    assert Model(probs=[0.2, 0.3, 0.5]).probs.dtype == torch.float32


@pytest.mark.parametrize("constraint", [LowerCholesky, PositiveDefinite, CorrCholesky])
def test_a_matrix_has_a_row(constraint):
    class Empty(Declarative):
        matrix = Param(None, constraint(), shape=("n", "n"))

    with pytest.raises(ConstraintError, match="n of 1 or more"):
        Empty(n=0)


def test_a_callable_start_has_numbers_under_a_default_device_without():
    class Drawn(Variational):
        base = dd.Normal
        loc = Param(torch.randn, shape=(2,))
        scale = Param(1.0)

    class Mixed(Declarative):
        part = Drawn()

    with torch.device("meta"):
        held = Mixed(batch_shape=(3,))
    assert held.part.loc.shape == (3, 2)

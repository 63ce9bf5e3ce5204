"""Declared transforms, and plain ones as parts of a declared family."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributions as dd
from torch import nn
from torch.distributions import constraints
from torch.distributions.transforms import _InverseTransform
from torch.func import jacrev

from declarative_dist import (
    ConstraintError,
    DeclarationError,
    FieldError,
    Interval,
    LearnableTransform,
    Param,
    Positive,
    Real,
    Simplex,
    Variational,
    derived,
    learnable,
)
from declarative_dist.testing import check_distribution
from tests.nests import (
    Line,
    Logits,
    Shift,
    assert_is_a_loop,
    made,
    mixture_of,
    refused,
)


class ShiftVector(LearnableTransform):
    base = dd.AffineTransform
    loc = Param(torch.tensor([-0.5, 0.0, 0.5]))
    scale = Param(1.5)


class ShiftEvent(ShiftVector):
    event_dim = 1


class ShiftMatrix(LearnableTransform):
    base = dd.AffineTransform
    loc = Param(torch.linspace(-1, 1, 6).reshape(2, 3))
    scale = Param(1.5)


class Planar(dd.Transform):
    """A layer of a planar flow, which has no inverse (Rezende and Mohamed, 2015)."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, u, w, b, cache_size=0):
        super().__init__(cache_size=cache_size)
        self.u, self.w, self.b = u, w, b

    def _activation(self, x):
        return torch.tanh((self.w * x).sum(-1, keepdim=True) + self.b)

    def _call(self, x):
        return x + self.u * self._activation(x)

    def log_abs_det_jacobian(self, x, y):
        slope = 1 - self._activation(x).square()
        return (1 + (slope * self.w * self.u).sum(-1)).abs().log()


class PlanarLayer(LearnableTransform):
    base = Planar
    u = Param(lambda shape: 0.3 * torch.randn(shape), Real(), shape=("d",))
    w = Param(torch.randn, Real(), shape=("d",))
    b = Param(0.0, Real(), shape=(1,))
    cache_size = 1


class Scalar(Variational):
    base = dd.Normal
    loc = Param(0.3)
    scale = Param(1.5)


class Vector(Line):
    event_dim = 1


class Squashed(Variational):
    base = dd.TransformedDistribution
    base_distribution = Scalar
    transforms = [Shift, dd.AffineTransform(torch.tensor(1.0), 2.0), dd.TanhTransform()]  # noqa: RUF012


PLAIN_TRANSFORMS = {
    "exp": lambda: dd.ExpTransform(),
    "tensors": lambda: dd.AffineTransform(torch.tensor(1.0), torch.tensor(2.0)),
    "vectors": lambda: dd.AffineTransform(torch.tensor([1.0, 2.0]), torch.tensor([2.0, -3.0])),
    "inverse of tensors": lambda: dd.AffineTransform(torch.tensor(1.0), torch.tensor(2.0)).inv,
    "inverse of a cached one": lambda: (
        dd.AffineTransform(torch.tensor(1.0), 2.0, cache_size=1).inv
    ),
    "inverse of a composed one": lambda: (
        dd.ComposeTransform(
            [
                dd.AffineTransform(torch.tensor(1.0), 2.0),
                dd.AffineTransform(0.0, torch.tensor(3.0)),
            ]
        ).inv
    ),
    "distribution function": lambda: dd.CumulativeDistributionTransform(
        dd.Normal(torch.tensor(1.0), torch.tensor(2.0))
    ),
    "interval, cached": lambda: Interval(-1.0, 3.0).as_transform(cache_size=1),
    "interval of tensors": lambda: Interval(
        torch.tensor([-1.0, 0.0]), torch.tensor([3.0, 5.0])
    ).as_transform(cache_size=1),
    "inverse of a constraint": lambda: Real().as_transform(cache_size=1).inv,
}
"""Plain transforms of scalars, or of pairs of them."""

VECTOR_TRANSFORMS = {
    "independent": lambda: dd.IndependentTransform(
        dd.AffineTransform(torch.tensor([1.0, 2.0, 3.0]), torch.tensor(2.0)), 1
    ),
    "stick-breaking": lambda: dd.StickBreakingTransform(),
    "reshape": lambda: dd.ReshapeTransform((3,), (3, 1)),
    "cat": lambda: dd.CatTransform(
        [dd.AffineTransform(torch.tensor(1.0), 2.0), dd.ExpTransform()], -1, [1, 2]
    ),
    "simplex": lambda: Simplex().as_transform(),
}


def learned_normal(name):
    if name in VECTOR_TRANSFORMS:
        return dd.Independent(dd.Normal(torch.tensor([0.2, -0.1, 0.3]), 0.7), 1)
    return dd.Normal(torch.tensor([0.2, 0.4]), 0.7)


def transformed(*transforms, base_distribution=Scalar, **body):
    return made(
        dd.TransformedDistribution,
        base_distribution=base_distribution,
        transforms=list(transforms),
        **body,
    )


def transform_of(base, **body):
    return made(base, LearnableTransform, **body)


# --- a declared transform -------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_keeps_its_sign(value):
    refused(lambda: Shift(scale=value), ConstraintError, "Shift.scale: expected a finite positive")
    shift = Shift()
    with pytest.raises(ConstraintError, match=r"Shift\.scale"):
        shift.scale = value


def test_a_scale_of_any_sign_is_declared():
    free = transform_of(dd.AffineTransform, loc=Param(0.0), scale=Param(-2.0, Real()))()
    assert free()(torch.tensor(1.0)).item() == -2.0
    assert free().sign.item() == -1


@pytest.mark.parametrize(("base", "fields", "names"), [
    (dd.AffineTransform, {}, ["raw_loc", "raw_scale"]),
    (dd.PowerTransform, {}, ["raw_exponent"]),
    (dd.PowerTransform, {"exponent": Param(3.0)}, ["raw_exponent"]), (dd.TanhTransform, {}, []),
    (dd.StickBreakingTransform, {}, []),
])  # fmt: skip
def test_arguments_without_fields_are_declared(base, fields, names):
    q = transform_of(base, **fields)()
    assert [name for name, _ in q.named_parameters()] == names
    assert type(q()) is base


def test_constants_in_a_transform():
    half = transform_of(dd.AffineTransform, loc=Param(1.0), scale=torch.tensor(2.0))
    q = half()
    assert list(q.state_dict()) == ["raw_loc", "scale"]
    assert q()(torch.tensor(1.0)).item() == 3.0
    assert half(scale=5.0)()(torch.tensor(1.0)).item() == 6.0
    cached = transform_of(dd.AffineTransform, loc=Param(1.0), scale=2.0, cache_size=1)()
    assert cached()._cache_size == 1
    x = torch.tensor(0.1)
    built = cached()
    assert built.inv(built(x)) is x


def test_derived_fields_in_a_transform():
    class Scaling(LearnableTransform):
        base = dd.AffineTransform
        loc = Param(1.0)
        log_scale = Param(0.0)

        @derived
        def scale(self, log_scale):
            return log_scale.exp()

    q = Scaling(log_scale=2.0)
    torch.testing.assert_close(q()(torch.tensor(1.0)), 1 + torch.tensor(2.0).exp())
    q().log_abs_det_jacobian(torch.tensor(0.0), torch.tensor(1.0)).backward()
    torch.testing.assert_close(q.raw_log_scale.grad, torch.tensor(1.0))


def test_a_method_may_build_the_transform():
    class Curve(LearnableTransform):
        shift = Shift
        gain = Param(2.0, Positive())

        def base(self, shift, gain):
            return dd.ComposeTransform(
                [shift.inv, dd.TanhTransform(), dd.AffineTransform(0, gain)]
            )

    q = Curve()
    x = torch.tensor([0.3, 1.0])
    torch.testing.assert_close(q()(x), 2 * torch.tanh((x - 0.5) / 2))
    assert sorted(dict(q.named_parameters())) == ["raw_gain", "shift.raw_loc", "shift.raw_scale"]
    q()(x).sum().backward()
    assert all(p.grad is not None for p in q.parameters())


NESTED = {
    "alone": ({"base": dd.AffineTransform, "loc": Param(0.5), "scale": Param(2.0)}, lambda s: s),
    "composed": ({"base": dd.ComposeTransform, "parts": [Shift, dd.ExpTransform()]},
        lambda shift: dd.ComposeTransform([shift, dd.ExpTransform()])),
    "independent": (
        {"base": dd.IndependentTransform, "base_transform": Shift, "reinterpreted_batch_ndims": 1},
        lambda shift: dd.IndependentTransform(shift, 1),
    ),
    "stacked": ({"base": dd.StackTransform, "tseq": [Shift, Shift, dd.ExpTransform()]},
        lambda shift: dd.StackTransform([shift, shift, dd.ExpTransform()])),
    "side by side": (
        {"base": dd.CatTransform, "tseq": [Shift, dd.ExpTransform()], "lengths": [1, 2]},
        lambda shift: dd.CatTransform([shift, dd.ExpTransform()], lengths=[1, 2]),
    ),
    "inverse": ({"base": _InverseTransform, "transform": Shift}, lambda shift: shift.inv),
    "distribution function": ({"base": dd.CumulativeDistributionTransform, "distribution": Scalar},
        lambda shift: dd.CumulativeDistributionTransform(dd.Normal(0.3, 1.5))),
}  # fmt: skip


@pytest.mark.parametrize("name", NESTED)
def test_declared_transforms_agree_with_plain_torch(name):
    body, by_hand = NESTED[name]
    q, plain = transform_of(**body)(), by_hand(dd.AffineTransform(0.5, torch.tensor(2.0)))
    x = torch.tensor([0.1, 0.2, 0.3])
    y = plain(x)
    torch.testing.assert_close(q()(x), y)
    torch.testing.assert_close(q().inv(y), plain.inv(y))
    torch.testing.assert_close(q().log_abs_det_jacobian(x, y), plain.log_abs_det_jacobian(x, y))
    assert q().domain.event_dim == plain.domain.event_dim
    assert len(list(q.parameters())) >= 2
    q()(x).sum().backward()
    assert all(p.grad is not None for p in q.parameters())
    torch.testing.assert_close(copy.deepcopy(q)()(x), y)


@pytest.mark.parametrize("scale", [1.5, [1.0, 2.0, 3.0]], ids=["scalar", "vector"])
def test_event_dim(scale):
    q = ShiftEvent(scale=scale)
    x = torch.tensor([1.0, 2.0, 3.0])
    assert q().domain.event_dim == 1
    assert q()(x).shape == (3,)
    jacobian = jacrev(q())(x)
    torch.testing.assert_close(
        q().log_abs_det_jacobian(x, q()(x)), torch.linalg.slogdet(jacobian)[1]
    )


def test_event_dim_below_that_of_the_base():
    low = transform_of(dd.StickBreakingTransform, event_dim=0)
    refused(low, ConstraintError, "Made.event_dim: expected 1")


# --- what a declared transform refuses ------------------------------------------------------


def test_a_class_without_a_base():
    class Baseless(LearnableTransform):
        loc = Param(1.0)

    refused(Baseless, DeclarationError, "Baseless: expected a class with a base")


@pytest.mark.parametrize(
    "base", [dd.Normal, nn.Linear, Shift, Scalar, dd.Transform, dd.TanhTransform(), 3, "tanh"]
)
def test_what_is_no_base(base):
    text = refused(lambda: transform_of(base), DeclarationError, "Made.base: expected")
    assert "ransform" in text.split(", got")[0]


def test_a_transform_is_no_base_of_a_distribution():
    text = refused(lambda: made(dd.TanhTransform), DeclarationError, "Made.base: expected")
    assert "Distribution" in text


@pytest.mark.parametrize(("fields", "start"), [
    ({"loc": Param(1.0)}, "Made.scale: expected every required argument"),
    ({"loc": Param(1.0), "scale": Param(1.0), "scal": Param(1.0)}, "Made.scal"),
    ({"loc": Param(1.0), "scale": Param(1.0), "cache_size": Param(1.0)}, "Made.cache_size"),
    ({"loc": Shift, "scale": Param(1.0)}, "Made.loc: expected a tensor"),
    ({"loc": dd.ExpTransform(), "scale": Param(1.0)}, "Made.loc: expected a tensor"),
])  # fmt: skip
def test_fields_that_do_not_fit_the_base(fields, start):
    refused(lambda: transform_of(dd.AffineTransform, **fields), DeclarationError, start)


@pytest.mark.parametrize("part", [Scalar, dd.Normal(0.0, 1.0), Param(1.0), 3.0])
def test_parts_that_do_not_fit_the_base(part):
    refused(
        lambda: transform_of(
            dd.IndependentTransform, base_transform=part, reinterpreted_batch_ndims=1
        ),
        DeclarationError,
        "Made.base_transform: expected a transform",
    )


@pytest.mark.parametrize("result", [3, dd.Normal(0.0, 1.0), None])
def test_a_method_that_returns_no_transform(result):
    class Wrong(LearnableTransform):
        loc = Param(1.0)

        def base(self, loc):
            return result

    refused(Wrong, FieldError, "Wrong.base: expected a torch transform")


# --- in a family ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "transforms", [Shift, Shift(loc=0.5), (Shift,), [Shift], nn.ModuleList([Shift()])]
)
def test_one_transform_alone_or_in_a_sequence(transforms):
    q = made(
        dd.TransformedDistribution, base_distribution=dd.Normal(0.0, 1.0), transforms=transforms
    )()
    plain = dd.TransformedDistribution(dd.Normal(0.0, 1.0), dd.AffineTransform(0.5, 2.0))
    torch.testing.assert_close(q.log_prob(torch.tensor(0.3)), plain.log_prob(torch.tensor(0.3)))
    assert [name for name, _ in q.named_parameters()] == [
        "transforms.0.raw_loc",
        "transforms.0.raw_scale",
    ]


def test_no_transforms():
    at = torch.tensor(0.4)
    torch.testing.assert_close(transformed()().log_prob(at), dd.Normal(0.3, 1.5).log_prob(at))


def test_a_declared_transform_without_an_inverse():
    base = learnable(dd.Independent(dd.Normal(torch.zeros(3), torch.ones(3)), 1))
    q = transformed(PlanarLayer, PlanarLayer, base_distribution=base)(d=3)
    x, log_prob = q.rsample_and_log_prob((4,))
    assert (x.shape, log_prob.shape) == ((4, 3), (4,))
    snapshot = q()
    x = snapshot.rsample((4,))
    first, second = snapshot.transforms
    z = second._cached_x_y[0]
    start = first._cached_x_y[0]
    expected = (
        base.log_prob(start)
        - first.log_abs_det_jacobian(start, z)
        - second.log_abs_det_jacobian(z, x)
    )
    torch.testing.assert_close(snapshot.log_prob(x), expected)
    with pytest.raises(NotImplementedError):
        q.log_prob(x)


def test_a_transform_through_a_method_and_through_a_derived_field():
    class ByMethod(Variational):
        shift = Shift
        tanh = dd.TanhTransform()

        def base(self, shift, tanh):
            return dd.TransformedDistribution(dd.Normal(0.0, 1.0), [shift, tanh])

    class ByDerived(Variational):
        base = dd.TransformedDistribution
        base_distribution = dd.Normal(0.0, 1.0)
        loc = Param(0.5)
        scale = Param(2.0, Positive())

        @derived
        def transforms(self, loc, scale):
            return [dd.AffineTransform(loc, scale), dd.TanhTransform()]

    plain = dd.TransformedDistribution(
        dd.Normal(0.0, 1.0), [dd.AffineTransform(0.5, 2.0), dd.TanhTransform()]
    )
    x = torch.tensor([-0.5, 0.5])
    for q in (ByMethod(), ByDerived()):
        torch.testing.assert_close(q.log_prob(x), plain.log_prob(x))
        q.log_prob(x).sum().backward()
        assert all(p.grad is not None for p in q.parameters())


def test_the_same_instance_twice_in_a_list():
    shift = Shift(loc=1.0, scale=2.0)
    q = transformed(shift, dd.TanhTransform(), shift)()
    assert q.transforms[0] is q.transforms[2]
    assert len(list(q.parameters())) == 4
    plain = dd.AffineTransform(1.0, 2.0)
    by_hand = dd.TransformedDistribution(dd.Normal(0.3, 1.5), [plain, dd.TanhTransform(), plain])
    x = torch.tensor([0.5, 1.5])
    torch.testing.assert_close(q.log_prob(x), by_hand.log_prob(x))
    assert transformed(shift, Shift(loc=1.0))().transforms[1] is not q.transforms[0]


def test_a_foreign_module_that_returns_a_transform():
    class Foreign(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.tensor(1.0))

        def forward(self):
            return dd.AffineTransform(self.loc, 2.0)

    q = transformed(Foreign(), dd.ExpTransform())()
    q.log_prob(torch.tensor(1.5)).backward()
    assert q.transforms[0].loc.grad is not None


class OwnTransform(dd.Transform, nn.Module):
    """A module that is a transform itself, as Pyro's are."""

    domain = constraints.real
    codomain = constraints.real
    bijective = True

    def __init__(self):
        dd.Transform.__init__(self)
        nn.Module.__init__(self)
        self.shift = nn.Parameter(torch.tensor(1.0))

    def __hash__(self):
        return id(self)

    def _call(self, x):
        return x + self.shift

    def _inverse(self, y):
        return y - self.shift

    def log_abs_det_jacobian(self, x, y):
        return torch.zeros_like(x)


@pytest.mark.parametrize("where", ["body", "constructor"])
def test_a_module_that_is_a_transform_itself(where):
    own = OwnTransform()
    q = transformed(own)() if where == "body" else transformed(Shift)(transforms=[own])
    assert "transforms.0.shift" in dict(q.named_parameters())
    q.log_prob(torch.tensor(0.5)).backward()
    assert q.transforms[0].shift.grad is not None
    plain = dd.Normal(1.3, 1.5)
    torch.testing.assert_close(q.log_prob(torch.tensor(0.5)), plain.log_prob(torch.tensor(0.5)))


@pytest.mark.parametrize(("item", "word"), [
    (3, "3"), ("tanh", "tanh"), (torch.zeros(3), "tensor"), (dd.TanhTransform, "TanhTransform"),
    (dd.Normal(0.0, 1.0), "Normal"), (dd.Normal, "Normal"), (Scalar, "Scalar"),
    (Scalar(), "Scalar"), (lambda x: x, "lambda"), (Param(1.0), "Param"), (None, "None"),
    (Interval(-1.0, 1.0), "as_transform"), (Positive, "Positive"), ([Shift], "Shift"),
])  # fmt: skip
def test_a_list_with_something_else(item, word):
    text = refused(
        lambda: transformed(Shift, item), DeclarationError, "Made.transforms: expected "
    )
    assert word in text


@pytest.mark.parametrize(
    "item", [3, "tanh", torch.zeros(3), dd.TanhTransform, dd.Normal(0.0, 1.0), Scalar(), Scalar]
)
def test_a_constructor_that_is_given_something_else(item):
    refused(lambda: Squashed(transforms=[Shift(), item]), DeclarationError, "Squashed.transforms")


def test_a_list_with_a_module_that_builds_no_transform():
    class Three(nn.Module):
        def forward(self):
            return 3

    text = refused(lambda: transformed(Shift, Three())(), FieldError, "Made.transforms: expected")
    assert "Three" in text


@pytest.mark.parametrize("value", [3, torch.zeros(3), Param(1.0), dd.TanhTransform, "tanh"])
def test_something_else_in_place_of_a_list(value):
    text = refused(
        lambda: made(dd.TransformedDistribution, base_distribution=Scalar, transforms=value),
        DeclarationError,
        "Made.transforms: expected ",
    )
    assert "transform" in text


def test_a_plain_transform_of_vectors_broadcasts_the_base():
    for plain in (
        dd.AffineTransform(torch.tensor([1.0, 2.0]), 1.0),
        Interval(torch.tensor([-1.0, 0.0]), torch.tensor([3.0, 5.0])).as_transform(),
    ):
        q = transformed(plain)()
        assert q.batch_shape == (2,)
        assert q.log_prob(q.sample((4,))).shape == (4, 2)


def test_transforms_that_do_not_fit_the_base():
    refused(transformed(dd.StickBreakingTransform()), ConstraintError, "Made: expected")


@pytest.mark.parametrize(("given", "start", "word"), [
    ([{"loc": 1.0}], "Squashed.", "3"),
    ([{"lok": 1.0}, {}, {}], "Squashed.transforms (Shift(lok=))", "Did you mean 'loc'?"),
    ([{}, {"loc": 1.0}, {}], "Squashed.transforms", ""),
    ({7: {}}, "Squashed.transforms", ""),
])  # fmt: skip
def test_dicts_for_a_list(given, start, word):
    assert word in refused(lambda: Squashed(transforms=given), DeclarationError, start)


# --- plain transforms -----------------------------------------------------------------------


def draws_of(distribution):
    torch.manual_seed(2)
    return distribution.sample((4,))


@pytest.mark.parametrize("name", [*PLAIN_TRANSFORMS, *VECTOR_TRANSFORMS])
def test_plain_transforms_agree_and_keep_every_promise(name):
    plain = {**PLAIN_TRANSFORMS, **VECTOR_TRANSFORMS}[name]()
    by_hand = dd.TransformedDistribution(learned_normal(name), [plain])
    q = Squashed(base_distribution=learnable(learned_normal(name)), transforms=[plain])
    assert (q.batch_shape, q.event_shape) == (by_hand.batch_shape, by_hand.event_shape)
    x = draws_of(by_hand)
    torch.testing.assert_close(draws_of(q), x)
    torch.testing.assert_close(q.log_prob(x), by_hand.log_prob(x), rtol=1e-4, atol=1e-4)
    drawn, log_prob = q.rsample_and_log_prob((4,))
    torch.testing.assert_close(log_prob, by_hand.log_prob(drawn), rtol=1e-3, atol=1e-3)
    check_distribution(q, skip=["score"])


def test_caches_are_not_kept():
    inner = dd.AffineTransform(torch.tensor(1.0), 2.0, cache_size=1)
    inner(torch.tensor(5.0, requires_grad=True))
    q = transformed(inner, Interval(-1.0, 1.0).as_transform(cache_size=1))()
    assert q().transforms[0]._cache_size == 1
    assert q().transforms[0]._cached_x_y == (None, None)
    snapshot = q()
    x = snapshot.rsample()
    assert snapshot.transforms[1]._cached_x_y[1] is x
    assert q().transforms[1]._cached_x_y == (None, None)
    with torch.no_grad():
        q.transforms[0].get_buffer("loc").fill_(50.0)
    assert q().transforms[0](torch.tensor(0.0)).item() == 50.0


def test_later_changes_of_a_plain_transform_change_nothing():
    loc = torch.tensor(1.0)
    inner = dd.AffineTransform(loc, torch.tensor(2.0))
    family, given = transformed(inner), Squashed(transforms=[inner])
    loc.fill_(100.0)
    inner.scale = torch.tensor(7.0)
    for q in (family(), given):
        built = q().transforms[0]
        assert (built.loc.item(), built.scale.item()) == (1.0, 2.0)


def test_a_dtype_and_a_device_reach_plain_transforms_that_are_given():
    given = dd.AffineTransform(torch.tensor(1.0), 2.0)
    q = Squashed(transforms=[given], dtype=torch.float64)
    assert {tensor.dtype for tensor in q.state_dict().values()} == {torch.float64}
    q = Squashed(transforms=[given], device="meta")
    assert all(tensor.is_meta for tensor in q.state_dict().values())


class Polynomial(dd.Transform):
    """A transform whose tensors are in a list."""

    domain = constraints.real
    codomain = constraints.real
    bijective = True

    def __init__(self, coefficients):
        super().__init__()
        self.coefficients = coefficients

    def _call(self, x):
        return self.coefficients[0] + self.coefficients[1] * x

    def _inverse(self, y):
        return (y - self.coefficients[0]) / self.coefficients[1]

    def log_abs_det_jacobian(self, x, y):
        return self.coefficients[1].abs().log().expand_as(x)


def test_tensors_in_a_list_of_a_plain_transform():
    given = [torch.tensor([1.0]), torch.tensor([2.0])]
    q = transformed(Polynomial(given))()
    given[0].fill_(9.0)
    assert q().transforms[0].coefficients[0].item() == 1.0
    assert q.double().rsample().dtype == torch.float64
    assert len(list(q.buffers())) == 2


# --- independent copies ---------------------------------------------------------------------

COPIED = {
    "constant vector events": transformed(
        Shift, base_distribution=dd.Independent(dd.Normal(torch.tensor([-1.0, 0.0, 1.0]), 1.0), 1)
    ),
    "vectors": transformed(Shift, base_distribution=Line),
    "shifts of vector events": transformed(ShiftEvent, Shift, base_distribution=Vector),
    "matrix shift of a vector": transformed(ShiftMatrix, base_distribution=Line),
    "plain bounds": transformed(
        Interval(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([5.0, 6.0, 7.0])).as_transform(),
        Shift,
        base_distribution=Vector,
    ),
    "stick-breaking": transformed(Shift, dd.StickBreakingTransform(), base_distribution=Vector),
    "inverse": transformed(
        transform_of(_InverseTransform, transform=Shift), base_distribution=Vector
    ),
    "concatenated": transformed(
        transform_of(dd.CatTransform, tseq=[Shift, Shift], dim=-1, lengths=[1, 2]),
        base_distribution=Vector,
    ),
    "planar without its inverse": lambda **keywords: transformed(
        PlanarLayer, base_distribution=Vector
    )(d=3, **keywords),
    "vector shift in a mixture": mixture_of(Logits, transformed(ShiftVector)),
    "with copies of its own": transformed(Shift(batch_shape=(2,)), base_distribution=Scalar),
    "tied": (lambda shift: transformed(shift, dd.ExpTransform(), shift, base_distribution=Line))(
        Shift()
    ),
}


@pytest.mark.parametrize("name", [name for name in COPIED if "planar" not in name])
def test_copies_of_a_family_are_independent(name):
    assert_is_a_loop(COPIED[name], (2, 3))


@pytest.mark.parametrize("copies", [(3,), (2, 3)], ids=str)
def test_copies_of_a_transform_without_an_inverse(copies):
    q = COPIED["planar without its inverse"](batch_shape=copies)
    x, log_prob = q.rsample_and_log_prob((2,))
    assert x.shape == (2, *copies, 3)
    assert log_prob.shape == (2, *copies)
    layer = q.transforms[0]
    z = torch.randn(*copies, 3)
    dot = torch.einsum("...i,...i->...", layer.w, z)[..., None]
    torch.testing.assert_close(layer()(z), z + layer.u * torch.tanh(dot + layer.b))


def test_values_for_one_copy_or_for_all_in_a_list():
    family = COPIED["vectors"]
    one = family(batch_shape=(4,), transforms=[{"loc": 3.0}])
    assert one.transforms[0].loc.flatten().tolist() == [3.0] * 4
    many = family(batch_shape=(4,), transforms=[{"loc": torch.arange(4.0)}])
    assert many.transforms[0].loc.flatten().tolist() == [0.0, 1.0, 2.0, 3.0]
    for index in range(4):
        at = torch.tensor([0.1, 0.2, 0.3])
        single = family(transforms=[{"loc": float(index)}])
        torch.testing.assert_close(many.log_prob(at.expand(4, 3))[index], single.log_prob(at))

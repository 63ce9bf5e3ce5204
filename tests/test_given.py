"""Values that come with a context, beside the same written by hand in plain torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributions as dd
from torch import Tensor, nn, tensor
from torch.distributions import constraints
from torch.utils.data import DataLoader

from declarative_dist import (
    Conditional,
    ConstraintError,
    DeclarationError,
    Declarative,
    Exp,
    FieldError,
    Given,
    GreaterThan,
    Head,
    Interval,
    Joint,
    LogInterval,
    Param,
    Positive,
    Real,
    Simplex,
    Variational,
    derived,
    fields_of,
    fit,
    site,
    summary,
)
from declarative_dist.objectives import (
    ImportanceWeightedELBO,
    NegativeELBO,
    NegativeLogLikelihood,
    NegativeLogPosterior,
)
from declarative_dist.testing import check_distribution
from declarative_dist.wrappers import Censored, Truncated
from tests.cases import Shares

NAN, INF = float("nan"), float("inf")


class Counts(Conditional):
    base = dd.NegativeBinomial
    event_dim = 1
    total_count = Param(1.0, Exp(), shape=("genes",))
    share = Head(Simplex(), shape=("genes",))
    library = Given(Positive())

    @derived
    def logits(self, share: Tensor, library: Tensor, total_count: Tensor) -> Tensor:
        return (share * library[..., None]).log() - total_count.log()


class Box(Conditional):
    """Bounds of an action space, one of them above the other."""

    base = dd.Normal
    event_dim = 1
    low = Given(shape=("actions",))
    high = Given(GreaterThan("low"), shape=("actions",))
    loc = Head(Interval("low", "high"), shape=("actions",))
    scale = Head(LogInterval("least", "most"), shape=("actions",))
    least = Given(Positive())
    most = Given(Positive())


class Groups(Conditional):
    """An index and a mask, of which nothing is said but how they are used."""

    base = dd.Normal
    loc = Head()
    table = Param(torch.ones, Positive(), shape=("groups",))
    group = Given()
    is_known = Given()

    @derived
    def scale(self, table: Tensor, group: Tensor, is_known: Tensor) -> Tensor:
        return torch.where(is_known, table[group], 3.0)


class Spread(Conditional):
    base = dd.Normal
    loc = Head(shape=("k",))
    scale = Given(shape=("k",))


class Mixture(Conditional):
    """The scale is given to a part."""

    base = dd.MixtureSameFamily
    mixture_distribution = Shares
    component_distribution = Spread


def by_hand(counts: Any, x: Tensor, library: Any) -> dd.Distribution:
    raw = x @ counts.projection.weight.T + counts.projection.bias
    share = type(counts).share.constraint(raw)
    mean = share * torch.as_tensor(library)[..., None]
    rate = counts.total_count
    return dd.Independent(dd.NegativeBinomial(rate, probs=mean / (mean + rate)), 1)


@pytest.fixture
def counts() -> Any:
    torch.manual_seed(0)
    module: Any = Counts(in_features=3, genes=4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) / 3)
    return module


@pytest.mark.parametrize(
    ("batch", "given"),
    [((), ()), ((4,), (4,)), ((4,), ()), ((2, 4), (4,)), ((4, 4), (4, 1)), ((), (4,))],
)
def test_it_is_lined_up_with_the_context(counts: Any, batch: Any, given: Any) -> None:
    x, library = torch.randn(*batch, 3), 100 * torch.rand(given) + 1
    expected = by_hand(counts, x, library)
    got = counts(x, library=library)
    y = expected.sample()
    assert got.batch_shape == expected.batch_shape == torch.broadcast_shapes(batch, given)
    torch.testing.assert_close(got.log_prob(y), expected.log_prob(y), rtol=1e-4, atol=1e-4)


def test_bounds_of_heads() -> None:
    box = Box(in_features=3, actions=2)
    bounds = {"low": tensor([-1.0, -4.0]), "high": tensor([[2.0, 2.0], [1.0, 4.0]])}
    width = {"least": 0.1, "most": tensor([10.0, 40.0])}
    start: Any = box(torch.zeros(2, 3), **bounds, **width)
    torch.testing.assert_close(start.mean, (bounds["low"] + bounds["high"]) / 2)
    torch.testing.assert_close(start.stddev[:, 0], tensor([1.0, 2.0]))
    with torch.no_grad():
        box.projection.weight.fill_(50.0)
    mean = box(torch.randn(2, 3), **bounds, **width).mean
    assert ((mean > bounds["low"]) & (mean < bounds["high"])).all()
    crossed = r"Box\.scale: expected bounds.* with low=.*\[50\.0\]\], high=.*\[40\.0\]\]"
    with pytest.raises(ConstraintError, match=crossed):
        box(torch.zeros(2, 3), **bounds, least=tensor([0.1, 50.0]), most=tensor([1.0, 40.0]))


def test_kinds_of_values() -> None:
    groups = Groups(in_features=3, groups=3)
    groups.table = [1.0, 2.0, 5.0]
    got: Any = groups(torch.zeros(2, 3), group=tensor([0, 2]), is_known=tensor([True, False]))
    assert got.scale.tolist() == [1.0, 3.0]
    assert groups(torch.zeros(3), group=1, is_known=True).stddev == 2.0
    assert Groups(in_features=3, groups=1)(torch.zeros(3), group=0, is_known=True).stddev == 1.0


class Seen(Conditional):
    """What is given, as a method of the class sees it."""

    open = Given()
    real = Given(Positive())
    count = Given(constraints.nonnegative_integer)
    flag = Given(constraints.boolean)
    seen: Any

    def base(self, open: Tensor, real: Tensor, count: Tensor, flag: Tensor) -> dd.Distribution:  # noqa: A002
        type(self).seen = [open, real, count, flag]
        return dd.Normal(0.0 * open, 1.0)


@pytest.mark.parametrize(("given", "dtypes"), [
    ((1, 1, 1, True), "int64 float64 int64 bool"),
    ((1.5, 1.5, 1.0, 1.0), "float64 float64 float64 float64"),
    ((tensor(1), tensor(1), tensor(1), tensor(1)), "int64 int64 int64 int64"),
    ((tensor(True), np.float32(2), np.int32(3), np.bool_(1)), "bool float64 int64 bool"),
    (([1.0, 2.0], [1, 2], [1, 2], [True, False]), "float64 int64 int64 bool"),
    ((tensor(1.0).half(), tensor(1.0), tensor(1).short(), 1), "float64 float64 int64 int64"),
])  # fmt: skip
def test_numbers_take_the_dtype_of_the_module_and_integers_are_int64(
    given: Any, dtypes: str
) -> None:
    seen = Seen(dtype=torch.float64)
    seen(**dict(zip(("open", "real", "count", "flag"), given, strict=True)))
    assert [str(value.dtype) for value in Seen.seen] == [f"torch.{d}" for d in dtypes.split()]


def test_a_number_keeps_its_digits_and_its_graph() -> None:
    seen = Seen(dtype=torch.float64)
    real = tensor(2.0, requires_grad=True)
    seen(open=0.1, real=real, count=1, flag=True)
    assert Seen.seen[0].item() == 0.1
    assert torch.autograd.grad(Seen.seen[1], real)[0] == 1.0


def test_a_part_takes_it_from_the_same_call() -> None:
    mixture, x = Mixture(in_features=3, k=2), torch.randn(4, 3)
    scale = torch.rand(4, 2) + 0.1
    got: Any = mixture(x, scale=scale)
    assert torch.equal(got.component_distribution.scale, scale)
    with pytest.raises(ConstraintError, match=r"Spread\.scale: .*context"):
        mixture(x)
    with pytest.raises(ConstraintError, match=r"Spread\.scale: .*\(\*batch, 2\).*\(4, 3\)"):
        mixture(x, scale=torch.ones(4, 3))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 5)

    def forward(self, x: Tensor, *, by: float = 1.0) -> Tensor:
        return self.body(by * x)


def test_all_other_keywords_go_to_the_network() -> None:
    counts: Any = Counts(in_features=5, genes=4, network=Scaled())
    x, n = torch.randn(2, 3), tensor([1.0, 2.0])
    expected = by_hand(counts, counts.network(x, by=3.0), n)
    torch.testing.assert_close(counts(x, library=n, by=3.0).mean, expected.mean)
    with pytest.raises(TypeError, match="unexpected keyword argument 'libary'"):
        counts(x, library=n, libary=n)


BAD_CALLS = [
    ({}, r"Counts\.library: .*by keyword.*got none.*counts\(context, library=\.\.\.\)"),
    ({"libary": 1.0}, r"Counts\.library: .*got only libary"),
    ({"library": 1.0, "size": 1.0}, r"Counts\.size: .*no network.*Known here: library"),
    ({"library": torch.ones(3)}, r"Counts\.library: .*\(5,\) of the context, \(3,\) of library"),
    ({"library": -1.0}, r"Counts\.library: .*positive number, got -1"),
    ({"library": 0}, r"Counts\.library: .*positive number, got 0"),
    ({"library": tensor([1.0, NAN, 1.0, 1.0, 1.0])}, r"Counts\.library: .*nan at \[1\]"),
    ({"library": torch.inf}, r"Counts\.library: .*finite positive"),
    ({"library": "many"}, r"Counts\.library: .*'many'"),
    ({"library": None}, r"Counts\.library: .*None"),
    ({"library": 1j}, r"Counts\.library: .*complex"),
]


@pytest.mark.parametrize(("given", "match"), BAD_CALLS)
def test_bad_calls_name_the_field(counts: Any, given: Any, match: str) -> None:
    with pytest.raises(ConstraintError, match=match):
        counts(torch.zeros(5, 3), **given)


def test_bad_shapes_and_sets() -> None:
    box: Any = Box(in_features=3, actions=2)
    good = {"low": [-1.0, -1.0], "high": [1.0, 1.0], "least": 0.1, "most": 1.0}
    assert box(torch.zeros(5, 3), **good).batch_shape == (5,)
    for name, value, match in (
        ("low", [-1.0], r"Box\.low: expected shape \(\*batch, 2\)"),
        ("low", torch.zeros(2, 3), r"Box\.low: expected shape \(\*batch, 2\)"),
        ("low", tensor(0.0), r"Box\.low: expected shape \(\*batch, 2\)"),
        ("high", [1.0, -2.0], r"Box\.high: .*above a tensor, got -2\.0 at \[1\]"),
        ("low", torch.zeros(4, 2), r"\(5,\) of the context, \(4,\) of low"),
    ):
        with pytest.raises(ConstraintError, match=match):
            box(torch.zeros(5, 3), **{**good, name: value})
    seen = {"open": 0.0, "real": 1.0, "count": 1, "flag": True}
    for name, bad in (("count", 1.5), ("count", -1), ("flag", 2), ("open", NAN)):
        with pytest.raises(ConstraintError, match=rf"Seen\.{name}: "):
            Seen()(**{**seen, name: bad})
    with pytest.raises(ConstraintError, match=r"\(2,\) of open, \(3,\) of real"):
        Seen()(**{**seen, "open": torch.ones(2), "real": torch.ones(3)})
    trials = type(Conditional)("Trials", (Conditional,), {**TRIALS})(in_features=3)
    assert trials(torch.zeros(3), total_count=tensor([4, 8])).mean.tolist() == [2.0, 4.0]
    with pytest.raises(ConstraintError, match=r"Trials\.total_count"):
        trials(torch.zeros(3), total_count=1.5)


TRIALS: dict[str, Any] = {"base": dd.Binomial, "total_count": Given(), "logits": Head()}


def test_what_the_base_does_not_take_is_refused_in_a_wider_set_too() -> None:
    body = {"base": dd.Normal, "loc": Head(), "scale": Given(Real())}
    wide = type(Conditional)("Wide", (Conditional,), body)(in_features=3)
    with pytest.raises(ConstraintError, match=r"Wide\.scale: expected what the base takes"):
        wide(torch.zeros(3), scale=-1.0)
    body["rank"] = Given(constraints.integer_interval(0, 3))
    body["kind"] = derived(lambda self, rank: rank)
    ranked = type(Conditional)("Ranked", (Conditional,), body)(in_features=3)
    with pytest.raises(ConstraintError, match=r"Ranked\.rank: .*a value in IntegerInterval"):
        ranked(torch.zeros(3), scale=1.0, rank=7)


@pytest.mark.parametrize(("kind", "body", "match"), [
    (Variational, {"base": dd.Normal, "loc": Given(), "scale": 1.0}, r"Write class Bad\(Cond"),
    (Declarative, {"loc": Given()}, r"Bad\.loc: .*Write class Bad\(Conditional\)"),
    (Conditional, {"base": dd.Normal, "loc": Head(GreaterThan("low"), init=2.0), "low": Given()},
        r"Bad\.loc: expected no init, for its bounds come with each call"),
    (Conditional, {"base": dd.Normal, "loc": Param(2.0, GreaterThan("low")), "low": Given()},
        r"Bad\.loc: expected bounds that an instance has"),
    (Conditional, {"base": dd.Normal, "loc": Head(), "unused": Given()},
        r"Bad\.unused: expected an argument of Normal"),
    (Conditional, {"base": dd.Normal, "loc": Given(shape=("weights",)), "weights": Given()},
        r"Bad\.loc: .*name of its own"),
    (Conditional, {"base": dd.MixtureSameFamily, "mixture_distribution": Given()}, r"Bad\.mi"),
    (Conditional, {"base": dd.Normal, "loc": Given(), "network": Given()}, r"Bad\.network"),
])  # fmt: skip
def test_classes_that_are_refused(kind: Any, body: dict[str, Any], match: str) -> None:
    spread = {"scale": 1.0} if body.get("base") is dd.Normal else {}
    with pytest.raises(DeclarationError, match=match):
        type(kind)("Bad", (kind,), {**spread, **body})


def test_a_name_that_objectives_take_is_refused() -> None:
    body = {"base": lambda self, loc, weights: dd.Normal(loc, 1.0), "loc": Head()}
    with pytest.raises(DeclarationError, match=r"Bad\.weights: .*objectives"):
        type(Conditional)("Bad", (Conditional,), {**body, "weights": Given()})


def test_it_is_a_field_without_a_value(counts: Any) -> None:
    assert counts.library is Counts.library is fields_of(counts)["library"]
    assert repr(Counts.library) == "Given(Positive())"
    assert not [name for name in counts.state_dict() if "library" in name]
    assert "library" not in counts.constrained_values()
    assert "(library): given with the context, of shape (), Positive()" in repr(counts)
    assert "(logits): needs a context, derived from share" in repr(counts)
    row = summary(counts)["library"]
    assert (row.kind, row.shown, row.shape) == ("given", "given with the context", ())
    assert "library" not in str(Counts.__signature__)
    for act in (lambda: setattr(counts, "library", 1.0), lambda: Counts(library=1.0, genes=2)):
        with pytest.raises(FieldError, match=r"Counts\.library: .*comes with each context"):
            act()
    with pytest.raises(FieldError, match=r"Counts\.logits: expected a context first"):
        counts.logits  # noqa: B018


def test_a_start_for_a_head_between_given_bounds_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"Box\.loc: expected no init"):
        Box(in_features=3, actions=2, loc=0.5)


def test_life_as_a_module(counts: Any) -> None:
    x, n = torch.randn(5, 3), (10 * torch.rand(5) + 1).requires_grad_()
    check_distribution(counts, x, library=n.detach())

    def mean(x: Tensor, n: Tensor) -> Tensor:
        return counts(x, library=n).mean

    compiled = torch.compile(mean, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, n), mean(x, n))
    y = counts(x, library=n).sample()
    (gradient,) = torch.autograd.grad(counts.detach(x, library=n).log_prob(y).sum(), n)
    assert (gradient != 0).all()
    counts.double()
    assert counts(x.double(), library=n).mean.dtype == torch.float64
    counts.to("meta")
    assert counts(x.double().to("meta"), library=n).mean.is_meta


def test_a_method_that_mixes_what_is_given_is_refused() -> None:
    body = {"base": dd.Normal, "loc": Head(), "weight": Given()}
    body["scale"] = derived(lambda self, weight: weight.softmax(-1))
    with pytest.raises(ConstraintError, match=r"Blend\.scale: .*beside"):
        type(Conditional)("Blend", (Conditional,), body)(in_features=3)


@pytest.mark.parametrize("seed", range(8))
def test_no_raw_number_that_a_scale_refuses_hides_a_mean_over_contexts(seed: int) -> None:
    class Centred(Conditional):
        event_dim = 1
        a = Head(shape=("k",))
        b = Given()

        def base(self, a: Tensor, b: Tensor) -> dd.Distribution:
            return dd.Normal(a - a.mean(), b[..., None])

    torch.manual_seed(seed)
    with pytest.raises(ConstraintError, match="beside"):
        Centred(in_features=3, k=4)


def test_an_open_value_may_be_a_factor_of_a_scale() -> None:
    class Product(Conditional):
        base = dd.Normal
        loc = Head()
        s = Param(2.0, Exp())
        g = Given()

        @derived
        def scale(self, s: Tensor, g: Tensor) -> Tensor:
            return s * g

    product: Any = Product(in_features=3)
    assert product(torch.zeros(2, 3), g=tensor([1.0, 3.0])).scale.tolist() == [2.0, 6.0]

    class Site(Joint):
        a = Product
        h = Given()

        @site
        def y(self, a: Tensor, h: Tensor) -> dd.Distribution:
            return dd.Normal(a, h)

    joint: Any = Site(in_features=3)
    draw = joint(torch.zeros(2, 3), g=tensor([1.0, 3.0]), h=tensor([1e-9, 1.0])).sample()
    assert (draw["y"] - draw["a"])[0].abs() < 1e-6

    class Angle(Conditional):
        base = dd.Normal
        loc = Head()
        g = Given()

        @derived
        def scale(self, g: Tensor) -> Tensor:
            return -1.0 - g.double() ** 2

    with pytest.raises(ConstraintError, match=r"Angle\.g: .*g = Given\(Positive\(\)\)"):
        Angle(in_features=3)


CLOSED: list[tuple[dict[str, Any], str, list[float], list[float]]] = [
    ({"base": dd.Poisson, "rate": Given()}, "rate", [0.0, 1.0], [-1.0, 1.0]),
    ({"base": dd.Bernoulli, "probs": Given()}, "probs", [0.0, 1.0], [0.0, 1.5]),
    ({"base": Truncated, "base_distribution": dd.Normal(0.0, 1.0), "low": Given()},
     "low", [-INF, 0.0], [NAN, 0.0]),
    ({"base": Censored, "base_distribution": dd.Normal(0.0, 1.0), "high": Given()},
     "high", [INF, 0.0], [NAN, 0.0]),
    ({"base": dd.Normal, "loc": Given(constraints.nonnegative), "scale": 1.0},
     "loc", [0.0, 1.0], [-1e-9, 1.0]),
    ({"base": dd.Normal, "loc": Given(constraints.unit_interval), "scale": 1.0},
     "loc", [0.0, 1.0], [0.0, 1.1]),
    ({"base": dd.Normal, "loc": Given(constraints.half_open_interval(0.0, 1.0)), "scale": 1.0},
     "loc", [0.0, 0.5], [0.0, 1.0]),
    ({"base": dd.Normal, "loc": Given(Positive()), "scale": 1.0}, "loc", [0.5, 1.0], [0.0, 1.0]),
]  # fmt: skip


@pytest.mark.parametrize(("body", "name", "good", "bad"), CLOSED)
def test_ends_of_a_set_that_are_its_own_may_be_given(
    body: dict[str, Any], name: str, good: list[float], bad: list[float]
) -> None:
    kind = type(Conditional)("Ends", (Conditional,), dict(body))
    plain = kind()(**{name: tensor(good)})
    assert getattr(plain, name).tolist() == good
    by_hand = {n: v for n, v in body.items() if n not in ("base", name)} | {name: tensor(good)}
    value = tensor([0.0, 0.0])
    torch.testing.assert_close(plain.log_prob(value), body["base"](**by_hand).log_prob(value))
    with pytest.raises(ConstraintError, match=rf"Ends\.{name}: "):
        kind()(**{name: tensor(bad)})


def test_shares_in_half_precision_that_add_up_but_for_rounding() -> None:
    kind: Any = type(Conditional)(
        "Kinds", (Conditional,), {"base": dd.Categorical, "probs": Given(shape=("k",))}
    )
    torch.manual_seed(0)
    probs = (3 * torch.randn(500, 5)).softmax(-1).half()
    assert not constraints.simplex.check(probs).all()
    assert kind(k=5, dtype=torch.float16)(probs=probs).probs.dtype is torch.float16


def test_labels_of_any_width_are_indices_and_others_are_named() -> None:
    class Labels(Conditional):
        base = dd.Normal
        effect = Param([0.0, 10.0, 20.0])
        label = Given()
        scale = 1.0

        @derived
        def loc(self, effect: Tensor, label: Tensor) -> Tensor:
            return effect[label]

    labels: Any = Labels()
    for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64):
        assert labels(label=tensor([2, 1, 0], dtype=dtype)).loc.tolist() == [20.0, 10.0, 0.0]
    assert labels(label=np.array([2, 1, 0], dtype=np.int8)).loc.tolist() == [20.0, 10.0, 0.0]
    assert labels(label=tensor([True, False, True])).loc.tolist() == [0.0, 20.0]
    for bad, match in (
        (tensor([0.0, 1.0]), r"integers as indices.*label"),
        (tensor([3]), "indices of entries"),
    ):
        with pytest.raises(ConstraintError, match=rf"Labels\.loc: expected {match}"):
            labels(label=bad)


def test_a_given_value_may_be_called_features() -> None:
    class Shifted(Conditional):
        loc = Head()
        features = Given()

        def base(self, loc: Tensor, features: Tensor) -> dd.Distribution:
            return dd.Normal(loc + features, 1.0)

    shifted: Any = Shifted(in_features=3)
    x, features = torch.randn(6, 3), torch.arange(6.0)
    outside = shifted.from_features(x, features=features)
    torch.testing.assert_close(outside.loc, shifted(x, features=features).loc)


def test_features_from_outside() -> None:
    network = nn.LSTM(3, 5, batch_first=True)
    x, n = torch.randn(2, 6, 3), torch.rand(2, 6) + 1
    with pytest.raises(ConstraintError, match=r"features, state = network\(x\).*from_features"):
        Counts(in_features=5, genes=4, network=network)(x, library=n)
    counts: Any = Counts(in_features=5, genes=4)
    features, _ = network(x)
    torch.testing.assert_close(
        counts.from_features(features, library=n).mean, by_hand(counts, features, n).mean
    )
    with pytest.raises(ConstraintError, match=r"Counts\.by: "):
        counts.from_features(features, library=n, by=2.0)
    with pytest.raises(ConstraintError, match=r"Counts\.library: "):
        counts.from_features(features)
    raw = Counts(genes=4, network=nn.LSTM(3, 3, batch_first=True))
    with pytest.raises(ConstraintError, match=r"from_features"):
        raw(x, library=n)
    assert raw.from_features(x, library=n).event_shape == (4,)


def test_objectives_take_it_by_keyword(counts: Any) -> None:
    x, n, w = torch.randn(6, 3), 10 * torch.rand(6) + 1, torch.rand(6)
    y = by_hand(counts, x, n).sample()
    scores = by_hand(counts, x, n).log_prob(y)
    likelihood = NegativeLogLikelihood(counts)
    torch.testing.assert_close(likelihood(x, y, library=n), -scores.mean())
    weighted = -(w * scores).sum() / w.sum()
    torch.testing.assert_close(likelihood(x, y, library=n, weights=w), weighted)
    posterior = NegativeLogPosterior(counts, total_size=6)
    torch.testing.assert_close(posterior(x, y, library=n), -scores.mean())
    draws = {"total_count": counts.total_count}
    torch.testing.assert_close(posterior.log_joint(draws, x, y, library=n), scores.sum())
    bad = n.clone()
    bad[2] = NAN
    for weights in ({}, {"weights": (torch.arange(6) != 2).float()}):
        with pytest.raises(ConstraintError, match=r"[Nn]a[Nn]"):
            likelihood(x, y, library=bad, **weights)
    with pytest.raises(ConstraintError, match=r"Counts\.library"):
        likelihood(x, y)
    with pytest.raises(ConstraintError, match=r"\(6,\) of the context, \(5,\) of library"):
        likelihood(x, y, library=n[:5])


class Rate(Conditional):
    """Without a head: the context is all by name."""

    base = dd.Poisson
    level = Param(2.0, Positive())
    exposure = Given(Positive())

    @derived
    def rate(self, level: Tensor, exposure: Tensor) -> Tensor:
        return level * exposure


def test_a_fit_takes_it_from_a_dict_behind_the_data() -> None:
    torch.manual_seed(0)
    n = 20 * torch.rand(40)
    y = dd.Poisson(3.0 * n).sample()
    best = y.sum() / n.sum()
    rows = [(a, {"exposure": b}) for a, b in zip(y, n, strict=True)]
    shared = (y, {"exposure": n.mean()})
    loader = DataLoader(rows, batch_size=10)  # type: ignore[arg-type]
    for data, options in (
        ((y, {"exposure": n}), {}),
        ((y, {"exposure": n, "weights": torch.ones(40)}), {}),
        ((y, {"exposure": n}), {"batch_size": 10, "steps": 100, "lr": 0.05}),
        (loader, {"steps": 100, "lr": 0.05}),
        (shared, {"batch_size": 10, "steps": 100, "lr": 0.05}),
    ):
        rate = Rate()
        history = fit(NegativeLogLikelihood(rate), data, progress=False, **options)
        assert abs(rate.level / best - 1) < (0.05 if options else 1e-4)
        if options and data is not shared:  # each count with its own exposure
            lowest = -dd.Poisson(best * n).log_prob(y).mean()
            assert torch.tensor(history.losses[-4:]).mean() < lowest + 0.2
    with pytest.raises(ConstraintError, match=r"Rate\.years: .*Known here: exposure"):
        NegativeLogLikelihood(rate)(y, exposure=n, years=n)


class Encoder(Conditional):
    base = dd.Normal
    event_dim = 1
    shift = Head(shape=(2,))
    scale = Head(Positive(), shape=(2,))
    library = Given(Positive())

    @derived
    def loc(self, shift: Tensor, library: Tensor) -> Tensor:
        return shift + library.log()[..., None]


@pytest.mark.parametrize("objective", [NegativeELBO, ImportanceWeightedELBO])
def test_a_guide_takes_it_and_the_target_where_it_names_it(objective: Any) -> None:
    seen = []

    def plain(z: Tensor, x: Tensor) -> Tensor:
        return dd.Normal(x[..., :2], 1.0).log_prob(z).sum(-1)

    def naming(z: Tensor, x: Tensor, library: Tensor, scale: float = 1.0) -> Tensor:
        seen.append((library, scale))
        return plain(z / scale, x)

    x, n = torch.randn(5, 3), torch.rand(5) + 1
    encoder = Encoder(in_features=3)
    for target, more in ((plain, {}), (naming, {}), (naming, {"scale": 2.0})):
        loss = objective(target, encoder, num_samples=2)
        torch.manual_seed(0)
        got = loss(x, library=n, **more)
        torch.manual_seed(0)
        guide = encoder(x, library=n)
        z = guide.rsample((2,))
        expected = guide.log_prob(z) - plain(z / more.get("scale", 1.0), x)
        if objective is NegativeELBO:
            torch.testing.assert_close(got, expected.mean())
        assert got.isfinite()
    assert all(library is n for library, _ in seen)
    assert {scale for _, scale in seen} == {1.0, 2.0}
    history = fit(NegativeELBO(plain, encoder), (x, {"library": n}), steps=3, progress=False)
    assert len(history.losses) == 3
    with pytest.raises(ConstraintError, match=r"Encoder\.library"):
        objective(plain, encoder)(x)


def test_a_column_for_a_scalar_head_meets_no_row_of_values() -> None:
    body = {"base": dd.Normal, "loc": Head(), "scale": 1.0}
    line = type(Conditional)("Line", (Conditional,), body)(network=nn.Linear(3, 1))
    loss, x = NegativeLogLikelihood(line), torch.randn(4, 3)
    with pytest.raises(ConstraintError, match=r"squeeze\(-1\).*in_features="):
        loss(x, torch.randn(4))
    assert loss(x, torch.randn(4, 1)).isfinite()

"""The table of fields: what it says of every field and module, and that it leaves no trace."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor, nn
from torch.nn.utils import prune

from declarative_dist import (
    Conditional,
    DeclarationError,
    Declarative,
    Exp,
    FullRankNormal,
    GreaterThan,
    Head,
    Interval,
    Joint,
    MeanFieldNormal,
    Param,
    Positive,
    Simplex,
    Variational,
    derived,
    learnable,
    site,
    summary,
)
from declarative_dist.objectives import NegativeELBO, NegativeLogLikelihood
from tests.cases import CASES, GammaByMean
from tests.states import assert_unchanged, state_of


class Family(Variational):
    base = dd.StudentT
    df = 4
    loc = Param(0.25, prior=dd.Normal(0.0, 2.0))
    scale = Param(0.1, Positive())


class Between(Declarative):
    low = Param(0.0)
    high = Param(1.0, GreaterThan("low"), shape=())


class Above(Between):
    high = Param(20.0, GreaterThan("low"), shape=("d",))


class Policy(Conditional):
    base = dd.Normal
    event_dim = 1
    loc = Head(shape=("actions",))
    scale = Param(1.0, Interval(1e-3, 10.0), shape=("actions",))


class Coin(Joint):
    bias = dd.Beta(2.0, 2.0)
    noise = learnable(dd.HalfNormal(1.0))

    @site
    def heads(self, bias: Tensor, noise: Tensor) -> dd.Distribution:
        return dd.Binomial(10, bias + 0 * noise)


class Latents(Declarative):
    rate = Param(2.0, Positive())
    weights = Param([0.2, 0.3, 0.5], Simplex())


def test_the_whole_table() -> None:
    q = Family()
    q.freeze("scale")
    (q.loc * 3).backward()
    assert str(summary(q)) == (
        "Family: 1 of 2 numbers to train, float32 on cpu\n" + "-" * 60 + "\n"
        "name   value  constraint  prior                       note\n" + "-" * 60 + "\n"
        "df       4.0  constant\n"
        "loc     0.25  Real()      Normal(loc=0.0, scale=2.0)\n"
        "scale    0.1  Positive()                              frozen"
    )


def test_notes_say_what_is_unusual() -> None:
    q = Family(loc=[0.0, 1.0], scale=[1.0, 2.0])
    assert "note" not in str(summary(q))
    q.raw_loc.grad = torch.zeros(2)
    q.raw_scale.grad = torch.tensor([1.0, math.nan])
    assert [row.note for row in summary(q).rows] == ["", "gradient 0", "gradient nan"]
    q.raw_loc.grad = torch.ones(2)
    q.raw_scale.data = torch.tensor([0.0, 1e30])
    assert [row.note for row in summary(q).rows] == ["", "", "1 saturated, gradient nan"]


def test_parts_are_indented_below_their_names() -> None:
    model = nn.ModuleDict({"coin": Coin(), "several": nn.ModuleList([Family(), Family()])})
    lines = str(summary(model)).splitlines()[4:]
    assert [line[:9].rstrip() for line in lines if line[:9].strip()] == [
        "coin", "  bias", "  noise", "    scale", "  heads",
        "several",
        "  0", "    df", "    loc", "    scale",
        "  1", "    df", "    loc", "    scale",
    ]  # fmt: skip
    assert summary(model)["coin.noise.scale"].value == 1.0


def test_no_name_and_no_depth_makes_it_wider_than_80_columns() -> None:
    body = {"a_long_name_" * 8: Param(1.0, Exp(), prior=dd.LogNormal(0.0, 1.0))}
    deep: nn.Module = type("L" * 100, (Declarative,), body)()
    for level in range(40):
        deep = nn.ModuleDict({f"level{level}": deep})
    lines = str(summary(deep)).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("Exp()" in line for line in lines)


def test_many_rows_that_are_alike_are_folded() -> None:
    draws = {"b": torch.randn(10, 2, 6), "a": torch.randn(10)}
    table = summary(draws)
    assert len(table.rows) == 13
    assert str(table).splitlines()[-3].startswith("b[1, 1]")
    assert [line.split("  ")[0] for line in str(table).splitlines()[-2:]] == ["... 4 more", "a"]
    parts = nn.ModuleList([Family() for _ in range(20)])
    assert "... 48 more" in str(summary(parts))


def test_matrices_and_numbers_stand_below_each_other() -> None:
    q = learnable(dd.MultivariateNormal(torch.zeros(3), torch.eye(3)))
    assert "[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]" in repr(q)
    lines = str(summary(q)).splitlines()
    assert [line[19:36] for line in lines[-3:]] == [
        "[[1.0, 0.0, 0.0],", " [0.0, 1.0, 0.0],", " [0.0, 0.0, 1.0]]",
    ]  # fmt: skip
    lines = str(summary(learnable(dd.Normal(100.0, 0.5)))).splitlines()
    assert [line[:12] for line in lines[-2:]] == ["loc    100.0", "scale    0.5"]


def test_the_posterior_of_a_guide() -> None:
    class Two(Declarative):
        size = Param(2.0, Exp())
        place = Param([0.0, 1.0])

    guide = FullRankNormal(Two(), init_scale=0.5)
    with torch.no_grad():
        guide.raw_tril.fill_(0.3)
    table, now = summary(guide), guide()
    assert [row.name for row in table.rows] == ["size", "place[0]", "place[1]"]
    scale = now.scale.norm(dim=-1)
    rank = 1.6448536269514722
    for at, row in enumerate(table.rows):
        loc, sd = now.loc[at].item(), scale[at].item()
        quantiles = [loc - rank * sd, loc, loc + rank * sd]
        if at:
            mean = loc
        else:  # log-normal
            mean = math.exp(loc + sd**2 / 2)
            sd, quantiles = mean * math.sqrt(math.expm1(sd**2)), list(map(math.exp, quantiles))
        assert row.mean == pytest.approx(mean, abs=0.005 * sd)
        assert row.sd == pytest.approx(sd, rel=0.01)
        assert [row.low, row.median, row.high] == pytest.approx(quantiles, abs=0.03 * sd)
    random = torch.get_rng_state()
    assert str(summary(guide)) == str(table)
    assert torch.equal(torch.get_rng_state(), random)
    assert "mean" in summary(guide)._repr_html_()
    with torch.no_grad():
        guide.raw_loc.fill_(math.nan)
    assert "nan" in summary(guide)["raw_loc"].shown
    assert summary(guide.to("meta")).title.startswith("FullRankNormal: 9 numbers to train")


def test_draws_in_a_dict() -> None:
    x = torch.randn(500, 2, dtype=torch.float64)
    row = summary({"x": x})["x[1]"]
    assert row.mean == pytest.approx(x[:, 1].mean().item())
    assert row.sd == pytest.approx(x[:, 1].std().item())
    with pytest.raises(DeclarationError, match="or draws, got"):
        summary({"x": 1.0})


def test_rows_are_data() -> None:
    q = Family(batch_shape=(3,))
    q.log_prob(torch.zeros(())).sum().backward()
    table = summary(q)
    assert [row.name for row in table.rows] == ["df", "loc", "scale"]
    row = table["scale"]
    assert (row.kind, row.shape, row.trained, row.saturated) == ("param", (3,), 3, 0)
    assert row.raw_name == "raw_scale"
    assert row.value == pytest.approx([0.1] * 3)
    assert row.gradient == pytest.approx(q.raw_scale.grad.norm().item(), rel=1e-6)
    assert table["df"].value == 4.0
    assert table.to_dict()["loc"]["prior"] == "Normal(loc=0.0, scale=2.0)"
    assert json.loads(json.dumps(table.to_dict()))["scale"]["shape"] == [3]
    with pytest.raises(KeyError, match="Did you mean 'scale'"):
        table["scle"]


def test_derived_values_bounds_and_constants() -> None:
    table = summary(GammaByMean())
    assert table["rate"].value == pytest.approx(0.5)
    assert table["rate"].constraint == "derived from concentration, location"
    between = Between(low=2.0, high=5.0)
    assert summary(between)["high"].constraint == "GreaterThan('low')"
    assert summary(between)["high"].value == pytest.approx(5.0)
    between.raw_high.data.fill_(-40.0)
    assert summary(between).saturated == ["high"]


def test_every_copy_is_measured_beside_its_own_bound() -> None:
    # Far above a bound of 0 for its size, and on one of 1000.
    above = Above(d=2, batch_shape=(2,))
    above.low = [0.0, 1000.0]
    above.raw_high.data[:2] = -9.0
    assert summary(above)["high"].saturated == 2


def test_what_torch_puts_in_place_of_a_raw_number_has_no_row_of_its_own() -> None:
    q = Family(loc=[1.0, 2.0])
    prune.random_unstructured(q, "raw_loc", 1)
    table = summary(q)
    assert [row.name for row in table.rows] == ["df", "loc", "scale"]
    assert sum(row.parameters for row in table.rows) == 3


def test_saturated_fields_are_marked_with_a_hint() -> None:
    policy = Policy(in_features=2, actions=2)
    policy.raw_scale.data[1] = 30.0
    table = summary(policy)
    assert table.saturated == ["scale"]
    assert table["scale"].hint == (
        "scale: saturated in 1 of 2 numbers, at the edge of its constraint (a number strictly "
        "between 0.001 and 10.0), where steps of raw_scale hardly move it. Set scale further "
        "inside, or give its constraint more room."
    )
    assert table["scale"].hint in " ".join(str(table).split())
    assert "1 saturated" in str(table)
    q = Family()
    q.raw_scale.data.fill_(-200.0)
    assert "(guard=False widens its guard band)" in summary(q)["scale"].hint
    q.scale = 1.0
    assert not summary(q).saturated


def test_heads_have_no_value() -> None:
    table = summary(Policy(in_features=2, actions=3, network=nn.Linear(5, 2)))
    head = table["loc"]
    assert (head.kind, head.value, head.shown, head.shape) == ("head", None, "predicted", (3,))
    assert head.saturated is None
    assert table["network"].parameters == 12
    assert table["projection"].parameters == 9

    class Scaled(Policy):
        scale = Param(1.0, Positive())

        @derived
        def twice(self, loc: Tensor) -> Tensor:
            return 2 * loc

    assert summary(Scaled(in_features=2, actions=3))["twice"].shown == "needs a context"


def test_joints_sites_and_data() -> None:
    table = summary(Coin())
    assert (table["bias"].kind, table["bias"].shown) == (
        "constant",
        "Beta(concentration1=2.0, concentration0=2.0)",
    )
    assert (table["heads"].kind, table["heads"].constraint) == ("site", "given bias, noise")
    assert table["noise.scale"].raw_name == "noise.raw_scale"
    observed = summary(Coin().condition(heads=7))["heads"]
    assert (observed.kind, observed.value) == ("observed", 7.0)
    assert len([row for row in table.rows if row.name == "heads"]) == 1
    assert summary(Coin().condition(heads=7)).title.startswith("Coin given heads: 1 number to")
    assert table["noise"].shown == "learnable HalfNormal"


def test_guides_show_their_sites() -> None:
    guide = MeanFieldNormal(Latents(batch_shape=(2,)))
    table = summary(nn.ModuleDict({"guide": guide}))
    assert table["guide.raw_loc"].trained == guide.raw_loc.numel()
    assert summary(guide)["rate[1]"].median == pytest.approx(2.0, rel=1e-4)
    guide = MeanFieldNormal(Coin().condition(heads=3))
    assert 0 < summary(guide)["bias"].median < 1


def test_objectives_and_modules_with_families_inside() -> None:
    objective = NegativeELBO(dd.Gamma(2.0, 3.0), learnable(dd.Gamma(1.0, 1.0)))
    objective().backward()
    table = summary(objective)
    assert table["guide.rate"].raw_name == "guide.raw_rate"
    assert table["guide.rate"].gradient is not None
    model = nn.ModuleDict({"trunk": nn.Linear(2, 3), "head": NegativeLogLikelihood(Family())})
    table = summary(model)
    assert table["trunk"].parameters == 9
    assert table["head.module.loc"].raw_name == "head.module.raw_loc"
    assert [row.name for row in summary(nn.Linear(2, 3)).rows] == ["weight", "bias"]


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_told_as_text_html_and_data(name: str) -> None:
    module = CASES[name]()
    table = summary(module)
    text, page = str(table), table._repr_html_()
    assert "Error" not in text + page
    assert not table.saturated
    json.dumps(table.to_dict())
    assert max(map(len, text.splitlines())) <= 80
    names = {row.raw_name.partition(" ")[0] for row in table.rows} - {""}
    known = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    assert names <= known
    told = names | {row.name for row in table.rows if row.kind in ("parameter", "module")}
    assert all(any(name.startswith(each) for each in told) for name in known)
    assert sum(row.parameters for row in table.rows) == sum(p.numel() for p in module.parameters())


def test_shared_parts_and_tied_parameters_are_told_once() -> None:
    class Part(Variational):
        base = dd.Normal

    class Pair(Declarative):
        one = Part
        other = Part

    part = Part()
    pair = Pair(one=part, other=part)
    assert summary(pair)["other"].shown == "the same as one"
    tied = Pair()
    tied.other.raw_scale = tied.one.raw_scale
    table = summary(tied)
    assert table["other.scale"].raw_name == "other.raw_scale (is one.raw_scale)"
    assert sum(row.parameters for row in table.rows) == 3


def test_priors_that_are_learned_have_rows() -> None:
    class Effects(Declarative):
        effect = Param(0.0, shape=(4,), prior=learnable(dd.Normal(0.5, 2.0)))

    table = summary(Effects())
    assert table["effect"].prior == "Normal(loc=0.5, scale=2.0)"
    assert table["effect_prior.scale"].raw_name == "effect_prior.raw_scale"


def test_the_meta_device() -> None:
    table = summary(Family(device="meta"))
    assert table["scale"].shown == "on the meta device"
    assert table["scale"].saturated is None
    assert table["scale"].trained == 1
    for make in (Latents, Coin, lambda: MeanFieldNormal(Latents())):
        assert "on the meta device" in str(summary(make().to("meta")))


def test_a_million_numbers() -> None:
    values = torch.linspace(-1.0, 3.0, 1_000_001)
    q = learnable(dd.Normal(values, torch.ones_like(values)))
    start = time.perf_counter()
    table = summary(q)
    assert time.perf_counter() - start < 5.0
    assert table["loc"].value == {"min": -1.0, "median": 1.0, "max": 3.0}
    assert table["loc"].shown == "min -1.0, median 1.0, max 3.0"
    assert table["scale"].shown == "all 1.0"
    assert table["loc"].shape == (1_000_001,)
    assert "(loc): shape (1000001,), min -1.0, median 1.0, max 3.0, Real()" in repr(q)


def test_reading_leaves_no_trace() -> None:
    calls: list[str] = []

    class Noisy(Variational):
        base = dd.Normal
        scale = Param(1.0, Positive())
        network = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5))

        @derived
        def loc(self, network: nn.Module, scale: Tensor) -> Tensor:
            return network(torch.randn(3, 2)).sum() + scale

    q = Noisy()
    q.scale.backward()
    for module in q.modules():
        module.register_forward_hook(lambda *_: calls.append("forward"))
        module.register_forward_pre_hook(lambda *_: calls.append("before"))

    def traces() -> list[Any]:
        flags = [
            (p.requires_grad, p.grad if p.grad is None else p.grad.tolist())
            for p in q.parameters()
        ]
        attributes = {name: set(vars(part)) for name, part in q.named_modules()}
        return [flags, attributes, torch.get_rng_state().tolist()]

    state, before = state_of(q), traces()
    text, page = str(summary(q)), summary(q)._repr_html_()
    assert "loc" in text
    assert "loc" in page
    assert calls == []
    assert_unchanged(q, state)
    assert traces() == before
    assert all(part.training for part in q.modules())


def test_a_field_that_fails_does_not_take_the_table_with_it() -> None:
    class Broken(Declarative):
        scale = Param(1.0, Positive())

        @derived
        def worse(self, scale: Tensor) -> Tensor:
            if scale > 2:
                raise ValueError("no")
            return scale

        @derived
        def worst(self, worse: Tensor) -> Tensor:
            return worse

    broken = Broken()
    broken.scale = 3.0
    table = summary(broken)
    assert table["worse"].shown == "<ValueError>"
    assert table["scale"].value == pytest.approx(3.0)
    assert "(worse): <ValueError>" in repr(broken)
    assert table["worst"].shown == "<ValueError>"


def test_plain_distributions_are_constants() -> None:
    table = summary(dd.Normal(torch.tensor([0.0, 1.0]), 2.0))
    assert table.title == "Normal: no parameters"
    assert table["scale"].value == [2.0, 2.0]


@pytest.mark.parametrize("wrong", [3, [Family], Family])
def test_what_has_no_fields(wrong: object) -> None:
    with pytest.raises(DeclarationError, match="summary: expected a declared module"):
        summary(wrong)


class Page(HTMLParser):
    """The texts in a page by tag, and its tags, which must be balanced."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.styles: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.styles += [value for name, value in attrs if name == "style"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1], data))


def test_html_has_the_same_cells_as_the_text() -> None:
    q = Family()
    q.raw_scale.data.fill_(-200.0)
    page = Page(summary(q)._repr_html_())
    headings = [text for tag, text in page.texts if tag == "th"]
    assert headings[:3] == ["name", "value", "constraint"]
    assert {"df", "loc", "scale"} <= set(headings)
    cells = [text for tag, text in page.texts if tag == "td"]
    assert {"0.25", "Real()", "constant", "saturated", "Normal(loc=0.0, scale=2.0)"} <= set(cells)
    assert any("saturated" in text for tag, text in page.texts if tag == "li")
    assert sum("rgba(255" in style for style in page.styles) == 1  # what is saturated
    assert sum("text-align:right" in style for style in page.styles) == 4  # numbers, and "value"


def test_html_takes_its_colours_from_the_page() -> None:
    # Legible in light and in dark: no colour of text or ground of its own, but a tint.
    q = Family()
    q.freeze("scale")
    for style in Page(summary(q)._repr_html_()).styles:
        for part in style.split(";"):
            name, _, value = part.partition(":")
            if name in ("color", "background"):
                assert value in ("inherit", "transparent", "rgba(255,140,0,.3)")
            assert "#" not in value


def test_html_is_escaped() -> None:
    class Tagged(nn.Module):
        def extra_repr(self) -> str:
            return "<script>alert('1 & 2')</script>"

    class Holder(Declarative):
        scale = Param(1.0, Exp())
        part = Tagged()

    Holder.__name__ = "<b>Holder</b>"
    page = summary(Holder())._repr_html_()
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;Holder" in page


def circle() -> nn.Module:
    one = nn.ModuleDict({"q": Family(), "inner": nn.ModuleDict()})
    one["inner"]["outer"] = one
    return one


def numbers_of_all_kinds() -> nn.Module:
    module = nn.ModuleDict({"q": Family(), "table": nn.Embedding(5, 2, sparse=True)})
    module.c = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    module.i = nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)
    (module["table"](torch.tensor([1])).sum() + module.c.abs().sum()).backward()
    return module


def parametrized() -> nn.Module:
    q = Family()
    nn.utils.parametrize.register_parametrization(q, "raw_scale", nn.Identity())
    return q


ODD: dict[str, Callable[[], Any]] = {
    "lazy": lambda: nn.ModuleDict({"q": Family(), "net": nn.LazyLinear(3)}),
    "circle": circle,
    "inference": torch.inference_mode()(lambda: Latents()),
    "numbers of all kinds": numbers_of_all_kinds,
    "parametrized": parametrized,
    "compiled": lambda: torch.compile(NegativeLogLikelihood(Family())),
    "empty": nn.Module,
    "huge": lambda: learnable(dd.MultivariateNormal(torch.zeros(100), torch.eye(100))),
}
"""Modules that nobody thinks of, by what is odd about them."""


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op")
@pytest.mark.parametrize("name", ODD)
def test_odd_modules(name: str) -> None:
    table = summary(ODD[name]())
    assert "Error" not in str(table)
    assert table.saturated == []
    json.dumps(table.to_dict())
    Page(table._repr_html_())
    if name == "empty":
        assert str(table) == "Module: no parameters, no fields"
    if name == "circle":
        assert table["inner.outer"].shown == "the same as the whole"
    if name in ("inference", "huge"):
        assert table.rows[-1].saturated == 0


def test_odd_values_that_methods_compute() -> None:
    class Odd(Declarative):
        scale = Param(1.0, Positive())

        @derived
        def values(self, scale: Tensor) -> dict[str, Any]:
            return {"text": "x" * 200}

        @derived
        def sparse(self, scale: Tensor) -> Tensor:
            return torch.eye(3).to_sparse()

        @derived
        def several(self, scale: Tensor) -> Tensor:
            return torch.complex(scale, scale)

    table = summary(Odd())
    assert len(table["values"].shown) == 60
    assert table["sparse"].shown == "sparse_coo"
    assert table["several"].shown == "complex64"
    json.dumps(table.to_dict())


def test_a_sharded_objective() -> None:
    objective = NegativeLogLikelihood(Family(batch_shape=(2,)))
    script = torch.distributed
    script.init_process_group("gloo", store=script.HashStore(), rank=0, world_size=1)
    try:
        torch.distributed.fsdp.fully_shard(objective)
        table = summary(objective)
        assert table["module.scale"].shown == "sharded over processes"
        assert table["module.scale"].saturated is None
        assert "Error" not in str(table)
        objective(torch.zeros(3, 2)).backward()
        assert table["module.scale"].gradient is None
        objective.unshard()  # type: ignore[attr-defined]
        assert summary(objective)["module.scale"].value == pytest.approx([0.1, 0.1])
        str(summary(objective)), repr(objective)
    finally:
        script.destroy_process_group()


class Scaled(nn.Module):
    """A map that is learned with what it constrains."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, raw: Tensor) -> Tensor:
        return raw * self.log_scale.exp()

    def right_inverse(self, value: Tensor) -> Tensor:
        return value / self.log_scale.exp()


def test_constraints_have_rows_only_if_they_learn() -> None:
    class Both(Declarative):
        fixed = Param(2.0, GreaterThan(torch.tensor(1.0)))
        learned = Param(2.0, Scaled())

    table = summary(Both())
    assert [row.name for row in table.rows] == ["fixed", "learned", "raw_learned_constraint"]
    assert sum(row.parameters for row in table.rows) == 3

"""Saved states: what they carry, and what refuses to be loaded."""

from __future__ import annotations

import copy
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributions as dd
from torch import nn
from torch.nn.utils import parametrize, prune

import declarative_dist
from declarative_dist import (
    Conditional,
    ConstraintError,
    DeclarationError,
    Declarative,
    Exp,
    FieldError,
    FullRankNormal,
    GreaterThan,
    Head,
    Interval,
    Joint,
    LessThan,
    LogInterval,
    MeanFieldNormal,
    Param,
    Positive,
    Real,
    StateMismatchError,
    Variational,
)
from declarative_dist.objectives import NegativeELBO, NegativeLogPosterior
from tests.cases import Count, GammaFamily
from tests.states import assert_unchanged, state_of


class OtherMap(GammaFamily):
    rate = Param(1.0, Positive())


class Between(Variational):
    base = dd.Normal
    loc = Param(0.5, Interval(torch.tensor(0.0), torch.tensor(1.0)))
    scale = Param(2.0, GreaterThan(1.0))


class BetweenOthers(Between):
    scale = Param(2.0, GreaterThan(0.5))


CONSTRAINTS: dict[str, tuple[tuple[float, ...], tuple[int, ...]]] = {
    "Real": ((), (5,)),
    "Positive": ((), (5,)),
    "Exp": ((), (5,)),
    "GreaterThan": ((-1.5,), (5,)),
    "LessThan": ((1.5,), (5,)),
    "Interval": ((-1.0, 7.0), (5,)),
    "UnitInterval": ((), (5,)),
    "LogInterval": ((0.01, 10.0), (5,)),
    "Simplex": ((), (5,)),
    "Ordered": ((), (5,)),
    "PositiveOrdered": ((), (5,)),
    "LowerCholesky": ((), (3, 3)),
    "PositiveDefinite": ((), (3, 3)),
    "CorrCholesky": ((), (3, 3)),
}


def test_names_are_raw_names() -> None:
    assert list(GammaFamily().state_dict()) == ["raw_concentration", "raw_rate"]
    assert sorted(Between().state_dict()) == [
        "raw_loc",
        "raw_loc_constraint.high",
        "raw_loc_constraint.low",
        "raw_scale",
    ]


def test_another_constraint_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(GammaFamily(rate=3.0).state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    other = OtherMap(rate=7.0)
    with pytest.raises(StateMismatchError) as caught:
        other.load_state_dict(state)
    assert caught.value.sentence == (
        "OtherMap.rate: expected a state saved under Positive(), got one saved under Exp(). "
        "Load it into the class that saved it and carry the values over: "
        "new.assign(**old.constrained_values())."
    )
    assert other.rate.item() == pytest.approx(7.0)
    old = GammaFamily()
    old.load_state_dict(state)
    other.assign(**old.constrained_values())
    assert other.rate.item() == pytest.approx(3.0)


def test_another_number_bound_or_floor_is_refused() -> None:
    with pytest.raises(StateMismatchError, match="BetweenOthers.scale"):
        BetweenOthers().load_state_dict(Between().state_dict())

    class Floored(GammaFamily):
        rate = Param(1.0, Exp(floor=0.5))

    with pytest.raises(StateMismatchError, match=r"Exp\(floor=0.5\)"):
        Floored().load_state_dict(GammaFamily().state_dict())


def test_metadata_survives_nesting_and_its_loss_is_tolerated() -> None:
    model = nn.Sequential(nn.ModuleDict({"q": GammaFamily()}))
    other = nn.Sequential(nn.ModuleDict({"q": OtherMap()}))
    with pytest.raises(StateMismatchError, match="OtherMap.rate"):
        other.load_state_dict(copy.deepcopy(model.state_dict()))
    other.load_state_dict(dict(model.state_dict()))  # without metadata: as safetensors saves it


def test_metadata_holds_no_class_paths() -> None:
    metadata = Between().state_dict()._metadata[""]["constraints"]
    assert metadata["scale"] == "GreaterThan(low=1.0)"
    assert not any("declarative_dist" in text for text in metadata.values())


def test_missing_and_foreign_keys_as_in_torch() -> None:
    q = GammaFamily()
    with pytest.raises(RuntimeError, match='Missing key.*"raw_rate"'):
        q.load_state_dict({"raw_concentration": torch.tensor(0.0)})
    with pytest.raises(RuntimeError, match='Unexpected key.*"foreign"'):
        q.load_state_dict({**q.state_dict(), "foreign": torch.tensor(0.0)})
    with pytest.raises(RuntimeError, match="size mismatch for raw_rate"):
        q.load_state_dict({**q.state_dict(), "raw_rate": torch.zeros(2)})


def test_tensor_bounds_are_loaded() -> None:
    old, new = Between(), Between()
    old.raw_loc_constraint.high.fill_(2.0)
    new.load_state_dict(old.state_dict())
    assert new.loc.item() == pytest.approx(1.0)


class Whole(nn.Module):
    """A map that gives back what it was given, where `keeps` is left at True."""

    def __init__(self, keeps: bool) -> None:
        super().__init__()
        self.keeps = keeps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x if self.keeps else x.clamp(max=0.0)

    def right_inverse(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2 if self.keeps else x


def test_a_value_arrives_behind_a_parametrization_or_is_refused() -> None:
    q = GammaFamily()
    parametrize.register_parametrization(q, "raw_rate", Whole(keeps=True))
    q.rate = 3.0
    assert (q.rate.item(), q().rate.item()) == pytest.approx((3.0, 3.0))
    q.assign(rate=4.0, concentration=2.0)
    assert q().rate.item() == pytest.approx(4.0)

    for change in (
        lambda q: parametrize.register_parametrization(q, "raw_rate", Whole(keeps=False)),
        lambda q: parametrize.register_parametrization(q, "raw_rate", nn.Softplus()),
        lambda q: prune.random_unstructured(q, "raw_rate", 0.5),
        lambda q: nn.utils.weight_norm(q, "raw_rate"),
    ):
        q = GammaFamily(rate=torch.full((4,), 2.0), concentration=torch.ones(4))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            change(q)
        before = state_of(q)
        for write in (
            lambda q: setattr(q, "rate", 3.0),
            lambda q: q.assign(concentration=2.0, rate=3.0),
            lambda q: q.reset_parameters(),
        ):
            with pytest.raises(FieldError, match=r"GammaFamily\.rate"):
                write(q)
            assert_unchanged(q, before)


def test_a_view_shares_all_that_its_original_holds() -> None:
    q = Count()
    view = q.expand((3,))
    q.total_count = 20
    assert view.total_count == 20
    assert view().total_count.tolist() == [20, 20, 20]
    view.total_count = torch.tensor(5)
    assert q.total_count.item() == 5
    view.reset_parameters()
    assert q.total_count == 10
    assert view.expand((2, 3)).total_count == 10
    other = copy.deepcopy(view)
    other.total_count = 7
    assert (q.total_count, view.total_count, other.total_count) == (10, 10, 7)


def test_a_state_that_a_later_part_refuses_changes_nothing() -> None:
    class Mine(Joint):
        one = GammaFamily
        two = GammaFamily

    class Other(Joint):
        one = GammaFamily
        two = OtherMap

    data = torch.tensor(1.0)
    wraps = (
        lambda q: q,
        lambda q: q.condition(two=data),
        lambda q: NegativeLogPosterior(q, total_size=10),
        lambda q: NegativeELBO(q.condition(two=data), MeanFieldNormal(q.condition(two=data))),
    )
    for wrap in wraps:
        saved, model = wrap(Mine(one={"rate": 3.0})), wrap(Other())
        before = state_of(model)
        with pytest.raises(StateMismatchError, match=r"OtherMap\.rate"):
            model.load_state_dict(saved.state_dict())
        assert_unchanged(model, before)


def test_a_move_that_would_change_values_is_refused() -> None:
    class Heavy(Variational):
        base = dd.StudentT
        df = 1e5
        loc = Param(1e6)
        scale = Param(1e6)

    class Outer(Declarative):
        first = Param(1.0)
        part = Heavy(df=4.0, loc=0.0, scale=1.0)

    light: dict[str, Any] = {"df": 4.0, "loc": 1e-9, "scale": 2.0}
    assert Heavy(**light).half().scale == 2.0
    for name, value, text in (
        ("df", 1e5, "within reach of torch.float16, got 100000.0"),
        ("df", 1e-10, "e-10, which is 0.0 in torch.float16"),
        ("loc", 1e6, "within reach of torch.float16, got 1000000.0"),
        ("loc", [0.0, -1e6], "within reach of torch.float16"),
        ("scale", 1e6, "within reach of torch.float16, got 1000000.0"),
        ("scale", 5e4, "got 50000.0, which would become 10000.0"),
        ("scale", 1e-5, "which would become 0.001"),
    ):
        q = Outer(part=Heavy(**light | {name: value}))
        before = state_of(q)
        with pytest.raises(ConstraintError) as caught:
            q.half()
        assert caught.value.subject == f"Heavy.{name}"
        assert text in str(caught.value)
        assert_unchanged(q, before)
        assert q.bfloat16().part.loc.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_ordinary_values_of_every_constraint_move(name: str, dtype: torch.dtype) -> None:
    arguments, shape = CONSTRAINTS[name]

    class One(Declarative):
        x = Param(None, getattr(declarative_dist, name)(*arguments), shape=shape)

    q = One(dtype=torch.float64)
    q.raw_x.data.normal_()
    before = q.x.detach()
    near = 40 * torch.finfo(dtype).eps
    assert torch.allclose(q.to(dtype).x.double(), before, near, near)


class Digits(Variational):
    base = dd.StudentT
    df = 4.1
    loc = Param(0.1)
    scale = Param([1.3, 0.7], Positive())


class Nest(Declarative):
    part = Digits()
    made = Digits
    given = Digits(df=4.1, loc=0.1)


def digits(part: Digits) -> list[float]:
    return [part.df.item(), part.loc.item(), *part.scale.tolist()]


def test_numbers_keep_all_their_digits_in_every_way_in() -> None:
    exact = pytest.approx([4.1, 0.1, 1.3, 0.7], rel=4e-16)
    ways = [0.1, np.float64(0.1), torch.tensor(0.1, dtype=torch.float64), np.array(0.1)]
    for value in ways:
        assert digits(Digits(loc=value, df=4.1, dtype=torch.float64)) == exact
        part = Digits(dtype=torch.float64, df=9.0)
        part.assign(loc=value, df=np.float64(4.1))
        assert digits(part) == exact
    for nest in (Nest(dtype=torch.float64), Nest().double()):
        nest.reset_parameters()
        assert all(digits(part) == exact for part in (nest.part, nest.made, nest.given))
    nest = Nest(dtype=torch.float64)
    assert all(digits(part) == exact for part in (nest.part, nest.made, nest.given))
    many = 2**40 + 1
    for value in (many, torch.tensor(many), np.int64(many)):
        part = Digits(loc=value, df=value, dtype=torch.float64)
        assert (part.loc.item(), part.df.item()) == (many, many)
        part = Digits(dtype=torch.float64)
        part.loc, part.df = value, value
        assert (part.loc.item(), part.df.item()) == (many, many)
    part.from_vector_([0.1, 0.2, 0.3])
    assert part.raw_loc.item() == 0.1


class Mapped(Variational):
    base = dd.TransformedDistribution
    base_distribution = dd.Normal(torch.tensor(0.0), 1.0)
    transforms = (dd.AffineTransform(torch.tensor(0.3), torch.tensor(2.0)), dd.ExpTransform())


class Predicted(Conditional):
    base = dd.Normal
    loc = Head()
    scale = 1.0


def predicted() -> Predicted:
    return Predicted(in_features=2, network=nn.Sequential(nn.Linear(1, 2), nn.LayerNorm(2)))


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("make", [Between, lambda: MeanFieldNormal(Between()), Mapped, predicted])
def test_a_state_of_other_than_real_numbers_changes_nothing(make: Any, assign: bool) -> None:
    module = make()
    before = {n: (t, t.clone()) for n, t in module.state_dict(keep_vars=True).items()}
    for name in before:
        for change in (torch.Tensor.to_sparse, lambda t: t + 1j, lambda t: t * torch.nan):
            state = make().state_dict()
            with pytest.raises(
                (ConstraintError, DeclarationError), match=r"expected .*(real|fini|NaN|value in)"
            ):
                module.load_state_dict(state | {name: change(state[name])}, assign=assign)
            for key, tensor in module.state_dict(keep_vars=True).items():
                assert tensor is before[key][0]
                assert torch.equal(tensor, before[key][1])


def test_what_a_hook_before_a_load_brings_is_checked() -> None:
    q = GammaFamily()
    old = {"raw_mean": torch.tensor(torch.inf), "raw_rate": torch.tensor(0.5)}
    before = copy.deepcopy(q.state_dict())

    def rename(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
        state[f"{prefix}raw_concentration"] = state.pop(f"{prefix}raw_mean")

    q.register_load_state_dict_pre_hook(rename)
    with pytest.raises(ConstraintError, match=r"concentration: expected finite"):
        q.load_state_dict(old)
    assert all(torch.equal(q.state_dict()[name], value) for name, value in before.items())
    q.load_state_dict({**old, "raw_mean": torch.tensor(0.25)})
    assert q.raw_concentration.item() == 0.25


@pytest.mark.parametrize("kind", [MeanFieldNormal, FullRankNormal])
def test_a_guide_has_positive_scales(kind: Any) -> None:
    guide = kind(Between())
    before = guide.factor.clone()
    state = {**guide.state_dict(), "factor": -before}
    with pytest.raises(ConstraintError, match=r"factor: expected .*positive"):
        guide.load_state_dict(state)
    assert torch.equal(guide.factor, before)


def test_numbers_that_are_not_known_yet_are_loaded() -> None:
    network = nn.Linear(1, 2)
    network.register_buffer("mean", torch.tensor(torch.nan))
    q = Predicted(in_features=2, network=network)
    q.load_state_dict(q.state_dict())
    network.get_buffer("mean").fill_(1.0)
    with pytest.raises(ConstraintError, match=r"Predicted\.network\.mean: expected .* no NaN"):
        q.load_state_dict({**q.state_dict(), "network.mean": torch.tensor(torch.nan)})


MOVING = (GreaterThan(torch.tensor(0.5)), GreaterThan("loc"))
WIDER = [Real(), GreaterThan(-5.0), LessThan(5.0), *MOVING]


@pytest.mark.parametrize("constraint", WIDER, ids=repr)
def test_values_that_a_base_does_not_take_are_never_scored(constraint: Any) -> None:
    class Family(Variational):
        base = dd.Normal
        loc = Param(0.5)
        scale = Param(1.0, constraint)

    q, other = Family(), Family()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(50.0 if isinstance(constraint, LessThan) else -50.0)
        for bound in other.buffers():
            bound.fill_(-4.0)
    assert other.scale.item() < 0
    value = torch.tensor(0.0)
    with pytest.raises(ValueError, match="scale"):
        other.log_prob(value)
    ways = [lambda: q.load_state_dict(other.state_dict())]
    if constraint not in MOVING:
        ways += [lambda: setattr(q, "scale", -0.5), lambda: q.assign(scale=-0.5)]
    for way in ways:
        with pytest.raises(ConstraintError, match="Normal takes"):
            way()
        torch.testing.assert_close(q.log_prob(value), dd.Normal(0.5, 1.0).log_prob(value))


@pytest.mark.parametrize("constraint", [Positive, Exp, LogInterval(0.1, 9.0), Interval(0.0, 9.0)])
def test_values_that_a_base_always_takes_are_built_without_its_checks(constraint: Any) -> None:
    class Family(Variational):
        base = dd.Normal
        loc = Param(0.0, LessThan(5.0))
        scale = Param(1.0, constraint)

    assert not Family.__declaration__.has_free_input


def test_a_module_on_the_meta_device_takes_what_is_not_known_yet() -> None:
    class Waiting(Between):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.register_buffer("seen", torch.tensor(math.nan, device=self.raw_scale.device))

    state = Waiting().state_dict()
    empty = Waiting(device="meta")
    empty.load_state_dict(state, assign=True)
    assert empty.seen.isnan()

"""What a class body says holds for good, and nothing in it is ignored."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import nn
from torch.nn.utils import parametrize, skip_init

from declarative_dist import (
    Conditional,
    DeclarationError,
    Declarative,
    FieldError,
    Head,
    Joint,
    LearnableTransform,
    Param,
    Positive,
    Variational,
    derived,
    fields_of,
    learnable,
    site,
)
from tests.cases import DECLARED, JOINTS, GammaFamily, Policy, Squashed, Vector

OWN = {name: make for name, make in {**DECLARED, **JOINTS}.items() if name not in ("fixed",)}
MEMBERS = [
    name
    for name in vars(dd.Distribution)
    if not name.startswith("_") and name != "set_default_validate_args"
]


def test_a_field_cannot_be_set_on_a_class_in_the_making() -> None:
    class Adds(Variational):
        def __init_subclass__(cls, **keywords: Any) -> None:
            super().__init_subclass__(**keywords)
            cls.loc = Param(7.0)

    with pytest.raises(DeclarationError, match=r"Made\.loc: expected no change"):
        type(Variational)("Made", (Adds,), {"base": dd.Normal})


@pytest.mark.parametrize("name", OWN)
def test_a_class_cannot_change_after_its_body(name: str) -> None:
    q = OWN[name]()
    kind = type(q)
    before = dict(vars(kind))
    for attribute in (*fields_of(kind), "base", "event_dim", "validate_args"):
        with pytest.raises(DeclarationError, match="finished"):
            setattr(kind, attribute, 1.0)
        with pytest.raises(DeclarationError, match="finished"):
            delattr(kind, attribute)
    with pytest.raises(DeclarationError, match="finished"):
        kind.another = Param(1.0)
    for member in ("log_prob", "sample", "rsample"):
        for holder in (kind, q):
            with pytest.raises(DeclarationError, match="objectives and nested parts ignore"):
                setattr(holder, member, lambda *arguments: None)
    assert dict(vars(kind)) == before
    kind.note = "other attributes are the user's own"
    del kind.note


@pytest.mark.parametrize("name", OWN)
def test_fields_of_an_instance_cannot_be_deleted(name: str) -> None:
    q = OWN[name]()
    state = copy.deepcopy(q.state_dict())
    for field in fields_of(q):
        if field in dict(q.named_buffers()):
            continue  # as torch, which deletes what it parametrizes
        with pytest.raises(FieldError, match=f"{field}: expected a field that stays"):
            delattr(q, field)
    for setting in ("base", "event_dim", "validate_args"):
        with pytest.raises(FieldError, match="in a class body"):
            setattr(q, setting, 1)
    after = q.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[key], state[key]) for key in state)
    q()


def test_parametrizations_of_torch_may_make_a_class_of_their_own() -> None:
    class Doubled(nn.Module):
        def forward(self, raw: torch.Tensor) -> torch.Tensor:
            return 2 * raw

    q = GammaFamily()
    raw = q.raw_rate.detach().clone()
    parametrize.register_parametrization(q, "raw_rate", Doubled())
    assert torch.equal(q.rate, (2 * raw).exp())
    parametrize.remove_parametrizations(q, "raw_rate")
    assert type(q) is GammaFamily


@pytest.mark.parametrize("inherits", [False, True])
@pytest.mark.parametrize("base", [Variational, Conditional])
@pytest.mark.parametrize("name", [*MEMBERS, "rsample_and_log_prob"])
def test_members_of_a_distribution_belong_to_its_base(
    name: str, base: type, inherits: bool
) -> None:
    body = {name: lambda self, *arguments: None, "__module__": __name__}
    if not hasattr(base, name):  # nothing is overridden
        return
    bases = (type("Mixin", (), body), base) if inherits else (base,)
    with pytest.raises(DeclarationError, match=rf"Q\.{name}: expected {name} in the dist"):
        type(base)("Q", bases, {"base": dd.Normal, **({} if inherits else body)})


@pytest.mark.parametrize("name", ["log_prob", "sample", "rsample"])
def test_members_of_a_joint_belong_to_its_sites(name: str) -> None:
    with pytest.raises(DeclarationError, match=f"expected {name} in the dist"):
        type(Joint)("Q", (Joint,), {"mu": dd.Normal(0.0, 1.0), name: lambda self: None})


def test_members_of_a_transform_belong_to_its_base() -> None:
    with pytest.raises(DeclarationError, match="log_abs_det_jacobian in the transform"):

        class Shift(LearnableTransform):
            base = dd.AffineTransform
            loc = Param(0.0)
            scale = 1.0

            def log_abs_det_jacobian(self, x, y):
                return x


def test_forward_may_be_overridden() -> None:
    class Wider(GammaFamily):
        def forward(self):
            plain = super().forward()
            return dd.Gamma(plain.concentration, plain.rate / 2)

    q, x = Wider(), torch.tensor(1.5)
    assert torch.equal(q.log_prob(x), dd.Gamma(1.0, 0.5).log_prob(x))


@pytest.mark.parametrize("name", OWN)
def test_signatures_name_sizes_and_fields(name: str) -> None:
    kind = type(OWN[name]())
    parameters = inspect.signature(kind).parameters
    given = {n for n, field in fields_of(kind).items() if field.takes_value}
    assert given <= set(parameters)
    if "__init__" not in vars(kind):
        assert {"device", "dtype"} <= set(parameters)
        assert all(p.kind is not p.VAR_KEYWORD for p in parameters.values())


def test_signatures() -> None:
    assert str(inspect.signature(Policy)) == (
        "(in_features=None, *, network=None, device=None, dtype=None, actions=None, loc=None, "
        "scale=0.7)"
    )
    shown = inspect.signature(GammaFamily).parameters
    assert list(shown) == ["batch_shape", "device", "dtype", "concentration", "rate"]
    assert shown["rate"].default == 1.0

    class Own(GammaFamily):
        def __init__(self, width: int) -> None:
            super().__init__(rate=float(width))

    assert list(inspect.signature(Own).parameters) == ["width"]

    class Passing(GammaFamily):
        def __init__(self, width: int = 2, **others: Any) -> None:
            super().__init__(**{"rate": float(width), **others})

    assert next(iter(inspect.signature(Passing).parameters)) == "width"
    assert skip_init(Passing).raw_rate.device.type == "cpu"
    assert pickle.loads(pickle.dumps(GammaFamily)) is GammaFamily


@pytest.mark.parametrize("kind", [GammaFamily, Squashed, Vector])
def test_skip_init(kind: type) -> None:
    skipped, built = skip_init(kind), kind()
    skipped.reset_parameters()
    assert {n: t.tolist() for n, t in skipped.state_dict().items()} == {
        n: t.tolist() for n, t in built.state_dict().items()
    }


@pytest.mark.parametrize(
    "field", [Param(1.0), Head(), derived(lambda self: 1.0), site(lambda self: dd.Normal(0, 1))]
)
def test_fields_mean_nothing_in_a_plain_module(field) -> None:
    plain = type("Plain", (nn.Module,), {"scale": field})()
    with pytest.raises(FieldError, match=r"Plain\.scale: .*Declarative"):
        plain.scale  # noqa: B018
    with pytest.raises(FieldError, match=r"Plain\.scale: .*Declarative"):
        plain.scale = 2.0

    class Mixin:
        scale = Param(2.0, Positive())

    class Joined(Mixin, Declarative):
        pass

    assert Joined().scale == 2.0


def test_a_base_must_name_its_arguments() -> None:
    class Passing(dd.Normal):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)

    class Positional(dd.Normal):
        def __init__(self, loc, scale, /, validate_args=None):
            super().__init__(loc, scale, validate_args)

    class Open(dd.Normal):
        def __init__(self, **keywords):
            super().__init__(**{"loc": 0.0, "scale": 1.0, **keywords})

    for kind in (Passing, Positional, Open):
        with pytest.raises(DeclarationError, match="named arguments"):
            type(Variational)("Family", (Variational,), {"base": kind})
        plain = kind() if kind is Open else kind(torch.zeros(2), torch.ones(2))
        with pytest.raises(DeclarationError, match=kind.__name__):
            learnable(plain)

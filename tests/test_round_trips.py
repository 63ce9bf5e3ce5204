"""Every promise again after what torch does to a module: saved, copied, assigned, moved, viewed.

A round trip gives another module, which must be the first one in everything: values, names,
dtypes, devices, what trains, what is tied, and that it still learns, resets and takes values.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from declarative_dist import ConstraintError, FieldError, Variational
from declarative_dist.fields.constant import Constant
from declarative_dist.fields.param import Param
from declarative_dist.fields.walk import walk
from declarative_dist.plain.restoring import restoring
from tests.cases import CASES, DECLARED, JOINTS, WRAPPED
from tests.test_promises import CONTEXTS, perturb, values_of

pytestmark = pytest.mark.filterwarnings("ignore:Singular sample:UserWarning")

Module = Any
DRAWS_ANEW = (
    "method", "network", "conditional", "conditional mixture", "conditional without a layer",
    *CONTEXTS,
)  # fmt: skip
"""Cases with a start that is drawn again, and layers that are."""


def moved(name: str) -> Module:
    """A case with other numbers in its parameters and constants, the first parameter frozen."""
    torch.manual_seed(0)
    q = CASES[name]()
    perturb(q)
    for _, part in walk(q):
        for field in part.__declaration__.fields.values():
            if isinstance(field, Constant) and isinstance(getattr(part, field.name), Tensor):
                try:
                    part.assign(**{field.name: getattr(part, field.name) * 1.25})
                except ConstraintError:
                    continue  # such as probabilities that add up to more than one
    next(q.parameters()).requires_grad_(False)
    return q


def saved(q: Module) -> dict[str, Tensor]:
    buffer = io.BytesIO()
    torch.save(q.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def frozen_like(q: Module, other: Module) -> Module:
    """What trains is no part of a state."""
    for parameter, mine in zip(other.parameters(), q.parameters(), strict=True):
        parameter.requires_grad_(mine.requires_grad)
    return other


def loaded(name: str, q: Module) -> Module:
    other = CASES[name]()
    other.load_state_dict(saved(q))
    return frozen_like(q, other)


def assigned_from_meta(name: str, q: Module) -> Module:
    other = CASES[name]().to("meta")
    state = copy.deepcopy(saved(q))
    other.load_state_dict(state, assign=True)
    mine = other.state_dict()
    assert all(mine[key].data_ptr() == tensor.data_ptr() for key, tensor in state.items())
    return frozen_like(q, other)


def assigned_across_dtypes(name: str, q: Module) -> Module:
    other = CASES[name]()
    wide = copy.deepcopy(q).double().state_dict()
    other.load_state_dict(wide, assign=True)
    assert {key: t.dtype for key, t in other.state_dict().items()} == {
        key: t.dtype for key, t in wide.items()
    }
    other.load_state_dict(copy.deepcopy(saved(q)), assign=True)
    return frozen_like(q, other)


def from_vector(name: str, q: Module) -> Module:
    other = copy.deepcopy(q)
    perturb(other)
    with torch.no_grad():
        next(other.parameters()).copy_(next(q.parameters()))  # frozen: in no vector
    return other.from_vector_(q.to_vector().double().tolist())


def reset(name: str, q: Module) -> Module:
    other = copy.deepcopy(q)
    if name not in DRAWS_ANEW:
        perturb(other)
        other.reset_parameters()
    return other


def refused(name: str, q: Module) -> Module:
    """A change that ends in an error."""
    with pytest.raises(ZeroDivisionError), restoring(q):
        turn_over(q)
    return q


def turn_over(q: Module) -> NoReturn:
    perturb(q)
    q.double()
    q.requires_grad_(True)
    q.load_state_dict(copy.deepcopy(q.state_dict()), assign=True)
    q.extra = nn.Linear(1, 1)
    q.reset_parameters()
    raise ZeroDivisionError


TRIPS: dict[str, Callable[[str, Module], Module]] = {
    "deepcopy": lambda name, q: copy.deepcopy(q),
    "pickle": lambda name, q: pickle.loads(pickle.dumps(q)),
    "state": loaded,
    "assign from meta": assigned_from_meta,
    "assign across dtypes": assigned_across_dtypes,
    "wider and back": lambda name, q: copy.deepcopy(q).double().to(next(q.parameters()).dtype),
    "vector": from_vector,
    "reset": reset,
    "refused": refused,
    "expand": lambda name, q: q.expand(q.batch_shape) if isinstance(q, Variational) else q,
}
BY_HAND = "method"
"""A case whose start is a function without a name, which nothing pickles."""

OWN = {*DECLARED, *JOINTS, "truncated batch"}
FAMILIES = {
    *WRAPPED,
    "Binomial-probs", "ContinuousBernoulli-logits", "Independent", "LKJCholesky",
    "LowRankMultivariateNormal", "MixtureSameFamily", "Multinomial-logits",
    "RelaxedBernoulli-probs", "TransformedDistribution", "VonMises", "Wishart-covariance",
}  # fmt: skip
"""Every kind of field, constant and part; the other families differ in their arguments alone."""
OF_CONSTANTS = ("state", "assign from meta", "assign across dtypes", "reset", "expand")
"""Trips that take constants another way; copies of families are compared by their promises."""
ROUNDS = [
    *((name, trip) for name in sorted(OWN) for trip in TRIPS),
    *((name, trip) for name in sorted(FAMILIES) for trip in OF_CONSTANTS),
    *((n, trip) for n in CASES if n not in OWN | FAMILIES for trip in OF_CONSTANTS[2::2]),
]


@pytest.mark.parametrize(("name", "trip"), ROUNDS)
def test_nothing_is_lost(name: str, trip: str) -> None:
    if trip == "pickle" and BY_HAND in name:
        pytest.skip("a start that has no name")
    q = CASES[name]() if trip == "reset" else moved(name)
    expected, x = observed(q), values_of(q)
    score = q.log_prob(x).detach()
    other = TRIPS[trip](name, q)
    assert observed(other) == expected
    assert torch.equal(other.log_prob(x), score)
    assert type(other) is type(q)

    # It is as alive as before.
    other.assign(**values(other))
    torch.testing.assert_close(other.log_prob(x), score, rtol=1e-3, atol=1e-3)
    other.unfreeze()
    before = other.to_vector()
    other.log_prob(x).mean().backward()
    torch.optim.SGD(other.parameters(), lr=1e-3).step()
    assert not torch.equal(other.to_vector(), before)
    assert not torch.equal(other.log_prob(x), score)


def observed(q: Module) -> dict[str, Any]:
    """All that a state is: numbers, dtypes, devices, what trains, what is tied, what is read."""
    tensors = [*q.named_parameters(remove_duplicate=False), *q.named_buffers()]
    ids = [id(tensor) for _, tensor in tensors]
    return {
        "state": {
            key: (str(t.dtype), str(t.device), tuple(t.shape), t.detach().tolist())
            for key, t in q.state_dict().items()
        },
        "metadata": {
            key: value for key, value in q.state_dict()._metadata.items() if "constraints" in value
        },
        "trains": {key: t.requires_grad for key, t in tensors},
        "tied": [ids.index(one) for one in ids],
        "values": repr(values(q)),
        "repr": repr(q),
    }


def values(q: Module) -> dict[str, Any]:
    return q.constrained_values()


def constants(q: Module) -> Iterator[tuple[Module, str]]:
    """The constants that are tensors, with the modules that hold them."""
    for _, part in walk(q):
        for field in part.__declaration__.fields.values():
            if isinstance(field, Constant) and field.name in part._buffers:
                yield part, field.name


class Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clone()

    def right_inverse(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("name", sorted(OWN | FAMILIES))
def test_constants_are_buffers_to_torch(name: str) -> None:
    q = moved(name)
    for part, key in list(constants(q)):
        value, kind = getattr(part, key).clone(), type(part)
        other = value.clone()
        part.register_buffer(key, other)
        assert getattr(part, key).data_ptr() == other.data_ptr()
        seen = functional_call(Reads(part, key), {f"part.{key}": value.double()}, ())
        assert seen.dtype == (torch.float64 if value.is_floating_point() else value.dtype)

        parametrize.register_parametrization(part, key, Same())
        part.assign(**{key: value})
        assert torch.equal(getattr(part, key), value)
        parametrize.remove_parametrizations(part, key)
        assert type(part) is kind

        delattr(part, key)
        assert not hasattr(part, key)
        assert f"{key}" not in part.state_dict()
        said = rf"{kind.__name__}\.{key}.* [Ii]t was deleted"  # also by a forward that reads it
        with pytest.raises((FieldError, AttributeError), match=said):
            part()
        part.assign(**{key: value})
        assert torch.equal(getattr(part, key), value)
        assert getattr(part, key).dtype == value.dtype


class Reads(nn.Module):
    def __init__(self, part: Module, key: str) -> None:
        super().__init__()
        self.part, self.key = part, key

    def forward(self) -> Tensor:
        return self.part.__declaration__.run(self.part, self.part.__declaration__.order)[self.key]


@pytest.mark.parametrize("name", sorted(OWN | FAMILIES))
def test_a_state_that_a_field_refuses_is_not_loaded(name: str) -> None:
    """Neither the number itself, nor anything of the state around it."""
    q = moved(name)
    before = observed(q)
    for path, part in walk(q):
        for field in part.__declaration__.fields.values():
            key = f"{path}.{field.stored_name}".lstrip(".")
            bad = copy.deepcopy(q.state_dict())
            if not isinstance(field, (Constant, Param)) or key not in bad:
                continue
            if not bad[key].is_floating_point():
                continue
            next(iter(bad.values())).add_(1)
            bad[key].fill_(torch.nan)
            with pytest.raises(ConstraintError, match=rf"{type(part).__name__}\.{field.name}"):
                q.load_state_dict(bad)
            assert observed(q) == before

"""Named sizes that reach nested parts, and independent copies of them."""

from __future__ import annotations

import pytest
import torch
import torch.distributions as dd
from torch import nn

from declarative_dist import ConstraintError, DeclarationError, Declarative, Param
from tests.nests import (
    MIXED_NAMES,
    ByMethod,
    Components,
    Deep,
    Grid,
    Logits,
    Mixture,
    Shift,
    Triple,
    Weights,
    jitter,
    made,
    mixture_of,
    refused,
    shapes,
)
from tests.states import assert_unchanged, state_of

# --- named sizes ----------------------------------------------------------------------------


class Sized(Declarative):
    table = Param(0.0, shape=("k", 2))
    weights = Weights


class Family(Declarative):
    """A size that only a part two levels below knows."""

    mixture = Mixture
    weights = Weights


def test_a_size_is_a_keyword_for_all_parts():
    assert shapes(Mixture(k=4)) == dict.fromkeys(MIXED_NAMES, (4,))
    assert shapes(Sized(k=4)) == {"raw_table": (4, 2), "weights.raw_logits": (4,)}
    assert shapes(Deep(k=4))["base_distribution.component_distribution.raw_loc"] == (4,)
    assert shapes(Family(k=4))["mixture.component_distribution.raw_scale"] == (4,)


TWO, TABLE = {"loc": [1.0, 2.0]}, torch.zeros(3, 2)


@pytest.mark.parametrize("keywords", [
    {"component_distribution": TWO},
    {"component_distribution": {"scale": torch.ones(2)}},
    {"mixture_distribution": {"logits": [0.0, 1.0]}},
    {"mixture_distribution": Weights(k=2)},
    {"mixture_distribution": Weights(logits=[0.0, 1.0])},
    {"component_distribution": Components(k=2)},
    {"component_distribution": TWO, "k": 2},
    {"component_distribution": TWO, "mixture_distribution": Weights(k=2)},
    {"component_distribution": {"loc": torch.zeros(5, 2)}, "batch_shape": (5,)},
])  # fmt: skip
def test_a_size_is_read_off_what_a_part_is_given(keywords):
    q = Mixture(**keywords)
    assert q.mixture_distribution.logits.shape[-1] == 2
    assert q.component_distribution.scale.shape[-1] == 2


def test_a_size_is_read_off_the_instance_in_the_class_body():
    given = mixture_of(Weights, Components(k=3))(component_distribution={"scale": 2.0})
    for q in (Triple(), given):
        assert shapes(q) == dict.fromkeys(MIXED_NAMES, (3,))


def test_a_size_is_read_off_a_value_of_the_outer_class():
    assert Sized(table=TABLE).weights.logits.shape == (3,)
    assert Sized(weights={"logits": [0.0, 1.0, 2.0]}).table.shape == (3, 2)


def test_values_keep_the_size_of_the_instance_in_the_class_body():
    subject = "Triple.mixture_distribution (Weights.logits)"
    refused(lambda: Triple(mixture_distribution={"logits": [0.0, 1.0]}), ConstraintError, subject)
    q = Triple(mixture_distribution=Weights(k=5))
    assert shapes(q) == dict.fromkeys(MIXED_NAMES, (5,))


@pytest.mark.parametrize("keywords", [
    {"mixture": {"component_distribution": TWO}}, {"mixture": Mixture(k=2)},
    {"weights": Weights(k=2)}, {"weights": {"logits": [1.0, 2.0]}},
])  # fmt: skip
def test_a_size_is_read_off_any_depth(keywords):
    family = Family(**keywords)
    assert family.weights.logits.shape == (2,)
    assert family.mixture.component_distribution.loc.shape == (2,)


def test_a_size_is_read_off_a_list():
    class Model(Declarative):
        parts = [Components, Weights]  # noqa: RUF012

    model = Model(parts=[{}, {"logits": [1.0, 2.0]}])
    assert model.parts[0].loc.shape == (2,)


@pytest.mark.parametrize(("family", "keywords"), [
    (Mixture, {"k": 3, "component_distribution": TWO}),
    (Sized, {"table": TABLE, "weights": {"logits": [1.0, 2.0]}}),
    (Sized, {"k": 3, "weights": {"logits": [1.0, 2.0]}}),
    (Family, {"weights": {"logits": [1.0, 2.0]}, "k": 3}),
    (Family, {"weights": {"logits": [1.0, 2.0]},
              "mixture": {"component_distribution": {"loc": [0.0] * 3}}}),
    (Triple, {"k": 4}),
    (Triple, {"component_distribution": TWO}),
])  # fmt: skip
def test_sizes_that_conflict(family, keywords):
    with pytest.raises((ConstraintError, DeclarationError)) as caught:
        family(**keywords)
    text = str(caught.value)
    assert text.startswith(family.__name__), text
    assert "3" in text
    assert "2" in text or "4" in text


def test_a_size_that_nobody_knows():
    text = refused(Mixture, ConstraintError, "Mixture")
    assert "'k'" in text
    assert "Mixture(k=" in text
    text = refused(Deep, ConstraintError, "Deep")
    assert "Deep(k=" in text


def test_a_size_that_is_none():
    text = refused(lambda: Mixture(kk=3), DeclarationError, "Mixture(kk=)")
    assert "Did you mean 'k'?" in text


# --- independent copies ---------------------------------------------------------------------


BATCHED = {
    "classes": lambda **keywords: Mixture(k=3, **keywords),
    "instance and class": Triple,
    "instances": mixture_of(Weights(k=3), Components(k=3)),
    "method": lambda **keywords: ByMethod(k=3, **keywords),
}


@pytest.mark.parametrize("name", BATCHED)
def test_random_starts_differ_between_copies(name):
    q = BATCHED[name](batch_shape=(5,))
    loc = next(p for name, p in q.named_parameters() if name.endswith("raw_loc"))
    assert loc.shape == (5, 3)
    assert loc.unique().numel() == 15


def test_a_number_stands_for_one_dimension():
    assert Mixture(k=3, batch_shape=4).batch_shape == (4,)
    assert Triple(batch_shape=()).batch_shape == ()
    assert Triple(batch_shape=(0,)).batch_shape == (0,)


def test_copies_of_an_instance_start_at_its_values():
    trained = Weights(logits=[0.0, 1.0, 2.0])
    with torch.no_grad():
        trained.raw_logits.mul_(2)
    q = mixture_of(trained, Components)(batch_shape=(2,))
    assert q.mixture_distribution.logits.tolist() == [[0.0, 2.0, 4.0]] * 2
    jitter(q)
    q.reset_parameters()
    assert q.mixture_distribution.logits.tolist() == [[0.0, 2.0, 4.0]] * 2


def test_values_for_one_copy_or_for_all():
    one = Mixture(batch_shape=(2,), component_distribution={"loc": torch.arange(3.0)})
    assert one.component_distribution.loc.tolist() == [[0.0, 1.0, 2.0]] * 2
    full = torch.arange(6.0).reshape(2, 3)
    many = Mixture(batch_shape=(2,), component_distribution={"loc": full})
    assert torch.equal(many.component_distribution.loc, full)
    assert many.mixture_distribution.logits.shape == (2, 3)


def test_copies_reach_three_levels():
    q = Deep(k=3, batch_shape=(2,))
    assert q.base_distribution.component_distribution.loc.shape == (2, 3)
    assert q.transforms[0].loc.shape == (2,)
    assert q.batch_shape == (2,)
    deep = made(
        dd.TransformedDistribution, base_distribution=Mixture(k=3), transforms=[Shift(), Shift]
    )(batch_shape=(2,))
    assert deep.base_distribution.component_distribution.loc.shape == (2, 3)
    assert deep.base_distribution.component_distribution.loc.unique().numel() == 6


def test_copies_reach_declared_modules_inside_foreign_ones():
    class Model(Declarative):
        table = nn.ModuleDict({"weights": Weights(k=3), "net": nn.Linear(2, 2)})

    model = Model(batch_shape=(4,))
    assert model.table["weights"].logits.shape == (4, 3)
    assert model.table["net"].weight.shape == (2, 2)


def test_a_given_instance_is_not_replicated():
    weights = Weights(k=3)
    q = Mixture(batch_shape=(2,), mixture_distribution=weights)
    assert weights.logits.shape == (3,)
    assert q.mixture_distribution is weights
    assert q.component_distribution.loc.shape == (2, 3)
    assert q.batch_shape == (2,)
    with_own = Components(k=3, batch_shape=(2,))
    assert Mixture(batch_shape=(2,), component_distribution=with_own).batch_shape == (2,)


def test_a_given_instance_that_lacks_the_batch_is_shared_by_its_copies():
    q = Mixture(batch_shape=(2,), component_distribution=Components(k=3))
    assert q.batch_shape == (2,)
    assert q.component_distribution.loc.shape == (3,)


def test_a_batch_and_a_reset():
    q = mixture_of(Logits, Grid)(batch_shape=(4,))
    before = state_of(q)
    jitter(q)
    q.reset_parameters()
    assert_unchanged(q, before)


def test_a_batch_on_meta():
    q = mixture_of(Logits(), Grid)(batch_shape=(4,), device="meta")
    q.to_empty(device="cpu")
    q.reset_parameters()
    expected = mixture_of(Logits(), Grid)(batch_shape=(4,))
    assert_unchanged(q, state_of(expected))

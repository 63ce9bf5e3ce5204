"""Distributions that others wrote are learned as they are, or refused with the way out."""

from __future__ import annotations

import copy
import pickle
from typing import Any, ClassVar

import pytest
import torch
import torch.distributions as dd
from torch.distributions import constraints
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from declarative_dist import (
    ConstraintError,
    DeclarationError,
    Exp,
    Param,
    Positive,
    Variational,
    entropy,
    kl_divergence,
    learnable,
    register_constraint,
    select,
)
from declarative_dist.errors import FieldError
from declarative_dist.plain.draws import is_reparametrised
from tests import foreign
from tests.foreign import MADE

SWITCHES = (None, True, False)


@pytest.mark.parametrize("name", MADE)
def test_a_live_instance_and_its_copies_score_as_the_plain_one(name: str) -> None:
    plain = MADE[name]
    q = learnable(plain)
    value = plain.sample((5,))
    torch.testing.assert_close(q.log_prob(value), plain.log_prob(value))
    assert type(q()) is type(plain)
    assert q.batch_shape == plain.batch_shape
    assert len(list(q.parameters())) == (1 if isinstance(plain, dd.Bernoulli) else 2)
    q.log_prob(value).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in q.parameters())
    loaded = learnable(plain)
    loaded.load_state_dict(q.state_dict())
    for other in (copy.deepcopy(q), pickle.loads(pickle.dumps(q)), loaded):
        assert torch.equal(other.log_prob(value), q.log_prob(value))


@pytest.mark.parametrize("name", MADE)
def test_draws_carry_gradients_where_the_method_gives_them(name: str) -> None:
    plain, q = MADE[name], learnable(MADE[name])
    is_able = not isinstance(plain, (dd.Bernoulli, foreign.Rounded))
    assert is_reparametrised(plain) == is_reparametrised(q) == q.has_rsample == is_able
    around = dd.Independent(plain, 1)
    shifted = dd.TransformedDistribution(plain, dd.AffineTransform(1.0, 2.0))
    assert is_reparametrised(around) == is_reparametrised(shifted) == is_able
    if not is_able:
        with pytest.raises(NotImplementedError, match="no reparametrised sampler"):
            q.rsample()
        return
    assert q.rsample((3,)).requires_grad
    assert q.rsample_and_log_prob((3,))[1].shape == (3, 2)
    assert learnable(dd.Independent(plain, 1)).rsample((3,)).requires_grad


@pytest.mark.parametrize("name", MADE)
def test_a_view_of_another_shape_is_made_or_refused_at_once(name: str) -> None:
    plain, q = MADE[name], learnable(MADE[name])
    before = dict(vars(q))
    if isinstance(plain, (foreign.NoExpand, foreign.KeywordArguments)):
        with pytest.raises(FieldError, match="defines expand"):
            q.expand((3, 2))
        assert vars(q) == before
    else:
        assert q.expand((3, 2)).sample().shape == (3, 2)


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize(
    "make",
    [
        lambda s: dd.Gamma(torch.ones(2), 1.0, validate_args=s),
        lambda s: dd.Exponential(torch.ones(2), validate_args=s),
        lambda s: dd.Independent(dd.Gamma(torch.ones(2), 1.0, validate_args=s), 1),
        lambda s: dd.LogNormal(torch.ones(2), 1.0, validate_args=s),
        lambda s: dd.TransformedDistribution(
            dd.Normal(torch.ones(2), 1.0, validate_args=s), [dd.ExpTransform()], validate_args=s
        ),
        lambda s: dd.MixtureSameFamily(
            dd.Categorical(torch.ones(2), validate_args=s),
            dd.Gamma(torch.ones(2), 1.0, validate_args=s),
            validate_args=s,
        ),
    ],
)
def test_what_scores_without_checks_plain_scores_without_checks_live(
    make: Any, switch: bool | None
) -> None:
    plain = make(switch)
    for q in (learnable(plain), copy.deepcopy(learnable(plain)), learnable(plain).expand((2, 2))):
        value = torch.full(q.batch_shape + q.event_shape, -1.0)
        if switch is False:
            want = make(False).log_prob(value)
            torch.testing.assert_close(q.log_prob(value), want, equal_nan=True)
        else:
            with pytest.raises(ValueError, match="within the support"):
                q.log_prob(value)


def test_checks_can_be_switched_on_an_instance() -> None:
    class Family(Variational):
        base = dd.Gamma
        concentration = Param(1.0)
        rate = Param(1.0)

    class ByMethod(Variational):
        rate = Param(1.0, Positive())

        def base(self, rate: Any) -> dd.Distribution:
            return dd.Exponential(rate)

    for q in (Family(), ByMethod(), learnable(dd.Gamma(1.0, 1.0))):
        q._validate_args = False
        q.log_prob(torch.tensor(-1.0))
        q._validate_args = True
        with pytest.raises(ValueError, match="within the support"):
            q.log_prob(torch.tensor(-1.0))


def test_a_base_of_nameless_arguments_is_refused() -> None:
    plain = foreign.Star(torch.zeros(2), torch.ones(2))
    with pytest.raises(DeclarationError, match=r"Star\(\*.*def base"):
        type("Family", (Variational,), {"base": foreign.Star})
    for given in (plain, foreign.Star, dd.Independent(plain, 1)):
        with pytest.raises(DeclarationError):
            learnable(given)


@pytest.mark.parametrize(
    "plain",
    [
        foreign.Hidden(torch.zeros(2), scale=torch.tensor(3.0)),
        foreign.Renamed(torch.zeros(2), torch.tensor([4.0, 9.0])),
        foreign.Hidden(torch.tensor(1.0), scale=2.0),
    ],
)
def test_an_instance_that_would_come_back_as_another_is_refused(plain: Any) -> None:
    with pytest.raises(DeclarationError, match="makes the same"):
        learnable(plain)


def test_hidden_arguments_that_have_their_defaults_are_no_obstacle() -> None:
    q = learnable(foreign.Hidden(torch.zeros(2)))
    assert [name for name, _ in q.named_parameters()] == ["raw_loc"]


def test_what_nobody_has_stated_is_refused_or_held() -> None:
    plain = foreign.Unstated(torch.zeros(2), torch.ones(2), validate_args=False)
    with pytest.raises(DeclarationError, match="must satisfy"):
        learnable(plain)
    assert not list(learnable(plain, fixed=("loc", "scale")).parameters())


def test_a_base_whose_arguments_are_all_optional_says_which_are_meant() -> None:
    with pytest.raises(DeclarationError, match="all are optional"):
        learnable(foreign.AllOptional)
    q = learnable(foreign.AllOptional(every=torch.tensor([2.0, 4.0])))
    assert q.rate.tolist() == [0.5, 0.25]
    assert len(list(q.parameters())) == 1

    class ByPeriod(Variational):
        base = foreign.AllOptional
        every = Param(4.0)

    assert ByPeriod()().rate.item() == 0.25


def test_an_optional_argument_is_no_field_unless_it_is_given() -> None:
    loc, scale = torch.zeros(2), torch.ones(2)
    assert list(learnable(foreign.Extra).__declaration__.fields) == ["loc", "scale"]
    assert learnable(foreign.Extra(loc, scale, "x"))().note == "x"
    names = [n for n, _ in learnable(foreign.Optional(loc, log_scale=scale)).named_parameters()]
    assert names == ["raw_loc", "raw_scale"]


@pytest.mark.parametrize(
    ("p", "q", "want"),
    [
        (dd.Normal(0.0, 1.0), dd.Gamma(2.0, 1.0), torch.inf),
        (dd.Laplace(0.0, 1.0), dd.HalfNormal(1.0), torch.inf),
        (dd.Gamma(2.0, 1.0), dd.Weibull(1.0, 2.0), None),
        (
            dd.Laplace(torch.zeros(2), 1.0),
            dd.Uniform(torch.tensor([-1.0, -99.0]), 99.0),
            torch.inf,
        ),
        (foreign.Plain(0.0, torch.tensor(1.0)), dd.Beta(2.0, 3.0), torch.inf),
    ],
)
def test_an_estimate_outside_of_a_support_is_infinite(p: Any, q: Any, want: float | None) -> None:
    torch.manual_seed(0)
    for one, other in ((p, q), (learnable(p), learnable(q)), (p, learnable(q))):
        found = kl_divergence(one, other, num_samples=200)
        if want is None:
            assert found.isfinite().all()
        else:
            assert found.flatten()[0] == want
            assert not found.isnan().any()


def test_an_infinite_estimate_leaves_the_gradients_of_its_neighbours() -> None:
    torch.manual_seed(0)
    p = learnable(foreign.Plain(torch.tensor([0.0, 30.0]), torch.ones(2)))
    found = kl_divergence(p, dd.Gamma(2.0, torch.ones(2)), num_samples=50)
    assert found[0].isinf()
    found[1].backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in p.parameters())


def test_a_formula_is_not_taken_from_a_class_with_another_density() -> None:
    steep = foreign.Steeper(torch.zeros(2), torch.ones(2))
    normal = dd.Normal(torch.zeros(2), 1.0)
    for plain in (steep, dd.Independent(steep, 1)):
        other = dd.Independent(normal, 1) if plain is not steep else normal
        for p, q in ((plain, other), (other, plain), (learnable(plain), other)):
            with pytest.raises(NotImplementedError, match="another log_prob than Normal"):
                kl_divergence(p, q)
            assert kl_divergence(p, q, num_samples=10).isfinite().all()
        with pytest.raises(NotImplementedError):
            entropy(plain)


def test_divergences_of_batches_that_do_not_broadcast_are_refused() -> None:
    with pytest.raises(ConstraintError, match="batch shapes that broadcast"):
        kl_divergence(
            foreign.Plain(torch.zeros(2), torch.ones(2)), dd.Normal(torch.zeros(3), 1.0), 5
        )


@pytest.mark.parametrize("way", foreign.WAYS)
def test_of_optional_arguments_you_declare_those_that_you_mean(way: str) -> None:
    base, values = foreign.WAYS[way]
    body: dict[str, Any] = {name: Param(value) for name, value in values.items()}
    plain = base(**values)
    value = plain.sample((4,))
    declared = type("Declared", (Variational,), {"base": base, **body})()
    for q in (declared, learnable(plain)):
        torch.testing.assert_close(q.log_prob(value), plain.log_prob(value))
        q.log_prob(value).sum().backward()
        vector = torch.nn.utils.parameters_to_vector(q.parameters())
        torch.nn.utils.vector_to_parameters(vector - 5.0, q.parameters())
        assert q.log_prob(value).isfinite().all()  # also far from the start
    assert {n for n, _ in declared.named_parameters()} == {f"raw_{name}" for name in values}


@pytest.mark.parametrize("base", [
    foreign.CountsByMean, foreign.FlagByEither, foreign.ByThree, foreign.Both
])  # fmt: skip
def test_advice_about_optional_arguments_is_refused_or_works(base: Any) -> None:
    with pytest.raises(DeclarationError, match="a Param or a constant for each"):
        learnable(base)
    for other, values in foreign.WAYS.values():
        if other is base:
            learnable(base(**values)).sample()


def test_arguments_that_do_not_go_together_are_the_classs_to_refuse() -> None:
    class Neither(Variational):
        base = foreign.CountsByMean
        mu = Param(2.0)

    class OverTwo(Variational):
        base = foreign.Gated
        rate = Param(2.0)
        gate = Param(0.5)
        gate_logits = Param(0.0)

    for family in (Neither, OverTwo):
        with pytest.raises(ConstraintError, match="takes together.*one of the param"):
            family()


def test_required_arguments_are_learned_beside_the_preferred_of_a_pair() -> None:
    for base in (foreign.CountsByLogits, foreign.Gated):
        assert len(list(learnable(base)().parameters())) == 2
    assert "trials" not in learnable(foreign.Trials).__declaration__.fields
    counted = learnable(foreign.Trials(t := torch.tensor(0.3), 5))
    assert counted.trials == 5 and counted.probs == t  # noqa: PT018
    with pytest.raises(DeclarationError, match="no gradient reaches"):
        type("Learned", (Variational,), {
            "base": foreign.Trials, "probs": Param(0.3), "trials": Param(3.0)
        })  # fmt: skip


def test_a_registered_wrapper_stands_for_itself() -> None:
    class Half(foreign.OptionalConstraint):
        pass

    class Family(foreign.Plain):
        arg_constraints: ClassVar[Any] = {
            "loc": constraints.real,
            "scale": Half(constraints.positive),
        }

    assert isinstance(learnable(Family).scale.constraint, Positive)
    register_constraint(Half, Exp)
    assert isinstance(learnable(type("Other", (Family,), {})).scale.constraint, Exp)


class KeepsBoth(dd.Distribution):
    """It keeps both of its alternatives, and takes one."""

    arg_constraints: ClassVar = {"probs": constraints.unit_interval, "logits": constraints.real}
    support = constraints.boolean

    def __init__(
        self, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        if (probs is None) == (logits is None):
            raise ValueError("give one of both")
        self.probs = logits.sigmoid() if probs is None else probs
        self.logits = probs.logit() if logits is None else logits
        super().__init__(self.probs.shape, validate_args=validate_args)


def test_rows_of_a_class_that_keeps_all_of_its_alternatives() -> None:
    plain = KeepsBoth(torch.tensor([0.2, 0.7, 0.5]))
    for rows in (select(plain, slice(1, None)), learnable(plain)[1:]):
        assert isinstance(rows, KeepsBoth)
        torch.testing.assert_close(rows.probs, torch.tensor([0.7, 0.5]))


@pytest.mark.parametrize("name", ["logits", "probs"])
@pytest.mark.parametrize("base", [LogitRelaxedBernoulli, ExpRelaxedCategorical])
def test_the_distributions_inside_of_relaxed_ones_are_learned_too(base: Any, name: str) -> None:
    temperature, chances = torch.tensor(0.7), torch.tensor([0.2, 0.8])
    plain = base(temperature, **{name: chances.log() if name == "logits" else chances})
    value = plain.rsample((5,))
    q = learnable(plain)
    torch.testing.assert_close(q.log_prob(value), plain.log_prob(value))
    q.log_prob(value).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in q.parameters())

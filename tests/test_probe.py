"""What mixes copies, contexts or draws is refused in every kind of class, and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions as dd
from torch import Tensor, nn

from declarative_dist import (
    Conditional,
    ConstraintError,
    Declarative,
    Exp,
    FieldError,
    Head,
    Joint,
    LearnableTransform,
    Param,
    Positive,
    Variational,
    derived,
    learnable,
    site,
)
from declarative_dist.families.comparison import find_difference
from declarative_dist.objectives import NegativeELBO

Method = Callable[[Any, Tensor], Tensor]


def is_square(s: Tensor) -> bool:
    return s.ndim > 1 and s.shape[-1] == s.shape[-2]


def normalize(s: Tensor) -> Tensor:
    normal: Tensor = nn.BatchNorm1d(1)(s.reshape(-1, 1))
    return normal.reshape(s.shape)


def solve(s: Tensor) -> Tensor:
    grid = torch.linspace(0.0, 1.0, 12, dtype=s.dtype)
    kernel = (-(grid[:, None] - grid).square() / (1 + s[..., None, None])).exp()
    kernel = kernel + 1e-3 * torch.eye(12, dtype=s.dtype)
    solved: Tensor = torch.linalg.solve(kernel, torch.ones(12, 1, dtype=s.dtype))
    return solved.square().sum((-1, -2)) + s


def factor(s: Tensor) -> Tensor:
    """A number that a matrix has as long as it is positive definite."""
    off, one = 0.2 * s, torch.ones_like(s)
    matrix = torch.stack([one, off, off, one], -1).unflatten(-1, (2, 2))
    return torch.linalg.cholesky(matrix)[..., 1, 1] + s


MIXING: dict[str, Method] = {
    "mean": lambda self, s: s.mean(),
    "mean at equal starts": lambda self, s: 0 * s + s.mean(),
    "size": lambda self, s: s * s.shape[0] if s.ndim else s,
    "count": lambda self, s: s * s.numel(),
    "largest": lambda self, s: s / s.max() + 0.1,
    "sorted": lambda self, s: s.sort(0).values if s.ndim else s,
    "running": lambda self, s: s.cumsum(0) if s.ndim else s,
    "lost sizes": lambda self, s: s.squeeze(),
    "turned": lambda self, s: s.flip(0) if s.ndim else s,
    "transposed": lambda self, s: s.mT if is_square(s) else s * s.numel(),
    "length": lambda self, s: s * len(s) if s.ndim else s,
    "a little of the mean": lambda self, s: s + 0.05 * s.mean().tanh(),
    "infinite alone": lambda self, s: s + 1 / (s - s.mean()).abs(),
    "a batch": lambda self, s: normalize(s).exp() if s.numel() > 1 else s,
    "first": lambda self, s: (s[0] if s.ndim else s) * torch.ones_like(s),
    "a branch": lambda self, s: s + 1 if (s > 1).any() else s + 2,
    "no larger than the others": lambda self, s: s.clamp(max=s.median() + 3),
    "a branch far out": lambda self, s: s + (s.max() > 5) * s.mean(),
    "a branch further out": lambda self, s: s + (s.max() > 50) * s.mean(),
    "a hundred-thousandth of the mean": lambda self, s: s + 1e-5 * s.mean().tanh(),
}
APART: dict[str, Method] = {
    "own": lambda self, s: s * 2,
    "in a new dimension": lambda self, s: s[..., None].sum(-1),
    "random": lambda self, s: s * (1.0 + torch.rand_like(s)),
    "dropped at random": lambda self, s: nn.functional.dropout(s, 0.5) + 0.1,
    "each by its own branch": lambda self, s: torch.where(s > 1, s + 1, s + 2),
    "no larger than a number": lambda self, s: s.clamp(0.1, 3.0),
    "steep": lambda self, s: (s * 1e3).sin() + 2.0,
    "in float32": lambda self, s: (s[..., None].float() @ torch.ones(1)).to(s).exp(),
    "narrow on its way": lambda self, s: (s.bfloat16() * 1.7).to(s).square() * 3.3 + s,
    "a long sum": lambda self, s: (s[..., None] * torch.linspace(-1e3, 1e3, 10_001)).sum(-1) + s,
    "linear algebra": lambda self, s: solve(s),
    "a matrix that need not have a factor": lambda self, s: factor(s),
}
RANDOM = ("random", "dropped at random")


def made(kind: type, method: Method) -> Any:
    """A class with a method over one positive value."""
    if kind is Variational:
        fields: dict[str, Any] = {"loc": Param(torch.zeros(3)), "s": Param(1.0, Positive())}
        return type(kind)("Made", (kind,), {"base": dd.Normal, "scale": derived(method), **fields})
    if kind is Conditional:
        fields = {"loc": Head(), "s": Head(Positive())}
        return type(kind)("Made", (kind,), {"base": dd.Normal, "scale": derived(method), **fields})
    if kind in (Declarative, LearnableTransform):

        def base(self: Any, s: Tensor) -> dd.Transform:
            return dd.ComposeTransform([dd.AffineTransform(0.0, method(self, s))])

        name, member = ("t", derived(base)) if kind is Declarative else ("base", base)
        return type(kind)("Made", (kind,), {"s": Param(1.0, Positive()), name: member})

    def y(self: Any, s: Tensor) -> dd.Distribution:
        return dd.Normal(0.0, method(self, s))

    return type(kind)("Made", (kind,), {"s": dd.Gamma(2.0, 1.0), "y": site(y)})


KEYWORDS: dict[type, list[dict[str, Any]]] = {
    Variational: [{"batch_shape": shape} for shape in [(1,), (2,), (3,), (2, 3)]],
    LearnableTransform: [{"batch_shape": (2,)}],
    Declarative: [{"batch_shape": (3,)}],
    Conditional: [{"in_features": 2}],
    Joint: [{}, {"batch_shape": (2,)}],
}


# A site that loses a size of one broadcasts to the right density.
REFUSED = [(name, kind) for name in MIXING for kind in KEYWORDS]
REFUSED.remove(("lost sizes", Joint))


@pytest.mark.parametrize(("name", "kind"), REFUSED)
def test_what_mixes_is_refused(name: str, kind: type) -> None:
    for keywords in KEYWORDS[kind]:
        with pytest.raises(
            ConstraintError, match=r"Made\.(scale|base|t|y)[^:]*: expected .*Index|Let"
        ):
            made(kind, MIXING[name])(**keywords)


@pytest.mark.parametrize("kind", KEYWORDS)
@pytest.mark.parametrize("name", APART)
def test_what_keeps_apart_is_taken(name: str, kind: type) -> None:
    for keywords in KEYWORDS[kind]:
        before = torch.get_rng_state()
        made(kind, APART[name])(**keywords)
        assert name in RANDOM or kind is Conditional or torch.equal(torch.get_rng_state(), before)


def branching(constant: object) -> Any:
    """A class whose method mixes copies once its constant is above zero."""

    class Branching(Variational):
        base = dd.Normal
        mu = Param(0.0)
        scale = Param(1.0)
        switch = constant

        @derived
        def loc(self, mu: Tensor, switch: Any) -> Tensor:
            return mu - mu.mean() if switch > 0 else mu

    return Branching


@pytest.mark.parametrize("off", [0, 0.0, torch.tensor(0), torch.tensor([0.0])])
def test_a_constant_that_switches_to_mixing_is_refused_in_every_way_in(off: Any) -> None:
    on = off + 1
    family = branching(off)
    q = family(batch_shape=(3,))
    q.mu = [1.0, 2.0, 6.0]
    saved = family(switch=on).state_dict()
    ways: list[Callable[[], object]] = [
        lambda: family(batch_shape=(3,), switch=on),
        lambda: setattr(q, "switch", on),
        lambda: q.assign(switch=on, mu=0.0),
        lambda: branching(on)(batch_shape=(3,)),
    ]
    if isinstance(off, Tensor):
        ways.append(lambda: q.load_state_dict(q.state_dict() | {"switch": saved["switch"]}))
    for way in ways:
        with pytest.raises(ConstraintError, match=r"Branching\.loc") as caught:
            way()
        assert caught.value.code == "mixed-draws"
        assert q.loc.tolist() == [1.0, 2.0, 6.0]
        assert q.switch == off
    family(switch=on).switch = on  # one copy alone
    family(batch_shape=(3,)).switch = off - 1


def test_flags_of_an_instance_and_constants_of_a_joint_count_too() -> None:
    class Flagged(Joint):
        mu = dd.Normal(0.0, 1.0)
        power = 0

        def __init__(self, *, flag: bool = False, **values: Any) -> None:
            super().__init__(**values)
            self.flag = flag

        @site
        def y(self, mu: Tensor, power: int) -> dd.Distribution:
            return dd.Normal(mu.mean() if self.flag or power else mu, 1.0)

    joint = Flagged()
    with pytest.raises(ConstraintError, match=r"Flagged\.y"):
        Flagged(flag=True)
    with pytest.raises(ConstraintError, match=r"Flagged\.y"):
        joint.power = 2
    assert joint.power == 0


def test_a_constant_that_changes_in_every_step_is_soon_left_alone() -> None:
    calls = []

    class Annealed(Variational):
        base = dd.Normal
        mu = Param(0.0)
        scale = 1.0
        warmth = 1.0

        @derived
        def loc(self, mu: Tensor, warmth: Tensor) -> Tensor:
            calls.append(round(float(warmth), 2))
            return mu * warmth

    q = Annealed(batch_shape=3)
    for step in range(100):
        q.warmth = 1.0 + step / 100
    assert calls.count(1.1) > 10 * calls.count(1.99)
    calls.clear()
    Annealed(batch_shape=(3, 2))  # other sizes are tried
    assert len(calls) > 10


def test_an_init_may_set_a_constant_before_the_rest_is_there() -> None:
    class Late(Variational):
        base = dd.Normal
        mu = Param(0.0)
        scale = Param(1.0)
        shift = 1.0

        def __init__(self, **values: Any) -> None:
            super().__init__(**values)
            self.shift = 2.0
            self.net = nn.Linear(1, 1)

        @derived
        def loc(self, mu: Tensor, shift: Tensor) -> Tensor:
            net = getattr(self, "net", None)
            return mu * shift if net is None else net(mu[..., None])[..., 0] * shift

    assert Late(batch_shape=(3,)).shift == 2.0


def test_one_copy_alone_may_do_what_it_likes() -> None:
    for method in MIXING.values():
        made(Variational, method)()


@pytest.mark.parametrize("kind", [Conditional, Joint])
def test_what_has_a_value_beside_others_only_is_refused(kind: type) -> None:
    def method(self: Any, s: Tensor) -> Tensor:
        spread: Tensor = (s - s.mean()).norm()
        return s * spread / spread

    with pytest.raises(ConstraintError) as caught:
        made(kind, method)(**KEYWORDS[kind][0])
    assert caught.value.code == "mixed-draws"


@pytest.mark.parametrize("kind", KEYWORDS)
def test_the_length_of_a_single_value_is_an_error_of_ours(kind: type) -> None:
    with pytest.raises(ConstraintError, match=r"Made\.(scale|base|t|y): expected .*0-d tensor"):
        made(kind, lambda self, s: s * len(s))(**KEYWORDS[kind][0] if kind is Conditional else {})


def test_networks_are_tried_in_their_mode_and_left_as_they_were() -> None:
    class Norm(Joint):
        net = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
        mu = dd.Normal(0.0, 1.0)

        @site
        def y(self, mu: Tensor, net: nn.Module) -> dd.Distribution:
            return dd.Normal(net(mu.reshape(-1, 1)).reshape(mu.shape), 1.0)

    with pytest.raises(ConstraintError, match=r"Norm\.y"):
        Norm()

    class Settled(Norm):
        net = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Linear(2, 1)).eval()

    assert Settled().net[1].num_batches_tracked == 0

    class Dropped(Norm):
        net = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    assert Dropped().net[1].training


def test_methods_as_bases_and_functions_as_targets() -> None:
    class Centred(Conditional):
        loc = Head()

        def base(self, loc: Tensor) -> dd.Distribution:
            return dd.Normal(loc - loc.mean(), 1.0)

    with pytest.raises(ConstraintError, match=r"Centred\.base"):
        Centred(in_features=2)
    q = learnable(dd.Normal(0.0, 1.0))
    for target in (lambda z: -z.square() * len(z), lambda z: -z.square() / z.abs().max()):
        with pytest.raises(ConstraintError, match=r"log_joint: .* draws beside it"):
            NegativeELBO(target, q).before_fit()
    NegativeELBO(lambda z: -z.square(), q).before_fit()


def test_a_forward_that_calls_itself() -> None:
    class Circle(Variational):
        base = dd.Normal
        loc = Param(0.0)
        scale = Param(1.0)

        def forward(self) -> dd.Distribution:
            self.log_prob(torch.tensor(0.0))
            return super().forward()

    with pytest.raises(FieldError, match=r"Circle\.forward: expected .*super\(\)\.forward\(\)"):
        Circle().log_prob(torch.tensor(0.0))


def test_sites_beside_a_derived_distribution_are_tried_too() -> None:
    class Beside(Joint):
        s = Param(1.0, Positive())
        mu = dd.Normal(0.0, 1.0)

        @derived
        def other(self, s: Tensor) -> dd.Normal:
            return dd.Normal(torch.zeros_like(s), s)

        @site
        def y(self, mu: Tensor, s: Tensor) -> dd.Normal:
            return dd.Normal(mu, s.mean())

    with pytest.raises(ConstraintError, match=r"Beside\.y") as caught:
        Beside(batch_shape=(3,))
    assert caught.value.code == "mixed-draws"


@pytest.mark.parametrize("wrap", [tuple, list, dict, float], ids=lambda wrap: wrap.__name__)
def test_all_numbers_that_a_method_returns_are_compared(wrap: type) -> None:
    def returned(own: Tensor, mixed: Tensor) -> Any:
        if wrap is float:
            return mixed.square().sum().item()
        return {"own": own, "mixed": mixed} if wrap is dict else wrap([own, mixed])

    class Mixing(Variational):
        base = dd.Normal
        loc = Param(0.0)
        scale = Param(1.0, Positive())

        @derived
        def both(self, loc: Tensor, scale: Tensor) -> Any:
            return returned(loc, scale - scale.mean())

    class Apart(Mixing):
        @derived
        def both(self, loc: Tensor, scale: Tensor) -> Any:
            return 2.5 if wrap is float else returned(loc, 2 * scale)

    assert Apart(batch_shape=(3,)).both is not None
    with pytest.raises(ConstraintError, match=r"Mixing\.both") as caught:
        Mixing(batch_shape=(3,))
    assert caught.value.code == "mixed-draws"


def test_a_method_that_returns_a_value_for_each_copy_in_a_list_is_refused() -> None:
    class Listed(Variational):
        base = dd.Normal
        loc = Param(torch.zeros(2))
        scale = 1.0

        @derived
        def each(self, loc: Tensor) -> list[Tensor]:
            return list(loc)

    with pytest.raises(ConstraintError, match=r"Listed\.each"):
        Listed(batch_shape=(3,))


@pytest.mark.parametrize(("steepness", "is_found"), [(1.0, True), (1e13, False)])
def test_a_value_that_is_rounding_is_not_compared(steepness: float, is_found: bool) -> None:
    numbers = torch.linspace(0.1, 2.0, 3, dtype=torch.float64)

    def see(index: Any, change: Callable[[Tensor], Tensor] = lambda numbers: numbers) -> Any:
        value = (change(numbers[index]) * steepness).sin()
        return {"value": value + 0.01 if value.ndim else value}

    assert (find_difference(see, 1, nn.Identity()) is not None) is is_found


def refuse_far(a: Tensor) -> Tensor:
    if (a.abs() > 1).any():
        raise RuntimeError("the solver diverged")
    return a


@pytest.mark.parametrize("kind", [Joint, Variational, Conditional])
def test_a_method_need_not_take_what_lies_far_out(kind: type) -> None:
    def base(self: Any, loc: Tensor) -> dd.Distribution:
        return dd.Normal(refuse_far(loc / 5), 1.0)

    def y(self: Any, a: Tensor) -> dd.Distribution:
        return dd.Normal(refuse_far(a), 1.0)

    if kind is Joint:
        declared: Any = type("Far", (Joint,), {"a": dd.Normal(0.0, 0.01), "y": site(y)})
        assert declared().condition(y=0.0)({"a": 0.0}).isfinite()
    else:
        options: dict[str, Any] = {"in_features": 2} if kind is Conditional else {"batch_shape": 3}
        field = Head() if kind is Conditional else Param(0.0)
        assert type("Far", (kind,), {"base": base, "loc": field})(**options)


class WholeCount(dd.Distribution):
    """Counts as integers; what their support is, it may not say."""

    arg_constraints: Any = {"top": dd.constraints.positive}  # noqa: RUF012
    has_support = True

    def __init__(self, top: Any, validate_args: bool | None = None) -> None:
        self.top = torch.as_tensor(top)
        super().__init__(self.top.shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        if not self.has_support:
            raise NotImplementedError
        return dd.constraints.nonnegative_integer

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return type(self)(self.top.expand(batch_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return torch.randint(0, 9, (*sample_shape, *self.batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return -value.float()


class WithoutSupport(WholeCount):
    has_support = False


@pytest.mark.parametrize("kind", [WholeCount, WithoutSupport])
@pytest.mark.parametrize("is_mixed", [False, True])
def test_counts_with_and_without_a_support_are_tried(kind: Any, is_mixed: bool) -> None:
    class Model(Joint):
        n = kind(9.0)

        @site
        def y(self, n: Tensor) -> dd.Distribution:
            loc = n.float()
            return dd.Normal(loc - loc.mean() if is_mixed else loc, 1.0)

    if is_mixed:
        with pytest.raises(ConstraintError, match="does not depend on the draws beside it"):
            Model()
    else:
        assert Model().condition(y=0.0)({"n": torch.tensor(1)}).isfinite()


def test_an_unsteady_density_hides_no_mixing_beside_it() -> None:
    """Far out, a scale of 1e-30 makes one density depend on last digits, and no other value."""

    class Clamped(Joint):
        s = Param(1.0)
        a = learnable(dd.Normal(0.0, 1.0))

        @derived
        def m(self, s: Tensor) -> Tensor:
            return s.clamp(min=s.median() - 3)

        @site
        def y(self, a: Tensor, m: Tensor) -> dd.Distribution:
            return dd.Normal(a + m, 1.0)

    with pytest.raises(ConstraintError, match=r"Clamped\.m: .* beside others"):
        Clamped(batch_shape=(3,))


def test_draws_on_an_edge_say_nothing_of_mixing() -> None:
    """Far out, a Weibull of a tiny concentration draws zeros and infinities, which it refuses."""

    class Life(Variational):
        scale = Param(2.0, Exp(), shape=(2,))
        concentration = Param(2.0, Exp(), shape=(2,))

        def base(self, scale: Tensor, concentration: Tensor) -> dd.Distribution:
            return dd.Weibull(scale, concentration)

    class Grown(Variational):
        base = dd.TransformedDistribution
        base_distribution = Life
        transforms = (dd.ExpTransform(),)

    for _ in range(3):
        assert Grown(batch_shape=(2,)).batch_shape == (2, 2)

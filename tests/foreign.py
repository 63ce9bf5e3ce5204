"""Distributions as other people write them, each with a habit that torch's own do not have."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.distributions as dd
from torch import Tensor
from torch.distributions import constraints

ARGUMENTS = {"loc": constraints.real, "scale": constraints.positive}
t = torch.tensor


class Plain(dd.Distribution):
    """A logistic distribution, without any habit."""

    arg_constraints: ClassVar[Any] = ARGUMENTS
    support = constraints.real
    has_rsample = True

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(torch.as_tensor(loc), scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return type(self)(loc=loc, scale=scale, validate_args=self._validate_args)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        uniform = torch.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype)
        return self.loc + self.scale * uniform.clamp(1e-6, 1 - 1e-6).logit()

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        z = (value - self.loc) / self.scale
        return -z - 2 * torch.nn.functional.softplus(-z) - self.scale.log()


class KeywordOnly(Plain):
    def __init__(self, *, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        super().__init__(loc, scale, validate_args)


class WithoutSwitch(Plain):
    def __init__(self, loc: Any, scale: Any) -> None:
        super().__init__(loc, scale)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return type(self)(self.loc.expand(batch_shape), self.scale.expand(batch_shape))


class Optional(Plain):
    """A scale or its logarithm; keeps both, and takes one."""

    arg_constraints: ClassVar[Any] = {**ARGUMENTS, "log_scale": constraints.real}

    def __init__(
        self, loc: Any, scale: Any = None, log_scale: Any = None, validate_args: Any = None
    ) -> None:
        if (scale is None) == (log_scale is None):
            raise ValueError("give scale or log_scale")
        scale = log_scale.exp() if scale is None else scale
        self.log_scale = scale.log()
        super().__init__(loc, scale, validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return Optional(self.loc.expand(batch_shape), self.scale.expand(batch_shape))


class Forgetful(Optional):
    """As above, but keeps the scale alone."""

    arg_constraints: ClassVar[Any] = ARGUMENTS

    def __init__(
        self, loc: Any, scale: Any = None, log_scale: Any = None, validate_args: Any = None
    ) -> None:
        super().__init__(loc, scale, log_scale, validate_args)
        del self.log_scale


class Extra(Plain):
    """An optional argument beside the required ones."""

    def __init__(self, loc: Any, scale: Any, note: Any = None, validate_args: Any = None) -> None:
        self.note = note
        super().__init__(loc, scale, validate_args)


class Properties(Plain):
    """Arguments that are computed from what is kept."""

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        loc, scale = torch.broadcast_tensors(torch.as_tensor(loc), scale)
        self._kept = torch.stack((loc / scale, 1 / scale))
        dd.Distribution.__init__(self, loc.shape, validate_args=validate_args)

    @property
    def scale(self) -> Tensor:
        return 1 / self._kept[1]

    @property
    def loc(self) -> Tensor:
        return self._kept[0] / self._kept[1]


class Param(dd.Bernoulli):
    """Torch's way to keep one of two parametrisations."""


class OwnParam(Plain):
    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        super().__init__(loc, scale, validate_args)
        self._param = self.scale


class KeywordArguments(dd.Normal):
    def __init__(self, loc: Any, scale: Any, **keywords: Any) -> None:
        super().__init__(loc, scale, **keywords)


class NoExpand(Plain):
    expand = dd.Distribution.expand


class FlagForgotten(Plain):
    has_rsample = False

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return super().rsample(sample_shape)


class Steeper(dd.Normal):
    """Torch's class with another density, which is what counts."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) - 2 * (value - self.loc).abs()


class Rounded(dd.Normal):
    """Draws that carry no gradients, although the method is inherited."""

    has_rsample = False

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return super().sample(sample_shape).round()


def made() -> dict[str, dd.Distribution]:
    """One of each that can be learned."""
    loc, scale = t([0.3, -1.0]), t([0.7, 2.0])
    pairs = (Plain, WithoutSwitch, Optional, Forgetful, Extra, Properties, OwnParam, Steeper)
    others = (KeywordArguments, NoExpand, FlagForgotten, Rounded)
    plain: list[Any] = [kind(loc, scale) for kind in (*pairs, *others)]
    plain += [KeywordOnly(loc=loc, scale=scale), Optional(loc, log_scale=scale.log())]
    plain += [Param(probs=t([0.2, 0.7])), Param(logits=t([0.2, 0.7])), Extra(loc, scale, "noted")]
    return {f"{type(d).__name__} {i}": d for i, d in enumerate(plain)}


MADE = made()


class Star(dd.Normal):
    def __init__(self, *arguments: Any, validate_args: bool | None = None) -> None:
        super().__init__(*arguments, validate_args=validate_args)


class Hidden(dd.Normal):
    """A scale that hides among the keywords."""

    def __init__(self, loc: Any, **keywords: Any) -> None:
        super().__init__(loc, keywords.pop("scale", 1.0), **keywords)


class Renamed(dd.Normal):
    """An argument that means something else than the attribute of its name."""

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        super().__init__(loc, torch.as_tensor(scale).sqrt(), validate_args)


class Unstated(Plain):
    """Nothing says what its arguments may be."""

    arg_constraints = dd.Distribution.arg_constraints  # type: ignore[assignment]


class AllOptional(dd.Distribution):
    arg_constraints: ClassVar[Any] = {"rate": constraints.positive, "every": constraints.positive}
    support = constraints.nonnegative
    has_rsample = True

    def __init__(self, rate: Any = None, every: Any = None, validate_args: Any = None) -> None:
        self.rate = 1 / every if rate is None else rate
        self.every = 1 / self.rate
        super().__init__(self.rate.shape, validate_args=validate_args)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return torch.rand(self._extended_shape(sample_shape)).log().neg() / self.rate

    def log_prob(self, value: Tensor) -> Tensor:
        return self.rate.log() - self.rate * value


class OptionalConstraint(constraints.Constraint):
    """As scVI writes it: None is allowed, and all else is asked of what it holds."""

    def __init__(self, constraint: constraints.Constraint) -> None:
        self._constraint = constraint

    def check(self, value: Any) -> Tensor:
        return torch.ones(1, dtype=torch.bool) if value is None else self._constraint.check(value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._constraint, name)


class Holder:
    """No constraint of torch's, but an object that has one and can check."""

    def __init__(self, constraint: constraints.Constraint) -> None:
        self.inner = constraint

    def check(self, value: Tensor) -> Tensor:
        return self.inner.check(value)


class ByPlain(dd.Distribution):
    """What scores by a plain distribution that a subclass makes of its arguments."""

    def __init__(self, plain: dd.Distribution) -> None:
        self.plain = plain
        super().__init__(plain.batch_shape, plain.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.plain.support

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self.plain.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.plain.log_prob(value)


def need(*groups: tuple[Any, ...]) -> None:
    """Refuse all but exactly one of several groups of arguments, whole."""
    if sum(all(value is not None for value in group) for group in groups) != 1:
        raise ValueError("use one of the parameterizations")


class CountsByMean(ByPlain):
    """scVI's negative binomial: a mean and a dispersion, or torch's arguments; all may be None."""

    arg_constraints: ClassVar[Any] = {
        "mu": OptionalConstraint(constraints.greater_than_eq(0)),
        "theta": OptionalConstraint(constraints.greater_than_eq(0)),
        "scale": OptionalConstraint(constraints.greater_than_eq(0)),
        "logits": OptionalConstraint(constraints.real),
        "total_count": OptionalConstraint(constraints.positive),
    }

    def __init__(
        self, total_count: Any = None, probs: Any = None, logits: Any = None, mu: Any = None,
        theta: Any = None, scale: Any = None, validate_args: bool = False,
    ) -> None:  # fmt: skip
        need((mu, theta), (total_count, logits), (total_count, probs))
        if mu is None:
            logits = torch.logit(probs) if logits is None else logits
            mu, theta = total_count * logits.exp(), total_count
        self.mu, self.theta, self.scale = mu, theta, scale
        super().__init__(dd.NegativeBinomial(theta, logits=mu.log() - theta.log()))


class CountsByLogits(ByPlain):
    """A count that is required and one of two others, as GluonTS writes it."""

    arg_constraints: ClassVar[Any] = {
        "total_count": constraints.positive,
        "logits": constraints.real,
        "probs": constraints.unit_interval,
    }

    def __init__(
        self, total_count: Any, logits: Any = None, probs: Any = None, validate_args: Any = None
    ) -> None:
        need((logits,), (probs,))
        self.total_count, self.logits, self.probs = total_count, logits, probs
        super().__init__(dd.NegativeBinomial(total_count, logits=logits, probs=probs))


class FlagByEither(ByPlain):
    """Torch's pair, both of it optional, in a class that is not torch's."""

    arg_constraints: ClassVar[Any] = {
        "logits": constraints.real,
        "probs": Holder(constraints.unit_interval),
    }

    def __init__(self, logits: Any = None, probs: Any = None) -> None:
        need((logits,), (probs,))
        self.logits, self.probs = logits, probs
        super().__init__(dd.Bernoulli(probs=probs, logits=logits))


class Both(ByPlain):
    """Both of torch's pair at once: the second weighs."""

    arg_constraints: ClassVar[Any] = {
        "logits": constraints.real,
        "probs": constraints.unit_interval,
    }

    def __init__(self, logits: Any = None, probs: Any = None) -> None:
        self.logits, self.probs = logits, probs
        super().__init__(dd.Bernoulli(probs=0.5 * torch.sigmoid(logits) + 0.5 * probs))


class ByThree(ByPlain):
    """A rate, its reciprocal, or its logarithm."""

    arg_constraints: ClassVar[Any] = {
        "rate": OptionalConstraint(OptionalConstraint(constraints.positive)),
        "every": Holder(constraints.positive),
        "log_rate": constraints.real,
    }

    def __init__(self, rate: Any = None, every: Any = None, log_rate: Any = None) -> None:
        need((rate,), (every,), (log_rate,))
        self.every = every
        if rate is None:
            rate = log_rate.exp() if every is None else 1 / every
        self.rate, self.log_rate = rate, log_rate
        super().__init__(dd.Exponential(rate))


class Vectors(ByPlain):
    """Vectors of numbers of one set, wrapped inside and outside."""

    arg_constraints: ClassVar[Any] = {
        "loc": OptionalConstraint(constraints.independent(constraints.real, 1)),
        "scale": constraints.independent(OptionalConstraint(constraints.positive), 1),
    }

    def __init__(self, loc: Any, scale: Any = None) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(dd.Independent(dd.Normal(loc, 1.0 if scale is None else scale), 1))


class SideBySide(ByPlain):
    """One tensor of a location and the log of a scale, or of both as they are."""

    arg_constraints: ClassVar[Any] = {
        "both": constraints.cat([constraints.real, constraints.positive], -1, [1, 1])
    }

    def __init__(self, both: Any) -> None:
        self.both = both
        super().__init__(dd.Normal(both[..., 0], both[..., 1]))


class Stacked(SideBySide):
    """The same, said in the other way."""

    arg_constraints: ClassVar[Any] = {
        "both": OptionalConstraint(constraints.stack([constraints.real, constraints.positive], -1))
    }


class Trials(ByPlain):
    """A count that may be None, which nothing learns."""

    arg_constraints: ClassVar[Any] = {
        "probs": constraints.unit_interval,
        "trials": OptionalConstraint(constraints.nonnegative_integer),
    }

    def __init__(self, probs: Any, trials: Any = None) -> None:
        self.probs, self.trials = probs, trials
        super().__init__(dd.Binomial(1 if trials is None else trials, probs))


class Gated(ByPlain):
    """Pyro's pair beside a required argument."""

    arg_constraints: ClassVar[Any] = {
        "rate": constraints.positive,
        "gate": constraints.unit_interval,
        "gate_logits": constraints.real,
    }

    def __init__(self, rate: Any, *, gate: Any = None, gate_logits: Any = None) -> None:
        need((gate,), (gate_logits,))
        self.rate, self.gate, self.gate_logits = rate, gate, gate_logits
        share = torch.sigmoid(gate_logits) if gate is None else gate
        super().__init__(dd.Poisson(rate * (1 - share)))


WAYS: dict[str, tuple[type[dd.Distribution], dict[str, Any]]] = {
    "by mean": (CountsByMean, {"mu": t([3.0, 9.0]), "theta": t([2.0, 4.0])}),
    "by mean, and a scale": (CountsByMean, {"mu": t(3.0), "theta": t(2.0), "scale": t(0.5)}),
    "by logits": (CountsByMean, {"total_count": t(2.0), "logits": t([0.5, -1.0])}),
    "required and logits": (CountsByLogits, {"total_count": t(2.0), "logits": t(0.3)}),
    "required and probs": (CountsByLogits, {"total_count": t(2.0), "probs": t(0.3)}),
    "logits alone": (FlagByEither, {"logits": t([0.3, 2.0])}),
    "probs alone": (FlagByEither, {"probs": t([0.3, 0.2])}),
    "both": (Both, {"logits": t(0.3), "probs": t(0.9)}),
    "rate": (ByThree, {"rate": t(0.3)}),
    "every": (ByThree, {"every": t(0.3)}),
    "log": (ByThree, {"log_rate": t(-0.3)}),
    "vectors": (Vectors, {"loc": t([0.5, 1.0, 2.0]), "scale": t([0.5, 1.0, 2.0])}),
    "a vector": (Vectors, {"loc": t([0.5, 1.0, 2.0])}),
    "side by side": (SideBySide, {"both": t([[-0.3, 0.5], [1.0, 2.0]])}),
    "stacked": (Stacked, {"both": t([-0.3, 0.5])}),
    "probs without trials": (Trials, {"probs": t(0.3)}),
    "gate": (Gated, {"rate": t(2.0), "gate": t(0.3)}),
    "gate_logits": (Gated, {"rate": t(2.0), "gate_logits": t(0.3)}),
}
"""Foreign classes with the arguments by which each is built: one way of several."""

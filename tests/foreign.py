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

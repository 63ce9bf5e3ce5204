"""Families that break one promise each."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributions as dd
from torch import Tensor, nn

from declarative_dist import (
    Conditional,
    Declarative,
    Head,
    Joint,
    Param,
    Positive,
    Variational,
    derived,
    site,
)


class Good(Variational):
    """This one keeps every promise."""

    base = dd.Gamma
    concentration = Param(torch.tensor([2.0, 3.0]))
    rate = Param(1.0)


class Uncopied(Good):
    """One for all."""

    def __deepcopy__(self, memo: Any) -> Uncopied:
        return self


class Silent(Declarative):
    """Fields, and no distribution."""

    loc = Param(0.0)


class Unlearned(Variational):
    base = dd.Normal
    loc = 0.0
    scale = 1.0


class Lazy(nn.Module):
    """Makes a parameter when it is first called."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self) -> dd.Distribution:
        if "scale" not in self._parameters:
            self.scale = nn.Parameter(torch.ones(2))
        return dd.Normal(self.loc, self.scale)


class Frozen(nn.Module):
    """Without a parameter."""

    def forward(self) -> dd.Distribution:
        return dd.Normal(torch.zeros(2), torch.ones(2))


class Raised(dd.Exponential):
    """A density times 1.35, whose gradients are those of the right one."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + math.log(1.35)


class OfPlain(nn.Module):
    """A hand-written module around a plain distribution."""

    kind: type[dd.Distribution] = dd.Normal

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))
        self.log_scale = nn.Parameter(torch.full((2,), 0.5))

    def forward(self) -> dd.Distribution:
        return self.kind(self.loc, self.log_scale.exp(), validate_args=False)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.loc)
        nn.init.constant_(self.log_scale, 0.5)


class SummedDensity(OfPlain):
    class kind(dd.Normal):
        def log_prob(self, value: Tensor) -> Tensor:
            return super().log_prob(value).sum(-1)


class SwappedShapes(OfPlain):
    class kind(dd.Normal):
        def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
            return super().sample((2,)).expand(*sample_shape, 2, 2)


class WrongSupport(OfPlain):
    """Positive numbers, it says."""

    class kind(dd.Normal):
        support = dd.constraints.positive


class InfiniteDensity(OfPlain):
    class kind(dd.Normal):
        def log_prob(self, value: Tensor) -> Tensor:
            return super().log_prob(value) / 0.0


class NarrowDraws(OfPlain):
    """Draws from a narrower distribution than it scores."""

    class kind(dd.Normal):
        def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
            return self.loc.detach() + (super().sample(sample_shape) - self.loc.detach()) / 2


class DrawsWithGradients(OfPlain):
    """Draws with a gradient where none is meant."""

    class kind(dd.Normal):
        def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
            return self.rsample(sample_shape)


class NoNormaliser(OfPlain):
    """Forgets the logarithm of the scale."""

    class kind(dd.Normal):
        def log_prob(self, value: Tensor) -> Tensor:
            return -((value - self.loc) ** 2) / (2 * self.scale**2)


class TooHigh(OfPlain):
    def forward(self) -> dd.Distribution:
        return Raised(self.loc.exp() * self.log_scale.exp())


class DetachedDraws(OfPlain):
    """Detaches what it draws."""

    class kind(dd.Normal):
        def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
            return super().rsample(sample_shape).detach()


class Tensors(OfPlain):
    """Returns a tensor."""

    def forward(self) -> Any:
        return self.loc


class AModule(OfPlain):
    """Returns another live distribution in place of a plain one."""

    def forward(self) -> Any:
        return Good()


class Stale(Good):
    """Keeps the distribution of its first call, which a copy does not have."""

    def forward(self) -> dd.Distribution:
        if "_is_built" not in vars(self):
            return super().forward()
        if "kept" not in vars(self):
            vars(self)["kept"] = super().forward()
        return vars(self)["kept"]

    def __deepcopy__(self, memo: Any) -> Stale:
        return type(self)()


class StaleValues(Stale):
    """Keeps the numbers, and takes the gradients of others."""

    def forward(self) -> dd.Distribution:
        if "kept" not in vars(self):
            with torch.no_grad():
                vars(self)["kept"] = super().forward()
        kept = vars(self)["kept"]
        concentration = kept.concentration + self.concentration - self.concentration.detach()
        return dd.Gamma(concentration, kept.rate + self.rate - self.rate.detach())


class Unused(OfPlain):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.ones(1))


class Detached(Variational):
    base = dd.Gamma
    concentration = Param(2.0)
    location = Param(4.0, Positive())

    @derived
    def rate(self, concentration: Tensor, location: Tensor) -> Tensor:
        return concentration / location.detach()


class NaNGradient(Variational):
    """A square root at zero."""

    base = dd.Normal
    loc = Param(0.0)
    size = Param(0.0)

    @derived
    def scale(self, size: Tensor) -> Tensor:
        return 1 + size.abs().sqrt()


class PlainTensor(OfPlain):
    """A tensor that does not move."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.ones(2)


class Unpicklable(Good):
    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.rule = lambda x: x


class InFloat32(OfPlain):
    def forward(self) -> dd.Distribution:
        return dd.Normal(self.loc.float(), self.log_scale.exp().float())


class HalfReset(OfPlain):
    """Forgets a parameter when it starts anew."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.loc)


class Closure(OfPlain):
    """Reads its parameters from where a functional call does not put others."""

    def __init__(self) -> None:
        super().__init__()
        vars(self)["own"] = [self.loc, self.log_scale]

    def forward(self) -> dd.Distribution:
        loc, log_scale = vars(self)["own"]
        return dd.Normal(loc, log_scale.exp())


class Branching(OfPlain):
    """Looks at the numbers of a value."""

    class kind(dd.Normal):
        def log_prob(self, value: Tensor) -> Tensor:
            return super().log_prob(value + 1 if value.sum() > 1e9 else value)


class BreaksGraphs(Good):
    def forward(self) -> dd.Distribution:
        torch._dynamo.graph_break()
        return super().forward()


class Lonely(Joint):
    """A site with a detached mean."""

    mu = Good(concentration=2.0)
    spread = Param(1.0, Positive())

    @site
    def y(self, mu: Tensor, spread: Tensor) -> dd.Distribution:
        return dd.Normal(mu, spread.detach())


class Policy(Conditional):
    base = dd.Normal
    event_dim = 1
    loc = Head(shape=(2,))
    scale = Param(torch.ones(2), Positive())


class BlindPolicy(Policy):
    """Takes no gradient to its heads."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        plain = super().forward(*args, **kwargs)
        return dd.Independent(dd.Normal(plain.mean.detach(), plain.stddev), 1)


class Aging(OfPlain):
    """Every copy is another distribution."""

    def __deepcopy__(self, memo: Any) -> Aging:
        copy = type(self)()
        copy.log_scale = nn.Parameter(self.log_scale.detach() + 0.1)
        return copy


class ZeroGradient(OfPlain):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.ones(1))

    def forward(self) -> dd.Distribution:
        return dd.Normal(self.loc + 0 * self.spare, self.log_scale.exp())


class Cliff(dd.Normal):
    def log_prob(self, value: Tensor) -> Tensor:
        score = super().log_prob(value)
        return score + 0 * (0 * self.loc).sqrt() if (value > 3).any() else score


class NoGradient(OfPlain):
    """Far out a root at zero, whose slope is infinite, times zero."""

    def forward(self) -> dd.Distribution:
        return Cliff(self.loc, self.log_scale.exp())


class Unmoved(OfPlain):
    """Stays where it is."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        return self


class WithoutReset(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self) -> dd.Distribution:
        return dd.Normal(self.loc, 1.0)


class BadReset(OfPlain):
    def reset_parameters(self) -> None:
        nn.init.zeros_(self.loc)
        nn.init.constant_(self.log_scale, torch.inf)


class OtherwiseCompiled(OfPlain):
    def forward(self) -> dd.Distribution:
        scale = self.log_scale.exp()
        return dd.Normal(self.loc, 2 * scale if torch.compiler.is_compiling() else scale)

"""The dictionary of cases: every distribution that the promises are tested on, built lazily."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributions as dd
from torch import Tensor, tensor

from declarative_dist import (
    Conditional,
    Declarative,
    Exp,
    GreaterThan,
    Head,
    Interval,
    Joint,
    LearnableTransform,
    LowerCholesky,
    Param,
    Positive,
    Real,
    Variational,
    derived,
    learnable,
    site,
)
from declarative_dist.joints.distribution import JointDistribution
from declarative_dist.wrappers import Censored, Truncated, ZeroInflated

PLAIN: dict[str, Callable[[], dd.Distribution]] = {
    "Bernoulli-logits": lambda: dd.Bernoulli(logits=tensor([0.3, -1.0])),
    "Bernoulli-probs": lambda: dd.Bernoulli(tensor([0.3, 0.7])),
    "Beta": lambda: dd.Beta(tensor([2.0, 0.5]), tensor([3.0, 1.0])),
    "Binomial-logits": lambda: dd.Binomial(10, logits=tensor([0.3, 0.6])),
    "Binomial-probs": lambda: dd.Binomial(10, tensor([0.3, 0.6])),
    "Categorical-logits": lambda: dd.Categorical(logits=tensor([[0.1, 0.2, -1.0], [0, 1, 2]])),
    "Categorical-probs": lambda: dd.Categorical(tensor([0.2, 0.3, 0.5])),
    "Cauchy": lambda: dd.Cauchy(tensor([0.0, 1.0]), tensor([1.0, 2.0])),
    "Chi2": lambda: dd.Chi2(tensor([3.0, 4.0])),
    "ContinuousBernoulli-logits": lambda: dd.ContinuousBernoulli(logits=tensor([0.2, 1.8])),
    "ContinuousBernoulli-probs": lambda: dd.ContinuousBernoulli(tensor([0.2, 0.8])),
    "Dirichlet": lambda: dd.Dirichlet(tensor([[1.0, 2.0, 3.0], [0.5, 0.6, 0.7]])),
    "Exponential": lambda: dd.Exponential(tensor([1.0, 2.0])),
    "FisherSnedecor": lambda: dd.FisherSnedecor(tensor([3.0, 4.0]), tensor([5.0, 6.0])),
    "Gamma": lambda: dd.Gamma(tensor([1.0, 2.0]), tensor([2.0, 3.0])),
    "GeneralizedPareto": lambda: dd.GeneralizedPareto(
        tensor([0.0, 1.0]), tensor([1.0, 2.0]), tensor([0.3, 0.2])
    ),
    "Geometric-logits": lambda: dd.Geometric(logits=tensor([0.2, 0.7])),
    "Geometric-probs": lambda: dd.Geometric(tensor([0.2, 0.7])),
    "Gumbel": lambda: dd.Gumbel(tensor([0.0, 1.0]), tensor([1.0, 2.0])),
    "HalfCauchy": lambda: dd.HalfCauchy(tensor([1.0, 2.0])),
    "HalfNormal": lambda: dd.HalfNormal(tensor([1.0, 2.0])),
    "Independent": lambda: dd.Independent(
        dd.Gamma(tensor([[1.0, 2.0], [3.0, 4.0]]), tensor([2.0, 3.0])), 1
    ),
    "InverseGamma": lambda: dd.InverseGamma(tensor([2.0, 3.0]), tensor([2.0, 3.0])),
    "Kumaraswamy": lambda: dd.Kumaraswamy(tensor([2.0, 3.0]), tensor([2.0, 3.0])),
    "LKJCholesky": lambda: dd.LKJCholesky(3, tensor([1.0, 2.0])),
    "Laplace": lambda: dd.Laplace(tensor([0.0, 1.0]), tensor([1.0, 2.0])),
    "LogNormal": lambda: dd.LogNormal(tensor([0.0, 1.0]), tensor([1.0, 0.5])),
    "LogisticNormal": lambda: dd.LogisticNormal(tensor([0.0, 1.0]), tensor([1.0, 0.5])),
    "LowRankMultivariateNormal": lambda: dd.LowRankMultivariateNormal(
        torch.zeros(3), tensor([[1.0, 0.5], [0.2, -1.0], [0.3, 0.1]]), torch.ones(3)
    ),
    "MixtureSameFamily": lambda: dd.MixtureSameFamily(
        dd.Categorical(logits=tensor([0.3, -0.4])),
        dd.Independent(
            dd.Normal(tensor([[0.0, 1.0], [2.0, -1.0]]), tensor([[1.0, 0.5], [2.0, 1.5]])), 1
        ),
    ),
    "Multinomial-logits": lambda: dd.Multinomial(5, logits=tensor([0.1, 0.2, -1.0])),
    "Multinomial-probs": lambda: dd.Multinomial(5, tensor([0.2, 0.3, 0.5])),
    "MultivariateNormal-scale_tril": lambda: dd.MultivariateNormal(
        torch.zeros(3), scale_tril=tensor([[1.0, 0, 0], [0.5, 2.0, 0], [-0.3, 0.1, 1.5]])
    ),
    "MultivariateNormal-covariance": lambda: dd.MultivariateNormal(
        torch.zeros(2, 3), 2 * torch.eye(3)
    ),
    "MultivariateNormal-precision": lambda: dd.MultivariateNormal(
        torch.zeros(3), precision_matrix=2 * torch.eye(3)
    ),
    "NegativeBinomial-logits": lambda: dd.NegativeBinomial(
        tensor([5.0, 6.0]), logits=tensor([0.2, 0.3])
    ),
    "NegativeBinomial-probs": lambda: dd.NegativeBinomial(tensor([5.0, 6.0]), tensor([0.2, 0.3])),
    "Normal": lambda: dd.Normal(tensor([0.0, 1.0]), tensor([1.0, 2.0])),
    "OneHotCategorical-logits": lambda: dd.OneHotCategorical(logits=tensor([0.1, 0.2, -1.0])),
    "OneHotCategorical-probs": lambda: dd.OneHotCategorical(tensor([0.2, 0.8])),
    "OneHotCategoricalStraightThrough": lambda: dd.OneHotCategoricalStraightThrough(
        logits=tensor([0.1, 0.2, -1.0])
    ),
    "Pareto": lambda: dd.Pareto(tensor([1.0, 2.0]), tensor([3.0, 2.0])),
    "Poisson": lambda: dd.Poisson(tensor([1.0, 2.0])),
    "RelaxedBernoulli-logits": lambda: dd.RelaxedBernoulli(tensor(0.7), logits=tensor([0.2, 0.3])),
    "RelaxedBernoulli-probs": lambda: dd.RelaxedBernoulli(tensor(0.7), tensor([0.2, 0.3])),
    "RelaxedOneHotCategorical": lambda: dd.RelaxedOneHotCategorical(
        tensor(0.7), logits=tensor([0.1, 0.2, -1.0])
    ),
    "RelaxedOneHotCategorical-probs": lambda: dd.RelaxedOneHotCategorical(
        tensor(0.7), tensor([0.2, 0.3, 0.5])
    ),
    "OneHotCategoricalStraightThrough-probs": lambda: dd.OneHotCategoricalStraightThrough(
        tensor([0.2, 0.3, 0.5])
    ),
    "StudentT": lambda: dd.StudentT(tensor([3.0, 4.0]), tensor([0.0, 1.0]), tensor([1.0, 2.0])),
    "TransformedDistribution": lambda: dd.TransformedDistribution(
        dd.Normal(tensor([0.0, 1.0]), tensor([1.0, 2.0])),
        [dd.AffineTransform(tensor([0.5, -0.5]), tensor([-2.0, 0.5])), dd.SigmoidTransform()],
    ),
    "Uniform": lambda: dd.Uniform(tensor([0.0, 1.0]), tensor([1.0, 3.0])),
    "VonMises": lambda: dd.VonMises(tensor([0.0, 1.0]), tensor([1.0, 2.0])),
    "Weibull": lambda: dd.Weibull(tensor([1.0, 2.0]), tensor([1.5, 2.0])),
    "Wishart-scale_tril": lambda: dd.Wishart(tensor(6.0), scale_tril=torch.eye(3)),
    "Wishart-precision": lambda: dd.Wishart(tensor(6.0), precision_matrix=2 * torch.eye(3)),
    "Wishart-covariance": lambda: dd.Wishart(tensor([6.0, 7.0]), torch.eye(3)),
}
"""Plain torch distributions, all 41 concrete ones, in all parametrisations."""


WRAPPED: dict[str, Callable[[], dd.Distribution]] = {
    "Truncated": lambda: Truncated(
        dd.Normal(tensor([0.0, 1.0]), tensor([1.0, 2.0])), low=tensor([0.5, -1.0]), high=3.0
    ),
    "Truncated without a formula": lambda: Truncated(dd.StudentT(tensor([3.0, 4.0])), low=0.0),
    "Censored": lambda: Censored(
        dd.Weibull(tensor([1.0, 2.0]), tensor([1.5, 2.0])), low=0.5, high=tensor([1.5, torch.inf])
    ),
    "Censored pairs": lambda: Censored(dd.Gamma(tensor([1.5, 2.0]), tensor([2.0, 3.0]))),
    "ZeroInflated": lambda: ZeroInflated(dd.Gamma(tensor([1.0, 2.0]), 1.0), tensor(0.3)),
    "hurdle": lambda: ZeroInflated(
        Truncated(dd.Poisson(tensor([1.0, 2.0])), low=0), tensor([0.2, 0.6])
    ),
}
"""Distributions of `declarative_dist.wrappers`."""


class GammaFamily(Variational):
    base = dd.Gamma
    concentration = Param(1.0, Positive())
    rate = Param(1.0, Exp())


class Gaussian(Variational):
    base = dd.Normal
    loc = Param(0.0)
    scale = Param(1.0, Exp())


class Count(Variational):
    base = dd.Binomial
    total_count = 10
    logits = Param(0.0)


class Box(Variational):
    base = dd.Uniform
    low = Param(0.0, Real())
    high = Param(1.0, GreaterThan("low"))


class Numbers(Declarative):
    """Latents of which a density knows more."""

    x = Param(0.0, shape=("size",))


class GammaByMean(Variational):
    base = dd.Gamma
    concentration = Param(2.0, Positive())
    location = Param(4.0, Positive())

    @derived
    def rate(self, concentration: Tensor, location: Tensor) -> Tensor:
        return concentration / location


class Mixture(Variational):
    logits = Param(0.0, shape=("k",))
    loc = Param(torch.randn, shape=("k",))
    scale = Param(1.0, Positive(), shape=("k",))

    def base(self, logits: Tensor, loc: Tensor, scale: Tensor) -> dd.MixtureSameFamily:
        return dd.MixtureSameFamily(dd.Categorical(logits=logits), dd.Normal(loc, scale))


class FullRank(Variational):
    base = dd.MultivariateNormal
    loc = Param(0.0, shape=("d",))
    scale_tril = Param(
        lambda shape: torch.eye(shape[-1]).expand(shape), LowerCholesky(), shape=("d", "d")
    )


class Bounded(Variational):
    base = dd.Uniform
    low = Param(0.0, Interval(torch.tensor(-5.0), torch.tensor(5.0)))
    high = Param(2.0, GreaterThan("low"))


class FixedTail(Variational):
    base = dd.StudentT
    df = 4
    loc = Param(0.0)
    scale = Param(1.0)


class Vector(Variational):
    base = dd.Normal
    event_dim = 1
    loc = Param(torch.zeros(3))
    scale = Param(1.0, Exp(floor=1e-3))


class Weights(Variational):
    base = dd.Categorical
    logits = Param(torch.zeros, shape=("k",))


class Components(Variational):
    base = dd.MultivariateNormal
    loc = Param(lambda shape: torch.arange(1.0, 1 + shape.numel()).reshape(shape), shape=("k", 2))
    scale_tril = Param(constraint=LowerCholesky(), shape=("k", 2, 2))


class NestedMixture(Variational):
    base = dd.MixtureSameFamily
    mixture_distribution = Weights
    component_distribution = Components(k=3)


class Shift(LearnableTransform):
    base = dd.AffineTransform
    loc = Param(0.5)
    scale = Param(0.3)


class Squashed(Variational):
    base = dd.TransformedDistribution
    base_distribution = Vector
    transforms = (Shift, dd.AffineTransform(torch.zeros(3), 2.0), dd.TanhTransform(cache_size=1))


class TiedScale(Variational):
    """Two components of one scale, the second at a learned distance from the first."""

    base = dd.MixtureSameFamily
    mixture_distribution = dd.Categorical(tensor([0.3, 0.7]))
    first = Param(-1.0)
    distance = Param(2.0, Positive())
    scale = Param(0.7, Positive())

    @derived
    def component_distribution(self, first: Tensor, distance: Tensor, scale: Tensor) -> dd.Normal:
        return dd.Normal(torch.stack([first, first + distance], -1), scale[..., None])


class Weighed(Variational):
    """A family with priors, one over an event."""

    base = dd.Gamma
    event_dim = 1
    concentration = Param(
        torch.ones(3),
        Exp(),
        prior=dd.Independent(dd.LogNormal(torch.zeros(3), tensor([1.0, 2.0, 0.5])), 1),
    )
    rate = Param(2.0, Positive(), prior=dd.Gamma(2.0, 1.0))


class Shared(Variational):
    """One module in two places."""

    part = FixedTail()
    mixture = TiedScale(first=0.0)
    again = part

    def base(
        self, part: dd.StudentT, again: dd.StudentT, mixture: dd.Distribution
    ) -> dd.Distribution:
        loc = part.loc + again.loc + mixture.mean
        return dd.Independent(dd.Normal(loc, again.scale + mixture.stddev).expand((2,)), 1)


class Network(Variational):
    """A family whose mean comes out of a foreign module."""

    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
    scale = Param(torch.ones(3), Positive())

    def base(self, network: torch.nn.Module, scale: Tensor) -> dd.Distribution:
        return dd.Independent(dd.Normal(network(torch.ones(2, dtype=scale.dtype)), scale), 1)


class Cut(Variational):
    """Ends for each entry of a vector, around a part with copies."""

    base = Truncated
    event_dim = 1
    base_distribution = learnable(dd.Normal(torch.zeros(()), torch.ones(())))
    low = tensor([-1.0, 0.5, -torch.inf])
    high = 2


class Policy(Conditional):
    """A predicted mean and a free scale."""

    base = dd.Normal
    event_dim = 1
    loc = Head(shape=("actions",))
    scale = Param(0.7, Exp(), shape=("actions",))


class Shares(Conditional):
    base = dd.Categorical
    logits = Head(shape=("k",))


class Counted(Conditional):
    base = dd.Poisson
    rate = Head(Exp())


class Densities(Conditional):
    """Predicted means, predicted covariances, and a floor for a derived shift."""

    base = dd.MultivariateNormal
    shift = Param(0.5)
    center = Head(shape=("k", 2))
    scale_tril = Head(LowerCholesky(), shape=("k", 2, 2))

    @derived
    def loc(self, center: Tensor, shift: Tensor) -> Tensor:
        return center + shift


class MixtureDensity(Conditional):
    base = dd.MixtureSameFamily
    mixture_distribution = Shares
    component_distribution = Densities


class AtContexts(Variational):
    """What a conditional family predicts for a batch of contexts."""

    family = Policy(in_features=4, actions=2, network=torch.nn.Linear(3, 4))
    contexts = torch.linspace(-1.0, 1.0, 12).reshape(4, 3)

    def base(self, family: Conditional, contexts: Tensor) -> dd.Distribution:
        return family(contexts)


class MixtureAtContexts(AtContexts):
    family = MixtureDensity(in_features=3, k=3)


class DecoderAtContexts(AtContexts):
    """A network that returns the unconstrained numbers itself."""

    family = Policy(actions=2, network=torch.nn.Linear(3, 2))


class Independents(Joint):
    gamma = GammaFamily
    vector = Vector
    prior = dd.Normal(tensor(0.0), tensor(1.0))


class Hierarchy(Joint):
    spread = Param(2.0, Positive())
    mu = Vector
    tau = GammaFamily(concentration=3.0)

    @site(event_dim=1)
    def theta(self, mu: Tensor, tau: Tensor, spread: Tensor) -> dd.Distribution:
        return dd.Normal(mu, (tau * spread)[..., None])

    @site
    def y(self, theta: Tensor) -> dd.Distribution:
        return dd.Bernoulli(logits=theta.sum(-1))


class Robot(Joint):
    """Sites of one context: two predicted ones, and one that follows from them and a head."""

    speed = learnable(dd.LogNormal(torch.tensor(0.0), 0.5))
    turn = Policy
    bias = Head(shape=("actions",))

    @site
    def angle(self, speed: Tensor, turn: Tensor, bias: Tensor) -> dd.Distribution:
        return dd.Normal((turn + bias).sum(-1), 0.1 + speed)


class Speed(Conditional):
    base = dd.LogNormal
    loc = Head()
    scale = Head(Exp(), init=0.5)


class RobotAtContexts(Robot):
    """A joint of contexts that share a site, at a batch of them."""

    contexts = torch.linspace(-1.0, 1.0, 12).reshape(4, 3)

    def forward(self) -> JointDistribution:
        return super().forward(self.contexts)


class RobotsAtContexts(RobotAtContexts):
    """The same with nothing shared, so that contexts are a batch."""

    speed = Speed


DECLARED: dict[str, Callable[[], Variational]] = {
    "declared": GammaFamily,
    "declared in float64": lambda: GammaFamily(dtype=torch.float64),
    "declared batch": lambda: GammaFamily(batch_shape=(4,)),
    "derived": GammaByMean,
    "method": lambda: Mixture(k=3),
    "named shapes": lambda: FullRank(d=3),
    "bounds": Bounded,
    "constant": FixedTail,
    "event_dim": Vector,
    "fixed": lambda: learnable(dd.Normal(torch.zeros(2), torch.ones(2)), fixed=("scale",)),
    "nested mixture": lambda: NestedMixture(k=3),
    "nested batch": lambda: NestedMixture(k=3, batch_shape=(2,)),
    "squashed": Squashed,
    "squashed batch": lambda: Squashed(batch_shape=(3,)),
    "tied": TiedScale,
    "shared": Shared,
    "priors": Weighed,
    "priors batch": lambda: Weighed(batch_shape=(2,)),
    "network": Network,
    "conditional": AtContexts,
    "conditional mixture": MixtureAtContexts,
    "conditional without a layer": DecoderAtContexts,
}

LIVE: dict[str, Callable[[], Variational]] = {
    **{n: (lambda make=make: learnable(make())) for n, make in {**PLAIN, **WRAPPED}.items()},
    "truncated batch": lambda: Cut(batch_shape=(2,)),
    **DECLARED,
}
"""Every live distribution that the promises are tested on."""

JOINTS: dict[str, Callable[[], Joint]] = {
    "joint": Independents,
    "joint batch": lambda: Independents(batch_shape=(3,)),
    "hierarchy": Hierarchy,
    "joint of contexts": lambda: RobotsAtContexts(
        in_features=4, actions=2, network=torch.nn.Linear(3, 4)
    ),
    "joint of contexts that share a site": lambda: RobotAtContexts(in_features=3, actions=2),
}

CASES: dict[str, Callable[[], Variational | Joint]] = {**LIVE, **JOINTS}
"""Every live object that draws and scores."""
